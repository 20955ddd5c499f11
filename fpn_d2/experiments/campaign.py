"""One call of tools/reproduce.py: it trains rows, here in turn or in jobs of a cluster, and writes
results and report after each."""

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from ..utils.errors import UserError
from ..utils.files import prepare_target
from .cluster import Cluster, Work
from .reproduction import Reproduction
from .results import collect, update_results
from .running_times import time_rows
from .runs import BusyError, Run
from .studies import measure_boxes, rpn_config
from .tables import Row, Table

Part = tuple[int, str, Row]  # a seed, and a row with its name in the table


class Progress(contextlib.AbstractContextManager):
    """Shows what is being trained, how far it is and how long everything will take.

    On a terminal a bar moves; elsewhere every row prints a line when it begins and when it ends.
    """

    def __init__(self) -> None:
        self.rows_left = 0
        self.seconds: list[float] = []  # of the rows that are done, of one kind of work
        self._bar = tqdm(disable=None, leave=False)

    def __exit__(self, *_: Any) -> None:
        self._bar.close()

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        tqdm.write(line)

    def time_left(self) -> str:
        """Return in words how long the remaining rows will take; empty while unknown."""
        if not self.seconds or not self.rows_left:
            return ""
        minutes = self.rows_left * sum(self.seconds) / len(self.seconds) / 60
        return f"about {minutes:.0f} min left"

    def __call__(self, run: Run, done: int, total: int, seconds_left: float | None) -> None:
        """Move the bar; see the ``on_progress`` of :class:`Runner`."""
        self._bar.total, self._bar.n = total, done
        self._bar.set_description(run.folder, refresh=False)
        this = "" if seconds_left is None else f"{seconds_left / 60:.1f} min left, "
        self._bar.set_postfix_str(this + self.time_left(), refresh=False)
        self._bar.refresh()


def run_in_turn(
    progress: Progress, works: Sequence[Work], on_end: Callable[[Work, Any], None]
) -> None:
    """Do all work in this process, one after the other.

    See :meth:`Cluster.run`. Work that another process is doing is skipped; any other error ends it.
    """
    progress.seconds.clear()
    for number, work in enumerate(works, start=1):
        progress.rows_left = len(works) - number + 1
        said = (f"{work.title}: {number} of {len(works)}", progress.time_left())
        progress.say(", ".join(filter(None, said)))
        start = time.monotonic()
        try:
            outcome = work.function()
            progress.seconds.append(time.monotonic() - start)
        except BusyError as error:
            outcome = error
        on_end(work, outcome)


def reproduce(
    reproduction: Reproduction,
    table_name: str,
    output: str,
    rows: Sequence[str],
    seeds: Sequence[int],
    progress: Progress,
    boxes: Sequence[int] = (),
    cluster: Cluster | None = None,
) -> str:
    """Train the missing rows of a table, seed by seed, and report after every row.

    Args:
        reproduction: the scale, the data set and the runs.
        table_name: the table's name, such as ``"1"``.
        output: the folder of all results.
        rows: the names of the rows; if empty, all rows of the scale.
        seeds: the seeds.
        progress: tells the user.
        boxes: numbers of boxes before NMS; the rows, all RPNs, are evaluated at each of them too.
        cluster: trains, evaluates and times the rows, each seed of a row in a job of its own; if
            None, this process does so, one after the other.

    Returns:
        the JSON file of the results.

    Raises:
        UserError: if a row, a data set or a file is missing, or a training fails. On a cluster the
            others are trained all the same.
    """
    table = reproduction.tables.table_at(table_name, reproduction.scale)
    picked = pick_rows(table, reproduction.scale, rows)
    # Check before hours of training: the file may be of another scale.
    reproduction.prepare(picked.values())
    path = os.path.join(output, reproduction.dataset_name, f"{table.stem}.json")
    collect(reproduction, table, path)
    for row in picked.values() if boxes else ():
        rpn_config(reproduction.run(row, seeds[0]))
    prepare_target(path, overwrite=True, option="--output")
    call = _Call(reproduction, table, path, progress, cluster)
    busy, timed = 0, picked
    if table.kind != "timing":
        plan = [(seed, name, row) for seed in seeds for name, row in picked.items()]
        busy = call.train(plan) + call.measure_boxes(plan, boxes)
        # Time after the last training, and every trained row, whether it was picked or not.
        has_times = "seconds" in table.metrics and not busy
        done = table.rows_at(reproduction.scale) if has_times else {}
        timed = {name: row for name, row in done.items() if reproduction.results(table, row)}
    busy += call.time(timed)
    if busy:
        progress.say(f"{busy} rows are trained elsewhere; call again when they are done")
    update_results(reproduction, table, path)
    progress.say(f"{path}, and .md and .html beside it")
    return path


def pick_rows(table: Table, scale: str, names: Sequence[str]) -> dict[str, Row]:
    """Return the named rows of a table, or all rows of the scale if none is named.

    Raises:
        UserError: if the scale has no such row, or if rows are named that can only be timed side
            by side with the others.
    """
    rows = table.rows_at(scale)
    for name in names:
        if name not in rows:
            raise UserError(
                f"table {table.table} has no row {name} at scale {scale}; there are "
                f"{', '.join(rows)}"
            )
    if not rows:
        raise UserError(f"table {table.table} has no row at scale {scale}; give another --scale")
    if table.kind == "timing" and names and set(names) != set(rows):
        raise UserError(
            f"--rows {','.join(names)}: the rows of table {table.table} are timed side by side, "
            "so a part of them cannot be compared with the rest; leave --rows out"
        )
    return {name: row for name, row in rows.items() if not names or name in names}


@dataclasses.dataclass(frozen=True)
class _Call:
    """What one call does for a table, here or on a cluster; see :func:`reproduce`.

    Each method returns how many pieces of its work another process holds, and raises the error of
    one that has failed.
    """

    reproduction: Reproduction
    table: Table
    path: str
    progress: Progress
    cluster: Cluster | None

    def train(self, plan: Sequence[Part]) -> int:
        """Train the rows that are not done, and write results and report after each."""
        rows = {}
        for seed, name, row in plan:
            run = self.reproduction.run(row, seed)
            if not self._is_done(run):
                title = self._title(seed, name, row)
                train = functools.partial(self.reproduction.train_row, row, seed)
                files = self.reproduction.files_of(row, seed)
                rows[Work(title, run.folder, "training", train, files)] = row
        done = len(plan) - len(rows)
        self.progress.say(f"table {self.table.table}: {done} of {len(plan)} rows are done")

        def report(work: Work, result: dict[str, Any]) -> None:
            metrics = self.reproduction.metrics(self.table, rows[work], result)
            shown = ", ".join(f"{key} {metrics.get(key)}" for key in self.table.metrics)
            self.progress.say(f"{work.title}: {shown} in {result['seconds']:.0f} s")
            update_results(self.reproduction, self.table, self.path)

        return self._do([*rows], report)

    def measure_boxes(self, plan: Sequence[Part], counts: Sequence[int]) -> int:
        """Evaluate the rows that are done at these numbers of boxes before NMS."""
        works = []
        key = f"boxes before NMS: {', '.join(map(str, sorted(set(counts))))}"
        for seed, name, row in plan if counts else ():
            run = self.reproduction.run(row, seed)
            if self._is_done(run):
                title = f"{self._title(seed, name, row)}, {key}"
                measure = functools.partial(measure_boxes, self.reproduction.runner, run, counts)
                works.append(Work(title, run.folder, key, measure))
        return self._do(works)

    def time(self, rows: Mapping[str, Row]) -> int:
        """Time rows side by side, if there are any."""
        if not rows:
            return 0
        say = self.progress.say if self.cluster is None else print
        folder = self.reproduction.timing_folder(next(iter(rows.values())))
        time_all = functools.partial(time_rows, self.reproduction, self.table, rows, say)
        key = f"running times of table {self.table.table}: {', '.join(rows)}"
        return self._do([Work(f"table {self.table.table}, running times", folder, key, time_all)])

    def _is_done(self, run: Run) -> bool:
        return self.reproduction.runner.result(run) is not None

    def _title(self, seed: int, name: str, row: Row) -> str:
        return f"table {self.table.table} ({name}) {row.name}, seed {seed}"

    def _do(
        self, works: Sequence[Work], report: Callable[[Work, Any], None] = lambda *_: None
    ) -> int:
        """Do the work, and call ``report`` for each piece with what its function returned."""
        if not works:
            return 0

        errors: list[UserError] = []

        def on_end(work: Work, outcome: Any) -> None:
            if isinstance(outcome, UserError):
                errors.append(outcome)
                kind = "skipped, since" if isinstance(outcome, BusyError) else "failed:"
                self.progress.say(f"{work.title}: {kind} {outcome}")
            else:
                report(work, outcome)

        if self.cluster is None:
            run_in_turn(self.progress, works, on_end)
        else:
            self.cluster.run(works, on_end)
        failed = [error for error in errors if not isinstance(error, BusyError)]
        if failed:
            more = f" ({len(failed)} jobs failed in all)" if failed[1:] else ""
            raise UserError(f"{failed[0]}{more}")
        return len(errors)
