"""Checks of keys that Detectron2's schedules, samplers, networks and heads read together.

Combinations that would end in a traceback, or have no effect, are refused when a config is read.
Those that work but are hardly meant are logged as a run starts (:func:`tell_doubts`). Other
people's components are not checked.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY, GeneralizedRCNN, ProposalNetwork
from detectron2.modeling.meta_arch import PanopticFPN, RetinaNet, SemanticSegmentor
from detectron2.modeling.proposal_generator.rrpn import RRPN
from detectron2.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads, RROIHeads, StandardROIHeads

from .config_values import (
    FIVE,
    FOUR,
    NORM,
    POOLER_TYPE,
    REGRESSION_LOSS,
    ROTATED_POOLER_TYPE,
    are_positive,
    are_whole,
    check_values,
    value_of,
)
from .modeling.fpn import is_known, meta_architecture, registered
from .utils.errors import UserError

logger = logging.getLogger(__name__)


def check_schedule(cfg: CfgNode) -> None:
    """Check the keys of Detectron2's schedules; another name is somebody's own schedule."""
    solver, name = cfg.SOLVER, cfg.SOLVER.LR_SCHEDULER_NAME
    steps = list(solver.STEPS)
    if steps != sorted(set(steps)):
        raise UserError(f"SOLVER.STEPS is {solver.STEPS}; give the iterations in their order")
    if name == "WarmupMultiStepLR" and solver.MAX_ITER in steps:
        raise UserError(
            f"SOLVER.STEPS is {solver.STEPS}, and the training ends at SOLVER.MAX_ITER "
            f"{solver.MAX_ITER}; give iterations before it"
        )
    if name == "WarmupCosineLR" and not solver.BASE_LR_END <= solver.BASE_LR > 0:
        raise UserError(
            f"SOLVER.BASE_LR_END is {solver.BASE_LR_END} and SOLVER.BASE_LR {solver.BASE_LR}; "
            "WarmupCosineLR goes down from BASE_LR, so give a number above 0 and an end up to it"
        )
    if name == "WarmupStepWithFixedGammaLR":
        if not 0 < solver.NUM_DECAYS < solver.MAX_ITER:
            raise UserError(
                f"SOLVER.NUM_DECAYS is {solver.NUM_DECAYS} in {solver.MAX_ITER} iterations "
                "(SOLVER.MAX_ITER); give 1 or more, and fewer than these"
            )
        if not solver.GAMMA:
            raise UserError(f"SOLVER.GAMMA is 0.0; for {name} give a number above 0")
    if solver.RESCALE_INTERVAL and solver.WARMUP_ITERS >= solver.MAX_ITER and name in _SCHEDULERS:
        raise UserError(
            f"SOLVER.RESCALE_INTERVAL puts the schedule after the warm-up, and SOLVER.WARMUP_ITERS "
            f"{solver.WARMUP_ITERS} are all of SOLVER.MAX_ITER {solver.MAX_ITER}; give fewer"
        )
    if cfg.TEST.PATIENCE and not (cfg.TEST.BEST_METRIC and cfg.TEST.EVAL_PERIOD):
        raise UserError(
            f"TEST.PATIENCE {cfg.TEST.PATIENCE} counts evaluations without a better metric; set "
            "TEST.BEST_METRIC, such as 'bbox/AP', and TEST.EVAL_PERIOD, or TEST.PATIENCE to 0"
        )


_WEIGHTED = ("WeightedTrainingSampler", "WeightedCategoryTrainingSampler")
_SUBSET, _REPEATING = "RandomSubsetTrainingSampler", "RepeatFactorTrainingSampler"
_SAMPLERS = ("TrainingSampler", _REPEATING, _SUBSET, *_WEIGHTED)
_SCHEDULERS = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR")
# Values of keys that Detectron2 looks up itself; somebody's own trainer may know more.
LOOKED_UP = {
    "DATALOADER.SAMPLER_TRAIN": _SAMPLERS,
    "SOLVER.LR_SCHEDULER_NAME": _SCHEDULERS,
}
# Keys that only some samplers read: the value that is off, and the names of these samplers.
_SAMPLERS_OF = {
    "DATALOADER.RANDOM_SUBSET_RATIO": (1.0, [_SUBSET]),
    "DATASETS.TRAIN_REPEAT_FACTOR": ([], _WEIGHTED),
    "DATALOADER.REPEAT_THRESHOLD": (0.0, [_REPEATING, _WEIGHTED[1]]),
}


def check_sampling(cfg: CfgNode) -> None:
    """Check the keys of the samplers and the augmentations."""
    loader, inputs = cfg.DATALOADER, cfg.INPUT
    for key, (off, samplers) in _SAMPLERS_OF.items():
        is_ignored = loader.SAMPLER_TRAIN in _SAMPLERS and loader.SAMPLER_TRAIN not in samplers
        if is_ignored and value_of(cfg, key) != off:
            raise UserError(
                f"{key} has no effect on DATALOADER.SAMPLER_TRAIN {loader.SAMPLER_TRAIN}; set that "
                f"to {' or '.join(samplers)}"
            )
    unknown = {name for name, _ in cfg.DATASETS.TRAIN_REPEAT_FACTOR} - set(cfg.DATASETS.TRAIN)
    if unknown:
        raise UserError(
            f"DATASETS.TRAIN_REPEAT_FACTOR names {', '.join(sorted(unknown))}, which "
            "DATASETS.TRAIN does not; name data sets of it"
        )
    weighted = loader.SAMPLER_TRAIN in _WEIGHTED
    if cfg.MODEL.LOAD_PROPOSALS and weighted and cfg.DATASETS.TRAIN[1:]:
        raise UserError(
            f"DATALOADER.SAMPLER_TRAIN {loader.SAMPLER_TRAIN} reads the proposals of one data set "
            "only; name one in DATASETS.TRAIN, or take the TrainingSampler"
        )
    sizes = inputs.MIN_SIZE_TRAIN  # in a range, 0 is a size, which no image can have
    is_range = len(sizes) == 2 and 0 < sizes[0] <= sizes[1]
    if inputs.MIN_SIZE_TRAIN_SAMPLING == "range" and not is_range:
        raise UserError(
            f"INPUT.MIN_SIZE_TRAIN is {sizes}; give the least and the greatest size for "
            "INPUT.MIN_SIZE_TRAIN_SAMPLING range"
        )
    crop = inputs.CROP
    shares = crop.TYPE.startswith("relative")
    sound = len(crop.SIZE) == 2 and (are_positive if shares else are_whole)(crop.SIZE)
    if crop.TYPE == "absolute_range":
        sound = sound and crop.SIZE[0] <= crop.SIZE[1]
    if crop.ENABLED and not (sound and (not shares or max(crop.SIZE) <= 1)):
        what = "two shares, above 0.0 and up to 1.0" if shares else "two whole numbers of pixels"
        order = ", the lesser first" if crop.TYPE == "absolute_range" else ""
        raise UserError(
            f"INPUT.CROP.SIZE is {crop.SIZE}; give {what}{order} for INPUT.CROP.TYPE {crop.TYPE}"
        )


# The norms of the pyramid and of heads, and the channels that GroupNorm splits into 32 groups.
_NORMS = {
    "MODEL.FPN.NORM": "MODEL.FPN.OUT_CHANNELS",
    "MODEL.RETINANET.NORM": "MODEL.FPN.OUT_CHANNELS",
    "MODEL.ROI_BOX_HEAD.NORM": "MODEL.ROI_BOX_HEAD.CONV_DIM",
    "MODEL.ROI_MASK_HEAD.NORM": "MODEL.ROI_MASK_HEAD.CONV_DIM",
    "MODEL.SEM_SEG_HEAD.NORM": "MODEL.SEM_SEG_HEAD.CONVS_DIM",
}


def check_norms(cfg: CfgNode, keys: Sequence[str]) -> None:
    """Refuse norms that Detectron2 does not have, and channels that GroupNorm cannot split."""
    check_values(cfg, dict.fromkeys(keys, NORM))
    for key in keys:
        channels = value_of(cfg, _NORMS[key])
        if value_of(cfg, key) == "GN" and channels % 32:
            raise UserError(
                f"{key} GN makes 32 groups of the channels, and {_NORMS[key]} is {channels}; "
                "set that to a multiple of 32"
            )


def check_heads(cfg: CfgNode, heads: Any) -> None:
    """Refuse what Detectron2's networks and heads would not accept, or would ignore.

    Args:
        cfg: the config.
        heads: the registered RoI heads, or None.
    """
    network, model = meta_architecture(cfg), cfg.MODEL
    if not is_known(network):
        return
    norms, matchers, losses = [], [], []
    if issubclass(network, RetinaNet):
        norms = ["MODEL.RETINANET.NORM"]
        matchers, losses = ["MODEL.RETINANET"], ["MODEL.RETINANET.BBOX_REG_LOSS_TYPE"]
        for key in ("MASK_ON", "KEYPOINT_ON", "LOAD_PROPOSALS"):
            if model[key]:
                raise UserError(f"MODEL.{key} has no effect on a RetinaNet; set it to False")
        if cfg.TEST.DETECTIONS_PER_IMAGE < 0:
            raise UserError(
                "TEST.DETECTIONS_PER_IMAGE is -1; a RetinaNet needs a limit, so give 1 or more"
            )
    elif issubclass(network, (GeneralizedRCNN, ProposalNetwork)):
        if model.PROPOSAL_GENERATOR.NAME != "PrecomputedProposals":
            matchers, losses = ["MODEL.RPN"], ["MODEL.RPN.BBOX_REG_LOSS_TYPE"]
            generator = registered(PROPOSAL_GENERATOR_REGISTRY, model.PROPOSAL_GENERATOR.NAME)
            if is_known(generator):
                weights = FIVE if generator is RRPN else FOUR
                check_values(cfg, {"MODEL.RPN.BBOX_REG_WEIGHTS": weights})
        if is_known(heads):
            matchers.append("MODEL.ROI_HEADS")
            losses.append("MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE")
            norms.append("MODEL.ROI_BOX_HEAD.NORM")
            _check_roi_heads(cfg, heads)
        loss_weight = model.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT
        if issubclass(network, PanopticFPN) and loss_weight != 1 and not model.MASK_ON:
            raise UserError(
                "MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT weighs the mask head's loss too, and "
                "MODEL.MASK_ON is False; set it True"
            )
        if model.MASK_ON and issubclass(network, GeneralizedRCNN):
            norms.append("MODEL.ROI_MASK_HEAD.NORM")
    if issubclass(network, (PanopticFPN, SemanticSegmentor)):
        norms.append("MODEL.SEM_SEG_HEAD.NORM")
    check_norms(cfg, norms)
    check_values(cfg, dict.fromkeys(losses, REGRESSION_LOSS))
    for section in matchers:
        thresholds, labels = (
            value_of(cfg, f"{section}.IOU_{name}") for name in ("THRESHOLDS", "LABELS")
        )
        if len(labels) != len(thresholds) + 1:
            raise UserError(
                f"{section}.IOU_LABELS is {labels}; give {len(thresholds) + 1} labels, for below, "
                f"between and above the {section}.IOU_THRESHOLDS {thresholds}"
            )
    if cfg.TEST.AUG.ENABLED:
        _check_augmentation(cfg, network, heads)


# Detectron2's mask and keypoint heads, which read pooled maps; others may pool by themselves.
_POOLED = ("MaskRCNNConvUpsampleHead", "KRCNNConvDeconvUpsampleHead")


def _check_roi_heads(cfg: CfgNode, heads: type) -> None:
    model, is_rotated = cfg.MODEL, issubclass(heads, RROIHeads)
    types = {"MODEL.ROI_BOX_HEAD.POOLER_TYPE": ROTATED_POOLER_TYPE if is_rotated else POOLER_TYPE}
    types["MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS"] = FIVE if is_rotated else FOUR
    for key, head in (("MASK_ON", "ROI_MASK_HEAD"), ("KEYPOINT_ON", "ROI_KEYPOINT_HEAD")):
        if model[key] and (model[head].POOLER_TYPE or model[head].NAME in _POOLED):
            types[f"MODEL.{head}.POOLER_TYPE"] = POOLER_TYPE
    check_values(cfg, types)
    name, sigmas = model.ROI_HEADS.NAME, cfg.TEST.KEYPOINT_OKS_SIGMAS
    points = model.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    if model.KEYPOINT_ON and len(sigmas) not in (0, points):
        raise UserError(
            f"TEST.KEYPOINT_OKS_SIGMAS has {len(sigmas)} numbers; give one for each of the "
            f"{points} points of MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, or none for COCO's"
        )
    if model.KEYPOINT_ON and cfg.DATASETS.TEST and not sigmas and points != 17:
        raise UserError(
            f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is {points}, and COCO knows the OKS sigmas of "
            "its 17 points; give one for each of yours in TEST.KEYPOINT_OKS_SIGMAS"
        )
    box = model.ROI_BOX_HEAD
    if box.USE_FED_LOSS and not box.USE_SIGMOID_CE:
        raise UserError(
            "MODEL.ROI_BOX_HEAD.USE_FED_LOSS needs MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE; set it True"
        )
    standard = issubclass(heads, StandardROIHeads)
    if standard and box.NAME == "FastRCNNConvFCHead" and not box.NUM_FC + box.NUM_CONV:
        raise UserError(
            "MODEL.ROI_BOX_HEAD.NUM_FC and NUM_CONV are both 0, so the FastRCNNConvFCHead has no "
            "layers; set MODEL.ROI_BOX_HEAD.NUM_FC 2"
        )
    if issubclass(heads, CascadeROIHeads):
        cascade = model.ROI_BOX_CASCADE_HEAD
        if not box.CLS_AGNOSTIC_BBOX_REG:
            raise UserError(
                f"MODEL.ROI_HEADS.NAME {name} needs MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG; set "
                "it True"
            )
        if len(cascade.IOUS) != len(cascade.BBOX_REG_WEIGHTS):
            raise UserError(
                f"MODEL.ROI_BOX_CASCADE_HEAD.IOUS has {len(cascade.IOUS)} stages, and "
                f"BBOX_REG_WEIGHTS {len(cascade.BBOX_REG_WEIGHTS)}; give as many of both"
            )
        if cascade.IOUS[0] != model.ROI_HEADS.IOU_THRESHOLDS[0]:
            raise UserError(
                f"MODEL.ROI_BOX_CASCADE_HEAD.IOUS begins with {cascade.IOUS[0]}; set "
                f"MODEL.ROI_HEADS.IOU_THRESHOLDS to [{cascade.IOUS[0]}] as well"
            )
    if issubclass(heads, Res5ROIHeads) and model.KEYPOINT_ON:
        raise UserError(
            f"MODEL.KEYPOINT_ON has no effect on MODEL.ROI_HEADS.NAME {name}; set that to "
            "LevelROIHeads"
        )
    levels = model.ROI_HEADS.IN_FEATURES
    if issubclass(heads, Res5ROIHeads) and len(levels) != 1:
        raise UserError(
            f"MODEL.ROI_HEADS.IN_FEATURES names {', '.join(levels)}, and MODEL.ROI_HEADS.NAME "
            f"{name} reads one level; name one, or set that to LevelROIHeads"
        )


def _check_augmentation(cfg: CfgNode, network: type, heads: Any) -> None:
    """Refuse what Detectron2's GeneralizedRCNNWithTTA does not accept."""
    is_known = issubclass(network, GeneralizedRCNN) and not issubclass(network, PanopticFPN)
    faults = [] if is_known else [f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE}"]
    faults += [f"MODEL.{key}" for key in ("KEYPOINT_ON", "LOAD_PROPOSALS") if cfg.MODEL[key]]
    if isinstance(heads, type) and issubclass(heads, RROIHeads):  # it would merge upright boxes
        faults.append(f"MODEL.ROI_HEADS.NAME {cfg.MODEL.ROI_HEADS.NAME}")
    if faults:
        raise UserError(
            f"TEST.AUG.ENABLED augments the images of a Faster or Mask R-CNN with an RPN, and does "
            f"not support {faults[0]}; set it to False"
        )


# --- doubts: settings that work but are seldom meant, collected from public reports of users


_BGR_MEAN = (103.53, 116.28, 123.675)  # ImageNet's, as in all of Detectron2's models
# The words in the names of classes that a flip exchanges.
_MIRRORED = {
    "horizontal": [("left", "right"), ("左", "右")],
    "vertical": [("up", "down"), ("top", "bottom"), ("上", "下")],
}
_USUAL_THRESHOLD = 0.05  # Detectron2's default; below it, next to nothing is left to find


def tell_doubts(cfg: CfgNode, classes: Sequence[str] = (), *, training: bool) -> None:
    """Log a warning for each setting of a config that works but is hardly meant.

    Args:
        cfg: a config from :func:`fpn_d2.load_config`, or one of Detectron2's.
        classes: the names of the training set's classes.
        training: whether the model is to be trained, not only evaluated.
    """
    doubts = _of_training(cfg, classes) if training else _of_evaluation(cfg)
    for sentence in (*_of_pixels(cfg), *doubts):
        logger.warning("%s", sentence)


def _of_pixels(cfg: CfgNode) -> Iterator[str]:
    mean, std, order = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, cfg.INPUT.FORMAT
    if max(std) < 1 and max(map(abs, mean)) <= 1:
        yield (
            f"MODEL.PIXEL_MEAN {mean} and PIXEL_STD {std} are shares of 1, and pixels go from 0 to "
            "255: multiply both by 255"
        )
    reverse = {"RGB": _BGR_MEAN, "BGR": _BGR_MEAN[::-1]}.get(order)
    if reverse is not None and np.allclose(mean, reverse, atol=1):
        yield (
            f"MODEL.PIXEL_MEAN {mean} has ImageNet's means in the order of "
            f"{order[::-1]}, and INPUT.FORMAT is {order}: reverse one of them"
        )


def _of_evaluation(cfg: CfgNode) -> Iterator[str]:
    network = meta_architecture(cfg)
    if issubclass(network, GeneralizedRCNN):
        key, threshold = "ROI_HEADS", cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST
    elif issubclass(network, RetinaNet):
        key, threshold = "RETINANET", cfg.MODEL.RETINANET.SCORE_THRESH_TEST
    else:
        return
    if threshold > _USUAL_THRESHOLD:
        yield (
            f"MODEL.{key}.SCORE_THRESH_TEST is {threshold}, and AP counts what scores less as "
            f"missed: set it to {_USUAL_THRESHOLD} to compare the AP with others'"
        )


def _of_training(cfg: CfgNode, classes: Sequence[str]) -> Iterator[str]:
    model, solver, loader = cfg.MODEL, cfg.SOLVER, cfg.DATALOADER
    if solver.WARMUP_ITERS >= solver.MAX_ITER:
        yield (
            f"SOLVER.WARMUP_ITERS is {solver.WARMUP_ITERS} of SOLVER.MAX_ITER {solver.MAX_ITER} "
            "iterations, so the learning rate never gets to SOLVER.BASE_LR: set fewer, such as "
            f"{solver.MAX_ITER // 10}"
        )
    freeze_at = model.BACKBONE.FREEZE_AT
    network = model.BACKBONE.NAME
    network = model.FPN.get("BOTTOM_UP", "") if network == "build_fpn_backbone" else network
    for kind, norm in (("resnet", "GN"), ("regnet", "BN")):
        key = f"MODEL.{kind.upper()}S.NORM"
        if model.WEIGHTS or kind not in network:
            continue
        frozen = [f"MODEL.BACKBONE.FREEZE_AT {freeze_at}"] * (freeze_at > 0)
        frozen += [f"{key} FrozenBN"] * (value_of(cfg, key) == "FrozenBN")
        if frozen:
            yield (
                f"MODEL.WEIGHTS is empty, and {' and '.join(frozen)} leave random weights as they "
                f"are: set weights, or MODEL.BACKBONE.FREEZE_AT 0 and {key} {norm}"
            )
    if loader.SAMPLER_TRAIN == "RepeatFactorTrainingSampler" and loader.REPEAT_THRESHOLD <= 0:
        yield (
            "DATALOADER.SAMPLER_TRAIN RepeatFactorTrainingSampler repeats no image with "
            "DATALOADER.REPEAT_THRESHOLD 0.0: set the share of images below which a class is rare, "
            "such as 0.01"
        )
    for split in ("TRAIN", "TEST"):
        sides = cfg.INPUT[f"MIN_SIZE_{split}"]
        sides = [sides] if isinstance(sides, int) else sides  # Detectron2's resize takes both
        longest = cfg.INPUT[f"MAX_SIZE_{split}"]
        if max(sides) > longest:
            yield (
                f"INPUT.MIN_SIZE_{split} {max(sides)} is above INPUT.MAX_SIZE_{split} {longest}, "
                f"so no image reaches it: set INPUT.MAX_SIZE_{split} to more"
            )
    mirrored = _mirrored(classes, _MIRRORED.get(cfg.INPUT.RANDOM_FLIP, ()))
    if mirrored:
        yield (
            f"INPUT.RANDOM_FLIP {cfg.INPUT.RANDOM_FLIP} turns the class {mirrored[0]} into "
            f"{mirrored[1]}, but leaves its name: set INPUT.RANDOM_FLIP none"
        )


def _mirrored(classes: Sequence[str], pairs: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
    """Return the first two classes whose names are the same once pairs of words are exchanged."""
    words = dict(pairs) | {second: first for first, second in pairs}
    for name in classes if words else ():
        other = re.sub("|".join(words), lambda word: words[word[0].lower()], name, flags=re.I)
        found = [known for known in classes if known.lower() == other.lower() != name.lower()]
        if found:
            return name, found[0]
    return None
