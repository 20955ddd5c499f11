"""Non-maximum suppression that is right in an exported model for any number of boxes.

torchvision's ``batched_nms`` has two methods. For few boxes, it moves each class's boxes away from
the others' by a multiple of the largest coordinate, which costs precision (0.008 px with 80 classes
at 1333 px). For many boxes, it takes the classes one by one. A trace would keep the first method
for good.

Shape shorthand: R boxes, G groups (classes or levels), K boxes kept.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torchvision
from torch import Tensor

from ..utils.modules import overridden


@contextlib.contextmanager
def nms_by_group(format: str) -> Iterator[None]:
    """Make models that are traced in this context suppress the boxes of each class separately.

    Args:
        format: "torchscript", which gets a loop; the other formats have an operator for it.
    """
    # Detectron2's functions take no NMS as an argument; they look torchvision's up in its module at
    # each call. So the name is replaced there while the trace runs, as Detectron2's own
    # torchscript_patch does, instead of copying the bodies of those functions.
    target = torchvision.ops.boxes
    by_group = target._batched_nms_vanilla if format == "torchscript" else _onnx_nms
    with overridden(target, batched_nms=by_group):
        yield


def _onnx_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """See :func:`torchvision.ops.batched_nms`."""
    groups = torch.unique(idxs)
    outside = torch.full_like(scores, float("-inf"))
    scores_by_group = torch.where(groups[:, None] == idxs[None], scores[None], outside[None])
    kept = _NonMaxSuppression.apply(boxes, scores_by_group, iou_threshold)
    return kept[scores[kept].sort(descending=True)[1]]


class _NonMaxSuppression(torch.autograd.Function):
    """ONNX's operator: (R, 4) boxes and their (G, R) scores to (K,) indices, group by group."""

    @staticmethod
    def forward(ctx: Any, boxes: Tensor, scores_by_group: Tensor, iou_threshold: float) -> Tensor:
        kept = [boxes.new_zeros(0, dtype=torch.int64)]
        for scores in scores_by_group:
            members = scores.isfinite().nonzero().flatten()
            chosen = torchvision.ops.nms(boxes[members], scores[members], iou_threshold)
            kept.append(members[chosen])
        return torch.cat(kept)

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores_by_group: Any, iou_threshold: float) -> Any:
        chosen = g.op(
            "NonMaxSuppression",
            g.op("Unsqueeze", boxes, _constant(g, [0])),
            g.op("Unsqueeze", scores_by_group, _constant(g, [0])),
            _constant(g, [torch.iinfo(torch.int64).max]),  # the most boxes of a group: no limit
            _constant(g, [iou_threshold], torch.float32),
            # the minimum score, which the boxes of other groups do not reach
            _constant(g, [torch.finfo(torch.float32).min], torch.float32),
        )  # (K, 3): image, group, box
        boxes_column = g.op("Gather", chosen, _constant(g, [2]), axis_i=1)
        return g.op("Squeeze", boxes_column, _constant(g, [1]))


def _constant(g: Any, values: list, dtype: torch.dtype = torch.int64) -> Any:
    return g.op("Constant", value_t=torch.tensor(values, dtype=dtype))
