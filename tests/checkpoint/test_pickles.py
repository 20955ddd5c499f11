"""Arrays come out of a pickle as they went in; lies about them and programs are refused."""

import pickle
import struct

import numpy as np
import pytest
import torch

from fpn_d2 import UserError
from fpn_d2.checkpoint.pickles import load_arrays
from fpn_d2.checkpoint.safe_load import read_torch


def load(path):
    return load_arrays(str(path), "the file", "write it again")


def through_pickle(value, path, protocol):
    path.write_bytes(pickle.dumps(value, protocol))
    return load(path)


def through_torch(value, path, protocol):
    torch.save(value, path, pickle_protocol=protocol)
    return read_torch(str(path))


WAYS = pytest.mark.parametrize(
    "way, protocol",
    [*((through_pickle, p) for p in range(6)), (through_torch, 2)],
    ids=[*map(str, range(6)), "torch"],
)
CODES = ["?", "i1", "u2", "<i8", ">i4", "f2", "<f4", ">f8", "c16", "S3", "<U4", ">U2", "O"]


@WAYS
@pytest.mark.parametrize("code", CODES)
def test_arrays_and_scalars_come_back(tmp_path, way, protocol, code):
    rows = np.array([[0, 1, 2], [3, 4, 5]]).astype(code)
    values = {"C": rows, "F": np.asfortranarray(rows), "strided": rows[:, ::2]}
    values |= {"empty": rows[:0], "transposed": rows.T, "none": np.array(rows[0, 0], code)}
    if code != "O":
        values["scalar"] = rows[1, 1]
    read = way(values, tmp_path / "file", protocol)
    for name, value in values.items():
        expected = pickle.loads(pickle.dumps(value, protocol))  # NumPy turns some bytes round
        assert np.asarray(read[name]).dtype == np.asarray(expected).dtype, name
        assert np.array_equal(read[name], value), name


@WAYS
def test_plain_containers_come_back(tmp_path, way, protocol):
    content = {"a": [np.float32(2.5), "text", None, (1, 2), True], 3: {"b": 1.5}}
    assert way(content, tmp_path / "file", protocol) == content


class Reduced:
    """An object that a pickle describes by this."""

    def __init__(self, *value):
        self.value = value

    def __reduce__(self):
        return self.value


def array(dtype):
    """Two elements whose bytes are addresses of nothing."""
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
        load(tmp_path / "file")
    assert not (tmp_path / "made").exists()


def test_a_pickle_that_would_fill_the_memory_or_is_none(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"\x80\x04]r" + struct.pack("<I", 2**31) + b".")  # LONG_BINPUT
    with pytest.raises(UserError, match=r"file cannot be read \(its memo is larger"):
        load(path)
    path.write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 2**50) + b"few.")  # BINBYTES8
    for unreadable in (path, tmp_path / "nowhere.pkl", tmp_path):
        with pytest.raises(UserError, match=r"the file .* cannot be read"):
            load(unreadable)
