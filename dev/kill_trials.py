#!/usr/bin/env python
"""Kill trainings with ``kill -9`` at random moments, resume them and compare the outcome.

python dev/kill_trials.py --trials 10
python dev/kill_trials.py --trials 5 --torchrun    # kills one of two processes under torchrun

Each moment is drawn from the whole life of a process. In every second trial the kill then waits
until a file in OUTPUT_DIR grows, as it does while a checkpoint is written. A trial survives if its
final weights equal, bit for bit, those of a training that was left alone, and its last evaluation
is there. If one does not survive, its folder is kept and the exit code is 1.
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
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
# In every second trial the kill waits until a file grows, in every fourth for one written aside.
GROWING = ("", "*", "", "*.partial")
KINDS = {".partial": "a file written aside", ".txt": "the log", ".json": "the metrics"}
TORCHRUN = "-m torch.distributed.run --standalone --nproc-per-node=2 --max-restarts=2"
RESULTS = "inference/tiny_val/results.json"
SETTINGS = {
    "DATASETS.TRAIN": "('tiny_train',)",
    "DATASETS.TEST": "('tiny_val',)",
    "INPUT.MIN_SIZE_TRAIN": "(48, 64)",
    "INPUT.MIN_SIZE_TEST": "64",
    "SOLVER.IMS_PER_BATCH": "2",
    "SOLVER.MAX_ITER": "8",
    "SOLVER.STEPS": "(6,)",
    "SOLVER.CHECKPOINT_PERIOD": "2",
    "SOLVER.AMP.ENABLED": "False",
    "DATALOADER.NUM_WORKERS": "1",
    "MODEL.DEVICE": "cpu",
    # A narrow ResNet-50: with ResNet-18's 98 MB most of a trial would be spent on writing.
    "MODEL.RESNETS.DEPTH": "50",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": "32",
    "MODEL.RESNETS.RES2_OUT_CHANNELS": "64",
    "MODEL.RESNETS.WIDTH_PER_GROUP": "16",
}


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--torchrun", action="store_true", help="kill workers under torchrun")
    parser.add_argument("--seed", type=int, default=0, help="decides the moments")
    parser.add_argument("--json", metavar="FILE", help="add the figures to this file")
    return parser


def main() -> None:
    """Train once undisturbed, run the trials, and print how many survived."""
    args = build_parser().parse_args()
    from fpn_d2.data.datasets import ShapesSpec, generate_shapes

    moments = random.Random(args.seed)
    survived, kills = 0, []
    with tempfile.TemporaryDirectory(prefix="kill_trials_") as folder:
        root = Path(folder)
        generate_shapes(folder, "tiny", ShapesSpec(train=8, val=2, size=64, max_objects=3))
        started = time.monotonic()
        finish(root, start(root, "whole", args.torchrun), "whole")
        life = time.monotonic() - started
        for trial in range(args.trials):
            name = f"trial_{trial}"
            growing = GROWING[trial % len(GROWING)]
            met, life = one_trial(root, name, args.torchrun, moments, growing, life)
            same = same_outcome(root / "whole", root / name)
            survived += same
            kills += met
            outcome = "same" if same else "DIFFERS"
            print(f"{name}: killed in {', '.join(map(str, met))}; outcome {outcome}", flush=True)
            if same:
                shutil.rmtree(root / name)
            else:
                shutil.move(root / name, tempfile.mkdtemp(prefix="failed_kill_trial_"))
    print(f"survived {survived} / tried {args.trials}")
    if args.json:
        kind = "one of two processes under torchrun" if args.torchrun else "one process"
        add_figures(Path(args.json), kind, args.trials, survived, kills)
    sys.exit(survived < args.trials)


class Kill(NamedTuple):
    """When a kill came: in which part of the training, and while which kind of file grew, or ""."""

    part: str
    growing: str

    def __str__(self) -> str:
        return self.part + (f" while {self.growing} grew" if self.growing else "")


def start(root: Path, name: str, torchrun: bool, resume: bool = False) -> subprocess.Popen:
    """Start or resume a training; what it prints goes to a file beside its folder."""
    program = [sys.executable, *(TORCHRUN.split() if torchrun else []), ROOT / "train_net.py"]
    config = ROOT / "configs/quick/Faster-RCNN/faster_rcnn_R_18_FPN.yaml"
    words = ["--config-file", config, *(["--resume"] if resume else [])]
    words += [word for pair in SETTINGS.items() for word in pair]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    added = {"DETECTRON2_DATASETS": str(root), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    with open(root / f"{name}.txt", "a") as output:
        options = {"stdout": output, "stderr": subprocess.STDOUT, "start_new_session": True}
        command = [*program, *words, "OUTPUT_DIR", root / name]
        return subprocess.Popen(command, env={**os.environ, **added}, **options)


def one_trial(
    root: Path, name: str, torchrun: bool, moments: random.Random, growing: str, life: float
) -> tuple[list[Kill], float]:
    """Kill a training once, or twice in one trial of four, and let it finish.

    The moments cover the whole life of a process, including its imports and its last evaluation.

    Args:
        root, name: the trial's folder is ``root / name``.
        torchrun: whether the training has two processes, one of which is killed.
        moments: draws the moments.
        growing: a pattern of file names; the kill waits until one such file grows. "" for no wait.
        life: how long an undisturbed training takes, in seconds.

    Returns:
        the kills, and the latest known ``life``.
    """
    met: list[Kill] = []
    wanted = 1 + (moments.random() < 0.25)
    process, started = start(root, name, torchrun), time.monotonic()
    while len(met) < wanted:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(life * moments.random())
        grown = wait_for_growth(root / name, growing, process) if growing else ""
        part = part_of(root / name)
        if (grown or not growing) and kill(process, torchrun, moments):
            met.append(Kill(part, grown))
            if torchrun:
                continue  # torchrun starts its workers again
            process.wait()
            process = start(root, name, torchrun, resume=True)
        elif met:
            break  # resumed from a late checkpoint, it was over before the second moment
        elif process.wait() == 0:  # it was over before the first moment: try again
            life = time.monotonic() - started
            shutil.rmtree(root / name)
            process, started = start(root, name, torchrun), time.monotonic()
        else:
            break
    finish(root, process, name)
    return met, life


def wait_for_growth(folder: Path, names: str, process: subprocess.Popen) -> str:
    """Wait until one of these files grows; returns its kind, or "" if the process ended first."""
    before = sizes(folder, names)
    while process.poll() is None:
        time.sleep(0.001)
        now = sizes(folder, names)
        for name, size in now.items():
            if size > before.get(name, 0):
                return KINDS.get(Path(name).suffix, "another file")
        before = now
    return ""


def part_of(folder: Path) -> str:
    """Tell how far a training has come."""
    if (folder / "model_final.pth").is_file():
        return "the last evaluation"
    if list(folder.glob("model_*.pth*")):
        return "the steps after a checkpoint"
    log = folder / "log.txt"
    begun = log.is_file() and "Starting training" in log.read_text(errors="replace")
    return "the steps before a checkpoint" if begun else "the start"


def sizes(folder: Path, names: str) -> dict[str, int]:
    """Return the sizes in bytes of a folder's files of these names; any may vanish meanwhile."""
    found = {}
    for path in folder.glob(names):
        with contextlib.suppress(FileNotFoundError):
            found[path.name] = path.stat().st_size
    return found


def kill(process: subprocess.Popen, torchrun: bool, moments: random.Random) -> bool:
    """``kill -9`` the training, or one of torchrun's workers; returns False if none was left."""
    if process.poll() is not None:
        return False
    pid = process.pid
    try:
        if torchrun:  # Linux lists the processes that a process has started
            pid = moments.choice(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        os.kill(int(pid), signal.SIGKILL)
    except (IndexError, OSError):
        return False
    return True


def finish(root: Path, process: subprocess.Popen, name: str) -> None:
    """Wait for a training that is no longer disturbed.

    Raises:
        RuntimeError: if it fails, with the end of what it printed.
    """
    if process.wait() != 0:
        text = (root / f"{name}.txt").read_text(errors="replace")[-30000:]
        raise RuntimeError(f"{name} ended with exit code {process.returncode}:\n{text}")


def same_outcome(one: Path, two: Path) -> bool:
    """Whether two trainings ended with the same weights and the same figures, and the second has
    left no half-written file."""
    ended = all((two / name).is_file() for name in ("model_final.pth", RESULTS))
    if not ended or list(two.glob("*.partial")):
        return False
    import torch

    weights = [
        torch.load(folder / "model_final.pth", map_location="cpu", weights_only=True)["model"]
        for folder in (one, two)
    ]
    # Compare bytes: -0 equals 0, and NaN does not equal itself.
    bits = [{name: value.numpy().tobytes() for name, value in w.items()} for w in weights]
    return bits[0] == bits[1] and (one / RESULTS).read_text() == (two / RESULTS).read_text()


def add_figures(path: Path, kind: str, tried: int, survived: int, kills: list[Kill]) -> None:
    """Add the figures of these trials to those of the same kind in a JSON file."""
    from fpn_d2.utils.files import read_json, write_json
    from fpn_d2.utils.provenance import describe_machine, describe_versions, git_commit

    content = read_json(path) if path.is_file() else {}
    before = content.get(kind, {})
    if before.get("settings") != SETTINGS:
        before = {}
    numbers = {"trials": tried, "survived": survived, "kills": len(kills)}
    counts = {
        "kills_by_part": Counter(kill.part for kill in kills),
        "kills_while_a_file_grew": Counter(kill.growing for kill in kills if kill.growing),
    }
    content[kind] = {
        **{key: before.get(key, 0) + value for key, value in numbers.items()},
        **{key: dict(Counter(before.get(key)) + value) for key, value in counts.items()},
        "settings": SETTINGS,
        "machine": describe_machine(),
        "versions": describe_versions(),
        "commits": [*before.get("commits", []), git_commit()],
    }
    write_json(path, content)


if __name__ == "__main__":
    main()
