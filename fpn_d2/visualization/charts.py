"""SVG figures of one style for HTML pages."""

import dataclasses
import io

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Chart:
    """A figure of a page.

    Args:
        title: says what the figure shows.
        caption: says how to read it.
        svg: the figure as an ``<svg>`` element.
    """

    title: str
    caption: str
    svg: str


def new_axes(width: float = 6.0, height: float = 4.4) -> tuple[Figure, Axes]:
    """Make an empty figure with one pair of axes.

    Args:
        width, height: the size of the figure, in inches.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", lw=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def to_svg(figure: Figure, prefix: str, description: str) -> str:
    """Return a figure as an ``<svg>`` element whose ids are unique on the page.

    Args:
        figure: the figure.
        prefix: the prefix of its ids; each figure of a page has its own.
        description: the text for readers who cannot see the figure.
    """
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": prefix}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    for mark in (' id="', 'href="#', "url(#"):
        svg = svg.replace(mark, f"{mark}{prefix}-")
    return svg.replace("<svg", f'<svg role="img" aria-label="{description}"', 1)
