"""A run of the demo, from its command line's words to its files."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.structures import Instances
from tqdm import tqdm

from ..config import load_config
from ..data.images import read_image
from ..evaluation import class_thresholds
from ..inference import Explainer, classes_of, config_for, free_title, split_pair
from ..utils.errors import UserError
from ..utils.files import write_json
from ..visualization import draw_explanation
from ..visualization.drawing import draw_detections
from .comparison import Found, draw_comparison
from .outputs import coco_results, convert_video, prepare_folder, unique_stems, write_picture
from .sources import MAX_PIXELS, find_sources, listed

_RESULTS = ("predictions.json", "images.json")


def parse_rows(
    config_file: str, weights: str, compare: Sequence[str] = (), opts: Sequence[str] = ()
) -> dict[str, CfgNode]:
    """Load the config of each row, under a title that no other row has.

    Args:
        config_file: the config of the first row; it may be empty if the weights are called by
            their name in the model zoo.
        weights: its weights; if empty, those of the config and ``opts``.
        compare: the other rows, as ``CONFIG:WEIGHTS``.
        opts: overrides for all rows, as ``KEY, value, ...``.

    Returns:
        title to config, in the order given.

    Raises:
        UserError: see :func:`fpn_d2.load_config`; also for words of another form, and for weights
            that are given twice.
    """
    if weights and "MODEL.WEIGHTS" in opts[::2]:
        raise UserError("weights are given twice, by --weights and by MODEL.WEIGHTS; leave one out")
    first = (config_for(config_file, weights), weights)
    pairs = [first, *(split_pair(words, "--compare") for words in compare)]
    rows: dict[str, CfgNode] = {}
    for path, own in pairs:
        words = [*opts, *(("MODEL.WEIGHTS", own) if own else ())]
        rows[free_title(path, rows)] = load_config(path, words)
    return rows


def run_demo(
    rows: Mapping[str, CfgNode],
    inputs: Sequence[str],
    output: str,
    *,
    threshold: float | str = 0.5,
    explain: bool = False,
    max_pixels: int = MAX_PIXELS,
    replace: bool = False,
) -> list[str]:
    """Detect on images and videos, and write pictures and predictions.

    For each image, ``NAME.png`` shows what the first row detects, ``NAME_explain.png`` what is
    particular to its pyramid, and ``NAME_compare.png`` all rows. A video becomes ``NAME.mp4``.
    ``predictions.json`` holds the first row's detections in COCO's result form, and
    ``images.json`` gives the file and the frame of each ``image_id``.

    Args:
        rows: title to config; see :func:`parse_rows`. Several are compared.
        inputs: files and folders; see :func:`find_sources`.
        output: the folder for the files; made where it is missing.
        threshold: the least score of a detection, 0 to 1; or ``"best-f1"``, each class's own, see
            :func:`fpn_d2.evaluation.class_thresholds`.
        explain: whether to write ``NAME_explain.png``.
        max_pixels: the most pixels that an image or a frame may have.
        replace: whether to replace files that exist.

    Returns:
        the files written.

    Raises:
        UserError: for inputs, an output folder or weights that cannot be used.
    """
    thresholds = {title: class_thresholds(threshold, cfg) for title, cfg in rows.items()}
    sources = find_sources(inputs, max_pixels=max_pixels)
    if sources.videos and (explain or len(rows) > 1):
        raise UserError(
            f"--explain and --compare are for images, and {sources.videos[0]} is a video; run it "
            "without them, or on frames of it"
        )
    if sources.skipped:
        print(f"skipped: {listed(sources.skipped)}")
    suffixes = [".png", *["_explain.png"] * explain, *["_compare.png"] * (len(rows) > 1), ".mp4"]
    read = [*sources.images, *sources.videos]
    stems = unique_stems(read, suffixes)
    files = [f"{s}{suffix}" for s in stems[: len(sources.images)] for suffix in suffixes[:-1]]
    files += [f"{stem}.mp4" for stem in stems[len(sources.images) :]]
    prepare_folder(output, [*files, *_RESULTS], read, replace=replace)
    demo = _Demo(rows, output, thresholds)
    named = dict(zip(read, stems, strict=True))
    for path in tqdm(sources.images, "images", unit="image", disable=None):
        demo.image(path, named[path], explain)
    for path in sources.videos:
        demo.video(path, named[path], max_pixels)
    write_json(os.path.join(output, "predictions.json"), demo.predictions)
    write_json(os.path.join(output, "images.json"), demo.images)
    return [os.path.join(output, name) for name in [*files, *_RESULTS]]


class _Demo:
    """The models by their rows' titles, and what the first one has found so far."""

    def __init__(self, rows: Mapping[str, CfgNode], output: str, thresholds: Mapping[str, Any]):
        self.output, self.thresholds = output, thresholds
        self.models = {title: Explainer(cfg) for title, cfg in rows.items()}
        classes = {title: classes_of(cfg, self.models[title].model) for title, cfg in rows.items()}
        self.names = {title: one.labels for title, one in classes.items()}
        self.first, *self.others = rows
        self.category_ids = classes[self.first].category_ids
        self.predictions: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []

    def image(self, path: str, stem: str, explain: bool) -> None:
        """Write an image's pictures and keep its predictions."""
        image, names = read_image(path), self.names[self.first]
        target = os.path.join(self.output, stem)
        if explain:
            with _naming(path):
                explanation = self.models[self.first].explain(
                    image, threshold=self.thresholds[self.first]
                )
            found = explanation.detections
            write_picture(f"{target}_explain.png", draw_explanation(explanation, names))
        else:
            found = self._detect(self.first, image, path)
        self._keep(found, {"file_name": path, "picture": f"{stem}.png"})
        write_picture(f"{target}.png", draw_detections(image, found, names))
        if self.others:
            seen = {self.first: Found.of(found, names)}
            for title in self.others:
                detections = self._detect(title, image, path)
                seen[title] = Found.of(detections, self.names[title])
            write_picture(f"{target}_compare.png", draw_comparison(image, seen))

    def video(self, path: str, stem: str, max_pixels: int) -> None:
        """Write a video of the detections and keep those of each frame."""

        def draw(frame: np.ndarray, number: int) -> np.ndarray:
            found = self._detect(self.first, frame, f"{path}, frame {number}")
            self._keep(found, {"file_name": path, "frame": number, "picture": f"{stem}.mp4"})
            return draw_detections(frame, found, self.names[self.first])

        target = os.path.join(self.output, f"{stem}.mp4")
        convert_video(path, target, draw, max_pixels=max_pixels)

    def _detect(self, title: str, image: np.ndarray, name: str) -> Instances:
        with _naming(name):
            return self.models[title].predictor.detect(image, threshold=self.thresholds[title])

    def _keep(self, found: Instances, about: dict[str, Any]) -> None:
        height, width = found.image_size
        number = len(self.images) + 1
        self.images.append({"id": number, **about, "height": height, "width": width})
        self.predictions += coco_results(found, number, self.category_ids)


@contextlib.contextmanager
def _naming(image: str) -> Iterator[None]:
    """Name the image that a model cannot take, or whose outputs are not finite."""
    try:
        yield
    except (FloatingPointError, UserError) as error:
        raise UserError(f"{image}: {error}") from error
