"""Longer schedules, and recall against the number of boxes before NMS."""

import dataclasses
import os
from pathlib import Path

import pytest

from fpn_d2 import UserError
from fpn_d2.experiments import Scale, load_tables, reproduction
from fpn_d2.experiments.claims import summarize
from fpn_d2.experiments.report import claims_table, markdown_report, write_report
from fpn_d2.experiments.results import collect
from fpn_d2.experiments.studies import draw_studies, measure_boxes, recall_by_boxes, study_sections
from fpn_d2.experiments.tables import Claim

MINUS = "\N{MINUS SIGN}"


@pytest.fixture
def settled(tables):
    """Rows c and d of table 1 at 300 and 600 iterations."""
    scale = Scale("shapes", like="quick", rows={"1": ["c", "d"]}, iterations=[300, 600])
    claim = Claim("FPN is better", "AR1k", [["c"], ["d", "p"]])
    ours = dataclasses.replace(tables.table("1"), claims=[claim])
    scales = {**tables.scales, "settled": scale}
    return dataclasses.replace(tables, scales=scales, tables={**tables.tables, "1": ours})


def results(**recalls):
    """Return a results file's content from each row's AR1k of seeds 0, 1, ...; omit empty rows."""
    rows = [
        {"row": row, "seeds": [{"seed": i, "metrics": {"AR1k": x}} for i, x in enumerate(values)]}
        for row, values in recalls.items()
        if values
    ]
    return {"table": "1", "scale": "settled", "dataset": "shapes", "recipe": {}, "rows": rows}


@pytest.mark.parametrize(
    ("c", "longer_c", "d", "longer_d", "cells"),
    [
        # d is behind c by 5, 7, 6 and then by 5, 4, 6: a change of -1, whose two standard errors
        # are 2 * stdev(0, -3, 0) / sqrt(3) = 2 * sqrt(3) / sqrt(3) = 2
        ([50, 52, 51], [60, 60, 61], [45, 45, 45], [55, 56, 55],
         ["+6.0 ± 1.0", "+5.0 ± 1.0", f"{MINUS}1.0, noise 2.0: settled"]),
        ([50, 50], [60, 60.2], [45, 45], [50, 50],
         ["+5.0 ± 0.0", "+10.1 ± 0.1", "+5.1, noise 0.2: not settled"]),
        ([50, 50], [60, 60.2], [45, 45], [58, 58],
         ["+5.0 ± 0.0", "+2.1 ± 0.1", f"{MINUS}2.9, noise 0.2: not settled"]),
        ([50], [60], [45], [50], ["+5.0", "+10.0", "+5.0, one seed"]),
        ([50], [60], [45], [], ["+5.0", "\N{EN DASH}", "not measured"]),
        # Only seeds 0 and 1 are at both schedules: 5 and 6 become 4 and 7, a change of 0 on
        # average, whose two standard errors are 2 * sqrt((0.5 + 4.5) / 2) = 3.2.
        ([50, 51, 70], [54, 57], [45, 45, 45], [50, 50],
         ["+12.0 ± 11.3", "+5.5 ± 2.1", "0.0, noise 3.2: settled"]),
    ],
    ids=["settled", "not settled", "falls", "one seed", "not measured", "seeds of both"],
)  # fmt: skip
def test_a_difference_is_settled_once_its_change_is_within_the_noise(
    settled, c, longer_c, d, longer_d, cells
):
    found = results(c_300=c, d_300=d, c_600=longer_c, d_600=longer_d)
    (section,) = study_sections(settled.table_at("1", "settled"), found, summarize(found))
    assert section.header == ["", "300", "600", "last change"]
    assert section.lines == [[f"c {MINUS} d", *cells]]


def test_the_curves_are_a_picture_of_the_report(settled, tmp_path):
    table = settled.table_at("1", "settled")
    found = results(c_300=[50, 52], d_300=[45, 45], c_600=[60, 61], d_600=[55, 55])
    (chart,) = draw_studies(table, found, summarize(found))
    assert "iterations of training" in chart.svg
    assert "c: FPN" in chart.svg
    paths = write_report(table, found, str(tmp_path))
    names = [os.path.basename(path) for path in paths]
    assert names == ["table1_settled.md", "table1_settled.html"]
    assert chart.title in Path(paths[1]).read_text(encoding="utf-8")
    assert "## Is the order settled?" in markdown_report(table, found)


def test_a_row_beside_another_has_one_column_for_all_schedules():
    table = load_tables(Path(__file__).parents[2] / "configs" / "tables.yaml").table_at(
        "1", "settled"
    )
    found = results(c_300=[66], c_heads_300=[64], c_600=[70], c_heads_600=[69])
    text = markdown_report(table, found)
    header, _, *lines = [line for line in text.splitlines() if line.startswith("|")]
    titles = [word.strip() for word in header.split("|")]
    assert [title for title in titles if "head" in title] == ["AR1k, a head for each level"]
    column = titles.index("AR1k, a head for each level")
    rows = [line.split("|") for line in lines if line.count("|") == header.count("|")]
    cells = {row[1].strip(): row[column].strip() for row in rows}
    assert (cells["c_300"], cells["c_600"]) == ("64.0", "**69.0**")


def test_a_report_compares_rows_of_one_schedule_and_leaves_out_those_that_none_was_trained_at(
    settled,
):
    table = settled.table_at("1", "settled")
    text = markdown_report(table, results(c_600=[60], d_600=[55]))
    assert "_300" not in text
    # The paper: 49.5 - 56.3.
    assert f"d_600 {MINUS} c_600" in text
    assert f"{MINUS}5.0 ({MINUS}6.8)" in text
    assert f"c_600 {MINUS}" not in text.partition("## Differences")[2].partition("## What")[0]
    assert "d_300" in markdown_report(table, results(c_300=[50], d_600=[55]))


def test_rows_of_three_seeds_in_common_are_compared_over_these(settled):
    table = settled.table_at("1", "settled")
    # 52 - 46, where the means of all seeds would differ by 9.
    found = results(c_300=[51, 52, 53, 64], d_300=[45, 46, 47])
    differences = markdown_report(table, found).partition("## Differences")[2]
    assert f"{MINUS}6.0 ({MINUS}6.8)" in differences.partition("## What")[0]
    (line, *_) = claims_table([(table, found)]).splitlines()[2:]
    assert "+6.0" in line
    assert line.split("|")[-2].strip() == "3"


def test_each_claim_has_a_line_at_each_scale_and_the_longest_schedule(settled):
    table = settled.table_at("1", "settled")
    longer = results(c_300=[50, 52], d_300=[45, 45], c_600=[60, 61], d_600=[55, 56])
    quick = {**results(c=[50], d=[55], p=[40]), "scale": "quick"}
    del quick["recipe"]
    own = dataclasses.replace(
        settled.table("1"), claims=[Claim("FPN is better", "AR1k", [["c"], ["d"]])]
    )
    text = claims_table([(own, quick), (table, longer)])
    lines = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines()[2:]]
    # noise: 2 sqrt(0.5 / 2 + 0.5 / 2), of two seeds
    assert lines == [
        ["1", "FPN is better (AR1k)", "quick, shapes, earlier recipe", "\N{BALLOT X} does not hold",
         f"c {MINUS} d: {MINUS}5.0", "+6.8", "\N{EN DASH}", "1"],
        ["1", "FPN is better (among c, d), 600 iterations (AR1k)", "settled, shapes",
         "\N{CHECK MARK} holds", f"c_600 {MINUS} d_600: +5.0", "+6.8", "1.4", "2"],
    ]  # fmt: skip


def test_longer_rows_have_folders_of_their_own_and_the_first_schedule_is_shared(
    plan, settled, runs
):
    plan = dataclasses.replace(plan, tables=settled, scale="settled")
    rows = settled.table_at("1", "settled").rows
    short = dataclasses.replace(plan, scale="quick").run(settled.table("1").rows["c"], 0)
    assert plan.run(rows["c_300"], 0) == short
    longer = plan.run(rows["c_600"], 0)
    assert longer.folder == f"{runs}/shapes/quick/RPN/rpn_R_18_FPN_MAX_ITER_600_STEPS_480/seed_0"
    assert longer.load_config().SOLVER.MAX_ITER == 600
    assert longer.load_config().SOLVER.STEPS == (480,)


# -- boxes before NMS ----------------------------------------------------------------------------


def test_a_trained_rpn_is_evaluated_at_each_number_on_both_splits(
    plan, tables, calls, tmp_path, monkeypatch
):
    row, table = tables.table("1").rows["c"], tables.table("1")
    plan.train_row(row, 2)
    run = plan.run(row, 2)
    assert recall_by_boxes(run) == {}
    for counts in ([6000, 1000], [1000, 6000, 50000]):
        measure_boxes(plan.runner, run, counts)
    numbers = {"1000": 42.0, "6000": 42.0, "50000": 42.0}  # 40 + the seed, as the program has it
    assert recall_by_boxes(run) == {"shapes_train": numbers, "shapes_val": numbers}
    evaluations = calls()[1:]
    counts = [call["MODEL.RPN.PRE_NMS_TOPK_TEST"] for call in evaluations]
    assert counts == ["6000", "1000", "50000"]
    assert {call["flag"] for call in evaluations} == {"--eval-only"}
    assert {call["MODEL.WEIGHTS"] for call in evaluations} == {run.weights}
    monkeypatch.setattr(reproduction, "count_anchors", lambda *_, **__: 12)
    content = collect(plan, table, str(tmp_path / "none.json"))
    assert content["rows"][0]["seeds"][0]["boxes"]["shapes_val"] == numbers
    (section,) = study_sections(table, content, summarize(content))
    assert section.lines[0] == ["c", "shapes_train", "42.0", "42.0", "42.0"]
    (chart,) = draw_studies(table, content, summarize(content))
    assert "boxes of a level before NMS" in chart.svg


def test_a_row_that_is_no_rpn_is_refused(plan, tables):
    run = plan.run(tables.table("2").rows["c"], 0)
    with pytest.raises(UserError, match="--boxes: .*fast_rcnn_R_18_FPN.yaml trains no RPN"):
        measure_boxes(plan.runner, run, [1000])
