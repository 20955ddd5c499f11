"""visualization/pages.py: what charts say of names of any kind, and where."""

import pytest

from fpn_d2.visualization.pages import finish_chart, new_axes


def chart_of(labels, columns=3):
    figure, axes = new_axes()
    for label in labels:
        axes.plot([0, 1], [0, 1], label=label)
    return figure, finish_chart(figure, "x", "lines", "title", "caption", columns=columns)


@pytest.mark.parametrize("name, columns", [("cat", 3), ("commercial vehicle {} abc (50)", 2)])
def test_a_legend_is_no_wider_than_its_figure(name, columns):
    figure, _ = chart_of([name.format(number) for number in range(5)])
    (legend,) = figure.legends
    assert legend.get_window_extent().width <= figure.bbox.width
    assert legend._ncols == columns


def test_dollar_signs_of_a_name_are_no_mathematics():
    _, chart = chart_of([r"$\foo$", "US$ and CA$"])
    assert r"$\foo$" in str(chart.svg)
    assert "US$ and CA$" in str(chart.svg)
