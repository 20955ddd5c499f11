"""Tables of a Markdown file that come from results."""

import json

import pytest

from fpn_d2 import UserError
from fpn_d2.experiments import load_tables
from fpn_d2.experiments.readme import fill_in_results

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
    filled = fill_in_results(PAGE, str(tmp_path), tables)
    assert filled.startswith("# Title\n<!-- results/shapes/table2.json -->\n")
    assert filled.count("| a | conv4 | 12.3 (31.9) |") == 2
    assert "\nBetween.\n" in filled
    assert "old" not in filled
    assert fill_in_results(filled, str(tmp_path), tables) == filled


def test_a_page_without_marks_or_with_a_mark_of_nothing(tables, tmp_path):
    with pytest.raises(UserError, match="there is no place for results"):
        fill_in_results("# Title\n", str(tmp_path), tables)
    page = PAGE.replace("table2", "table9")
    with pytest.raises(UserError, match=r"table9\.json, which a mark names, does not exist"):
        fill_in_results(page, str(tmp_path), tables)
