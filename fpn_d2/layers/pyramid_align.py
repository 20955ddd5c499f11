"""RoIAlign as a weighted gather: torchvision's result, several times as fast on CPUs.

A bin of RoIAlign is a weighted sum of pixels. Once its samples are merged by pixel, the weights are
the product of one row of weights per axis. The pixels, channels last, are rows of a table, so
``embedding_bag`` computes many bins at once. It also computes the gradient, which is the same sum
the other way round.

Shape shorthand: N images, C channels, R boxes, S x S bins, B bins of several boxes, K pixels in a
bin, L levels.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# The most pairs of an index and a weight in one piece of work. A pair takes 12 bytes.
_MAX_ENTRIES = 1 << 22


def pyramid_roi_align(
    features: Sequence[Tensor],
    boxes: Tensor,
    levels: Tensor,
    scales: Sequence[float],
    output_size: int | tuple[int, int],
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> Tensor:
    """Pool RoIs from all levels of a pyramid; :func:`torchvision.ops.roi_align` up to rounding.

    It is fastest on features that are channels-last in memory; others are copied.

    Args:
        features: L of (N, C, H, W), fine to coarse.
        boxes: (R, 5), the image's index, then x0 y0 x1 y1 in pixels of the network input.
        levels: (R,) int64, the level, 0 to L - 1, to pool each box from. A box of another level, or
            one that is not finite, gives zeros, as in Detectron2.
        scales: cells per pixel of each level, such as 1 / 4.
        output_size: S, or the height and the width in bins.
        sampling_ratio: samples of a bin along each axis; 0 takes ceil(size of the bin in cells).
        aligned: whether boxes are shifted by half a cell (``ROIAlignV2``).

    Returns:
        (R, C, S, S) in the features' precision, channels-last. Boxes get no gradient.
    """
    bins = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    if not len(boxes):
        # All levels get a gradient of zeros, which training in several processes needs.
        nothing = sum(feature[:0].sum() for feature in features)
        return features[0].new_zeros((0, features[0].shape[1], *bins)) + nothing
    levels = torch.where(boxes.isfinite().all(dim=1), levels, -1)
    plan = _Plan(bins, int(sampling_ratio), aligned, tuple(scales))
    return _PyramidAlign.apply(plan, boxes.detach(), levels, *features)


class _Plan(NamedTuple):
    """The settings, which do not depend on the input; see :func:`pyramid_roi_align`."""

    bins: tuple[int, int]
    sampling_ratio: int
    aligned: bool
    scales: tuple[float, ...]


class _PyramidAlign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: _Plan, boxes: Tensor, levels: Tensor, *features: Tensor) -> Tensor:
        channels = features[0].shape[1]
        pooled = features[0].new_empty((len(boxes), *plan.bins, channels))
        for level, feature in enumerate(features):
            table = _table(feature)
            for part, index, weights in _bags(plan, boxes, levels, level, feature.shape):
                bags = F.embedding_bag(
                    index, table, mode="sum", per_sample_weights=weights.to(table.dtype)
                )
                pooled[part] = bags.view(-1, *plan.bins, channels)
        nowhere = (levels < 0) | (levels >= len(features))
        if nowhere.any():  # otherwise a needless pass over all that was pooled
            pooled[nowhere] = 0
        ctx.plan, ctx.shapes = plan, [feature.shape for feature in features]
        ctx.save_for_backward(boxes, levels)
        return pooled.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        boxes, levels = ctx.saved_tensors
        table = _table(grad)  # a row for each bin of each box
        needed = ctx.needs_input_grad[3:]
        grads = [
            _backward(ctx.plan, boxes, levels, level, shape, table) if needed[level] else None
            for level, shape in enumerate(ctx.shapes)
        ]
        return None, None, None, *grads


def _backward(
    plan: _Plan, boxes: Tensor, levels: Tensor, level: int, shape: torch.Size, table: Tensor
) -> Tensor:
    """Compute the gradient of one level: for each of its pixels, the sum over its bins."""
    images, channels, height, width = shape
    bins_of_box = plan.bins[0] * plan.bins[1]
    first = torch.arange(bins_of_box, device=boxes.device)
    grad = table.new_zeros((images * height * width, channels))
    pieces: list[tuple[Tensor, Tensor, Tensor]] = []
    entries = 0
    for part, index, weight in _bags(plan, boxes, levels, level, shape):
        of_bag = (part[:, None] * bins_of_box + first).flatten()
        pieces.append((index.flatten(), of_bag.repeat_interleave(index.shape[1]), weight.flatten()))
        entries += index.numel()
        if entries >= _MAX_ENTRIES:
            _add_pieces(grad, table, pieces)
            pieces, entries = [], 0
    if pieces:
        _add_pieces(grad, table, pieces)
    return grad.view(images, height, width, channels).permute(0, 3, 1, 2)


def _add_pieces(
    grad: Tensor, table: Tensor, pieces: Sequence[tuple[Tensor, Tensor, Tensor]]
) -> None:
    """Add to each pixel's row of ``grad`` the weighted ``table`` rows of its bins."""
    pixels, bins, weights = (torch.cat(column) for column in zip(*pieces, strict=True))
    pixels, order = pixels.sort()
    touched, counts = pixels.unique_consecutive(return_counts=True)
    sums = F.embedding_bag(
        bins[order],
        table,
        counts.cumsum(0) - counts,
        mode="sum",
        per_sample_weights=weights[order].to(table.dtype),
    )
    grad.index_add_(0, touched, sums)


def _table(feature: Tensor) -> Tensor:
    """View (N, C, H, W) as (N H W, C); copy it if it is not channels-last."""
    return feature.permute(0, 2, 3, 1).reshape(-1, feature.shape[1])


def _bags(
    plan: _Plan, boxes: Tensor, levels: Tensor, level: int, shape: torch.Size
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Find the pixels of the bins of a level's boxes, and their weights.

    Yields:
        the indices of some of the boxes; (B, K) int64, the pixels of their bins as rows of the
        level's table; (B, K), the weights of these pixels.
    """
    chosen = (levels == level).nonzero().squeeze(1)
    if not len(chosen):
        return
    _, _, height, width = shape
    rois = boxes[chosen].to(torch.promote_types(boxes.dtype, torch.float32))
    shift = 0.5 if plan.aligned else 0.0
    x0, y0, x1, y1 = (rois[:, 1:] * plan.scales[level] - shift).unbind(dim=1)
    rows = _merge_samples(y0, y1, plan, plan.bins[0], height)
    columns = _merge_samples(x0, x1, plan, plan.bins[1], width)
    image = rois[:, 0].long() * (height * width)
    # Boxes whose bins span the same number of rows and of columns go together.
    kind = rows.spans * (int(columns.spans.max()) + 1) + columns.spans
    order = kind.argsort(stable=True)
    counts = kind[order].unique_consecutive(return_counts=True)[1].tolist()
    for same in order.split(counts):
        high, wide = int(rows.spans[same[0]]), int(columns.spans[same[0]])
        entries = plan.bins[0] * plan.bins[1] * high * wide
        for part in same.split(max(1, _MAX_ENTRIES // entries)):
            y = _cells(rows.first[part], high, height) * width + image[part, None, None]
            x = _cells(columns.first[part], wide, width)
            index = y[:, :, None, :, None] + x[:, None, :, None, :]
            weights = (
                rows.weights[part, :, None, :high, None]
                * columns.weights[part, None, :, None, :wide]
            )
            yield chosen[part], index.reshape(-1, high * wide), weights.reshape(-1, high * wide)


def _cells(first: Tensor, span: int, size: int) -> Tensor:
    """Return ``span`` cells from each of the (R, S) first ones on, (R, S, span). A cell beyond the
    map, where weights are 0, becomes the map's last cell."""
    return (first[..., None] + torch.arange(span, device=first.device)).clamp(max=size - 1)


class _Axis(NamedTuple):
    """Samples of bins along one axis, merged by cell.

    Args:
        first: (R, S) int64, the first cell of each bin.
        weights: (R, S, K), the weights of the cells from there on.
        spans: (R,) int64, the largest number of cells that a bin of each box spans.
    """

    first: Tensor
    weights: Tensor
    spans: Tensor


def _merge_samples(low: Tensor, high: Tensor, plan: _Plan, bins: int, size: int) -> _Axis:
    """Place the samples of all bins along one axis, and merge them by cell.

    Args:
        low, high: (R,), the borders of the boxes in cells.
        plan: the settings.
        bins: S.
        size: the size of the map along the axis, in cells.
    """
    length = high - low
    if not plan.aligned:
        length = length.clamp(min=1.0)
    bin_size = length / bins
    samples = (
        bin_size.ceil()
        if plan.sampling_ratio <= 0
        else torch.full_like(length, plan.sampling_ratio)
    )
    grid = torch.arange(max(1, int(samples.max())), device=low.device)
    edges = low[:, None] + torch.arange(bins, device=low.device) * bin_size[:, None]
    step = (bin_size / samples.clamp(min=1))[:, None, None]
    position = edges[:, :, None] + (grid + 0.5) * step
    # A sample more than a cell outside the map counts as 0, a nearer one as the border cell.
    counts = (position >= -1) & (position <= size) & (grid < samples[:, None])[:, None]
    position = position.clamp(min=0)
    cell = position.floor().clamp(max=size - 1)
    share = torch.where(cell < size - 1, position - cell, 0.0)
    each = counts / samples.clamp(min=1)[:, None, None]
    cell = cell.long()
    first = torch.where(counts, cell, size).amin(dim=2).clamp(max=size - 1)
    last = torch.where(counts, cell + 1, 0).amax(dim=2)
    spans = (last - first + 1).clamp(min=1).amax(dim=1)
    weights = position.new_zeros((*first.shape, int(spans.max()) + 1))
    offset = torch.where(counts, cell - first[..., None], 0)
    weights.scatter_add_(2, offset, each * (1 - share))
    weights.scatter_add_(2, offset + 1, each * share)
    return _Axis(first, weights, spans)
