"""A run of the demo, from its command line's words to its files."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.structures import Instances

from ..config import load_config
from ..data.images import read_image
from ..evaluation.score_thresholds import class_thresholds
from ..inference import (
    Explainer,
    Explanation,
    check_weights,
    classes_of,
    config_for,
    free_title,
    split_pair,
)
from ..utils.errors import UserError
from ..utils.files import explain_disk_errors, unique_stems, write_json
from ..utils.progress import told
from ..visualization import draw_explanation
from ..visualization.drawing import draw_detections
from .comparison import Found, draw_comparison
from .outputs import (
    WRITE_REMEDY,
    coco_results,
    convert_video,
    named_file,
    prepare_folder,
    write_picture,
)
from .sources import MAX_PIXELS, Sources, find_sources, image_ids, listed

_RESULTS = ("predictions.json", "images.json")
_ESCAPE = 27  # the key's code


def parse_rows(
    config_file: str, weights: str, compare: Sequence[str] = (), opts: Sequence[str] = ()
) -> dict[str, CfgNode]:
    """Load the config of each row, under a title that no other row has.

    Args:
        config_file: the config of the first row; it may be empty if ``weights`` is a name in the
            model zoo.
        weights: its weights; if empty, those of the config and ``opts``.
        compare: the other rows, as ``CONFIG:WEIGHTS``.
        opts: overrides for all rows, as ``KEY, value, ...``.

    Returns:
        the configs by title, in the order given.

    Raises:
        UserError: see :func:`fpn_d2.load_config`; also if an entry of ``compare`` has another form,
            or weights are given twice.
    """
    check_weights(weights, opts)
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
    ``images.json`` gives the file and the frame of each ``image_id``. Images of a test set keep its
    ids, see :func:`image_ids`. If the run ends early, both files hold what is done by then.

    Args:
        rows: the configs by title; see :func:`parse_rows`. Several are compared.
        inputs: files and folders; see :func:`find_sources`.
        output: the folder for the files; created if missing. For a single input it may also name
            the picture or the video to write, which is then the only file.
        threshold: the least score of a detection, 0 to 1; or ``"best-f1"`` for each class's own,
            see :func:`fpn_d2.evaluation.score_thresholds.class_thresholds`.
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
    more = ["_explain.png"] * explain + ["_compare.png"] * (len(rows) > 1)  # pictures of an image
    read = [*sources.images, *sources.videos]
    if kind := named_file(output):
        _check_single(output, kind, sources, more_pictures=bool(more))
        output, name = os.path.dirname(output) or ".", os.path.basename(output)
        targets, files, results = {read[0]: name}, [name], ()
    else:
        stems = dict(zip(read, unique_stems(read, [".png", *more, ".mp4"]), strict=True))
        targets = {path: f"{stems[path]}.png" for path in sources.images}
        targets |= {path: f"{stems[path]}.mp4" for path in sources.videos}
        files = [f"{stems[path]}{ending}" for path in sources.images for ending in more]
        files, results = [*targets.values(), *files], _RESULTS
    prepare_folder(output, [*files, *results], read, replace=replace)
    models = {title: _Model(cfg, thresholds[title]) for title, cfg in rows.items()}
    demo = _Demo(models, output, sources.urls, keeps=bool(results))
    ids = [] if sources.videos else image_ids(next(iter(rows.values())), sources.images)
    try:
        for i, path in enumerate(told("images", sources.images)):
            demo.image(path, targets[path], explain, ids[i] if ids else i + 1)
        for path in sources.videos:
            demo.video(path, targets[path], max_pixels)
    except BaseException:  # Ctrl-C after hours, too
        if demo.images:
            demo.write(results)
        raise
    demo.write(results)
    return [os.path.join(output, name) for name in [*files, *results]]


def show_webcam(rows: Mapping[str, CfgNode], *, threshold: float | str = 0.5) -> None:
    """Show what the first row detects in a camera's pictures, in a window, until Esc is pressed.

    Args:
        rows, threshold: see :func:`run_demo`.

    Raises:
        UserError: if there is no camera, it gives no pictures, or OpenCV opens no windows.
    """
    cfg = next(iter(rows.values()))
    threshold = class_thresholds(threshold, cfg)
    capture = cv2.VideoCapture(0)
    try:
        if not capture.isOpened():
            raise UserError("no camera can be opened; plug one in, or give --images")
        model, pressed = _Model(cfg, threshold), -1
        there, frame = capture.read()
        if not there:
            raise UserError(
                "the camera gives no pictures; let this program use it, or give --images"
            )
        while there and pressed != _ESCAPE:
            image = np.ascontiguousarray(frame[:, :, ::-1])
            picture = draw_detections(image, model.detect(image, "webcam"), model.names)
            cv2.imshow("fpn_d2", picture[:, :, ::-1])
            pressed = cv2.waitKey(1)
            there, frame = capture.read()
        cv2.destroyAllWindows()
    except cv2.error as error:
        raise UserError(
            "this OpenCV opens no windows; install opencv-python instead of opencv-python-headless "
            "and use a screen, or give --images and --output"
        ) from error
    finally:
        capture.release()


def _check_single(output: str, kind: str, sources: Sources, *, more_pictures: bool) -> None:
    """Refuse an output file if several would be written, or its kind is not that of the input."""
    count = len(sources.images) + len(sources.videos)
    if count > 1 or more_pictures:
        what = f"there are {count} inputs" if count > 1 else "--explain and --compare write several"
        raise UserError(f"--output {output} names a file, and {what}; name a folder")
    if not (output.lower().endswith(".mp4") if sources.videos else kind == "image"):
        ending = ".mp4 for a video" if sources.videos else ".png or .jpg for an image"
        raise UserError(f"--output {output} has no ending for what is written; give {ending}")


class _Model:
    """A row's model, the names of its classes, and the least score that it shows."""

    def __init__(self, cfg: CfgNode, threshold: float | list[float]):
        self.explainer, self.threshold = Explainer(cfg), threshold
        classes = classes_of(cfg, self.explainer.model)
        self.names, self.category_ids = classes.labels, classes.category_ids

    def detect(self, image: np.ndarray, name: str) -> Instances:
        with _naming(name):
            return self.explainer.predictor.detect(image, threshold=self.threshold)

    def explain(self, image: np.ndarray, name: str) -> Explanation:
        with _naming(name):
            return self.explainer.explain(image, threshold=self.threshold)


class _Demo:
    """The models by their rows' titles, and what the first one has found so far."""

    def __init__(
        self, models: Mapping[str, _Model], output: str, urls: Mapping[str, str], keeps: bool
    ):
        self.models, self.output, self.urls, self.keeps = models, output, urls, keeps
        self.first = next(iter(models.values()))
        self.predictions: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []

    def image(self, path: str, picture: str, explain: bool, number: int) -> None:
        """Write an image's pictures and keep its predictions."""
        image, names = read_image(path), self.first.names
        target = os.path.join(self.output, os.path.splitext(picture)[0])
        if explain:
            explanation = self.first.explain(image, path)
            found = explanation.detections
            write_picture(f"{target}_explain.png", draw_explanation(explanation, names))
        else:
            found = self.first.detect(image, path)
        self._keep(found, path, {"picture": picture}, number)
        write_picture(os.path.join(self.output, picture), draw_detections(image, found, names))
        if len(self.models) > 1:
            seen = {}
            for title, model in self.models.items():
                own = found if model is self.first else model.detect(image, path)
                seen[title] = Found.of(own, model.names)
            write_picture(f"{target}_compare.png", draw_comparison(image, seen))

    def video(self, path: str, picture: str, max_pixels: int) -> None:
        """Write a video of the detections and keep those of each frame."""

        def draw(frame: np.ndarray, number: int) -> np.ndarray:
            found = self.first.detect(frame, f"{path}, frame {number}")
            about = {"frame": number, "picture": picture}
            self._keep(found, path, about, len(self.images) + 1)
            return draw_detections(frame, found, self.first.names)

        target = os.path.join(self.output, picture)
        convert_video(path, target, draw, max_pixels=max_pixels)

    def write(self, names: Sequence[str]) -> None:
        """Write the predictions and their images to files of these names, if there are any."""
        for name, content in zip(names, (self.predictions, self.images), strict=False):
            path = os.path.join(self.output, name)
            with explain_disk_errors(path, WRITE_REMEDY):
                write_json(path, content)

    def _keep(self, found: Instances, path: str, about: dict[str, Any], number: int) -> None:
        height, width = found.image_size
        about = {"file_name": self.urls.get(path, path), **about}
        self.images.append({"id": number, **about, "height": height, "width": width})
        if self.keeps:
            self.predictions += coco_results(found, number, self.first.category_ids)


@contextlib.contextmanager
def _naming(image: str) -> Iterator[None]:
    """Name the image in the error if a model cannot take it, or its outputs are not finite."""
    try:
        yield
    except (FloatingPointError, UserError) as error:
        raise UserError(f"{image}: {error}") from error
