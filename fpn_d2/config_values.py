"""Values that Detectron2's own keys cannot have, which it would answer with a bare assertion or a
KeyError, some of them after minutes."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode

from .utils.errors import UserError

__all__ = ["check_values"]

_CHOICES = {
    "SOLVER.LR_SCHEDULER_NAME": (
        "WarmupMultiStepLR",
        "WarmupCosineLR",
        "WarmupStepWithFixedGammaLR",
    ),
    "DATALOADER.SAMPLER_TRAIN": (
        "TrainingSampler",
        "RepeatFactorTrainingSampler",
        "RandomSubsetTrainingSampler",
    ),
    "INPUT.FORMAT": ("BGR", "RGB", "L", "YUV-BT.601"),
    "INPUT.RANDOM_FLIP": ("horizontal", "vertical", "none"),
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": ("ROIAlignV2", "ROIAlign", "ROIPool", "ROIAlignRotated"),
}
_NORMS = ("", "BN", "SyncBN", "FrozenBN", "GN", "LN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")
_AT_LEAST = {
    "INPUT.MIN_SIZE_TEST": 0,  # of no resize
    "INPUT.MAX_SIZE_TEST": 1,
    "INPUT.MAX_SIZE_TRAIN": 1,
    "SOLVER.MAX_ITER": 1,
    "SOLVER.CHECKPOINT_PERIOD": 1,
    "SOLVER.BASE_LR": 0,
    "DATALOADER.NUM_WORKERS": 0,
    "TEST.EVAL_PERIOD": 0,
    "TEST.DETECTIONS_PER_IMAGE": -1,
}
_NAMES = (
    "MODEL.RPN.IN_FEATURES",
    "MODEL.ROI_HEADS.IN_FEATURES",
    "MODEL.RETINANET.IN_FEATURES",
    "MODEL.FPN.IN_FEATURES",
    "MODEL.FPN.OUT_FEATURES",
    "MODEL.MASK_PROPOSAL.IN_FEATURES",
    "MODEL.RESNETS.OUT_FEATURES",
)
_RESNETS = ("build_resnet_backbone", "build_resnet_fpn_backbone")
_DEPTHS = (18, 34, 50, 101, 152)


def check_values(cfg: CfgNode) -> None:
    """Refuse values that cannot work.

    Args:
        cfg: the merged config.

    Raises:
        UserError: naming the key and what it can be.
    """
    for key, choices in _CHOICES.items():
        _check_choice(key, _get(cfg, key), choices)
    for key in ("MODEL.FPN.NORM", "MODEL.RESNETS.NORM"):
        _check_choice(key, _get(cfg, key), _NORMS)
    for key, least in _AT_LEAST.items():
        value = _get(cfg, key)
        if not (math.isfinite(value) and value >= least):
            raise UserError(f"{key} is {value}; give {least} or more")
    for key in ("INPUT.MIN_SIZE_TRAIN", "SOLVER.STEPS"):
        numbers = _get(cfg, key)
        if not all(_is_number(number) and number >= 1 for number in numbers) or (
            key.startswith("INPUT") and not numbers
        ):
            raise UserError(f"{key} is {numbers}; give whole numbers above 0")
    for key in _NAMES:
        names = _get(cfg, key)
        if not all(isinstance(name, str) for name in names):
            raise UserError(f"{key} is {names}; give names, such as ['p2', 'p3']")
    if list(cfg.SOLVER.STEPS) != sorted(cfg.SOLVER.STEPS):
        raise UserError(f"SOLVER.STEPS is {cfg.SOLVER.STEPS}; give the iterations in their order")
    try:
        torch.device(cfg.MODEL.DEVICE)
    except RuntimeError as error:
        raise UserError(f"MODEL.DEVICE is {cfg.MODEL.DEVICE}; give cpu or cuda") from error
    if cfg.INPUT.OBJECT_SCALE_TRAIN and not cfg.MODEL.MASK_ON:
        raise UserError(
            "INPUT.OBJECT_SCALE_TRAIN makes the boxes anew from the masks, and MODEL.MASK_ON is "
            "False; set it True, or OBJECT_SCALE_TRAIN 0"
        )
    _check_pixels(cfg)
    _check_anchors(cfg)
    _check_resnet(cfg)


def _check_pixels(cfg: CfgNode) -> None:
    channels = 1 if cfg.INPUT.FORMAT == "L" else 3
    for name in ("PIXEL_MEAN", "PIXEL_STD"):
        values = cfg.MODEL[name]
        if len(values) != channels or not all(_is_finite(value) for value in values):
            raise UserError(
                f"MODEL.{name} is {values}; give a number for each of the {channels} channels of "
                f"INPUT.FORMAT {cfg.INPUT.FORMAT}"
            )
    if 0 in cfg.MODEL.PIXEL_STD:
        raise UserError(f"MODEL.PIXEL_STD is {cfg.MODEL.PIXEL_STD}; give no 0, it divides")


def _check_anchors(cfg: CfgNode) -> None:
    for name in ("SIZES", "ASPECT_RATIOS"):
        lists = cfg.MODEL.ANCHOR_GENERATOR[name]
        for values in [one if isinstance(one, list | tuple) else [one] for one in lists]:
            if not all(_is_finite(value) and value > 0 for value in values):
                raise UserError(f"MODEL.ANCHOR_GENERATOR.{name} has {values}; give numbers above 0")


def _check_resnet(cfg: CfgNode) -> None:
    model, resnets = cfg.MODEL, cfg.MODEL.RESNETS
    name = model.BACKBONE.NAME
    if name == "build_fpn_backbone":
        name = model.FPN.BOTTOM_UP
    if name not in _RESNETS:
        return
    _check_choice("MODEL.RESNETS.DEPTH", resnets.DEPTH, _DEPTHS)
    if resnets.DEPTH in (18, 34) and resnets.RES2_OUT_CHANNELS != 64:
        raise UserError(
            f"MODEL.RESNETS.RES2_OUT_CHANNELS is {resnets.RES2_OUT_CHANNELS}, and a ResNet-"
            f"{resnets.DEPTH} has 64; set it to 64"
        )


def _get(cfg: CfgNode, key: str) -> Any:
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value)


def _check_choice(key: str, value: Any, choices: Sequence[Any]) -> None:
    if value not in choices:
        raise UserError(f"{key} is {value!r}; it can be {', '.join(map(repr, choices))}")
