"""HTML pages of one style, each a single file that needs no network, and their SVG charts."""

import base64
import io
import os
from collections.abc import Sequence
from typing import NamedTuple

import jinja2
import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image


class Chart(NamedTuple):
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
    """Make an empty figure of this width and height, in inches, with one pair of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", lw=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def horizontal_bars(
    names: Sequence[str],
    values: Sequence[float],
    colors: Sequence[str],
    label: str,
    texts: Sequence[str] = (),
) -> Figure:
    """Draw horizontal bars, the first on top.

    Args:
        names: a name for each bar; a long one is cut.
        values: their lengths.
        colors: their colours.
        label: what the lengths are.
        texts: what stands at their ends; the value of each if left out.
    """
    figure, axes = new_axes(height=max(4.4, 0.28 * len(names)))
    bars = axes.barh(range(len(names)), values, color=colors)
    axes.bar_label(bars, texts or [f"{value:,}" for value in values], padding=3, fontsize=9)
    axes.set_yticks(range(len(names)), [plain_text(name) for name in names])
    axes.set_ylim(max(len(names), 5) - 0.4, -0.6)  # the first on top; a single bar is no block
    axes.grid(visible=False)
    axes.margins(x=0.15)
    axes.set_xlabel(label)
    return figure


def plain_text(name: str) -> str:
    """Cut a name to 24 characters; matplotlib will not take a dollar sign in it for mathematics."""
    short = name if len(name) <= 24 else f"{name[:21]}..."
    return short.replace("$", r"\$")


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


def page_environment(folder: str) -> jinja2.Environment:
    """Return the environment that renders a page's template.

    Args:
        folder: the folder of the template, which may include ``page.css``, the style of all pages.
    """
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, os.path.dirname(__file__)]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def data_url(picture: Image.Image) -> str:
    """Return a picture as the ``data:`` URL of a JPEG."""
    file = io.BytesIO()
    picture.convert("RGB").save(file, format="JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
