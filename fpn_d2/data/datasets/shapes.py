"""``shapes_train`` and ``shapes_val``, the built-in data set, which is generated on first use.

The folder is COCO's usual one, with the specification beside the data::

    <root>/<name>/images/train_000001.jpg ...
    <root>/<name>/annotations/instances_{train,val}.json
    <root>/<name>/specification.json

Everything is written into ``<root>/.<name>.partial`` under the lock ``<root>/.<name>.lock`` and
renamed once, so ``<root>/<name>`` is complete whenever it is there.
"""

import dataclasses
import json
import logging
import multiprocessing
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import portalocker
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from ...utils.errors import UserError
from ...utils.progress import told

BUILTIN_NAME = "shapes"
CLASSES = ("circle", "cross", "square", "star", "triangle")

_SPLITS = ("train", "val")
_GENERATOR = "fpn_d2 shapes"
# Long enough for another process to generate a large set in the meantime.
_LOCK_SECONDS = 3600
_MANY = 64  # images that are worth processes of their own

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ShapesSpec:
    """Everything that decides what a shapes data set looks like.

    Args:
        train: number of training images.
        val: number of validation images.
        size: longer side of every image, in pixels.
        min_aspect: the shorter image side is uniform between this share of ``size`` and ``size``.
        min_side: shortest possible longer side of an object's box, in pixels.
        max_side: longest possible longer side of an object's box, as a fraction of ``size``.
        max_objects: the number of objects is uniform in 1 to this; one without a place is dropped.
        empty: fraction of images without objects.
        max_decoys: the number of filled distractors is uniform in 0 to this.
        max_strokes: the number of lines, arcs and scribbles is uniform in 0 to this.
        rotation: every shape is turned by up to this angle either way, in degrees.
        stretch: every shape's aspect ratio is log-uniform between 1 / stretch and stretch.
        seed: seed of the whole set; image i does not depend on how many there are.
        version: version of the generator; raise it when the same values give other images.

    Raises:
        UserError: if a value cannot work.
    """

    train: int = 2000
    val: int = 300
    size: int = 320
    min_aspect: float = 0.8
    min_side: float = 12.0
    max_side: float = 0.75
    max_objects: int = 8
    empty: float = 0.03
    max_decoys: int = 3
    max_strokes: int = 4
    rotation: float = 20.0
    stretch: float = 1.2
    seed: int = 0
    version: int = 1

    def __post_init__(self) -> None:
        for key, least in _LEAST.items():
            value = getattr(self, key)
            if value < least:
                raise UserError(f"shapes data set: {key} is {value}; give {least} or more")
        for key in ("min_aspect", "max_side", "empty"):
            value = getattr(self, key)
            if not 0 <= value <= 1:
                raise UserError(f"shapes data set: {key} is {value}; give a fraction, 0 to 1")
        if self.max_side > self.min_aspect:
            raise UserError(
                f"shapes data set: objects of {self.max_side} of the image do not fit into images "
                f"of aspect {self.min_aspect}; give a max_side no larger than min_aspect"
            )
        if self.min_side > self.max_side * self.size:
            raise UserError(
                f"shapes data set: objects of at least {self.min_side:g} px do not fit under "
                f"{self.max_side} of an image of {self.size} px; give a larger size"
            )


_LEAST = {"train": 1, "val": 1, "size": 32, "min_side": 4, "max_objects": 1, "stretch": 1} | (
    dict.fromkeys(("max_decoys", "max_strokes", "rotation", "seed"), 0)
)
DEFAULT_SPEC = ShapesSpec()


def register_shapes(root: str, name: str = BUILTIN_NAME, spec: ShapesSpec = DEFAULT_SPEC) -> None:
    """Register ``<name>_train`` and ``<name>_val``; nothing is generated before their first use.

    A name that is registered already is left alone. See :func:`generate_shapes` for the arguments.
    """

    def load(split: str) -> list[dict[str, Any]]:
        generate_shapes(root, name, spec)
        return load_coco_json(_json_file(folder, split), image_root, f"{name}_{split}")

    folder = os.path.join(root, name)
    image_root = os.path.join(folder, "images")
    for split in _SPLITS:
        if f"{name}_{split}" in DatasetCatalog:
            continue
        DatasetCatalog.register(f"{name}_{split}", lambda split=split: load(split))
        MetadataCatalog.get(f"{name}_{split}").set(
            json_file=_json_file(folder, split),
            image_root=image_root,
            evaluator_type="coco",
            thing_classes=list(CLASSES),
            thing_dataset_id_to_contiguous_id={i + 1: i for i in range(len(CLASSES))},
        )


def generate_shapes(root: str, name: str = BUILTIN_NAME, spec: ShapesSpec = DEFAULT_SPEC) -> str:
    """Make sure that a shapes data set of this specification is there.

    Any number of processes may call this at once: one generates, and the others wait for it. A
    folder of another specification is replaced; one without a specification is never touched.

    Args:
        root: the folder of all data sets; it need not exist.
        name: the data set's folder in it.
        spec: what to generate.

    Returns:
        the data set's folder.

    Raises:
        UserError: where the folder cannot be written or holds something else.
    """
    if name != os.path.basename(name) or name.startswith(".") or not name:
        raise UserError(f"data set name '{name}' is no folder name; give a plain word")
    folder = os.path.join(root, name)
    if _is_ready(folder, spec):  # also where the folder is read-only
        return folder
    try:
        os.makedirs(root, exist_ok=True)
        lock_file = os.path.join(root, f".{name}.lock")
        with portalocker.Lock(lock_file, timeout=_LOCK_SECONDS):
            if not _is_ready(folder, spec):
                _generate_aside(root, name, spec)
    except (OSError, portalocker.LockException) as error:
        raise UserError(
            f"data set {name} cannot be generated in {folder} ({error}): set DETECTRON2_DATASETS "
            "to a folder that can be written, with room for it, and start again"
        ) from error
    return folder


def _is_ready(folder: str, spec: ShapesSpec) -> bool:
    """Whether the folder holds this specification.

    Raises:
        UserError: where it holds something that this module has not written.
    """
    if not os.path.lexists(folder):
        return False
    path = os.path.join(folder, "specification.json")
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        ours = found["generator"] == _GENERATOR
    except (OSError, ValueError, TypeError, KeyError):
        # Another process may have swapped the folder between the two checks.
        if not os.path.lexists(folder):
            return False
        ours = False
    if not ours:
        raise UserError(
            f"{folder} exists and was not made by fpn_d2 (it has no specification.json of its "
            "shapes data set): rename that folder, or choose another name for the new one"
        )
    return found == _specification(spec)


def _specification(spec: ShapesSpec) -> dict[str, Any]:
    return {"generator": _GENERATOR, "classes": list(CLASSES), **dataclasses.asdict(spec)}


def _generate_aside(root: str, name: str, spec: ShapesSpec) -> None:
    """Generate under the lock, then swap; leftovers of dead runs go first."""
    folder = os.path.join(root, name)
    partial = os.path.join(root, f".{name}.partial")
    replaced = os.path.join(root, f".{name}.replaced")
    logger.info("Generating data set %s (%d + %d images)", folder, spec.train, spec.val)
    for leftover in (partial, replaced):
        if os.path.lexists(leftover):
            shutil.rmtree(leftover)
    try:
        _write(partial, spec)
        if os.path.lexists(folder):
            os.rename(folder, replaced)
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
    logger.info("Generated data set %s", folder)


def _write(folder: str, spec: ShapesSpec) -> None:
    os.makedirs(os.path.join(folder, "images"))
    os.makedirs(os.path.join(folder, "annotations"))
    for number, split in enumerate(_SPLITS):
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for found in _draw_all(_Drawn(folder, spec, number), f"shapes {split}"):
            if isinstance(found, OSError):
                raise found
            image, objects = found
            images.append(image)
            for annotation in objects:
                ids = {"id": len(annotations) + 1, "image_id": image["id"]}
                annotations.append({**ids, **annotation})
        categories = [
            {"id": i, "name": name, "supercategory": "shape"}
            for i, name in enumerate(CLASSES, start=1)
        ]
        content = {
            "info": {"description": f"fpn_d2 shapes, {split}", "version": str(spec.version)},
            "licenses": [],
            "images": images,
            "annotations": annotations,
            "categories": categories,
        }
        Path(_json_file(folder, split)).write_text(json.dumps(content), encoding="utf-8")
    specification = json.dumps(_specification(spec))
    Path(folder, "specification.json").write_text(specification, encoding="utf-8")


def _draw_all(images: "_Drawn", work: str) -> list[Any]:
    """Draw a split, in several processes if there are many images and Linux can fork them.

    Elsewhere each process would start the program anew. They end when this one is killed.
    """
    forks = (
        len(images) >= _MANY
        and sys.platform == "linux"
        and not multiprocessing.current_process().daemon
    )
    workers = min(len(os.sched_getaffinity(0)), 8) if forks else 0
    while True:
        loader = DataLoader(
            images,
            batch_size=None,
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
            generator=torch.Generator(),  # leaves torch's own random state alone
        )
        try:
            return list(told(work, loader))
        except (OSError, RuntimeError):
            # No process could be started, or one was ended from outside, perhaps for memory.
            if workers == 0:
                raise
            workers = 0
        except BaseException as error:
            # The error's frames would keep the processes alive, and these would go on drawing.
            raise error.with_traceback(None) from None


class _Drawn(Dataset):
    """The images of a split; reading one writes its file and gives its record and annotations.

    The annotations have no ids of their own yet. A disk error is returned, since raising it in a
    worker would put its traceback into the message; that worker then draws nothing more.
    """

    error: OSError | None = None

    def __init__(self, folder: str, spec: ShapesSpec, split: int) -> None:
        self.folder, self.spec, self.split = folder, spec, split

    def __len__(self) -> int:
        return getattr(self.spec, _SPLITS[self.split])

    def __getitem__(self, index: int) -> tuple[dict[str, Any], list[dict[str, Any]]] | OSError:
        if self.error is not None:
            return self.error
        # Imported only here: few starts of a program generate data.
        from .shapes_scene import compose_scene, draw_scene, polygon_area

        # A generator for each image: image i is the same in a set of any length.
        rng = np.random.default_rng([self.spec.seed, self.split, index])
        scene = compose_scene(rng, self.spec)
        file_name = f"{_SPLITS[self.split]}_{index + 1:06d}.jpg"
        drawn = Image.fromarray(draw_scene(rng, scene, self.spec.max_strokes))
        path = os.path.join(self.folder, "images", file_name)
        try:
            drawn.save(path, quality=92, subsampling=0)
        except OSError as error:
            self.error = error
            return error
        image = {"id": index + 1, "file_name": file_name}
        objects = [
            {"category_id": category + 1, **_annotation(polygon, polygon_area(polygon))}
            for category, polygon in scene.objects
        ]
        return {**image, "height": scene.height, "width": scene.width}, objects


def _annotation(polygon: np.ndarray, area: float) -> dict[str, Any]:
    (left, top), (right, bottom) = polygon.min(axis=0), polygon.max(axis=0)
    return {
        "bbox": [round(float(value), 2) for value in (left, top, right - left, bottom - top)],
        "area": round(area, 3),
        "iscrowd": 0,
        "segmentation": [[round(float(value), 2) for value in polygon.ravel()]],
    }


def _json_file(folder: str, split: str) -> str:
    return os.path.join(folder, "annotations", f"instances_{split}.json")
