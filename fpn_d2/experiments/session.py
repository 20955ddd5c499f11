"""One call of the one command: the rows in turn, and the report after each."""

import contextlib
import time
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from .reproduction import Reproduction, pick_rows
from .results import collect, results_file, update_results
from .runs import BusyError, Run
from .tables import Table
from .timing import time_rows

__all__ = ["Progress", "reproduce"]


class Progress(contextlib.AbstractContextManager):
    """What is being trained, how far it is and how long all will take.

    On a terminal a bar moves; elsewhere every row is a line when it begins and when it ends.
    """

    def __init__(self) -> None:
        self._bar = tqdm(disable=None, leave=False)
        self._seconds: list[float] = []
        self._left = 0

    def __exit__(self, *_: Any) -> None:
        self._bar.close()

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        tqdm.write(line)

    def expect(self, rows: int) -> None:
        """Say how many rows are to be trained."""
        self._left = rows

    def skip(self) -> None:
        """Note that a row is not trained after all."""
        self._left -= 1

    def finish(self, seconds: float) -> None:
        """Note that a row took so many seconds."""
        self._seconds.append(seconds)
        self._left -= 1

    def time_left(self) -> str:
        """About how long the rows that are left will take, in words; empty while unknown."""
        if not self._seconds or not self._left:
            return ""
        minutes = self._left * sum(self._seconds) / len(self._seconds) / 60
        return f"about {minutes:.0f} min left for {self._left} rows"

    def __call__(self, run: Run, done: int, total: int, seconds_left: float | None) -> None:
        """See :class:`fpn_d2.engine.Runner`."""
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
) -> str:
    """Train what is missing of a table, in the order of the seeds, and report after every row.

    Args:
        reproduction: the scale, the data set and the runs.
        table_name: such as ``"1"``.
        output: the folder of all results.
        rows: names of rows; all that the scale has where it is empty.
        seeds: the seeds.
        progress: tells the user.

    Returns:
        the JSON file of the results.

    Raises:
        UserError: where a row, a data set or a file is not there, or a training fails.
    """
    table = reproduction.tables.table(table_name)
    reproduction.tables.scale(reproduction.scale)  # which there must be
    picked = pick_rows(table, reproduction.scale, rows)
    # Before hours of training: the file may be of another scale.
    collect(reproduction, table, results_file(output, reproduction.dataset_name, table))
    if table.kind == "timing":
        time_rows(reproduction, table, table.rows_at(reproduction.scale), progress.say)
        return _report(reproduction, table, output, progress)
    plan = [(seed, name) for seed in seeds for name in picked]
    todo = [(s, n) for s, n in plan if reproduction.result(picked[n], s) is None]
    progress.say(f"table {table.table}: {len(plan) - len(todo)} of {len(plan)} rows are done")
    progress.expect(len(todo))
    busy = []
    for number, (seed, name) in enumerate(todo, start=1):
        title = f"table {table.table} ({name}) {picked[name].name}, seed {seed}"
        progress.say(f"{title}: {number} of {len(todo)} {progress.time_left()}".rstrip())
        start = time.monotonic()
        try:
            result = reproduction.train_row(picked[name], seed)
        except BusyError as error:
            progress.say(f"{title}: skipped, since {error}")
            busy.append(title)
            progress.skip()
            continue
        seconds = time.monotonic() - start
        progress.finish(seconds)
        metrics = reproduction.metrics(table, picked[name], result)
        shown = ", ".join(f"{key} {metrics.get(key)}" for key in table.metrics)
        progress.say(f"{title}: {shown} in {seconds:.0f} s")
        _report(reproduction, table, output, progress, quiet=True)
    if "seconds" in table.metrics and not busy:
        # side by side, hence after the last training, and all that are done, picked or not
        done = {
            name: row
            for name, row in table.rows_at(reproduction.scale).items()
            if reproduction.results(table, row)
        }
        time_rows(reproduction, table, done, progress.say)
    if busy:
        progress.say(f"{len(busy)} rows are trained elsewhere; call again when they are done")
    return _report(reproduction, table, output, progress)


def _report(
    reproduction: Reproduction, table: Table, output: str, progress: Progress, quiet: bool = False
) -> str:
    path = update_results(reproduction, table, output)
    if not quiet:
        progress.say(f"{path}, and .md and .html beside it")
    return path
