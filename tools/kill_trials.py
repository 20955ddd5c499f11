#!/usr/bin/env python
"""Kill trainings with ``kill -9`` at random moments, resume them, compare with one left alone.

python tools/kill_trials.py --trials 10
python tools/kill_trials.py --trials 5 --torchrun    # kills one of two processes under torchrun

Half of the kills wait for a file of OUTPUT_DIR to grow, as while a checkpoint is written. A trial
survives if its final weights are the other training's to the bit. Ends with 1 where one does not.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from fpn_d2.data import ShapesSpec, generate_shapes

ROOT = Path(__file__).resolve().parents[1]
ITERATIONS = 8
SETTINGS = {
    "DATASETS.TRAIN": "('tiny_train',)",
    "DATASETS.TEST": "('tiny_val',)",
    "INPUT.MIN_SIZE_TRAIN": "(48, 64)",
    "INPUT.MIN_SIZE_TEST": "64",
    "SOLVER.IMS_PER_BATCH": "2",
    "SOLVER.MAX_ITER": str(ITERATIONS),
    "SOLVER.STEPS": "(6,)",
    "SOLVER.CHECKPOINT_PERIOD": "2",
    "SOLVER.AMP.ENABLED": "False",
    "DATALOADER.NUM_WORKERS": "1",
    "MODEL.DEVICE": "cpu",
}


def main() -> None:
    """Train once in peace, then the trials; print how many survived."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--torchrun", action="store_true", help="kill workers under torchrun")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    moments = random.Random(args.seed)
    survived = 0
    with tempfile.TemporaryDirectory(prefix="kill_trials_") as folder:
        root = Path(folder)
        generate_shapes(folder, "tiny", ShapesSpec(train=8, val=2, size=64, max_objects=3))
        started = time.monotonic()
        finish(root, start(root, "whole", args.torchrun), "whole")
        seconds = time.monotonic() - started
        for trial in range(args.trials):
            name = f"trial_{trial}"
            kills = one_trial(root, name, seconds, trial % 2 == 1, args.torchrun, moments)
            same = same_weights(root / "whole", root / name)
            survived += same
            print(f"{name}: {kills} kills, weights {'same' if same else 'DIFFER'}", flush=True)
            shutil.rmtree(root / name)
    print(f"survived {survived} / tried {args.trials}")
    sys.exit(survived < args.trials)


def start(root: Path, name: str, torchrun: bool, resume: bool = False) -> subprocess.Popen:
    """Begin a training, or go on with it; its output goes beside its folder."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launcher += ["--max-restarts", "2"]
    program = [sys.executable, *(launcher if torchrun else []), str(ROOT / "train_net.py")]
    config = ROOT / "configs/quick/Faster-RCNN/faster_rcnn_R_18_FPN.yaml"
    words = [*program, "--config-file", str(config), *(["--resume"] if resume else [])]
    words += [word for pair in SETTINGS.items() for word in pair]
    words += ["OUTPUT_DIR", str(root / name)]
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"DETECTRON2_DATASETS": str(root), "PYTHONPATH": os.pathsep.join(path)}
    with open(root / f"{name}.txt", "a") as output:
        return subprocess.Popen(
            words,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            start_new_session=True,
        )


def one_trial(
    root: Path, name: str, seconds: float, writing: bool, torchrun: bool, moments: random.Random
) -> int:
    """Kill once or twice and let the training finish; returns how often it was killed."""
    kills, wanted, process = 0, moments.randint(1, 2), start(root, name, torchrun)
    while kills < wanted:
        # A training spends its first half on starting: the kills should meet its steps too.
        wait(process, seconds * moments.uniform(0.3, 0.95))
        if writing:
            wait_for_growth(root / name, process)
        kills += kill(process, torchrun, moments)
        if torchrun and process.poll() is None:
            continue  # torchrun starts its workers again
        process.wait()
        if kills == 0:  # done before the moment had come: no trial
            seconds *= 0.7
            shutil.rmtree(root / name)
            process = start(root, name, torchrun)
        elif process.returncode == 0:
            return kills
        else:
            process = start(root, name, torchrun, resume=True)
    finish(root, process, name)
    return kills


def wait(process: subprocess.Popen, seconds: float) -> None:
    """Sleep, but no longer than the process runs."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def wait_for_growth(folder: Path, process: subprocess.Popen) -> None:
    """Wait until a file of the folder is larger than a moment ago, or the process ends."""
    before = sizes(folder)
    while process.poll() is None:
        time.sleep(0.002)
        now = sizes(folder)
        if any(size > before.get(name, 0) for name, size in now.items()):
            return
        before = now


def sizes(folder: Path) -> dict[str, int]:
    """The sizes of a folder's files, of which any may vanish meanwhile."""
    found = {}
    for path in folder.glob("*"):
        try:
            found[path.name] = path.stat().st_size
        except FileNotFoundError:
            continue
    return found


def kill(process: subprocess.Popen, torchrun: bool, moments: random.Random) -> int:
    """``kill -9`` the training, or one of torchrun's workers; 1, or 0 where none is left."""
    if process.poll() is not None:
        return 0
    try:
        victim = moments.choice(children(process.pid) if torchrun else [process.pid])
        os.kill(victim, signal.SIGKILL)
    except (IndexError, OSError):
        return 0
    return 1


def children(pid: int) -> list[int]:
    """The processes that a process has started (Linux)."""
    words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(word) for word in words]


def finish(root: Path, process: subprocess.Popen, name: str) -> None:
    """Wait for a training that is not disturbed.

    Raises:
        RuntimeError: where it fails all the same, with the end of what it printed.
    """
    if process.wait() != 0:
        text = (root / f"{name}.txt").read_text(errors="replace")[-30000:]
        raise RuntimeError(f"{name} ended with exit code {process.returncode}:\n{text}")


def same_weights(one: Path, two: Path) -> bool:
    """Whether two trainings ended with the same bits."""
    if not (two / "model_final.pth").is_file():
        return False
    weights = [
        torch.load(folder / "model_final.pth", map_location="cpu", weights_only=True)["model"]
        for folder in (one, two)
    ]
    return weights[0].keys() == weights[1].keys() and all(
        torch.equal(value, weights[1][name]) for name, value in weights[0].items()
    )


if __name__ == "__main__":
    main()
