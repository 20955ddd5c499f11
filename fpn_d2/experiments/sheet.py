"""What a report shows of a table's results: its columns, lines, differences and footnotes."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from .claims import DASH, Summary, format_metric, summarize
from .tables import Table

__all__ = ["Cell", "Column", "Line", "describe", "differences", "footnotes", "known_rows", "sheet"]

_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclasses.dataclass(frozen=True)
class Cell:
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
class Line:
    """A row: its name in the paper's table, what it is, a footnote's mark and its numbers."""

    row: str
    name: str
    mark: str
    cells: list[Cell]


@dataclasses.dataclass(frozen=True)
class Column:
    """A metric, and the row that each line has it from."""

    metric: str
    note: str
    rows: Mapping[str, str]

    @property
    def header(self) -> str:
        return f"{self.metric}, {self.note}" if self.note else self.metric


def sheet(table: Table, results: Mapping[str, Any]) -> tuple[list[Column], list[Line]]:
    """The columns and lines; a row that stands beside another gives columns, not a line."""
    summaries = summarize(results)
    here = table.rows_at(results.get("scale", ""))
    rows = [name for name in table.rows if name in here or name in summaries] or list(table.rows)
    names = [name for name in rows if not table.rows[name].beside]
    own = {name: name for name in names}
    # of the two kinds of seconds the header says which
    notes = {"seconds": "an image"}
    columns = [Column(metric, notes.get(metric, ""), own) for metric in table.metrics]
    for note in dict.fromkeys(table.rows[name].name for name in rows if name not in own):
        beside = {
            table.rows[name].beside: name
            for name in rows
            if name not in own and table.rows[name].name == note
        }
        columns.append(Column(_headline_metric(table), note, beside))
    if "seconds" not in table.metrics:
        columns.append(Column("seconds", "training", own))
    cells = [_cells(column, names, table, summaries) for column in columns]
    marks = dict(zip(footnotes(table, results), _superscripts(), strict=False))
    lines = [
        Line(name, table.rows[name].name, marks.get(name, ""), [column[i] for column in cells])
        for i, name in enumerate(names)
    ]
    return columns, lines


def _headline_metric(table: Table) -> str:
    return table.claims[0].metric if table.claims else table.metrics[-1]


def _cells(
    column: Column,
    names: list[str],
    table: Table,
    summaries: Mapping[str, Mapping[str, Summary]],
) -> list[Cell]:
    """A column's cells, with the best of two or more marked where one direction is better."""
    metric = column.metric
    ours = [summaries.get(column.rows.get(name, ""), {}).get(metric) for name in names]
    papers = [
        table.rows[column.rows[name]].paper.get(metric) if name in column.rows else None
        for name in names
    ]
    shown = [Cell(format_metric(metric, s.mean if s else None)).ours for s in ours]
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
        cells.append(Cell(text, deviation, paper, best=bool(summary) and text == best))
    return cells


def known_rows(table: Table, results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows of the results that the table has."""
    return [row for row in results.get("rows") or [] if row.get("row") in table.rows]


def footnotes(table: Table, results: Mapping[str, Any]) -> dict[str, str]:
    """By row, which of its seeds were run by another commit, machine or version than the rest, or
    timed with random weights."""
    notes: dict[str, list[str]] = {}
    for row in known_rows(table, results):
        parts = []
        for seed in row.get("seeds") or []:
            what = []
            if seed.get("commit") not in (None, results.get("commit")):
                what.append(f"commit {seed['commit']}")
            if seed.get("machine") not in (None, results.get("machine")):
                what.append(describe(seed["machine"]))
            versions, common = seed.get("versions") or {}, results.get("versions") or {}
            what += [f"{k} {v}" for k, v in versions.items() if v != common.get(k)]
            if (seed.get("metrics") or {}).get("trained") == 0:
                what.append("random weights")
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


def differences(table: Table, results: Mapping[str, Any]) -> tuple[list[str], list[Line]]:
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
            cells.append(Cell(ours, paper=paper))
        title = f"{row.name}, {row.beside}" if row.beside else row.name
        lines.append(Line(f"{name} \N{MINUS SIGN} {other}", title, "", cells))
    return metrics, lines


def describe(machine: Mapping[str, Any] | str | None) -> str:
    """A machine in words."""
    if not isinstance(machine, Mapping):
        return str(machine or "an unknown machine")
    parts = [str(machine.get("processor") or "unknown processor")]
    parts += [f"{machine['cores']} cores"] if machine.get("cores") else []
    parts += [f"{machine['memory_gib']} GiB"] if machine.get("memory_gib") else []
    return ", ".join([*parts, " and ".join(map(str, machine.get("gpus") or [])) or "no GPU"])
