"""The colours of levels."""

import pytest

from fpn_d2.visualization import LEVEL_COLORS, level_color, level_number


def test_every_level_of_the_paper_and_p7_has_a_colour_of_its_own():
    assert len({level_color(level) for level in range(2, 8)}) == len(LEVEL_COLORS) == 6


def test_levels_beyond_have_a_colour_too():
    assert level_color(1) == level_color(7)
    assert level_color(8) == level_color(2)


@pytest.mark.parametrize("feature, level", [("p2", 2), ("res4", 4), ("c5", 5), ("p7", 7)])
def test_a_feature_names_its_level(feature, level):
    assert level_number(feature) == level


@pytest.mark.parametrize("feature", ["", "plain", "stem"])
def test_a_feature_without_a_digit_names_none(feature):
    with pytest.raises(ValueError, match="p4 or res4"):
        level_number(feature)
