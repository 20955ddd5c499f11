"""The page's models, and what a model finds on an image with given settings, in pictures and words.

Nothing here knows Gradio. Shape shorthand: images and pictures are (H, W, 3) uint8, RGB.
"""

import dataclasses
import functools
import logging
import os
import threading
from collections.abc import Container, Mapping
from typing import NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode

from ..config import load_config
from ..config_checks import class_head_key
from ..data.datasets.shapes import ShapesSpec
from ..data.datasets.shapes_scene import compose_scene, draw_scene
from ..data.images import look_at, read_image
from ..inference import Explainer, Explanation, classes_of, free_title, set_final_nms, split_pair
from ..inference.explanation import box_pooler
from ..utils.errors import UserError
from ..utils.model_zoo import zoo_weights
from ..visualization import (
    draw_anchor_panel,
    draw_heat_maps,
    draw_levels,
    draw_proposals,
    level_legend,
)
from ..visualization.layout import stack

_EXAMPLES = 4
_MODELS_KEPT = 2  # in memory

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Limits:
    """The largest upload that the page takes."""

    bytes: int = 20_000_000
    pixels: int = 25_000_000  # by the header of the image

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value < 1:
                raise UserError(f"the limit of {name} is {value}: give more than 0")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The values of the page's sliders.

    Args:
        threshold: the least score of a detection, 0 to 1.
        nms: the IoU above which the worse of two boxes is dropped, above 0 and up to 1.
        canonical_level: k0 of Eq. 1.
        canonical_size: the RoI side that Eq. 1 puts on level k0, in pixels of the network input.
    """

    threshold: float
    nms: float
    canonical_level: int
    canonical_size: float

    def __post_init__(self) -> None:
        if not (0 <= self.threshold <= 1 and 0 < self.nms <= 1):
            text = "the score threshold must be from 0 to 1, the NMS threshold above 0 and up to 1"
            raise UserError(text)
        if self.canonical_size <= 0:
            raise UserError("the canonical size of Eq. 1 must be above 0 pixels")


class View(NamedTuple):
    """A text that says what was found and what the model lacks, and a picture for each tab.

    A picture is None if the model has nothing to show in that tab.
    """

    text: str
    levels: np.ndarray
    heat_maps: np.ndarray | None
    anchors: np.ndarray | None
    proposals: np.ndarray | None


class Session:
    """The models and the limits of one page; models run one after the other."""

    def __init__(self, configs: Mapping[str, CfgNode], limits: Limits):
        """
        Args:
            configs: the models' configs with their weights, by title; at least one.
            limits: the largest upload.
        """
        assert configs
        self.configs = dict(configs)
        self.limits = limits
        self._lock = threading.Lock()
        # A model is loaded on first use, and the models used last stay in memory.
        self.explainer = functools.lru_cache(_MODELS_KEPT)(
            lambda name: Explainer(self.config(name))
        )
        # The time of the last change tells two uploads of one path apart.
        self._read = functools.lru_cache(1)(lambda path, changed: read_upload(path, limits))

    def config(self, title: str) -> CfgNode:
        """Return the config of a model.

        Raises:
            UserError: if the page offers no such model.
        """
        if title not in self.configs:
            raise UserError(f"there is no model {title!r} on this page: reload it and choose again")
        return self.configs[title]

    def defaults(self, title: str) -> Settings:
        """Return the settings of a model's own config; ``nms`` is that of the final NMS."""
        model, classes = self.config(title).MODEL, class_head_key(self.config(title))
        if classes is None:
            nms = model.RPN.NMS_THRESH
        else:
            nms = (model.ROI_HEADS if "ROI_HEADS" in classes else model.RETINANET).NMS_THRESH_TEST
        eq1 = model.ROI_BOX_HEAD
        return Settings(0.5, nms, eq1.POOLER_CANONICAL_LEVEL, eq1.POOLER_CANONICAL_SIZE)

    def image(self, source: str | int) -> np.ndarray:
        """Return an uploaded image by its path, or an example by its number."""
        if isinstance(source, int):
            return example_images()[source]
        return self._read(source, os.stat(source).st_mtime_ns if os.path.isfile(source) else None)

    def look(self, title: str, image: np.ndarray, settings: Settings) -> View:
        """Run a model with these settings, which its pooler's Eq. 1 uses too, and draw the results.

        Raises:
            UserError: if the model cannot be loaded or cannot take the image.
        """
        with self._lock:
            explainer = self.explainer(title)
            set_final_nms(explainer.model, settings.nms)
            explanation = explainer.explain(
                image,
                threshold=settings.threshold,
                canonical_size=settings.canonical_size,
                canonical_level=settings.canonical_level,
            )
        return _view(explainer, explanation)


def _view(explainer: Explainer, explanation: Explanation) -> View:
    """Put an explanation into words and pictures."""
    legend = level_legend(explanation.counts)
    classes = classes_of(explainer.cfg, explainer.model)
    is_unsure = bool(classes.guess)
    pooled = "Eq. 1 pools by" if box_pooler(explainer.model) is not None else "Eq. 1 would use"
    sentences = [
        f"{len(explanation.detections)} detections: "
        f"{', '.join(f'{count} from P{level}' for level, count in explanation.counts.items())}.",
        f"{pooled} k0 = {explanation.canonical_level} for {explanation.canonical_size:g} px.",
        *explanation.notes,
        *([f"The class names are {'a guess' if classes.source else 'not known'}."] * is_unsure),
    ]
    return View(
        text=" ".join(sentences),
        levels=stack([legend, draw_levels(explanation, classes.labels)]),
        heat_maps=draw_heat_maps(explanation) if explanation.features else None,
        anchors=None if explanation.anchors is None else draw_anchor_panel(explanation),
        proposals=draw_proposals(explanation) if explanation.proposals else None,
    )


# --- images


def read_upload(path: str, limits: Limits) -> np.ndarray:
    """Read an image of unknown origin, rotated as its EXIF data says.

    Its size and its header are checked first.

    Raises:
        UserError: if the image is too large or cannot be read.
    """
    name = os.path.basename(path)
    size = os.path.getsize(path) if os.path.isfile(path) else 0
    if size > limits.bytes:
        raise UserError(
            f"{name} has {size / 1e6:.1f} MB, more than this page's {limits.bytes / 1e6:g} MB: "
            "make it smaller, or start the page with a larger --max-bytes"
        )
    fault, _ = look_at(path, max_pixels=limits.pixels)
    if fault:
        raise UserError(f"{name} {fault}: choose another image, such as a JPEG or a PNG")
    return read_image(path)


@functools.lru_cache(maxsize=1)
def example_images() -> list[np.ndarray]:
    """Draw images that look like the built-in data, but that no training has seen."""
    spec = ShapesSpec(size=640, empty=0.0, min_side=24.0)
    images = []
    for seed in range(1, _EXAMPLES + 1):
        rng = np.random.default_rng([seed, 2017])
        images.append(draw_scene(rng, compose_scene(rng, spec), spec.max_strokes))
    return images


# --- models


def parse_model(words: str, taken: Container[str] = ()) -> tuple[str, CfgNode]:
    """Read a model from ``CONFIG:WEIGHTS``.

    Returns:
        a title that is not ``taken``, and the model's config with its weights.

    Raises:
        UserError: if the words have another form, a file does not exist, the config cannot work or
            needs proposals from a file.
    """
    config, weights = split_pair(words, "--model")
    if ":" not in weights and not os.path.isfile(weights) and not zoo_weights(weights):
        raise UserError(f"--model {words}: {weights} does not exist; name a checkpoint")
    here = [] if torch.cuda.is_available() else ["MODEL.DEVICE", "cpu"]
    return free_title(config, taken), _load(config, config, ["MODEL.WEIGHTS", weights, *here])


def find_models(folder: str) -> dict[str, CfgNode]:
    """Find the trained models below a folder that need only an image; the log names the others.

    Args:
        folder: a folder that ``train_net.py`` filled, with ``config.yaml`` beside
            ``model_final.pth`` in each run.

    Returns:
        the models' configs with their weights, by the run's path in the folder.

    Raises:
        UserError: if there is no such model.
    """
    # A run's config names the device that it was trained on.
    device = load_config().MODEL.DEVICE
    found: dict[str, CfgNode] = {}
    base = folder
    for place, _, files in sorted(os.walk(folder)):
        if not {"config.yaml", "model_final.pth"} <= set(files):
            continue
        opts = ["MODEL.WEIGHTS", os.path.join(place, "model_final.pth"), "MODEL.DEVICE", device]
        if place == folder:  # the folder is itself a run, and comes first
            base = os.path.dirname(os.path.abspath(folder))
        try:
            cfg = _load(place, os.path.join(place, "config.yaml"), opts)
            found[os.path.relpath(place, base)] = cfg
        except UserError as error:  # of another version, or a Fast R-CNN on proposals from a file
            logger.warning("left out: %s", error)
    if not found:
        raise UserError(
            f"there is no trained model below {folder}: train one, such as `python train_net.py "
            "--config-file configs/quick/Faster-RCNN/faster_rcnn_R_18_FPN.yaml`, or name one with "
            "--model CONFIG:WEIGHTS"
        )
    return found


def _load(name: str, config: str, opts: list[str]) -> CfgNode:
    """Load a config; refuse a model that needs more than an image."""
    cfg = load_config(config, opts)
    if cfg.MODEL.LOAD_PROPOSALS:
        raise UserError(
            f"{name} is a Fast R-CNN on proposals from a file, and an uploaded image has no such "
            "file; take a Faster R-CNN, an RPN or a RetinaNet"
        )
    return cfg
