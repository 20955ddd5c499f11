"""The tasks of single operators, and every row of the tables, on small images."""

import pytest
from benchmark import operators
from benchmark.operators import benchmark_mask_proposals, benchmark_matching, benchmark_pooling
from benchmark.paper_rows import FOLDERS, benchmark_rows
from benchmark.precisions import variants_of

from fpn_d2 import load_config
from fpn_d2.modeling import rpn

SIZE = (128, 160)


def test_pooling(measure):
    rows = measure(benchmark_pooling, 50, SIZE)
    ways = ("forward", "forward and backward")
    assert set(rows) == {(f"{v} {way}", "detectron2") for v in variants_of("cpu") for way in ways}
    assert all(rows[f"fp32 {way}", "detectron2"]["max_error"] < 1e-4 for way in ways)


def test_mask_proposals(measure, narrow_words, monkeypatch):
    def load(path, opts):
        return load_config(path, [*opts, *narrow_words, "MODEL.RESNETS.WIDTH_PER_GROUP", "4"])

    monkeypatch.setattr(operators, "load_config", load)
    rows = measure(benchmark_mask_proposals, SIZE)
    assert set(rows) == {
        (f"{v} {name}", "image_pyramid") for v in variants_of("cpu") for name in ("5x5", "dual")
    }


def test_matching_samples_the_same_anchors(measure, monkeypatch):
    monkeypatch.setattr(rpn, "_MAX_PAIRS", 100_000)  # 3 of the objects at once
    ((_, row),) = measure(benchmark_matching, 20, (160, 200)).items()
    assert row["variant"] == "20 objects, P2"
    assert row["max_error"] == 0


def names_of(*kinds):
    return [
        f"{kind}_R_18_{name}"
        for kind, names in {
            "rpn": ("C4", "C5", "FPN", "P2", "bottom_up", "top_down"),
            "fast_rcnn": ("C4", "C5", "FPN", "P2", "bottom_up", "top_down"),
            "faster_rcnn": ("C4", "C5", "FPN"),
            "retinanet": ("FPN",),
        }.items()
        if kind in kinds
        for name in names
    ]


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (("Faster-RCNN", "RetinaNet"), names_of("faster_rcnn", "retinanet")),
        pytest.param(("RPN", "Fast-RCNN"), names_of("rpn", "fast_rcnn"), marks=pytest.mark.slow),
    ],
    ids=["detectors", "others"],
)
def test_every_row_of_tables_1_to_3_is_compared(folders, names, measure):
    assert set(folders) <= set(FOLDERS)
    rows = measure(benchmark_rows, folders, 64, 20)
    ways = ("inference", "training")
    assert set(rows) == {(f"{name} {way}", "detectron2") for name in names for way in ways}
    assert all(row["max_error"] < 1e-4 for row in rows.values())
