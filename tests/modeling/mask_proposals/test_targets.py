"""The assignment and the targets of Sec. 6 are those worked out by hand."""

import math

import pytest
import torch
from detectron2.structures import BitMasks, PolygonMasks

from fpn_d2.modeling.mask_proposals import targets
from fpn_d2.modeling.mask_proposals.targets import (
    assign_places,
    assign_scales,
    cell_centers,
    regions_of,
)

# Sec. 6: {32 .. 512} px with the 5x5 MLP on P2 .. P6, and sqrt(2) times that with the 7x7
SCALES = torch.tensor(sorted(32 * 2 ** (i / 2) for i in range(10)))


def test_the_regions_of_the_paper():
    # 25 % padding: masks of 32 .. 512 px are predicted in regions of 40 .. 640 px
    centers = torch.zeros(5, 2)
    regions = regions_of(centers, torch.tensor([32.0, 64, 128, 256, 512]), 0.25)
    assert (regions[:, 2] - regions[:, 0]).tolist() == [40, 80, 160, 320, 640]
    assert regions[0].tolist() == [-20, -20, 20, 20]


def test_the_centres_of_cells():
    assert cell_centers(2, 3, 8, torch.device("cpu")).tolist() == [
        [4, 4], [12, 4], [20, 4],
        [4, 12], [12, 12], [20, 12],
    ]  # fmt: skip


@pytest.mark.parametrize(
    "width, height, scale",
    [
        (32, 10, 32),  # max(width, height)
        (10, 32, 32),
        (45, 45, 32 * math.sqrt(2)),
        (38, 20, 32),  # the middle in log space is 32 * 2^0.25 = 38.05 ...
        (39, 20, 32 * math.sqrt(2)),  # ... and not 38.6, the mean
        (500, 700, 512 * math.sqrt(2)),
        (3, 2, 32),  # beyond the extremes
        (5000, 1, 512 * math.sqrt(2)),
        (0, 0, 32),
    ],
)
def test_the_nearest_scale_in_log_space(width, height, scale):
    for scales in (SCALES, SCALES.flip(0)):
        index = assign_scales(torch.tensor([[7.0, 9, 7 + width, 9 + height]]), scales)
        assert scales[index].item() == pytest.approx(scale)


def test_of_two_equally_near_scales_it_is_the_smaller():
    assert assign_scales(torch.tensor([[0.0, 0, 32, 32]]), torch.tensor([64.0, 16.0])).item() == 1


@pytest.mark.parametrize("side, belongs", [(107, False), (108, True), (152, True), (153, False)])
def test_on_an_image_pyramid_an_object_belongs_within_a_quarter_octave(side, belongs):
    # 128 * 2^-0.25 = 107.6 and 128 * 2^0.25 = 152.2
    box = torch.tensor([[0.0, 0, side, 10]])
    assert (assign_scales(box, torch.tensor([128.0]), 0.25) == 0).tolist() == [belongs]


def places_of(stride: int, height: int = 8, width: int = 8):
    centers = cell_centers(height, width, stride, torch.device("cpu"))
    return centers, torch.full((len(centers),), float(stride)), torch.zeros(len(centers)).long()


def positives(boxes, stride=4, scale_of_box=None, radius=1.0):
    centers, strides, scales = places_of(stride)
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    scale_of_box = torch.tensor(scale_of_box or [0] * len(boxes), dtype=torch.int64)
    found = assign_places(centers, strides, scales, boxes, scale_of_box, radius)
    return {tuple(centers[i].tolist()): found[i].item() for i in (found >= 0).nonzero()[:, 0]}


@pytest.mark.parametrize(
    "box, radius, xs, ys",
    [
        # centre (10, 14), which is a place: 6, 10, 14 are within 4 px of 10, and 10, 14, 18 of 14;
        # (14, 18) is 4 px off along both axes, 5.7 px in all
        ([5, 4, 15, 24], 1.0, (6, 10, 14), (10, 14, 18)),
        # centre (12, 14), between places: 10 and 14 are within 4 px of 12
        ([4, 4, 20, 24], 1.0, (10, 14), (10, 14, 18)),
        ([5, 4, 15, 24], 0.5, (10,), (14,)),  # the radius is in cells
    ],
)
def test_places_within_a_radius_of_the_centre_are_positive(box, radius, xs, ys):
    assert set(positives([box], radius=radius)) == {(x, y) for x in xs for y in ys}


def test_the_radius_is_in_cells():
    assert len(positives([[5, 4, 15, 12]], stride=2, radius=2.0)) == 16


def test_a_tie_goes_to_the_nearest_centre_and_then_to_the_smaller_object():
    # centres (10, 14) and (18, 14): the places at x = 14 are 4 px from both
    small, large = [13, 9, 23, 19], [2, 4, 18, 24]
    found = positives([large, small])
    assert [found[(x, 14)] for x in (10, 14, 18)] == [0, 1, 1]
    assert positives([small, large])[(14, 14)] == 0


def test_an_object_of_another_scale_is_not_for_this_place():
    assert positives([[5, 4, 15, 24]], scale_of_box=[1]) == {}
    assert positives([[5, 4, 15, 24]], scale_of_box=[-1]) == {}
    assert positives([]) == {}


SQUARE = [8.0, 16.0, 24.0, 32.0]  # of 16 px


def square_masks(kind):
    x0, y0, x1, y1 = SQUARE
    if kind == "polygon":
        return PolygonMasks([[[x0, y0, x1, y0, x1, y1, x0, y1]]])
    masks = torch.zeros(1, 48, 64, dtype=torch.bool)
    masks[0, int(y0) : int(y1), int(x0) : int(x1)] = True
    return BitMasks(masks)


@pytest.mark.parametrize("kind", ["polygon", "bitmask"])
@pytest.mark.parametrize(
    "region, rows, columns",
    [
        # a region of 20 px (16 px with 25 %) around the centre (16, 24): cells of 2 px, and the
        # object from 2 px to 18 px in it
        ([6.0, 14.0, 26.0, 34.0], range(1, 9), range(1, 9)),
        # the place lies 4 px right of and 2 px below the centre
        ([10.0, 16.0, 30.0, 36.0], range(0, 8), range(0, 7)),
        # without padding the object would fill the target
        ([8.0, 16.0, 24.0, 32.0], range(0, 10), range(0, 10)),
        # beyond the image's left border there is nothing: 24 px wide, cells of 2.4 px
        ([-8.0, 12.0, 16.0, 36.0], range(2, 8), range(7, 10)),
    ],
)
def test_a_target_is_the_mask_within_the_region(kind, region, rows, columns):
    target = square_masks(kind).crop_and_resize(torch.tensor([region]), 10)
    expected = torch.zeros(1, 10, 10, dtype=torch.bool)
    for row in rows:
        for column in columns:
            expected[0, row, column] = True
    assert target.equal(expected)


@pytest.mark.parametrize("at_once", [1, 100, 1 << 22])
def test_matching_in_pieces_is_matching_one_by_one(monkeypatch, at_once):
    monkeypatch.setattr(targets, "_MAX_PAIRS", at_once)
    generator = torch.Generator().manual_seed(0)
    centers = torch.cat([cell_centers(8, 10, 4, "cpu"), cell_centers(4, 5, 8, "cpu")])
    strides = torch.tensor([4.0] * 80 + [8.0] * 20)
    scale_of_place = torch.tensor([0] * 80 + [1] * 20)
    corners = 36 * torch.rand(30, 2, generator=generator)
    boxes = torch.cat([corners, corners + 1 + 8 * torch.rand(30, 2, generator=generator)], dim=1)
    scale_of_box = torch.randint(-1, 2, (30,), generator=generator)
    found = assign_places(centers, strides, scale_of_place, boxes, scale_of_box)
    for i, (x, y) in enumerate(centers.tolist()):
        best = None  # (squared distance, area, index)
        for j, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
            dx, dy = x - (x0 + x1) / 2, y - (y0 + y1) / 2
            if scale_of_box[j] == scale_of_place[i] and max(abs(dx), abs(dy)) <= strides[i]:
                near = (dx * dx + dy * dy, (x1 - x0) * (y1 - y0), j)
                best = near if best is None else min(best, near)
        assert found[i] == (-1 if best is None else best[2])
