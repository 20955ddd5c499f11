"""Combinations of configuration values that cannot work, each refused in one sentence.

What can be known from the config alone is checked here, before anything is built. What depends
on the strides of the bottom-up network is checked by the neck (``modeling/fpn.py``), what depends
on the data set by ``data/checks.py``.
"""

import importlib
from collections.abc import Iterator

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.modeling.meta_arch import RetinaNet

from .config_values import check_values
from .utils.errors import UserError

__all__ = ["check_config", "class_head_key", "features_read", "use_foreign_components"]

TOP_BLOCKS = ("maxpool", "p6p7_c5", "p6p7_p5", "")
_RETINANETS = ("RetinaNet", "ClippingRetinaNet")

# The components of other code bases' models; they are registered once a config names one.
_FOREIGN = "fpn_d2.checkpoint.foreign.components"
_FOREIGN_NAMES = (
    "ClippingRetinaNet",
    "MaskRCNNBenchmarkAnchorGenerator",
    "TorchvisionAnchorGenerator",
    "TorchvisionROIHeads",
)


def use_foreign_components(cfg: CfgNode) -> None:
    """Register the components that only other code bases' models need, if a config names one.

    Version 0.1 had ``NUM_UNUSED_CLASSES`` in its own RoI heads; such a config gets the heads that
    have it now (in place).
    """
    model = cfg.MODEL
    names = (model.META_ARCHITECTURE, model.ANCHOR_GENERATOR.NAME, model.ROI_HEADS.NAME)
    unused = model.ROI_BOX_HEAD.NUM_UNUSED_CLASSES > 0
    if unused and model.ROI_HEADS.NAME in ("LevelROIHeads", "FPNROIHeads"):
        model.ROI_HEADS.NAME = "TorchvisionROIHeads"
    if unused or any(name in _FOREIGN_NAMES for name in names):
        importlib.import_module(_FOREIGN)


def check_config(cfg: CfgNode) -> None:
    """Refuse combinations of values that cannot work.

    Raises:
        UserError: naming the keys at fault and the remedy.
    """
    check_values(cfg)
    _check_neck(cfg)
    _check_inference(cfg)
    _check_pooler_backend(cfg)
    _check_switches_act(cfg)
    _check_levels(cfg)
    _check_batch(cfg)
    if cfg.INPUT.RESIZE_TEST not in ("detectron2", "torchvision"):
        raise UserError(
            f"INPUT.RESIZE_TEST is {cfg.INPUT.RESIZE_TEST!r}; give detectron2 or torchvision"
        )
    share = cfg.DATALOADER.MAX_SKIPPED_SHARE
    if not 0 <= share <= 1:
        raise UserError(f"DATALOADER.MAX_SKIPPED_SHARE is {share}; give a fraction, 0.0 to 1.0")
    if cfg.MODEL.META_ARCHITECTURE == "MaskProposalNetwork":
        _check_mask_proposals(cfg)
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(
            f"MODEL.DEVICE is {cfg.MODEL.DEVICE}, but torch sees no CUDA device; use cpu"
        )


def features_read(cfg: CfgNode) -> dict[str, list[str]]:
    """The features that the parts of Detectron2's own detectors read.

    Returns:
        ``{config key: names}``, empty for a meta-architecture that is not known here.
    """
    model, readers = cfg.MODEL, {}
    if model.META_ARCHITECTURE == "MaskProposalNetwork":
        readers["MODEL.MASK_PROPOSAL.IN_FEATURES"] = list(model.MASK_PROPOSAL.IN_FEATURES)
    elif model.META_ARCHITECTURE in _RETINANETS:
        readers["MODEL.RETINANET.IN_FEATURES"] = list(model.RETINANET.IN_FEATURES)
    elif model.META_ARCHITECTURE in ("GeneralizedRCNN", "ProposalNetwork"):
        if model.PROPOSAL_GENERATOR.NAME != "PrecomputedProposals":
            readers["MODEL.RPN.IN_FEATURES"] = list(model.RPN.IN_FEATURES)
        if model.META_ARCHITECTURE == "GeneralizedRCNN":
            readers["MODEL.ROI_HEADS.IN_FEATURES"] = list(model.ROI_HEADS.IN_FEATURES)
    return readers


def class_head_key(cfg: CfgNode) -> str | None:
    """The config key that holds the number of classes of a config's detector.

    Returns:
        ``MODEL.ROI_HEADS.NUM_CLASSES``, ``MODEL.RETINANET.NUM_CLASSES``, or None for a network
        without classes (proposals) and one of which that is not known.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    network = META_ARCH_REGISTRY.get(name) if name in META_ARCH_REGISTRY else None
    if not isinstance(network, type):
        return None
    if issubclass(network, GeneralizedRCNN):
        return "MODEL.ROI_HEADS.NUM_CLASSES"
    return "MODEL.RETINANET.NUM_CLASSES" if issubclass(network, RetinaNet) else None


def _check_neck(cfg: CfgNode) -> None:
    fpn = cfg.MODEL.FPN
    if not (fpn.TOP_DOWN or fpn.LATERAL):
        raise UserError(
            "MODEL.FPN.TOP_DOWN and MODEL.FPN.LATERAL are both False, which leaves no way from "
            "the bottom-up network to the levels; switch one of them on"
        )
    if fpn.FUSE_TYPE not in ("sum", "avg"):
        raise UserError(f"MODEL.FPN.FUSE_TYPE is {fpn.FUSE_TYPE!r}; it can be 'sum' or 'avg'")
    if fpn.FUSE_TYPE == "avg" and not (fpn.TOP_DOWN and fpn.LATERAL):
        raise UserError(
            "MODEL.FPN.FUSE_TYPE avg averages the two paths, so it needs MODEL.FPN.TOP_DOWN and "
            "MODEL.FPN.LATERAL both True; use FUSE_TYPE sum"
        )
    if fpn.TOP_BLOCK not in TOP_BLOCKS:
        raise UserError(
            f"MODEL.FPN.TOP_BLOCK is {fpn.TOP_BLOCK!r}; it can be "
            + ", ".join(repr(name) for name in TOP_BLOCKS)
        )
    if cfg.MODEL.BACKBONE.NAME == "build_fpn_backbone" and not fpn.IN_FEATURES:
        raise UserError(
            "MODEL.FPN.IN_FEATURES is empty, so the pyramid has no levels; name the stages that "
            "it is built on, such as ['res2', 'res3', 'res4', 'res5']"
        )
    size = cfg.MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE
    if size <= 0:
        raise UserError(
            f"MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE is {size}, and Eq. 1 divides by it; "
            "set a side in pixels, such as the paper's 224"
        )


def _check_inference(cfg: CfgNode) -> None:
    if cfg.INFERENCE.PRECISION not in ("float32", "bfloat16", "float16"):
        raise UserError(
            f"INFERENCE.PRECISION is {cfg.INFERENCE.PRECISION!r}; give float32, bfloat16 or float16"
        )
    if not cfg.INFERENCE.PREPARE and (
        cfg.INFERENCE.PRECISION != "float32" or cfg.INFERENCE.COMPILE
    ):
        raise UserError(
            "INFERENCE.PRECISION and INFERENCE.COMPILE have no effect without INFERENCE.PREPARE "
            "True; set it, or leave them alone"
        )


def _check_pooler_backend(cfg: CfgNode) -> None:
    backend = cfg.MODEL.ROI_BOX_HEAD.POOLER_BACKEND
    if backend not in ("auto", "gather", "torchvision"):
        raise UserError(
            f"MODEL.ROI_BOX_HEAD.POOLER_BACKEND is {backend!r}; give auto, gather or torchvision"
        )
    if backend != "auto" and cfg.MODEL.ROI_HEADS.NAME == "StandardROIHeads":
        raise UserError(
            "MODEL.ROI_BOX_HEAD.POOLER_BACKEND has no effect on MODEL.ROI_HEADS.NAME "
            "StandardROIHeads; set it to LevelROIHeads, or leave the backend auto"
        )


def _check_switches_act(cfg: CfgNode) -> None:
    """This package's switches act in its own components only; with stock ones they would be
    ignored, and an ablation would report the unablated model."""
    model, box = cfg.MODEL, cfg.MODEL.ROI_BOX_HEAD
    stock_neck = model.BACKBONE.NAME in (
        "build_resnet_fpn_backbone",
        "build_retinanet_resnet_fpn_backbone",
    )
    fpn = model.FPN
    own_tops = ("maxpool", "p6p7_c5") if "retinanet" in model.BACKBONE.NAME else ("maxpool",)
    plain = (
        fpn.TOP_DOWN
        and fpn.LATERAL
        and not fpn.OUT_FEATURES
        and fpn.BOTTOM_UP == "build_resnet_backbone"
        and fpn.TOP_BLOCK in own_tops
    )
    if stock_neck and not plain:
        raise UserError(
            "MODEL.FPN.TOP_DOWN, LATERAL, OUT_FEATURES, BOTTOM_UP and TOP_BLOCK have no effect on "
            f"MODEL.BACKBONE.NAME {model.BACKBONE.NAME}; set it to build_fpn_backbone"
        )
    if fpn.FREEZE and model.BACKBONE.NAME != "build_fpn_backbone":
        raise UserError(
            f"MODEL.FPN.FREEZE has no effect on MODEL.BACKBONE.NAME {model.BACKBONE.NAME}; set it "
            "to build_fpn_backbone, or freeze a ResNet's stages with MODEL.BACKBONE.FREEZE_AT"
        )
    if not model.RPN.SHARED_HEAD and model.RPN.HEAD_NAME == "StandardRPNHead":
        raise UserError(
            "MODEL.RPN.SHARED_HEAD False has no effect on MODEL.RPN.HEAD_NAME StandardRPNHead; "
            "set it to build_level_rpn_head"
        )
    eq1_is_plain = (box.POOLER_CANONICAL_SIZE, box.POOLER_CANONICAL_LEVEL) == (224, 4)
    if not eq1_is_plain and model.ROI_HEADS.NAME == "StandardROIHeads":
        raise UserError(
            "MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE and POOLER_CANONICAL_LEVEL have no effect "
            "on MODEL.ROI_HEADS.NAME StandardROIHeads; set it to LevelROIHeads"
        )
    if box.NUM_UNUSED_CLASSES < 0:
        raise UserError(
            f"MODEL.ROI_BOX_HEAD.NUM_UNUSED_CLASSES is {box.NUM_UNUSED_CLASSES}; give 0 or more"
        )
    if box.NUM_UNUSED_CLASSES and model.ROI_HEADS.NAME in ("StandardROIHeads", "C4ROIHeads"):
        raise UserError(
            "MODEL.ROI_BOX_HEAD.NUM_UNUSED_CLASSES has no effect on MODEL.ROI_HEADS.NAME "
            f"{model.ROI_HEADS.NAME}; set it to LevelROIHeads, or NUM_UNUSED_CLASSES to 0"
        )


def _check_levels(cfg: CfgNode) -> None:
    readers = features_read(cfg)
    for key, names in readers.items():
        if not names:
            raise UserError(f"{key} is empty, so there are no levels to read; name at least one")
    if cfg.MODEL.BACKBONE.NAME == "build_resnet_backbone":
        for key, names in readers.items():
            check_features_exist(key, names, cfg.MODEL.RESNETS.OUT_FEATURES, "the ResNet")
    for key, lists in _anchor_lists(cfg):
        reader = "RETINANET" if cfg.MODEL.META_ARCHITECTURE in _RETINANETS else "RPN"
        levels = readers.get(f"MODEL.{reader}.IN_FEATURES")
        if levels and len(lists) not in (1, len(levels)):
            raise UserError(
                f"{key} has {len(lists)} lists for the {len(levels)} levels "
                f"{', '.join(levels)} of MODEL.{reader}.IN_FEATURES; give one list to each level, "
                "or one for all"
            )


def _check_mask_proposals(cfg: CfgNode) -> None:
    prefix, keys = "MODEL.MASK_PROPOSAL", cfg.MODEL.MASK_PROPOSAL
    levels = list(keys.IN_FEATURES)
    if not keys.WINDOWS or any(window < 1 or window % 2 == 0 for window in keys.WINDOWS):
        raise UserError(
            f"{prefix}.WINDOWS is {keys.WINDOWS}; give odd sides in cells, such as [5, 7]"
        )
    if [len(sizes) for sizes in keys.SIZES] != [len(levels)] * len(keys.WINDOWS):
        raise UserError(
            f"{prefix}.SIZES must have a list for each of the {len(keys.WINDOWS)} WINDOWS, with a "
            f"scale in pixels for each of the {len(levels)} levels {', '.join(levels)}"
        )
    if any(size <= 0 for sizes in keys.SIZES for size in sizes):
        raise UserError(f"{prefix}.SIZES has a scale that is not above 0; give pixels")
    if not keys.TEST_SCALES or any(scale <= 0 for scale in keys.TEST_SCALES):
        raise UserError(
            f"{prefix}.TEST_SCALES is {keys.TEST_SCALES}; give factors above 0, [1.0] for none"
        )
    for name in ("MASK_SIZE", "HIDDEN_DIM", "BATCH_SIZE_PER_IMAGE", "TOPK_TEST"):
        if keys[name] < 1:
            raise UserError(f"{prefix}.{name} is {keys[name]}; give 1 or more")
    if not cfg.MODEL.MASK_ON:
        raise UserError(
            "MODEL.MASK_ON is False, so that no masks are loaded; a MaskProposalNetwork needs them"
        )


def _anchor_lists(cfg: CfgNode) -> Iterator[tuple[str, list]]:
    for name in ("SIZES", "ASPECT_RATIOS"):
        lists = cfg.MODEL.ANCHOR_GENERATOR[name]
        if lists and isinstance(lists[0], (list, tuple)):  # a flat list is one for all levels
            yield f"MODEL.ANCHOR_GENERATOR.{name}", lists


def check_features_exist(key: str, names: list[str], existing: list[str], what: str) -> None:
    """Refuse ``names`` under ``key`` that are not among the ``existing`` features of ``what``."""
    absent = [name for name in names if name not in existing]
    if absent:
        raise UserError(
            f"{key} names {', '.join(absent)}, but {what} has only {', '.join(existing)}; "
            f"name levels that exist, or have {what} output more"
        )


def _check_batch(cfg: CfgNode) -> None:
    images, world = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_WORLD_SIZE
    if world > 0 and images % world:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH {images} does not divide among the {world} processes of "
            "SOLVER.REFERENCE_WORLD_SIZE; set REFERENCE_WORLD_SIZE 0 to take the batch, the "
            "learning rate and the schedule as they are written"
        )
