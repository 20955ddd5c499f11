"""One training by train_net.py in its own folder; it can be interrupted anywhere and called again.

Besides what Detectron2 writes, a run's folder holds::

    settings.json    the merged config that the folder belongs to
    output.txt       everything that train_net.py has printed
    run.json         the run's result, written once training and evaluation are done
"""

import contextlib
import ctypes
import dataclasses
import errno
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import portalocker
from detectron2.config import CfgNode

from ..config import flat, load_config, with_new_names
from ..engine.launch import scale_schedule
from ..engine.output_dir import losses_of, progress_of, read_steps, training_seconds
from ..utils.errors import UserError
from ..utils.files import explain_disk_errors, is_local, read_json, write_json
from ..utils.provenance import code_hash, describe_machine, describe_versions, git_commit

# After a run is killed, its data loader's processes hold the lock until they next look for their
# parent, which they do every 5 s.
_LOCK_SECONDS = 15
_TICK_SECONDS = 2

# The keys under which a result says where its run was trained.
PROVENANCE = ("commit", "machine", "versions", "code")

# Two calls of one run may differ in these keys.
_FREE_KEYS = (
    "OUTPUT_DIR",
    "OVERWRITE_OUTPUT_DIR",
    "DATALOADER.NUM_WORKERS",
    "MODEL.DEVICE",
    "VIS_PERIOD",
    "VERSION",
)
_PROPOSAL_FILES = "DATASETS.PROPOSAL_FILES"
_BESIDE = " (from this folder)"
_UNUSED_CLASSES = "MODEL.ROI_BOX_HEAD.NUM_UNUSED_CLASSES"


class BusyError(UserError):
    """Another process is training this run."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A config, the values overridden in it, and the folder that its training writes into.

    Args:
        config: the config file.
        folder: the OUTPUT_DIR.
        opts: the overrides, ``("KEY", "value", ...)``.
    """

    config: str
    folder: str
    opts: tuple[str, ...] = ()

    def load_config(self) -> CfgNode:
        """Return the merged and checked config; see :func:`fpn_d2.load_config`."""
        return load_config(self.config, [*self.opts, "OUTPUT_DIR", self.folder])

    @property
    def weights(self) -> str:
        """The checkpoint that the finished training leaves."""
        return os.path.join(self.folder, "model_final.pth")

    def inference_folder(self, dataset: str) -> str:
        """Return the folder that the evaluation on a data set writes into."""
        return os.path.join(self.folder, "inference", dataset)

    def evaluation_file(self, dataset: str) -> str:
        """Return the file of that evaluation's results, which it writes last, after proposals."""
        return os.path.join(self.inference_folder(dataset), "results.json")

    def result(self) -> dict[str, Any] | None:
        """Return the run's result; see :func:`read_result`."""
        return read_result(self.folder)

    def command(self) -> str:
        """Return the command line that does the same training without this module."""
        return shlex.join(["python", "train_net.py", "--config-file", self.config, *self.opts])

    def steps(self) -> list["Run"]:
        """Return the runs that this one consists of, in order; none if it is a single training."""
        return []

    def networks(self) -> list["Run"]:
        """Return the runs whose networks, applied in order, make up the trained detector."""
        return [self]

    def train(self, runner: "Runner") -> dict[str, Any]:
        """Train and evaluate; see :meth:`Runner.train`."""
        return runner.train(self)


def provenance(folder: str | os.PathLike = Path(__file__).parents[2]) -> dict[str, Any]:
    """Return where a result comes from, under the keys of :data:`PROVENANCE`.

    Args:
        folder: the program's folder; see :func:`git_commit` and :func:`code_hash`.
    """
    values = git_commit(folder), describe_machine(), describe_versions(), code_hash(folder)
    return dict(zip(PROVENANCE, values, strict=True))


def read_result(folder: str) -> dict[str, Any] | None:
    """Return the content of a run's ``run.json``, or None if the run is not done."""
    path = os.path.join(folder, "run.json")
    return read_json(path) if os.path.isfile(path) else None


@dataclasses.dataclass(frozen=True)
class Runner:
    """Calls train_net.py for runs, one process after the other.

    Args:
        program: the path of train_net.py.
        num_gpus: the number of GPUs, passed on to it.
        on_progress: called every few seconds with the run, the iterations done, the iterations in
            all and the seconds left (None while unknown).
    """

    program: str
    num_gpus: int = 0
    on_progress: Callable[[Run, int, int, float | None], None] = lambda *_: None

    def __reduce__(self) -> tuple:
        """Leave ``on_progress`` out where a runner is sent to a job, which has no terminal."""
        return type(self), (self.program, self.num_gpus)

    def load_config(self, run: Run) -> CfgNode:
        """Return a run's config with its schedule scaled to ``num_gpus``.

        See :meth:`DefaultTrainer.auto_scale_workers`.
        """
        return scale_schedule(run.load_config(), max(1, self.num_gpus))

    def result(self, run: Run) -> dict[str, Any] | None:
        """Return a run's result, or None if the run is not done.

        Raises:
            UserError: if it, or one of its steps, was trained with other settings than it has now.
        """
        result = run.result()
        for part in (run, *run.steps()) if result is not None else ():
            if part.result() is not None:
                check_settings(part.folder, self.load_config(part))
        return result

    def train(self, run: Run) -> dict[str, Any]:
        """Do a single training and evaluate it, resuming from the last checkpoint; only read a
        finished run.

        Returns:
            ``{config, command, seconds, iterations, results, losses, commit, machine, versions,
            code}``: ``seconds`` counts the training steps alone, ``results`` has each data set's
            results as its evaluation writes them, ``losses`` has lists, one of them the iterations.

        Raises:
            BusyError: if another process is training this run.
            UserError: if the folder belongs to other settings, or the training fails.
        """
        cfg = self.load_config(run)
        with self.locked(run.folder) as lock:
            check_settings(run.folder, cfg)
            result = run.result()
            is_new = result is None
            if is_new:
                self.call(run, ["--resume"], [], lock)
                steps = read_steps(run.folder)
                result = {
                    "config": run.config,
                    "command": run.command(),
                    "seconds": round(training_seconds(steps), 1),
                    "iterations": len(steps) and steps[-1]["iteration"] + 1,
                    "results": read_evaluations(run, cfg),
                    "losses": losses_of(steps),
                    # The program's commit: this package may be imported from elsewhere.
                    **provenance(os.path.dirname(os.path.abspath(self.program))),
                }
            # Before run.json is written: nobody may ever call a finished run again.
            _remove_intermediate_checkpoints(run)
            if is_new:
                write_json(os.path.join(run.folder, "run.json"), result)
        return result

    def train_rpn(self, run: Run) -> dict[str, Any]:
        """Train an RPN, and write its proposals for the training data where they are missing.

        A Fast R-CNN reads these files; see :func:`proposal_opts`. The evaluation at the end of the
        training writes those for the test data.

        Returns:
            see :meth:`train`, also for the exceptions.
        """
        result = self.train(run)
        with self.locked(run.folder) as lock:
            for dataset in run.load_config().DATASETS.TRAIN:
                if not os.path.isfile(run.evaluation_file(dataset)):
                    opts = ["MODEL.WEIGHTS", run.weights, "DATASETS.TEST", f"('{dataset}',)"]
                    self.call(run, ["--eval-only"], opts, lock)
        return result

    def call(self, run: Run, flags: list[str], opts: list[str], lock: Any = None) -> None:
        """Call train_net.py once and append its output to ``output.txt``.

        Raises:
            UserError: with train_net.py's own error, or one that names the file that says more.
        """
        words = [sys.executable, self.program, "--config-file", run.config, *flags]
        words += ["--dist-url", "auto"] if self.num_gpus > 1 else []  # others may train here, too
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
                # The program holds the lock while it lives, and does not outlive this process.
                pass_fds=[lock.fileno()] if lock else [],
                preexec_fn=_end_with_parent,
            )
            try:
                while process.poll() is None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(timeout=_TICK_SECONDS)
                    self.on_progress(run, *progress_of(run.folder, total))
            finally:
                _end(process)
        if process.returncode:
            raise UserError(_failure(run, process.returncode, output, start))

    @contextlib.contextmanager
    def locked(self, folder: str) -> Iterator[Any]:
        """Lock a run's folder, making it if it is missing; yield the lock's file.

        Raises:
            BusyError: if another process holds it.
        """
        with explain_disk_errors(folder, "train into another folder"):
            os.makedirs(folder, exist_ok=True)
        sentence = f"{folder} is being trained by another process; wait until it is done"
        with hold(os.path.join(folder, ".lock"), _LOCK_SECONDS, sentence) as lock:
            yield lock


@contextlib.contextmanager
def hold(path: str, seconds: float, sentence: str) -> Iterator[Any]:
    """Hold a lock file, waiting up to ``seconds`` for it; yield the file.

    Raises:
        BusyError: with the sentence, if another process holds it for longer.
        UserError: if the file system has no locks.
    """
    try:
        with portalocker.Lock(path, timeout=seconds) as lock:
            yield lock
    except portalocker.LockException as error:
        fault = error.args[0]
        if isinstance(fault, OSError) and fault.errno not in (errno.EACCES, errno.EAGAIN):
            raise UserError(
                f"{path} cannot be locked ({fault.strerror}), and two processes could write the "
                "same files; name folders on a disk that has file locks"
            ) from error
        raise BusyError(sentence) from error


def read_evaluations(run: Run, cfg: CfgNode) -> dict[str, Any]:
    """Read the results of each test set; a missing file raises a UserError."""
    results = {}
    for dataset in cfg.DATASETS.TEST:
        path = run.evaluation_file(dataset)
        if not os.path.isfile(path):
            raise UserError(
                f"{run.folder} has no results of {dataset} after its training; see output.txt in it"
            )
        results[dataset] = read_json(path)
    return results


def check_settings(folder: str, cfg: CfgNode) -> None:
    """Check that a run's folder was begun with these settings; record them if it was not begun.

    Raises:
        UserError: if the run was begun with others.
    """
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "settings.json")
    values = {k: value for k, value in flat(cfg).items() if k not in _FREE_KEYS}
    settings = {k: _setting(k, value) for k, value in values.items()}
    # The same paths as seen from the run's folder, wherever the program was started.
    beside = {
        f"{k}{_BESIDE}": _setting(k, value, folder) for k, value in values.items() if _is_path(k)
    }
    begun = ("last_checkpoint", "run.json")
    if not any(os.path.isfile(os.path.join(folder, name)) for name in begun):
        # A run that was refused or cut at its start loses nothing.
        write_json(path, settings | beside)
    if not os.path.isfile(path):
        return  # The user's own training by train_net.py, which --resume takes as it is.
    # Configs may still use the old names of keys, so either side may.
    settings, found = (
        with_new_names(values, values.get(_UNUSED_CLASSES, "0") != "0")
        for values in (settings, read_json(path))
    )
    if os.path.isfile(os.path.join(folder, "run.json")):
        # The run is done, and the folders that it read from may have moved since.
        settings = {k: v for k, v in settings.items() if not k.startswith(_PROPOSAL_FILES)}
        for values in (settings, found):
            values["MODEL.WEIGHTS"] = os.path.basename(values.get("MODEL.WEIGHTS", ""))
    other = [
        key
        for key in settings
        if found.get(key, settings[key]) != settings[key]
        and (f"{key}{_BESIDE}", beside.get(f"{key}{_BESIDE}")) not in found.items()
    ]
    if other:
        raise UserError(
            f"{folder} was begun with other settings ({other[0]} {found[other[0]]} there, "
            f"{settings[other[0]]} now; {len(other)} in all): delete it, or train into another "
            "folder"
        )


def _is_path(key: str) -> bool:
    return key == "MODEL.WEIGHTS" or key.startswith(_PROPOSAL_FILES)


def _setting(key: str, value: Any, folder: str = "") -> str:
    """Return a value in a form for comparison, since a path can be written in several ways; with
    ``folder``, as seen from there."""
    if value == "" or not _is_path(key):
        return str(value)
    paths = [value] if isinstance(value, str) else value
    forms = [os.path.normpath(path) for path in paths]
    if folder:
        with contextlib.suppress(ValueError):  # Windows has no way from one drive to another
            forms = [
                os.path.relpath(f, folder) if is_local(p) else f
                for p, f in zip(paths, forms, strict=True)
            ]
    return forms[0] if isinstance(value, str) else str(forms)


def _remove_intermediate_checkpoints(run: Run) -> None:
    """Remove the checkpoints that only a resumed training needs, if the folder is this module's."""
    if not os.path.isfile(os.path.join(run.folder, "settings.json")):
        return
    for path in Path(run.folder).glob("model_[0-9]*.pth"):
        os.remove(path)


def _end(process: subprocess.Popen) -> None:
    """End a running process as Ctrl-C would, and give it time to write its checkpoint."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# Loaded here, since nothing may be loaded between fork and exec.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def _end_with_parent() -> None:
    """Have the kernel end this process with its parent (on Linux; elsewhere it runs on)."""
    # A shell starts background jobs with Ctrl-C ignored, and the training would inherit that.
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
