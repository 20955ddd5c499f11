"""The RPN of Sec. 4.1: its head, one for all levels or, as the paper tried, one for each.

Shape shorthand: M objects of an image, R anchors of all levels.
"""

import math
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator.rpn import RPN, RPN_HEAD_REGISTRY, StandardRPNHead
from detectron2.structures import Boxes, Instances
from detectron2.structures.boxes import matched_pairwise_iou
from torch import Tensor, nn

from ..utils.scripting import renamed

__all__ = ["LeanRPN", "PerLevelRPNHead", "build_level_rpn_head"]

# IoUs of objects with anchors that are computed at once, each in about 24 bytes.
_MAX_PAIRS = 1 << 24


@PROPOSAL_GENERATOR_REGISTRY.register()
class LeanRPN(RPN):
    """Detectron2's :class:`RPN`, without proposals in training where nothing reads them, and
    matching many objects in bounded memory.

    An RPN that is trained alone learns from its anchors. Detectron2 runs NMS over its best boxes
    all the same, 12,000 of them on a single level, at every step. And it matches all objects with
    all anchors at once: 300 objects with P2's 750k in 5 GB.
    """

    @configurable
    def __init__(self, *, proposals_in_training: bool = True, **kwargs: Any):
        """
        Args:
            proposals_in_training: whether RoI heads or pictures need the proposals in training.
            kwargs: see :class:`RPN`.
        """
        super().__init__(**kwargs)
        self.proposals_in_training = proposals_in_training
        self._keeps_all_labels = False

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """See :meth:`RPN.from_config`."""
        arguments = super().from_config(cfg, input_shape)
        alone = cfg.MODEL.META_ARCHITECTURE == "ProposalNetwork" and cfg.VIS_PERIOD <= 0
        return {**arguments, "proposals_in_training": not alone}

    _predict = renamed(RPN.predict_proposals, "_predict")

    def predict_proposals(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """See :meth:`RPN.predict_proposals`; none in training where nothing reads them."""
        if self.training:
            if not self.proposals_in_training:
                return []
        return self._predict(anchors, pred_objectness_logits, pred_anchor_deltas, image_sizes)

    @torch.jit.unused
    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """See :meth:`RPN.label_and_sample_anchors`; the same labels, boxes and samples."""
        at_once = max(1, _MAX_PAIRS // max(1, sum(map(len, anchors))))
        if all(len(instances) <= at_once for instances in gt_instances):
            return super().label_and_sample_anchors(anchors, gt_instances)
        gt_labels, matched_gt_boxes = [], []
        for instances in gt_instances:
            labels, boxes = self._match_in_pieces(anchors, instances, at_once)
            gt_labels.append(self._subsample_labels(labels))
            matched_gt_boxes.append(boxes)
        return gt_labels, matched_gt_boxes

    def _match_in_pieces(
        self, anchors: list[Boxes], instances: Instances, at_once: int
    ) -> tuple[Tensor, Tensor]:
        """All labels (R,) and matched boxes (R, 4) of an image, some objects after the others."""
        all_anchors = Boxes.cat(anchors)
        labels, matched, best = None, None, None
        for first in range(0, max(1, len(instances)), at_once):
            piece = instances[first : first + at_once]
            self._keeps_all_labels = True
            try:
                (more,), (boxes,) = super().label_and_sample_anchors(anchors, [piece])
            finally:
                self._keeps_all_labels = False
            iou = matched_pairwise_iou(Boxes(boxes), all_anchors)
            if labels is None:
                labels, matched, best = more, boxes, iou
                continue
            # 1 wherever a piece has it, else -1 (between the thresholds) wherever one has that
            decided = (labels == 1) | (more == 1)
            labels = torch.where(decided, 1, torch.minimum(labels, more))
            matched = torch.where((iou > best)[:, None], boxes, matched)
            best = torch.maximum(iou, best)
        return labels, matched

    def _subsample_labels(self, label: Tensor) -> Tensor:
        """See :meth:`RPN._subsample_labels`; all of them while an image is matched in pieces."""
        return label if self._keeps_all_labels else super()._subsample_labels(label)


class PerLevelRPNHead(nn.Module):
    """An RPN head for each level, with weights of its own (``MODEL.RPN.SHARED_HEAD False``).

    The paper observed "similar accuracy" with it on the pyramid (Sec. 4.1), and no better results
    without the top-down path (Sec. 5.1.1).
    """

    def __init__(self, heads: dict[str, StandardRPNHead]):
        """
        Args:
            heads: level name ("p2", ...) to head, in the order of the features.
        """
        super().__init__()
        self.heads = nn.ModuleDict(heads)

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """See :meth:`StandardRPNHead.forward`."""
        assert len(features) == len(self.heads)
        pred_objectness_logits, pred_anchor_deltas = [], []
        for i, head in enumerate(self.heads.values()):
            logits, deltas = head([features[i]])
            pred_objectness_logits += logits
            pred_anchor_deltas += deltas
        return pred_objectness_logits, pred_anchor_deltas


@RPN_HEAD_REGISTRY.register()
def build_level_rpn_head(cfg: CfgNode, input_shape: list[ShapeSpec]) -> nn.Module:
    """Build the head that ``MODEL.RPN.SHARED_HEAD`` asks for.

    The shared one is Detectron2's :class:`StandardRPNHead` itself, under its parameter names.
    """
    if cfg.MODEL.RPN.SHARED_HEAD:
        return StandardRPNHead(cfg, input_shape)
    # from_config sees all levels, because the anchor generator counts them
    arguments = StandardRPNHead.from_config(cfg, input_shape)
    levels = [f"p{int(math.log2(shape.stride))}" for shape in input_shape]
    return PerLevelRPNHead({level: StandardRPNHead(**arguments) for level in levels})
