"""The anchors of objects: best IoUs, matches in training, and sizes that reach more objects.

Shape shorthand: R objects, L levels, A anchors at each place of a level. Boxes are x0 y0 x1 y1 in
pixels of the network input. A level of an image has ceil(side / stride) places along a side.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes
from torch import Tensor, nn

from ..modeling import match_anchors

REACHED_AT = 0.5  # the IoU from which an anchor reaches an object

_OBJECTS_AT_ONCE = 50_000
_QUARTER_OCTAVES = range(-16, 17)  # those that are searched, four octaves to each side
_LEAST_SIZE = 4  # pixels
# A difference in reach that is not worth another set of anchors.
_EQUAL_REACH = 0.002


def network_inputs(
    boxes: np.ndarray, sizes: np.ndarray, min_size: int, max_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scale boxes to the network input, as Detectron2's test-time resizing scales their images.

    Args:
        boxes: (R, 4), in pixels of the image.
        sizes: (R, 2), height and width of each box's image, in pixels.
        min_size, max_size: ``INPUT.MIN_SIZE_TEST`` (0: no resizing) and ``MAX_SIZE_TEST``.

    Returns:
        (R, 4) float32 and (R, 2) int64, boxes and image sizes in pixels of the network input.
    """
    if not min_size:
        return boxes.astype(np.float32), sizes
    unique, which = np.unique(sizes, axis=0, return_inverse=True)
    resized = np.array(
        [ResizeShortestEdge.get_output_shape(*size, min_size, max_size) for size in unique.tolist()]
    )
    resized = np.maximum(resized, 1)  # the loaders, too, keep a pixel of a narrow side
    factors = (resized / unique)[which.reshape(-1)][:, [1, 0, 1, 0]]
    return (boxes * factors).astype(np.float32), resized[which.reshape(-1)]


def grid_sizes(sizes: np.ndarray, strides: Sequence[int], divisibility: int) -> np.ndarray:
    """Return how many cells each level has along the sides of the padded network input.

    Args:
        sizes: (R, 2), height and width of the network input, in pixels.
        strides: the strides of the L levels, in pixels.
        divisibility: the backbone's ``size_divisibility``; 0 for no padding.

    Returns:
        (R, L, 2) int64, rows and columns.
    """
    padded = -(-sizes // max(1, divisibility)) * max(1, divisibility)
    return -(-padded[:, None] // np.asarray(strides)[None, :, None])


def best_ious(generator: nn.Module, boxes: np.ndarray, grids: np.ndarray) -> np.ndarray:
    """Compute the largest IoU of each object with any anchor of each level.

    The result is exact, and needs only one anchor of each shape: the overlap along a side is
    largest at the place where the anchor's centre is nearest to the object's.

    Args:
        generator: Detectron2's anchor generator.
        boxes: (R, 4) float32.
        grids: (R, L, 2), see :func:`grid_sizes`.

    Returns:
        (R, L) float32.
    """
    best = np.zeros((len(boxes), len(generator.strides)), dtype=np.float32)
    for start in range(0, len(boxes), _OBJECTS_AT_ONCE):
        part = slice(start, start + _OBJECTS_AT_ONCE)
        for level in range(best.shape[1]):
            best[part, level] = _best_of_level(generator, level, boxes[part], grids[part, level])
    return best


def _best_of_level(
    generator: nn.Module, level: int, boxes: np.ndarray, grid: np.ndarray
) -> np.ndarray:
    """Return the largest IoU (R,) with any of the level's A shapes; ``grid`` is (R, 2)."""
    stride, shapes = generator.strides[level], list(generator.cell_anchors)[level]
    boxes, shapes = boxes[:, None].astype(np.float64), shapes.double().numpy()[None]
    overlap: np.ndarray | float = 1.0
    for side, other in ((0, 2), (1, 3)):
        low, high = boxes[..., side], boxes[..., other]
        center = (low + high - shapes[..., side] - shapes[..., other]) / 2
        last = grid[:, 1 - side, None] - 1  # the last column along x, the last row along y
        place = np.clip(np.round(center / stride - generator.offset), 0, last)
        shift = (place + generator.offset) * stride
        end = np.minimum(high, shift + shapes[..., other])
        overlap = overlap * np.clip(end - np.maximum(low, shift + shapes[..., side]), 0, None)
    areas = [(b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1]) for b in (boxes, shapes)]
    return (overlap / (areas[0] + areas[1] - overlap)).max(axis=1)


def positive_anchors(
    generator: nn.Module,
    matcher: Matcher,
    boxes: Tensor,
    grid: Sequence[Sequence[int]],
    inside: tuple[Sequence[int], float] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the anchors of one image that training would label positive, before it samples them.

    Args:
        generator: Detectron2's anchor generator.
        matcher: the matcher of the RPN or of the RetinaNet.
        boxes: (R, 4) float32, the objects.
        grid: rows and columns of each of the L levels, see :func:`grid_sizes`.
        inside: height and width of the network input, and by how many pixels a positive anchor may
            be beyond it; None for any.

    Returns:
        for K positive anchors: (K, 4) float32, their boxes; (K,) int64, their levels, counted
        from 0; (K,) int64, the object that each is matched to.
    """
    by_level = generator([torch.empty(()).expand(1, 1, *cells) for cells in grid])
    counts = torch.tensor([len(anchors) for anchors in by_level])
    levels = torch.arange(len(counts)).repeat_interleave(counts)
    near = _may_be_positive(generator, matcher, boxes, grid)
    near[0] = True  # the matcher takes no less than one
    anchors, levels = Boxes.cat(by_level)[near], levels[near]
    objects, labels, _ = match_anchors(anchors, Boxes(boxes), matcher, skip_untouched=True)
    positive = labels == 1
    if inside is not None:
        positive &= anchors.inside_box(*inside)
    return anchors.tensor[positive], levels[positive], objects[positive]


def _may_be_positive(
    generator: nn.Module, matcher: Matcher, boxes: Tensor, grid: Sequence[Sequence[int]]
) -> Tensor:
    """Return which anchors overlap an object as much as its best ones, or enough for the matcher,
    can: a few of the 200,000 of an image. (K,) bool, for the K anchors of all levels."""
    grids = np.tile(np.array(grid), (len(boxes), 1, 1))
    best = torch.from_numpy(best_ious(generator, boxes.numpy(), grids).max(axis=1))
    least = 0.99 * best.clamp(max=matcher.thresholds[-2])[:, None, None]  # for rounding
    boxes, near = boxes[:, None], []
    for stride, shapes, cells in zip(generator.strides, generator.cell_anchors, grid, strict=True):
        own, other = boxes[..., 2:] - boxes[..., :2], shapes[:, 2:] - shapes[:, :2]
        common = torch.minimum(own, other)
        # IoU is at most the overlap over the larger area, so this much must overlap along a side.
        need = least * torch.maximum(own.prod(-1), other.prod(-1))[..., None] / common.flip(-1)
        first = ((boxes[..., :2] - shapes[:, 2:] + need) / stride - generator.offset).ceil()
        last = ((boxes[..., 2:] - shapes[:, :2] - need) / stride - generator.offset).floor()
        ranges = torch.cat([first, last + 1], dim=-1).clamp(min=0).long()
        found = torch.zeros(*cells, len(shapes), dtype=torch.bool)
        fits = (need <= common).all(-1)
        of_shapes = fits.nonzero()[:, 1].tolist()
        for shape, (x0, y0, x1, y1) in zip(of_shapes, ranges[fits].tolist(), strict=True):
            found[y0:y1, x0:x1, shape] = True
        near.append(found.flatten())
    return torch.cat(near)


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """Anchor sizes for a data set.

    Args:
        sizes: a list for each level, in pixels of the network input.
        factor: what the present sizes were multiplied by, before rounding; 1.0 keeps them.
        reach: the share of objects that an anchor of these sizes reaches, 0 to 1.
        present_reach: the share that the present sizes reach, 0 to 1.
    """

    sizes: list[list[float]]
    factor: float
    reach: float
    present_reach: float


def suggest_sizes(
    build: Callable[[list[list[float]]], nn.Module],
    sizes: Sequence[Sequence[float]],
    boxes: np.ndarray,
    grids: np.ndarray,
) -> Suggestion:
    """Search for the sizes that reach the most objects: the present ones times one factor.

    The ratios between sizes, their number and the aspect ratios stay. The factors are 2^(k/4),
    k = -16 to 16, and the sizes are rounded to whole pixels, none below 4. :func:`best_ious`
    measures every candidate. Among those within 0.2 points of the best, the factor nearest to 1
    is suggested: if that is 1, the present sizes are as good as any.

    Args:
        build: makes Detectron2's anchor generator from L lists of sizes.
        sizes: L lists, the present sizes in pixels of the network input.
        boxes: (R, 4) float32, one object at least.
        grids: (R, L, 2), see :func:`grid_sizes`.
    """
    candidates = {1.0: [list(level) for level in sizes]}
    for factor in (2 ** (k / 4) for k in _QUARTER_OCTAVES if k):
        if factor * min(map(min, sizes)) >= _LEAST_SIZE:
            candidates[factor] = [[float(round(s * factor)) for s in level] for level in sizes]
    reach = {
        factor: float((best_ious(build(found), boxes, grids).max(axis=1) >= REACHED_AT).mean())
        for factor, found in candidates.items()
    }
    enough = [f for f, share in reach.items() if share >= max(reach.values()) - _EQUAL_REACH]
    factor = min(enough, key=lambda f: (abs(np.log2(f)), -reach[f]))
    return Suggestion(candidates[factor], factor, reach[factor], reach[1.0])
