"""The results of a table: gathered from its runs, kept in results/<data set>/table<N>.json."""

import os
from typing import Any

import portalocker

from ..data import check_names
from ..utils.errors import UserError
from ..utils.files import read_json, write_json
from .examples import find_examples
from .provenance import describe_machine, describe_versions, git_commit
from .report import write_report
from .reproduction import Reproduction
from .runs import BusyError
from .tables import Table

__all__ = ["collect", "results_file", "update_results"]

# What belongs to one run, and is said of it where it differs from the file's.
_PROVENANCE = ("commit", "machine", "versions")


def results_file(folder: str, dataset: str, table: Table) -> str:
    """Where a table's results lie."""
    return os.path.join(folder, dataset, f"table{table.table}.json")


def collect(reproduction: Reproduction, table: Table, path: str) -> dict[str, Any]:
    """Everything that is known of a table: the runs of this machine, and what the file has beside.

    Args:
        reproduction: the scale, the data set and the runs.
        table: the table.
        path: a file that an earlier call has written; need not exist.

    Returns:
        ``{table, scale, dataset, commit, machine, versions, rows: [{row, config, command,
        seeds: [{seed, seconds, iterations, metrics, losses}]}]}``.

    Raises:
        UserError: where the file is of another scale.
    """
    known, others = _known_seeds(reproduction, table, path)
    rows = []
    for name, row in table.rows_at(reproduction.scale).items():
        seeds = known.get(name, {})
        timing = reproduction.timing(table, row)  # once: of one seed's weights
        for seed, result in reproduction.results(table, row).items():
            seeds[seed] = {
                "seed": seed,
                "seconds": result["seconds"],
                "iterations": result["iterations"],
                "metrics": reproduction.metrics(table, row, result) | timing,
                "losses": result["losses"],
                **{key: result[key] for key in _PROVENANCE},
            }
            timing = dict.fromkeys(timing)
        if seeds:
            config = reproduction.tables.config_file(row.configs[reproduction.scale])
            command = reproduction.command(row, min(seeds))
            runs = [seeds[seed] for seed in sorted(seeds)]
            rows.append({"row": name, "config": config, "command": command, "seeds": runs})
    rows += others
    return _with_provenance(
        {"table": table.table, "scale": reproduction.scale, "dataset": reproduction.dataset_name},
        rows,
    )


def _known_seeds(
    reproduction: Reproduction, table: Table, path: str
) -> tuple[dict[str, dict[int, dict[str, Any]]], list[dict[str, Any]]]:
    """What an earlier call has written, each seed with its provenance.

    Returns:
        the seeds by row and seed, and the rows that the table does not have.
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
        common = {key: content[key] for key in _PROVENANCE}
        for row in rows:
            row["seeds"] = [{**common, **entry} for entry in row["seeds"]]
        known = {row["row"]: {entry["seed"]: entry for entry in row["seeds"]} for row in rows}
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path} has not the form of a table's results ({error!r}): move it away, or give "
            "another --output"
        ) from error
    there = table.rows_at(reproduction.scale)
    return known, [row for row in rows if row["row"] not in there]


def _with_provenance(head: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Say once what all runs have in common, and of a run only what is different."""
    seeds = [seed for row in rows for seed in row["seeds"]]
    now = {
        "commit": git_commit(),
        "machine": describe_machine(),
        "versions": describe_versions(),
    }
    for key in _PROVENANCE:
        values = [seed[key] for seed in seeds if key in seed]
        head[key] = max(values, key=values.count) if values else now[key]
        for seed in seeds:
            if seed.get(key) == head[key]:
                del seed[key]
    return {**head, "rows": rows}


def update_results(reproduction: Reproduction, table: Table, output: str) -> str:
    """Gather a table's results and write its JSON, Markdown and page.

    Args:
        reproduction: the scale, the data set and the runs.
        table: the table.
        output: the folder of all results.

    Returns:
        the JSON file.
    """
    path = results_file(output, reproduction.dataset_name, table)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        with portalocker.Lock(f"{os.path.splitext(path)[0]}.lock", timeout=600):
            results = collect(reproduction, table, path)
            write_json(path, results)
            examples = _examples(reproduction, table)
            write_report(table, results, os.path.dirname(path), examples)
    except portalocker.LockException as error:
        raise BusyError(
            f"{path} has been written by another process for ten minutes; see to that one"
        ) from error
    return path


def _examples(reproduction: Reproduction, table: Table) -> list[Any]:
    """Pictures of what the first claim's best row finds and others miss, where they have run."""
    folders, dataset = {}, ""
    for name, row in table.rows_at(reproduction.scale).items():
        for seed, result in reproduction.results(table, row).items():
            dataset = next(iter(result["results"]))
            folders.setdefault(name, reproduction.inference_folder(row, seed, dataset))
    if not dataset or not table.claims or table.kind == "timing":
        return []
    check_names([dataset], "DATASETS.TEST")
    order = table.claims[0].order
    pairs = [(x, y) for x in order[0] for y in order[1] if x in folders and y in folders]
    return find_examples(folders, dataset, pairs, table=table)
