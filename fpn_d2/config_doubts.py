"""Settings that work and seldom mean what they say: told in the log, refused nowhere.

What users of Detectron2 and mmdetection lost days to, as their public reports tell.
"""

import logging
import re
from collections.abc import Iterator, Sequence

import numpy as np
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.meta_arch import RetinaNet

from .modeling.fpn import meta_architecture

logger = logging.getLogger(__name__)

_BGR_MEAN = (103.53, 116.28, 123.675)  # of ImageNet, as of all of Detectron2's models
# What a flip makes of words in the names of classes.
_MIRRORED = {
    "horizontal": {"left": "right", "right": "left", "左": "右", "右": "左"},
    "vertical": {
        "up": "down",
        "down": "up",
        "top": "bottom",
        "bottom": "top",
        "上": "下",
        "下": "上",
    },
}
_USUAL_THRESHOLD = 0.05  # Detectron2's, below which next to nothing is left to find


def tell_doubts(cfg: CfgNode, classes: Sequence[str] = (), *, training: bool) -> None:
    """Log what a config says and hardly means, a warning for each doubt.

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
            f"{order[::-1]}, and INPUT.FORMAT is {order}: turn one of them around"
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
    frozen = [f"MODEL.BACKBONE.FREEZE_AT {freeze_at}"] * (freeze_at > 0)
    frozen += ["MODEL.RESNETS.NORM FrozenBN"] * (model.RESNETS.NORM == "FrozenBN")
    if frozen and not model.WEIGHTS and "resnet" in _backbone(cfg):
        yield (
            f"MODEL.WEIGHTS is empty, and {' and '.join(frozen)} leave random weights as they are: "
            "set weights, or MODEL.BACKBONE.FREEZE_AT 0 and MODEL.RESNETS.NORM GN"
        )
    if loader.SAMPLER_TRAIN == "RepeatFactorTrainingSampler" and loader.REPEAT_THRESHOLD <= 0:
        yield (
            "DATALOADER.SAMPLER_TRAIN RepeatFactorTrainingSampler repeats no image with "
            "DATALOADER.REPEAT_THRESHOLD 0.0: set the share of images below which a class is rare, "
            "such as 0.01"
        )
    for split, sides in (("TRAIN", cfg.INPUT.MIN_SIZE_TRAIN), ("TEST", [cfg.INPUT.MIN_SIZE_TEST])):
        longest = cfg.INPUT[f"MAX_SIZE_{split}"]
        if max(sides) > longest:
            yield (
                f"INPUT.MIN_SIZE_{split} {max(sides)} is above INPUT.MAX_SIZE_{split} {longest}, "
                f"so that no image gets it: set INPUT.MAX_SIZE_{split} to more"
            )
    mirrored = _mirrored(classes, _MIRRORED.get(cfg.INPUT.RANDOM_FLIP, {}))
    if mirrored:
        yield (
            f"INPUT.RANDOM_FLIP {cfg.INPUT.RANDOM_FLIP} turns the class {mirrored[0]} into "
            f"{mirrored[1]}, but leaves its name: set INPUT.RANDOM_FLIP none"
        )


def _backbone(cfg: CfgNode) -> str:
    """The names of the backbone and of the network below its pyramid."""
    return cfg.MODEL.BACKBONE.NAME + cfg.MODEL.FPN.get("BOTTOM_UP", "")


def _mirrored(classes: Sequence[str], words: dict[str, str]) -> tuple[str, str] | None:
    """The first two classes that differ only by one of these words for another."""
    for name in classes if words else ():
        other = re.sub("|".join(words), lambda word: words[word[0].lower()], name, flags=re.I)
        found = [known for known in classes if known.lower() == other.lower() != name.lower()]
        if found:
            return name, found[0]
    return None
