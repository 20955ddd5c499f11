#!/usr/bin/env python
"""Compare the cost of checking an annotation file with that of Detectron2's loading it.

``python dev/benchmark_annotations.py`` makes a file of the size of COCO's instances_train2017.json
and prints CPU seconds and peak memory, the medians of three processes for each way, in turn.
"""

import argparse
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any


def write_annotations(path: str, images: int, annotations: int) -> None:
    """Write a sound file of random boxes and polygons, with about COCO's points per object."""
    import numpy as np

    rng = np.random.default_rng(0)
    sizes = rng.integers(300, 641, (images, 2))
    listed = [
        {"id": i, "file_name": f"{i:012}.jpg", "width": w, "height": h}
        for i, (w, h) in enumerate(sizes.tolist())
    ]
    with open(path, "w") as file:
        categories = json.dumps([{"id": i, "name": f"class {i}"} for i in range(1, 81)])
        file.write(f'{{"images": {json.dumps(listed)}, "categories": {categories}, ')
        file.write('"annotations": [')
        for i, image in enumerate(np.sort(rng.integers(0, images, annotations)).tolist()):
            side = rng.uniform(5, 0.8 * sizes[image])
            first = rng.uniform(0, sizes[image] - side)
            points = np.clip(rng.lognormal(2.95, 0.75), 3, 400).astype(int)
            polygon = first + rng.random((points, 2)) * side
            annotation = {
                "segmentation": [np.round(polygon, 2).ravel().tolist()],
                "area": round(0.6 * float(side.prod()), 4),
                "bbox": np.round([*first, *side], 2).tolist(),
                "iscrowd": 0,
                "image_id": image,
                "category_id": 1 + i % 80,
                "id": i + 1,
            }
            file.write(", " * (i > 0) + json.dumps(annotation))
        file.write("]}")


def _load(path: str) -> list[dict[str, Any]]:
    from detectron2.data.datasets import load_coco_json

    return load_coco_json(path, "images", "measured")


def _judge(path: str) -> Any:
    from fpn_d2.data.annotation_file import annotation_findings
    from fpn_d2.data.coco_json import read_annotations, without_gc

    with without_gc():
        content, _ = read_annotations(path)
        assert not [*annotation_findings(content, path)]
    return content


def _judge_and_load(path: str) -> list[dict[str, Any]]:
    from fpn_d2.data.coco_json import shared_reading

    with shared_reading():
        _judge(path)
        return _load(path)


WAYS = {
    "Detectron2 loads it": _load,
    "judge": _judge,
    "judge and load": _judge_and_load,
}


def measure(way: str, path: str) -> tuple[float, float]:
    """Return the CPU seconds of one way, and the peak memory of the process in GiB."""
    for module in ("detectron2.data.datasets", "fpn_d2.data.annotation_file"):
        importlib.import_module(module)  # so that no way is charged for it
    start = time.process_time()
    kept = WAYS[way](path)  # as a training keeps it
    seconds = time.process_time() - start
    del kept
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", help="another annotation file, which has to be sound")
    parser.add_argument("--num-images", type=int, default=118_287)
    parser.add_argument("--num-annotations", type=int, default=860_001)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help="measure this one, in this process")
    return parser


def main() -> None:
    """Read the command line, make the file, measure, print."""
    args = build_parser().parse_args()
    if args.way:
        print(json.dumps(measure(args.way, args.file)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = args.file or os.path.join(folder, "annotations.json")
        if not args.file:
            write_annotations(path, args.num_images, args.num_annotations)
        found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
        for _ in range(args.repeats):
            for way, figures in found.items():
                command = [sys.executable, __file__, "--file", path, "--way", way]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                figures.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"{path}: {os.path.getsize(path) / 1e6:.0f} MB")
    stock = statistics.median(seconds for seconds, _ in found["Detectron2 loads it"])
    for way, figures in found.items():
        seconds, peak = map(statistics.median, zip(*figures, strict=True))
        print(f"{way:20} {seconds:6.1f} s CPU ({seconds / stock:.2f}), peak {peak:.2f} GiB")


if __name__ == "__main__":
    main()
