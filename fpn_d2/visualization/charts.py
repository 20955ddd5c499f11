"""Figures in SVG that stand inside a page, all of one look."""

import dataclasses
import io

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["Chart", "new_axes", "to_svg"]


@dataclasses.dataclass(frozen=True)
class Chart:
    """A figure of a page.

    Args:
        title: what it shows.
        caption: how to read it.
        svg: an ``<svg>`` element.
    """

    title: str
    caption: str
    svg: str


def new_axes(width: float = 6.0, height: float = 4.4) -> tuple[Figure, Axes]:
    """An empty figure with one pair of axes.

    Args:
        width, height: in inches.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", lw=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def to_svg(figure: Figure, prefix: str, description: str) -> str:
    """The figure as an ``<svg>`` element whose ids no other figure of the page has.

    Args:
        figure: what to draw.
        prefix: of its ids, the figure's own on the page.
        description: for those who cannot see it.
    """
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": prefix}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    for mark in (' id="', 'href="#', "url(#"):
        svg = svg.replace(mark, f"{mark}{prefix}-")
    return svg.replace("<svg", f'<svg role="img" aria-label="{description}"', 1)
