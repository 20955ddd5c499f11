"""Work as jobs of a Slurm cluster, sent by submitit, which another call finds again.

Which job does a piece of work is kept in the folder that it writes into (``job.json``). What the
jobs print lies in ``<folder of all runs>/jobs/<number of the job>/``.
"""

import dataclasses
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..utils.errors import UserError
from ..utils.files import read_json, write_json

if TYPE_CHECKING:
    import submitit

_POLL_SECONDS = 2
_DAY = 24 * 60  # submitit's own limit is 5 minutes
# What submitit's executors have in common; all else is Slurm's.
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
        function: does it; submitit sends it to another machine, so it can be pickled.
        files: the files that it makes, unless they are there. No two jobs that make one file run at
            once, since the second could only wait for the first.
    """

    title: str
    folder: str
    function: Callable[[], Any]
    files: tuple[str, ...] = ()

    def unmade(self) -> set[str]:
        """The files that are not there yet."""
        return {path for path in self.files if not os.path.isfile(path)}


class Cluster:
    """Sends work to a cluster and waits for it.

    Args:
        options: what submitit's ``AutoExecutor`` takes, as ``KEY=VALUE``: ``partition=gpu``,
            ``timeout_min=600``. ``cluster=local`` runs jobs on this machine.
        folder: the folder of all runs, which every machine of the cluster sees.
        num_gpus: those of one job.
        say: prints a line.

    Raises:
        UserError: if submitit is missing, there is no Slurm, or an option cannot be.
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
            problem = " ".join(str(error).split())
            raise UserError(f"--slurm {' '.join(options)} cannot work: {problem}") from error
        self._say = say

    def run(
        self, works: Sequence[Work], on_end: Callable[[Work, UserError | None], None]
    ) -> list[UserError]:
        """Do all work, each in a job, and wait for the jobs.

        A job of an earlier call that has not ended is waited for instead.

        Args:
            works: the work, in the order in which it is sent.
            on_end: called after each job, with the error that it ended with.

        Returns:
            the errors of those that failed. One that its job has raised is as it was raised.
        """
        waiting, errors = list(works), []
        under_way: list[tuple[Work, submitit.Job]] = []
        try:
            while waiting or under_way:
                for work in tuple(waiting):
                    unmade = work.unmade()
                    if not any(unmade & other.unmade() for other, _ in under_way):
                        waiting.remove(work)
                        under_way.append((work, self._earlier_job(work) or self._send(work)))
                for work, job in tuple(under_way):
                    if job.done():
                        under_way.remove((work, job))
                        error = _error_of(job)
                        on_end(work, error)
                        errors += [error] if error is not None else []
                time.sleep(_POLL_SECONDS if under_way else 0)
        finally:
            if under_way:
                self._say(f"jobs that go on: {len(under_way)}; the same command waits for them")
        return errors

    def _send(self, work: Work) -> "submitit.Job":
        self._executor.update_parameters(name=work.title)
        try:
            job = self._executor.submit(Job(work.function))
        except RuntimeError as error:  # submitit's, with the words of sbatch
            problem = " ".join(str(error).split())
            raise UserError(f"{work.title} could not be sent as a job: {problem}") from error
        os.makedirs(work.folder, exist_ok=True)
        write_json(_job_file(work), {"cluster": self.kind, "job": job.job_id})
        self._say(f"{work.title}: job {job.job_id}, which prints to {job.paths.folder}")
        return job

    def _earlier_job(self, work: Work) -> "submitit.Job | None":
        """The job that an earlier call has sent, if the cluster knows it and it has not ended."""
        import submitit

        path = _job_file(work)
        sent = read_json(path) if os.path.isfile(path) else {}
        # Of jobs on a machine submitit knows those of its own process alone.
        if sent.get("cluster") != "slurm" or self.kind != "slurm":
            return None
        job = submitit.SlurmJob(self._executor.folder, sent["job"])
        if job.state == "UNKNOWN" or job.done():
            return None
        self._say(f"{work.title}: job {job.job_id} of an earlier call, {job.state.lower()}")
        return job


@dataclasses.dataclass(frozen=True)
class Job:
    """What runs on the other machine.

    Args:
        function: the work.
    """

    function: Callable[[], Any]

    def __call__(self) -> UserError | None:
        """Do the work; returns the user's error that it ended with."""
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        try:
            self.function()
        except UserError as error:
            return error
        return None

    def checkpoint(self) -> "submitit.helpers.DelayedSubmission":
        """What Slurm does next when the job's time is up or another job takes its place: the same,
        which goes on from the last checkpoint."""
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


def _job_file(work: Work) -> str:
    return os.path.join(work.folder, "job.json")


def _error_of(job: "submitit.Job") -> UserError | None:
    """What a job that has ended says went wrong."""
    import submitit

    try:
        return job.result()
    except submitit.core.utils.UncompletedJobError:  # FailedJobError among them
        return UserError(
            f"job {job.job_id} has ended without a result ({job.state.lower()}); "
            f"{job.paths.stderr} says more, and the same command sends it again"
        )
