"""A report's pictures: figures in SVG, and images on which one row finds what another misses.

Shape shorthand: an image has G objects.
"""

import dataclasses
import itertools
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from detectron2.structures import BoxMode
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from PIL import Image, ImageColor

from ..data.images import read_sound_image
from ..evaluation import load_ground_truth
from ..visualization import PALETTE, draw_boxes, overlaps_with_objects, read_results, side_by_side
from ..visualization.pages import Chart, finish_chart, new_axes
from .claims import Summaries, Summary, summarize
from .tables import Table

# Yellow comes last, since it is faint on white.
_COLORS = tuple(PALETTE[i] for i in (0, 1, 2, 4, 5, 6, 3))
_LINES = ("-", "--", "-.", ":", (0, (6, 1.5, 1, 1.5, 1, 1.5)), (0, (8, 2)), (0, (2, 1)))
_MARKERS = "os^Dv*P"
_FOUND, _MISSED = PALETTE[4], PALETTE[5]  # Blue and vermilion.
_COUNTS = {"AR10": 10, "AR30": 30, "AR100": 100, "AR300": 300, "AR1k": 1000}


class RowStyle(NamedTuple):
    """How a row looks in all figures, whether printed in colour or in grey.

    ``color`` is ``#RRGGBB``; ``line`` and ``marker`` are Matplotlib's.
    """

    color: str
    line: Any
    marker: str


def row_styles(rows: Mapping[str, Any]) -> dict[str, RowStyle]:
    """Return the look of each row by name, which depends only on its place in the table.

    A row beside another one looks like that one, and a row looks the same at every schedule.
    """

    def owner_of(name: str) -> str:
        row = rows.get(name)
        beside = getattr(row, "beside", "")
        return owner_of(beside) if beside else getattr(row, "of", "") or name

    owners = {name: owner_of(name) for name in rows}
    looks = itertools.cycle(map(RowStyle, _COLORS, _LINES, _MARKERS))
    styles = dict(zip(dict.fromkeys(owners.values()), looks, strict=False))
    return {name: styles[owner] for name, owner in owners.items()}


def set_count_axis(axes: Axes, counts: Sequence[int], label: str) -> None:
    """Make the horizontal axis logarithmic, with a tick at each of these counts alone."""
    axes.set_xscale("log")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(label)


def draw_charts(table: Table, results: Mapping[str, Any]) -> list[Chart]:
    """Draw the figures that the content of a table's results file has numbers for.

    Returns:
        up to three figures: AR against the number of proposals, the metric by object size beside
        the paper's, and the losses.
    """
    summaries = summarize(results)
    if any(row.of for row in table.rows.values()):
        return []  # See draw_studies.
    styles = row_styles(table.rows)
    labels = {n: f"{n}: {row.name}" for n, row in table.rows.items() if not row.beside}
    charts = [
        _draw_recall(summaries, styles, labels),
        _draw_sizes(table, summaries, styles, labels),
        _draw_losses(results, styles, labels),
    ]
    return [chart for chart in charts if chart is not None]


def _draw_recall(
    summaries: Summaries, styles: Mapping[str, RowStyle], labels: Mapping[str, str]
) -> Chart | None:
    """Draw AR against the number of proposals."""
    figure, axes = new_axes()
    for name, label in labels.items():
        points = [
            (count, summaries[name][metric])
            for metric, count in _COUNTS.items()
            if metric in summaries.get(name, {})
        ]
        if len(points) > 1:
            plot_band(axes, dict(points), styles[name], label)
    if not axes.lines:
        return None
    set_count_axis(axes, list(_COUNTS.values()), "proposals of an image")
    axes.set_ylabel("AR")
    return finish_chart(
        figure, "recall", "average recall against the number of proposals, by row",
        "Recall against the number of proposals",
        "Mean over the seeds; the band is one standard deviation to each side.",
    )  # fmt: skip


def _draw_sizes(
    table: Table, summaries: Summaries, styles: Mapping[str, RowStyle], labels: Mapping[str, str]
) -> Chart | None:
    """Draw bars of the metric by object size, ours filled and the paper's hatched."""
    stem = next((metric[:-2] for metric in table.metrics if metric.endswith("_s")), "")
    metrics = [f"{stem}_{size}" for size in "sml"]
    names = [n for n in labels if any(m in summaries.get(n, {}) for m in metrics)]
    if not stem or not names:
        return None
    figure, axes = new_axes()
    width = 0.84 / len(names)
    for i, name in enumerate(names):
        left = np.arange(3) - 0.42 + i * width
        ours = [summaries[name].get(metric) for metric in metrics]
        paper = [table.rows[name].paper.get(metric, 0.0) for metric in metrics]
        color = styles[name].color
        axes.bar(
            left, [summary.mean if summary else 0.0 for summary in ours], width * 0.5,
            align="edge", color=color, label=labels[name],
            yerr=[(summary.deviation or 0.0) if summary else 0.0 for summary in ours],
            error_kw={"lw": 0.9, "ecolor": "#222222"},
        )  # fmt: skip
        axes.bar(
            left + width * 0.5, paper, width * 0.36, align="edge", facecolor="white",
            edgecolor=color, hatch="////", linewidth=0.8,
        )  # fmt: skip
        for x in left + width * 0.45 if len(name) == 1 else ():  # The row's letter, for grey print.
            axes.annotate(
                name, (x, 0), (0, -3), textcoords="offset points", ha="center", va="top",
                fontsize=8, color="#444444", annotation_clip=False,
            )  # fmt: skip
    axes.set_xticks(range(3), ["small", "medium", "large"])
    axes.tick_params(axis="x", length=0, pad=14)
    axes.set_ylabel(stem)
    return finish_chart(
        figure, "sizes", f"{stem} of small, medium and large objects, by row",
        f"{stem} by the size of objects",
        "Filled: ours, with one standard deviation. Hatched: the paper's.",
    )  # fmt: skip


def _draw_losses(
    results: Mapping[str, Any], styles: Mapping[str, RowStyle], labels: Mapping[str, str]
) -> Chart | None:
    """Draw the total loss over the iterations."""
    curves: dict[str, list[dict[int, float]]] = {}
    for row in results.get("rows") or []:
        for seed in row.get("seeds") or []:
            losses = seed.get("losses") or {}
            points = zip(losses.get("iteration", []), losses.get("total_loss", []), strict=False)
            if curve := dict(points):
                curves.setdefault(str(row["row"]), []).append(curve)
    figure, axes = new_axes()
    for name in labels:
        seeds = curves.get(name)
        if not seeds:
            continue
        iterations = sorted(set.intersection(*(set(curve) for curve in seeds)))
        means = [statistics.fmean(curve[i] for curve in seeds) for i in iterations]
        plot_row(axes, iterations, means, styles[name], labels[name])
    if not axes.lines:
        return None
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("iteration")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_ylabel("total loss")
    return finish_chart(
        figure, "losses", "total training loss against the iteration, by row",
        "Training loss", "Mean over the seeds, as Detectron2 logs it; the axis is logarithmic.",
    )  # fmt: skip


def plot_row(
    axes: Axes, x: list, y: Iterable[float], style: RowStyle, label: str, *, marks: bool = False
) -> None:
    """Draw a row's line, with a mark at each point if there are few."""
    axes.plot(
        x, y, color=style.color, linestyle=style.line, label=label, lw=2, ms=6,
        marker=style.marker if marks else None, markeredgecolor="#222222", markeredgewidth=0.5,
    )  # fmt: skip


def plot_band(axes: Axes, points: Mapping[int, Summary], style: RowStyle, label: str) -> None:
    """Draw a row's means, with a band of one standard deviation to each side."""
    x, summaries = list(points), points.values()
    means = np.array([summary.mean for summary in summaries])
    spread = np.array([summary.deviation or 0.0 for summary in summaries])
    plot_row(axes, x, means, style, label, marks=True)
    axes.fill_between(x, means - spread, means + spread, color=style.color, alpha=0.2, lw=0)


# -- examples


@dataclasses.dataclass(frozen=True)
class Example:
    """An image as two rows see it.

    Args:
        title: the two rows and the image.
        caption: what each of the rows found.
        picture: the image as each row sees it, side by side.
    """

    title: str
    caption: str
    picture: Image.Image


def find_examples(
    folders: Mapping[str, str], dataset: str, pairs: Sequence[tuple[str, str]], table: Table
) -> list[Example]:
    """Draw, for each pair, the image on which one row finds the most that the other misses.

    A row finds an object if one of its best 100 proposals, or a detection of the object's class
    whose score is 0.5 or more, has an IoU of 0.5 or more with it. Mask proposals are compared by
    their masks.

    Args:
        folders: the ``inference/<data set>`` folder of each row, which holds its
            ``box_proposals.pkl``, ``coco_instances_results.json`` or ``mask_proposals.json``.
        dataset: the name of the data set, with its split.
        pairs: pairs of rows (x, y); the images show what x finds and y misses.
        table: gives the rows their names and colours.

    Returns:
        the examples in the order of the pairs, each with an image of its own; none for a pair whose
        x finds nothing that y misses, or one of whose rows has no folder.

    Raises:
        UserError: if the data set is missing, or a folder has no boxes.
    """
    pairs = [pair for pair in pairs if all(row in folders for row in pair)]
    if not pairs:
        return []
    coco, image_root = load_ground_truth(dataset)
    found, objects = {}, {}
    for row in {row for pair in pairs for row in pair}:
        kind, results = read_results(folders[row], coco)
        found[row] = {}
        for image_id in sorted(coco.imgs):
            objects[image_id], ious = overlaps_with_objects(kind, coco, image_id, results[image_id])
            found[row][image_id] = (ious >= 0.5).any(axis=0)
    examples: dict[int, Example] = {}  # by image, so that no two pairs show the same
    for x, y in pairs:
        best = [i for i in _best_images(found[x], found[y]) if i not in examples]
        if best:
            image_id = best[0]
            name = coco.imgs[image_id]["file_name"]
            image = read_sound_image(coco.imgs[image_id], image_root)
            boxes = np.array([o["bbox"] for o in objects[image_id]], dtype=np.float64)
            boxes = BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
            seen = {row: found[row][image_id] for row in (x, y)}
            examples[image_id] = _example(name, image, boxes, seen, table)
    return list(examples.values())


def _best_images(x: Mapping[int, np.ndarray], y: Mapping[int, np.ndarray]) -> list[int]:
    """Return the images on which x finds what y misses, those with the most such objects first."""
    gains = {i: (int((x[i] & ~y[i]).sum()), -int((y[i] & ~x[i]).sum())) for i in x}
    gaining = [i for i, (gain, _) in gains.items() if gain]
    return sorted(gaining, key=lambda i: gains[i], reverse=True)


def _example(
    name: str, image: np.ndarray, objects: np.ndarray, seen: Mapping[str, np.ndarray], table: Table
) -> Example:
    """Draw an image twice, as the two rows see it, and enlarged if it is small."""
    titles = {row: f"({row}) {table.rows[row].name}" for row in seen}
    styles = row_styles(table.rows)
    scale = 2 if max(image.shape[:2]) <= 400 else 1
    pictures, counts = {}, []
    for row, found in seen.items():
        labels = ["" if f else "missed" for f in found]
        colors = [_FOUND if f else _MISSED for f in found]
        picture = draw_boxes(image, objects, labels, colors, scale, dashed=~found)
        picture[:5] = ImageColor.getrgb(styles[row].color)
        count = f"{int(found.sum())} of {len(found)}"
        pictures[f"{titles[row]}: {count} found"] = picture
        counts.append(f"{titles[row]} finds {count} objects")
    return Example(
        title=f"{' and '.join(titles.values())} on {os.path.basename(name)}",
        caption=f"{', '.join(counts)}. Found: solid blue; missed: dashed and labelled.",
        picture=side_by_side(pictures),
    )
