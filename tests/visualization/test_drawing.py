import numpy as np
from matplotlib.colors import to_rgb

from fpn_d2.visualization import PALETTE, class_color, draw_boxes, draw_masks, side_by_side


def test_the_same_class_has_the_same_colour_and_neighbours_differ():
    assert class_color(2) == class_color(2 + len(PALETTE))
    assert len({class_color(i) for i in range(len(PALETTE))}) == len(PALETTE)


def test_a_box_is_drawn_where_it_is():
    image = np.zeros((100, 120, 3), np.uint8)
    picture = draw_boxes(image, np.array([[20, 40, 80, 90]]), [""], [PALETTE[0]], scale=2)
    assert picture.shape == (200, 240, 3)
    colour = np.round(255 * np.array(to_rgb(PALETTE[0]))).astype(int)

    def is_coloured(x, y):
        return (picture[2 * y, 2 * x] == colour).all()

    assert all(is_coloured(x, y) for x, y in [(20, 60), (80, 60), (50, 40), (50, 90)])
    assert not any(is_coloured(x, y) for x, y in [(50, 60), (100, 60), (10, 20)])


def test_without_boxes_the_image_is_left_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    picture = draw_boxes(image, np.zeros((0, 4)), [], [])
    assert (picture == image).all()


def test_pictures_stand_beside_each_other_under_their_titles():
    left, right = np.full((50, 60, 3), 10, np.uint8), np.full((50, 70, 3), 200, np.uint8)
    canvas = np.asarray(side_by_side({"a": left, "b": right}))
    height, width = canvas.shape[:2]
    title = height - 50
    assert width == 60 + 8 + 70
    assert (canvas[title:, :60] == 10).all()
    assert (canvas[title:, 68:] == 200).all()
    assert (canvas[:title] < 128).any()


def test_a_title_stays_above_its_picture():
    narrow = np.full((50, 60, 3), 10, np.uint8)
    canvas = np.asarray(side_by_side({"a title that is much too long": narrow, "": narrow}))
    title = canvas.shape[0] - 50
    assert (canvas[:title, :60] < 128).any()
    assert (canvas[:title, 60:] == 255).all()


def test_dashes_are_on_the_boxes_they_are_asked_for_and_below_the_labels():
    image = np.zeros((100, 300, 3), np.uint8)
    boxes = np.array([[20, 40, 80, 90], [120, 0, 180, 50]])
    colors = [PALETTE[0], PALETTE[0]]
    plain = draw_boxes(image, boxes, ["", "label"], colors)
    dashed = draw_boxes(image, boxes, ["", "label"], colors, dashed=[False, True])
    white = (dashed == 255).all(axis=-1)
    assert white[:, 115:185].any()
    assert not white[:, :115].any()
    # the label is on the box's upper left corner, for there is no place above it
    assert (dashed[:15, 121:150] == plain[:15, 121:150]).all()


def test_a_mask_of_an_image_that_is_drawn_a_pixel_high():
    image, masks = np.zeros((1, 400, 3), np.uint8), np.ones((1, 1, 400), bool)
    assert draw_masks(image, masks, [""], [PALETTE[0]], scale=0.25).shape == (1, 100, 3)
