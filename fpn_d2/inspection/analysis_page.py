"""The analysis of a run as an HTML page with figures and pictures, and as JSON.

Shape shorthand: K classes, D detections and G objects of a test set.
"""

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from ..data.images import read_sound_image
from ..evaluation.score_thresholds import ANALYSIS_FILE, BEST_F1, FALLBACK
from ..utils.errors import UserError
from ..utils.files import read_json
from ..utils.progress import told
from ..visualization import PALETTE, class_color, draw_boxes, level_color, side_by_side
from ..visualization.pages import (
    Chart,
    finish_chart,
    horizontal_bars,
    new_axes,
    page_environment,
    short_name,
    write_page,
)
from .coco_matches import RECALLS
from .error_analysis import BACKGROUND_IOU, IOU, KINDS, ErrorAnalysis

_CURVES_SHOWN = len(PALETTE)
_MATRIX_SHOWN, _NUMBERS_SHOWN = 30, 15  # classes
_LABELS_SHOWN = 25  # on an image: a hundred would hide it
_PICTURE_SIDE = 640  # pixels, of the longer side

_MEANINGS = {
    "class": f"on an object (IoU at least {IOU:g}), but of another class",
    "place": f"of the right class, but beside the object (IoU {BACKGROUND_IOU:g} to {IOU:g})",
    "both": "wrong in class and in place",
    "twice": "a second detection of an object that a better one has found",
    "background": f"on nothing (IoU at most {BACKGROUND_IOU:g})",
    "missed": "an object that no detection found, not even in the wrong class or place",
}


def analysis_files(folder: str) -> tuple[str, str]:
    """Return the paths of the page and the figures of an analysis in a folder.

    Raises:
        UserError: if one of them exists and is not of an earlier analysis.
    """
    page, numbers = (os.path.join(folder, name) for name in ("analysis.html", ANALYSIS_FILE))
    content = read_json(numbers) if os.path.isfile(numbers) else None
    there = [path for path in (numbers, page) if os.path.lexists(path)]
    if there and not (isinstance(content, dict) and "datasets" in content):
        raise UserError(
            f"{there[0]} is not of an earlier analysis, so it stays; give another --output"
        )
    return page, numbers


def write_analysis(
    analyses: Sequence[ErrorAnalysis],
    run: str,
    output: str = "",
    *,
    threshold: float | str = BEST_F1,
    images: int = 12,
) -> list[str]:
    """Write the page and the figures; those of an earlier analysis are replaced.

    Args:
        analyses: see :func:`.evaluated_sets.analyze_run`.
        run: the folder of the run, which also names it on the page.
        output: the folder for the two files; created if missing. Empty means the run's own, where
            ``--confidence-threshold best-f1`` looks.
        threshold: the least score of a detection in the confusion matrix and the pictures, or
            ``"best-f1"`` for each class's own.
        images: how many of the worst images of a test set to draw.

    Returns:
        the files, ``analysis.html`` and ``analysis.json``.

    Raises:
        UserError: if the folder cannot be written to, or holds such files of no earlier analysis.
    """
    page, numbers = analysis_files(output or run)
    shown = f"score at least {threshold}"
    if threshold == BEST_F1:
        shown = "score at least the class's own threshold of best F1"
    test_sets = []
    for number, analysis in enumerate(analyses):
        thresholds = _thresholds(analysis, threshold)
        figures = analysis.as_json(thresholds)
        pictures, faults = _draw_worst(analysis, thresholds, images)
        figures["worst_images"] = [about for about, _ in pictures]
        test_sets.append(
            {
                "name": analysis.dataset,
                "lead": _lead(analysis),
                "numbers": figures,
                "kinds": _by_gain(analysis),
                "classes": _class_lines(analysis),
                "charts": draw_charts(analysis, figures, shown, f"s{number}"),
                "pictures": pictures,
                "faults": faults,
            }
        )
    template = page_environment(os.path.dirname(__file__)).get_template("analysis.html.j2")
    words = {"run": run, "shown": shown, "iou": IOU, "fallback": FALLBACK, "meanings": _MEANINGS}
    text = template.render(test_sets=test_sets, figure=_figure, **words)
    datasets = {entry["name"]: entry["numbers"] for entry in test_sets}
    content = {"run": run, "threshold": threshold, "datasets": datasets}
    return write_page(page, text, numbers, content)


def analysis_summary(analysis: ErrorAnalysis) -> str:
    """Return the figures of a test set in a few lines."""
    lines = [f"{analysis.dataset}: {_lead(analysis)}"]
    lines += [
        f"  {kind}: {entry['count']} ({_MEANINGS[kind]}), dAP {entry['dAP']:.1f}"
        for kind, entry in _by_gain(analysis)
    ]
    return "\n".join(lines)


def _thresholds(analysis: ErrorAnalysis, threshold: float | str) -> list[float]:
    if threshold != BEST_F1:
        return [float(threshold)] * len(analysis.class_ids)
    return [FALLBACK if c["threshold"] is None else c["threshold"] for c in analysis.curves]


# --- words


def _by_gain(analysis: ErrorAnalysis) -> list[tuple[str, dict[str, float]]]:
    return sorted(analysis.errors.items(), key=lambda item: -item[1]["dAP"])


def _lead(analysis: ErrorAnalysis) -> str:
    (kind, most), *_ = _by_gain(analysis)
    lead = f"AP {analysis.ap['AP']:.1f}, AP50 {analysis.ap['AP50']:.1f}."
    if most["dAP"] > 0:
        lead += (
            f" Most is lost by errors of the kind {kind}: without them AP50 would be "
            f"{most['dAP']:.1f} points higher."
        )
    return lead


def _figure(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _class_lines(analysis: ErrorAnalysis) -> list[tuple[str, list[str]]]:
    """Return the lines of the table of classes, those with the most objects first."""
    digits = {"AP": 1, "AP50": 1, "threshold": 3, "f1": 2, "precision": 2, "recall": 2}
    return [
        ("", [c["name"], f"{c['objects']:,}", *(_figure(c[k], n) for k, n in digits.items())])
        for c in sorted(analysis.curves, key=lambda curve: -curve["objects"])
    ]


# --- figures


def draw_charts(
    analysis: ErrorAnalysis, content: dict[str, Any], shown: str, prefix: str
) -> list[Chart]:
    """Draw what is lost, the curves, AP by size and by level, and the confusion matrix.

    Args:
        analysis: the analysis.
        content: its :meth:`ErrorAnalysis.as_json`.
        shown: the condition on the scores of the confusion matrix, in words.
        prefix: the prefix of the figures' ids on the page.
    """
    levels = analysis.levels
    gains = [content["errors"][kind]["dAP"] for kind in KINDS]
    texts = [f"{gain:.1f}" for gain in gains]
    losses = horizontal_bars(
        KINDS, gains, [PALETTE[5]] * len(KINDS), "dAP at IoU 0.5, points", texts
    )
    colors = [level_color(k) for k in levels.numbers]
    return [
        finish_chart(
            losses, f"{prefix}-kinds", "dAP of each kind of error",
            "What each kind of error costs", f"dAP at IoU {IOU:g}, over all scores.",
        ),
        _draw_curves(analysis, prefix),
        finish_chart(
            _draw_aps(content["by_size"], [PALETTE[4]] * 3), f"{prefix}-size", "AP by size",
            "AP by size",
            "IoU 0.5 to 0.95, all scores. Small is an area up to 32 x 32 pixels of the image, "
            "medium up to 96 x 96. Hatched: at IoU 0.5 alone.",
        ),
        finish_chart(
            _draw_aps(content["by_level"], colors), f"{prefix}-level", "AP by pyramid level",
            "AP by pyramid level",
            "IoU 0.5 to 0.95, all scores. The level that Eq. 1 gives an object (and a detection) "
            f"on the image {levels.scale}, with k0 = {levels.canonical_level} for "
            f"{levels.canonical_size:g} px. Hatched: at IoU 0.5 alone.",
        ),
        _draw_matrix(analysis, np.array(content["confusion"]["matrix"]), shown, prefix),
    ]  # fmt: skip


def _draw_aps(entries: dict[str, dict[str, Any]], colors: Sequence[str]) -> Figure:
    figure, axes = new_axes()
    names = [f"{name}\n{entry['objects']:,} objects" for name, entry in entries.items()]
    for offset, metric, style in ((-0.2, "AP", {}), (0.2, "AP50", {"hatch": "///", "alpha": 0.45})):
        values = [entry[metric] for entry in entries.values()]
        places = np.arange(len(values)) + offset
        heights = [value or 0 for value in values]
        bars = axes.bar(places, heights, 0.38, color=colors, edgecolor="white", **style)
        axes.bar_label(bars, [_figure(value) for value in values], padding=2, fontsize=9)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylim(0, 108)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("AP, percent")
    return figure


def _draw_curves(analysis: ErrorAnalysis, prefix: str) -> Chart:
    figure, axes = new_axes()
    there = [c for c in analysis.curves if c["precisions"] is not None]
    there.sort(key=lambda curve: -curve["objects"])
    if len(there) > 1:
        mean = np.mean([curve["precisions"] for curve in there], axis=0)
        label = f"mean ({100 * mean.mean():.0f})"
        axes.plot(RECALLS, mean, color="black", lw=2.4, label=label, zorder=2.2)
    shown, rest = there[:_CURVES_SHOWN], there[_CURVES_SHOWN:]
    for i, (curve, color) in enumerate(zip(shown, PALETTE, strict=False)):
        name = short_name(curve["name"])
        style = {"color": color, "zorder": 2 - i / 20}  # the first ones lie on top
        # matplotlib leaves out names that begin with _
        label = f"{' ' * name.startswith('_')}{name} ({curve['AP50']:.0f})"
        line = ("-", "--", "-.", ":")[i % 4]
        axes.plot(RECALLS, curve["precisions"], line, lw=1.8, label=label, **style)
        if curve["f1"] is not None:
            axes.plot(curve["recall"], curve["precision"], "o", ms=6, mec="white", **style)
    for curve in rest:
        axes.plot(RECALLS, curve["precisions"], color="#c8c8c8", lw=0.7, zorder=1.5)
    axes.set_xlim(0, 1.01)
    axes.set_ylim(0, 1.03)
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    return finish_chart(
        figure, f"{prefix}-curves", "precision over recall, by class", "Precision and recall",
        f"At IoU {IOU:g}, AP50 in brackets; a dot is the threshold of best F1. Precision at a "
        "recall is the best at that recall or more, as COCO's AP takes it."
        + (f" The other {len(rest)} classes are grey." if rest else ""),
        columns=3,
    )  # fmt: skip


def _draw_matrix(analysis: ErrorAnalysis, matrix: np.ndarray, shown: str, prefix: str) -> Chart:
    names, more = [*analysis.class_names], ""
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    if len(names) > _MATRIX_SHOWN:
        # the classes that are most often taken for others, or others for them
        between = matrix[:-1, :-1] - np.diag(np.diag(matrix[:-1, :-1]))
        kept = np.argsort(-(between.sum(axis=0) + between.sum(axis=1)), kind="stable")
        kept = np.sort(kept[:_MATRIX_SHOWN])
        more = f" The {_MATRIX_SHOWN} of {len(names)} classes that are confused most."
        names, which = [names[k] for k in kept], [*kept, len(analysis.class_names)]
        matrix, shares = (m[np.ix_(which, which)] for m in (matrix, shares))
    side = max(4.4, 0.24 * len(names) + 1.6)
    figure, axes = new_axes(1.25 * side, side)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.grid(visible=False)
    ticks = range(len(matrix))
    titles = [short_name(name) for name in names]
    turned = {"rotation": 90} if len(names) > 6 else {"rotation": 30, "ha": "right"}
    axes.set_xticks(ticks, [*titles, "(missed)"], **turned)
    axes.set_yticks(ticks, [*titles, "(background)"])
    axes.tick_params(labelsize=9 if len(names) <= 20 else 7, length=0)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("detected as")
    axes.set_ylabel("object of class")
    if len(names) <= _NUMBERS_SHOWN:
        for (i, j), count in np.ndenumerate(matrix):
            if count:
                color = "white" if shares[i, j] > 0.55 else "#333333"
                axes.text(j, i, f"{count}", ha="center", va="center", fontsize=9, color=color)
    return finish_chart(
        figure, f"{prefix}-matrix", "confusion matrix", "Which class is taken for which",
        f"IoU above {IOU:g}, {shown}. The darker, the larger the share of the row. The last column "
        "counts objects that nothing found, the last row detections on no object." + more,
    )  # fmt: skip


# --- pictures


def _draw_worst(
    analysis: ErrorAnalysis, thresholds: Sequence[float], number: int
) -> tuple[list[tuple[dict[str, Any], Any]], list[str]]:
    """Return what is wrong on each of the worst images, with its picture, and a sentence for each
    image that cannot be drawn."""
    pictures, faults = [], []
    shown = analysis.shown(thresholds)
    for worst in told("drawing", analysis.worst_images(thresholds, number)):
        index = worst.pop("index")
        image = analysis.images[index]
        try:
            pixels = read_sound_image(image, analysis.image_root)
        except UserError as error:
            faults.append(str(error))
            continue
        own = np.flatnonzero(shown & (analysis.image == index))
        own = own[np.argsort(-analysis.score[own], kind="stable")]
        objects = np.flatnonzero(analysis.object_images == index)
        wrong = analysis.kinds[own] >= 0
        kinds = [KINDS[kind] for kind in analysis.kinds[own][wrong]]
        about = {"image_id": image["id"], "file_name": image["file_name"], **worst}
        about["kinds"] = dict(Counter(kinds).most_common())
        titles = [f"{analysis.class_names[analysis.label[i]]} {analysis.score[i]:.2f}" for i in own]
        for i, kind in zip(np.flatnonzero(wrong), kinds, strict=True):
            titles[i] += f": {kind}"
        missed = ~np.isin(objects, analysis.matched[own])
        words = [analysis.class_names[k] for k in analysis.object_classes[objects]]
        sides = {
            "annotated (dashed: not found)": _draw_side(
                pixels, [analysis.objects[i] for i in objects], words, missed, analysis
            ),
            "detected (dashed: wrong)": _draw_side(
                pixels, [analysis.detections[i] for i in own], titles, wrong, analysis
            ),
        }
        pictures.append((about, side_by_side(sides)))
    return pictures, faults


def _draw_side(
    pixels: np.ndarray,
    records: Sequence[dict[str, Any]],
    labels: Sequence[str],
    dashed: np.ndarray,
    analysis: ErrorAnalysis,
) -> np.ndarray:
    """Draw boxes in their classes' colours; of many, only the dashed ones have labels."""
    boxes = np.array([r["bbox"] for r in records], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    if len(labels) > _LABELS_SHOWN:
        labels = [label if mark else "" for label, mark in zip(labels, dashed, strict=True)]
    colors = [class_color(analysis.class_ids.index(r["category_id"])) for r in records]
    scale = _PICTURE_SIDE / max(pixels.shape[:2])
    return draw_boxes(pixels, boxes, labels, colors, scale, dashed=dashed)
