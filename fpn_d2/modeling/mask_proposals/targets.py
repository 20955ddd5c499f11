"""Which place answers for which object, and which region of the image it looks at (Sec. 6).

Shape shorthand: L places (the cells of all levels, once for each window), G objects, S scales.
Places and boxes are in pixels of the network input.
"""

import torch
from detectron2.structures import BitMasks, Boxes, PolygonMasks
from torch import Tensor

__all__ = ["assign_places", "assign_scales", "cell_centers", "crop_masks", "regions_of"]


def cell_centers(height: int, width: int, stride: int, device: torch.device) -> Tensor:
    """The centres of a level's cells.

    Args:
        height, width: of the level, in cells.
        stride: pixels in a cell's side.
        device: of the result.

    Returns:
        (height * width, 2), x and y in pixels, row by row.
    """
    y = (torch.arange(height, device=device) + 0.5) * stride
    x = (torch.arange(width, device=device) + 0.5) * stride
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)


def regions_of(places: Tensor, scales: Tensor, padding: float) -> Tensor:
    """The squares that the masks cover: a mask's scale, and a share of it around (Sec. 6).

    Args:
        places: (L, 2), x and y in pixels.
        scales: (L,) in pixels.
        padding: 0.25 makes a region 40 px for a scale of 32 px.

    Returns:
        (L, 4), x0 y0 x1 y1.
    """
    half = (scales * (1 + padding) / 2)[:, None]
    return torch.cat([places - half, places + half], dim=1)


def assign_scales(boxes: Tensor, scales: Tensor, max_octaves: float | None = None) -> Tensor:
    """The scale of each object: that of max(width, height), to the nearest in log space.

    Args:
        boxes: (G, 4), x0 y0 x1 y1.
        scales: (S,) in pixels, ascending.
        max_octaves: objects farther from every scale than this belong to none; None: all belong.

    Returns:
        (G,) indices into ``scales``, -1 for none.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1).clamp(min=1e-3)
    octaves = (sides[:, None].log2() - scales[None].log2()).abs()
    distance, index = octaves.min(dim=1)
    if max_octaves is not None:
        # a quarter of an octave is 2^0.25, which float32 rounds
        index = torch.where(distance <= max_octaves + 1e-5, index, -1)
    return index


# Places with objects that are compared at once, each in about 24 bytes.
_MAX_PAIRS = 1 << 22


def assign_places(
    places: Tensor,
    strides: Tensor,
    place_scales: Tensor,
    boxes: Tensor,
    box_scales: Tensor,
    radius: float = 1.0,
) -> Tensor:
    """The object that each place answers for: one of its scale, with its centre within a cell.

    Args:
        places: (L, 2), x and y.
        strides: (L,), a cell's side in pixels.
        place_scales: (L,), each place's index of its scale.
        boxes: (G, 4), x0 y0 x1 y1.
        box_scales: (G,), from :func:`assign_scales`.
        radius: how far a centre may lie, in cells, along either axis.

    Returns:
        (L,) indices of objects, -1 where there is none.
    """
    answer = torch.full((len(places),), -1, dtype=torch.int64, device=places.device)
    least = places.new_full((len(places),), float("inf"))
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    # Smaller objects first: of equally near ones the first is taken.
    order = Boxes(boxes).area().argsort(stable=True)
    for scale in box_scales.unique().tolist():
        here = (place_scales == scale).nonzero().squeeze(1)
        mine = order[box_scales[order] == scale]
        for objects in mine.split(max(1, _MAX_PAIRS // max(1, len(here)))):
            offsets = (places[here, None] - centers[objects]).abs()
            distances = offsets.square().sum(dim=2)
            distances[offsets.amax(dim=2) > radius * strides[here, None]] = float("inf")
            nearest, index = distances.min(dim=1)
            better = nearest < least[here]
            answer[here[better]] = objects[index[better]]
            least[here] = torch.minimum(nearest, least[here])
    return answer


def crop_masks(masks: BitMasks | PolygonMasks, regions: Tensor, size: int) -> Tensor:
    """The masks of objects within regions: the targets of the mask outputs.

    Args:
        masks: R objects' masks.
        regions: (R, 4), x0 y0 x1 y1; beyond the image there is no object.
        size: M.

    Returns:
        (R, M, M) bool.
    """
    return masks.crop_and_resize(regions, size).to(regions.device)
