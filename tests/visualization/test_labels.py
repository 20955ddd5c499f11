import itertools

import numpy as np

from fpn_d2.visualization.labels import place_labels


def overlap(a, b):
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def test_a_label_stands_above_its_box():
    assert place_labels(np.array([[50, 60, 150, 160]]), [(40, 18)], (300, 300)) == [
        (50, 42, 90, 60)
    ]


def test_at_the_top_it_stays_in_the_picture():
    (place,) = place_labels(np.array([[280, 0, 300, 50]]), [(40, 18)], (300, 300))
    assert place[0] >= 0
    assert place[1] >= 0
    assert place[2] <= 300


def test_labels_of_one_place_keep_clear_of_each_other():
    boxes = np.array([[50, 60, 250, 260]] * 6)
    places = place_labels(boxes, [(60, 18)] * 6, (300, 300))
    assert not any(overlap(a, b) for a, b in itertools.combinations(places, 2))


def test_without_labels_there_is_nothing_to_place():
    assert place_labels(np.zeros((0, 4)), [], (300, 300)) == []
