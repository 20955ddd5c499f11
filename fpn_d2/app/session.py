"""What a page does when something on it is moved: an image and settings into pictures.

Nothing here knows Gradio. Shape shorthand: pictures are (H, W, 3) uint8, RGB.
"""

import dataclasses
import functools
import os
import threading

import numpy as np
from torch import nn

from ..data.datasets.shapes import ShapesSpec
from ..data.datasets.shapes_scene import compose_scene, draw_scene
from ..data.images import image_fault
from ..demo.sources import read_rgb
from ..inference import Explainer, Explanation, class_names
from ..inference.explanation import box_pooler
from ..utils.errors import UserError
from ..visualization import (
    draw_anchor_panel,
    draw_heat_maps,
    draw_levels,
    draw_proposals,
    level_legend,
)
from ..visualization.layout import stack
from .models import Models

__all__ = ["Limits", "Session", "Settings", "View", "example_images", "read_upload"]

_EXAMPLES = 4


@dataclasses.dataclass(frozen=True)
class Limits:
    """What an upload may be.

    Args:
        bytes: of the file.
        pixels: of the image, by its header.
    """

    bytes: int = 20_000_000
    pixels: int = 25_000_000

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value < 1:
                raise UserError(f"the limit of {name} is {value}: give more than 0")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the page's sliders say.

    Args:
        threshold: the least score of a detection, 0 to 1.
        nms: the IoU above which the worse of two boxes is dropped, 0 to 1.
        canonical_level: k0 of Eq. 1.
        canonical_size: the side, in pixels of the network input, that belongs on level k0.
    """

    threshold: float
    nms: float
    canonical_level: int
    canonical_size: float

    def __post_init__(self) -> None:
        if not (0 <= self.threshold <= 1 and 0 < self.nms <= 1):
            raise UserError("the score threshold and the NMS threshold are from 0 to 1")
        if self.canonical_size <= 0:
            raise UserError("the canonical size of Eq. 1 is above 0 pixels")


@dataclasses.dataclass(frozen=True)
class View:
    """What the page shows.

    Args:
        text: what was found, and what this model does not have.
        levels, heat_maps, anchors, proposals: pictures; None where the model has none.
    """

    text: str
    levels: np.ndarray
    heat_maps: np.ndarray | None
    anchors: np.ndarray | None
    proposals: np.ndarray | None


class Session:
    """Models, limits and the examples of one page; calls run one after the other."""

    def __init__(self, models: Models, limits: Limits):
        """
        Args:
            models: what there is to choose from.
            limits: of uploads.
        """
        self.models = models
        self.limits = limits
        self._lock = threading.Lock()
        self._last: tuple[tuple, np.ndarray] | None = None

    def defaults(self, title: str) -> Settings:
        """The settings of a model's own config.

        Raises:
            UserError: see :meth:`Models.explainer`.
        """
        cfg = self.models.configs.get(title)
        if cfg is None:
            raise UserError(f"there is no model {title!r} on this page: reload it and choose again")
        box = cfg.MODEL.ROI_BOX_HEAD
        kind = cfg.MODEL.META_ARCHITECTURE
        nms = {
            "GeneralizedRCNN": cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST,
            "RetinaNet": cfg.MODEL.RETINANET.NMS_THRESH_TEST,
        }.get(kind, cfg.MODEL.RPN.NMS_THRESH)
        return Settings(0.5, nms, box.POOLER_CANONICAL_LEVEL, box.POOLER_CANONICAL_SIZE)

    def image(self, source: str | int) -> np.ndarray:
        """An uploaded image by its path, or an example by its number; the last one is kept.

        Raises:
            UserError: see :func:`read_upload`.
        """
        if isinstance(source, int):
            return example_images()[source]
        with self._lock:
            key = (source, os.stat(source).st_mtime_ns) if os.path.isfile(source) else None
            if self._last is None or self._last[0] != key:
                self._last = key, read_upload(source, self.limits)
            return self._last[1]

    def look(self, title: str, image: np.ndarray, settings: Settings) -> View:
        """Run a model with these settings, its pooler's Eq. 1 among them, and draw.

        Args:
            title: of the model.
            image: (H, W, 3) uint8, RGB.
            settings: of the sliders.

        Raises:
            UserError: where the model cannot be loaded or cannot take the image.
        """
        with self._lock:
            explainer = self.models.explainer(title)
            _set_nms(explainer.model, settings.nms)
            explanation = explainer.explain(
                image,
                threshold=settings.threshold,
                canonical_size=settings.canonical_size,
                canonical_level=settings.canonical_level,
            )
        return _draw(explainer, explanation)


def read_upload(path: str, limits: Limits) -> np.ndarray:
    """Read an image of unknown origin, its bytes and its header first.

    Args:
        path: the file.
        limits: what it may be.

    Returns:
        (H, W, 3) uint8, RGB, turned as its EXIF says.

    Raises:
        UserError: where it is too large, or no image that can be read.
    """
    name = os.path.basename(path)
    size = os.path.getsize(path) if os.path.isfile(path) else 0
    if size > limits.bytes:
        raise UserError(
            f"{name} has {size / 1e6:.1f} MB, more than this page's {limits.bytes / 1e6:g} MB: "
            "make it smaller, or start the page with a larger --max-bytes"
        )
    fault = image_fault(path, max_pixels=limits.pixels)
    if fault:
        raise UserError(f"{name} {fault}: choose another image, such as a JPEG or a PNG")
    return read_rgb(path)


@functools.lru_cache(maxsize=1)
def example_images() -> list[np.ndarray]:
    """Images of the built-in data's kind, which no training has seen: (H, W, 3) uint8, RGB."""
    spec = ShapesSpec(size=640, empty=0.0, min_side=24.0)
    images = []
    for seed in range(1, _EXAMPLES + 1):
        rng = np.random.default_rng([seed, 2017])
        images.append(draw_scene(rng, compose_scene(rng, spec), spec.max_strokes))
    return images


def _set_nms(model: nn.Module, threshold: float) -> None:
    """In the page's own copy of the model."""
    predictor = getattr(getattr(model, "roi_heads", None), "box_predictor", None)
    if hasattr(predictor, "test_nms_thresh"):
        predictor.test_nms_thresh = threshold
    elif hasattr(model, "test_nms_thresh"):  # RetinaNet
        model.test_nms_thresh = threshold
    elif hasattr(getattr(model, "proposal_generator", None), "nms_thresh"):
        model.proposal_generator.nms_thresh = threshold


def _draw(explainer: Explainer, explanation: Explanation) -> View:
    low, high = explanation.level_range
    counts = [int((explanation.levels == level).sum()) for level in range(low, high + 1)]
    legend = level_legend(range(low, high + 1), [f"({count})" for count in counts])
    drawn = draw_levels(explanation, class_names(explainer.cfg))
    return View(
        text=_text(explainer, explanation),
        levels=stack([legend, drawn]),
        heat_maps=draw_heat_maps(explanation) if explanation.features else None,
        anchors=None if explanation.anchors is None else draw_anchor_panel(explanation),
        proposals=draw_proposals(explanation) if explanation.proposals else None,
    )


def _text(explainer: Explainer, explanation: Explanation) -> str:
    low, high = explanation.level_range
    counts = ", ".join(
        f"{int((explanation.levels == level).sum())} from P{level}"
        for level in range(low, high + 1)
    )
    eq1 = f"k0 = {explanation.canonical_level} for {explanation.canonical_size:g} px"
    pooled = "Eq. 1 pools by" if box_pooler(explainer.model) is not None else "Eq. 1 would use"
    return " ".join(
        [
            f"{len(explanation.detections)} detections: {counts}. {pooled} {eq1}.",
            *explanation.notes,
        ]
    )
