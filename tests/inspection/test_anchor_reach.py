"""inspection/anchor_reach.py against arithmetic and Detectron2's own IoU over all anchors."""

from unittest.mock import Mock

import numpy as np
import pytest
import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, pairwise_iou

from fpn_d2.inspection import anchor_reach
from fpn_d2.inspection.anchor_reach import (
    best_ious,
    grid_sizes,
    network_inputs,
    positive_anchors,
    suggest_sizes,
)
from fpn_d2.modeling import rpn

pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid")
MATCHER = Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True)


def generator(sizes, strides, ratios=(1.0,), offset=0.0):
    return DefaultAnchorGenerator(
        sizes=sizes, aspect_ratios=[list(ratios)], strides=strides, offset=offset
    )


@pytest.mark.parametrize(
    "box, iou",
    [
        ([16, 16, 48, 48], 1.0),  # 32 x 32, centred on (32, 32), as an anchor is
        ([27, 27, 37, 37], 100 / 1024),  # 10 x 10 within it
        ([20, 16, 52, 48], 28 / 36),  # 4 px from an anchor: 28 * 32 / (2 * 32 * 32 - 28 * 32)
        ([32, 32, 160, 160], 1024 / 16384),  # the anchor within a box of 128 px
    ],
)
def test_the_best_iou_by_arithmetic(box, iou):
    boxes = np.array([box], dtype=np.float32)
    grids = grid_sizes(np.array([[160, 160]]), [16], 0)
    assert best_ious(generator([[32]], [16]), boxes, grids)[0, 0] == pytest.approx(iou, abs=1e-6)


def test_an_image_that_is_long_and_narrow_keeps_a_pixel():
    boxes = np.array([[0, 0, 1000, 2], [0, 0, 2, 1000]], np.float32)
    found, sizes = network_inputs(boxes, np.array([[2, 2000], [2000, 2]]), 64, 100)
    assert sizes.tolist() == [[1, 100], [100, 1]]
    assert found.tolist() == [[0, 0, 50, 1], [0, 0, 1, 50]]


def random_boxes(number, height=100, width=130):
    corners = np.sort(np.random.default_rng(0).uniform(0, 1, (number, 2, 2)), axis=1)
    return (corners * [width, height]).reshape(-1, 4).astype(np.float32)


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_the_best_iou_is_that_over_all_anchors(offset):
    strides, boxes = [8, 16, 32], random_boxes(60)
    anchors = generator([[16], [32, 50], [64]], strides, (0.5, 1.0, 2.0), offset)
    grids = grid_sizes(np.tile((100, 130), (60, 1)), strides, 32)
    assert grids[0].tolist() == [[16, 20], [8, 10], [4, 5]]  # padded to 128 x 160
    found = best_ious(anchors, boxes, grids)
    for level, all_anchors in enumerate(anchors._grid_anchors([tuple(g) for g in grids[0]])):
        ious = pairwise_iou(Boxes(torch.from_numpy(boxes)), Boxes(all_anchors))
        np.testing.assert_allclose(found[:, level], ious.max(dim=1).values.numpy(), atol=1e-6)


def test_matches_are_those_of_the_matcher_on_all_anchors(monkeypatch):
    grid, boxes = [[16, 20], [8, 10]], torch.from_numpy(random_boxes(12))
    anchors = generator([[16], [48]], [8, 16], (0.5, 1.0, 2.0))
    monkeypatch.setattr(rpn, "_MAX_PAIRS", 5 * 1200)  # five objects at a time
    levels = anchors._grid_anchors([tuple(g) for g in grid])
    objects, labels = MATCHER(pairwise_iou(Boxes(boxes), Boxes(torch.cat(levels))))
    positive = labels == 1
    found = positive_anchors(anchors, MATCHER, boxes, grid)
    assert torch.equal(found[0], torch.cat(levels)[positive])
    assert torch.equal(found[2], objects[positive])
    assert found[1].tolist() == (torch.arange(len(labels))[positive] >= len(levels[0])).tolist()


def test_an_object_that_touches_no_anchor_matches_none():
    # Anchors of 8 px at every 64th pixel leave gaps.
    boxes = torch.tensor([[20.0, 20.0, 30.0, 30.0], [0.0, 0.0, 4.0, 4.0]])
    anchors, _, objects = positive_anchors(generator([[8]], [64]), MATCHER, boxes, [[2, 2]])
    assert objects.tolist() == [1]
    assert anchors.tolist() == [[-4.0, -4.0, 4.0, 4.0]]


def test_boxes_are_resized_with_their_images():
    # 100 x 200 (height x width) to a shorter side of 50; the second hits the longer side's limit.
    boxes = np.array([[20.0, 10, 60, 50], [40, 0, 400, 100]])
    found, sizes = network_inputs(boxes, np.array([[100, 200], [100, 400]]), 50, 120)
    assert sizes.tolist() == [[50, 100], [30, 120]]
    np.testing.assert_allclose(found, [[10, 5, 30, 25], [12, 0, 120, 30]])
    assert network_inputs(boxes, np.array([[9, 9], [8, 8]]), 0, 120)[0].tolist() == boxes.tolist()


@pytest.mark.parametrize(
    "sides, factor, sizes, present_reach, reach",
    [
        # Squares of 12 px: IoU 144 / s^2 is at least 0.5 for s up to 16.97, so 0.5 is the first of
        # the factors 2^(k/4) of 32 and 64 that reaches them (16 px; 2^(-3/4) gives 19 px).
        ([12], 0.5, [[16.0], [32.0]], 0.0, 1.0),
        ([32, 64], 1.0, [[32], [64]], 1.0, 1.0),  # the present sizes stay if none are better
        ([12, *[32] * 600], 1.0, [[32], [64]], 600 / 601, 600 / 601),  # and here, by 0.2 points
        ([2], 1.0, [[32], [64]], 0.0, 0.0),  # none is below 4 px
    ],
)
def test_smaller_objects_are_given_smaller_anchors(sides, factor, sizes, present_reach, reach):
    # squares centred on anchors of both levels
    centers, strides = np.tile([64.0, 128.0, 192.0, 64.0], len(sides)), [8, 16]
    half = np.repeat(sides, 4) / 2
    corners = [centers - half, centers - half, centers + half, centers + half]
    grids = grid_sizes(np.full((len(centers), 2), 256), strides, 0)
    boxes = np.stack(corners, axis=1).astype(np.float32)
    found = suggest_sizes(lambda s: generator(s, strides), ((32,), (64,)), boxes, grids)
    assert (found.factor, found.sizes) == (factor, sizes)
    assert (found.present_reach, found.reach) == (present_reach, reach)


def test_anchors_that_training_ignores_for_being_outside_match_nothing():
    """An anchor of 8 px around (0, 0) reaches 4 px beyond the image."""
    boxes, anchors = torch.tensor([[0.0, 0.0, 4.0, 4.0]]), generator([[8]], [64])
    for beyond, number in ((4, 1), (3, 0)):
        found = positive_anchors(anchors, MATCHER, boxes, [[2, 2]], ((128, 128), beyond))
        assert len(found[0]) == number


def test_objects_between_all_anchors_match_none():
    between = torch.tensor([[5.0, 5.0, 10.0, 10.0]])
    found = positive_anchors(generator([[8]], [16]), MATCHER, between, [[4, 4]])
    assert [len(x) for x in found] == [0, 0, 0]


@pytest.mark.parametrize("kind", ["boxes of any size", "boxes of anchors", "beyond the image"])
def test_few_anchors_are_compared_with_objects(kind, monkeypatch):
    """Of 800 x 1066 pixels with the anchors of the paper, as by the matcher on all of them."""
    rng, strides = np.random.default_rng(3), [4, 8, 16, 32, 64]
    anchors = generator([[32], [64], [128], [256], [512]], strides, (0.5, 1.0, 2.0))
    grid = grid_sizes(np.array([[800, 1066]]), strides, 32)[0].tolist()
    every = torch.cat(anchors._grid_anchors(grid))
    boxes = np.tile(rng.uniform(-100, 900, (12, 2)), 2)
    boxes[:, 2:] += np.exp(rng.uniform(0, 6.5, (12, 2)))
    boxes = torch.from_numpy(boxes.astype(np.float32))
    if kind == "boxes of anchors":
        boxes = every[torch.from_numpy(rng.integers(0, len(every), 12))]
    elif kind == "beyond the image":
        boxes += 1000
    match = Mock(wraps=anchor_reach.match_anchors)
    monkeypatch.setattr(anchor_reach, "match_anchors", match)
    found = positive_anchors(anchors, MATCHER, boxes, grid)
    ious = pairwise_iou(Boxes(boxes), Boxes(every))
    (touching,) = ious.amax(dim=1).nonzero(as_tuple=True)
    objects, labels = MATCHER(ious[touching])
    assert torch.equal(found[0], every[labels == 1])
    assert torch.equal(found[2], touching[objects[labels == 1]])
    assert len(match.call_args_list[0].args[0]) < len(every) / 20
