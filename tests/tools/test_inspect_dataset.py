"""tools/inspect_dataset.py, as a user calls it."""

import inspect_dataset
import pytest


@pytest.mark.usefixtures("tiny_opts")
def test_a_registered_name(printed, tmp_path):
    out = printed(inspect_dataset, "tiny_val", "--output", tmp_path, "--samples", 1)
    assert "MODEL.ANCHOR_GENERATOR.SIZES" in out
    names = ["tiny_val_inspect.html", "tiny_val_inspect.json"]
    assert sorted(p.name for p in tmp_path.glob("*.*")) == names


def test_a_folder(printed, refused, tiny_root, tmp_path):
    words = ["--output", tmp_path, "--samples", 0]
    out = printed(inspect_dataset, f"{tiny_root}/tiny/", "--split", "val", *words)
    assert f"{tiny_root}/tiny_val: " in out
    assert (tmp_path / "tiny_val_inspect.html").is_file()
    error = refused(inspect_dataset, f"{tiny_root}/tiny", "--split", "test", *words)
    assert "has no split test: choose train or val with --split" in error


@pytest.mark.parametrize(
    "words, message",
    [
        (["shapes_vall"], "did you mean shapes_val"),
        (["nowhere.json"], "annotation file nowhere.json does not exist"),
        (["shapes_val", "--samples", "-1"], "--samples is -1"),
        (["shapes_val", "--config-file", "no.yaml"], "no.yaml"),
    ],
)
def test_what_cannot_be_inspected(run_tool, words, message, tmp_path):
    code, out, error = run_tool(inspect_dataset, *words, "--output", tmp_path / "out")
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert message in error
    assert not (tmp_path / "out").exists()
