"""--resume takes the newest checkpoint that is whole, and says which ones it skipped and why. A
save that fails leaves the checkpoint before it."""

import functools
import logging
import math
import os
import pickle
import re
import shutil
from unittest.mock import Mock

import pytest
import torch
from hostile_files import Evil
from torch import nn

from fpn_d2 import UserError
from fpn_d2.checkpoint import SafeCheckpointer
from fpn_d2.checkpoint.resume_point import last_finite_checkpoint, newest_whole, tagged_checkpoint


def checkpointer_of(folder, iteration=0):
    """A checkpointer of a model and an optimizer whose numbers are the iteration."""
    model = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1, momentum=0.9)
    nn.init.constant_(model.weight, iteration)
    optimizer.state[model.weight]["momentum_buffer"] = torch.full((1, 2), float(iteration))
    return SafeCheckpointer(model, str(folder), optimizer=optimizer)


def save(folder, *iterations, final=None):
    """Save a training's checkpoints, each with its iteration as its weights and momentum."""
    for iteration in iterations:
        name = "model_final" if iteration == final else f"model_{iteration:07d}"
        checkpointer_of(folder, iteration).save(name, iteration=iteration)


def resumed(folder):
    """Return the iteration that a new process goes on from; check its weights and momentum."""
    checkpointer = checkpointer_of(folder)
    iteration = checkpointer.resume_or_load("", resume=True)["iteration"]
    weight, optimizer = checkpointer.model.weight, checkpointer.checkpointables["optimizer"]
    assert weight.tolist() == [[iteration] * 2]
    assert optimizer.state[weight]["momentum_buffer"].tolist() == [[iteration] * 2]
    return iteration


@pytest.fixture
def skipped(caplog):
    """``skipped()``: the lines of the log that name a skipped checkpoint."""
    caplog.set_level(logging.WARNING, "fpn_d2")
    return lambda: [r.getMessage() for r in caplog.records if "Skipped" in r.getMessage()]


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    """Flip one bit of a weight, which torch does not notice."""
    content = bytearray(path.read_bytes())
    place = content.index(torch.full((2,), 3.0).numpy().tobytes())
    content[place] ^= 1
    path.write_bytes(content)


def flip_name(path):
    """Flip one bit of a part's name in the header before the part, so that it is not UTF-8."""
    content = bytearray(path.read_bytes())
    content[30] ^= 0x80
    path.write_bytes(content)


def save_weight(value, path):
    torch.save({"model": {"w": value}, "optimizer": {}}, path)


ODD = {
    "sparse": torch.eye(3).to_sparse(),
    "compressed": torch.eye(3).to_sparse_csr(),
    "quantized": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    "without numbers": torch.empty(3, device="meta"),
    "unfolded": torch.zeros(1).expand(10**11),
}
DAMAGES = {
    "cut short": (cut, "cannot be read"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "a flipped bit": (flip, "is damaged in its part"),
    "a flipped bit of a name": (flip_name, "is damaged ("),
    "another file": (lambda path: path.write_text("<html>"), "cannot be read"),
    "code": (lambda path: torch.save({"model": Evil(path.parent)}, path), "holds posix.mkdir"),
    "weights alone": (lambda path: torch.save({"model": {}}, path), "has no optimizer"),
    "a list": (lambda path: torch.save([1], path), "is a list"),
    **{
        kind: (functools.partial(save_weight, value), "has no plain tensor as its weight 'w'")
        for kind, value in ODD.items()
    },
    "infinity": (functools.partial(save_weight, torch.tensor(math.inf)), "has NaN or infinity"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_skipped_by_name(tmp_path, skipped, damage):
    save(tmp_path, 1, 2, 3)
    assert resumed(tmp_path) == 3
    assert not skipped()
    harm, why = DAMAGES[damage]
    harm(tmp_path / "model_0000003.pth")
    assert resumed(tmp_path) == 2
    (line,) = skipped()
    assert str(tmp_path / "model_0000003.pth") in line
    assert why in line
    assert "\n" not in line
    assert not (tmp_path / "made").exists()


def test_a_whole_checkpoint_of_another_optimizer_is_named_with_what_to_do(tmp_path):
    save(tmp_path, 1, 2)
    path = str(tmp_path / "model_0000002.pth")
    torch.save({**torch.load(path, weights_only=True), "optimizer": {}}, path)
    words = rf"{path} cannot be loaded \(KeyError: .*, so "
    with pytest.raises(UserError, match=f"{words}delete it to go on from the one before it"):
        resumed(tmp_path)
    with pytest.raises(UserError, match=f"{words}set MODEL.WEIGHTS to another"):
        checkpointer_of(tmp_path).load(path)


def test_several_are_skipped_one_by_one_until_none_is_whole(tmp_path, skipped):
    save(tmp_path, 1, 2, 3, final=3)
    damaged = ["model_final.pth", "model_0000002.pth"]
    for name in damaged:
        cut(tmp_path / name)
    assert resumed(tmp_path) == 1
    assert [re.search(r"model_\w+\.pth", line)[0] for line in skipped()] == damaged
    assert last_finite_checkpoint(str(tmp_path)) == str(tmp_path / "model_0000001.pth")
    cut(tmp_path / "model_0000001.pth")
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole.*final\.pth.*2 more"):
        resumed(tmp_path)
    assert last_finite_checkpoint(str(tmp_path)) is None


@pytest.mark.parametrize("final", [None, 3])
def test_without_a_tag_the_last_iteration_counts(tmp_path, final):
    save(tmp_path, 1, 2, 3, final=final)
    (tmp_path / "last_checkpoint").unlink()
    assert resumed(tmp_path) == 3
    save(tmp_path, 4)
    assert resumed(tmp_path) == 4


def test_a_tag_that_was_not_written_in_time(tmp_path, skipped):
    save(tmp_path, 1, 2)
    tag = tmp_path / "last_checkpoint"
    tag.write_text("model_0000001.pth")
    os.utime(tag, ns=(0, (tmp_path / "model_0000001.pth").stat().st_mtime_ns))
    assert resumed(tmp_path) == 2
    assert not skipped()


def test_a_tag_that_was_written_last_goes_back(tmp_path):
    """As in stock Detectron2."""
    save(tmp_path, 1, 2, 3, final=3)
    tag = tmp_path / "last_checkpoint"
    tag.write_text("model_0000001.pth")
    os.utime(tag, ns=(0, (tmp_path / "model_final.pth").stat().st_mtime_ns + 10**9))
    assert resumed(tmp_path) == 1
    # Of two of one iteration the tagged one counts.
    shutil.copy(tmp_path / "model_final.pth", tmp_path / "model_0000003.pth")
    for name in ("model_final.pth", "model_0000003.pth"):
        tag.write_text(name)
        assert newest_whole(str(tmp_path)) == str(tmp_path / name)


def test_checkpoints_of_an_earlier_training_come_last(tmp_path):
    """The earlier training went further, and a new one has begun in its folder."""
    save(tmp_path, 8, 9, final=9)
    for path in tmp_path.iterdir():
        os.utime(path, ns=(0, path.stat().st_mtime_ns - 10**9))
    save(tmp_path, 1, 2)
    assert resumed(tmp_path) == 2
    cut(tmp_path / "model_0000002.pth")
    assert resumed(tmp_path) == 1


def test_what_a_kill_left_is_no_checkpoint_and_in_nobodys_way(tmp_path, skipped):
    save(tmp_path, 1)
    shutil.copy(tmp_path / "model_0000001.pth", tmp_path / "model_0000002.pth.4711.partial")
    (tmp_path / "model_0000005.pth.4711.partial").write_bytes(b"half a check")
    (tmp_path / "last_checkpoint.4711.partial").write_text("model_5.p")
    (tmp_path / "model_0000003.pth").mkdir()
    torch.save({"model": {}}, tmp_path / "model_of_mine.pth")  # without an iteration
    os.mkfifo(tmp_path / "model_0000004.pth")  # which nobody would ever fill
    assert resumed(tmp_path) == 1
    save(tmp_path, 5)
    assert resumed(tmp_path) == 5
    assert not skipped()


def test_an_empty_folder_is_a_new_training(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert checkpointer_of(folder).resume_or_load("", resume=True) == {}


# -- last_checkpoint may be any text -------------------------------------------------------------


@pytest.fixture
def outside(tmp_path):
    """A file beside the folder that makes another folder when it is unpickled."""
    path = tmp_path / "outside.pkl"
    path.write_bytes(pickle.dumps(Evil(tmp_path)))
    pickle.loads(path.read_bytes())
    (tmp_path / "made").rmdir()
    return path


TAGS = {
    "a path outside": b"../outside.pkl",
    "an absolute path": b"{outside}",
    "a path below": b"inference/model_0000001.pth",
    "another system's path": b"..\\outside.pkl",
    "a URL": b"https://127.0.0.1:1/model.pkl",
    "a scheme of Detectron2's": b"detectron2://model.pkl",
    "NUL bytes": b"model_0000001.pth\0.pkl",
    "a line too many": b"model_0000001.pth\nmodel_0000002.pth",
    "terminal controls": b"\x1b[2Jmodel_0000001.pth",
    "no text": b"\xff\xfe\x80",
    "the folder itself": b".",
    "the folder above": b"..",
    "nothing": b"",
    "a file that is gone": b"model_0000099.pth",
}


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_that_names_no_file_of_its_folder(tmp_path, outside, skipped, tag):
    folder = tmp_path / "output"
    folder.mkdir()
    save(folder, 1)
    (folder / "last_checkpoint").write_bytes(TAGS[tag].replace(b"{outside}", bytes(outside)))
    with pytest.raises(UserError, match=r"output/last_checkpoint \w+") as error:
        tagged_checkpoint(str(folder))
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 400
    assert resumed(folder) == 1  # the checkpoint is whole all the same
    (line,) = skipped()
    assert "output/last_checkpoint" in line
    (folder / "model_0000001.pth").unlink()
    with pytest.raises(UserError, match="no checkpoint in .* is whole"):
        resumed(folder)
    assert not (tmp_path / "made").exists()


def test_a_tag_of_gigabytes_a_folder_or_a_pipe(tmp_path, skipped):
    save(tmp_path, 1)
    tag = tmp_path / "last_checkpoint"
    with open(tag, "wb") as file:
        file.truncate(2**34)
    assert resumed(tmp_path) == 1
    for make in (os.mkdir, os.mkfifo, lambda path: os.symlink("nowhere", path)):
        os.remove(tag) if not tag.is_dir() else os.rmdir(tag)
        make(tag)
        assert resumed(tmp_path) == 1
    assert len(skipped()) == 4
    (tmp_path / "model_0000001.pth").unlink()
    assert checkpointer_of(tmp_path).has_checkpoint()  # a link that leads nowhere is a tag, too


# -- a save that fails ---------------------------------------------------------------------------


@pytest.mark.parametrize("iteration", [2, 1])
def test_a_failed_save_leaves_the_checkpoint_before_it(tmp_path, monkeypatch, iteration):
    save(tmp_path, 1)
    content = (tmp_path / "model_0000001.pth").read_bytes()

    def half(data, file):
        file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    sentence = rf"model_000000{iteration} could not be written .*No space left"
    with pytest.raises(UserError, match=sentence) as error:
        checkpointer_of(tmp_path, 2).save(f"model_000000{iteration}", iteration=2)
    assert "\n" not in str(error.value)
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0000001.pth"]
    assert resumed(tmp_path) == 1


def test_a_failed_save_in_torchs_own_words(tmp_path, monkeypatch):
    """torch's writer raises a RuntimeError of its own after the system's error."""
    save(tmp_path, 1)
    real, failed = open, []

    def on_a_full_disk(path, mode="r", **options):
        if str(path).endswith(".partial") and not failed:
            failed.append(path)
            return real("/dev/full", mode, **options)
        return real(path, mode, **options)

    monkeypatch.setattr("builtins.open", on_a_full_disk)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    with pytest.raises(UserError, match="No space left on device"):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert failed
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0000001.pth"]
    assert resumed(tmp_path) == 1


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "save", Mock(side_effect=RuntimeError("a mistake of the program's")))
    with pytest.raises(RuntimeError, match="a mistake"):
        save(tmp_path, 1)


def test_a_failure_between_checkpoint_and_its_tag_loses_neither(tmp_path, monkeypatch):
    save(tmp_path, 1)

    monkeypatch.setattr(
        SafeCheckpointer, "tag_last_checkpoint", Mock(side_effect=KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 2)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
    assert resumed(tmp_path) == 2


def test_the_tag_is_replaced_as_a_whole(tmp_path, monkeypatch):
    save(tmp_path, 1)
    seen, replace = [], os.replace

    def look(source, target):
        seen.append((tmp_path / "last_checkpoint").read_text())
        replace(source, target)

    monkeypatch.setattr(os, "replace", look)
    save(tmp_path, 2)
    assert seen == ["model_0000001.pth"] * 2  # before the checkpoint, and before the tag
    checkpointer_of(tmp_path, 1).save("model_best", iteration=1)  # which is never the last
    assert resumed(tmp_path) == 2
