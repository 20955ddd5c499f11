#!/usr/bin/env python
"""Train a config with stock Detectron2: its model, its trainer, its float32; for comparison.

``python tools/train_stock.py --config-file configs/quick/demo.yaml`` has the options of
train_net.py and writes to the config's OUTPUT_DIR with ``-stock`` behind it.
"""

import argparse
import os

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, default_argument_parser, default_setup
from detectron2.evaluation import COCOEvaluator

from fpn_d2 import UserError, load_config
from fpn_d2.engine import launch


class StockTrainer(DefaultTrainer):
    """Detectron2's own train_net, which does no more for COCO-format data."""

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> COCOEvaluator:
        """COCO's metrics."""
        return COCOEvaluator(dataset_name, output_dir=os.path.join(cfg.OUTPUT_DIR, "inference"))


def stock_config(cfg: CfgNode) -> CfgNode:
    """The same config under the names of Detectron2's own components.

    Raises:
        UserError: where Detectron2 has nothing of the kind.
    """
    fpn = cfg.MODEL.FPN
    retinanet = cfg.MODEL.META_ARCHITECTURE == "RetinaNet"
    if (fpn.TOP_DOWN, fpn.LATERAL, list(fpn.OUT_FEATURES)) != (True, True, []):
        raise UserError("stock Detectron2 has no MODEL.FPN.TOP_DOWN, LATERAL or OUT_FEATURES")
    if (
        cfg.MODEL.META_ARCHITECTURE == "ClippingRetinaNet"
        or cfg.MODEL.ANCHOR_GENERATOR.NAME
        not in ("DefaultAnchorGenerator", "RotatedAnchorGenerator")
        or cfg.MODEL.ROI_BOX_HEAD.NUM_UNUSED_CLASSES
    ):
        raise UserError(
            "stock Detectron2 has no ClippingRetinaNet, no MODEL.ANCHOR_GENERATOR.NAME "
            f"{cfg.MODEL.ANCHOR_GENERATOR.NAME} and no MODEL.ROI_BOX_HEAD.NUM_UNUSED_CLASSES"
        )
    stock = {
        "build_fpn_backbone": f"build_{'retinanet_' if retinanet else ''}resnet_fpn_backbone",
        "LeanRPN": "RPN",
        "build_level_rpn_head": "StandardRPNHead",
        "LevelROIHeads": "StandardROIHeads",
        "TorchvisionROIHeads": "StandardROIHeads",
    }
    cfg = cfg.clone()
    cfg.defrost()
    for section, key in (
        ("BACKBONE", "NAME"),
        ("PROPOSAL_GENERATOR", "NAME"),
        ("RPN", "HEAD_NAME"),
        ("ROI_HEADS", "NAME"),
    ):
        name = cfg.MODEL[section][key]
        cfg.MODEL[section][key] = stock.get(name, name)
    if not cfg.MODEL.DEVICE.startswith("cuda"):
        cfg.SOLVER.AMP.ENABLED = False  # Detectron2's mixed precision needs CUDA
    cfg.OUTPUT_DIR += "-stock"
    cfg.freeze()
    return cfg


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
