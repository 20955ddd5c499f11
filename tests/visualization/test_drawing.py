import numpy as np
from matplotlib.colors import to_rgb

from fpn_d2.visualization import PALETTE, class_color, draw_boxes, side_by_side


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
