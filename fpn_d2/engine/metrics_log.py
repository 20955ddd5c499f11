"""What Detectron2's ``metrics.json`` says of a training: its steps, losses and seconds."""

import contextlib
import json
import os
from collections.abc import Sequence
from typing import Any

__all__ = ["keep_steps_before", "losses_of", "progress_of", "read_steps", "training_seconds"]


def read_steps(folder: str) -> list[dict[str, Any]]:
    """The lines of Detectron2's metrics.json that are of training steps, each iteration once."""
    steps = {}
    path = os.path.join(folder, "metrics.json")
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
        for line in file:
            # A kill may have left half a line; what follows a resume repeats iterations.
            with contextlib.suppress(ValueError):
                step = json.loads(line)
                if "total_loss" in step:
                    # a failed training repeats its last values, without their time
                    steps.setdefault(step["iteration"], {}).update(step)
    return [steps[iteration] for iteration in sorted(steps)]


def progress_of(folder: str, total: int) -> tuple[int, int, float | None]:
    """The iterations done and in all, and the seconds left, None while they are not known."""
    steps = read_steps(folder)
    if not steps:
        return 0, total, None
    return steps[-1]["iteration"] + 1, total, steps[-1].get("eta_seconds")


def training_seconds(steps: Sequence[dict[str, Any]]) -> float:
    """What the steps took, without evaluation, checkpoints and the time between two calls."""
    done, seconds = -1, 0.0
    for step in steps:
        seconds += step.get("time", 0.0) * (step["iteration"] - done)
        done = step["iteration"]
    return seconds


def losses_of(steps: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """The losses as lists beside their iterations."""
    names = [name for name in (steps[0] if steps else ()) if "loss" in name]
    losses = {name: [round(step.get(name, 0.0), 5) for step in steps] for name in names}
    return {"iteration": [step["iteration"] for step in steps], **losses}


def keep_steps_before(folder: str, iteration: int) -> None:
    """Cut off the end of metrics.json that a training is about to write again.

    What a kill left there belongs to iterations after the last checkpoint, or is half a line.

    Args:
        folder: the training's OUTPUT_DIR.
        iteration: the first one that is still to come.
    """
    path = os.path.join(folder, "metrics.json")
    with contextlib.suppress(FileNotFoundError), open(path, "rb+") as file:
        end = position = 0
        for line in file:
            position += len(line)
            with contextlib.suppress(ValueError, KeyError, TypeError):
                if line.endswith(b"\n") and json.loads(line)["iteration"] < iteration:
                    end = position
        # One call, in place: the writer of the lines to come may have the file open.
        file.truncate(end)
