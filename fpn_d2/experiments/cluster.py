"""Work as jobs of a Slurm cluster, sent by submitit; a later call finds them again.

The folder that a job writes into keeps its number and work (``job.json``). What the jobs print is
in ``<folder of all runs>/jobs/<number of the job>/``.
"""

import contextlib
import dataclasses
import json
import logging
import math
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..utils.errors import UserError, reason_of
from ..utils.files import read_json, write_json

if TYPE_CHECKING:
    import submitit

_POLL_SECONDS = 2
_SQUEUE_SECONDS = 60  # submitit asks sacct about as often
_YOUNG_SECONDS = 5 * 60  # for so long Slurm may not know that a job was sent or has ended
_AGAIN_SECONDS = 10
_FILE_SECONDS = 60  # for so long NFS may hide a new file
_DAY = 24 * 60  # submitit's own limit is 5 minutes
# The options that all of submitit's executors have; the others are Slurm's.
_SHARED = (
    "name",
    "timeout_min",
    "mem_gb",
    "nodes",
    "cpus_per_task",
    "gpus_per_node",
    "tasks_per_node",
    "stderr_to_stdout",
)


@dataclasses.dataclass(frozen=True)
class Work:
    """What one job does.

    Args:
        title: its name, for the user.
        folder: the folder that it writes into.
        key: what it does in this folder. An earlier call's job with the same key does this work.
        function: does it; picklable, since submitit sends it to another machine.
        files: the files that it makes if they are missing. Two jobs that make the same file do not
            run at once, since the second could only wait for the first.
    """

    title: str
    folder: str
    key: str
    function: Callable[[], Any]
    files: tuple[str, ...] = ()

    @property
    def job_file(self) -> str:
        """The file that names the last job sent for this folder, and its key."""
        return os.path.join(self.folder, "job.json")

    def excludes(self, other: "Work") -> bool:
        """Whether the two cannot be done at once."""
        return self.folder == other.folder or bool(self.unmade() & other.unmade())

    def unmade(self) -> set[str]:
        """The files that are not there yet."""
        return {path for path in self.files if not os.path.isfile(path)}


@dataclasses.dataclass(frozen=True)
class _UnderWay:
    """A job and the work that it does or, if not ``is_own``, the work that waits for it."""

    work: Work
    job: "submitit.Job"
    is_own: bool = True


class Cluster:
    """Sends work to a cluster and waits for it.

    Args:
        options: what submitit's ``AutoExecutor`` takes, as ``KEY=VALUE``: ``partition=gpu``,
            ``timeout_min=600``. ``cluster=local`` runs jobs on this machine.
        folder: the folder of all runs, which every machine of the cluster sees.
        num_gpus: the number of GPUs of one job.
        say: prints a line.

    Raises:
        UserError: if submitit or Slurm is missing, or an option is invalid.
    """

    def __init__(
        self, options: Sequence[str], folder: str, num_gpus: int, say: Callable[[str], None]
    ):
        values = {"timeout_min": _DAY, "gpus_per_node": num_gpus or None, **_values(options)}
        for key, least in (("nodes", 1), ("tasks_per_node", 1), ("gpus_per_node", num_gpus)):
            if values.get(key) not in (None, least):
                remedy = "give --num-gpus as many" if key == "gpus_per_node" else "leave it out"
                raise UserError(
                    f"--slurm {key}={values[key]}: a job trains one run on one machine, on the "
                    f"GPUs of --num-gpus ({num_gpus}); {remedy}"
                )
        try:
            import submitit
        except ImportError as error:
            raise UserError(
                f"--slurm sends jobs by submitit, which is not installed ({error}); run "
                'python -m pip install "fpn_d2[slurm]", or submitit alone'
            ) from error
        self.kind = values.pop("cluster", "slurm")
        jobs = os.path.join(folder, "jobs", "%j")
        try:
            self._executor = submitit.AutoExecutor(jobs, cluster=self.kind)
            self._executor.update_parameters(
                **{k if k in _SHARED else f"slurm_{k}": v for k, v in values.items()}
            )
        except (AssertionError, NameError, RuntimeError, TypeError, ValueError) as error:
            problem = reason_of(error)
            raise UserError(f"--slurm {' '.join(options)} cannot work: {problem}") from error
        self._say = say
        # By the number of a job: when squeue was last asked for it, and whether it listed it.
        self._in_queue: dict[str, tuple[float, bool]] = {}

    def run(self, works: Sequence[Work], on_end: Callable[[Work, Any], None]) -> None:
        """Do each piece of work in a job, and wait for the jobs.

        If a job of an earlier call does the same and has not ended, wait for it instead. Where the
        cluster takes no more jobs, the other work waits until one has ended.

        Args:
            works: the work, in the order in which it is sent.
            on_end: called after each job, with its work and with what the function returned, or the
                error that it ended with; a UserError raised in a job is passed on as it is.

        Raises:
            UserError: if the cluster takes no job although none is under way.
        """
        waiting = list(works)
        under_way: list[_UnderWay] = []
        refused: set[Work] = set()
        send_from = last_end = -math.inf  # in seconds
        try:
            while waiting or under_way:
                for work in tuple(waiting):
                    if time.monotonic() < send_from:
                        break
                    if any(work.excludes(other.work) for other in under_way):
                        continue
                    entry = self._earlier_job(work)
                    try:
                        entry = entry or self._send(work)
                    except UserError as error:
                        # Slurm still counts a job for a while after its result is there.
                        now = time.monotonic()
                        if not under_way and now - last_end > _YOUNG_SECONDS:
                            raise
                        send_from = math.inf if under_way else now + _AGAIN_SECONDS
                        if work not in refused:
                            self._say(f"{error}; it waits until a job has ended")
                        refused.add(work)
                        break
                    under_way.append(entry)
                    if entry.is_own:
                        waiting.remove(work)
                for entry in tuple(under_way):
                    if not self._has_ended(entry):
                        continue
                    under_way.remove(entry)
                    send_from = last_end = time.monotonic()
                    if entry.is_own:
                        on_end(entry.work, _outcome(entry))
                time.sleep(_POLL_SECONDS if under_way or waiting else 0)
        finally:
            if under_way and self.kind == "slurm":
                self._say(f"jobs that go on: {len(under_way)}; the same command waits for them")
            elif under_way:
                self._say(
                    f"jobs on this machine, which Ctrl-C ends as well: {len(under_way)}; the same "
                    "command starts them again"
                )

    def _send(self, work: Work) -> _UnderWay:
        self._executor.update_parameters(name=work.title)
        try:
            job = self._executor.submit(Job(work.function))
        except RuntimeError as error:  # submitit's, with the words of sbatch
            problem = reason_of(error)
            raise UserError(f"{work.title} could not be sent as a job: {problem}") from error
        os.makedirs(work.folder, exist_ok=True)
        write_json(work.job_file, {"cluster": self.kind, "job": job.job_id, "work": work.key})
        self._say(f"{work.title}: job {job.job_id}, which prints to {job.paths.folder}")
        return _UnderWay(work, job)

    def _earlier_job(self, work: Work) -> _UnderWay | None:
        """Return the job that an earlier call sent for this folder, if it has not ended."""
        import submitit

        sent = read_json(work.job_file) if os.path.isfile(work.job_file) else {}
        # Of jobs on this machine, submitit knows only those of its own process.
        if sent.get("cluster") != "slurm" or self.kind != "slurm":
            return None
        job = submitit.SlurmJob(self._executor.folder, sent["job"])
        entry = _UnderWay(work, job, is_own=sent.get("work") == work.key)
        if self._has_ended(entry):
            return None
        does = "" if entry.is_own else f", does {sent.get('work', 'other work')}; this waits for it"
        self._say(f"{work.title}: job {job.job_id} of an earlier call, {job.state.lower()}{does}")
        return entry

    def _has_ended(self, entry: _UnderWay) -> bool:
        """Whether a job has ended, or Slurm no longer knows it."""
        if entry.job.done():
            return True
        if self.kind != "slurm" or entry.job.state != "UNKNOWN":
            return False
        # sacct may not know it yet, or Slurm may keep no accounts.
        with contextlib.suppress(FileNotFoundError):
            if time.time() - os.path.getmtime(entry.work.job_file) < _YOUNG_SECONDS:
                return False
        number, now = entry.job.job_id, time.monotonic()
        if number not in self._in_queue or now - self._in_queue[number][0] >= _SQUEUE_SECONDS:
            self._in_queue[number] = (now, _is_in_queue(number))
        return not self._in_queue[number][1]


@dataclasses.dataclass(frozen=True)
class Job:
    """What runs on the other machine: the function of the work."""

    function: Callable[[], Any]

    def __call__(self) -> Any:
        """Do the work; return what the function returns, or the UserError that it raises."""
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        try:
            return self.function()
        except UserError as error:
            return error

    def checkpoint(self) -> "submitit.helpers.DelayedSubmission":
        """Have Slurm run the same again when the job's time is up or another job takes its place;
        it goes on from the last checkpoint."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def _values(options: Sequence[str]) -> dict[str, Any]:
    """Read ``KEY=VALUE``; a value is JSON, or else a word."""
    values = {}
    for option in options:
        key, sign, value = option.partition("=")
        if not (key.isidentifier() and sign):
            raise UserError(f"--slurm {option} is not of the form KEY=VALUE, such as partition=gpu")
        try:
            values[key] = json.loads(value)
        except ValueError:
            values[key] = value
    return values


def _is_in_queue(number: str) -> bool:
    """Whether a job waits or runs; True while Slurm cannot be asked, since it may."""
    command = ["squeue", "--noheader", "--format=%T", "--jobs", number]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # no such program
        return False
    if asked.returncode == 0:
        return bool(asked.stdout.strip())
    return "Invalid job id" not in asked.stderr


def _outcome(entry: _UnderWay) -> Any:
    """Return what an ended job's function returned, or an error that says what went wrong."""
    import submitit

    job = entry.job
    error = UserError(
        f"job {job.job_id} has ended without a result ({job.state.lower()}); "
        f"{job.paths.stderr} says more, and the same command sends it again"
    )
    if not _comes_true(job.done):  # Slurm does not know it, and submitit would wait for ever
        return error
    try:
        outcome = job.result()
    except submitit.core.utils.UncompletedJobError:  # FailedJobError among them
        return error
    if not isinstance(outcome, UserError) and not _comes_true(lambda: not entry.work.unmade()):
        return UserError(
            f"job {job.job_id} is done, but this machine does not see {min(entry.work.unmade())}; "
            "let all machines share that folder, and run the same command again"
        )
    return outcome


def _comes_true(condition: Callable[[], bool]) -> bool:
    """Wait a while for this machine to see what another one wrote; return whether it does."""
    end = time.monotonic() + _FILE_SECONDS
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)
    return found
