"""An inspection as a page, as JSON and as a few lines of text."""

import os
import re
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup
from tqdm import tqdm

from ..utils.errors import UserError
from ..utils.files import read_json, replace_file, write_json
from ..visualization import level_color, level_number
from ..visualization.pages import data_url, page_environment
from .measure import Inspection
from .samples import draw_charts, draw_samples

__all__ = ["summary", "write_inspection"]

_METHOD = (
    "Of the present sizes times 2^(k/4), k = -16 to 16, in whole pixels and none below 4, measured "
    "on every object: the factor nearest to 1 among those within 0.2 points of the best. Aspect "
    "ratios, and the number of sizes of a level, stay as they are."
)


def write_inspection(inspection: Inspection, folder: str, samples: int = 8) -> list[str]:
    """Write the page and the numbers, over those of an earlier inspection of the same data set.

    Args:
        inspection: of a data set.
        folder: where to; made where it is missing.
        samples: how many images to draw.

    Returns:
        the two files, ``<data set>_inspect.html`` and ``<data set>_inspect.json``.

    Raises:
        UserError: where the folder cannot be written to, or has another data set's of that name.
    """
    stem = os.path.splitext(os.path.basename(inspection.dataset))[0]
    stem = re.sub(r"[^\w.-]", "_", stem)
    paths = [os.path.join(folder, f"{stem}_inspect.{kind}") for kind in ("html", "json")]
    _check_same(paths[1], inspection.dataset)
    pictures, faults = draw_samples(inspection, samples, _progress)
    text = _html(inspection, [(name, data_url(p)) for name, p in pictures], faults)
    try:
        os.makedirs(folder, exist_ok=True)
        with replace_file(paths[0], encoding="utf-8", errors="xmlcharrefreplace") as file:
            file.write(text)
        write_json(paths[1], {**inspection.as_json(), "samples_left_out": faults})
    except OSError as error:
        raise UserError(f"{folder} cannot be written to ({error}); give --output") from error
    return paths


def _check_same(path: str, dataset: str) -> None:
    """Refuse to replace the numbers of another data set, such as another's instances_train.json."""
    content = read_json(path) if os.path.isfile(path) else {}
    other = content.get("dataset") if isinstance(content, dict) else None
    if isinstance(other, str) and os.path.abspath(other) != os.path.abspath(dataset):
        raise UserError(
            f"{path} is of another data set, {other}; give another folder with --output"
        )


def summary(inspection: Inspection) -> str:
    """The numbers in a few lines."""
    lines = [_introduction(inspection), *_notes(inspection, []), _lead(inspection)]
    for level, counts in inspection.by_level().items():
        lines.append(f"  P{level}: {_counts(counts)}")
    for size, counts in inspection.by_size().items():
        lines.append(f"  {_octave(size)}: {_counts(counts)}")
    return "\n".join([*lines, _suggestion(inspection), f"  {_override(inspection)}"])


def _progress(images: Sequence[int]) -> Sequence[int]:
    return tqdm(images, desc="drawing samples", unit="image", disable=None)


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
        f"{inspection.dataset}: {len(objects)} objects on {len(objects.file_names)} images "
        f"{size}; the number of classes is {len(objects.class_names)}; an object's side, "
        f"sqrt(w h), is "
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
    number = counts["objects"]
    things = "object" if number == 1 else "objects"
    return f"{number} {things}, {counts['unreached']} without an anchor at IoU 0.5"


def _share(counts: dict[str, int]) -> str:
    return f"{100 * counts['unreached'] / counts['objects']:.1f} %" if counts["objects"] else "-"


def _tables(inspection: Inspection) -> list[tuple[str, list[str], list[Any]]]:
    header = ["objects", "no anchor", "share"]
    levels = [
        (level_color(k), [f"P{k}", str(c["objects"]), str(c["unreached"]), _share(c)])
        for k, c in inspection.by_level().items()
    ]
    sizes = [
        ("", [_octave(k), str(c["objects"]), str(c["unreached"]), _share(c)])
        for k, c in inspection.by_size().items()
    ]
    anchors = []
    for name, found in inspection.by_anchor_level().items():
        cells = [
            name,
            str(found["stride"]),
            ", ".join(f"{s:g}" for s in found["sizes"]),
            f"{found['matched_anchors']:,}",
            str(found["objects_with_their_best_anchor_here"]),
        ]
        anchors.append((level_color(level_number(name)), cells))
    return [
        ("by level", ["level of Eq. 1", *header], levels),
        ("by size", ["side", *header], sizes),
        ("anchors", ["anchors of", "stride", "sizes", "matched", "best of objects"], anchors),
    ]


def _html(inspection: Inspection, samples: list[tuple[str, str]], faults: list[str]) -> str:
    template = page_environment(os.path.dirname(__file__)).get_template("inspect.html.j2")
    return template.render(
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
        samples=samples,
    )
