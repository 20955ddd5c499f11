"""A save that does not come to its end leaves the checkpoint before it."""

import io
import os

import pytest
import torch
from torch import nn

from fpn_d2 import UserError
from fpn_d2.checkpoint import SafeCheckpointer


@pytest.fixture
def model() -> nn.Module:
    model = nn.Linear(2, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    return model


@pytest.fixture
def checkpointer(model, tmp_path):
    """One that has saved ones as "model_0" at iteration 0."""
    checkpointer = SafeCheckpointer(model, str(tmp_path))
    checkpointer.save("model_0", iteration=0)
    nn.init.constant_(model.weight, 2.0)
    return checkpointer


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def last_weights(folder):
    """What a new process would go on from."""
    model = nn.Linear(2, 1, bias=False)
    rest = SafeCheckpointer(model, str(folder)).resume_or_load("", resume=True)
    return model.weight.tolist(), rest["iteration"]


@pytest.fixture
def full_disk(monkeypatch):
    save = torch.save

    def fail(data, file):
        buffer = io.BytesIO()
        save(data, buffer)
        file.write(buffer.getvalue()[: len(buffer.getvalue()) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    return monkeypatch


@pytest.mark.parametrize("name", ["model_1", "model_0"])
def test_a_failed_save_leaves_the_checkpoint_before_it(checkpointer, full_disk, tmp_path, name):
    with pytest.raises(UserError, match=rf"{name} could not be written .*No space left") as error:
        checkpointer.save(name, iteration=1)
    assert "\n" not in str(error.value)
    full_disk.undo()
    assert names(tmp_path) == ["last_checkpoint", "model_0.pth"]
    assert last_weights(tmp_path) == ([[1.0, 1.0]], 0)


def test_a_failed_save_in_torchs_own_words(checkpointer, tmp_path, monkeypatch):
    """Its writer raises a RuntimeError of its own behind the system's error."""
    real, failed = open, []

    def on_a_full_disk(path, mode="r", **options):
        if str(path).endswith(".partial") and not failed:
            failed.append(path)
            return real("/dev/full", mode, **options)
        return real(path, mode, **options)

    monkeypatch.setattr("builtins.open", on_a_full_disk)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    with pytest.raises(UserError, match="No space left on device"):
        checkpointer.save("model_1", iteration=1)
    monkeypatch.undo()
    assert failed
    assert names(tmp_path) == ["last_checkpoint", "model_0.pth"]
    assert last_weights(tmp_path) == ([[1.0, 1.0]], 0)


def test_other_errors_are_not_taken_for_a_full_disk(checkpointer, monkeypatch):
    def fail(*_):
        raise RuntimeError("a mistake of the program's")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match="a mistake"):
        checkpointer.save("model_1", iteration=1)


def test_a_failure_between_checkpoint_and_its_tag_loses_neither(
    checkpointer, tmp_path, monkeypatch
):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpointer, "tag_last_checkpoint", stop)
    with pytest.raises(KeyboardInterrupt):
        checkpointer.save("model_1", iteration=1)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0.pth"
    assert last_weights(tmp_path) == ([[2.0, 2.0]], 1)


def test_the_tag_is_replaced_as_a_whole(checkpointer, tmp_path, monkeypatch):
    seen = []

    def look(source, target):
        seen.append((tmp_path / "last_checkpoint").read_text())
        replace(source, target)

    replace = os.replace
    monkeypatch.setattr(os, "replace", look)
    checkpointer.save("model_1", iteration=1)
    assert seen == ["model_0.pth", "model_0.pth"]  # before the checkpoint, and before the tag
    assert last_weights(tmp_path) == ([[2.0, 2.0]], 1)


def test_what_a_kill_left_is_in_nobodys_way(checkpointer, tmp_path):
    # The process id of a kill before, in a file that is no checkpoint.
    (tmp_path / "model_1.pth.4711.partial").write_bytes(b"half a check")
    (tmp_path / "last_checkpoint.4711.partial").write_text("model_1.p")
    assert last_weights(tmp_path) == ([[1.0, 1.0]], 0)
    checkpointer.save("model_1", iteration=1)
    assert last_weights(tmp_path) == ([[2.0, 2.0]], 1)
