#!/usr/bin/env python
"""Train a config with stock Detectron2, for comparison: its model, its trainer, its float32.

``python tools/train_stock.py --config-file configs/quick/demo.yaml`` takes the options of
train_net.py and writes to the config's OUTPUT_DIR with ``-stock`` appended.
"""

import argparse
import os

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, default_argument_parser, default_setup
from detectron2.evaluation import COCOEvaluator

from fpn_d2 import UserError, load_config
from fpn_d2.config import changed
from fpn_d2.engine import launch


class StockTrainer(DefaultTrainer):
    """Detectron2's own train_net, which does no more for COCO-format data."""

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> COCOEvaluator:
        """COCO's metrics."""
        return COCOEvaluator(dataset_name, output_dir=os.path.join(cfg.OUTPUT_DIR, "inference"))


def stock_config(cfg: CfgNode) -> CfgNode:
    """Rename the components of a config to Detectron2's own.

    Raises:
        UserError: if Detectron2 has no such component.
    """
    model, fpn = cfg.MODEL, cfg.MODEL.FPN
    if (fpn.TOP_DOWN, fpn.LATERAL, list(fpn.OUT_FEATURES)) != (True, True, []):
        raise UserError("stock Detectron2 has no MODEL.FPN.TOP_DOWN, LATERAL or OUT_FEATURES")
    if (
        model.META_ARCHITECTURE == "ClippingRetinaNet"
        or model.ANCHOR_GENERATOR.NAME not in ("DefaultAnchorGenerator", "RotatedAnchorGenerator")
        or model.ROI_BOX_HEAD.NUM_UNUSED_CLASSES
    ):
        raise UserError(
            "stock Detectron2 has no ClippingRetinaNet, no MODEL.ANCHOR_GENERATOR.NAME "
            f"{model.ANCHOR_GENERATOR.NAME} and no MODEL.ROI_BOX_HEAD.NUM_UNUSED_CLASSES"
        )
    retinanet = "retinanet_" if model.META_ARCHITECTURE == "RetinaNet" else ""
    stock = {
        "build_fpn_backbone": f"build_{retinanet}resnet_fpn_backbone",
        "LeanRPN": "RPN",
        "build_level_rpn_head": "StandardRPNHead",
        "LevelROIHeads": "StandardROIHeads",
    }
    values = {
        key: stock.get(name, name)
        for key, name in {
            "MODEL.BACKBONE.NAME": model.BACKBONE.NAME,
            "MODEL.PROPOSAL_GENERATOR.NAME": model.PROPOSAL_GENERATOR.NAME,
            "MODEL.RPN.HEAD_NAME": model.RPN.HEAD_NAME,
            "MODEL.ROI_HEADS.NAME": model.ROI_HEADS.NAME,
        }.items()
    }
    if not model.DEVICE.startswith("cuda"):
        values["SOLVER.AMP.ENABLED"] = False  # Detectron2's mixed precision needs CUDA
    return changed(cfg, {**values, "OUTPUT_DIR": f"{cfg.OUTPUT_DIR}-stock"})


def main(args: argparse.Namespace) -> None:
    """One process of the training."""
    cfg = stock_config(load_config(args.config_file, args.opts))
    default_setup(cfg, args)
    trainer = StockTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    results = trainer.train() or trainer._last_eval_results
    if "bbox" in results:
        print(f"box AP = {results['bbox']['AP']:.1f}")


if __name__ == "__main__":
    launch(main, default_argument_parser().parse_args())
