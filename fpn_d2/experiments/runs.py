"""One training by train_net.py in a folder of its own, that can be cut anywhere and called again.

A run's folder holds what Detectron2 writes and, besides::

    settings.json    the merged config that the folder belongs to
    output.txt       all that train_net.py printed
    run.json         what the run has come to; there once training and evaluation are done
"""

import contextlib
import ctypes
import dataclasses
import glob
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import portalocker
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer

from ..config import load_config
from ..engine.output_dir import losses_of, progress_of, read_steps, training_seconds
from ..utils.errors import UserError
from ..utils.files import read_json, write_json
from .provenance import describe_machine, describe_versions, git_commit
from .settings import check_settings_file

__all__ = ["BusyError", "Run", "Runner"]

# The loader's processes of a killed run hold the lock until they look for their parent, every 5 s.
_LOCK_SECONDS = 15
_TICK_SECONDS = 2


class BusyError(UserError):
    """Another process is training this run."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A config, what is overridden in it, and the folder that its training writes into.

    Args:
        config: the config file.
        folder: the OUTPUT_DIR.
        opts: ``("KEY", "value", ...)``.
    """

    config: str
    folder: str
    opts: tuple[str, ...] = ()

    def load_config(self) -> CfgNode:
        """The merged config, checked; see :func:`fpn_d2.load_config`."""
        return load_config(self.config, [*self.opts, "OUTPUT_DIR", self.folder])

    @property
    def weights(self) -> str:
        """The checkpoint that the finished training has left."""
        return os.path.join(self.folder, "model_final.pth")

    def inference_folder(self, dataset: str) -> str:
        """Where the evaluation on a data set writes."""
        return os.path.join(self.folder, "inference", dataset)

    def result(self) -> dict[str, Any] | None:
        """What the run has come to (``run.json``), or None where it is not done."""
        path = os.path.join(self.folder, "run.json")
        return read_json(path) if os.path.isfile(path) else None

    def command(self) -> str:
        """The line that trains the same without this module."""
        return shlex.join(["python", "train_net.py", "--config-file", self.config, *self.opts])


@dataclasses.dataclass(frozen=True)
class Runner:
    """Calls train_net.py for runs, one process after the other.

    Args:
        program: the path of train_net.py.
        num_gpus: passed on to it.
        on_progress: is called every few seconds with the run, the iterations done and in all, and
            the seconds left, None while they are not known.
    """

    program: str
    num_gpus: int = 0
    on_progress: Callable[[Run, int, int, float | None], None] = lambda *_: None

    def load_config(self, run: Run) -> CfgNode:
        """A run's config with the schedule that this many GPUs will train.

        See :meth:`DefaultTrainer.auto_scale_workers`.
        """
        return DefaultTrainer.auto_scale_workers(run.load_config(), max(1, self.num_gpus))

    def train(self, run: Run) -> dict[str, Any]:
        """Train and evaluate, from the last checkpoint on; a finished run is only read.

        Args:
            run: the run.

        Returns:
            ``{config, command, seconds, iterations, results, losses, commit, machine, versions}``:
            seconds of the training steps alone, ``results`` by data set as an evaluation writes
            them, ``losses`` as lists beside their iterations.

        Raises:
            BusyError: where another process trains this run.
            UserError: where the folder belongs to other settings, or the training failed.
        """
        cfg = self.load_config(run)
        with self.locked(run.folder) as lock:
            check_settings_file(run.folder, cfg)
            result = run.result()
            if result is None:
                self.call(run, ["--resume"], [], lock)
                result = self._collect(run, cfg)
                _remove_checkpoints_between(run)
                write_json(os.path.join(run.folder, "run.json"), result)
            _remove_checkpoints_between(run)
        return result

    def write_proposals(self, run: Run, dataset: str) -> str:
        """Write a trained RPN's proposals for a data set, where they are not there yet.

        Args:
            run: a finished run of an RPN.
            dataset: the data set's name.

        Returns:
            the file, in the form that Detectron2 reads.

        Raises:
            BusyError: where another process works in the run's folder.
            UserError: where the evaluation failed.
        """
        folder = run.inference_folder(dataset)
        with self.locked(run.folder) as lock:
            # An evaluation writes its results after the proposals.
            if not os.path.isfile(os.path.join(folder, "results.json")):
                opts = ["MODEL.WEIGHTS", run.weights, "DATASETS.TEST", f"('{dataset}',)"]
                self.call(run, ["--eval-only"], opts, lock)
        return os.path.join(folder, "box_proposals.pkl")

    def call(self, run: Run, flags: list[str], opts: list[str], lock: Any = None) -> None:
        """One call of train_net.py, whose output goes to ``output.txt``.

        Raises:
            UserError: with train_net.py's own sentence, or with the file that says more.
        """
        words = [sys.executable, self.program, "--config-file", run.config, *flags]
        words += ["--num-gpus", str(self.num_gpus), *run.opts, *opts, "OUTPUT_DIR", run.folder]
        output = os.path.join(run.folder, "output.txt")
        total = self.load_config(run).SOLVER.MAX_ITER
        with open(output, "a", encoding="utf-8") as file:
            start = file.tell()
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                # It keeps the lock while it lives, and it does not outlive this process.
                pass_fds=[lock.fileno()] if lock else [],
                preexec_fn=_end_with_parent,
            )
            try:
                while _still_runs(process):
                    self.on_progress(run, *progress_of(run.folder, total))
            finally:
                _end(process)
        if process.returncode:
            raise UserError(_failure(run, process.returncode, output, start))

    @contextlib.contextmanager
    def locked(self, folder: str) -> Iterator[Any]:
        """Hold a run's folder, which is made where it is missing; yields the lock's file.

        Raises:
            BusyError: where another process holds it.
        """
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, ".lock")
        try:
            with portalocker.Lock(path, timeout=_LOCK_SECONDS) as lock:
                yield lock
        except portalocker.LockException as error:
            raise BusyError(
                f"{folder} is being trained by another process; wait until it is done"
            ) from error

    def _collect(self, run: Run, cfg: CfgNode) -> dict[str, Any]:
        results = {}
        for dataset in cfg.DATASETS.TEST:
            path = os.path.join(run.inference_folder(dataset), "results.json")
            if not os.path.isfile(path):
                raise UserError(
                    f"{run.folder} has no results of {dataset} after its training; see output.txt "
                    "in it"
                )
            results[dataset] = read_json(path)
        steps = read_steps(run.folder)
        return {
            "config": run.config,
            "command": run.command(),
            "seconds": round(training_seconds(steps), 1),
            "iterations": cfg.SOLVER.MAX_ITER,
            "results": results,
            "losses": losses_of(steps),
            # the program's, which need not be where this package is imported from
            "commit": git_commit(os.path.dirname(os.path.abspath(self.program))),
            "machine": describe_machine(),
            "versions": describe_versions(),
        }


def _remove_checkpoints_between(run: Run) -> None:
    """Remove what only a resumption needed, 100 MB each, where the folder is this module's."""
    if not os.path.isfile(os.path.join(run.folder, "settings.json")):
        return
    for path in glob.glob(os.path.join(glob.escape(run.folder), "model_[0-9]*.pth")):
        os.remove(path)


def _still_runs(process: subprocess.Popen) -> bool:
    try:
        process.wait(timeout=_TICK_SECONDS)
    except subprocess.TimeoutExpired:
        return True
    return False


def _end(process: subprocess.Popen) -> None:
    """End a process that still runs, as after Ctrl-C, with time to write its checkpoint."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# Loaded here: between fork and exec nothing may be.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def _end_with_parent() -> None:
    """Have the kernel end this process when its parent ends (Linux; elsewhere it runs on)."""
    # A shell starts background jobs with Ctrl-C ignored, which would reach the training too.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if _LIBC is not None:
        _LIBC.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _failure(run: Run, code: int, output: str, start: int) -> str:
    with open(output, encoding="utf-8", errors="replace") as file:
        file.seek(start)
        lines = file.read().strip().splitlines()
    sentences = [line for line in lines if line.startswith("error: ")]
    if code == 2 and sentences:
        return sentences[-1].removeprefix("error: ")
    return (
        f"{run.config} ended with exit code {code} in {run.folder}; {output} says why, and the "
        "same command goes on from the last checkpoint"
    )
