"""An inspection as an HTML page with figures and samples, as JSON, and as a few lines of text."""

import os
import re
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from ..utils.errors import UserError
from ..utils.files import read_json
from ..visualization import PALETTE, level_color, level_number
from ..visualization.pages import (
    Chart,
    finish_chart,
    horizontal_bars,
    new_axes,
    page_environment,
    write_page,
)
from .measurements import Inspection
from .samples import draw_samples

_CLASSES_SHOWN = 30
_SAMPLES_AUGMENTED = 3


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
    stem = os.path.basename(inspection.dataset).removesuffix(".json")
    stem = os.path.join(folder, re.sub(r"[^\w.-]", "_", stem))
    page, numbers = f"{stem}_inspect.html", f"{stem}_inspect.json"
    content = read_json(numbers) if os.path.isfile(numbers) else {}
    other = content.get("dataset") if isinstance(content, dict) else None
    if isinstance(other, str) and os.path.abspath(other) != os.path.abspath(inspection.dataset):
        raise UserError(
            f"{numbers} is of another data set, {other}; give another folder with --output"
        )
    pictures, faults = draw_samples(inspection, samples, _SAMPLES_AUGMENTED)
    template = page_environment(os.path.dirname(__file__)).get_template("inspect.html.j2")
    text = template.render(
        dataset=os.path.basename(inspection.dataset),
        config=inspection.config,
        tables=_tables(inspection),
        charts=draw_charts(inspection),
        samples=pictures,
        faults=faults,
        **_words(inspection),
    )
    return write_page(page, text, numbers, {**inspection.as_json(), "samples_left_out": faults})


# --- text


def summary(inspection: Inspection) -> str:
    """Return the numbers in a few lines."""
    words = _words(inspection)
    by_level = {f"P{level}": counts for level, counts in inspection.by_level().items()}
    by_size = {_octave(size): counts for size, counts in inspection.by_size().items()}
    counts = [
        f"  {name}: {_number(found['objects'], 'object')}, {found['unreached']} without an anchor "
        "at IoU 0.5"
        for name, found in (by_level | by_size).items()
    ]
    lines = [words["introduction"], *words["notes"], words["lead"], *counts]
    return "\n".join([*lines, words["suggestion"], f"  {words['override']}"])


def _words(inspection: Inspection) -> dict[str, Any]:
    """Return the sentences of the page and of the summary, by their names in the template."""
    objects, levels, sides = inspection.objects, inspection.setup.levels, inspection.sides
    lead, unreached = "Every object has an anchor at IoU 0.5.", int((~inspection.reached).sum())
    if unreached:
        lead = (
            f"No anchor reaches {unreached} of the {len(objects)} objects at IoU 0.5 "
            f"({100 * unreached / len(objects):.1f} %)."
        )
    size = levels.scale if levels.min_size else "as they are"
    introduction = (
        f"{inspection.dataset}: {_number(len(objects), 'object')} of "
        f"{_number(len(objects.class_names), 'class')} on "
        f"{_number(len(objects.file_names), 'image')} {size}. An object's side, sqrt(w h), is "
        f"{sides.min():.0f} to {sides.max():.0f} px there, {np.median(sides):.0f} px at the median."
    )
    notes = [f"Left out: {n} annotations {reason}." for reason, n in objects.left_out.items()]
    missing = inspection.missing
    if missing:
        named = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        notes.append(
            f"{len(missing)} image files are not in {objects.image_folder} ({named}); their "
            "annotations are measured all the same."
        )
    found = inspection.suggestion
    reach, present = (f"{100 * share:.1f} %" for share in (found.reach, found.present_reach))
    if found.factor == 1:
        suggestion = f"The present sizes reach {present}, as many as any factor of them would."
    else:
        suggestion = f"These sizes reach {reach} of the objects at IoU 0.5; the present ones "
        suggestion += f"{present}."
    sizes = ", ".join(f"[{', '.join(f'{s:.5g}' for s in level)}]" for level in found.sizes)
    return {
        "lead": lead,
        "introduction": introduction,
        "notes": notes,
        "suggestion": suggestion,
        "override": f'MODEL.ANCHOR_GENERATOR.SIZES "[{sizes}]"',
    }


def _octave(size: int) -> str:
    return f"{size} to {2 * size} px" if size > 1 else "below 2 px"


def _number(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 'es' if thing.endswith('s') else 's'}"


def _tables(inspection: Inspection) -> list[tuple[str, list[str], list[Any]]]:
    """Return the page's tables: a title, the header, and for each line its colour and cells."""

    def cells(counts: dict[str, int]) -> list[str]:
        objects, unreached = counts["objects"], counts["unreached"]
        share = f"{100 * unreached / objects:.1f} %" if objects else "-"
        return [str(objects), str(unreached), share]

    header = ["objects", "no anchor", "share"]
    levels = [(level_color(k), [f"P{k}", *cells(c)]) for k, c in inspection.by_level().items()]
    sizes = [("", [_octave(k), *cells(c)]) for k, c in inspection.by_size().items()]
    anchors = []
    for name, found in inspection.by_anchor_level().items():
        line = [name, str(found["stride"]), ", ".join(f"{s:g}" for s in found["sizes"])]
        line += [f"{found['matched_anchors']:,}", str(found["objects_with_their_best_anchor_here"])]
        anchors.append((level_color(level_number(name)), line))
    return [
        ("by level", ["level of Eq. 1", *header], levels),
        ("by size", ["side", *header], sizes),
        ("anchors", ["anchors of", "stride", "sizes", "matched", "best of objects"], anchors),
    ]


# --- figures


def draw_charts(inspection: Inspection) -> list[Chart]:
    """Draw sizes by level, reach by size, matches by the anchors' level, and classes."""
    features, matched = inspection.setup.features, inspection.anchors.tolist()
    colors = [level_color(level_number(name)) for name in features]
    threshold = inspection.setup.matcher.thresholds[-2]  # the last one is infinity
    counts = sorted(inspection.by_class().items(), key=lambda item: -item[1])
    names, objects = zip(*counts[:_CLASSES_SHOWN], strict=True)
    more = len(counts) - len(names)
    rest = f" {more} rarer classes are left out." if more else ""
    bars = horizontal_bars(features, matched, colors, "matched anchors")
    of_classes = horizontal_bars(names, objects, [PALETTE[4]] * len(names), "objects")
    return [
        _draw_sizes(inspection),
        _draw_reach(inspection),
        finish_chart(
            bars, "matches", "number of matched anchors by level",
            "Anchors that training would match, by their level",
            f"Positive at IoU {threshold:g} or more, or the best of an object; before sampling.",
        ),
        finish_chart(
            of_classes, "classes", "number of objects by class", "Objects by class",
            f"{_number(len(counts), 'class')}.{rest}",
        ),
    ]  # fmt: skip


def _half_octaves(sides: np.ndarray) -> np.ndarray:
    first, last = np.log2([sides.min(), sides.max()])
    return np.exp2(np.arange(np.floor(first), np.floor(last) + 1.5, 0.5))


def _scale_by_octave(axes: Axes, edges: np.ndarray) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(edges[::2], [f"{edge:g}" for edge in edges[::2]])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("side in pixels of the network input")


def _draw_sizes(inspection: Inspection) -> Chart:
    sides, tested = np.maximum(inspection.sides, 1), inspection.setup.levels
    levels = list(tested.numbers)
    edges, (figure, axes) = _half_octaves(sides), new_axes()
    axes.hist(
        [sides[inspection.levels == level] for level in levels],
        bins=edges,
        stacked=True,
        color=[level_color(level) for level in levels],
        label=[f"P{level}" for level in levels],
        edgecolor="white",
        linewidth=0.5,
    )
    _scale_by_octave(axes, edges)
    axes.set_ylabel("objects")
    return finish_chart(
        figure, "sizes", "histogram of object sizes, by pyramid level",
        "Object sizes, and the level of each",
        "The side of an object is sqrt(w h). The colour is the level that Eq. 1 chooses, with "
        f"k0 = {tested.canonical_level} for {tested.canonical_size} px.",
        columns=len(levels),
    )  # fmt: skip


def _draw_reach(inspection: Inspection) -> Chart:
    sides = np.maximum(inspection.sides, 1)
    edges, (figure, axes) = _half_octaves(sides), new_axes()
    objects, _ = np.histogram(sides, edges)
    seen, centers = objects > 0, np.sqrt(edges[1:] * edges[:-1])
    for label, reached, color, line, marker in (
        ("present sizes", inspection.reached, PALETTE[4], "-", "o"),
        ("suggested sizes", inspection.reached_by_suggestion, PALETTE[5], "--", "s"),
    ):
        share = np.histogram(sides[reached], edges)[0][seen] / objects[seen]
        axes.plot(
            centers[seen], 100 * share, color=color, linestyle=line, marker=marker,
            label=label, lw=2, ms=6, clip_on=False,
        )  # fmt: skip
    _scale_by_octave(axes, edges)
    axes.set_ylim(0, 100)
    axes.set_ylabel("reached, % of the objects")
    return finish_chart(
        figure, "reach", "share of objects reached by an anchor, by size",
        "Objects with an anchor at IoU 0.5",
        "By size, in half octaves. Where both lines are one, the suggestion is the present sizes.",
    )  # fmt: skip
