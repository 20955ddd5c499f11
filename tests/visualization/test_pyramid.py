"""Pictures of a hand-made explanation."""

import dataclasses

import matplotlib
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import ImageColor

from fpn_d2.inference import AnchorMatches, Explanation, Proposals
from fpn_d2.visualization import (
    LEVEL_COLORS,
    draw_anchors,
    draw_explanation,
    draw_heat_maps,
    draw_levels,
    draw_proposals,
    level_color,
    level_legend,
    level_number,
    pyramid,
)


@pytest.fixture
def explanation():
    boxes = torch.tensor([[10.0, 20, 30, 40], [40, 10, 90, 70]])
    detections = Instances(
        (80, 100), pred_boxes=Boxes(boxes), scores=torch.tensor([0.9, 0.8]),
        pred_classes=torch.tensor([0, 1]),
    )  # fmt: skip
    return Explanation(
        image=np.zeros((80, 100, 3), np.uint8),
        detections=detections,
        levels=np.array([2, 4]),
        level_range=(2, 5),
        canonical_size=224,
        canonical_level=4,
        input_scale=1.0,
        features={"output": {"p4": np.array([[0.0, 1.0]] * 2, np.float32)}},
        strides={"p4": 50},
        proposals={"p3": Proposals(np.array([[10.0, 10, 60, 60]]), np.array([0.5]))},
        anchors=AnchorMatches(
            np.array([[20.0, 20, 60, 60]]), ("p5",), np.array([1]), np.array([0.75]),
            boxes[1:].numpy(), 0.7, False,
        ),
        notes=("No such thing.",),
    )  # fmt: skip


def has(picture, color):
    return (picture == np.array(ImageColor.getrgb(color))).all(axis=-1)


def test_a_box_has_the_colour_of_its_level(explanation):
    picture = draw_levels(explanation, ["a", "b"])
    assert picture.shape == (640, 800, 3)  # enlarged eight times
    # middles of left sides
    assert has(picture, level_color(2))[240, 80:84].any()
    assert has(picture, level_color(4))[320, 320:324].any()
    assert not has(picture, level_color(3)).any()


def test_a_heat_map_has_a_colour_for_the_least_and_the_largest_value(explanation):
    picture = draw_heat_maps(explanation, width=200)
    cells = picture[-160:]  # 100 x 80 pixels at twice their size, two cells of 100 pixels
    low, high = (
        np.round(255 * np.array(matplotlib.colormaps["viridis"](v)[:3])) for v in (0.0, 1.0)
    )
    assert (cells[:, :100] == low).all()
    assert (cells[:, 100:200] == high).all()


@pytest.mark.parametrize(
    "size, shown",
    [  # height and width of the image and of its picture, for a width of 60 px
        ((80, 100), (48, 60)),
        ((100, 25), (240, 60)),  # four times as tall as wide
        ((100, 5), (240, 12)),
        ((4000, 1), (240, 1)),  # 0.06 px
        ((1, 4000), (1, 60)),
    ],
)
def test_the_picture_of_a_level_is_no_taller_than_four_widths(
    explanation, monkeypatch, size, shown
):
    monkeypatch.setattr(pyramid, "_WIDTH", 60)
    cells = np.arange(6, dtype=np.float32).reshape(3, 2)
    features = {"output": {"p4": cells, "p5": cells}, "lateral": {"p5": cells}}  # p4 is blank
    thin = dataclasses.replace(
        explanation,
        image=np.zeros((*size, 3), np.uint8),
        features=features,
        strides={"p4": 50, "p5": 50},
        proposals={name: explanation.proposals["p3"] for name in ("p3", "p4")},
    )
    title = 2 * (13 + 6)
    proposals = draw_proposals(thin)
    assert proposals.shape == (title + shown[0], 60 + 8 + 60, 3)
    assert (proposals[title:, shown[1] : 60] == 255).all()  # beside a narrow picture
    maps = draw_heat_maps(thin, width=60)
    row = (16 + 6) + 4 + title + shown[0]  # the kind, a gap, and a row of maps below their titles
    assert maps.shape == (2 * row + 4, 128, 3)
    for left in (0, 68):
        picture = maps[row - shown[0] : row, left : left + 60]
        assert (picture[:, : shown[1]] != 255).any(axis=-1).all()
        assert (picture[:, shown[1] :] == 255).all()


def test_anchors_and_proposals_have_their_levels_colours(explanation):
    anchors = draw_anchors(explanation)
    assert has(anchors, level_color(5)).any()
    # the middle of the left side of the object, in white: (40, 40), enlarged eight times
    assert has(anchors, "#FFFFFF")[320, 320]
    assert has(draw_proposals(explanation), level_color(3)).any()
    assert not has(draw_proposals(explanation), level_color(5)).any()


def test_the_legend_names_levels_in_their_order():
    picture = level_legend({2: 1, "p5": 3})
    first, second = (has(picture, level_color(k)).any(axis=0).nonzero()[0] for k in (2, 5))
    assert first.max() < second.min()


def test_the_page_leaves_out_what_there_is_not(explanation):
    whole = draw_explanation(explanation)
    less = dataclasses.replace(explanation, proposals={}, features={}, anchors=None, notes=())
    assert draw_explanation(less).size < whole.size


def test_an_image_without_detections_is_drawn(explanation):
    empty = dataclasses.replace(
        explanation, detections=explanation.detections[:0], levels=np.zeros(0, int)
    )
    assert (draw_levels(empty) == 0).all()


def test_p2_to_p7_have_colours_of_their_own_and_levels_beyond_share_them():
    assert len({level_color(level) for level in range(2, 8)}) == len(LEVEL_COLORS) == 6
    assert level_color(1) == level_color(7)
    assert level_color(8) == level_color(2)


def test_a_feature_names_its_level():
    assert [level_number(feature) for feature in ("p2", "res4", "c5", "p7")] == [2, 4, 5, 7]
    for feature in ("", "plain", "stem"):
        with pytest.raises(ValueError, match="p4 or res4"):
            level_number(feature)
