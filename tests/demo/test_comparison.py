from unittest.mock import Mock

import numpy as np
from PIL import ImageColor

from fpn_d2.demo import comparison
from fpn_d2.demo.comparison import Found, draw_comparison, group_detections
from fpn_d2.visualization import PALETTE


def found(*objects):
    """Make a Found from triples (box, score, name)."""
    boxes = np.array([box for box, _, _ in objects], np.float32).reshape(-1, 4)
    scores = np.array([score for _, score, _ in objects])
    return Found(boxes, scores, tuple(name for _, _, name in objects))


BOX, NEAR, FAR = (0, 0, 10, 10), (0, 0, 10, 6), (50, 50, 60, 60)  # NEAR: IoU 0.6 with BOX


def test_what_overlaps_by_half_and_has_the_class_is_one_object():
    assert group_detections([found((BOX, 0.9, "a")), found((NEAR, 0.8, "a"))]) == [{0: 0, 1: 0}]
    assert len(group_detections([found((BOX, 0.9, "a")), found((NEAR, 0.8, "b"))])) == 2
    assert len(group_detections([found((BOX, 0.9, "a")), found(((0, 0, 10, 4), 0.8, "a"))])) == 2


def test_the_better_score_takes_the_object_and_each_is_taken_once():
    rows = [found((BOX, 0.9, "a")), found((NEAR, 0.5, "a"), (BOX, 0.8, "a"))]
    assert group_detections(rows) == [{0: 0, 1: 1}, {1: 0}]


def test_a_proposal_is_of_any_class():
    assert group_detections([found((BOX, 0.9, "a")), found((BOX, 0.8, ""))]) == [{0: 0, 1: 0}]


def test_what_a_row_missed_is_dashed_in_its_picture_alone(monkeypatch):
    placed = Mock(wraps=comparison.side_by_side)
    monkeypatch.setattr(comparison, "side_by_side", placed)
    image = np.zeros((100, 100, 3), np.uint8)
    one, two = found((BOX, 0.9, "a"), (FAR, 0.9, "a")), found((BOX, 0.9, "a"))
    picture = draw_comparison(image, {"one": one, "two": two})
    words = "2 that any row found"
    assert [*placed.call_args.args[0]] == [f"one: 2 of {words}", f"two: 1 of {words}"]
    half = picture.shape[1] // 2
    shown = picture[:-40]  # without the legend

    def pixels(part, color):
        return (part == np.array(ImageColor.getrgb(color))).all(-1).sum()

    blue, yellow, vermilion = PALETTE[4], PALETTE[3], PALETTE[5]
    assert pixels(shown[:, :half], yellow) > 0 == pixels(shown[:, :half], vermilion)
    assert pixels(shown[:, half:], vermilion) > 0 == pixels(shown[:, half:], yellow)
    assert min(pixels(shown[:, :half], blue), pixels(shown[:, half:], blue)) > 0


def test_a_guessed_name_is_that_name():
    rows = [found((BOX, 0.9, "cat")), found((BOX, 0.8, "cat?"))]
    assert group_detections(rows) == group_detections(rows[::-1]) == [{0: 0, 1: 0}]
