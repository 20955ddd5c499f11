"""How costs grow: exponents against formulas, verdicts by hand, and their table and picture."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from fpn_d2.experiments.benchmark_tables import benchmark_table
from fpn_d2.experiments.cost_growth import (
    compare_growth,
    draw_growth,
    fit_exponent,
    growth_lines,
    left_out_lines,
)

VALUES = [1, 3, 10, 30, 100, 300, 1000, 3000]


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("constant", [0.0, 0.1, 20.0])
def test_the_exponent_is_of_what_grows(exponent, constant):
    costs = [constant + 2 * (value / 3000) ** exponent * 20 for value in VALUES]
    assert fit_exponent(VALUES, costs) == pytest.approx(exponent, abs=0.011)


def test_an_exponent_with_noise():
    generator = np.random.default_rng(1)
    noise = 1 + 0.02 * generator.standard_normal(len(VALUES))
    costs = [(1 + value / 300) * share for value, share in zip(VALUES, noise, strict=True)]
    assert fit_exponent(VALUES, costs) == pytest.approx(1, abs=0.1)


def test_what_hardly_rises_is_constant():
    assert fit_exponent(VALUES, [5.0] * 8) == 0
    assert fit_exponent(VALUES, [5, 5, 5, 5, 5, 5, 5.2, 5.4], floor=0.5) == 0
    assert fit_exponent(VALUES, [5, 5, 5, 5, 5, 5, 5.2, 5.4], floor=0.1) > 0
    assert fit_exponent(VALUES, [5, 4, 4, 4, 4, 4, 4, 4]) == 0


def test_few_points_have_a_slope_alone():
    assert fit_exponent([1, 2], [3, 6]) == pytest.approx(1)
    assert fit_exponent([1, 2], [8, 4]) == pytest.approx(-1)
    assert fit_exponent([1, 10, 100], [7, 70, 700]) == pytest.approx(1)
    assert fit_exponent([1, 2], [8, 8.5], floor=1) == 0


SIDES = [320, 448, 640, 896, 1280, 1792, 2560, 4000]


@pytest.mark.parametrize(("zeros", "within"), [(0, 0.011), (1, 0.15), (2, 0.45)])
@pytest.mark.parametrize("values", [VALUES, SIDES])
@pytest.mark.filterwarnings("error")
def test_a_first_cost_of_nothing_does_not_rule_the_fit(values, zeros, within):
    costs = [0 if i < zeros else value**2 / 1e4 for i, value in enumerate(values)]
    assert fit_exponent(values, costs) == pytest.approx(2, abs=within)


def test_few_points_of_nothing():
    assert fit_exponent([1, 10], [0, 100]) == pytest.approx(2)  # 0 counts as largest / 100


def rounds(costs):
    return [[cost] * 3 for cost in costs]


def test_the_same_growth_on_a_smaller_constant_is_no_faster():
    """In logarithms, the slopes at the last point are 0.75 and 0.5."""
    ours, stock = ([c + v / 1000 for v in VALUES] for c in (1.0, 3.0))
    growth = compare_growth(VALUES, rounds(ours), rounds(stock))
    assert growth == (growth.ours, growth.ours, 0.0, "holds")
    assert growth.ours == pytest.approx(1, abs=0.011)


def test_the_same_small_growth_is_constant_in_both():
    ours, stock = ([c + v / 12_000 for v in VALUES] for c in (1.0, 3.0))
    assert compare_growth(VALUES, rounds(ours), rounds(stock))[:2] == (0, 0)


@pytest.mark.parametrize(
    ("mine", "theirs", "last", "verdict"),
    [
        (1.0, 2.0, (1, 1, 1), "holds"),
        (1.04, 1.0, (1, 1, 1), "holds"),
        (1.1, 1.0, (1, 1, 1), "does not hold"),
        (2.0, 1.0, (0.95, 1, 1.05), "does not hold"),
        (1.0, 1.0, (1.5, 1.5, 1.0), "within noise"),  # one round of three says 1.0
    ],
)
def test_ours_may_be_steeper_by_five_hundredths(mine, theirs, last, verdict):
    ours, stock = ([[1 + (v / 100) ** power] * 3 for v in VALUES] for power in (mine, theirs))
    for i in (-2, -1):
        ours[i] = [cost * share for cost, share in zip(ours[i], last, strict=True)]
    growth = compare_growth(VALUES, ours, stock)
    assert growth.verdict == verdict
    assert growth.low <= growth.ours - growth.stock + 1e-9


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mine", [[0] * 8, [0, *VALUES[1:]], VALUES])
def test_where_there_is_next_to_nothing_there_is_no_verdict(mine):
    stock = [[1000 + value] for value in VALUES]
    ours = [[cost] for cost in mine]
    assert compare_growth(VALUES, ours, stock, 4).verdict == "too little to tell"
    assert compare_growth(VALUES, stock, ours, 4).verdict == "too little to tell"
    expected = "too little to tell" if 0 in mine else "holds"
    assert compare_growth(VALUES, ours, stock).verdict == expected


def point(axis, value, seconds, baseline, *, peak=100, baseline_peak=200, **more):
    return {
        "task": "growth", "axis": axis, "value": value, "row": "faster", "way": "training",
        "seconds": seconds, "baseline_seconds": baseline, "peak_mib": peak, "found": None,
        "baseline_peak_mib": baseline_peak, "baseline_found": None, "alternated": True,
        "left_out": {"ours": "", "detectron2": ""}, **more,
    }  # fmt: skip


ROWS = [point("objects", v, [1 + v / 100] * 2, [2 + v / 100] * 2) for v in VALUES]
ROWS += [
    point("side", v, [v**2 / 1e5], [v**2 / 1e4], peak=v, baseline_peak=v**2 / 100)
    for v in (100, 200, 400, 800)
]
ROWS += [
    point("side", 1600, [26.0], [], peak=2000, baseline_peak=None,
          left_out={"ours": "", "detectron2": "ran out of 20 GiB"}),
    point("side", 3200, [], [], peak=None, baseline_peak=None,
          left_out=dict.fromkeys(("ours", "detectron2"), "would take 9 minutes more")),
]  # fmt: skip


def test_a_line_for_what_grows():
    objects, side = growth_lines(ROWS)
    assert objects == [
        *("objects", "1", "3,000", "faster, training"),
        *("1.01 to 31", "2.01 to 32", "1.00 / 1.00", "holds"),
        *("100 to 100", "200 to 200", "0.00 / 0.00", "holds"),
    ]
    assert side[:8] == [
        *("side", "100", "800", "faster, training"),
        *("0.1 to 6.4", "1 to 64", "2.00 / 2.00", "holds"),
    ]
    assert side[8:] == ["100 to 800", "100 to 6,400", "1.00 / 2.00", "holds"]


def test_a_line_with_too_little_memory():
    rows = [{**row, "peak_mib": peak} for row, peak in zip(ROWS, (0, *[50] * 7), strict=False)]
    assert growth_lines(rows)[0][8:10] == ["0 to 50", "200 to 200"]
    assert growth_lines(rows)[0][11] == "too little to tell"


def test_what_was_left_out_is_told():
    assert left_out_lines(ROWS) == [
        "side 1,600, faster, training: detectron2: ran out of 20 GiB",
        "side 3,200, faster, training: both: would take 9 minutes more",
    ]
    more = [*ROWS, {**ROWS[-1], "value": 6400}]
    assert left_out_lines(more)[1:] == [
        "side 3,200 to 6,400, faster, training: both: would take 9 minutes more"
    ]
    text = benchmark_table(ROWS)
    assert text.startswith("| grows ")
    assert "\n- side 1,600, faster, training: detectron2: ran out of 20 GiB\n" in text
    assert growth_lines(ROWS[-2:]) == []


def test_without_memory_there_are_seconds_alone():
    rows = [{**row, "peak_mib": None, "baseline_peak_mib": None} for row in ROWS]
    assert growth_lines(rows)[0][7:] == ["holds", "", "", "", ""]


def test_a_picture_of_all(tmp_path):
    path = tmp_path / "growth.svg"
    draw_growth(ROWS, path)
    first = path.read_bytes()
    root = ET.fromstring(first)
    assert root.tag.endswith("}svg")
    draw_growth(ROWS, path)
    assert path.read_bytes() == first
    draw_growth([{**row, "axis": "classes"} for row in ROWS[-1:]], path)  # nothing was measured
    assert "classes" in path.read_text()
    assert "not measured" in path.read_text()
    assert b"not measured" not in first
