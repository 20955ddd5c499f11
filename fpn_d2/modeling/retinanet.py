"""RetinaNet with bounded memory for its matching, as in the RPN.

Shape shorthand: M objects of an image, R anchors of all levels, K classes.
"""

import torch
from detectron2.modeling import RetinaNet
from detectron2.modeling.proposal_generator.rpn import RPN
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from ..utils.modules import recast
from .rpn import LeanRPN, fit_at_once, match_anchors


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
