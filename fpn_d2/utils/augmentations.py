"""Detectron2's augmentations, built from the entries of ``INPUT.AUGMENTATIONS``."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T

from .errors import UserError


class BGRSaturation(T.RandomSaturation):
    """RandomSaturation for BGR images; Detectron2's weights the channels as RGB."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """See :meth:`Augmentation.get_transform`; the grey that is blended in has one channel."""
        return super().get_transform(image[..., ::-1])


class BGRLighting(T.RandomLighting):
    """RandomLighting for BGR images; Detectron2's adds colours in the order of RGB."""

    def __init__(self, scale: float):
        """See :class:`RandomLighting`, whose constructor keeps its arguments under their names."""
        super().__init__(scale)
        self.eigen_vecs = self.eigen_vecs[::-1]


def build_augmentations(cfg: CfgNode) -> list[T.Augmentation]:
    """Build the augmentations that a config's ``INPUT.AUGMENTATIONS`` lists, in its order.

    Raises:
        UserError: if an entry has an unknown name, or numbers that cannot work.
    """
    return [_build(entry, cfg.INPUT.FORMAT) for entry in cfg.INPUT.get("AUGMENTATIONS", ())]


def _build(entry: Any, image_format: str) -> T.Augmentation:
    key = f"INPUT.AUGMENTATIONS has the entry {entry!r}"
    if not isinstance(entry, list | tuple) or not entry or not isinstance(entry[0], str):
        raise UserError(f"{key}; give a list of a name and its numbers, such as {_EXAMPLE}")
    name, *values = entry
    if name == "RandomApply":
        if len(values) < 2 or not (_are_numbers(values[:1]) and 0 <= values[0] <= 1):
            text = f"give a probability, 0 to 1, and an augmentation, such as [{name!r}, 0.5, "
            raise UserError(f"{key}; {text}{_EXAMPLE[1:]}")
        return T.RandomApply(_build(values[1:], image_format), values[0])
    if name not in _KINDS:
        known = ", ".join([*_KINDS, "RandomApply"])
        raise UserError(
            f"{key}; choose among {known} (crops and flips have keys of their own, INPUT.CROP and "
            "INPUT.RANDOM_FLIP)"
        )
    numbers, meaning, holds, make = _KINDS[name]
    if len(values) != len(numbers.split(", ")) or not _are_numbers(values) or not holds(*values):
        raise UserError(f"{key}; give [{name!r}, {numbers}], {meaning}")
    if name in _OF_BGR:
        if image_format not in ("RGB", "BGR"):
            raise UserError(
                f"{key}, which is for colours, and INPUT.FORMAT is {image_format}; take it out"
            )
        make = _OF_BGR[name] if image_format == "BGR" else make
    return make(*values)


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(type(value) in (int, float) and math.isfinite(value) for value in values)


_EXAMPLE = "['RandomBrightness', 0.8, 1.2]"
_INTENSITY = (
    "low, high",
    "0 or more and the lower one first; 1 leaves the image as it is",
    lambda low, high: 0 <= low <= high,
)
# For each name: its numbers, their meaning, when they can work, and what builds from them.
_KINDS: dict[str, tuple[str, str, Callable[..., bool], Callable[..., T.Augmentation]]] = {
    "RandomBrightness": (*_INTENSITY, T.RandomBrightness),
    "RandomContrast": (*_INTENSITY, T.RandomContrast),
    "RandomSaturation": (*_INTENSITY, T.RandomSaturation),
    "RandomLighting": (
        "scale",
        "the deviation of AlexNet's colour jitter, 0 or more",
        lambda scale: scale >= 0,
        T.RandomLighting,
    ),
    "RandomRotation": (
        "low, high",
        "in degrees, the lower one first",
        lambda low, high: -360 <= low <= high <= 360,
        lambda low, high: T.RandomRotation([low, high]),
    ),
    "RandomExtent": (
        "low, high, shift_x, shift_y",
        "the part's sides, 0.1 to 10 and the lower one first, and shifts, 0 to 2, all in sides of "
        "the image",
        lambda low, high, x, y: 0.1 <= low <= high <= 10 and 0 <= min(x, y) <= max(x, y) <= 2,
        lambda low, high, x, y: T.RandomExtent((low, high), (x, y)),
    ),
}
# Replacements for BGR images.
_OF_BGR = {"RandomSaturation": BGRSaturation, "RandomLighting": BGRLighting}
