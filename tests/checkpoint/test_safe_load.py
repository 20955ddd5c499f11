"""Hostile checkpoints are refused by name and run nothing; their benign twins load."""

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fpn_d2 import UserError
from fpn_d2.checkpoint import SafeCheckpointer
from fpn_d2.checkpoint.pickles import load_arrays
from fpn_d2.checkpoint.safe_load import read_torch


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def weights():
    return {"weight": np.ones((2, 2), np.float32), "bias": np.zeros(2, np.float32)}


def zoo(**more):
    return {"model": weights(), "__author__": "a test", **more}


def tensors(**more):
    state = {name: torch.from_numpy(value) for name, value in weights().items()}
    return {"model": OrderedDict(state), "iteration": 3, "scores": np.float64(1.5), **more}


def object_array(value):
    array = np.empty(1, dtype=object)
    array[0] = value
    return array


# where the hostile object sits in an otherwise sound file
PLACES = {
    "beside the model": lambda evil: {"more": evil},
    "nested in containers": lambda evil: {"more": [({"deep": [evil]},)]},
    "as a weight": lambda evil: {"model": {**weights(), "extra": evil}},
    "in an object array": lambda evil: {"more": object_array(evil)},
    "as a key": lambda evil: {"more": {1: evil, "a": (evil,)}},
}


def load(path):
    SafeCheckpointer(nn.Linear(2, 2)).load(str(path))


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("place", PLACES)
def test_code_in_a_pkl_is_not_run(tmp_path, place, protocol):
    path, made = tmp_path / "model.pkl", tmp_path / "made"
    path.write_bytes(pickle.dumps(zoo(**PLACES[place]("harmless")), protocol))
    if place not in ("as a weight",):  # which has no shape
        load(path)
    path.write_bytes(pickle.dumps(zoo(**PLACES[place](Evil(made))), protocol))
    with pytest.raises(UserError, match=r"model\.pkl cannot be read \(it holds \w+\.mkdir"):
        load(path)
    assert not made.exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before PyTorch 1.6"])
@pytest.mark.parametrize("place", [place for place in PLACES if place != "as a weight"])
def test_code_in_a_pth_is_not_run(tmp_path, place, zipped):
    path, made = tmp_path / "model.pth", tmp_path / "made"
    if place != "in an object array":  # torch refuses those, whatever is in them
        content = tensors(**PLACES[place]("harmless"))
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        load(path)
    content = tensors(**PLACES[place](Evil(made)))
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"the checkpoint \S*model\.pth .*(mkdir|ObjectDType)"):
        load(path)
    assert not made.exists()


@pytest.mark.parametrize(
    "code",
    [
        b"cbuiltins\neval\n(Vopen('made','w')\ntR.",
        b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x0fopen('made','w')\x85R.",
        b"(Vopen('made','w')\nibuiltins\neval\n.",  # INST
        b"cnumpy\nload\n(Vmade\ntR.",  # numpy's, but not one that builds an array
        b"cnumpy.f2py\ncompile\n(Vmade\ntR.",
        b"cfpn_d2.errors\nUserError\n(Vmade\ntR.",
    ],
)
def test_pickle_programs_are_refused(tmp_path, code, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pkl"
    path.write_bytes(code)
    with pytest.raises(UserError, match=r"model\.pkl cannot be read \(it holds "):
        load(path)
    assert not (tmp_path / "made").exists()


def test_a_pickle_that_would_fill_the_memory(tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(b"\x80\x04]r" + struct.pack("<I", 2**31) + b".")  # LONG_BINPUT
    with pytest.raises(UserError, match=r"model\.pkl cannot be read \(its memo is larger"):
        load(path)
    path.write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 2**50) + b"few.")  # BINBYTES8
    with pytest.raises(UserError, match=r"model\.pkl cannot be read"):
        load(path)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "model.pth"
    torch.save(tensors(), path)
    load(path)
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content if "/data/" not in name else bytes(10**8))
    assert path.stat().st_size < 10**6
    with pytest.raises(UserError, match=r"model\.pth would unpack to \d+ bytes"):
        load(path)


@pytest.mark.parametrize("content", [[1, 2], "text", 3])
def test_something_else_than_weights_by_name(tmp_path, content):
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(UserError, match=r"model\.pth holds a \w+ and no weights by name"):
        load(tmp_path / "model.pth")
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=r"model\.pkl is a \w+, no dict"):
        load(tmp_path / "model.pkl")


def test_what_a_trainer_leaves_is_read(tmp_path):
    state = {"lr": np.float32(0.1), "history": [np.int64(3), 1.5, None, True], "name": "x"}
    torch.save(tensors(trainer=state), tmp_path / "model.pth")
    assert read_torch(str(tmp_path / "model.pth"))["trainer"]["lr"] == np.float32(0.1)


def test_pycls_checkpoints(tmp_path):
    path = tmp_path / "model.pyth"
    torch.save({"model_state": tensors()["model"]}, path)
    model = nn.Linear(2, 2)
    SafeCheckpointer(model).load(str(path))
    assert model.weight.eq(1).all()
    torch.save(tensors(), path)
    with pytest.raises(UserError, match=r"model\.pyth is no checkpoint of pycls"):
        load(path)


def test_safetensors_load(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(dict(tensors()["model"]), path)
    model = nn.Linear(2, 2)
    SafeCheckpointer(model, strict=True).load(str(path))
    assert model.weight.eq(1).all()
    path.write_bytes(struct.pack("<Q", 2**40) + b"{}")  # a header longer than the file
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read"):
        load(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read"):
        load(path)


def test_arrays_of_every_protocol_are_read_as_they_are(tmp_path):
    content = {"a": np.arange(6).reshape(2, 3), "b": [np.float32(2.5), "text", None, (1, 2)]}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path = tmp_path / f"{protocol}.pkl"
        path.write_bytes(pickle.dumps(content, protocol))
        read = load_arrays(str(path), "the file", "write it again")
        assert read["b"] == content["b"]
        assert (read["a"] == content["a"]).all()
    assert io.BytesIO(path.read_bytes()).read(1) == b"\x80"


def test_a_file_that_is_not_there_or_a_folder(tmp_path):
    for path in (tmp_path / "nowhere.pkl", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            load_arrays(str(path), "the file", "write it again")
