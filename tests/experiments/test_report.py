"""A table's report, as Markdown and as a page."""

import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from fpn_d2.experiments.figures import Example
from fpn_d2.experiments.report import _describe, markdown_report, write_report
from fpn_d2.experiments.tables import Claim, Row, Table, load_tables

DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


@pytest.fixture
def table():
    return Table(
        table="9",
        title="A <table> & more",
        metrics=["anchors", "AR1k"],
        rows={
            "a": Row("base|line", {"quick": "a.yaml"}, {"anchors": 47000, "AR1k": 48.3}),
            "c": Row("FPN", {"quick": "c.yaml"}, {"AR1k": 56.3}),
            "d": Row("never run", {"quick": "d.yaml"}, {"AR1k": 49.5}),
            "c_more": Row("end to end", {"quick": "e.yaml"}, beside="c"),
            "paper_only": Row("not here", {"paper": "f.yaml"}),
        },
        claims=[Claim("FPN is better", "AR1k", [["c"], ["a"]])],
    )


@pytest.fixture
def results():
    def seed(number, **metrics):
        return {"seed": number, "seconds": 60.0, "iterations": 300, "metrics": metrics}

    return {
        "table": "9",
        "scale": "quick",
        "dataset": "shapes",
        "commit": "abc1234",
        "machine": {"processor": "a <cpu>", "cores": 2, "memory_gib": 24, "gpus": []},
        "versions": {"torch": "2.0"},
        "rows": [
            {
                "row": "a",
                "command": "python train_net.py X '<a>'",
                "seeds": [seed(0, AR1k=40, anchors=47250), seed(1, AR1k=42, anchors=47250)],
            },
            {"row": "c", "seeds": [seed(0, AR1k=50), {**seed(1, AR1k=54), "commit": "def5678"}]},
            {"row": "c_more", "seeds": [seed(0, AR1k=53.2)]},
            {"row": "unknown", "seeds": [seed(0, AR1k=99)]},
        ],
    }


def lines_of(text):
    """Return the lines of a Markdown text, without the padding of its tables."""
    lines = []
    for line in text.splitlines():
        if re.fullmatch(r"[|:-]+", line):
            line = re.sub(r":?-+", "---", line)
        lines.append(re.sub(r" *(?<!\\)\| *", "|", line))
    return lines


def test_a_cell_holds_our_mean_and_deviation_and_the_papers_number(table, results):
    # deviations: sqrt(2) and sqrt(8)
    assert lines_of(markdown_report(table, results, is_part=True)) == [
        "||row|anchors|AR1k|AR1k, end to end|seconds, training|",
        "|---|---|---|---|---|---|",
        f"|a|base\\|line|47k (47k)|41.0 ± 1.4 (48.3)|{DASH}|60 ± 0|",
        f"|c¹|FPN|{DASH} ({DASH})|**52.0** ± 2.8 (56.3)|53.2|60 ± 0|",
        f"|d|never run|{DASH} ({DASH})|{DASH} (49.5)|{DASH}|{DASH}|",
        "",
        "¹ row c: seed 1 on commit def5678.",
        "",
        "1 of the paper's 1 claims hold.",
        "",
        # noise: 2 sqrt(2 / 2 + 8 / 2), of two seeds; deviation: sqrt((2 + 8) / 2)
        "- ✓ **holds**: FPN is better (AR1k). c is 11.0 above a (8.0 above in the paper, "
        "4.9 standard deviations, noise 4.5).",
    ]


def test_of_a_timing_the_least_is_the_best_and_random_weights_are_told():
    rows = {"x": Row("X", {}, {"seconds": 0.148}), "y": Row("Y", {})}
    table = Table("time", "", ["seconds"], rows, [], kind="timing")
    metrics = {"x": {"seconds": 0.2, "trained": 1}, "y": {"seconds": 0.1234, "trained": 0}}
    results = {"rows": [{"row": r, "seeds": [{"seed": 0, "metrics": metrics[r]}]} for r in rows]}
    assert lines_of(markdown_report(table, results, is_part=True)) == [
        "||row|seconds, an image|",
        "|---|---|---|",
        "|x|X|0.200 (0.148)|",
        f"|y¹|Y|**0.123** ({DASH})|",
        "",
        "¹ row y: seed 0 on random weights.",
    ]


def test_another_machine_that_timed_a_row_is_named(table, results):
    results["rows"][0]["seeds"][0]["timed_on"] = {"processor": "a laptop", "cores": 2}
    text = markdown_report(table, results, is_part=True)
    assert "¹ row a: seed 0 timed on a laptop, 2 cores, no GPU." in text


def test_other_code_is_named_where_it_is_known(table, results):
    results["code"] = "1111"
    for seed, code in zip(results["rows"][0]["seeds"], ("2222", None), strict=True):
        seed["code"] = code
    text = markdown_report(table, results, is_part=True)
    assert "¹ row a: seed 0 on configs and model code 2222.\n" in text


def test_a_row_beside_another_is_compared_with_that_one(table, results):
    table.rows["a_more"] = Row("more", {"quick": "e.yaml"}, beside="a")
    results["rows"].append({"row": "a_more", "seeds": [{"seed": 0, "metrics": {"AR1k": 42.5}}]})
    text = markdown_report(table, results)
    assert f"|a_more {MINUS} a|more, a|+1.5 ({DASH})|" in lines_of(text)


def test_the_markdown_says_all(table, results, tmp_path):
    path, _ = write_report(table, results, str(tmp_path / "new"))
    text = Path(path).read_text(encoding="utf-8")
    assert text == markdown_report(table, results)
    assert f"|a {MINUS} c|base\\|line|{MINUS}11.0 ({MINUS}8.0)|" in lines_of(text)
    assert f"|c_more {MINUS} c|end to end, c|+1.2 ({DASH})|" in lines_of(text)
    assert "**holds**: FPN is better (AR1k). c is 11.0 above a (8.0 above in the paper" in text
    assert "1 of the paper's 1 claims hold." in text
    assert "3 of the table's rows were trained and evaluated at the quick scale" in text
    assert "only differences between rows and their order can be compared" in text
    for fact in ("a <cpu>, 2 cores, 24 GiB, no GPU", "torch 2.0", "abc1234", "X '<a>'`"):
        assert fact in text


class _Page(HTMLParser):
    """Collects the tags, ids and links of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.links = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs[key] for key in ("src", "href", "xlink:href") if attrs.get(key)]


@pytest.mark.parametrize(
    ("more", "expected"),
    [({}, "a cpu, a GPU"), ({"tf32": True}, "a cpu, a GPU, TF32 on"),
     ({"tf32": False}, "a cpu, a GPU, TF32 off")],
)  # fmt: skip
def test_a_gpus_arithmetic_is_told(more, expected):
    assert _describe({"processor": "a cpu", "gpus": ["a GPU"], **more}) == expected


def test_the_page_needs_nothing_else_and_escapes_what_it_is_given(table, results, tmp_path):
    for row in results["rows"]:
        for seed in row["seeds"]:
            seed["losses"] = {"iteration": [19, 39], "total_loss": [1.0, 0.5]}
            seed["metrics"].update(AR10=10, AR100=30)
    example = Example('a "title"', "its <caption>", Image.new("RGB", (8, 6)))
    _, path = write_report(table, results, str(tmp_path), [example])
    assert sorted(os.listdir(tmp_path)) == ["table9.html", "table9.md"]
    text = Path(path).read_text(encoding="utf-8")
    page = _Page(text)
    assert page.tags.count("svg") == 2
    assert page.tags.count("img") == 1
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith(("#", "data:image/jpeg;base64,")) for link in page.links)
    for given in ("<table> &", "<cpu>", "<caption>", "'<a>'"):
        assert given not in text


@pytest.mark.parametrize("name", ["1", "2", "3", "4", "5", "time"])
def test_every_table_can_be_written_before_anything_is_trained(repo, name, tmp_path):
    table = load_tables(repo / "configs" / "tables.yaml").table(name)
    for results in ({}, {"scale": "quick", "rows": [{"row": next(iter(table.rows))}]}):
        for path in write_report(table, results, str(tmp_path)):
            assert "Nothing of this table has been run yet." in Path(path).read_text(
                encoding="utf-8"
            )


@pytest.mark.parametrize("has_paper", [True, False])
def test_only_a_table_of_the_papers_speaks_of_its_numbers(table, results, tmp_path, has_paper):
    for row in table.rows.values() if not has_paper else ():
        row.paper.clear()
    for path in write_report(table, results, str(tmp_path)):
        text = Path(path).read_text(encoding="utf-8")
        assert ("numbers are of R-50" in text) == has_paper


def test_the_page_has_the_names_by_which_it_calls_rows(table, results, tmp_path):
    table.rows["bottom_up"] = table.rows.pop("d")
    _, page = write_report(table, results, str(tmp_path))
    assert "</span>bottom_up</th>" in Path(page).read_text(encoding="utf-8")
