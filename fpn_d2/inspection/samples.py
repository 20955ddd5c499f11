"""An inspection's figures, and samples of its data set with levels and matched anchors.

Shape shorthand: R objects; pictures are (H, W, 3) uint8, RGB.
"""

import os
from collections.abc import Callable, Sequence

import numpy as np
import torch
from detectron2.data.detection_utils import read_image
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from PIL import Image

from ..visualization import PALETTE, draw_boxes, level_color, level_number, side_by_side
from ..visualization.charts import Chart, new_axes, to_svg
from .anchor_reach import match_anchors
from .measure import Inspection

__all__ = ["draw_charts", "draw_samples"]

_CLASSES_SHOWN = 30


def draw_charts(inspection: Inspection) -> list[Chart]:
    """The figures: sizes by level, reach by size, matches by anchors' level, classes."""
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


def _draw_sizes(inspection: Inspection) -> Chart:
    figure, axes = new_axes()
    low, high = inspection.setup.eq1_levels()
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


def _size_axis(axes: Axes, inspection: Inspection) -> None:
    axes.set_xscale("log", base=2)
    edges = _bins(inspection)[::2]
    axes.set_xticks(edges, [f"{edge:g}" for edge in edges])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("side in pixels of the network input")


def _draw_reach(inspection: Inspection) -> Chart:
    figure, axes = new_axes()
    edges, sides = _bins(inspection), np.maximum(inspection.sides, 1)
    which = np.clip(np.digitize(sides, edges) - 1, 0, len(edges) - 2)
    counts = np.bincount(which, minlength=len(edges) - 1)
    looks = (
        ("present sizes", inspection.reached, PALETTE[4], "-", "o"),
        ("suggested sizes", inspection.reached_by_suggestion, PALETTE[5], "--", "s"),
    )
    for label, reached, color, line, marker in looks:
        share = np.bincount(which[reached], minlength=len(counts)) / np.maximum(counts, 1)
        seen = counts > 0
        centers = np.sqrt(edges[1:] * edges[:-1])
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
    thresholds = [t for t in inspection.setup.matcher.thresholds if np.isfinite(t)]
    return Chart(
        "Anchors that training would match, by their level",
        f"Positive at IoU {thresholds[-1]:g} or more, or the best of an object; before sampling.",
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
        f"{len(counts)} {'class' if len(counts) == 1 else 'classes'}.{rest}",
        to_svg(figure, "classes", "number of objects by class"),
    )


def _bars(names: Sequence[str], values: list[int], colors: list[str], label: str) -> Figure:
    """Lying bars with their number at the end."""
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
    # Names come from a file: Matplotlib would take dollars for mathematics.
    name = name.replace("$", r"\$")
    return name if len(name) <= letters else f"{name[: letters - 3]}..."


def draw_samples(
    inspection: Inspection, number: int, progress: Callable[[Sequence[int]], Sequence[int]]
) -> tuple[list[tuple[str, Image.Image]], list[str]]:
    """Draw images with their objects, and with the anchors that training would match.

    Args:
        inspection: of the data set.
        number: how many images with objects, drawn at random, the same every time.
        progress: wraps the images that are tried, such as :class:`tqdm.tqdm`.

    Returns:
        the name and the picture of each, and a sentence for each image that could not be drawn.
    """
    objects = inspection.objects
    missing = set(inspection.missing)
    images = [i for i in np.unique(objects.images).tolist() if objects.file_names[i] not in missing]
    chosen = np.random.default_rng(0).permutation(images)[:number]
    samples, faults = [], []
    for image in progress(sorted(chosen.tolist())):
        name = objects.file_names[image]
        try:
            pixels = read_image(os.path.join(objects.image_folder, name), format="RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            faults.append(f"image {name} cannot be read ({error})")
            continue
        if pixels.shape[:2] != tuple(objects.image_sizes[image].tolist()):
            height, width = objects.image_sizes[image].tolist()
            faults.append(
                f"image {name} is {pixels.shape[1]} x {pixels.shape[0]}, and the annotation file "
                f"says {width} x {height}"
            )
            continue
        samples.append((name, _draw_sample(inspection, image, pixels)))
    return samples, faults


def _draw_sample(inspection: Inspection, image: int, pixels: np.ndarray) -> Image.Image:
    objects = inspection.objects
    which = np.flatnonzero(objects.images == image)
    boxes, levels = objects.boxes[which], inspection.levels[which].tolist()
    scale = 640 / max(pixels.shape[:2])
    kinds = [objects.class_names[kind] for kind in objects.classes[which]]
    labels = [f"{kind} P{level}" for kind, level in zip(kinds, levels, strict=True)]
    # A hundred labels would hide the image; colours say the level, and dashes what is not reached.
    labels = labels if len(labels) <= 25 else [""] * len(labels)
    unreached = ~inspection.reached[which]
    colors = [level_color(k) for k in levels]
    annotated = draw_boxes(pixels, boxes, labels, colors, scale, dashed=unreached)
    setup = inspection.setup
    matches = match_anchors(
        setup.generator(setup.sizes),
        setup.matcher,
        torch.from_numpy(inspection.input_boxes[which]),
        inspection.grids[which[0]].tolist(),
    )
    # from the network input back to the image: the largest object says it most exactly
    largest = int(np.argmax(inspection.sides[which]))
    both = boxes[largest], inspection.input_boxes[which[largest]]
    factors = np.divide(*(box[2:] - box[:2] for box in both))
    anchors = matches.boxes.numpy() * np.tile(factors, 2)
    colors = [level_color(level_number(setup.features[k])) for k in matches.levels.tolist()]
    matched = draw_boxes(pixels, anchors, [""] * len(colors), colors, scale)
    return side_by_side(
        {
            f"{len(which)} objects by level; dashed: {unreached.sum()} without anchor": annotated,
            f"the {len(colors)} anchors matched, by level": matched,
        }
    )
