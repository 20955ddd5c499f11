"""Hostile files and files that are no checkpoints are refused by name; sound ones load."""

import pickle
import struct
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hostile_files import Evil, object_array, write_zip_bomb
from safetensors.torch import save_file
from torch import nn

from fpn_d2 import UserError
from fpn_d2.checkpoint import SafeCheckpointer
from fpn_d2.checkpoint.safe_load import read_torch


def weights():
    return {"weight": np.ones((2, 2), np.float32), "bias": np.zeros(2, np.float32)}


def zoo(**more):
    return {"model": weights(), "__author__": "a test", **more}


def tensors(**more):
    state = {name: torch.from_numpy(value) for name, value in weights().items()}
    return {"model": OrderedDict(state), "iteration": 3, "scores": np.float64(1.5), **more}


def load(path):
    """The weight that a model takes from the file."""
    model = nn.Linear(2, 2)
    SafeCheckpointer(model, strict=True).load(str(path))
    return model.weight


def refusal(path, match):
    with pytest.raises(UserError, match=match) as error:
        load(path)
    assert "\n" not in str(error.value)
    return str(error.value)


# where the hostile object sits in an otherwise sound file
PLACES = {
    "beside the model": lambda evil: {"more": evil},
    "nested in containers": lambda evil: {"more": [({"deep": [evil]},)]},
    "as a weight": lambda evil: {"model": {**weights(), "extra": evil}},
    "in an object array": lambda evil: {"more": object_array(evil)},
    "as a key": lambda evil: {"more": {1: evil, "a": (evil,)}},
}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("place", PLACES)
def test_code_in_a_pkl_is_not_run(tmp_path, place, protocol):
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(zoo(**PLACES[place]("harmless")), protocol))
    if place != "as a weight":  # which has no shape
        load(path)
    path.write_bytes(pickle.dumps(zoo(**PLACES[place](Evil(tmp_path))), protocol))
    refusal(path, r"model\.pkl cannot be read \(it holds \w+\.mkdir")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before PyTorch 1.6"])
@pytest.mark.parametrize("place", [place for place in PLACES if place != "as a weight"])
def test_code_in_a_pth_is_not_run(tmp_path, place, zipped):
    path = tmp_path / "model.pth"
    if place != "in an object array":  # torch refuses those, whatever is in them
        content = tensors(**PLACES[place]("harmless"))
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        load(path)
    content = tensors(**PLACES[place](Evil(tmp_path)))
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    refusal(path, r"the checkpoint \S*model\.pth .*(mkdir|ObjectDType)")
    assert not (tmp_path / "made").exists()


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "model.pth"
    state = {"lr": np.float32(0.1), "history": [np.int64(3), 1.5, None, True], "name": "x"}
    torch.save(tensors(trainer=state), path)  # what a trainer leaves
    load(path)
    assert read_torch(str(path))["trainer"] == state
    write_zip_bomb(tensors(), path)
    assert path.stat().st_size < 10**6
    refusal(path, r"model\.pth would unpack to \d+ bytes")


@pytest.mark.parametrize("content", [[1, 2], "text", 3])
def test_something_else_than_weights_by_name(tmp_path, content):
    torch.save(content, tmp_path / "model.pth")
    refusal(tmp_path / "model.pth", r"model\.pth holds a \w+ and no weights by name")
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(content))
    refusal(tmp_path / "model.pkl", r"model\.pkl is a \w+, no dict")


@pytest.mark.parametrize("name", ["model.pth", "model.pkl"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, name):
    path = tmp_path / name
    if name == "model.pkl":
        path.write_bytes(pickle.dumps(zoo()))
    else:
        torch.save(tensors(), path)
    load(path)  # their benign twin
    content = path.read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"<html>"):
        path.write_bytes(damaged)
        refusal(path, name)


def test_torchs_advice_to_run_it_is_not_passed_on(tmp_path):
    """torch takes zeros, which a disk may leave, for an empty tar; a TorchScript file is code."""
    (tmp_path / "zeros.pth").write_bytes(bytes(10**6))
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "script.pth")
    for name in ("zeros.pth", "script.pth"):
        sentence = refusal(tmp_path / name, name)
        assert "weights_only" not in sentence
        assert "trusted" not in sentence


def test_pycls_checkpoints_and_safetensors_load(tmp_path):
    path = tmp_path / "model.pyth"
    torch.save({"model_state": tensors()["model"]}, path)
    assert load(path).eq(1).all()
    torch.save(tensors(), path)
    refusal(path, r"model\.pyth is no checkpoint of pycls")
    path = tmp_path / "model.safetensors"
    save_file(dict(tensors()["model"]), path)
    assert load(path).eq(1).all()
    for content in (struct.pack("<Q", 2**40) + b"{}", b""):  # a header longer than the file; none
        path.write_bytes(content)
        refusal(path, r"model\.safetensors cannot be read")
