"""What must hold before a data set is used: settings, files on disk, boxes, class lists."""

import difflib
import os
import re
import reprlib
from collections.abc import Iterator, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from ..utils.errors import UserError
from .datasets.folders import datasets_root, is_local, missing_remedy
from .mask_faults import mask_fault

__all__ = [
    "check_boxes",
    "check_classes",
    "check_files",
    "check_masks",
    "check_names",
    "check_proposal_files",
    "check_settings",
    "check_sizes",
]

# The key of the class head by meta-architecture; the others are class-agnostic, or not ours.
_NUM_CLASSES = {
    "GeneralizedRCNN": ("MODEL.ROI_HEADS.NUM_CLASSES", lambda cfg: cfg.MODEL.ROI_HEADS.NUM_CLASSES),
    "RetinaNet": ("MODEL.RETINANET.NUM_CLASSES", lambda cfg: cfg.MODEL.RETINANET.NUM_CLASSES),
}
_NUM_CLASSES["ClippingRetinaNet"] = _NUM_CLASSES["RetinaNet"]


def check_settings(cfg: CfgNode, training: bool) -> None:
    """Check all that the config says about data; opens no file.

    Args:
        cfg: the merged config.
        training: whether the model is to be trained, not only evaluated.

    Raises:
        UserError: where no data set is named, a name is not registered, proposal files are
            missing or the batch cannot be shared by the processes.
    """
    if training:
        check_names(cfg.DATASETS.TRAIN, "DATASETS.TRAIN")
        check_proposal_files(cfg, "TRAIN")
        _check_batch(cfg.SOLVER.IMS_PER_BATCH)
    if cfg.DATASETS.TEST or not training:  # training without evaluation is a choice
        check_names(cfg.DATASETS.TEST, "DATASETS.TEST")
        check_proposal_files(cfg, "TEST")


def check_names(names: Sequence[str], key: str) -> None:
    """Check that there are data sets and that each is registered.

    Args:
        names: the data sets.
        key: the config key that names them, for the message.

    Raises:
        UserError: where there is none, or one is unknown.
    """
    if not names:
        raise UserError(f"{key} names no data set: add {key} \"('<name>_<split>',)\"")
    for name in names:
        if name not in DatasetCatalog:
            close = difflib.get_close_matches(name, DatasetCatalog.keys(), n=3)
            hint = f" (did you mean {' or '.join(close)}?)" if close else ""
            raise UserError(
                f"{key} names the data set '{name}', which is not registered{hint}: your own data "
                "need <name>/images/ and <name>/annotations/instances_<split>.json in the folder "
                f"that DETECTRON2_DATASETS names before the start (now {datasets_root()}), and are "
                "then called <name>_<split>"
            )


def _check_batch(images: int) -> None:
    processes = comm.get_world_size()
    if images <= 0 or images % processes:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH is {images}, which {processes} process(es) cannot share "
            f"equally: give a positive multiple of {processes}"
        )


def check_proposal_files(cfg: CfgNode, split: str) -> None:
    """Check that each data set has its file of fixed proposals, where the model reads them.

    Args:
        cfg: the merged config.
        split: ``"TRAIN"`` or ``"TEST"``.

    Raises:
        UserError: where their numbers differ or a file does not exist.
    """
    if not cfg.MODEL.LOAD_PROPOSALS:
        return
    key = f"DATASETS.PROPOSAL_FILES_{split}"
    names, files = cfg.DATASETS[split], cfg.DATASETS[f"PROPOSAL_FILES_{split}"]
    if len(files) != len(names):
        raise UserError(
            f"MODEL.LOAD_PROPOSALS needs one proposal file for each data set, but {key} has "
            f"{len(files)} and DATASETS.{split} has {len(names)}: list them in the same order"
        )
    for name, file in zip(names, files, strict=True):
        if is_local(file) and not os.path.isfile(file):
            made_by = re.fullmatch(r"(?:.*/)?output/(.+)/inference/[^/]+/box_proposals\.pkl", file)
            config = f"configs/{made_by[1]}.yaml" if made_by else "configs/RPN/<row>.yaml"
            weights = f"output/{made_by[1]}/model_final.pth" if made_by else "<its weights>"
            raise UserError(
                f"proposal file {file} of data set {name} ({key}) does not exist: train an RPN, "
                f"then write its proposals with `python train_net.py --config-file {config} "
                f"--eval-only MODEL.WEIGHTS {weights} DATASETS.TEST \"('{name}',)\"`"
            )


def check_files(names: Sequence[str], records: Sequence[dict[str, Any]]) -> None:
    """Check that the image folders and all image files are there; opens none of them.

    Args:
        names: the data sets.
        records: their images in Detectron2's format.

    Raises:
        UserError: where a folder or a file is missing.
    """
    for name in names:
        folder = getattr(MetadataCatalog.get(name), "image_root", None)
        if folder and is_local(folder) and not os.path.isdir(folder):
            raise UserError(
                f"image folder {folder} of data set {name} does not exist: {missing_remedy()}"
            )
    paths = [record["file_name"] for record in records if "file_name" in record]
    missing = [path for path in paths if is_local(path) and not os.path.isfile(path)]
    if missing:
        raise UserError(
            f"image {missing[0]} does not exist ({len(missing)} of the {len(paths)} images of "
            f"{', '.join(names)} are missing): put it there or take it out of the annotation file"
        )


def check_sizes(names: Sequence[str], records: Sequence[dict[str, Any]]) -> None:
    """Check that the sizes of all images are whole numbers of pixels.

    Args:
        names: the data sets.
        records: their images in Detectron2's format.

    Raises:
        UserError: where one is not.
    """
    for record in records:
        for key in ("width", "height"):
            side = record.get(key, 1)  # a data set that is no COCO file need not say it
            if not isinstance(side, Integral) or isinstance(side, bool) or not 0 < side < 2**31:
                raise UserError(
                    f"image {record['file_name']} ({', '.join(names)}) has the {key} "
                    f"{reprlib.repr(side)}: give it in pixels, a whole number"
                )


def check_boxes(names: Sequence[str], records: Sequence[dict[str, Any]]) -> None:
    """Check that every annotation has a box of four finite numbers.

    Args:
        names: the data sets.
        records: their images in Detectron2's format.

    Raises:
        UserError: where one has not.
    """
    boxes = [box for _, box in _boxes(records)]
    if not boxes or _are_boxes(boxes):
        return
    file_name, box = next((file, box) for file, box in _boxes(records) if not _are_boxes([box]))
    raise UserError(
        f"an annotation of image {file_name} ({', '.join(names)}) has bbox {box}: give four finite "
        "numbers, left, top, width and height in pixels"
    )


def _boxes(records: Sequence[dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    for record in records:
        for annotation in record.get("annotations", ()):
            yield record["file_name"], annotation.get("bbox")


def _are_boxes(boxes: list[Any]) -> bool:
    # As one array: COCO has 860,000 boxes.
    try:
        array = np.array(boxes)
    except ValueError:
        return False
    return array.dtype.kind in "iuf" and array.shape[1:] == (4,) and bool(np.isfinite(array).all())


def check_masks(names: Sequence[str], records: Sequence[dict[str, Any]]) -> None:
    """Check that every annotation has a sound mask; crowd regions need none.

    Args:
        names: the data sets.
        records: their images in Detectron2's format.

    Raises:
        UserError: naming the image and the annotation that has none, or a broken one.
    """
    for record in records:
        for number, annotation in enumerate(record.get("annotations", ()), start=1):
            segmentation = annotation.get("segmentation")
            if not segmentation:
                if annotation.get("iscrowd", 0):
                    continue
                fault = "has no segmentation, which MODEL.MASK_ON needs: add polygons or an RLE"
            else:
                fault = mask_fault(segmentation, record["height"], record["width"])
                if fault is None:
                    continue
                fault = f"has a broken mask (its segmentation {fault}): correct it"
            box = [round(float(value), 1) for value in annotation["bbox"]]
            raise UserError(
                f"annotation {number} of image {record['file_name']} ({', '.join(names)}, bbox "
                f"{box}) {fault}, or train a model of boxes"
            )


def check_classes(cfg: CfgNode, names: Sequence[str]) -> None:
    """Check the classes of loaded data sets against the class head and the training set's.

    Data sets without a list of classes are let through, and a model without a class head takes
    any.

    Args:
        cfg: the merged config.
        names: the data sets, already loaded.

    Raises:
        UserError: where the numbers or the lists differ.
    """
    if cfg.MODEL.META_ARCHITECTURE not in _NUM_CLASSES:
        return
    key, get = _NUM_CLASSES[cfg.MODEL.META_ARCHITECTURE]
    for name in names:
        classes = _classes(name)
        if classes and get(cfg) != len(classes):
            raise UserError(
                f"{key} is {get(cfg)}, but the number of classes of data set {name} is "
                f"{len(classes)} ({_some(classes)}): add {key} {len(classes)}"
            )
        for other in cfg.DATASETS.TRAIN:
            known = _classes(other) if other in DatasetCatalog else None
            if classes and known and known != classes:
                raise UserError(
                    f"data set {name} has the classes {_some(classes)}, but {other} of "
                    f"DATASETS.TRAIN has {_some(known)}: give both annotation files the same "
                    "categories in the same order, or name in DATASETS.TRAIN the data set that the "
                    "model was trained on"
                )


def _classes(name: str) -> list[str] | None:
    return getattr(MetadataCatalog.get(name), "thing_classes", None)


def _some(classes: Sequence[str]) -> str:
    return ", ".join(map(str, classes[:8])) + (", ..." if len(classes) > 8 else "")
