"""The figures of a report: what is drawn, and how rows look in it."""

from xml.etree import ElementTree

import pytest

from fpn_d2.experiments.figures import draw_charts, row_styles
from fpn_d2.experiments.tables import Row, load_tables
from fpn_d2.visualization import PALETTE


@pytest.fixture(scope="module")
def table(repo):
    return load_tables(repo / "configs" / "tables.yaml").table("1")


def _results(*seeds, row="c"):
    return {"rows": [{"row": row, "seeds": [{"seed": i, **s} for i, s in enumerate(seeds)]}]}


def test_rows_differ_in_colour_line_and_marker(table):
    styles = row_styles(table.rows)
    for look in ("color", "line", "marker"):
        assert len({getattr(style, look) for style in styles.values()}) == len(table.rows)
    assert {style.color for style in styles.values()} <= set(PALETTE)


def test_a_row_beside_another_looks_like_it():
    styles = row_styles({"a": Row("", {}), "a_more": Row("", {}, beside="a"), "b": Row("", {})})
    assert styles["a_more"] == styles["a"]
    assert styles["b"] == row_styles(["x", "y"])["y"]


def test_only_what_there_are_numbers_for_is_drawn(table):
    def titles(results):
        return [chart.title.split()[0] for chart in draw_charts(table, results)]

    losses = {"iteration": [19, 39], "total_loss": [1.0, 0.5]}
    assert titles({}) == []
    assert titles(_results({"metrics": {"AR100": 40, "AR1k": 50}})) == ["Recall"]
    assert titles(_results({"metrics": {"AR1k_s": 40, "AR1k_l": None}})) == ["AR1k"]
    assert titles(_results({"losses": losses}, {"losses": {}})) == ["Training"]
    assert titles(_results({"losses": losses, "metrics": {"AR10": 9}}, row="unknown")) == []


def test_seeds_of_different_length_share_what_they_have(table):
    losses = [{"iteration": its, "total_loss": [1.0] * len(its)} for its in ([19, 39], [19])]
    assert len(draw_charts(table, _results(*({"losses": loss} for loss in losses)))) == 1


def test_a_chart_is_one_readable_and_repeatable_svg(table):
    results = _results({"metrics": {"AR10": 20, "AR100": 40}}, {"metrics": {"AR10": 30}})
    (chart,) = draw_charts(table, results)
    root = ElementTree.fromstring(chart.svg)
    assert root.tag.endswith("svg")
    assert root.get("aria-label")
    assert row_styles(table.rows)["c"].color.lower() in chart.svg
    assert draw_charts(table, results)[0].svg == chart.svg
