"""A table's results file and the report beside it: what is known of each row, seed by seed.

They are ``<output>/<data set>/table<N>.json``, ``.md`` and ``.html``; at a scale with several
schedules, their names include the scale's.
"""

import itertools
import os
from collections.abc import Sequence
from typing import Any

from ..data import check_names
from ..utils.errors import UserError
from ..utils.files import read_json, write_json
from ..visualization import has_results
from .figures import Example, find_examples
from .report import write_report
from .reproduction import Reproduction
from .runs import PROVENANCE, hold, provenance
from .tables import Table


def update_results(reproduction: Reproduction, table: Table, path: str) -> None:
    """Collect a table's results and write them to ``path`` as JSON, and as Markdown and as a page
    beside it."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    sentence = f"another process has been writing {path} for ten minutes; see to that process"
    with hold(f"{os.path.splitext(path)[0]}.lock", 600, sentence):
        results = collect(reproduction, table, path)
        write_json(path, results)
        write_report(table, results, os.path.dirname(path), _examples(reproduction, table))


def collect(reproduction: Reproduction, table: Table, path: str) -> dict[str, Any]:
    """Collect what is known about a table: this machine's runs, and what else its file has.

    Args:
        reproduction: the scale, the data set and the runs.
        table: the table.
        path: the file that an earlier call wrote; it need not exist.

    Returns:
        ``{table, scale, dataset, recipe, commit, machine, versions, code, rows: [{row, config,
        command, seeds: [{seed, seconds, iterations, metrics, losses, start, boxes}]}]}``. A seed
        has its own commit, machine, versions or code where they differ from the file's, and its
        start's accuracy and its recall by boxes if they were measured. No path of this machine is
        named.

    Raises:
        UserError: if the file is of another scale or recipe.
    """
    known, others = _known_seeds(reproduction, table, path)
    rows = []
    for name, row in table.rows_at(reproduction.scale).items():
        seeds = known.get(name, {}) | reproduction.entries(table, row)
        if seeds:
            config = reproduction.tables.config_file(row.configs[reproduction.scale])
            command = reproduction.run(row, min(seeds)).command()
            rows.append(
                {
                    "row": name,
                    "config": reproduction.without_folders(config),
                    "command": reproduction.without_folders(command),
                    "seeds": [seeds[seed] for seed in sorted(seeds)],
                }
            )
    rows += others
    return {
        "table": table.table,
        "scale": reproduction.scale,
        "dataset": reproduction.dataset_name,
        "recipe": reproduction.recipe,
        **_common_provenance(rows),
        "rows": rows,
    }


def _known_seeds(
    reproduction: Reproduction, table: Table, path: str
) -> tuple[dict[str, dict[int, dict[str, Any]]], list[dict[str, Any]]]:
    """Read an earlier call's entries by row and seed, and its rows that the table lacks.

    Each seed gets its provenance.
    """
    if not os.path.isfile(path):
        return {}, []
    content = read_json(path)
    try:
        scale, rows = content["scale"], content["rows"]
        if scale != reproduction.scale:
            raise UserError(
                f"{path} is of scale {scale}, not {reproduction.scale}; give another --output, so "
                "that it is kept"
            )
        if rows and content.get("recipe", {}) != reproduction.recipe:
            raise UserError(
                f"{path} is of another recipe (start, frozen layers or precision), and these rows "
                "must not be mixed with it: give another --output, so that it is kept"
            )
        # Files from before the code was hashed lack that key alone: None, or the next call's hash
        # would pass for theirs.
        common = {key: content[key] for key in PROVENANCE if key != "code"}
        common["code"] = content.get("code")
        for row in rows:
            row["seeds"] = [{**common, **entry} for entry in row["seeds"]]
        known = {row["row"]: {entry["seed"]: entry for entry in row["seeds"]} for row in rows}
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path} does not have the form of a table's results ({error!r}): move it away, or "
            "give another --output"
        ) from error
    there = table.rows_at(reproduction.scale)
    return known, [row for row in rows if row["row"] not in there]


def _common_provenance(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the provenance that most seeds share, and remove it from the seeds that have it."""
    seeds = [seed for row in rows for seed in row["seeds"]]
    common = provenance()
    for key in PROVENANCE:
        values = [seed[key] for seed in seeds if key in seed]
        common[key] = max(values, key=values.count, default=common.get(key))
        for seed in seeds:
            if key in seed and seed[key] == common[key]:
                del seed[key]
    return {key: value for key, value in common.items() if value is not None}


def _examples(reproduction: Reproduction, table: Table) -> list[Example]:
    """Draw what the first claim's best rows find and the next ones miss, if both are evaluated."""
    if table.kind == "timing" or not table.claims:
        return []
    folders: dict[int, dict[str, str]] = {}  # by seed, whose rows share a start
    dataset = ""
    for name, row in table.rows_at(reproduction.scale).items():
        for seed, result in reproduction.results(table, row).items():
            dataset = next(iter(result["results"]))
            folder = reproduction.run(row, seed).inference_folder(dataset)
            if has_results(folder):  # a run that was copied from elsewhere may lack them
                folders.setdefault(seed, {})[name] = folder
    if not folders:
        return []
    check_names([dataset], "DATASETS.TEST")
    pairs = [*itertools.product(*table.claims[0].order[:2])]
    return find_examples(max(folders.values(), key=len), dataset, pairs, table)
