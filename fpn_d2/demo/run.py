"""A demo from its inputs to its files.

Shape shorthand: an image is (H, W, 3) uint8, RGB, with R detections.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.structures import Instances
from tqdm import tqdm

from ..inference import Explainer, Predictor, class_names, dataset_category_ids
from ..structures import RegionMasks
from ..utils.errors import UserError
from ..utils.files import write_json
from ..visualization import class_color, draw_boxes, draw_explanation, draw_masks
from ..visualization.layout import picture_scale
from ..visualization.pyramid import detection_texts
from .comparison import Found, draw_comparison
from .outputs import coco_results, prepare_folder, unique_stems, write_picture
from .sources import MAX_PIXELS, find_sources, read_rgb, skipped_line
from .video import convert_video, import_av

__all__ = ["draw_detections", "run_demo"]

_RESULTS = ("predictions.json", "images.json")


@dataclasses.dataclass
class _Row:
    """A model, loaded, with the names of its classes."""

    title: str
    cfg: CfgNode
    explainer: Explainer = dataclasses.field(init=False)
    names: list[str] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.explainer = Explainer(self.cfg)
        self.names = class_names(self.cfg)

    @property
    def predictor(self) -> Predictor:
        return self.explainer.predictor


def run_demo(
    rows: Mapping[str, CfgNode],
    inputs: Sequence[str],
    output: str,
    *,
    threshold: float = 0.5,
    explain: bool = False,
    max_pixels: int = MAX_PIXELS,
    replace: bool = False,
) -> list[str]:
    """Detect on images and videos, and write pictures and predictions.

    Of each image ``NAME.png`` is what the first row detects, ``NAME_explain.png`` what is
    particular to its pyramid, and ``NAME_compare.png`` all rows; a video becomes ``NAME.mp4``.
    ``predictions.json`` holds the first row's detections in COCO's result form, and
    ``images.json`` says which file and frame an ``image_id`` is.

    Args:
        rows: title to config; see :func:`parse_rows`. Several are compared.
        inputs: see :func:`find_sources`.
        output: the folder to write; made where it is missing.
        threshold: the least score of a detection, 0 to 1.
        explain: write ``NAME_explain.png``.
        max_pixels: the most pixels of an image or a frame.
        replace: take the place of files that are there.

    Returns:
        the files written.

    Raises:
        UserError: for inputs, an output folder or weights that cannot be used.
    """
    if not 0 <= threshold <= 1:
        raise UserError(f"--threshold {threshold} is not between 0 and 1")
    sources = find_sources(inputs, max_pixels=max_pixels)
    if sources.videos:
        import_av()
        if explain or len(rows) > 1:
            raise UserError(
                f"--explain and --compare are for images, and {sources.videos[0]} is a video; run "
                "it without them, or on frames of it"
            )
    if sources.skipped:
        print(skipped_line(sources.skipped))
    suffixes = [".png", *["_explain.png"] * explain, *["_compare.png"] * (len(rows) > 1), ".mp4"]
    read = [*sources.images, *sources.videos]
    stems = unique_stems(read, suffixes)
    files = [f"{s}{suffix}" for s in stems[: len(sources.images)] for suffix in suffixes[:-1]]
    files += [f"{stem}.mp4" for stem in stems[len(sources.images) :]]
    prepare_folder(output, [*files, *_RESULTS], read, replace=replace)
    demo = _Demo([_Row(title, cfg) for title, cfg in rows.items()], output, threshold)
    named = dict(zip(read, stems, strict=True))
    progress = tqdm(sources.images, "images", unit="image", disable=None)
    for path in progress:
        demo.image(path, named[path], explain)
    for path in sources.videos:
        demo.video(path, named[path], max_pixels)
    write_json(os.path.join(output, "predictions.json"), demo.predictions)
    write_json(os.path.join(output, "images.json"), demo.images)
    return [os.path.join(output, name) for name in [*files, *_RESULTS]]


class _Demo:
    """The rows, and what has been found so far."""

    def __init__(self, rows: Sequence[_Row], output: str, threshold: float):
        self.rows, self.output, self.threshold = rows, output, threshold
        self.category_ids = dataset_category_ids(rows[0].cfg)
        self.predictions: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []

    def image(self, path: str, stem: str, explain: bool) -> None:
        """Write an image's pictures and keep its predictions."""
        image, first = read_rgb(path), self.rows[0]
        target = os.path.join(self.output, stem)
        if explain:
            with _naming(path):
                explanation = first.explainer.explain(image, threshold=self.threshold)
            found = explanation.detections
            write_picture(f"{target}_explain.png", draw_explanation(explanation, first.names))
        else:
            found = self._detect(first, image, path)
        self._keep(found, {"file_name": path, "picture": f"{stem}.png"})
        write_picture(f"{target}.png", draw_detections(image, found, first.names))
        if len(self.rows) > 1:
            seen = {first.title: Found.of(found, first.names)}
            for row in self.rows[1:]:
                seen[row.title] = Found.of(self._detect(row, image, path), row.names)
            write_picture(f"{target}_compare.png", draw_comparison(image, seen))

    def video(self, path: str, stem: str, max_pixels: int) -> None:
        """Write a video of the detections and keep those of each frame."""

        def draw(frame: np.ndarray, number: int) -> np.ndarray:
            row = self.rows[0]
            found = self._detect(row, frame, f"{path}, frame {number}")
            self._keep(found, {"file_name": path, "frame": number, "picture": f"{stem}.mp4"})
            return draw_detections(frame, found, row.names)

        target = os.path.join(self.output, f"{stem}.mp4")
        convert_video(path, target, draw, max_pixels=max_pixels)

    def _detect(self, row: _Row, image: np.ndarray, name: str) -> Instances:
        with _naming(name):
            return row.predictor.detect(image, threshold=self.threshold)

    def _keep(self, found: Instances, about: dict[str, Any]) -> None:
        height, width = found.image_size
        number = len(self.images) + 1
        self.images.append({"id": number, **about, "height": height, "width": width})
        self.predictions += coco_results(found, number, self.category_ids)


@contextlib.contextmanager
def _naming(image: str) -> Iterator[None]:
    """Say which image a model cannot take, or its outputs are not finite on."""
    try:
        yield
    except (FloatingPointError, UserError) as error:
        raise UserError(f"{image}: {error}") from error


def draw_detections(
    image: np.ndarray, detections: Instances, names: Sequence[str] = ()
) -> np.ndarray:
    """Boxes or masks with their classes and scores, a small image enlarged.

    Args:
        image: (H, W, 3) uint8, RGB.
        detections: see :meth:`Predictor.detect`.
        names: of the classes; see :func:`class_names`.

    Returns:
        (H', W', 3) uint8, RGB.
    """
    texts = detection_texts(detections, names)
    if detections.has("pred_classes"):
        kinds = detections.pred_classes.tolist()
    else:  # so that neighbours can be told apart
        kinds = range(len(detections))
    colors = [class_color(kind) for kind in kinds]
    scale = picture_scale(image)
    if detections.has("pred_masks"):
        masks = detections.pred_masks
        if not isinstance(masks, RegionMasks):
            masks = masks.numpy()
        return draw_masks(image, masks, texts, colors, scale)
    return draw_boxes(image, detections.pred_boxes.tensor.numpy(), texts, colors, scale)
