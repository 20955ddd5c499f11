"""A training's OUTPUT_DIR: one training per folder, and the contents of its ``metrics.json``."""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm

from ..checkpoint.resume_point import files_to_resume
from ..utils.errors import UserError
from ..utils.files import replace_file
from .launch import restart_count, starter

# This file is in the folder if a training started by torchrun was allowed to write there; it names
# the torchruns of the last start. Processes that torchrun restarts resume only if it is there, so
# never from checkpoints over which the training was refused.
_BEGUN = ".torchrun"
# Its name until the new training has deleted the checkpoints of an earlier one, which a restart
# before that must not resume.
_BEGINNING = ".torchrun.beginning"

# What an evaluation says about the weights. Proposals stay: the new training may read them.
_EVALUATED = (
    "results.json",
    "coco_instances_results.json",
    "lvis_instances_results.json",
    "instances_predictions.pth",
    "mask_proposals.json",
    "sem_seg_predictions.json",
    "sem_seg_evaluation.pth",
    "predictions.json",  # panoptic
)


def check_output_dir(cfg: CfgNode, resume: bool) -> bool:
    """Make sure that a training does not mix with an earlier one; all processes must call it.

    Returns:
        whether to resume: if ``resume`` is set, or if torchrun has restarted the processes.

    Raises:
        UserError: if ``OUTPUT_DIR`` holds checkpoints that are neither to be resumed nor to be
            deleted (``OVERWRITE_OUTPUT_DIR``).
    """
    sentence = None
    # Each torchrun counts its own restarts. One that was itself started again counts none, and may
    # run the first process; the others count none either if none of their processes failed before
    # they made room for it. But a torchrun serves one training only, so its name tells.
    restarted = any(comm.all_gather((restart_count() or 0) > 0))
    starters = set(comm.all_gather(starter()))
    if comm.is_main_process():
        begun = Path(cfg.OUTPUT_DIR, _BEGUN)
        if begun.is_file():
            before = begun.read_text(encoding="utf-8").splitlines()
            resume = resume or restarted or not starters.isdisjoint(before)
        sentence = None if resume else _fault(cfg)
        if restart_count() is not None:
            overwrites = not resume and files_to_resume(cfg.OUTPUT_DIR)
            if overwrites:
                begun.unlink(missing_ok=True)
            if sentence is None:
                begun.parent.mkdir(parents=True, exist_ok=True)
                begun.with_name(_BEGINNING).unlink(missing_ok=True)  # of a start that failed
                path = begun.with_name(_BEGINNING) if overwrites else begun
                with replace_file(path, "w", encoding="utf-8") as file:
                    file.write("".join(f"{name}\n" for name in sorted(starters)))
    # Perhaps only the first machine has the folder.
    resume, sentence = comm.all_gather((resume, sentence))[0]
    if sentence is not None:
        raise UserError(sentence)
    return resume


@contextlib.contextmanager
def restored_config(folder: str, evaluation: bool = False) -> Iterator[None]:
    """Restore a run's ``config.yaml`` if a start is refused, is interrupted or does not train.

    Detectron2 writes the file before it knows whether the config can work, and so overwrites the
    config of the training whose results are in the folder.

    Args:
        folder: an OUTPUT_DIR.
        evaluation: whether the run only evaluates; then a training's ``config.yaml`` is kept.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"OUTPUT_DIR {folder} cannot be made ({error.strerror}); set it to a folder that can "
            "be written"
        ) from error
    path = Path(folder, "config.yaml")
    before = path.read_bytes() if comm.is_main_process() and path.is_file() else None
    has_failed = True  # also by Ctrl-C while the model is built
    try:
        yield
        has_failed = False
    finally:
        if before is not None and (has_failed or (evaluation and files_to_resume(folder))):
            with replace_file(path, "wb") as file:
                file.write(before)


def rewrite_config(cfg: CfgNode) -> None:
    """Rewrite ``config.yaml``, where Detectron2 has written it, to say what is trained.

    Detectron2 wrote it before the seed was drawn and before ``SOLVER.REFERENCE_WORLD_SIZE`` adapted
    batch and schedule to the number of processes.
    """
    path = os.path.join(cfg.OUTPUT_DIR, "config.yaml")
    if os.path.isfile(path):
        with replace_file(path, "w") as file:
            file.write(cfg.dump())


def clear_output_dir(folder: str) -> None:
    """Delete an earlier training's checkpoints and TensorBoard files, and the results of its
    evaluations and their analysis, which would pass for those of the new training."""
    checkpoints, patterns = files_to_resume(folder), ["events.out.tfevents.*"]
    if os.path.isfile(os.path.join(folder, "analysis.json")):  # which tells whose page it is
        patterns += ["analysis.html", "analysis.json"]
    if checkpoints:  # else the results may be of weights from elsewhere
        places = ("inference", "inference_TTA")
        patterns += [f"{place}/*/{name}" for place in places for name in _EVALUATED]
    written = [path for pattern in patterns for path in Path(folder).glob(pattern)]
    # last_checkpoint first: it must not name what is gone
    for path in (*checkpoints, *written):
        os.remove(path)
    with contextlib.suppress(FileNotFoundError):
        os.replace(os.path.join(folder, _BEGINNING), os.path.join(folder, _BEGUN))


def _fault(cfg: CfgNode) -> str | None:
    if os.path.lexists(cfg.OUTPUT_DIR) and not os.path.isdir(cfg.OUTPUT_DIR):
        return f"OUTPUT_DIR {cfg.OUTPUT_DIR} is no folder; set OUTPUT_DIR to one"
    found = files_to_resume(cfg.OUTPUT_DIR)
    if not found:
        return None
    if not cfg.OVERWRITE_OUTPUT_DIR:
        return (
            f"OUTPUT_DIR {cfg.OUTPUT_DIR} holds the checkpoints of an earlier training "
            f"({os.path.basename(found[-1])}): go on with it by --resume, set another OUTPUT_DIR, "
            "or set OVERWRITE_OUTPUT_DIR True to delete them and start again"
        )
    if os.path.realpath(cfg.MODEL.WEIGHTS) in map(os.path.realpath, found):
        return (
            f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS} is one of the checkpoints that "
            "OVERWRITE_OUTPUT_DIR True is to delete; set another OUTPUT_DIR"
        )
    return None


# --- metrics.json


def read_steps(folder: str) -> list[dict[str, Any]]:
    """Read the training steps from Detectron2's metrics.json, each iteration once."""
    steps = {}
    path = os.path.join(folder, "metrics.json")
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
        for line in file:
            # A kill may have left half a line, and a resumed training repeats iterations.
            with contextlib.suppress(ValueError):
                step = json.loads(line)
                if "total_loss" in step:
                    # a failed training writes its last values again, without their time
                    steps.setdefault(step["iteration"], {}).update(step)
    return [steps[iteration] for iteration in sorted(steps)]


def progress_of(folder: str, total: int) -> tuple[int, int, float | None]:
    """Return the iterations done, their total, and the seconds left (None while unknown)."""
    steps = read_steps(folder)
    if not steps:
        return 0, total, None
    return steps[-1]["iteration"] + 1, total, steps[-1].get("eta_seconds")


def training_seconds(steps: Sequence[dict[str, Any]]) -> float:
    """Sum the seconds of the steps, without evaluation, checkpoints and pauses between calls."""
    done, seconds = -1, 0.0
    for step in steps:
        seconds += step.get("time", 0.0) * (step["iteration"] - done)
        done = step["iteration"]
    return seconds


def losses_of(steps: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Return the training losses by name, as lists parallel to the one under ``iteration``."""
    first = steps[0] if steps else ()
    names = [name for name in first if "loss" in name and not name.startswith("validation_")]
    losses = {name: [round(step.get(name, 0.0), 5) for step in steps] for name in names}
    return {"iteration": [step["iteration"] for step in steps], **losses}


def keep_steps_before(folder: str, iteration: int) -> None:
    """Cut out of metrics.json what a training is about to write again.

    A kill leaves lines of iterations after the last checkpoint, or half a line. Detectron2 writes
    the line of an evaluation behind that of a later step. ``iteration`` is the next one to train.
    """
    path = os.path.join(folder, "metrics.json")
    with contextlib.suppress(FileNotFoundError), open(path, "rb+") as file:
        lines, kept = file.readlines(), []
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                if line.endswith(b"\n") and json.loads(line)["iteration"] < iteration:
                    kept.append(line)
        if kept != lines[: len(kept)]:
            file.seek(0)
            file.write(b"".join(kept))
        # In place: the writer of the lines to come may have the file open.
        file.truncate(sum(map(len, kept)))
