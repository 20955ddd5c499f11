"""The table of exported models."""

import json

import pytest

from fpn_d2 import UserError
from fpn_d2.export import Parity, export_table, report_parity


def test_a_model_has_one_row_for_each_format(tmp_path):
    path = tmp_path / "results" / "export.json"
    parity = Parity([(10, 20), (10, 20), (30, 20)], 200, 199, 199, 1, 1.26e-5, 0.02, 3e-6)
    report_parity(path, "b", "onnx", Parity(detections=1))
    report_parity(path, "b", "onnx", parity)
    report_parity(path, "a", "torchscript", parity)
    content = json.loads(path.read_text())
    assert [(row["model"], row["format"]) for row in content["exports"]] == [
        ("a", "torchscript"),
        ("b", "onnx"),
    ]
    table = export_table(content["exports"]).splitlines()
    assert table[3] == "| b | onnx | 3 (2) | 200 | 99.50 | 1 | 2e-02 | 3e-06 | 1e-05 |"


@pytest.mark.parametrize("content", ['{"rows": []}', "[]", '{"exports": 1}'])
def test_a_file_of_something_else_is_kept(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"other\.json is no report of exports"):
        report_parity(path, "a", "onnx", Parity())
    assert path.read_text() == content
