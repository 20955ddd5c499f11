"""The places that answer for each object, and the regions that they look at (Sec. 6).

Shape shorthand: L places (the cells of all levels, once for each MLP), G objects, S scales, R
regions, M x M mask outputs. Centres, boxes and scales are in pixels of the network input.
"""

import torch
from detectron2.structures import Boxes
from torch import Tensor

# The most pairs of a place and an object to compare at once; each takes about 24 bytes.
_MAX_PAIRS = 1 << 22


def cell_centers(height: int, width: int, stride: int, device: torch.device) -> Tensor:
    """Compute the centres of a level's height x width cells of ``stride`` pixels.

    Returns:
        (height * width, 2), x and y in pixels, row by row.
    """
    y = (torch.arange(height, device=device) + 0.5) * stride
    x = (torch.arange(width, device=device) + 0.5) * stride
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)


def regions_of(centers: Tensor, scales: Tensor, padding: float) -> Tensor:
    """Compute the squares that masks cover: the scale, enlarged by ``padding`` (Sec. 6).

    Args:
        centers: (L, 2), x and y in pixels.
        scales: (L,), in pixels.
        padding: share of the scale to add; 0.25 makes a region of 40 px for a scale of 32 px.

    Returns:
        (L, 4), x0 y0 x1 y1 in pixels.
    """
    half = (scales * (1 + padding) / 2)[:, None]
    return torch.cat([centers - half, centers + half], dim=1)


def assign_scales(boxes: Tensor, scales: Tensor, max_octaves: float | None = None) -> Tensor:
    """Assign each object the scale that is nearest to max(width, height) in log space.

    Args:
        boxes: (G, 4), x0 y0 x1 y1 in pixels.
        scales: (S,), in pixels. Of two equally near ones an object gets the smaller.
        max_octaves: objects farther than this from every scale get none; None assigns all.

    Returns:
        (G,) int64, indices into ``scales``, -1 for none.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1).clamp(min=1e-3)
    ascending, order = scales.sort()
    octaves = (sides[:, None].log2() - ascending[None].log2()).abs()
    distance, rank = octaves.min(dim=1)
    index = order[rank]
    if max_octaves is not None:
        # A quarter of an octave is 2^0.25, which float32 rounds.
        index = torch.where(distance <= max_octaves + 1e-5, index, -1)
    return index


def assign_places(
    centers: Tensor,
    strides: Tensor,
    scale_of_place: Tensor,
    boxes: Tensor,
    scale_of_box: Tensor,
    radius: float = 1.0,
) -> Tensor:
    """Find the object that each place answers for: one of its scale, centred within ``radius``.

    Args:
        centers: (L, 2), x and y of the places in pixels.
        strides: (L,), side of each place's cell in pixels.
        scale_of_place: (L,) int64, the index of each place's scale.
        boxes: (G, 4), x0 y0 x1 y1 in pixels.
        scale_of_box: (G,) int64, the index of each object's scale, from :func:`assign_scales`.
        radius: how far an object's centre may lie from a place, in cells, along either axis.

    Returns:
        (L,) int64, indices of objects, -1 for none.
    """
    answer = torch.full((len(centers),), -1, dtype=torch.int64, device=centers.device)
    least = centers.new_full((len(centers),), float("inf"))
    box_centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    # Smaller objects come first, because the first of equally near ones is taken.
    order = Boxes(boxes).area().argsort(stable=True)
    for scale in scale_of_box.unique().tolist():
        here = (scale_of_place == scale).nonzero().squeeze(1)
        mine = order[scale_of_box[order] == scale]
        for objects in mine.split(max(1, _MAX_PAIRS // max(1, len(here)))):
            offsets = (centers[here, None] - box_centers[objects]).abs()
            distances = offsets.square().sum(dim=2)
            distances[offsets.amax(dim=2) > radius * strides[here, None]] = float("inf")
            nearest, index = distances.min(dim=1)
            better = nearest < least[here]
            answer[here[better]] = objects[index[better]]
            least[here] = torch.minimum(nearest, least[here])
    return answer
