"""A table's results beside the paper's numbers, as Markdown and as a page that needs no network."""

import base64
import dataclasses
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup, escape

from ..files import replace_file
from .claims import DASH, Summary, Verdict, check_claim, format_metric, summarize
from .examples import Example
from .figures import draw_charts, row_styles
from .tables import Table

__all__ = ["markdown_table", "write_report"]

_MARKS = {
    "holds": "\N{CHECK MARK}",
    "does not hold": "\N{BALLOT X}",
    "within noise": "\N{ALMOST EQUAL TO}",
    "not measured": DASH,
}
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclasses.dataclass(frozen=True)
class _Cell:
    """A number: ours, its deviation and the paper's, as texts, empty where there is none."""

    ours: str
    deviation: str = ""
    paper: str = ""
    best: bool = False

    def __str__(self) -> str:
        ours = f"**{self.ours}**" if self.best else self.ours
        ours += f" ± {self.deviation}" if self.deviation else ""
        return f"{ours} ({self.paper})" if self.paper else ours


@dataclasses.dataclass(frozen=True)
class _Line:
    """A row: its name in the paper's table, what it is, a footnote's mark and its numbers."""

    row: str
    name: str
    mark: str
    cells: list[_Cell]


@dataclasses.dataclass(frozen=True)
class _Column:
    """A metric, and the row that each line has it from."""

    metric: str
    note: str
    rows: Mapping[str, str]

    @property
    def header(self) -> str:
        return f"{self.metric}, {self.note}" if self.note else self.metric


def write_report(
    table: Table, results: Mapping[str, Any], folder: str, examples: Sequence[Example] = ()
) -> list[str]:
    """Write a table's report.

    Args:
        table: the table.
        results: its results, as the runner writes them; rows and numbers may be missing.
        folder: where to; made where it is missing.
        examples: pictures for the page.

    Returns:
        the two files, ``table<N>.md`` and ``table<N>.html``.
    """
    os.makedirs(folder, exist_ok=True)
    paths = []
    for ending, text in (
        ("md", _markdown(table, results)),
        ("html", _html(table, results, examples)),
    ):
        paths.append(os.path.join(folder, f"table{table.table}.{ending}"))
        with replace_file(paths[-1], encoding="utf-8") as file:
            file.write(text)
    return paths


def markdown_table(table: Table, results: Mapping[str, Any]) -> str:
    """The table in Markdown: each number ours, with its deviation, and the paper's in brackets.

    Args:
        table: the table.
        results: its results, as the runner writes them; rows and numbers may be missing.

    Returns:
        lines of Markdown, with the best number of each column in bold and footnotes below.
    """
    columns, lines = _sheet(table, results)
    text = _grid(
        ["", "row", *(column.header for column in columns)],
        ([f"{line.row}{line.mark}", line.name, *map(str, line.cells)] for line in lines),
    )
    return "\n\n".join([text, *_footnotes(table, results).values()]) + "\n"


def _sheet(table: Table, results: Mapping[str, Any]) -> tuple[list[_Column], list[_Line]]:
    """The columns and lines; a row that stands beside another gives columns, not a line."""
    summaries = summarize(results)
    here = table.rows_at(results.get("scale", ""))
    rows = [name for name in table.rows if name in here or name in summaries] or list(table.rows)
    names = [name for name in rows if not table.rows[name].beside]
    own = {name: name for name in names}
    columns = [_Column(metric, "", own) for metric in table.metrics]
    for note in dict.fromkeys(table.rows[name].name for name in rows if name not in own):
        beside = {
            table.rows[name].beside: name
            for name in rows
            if name not in own and table.rows[name].name == note
        }
        columns.append(_Column(_headline_metric(table), note, beside))
    if "seconds" not in table.metrics:
        columns.append(_Column("seconds", "", own))
    cells = [_cells(column, names, table, summaries) for column in columns]
    marks = dict(zip(_footnotes(table, results), _superscripts(), strict=False))
    lines = [
        _Line(name, table.rows[name].name, marks.get(name, ""), [column[i] for column in cells])
        for i, name in enumerate(names)
    ]
    return columns, lines


def _headline_metric(table: Table) -> str:
    return table.claims[0].metric if table.claims else table.metrics[-1]


def _cells(
    column: _Column,
    names: list[str],
    table: Table,
    summaries: Mapping[str, Mapping[str, Summary]],
) -> list[_Cell]:
    """A column's cells, with the best of two or more marked where one direction is better."""
    metric = column.metric
    ours = [summaries.get(column.rows.get(name, ""), {}).get(metric) for name in names]
    papers = [
        table.rows[column.rows[name]].paper.get(metric) if name in column.rows else None
        for name in names
    ]
    shown = [_Cell(format_metric(metric, s.mean if s else None)).ours for s in ours]
    means = [summary.mean for summary in ours if summary]
    best = None
    if metric in ("anchors", "seconds"):
        if table.kind == "timing" and len(means) > 1:
            best = format_metric(metric, min(means))
    elif len(means) > 1:
        best = format_metric(metric, max(means))
    cells = []
    for summary, paper, text in zip(ours, papers, shown, strict=True):
        deviation = ""
        if summary and summary.deviation is not None and metric != "anchors":
            # as many digits as the mean has
            digits = len(text.partition(".")[2])
            deviation = f"{summary.deviation:.{digits}f}"
        paper = format_metric(metric, paper) if any(p is not None for p in papers) else ""
        cells.append(_Cell(text, deviation, paper, best=bool(summary) and text == best))
    return cells


def _known_rows(table: Table, results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows of the results that the table has."""
    return [row for row in results.get("rows") or [] if row.get("row") in table.rows]


def _footnotes(table: Table, results: Mapping[str, Any]) -> dict[str, str]:
    """By row, which of its seeds were run by another commit, machine or version than the rest."""
    notes: dict[str, list[str]] = {}
    for row in _known_rows(table, results):
        parts = []
        for seed in row.get("seeds") or []:
            what = []
            if seed.get("commit") not in (None, results.get("commit")):
                what.append(f"commit {seed['commit']}")
            if seed.get("machine") not in (None, results.get("machine")):
                what.append(_machine(seed["machine"]))
            versions, common = seed.get("versions") or {}, results.get("versions") or {}
            what += [f"{k} {v}" for k, v in versions.items() if v != common.get(k)]
            if what:
                parts.append(f"seed {seed.get('seed', DASH)} on {', '.join(what)}")
        if parts:
            # a row beside another has its mark there
            line = table.rows[row["row"]].beside or row["row"]
            notes.setdefault(line, []).append(f"row {row['row']}: {'; '.join(parts)}")
    marks = _superscripts()
    return {row: f"{next(marks)} {'; '.join(parts)}." for row, parts in notes.items()}


def _superscripts() -> Iterable[str]:
    return (str(i).translate(_SUPERSCRIPTS) for i in range(1, 1000))


def _differences(table: Table, results: Mapping[str, Any]) -> tuple[list[str], list[_Line]]:
    """Each row minus the first claim's first row, one that stands beside another minus that."""
    summaries = summarize(results)
    metrics = [metric for metric in table.metrics if metric != "anchors"]
    first = table.claims[0].order[0][0] if table.claims else next(iter(table.rows))
    lines = []
    for name, row in table.rows.items():
        other = row.beside or first
        if name == other or name not in summaries:
            continue
        cells = []
        for metric in metrics:
            x, y = (summaries.get(n, {}).get(metric) for n in (name, other))
            x_paper, y_paper = (table.rows[n].paper.get(metric) for n in (name, other))
            ours = x.mean - y.mean if x and y else None
            paper = None if x_paper is None or y_paper is None else x_paper - y_paper
            ours, paper = (format_metric(metric, value, signed=True) for value in (ours, paper))
            cells.append(_Cell(ours, paper=paper))
        title = f"{row.name}, {row.beside}" if row.beside else row.name
        lines.append(_Line(f"{name} \N{MINUS SIGN} {other}", title, "", cells))
    return metrics, lines


def _comparability(table: Table, results: Mapping[str, Any]) -> str:
    """What of the paper's numbers these can be compared with."""
    if table.kind == "timing":
        return (
            "The paper's seconds are of an NVIDIA M40 and R-50 (R-101 where a row says so) on "
            "COCO: compare ratios and orders, not seconds."
        )
    networks = "The paper's numbers, in brackets, are of R-50 (R-101 where a row says so) on COCO"
    if results.get("scale") == "paper" and str(results.get("dataset", "")).startswith("coco"):
        return f"{networks}, as these are."
    return (
        f"{networks}. These are of a smaller network on other data, so that only differences "
        "between rows and their order can be compared with the paper, not the numbers themselves."
    )


def _summary_of(verdicts: Sequence[Verdict]) -> str:
    """How many claims hold, in a sentence."""
    if not verdicts:
        return ""
    counts = {mark: sum(v.verdict == mark for v in verdicts) for mark in _MARKS}
    rest = [f"{count} {mark}" for mark, count in counts.items() if count and mark != "holds"]
    rest = [text.replace("does not", "do not") if text[:2] != "1 " else text for text in rest]
    text = f"{counts['holds']} of the paper's {len(verdicts)} claims hold"
    return f"{text} ({', '.join(rest)})." if rest else f"{text}."


def _introduction(table: Table, results: Mapping[str, Any]) -> str:
    """What was trained, and on what."""
    rows = [row for row in _known_rows(table, results) if row.get("seeds")]
    runs = [seed for row in rows for seed in row["seeds"]]
    seconds = sum(seed.get("seconds") or 0 for seed in runs)
    doing = "timed" if table.kind == "timing" else "trained and evaluated"
    total = f"{seconds / 3600:.1f} hours" if seconds >= 5400 else f"{seconds / 60:.0f} minutes"
    return (
        f"{len(rows)} of the table's rows were {doing} at the {results.get('scale', DASH)} scale "
        f"on the data set {results.get('dataset', DASH)}, {len(runs)} runs in {total}, on "
        f"{_machine(results.get('machine'))}."
    )


def _machine(machine: Mapping[str, Any] | str | None) -> str:
    if not isinstance(machine, Mapping):
        return str(machine or "an unknown machine")
    parts = [str(machine.get("processor") or "unknown processor")]
    parts += [f"{machine['cores']} cores"] if machine.get("cores") else []
    parts += [f"{machine['memory_gib']} GiB"] if machine.get("memory_gib") else []
    return ", ".join([*parts, " and ".join(map(str, machine.get("gpus") or [])) or "no GPU"])


def _runs(table: Table, results: Mapping[str, Any]) -> list[dict[str, str]]:
    """How each row of the table was run."""
    runs = []
    for row in _known_rows(table, results):
        seeds = row.get("seeds") or []
        if seeds:
            seconds = [seed["seconds"] for seed in seeds if seed.get("seconds") is not None]
            runs.append(
                {
                    "row": row["row"],
                    "seeds": ", ".join(str(seed.get("seed", DASH)) for seed in seeds),
                    "iterations": str(seeds[0].get("iterations", DASH)),
                    "seconds": ", ".join(format_metric("seconds", s) for s in seconds) or DASH,
                    "command": str(row.get("command") or DASH),
                }
            )
    return runs


def _facts(results: Mapping[str, Any]) -> dict[str, str]:
    versions = results.get("versions") or {}
    return {
        "scale": str(results.get("scale", DASH)),
        "data set": str(results.get("dataset", DASH)),
        "machine": _machine(results.get("machine")),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()) or DASH,
        "commit": str(results.get("commit", DASH)),
    }


def _markdown(table: Table, results: Mapping[str, Any]) -> str:
    metrics, differences = _differences(table, results)
    verdicts = [check_claim(claim, table, results) for claim in table.claims]
    runs = _runs(table, results)
    parts = [
        f"# Table {table.table}. {table.title}",
        f"{_introduction(table, results)} {_summary_of(verdicts)}",
        _comparability(table, results),
        markdown_table(table, results).strip(),
    ]
    if differences:
        lines = ([line.row, line.name, *map(str, line.cells)] for line in differences)
        parts += ["## Differences between rows", _grid(["", "row", *metrics], lines)]
    if verdicts:
        lines = [
            f"- {_MARKS[v.verdict]} **{v.verdict}**: {v.claim.claim} ({v.claim.metric}). {v.detail}"
            for v in verdicts
        ]
        parts += ["## What the paper claims", "\n".join(lines)]
    parts += ["## How it was run", _grid(["", ""], ([k, v] for k, v in _facts(results).items()))]
    if runs:
        lines = ([*list(run.values())[:-1], f"`{run['command']}`"] for run in runs)
        parts.append(_grid(list(runs[0]), lines))
    return "\n\n".join(parts) + "\n"


def _grid(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [header, ["---"] * len(header), *lines]
    # a stroke within a cell would end it
    return "\n".join(
        f"| {' | '.join(c.replace('|', chr(92) + '|') for c in row)} |" for row in rows
    )


def _html(table: Table, results: Mapping[str, Any], examples: Sequence[Example]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(os.path.dirname(__file__)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["metric"] = _metric_html
    columns, lines = _sheet(table, results)
    metrics, differences = _differences(table, results)
    verdicts = [check_claim(claim, table, results) for claim in table.claims]
    return environment.get_template("report.html.j2").render(
        table=table,
        introduction=_introduction(table, results),
        summary=_summary_of(verdicts),
        comparability=_comparability(table, results),
        columns=columns,
        lines=lines,
        colors={name: style.color for name, style in row_styles(table.rows).items()},
        footnotes=list(_footnotes(table, results).values()),
        metrics=metrics,
        differences=differences,
        verdicts=verdicts,
        marks=_MARKS,
        charts=[(chart, Markup(chart.svg)) for chart in draw_charts(table, results)],
        examples=[(example, _data_url(example)) for example in examples],
        facts=_facts(results),
        runs=_runs(table, results),
    )


def _metric_html(metric: str) -> Markup:
    """``AR1k_s`` as the paper sets it."""
    match = re.fullmatch(r"(AR|AP)(\w*?)(?:_([sml]))?", metric)
    if not match:
        return escape(metric)
    stem, number, size = match.groups()
    tag = "sup" if stem == "AR" else "sub"
    text = f"{stem}<{tag}>{number}</{tag}>" if number else stem
    return Markup(f"{text}<sub>{size}</sub>" if size else text)


def _data_url(example: Example) -> str:
    file = io.BytesIO()
    example.picture.convert("RGB").save(file, format="JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
