"""The tables of the benchmark."""

from fpn_d2.experiments.benchmark_tables import benchmark_table


def measured(task, variant, seconds, baseline, baseline_seconds, **more):
    return {
        "task": task,
        "variant": variant,
        "seconds": seconds,
        "baseline": baseline,
        "baseline_seconds": baseline_seconds,
        "ratio": baseline_seconds / seconds,
        "max_error": None,
        "spread": [seconds / 2, seconds * 2],
        "baseline_spread": [baseline_seconds / 2, baseline_seconds * 2],
        "peak_mib": None,
        "baseline_peak_mib": None,
        "share_of_matmul": None,
        **more,
    }


def cells(rows):
    """The cells of each line of the benchmark's tables; None for a line between two tables."""
    lines = benchmark_table(rows).splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] if line else None for line in lines]


def test_a_line_for_each_row():
    memory = {"peak_mib": 10, "baseline_peak_mib": 20}
    rows = [
        measured("pooling", "bf16", 0.01, "detectron2", 0.4, max_error=0.004),
        measured("inference", "fp32", 2.0, "torchvision", 1.0, share_of_matmul=0.5, **memory),
    ]
    lines = cells(rows)
    ours, theirs = "0.01 (0.005 to 0.02)", "0.4 (0.2 to 0.8)"
    assert lines[2] == ["pooling", "bf16", ours, "detectron2", theirs, "40.00", "", "", "4e-03"]
    ours, theirs = "2 (1 to 4)", "1 (0.5 to 2)"
    expected = ["inference", "fp32", ours, "torchvision", theirs, "0.50", "10 / 20", "50%", ""]
    assert lines[3:] == [expected]


def test_the_rows_of_the_paper_are_a_table_of_ratios():
    ways = (("b inference", 0.2), ("b training", 0.15), ("c training", 0.3))
    rows = [measured("rows", f"a_{way}", 0.1, "detectron2", seconds) for way, seconds in ways]
    between, headers, _, *lines = cells(rows)[2:]
    assert between is None
    assert headers == ["row, times as fast as detectron2", "inference", "training"]
    assert lines == [
        ["a_b", "2.00 (100 / 200 ms)", "1.50 (100 / 150 ms)"],
        ["a_c", "", "3.00 (100 / 300 ms)"],
    ]


def test_the_agreement_of_detections_has_a_table_of_its_own():
    more = {"images": 100, "detections": 45, "matched_share": 0.4231, "head_max_error": 0.145}
    known = {**more, "AP": 61.44, "baseline_AP": 61.45}
    unknown = {**more, "matched_share": None, "AP": None, "baseline_AP": None}
    rows = [
        measured("agreement", "bf16", 1.0, "detectron2", 2.0, **known),
        measured("agreement", "fp32", 1.0, "detectron2", 2.0, **unknown),
    ]
    assert cells(rows)[7:] == [
        ["bf16", "100", "45", "42.31%", "1e-01", "61.44", "61.45"],
        ["fp32", "100", "45", "", "1e-01", "", ""],
    ]
