"""Stand-in for train_net.py in tests of its callers: the same command line, in milliseconds.

It appends its words to the file $FAKE_LOG and writes the files that a training or an evaluation
leaves. The numbers follow the seed: AR@1000 is 40 + SEED and AP is 30 + SEED, both 0.25 more on
frozen features. $FAKE_MODE changes that: "hang" stops in the middle of the training, after writing
its process id to the file ``started``; "bug" ends in a traceback; "refuse" ends with code 2 and a
sentence; "silent" ends without results.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

RPN = {"box_proposals": {"AR@100": 20.0, "AR@1000": 40.0, "ARs@1000": None}}
DETECTOR = {"bbox": {"AP": 30.0, "AP50": 50.0}}


def main(words: list[str]) -> None:
    if "FAKE_LOG" in os.environ:
        with open(os.environ["FAKE_LOG"], "a") as file:
            file.write(json.dumps(words) + "\n")
    mode = os.environ.get("FAKE_MODE", "")
    config, evaluates = words[words.index("--config-file") + 1], "--eval-only" in words
    rest = words[words.index("--num-gpus") + 2 :]
    opts = dict(zip(rest[::2], rest[1::2], strict=True))
    folder = Path(opts["OUTPUT_DIR"])
    if mode == "refuse":
        print("loading\nerror: set this to that\n2 more lines", file=sys.stderr)
        sys.exit(2)
    if mode == "bug":
        raise ZeroDivisionError("a bug")
    if mode == "silent":
        return
    if not evaluates:
        with open(folder / "metrics.json", "a") as file:
            file.write('{"iteration": 19, "total_loss": 2.0, "time": 0.5, "eta_seconds": 9.0}\n')
        (folder / "model_0000019.pth").write_bytes(b"")
        if mode == "hang":
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            (folder / "started.new").write_text(str(os.getpid()))
            (folder / "started.new").rename(folder / "started")
            time.sleep(60)
        with open(folder / "metrics.json", "a") as file:
            file.write('{"iteration": 29, "total_loss": 1.0, "time": 0.4, "eta_seconds": 0.0}\n')
        (folder / "model_final.pth").write_bytes(b"")
    is_rpn = Path(config).name.startswith("rpn")
    more = int(opts.get("SEED", 0)) + 0.25 * ("MODEL.FPN.FREEZE" in opts)
    results = {
        task: {key: value and value + more for key, value in metrics.items()}
        for task, metrics in (RPN if is_rpn else DETECTOR).items()
    }
    for dataset in opts.get("DATASETS.TEST", "shapes_val").strip("()[],").split(","):
        inference = folder / "inference" / dataset.strip("' ")
        inference.mkdir(parents=True, exist_ok=True)
        if is_rpn:
            (inference / "box_proposals.pkl").write_bytes(b"")
        (inference / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1:])
