"""HTML pages of one style, each a single file that needs no network, and their SVG charts."""

import base64
import io
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jinja2
import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from ..utils.files import explain_disk_errors, replace_file, write_json
from .layout import font_families


class Chart(NamedTuple):
    """A figure of a page.

    Args:
        title: says what the figure shows.
        caption: says how to read it.
        svg: the figure as an ``<svg>`` element.
    """

    title: str
    caption: str
    svg: Markup


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
        values: the lengths of the bars.
        colors: the colours of the bars.
        label: what the lengths measure, written below the axis.
        texts: a text for the end of each bar; if left out, the bar's value.
    """
    figure, axes = new_axes(height=max(4.4, 0.28 * len(names)))
    bars = axes.barh(range(len(names)), values, color=colors)
    axes.bar_label(bars, texts or [f"{value:,}" for value in values], padding=3, fontsize=9)
    axes.set_yticks(range(len(names)), [short_name(name) for name in names])
    axes.set_ylim(max(len(names), 5) - 0.4, -0.6)  # first on top; space for five keeps one bar thin
    axes.grid(visible=False)
    axes.margins(x=0.15)
    axes.set_xlabel(label)
    return figure


def short_name(name: str) -> str:
    """Cut a name to 24 characters."""
    return name if len(name) <= 24 else f"{name[:21]}..."


def finish_chart(
    figure: Figure, prefix: str, description: str, title: str, caption: str, *, columns: int = 2
) -> Chart:
    """Finish a figure of a page, with a legend below its axes if there is something to name.

    Args:
        figure: the figure; the legend has the labels of its first axes.
        prefix: the prefix of the SVG's ids; each figure of a page has its own.
        description: the text for readers who cannot see the figure.
        title, caption: see :class:`Chart`.
        columns: the most columns of the legend; fewer if it would be wider than the figure.
    """
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if labels:
        place = {"loc": "outside lower center", "handlelength": 3.2, "frameon": False}
        font = {"size": 9, "family": font_families("".join(labels))}
        for count in range(columns, 0, -1):
            legend = figure.legend(handles, labels, ncols=count, prop=font, **place)
            for text in legend.texts:
                text.set_parse_math(False)  # else its width is that of a formula
            if count == 1 or legend.get_window_extent().width <= figure.bbox.width:
                break
            legend.remove()
    texts = figure.findobj(Text)
    families = font_families("".join(text.get_text() for text in texts))
    for text in texts:
        text.set_family(families)
        text.set_parse_math(False)  # names may have dollar signs
    return Chart(title, caption, _to_svg(figure, prefix, description))


def svg_text(figure: Figure, salt: str, **options: Any) -> str:
    """Return a figure as the text of an SVG file, the same each time.

    Args:
        figure: the figure.
        salt: matplotlib's ``svg.hashsalt``, which its ids are made from.
        options: see :meth:`Figure.savefig`.
    """
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": salt}):
        figure.savefig(text, format="svg", metadata={"Date": None}, **options)
    return text.getvalue()


def _to_svg(figure: Figure, prefix: str, description: str) -> Markup:
    """Return a figure as an ``<svg>`` element whose ids are unique on the page."""
    svg = svg_text(figure, prefix, transparent=True)
    svg = svg[svg.index("<svg") :]
    for mark in (' id="', 'href="#', "url(#"):
        svg = svg.replace(mark, f"{mark}{prefix}-")
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{description}"', 1))


def page_environment(folder: str) -> jinja2.Environment:
    """Return the environment that renders a page's template.

    Args:
        folder: the folder of the template, which may extend ``page.html.j2``, the frame of all
            pages, import the macros of ``page_parts.html.j2``, and show a Pillow image with the
            filter ``data_url``.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, os.path.dirname(__file__)]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_url"] = _data_url
    return environment


def _data_url(picture: Image.Image) -> str:
    """Return the ``data:`` URL of a picture, as a JPEG."""
    file = io.BytesIO()
    picture.convert("RGB").save(file, format="JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def write_page(page: str, text: str, numbers: str, content: Any) -> list[str]:
    """Write a page, and its numbers as JSON beside it; earlier ones are replaced.

    Args:
        page, numbers: the paths of the HTML and the JSON file; their folder is created if missing.
        text, content: the text of the page, and what to write as JSON.

    Returns:
        the two paths.

    Raises:
        UserError: if their folder cannot be written to.
    """
    with explain_disk_errors(page, "give --output"):
        os.makedirs(os.path.dirname(page) or ".", exist_ok=True)
        write_json(numbers, content)  # first: it tells later runs whose page this is
        with replace_file(page, encoding="utf-8", errors="xmlcharrefreplace") as file:
            file.write(text)
    return [page, numbers]
