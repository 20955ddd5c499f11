import itertools
import warnings

import numpy as np
import pytest
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from fpn_d2.visualization import layout, pages, side_by_side
from fpn_d2.visualization.layout import beside, place_labels, stack


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


def overlap(a, b):
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def test_a_label_stands_above_its_box_and_in_the_picture():
    box = np.array([[50, 60, 150, 160]])
    assert place_labels(box, [(40, 18)], (300, 300)) == [(50, 42, 90, 60)]
    assert place_labels(np.zeros((0, 4)), [], (300, 300)) == []
    (place,) = place_labels(np.array([[280, 0, 300, 50]]), [(40, 18)], (300, 300))
    assert place[0] >= 0
    assert place[1] >= 0
    assert place[2] <= 300


def test_labels_of_one_place_keep_clear_of_each_other():
    boxes = np.array([[50, 60, 250, 260]] * 6)
    places = place_labels(boxes, [(60, 18)] * 6, (300, 300))
    assert not any(overlap(a, b) for a, b in itertools.combinations(places, 2))


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """``installed(path, ...)``: the fonts of this machine, besides matplotlib's."""

    def install(*paths):
        monkeypatch.setattr(font_manager, "findSystemFonts", lambda: list(map(str, paths)))

    layout._font_file.cache_clear()
    yield install
    layout._font_file.cache_clear()


def test_letters_that_the_usual_font_lacks_are_drawn_by_one_that_has_them(installed, tmp_path):
    mono, usual = (font_manager.findfont(f"DejaVu Sans{name}") for name in (" Mono", ""))
    letters = {*map(chr, font_manager.get_font(mono).get_charmap())}
    letters -= {*map(chr, font_manager.get_font(usual).get_charmap())}
    text = min(letters, key=lambda letter: (letter < "\u2300", letter)) + " 0.50"
    (tmp_path / "damaged.ttf").write_text("no font")
    installed(tmp_path / "damaged.ttf", mono)
    drawn = layout.text_block(text, 200)
    canvas = Image.new("RGB", (200, 22), "white")
    font = ImageFont.truetype(mono, 16)
    ImageDraw.Draw(canvas).text((2, 1), text, fill="black", font=font)
    assert np.array_equal(drawn, np.array(canvas))
    assert layout._font(16, "cat 0.50").path == usual


def test_letters_that_no_font_has_are_told_once(installed, caplog):
    installed()
    for _ in range(2):
        layout.legend(["\u4eba \u72d7"], ["#E69F00"])
    (message,) = (record.getMessage() for record in caplog.records)
    assert "no font of this machine has all of \u4eba\u72d7, so pictures show boxes" in message
    layout.legend(["cat dog"], ["#E69F00"])
    assert len(caplog.records) == 1


def test_the_scores_of_a_class_need_one_search(installed, caplog):
    installed()
    layout.legend([f"\u732b 0.{score:02}" for score in range(100)], ["#E69F00"] * 100)
    assert len(caplog.records) == 1


def test_charts_have_letters_that_the_usual_font_lacks(installed):
    mono, usual = (font_manager.findfont(f"DejaVu Sans{name}") for name in (" Mono", ""))
    maps = [font_manager.get_font(path).get_charmap() for path in (mono, usual)]
    letter = min(chr(code) for code in maps[0].keys() - maps[1].keys() if code >= 0x2300)
    installed(mono)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a glyph that is missing
        figure = pages.horizontal_bars([letter], [1], ["#000000"], "objects")
        pages.finish_chart(figure, "p", "d", "t", "c")
