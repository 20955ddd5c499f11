"""The task "growth": what it measures, what it leaves out, and real points of small images."""

import math
import multiprocessing

import pytest
import torch
from benchmark import growth, growth_point
from benchmark.growth import Series, all_series, available_gib, growth_line, measure_growth
from benchmark.growth_point import Measured, OutOfMemory, Point

from fpn_d2 import UserError
from fpn_d2.config import load_config
from fpn_d2.config_checks import num_classes

FASTER, RETINANET = "Faster-RCNN/faster_rcnn_R_18_FPN", "RetinaNet/retinanet_R_18_FPN"


def test_what_grows_and_how_far():
    ranges = {(s.axis, s.way): (s.values[0], s.values[-1]) for s in all_series()}
    assert ranges == {
        (axis, way): ends
        for axis, ends in {
            "side": (320, 4000),
            "objects": (1, 3000),
            "classes": (1, 1200),
            "proposals": (100, 2000),
            "processes": (1, 2),
        }.items()
        for way in ("inference", "training")
    }
    assert all(len(s.values) <= 3 for s in all_series(quick=True))
    assert [s[:3] for s in all_series(quick=True)] == [s[:3] for s in all_series()]


def config_of(series, value, repo):
    point = series.point(value)
    return load_config(repo / "configs" / "quick" / f"{series.row}.yaml", list(point.opts))


@pytest.mark.parametrize("row", [FASTER, RETINANET])
def test_a_points_config_has_its_classes(row, repo):
    assert num_classes(config_of(Series("classes", row, "training", ()), 77, repo)) == 77


def test_a_points_config_has_its_proposals_and_detections(repo):
    cfg = config_of(Series("proposals", FASTER, "training", ()), 1500, repo)
    assert cfg.MODEL.RPN.POST_NMS_TOPK_TEST == cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN == 1500
    assert cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE == 1500
    assert cfg.MODEL.RPN.PRE_NMS_TOPK_TEST == cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN == 2000
    cfg = config_of(Series("objects", FASTER, "inference", ()), 300, repo)
    assert cfg.TEST.DETECTIONS_PER_IMAGE == 300


def test_a_points_images():
    assert Series("objects", RETINANET, "training", ()).point(3000).objects == 3000
    assert Series("side", FASTER, "inference", ()).point(640).side == 640
    point = Series("processes", FASTER, "training", ()).point(2)
    assert (point.processes, point.images) == (2, 2)


@pytest.mark.parametrize(
    ("history", "value", "expected"),  # one point goes on as the power of 1.5
    [
        ([], 10, 0),
        ([(10, 2.0)], 40, 1.25 * 16),
        ([(10, 2.0), (20, 4.0)], 60, 1.25 * 12),  # they rise as the value does
        ([(10, 4.0), (20, 3.0)], 60, 1.25 * 3),  # they fall: as before
        ([(10, 1.0), (20, 100.0)], 40, 1.25 * 800),  # no faster than the cube
    ],
)
def test_the_next_point_is_predicted(history, value, expected):
    found = [(x, Measured(seconds, None, None)) for x, seconds in history]
    assert growth._predict(found, value, 1.5, growth._seconds) == pytest.approx(expected)


GIB = {"ours": 0.5, "detectron2": 1.0}  # of a point of 1 pixel; it rises as the side does
SERIES = [Series("side", FASTER, "training", (1, 2, 4, 8, 16))]


@pytest.fixture
def measure(monkeypatch):
    """``measure(room, minutes)``: the rows, of points that take a second and the GiB above for
    each pixel, and the calls ``(side, names, rounds)``. What gets too little is refused."""

    def run(room, minutes=60.0, rounds=3, gib=GIB):
        calls = []

        def time(point, names, device, rounds, limit):
            calls.append((point.side, tuple(names), rounds))
            peaks = {name: gib[name] * point.side for name in names}
            if max(peaks.values()) > limit:
                raise OutOfMemory
            one = Measured(1.0, None, None)
            return {n: [one._replace(peak_mib=1024 * p)] * (1 + rounds) for n, p in peaks.items()}

        monkeypatch.setattr(growth, "_time", time)
        monkeypatch.setattr(growth, "available_gib", lambda device: room)
        return list(measure_growth("cpu", rounds, minutes, SERIES)), calls

    return run


BOTH = ("ours", "detectron2")


def test_the_second_point_is_measured_whatever_it_is():
    assert {s.axis for s in all_series() if s.first_power} == {"side"}


def test_both_take_turns_where_there_is_memory(measure):
    rows, calls = measure(1000.0)
    assert calls == [(n, BOTH, 3) for n in (1, 2, 4, 8, 16)]
    assert [row["value"] for row in rows] == [1, 2, 4, 8, 16]
    assert all(row["alternated"] and not any(row["left_out"].values()) for row in rows)
    assert [row["baseline_peak_mib"] for row in rows] == [1024 * n for n in (1, 2, 4, 8, 16)]
    assert [row["peak_mib"] for row in rows] == [512 * n for n in (1, 2, 4, 8, 16)]
    assert rows[0]["seconds"] == [1.0] * 3
    assert growth_line(rows[0]) == (
        "side 1, faster_rcnn_R_18_FPN, training: ours 1 s, 512 MiB; detectron2 1 s, 1024 MiB"
    )


def test_where_memory_is_short_they_run_alone_and_what_needs_more_is_left_out(measure):
    rows, calls = measure(11.0)
    assert calls == [
        *((n, BOTH, 3) for n in (1, 2, 4)),  # stock needs 1, 5 and 5 GiB, with a margin
        *((8, (name,), 3) for name in BOTH),  # 10 GiB
        (16, ("ours",), 3),  # 10 GiB, and 20 for stock
    ]
    assert [row["alternated"] for row in rows] == [True, True, True, False, False]
    assert rows[4]["left_out"] == {"ours": "", "detectron2": "needs about 20 GiB of 11"}
    assert rows[4]["seconds"] == [1.0] * 3
    assert rows[4]["baseline_seconds"] == []
    assert rows[4]["baseline_peak_mib"] is None
    assert "detectron2 needs about 20 GiB of 11" in growth_line(rows[4])


def test_what_gets_no_memory_after_all_is_told(measure):
    rows, calls = measure(0.8)
    assert calls == [(1, BOTH, 3), (1, ("ours",), 3), (1, ("detectron2",), 3)]
    assert rows[0]["left_out"] == {"ours": "", "detectron2": "ran out of 1 GiB"}
    assert rows[0]["seconds"]
    assert rows[1]["left_out"]["ours"] == "needs about 2 GiB of 1"


def test_another_fault_ends_it_with_a_sentence(monkeypatch, capsys):
    def time(*_):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(growth, "_time", time)
    with pytest.raises(UserError, match="^growth ended early at .*side=1.*--json has what was"):
        list(measure_growth("cpu", 1, 60.0, SERIES))
    assert "shapes do not match" in capsys.readouterr().err


def test_where_time_is_short_there_is_one_round_and_then_none(measure):
    # A point of these takes 8 seconds to start; the next one is predicted to take 4 times 1.25.
    rows, calls = measure(1000.0, minutes=38 / 60)
    assert [rounds for _, _, rounds in calls][:2] == [3, 1]
    rows, calls = measure(1000.0, minutes=10 / 60)
    assert len(calls) == 1
    assert rows[1]["left_out"]["ours"] == "would take 20 s more"
    assert all(not row["seconds"] for row in rows[1:])


def test_the_memory_that_is_free():
    free = available_gib("cpu")
    assert free == math.inf or -1.0 < free < 100_000


def run_out(queue):
    growth_point._limit_memory(0.2)
    for gib in (0.05, 1.0):
        growth_point._call = lambda gib=gib: [{"instances": torch.ones(int(gib * 2**28))}]
        try:
            queue.put(growth_point.measure_point().found)
        except OutOfMemory:
            queue.put("refused")


def test_a_process_is_refused_more_than_its_memory():
    context = multiprocessing.get_context("fork")  # the limit is of the child alone
    if available_gib("cpu") == math.inf:
        pytest.skip("not Linux")
    queue = context.SimpleQueue()
    child = context.Process(target=run_out, args=(queue,))
    child.start()
    child.join()
    assert [queue.get(), queue.get()] == [int(0.05 * 2**28), "refused"]


def test_a_programming_error_is_no_lack_of_memory(monkeypatch):
    def call():
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(growth_point, "_call", call, raising=False)
    with pytest.raises(RuntimeError, match="shapes"):
        growth_point.measure_point()


SMALL = Point(FASTER, "inference", growth._SAME, side=64, objects=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "finds"),
    [
        (SMALL, True),
        (SMALL._replace(row=RETINANET, opts=()), True),
        (SMALL._replace(way="training"), False),
        (SMALL._replace(way="training", images=2, processes=2), False),
    ],
    ids=["inference", "RetinaNet", "training", "two processes"],
)
def test_a_real_point(point, finds):
    found = growth._time(point, BOTH, "cpu", 1, 8.0)
    for rounds in found.values():
        assert len(rounds) == 2
        assert all(one.seconds > 0 for one in rounds)
        assert all(one.peak_mib is None or one.peak_mib >= 0 for one in rounds)
        assert all((one.found or 0) > 0 for one in rounds) == finds
    ours, stock = (rounds[0].found for rounds in found.values())
    assert ours == pytest.approx(stock, abs=1) if finds else ours is stock is None
