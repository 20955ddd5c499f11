"""Files that are there are kept; files that are written are whole."""

import pytest

from fpn_d2 import UserError
from fpn_d2.export import Exported, check_output, write_export

EXPORTED = Exported("onnx", b"graph", b"", {})


def test_a_file_is_written_and_not_replaced_unless_asked(tmp_path):
    path = tmp_path / "model.onnx"
    write_export(EXPORTED, path)
    assert path.read_bytes() == b"graph"
    path.write_bytes(b"mine")
    with pytest.raises(UserError, match=r"model\.onnx is there already; .* --force"):
        write_export(EXPORTED, path)
    assert path.read_bytes() == b"mine"
    write_export(EXPORTED, path, overwrite=True)
    assert path.read_bytes() == b"graph"
    assert [x.name for x in tmp_path.iterdir()] == ["model.onnx"]


def test_a_folder_that_is_missing_and_a_folder_for_a_file_are_named(tmp_path):
    with pytest.raises(UserError, match="does not exist; create it first"):
        check_output(tmp_path / "no" / "model.onnx")
    with pytest.raises(UserError, match="is a folder; name a file"):
        check_output(tmp_path, overwrite=True)
