"""The columns of other code bases' classifiers, in our order.

Faster R-CNN  Column 0 is the background and becomes the last; its box, which nothing reads,
              is dropped. Of torchvision's 91 columns for COCO, 80 are categories. The columns
              of the ten numbers that COCO skips stay beside the background
              (``NUM_UNUSED_CLASSES``), so that all scores stay the same.
RetinaNet     Every column is a score of its own. Of torchvision's 91 columns for COCO, the 80
              categories stay. Models of other numbers of columns keep all, and class k is
              torchvision's label k.
"""

import torch
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from torch import Tensor

from ...utils.errors import UserError

_COCO_COLUMNS = 91
_ANCHORS = 9  # of RetinaNet in each cell


def order_faster_rcnn(weights: dict[str, Tensor], coco: bool) -> tuple[list[int], int, str]:
    """Order the columns of Faster R-CNN's box predictor.

    Args:
        weights: by this package's names, changed in place.
        coco: whether 91 columns are torchvision's for COCO, of which 80 are wanted.

    Returns:
        the source's label of each class, the number of unused columns and a note.

    Raises:
        UserError: if there is no box predictor, or one of other columns.
    """
    prefix = "roi_heads.box_predictor."
    columns = len(_needed(weights, f"{prefix}cls_score.bias"))
    classes, unused = list(range(1, columns)), []
    if columns == _COCO_COLUMNS and coco:
        classes = _coco_ids()
        unused = sorted(set(range(1, columns)) - set(classes))
    for kind in ("weight", "bias"):
        score = _needed(weights, f"{prefix}cls_score.{kind}")
        weights[f"{prefix}cls_score.{kind}"] = score[[*classes, *unused, 0]]
        boxes = _needed(weights, f"{prefix}bbox_pred.{kind}")
        if len(boxes) != 4 * columns:
            raise UserError(
                f"{prefix}bbox_pred.{kind} has {len(boxes)} rows for {columns} columns of classes, "
                "not 4 each; only boxes of each class can be converted"
            )
        boxes = boxes.reshape(columns, 4, *boxes.shape[1:])[classes]
        weights[f"{prefix}bbox_pred.{kind}"] = boxes.flatten(0, 1)
    note = f"{columns} columns: the background, now last, and {len(classes)} classes"
    note += f", COCO's; {len(unused)} more count as background" if unused else ""
    return classes, len(unused), note


def order_retinanet(weights: dict[str, Tensor], coco: bool) -> tuple[list[int], str]:
    """Order the columns of RetinaNet's head.

    Args:
        weights, coco: see :func:`order_faster_rcnn`.

    Returns:
        torchvision's label of each class, and a note.

    Raises:
        UserError: if there is no head, or one of other anchors.
    """
    scores = len(_needed(weights, "head.cls_score.bias"))
    if scores % _ANCHORS:
        raise UserError(
            f"RetinaNet's head has {scores} scores, which is no multiple of its {_ANCHORS} anchors "
            "in each cell; models of other anchors cannot be converted"
        )
    columns = scores // _ANCHORS
    reduced = columns == _COCO_COLUMNS and coco
    classes = _coco_ids() if reduced else list(range(columns))
    for kind in ("weight", "bias"):
        score = _needed(weights, f"head.cls_score.{kind}")
        score = score.reshape(_ANCHORS, columns, *score.shape[1:])[:, torch.tensor(classes)]
        weights[f"head.cls_score.{kind}"] = score.flatten(0, 1)
    return classes, f"{columns} columns: {len(classes)} classes" + (", COCO's" if reduced else "")


def _coco_ids() -> list[int]:
    """The ids of COCO's 80 categories, in the order of Detectron2's classes."""
    return [category["id"] for category in COCO_CATEGORIES if category["isthing"]]


def _needed(weights: dict[str, Tensor], name: str) -> Tensor:
    """A weight that no detector can do without."""
    if name not in weights:
        raise UserError(f"the checkpoint has nothing for {name}; convert a whole detector")
    return weights[name]
