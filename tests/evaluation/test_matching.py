"""Boxes are paired as worked out by hand."""

import torch
from detectron2.structures import Boxes, Instances

from fpn_d2.evaluation.matching import match_boxes, match_detections


def match(found, expected, pixels=0.1):
    a, b = (torch.tensor(rows).reshape(-1, 5) for rows in (found, expected))
    pairs, away = match_boxes(a[:, :4], b[:, :4], a[:, 4], b[:, 4], pixels)
    return pairs.tolist(), away.tolist()


def test_the_nearest_of_its_class_is_taken_once():
    expected = [[0.0, 0, 10, 10, 1], [0.0, 0, 10, 10.0625, 1], [0.0, 0, 10, 10, 2]]
    assert match([[0.0, 0, 10, 10.0625, 1]], expected) == ([[0, 1]], [0.0])
    twice = [[0.0, 0, 10, 10, 2], [0.0, 0, 10, 10, 2]]
    assert match(twice, expected) == ([[0, 2]], [0.0])


def test_a_box_that_is_too_far_or_alone_has_no_partner():
    assert match([[0.0, 0, 10, 10.5, 1]], [[0.0, 0, 10, 10, 1]]) == ([], [])
    assert match([[0.0, 0, 10, 10.5, 1]], [[0.0, 0, 10, 10, 1]], 0.5) == ([[0, 0]], [0.5])

    assert match([], [[0.0, 0, 10, 10, 1]]) == ([], [])
    assert match([[0.0, 0, 10, 10, 1]], []) == ([], [])


def detections(*boxes):
    found = Instances((100, 100))
    found.pred_boxes = Boxes(torch.tensor([box[:4] for box in boxes]).reshape(-1, 4))
    found.pred_classes = torch.tensor([int(box[4]) for box in boxes])
    return found


def test_detections_are_paired_one_to_one_where_class_and_box_agree():
    expected = detections([0.0, 0, 10, 10, 1], [0.0, 0, 10, 10, 2], [50.0, 50, 60, 60, 1])
    assert match_detections(expected, expected, 0.05) == 3
    twice = detections([0.0, 0, 10, 10, 1], [0.01, 0, 10, 10, 1])
    assert match_detections(twice, expected, 0.05) == 1
    assert match_detections(detections([50.0, 50, 60, 60.04, 1]), expected, 0.05) == 1
    assert match_detections(detections([50.0, 50, 60, 60.06, 1]), expected, 0.05) == 0
    assert match_detections(detections([50.0, 50, 60, 60, 2]), expected, 0.05) == 0
    assert match_detections(detections(), expected, 0.05) == 0
