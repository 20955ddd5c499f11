"""The training of a config by stock Detectron2: its model, its trainer, its float32."""

import argparse
import os

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, default_setup
from detectron2.evaluation import COCOEvaluator
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from ..config import changed, config_file, load_config, stock_config
from ..utils.errors import UserError


class StockTrainer(DefaultTrainer):
    """Detectron2's own train_net, which does no more for COCO-format data."""

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> COCOEvaluator:
        """COCO's metrics."""
        return COCOEvaluator(dataset_name, output_dir=os.path.join(cfg.OUTPUT_DIR, "inference"))


@BACKBONE_REGISTRY.register()
def build_stock_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Detectron2's :class:`FPN` on ``MODEL.FPN.BOTTOM_UP``, for which Detectron2 has no key."""
    fpn = cfg.MODEL.FPN
    bottom_up = BACKBONE_REGISTRY.get(fpn.BOTTOM_UP)(cfg, input_shape)
    return FPN(
        bottom_up=bottom_up,
        in_features=fpn.IN_FEATURES,
        out_channels=fpn.OUT_CHANNELS,
        norm=fpn.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=fpn.FUSE_TYPE,
    )


def config_of_stock(cfg: CfgNode) -> CfgNode:
    """Return the config of the same training by Detectron2's own components.

    Raises:
        UserError: if Detectron2 has no such component.
    """
    fpn = cfg.MODEL.FPN
    if (fpn.TOP_DOWN, fpn.LATERAL, list(fpn.OUT_FEATURES)) != (True, True, []):
        raise UserError("stock Detectron2 has no MODEL.FPN.TOP_DOWN, LATERAL or OUT_FEATURES")
    anchors = cfg.MODEL.ANCHOR_GENERATOR.NAME
    if (
        cfg.MODEL.META_ARCHITECTURE == "ClippingRetinaNet"
        or anchors not in ("DefaultAnchorGenerator", "RotatedAnchorGenerator")
        or cfg.MODEL.ROI_BOX_HEAD.NUM_UNUSED_CLASSES
    ):
        raise UserError(
            "stock Detectron2 has no ClippingRetinaNet, no MODEL.ANCHOR_GENERATOR.NAME "
            f"{anchors} and no MODEL.ROI_BOX_HEAD.NUM_UNUSED_CLASSES"
        )
    # Detectron2's mixed precision needs CUDA.
    amp = cfg.SOLVER.AMP.ENABLED and cfg.MODEL.DEVICE.startswith("cuda")
    values = {"SOLVER.AMP.ENABLED": amp, "OUTPUT_DIR": f"{cfg.OUTPUT_DIR}-stock"}
    stock = stock_config(cfg)
    if stock.MODEL.BACKBONE.NAME == "build_fpn_backbone" and fpn.TOP_BLOCK == "maxpool":
        values["MODEL.BACKBONE.NAME"] = build_stock_fpn_backbone.__name__
    return changed(stock, values)


def train_stock(args: argparse.Namespace) -> None:
    """One process of the training; ``args`` are as Detectron2 parses them."""
    cfg = config_of_stock(load_config(args.config_file, args.opts))
    args.config_file = config_file(args.config_file)
    default_setup(cfg, args)
    trainer = StockTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    results = trainer.train() or trainer._last_eval_results
    if "bbox" in results:
        print(f"box AP = {results['bbox']['AP']:.1f}")
