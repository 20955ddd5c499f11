"""dev/write_results.py: what is published equals results/*.json."""

import json
import re
from xml.etree import ElementTree

import pytest
import write_results
from write_results import PAGES, curves, fill_in, growth_results, table_results

from fpn_d2 import UserError
from fpn_d2.experiments import load_tables
from fpn_d2.experiments.report import markdown_report

TABLES = """
metrics: {AP: "bbox/AP"}
scales: {quick: {dataset: "shapes"}}
tables:
  "2":
    title: "Fast R-CNN"
    metrics: ["AP"]
    rows:
      a: {name: "conv4", configs: {quick: "a.yaml"}, paper: {AP: 31.9}}
"""
PAGE = """# Title
<!-- results/shapes/table2.json -->
old
<!-- end of results -->
Between.
<!-- results/shapes/table2.json -->
<!-- end of results -->
"""


@pytest.fixture
def tables(tmp_path):
    (tmp_path / "tables.yaml").write_text(TABLES)
    results = {
        "table": "2",
        "scale": "quick",
        "rows": [{"row": "a", "seeds": [{"seed": 0, "seconds": 60, "metrics": {"AP": 12.34}}]}],
    }
    (tmp_path / "results" / "shapes").mkdir(parents=True)
    (tmp_path / "results" / "shapes" / "table2.json").write_text(json.dumps(results))
    return load_tables(tmp_path / "tables.yaml")


def test_the_marked_tables_are_written_and_nothing_else(tables, tmp_path):
    filled = fill_in(PAGE, str(tmp_path), tables)
    assert filled.startswith("# Title\n<!-- results/shapes/table2.json -->\n")
    assert len(re.findall(r"\| a +\| conv4 +\| 12\.3 \(31\.9\) +\|", filled)) == 2
    assert "\nBetween.\n" in filled
    assert "old" not in filled
    assert fill_in(filled, str(tmp_path), tables) == filled


def test_a_page_without_marks_or_with_a_mark_of_nothing(tables, tmp_path):
    with pytest.raises(UserError, match="there is no place for results"):
        fill_in("# Title\n", str(tmp_path), tables)
    page = PAGE.replace("table2", "table9")
    with pytest.raises(UserError, match=r"table9\.json, which a mark names, does not exist"):
        fill_in(page, str(tmp_path), tables)


def test_results_of_a_users_own_tables_are_left_alone(tables, tmp_path):
    (tmp_path / "results/shapes/tablemine.json").write_text('{"table": "mine"}')
    (found,) = table_results(tmp_path, tables)
    assert found[0].table == "2"
    assert found[2] == str(tmp_path / "results/shapes")


def test_what_tells_how_cost_grows_is_drawn(tmp_path):
    (tmp_path / "results").mkdir()
    files = {"a": [{"task": "growth"}], "b": [{"task": "pooling"}], "c": {"exports": []}, "d": []}
    for name, content in files.items():
        (tmp_path / "results" / f"{name}.json").write_text(json.dumps(content))
    assert list(growth_results(tmp_path)) == [(tmp_path / "results" / "a.json", files["a"])]


# -- the repository's own pages ----------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_the_tables_of_a_page_are_those_of_the_results(name, repo):
    text = (repo / name).read_text(encoding="utf-8")
    tables = load_tables(repo / "configs" / "tables.yaml")
    assert fill_in(text, repo, tables) == text, "run `make results`"


def test_the_reports_are_those_of_the_results(repo):
    found = list(table_results(repo, load_tables(repo / "configs" / "tables.yaml")))
    assert len(found) >= 9
    for table, results, folder in found:
        with open(f"{folder}/{table.stem}.md", encoding="utf-8") as file:
            assert markdown_report(table, results) == file.read(), "run `make results`"


def test_the_pictures_of_the_results_can_be_shown(repo):
    pictures = {path.stem: ElementTree.parse(path) for path in repo.glob("results/**/*.svg")}
    names = {"growth_epyc", "growth_epyc_zen4", "table1_settled", "table2_settled"}
    assert pictures.keys() == names
    assert {root.getroot().tag for root in pictures.values()} == {"{http://www.w3.org/2000/svg}svg"}
    for table, results, folder in table_results(repo, load_tables(repo / "configs/tables.yaml")):
        if digest := re.search('data-results="[^"]*"', curves(table, results)):
            picture = (repo / folder / f"{table.stem}.svg").read_text(encoding="utf-8")
            assert digest[0] in picture, "run `make results`"


def test_no_result_names_a_path_of_a_machine(repo):
    files = [*repo.glob("results/**/*.json"), *repo.glob("results/**/*.md")]
    assert len(files) > 20
    for file in files:
        # A path from the root, or one out of the working folder; "/" alone is a separator.
        found = re.findall(r"(?<![\w.)/])/\w[^\s\"'`]*/|\.\./", file.read_text(encoding="utf-8"))
        assert not found, file


def test_help_writes_nothing(printed, monkeypatch):
    monkeypatch.setattr("fpn_d2.experiments.load_tables", lambda path: pytest.fail("began"))
    assert "make results" in printed(write_results, "--help")
