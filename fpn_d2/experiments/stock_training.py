"""The training of a config by stock Detectron2: its model, its trainer, its float32."""

import argparse
import logging
import operator
import os

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, default_setup
from detectron2.evaluation import COCOEvaluator
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..config import changed, stock_config
from ..data.coco_json import shared_reading
from ..engine import read_config
from ..utils.errors import UserError

logger = logging.getLogger(__name__)

# Keys of this package alone that change a training, each with the value that changes nothing.
_WITHOUT_EFFECT = {
    "MODEL.FPN.TOP_DOWN": True,
    "MODEL.FPN.LATERAL": True,
    "MODEL.FPN.OUT_FEATURES": [],
    "MODEL.FPN.FREEZE": False,
    "MODEL.RPN.SHARED_HEAD": True,
    "FOUR_STEP.RPN": "",
    "INPUT.AUGMENTATIONS": [],
    "INPUT.OBJECT_SCALE_TRAIN": 0.0,
    "SOLVER.ACCUMULATE": 1,
    "SOLVER.EMA_DECAY": 0.0,
}
_STOCK_CANONICAL_SIZE = 224  # of Detectron2's ROIPooler, which has no key for it


class StockTrainer(DefaultTrainer):
    """The trainer of Detectron2's own train_net, which does no more for COCO-format data."""

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> COCOEvaluator:
        """COCO's metrics."""
        with shared_reading():  # annotations may be numbered from 0
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
    """Return the config of the same training with Detectron2's own components.

    Raises:
        UserError: if Detectron2 has no such component.
    """
    for key, off in _WITHOUT_EFFECT.items():
        value = operator.attrgetter(key)(cfg)
        if (list(value) if isinstance(value, tuple) else value) != off:
            raise UserError(f"stock Detectron2 has no {key}, which is {value!r}; set it to {off!r}")
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
    values = {"SOLVER.AMP.ENABLED": amp, "OUTPUT_DIR": f"{os.path.normpath(cfg.OUTPUT_DIR)}-stock"}
    stock = stock_config(cfg)
    if stock.MODEL.BACKBONE.NAME == "build_fpn_backbone" and cfg.MODEL.FPN.TOP_BLOCK == "maxpool":
        values["MODEL.BACKBONE.NAME"] = build_stock_fpn_backbone.__name__
    return changed(stock, values)


def train_stock(args: argparse.Namespace) -> None:
    """Run one process of the training; ``args`` are as Detectron2 parses them."""
    given = read_config(args)
    cfg = config_of_stock(given)
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="fpn_d2")
    size = given.MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE
    if size != _STOCK_CANONICAL_SIZE:
        logger.warning(
            "Eq. 1 takes a canonical size of %d pixels here, and MODEL.ROI_BOX_HEAD."
            "POOLER_CANONICAL_SIZE %d in train_net.py",
            _STOCK_CANONICAL_SIZE,
            size,
        )
    trainer = StockTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    results = trainer.train() or trainer._last_eval_results
    if "bbox" in results:
        print(f"box AP = {results['bbox']['AP']:.1f}")
