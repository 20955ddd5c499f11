"""Studies beside a table's numbers: longer schedules, and the number of boxes before NMS.

Rows at several schedules tell whether the order of rows is settled. A single level's recall against
the number of boxes that go into NMS tells whether that number starves it. An RPN's losses do not
depend on that number, so one training is evaluated at each, on the training and the test images.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.config import CfgNode

from ..utils.errors import UserError
from ..utils.files import read_json
from ..visualization.pages import Chart, finish_chart, new_axes
from .claims import Summaries, Summary, format_metric, in_common, noise_between
from .figures import plot_band, plot_row, row_styles, set_count_axis
from .runs import Run, Runner
from .tables import Table

_BOXES = "boxes_"  # Begins the names of the folders below a run.


class Section(NamedTuple):
    """A table of a report, as texts: its title, a sentence on how to read it, header and lines."""

    title: str
    note: str
    header: list[str]
    lines: list[list[str]]


def rpn_config(run: Run) -> CfgNode:
    """Return the config of an RPN's row, whose number of boxes before NMS can be varied.

    Raises:
        UserError: if the row is no RPN.
    """
    cfg = run.load_config()
    if cfg.MODEL.META_ARCHITECTURE != "ProposalNetwork":
        raise UserError(f"--boxes: {run.config} trains no RPN; give rows of Table 1 by --rows")
    return cfg


def measure_boxes(runner: Runner, run: Run, counts: Sequence[int]) -> None:
    """Evaluate a finished RPN at several numbers of boxes before NMS, values of
    ``MODEL.RPN.PRE_NMS_TOPK_TEST``; keep what is there.

    Raises:
        UserError: if the row is no RPN, or an evaluation fails.
    """
    cfg = rpn_config(run)
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    for count in counts:
        more = ("MODEL.WEIGHTS", run.weights, "MODEL.RPN.PRE_NMS_TOPK_TEST", str(count))
        folder = os.path.join(run.folder, f"{_BOXES}{count}")
        part = Run(run.config, folder, (*run.opts, *more, "DATASETS.TEST", str(names)))
        with runner.locked(folder) as lock:
            if not all(os.path.isfile(part.evaluation_file(name)) for name in names):
                runner.call(part, ["--eval-only"], [], lock)
                for name in names:  # some 100 MB each, which nobody reads
                    os.remove(os.path.join(part.inference_folder(name), "box_proposals.pkl"))


def recall_by_boxes(run: Run) -> dict[str, dict[str, float]]:
    """Return AR1k by data set and number of boxes, as :func:`measure_boxes` left it."""
    files = {}
    for path in Path(run.folder).glob(f"{_BOXES}*/inference/*/results.json"):
        files[int(path.parts[-4].removeprefix(_BOXES)), path.parent.name] = str(path)
    found: dict[str, dict[str, float]] = {}
    for (count, name), file in sorted(files.items()):
        found.setdefault(name, {})[str(count)] = read_json(file)["box_proposals"]["AR@1000"]
    return found


def study_sections(
    table: Table, results: Mapping[str, Any], summaries: Summaries
) -> Iterator[Section]:
    """Yield the sections of a report that the results have numbers for, see :mod:`studies`."""
    if rows := _by_schedule(table, summaries):
        yield _settling(table.headline, rows)
    if found := _by_boxes(results):
        yield _boxes(found)


def draw_studies(table: Table, results: Mapping[str, Any], summaries: Summaries) -> Iterator[Chart]:
    """Draw the metric of each row against iterations, and recall against boxes before NMS."""
    if chart := draw_schedules(table, summaries):
        yield chart
    if found := _by_boxes(results):
        yield _draw_boxes(table, found)


def _counts(curves: Mapping[Any, Mapping[int, Summary]]) -> list[int]:
    """Return the schedules, or the numbers of boxes, at which any curve has a point."""
    return sorted({count for points in curves.values() for count in points})


# -- schedules


def _by_schedule(table: Table, summaries: Summaries) -> dict[str, dict[int, Summary]]:
    """Return the headline metric of each row by its iterations."""
    found: dict[str, dict[int, Summary]] = {}
    for name, row in table.rows.items():
        summary = summaries.get(name, {}).get(table.headline)
        if row.of and summary:
            found.setdefault(row.of, {})[row.iterations] = summary
    return found


def _settling(metric: str, rows: Mapping[str, Mapping[int, Summary]]) -> Section:
    """Tell how the differences from the first row change from one schedule to the next."""
    first, *others = rows
    counts, lines = _counts(rows), []
    for other in others:
        differences = {}
        for count in counts:
            pair = [rows[row].get(count) for row in (first, other)]
            if None not in pair:
                x, y = (summary.by_seed for summary in pair)
                shared = {seed: x[seed] - y[seed] for seed in x if seed in y}
                differences |= {count: Summary(shared)} if shared else {}
        texts = [_text(metric, differences.get(count), signed=True) for count in counts]
        lines.append([f"{first} \N{MINUS SIGN} {other}", *texts, _last_change(metric, differences)])
    return Section(
        "Is the order settled?",
        f"Differences of {metric} by iterations, seed by seed. A difference is settled once its "
        "change from one schedule to the next, over the seeds of both if these are several, is "
        "within two standard errors.",
        ["", *map(str, counts), "last change"],
        lines,
    )


def _text(metric: str, summary: Summary | None, *, signed: bool = False) -> str:
    text = format_metric(metric, summary.mean if summary else None, signed=signed)
    has_deviation = summary is not None and summary.deviation is not None
    return f"{text} ± {summary.deviation:.1f}" if has_deviation else text


def _last_change(metric: str, differences: Mapping[int, Summary]) -> str:
    """Say whether the difference has settled: whether the last two schedules agree on it."""
    if len(differences) < 2:
        return "not measured"
    before, last = (differences[count] for count in sorted(differences)[-2:])
    before, last = in_common(before, last, least=2)
    change, noise = last.mean - before.mean, noise_between(last, before)
    text = format_metric(metric, change, signed=True)
    if noise is None:
        return f"{text}, one seed"
    verdict = "settled" if abs(change) <= noise else "not settled"
    return f"{text}, noise {format_metric(metric, noise)}: {verdict}"


def draw_schedules(table: Table, summaries: Summaries) -> Chart | None:
    """Draw the metric of each row against iterations; None where no schedule is measured."""
    rows = _by_schedule(table, summaries)
    if not rows:
        return None
    figure, axes = new_axes()
    styles = row_styles(rows)
    for name, schedules in rows.items():
        label = next(row.plain_name for row in table.rows.values() if row.of == name)
        plot_band(axes, dict(sorted(schedules.items())), styles[name], f"{name}: {label}")
    set_count_axis(axes, _counts(rows), "iterations of training")
    axes.set_ylabel(table.headline)
    return finish_chart(
        figure, "schedules", f"{table.headline} against the iterations of training, by row",
        "Longer schedules",
        "Mean over the seeds; the band is one standard deviation to each side.",
    )  # fmt: skip


# -- boxes before NMS


def _by_boxes(results: Mapping[str, Any]) -> dict[tuple[str, str], dict[int, Summary]]:
    """Return AR1k by row and data set, and by number of boxes."""
    values: dict[tuple[str, str], dict[int, dict[int, float]]] = {}
    for row in results.get("rows") or []:
        for seed in row.get("seeds") or []:
            for name, recalls in (seed.get("boxes") or {}).items():
                counts = values.setdefault((str(row["row"]), name), {})
                for count, recall in recalls.items():
                    if recall is not None:
                        counts.setdefault(int(count), {})[seed.get("seed", 0)] = recall
    return {
        key: {count: Summary(by_seed) for count, by_seed in sorted(counts.items())}
        for key, counts in values.items()
    }


def _boxes(found: Mapping[tuple[str, str], Mapping[int, Summary]]) -> Section:
    counts = _counts(found)
    lines = []
    for (row, name), summaries in found.items():
        lines.append([row, name, *(_text("AR1k", summaries.get(count)) for count in counts)])
    return Section(
        "Recall against the number of boxes before NMS",
        "AR1k of one training at each number, on the images of the training and of the test.",
        ["", "data", *map(str, counts)],
        lines,
    )


def _draw_boxes(table: Table, found: Mapping[tuple[str, str], Mapping[int, Summary]]) -> Chart:
    figure, axes = new_axes()
    rows = dict.fromkeys(row for row, _ in found if row in table.rows)
    # A row looks the same at every schedule.
    styles = row_styles(rows if any(row.of for row in table.rows.values()) else table.rows)
    for (row, name), summaries in found.items():
        if row in styles:
            style = styles[row] if name.endswith("_val") else styles[row]._replace(line=":")
            means = [summary.mean for summary in summaries.values()]
            plot_row(axes, list(summaries), means, style, f"{row} on {name}", marks=True)
    set_count_axis(axes, _counts(found), "boxes of a level before NMS")
    axes.set_ylabel("AR1k")
    return finish_chart(
        figure, "boxes", "average recall against the number of boxes before NMS",
        "Boxes before NMS", "AR1k, mean over the seeds; dotted: images of the training.",
    )  # fmt: skip
