"""Files that are no checkpoints end in one sentence that names them."""

import pickle

import pytest
import torch
from torch import nn

from fpn_d2 import UserError
from fpn_d2.checkpoint import SafeCheckpointer


def whole(path):
    """A sound checkpoint of the model below, in the form that the name's ending says."""
    model = nn.Linear(2, 2)
    if path.suffix == ".pkl":
        weights = {name: value.numpy() for name, value in model.state_dict().items()}
        path.write_bytes(pickle.dumps({"model": weights, "__author__": "a test"}))
    else:
        torch.save({"model": model.state_dict()}, path)
    return path.read_bytes()


@pytest.mark.parametrize("name", ["model.pth", "model.pkl"])
@pytest.mark.parametrize("damage", ["empty", "cut short", "a web page"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, name, damage):
    path = tmp_path / name
    content = whole(path)
    SafeCheckpointer(nn.Linear(2, 2), strict=True).load(str(path))  # its benign twin
    damaged = {"empty": b"", "cut short": content[: len(content) // 2], "a web page": b"<html>"}
    path.write_bytes(damaged[damage])
    with pytest.raises(UserError, match=name) as error:
        SafeCheckpointer(nn.Linear(2, 2)).load(str(path))
    assert "\n" not in str(error.value)


def test_torchs_advice_to_run_it_is_not_passed_on(tmp_path):
    """Zeros, as a disk leaves them, look like an empty tar to torch; a TorchScript is code."""
    (tmp_path / "zeros.pth").write_bytes(bytes(10**6))
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "script.pth")
    for name in ("zeros.pth", "script.pth"):
        with pytest.raises(UserError, match=name) as error:
            SafeCheckpointer(nn.Linear(2, 2)).load(str(tmp_path / name))
        assert "weights_only" not in str(error.value)
        assert "trusted" not in str(error.value)
