"""Results beside the paper's numbers, as Markdown and as a page that needs no network."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup, escape
from tabulate import tabulate

from ..utils.files import replace_file
from ..visualization.pages import page_environment
from .claims import DASH, Summaries, Verdict, check_claim, compare_rows, format_metric, summarize
from .figures import Example, draw_charts, row_styles
from .studies import draw_studies, study_sections
from .tables import Claim, Table

_MARKS = {
    "holds": "\N{CHECK MARK}",
    "does not hold": "\N{BALLOT X}",
    "within noise": "\N{ALMOST EQUAL TO}",
    "not measured": DASH,
}
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


class Cell(NamedTuple):
    """A number as texts: ours, its deviation and the paper's, empty where missing."""

    ours: str
    deviation: str = ""
    paper: str = ""
    best: bool = False

    def __str__(self) -> str:
        ours = f"**{self.ours}**" if self.best else self.ours
        ours += f" ± {self.deviation}" if self.deviation else ""
        return f"{ours} ({self.paper})" if self.paper else ours


class Line(NamedTuple):
    """A line of a table: the row's key and name, a footnote's mark, and the numbers."""

    row: str
    name: str
    mark: str
    cells: list[Cell]

    @property
    def texts(self) -> list[str]:
        """The line's cells in Markdown."""
        return [f"{self.row}{self.mark}", self.name, *map(str, self.cells)]


def write_report(
    table: Table, results: Mapping[str, Any], folder: str, examples: Sequence[Example] = ()
) -> list[str]:
    """Write a table's report as Markdown and as a page.

    Args:
        table: the table.
        results: the content of its results file; rows and numbers may be missing.
        folder: the folder to write into, which is made if it is missing.
        examples: pictures for the page.

    Returns:
        the two files, ``table<N>.md`` and ``table<N>.html``; see :attr:`Table.stem`.
    """
    page = _environment().get_template("report.html.j2")
    charts = [*draw_charts(table, results), *draw_studies(table, results, summarize(results))]
    texts = {
        "md": markdown_report(table, results),
        "html": page.render(
            **_context(table, results),
            colors={name: style.color for name, style in row_styles(table.rows).items()},
            charts=charts,
            examples=examples,
        ),
    }
    os.makedirs(folder, exist_ok=True)
    paths = []
    for ending, text in texts.items():
        paths.append(os.path.join(folder, f"{table.stem}.{ending}"))
        with replace_file(paths[-1], encoding="utf-8") as file:
            file.write(text)
    return paths


def markdown_report(table: Table, results: Mapping[str, Any], *, is_part: bool = False) -> str:
    """Return a table's report in Markdown.

    A cell has our number with its deviation and, in brackets, the paper's; the best number of a
    column is in bold. Footnotes and the verdicts on the paper's claims follow.

    Args:
        table: the table.
        results: the content of its results file; rows and numbers may be missing.
        is_part: whether to keep only numbers, footnotes, verdicts and studies, for another page.
    """
    context = _context(table, results)
    commands = [[*list(run.values())[:-1], f"`{run['command']}`"] for run in context["runs"]]
    template = _environment().overlay(autoescape=False).get_template("report.md.j2")
    return template.render(**context, commands=commands, is_part=is_part).strip() + "\n"


def claims_table(found: Iterable[tuple[Table, Mapping[str, Any]]]) -> str:
    """Return every claim of the paper with its verdict on each scale and data set, in Markdown.

    A line shows the pair of rows that decides: among those with the verdict, the one closest to
    the wrong order. For rows at several schedules, the longest one with a verdict counts.

    Args:
        found: each table, as the scale of its results has it, and the content of its results file.
    """
    header = ("table", "claim", "scale, data", "verdict", "difference", "paper", "noise", "seeds")
    lines = []
    for table, results in found:
        summaries = summarize(results)
        verdicts = [check_claim(c, table, summaries) for c in table.claims_at(results["scale"])]
        verdicts = [verdict for verdict in verdicts if verdict.verdict != "not measured"]
        schedules = [_schedule(verdict, table) for verdict in verdicts]
        longest = dict(sorted(schedules, key=lambda schedule: schedule[1]))
        where = f"{results['scale']}, {results['dataset']}"
        if "recipe" not in results and table.kind != "timing":
            where += ", earlier recipe"
        for verdict, (claim, count) in zip(verdicts, schedules, strict=True):
            if count == longest[claim]:
                lines.append((table.table, claim, _claim_cells(verdict, where)))
    # Keep the scales of a claim together.
    places = list(dict.fromkeys(line[:2] for line in lines))
    lines.sort(key=lambda line: (line[0], places.index(line[:2])))
    return _pipe_table(header, [[name, *cells] for name, _, cells in lines])


def _schedule(verdict: Verdict, table: Table) -> tuple[tuple[str, str], int]:
    """Return a claim without its schedule, and the schedule."""
    claim = verdict.claim
    return (claim.of or claim.claim, claim.metric), table.rows[claim.order[0][0]].iterations


def _claim_cells(verdict: Verdict, where: str) -> list[str]:
    metric = verdict.claim.metric
    pair = min(verdict.decisive, key=lambda pair: pair.difference - pair.noise)
    return [
        f"{verdict.claim.claim} ({metric})",
        where,
        f"{_MARKS[verdict.verdict]} {verdict.verdict}",
        f"{pair.above} \N{MINUS SIGN} {pair.below}: "
        f"{format_metric(metric, pair.difference, signed=True)}",
        format_metric(metric, pair.paper, signed=True),
        format_metric(metric, pair.noise or None),
        " and ".join(map(str, sorted(set(pair.seeds)))),
    ]


def _environment() -> jinja2.Environment:
    environment = page_environment(os.path.dirname(__file__))
    environment.filters["metric"] = _metric_html
    environment.globals["pipe_table"] = _pipe_table
    return environment


def _context(table: Table, results: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that both templates show."""
    summaries = summarize(results)
    table = _at_trained_schedules(table, summaries)
    rows = [r for r in results.get("rows") or [] if r.get("row") in table.rows and r.get("seeds")]
    claims = table.claims_at(results.get("scale", ""))
    verdicts = [check_claim(claim, table, summaries) for claim in claims]
    columns, lines, notes = _sheet(table, results, summaries, _footnotes(table, results, rows))
    metrics = [metric for metric in table.metrics if metric != "anchors"]
    versions = (results.get("versions") or {}).items()
    return {
        "table": table,
        "introduction": _introduction(table, results, rows),
        "summary": _summary_of(verdicts),
        "comparability": _comparability(table, results),
        "columns": columns,
        "header": ["", "row", *(f"{m}, {note}" if note else m for m, note in columns)],
        "lines": lines,
        "footnotes": notes,
        "metrics": metrics,
        "differences": _differences(table, metrics, summaries),
        "sections": study_sections(table, results, summaries),
        "verdicts": verdicts,
        "marks": _MARKS,
        "facts": {
            "scale": str(results.get("scale", DASH)),
            "data set": str(results.get("dataset", DASH)),
            "recipe": _recipe(results, rows),
            "machine": _describe(results.get("machine")),
            "versions": ", ".join(f"{name} {version}" for name, version in versions) or DASH,
            "commit": str(results.get("commit", DASH)),
            "configs and model code": str(results.get("code", DASH)),
        },
        "runs": [_run(row) for row in rows],
    }


def _at_trained_schedules(table: Table, summaries: Summaries) -> Table:
    """Leave out the schedules at which no row has been trained."""
    trained = {table.rows[name].iterations for name in summaries if name in table.rows}
    rows = {name: row for name, row in table.rows.items() if row.iterations in trained}
    return table.with_rows(rows) if rows else table


def _sheet(
    table: Table, results: Mapping[str, Any], summaries: Summaries, notes: Mapping[str, str]
) -> tuple[list[tuple[str, str]], list[Line], list[str]]:
    """Return the table's columns, each a metric and a note, its lines and its footnotes.

    A row that stands beside another one adds columns to that row's line.
    """
    here = table.rows_at(results.get("scale", ""))
    rows = [name for name in table.rows if name in here or name in summaries] or list(table.rows)
    names = [name for name in rows if not table.rows[name].beside]
    beside: dict[str, dict[str, str]] = {}
    for name in rows:
        row = table.rows[name]
        if row.beside:
            beside.setdefault(row.plain_name, {})[row.beside] = name
    own = {name: name for name in names}
    # Notes tell the two kinds of seconds apart. The last item maps each line to the row it shows.
    columns = [(m, "an image" if m == "seconds" else "", own) for m in table.metrics]
    columns += [(table.headline, note, shown) for note, shown in beside.items()]
    if "seconds" not in table.metrics:
        columns.append(("seconds", "training", own))
    cells = [
        _cells(table, summaries, metric, [shown.get(name, "") for name in names])
        for metric, _, shown in columns
    ]
    marks = {name: str(i).translate(_SUPERSCRIPTS) for i, name in enumerate(notes, start=1)}
    lines = [
        Line(name, table.rows[name].name, marks.get(name, ""), [column[i] for column in cells])
        for i, name in enumerate(names)
    ]
    texts = [f"{marks[name]} {note}" for name, note in notes.items()]
    return [(metric, note) for metric, note, _ in columns], lines, texts


def _cells(table: Table, summaries: Summaries, metric: str, names: list[str]) -> list[Cell]:
    """Return a column's cells, one for each name; "" stands for a line without a row.

    The best of two or more is marked where one direction is better.
    """
    ours = [summaries.get(name, {}).get(metric) for name in names]
    papers = [table.rows[name].paper.get(metric) if name else None for name in names]
    means = [summary.mean for summary in ours if summary]
    best = ""
    if len(means) > 1 and metric not in ("anchors", "seconds"):
        best = format_metric(metric, max(means))
    elif len(means) > 1 and table.kind == "timing":
        best = format_metric(metric, min(means))
    has_paper = any(number is not None for number in papers)
    cells = []
    for summary, paper in zip(ours, papers, strict=True):
        text = format_metric(metric, summary.mean if summary else None)
        deviation = ""
        if summary and summary.deviation is not None and metric != "anchors":
            deviation = f"{summary.deviation:.{len(text.partition('.')[2])}f}"  # digits of the mean
        paper_text = format_metric(metric, paper) if has_paper else ""
        cells.append(Cell(text, deviation, paper_text, best=summary is not None and text == best))
    return cells


def _differences(table: Table, metrics: list[str], summaries: Summaries) -> list[Line]:
    """Return each row minus the first claim's first row, or minus the row that it stands beside.

    At several schedules, a row is compared with that first row at the same schedule.
    """
    first = table.claims[0].order[0][0] if table.claims else next(iter(table.rows))
    own = table.rows[first].of or first
    firsts = {row.iterations: name for name, row in table.rows.items() if (row.of or name) == own}
    lines = []
    for name, row in table.rows.items():
        other = row.beside or firsts[row.iterations]
        if name == other or name not in summaries:
            continue
        cells = []
        for metric in metrics:
            pair = compare_rows(Claim("", metric, []), table, summaries, name, other)
            numbers = pair.difference, pair.paper
            ours, paper = (format_metric(metric, number, signed=True) for number in numbers)
            cells.append(Cell(ours, paper=paper))
        title = f"{row.name}, {row.beside}" if row.beside else row.name
        lines.append(Line(f"{name} \N{MINUS SIGN} {other}", title, "", cells))
    return lines


def _footnotes(
    table: Table, results: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """Return, by line, which seeds were run elsewhere, with other code or with random weights."""
    notes: dict[str, list[str]] = {}
    for row in rows:
        seeds = []
        for seed in row["seeds"]:
            what = []
            if seed.get("commit") not in (None, results.get("commit")):
                what.append(f"commit {seed['commit']}")
            if seed.get("code") not in (None, results.get("code")):
                what.append(f"configs and model code {seed['code']}")
            if seed.get("machine") not in (None, results.get("machine")):
                what.append(_describe(seed["machine"]))
            versions, common = seed.get("versions") or {}, results.get("versions") or {}
            what += [f"{k} {v}" for k, v in versions.items() if v != common.get(k)]
            if (seed.get("metrics") or {}).get("trained") == 0:
                what.append("random weights")
            where = [f"on {', '.join(what)}"] if what else []
            if seed.get("timed_on"):
                where.append(f"timed on {_describe(seed['timed_on'])}")
            if where:
                seeds.append(f"seed {seed.get('seed', DASH)} {', '.join(where)}")
        if seeds:
            # A row beside another one is marked in that one's line.
            line = table.rows[row["row"]].beside or row["row"]
            notes.setdefault(line, []).append(f"row {row['row']}: {'; '.join(seeds)}")
    return {line: f"{'; '.join(parts)}." for line, parts in notes.items()}


def _recipe(results: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Say how the training deviates from the rows' configs, and what the rows started from."""
    if "recipe" not in results:
        return "an earlier one, of before results named theirs (docs/tables.md)"
    texts = [results["recipe"].get("opts", "as the configs say")]
    if start := results["recipe"].get("start"):
        texts.append(f"start: {start}")
    starts = {
        seed.get("seed"): seed["start"] for row in rows for seed in row["seeds"] if "start" in seed
    }
    for seed, made in sorted(starts.items()):
        texts.append(
            f"seed {seed}'s is right on {100 * made['accuracy']:.1f} % of {made['held_out']} "
            f"held-out crops after {made['iterations']} iterations"
        )
    return "; ".join(texts)


def _introduction(
    table: Table, results: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> str:
    """Say what was trained, and on what."""
    runs = [seed for row in rows for seed in row["seeds"]]
    if not runs:
        return "Nothing of this table has been run yet."
    seconds = sum(seed.get("seconds") or 0 for seed in runs)
    doing = "timed" if table.kind == "timing" else "trained and evaluated"
    total = f"{seconds / 3600:.1f} hours" if seconds >= 5400 else f"{seconds / 60:.0f} minutes"
    return (
        f"{len(rows)} of the table's rows were {doing} at the {results.get('scale', DASH)} scale "
        f"on the data set {results.get('dataset', DASH)}, {len(runs)} runs in {total}, on "
        f"{_describe(results.get('machine'))}."
    )


def _summary_of(verdicts: Sequence[Verdict]) -> str:
    """Say how many claims hold."""
    if not verdicts:
        return ""
    counts = {mark: sum(v.verdict == mark for v in verdicts) for mark in _MARKS}
    rest = [f"{count} {mark}" for mark, count in counts.items() if count and mark != "holds"]
    rest = [text.replace("does not", "do not") if text[:2] != "1 " else text for text in rest]
    text = f"{counts['holds']} of the paper's {len(verdicts)} claims hold"
    return f"{text} ({', '.join(rest)})." if rest else f"{text}."


def _comparability(table: Table, results: Mapping[str, Any]) -> str:
    """Say how far these numbers can be compared with the paper's, if any has numbers."""
    if not any(row.paper for row in table.rows.values()):
        return ""
    if table.kind == "timing":
        return (
            "The paper's seconds are of an NVIDIA M40 and R-50 (R-101 where a row says so) on "
            "COCO: compare ratios and orders, not seconds."
        )
    networks = "The paper's numbers are of R-50 (R-101 where a row says so) on COCO"
    if results.get("scale") == "paper" and str(results.get("dataset", "")).startswith("coco"):
        return f"{networks}, as these are."
    return (
        f"{networks}. These are of a smaller network on other data, so only differences between "
        "rows and their order can be compared with the paper, not the numbers themselves."
    )


def _run(row: Mapping[str, Any]) -> dict[str, str]:
    """Say how a row was run."""
    seeds = row["seeds"]
    seconds = [seed["seconds"] for seed in seeds if seed.get("seconds") is not None]
    return {
        "row": row["row"],
        "seeds": ", ".join(str(seed.get("seed", DASH)) for seed in seeds),
        "iterations": str(seeds[0].get("iterations", DASH)),
        "seconds": ", ".join(format_metric("seconds", s) for s in seconds) or DASH,
        "command": str(row.get("command") or DASH),
    }


def _describe(machine: Mapping[str, Any] | str | None) -> str:
    """Describe a machine in words."""
    if not isinstance(machine, Mapping):
        return str(machine or "an unknown machine")
    parts = [str(machine.get("processor") or "unknown processor")]
    parts += [f"{machine['cores']} cores"] if machine.get("cores") else []
    parts += [f"{machine['memory_gib']} GiB"] if machine.get("memory_gib") else []
    parts += [" and ".join(map(str, machine.get("gpus") or [])) or "no GPU"]
    parts += [f"TF32 {'on' if machine['tf32'] else 'off'}"] if "tf32" in machine else []
    return ", ".join(parts)


def _pipe_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table of texts."""
    # An unescaped pipe would end its cell.
    cells = [[text.replace("|", "\\|") for text in row] for row in rows]
    return tabulate(cells, header, tablefmt="pipe", disable_numparse=True)


def _metric_html(metric: str) -> Markup:
    """Typeset a metric such as ``AR1k_s`` as the paper does."""
    match = re.fullmatch(r"(AR|AP)(\w*?)(?:_([sml]))?", metric)
    if not match:
        return escape(metric)
    stem, number, size = match.groups()
    tag = "sup" if stem == "AR" else "sub"
    text = f"{stem}<{tag}>{number}</{tag}>" if number else stem
    return Markup(f"{text}<sub>{size}</sub>" if size else text)
