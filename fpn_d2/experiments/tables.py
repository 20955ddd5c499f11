"""The paper's tables as data: rows, configs, numbers and claims, read from one YAML file.

``configs/tables.yaml`` holds them; a user's own row, table or claim goes there, or into a file of
the same form.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import yaml

from ..utils.errors import UserError

__all__ = ["Claim", "Row", "Scale", "Table", "Tables", "load_tables"]


@dataclasses.dataclass(frozen=True)
class Scale:
    """A size at which rows are trained.

    Args:
        dataset: the data set of this scale, without its split.
        start: ``{config: FILE, iterations: N}``, the network that every row of a seed starts from,
            trained on crops; empty: what the rows say.
    """

    dataset: str
    start: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        name: what the paper calls it.
        configs: the config file of each scale; a scale that is not there has no such row.
        paper: the paper's numbers by metric.
        proposals: by scale, the config of the RPN whose proposals the row is trained and tested
            on; empty for a row that makes its own.
        beside: the row in whose line this one stands as further columns.
    """

    name: str
    configs: Mapping[str, str]
    paper: Mapping[str, float] = dataclasses.field(default_factory=dict)
    proposals: Mapping[str, str] = dataclasses.field(default_factory=dict)
    beside: str = ""


@dataclasses.dataclass(frozen=True)
class Claim:
    """What the paper says of the order of rows.

    Args:
        claim: the sentence.
        metric: of what.
        order: groups of rows; every row of a group lies above every row of the next.
        share: the difference is at least this share of the paper's own.
        ties: a difference within the noise is enough.
    """

    claim: str
    metric: str
    order: list[list[str]]
    share: float = 0.0
    ties: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of the paper.

    Args:
        table: its name in the paper, such as ``"1"``.
        title: its caption.
        metrics: the columns, by short name.
        rows: by name.
        claims: what the paper says of them.
        kind: ``"accuracy"``, where every row is trained and evaluated, or ``"timing"``, where all
            are timed side by side.
    """

    table: str
    title: str
    metrics: list[str]
    rows: Mapping[str, Row]
    claims: list[Claim]
    kind: str = "accuracy"

    def rows_at(self, scale: str) -> dict[str, Row]:
        """The rows that this scale has."""
        return {name: row for name, row in self.rows.items() if scale in row.configs}

    def claims_at(self, scale: str) -> list[Claim]:
        """The claims about rows that this scale has."""
        rows = self.rows_at(scale)
        return [c for c in self.claims if all(row in rows for group in c.order for row in group)]


@dataclasses.dataclass(frozen=True)
class Tables:
    """All tables of a file.

    Args:
        path: the file; configs are named relative to its folder.
        metrics: where each metric lies in an evaluation's results, as ``task/metric``.
        scales: by name.
        tables: by name.
    """

    path: str
    metrics: Mapping[str, str]
    scales: Mapping[str, Scale]
    tables: Mapping[str, Table]

    def config_file(self, config: str) -> str:
        """The path of a config that the file names."""
        return os.path.join(os.path.dirname(self.path), config)

    def table(self, name: str) -> Table:
        """A table by name.

        Raises:
            UserError: where there is none of this name.
        """
        return _get(self.tables, name, f"{self.path} has no table")

    def scale(self, name: str) -> Scale:
        """A scale by name.

        Raises:
            UserError: where there is none of this name.
        """
        return _get(self.scales, name, f"{self.path} has no scale")


def load_tables(path: str | os.PathLike) -> Tables:
    """Read and check a file of tables.

    Args:
        path: the YAML file.

    Returns:
        its content.

    Raises:
        UserError: naming the file, the table and the key where something is missing or unknown.
    """
    path = os.fspath(path)
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except OSError as error:
        raise UserError(
            f"tables file {path} cannot be read ({error.strerror}); name another"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split())
        raise UserError(
            f"tables file {path} is not a readable YAML file ({problem}); correct it there"
        ) from error
    top = _section(content, path, ("metrics", "scales", "tables"))
    scales = _made(Scale, top["scales"], f"{path}, scales")
    for name, scale in scales.items():
        if scale.start:
            _section(scale.start, f"{path}, scales, {name}, start", ("config", "iterations"))
    metrics = _section(top["metrics"], f"{path}, metrics")
    tables = {
        str(name): _table(str(name), value, f"{path}, table {name}", set(metrics), set(scales))
        for name, value in _section(top["tables"], f"{path}, tables").items()
    }
    return Tables(path, metrics, scales, tables)


# What a run's metrics have besides those of an evaluation.
_OWN_METRICS = {"anchors"}


def _table(name: str, content: Any, where: str, metrics: set[str], scales: set[str]) -> Table:
    content = dict(_section(content, where, ("title", "metrics", "rows")))
    rows = _made(Row, content.pop("rows"), f"{where}, rows")
    claims = [
        _make(Claim, claim, f"{where}, claim {i}")
        for i, claim in enumerate(_list(content.pop("claims", None) or [], f"{where}, claims"), 1)
    ]
    table = _make(Table, {"table": name, "rows": rows, "claims": claims, **content}, where)
    if table.kind not in ("accuracy", "timing"):
        raise UserError(f"{where}: kind is {table.kind!r}; it can be 'accuracy' or 'timing'")
    known = metrics | _OWN_METRICS
    _list(table.metrics, f"{where}, metrics")
    for key in (*table.metrics, *(claim.metric for claim in claims)):
        if key not in known:
            raise UserError(f"{where}: there is no metric {key}; add it to the file's metrics")
    for row, value in rows.items():
        _check_row(value, f"{where}, rows, {row}", known, scales)
        if value.beside and value.beside not in rows:
            raise UserError(f"{where}, row {row}: beside names {value.beside}, which is no row")
    for claim in claims:
        _check_order(claim, set(rows), where)
    return table


def _check_row(row: Row, where: str, metrics: set[str], scales: set[str]) -> None:
    for key in ("configs", "proposals"):
        for scale in _section(getattr(row, key), f"{where}, {key}"):
            if scale not in scales:
                raise UserError(f"{where}, {key}: there is no scale {scale}; add it to the scales")
    lacking = sorted(set(row.configs) - set(row.proposals)) if row.proposals else []
    if lacking:
        raise UserError(f"{where}: proposals has no config for the scale {lacking[0]}; add one")
    for metric in _section(row.paper, f"{where}, paper"):
        if metric not in metrics:
            raise UserError(f"{where}, paper: there is no metric {metric}; add it to the metrics")


def _check_order(claim: Claim, rows: set[str], where: str) -> None:
    groups = [_list(group, f"{where}, claim '{claim.claim}', order") for group in claim.order]
    absent = {row for group in groups for row in group} - rows
    if absent or len(groups) < 2:
        what = f"names no row {', '.join(sorted(absent))}" if absent else "has one group"
        raise UserError(
            f"{where}: the order of the claim '{claim.claim}' {what}; give two or more lists "
            "of the table's rows, the better ones first"
        )


def _list(content: Any, where: str) -> list:
    if not isinstance(content, list):
        raise UserError(f"{where} must be a list, [...]")
    return content


def _section(content: Any, where: str, needed: tuple[str, ...] = ()) -> dict:
    if not isinstance(content, dict):
        raise UserError(f"{where}: it must hold lines of the form KEY: value")
    for key in needed:
        if key not in content:
            raise UserError(f"{where}: {key} is missing; see the file that comes with fpn_d2")
    return content


def _made(kind: type, content: Any, where: str) -> dict[str, Any]:
    return {
        str(name): _make(kind, value, f"{where}, {name}")
        for name, value in _section(content, where).items()
    }


def _make(kind: type, content: Any, where: str) -> Any:
    """A dataclass from a section, whose keys are its fields."""
    content = _section(content, where)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in content:
        if key not in fields:
            raise UserError(f"{where}: there is no key {key}; there are {', '.join(fields)}")
    for name, field in fields.items():
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and name not in content:
            raise UserError(f"{where}: {name} is missing")
    return kind(**content)


def _get(entries: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in entries:
        raise UserError(f"{what} {name}; there are {', '.join(entries)}")
    return entries[name]
