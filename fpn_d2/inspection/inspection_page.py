"""An inspection as an HTML page with figures and samples, as JSON, and as a few lines of text.

Shape shorthand: R objects; pictures are (H, W, 3) uint8, RGB.
"""

import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from PIL import Image
from tqdm import tqdm

from ..data.images import read_image
from ..utils.errors import UserError
from ..utils.files import read_json, replace_file, write_json
from ..visualization import PALETTE, draw_boxes, level_color, level_number, side_by_side
from ..visualization.charts import Chart, new_axes, to_svg
from ..visualization.pages import data_url, page_environment
from .anchor_reach import positive_anchors
from .measurements import Inspection

_METHOD = (
    "The candidates are the present sizes times 2^(k/4), k = -16 to 16, in whole pixels and none "
    "below 4; each is measured on every object. The suggestion is the factor nearest to 1 among "
    "those within 0.2 points of the best. Aspect ratios, and the number of sizes of a level, stay "
    "as they are."
)
_CLASSES_SHOWN = 30
_LABELS_SHOWN = 25  # on an image: a hundred would hide it
_SAMPLE_SIDE = 640  # pixels of a picture


def write_inspection(inspection: Inspection, folder: str, samples: int = 8) -> list[str]:
    """Write the page and the numbers; those of an earlier run on the same data set are replaced.

    Args:
        inspection: the measurements.
        folder: where to write; it is made if it does not exist.
        samples: how many images to draw.

    Returns:
        the two files, ``<data set>_inspect.html`` and ``<data set>_inspect.json``.

    Raises:
        UserError: if the folder cannot be written to, or holds the numbers of another data set
            under that name.
    """
    stem = os.path.splitext(os.path.basename(inspection.dataset))[0]
    stem = re.sub(r"[^\w.-]", "_", stem)
    paths = [os.path.join(folder, f"{stem}_inspect.{kind}") for kind in ("html", "json")]
    _check_same(paths[1], inspection.dataset)
    pictures, faults = draw_samples(inspection, samples)
    template = page_environment(os.path.dirname(__file__)).get_template("inspect.html.j2")
    text = template.render(
        dataset=os.path.basename(inspection.dataset),
        config=inspection.config,
        lead=_lead(inspection),
        introduction=_introduction(inspection),
        notes=_notes(inspection, faults),
        suggestion=_suggestion(inspection),
        override=_override(inspection),
        method=_METHOD,
        tables=_tables(inspection),
        charts=[(chart, Markup(chart.svg)) for chart in draw_charts(inspection)],
        samples=[(name, data_url(picture)) for name, picture in pictures],
    )
    try:
        os.makedirs(folder, exist_ok=True)
        with replace_file(paths[0], encoding="utf-8", errors="xmlcharrefreplace") as file:
            file.write(text)
        write_json(paths[1], {**inspection.as_json(), "samples_left_out": faults})
    except OSError as error:
        raise UserError(f"{folder} cannot be written to ({error}); give --output") from error
    return paths


def _check_same(path: str, dataset: str) -> None:
    """Refuse to replace another data set's numbers, whose file may have the same name."""
    content = read_json(path) if os.path.isfile(path) else {}
    other = content.get("dataset") if isinstance(content, dict) else None
    if isinstance(other, str) and os.path.abspath(other) != os.path.abspath(dataset):
        raise UserError(
            f"{path} is of another data set, {other}; give another folder with --output"
        )


# --- text


def summary(inspection: Inspection) -> str:
    """Return the numbers in a few lines."""
    lines = [_introduction(inspection), *_notes(inspection, []), _lead(inspection)]
    for level, counts in inspection.by_level().items():
        lines.append(f"  P{level}: {_counts(counts)}")
    for size, counts in inspection.by_size().items():
        lines.append(f"  {_octave(size)}: {_counts(counts)}")
    return "\n".join([*lines, _suggestion(inspection), f"  {_override(inspection)}"])


def _lead(inspection: Inspection) -> str:
    reached = inspection.reached
    if reached.all():
        return "Every object has an anchor at IoU 0.5."
    missed = int((~reached).sum())
    return (
        f"No anchor reaches {missed} of the {len(reached)} objects at IoU 0.5 "
        f"({100 * missed / len(reached):.1f} %)."
    )


def _introduction(inspection: Inspection) -> str:
    objects, keys = inspection.objects, inspection.setup.cfg.INPUT
    size = "as they are"
    if keys.MIN_SIZE_TEST:
        size = f"resized to {keys.MIN_SIZE_TEST} px (at most {keys.MAX_SIZE_TEST} px)"
    sides = inspection.as_json()["sides"]
    return (
        f"{inspection.dataset}: {_number(len(objects), 'object')} of "
        f"{_number(len(objects.class_names), 'class')} on "
        f"{_number(len(objects.file_names), 'image')} {size}. An object's side, sqrt(w h), is "
        f"{sides['least']:.0f} to {sides['most']:.0f} px there, {sides['median']:.0f} px at the "
        f"median."
    )


def _notes(inspection: Inspection, faults: list[str]) -> list[str]:
    notes = [f"Left out: {n} annotations {r}." for r, n in inspection.objects.left_out.items()]
    missing = inspection.missing
    if missing:
        named = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        notes.append(
            f"{len(missing)} image files are not in {inspection.objects.image_folder} ({named}); "
            "their annotations are measured all the same."
        )
    return notes + [f"Not drawn: {fault}." for fault in faults]


def _suggestion(inspection: Inspection) -> str:
    found = inspection.suggestion
    reach, present = (f"{100 * share:.1f} %" for share in (found.reach, found.present_reach))
    if found.factor == 1:
        return f"The present sizes reach {present}, as many as any factor of them would."
    return f"These sizes reach {reach} of the objects at IoU 0.5; the present ones {present}."


def _override(inspection: Inspection) -> str:
    sizes = [[float(f"{s:.5g}") for s in level] for level in inspection.suggestion.sizes]
    text = str([[int(s) if s == int(s) else s for s in level] for level in sizes])
    return f'MODEL.ANCHOR_GENERATOR.SIZES "{text}"'


def _octave(size: int) -> str:
    return f"{size} to {2 * size} px" if size > 1 else "below 2 px"


def _counts(counts: dict[str, int]) -> str:
    objects = _number(counts["objects"], "object")
    return f"{objects}, {counts['unreached']} without an anchor at IoU 0.5"


def _number(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 'es' if thing.endswith('s') else 's'}"


def _tables(inspection: Inspection) -> list[tuple[str, list[str], list[Any]]]:
    """The page's tables: a title, the header, and for each line its colour and cells."""

    def cells(counts: dict[str, int]) -> list[str]:
        objects, unreached = counts["objects"], counts["unreached"]
        share = f"{100 * unreached / objects:.1f} %" if objects else "-"
        return [str(objects), str(unreached), share]

    header = ["objects", "no anchor", "share"]
    levels = [(level_color(k), [f"P{k}", *cells(c)]) for k, c in inspection.by_level().items()]
    sizes = [("", [_octave(k), *cells(c)]) for k, c in inspection.by_size().items()]
    anchors = [
        (
            level_color(level_number(name)),
            [
                name,
                str(found["stride"]),
                ", ".join(f"{s:g}" for s in found["sizes"]),
                f"{found['matched_anchors']:,}",
                str(found["objects_with_their_best_anchor_here"]),
            ],
        )
        for name, found in inspection.by_anchor_level().items()
    ]
    return [
        ("by level", ["level of Eq. 1", *header], levels),
        ("by size", ["side", *header], sizes),
        ("anchors", ["anchors of", "stride", "sizes", "matched", "best of objects"], anchors),
    ]


# --- figures


def draw_charts(inspection: Inspection) -> list[Chart]:
    """Draw sizes by level, reach by size, matches by the anchors' level, and classes."""
    return [
        _draw_sizes(inspection),
        _draw_reach(inspection),
        _draw_matches(inspection),
        _draw_classes(inspection),
    ]


def _bins(inspection: Inspection) -> np.ndarray:
    """Edges of half octaves, in pixels."""
    first, last = np.log2(np.maximum([inspection.sides.min(), inspection.sides.max()], 1))
    return np.exp2(np.arange(np.floor(first), np.floor(last) + 1.5, 0.5))


def _size_axis(axes: Axes, inspection: Inspection) -> None:
    axes.set_xscale("log", base=2)
    edges = _bins(inspection)[::2]
    axes.set_xticks(edges, [f"{edge:g}" for edge in edges])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("side in pixels of the network input")


def _draw_sizes(inspection: Inspection) -> Chart:
    figure, axes = new_axes()
    low, high = inspection.setup.eq1_levels
    levels = list(range(low, high + 1))
    axes.hist(
        [np.maximum(inspection.sides[inspection.levels == level], 1) for level in levels],
        bins=_bins(inspection),
        stacked=True,
        color=[level_color(level) for level in levels],
        label=[f"P{level}" for level in levels],
        edgecolor="white",
        linewidth=0.5,
    )
    _size_axis(axes, inspection)
    axes.set_ylabel("objects")
    figure.legend(loc="outside lower center", ncols=len(levels), frameon=False, fontsize=9)
    head = inspection.setup.cfg.MODEL.ROI_BOX_HEAD
    return Chart(
        "Object sizes, and the level of each",
        f"The side of an object is sqrt(w h). The colour is the level that Eq. 1 chooses, with "
        f"k0 = {head.POOLER_CANONICAL_LEVEL} for {head.POOLER_CANONICAL_SIZE} px.",
        to_svg(figure, "sizes", "histogram of object sizes, by pyramid level"),
    )


def _draw_reach(inspection: Inspection) -> Chart:
    figure, axes = new_axes()
    edges, sides = _bins(inspection), np.maximum(inspection.sides, 1)
    which = np.clip(np.digitize(sides, edges) - 1, 0, len(edges) - 2)
    counts = np.bincount(which, minlength=len(edges) - 1)
    seen, centers = counts > 0, np.sqrt(edges[1:] * edges[:-1])
    looks = (
        ("present sizes", inspection.reached, PALETTE[4], "-", "o"),
        ("suggested sizes", inspection.reached_by_suggestion, PALETTE[5], "--", "s"),
    )
    for label, reached, color, line, marker in looks:
        share = np.bincount(which[reached], minlength=len(counts)) / np.maximum(counts, 1)
        axes.plot(
            centers[seen], 100 * share[seen], color=color, linestyle=line, marker=marker,
            label=label, lw=2, ms=6, clip_on=False,
        )  # fmt: skip
    _size_axis(axes, inspection)
    axes.set_ylim(0, 100)
    axes.set_ylabel("reached, % of the objects")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return Chart(
        "Objects with an anchor at IoU 0.5",
        "By size, in half octaves. Where both lines are one, the suggestion is the present sizes.",
        to_svg(figure, "reach", "share of objects reached by an anchor, by size"),
    )


def _draw_matches(inspection: Inspection) -> Chart:
    names = inspection.setup.features
    colors = [level_color(level_number(name)) for name in names]
    figure = _bars(names, inspection.anchors.tolist(), colors, "matched anchors")
    threshold = inspection.setup.matcher.thresholds[-2]  # the last one is infinity
    return Chart(
        "Anchors that training would match, by their level",
        f"Positive at IoU {threshold:g} or more, or the best of an object; before sampling.",
        to_svg(figure, "matches", "number of matched anchors by level"),
    )


def _draw_classes(inspection: Inspection) -> Chart:
    counts = sorted(inspection.by_class().items(), key=lambda item: -item[1])
    shown = counts[:_CLASSES_SHOWN]
    colors = [PALETTE[4]] * len(shown)
    figure = _bars([n for n, _ in shown], [c for _, c in shown], colors, "objects")
    more = len(counts) - len(shown)
    rest = f" {more} rarer classes are left out." if more else ""
    return Chart(
        "Objects by class",
        f"{_number(len(counts), 'class')}.{rest}",
        to_svg(figure, "classes", "number of objects by class"),
    )


def _bars(names: Sequence[str], values: list[int], colors: list[str], label: str) -> Figure:
    """Horizontal bars, each with its number at the end."""
    figure, axes = new_axes(height=max(4.4, 0.28 * len(names)))
    bars = axes.barh(range(len(names)), values, color=colors)
    axes.bar_label(bars, [f"{value:,}" for value in values], padding=3, fontsize=9)
    axes.set_yticks(range(len(names)), [_short(name) for name in names])
    axes.set_ylim(max(len(names), 5) - 0.4, -0.6)  # the first on top; a single bar is no block
    axes.grid(visible=False)
    axes.margins(x=0.15)
    axes.set_xlabel(label)
    return figure


def _short(name: str, letters: int = 24) -> str:
    # Matplotlib would take a dollar sign, which a file's class names may hold, for mathematics.
    name = name.replace("$", r"\$")
    return name if len(name) <= letters else f"{name[: letters - 3]}..."


# --- samples


def draw_samples(
    inspection: Inspection, number: int
) -> tuple[list[tuple[str, Image.Image]], list[str]]:
    """Draw images with their objects, and with the anchors that training would match.

    Args:
        inspection: the measurements.
        number: how many images with objects to draw; the same ones every time.

    Returns:
        the name and the picture of each image, and a sentence for each that cannot be drawn.
    """
    objects = inspection.objects
    missing = set(inspection.missing)
    images = [i for i in np.unique(objects.images).tolist() if objects.file_names[i] not in missing]
    chosen = np.random.default_rng(0).permutation(images)[:number]
    samples, faults = [], []
    for image in tqdm(sorted(chosen.tolist()), desc="drawing samples", unit="image", disable=None):
        name = objects.file_names[image]
        try:
            pixels = read_image(os.path.join(objects.image_folder, name))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            faults.append(f"image {name} cannot be read ({error})")
            continue
        height, width = objects.image_sizes[image].tolist()
        if pixels.shape[:2] != (height, width):
            faults.append(
                f"image {name} is {pixels.shape[1]} x {pixels.shape[0]}, and the annotation file "
                f"says {width} x {height}"
            )
            continue
        samples.append((name, _draw_sample(inspection, image, pixels)))
    return samples, faults


def _draw_sample(inspection: Inspection, image: int, pixels: np.ndarray) -> Image.Image:
    objects, setup = inspection.objects, inspection.setup
    which = np.flatnonzero(objects.images == image)
    boxes, levels = objects.boxes[which], inspection.levels[which].tolist()
    scale = _SAMPLE_SIDE / max(pixels.shape[:2])
    classes = [objects.class_names[c] for c in objects.classes[which]]
    labels = [f"{name} P{level}" for name, level in zip(classes, levels, strict=True)]
    labels = labels if len(labels) <= _LABELS_SHOWN else [""] * len(labels)
    unreached = ~inspection.reached[which]
    colors = [level_color(k) for k in levels]
    annotated = draw_boxes(pixels, boxes, labels, colors, scale, dashed=unreached)
    anchors, levels, _ = positive_anchors(
        setup.generator(setup.sizes),
        setup.matcher,
        torch.from_numpy(inspection.input_boxes[which]),
        inspection.grids[which[0]].tolist(),
    )
    # From the network input back to the image; the largest object gives the most exact factors.
    largest = int(np.argmax(inspection.sides[which]))
    both = boxes[largest], inspection.input_boxes[which[largest]]
    factors = np.divide(*(box[2:] - box[:2] for box in both))
    colors = [level_color(level_number(setup.features[k])) for k in levels.tolist()]
    matched = draw_boxes(
        pixels, anchors.numpy() * np.tile(factors, 2), [""] * len(colors), colors, scale
    )
    return side_by_side(
        {
            f"{len(which)} objects by level; dashed: {unreached.sum()} without anchor": annotated,
            f"the {len(colors)} anchors matched, by level": matched,
        }
    )
