"""Compact masks against a pixel-by-pixel loop, pycocotools and numbers worked out by hand."""

import math
import tracemalloc

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.structures import Instances

from fpn_d2.structures import RegionMasks


def pasted_by_hand(mask: np.ndarray, region, height: int, width: int, threshold: float):
    """Every pixel by itself, in Python."""
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
    # 2 x 2 cells over 8 x 8 pixels: centres of cells at 2 and 6, a step from 1 to 0 between them,
    # which is one half at 4; the centres of the pixels below that are 0.5, 1.5, 2.5 and 3.5
    masks = RegionMasks(
        torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]), torch.tensor([[4.0, 2, 12, 10]]), (16, 16), 0.5
    )
    expected = torch.zeros(16, 16, dtype=torch.bool)
    expected[2:10, 4:8] = True
    assert masks.paste()[0].equal(expected)
    assert masks.tight_boxes().tensor.tolist() == [[4, 2, 8, 10]]


def test_the_border_cells_reach_to_the_regions_border():
    masks = RegionMasks(torch.ones(1, 14, 14), torch.tensor([[3.0, 4, 43, 44]]), (60, 60), 0.9)
    assert masks.areas().tolist() == [40 * 40]


@pytest.mark.parametrize(
    "region",
    [[-9, -9, -1, -1], [70, 2, 90, 22], [5.1, 5.1, 5.3, 9], [5, 5, 5, 5], [9, 9, 3, 3]],
    ids=["outside", "right of it", "thinner than a pixel", "a point", "inside out"],
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
    assert len(masks[-1]) == 1
    with pytest.raises(IndexError):
        masks[3]
    assert repr(masks).startswith("RegionMasks(3 of ")


def test_a_region_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        RegionMasks(torch.ones(1, 4, 4), torch.tensor([[0.0, 0, float("nan"), 4]]), (8, 8), 0.5)


def test_memory_is_that_of_a_window():
    # 300 masks on 4000 x 3000 pixels would be 3.6 GB at once; a window of 900 px is 0.8 MB
    masks = RegionMasks(
        torch.rand(300, 14, 14), torch.tensor([[1000.0, 1000, 1900, 1900]] * 300), (3000, 4000), 0.5
    )
    tracemalloc.start()
    rles = masks[:20].to_rle()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rles) == 20
    assert peak < 60e6
