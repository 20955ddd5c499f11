"""Sampling, losses and the best proposals of the mask head (Sec. 6, Appendix A).

Shape shorthand: L places (the cells of all levels, level by level, for one window after the other),
K of them chosen, M x M mask outputs.
"""

import dataclasses

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ...structures import RegionMasks
from .head import MaskProposalHead
from .targets import assign_places, assign_scales, cell_centers, crop_masks, regions_of

__all__ = ["MaskProposalGenerator"]


@dataclasses.dataclass(frozen=True)
class _Places:
    """All places of an input.

    Args:
        centers: (L, 2), x and y in pixels.
        strides: (L,).
        scales: (L,), the index of each place's scale.
        groups: (window, level, first place, height, width) of each map.
    """

    centers: Tensor
    strides: Tensor
    scales: Tensor
    groups: list[tuple[int, int, int, int, int]]

    def inside(self, image_size: tuple[int, int]) -> Tensor:
        """(L,) bool: the places on the image, not on a batch's padding."""
        height, width = image_size
        return (self.centers[:, 0] < width) & (self.centers[:, 1] < height)


@PROPOSAL_GENERATOR_REGISTRY.register()
class MaskProposalGenerator(nn.Module):
    """Proposes object masks at every place of every level, with one MLP for each window."""

    @configurable
    def __init__(
        self,
        *,
        head: MaskProposalHead,
        in_features: list[str],
        strides: list[int],
        sizes: list[list[float]],
        padding: float = 0.25,
        center_radius: float = 1.0,
        max_octaves: float | None = None,
        batch_size_per_image: int = 128,
        positive_fraction: float = 0.25,
        mask_loss_weight: float = 10.0,
        topk: int = 1000,
        mask_threshold: float = 0.2,
    ):
        """
        Args:
            head: the MLPs.
            in_features: the levels, fine to coarse.
            strides: theirs.
            sizes: for each window the scale of an object on each level, in pixels.
            padding: see :func:`regions_of`.
            center_radius: see :func:`assign_places`.
            max_octaves: see :func:`assign_scales`.
            batch_size_per_image: samples of an image.
            positive_fraction: the largest share of positives among them.
            mask_loss_weight: of the mask's loss against the score's.
            topk: masks of an image in testing.
            mask_threshold: the least probability of a mask's pixel.
        """
        super().__init__()
        self.head = head
        self.in_features = in_features
        self.strides = strides
        self.padding = padding
        self.center_radius = center_radius
        self.max_octaves = max_octaves
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.mask_loss_weight = mask_loss_weight
        self.topk = topk
        self.mask_threshold = mask_threshold
        self.num_levels = len(in_features)
        # Scale s is sizes.flatten()[s]: window by window, level by level.
        scales = torch.tensor(sizes, dtype=torch.float32).flatten()
        self.register_buffer("scales", scales, persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """See :class:`detectron2.config.configurable`."""
        keys = cfg.MODEL.MASK_PROPOSAL
        shapes = [input_shape[name] for name in keys.IN_FEATURES]
        head = MaskProposalHead(
            shapes[0].channels,
            windows=list(keys.WINDOWS),
            hidden_dim=keys.HIDDEN_DIM,
            mask_size=keys.MASK_SIZE,
        )
        return {
            "head": head,
            "in_features": list(keys.IN_FEATURES),
            "strides": [shape.stride for shape in shapes],
            "sizes": [list(sizes) for sizes in keys.SIZES],
            "padding": keys.PADDING,
            "center_radius": keys.CENTER_RADIUS,
            # scales lie half an octave apart, so a quarter is the way to the middle
            "max_octaves": None if keys.ASSIGN_EXTREMES else 0.25,
            "batch_size_per_image": keys.BATCH_SIZE_PER_IMAGE,
            "positive_fraction": keys.POSITIVE_FRACTION,
            "mask_loss_weight": keys.MASK_LOSS_WEIGHT,
            "topk": keys.TOPK_TEST,
            "mask_threshold": keys.MASK_THRESHOLD,
        }

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        gt_instances: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """
        Args:
            images: of the batch.
            features: the levels by name.
            gt_instances: in training, ``gt_boxes`` and ``gt_masks`` of each image.

        Returns:
            in testing, for each image its best proposals, in pixels of the network input, best
            first: ``scores`` (K,) of 0 to 1, ``pred_masks`` :class:`RegionMasks`; and in training
            the losses.
        """
        levels = [features[name] for name in self.in_features]
        places = self._places(levels)
        if self.training:
            return [], self.losses(levels, places, gt_instances)
        return self.predict(levels, places, images.image_sizes), {}

    def _places(self, levels: list[Tensor]) -> _Places:
        centers, strides, scales, groups, count = [], [], [], [], 0
        for window in range(len(self.head.mlps)):
            for i, level in enumerate(levels):
                height, width = level.shape[-2:]
                groups.append((window, i, count, height, width))
                count += height * width
                centers.append(cell_centers(height, width, self.strides[i], level.device))
                strides.append(centers[-1].new_full((height * width,), self.strides[i]))
                scale = window * self.num_levels + i
                scales.append(torch.full((height * width,), scale, device=level.device))
        return _Places(torch.cat(centers), torch.cat(strides), torch.cat(scales), groups)

    @torch.no_grad()
    def match(self, places: _Places, instances: Instances) -> Tensor:
        """The object that each place answers for: (L,), -1 for none."""
        boxes = instances.gt_boxes.tensor
        # in ascending order, so that of two equally near scales the smaller is taken
        ascending, order = self.scales.sort()
        box_scales = assign_scales(boxes, ascending, self.max_octaves)
        box_scales = torch.where(box_scales >= 0, order[box_scales], -1)
        return assign_places(
            places.centers, places.strides, places.scales, boxes, box_scales, self.center_radius
        )

    @torch.no_grad()
    def sample(self, places: _Places, instances: Instances) -> tuple[Tensor, Tensor, Tensor]:
        """The samples of an image.

        Returns:
            (K,) places, the positive ones first; (P,) objects and (P, M, M) bool mask targets of
            the positive ones.
        """
        objects = self.match(places, instances)
        labels = (objects >= 0).long()
        labels[~places.inside(instances.image_size)] = -1
        positive, negative = subsample_labels(
            labels, self.batch_size_per_image, self.positive_fraction, 0
        )
        objects = objects[positive]
        regions = regions_of(
            places.centers[positive], self.scales[places.scales[positive]], self.padding
        )
        size = self.head.mask_size
        if len(positive):
            targets = crop_masks(instances.gt_masks[objects], regions, size)
        else:
            targets = torch.zeros((0, size, size), dtype=torch.bool, device=regions.device)
        return torch.cat([positive, negative]), objects, targets

    def losses(
        self, levels: list[Tensor], places: _Places, gt_instances: list[Instances]
    ) -> dict[str, Tensor]:
        """The logistic losses of scores and masks, at the samples (Appendix A).

        Returns:
            ``loss_score`` and ``loss_mask``.
        """
        samples = [self.sample(places, instances) for instances in gt_instances]
        score_losses, mask_losses, num_positive = [], [], 0
        for window, i, first, height, width in places.groups:
            index, labels, targets = [], [], []
            for n, (chosen, objects, masks) in enumerate(samples):
                here = (chosen >= first) & (chosen < first + height * width)
                cell = chosen[here] - first
                image = torch.full_like(cell, n)
                index.append(torch.stack([image, cell // width, cell % width], dim=1))
                is_positive = torch.arange(len(chosen), device=chosen.device) < len(objects)
                labels.append(is_positive[here])
                targets.append(masks[here[: len(objects)]])
            label, target = torch.cat(labels), torch.cat(targets).float()
            hidden = self.head.hidden_at(levels[i], window, torch.cat(index))
            scores = self.head.scores_at(hidden, window).float()
            masks = self.head.masks_at(hidden[label], window).float()
            score_losses.append(
                F.binary_cross_entropy_with_logits(scores, label.float(), reduction="sum")
            )
            mask_losses.append(F.binary_cross_entropy_with_logits(masks, target, reduction="sum"))
            num_positive += len(target)
        num_samples = sum(len(chosen) for chosen, _, _ in samples)
        get_event_storage().put_scalar("mask_proposals/num_positive", num_positive)
        pixels = max(num_positive, 1) * self.head.mask_size**2
        return {
            "loss_score": torch.stack(score_losses).sum() / max(num_samples, 1),
            "loss_mask": torch.stack(mask_losses).sum() / pixels * self.mask_loss_weight,
        }

    @torch.no_grad()
    def predict(
        self, levels: list[Tensor], places: _Places, image_sizes: list[tuple[int, int]]
    ) -> list[Instances]:
        """The best proposals of each image; only they have their masks computed.

        Args:
            levels: the levels, fine to coarse.
            places: theirs.
            image_sizes: (height, width) of each image, without padding.

        Returns:
            see :meth:`forward`.
        """
        hidden = [self.head.hidden(levels[i], window) for window, i, *_ in places.groups]
        scores = torch.cat(
            [
                self.head.scores(units, window).float().flatten(1)
                for units, (window, *_) in zip(hidden, places.groups, strict=True)
            ],
            dim=1,
        )
        return [
            self._best(n, scores[n], [units[n] for units in hidden], places, size)
            for n, size in enumerate(image_sizes)
        ]

    def _best(
        self,
        n: int,
        scores: Tensor,
        hidden: list[Tensor],
        places: _Places,
        image_size: tuple[int, int],
    ) -> Instances:
        inside = places.inside(image_size)
        scores = torch.where(inside, scores, float("-inf"))
        count = min(self.topk, int(inside.sum()))
        logits, chosen = scores.topk(count)
        if not logits.isfinite().all():
            raise FloatingPointError(
                "scores of mask proposals are NaN or infinite: check the weights and the image"
            )
        size = self.head.mask_size
        masks = scores.new_zeros((count, size, size))
        for units, (window, _, first, height, width) in zip(hidden, places.groups, strict=True):
            here = (chosen >= first) & (chosen < first + height * width)
            rows = units.flatten(1)[:, chosen[here] - first].t()
            masks[here] = self.head.masks_at(rows, window).float().sigmoid()
        regions = regions_of(
            places.centers[chosen], self.scales[places.scales[chosen]], self.padding
        )
        found = Instances(image_size)
        found.scores = logits.sigmoid()
        found.pred_masks = RegionMasks(masks, regions, image_size, self.mask_threshold)
        return found
