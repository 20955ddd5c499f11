"""The RPN of Sec. 4.1, with one head for all levels or, as the paper also tried, one for each.

Its matching of anchors in bounded memory serves RetinaNet, too.

Shape shorthand: M objects of an image, R anchors of all levels, N images, K candidates of a level.
"""

import math
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY, RetinaNet
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator.proposal_utils import find_top_rpn_proposals
from detectron2.modeling.proposal_generator.rpn import RPN, RPN_HEAD_REGISTRY, StandardRPNHead
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor, nn

from ..utils.modules import recast, renamed

# The most IoUs of objects with anchors to compute at once; each takes about 24 bytes.
_MAX_PAIRS = 1 << 24
# NMS goes on by at least this many candidates. Fewer would gain nothing, and torchvision shifts the
# levels of up to 1000 boxes apart instead of taking them one by one, which rounds differently.
_LEAST_STEP = 1001


@PROPOSAL_GENERATOR_REGISTRY.register()
class LeanRPN(RPN):
    """Detectron2's :class:`RPN` without work and memory that training does not need.

    An RPN that is trained alone learns from its anchors, and nothing reads its proposals.
    Detectron2 still makes them at every step, by NMS over up to 12,000 boxes of a level; this RPN
    does not. Detectron2 also matches all objects with all anchors at once, which takes 5 GB for
    300 objects and the 750k anchors of P2; this RPN matches that many a few at a time. On a CPU it
    ends NMS early: see :func:`find_first_proposals`.
    """

    @configurable
    def __init__(self, *, proposals_in_training: bool = True, **kwargs: Any):
        """
        Args:
            proposals_in_training: whether RoI heads or pictures read the proposals in training.
            kwargs: see :class:`RPN`.
        """
        super().__init__(**kwargs)
        self.proposals_in_training = proposals_in_training

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """See :meth:`RPN.from_config`."""
        arguments = super().from_config(cfg, input_shape)
        alone = cfg.MODEL.META_ARCHITECTURE == "ProposalNetwork" and cfg.VIS_PERIOD <= 0
        return {**arguments, "proposals_in_training": not alone}

    # Detectron2's own method; TorchScript has no super().
    _predict = renamed(RPN.predict_proposals, "_predict")

    def predict_proposals(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """See :meth:`RPN.predict_proposals`; none in training where nothing reads them."""
        if self.training and not self.proposals_in_training:
            return []
        if torch.jit.is_scripting() or not self._ends_nms_early(pred_objectness_logits):
            return self._predict(anchors, pred_objectness_logits, pred_anchor_deltas, image_sizes)
        return self._predict_first(anchors, pred_objectness_logits, pred_anchor_deltas, image_sizes)

    @torch.jit.unused
    def _ends_nms_early(self, logits: list[Tensor]) -> bool:
        return logits[0].device.type == "cpu" and not torch.jit.is_tracing()

    @torch.jit.unused
    @torch.no_grad()
    def _predict_first(
        self,
        anchors: list[Boxes],
        logits: list[Tensor],
        deltas: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        return find_first_proposals(
            self._decode_proposals(anchors, deltas),
            logits,
            image_sizes,
            self.nms_thresh,
            self.pre_nms_topk[self.training],
            self.post_nms_topk[self.training],
            self.min_box_size,
            self.training,
        )

    @torch.jit.unused
    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """See :meth:`RPN.label_and_sample_anchors`; the labels, boxes and samples are the same."""
        all_anchors = Boxes.cat(anchors)
        if fit_at_once(all_anchors, gt_instances):
            return super().label_and_sample_anchors(anchors, gt_instances)
        gt_labels, matched_gt_boxes = [], []
        for instances in gt_instances:
            objects = instances.gt_boxes
            owners, labels, _ = match_anchors(all_anchors, objects, self.anchor_matcher)
            if self.anchor_boundary_thresh >= 0:
                inside = all_anchors.inside_box(instances.image_size, self.anchor_boundary_thresh)
                labels[~inside] = -1
            gt_labels.append(self._subsample_labels(labels))
            if len(objects):
                matched_gt_boxes.append(objects.tensor[owners])
            else:
                matched_gt_boxes.append(torch.zeros_like(all_anchors.tensor))
        return gt_labels, matched_gt_boxes


def find_first_proposals(
    proposals: list[Tensor],
    logits: list[Tensor],
    image_sizes: list[tuple[int, int]],
    nms_thresh: float,
    pre_nms_topk: int,
    post_nms_topk: int,
    min_box_size: float,
    training: bool,
) -> list[Instances]:
    """Detectron2's ``find_top_rpn_proposals`` with less NMS; the proposals are the same.

    Only better boxes suppress a box, and none that is suppressed itself. So NMS of the best
    candidates gives the first proposals, mostly as many as are asked for. If not, these and the
    next best go on. Which of equal scores come first may differ: Detectron2's sort is not stable.

    Args:
        proposals: (N, K, 4) boxes of each level, in pixels of the network input.
        logits: (N, K) of each level.
        image_sizes, nms_thresh, pre_nms_topk, post_nms_topk, min_box_size, training: as there.
    """
    limits = nms_thresh, pre_nms_topk, post_nms_topk, min_box_size, training
    tops = [of_level.topk(min(pre_nms_topk, of_level.shape[1])) for of_level in logits]
    scores = torch.cat([top.values for top in tops], dim=1)
    device, total = scores.device, scores.shape[1]
    images = torch.arange(len(image_sizes), device=device)[:, None]
    levels = [level[images, top.indices] for level, top in zip(proposals, tops, strict=True)]
    boxes = torch.cat(levels, dim=1)
    if not (scores.isfinite().all() and boxes.isfinite().all()):
        return find_top_rpn_proposals(proposals, logits, image_sizes, *limits)
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    # Ranks take the place of scores, because equal scores have an order of their own.
    ranks = order.argsort(dim=1).split([level.shape[1] for level in levels], dim=1)
    found = []
    for i, size in enumerate(image_sizes):
        clipped = Boxes(boxes[i])
        clipped.clip(size)
        left = clipped.nonempty(min_box_size)[order[i]].nonzero()[:, 0]  # by rank
        count = 3 * min(max(post_nms_topk, _LEAST_STEP), total)
        while True:
            is_chosen = torch.zeros(total, dtype=torch.bool, device=device)
            is_chosen[left[:count]] = True
            chosen = [is_chosen[rank[i]] for rank in ranks]
            some = [level[i : i + 1, c] for level, c in zip(levels, chosen, strict=True)]
            of_some = [-rank[i : i + 1, c].float() for rank, c in zip(ranks, chosen, strict=True)]
            (instances,) = find_top_rpn_proposals(some, of_some, [size], *limits)
            kept, rest = -instances.objectness_logits.long(), left[count:]
            if len(kept) >= post_nms_topk or not len(rest):
                break
            if len(kept) + len(rest) < _LEAST_STEP:
                count = len(left)
            else:
                left = torch.cat([kept, rest])
                # Where few are kept, NMS of all is quick.
                count = len(kept) + count if 2 * len(kept) > post_nms_topk else len(left)
        instances.objectness_logits = scores[i][kept]
        found.append(instances)
    return found


def fit_at_once(anchors: Boxes, gt_instances: list[Instances]) -> bool:
    """Whether each image has so few objects that Detectron2's own matching takes little memory.

    Args:
        anchors: R anchors of all levels.
        gt_instances: the objects of each image.
    """
    return all(len(anchors) * len(objects) <= _MAX_PAIRS for objects in gt_instances)


@torch.no_grad()
def match_anchors(
    anchors: Boxes, objects: Boxes, matcher: Matcher, *, skip_untouched: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Match an image's anchors with its objects, a few objects at a time, to bound the memory.

    The result is that of Detectron2's ``matcher(pairwise_iou(objects, anchors))``.

    Args:
        anchors: R anchors of all levels, in pixels of the network input.
        objects: M objects, in pixels of the network input.
        matcher: the matcher of the RPN or the RetinaNet.
        skip_untouched: whether to leave out objects that overlap no anchor; otherwise all anchors
            are the best of such an object, with IoU 0, and positive.

    Returns:
        (R,) int64, the object with which each anchor has its largest IoU; (R,) int8, the
        matcher's labels: 1 positive, 0 negative, -1 ignored; (R,) float32, that largest IoU, -1
        where there is no object.
    """
    owners = torch.zeros(len(anchors), dtype=torch.int64, device=anchors.device)
    best = torch.full_like(owners, -1, dtype=torch.float32)
    is_some_best = torch.zeros_like(owners, dtype=torch.bool)
    at_once = max(1, _MAX_PAIRS // max(1, len(anchors)))
    for first in range(0, len(objects), at_once):
        ious = pairwise_iou(objects[first : first + at_once], anchors)
        largest = ious.amax(dim=1, keepdim=True)
        is_largest = ious == largest
        if skip_untouched:
            is_largest &= largest > 0
            ious = torch.where(largest > 0, ious, -1)
        is_some_best |= is_largest.any(dim=0)
        iou, owner = ious.max(dim=0)
        owners = torch.where(iou > best, first + owner, owners)
        best = torch.maximum(iou, best)
    by_threshold = Matcher(matcher.thresholds[1:-1], matcher.labels)
    _, labels = by_threshold(best.clamp(min=0)[None])
    if matcher.allow_low_quality_matches:
        labels = labels.masked_fill(is_some_best, 1)
    return owners, labels, best


class LeanRetinaNet(RetinaNet):
    """Detectron2's :class:`RetinaNet`, except that it matches many objects a few at a time.

    Detectron2 matches all objects with all anchors at once: with 3000 objects and the 163k anchors
    of an image of 800 x 1088 px that takes 7.7 GB.
    """

    @torch.jit.unused
    @torch.no_grad()
    def label_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """See :meth:`RetinaNet.label_anchors`; the labels and the boxes are the same."""
        all_anchors = Boxes.cat(anchors)
        if fit_at_once(all_anchors, gt_instances):
            return super().label_anchors(anchors, gt_instances)
        gt_labels, matched_gt_boxes = [], []
        for instances in gt_instances:
            objects = instances.gt_boxes
            owners, matches, _ = match_anchors(all_anchors, objects, self.anchor_matcher)
            if len(objects):
                labels = instances.gt_classes[owners]
                labels = labels.masked_fill(matches == 0, self.num_classes)  # the background
                labels = labels.masked_fill(matches == -1, -1)
                matched_gt_boxes.append(objects.tensor[owners])
            else:
                labels = torch.full_like(owners, self.num_classes)
                matched_gt_boxes.append(torch.zeros_like(all_anchors.tensor))
            gt_labels.append(labels)
        return gt_labels, matched_gt_boxes


def bound_matching(model: nn.Module) -> nn.Module:
    """Have Detectron2's own RPN or RetinaNet match a few objects at a time, in place.

    Detectron2's configs name these classes, and so does every RetinaNet config. A subclass stays as
    it is, since it may match in its own way.

    Returns:
        the same model; its weights and their names stay.
    """
    for module in model.modules():
        if type(module) is RetinaNet:
            recast(module, LeanRetinaNet)
        elif type(module) is RPN:
            recast(module, LeanRPN, proposals_in_training=True)
    return model


class PerLevelRPNHead(nn.Module):
    """One RPN head per level, each with its own weights (``MODEL.RPN.SHARED_HEAD False``).

    The paper observed "similar accuracy" with it on the pyramid (Sec. 4.1), and no better results
    without the top-down path (Sec. 5.1.1).
    """

    def __init__(self, heads: dict[str, StandardRPNHead]):
        """
        Args:
            heads: a head for each level name ("p2", ...), in the order of the features.
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
    """Build a head for levels from fine to coarse, shared if ``MODEL.RPN.SHARED_HEAD`` says so."""
    if cfg.MODEL.RPN.SHARED_HEAD:
        return StandardRPNHead(cfg, input_shape)
    # from_config needs all levels, because the anchor generator counts them.
    arguments = StandardRPNHead.from_config(cfg, input_shape)
    levels = [f"p{int(math.log2(shape.stride))}" for shape in input_shape]
    return PerLevelRPNHead({level: StandardRPNHead(**arguments) for level in levels})


# --- the names in configs of version 0.1; a registry goes by the name of the class or function


@PROPOSAL_GENERATOR_REGISTRY.register()
class FPNRPN(LeanRPN):
    """See :class:`LeanRPN`."""


@RPN_HEAD_REGISTRY.register()
def FPNRPNHead(cfg: CfgNode, input_shape: list[ShapeSpec]) -> nn.Module:
    """See :func:`build_level_rpn_head`."""
    return build_level_rpn_head(cfg, input_shape)
