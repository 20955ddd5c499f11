"""The paper's tables as data: rows, configs, numbers and claims, read from one YAML file.

The file is ``configs/tables.yaml``. Add a row, a table or a claim of your own there, or to another
file of the same form.
"""

import dataclasses
import os
import typing
from collections.abc import Mapping
from typing import Any

import yaml

from ..config import CONFIGS
from ..utils.errors import UserError, reason_of

_NOT_READ = {"is_read": False}  # marks a field that is no key of the file


@dataclasses.dataclass(frozen=True)
class Scale:
    """A size at which rows are trained.

    Args:
        dataset: the scale's data set, without its split.
        start: ``{config: FILE, iterations: N}``: every row of a seed starts from this network,
            trained on crops for at most N iterations. ``weights: START`` takes precedence over
            it, and ``--start`` over both (see :mod:`fpn_d2.experiments.starts`). If empty, rows
            start as their configs say.
        opts: overrides of every run, ``["KEY", "value", ...]``.
        like: another scale, whose configs, overrides and start this one inherits; its own overrides
            come after those.
        rows: for a scale with ``like``, the names of its rows by table.
        iterations: the schedules at which every row is trained; the first is that of the configs.
            The learning rate falls after four fifths. If empty, the configs' schedule alone.
        suffix: for a scale with ``like``, what its files' names end in beside that scale's; if
            empty, the scale's name with several schedules, and otherwise nothing.
    """

    dataset: str
    start: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    opts: list[str] = dataclasses.field(default_factory=list)
    like: str = ""
    rows: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    iterations: list[int] = dataclasses.field(default_factory=list)
    suffix: str = ""


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        name: the paper's name for it.
        configs: the config file for each scale; a scale without one does not have the row.
        paper: the paper's numbers by metric.
        proposals: for each scale, the config of the RPN on whose proposals the row is trained and
            tested; empty for a row that makes its own.
        beside: the row in whose line this one appears as further columns.
        opts: overrides of this row alone, ``["KEY", "value", ...]``, after those of the scale.
        of, iterations: at a scale with several schedules, the row's name in the file and the
            schedule; see :meth:`Tables.table_at`.
    """

    name: str
    configs: Mapping[str, str]
    paper: Mapping[str, float] = dataclasses.field(default_factory=dict)
    proposals: Mapping[str, str] = dataclasses.field(default_factory=dict)
    beside: str = ""
    opts: list[str] = dataclasses.field(default_factory=list)
    of: str = dataclasses.field(default="", metadata=_NOT_READ)
    iterations: int = dataclasses.field(default=0, metadata=_NOT_READ)

    @property
    def plain_name(self) -> str:
        """The name without the schedule."""
        return self.name.removesuffix(_schedule(self.iterations))


def _schedule(iterations: int) -> str:
    return f", {iterations} iterations"


@dataclasses.dataclass(frozen=True)
class Claim:
    """A statement of the paper about the order of rows.

    Args:
        claim: the statement as a sentence.
        metric: the metric that orders the rows.
        order: groups of rows; every row of a group lies above every row of the next group.
        share: the difference must be at least this share of the paper's.
        ties: whether a difference within the noise is enough.
        of: at a scale with several schedules, the sentence in the file.
    """

    claim: str
    metric: str
    order: list[list[str]]
    share: float = 0.0
    ties: bool = False
    of: str = dataclasses.field(default="", metadata=_NOT_READ)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of the paper.

    Args:
        table: its name in the paper, such as ``"1"``.
        title: its caption.
        metrics: the columns, by short name.
        rows: the rows by name.
        claims: the paper's claims about the rows.
        kind: ``"accuracy"`` if every row is trained and evaluated, ``"timing"`` if all rows are
            timed side by side.
        suffix: the ending of its file names' stem; see :class:`Scale`.
    """

    table: str
    title: str
    metrics: list[str]
    rows: Mapping[str, Row]
    claims: list[Claim]
    kind: str = "accuracy"
    suffix: str = dataclasses.field(default="", metadata=_NOT_READ)

    @property
    def stem(self) -> str:
        """The stem of its file names."""
        return f"table{self.table}{self.suffix}"

    @property
    def headline(self) -> str:
        """The metric that the table is about: its first claim's, or else its last column's."""
        return self.claims[0].metric if self.claims else self.metrics[-1]

    def rows_at(self, scale: str) -> dict[str, Row]:
        """Return the rows that this scale has."""
        return {name: row for name, row in self.rows.items() if scale in row.configs}

    def claims_at(self, scale: str) -> list[Claim]:
        """Return the claims for which this scale has all rows."""
        return self.with_rows(self.rows_at(scale)).claims

    def with_rows(self, rows: Mapping[str, Row]) -> "Table":
        """Return the table with these rows alone, and with the claims that need no other row."""
        claims = [c for c in self.claims if all(row in rows for group in c.order for row in group)]
        return dataclasses.replace(self, rows=rows, claims=claims)


@dataclasses.dataclass(frozen=True)
class Tables:
    """All tables of a file.

    Args:
        path: the file; it names configs relative to its folder.
        metrics: the place of each metric in an evaluation's results, as ``task/metric``.
        scales: the scales by name.
        tables: the tables by name.
    """

    path: str
    metrics: Mapping[str, str]
    scales: Mapping[str, Scale]
    tables: Mapping[str, Table]

    def config_file(self, config: str) -> str:
        """Return the path of a config that the file names."""
        return os.path.join(os.path.dirname(self.path), config)

    def table(self, name: str) -> Table:
        """Return the table of this name.

        Raises:
            UserError: if there is none.
        """
        return _get(self.tables, name, f"{self.path} has no table")

    def table_at(self, name: str, scale: str) -> Table:
        """Return a table as a scale trains it.

        For a scale with ``like``, keep only that scale's rows, each at every schedule, and the
        paper's claims about them; for any other scale, return :meth:`table`.

        Raises:
            UserError: if there is no such table or scale.
        """
        table, size = self.table(name), self.scale(scale)
        if not size.like:
            return table
        picked = {row: _moved(table.rows[row], size.like, scale) for row in size.rows.get(name, [])}
        for key, row in picked.items():
            if row.beside not in picked:
                picked[key] = dataclasses.replace(row, beside="")
        # Keep a claim if each of its groups still has a row.
        orders = [
            [[row for row in group if row in picked] for group in c.order] for c in table.claims
        ]
        kept = [(c, order) for c, order in zip(table.claims, orders, strict=True) if all(order)]
        if not size.iterations:
            whole = [claim for claim, order in kept if order == claim.order]
            return dataclasses.replace(table, rows=picked, claims=whole, suffix=size.suffix)
        rows = {
            f"{key}_{count}": _longer(key, row, count, count != size.iterations[0])
            for key, row in picked.items()
            for count in size.iterations
        }
        claims = []
        for claim, order in kept:
            among = [row for row in picked if any(row in group for group in order)]
            among_text = "" if order == claim.order else f" (among {', '.join(among)})"
            for count in size.iterations:
                groups = [[f"{row}_{count}" for row in group] for group in order]
                text = claim.claim + among_text + _schedule(count)
                claims.append(dataclasses.replace(claim, claim=text, order=groups, of=claim.claim))
        suffix = size.suffix or f"_{scale}"
        return dataclasses.replace(table, rows=rows, claims=claims, suffix=suffix)

    def scale(self, name: str) -> Scale:
        """Return the scale of this name.

        Raises:
            UserError: if there is none.
        """
        return _get(self.scales, name, f"{self.path} has no scale")


def _moved(row: Row, origin: str, scale: str) -> Row:
    """Return a row of the scale ``origin`` as a row of ``scale``."""
    proposals = {scale: row.proposals[origin]} if row.proposals else {}
    return dataclasses.replace(row, configs={scale: row.configs[origin]}, proposals=proposals)


def _longer(name: str, row: Row, iterations: int, is_longer: bool) -> Row:
    schedule = ["SOLVER.MAX_ITER", str(iterations), "SOLVER.STEPS", f"({iterations * 4 // 5},)"]
    return dataclasses.replace(
        row,
        name=row.name + _schedule(iterations),
        opts=[*row.opts, *(schedule if is_longer else ())],
        beside=f"{row.beside}_{iterations}" if row.beside else "",
        of=name,
        iterations=iterations,
    )


def _get(entries: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in entries:
        raise UserError(f"{what} {name}; there are {', '.join(entries)}")
    return entries[name]


def load_tables(path: str | os.PathLike = "") -> Tables:
    """Read and check a file of tables.

    Args:
        path: the YAML file; if empty, ``tables.yaml`` of the configs that come with the package.

    Raises:
        UserError: if something is missing or unknown; the message names file, table and key.
    """
    path = os.fspath(path) or os.path.relpath(f"{CONFIGS}/tables.yaml")
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except OSError as error:
        raise UserError(
            f"tables file {path} cannot be read ({error.strerror}); name another"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = reason_of(error)
        raise UserError(
            f"tables file {path} is not a readable YAML file ({problem}); correct it there"
        ) from error
    content = _section(content, path, ("metrics", "scales", "tables"))
    metrics = _make(Mapping[str, str], content["metrics"], f"{path}, metrics")
    scales = _make(Mapping[str, Scale], content["scales"], f"{path}, scales")
    for name, scale in scales.items():
        where = f"{path}, scales, {name}"
        if scale.start and "weights" not in scale.start:
            _section(scale.start, f"{where}, start", ("config", "iterations"))
        if scale.like:
            other = _get(scales, scale.like, f"{where}, like: {path} has no scale")
            start, opts = {**other.start, **scale.start}, [*other.opts, *scale.opts]
            scales[name] = dataclasses.replace(scale, start=start, opts=opts)
    tables = {}
    for name, table in _section(content["tables"], f"{path}, tables").items():
        where = f"{path}, table {name}"
        table = {"table": str(name), **_section(table, where)}
        table["claims"] = table.get("claims") or []
        tables[str(name)] = _make(Table, table, where)
        # A run's metrics also include the anchors, which no evaluation measures.
        _check_table(tables[str(name)], where, {*metrics, "anchors"}, set(scales))
    for name, scale in scales.items():
        for table, rows in scale.rows.items():
            where = f"{path}, scales, {name}, rows"
            there = _get(tables, table, f"{where}: there is no table").rows_at(scale.like)
            for row in rows:
                _get(there, row, f"{where}, table {table}: scale {scale.like} has no row")
    return Tables(path, metrics, scales, tables)


def _check_table(table: Table, where: str, metrics: set[str], scales: set[str]) -> None:
    if table.kind not in ("accuracy", "timing"):
        raise UserError(f"{where}: kind is {table.kind!r}; it can be 'accuracy' or 'timing'")
    used = {where: [*table.metrics, *(claim.metric for claim in table.claims)]}
    for name, row in table.rows.items():
        here = f"{where}, rows, {name}"
        used[f"{here}, paper"] = row.paper
        for key, named in (("configs", row.configs), ("proposals", row.proposals)):
            for scale in named.keys() - scales:
                raise UserError(f"{here}, {key}: there is no scale {scale}; add it to the scales")
        missing = sorted(row.configs.keys() - row.proposals) if row.proposals else []
        if missing:
            raise UserError(f"{here}: proposals has no config for the scale {missing[0]}; add one")
        if row.beside and row.beside not in table.rows:
            raise UserError(
                f"{here}: beside names {row.beside}, which is not a row; name one of "
                f"{', '.join(table.rows)}"
            )
    for place, names in used.items():
        for name in names:
            if name not in metrics:
                raise UserError(f"{place}: there is no metric {name}; add it to the file's metrics")
    for claim in table.claims:
        unknown = sorted({row for group in claim.order for row in group} - set(table.rows))
        if unknown or len(claim.order) < 2:
            what = f"names no row {', '.join(unknown)}" if unknown else "has one group"
            raise UserError(
                f"{where}: the order of the claim '{claim.claim}' {what}; give two or more lists "
                "of the table's rows, the better ones first"
            )


def _make(kind: Any, content: Any, where: str) -> Any:
    """Make a ``kind`` of YAML content: a list, a mapping, a dataclass by its fields, or a value."""
    items = typing.get_args(kind)
    if typing.get_origin(kind) is list:
        if not isinstance(content, list):
            raise UserError(f"{where} must be a list, [...]")
        one = where.removesuffix("s")
        return [_make(items[0], value, f"{one} {i}") for i, value in enumerate(content, start=1)]
    if typing.get_origin(kind) is Mapping:
        section = _section(content, where)
        return {str(key): _make(items[1], section[key], f"{where}, {key}") for key in section}
    if not dataclasses.is_dataclass(kind):
        return content
    fields = {f.name: f for f in dataclasses.fields(kind) if f.metadata.get("is_read", True)}
    values = {}
    for key, value in _section(content, where).items():
        if key not in fields:
            raise UserError(f"{where}: there is no key {key}; there are {', '.join(fields)}")
        values[key] = _make(fields[key].type, value, f"{where}, {key}")
    for name, field in fields.items():
        optional = {field.default, field.default_factory} != {dataclasses.MISSING}
        if name not in values and not optional:
            raise UserError(f"{where}: {name} is missing; add it")
    return kind(**values)


def _section(content: Any, where: str, needed: tuple[str, ...] = ()) -> dict:
    if not isinstance(content, dict):
        raise UserError(f"{where}: it must hold lines of the form KEY: value")
    for key in needed:
        if key not in content:
            raise UserError(f"{where}: {key} is missing; see the file that comes with fpn_d2")
    return content
