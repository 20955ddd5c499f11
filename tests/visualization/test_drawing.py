import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import ImageColor

from fpn_d2.structures import RegionMasks
from fpn_d2.visualization import PALETTE, class_color, draw_boxes, draw_masks
from fpn_d2.visualization.drawing import draw_detections

ORANGE, BLUE = PALETTE[0], PALETTE[1]  # (230, 159, 0) and (86, 180, 233)


def has(picture, color):
    """Return which pixels (H, W) have the colour."""
    return (picture == np.array(ImageColor.getrgb(color))).all(axis=-1)


def filled(height, width, *boxes):
    masks = np.zeros((len(boxes), height, width), dtype=bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


def test_the_same_class_has_the_same_colour_and_neighbours_differ():
    assert class_color(2) == class_color(2 + len(PALETTE))
    assert len({class_color(i) for i in range(len(PALETTE))}) == len(PALETTE)


def test_a_box_is_drawn_where_it_is():
    image = np.zeros((100, 120, 3), np.uint8)
    picture = draw_boxes(image, np.array([[20, 40, 80, 90]]), [""], [ORANGE], scale=2)
    assert picture.shape == (200, 240, 3)
    coloured = has(picture, ORANGE)[::2, ::2]
    assert all(coloured[y, x] for x, y in [(20, 60), (80, 60), (50, 40), (50, 90)])
    assert not any(coloured[y, x] for x, y in [(50, 60), (100, 60), (10, 20)])


def test_a_box_has_a_dark_rim_on_a_ground_of_its_own_colour():
    image = np.full((60, 80, 3), ImageColor.getrgb(ORANGE), np.uint8)
    picture = draw_boxes(image, np.array([[20, 10, 60, 50]]), [""], [ORANGE])
    # across the left side: a line of three pixels between two of the rim
    assert has(picture, "#000000")[30, 15:26].nonzero()[0].tolist() == [3, 7]
    assert has(picture, ORANGE)[30, 19:22].all()


def test_dashes_are_on_the_boxes_they_are_asked_for_and_below_the_labels():
    image = np.zeros((100, 300, 3), np.uint8)
    boxes = np.array([[20, 40, 80, 90], [120, 0, 180, 50]])
    plain = draw_boxes(image, boxes, ["", "label"], [ORANGE] * 2)
    dashed = draw_boxes(image, boxes, ["", "label"], [ORANGE] * 2, dashed=[False, True])
    white = has(dashed, "#FFFFFF")
    assert white[:, 115:185].any()
    assert not white[:, :115].any()
    # The label is on the box's upper left corner because there is no place above it.
    assert (dashed[:15, 121:150] == plain[:15, 121:150]).all()


@pytest.mark.parametrize("draw", [draw_boxes, draw_masks])
def test_a_label_stands_above_its_region(draw):
    image = np.zeros((100, 200, 3), np.uint8)
    box = (40, 50, 120, 90)
    regions = np.array([box]) if draw is draw_boxes else filled(100, 200, box)
    part = draw(image, regions, ["0.87"], [ORANGE])[: 48 if draw is draw_boxes else 50]
    rows, columns = has(part, ORANGE).nonzero()
    assert 25 < rows.min() < 35
    assert rows.max() in ((47,) if draw is draw_boxes else (47, 48, 49))
    assert columns.min() == 40


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


def test_compact_masks_are_pasted_one_at_a_time(monkeypatch):
    # tracemalloc does not see torch's memory, so the pasted arrays are counted instead.
    pasted, paste = [], RegionMasks.paste

    def counted(self, *args):
        pasted.append(paste(self, *args))
        return pasted[-1]

    monkeypatch.setattr(RegionMasks, "paste", counted)
    regions = torch.tensor([[2.0, 2, 12, 12], [4, 4, 30, 30], [0, 0, 9, 9]])
    masks = RegionMasks(torch.ones(3, 14, 14), regions, (32, 48), 0.5)
    draw_masks(np.zeros((32, 48, 3), np.uint8), masks, [""] * 3, [ORANGE] * 3)
    assert [array.shape for array in pasted] == [(1, 32, 48)] * 3


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_draw_leaves_the_image_as_it_is(count, compact):
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    masks = np.zeros((count, 32, 48), dtype=bool)
    if compact:
        masks = RegionMasks(torch.zeros(count, 14, 14), torch.ones(count, 4), (32, 48), 0.5)
    assert (draw_masks(image, masks, ["empty"] * count, [ORANGE] * count) == image).all()
    assert (draw_boxes(image, np.zeros((0, 4)), [], []) == image).all()


@pytest.mark.parametrize("size, labels", [((32, 48), []), ((48, 32), [""])])
def test_a_label_for_every_mask_and_masks_of_the_image(size, labels):
    masks = filled(*size, (1, 2, 9, 9))
    with pytest.raises(AssertionError):
        draw_masks(np.zeros((32, 48, 3), np.uint8), masks, labels, [ORANGE] * len(labels))


def test_a_mask_of_an_image_that_is_drawn_a_pixel_high():
    image, masks = np.zeros((1, 400, 3), np.uint8), np.ones((1, 1, 400), bool)
    assert draw_masks(image, masks, [""], [ORANGE], scale=0.25).shape == (1, 100, 3)


def test_neighbouring_proposals_without_a_class_have_different_colours():
    boxes = torch.tensor([[10.0, 40, 40, 70], [60, 40, 90, 70]])
    found = Instances((80, 100), pred_boxes=Boxes(boxes), scores=torch.tensor([0.9, 0.8]))
    picture = draw_detections(np.zeros((80, 100, 3), np.uint8), found)
    assert picture.shape == (640, 800, 3)  # enlarged eight times
    assert has(picture, ORANGE)[440, 80]  # left sides, below their middles
    assert has(picture, BLUE)[440, 480]
