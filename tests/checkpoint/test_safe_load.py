"""Hostile files and files that are no checkpoints are refused by name; sound ones load."""

import argparse
import pickle
import struct
import zipfile
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hostile_files import Evil, object_array, write_zip_bomb
from model_zoo import write_python2_pickle
from safetensors.torch import save_file
from torch import nn

from fpn_d2 import UserError
from fpn_d2.checkpoint import SafeCheckpointer
from fpn_d2.checkpoint.safe_load import load_arrays, read_torch


def weights():
    return {"weight": np.ones((2, 2), np.float32), "bias": np.zeros(2, np.float32)}


def zoo(**more):
    return {"model": weights(), "__author__": "a test", **more}


def tensors(**more):
    state = {name: torch.from_numpy(value) for name, value in weights().items()}
    return {"model": OrderedDict(state), "iteration": 3, "scores": np.float64(1.5), **more}


def load(path):
    """Return the weight that a model takes from the file."""
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
    if place != "as a weight":  # a string has no shape
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


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before PyTorch 1.6"])
def test_the_options_of_torchvisions_trainings_are_passed_over(tmp_path, zipped):
    """Its references/detection/train.py saves them beside the weights."""
    path = tmp_path / "model.pth"
    content = tensors(args=argparse.Namespace(lr=0.02, data_path="coco", aspect_ratio=[3]))
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert load(path).eq(1).all()
    assert not hasattr(read_torch(str(path))["args"], "lr")
    content = tensors(args=argparse.Namespace(lr=Evil(tmp_path)))
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    refusal(path, r"the checkpoint \S*model\.pth .*mkdir")
    assert not (tmp_path / "made").exists()


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
    load(path)  # undamaged, it loads
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


# --- arrays come out of a pickle as they went in; lies about them and programs are refused


def arrays_in(path):
    return load_arrays(str(path), "the file", "write it again")


def through_pickle(value, path, protocol):
    path.write_bytes(pickle.dumps(value, protocol))
    return arrays_in(path)


def through_python2(value, path, protocol):
    return arrays_in(write_python2_pickle(path, value))


def through_torch(value, path, protocol):
    torch.save(value, path, pickle_protocol=protocol)
    return read_torch(str(path))


WAYS = pytest.mark.parametrize(
    "way, protocol",
    [*((through_pickle, p) for p in range(6)), (through_python2, 2), (through_torch, 2)],
    ids=[*map(str, range(6)), "Python 2", "torch"],
)
CODES = ["?", "i1", "u2", "<i8", ">i4", "f2", "<f4", ">f8", "c16", "S3", "<U4", ">U2", "O"]


@WAYS
@pytest.mark.parametrize("code", CODES)
def test_arrays_and_scalars_come_back(tmp_path, way, protocol, code):
    rows = np.array([[0, 1, 2], [3, 4, 5]]).astype(code)
    values = {"C": rows, "F": np.asfortranarray(rows), "strided": rows[:, ::2]}
    values |= {"empty": rows[:0], "transposed": rows.T, "none": np.array(rows[0, 0], code)}
    values["long"] = np.tile(rows, 700)
    if code != "O":
        values["scalar"] = rows[1, 1]
    read = way(values, tmp_path / "file", protocol)
    for name, value in values.items():
        expected = pickle.loads(pickle.dumps(value, protocol))  # NumPy changes some byte orders
        assert np.asarray(read[name]).dtype == np.asarray(expected).dtype, name
        assert np.array_equal(read[name], value), name


@WAYS
def test_plain_containers_come_back(tmp_path, way, protocol):
    content = {"a": [np.float32(2.5), "text", None, (1, 2), True], 3: {"b": 1.5}}
    assert way(content, tmp_path / "file", protocol) == content


class Reduced:
    """An object whose ``__reduce__`` returns these values."""

    def __init__(self, *value):
        self.value = value

    def __reduce__(self):
        return self.value


def array(dtype):
    """Return two elements whose bytes, taken for addresses, point to nothing."""
    reconstruct, args, _ = np.zeros(1).__reduce__()
    return Reduced(reconstruct, args, (1, (2,), dtype, False, b"A" * 16))


def scalar(dtype):
    return Reduced(np.float64(0).__reduce__()[0], (dtype, b"A" * 8))


LIES = {
    "objects that are bytes": ("O8", (3, "|", None, None, None, -1, -1, 0)),
    "numbers that are counted": ("f8", (3, "<", None, None, None, -1, -1, 1)),
    "numbers that are listed": ("f8", (3, "<", None, None, None, -1, -1, 63)),
    "more than its bytes": ("f8", (3, "<", (np.dtype("f8"), (9**9,)), None, None, -1, -1, 0)),
    "a field far away": ("V8", (3, "|", None, ("a",), {"a": (np.dtype("f8"), 10**9)}, 8, 1, 0)),
    "a longer text": ("S8", (3, "|", None, None, None, 10**7, 1, 0)),
    "metadata": ("f8", (4, "<", None, None, None, -1, -1, 0, {"a": 1})),
}


@pytest.mark.parametrize("kind", [array, scalar])
@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("way, protocol", [(through_pickle, 4), (through_torch, 2)])
def test_a_state_that_lies_is_refused(tmp_path, way, protocol, kind, lie):
    """The first lie kills a process that believes it."""
    code, state = LIES[lie]
    dtype = Reduced(np.dtype, (code, False, True), state)
    with pytest.raises(UserError, match=r"file cannot be read \(it (describes|holds an array)"):
        way({"a": kind(dtype)}, tmp_path / "file", protocol)


def test_an_array_with_its_order_of_axes_is_turned(tmp_path):
    """As NumPy 2.4 writes one of the order "K" with protocol 5: the axes as they lie in memory,
    and how to put them back."""
    build = np.arange(2).__reduce_ex__(5)[0]  # _frombuffer
    value = Reduced(build, (bytes(range(6)), np.dtype("u1"), (2, 3), "K", (1, 0)))
    found = through_pickle({"a": value}, tmp_path / "file", 5)["a"]
    assert found.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_options_do_not_become_a_type_that_lies(tmp_path):
    """A pickle can set any attribute of an object without __setstate__, its class included."""
    changed = {"__class__": np.dtype, "dtype": "V8"}
    options = Reduced(argparse.Namespace, (), (None, changed))
    with pytest.raises(UserError, match=r"file cannot be read \(it holds an array without a type"):
        through_torch({"a": array(options)}, tmp_path / "file", 2)


@pytest.mark.parametrize(
    "code",
    [
        b"cbuiltins\neval\n(Vopen('made','w')\ntR.",
        b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x0fopen('made','w')\x85R.",
        b"(Vopen('made','w')\nibuiltins\neval\n.",  # INST
        b"cnumpy\nload\n(Vmade\ntR.",  # numpy's, but not one that builds an array
        b"cnumpy.f2py\ncompile\n(Vmade\ntR.",
        b"cfpn_d2.utils.errors\nUserError\n(Vmade\ntR.",
    ],
)
def test_programs_are_refused(tmp_path, code, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(code)
    with pytest.raises(UserError, match=r"file cannot be read \(it holds "):
        arrays_in(tmp_path / "file")
    assert not (tmp_path / "made").exists()


def test_a_pickle_that_would_fill_the_memory_or_is_none(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"\x80\x04]r" + struct.pack("<I", 2**31) + b".")  # LONG_BINPUT
    with pytest.raises(UserError, match=r"file cannot be read \(its memo is larger"):
        arrays_in(path)
    path.write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 2**50) + b"few.")  # BINBYTES8
    for unreadable in (path, tmp_path / "nowhere.pkl", tmp_path):
        with pytest.raises(UserError, match=r"the file .* cannot be read"):
            arrays_in(unreadable)


def test_torchs_reason_is_told_without_its_source_line(tmp_path):
    path = str(tmp_path / "model.pth")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("inner.pth", b"a file of weights, zipped once more")
    with pytest.raises(UserError, match=r"\(file in archive is not in a subdirectory"):
        read_torch(path)


def test_where_tensors_of_a_pkl_belong_is_told(tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": {"weight": torch.zeros(1)}}))
    with pytest.raises(UserError, match="only arrays belong there; tensors belong in a .pth"):
        load_arrays(str(path), "the checkpoint", "name another")


def test_threads_read_at_once(tmp_path):
    path = str(tmp_path / "model.pth")
    torch.save({"model": {str(i): torch.zeros(9) for i in range(200)}, "ap": np.float64(1)}, path)
    with ThreadPoolExecutor(4) as pool:
        assert all(content["ap"] == 1 for content in pool.map(read_torch, [path] * 100))
