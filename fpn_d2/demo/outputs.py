"""The files that a demo writes: whole or not at all, and never one over another."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from PIL import Image

from ..structures import RegionMasks
from ..utils.errors import UserError
from ..utils.files import check_targets, replace_file

__all__ = ["coco_results", "prepare_folder", "unique_stems", "write_picture"]


def unique_stems(paths: Sequence[str], suffixes: Sequence[str]) -> list[str]:
    """A name for each input, such that no file of one has the name of another's.

    ``a/x.jpg`` and ``b/x.jpg`` become ``x`` and ``x_2``. Names that differ in case alone count as
    the same, which they are on many disks.

    Args:
        paths: the inputs.
        suffixes: what is added to a name, such as ``".png"`` and ``"_explain.png"``.
    """
    taken, stems = set(), []
    for path in paths:
        base = os.path.splitext(os.path.basename(path))[0]
        stem, number = base, 1
        while taken & {f"{stem}{suffix}".casefold() for suffix in suffixes}:
            number += 1
            stem = f"{base}_{number}"
        taken |= {f"{stem}{suffix}".casefold() for suffix in suffixes}
        stems.append(stem)
    return stems


def prepare_folder(
    folder: str, names: Iterable[str], inputs: Sequence[str], *, replace: bool = False
) -> None:
    """Make the output folder, and see that nothing in it is lost.

    Args:
        folder: made where it is missing.
        names: the files that will be written.
        inputs: the files that are read.
        replace: take the place of files that are there; inputs never.

    Raises:
        UserError: where the folder cannot be made, an input would be overwritten, or a file is
            there and ``replace`` is False.
    """
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UserError(f"--output {folder} is a file; name a folder")
    paths = [os.path.join(folder, name) for name in names]
    read = {os.path.realpath(path) for path in inputs}
    for path in paths:
        if os.path.realpath(path) in read:
            raise UserError(f"{path} is an input and would be overwritten; name another --output")
    check_targets(*paths, overwrite=replace, option="--output")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder} cannot be made ({error.strerror})") from error


def write_picture(path: str, picture: np.ndarray | Image.Image) -> None:
    """Write (H, W, 3) uint8 RGB, or an image of Pillow's, as a PNG.

    Raises:
        UserError: where it cannot be written.
    """
    try:
        with replace_file(path, "wb") as file:
            image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
            image.save(file, format="PNG")
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error})") from error


def coco_results(
    detections: Instances, image_id: int, category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Detections in COCO's result form.

    Args:
        detections: see :meth:`fpn_d2.inference.Predictor.detect`.
        image_id: of the image.
        category_ids: of the classes; see :func:`fpn_d2.inference.dataset_category_ids`.

    Returns:
        ``image_id``, ``category_id``, ``bbox`` as x, y, width and height in pixels, ``score`` and,
        for masks, ``segmentation`` as an RLE.
    """
    fields = detections.get_fields()
    masks = fields.get("pred_masks")
    kept = {name: fields[name] for name in ("pred_boxes", "scores")}
    # A proposal has no class; it is of the only kind that there is.
    kept["pred_classes"] = fields.get("pred_classes", detections.scores.new_zeros(len(detections)))
    if masks is not None and not isinstance(masks, RegionMasks):
        kept["pred_masks"] = masks
    results = instances_to_coco_json(Instances(detections.image_size, **kept), image_id)
    if isinstance(masks, RegionMasks):
        for result, rle in zip(results, masks.to_rle(), strict=True):
            result["segmentation"] = {**rle, "counts": rle["counts"].decode("ascii")}
    for result in results:
        result["category_id"] = category_ids[int(result["category_id"])]
    return results
