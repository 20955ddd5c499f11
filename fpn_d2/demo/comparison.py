"""Several rows on one image, side by side: what one finds and another misses.

Shape shorthand: D rows, R_d detections of row d, G groups of detections of one object each.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import supervision as sv
from detectron2.structures import Instances

from ..visualization import PALETTE, draw_boxes, side_by_side
from ..visualization.layout import legend, picture_scale, stack

# Blue, yellow and dashed vermilion differ in lightness too.
_BY_ALL, _HERE, _MISSED = PALETTE[4], PALETTE[3], PALETTE[5]


class Found(NamedTuple):
    """What a row found on an image.

    Args:
        boxes: (R, 4), x0 y0 x1 y1 in pixels of the image, best first.
        scores: (R,), 0 to 1.
        names: R names of classes; "" stands for any class, as for a proposal.
    """

    boxes: np.ndarray
    scores: np.ndarray
    names: tuple[str, ...]

    @staticmethod
    def of(detections: Instances, names: Sequence[str]) -> "Found":
        """Convert :meth:`fpn_d2.inference.Predictor.detect`'s result, with its class ``names``."""
        kinds = ("",) * len(detections)
        if detections.has("pred_classes"):
            kinds = tuple(names[kind] for kind in detections.pred_classes.tolist())
        boxes = detections.pred_boxes.tensor.numpy()
        return Found(boxes, detections.scores.numpy(), kinds)


def group_detections(rows: Sequence[Found]) -> list[dict[int, int]]:
    """Group the detections of several rows by object.

    The grouping is greedy: row by row, and from the best score down, a detection joins the group
    with the largest IoU if that is at least 0.5, and otherwise begins a new one. It can join groups
    of its class that have no detection of its row yet. The IoU is with the group's first detection.

    Args:
        rows: what each of the D rows found.

    Returns:
        G dictionaries from the index of a row to the index of its detection.
    """
    groups: list[dict[int, int]] = []
    boxes, names = [], []  # of the detections that began the groups
    for row, found in enumerate(rows):
        for index in np.argsort(-found.scores, kind="stable").tolist():
            # A guessed name is drawn with a question mark (Classes.labels), but is the same name.
            box, name = found.boxes[index], found.names[index].removesuffix("?")
            free = [
                i
                for i, group in enumerate(groups)
                if row not in group and (name == names[i] or not name or not names[i])
            ]
            ious = sv.box_iou_batch(box[None], np.array([boxes[i] for i in free]).reshape(-1, 4))
            if ious.max(initial=0) >= 0.5:
                groups[free[ious.argmax()]][row] = index
            else:
                groups.append({row: index})
                boxes.append(box)
                names.append(name)
    return groups


def draw_comparison(image: np.ndarray, rows: Mapping[str, Found]) -> np.ndarray:
    """Draw the rows side by side, each with what it found and what only others found.

    Args:
        image: (H, W, 3) uint8, RGB; the returned picture is uint8, RGB, too.
        rows: what each row found, by the row's title.
    """
    found, scale = list(rows.values()), picture_scale(image)
    # Later boxes cover earlier ones, so objects that some row missed come last.
    groups = sorted(group_detections(found), key=lambda group: len(group) < len(found))
    panels = {}
    for row, title in enumerate(rows):
        boxes, labels, colors = [], [], []
        for group in groups:
            owner = row if row in group else next(iter(group))
            own, index = found[owner], group[owner]
            boxes.append(own.boxes[index])
            if row in group:
                labels.append(f"{own.names[index]} {own.scores[index]:.2f}".strip())
                colors.append(_BY_ALL if len(group) == len(found) else _HERE)
            else:
                labels.append(f"missed {own.names[index]}".strip())
                colors.append(_MISSED)
        boxes = np.array(boxes, dtype=np.float32).reshape(-1, 4)
        missed = [color == _MISSED for color in colors]
        picture = draw_boxes(image, boxes, labels, colors, scale, dashed=missed)
        count = f"{len(groups) - sum(missed)} of {len(groups)} that any row found"
        panels[f"{title}: {count}"] = picture
    words = ("found by all", "found here, missed by another")
    strip = legend((*words, "dashed: missed here, found by another"), (_BY_ALL, _HERE, _MISSED))
    return stack([np.asarray(side_by_side(panels)), strip], gap=6, margin=8)
