"""A table's results beside the paper's numbers, as Markdown and as a page that needs no network."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from ..utils.files import replace_file
from ..visualization.pages import data_url, page_environment
from .claims import DASH, Verdict, check_claim, format_metric
from .examples import Example
from .figures import draw_charts, row_styles
from .sheet import describe, differences, footnotes, known_rows, sheet
from .tables import Table

__all__ = ["markdown_table", "write_report"]

_MARKS = {
    "holds": "\N{CHECK MARK}",
    "does not hold": "\N{BALLOT X}",
    "within noise": "\N{ALMOST EQUAL TO}",
    "not measured": DASH,
}


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
    columns, lines = sheet(table, results)
    text = _grid(
        ["", "row", *(column.header for column in columns)],
        ([f"{line.row}{line.mark}", line.name, *map(str, line.cells)] for line in lines),
    )
    return "\n\n".join([text, *footnotes(table, results).values()]) + "\n"


def _comparability(table: Table, results: Mapping[str, Any]) -> str:
    """What of the paper's numbers these can be compared with."""
    if table.kind == "timing":
        return (
            "The paper's seconds are of an NVIDIA M40 and R-50 (R-101 where a row says so) on "
            "COCO: compare ratios and orders, not seconds."
        )
    networks = "The paper's numbers are of R-50 (R-101 where a row says so) on COCO"
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
    rows = [row for row in known_rows(table, results) if row.get("seeds")]
    runs = [seed for row in rows for seed in row["seeds"]]
    if not runs:
        return "Nothing of this table has been run yet."
    seconds = sum(seed.get("seconds") or 0 for seed in runs)
    doing = "timed" if table.kind == "timing" else "trained and evaluated"
    total = f"{seconds / 3600:.1f} hours" if seconds >= 5400 else f"{seconds / 60:.0f} minutes"
    return (
        f"{len(rows)} of the table's rows were {doing} at the {results.get('scale', DASH)} scale "
        f"on the data set {results.get('dataset', DASH)}, {len(runs)} runs in {total}, on "
        f"{describe(results.get('machine'))}."
    )


def _runs(table: Table, results: Mapping[str, Any]) -> list[dict[str, str]]:
    """How each row of the table was run."""
    runs = []
    for row in known_rows(table, results):
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
        "machine": describe(results.get("machine")),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()) or DASH,
        "commit": str(results.get("commit", DASH)),
    }


def _markdown(table: Table, results: Mapping[str, Any]) -> str:
    metrics, others = differences(table, results)
    verdicts = [
        check_claim(claim, table, results) for claim in table.claims_at(results.get("scale", ""))
    ]
    runs = _runs(table, results)
    parts = [
        f"# Table {table.table}. {table.title}",
        f"{_introduction(table, results)} {_summary_of(verdicts)}",
        _comparability(table, results),
        "Ours is the mean over the seeds ± one standard deviation; the paper's is in brackets.",
        markdown_table(table, results).strip(),
    ]
    if others:
        lines = ([line.row, line.name, *map(str, line.cells)] for line in others)
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
    environment = page_environment(os.path.dirname(__file__))
    environment.filters["metric"] = _metric_html
    columns, lines = sheet(table, results)
    metrics, others = differences(table, results)
    verdicts = [
        check_claim(claim, table, results) for claim in table.claims_at(results.get("scale", ""))
    ]
    return environment.get_template("report.html.j2").render(
        table=table,
        introduction=_introduction(table, results),
        summary=_summary_of(verdicts),
        comparability=_comparability(table, results),
        columns=columns,
        lines=lines,
        colors={name: style.color for name, style in row_styles(table.rows).items()},
        footnotes=list(footnotes(table, results).values()),
        metrics=metrics,
        differences=others,
        verdicts=verdicts,
        marks=_MARKS,
        charts=[(chart, Markup(chart.svg)) for chart in draw_charts(table, results)],
        examples=[(example, data_url(example.picture)) for example in examples],
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
