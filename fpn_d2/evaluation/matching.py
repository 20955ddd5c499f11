"""The boxes that two models have in common.

Shape shorthand: A and B boxes of the two, M pairs.
"""

import torch
from detectron2.structures import Instances
from torch import Tensor


def match_boxes(
    found: Tensor, expected: Tensor, found_classes: Tensor, expected_classes: Tensor, pixels: float
) -> tuple[Tensor, Tensor]:
    """Pair each box with the nearest of its class, one to one.

    Args:
        found, expected: (A, 4) and (B, 4), x0 y0 x1 y1 in pixels. The first of ``found`` choose
            first.
        found_classes, expected_classes: (A,) and (B,).
        pixels: the largest difference that any coordinate of a pair may have.

    Returns:
        (M, 2) int64, indices into ``found`` and ``expected``; (M,), the largest difference of a
        coordinate of each pair, in pixels.
    """
    pairs, differences = [], []
    if len(found) and len(expected):
        away = (found[:, None] - expected[None]).abs().amax(dim=2)
        away[found_classes[:, None] != expected_classes[None]] = float("inf")
        for i, row in enumerate(away):
            nearest = int(row.argmin())
            if row[nearest] <= pixels:
                pairs.append([i, nearest])
                differences.append(float(row[nearest]))
                away[:, nearest] = float("inf")
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2), torch.tensor(differences)


def match_detections(found: Instances, expected: Instances, pixels: float) -> int:
    """Count the pairs of detections of two models, best first, as :func:`match_boxes` does."""
    boxes = found.pred_boxes.tensor, expected.pred_boxes.tensor
    return len(match_boxes(*boxes, found.pred_classes, expected.pred_classes, pixels)[0])
