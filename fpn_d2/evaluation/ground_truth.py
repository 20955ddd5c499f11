"""COCO's own view of a registered data set."""

import contextlib
import io
import os

from detectron2.data import MetadataCatalog
from pycocotools.coco import COCO

from ..utils.errors import UserError

__all__ = ["load_ground_truth"]


def load_ground_truth(dataset: str) -> tuple[COCO, str]:
    """The annotations and the image folder of a data set.

    Args:
        dataset: its registered name.

    Raises:
        UserError: where they are not there.
    """
    metadata = MetadataCatalog.get(dataset)
    json_file = metadata.get("json_file", "")
    if not os.path.isfile(json_file):
        raise UserError(
            f"data set {dataset} has no annotations here; set DETECTRON2_DATASETS to the folder "
            "that it lies in"
        )
    with contextlib.redirect_stdout(io.StringIO()):  # COCO prints
        return COCO(json_file), metadata.image_root
