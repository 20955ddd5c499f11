import numpy as np

from fpn_d2.visualization import side_by_side
from fpn_d2.visualization.layout import beside, stack


def plain(height, width, value):
    return np.full((height, width, 3), value, np.uint8)


def test_pictures_stand_beside_each_other_under_their_titles():
    canvas = np.asarray(side_by_side({"a": plain(50, 60, 10), "b": plain(50, 70, 200)}))
    height, width = canvas.shape[:2]
    title = height - 50
    assert width == 60 + 8 + 70
    assert (canvas[title:, :60] == 10).all()
    assert (canvas[title:, 68:] == 200).all()
    assert (canvas[:title] < 128).any()


def test_a_title_stays_above_its_picture():
    narrow = plain(50, 60, 10)
    canvas = np.asarray(side_by_side({"a title that is much too long": narrow, "": narrow}))
    title = canvas.shape[0] - 50
    assert (canvas[:title, :60] < 128).any()
    assert (canvas[:title, 60:] == 255).all()


def test_pictures_of_different_sizes_are_in_line_at_their_left_or_top_on_white():
    small, large = plain(10, 20, 0), plain(30, 40, 100)
    below = stack([small, large], gap=5, margin=3)
    assert below.shape == (10 + 5 + 30 + 6, 40 + 6, 3)
    assert (below[3:13, 3:23] == 0).all()
    assert (below[18:48, 3:43] == 100).all()
    assert (below == 255).all(axis=-1).sum() == 51 * 46 - 10 * 20 - 30 * 40
    right = beside([small, large], gap=5)
    assert right.shape == (30, 20 + 5 + 40, 3)
    assert (right[:10, :20] == 0).all()
    assert (right[:, 25:] == 100).all()
    assert (right == 255).all(axis=-1).sum() == 30 * 65 - 10 * 20 - 30 * 40
