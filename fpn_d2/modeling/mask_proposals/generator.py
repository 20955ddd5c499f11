"""The MLPs of Sec. 6, their sampling, their losses and their best proposals (Appendix A).

Shape shorthand: N images, d channels of a level of H x W cells, k x k cells of an MLP's window,
M x M mask outputs, D hidden units of an MLP (512), L places (the cells of all levels, level by
level, for one MLP after the other), K of them chosen, P of these positive.
"""

from typing import NamedTuple

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
from .targets import assign_places, assign_scales, cell_centers, regions_of


class MaskProposalHead(nn.Module):
    """MLPs that predict a mask and a score: k x k convolution, ReLU, two sibling 1x1 convolutions.

    Examples:
        >>> head = MaskProposalHead(128, window_sizes=[5, 7])
        >>> hidden = head.hidden(torch.zeros(1, 128, 20, 30), mlp=0)
        >>> tuple(hidden.shape), tuple(head.scores(hidden, mlp=0).shape)
        ((1, 512, 20, 30), (1, 20, 30))
    """

    def __init__(
        self, channels: int, *, window_sizes: list[int], hidden_dim: int = 512, mask_size: int = 14
    ):
        """
        Args:
            channels: d, channels of a level.
            window_sizes: k of each MLP, odd, in cells.
            hidden_dim: D, hidden units of an MLP.
            mask_size: M, side of a mask in its cells.
        """
        super().__init__()
        self.mask_size = mask_size
        self.mlps = nn.ModuleList(
            nn.Conv2d(channels, hidden_dim, size, padding=size // 2) for size in window_sizes
        )
        self.mask_outputs = nn.ModuleList(nn.Linear(hidden_dim, mask_size**2) for _ in window_sizes)
        self.score_outputs = nn.ModuleList(nn.Linear(hidden_dim, 1) for _ in window_sizes)
        for convolution in self.mlps:
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            nn.init.zeros_(convolution.bias)
        for output in (*self.mask_outputs, *self.score_outputs):
            nn.init.normal_(output.weight, std=0.01)
            nn.init.zeros_(output.bias)

    def hidden(self, feature: Tensor, mlp: int) -> Tensor:
        """Compute an MLP's hidden units at every cell of a level: (N, d, H, W) to (N, D, H, W)."""
        return F.relu(self.mlps[mlp](feature))

    def hidden_at(self, feature: Tensor, mlp: int, cells: Tensor) -> Tensor:
        """Compute an MLP's hidden units at some cells only, by gathering their windows.

        Args:
            feature: (N, d, H, W), a level.
            mlp: the number of the MLP, from 0.
            cells: (K, 3) int64, image, row and column.

        Returns:
            (K, D) hidden units.
        """
        convolution = self.mlps[mlp]
        window_size = convolution.kernel_size[0]
        padded = F.pad(feature, [window_size // 2] * 4).permute(0, 2, 3, 1)
        offsets = torch.arange(window_size, device=feature.device)
        image, row, column = cells.unbind(dim=1)
        rows = (row[:, None] + offsets)[:, :, None]
        columns = (column[:, None] + offsets)[:, None, :]
        windows = padded[image[:, None, None], rows, columns]  # (K, k, k, d)
        weight = convolution.weight.permute(0, 2, 3, 1).flatten(1)
        return F.relu(F.linear(windows.flatten(1), weight, convolution.bias))

    def scores(self, hidden: Tensor, mlp: int) -> Tensor:
        """Compute the logits of the score at every cell: (N, D, H, W) to (N, H, W)."""
        output = self.score_outputs[mlp]
        return F.conv2d(hidden, output.weight[:, :, None, None], output.bias)[:, 0]

    def scores_at(self, hidden: Tensor, mlp: int) -> Tensor:
        """Compute the logits of the score: (K, D) to (K,)."""
        return self.score_outputs[mlp](hidden)[:, 0]

    def masks_at(self, hidden: Tensor, mlp: int) -> Tensor:
        """Compute the logits of the masks: (K, D) to (K, M, M)."""
        masks = self.mask_outputs[mlp](hidden)
        return masks.view(-1, self.mask_size, self.mask_size)


class _Grid(NamedTuple):
    """The places of one MLP on one level, numbered consecutively, row by row."""

    mlp: int
    level: int  # an index into the generator's in_features
    first: int  # number of the first place
    height: int  # in cells, as is the width
    width: int

    def contains(self, numbers: Tensor) -> Tensor:
        """Tell which places belong to this grid: (K,) numbers to (K,) bool."""
        return (numbers >= self.first) & (numbers < self.first + self.height * self.width)


class _Places(NamedTuple):
    """All places of an input."""

    centers: Tensor  # (L, 2), x and y in pixels of the network input
    strides: Tensor  # (L,), side of each place's cell in pixels
    scale_index: Tensor  # (L,) int64, an index into the generator's scales
    grids: list[_Grid]  # one for each MLP and level

    def inside(self, image_size: tuple[int, int]) -> Tensor:
        """Tell which places lie on the image and not on a batch's padding: (L,) bool."""
        height, width = image_size
        return (self.centers[:, 0] < width) & (self.centers[:, 1] < height)


@PROPOSAL_GENERATOR_REGISTRY.register()
class MaskProposalGenerator(nn.Module):
    """Proposes object masks at every cell of every level, by one or more MLPs."""

    @configurable
    def __init__(
        self,
        *,
        head: MaskProposalHead,
        in_features: list[str],
        strides: list[int],
        scales: list[list[float]],
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
            in_features: names of the levels, fine to coarse.
            strides: stride of each level, in pixels.
            scales: for each MLP, the scale of objects on each level, in pixels of the network
                input.
            padding: see :func:`regions_of`.
            center_radius: see :func:`assign_places`, in cells.
            max_octaves: see :func:`assign_scales`.
            batch_size_per_image: number of places to sample from each image in training.
            positive_fraction: the largest share of positives among them.
            mask_loss_weight: weight of the mask's loss; the score's has 1.
            topk: number of proposals for each image in testing.
            mask_threshold: the least probability at which a pixel belongs to a mask.
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
        # (S,), MLP by MLP and level by level.
        flat = torch.tensor(scales, dtype=torch.float32).flatten()
        self.register_buffer("scales", flat, persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """See :class:`detectron2.config.configurable`."""
        keys = cfg.MODEL.MASK_PROPOSAL
        shapes = [input_shape[name] for name in keys.IN_FEATURES]
        return {
            "head": MaskProposalHead(
                shapes[0].channels,
                window_sizes=list(keys.WINDOWS),
                hidden_dim=keys.HIDDEN_DIM,
                mask_size=keys.MASK_SIZE,
            ),
            "in_features": list(keys.IN_FEATURES),
            "strides": [shape.stride for shape in shapes],
            "scales": [list(scales) for scales in keys.SIZES],
            "padding": keys.PADDING,
            "center_radius": keys.CENTER_RADIUS,
            # Scales lie half an octave apart, so the middle of two is a quarter away from both.
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
            images: the images of the batch.
            features: (N, C, H, W) of each level, by its name.
            gt_instances: in training, ``gt_boxes`` and ``gt_masks`` of each image.

        Returns:
            in testing, each image's best proposals: ``scores`` (K,) of 0 to 1 and ``pred_masks``
            (:class:`RegionMasks`), best first, in pixels of the network input; in training, the
            losses.
        """
        maps = [features[name] for name in self.in_features]
        places = self._places(maps)
        if self.training:
            return [], self.losses(maps, places, gt_instances)
        return self.predict(maps, places, images.image_sizes), {}

    def _places(self, maps: list[Tensor]) -> _Places:
        centers, strides, scale_index, grids, count = [], [], [], [], 0
        for mlp in range(len(self.head.mlps)):
            for level, feature in enumerate(maps):
                height, width = feature.shape[-2:]
                grids.append(_Grid(mlp, level, count, height, width))
                count += height * width
                stride, device = self.strides[level], feature.device
                centers.append(cell_centers(height, width, stride, device))
                strides.append(centers[-1].new_full((height * width,), stride))
                index = mlp * len(maps) + level
                scale_index.append(torch.full((height * width,), index, device=device))
        return _Places(torch.cat(centers), torch.cat(strides), torch.cat(scale_index), grids)

    @torch.no_grad()
    def match(self, places: _Places, instances: Instances) -> Tensor:
        """Find the object that each place answers for: (L,) int64, -1 for none."""
        boxes = instances.gt_boxes.tensor
        scale_of_box = assign_scales(boxes, self.scales, self.max_octaves)
        of_places = places.centers, places.strides, places.scale_index
        return assign_places(*of_places, boxes, scale_of_box, self.center_radius)

    def _regions(self, places: _Places, chosen: Tensor) -> Tensor:
        """Compute the regions of places: (K,) numbers to (K, 4) x0 y0 x1 y1 in pixels."""
        scales = self.scales[places.scale_index[chosen]]
        return regions_of(places.centers[chosen], scales, self.padding)

    @torch.no_grad()
    def sample(self, places: _Places, instances: Instances) -> tuple[Tensor, Tensor, Tensor]:
        """Sample places of an image.

        Returns:
            (K,) numbers of the sampled places, positives first; (P,) indices of the positives'
            objects; (P, M, M) bool, the positives' mask targets.
        """
        objects = self.match(places, instances)
        labels = (objects >= 0).long()
        labels[~places.inside(instances.image_size)] = -1
        positive, negative = subsample_labels(
            labels, self.batch_size_per_image, self.positive_fraction, 0
        )
        objects = objects[positive]
        regions = self._regions(places, positive)
        size = self.head.mask_size
        if len(positive):
            targets = instances.gt_masks[objects].crop_and_resize(regions, size)
            targets = targets.to(regions.device)
        else:
            targets = torch.zeros((0, size, size), dtype=torch.bool, device=regions.device)
        return torch.cat([positive, negative]), objects, targets

    def losses(
        self, maps: list[Tensor], places: _Places, gt_instances: list[Instances]
    ) -> dict[str, Tensor]:
        """Compute the logistic losses of scores and masks at the samples (Appendix A).

        Args:
            maps: (N, C, H, W) of each level, fine to coarse.
            places: the places of these maps.
            gt_instances: ``gt_boxes`` and ``gt_masks`` of each image.
        """
        samples = [self.sample(places, instances) for instances in gt_instances]
        score_losses, mask_losses, num_positive = [], [], 0
        for grid in places.grids:
            cells, labels, targets = [], [], []
            for n, (chosen, objects, masks) in enumerate(samples):
                here = grid.contains(chosen).nonzero().squeeze(1)
                cell = chosen[here] - grid.first
                image = torch.full_like(cell, n)
                cells.append(torch.stack([image, cell // grid.width, cell % grid.width], dim=1))
                labels.append(here < len(objects))  # the positives are first
                targets.append(masks[here[labels[-1]]])
            label, target = torch.cat(labels), torch.cat(targets).float()
            hidden = self.head.hidden_at(maps[grid.level], grid.mlp, torch.cat(cells))
            scores = self.head.scores_at(hidden, grid.mlp).float()
            masks = self.head.masks_at(hidden[label], grid.mlp).float()
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
        self, maps: list[Tensor], places: _Places, image_sizes: list[tuple[int, int]]
    ) -> list[Instances]:
        """Find the best proposals of each image; masks are computed for these alone.

        Args:
            maps, places: see :meth:`losses`.
            image_sizes: (height, width) of each image in pixels, without padding.
        """
        hidden = [self.head.hidden(maps[grid.level], grid.mlp) for grid in places.grids]
        logits = (self.head.scores(h, g.mlp) for h, g in zip(hidden, places.grids, strict=True))
        scores = torch.cat([grid_logits.float().flatten(1) for grid_logits in logits], dim=1)
        return [
            self._best(scores[n], [units[n] for units in hidden], places, size)
            for n, size in enumerate(image_sizes)
        ]

    def _best(
        self, scores: Tensor, hidden: list[Tensor], places: _Places, image_size: tuple[int, int]
    ) -> Instances:
        """Find an image's best proposals from (L,) scores and (D, H, W) hidden units per grid."""
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
        for units, grid in zip(hidden, places.grids, strict=True):
            here = grid.contains(chosen).nonzero().squeeze(1)
            rows = units.flatten(1)[:, chosen[here] - grid.first].t()
            masks[here] = self.head.masks_at(rows, grid.mlp).float().sigmoid()
        regions = self._regions(places, chosen)
        found = Instances(image_size)
        found.scores = logits.sigmoid()
        found.pred_masks = RegionMasks(masks, regions, image_size, self.mask_threshold)
        return found
