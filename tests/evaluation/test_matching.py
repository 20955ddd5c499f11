"""Boxes are paired as worked out by hand."""

import torch

from fpn_d2.evaluation import match_boxes


def match(found, expected, pixels=0.1):
    columns = [torch.tensor(rows).reshape(-1, 5) for rows in (found, expected)]
    (a, b) = columns
    pairs, away = match_boxes(a[:, :4], b[:, :4], a[:, 4], b[:, 4], pixels)
    return pairs.tolist(), away.tolist()


def test_the_nearest_of_its_class_is_taken_once():
    expected = [[0.0, 0, 10, 10, 1], [0.0, 0, 10, 10.0625, 1], [0.0, 0, 10, 10, 2]]
    assert match([[0.0, 0, 10, 10.0625, 1]], expected) == ([[0, 1]], [0.0])
    twice = [[0.0, 0, 10, 10, 2], [0.0, 0, 10, 10, 2]]
    assert match(twice, expected) == ([[0, 2]], [0.0])


def test_a_box_that_is_too_far_has_no_partner():
    assert match([[0.0, 0, 10, 10.5, 1]], [[0.0, 0, 10, 10, 1]]) == ([], [])
    assert match([[0.0, 0, 10, 10.5, 1]], [[0.0, 0, 10, 10, 1]], 0.5) == ([[0, 0]], [0.5])


def test_none_is_none():
    assert match([], [[0.0, 0, 10, 10, 1]]) == ([], [])
    assert match([[0.0, 0, 10, 10, 1]], []) == ([], [])
