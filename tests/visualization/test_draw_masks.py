import numpy as np
import pytest
import torch

from fpn_d2.structures import RegionMasks
from fpn_d2.visualization import PALETTE, draw_masks

ORANGE, BLUE = PALETTE[0], PALETTE[1]  # (230, 159, 0) and (86, 180, 233)


def filled(height: int, width: int, *boxes: tuple[int, int, int, int]) -> np.ndarray:
    masks = np.zeros((len(boxes), height, width), dtype=bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


def test_a_mask_is_a_translucent_fill_and_a_solid_outline():
    image = np.full((60, 80, 3), 100, np.uint8)
    picture = draw_masks(image, filled(60, 80, (20, 10, 60, 50)), [""], [ORANGE])
    assert picture.dtype == np.uint8
    # 0.65 of the image and 0.35 of the colour: 145.5, 120.65 and 65
    assert picture[30, 40].tolist() in ([145, 121, 65], [146, 121, 65])
    outline = [(30, 20), (30, 21), (30, 59), (10, 40), (11, 40), (49, 40)]
    assert all(picture[place].tolist() == [230, 159, 0] for place in outline)
    assert picture[30, 22].tolist() == picture[30, 40].tolist()
    assert (picture[:10] == 100).all()
    assert (picture[:, :20] == 100).all()


def test_a_mask_at_the_images_border_has_its_outline_there():
    image = np.zeros((30, 40, 3), np.uint8)
    picture = draw_masks(image, filled(30, 40, (0, 0, 40, 30)), [""], [ORANGE])
    for place in [(0, 0), (29, 39), (15, 0), (0, 20)]:
        assert picture[place].tolist() == [230, 159, 0]


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_a_small_mask_lies_on_a_large_one(order):
    image = np.zeros((60, 80, 3), np.uint8)
    masks = filled(60, 80, (5, 5, 75, 55), (30, 20, 50, 40))[order]
    picture = draw_masks(image, masks, ["", ""], [[ORANGE, BLUE][i] for i in order])
    assert picture[20, 40].tolist() == [86, 180, 233]
    assert picture[5, 40].tolist() == [230, 159, 0]


@pytest.mark.parametrize("scale", [1.0, 2.0, 1.5])
def test_compact_masks_are_drawn_as_their_pixels_are(scale):
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    boxes = [(20, 10, 60, 50), (2, 4, 18, 20)]
    masks = RegionMasks(torch.ones(2, 14, 14), torch.tensor(boxes).float(), (60, 80), 0.5)
    labels, colors = ["a", "b"], [ORANGE, BLUE]
    picture = draw_masks(image, masks, labels, colors, scale)
    assert picture.shape == (60 * scale, 80 * scale, 3)
    assert (picture == draw_masks(image, filled(60, 80, *boxes), labels, colors, scale)).all()


def test_a_label_stands_above_its_mask():
    image = np.zeros((100, 200, 3), np.uint8)
    picture = draw_masks(image, filled(100, 200, (40, 50, 120, 90)), ["0.87"], [ORANGE])
    rows, columns = (picture[:50] == [230, 159, 0]).all(axis=2).nonzero()
    assert columns.min() == 40
    assert rows.max() in (47, 48, 49)
    assert rows.min() > 25


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_draw_leaves_the_image_as_it_is(count, compact):
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    masks = np.zeros((count, 32, 48), dtype=bool)
    if compact:
        masks = RegionMasks(torch.zeros(count, 14, 14), torch.ones(count, 4), (32, 48), 0.5)
    assert (draw_masks(image, masks, ["empty"] * count, [ORANGE] * count) == image).all()


def test_a_label_for_every_mask_and_masks_of_the_image():
    image = np.zeros((32, 48, 3), np.uint8)
    with pytest.raises(AssertionError):
        draw_masks(image, filled(32, 48, (1, 2, 9, 9)), [], [])
    with pytest.raises(AssertionError):
        draw_masks(image, filled(48, 32, (1, 2, 9, 9)), [""], [ORANGE])


def test_compact_masks_are_pasted_one_at_a_time(monkeypatch):
    # torch's memory is not seen by tracemalloc, so the pasted arrays are counted instead
    pasted, paste = [], RegionMasks.paste

    def counted(self, *args):
        pasted.append(paste(self, *args))
        return pasted[-1]

    monkeypatch.setattr(RegionMasks, "paste", counted)
    regions = torch.tensor([[2.0, 2, 12, 12], [4, 4, 30, 30], [0, 0, 9, 9]])
    masks = RegionMasks(torch.ones(3, 14, 14), regions, (32, 48), 0.5)
    draw_masks(np.zeros((32, 48, 3), np.uint8), masks, [""] * 3, [ORANGE] * 3)
    assert [array.shape for array in pasted] == [(1, 32, 48)] * 3
