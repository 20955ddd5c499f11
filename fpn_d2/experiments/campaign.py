"""One call of tools/reproduce.py: it trains rows, here in turn or in jobs of a cluster, and writes
results and report after each."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from ..utils.errors import UserError
from .cluster import Cluster, Work
from .reproduction import Reproduction, pick_rows
from .results import collect, results_file, update_results
from .running_times import time_rows
from .runs import BusyError, Run, Runner
from .studies import measure_boxes, rpn_config
from .tables import Row, Table

Part = tuple[int, str, Row]  # a seed, and a row with its name in the table


class Progress(contextlib.AbstractContextManager):
    """Shows what is being trained, how far it is and how long everything will take.

    On a terminal a bar moves; elsewhere every row is a line when it begins and when it ends.
    """

    def __init__(self) -> None:
        self.rows_left = 0
        self.seconds: list[float] = []  # of the rows that are done
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
        return f"about {minutes:.0f} min left for {self.rows_left} rows"

    def __call__(self, run: Run, done: int, total: int, seconds_left: float | None) -> None:
        """Move the bar; see the ``on_progress`` of :class:`Runner`."""
        self._bar.total, self._bar.n = total, done
        self._bar.set_description(run.folder, refresh=False)
        this = "" if seconds_left is None else f"{seconds_left / 60:.1f} min left, "
        self._bar.set_postfix_str(this + self.time_left(), refresh=False)
        self._bar.refresh()


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
    """Train what is missing of a table, seed by seed, and report after every row.

    Args:
        reproduction: the scale, the data set and the runs.
        table_name: the table's name, such as ``"1"``.
        output: the folder of all results.
        rows: the names of the rows; if empty, all rows of the scale.
        seeds: the seeds.
        progress: tells the user.
        boxes: numbers of boxes before NMS, at each of which the rows, RPNs, are evaluated too.
        cluster: what trains, evaluates and times the rows, each seed of a row in a job of its own;
            if None, this machine does, one after the other.

    Returns:
        the JSON file of the results.

    Raises:
        UserError: if a row, a data set or a file is missing, or a training fails.
    """
    table = reproduction.tables.table_at(table_name, reproduction.scale)
    picked = pick_rows(table, reproduction.scale, rows)
    # Before hours of training, since the file may be of another scale.
    reproduction.prepare(picked.values())
    collect(reproduction, table, results_file(output, reproduction.dataset_name, table))
    for row in picked.values() if boxes else ():
        rpn_config(reproduction.run(row, seeds[0]))
    if table.kind == "timing":
        busy, timed = 0, picked
    else:
        plan = [(seed, name, row) for seed in seeds for name, row in picked.items()]
        if cluster is None:
            busy = _train_rows(reproduction, table, output, plan, progress)
        else:
            busy = _send_rows(reproduction, table, output, plan, progress, boxes, cluster)
        for run in (reproduction.run(row, n) for n, _, row in plan if boxes and cluster is None):
            if reproduction.runner.result(run) is not None:
                counts = ", ".join(map(str, boxes))
                progress.say(f"{run.folder}: recall with {counts} boxes before NMS")
                measure_boxes(reproduction.runner, run, boxes)
        # After the last training, and all that are trained, whether they were picked or not.
        has_times = "seconds" in table.metrics and not busy
        done = table.rows_at(reproduction.scale) if has_times else {}
        timed = {name: row for name, row in done.items() if reproduction.results(table, row)}
    if timed and cluster is None:
        time_rows(reproduction, table, timed, progress.say)
    elif timed:
        busy += _send_timing(reproduction, table, timed, cluster, progress)
    if busy:
        progress.say(f"{busy} rows are trained elsewhere; call again when they are done")
    path = update_results(reproduction, table, output)
    progress.say(f"{path}, and .md and .html beside it")
    return path


def _train_rows(
    reproduction: Reproduction,
    table: Table,
    output: str,
    plan: Sequence[Part],
    progress: Progress,
) -> int:
    """Train the rows that are not done; return how many another process is training."""
    todo = _not_done(reproduction, table, plan, progress)
    busy = 0
    for number, (seed, name, row) in enumerate(todo, start=1):
        progress.rows_left = len(todo) - number + 1
        title = f"table {table.table} ({name}) {row.name}, seed {seed}"
        progress.say(f"{title}: {number} of {len(todo)} {progress.time_left()}".rstrip())
        start = time.monotonic()
        try:
            result = reproduction.train_row(row, seed)
        except BusyError as error:
            progress.say(f"{title}: skipped, since {error}")
            busy += 1
            continue
        progress.seconds.append(time.monotonic() - start)
        shown = _shown(reproduction, table, row, result)
        progress.say(f"{title}: {shown} in {progress.seconds[-1]:.0f} s")
        update_results(reproduction, table, output)
    return busy


def _not_done(
    reproduction: Reproduction, table: Table, plan: Sequence[Part], progress: Progress
) -> list[Part]:
    """Return the part of the plan that is still to be trained, and say how much is done."""
    runs = [reproduction.run(row, seed) for seed, _, row in plan]
    todo = [
        part
        for part, run in zip(plan, runs, strict=True)
        if reproduction.runner.result(run) is None
    ]
    progress.say(f"table {table.table}: {len(plan) - len(todo)} of {len(plan)} rows are done")
    return todo


def _shown(reproduction: Reproduction, table: Table, row: Row, result: dict[str, Any]) -> str:
    metrics = reproduction.metrics(table, row, result)
    return ", ".join(f"{key} {metrics.get(key)}" for key in table.metrics)


# --- on a cluster


def _send_rows(
    reproduction: Reproduction,
    table: Table,
    output: str,
    plan: Sequence[Part],
    progress: Progress,
    boxes: Sequence[int],
    cluster: Cluster,
) -> int:
    """Train the rows that are not done in jobs; return how many another process is training.

    Raises:
        UserError: once all jobs have ended, if any has failed.
    """
    todo = _not_done(reproduction, table, plan, progress)
    there, works = _elsewhere(reproduction), {}
    for seed, name, row in plan if boxes else todo:
        work = Work(
            f"table {table.table} ({name}) {row.name}, seed {seed}",
            reproduction.run(row, seed).folder,
            functools.partial(_train_and_measure, there, row, seed, boxes),
            reproduction.files_of(row, seed),
        )
        works[work] = row, reproduction.run(row, seed)

    def report(work: Work, error: UserError | None) -> None:
        if error is not None:
            kind = "skipped, since" if isinstance(error, BusyError) else "failed:"
            progress.say(f"{work.title}: {kind} {error}")
            return
        row, run = works[work]
        progress.say(f"{work.title}: {_shown(reproduction, table, row, run.result())}")
        update_results(reproduction, table, output)

    return _busy(cluster.run([*works], report))


def _train_and_measure(
    reproduction: Reproduction, row: Row, seed: int, boxes: Sequence[int]
) -> None:
    """What a row's job does."""
    reproduction.train_row(row, seed)
    if boxes:
        measure_boxes(reproduction.runner, reproduction.run(row, seed), boxes)


def _send_timing(
    reproduction: Reproduction,
    table: Table,
    rows: Mapping[str, Row],
    cluster: Cluster,
    progress: Progress,
) -> int:
    """Time rows in turn in one job; return 1 if another process is at it."""
    work = Work(
        f"table {table.table}, running times",
        reproduction.timing_folder(next(iter(rows.values()))),
        functools.partial(time_rows, _elsewhere(reproduction), table, rows, print),
    )
    return _busy(cluster.run([work], lambda *_: None))


def _elsewhere(reproduction: Reproduction) -> Reproduction:
    """The same without what tells this terminal."""
    runner = Runner(reproduction.runner.program, reproduction.runner.num_gpus)
    return dataclasses.replace(reproduction, runner=runner)


def _busy(errors: Sequence[UserError]) -> int:
    """Return how many jobs have found their run held by another process; raise other errors."""
    failed = [error for error in errors if not isinstance(error, BusyError)]
    if failed:
        more = f" ({len(failed)} jobs failed in all)" if failed[1:] else ""
        raise UserError(f"{failed[0]}{more}; the same command sends what has failed again")
    return len(errors)
