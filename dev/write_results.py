#!/usr/bin/env python
"""Write every table that comes from results/*.json: `make results`.

It fills in the pages docs/results.md, docs/speed.md and docs/export.md, whose marks name the files,
and rewrites each table's report, results/<data set>/table<N>.md and .html. The .html pages are not
committed. Charts of longer schedules and of the growth of cost are written beside their results.
The example pictures of the tables' rows need the trainings: `tools/reproduce.py` draws them.

    <!-- results/shapes/table1.json -->
    ... what this script writes ...
    <!-- end of results -->

Between `<!-- results/*.json -->` and such an end it writes the paper's claims and their verdicts in
all of these files.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fpn_d2.experiments import Table, Tables

ROOT = Path(__file__).resolve().parents[1]
ALL_RESULTS = "results/*.json"
PAGES = ("docs/results.md", "docs/speed.md", "docs/export.md")

_SECTION = re.compile(r"(<!-- (\S+\.json) -->\n).*?(<!-- end of results -->)", re.DOTALL)


def build_parser() -> argparse.ArgumentParser:
    """The command line, which has no options."""
    return argparse.ArgumentParser(description=__doc__.splitlines()[0])


def main() -> None:
    """Write the pages and the reports."""
    build_parser().parse_args()
    from fpn_d2.experiments import load_tables
    from fpn_d2.experiments.cost_growth import draw_growth
    from fpn_d2.experiments.report import write_report
    from fpn_d2.utils.errors import exit_on_user_error
    from fpn_d2.utils.files import replace_file

    with exit_on_user_error():
        tables = load_tables(ROOT / "configs" / "tables.yaml")
        pages = {ROOT / name: (ROOT / name).read_text(encoding="utf-8") for name in PAGES}
        filled = {path: fill_in(text, ROOT, tables) for path, text in pages.items()}
        for path, text in filled.items():
            with replace_file(path, encoding="utf-8") as file:
                file.write(text)
        for table, results, folder in table_results(ROOT, tables):
            write_report(table, results, folder)
            if picture := curves(table, results):
                with replace_file(f"{folder}/{table.stem}.svg", encoding="utf-8") as file:
                    file.write(picture)
        for path, rows in growth_results(ROOT):
            draw_growth(rows, path.with_suffix(".svg"))


def fill_in(text: str, root: str | os.PathLike, tables: Tables) -> str:
    """Rewrite the tables of a Markdown text from the results that its marks name.

    Args:
        text: the Markdown text.
        root: the folder that the marks are relative to.
        tables: the tables, which give columns and rows.

    Returns:
        the text, with all marked tables as the results have them.

    Raises:
        UserError: if there is no mark, or if a mark names a file that does not exist.
    """

    from fpn_d2.experiments.benchmark_tables import benchmark_table
    from fpn_d2.experiments.report import claims_table, markdown_report
    from fpn_d2.export import export_table
    from fpn_d2.utils.errors import UserError
    from fpn_d2.utils.files import read_json

    def write(section: re.Match) -> str:
        if section[2] == ALL_RESULTS:
            found = [(table, results) for table, results, _ in table_results(root, tables)]
            return f"{section[1]}\n{claims_table(found).strip()}\n\n{section[3]}"
        path = os.path.join(root, section[2])
        if not os.path.isfile(path):
            raise UserError(f"{path}, which a mark names, does not exist; run tools/reproduce.py")
        results = read_json(path)
        if isinstance(results, list):
            table = benchmark_table(results)
        elif "exports" in results:
            table = export_table(results["exports"])
        elif "table" in results:
            shown = tables.table_at(results["table"], results["scale"])
            table = markdown_report(shown, results, is_part=True)
        else:
            raise UserError(f"{path} is not of a known kind; write it anew with its tool")
        return f"{section[1]}\n{table.strip()}\n\n{section[3]}"

    filled, sections = _SECTION.subn(write, text)
    if not sections:
        raise UserError(
            "there is no place for results: add a line `<!-- results/<data set>/table<N>.json -->` "
            "and a line `<!-- end of results -->`"
        )
    return filled


def table_results(
    root: str | os.PathLike, tables: Tables
) -> Iterator[tuple[Table, dict[str, Any], str]]:
    """Yield each table that has results, with the content of the results file and its folder.

    Results of other tables, such as a user's own, are left alone.
    """
    from fpn_d2.utils.files import read_json

    for path in sorted(Path(root).glob("results/*/table*.json")):
        results = read_json(str(path))
        if results["table"] in tables.tables:
            yield tables.table_at(results["table"], results["scale"]), results, str(path.parent)


def curves(table: Table, results: dict[str, Any]) -> str:
    """Draw rows at several schedules against iterations, as SVG that holds a hash of the results;
    empty for other tables."""
    from fpn_d2.experiments.claims import summarize
    from fpn_d2.experiments.studies import draw_schedules

    chart = draw_schedules(table, summarize(results))
    digest = hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()
    more = f'<svg style="background: white" data-results="{digest}" '
    return str(chart.svg).replace("<svg ", more, 1) if chart else ""


def growth_results(root: str | os.PathLike) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    """Yield the benchmark's files that tell how cost grows, and their content."""
    from fpn_d2.utils.files import read_json

    for path in sorted(Path(root).glob("results/*.json")):
        rows = read_json(str(path))
        if isinstance(rows, list) and any(row["task"] == "growth" for row in rows):
            yield path, rows


if __name__ == "__main__":
    main()
