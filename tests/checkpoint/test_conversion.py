"""Converted weights are the same, bit for bit, and nothing else comes along."""

import os
from pathlib import Path
from unittest.mock import Mock

import convert_checkpoint as tool
import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from hostile_files import Evil
from model_zoo import (
    caffe2_blobs,
    caffe2_model_would_have,
    different,
    scramble,
    stock_config,
    write_pickle,
    write_python2_pickle,
)
from safetensors import safe_open
from safetensors.torch import save_file

from fpn_d2 import UserError
from fpn_d2.checkpoint import load_model
from fpn_d2.checkpoint.conversion import convert_checkpoint, read_weights


@pytest.fixture
def source(tmp_path):
    """The path and weights of a training's checkpoint with every kind of number and odd values."""
    odd = torch.tensor([float("nan"), float("inf"), -0.0, 1e-40])
    weights = {"odd": odd, "tied": odd[:2], "strided": torch.arange(6.0).reshape(2, 3).T}
    weights |= {"half": odd.half(), "bfloat16": odd.bfloat16(), "double": odd.double()}
    weights |= {"count": torch.tensor(3), "none": torch.zeros(0, 4), "flag": torch.tensor([True])}
    path = tmp_path / "model_final.pth"
    torch.save({"model": weights, "trainer": {"iteration": 5}, "iteration": 5}, path)
    return str(path), weights


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_every_number_comes_through_and_nothing_else(source, tmp_path, ending):
    path, weights = source
    target = str(tmp_path / "new" / f"weights.{ending}")
    convert_checkpoint(path, target)
    assert not different(read_weights(target)["model"], weights)
    if ending == "pth":
        assert set(torch.load(target)) == {"model"}
    else:
        with safe_open(target, "pt") as file:
            assert set(file.keys()) == set(weights)


def test_a_zoo_file_of_other_names_still_loads(row_config, tmp_path):
    """The names are Caffe2's, and the hint that says so comes along."""
    stock = build_model(stock_config("RPN", "C4", 50))
    state = scramble(stock, seed=1)
    blobs = caffe2_blobs(state, 50, pyramid=False)
    expected = caffe2_model_would_have(state)
    path = write_python2_pickle(tmp_path / "model.pkl", {"blobs": blobs, "cfg": "MODEL: {}"})
    for target in (str(tmp_path / "weights.safetensors"), str(tmp_path / "weights.pth")):
        convert_checkpoint(path, target)
        assert not any(name.endswith("_momentum") for name in read_weights(target)["model"])
        loaded = load_model(row_config("RPN/rpn_R_50_C4", "MODEL.WEIGHTS", target))
        assert not different(loaded.state_dict(), expected)
    DetectionCheckpointer(stock).load(target)
    assert not different(stock.state_dict(), expected)


def test_arrays_of_another_byte_order_are_turned_and_text_is_refused(tmp_path):
    arrays = {"a": np.arange(3, dtype=">f4"), "b": np.float32([[1, 2], [3, 4]]).T}
    path = write_pickle(tmp_path / "model.pkl", {"model": arrays, "__author__": "someone"})
    content = convert_checkpoint(path, str(tmp_path / "weights.safetensors"))
    assert content["__author__"] == "someone"
    assert content["model"]["a"].tolist() == [0, 1, 2]
    assert content["model"]["b"].tolist() == [[1, 3], [2, 4]]
    for value in (np.array(["x"]), np.zeros(1, np.longdouble), np.zeros(1, np.clongdouble)):
        arrays["a"] = value
        write_pickle(tmp_path / "model.pkl", {"model": arrays, "__author__": "someone"})
        with pytest.raises(UserError, match=f"has {value.dtype} as its weight 'a'"):
            convert_checkpoint(path, str(tmp_path / "weights.pth"))


def test_the_tool_says_what_it_wrote_and_replaces_nothing(source, tmp_path, run_tool):
    target = tmp_path / "weights.safetensors"
    target.write_bytes(b"mine")
    code, _, stderr = run_tool(tool, source[0], target)
    assert (code, stderr.count("\n")) == (2, 1)
    assert "weights.safetensors is there already" in stderr
    assert target.read_bytes() == b"mine"
    code, stdout, _ = run_tool(tool, source[0], target, "--force")
    assert code == 0
    assert stdout.strip().endswith("weights.safetensors: 9 tensors, 26 numbers")


def test_a_failure_leaves_what_was_there(source, tmp_path, monkeypatch):
    target = tmp_path / "weights.pth"
    target.write_bytes(b"mine")
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(28, "No space left")))
    with pytest.raises(UserError, match=r"weights\.pth could not be written \(No space left"):
        convert_checkpoint(source[0], str(target), overwrite=True)
    assert target.read_bytes() == b"mine"
    assert sorted(os.listdir(tmp_path)) == ["model_final.pth", "weights.pth"]


def test_class_names_come_along(tmp_path):
    names = ["cod", "\u9c7c", ""]
    source = str(tmp_path / "model.pth")
    content = {"model": {"a": torch.zeros(2)}, "class_names": names, "iteration": 3}
    torch.save(content, source)
    convert_checkpoint(source, str(tmp_path / "a.safetensors"))
    written = convert_checkpoint(str(tmp_path / "a.safetensors"), str(tmp_path / "b.pth"))
    assert written["class_names"] == names
    assert torch.load(tmp_path / "b.pth", weights_only=True)["class_names"] == names
    assert read_weights(str(tmp_path / "b.pth"))["class_names"] == names


@pytest.mark.parametrize("text", ["", "cod", "[", "5", "[" * 100_000, '["a", 1]'])
def test_metadata_that_are_no_names_are_left_out(tmp_path, text):
    path = str(tmp_path / "a.safetensors")
    hints = {"class_names": text, "matching_heuristics": "False"}
    save_file({"a": torch.zeros(2)}, path, hints)
    assert set(read_weights(path)) == {"model"}


BAD = {
    "code": (lambda: {"model": {}, "more": Evil(Path())}, "holds posix.mkdir"),
    "no weights": (lambda: {"model": {}}, "holds no weights"),
    "a list of weights": (lambda: {"model": [torch.zeros(1)]}, "has a list where its weights"),
    "a number": (lambda: {"model": {"a": 3}}, "has a int as its weight 'a'"),
    "a bomb": (lambda: {"model": {"a": torch.zeros(1).expand(2**40)}}, "would unfold to"),
    **{
        kind: (lambda value=value: {"model": {"a": value}}, "has a sparse, quantized or empty")
        for kind, value in {
            "a sparse tensor": torch.eye(2).to_sparse(),
            "a quantized tensor": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
            "a tensor without numbers": torch.empty(2, device="meta"),
        }.items()
    },
    "complex numbers": (
        lambda: {"model": {"a": torch.zeros(2, dtype=torch.complex128)}},
        r"has torch\.complex128 as its weight 'a', which .safetensors cannot hold; write a .pth",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_checkpoint_is_refused(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    content, why = BAD[case]
    torch.save(content(), "bad.pth")
    with pytest.raises(UserError, match=f"the checkpoint bad.pth {why}"):
        convert_checkpoint("bad.pth", "weights.safetensors")
    assert os.listdir(tmp_path) == ["bad.pth"]


def test_complex_and_tied_weights_go_into_a_pth_and_no_name_is_refused(tmp_path):
    weights = {"a": torch.tensor([1 + 2j], dtype=torch.complex128)}
    weights |= dict.fromkeys("bc", torch.rand(2**19))  # the file has these 2 MB once
    torch.save({"model": weights}, tmp_path / "model.pth")
    convert_checkpoint(str(tmp_path / "model.pth"), str(tmp_path / "weights.pth"))
    assert not different(read_weights(str(tmp_path / "weights.pth"))["model"], weights)
    with pytest.raises(UserError, match="name of the checkpoint is empty; name a file"):
        convert_checkpoint("", str(tmp_path / "other.pth"))
