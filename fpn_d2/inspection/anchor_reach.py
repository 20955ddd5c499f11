"""Which anchors an object has: the best IoU, the matches of training, sizes that reach more.

Shape shorthand: R objects, L levels, A anchors at each place of a level. Boxes are x0 y0 x1 y1 in
pixels of the network input, and an image has the level's ceil(side / stride) places along a side.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, pairwise_iou
from torch import Tensor, nn

__all__ = [
    "Matches",
    "Suggestion",
    "best_ious",
    "match_anchors",
    "network_inputs",
    "places",
    "suggest_sizes",
]

# IoUs that are in memory at once, times about six for the steps to them.
_IOUS_AT_ONCE = 4_000_000
_OBJECTS_AT_ONCE = 50_000
# The search: quarters of an octave, up to a factor of 16 to each side.
_STEPS_OF_OCTAVE, _OCTAVES = 4, 4
_LEAST_SIZE = 4  # pixels
# Reach that is not worth another set of anchors.
_EQUAL_REACH = 0.002


def network_inputs(
    boxes: np.ndarray, sizes: np.ndarray, min_size: int, max_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Bring boxes into the network input, as Detectron2's test-time resizing does.

    Args:
        boxes: (R, 4), in pixels of the image.
        sizes: (R, 2), height and width of each box's image in pixels.
        min_size, max_size: ``INPUT.MIN_SIZE_TEST`` (0: no resizing) and ``MAX_SIZE_TEST``.

    Returns:
        (R, 4) float32 and (R, 2) int64, boxes and image sizes in pixels of the network input.
    """
    if not min_size:
        return boxes.astype(np.float32), sizes
    unique, which = np.unique(sizes, axis=0, return_inverse=True)
    resized = np.array(
        [
            ResizeShortestEdge.get_output_shape(height, width, min_size, max_size)
            for height, width in unique.tolist()
        ]
    )
    factors = (resized / unique)[which.reshape(-1)][:, [1, 0, 1, 0]]
    return (boxes * factors).astype(np.float32), resized[which.reshape(-1)]


def places(sizes: np.ndarray, strides: Sequence[int], divisibility: int) -> np.ndarray:
    """How many cells each level has along the sides of an image that is padded for the network.

    Args:
        sizes: (R, 2), height and width of the network input in pixels.
        strides: of the L levels.
        divisibility: the backbone's ``size_divisibility``; 0 for no padding.

    Returns:
        (R, L, 2) int64, rows and columns.
    """
    padded = -(-sizes // max(1, divisibility)) * max(1, divisibility)
    return -(-padded[:, None] // np.asarray(strides)[None, :, None])


def best_ious(generator: nn.Module, boxes: np.ndarray, grids: np.ndarray) -> np.ndarray:
    """The largest IoU that each object has with any anchor of each level.

    It is exact, and needs none of the anchors but one of each shape: the overlap along a side is
    largest at the place whose anchor's centre is nearest to the object's.

    Args:
        generator: Detectron2's anchor generator.
        boxes: (R, 4) float32.
        grids: (R, L, 2), see :func:`places`.

    Returns:
        (R, L) float32.
    """
    best = np.zeros((len(boxes), len(generator.strides)), dtype=np.float32)
    for start in range(0, len(boxes), _OBJECTS_AT_ONCE):
        part = slice(start, start + _OBJECTS_AT_ONCE)
        for level, cells in enumerate(generator.cell_anchors):
            best[part, level] = _best_of_level(generator, level, cells, boxes[part], grids[part])
    return best


def _best_of_level(
    generator: nn.Module, level: int, cells: Tensor, boxes: np.ndarray, grids: np.ndarray
) -> np.ndarray:
    """(R,), over the level's A shapes."""
    stride = generator.strides[level]
    boxes, cells = boxes[:, None].astype(np.float64), cells.double().numpy()[None]
    overlap: np.ndarray | float = 1.0
    for side, other in ((0, 2), (1, 3)):
        number = grids[:, level, 1 - side, None]  # columns along x, rows along y
        low, high = boxes[..., side], boxes[..., other]
        center = (low + high - cells[..., side] - cells[..., other]) / 2
        place = np.clip(np.round(center / stride - generator.offset), 0, number - 1)
        shift = (place + generator.offset) * stride
        ends = (
            np.minimum(high, shift + cells[..., other]),
            np.maximum(low, shift + cells[..., side]),
        )
        overlap = overlap * np.clip(ends[0] - ends[1], 0, None)
    areas = [(b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1]) for b in (boxes, cells)]
    return (overlap / (areas[0] + areas[1] - overlap)).max(axis=1)


@dataclasses.dataclass(frozen=True, eq=False)
class Matches:
    """The anchors of one image that training counts as an object, before it samples them.

    Args:
        boxes: (K, 4) float32, the anchors.
        levels: (K,) int64, the level of each, counted from 0.
        objects: (K,) int64, the object that each is matched to.
    """

    boxes: Tensor
    levels: Tensor
    objects: Tensor


def match_anchors(
    generator: nn.Module, matcher: Matcher, boxes: Tensor, grid: Sequence[Sequence[int]]
) -> Matches:
    """Match the anchors of one image by Detectron2's own matcher, in bounded memory.

    The matcher sees only the anchors that can be positive: those that reach its threshold with an
    object, and the best of each object. The others would be negative beside any of these.

    Args:
        generator: Detectron2's anchor generator.
        matcher: as the RPN or RetinaNet has it.
        boxes: (R, 4) float32, the objects.
        grid: L of rows and columns, see :func:`places`.

    Returns:
        the positive anchors.
    """
    lowest = min(
        low
        for low, label in zip(matcher.thresholds[:-1], matcher.labels, strict=True)
        if label == 1
    )
    candidates = []
    for level, anchors in enumerate(generator._grid_anchors([tuple(g) for g in grid])):
        for part in anchors.split(max(1, _IOUS_AT_ONCE // max(1, len(boxes)))):
            ious = pairwise_iou(Boxes(boxes), Boxes(part))
            best = ious == ious.max(dim=1, keepdim=True).values
            can = ((ious >= lowest) | best).any(dim=0) & (ious > 0).any(dim=0)
            candidates.append((part[can], torch.full((int(can.sum()),), level), ious[:, can]))
    anchors, levels = (torch.cat([c[i] for c in candidates]) for i in range(2))
    ious = torch.cat([c[2] for c in candidates], dim=1)
    # Given an object that touches no anchor, the matcher would take all that touch none for its
    # best.
    (touched,) = (ious > 0).any(dim=1).nonzero(as_tuple=True)
    objects, labels = matcher(ious[touched])
    positive = labels == 1
    return Matches(anchors[positive], levels[positive], touched[objects[positive]])


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """Anchor sizes for a data set.

    Args:
        sizes: a list for each level, in pixels of the network input.
        factor: what the present sizes were multiplied by, before rounding; 1.0 are the present.
        reach: the share of objects with an anchor at the IoU, 0 to 1.
        present_reach: that of the present sizes.
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
    iou: float = 0.5,
) -> Suggestion:
    """Search for the sizes that reach most objects, the present ones multiplied by one factor.

    The steps between sizes, the numbers of them and the aspect ratios stay. The factors are
    2^(k/4), k = -16 to 16, and the sizes are rounded to whole pixels, none below 4. Every
    candidate is measured by :func:`best_ious`. Of those within 0.2 points of the best, the factor
    nearest to 1 is suggested: where that is 1, the present sizes are as good as any.

    Args:
        build: makes Detectron2's anchor generator at L lists of sizes.
        sizes: L lists, the present sizes in pixels.
        boxes: (R, 4) float32, one object at least.
        grids: (R, L, 2), see :func:`places`.
        iou: what reaches an object.

    Returns:
        the suggestion.
    """
    found: dict[float, tuple[float, list[list[float]]]] = {}
    for factor, candidate in _candidates(sizes):
        ious = best_ious(build(candidate), boxes, grids)
        found[factor] = float((ious.max(axis=1) >= iou).mean()), candidate
    most = max(reach for reach, _ in found.values())
    enough = [f for f, (reach, _) in found.items() if reach >= most - _EQUAL_REACH]
    factor = min(enough, key=lambda f: (abs(np.log2(f)), -found[f][0]))
    reach, best = found[factor]
    return Suggestion(best, factor, reach, found[1.0][0])


def _candidates(sizes: Sequence[Sequence[float]]) -> Iterator[tuple[float, list[list[float]]]]:
    yield 1.0, [list(level) for level in sizes]
    for step in range(-_OCTAVES * _STEPS_OF_OCTAVE, _OCTAVES * _STEPS_OF_OCTAVE + 1):
        factor = 2 ** (step / _STEPS_OF_OCTAVE)
        if step and factor * min(min(level) for level in sizes) >= _LEAST_SIZE:
            yield factor, [[float(round(s * factor)) for s in level] for level in sizes]
