"""Compact masks equal a loop over pixels, pycocotools and masks worked out by hand."""

import math
import tracemalloc

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.layers import paste_masks_in_image
from detectron2.structures import Instances

from fpn_d2.structures import RegionMasks


def pasted_by_hand(mask: np.ndarray, region, height: int, width: int, threshold: float):
    """Compute every pixel by itself."""
    x0, y0, x1, y1 = region
    size, out = len(mask), np.zeros((height, width), dtype=bool)

    def cells(position: float):
        position = min(max(position - 0.5, 0), size - 1)
        low = math.floor(position)
        return low, min(low + 1, size - 1), position - low

    for i in range(height):
        for j in range(width):
            if x0 <= j + 0.5 <= x1 and y0 <= i + 0.5 <= y1:
                a, b, u = cells((j + 0.5 - x0) / (x1 - x0) * size)
                c, d, v = cells((i + 0.5 - y0) / (y1 - y0) * size)
                top = mask[c, a] * (1 - u) + mask[c, b] * u
                bottom = mask[d, a] * (1 - u) + mask[d, b] * u
                out[i, j] = top * (1 - v) + bottom * v >= threshold
    return out


def random_masks(seed: int) -> RegionMasks:
    rng = np.random.default_rng(seed)
    height, width, size = rng.integers(1, 24, 2).tolist() + [int(rng.integers(1, 6))]
    corners = np.sort(rng.uniform(-8, 32, (3, 2, 2)), axis=1).reshape(3, 4)
    masks = torch.tensor(rng.random((3, size, size)), dtype=torch.float32)
    return RegionMasks(masks, torch.tensor(corners, dtype=torch.float32), (height, width), 0.5)


@pytest.mark.parametrize("seed", range(25))
def test_against_a_loop_over_pixels_and_pycocotools(seed):
    masks = random_masks(seed)
    pasted = masks.paste().numpy()
    for i in range(3):
        expected = pasted_by_hand(
            masks.masks[i].double().numpy(), masks.regions[i].tolist(), *masks.image_size, 0.5
        )
        assert (pasted[i] == expected).all()
        rle = masks[i].to_rle()[0]
        assert rle == mask_util.encode(np.asfortranarray(expected.astype(np.uint8)))
        assert masks.areas()[i] == expected.sum()
        x, y, w, h = mask_util.toBbox(rle)
        box = [x, y, x + w, y + h] if expected.any() else [0, 0, 0, 0]
        assert masks.tight_boxes().tensor[i].tolist() == box


def test_cells_and_pixels_by_hand():
    # 2 x 2 cells over 8 x 8 pixels: centres of cells at 2 and 6, a ramp from 1 to 0 between them,
    # which is one half at 4; the centres of the pixels below that are 0.5, 1.5, 2.5 and 3.5
    masks = RegionMasks(
        torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]), torch.tensor([[4.0, 2, 12, 10]]), (16, 16), 0.5
    )
    expected = torch.zeros(16, 16, dtype=torch.bool)
    expected[2:10, 4:8] = True
    assert masks.paste()[0].equal(expected)
    assert masks.tight_boxes().tensor.tolist() == [[4, 2, 8, 10]]


def test_cells_of_whole_pixels_by_hand():
    # a cell is a pixel, so the centres meet and nothing is interpolated
    cells = torch.tensor([[[0.9, 0.1, 0.5], [0.2, 0.6, 0.4], [0.0, 0.7, 1.0]]])
    masks = RegionMasks(cells, torch.tensor([[2.0, 1, 5, 4]]), (6, 7), 0.5)
    expected = torch.zeros(6, 7, dtype=torch.bool)
    for i, j in [(1, 2), (1, 4), (2, 3), (3, 3), (3, 4)]:
        expected[i, j] = True
    assert masks.paste()[0].equal(expected)
    # column by column: 13 zeros, one, 6 zeros and so on; places are 6 j + i
    runs = {"size": [6, 7], "counts": [13, 1, 6, 2, 3, 1, 1, 1, 14]}
    assert masks.to_rle() == mask_util.frPyObjects([runs], 6, 7)


def test_a_region_half_outside_keeps_the_half_inside():
    masks = RegionMasks(
        torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]).flip(-1),  # the right half
        torch.tensor([[-4.0, -2, 4, 6]]),
        (16, 16),
        0.5,
    )
    # the left half is outside, and so are two of the eight rows
    assert masks.tight_boxes().tensor.tolist() == [[0, 0, 4, 6]]
    assert masks.areas().tolist() == [24]
    # three full columns of ten pixels are runs that touch, and no zeros come before them
    full = RegionMasks(torch.ones(1, 2, 2), torch.tensor([[-5.0, -5, 3, 20]]), (10, 6), 0.5)
    assert full.to_rle() == mask_util.frPyObjects([{"size": [10, 6], "counts": [0, 30, 30]}], 10, 6)


@pytest.mark.parametrize("seed", range(5))
def test_detectron2_pastes_the_same_where_border_cells_are_empty(seed):
    # Detectron2 fades to zero at the region's border, where these masks are zero already.
    generator = torch.Generator().manual_seed(seed)
    cells = torch.zeros(4, 14, 14)
    cells[:, 1:-1, 1:-1] = torch.rand(4, 12, 12, generator=generator)
    # Centres inside the image: Detectron2 fails on a region that lies beyond it.
    centers = torch.rand(4, 2, generator=generator) * torch.tensor([80.0, 60])
    sides = 20 + 60 * torch.rand(4, 2, generator=generator)
    regions = torch.cat([centers - sides / 2, centers + sides / 2], dim=1)
    expected = paste_masks_in_image(cells, regions, (60, 80), threshold=0.5)
    pasted = RegionMasks(cells, regions, (60, 80), 0.5).paste()
    assert pasted.any()
    # it computes the positions as float32, so a pixel of a steep border may differ
    assert (pasted != expected).sum() <= 1


@pytest.mark.parametrize("value", [0.0, 0.1, 0.5, 0.7, 1.0])
def test_a_mask_that_is_everywhere_at_the_threshold_is_full(value):
    masks = torch.full((1, 14, 14), value)
    regions = torch.tensor([[1.3, 2.1, 97.7, 83.9]])
    assert RegionMasks(masks, regions, (90, 100), value).areas().tolist() == [97 * 82]


@pytest.mark.parametrize(
    "region, size, area",
    [
        *(([0, 0, 1, 1], 1, 1), ([-9, -9, 9, 9], 1, 1), ([1, 0, 2, 1], 1, 0)),
        ([3, 4, 43, 44], 60, 40 * 40),  # the border cells reach to the region's border
        ([1.5, 1.5, 3.5, 3.5], 6, 9),  # which may run through centres of pixels
    ],
)
def test_a_full_mask_fills_its_region(region, size, area):
    masks = RegionMasks(torch.ones(1, 14, 14), torch.tensor([region]).float(), (size, size), 0.9)
    assert masks.areas().tolist() == [area]
    if size == 1:
        assert masks.to_rle() == [mask_util.encode(np.full((1, 1), area, np.uint8, order="F"))]


@pytest.mark.parametrize(
    "region",
    [[-9, -9, -1, -1], [70, 2, 90, 22], [5.1, 5.1, 5.3, 9], [5, 5, 5, 5], [5.5] * 4, [9, 9, 3, 3]],
    ids=["outside", "right of it", "thinner than a pixel", "a point", "a centre", "inside out"],
)
def test_a_region_without_a_pixel_is_an_empty_mask(region):
    masks = RegionMasks(torch.ones(1, 4, 4), torch.tensor([region]).float(), (30, 60), 0.5)
    assert masks.paste().sum() == 0
    assert mask_util.area(masks.to_rle()).tolist() == [0]
    assert masks.tight_boxes().tensor.tolist() == [[0, 0, 0, 0]]


def test_no_masks():
    masks = RegionMasks(torch.zeros(0, 14, 14), torch.zeros(0, 4), (30, 60), 0.5)
    assert masks.to_rle() == []
    assert masks.paste().shape == (0, 30, 60)
    assert masks.tight_boxes().tensor.shape == (0, 4)
    assert masks.areas().shape == (0,)


def test_another_image_size():
    # twice as wide and three times as high
    masks = RegionMasks(torch.ones(1, 4, 4), torch.tensor([[2.0, 1, 6, 5]]), (10, 20), 0.5)
    scaled = masks.scaled(30, 40)
    assert scaled.regions.tolist() == [[4, 3, 12, 15]]
    assert scaled.areas().tolist() == [8 * 12]


def test_it_is_a_field_of_instances():
    masks = random_masks(0)
    instances = Instances(masks.image_size, pred_masks=masks, scores=torch.tensor([0.1, 0.9, 0.5]))
    best = instances[instances.scores.sort(descending=True).indices[:2]]
    assert best.pred_masks.regions.equal(masks.regions[[1, 2]])
    both = Instances.cat([best, instances[instances.scores < 0.2]])
    assert both.pred_masks.regions.equal(masks.regions[[1, 2, 0]])
    assert len(instances.to("cpu").pred_masks) == 3
    assert len(masks[-1]) == len(masks[np.int64(2)]) == 1
    with pytest.raises(IndexError):
        masks[3]
    assert repr(masks).startswith("RegionMasks(3 of ")


def test_some_of_the_masks_are_pasted():
    masks = random_masks(1)
    pasted = masks.paste()
    for item in (slice(1, 3), torch.tensor([2, 0]), torch.tensor([True, False, True])):
        assert masks[item].paste().equal(pasted[item])
    assert masks[-1].paste().equal(pasted[2:])


def test_masks_are_encoded_once(monkeypatch):
    masks, fresh = random_masks(2), random_masks(2)
    rles = masks.to_rle()
    masks.to_rle()[0].clear()  # evaluators decode the counts in place
    monkeypatch.setattr(RegionMasks, "_windows", None)
    assert masks.to_rle() == rles
    assert masks.areas().tolist() == mask_util.area(rles).tolist()
    for item in (slice(1, 3), torch.tensor([2, 0]), torch.tensor([True, False, True]), [1], -1):
        numbers = torch.arange(3)[item].reshape(-1).tolist()
        assert masks.to("cpu")[item].to_rle() == [rles[number] for number in numbers]
    for changed in (fresh[0:2], masks.to(torch.float64), masks.scaled(9, 9)):
        with pytest.raises(TypeError):  # not encoded yet
            changed.to_rle()


def test_areas_of_more_masks_than_a_byte_counts():
    boxes = torch.tensor([[2.0, 1, 5, 6]]).repeat(300, 1)  # 3 x 5 pixels
    masks = RegionMasks(torch.ones(300, 1, 1), boxes, (8, 8), 0.5)
    assert masks.areas().tolist() == [15] * 300
    assert masks.tight_boxes().tensor.equal(boxes)


def test_a_region_that_is_no_number_is_refused():
    regions = torch.tensor([[0.0, 0, 4, 4], [0, 0, float("nan"), 4]])
    with pytest.raises(ValueError, match=r"region 1 of 2, \[0.0, 0.0, nan, 4.0\], is not finite"):
        RegionMasks(torch.ones(2, 4, 4), regions, (8, 8), 0.5)


def test_memory_is_that_of_a_window():
    # 150 masks on 4000 x 3000 pixels are 1.8 GB as bool and their run lengths 2 MB as numbers; a
    # window of 900 px is 3.2 MB as floats and 0.8 MB as bool. All of it is numpy's, which
    # tracemalloc sees.
    masks = RegionMasks(
        torch.rand(150, 14, 14), torch.tensor([[1000.0, 1000, 1900, 1900]] * 150), (3000, 4000), 0.5
    )
    tracemalloc.start()
    rles = masks.to_rle()
    masks.tight_boxes(), masks.areas()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rles) == 150
    assert peak < 15e6
