"""Files that are complete whenever they exist."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys

import pytest

from fpn_d2 import UserError
from fpn_d2.utils.files import (
    check_targets,
    file_alike,
    partial_path,
    prepare_target,
    remove_partial_files,
    replace_file,
    unique_stems,
    write_json,
)


@pytest.mark.parametrize("mode, new", [("w", "new"), ("wb", b"new")])
def test_until_it_is_complete_the_old_content_is_there(tmp_path, mode, new):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replace_file(path, mode) as file:
        file.write(new)
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]  # and nothing lies beside it


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", ["old", None])
def test_an_error_leaves_what_was_there_and_no_partial_file(tmp_path, error, old):
    path = tmp_path / "a.txt"
    if old:
        path.write_text(old)
    with pytest.raises(error), replace_file(path) as file:  # noqa: PT012
        file.write("half of the ne")
        raise error
    assert [p.read_text() for p in tmp_path.iterdir()] == ([old] if old else [])


def test_a_folder_that_is_not_there_is_the_callers_error(tmp_path):
    with pytest.raises(FileNotFoundError), replace_file(tmp_path / "no" / "a.txt"):
        pass


def test_the_folder_of_a_file_is_made_where_the_file_may_be_written(tmp_path):
    path = tmp_path / "new" / "folder" / "a.json"
    prepare_target(path, overwrite=False, option="--json")
    assert os.listdir(path.parent) == []
    path.touch()
    with pytest.raises(UserError, match=r"a\.json is there already; name another --json, or add"):
        prepare_target(path, overwrite=False, option="--json")
    prepare_target(path, overwrite=True, option="--json")
    with pytest.raises(UserError, match=r"b\.json could not be written .*; name another --json"):
        prepare_target(path / "b.json", overwrite=True, option="--json")
    with pytest.raises(UserError, match="folder is a folder; name a file"):
        prepare_target(path.parent, overwrite=True, option="--json")


def die_half_way(path):
    with replace_file(path) as file:
        file.write("half")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    process = multiprocessing.get_context("fork").Process(target=die_half_way, args=(path,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert path.read_text() == "old"
    with replace_file(path) as file:  # what the kill left is in nobody's way
        file.write("new")
    assert path.read_text() == "new"


def test_what_kills_have_left_goes_and_what_is_written_now_stays(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    living = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    stale = [f"model_0000003.pth.{dead.pid}.partial", f"last_checkpoint.{os.getpid()}.partial"]
    stale += [f".torchrun.{10**30}.partial", f"a.json.{10**30}.partial"]  # no process has this
    others = [f"model_0000005.pth.{living.pid}.partial", "model_0000001.pth", "notes.partial"]
    here, there = partial_path("a").rsplit(".", 2)[0], "a.@node-2.lan"
    stale += [f"{here}.{dead.pid}.partial", f"{here}.{dead.pid}.partial.mp4", f"{there}.1.partial"]
    others += [f"{here}.{living.pid}.partial", f"{there}.{dead.pid}.partial"]
    for name in stale + others:
        (tmp_path / name).write_text("half")
    os.utime(tmp_path / f"{there}.1.partial", (0, 0))  # that machine has gone
    remove_partial_files(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(others)
    living.communicate(b"\n")
    remove_partial_files(tmp_path / "nowhere")


def test_two_machines_that_write_one_file_have_a_partial_file_each(tmp_path, monkeypatch):
    """They may have the same process id, and the first to begin may be the last to end."""
    with replace_file(tmp_path / "a.json") as first:
        first.write("first")
        monkeypatch.setattr(socket, "gethostname", lambda: "node-2.lan")
        remove_partial_files(tmp_path)
        with replace_file(tmp_path / "a.json") as second:
            second.write("second")
        assert (tmp_path / "a.json").read_text() == "second"
        monkeypatch.undo()
    assert (tmp_path / "a.json").read_text() == "first"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_machine_of_a_long_name_writes_files_of_long_names(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: 63 * "n")
    path = tmp_path / (220 * "a")  # of the 255 bytes that file systems allow
    with replace_file(path) as file:
        file.write("new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_json_comes_back_and_stays_where_a_value_is_refused(tmp_path, value):
    path = tmp_path / "a.json"
    content = {"AP": 33.9, "AP_s": None, "rows": ["a", "\N{EN DASH}"]}
    write_json(path, content)
    assert path.read_text(encoding="utf-8").endswith("}\n")
    with pytest.raises((ValueError, TypeError)):
        write_json(path, {"AP": 2.5, "AP_s": value})
    assert json.loads(path.read_text(encoding="utf-8")) == content
    assert os.listdir(tmp_path) == ["a.json"]


def test_no_two_inputs_share_a_file():
    paths = ["a/x.jpg", "b/x.png", "c/X.jpg", "d/x_explain.jpg"]
    suffixes = [".png", "_explain.png"]
    stems = unique_stems(paths, suffixes)
    files = [f"{stem}{suffix}".lower() for stem in stems for suffix in suffixes]
    assert len(set(files)) == len(files)
    assert stems[:2] == ["x", "x_2"]


def test_thousands_of_folders_may_have_a_file_of_one_name():
    tried = 0

    class Suffix(str):
        def __format__(self, _):
            nonlocal tried
            tried += 1
            return str(self)

    stems = unique_stems([f"{i}/rgb.png" for i in range(500)], [Suffix(".png")])
    assert stems == ["rgb", *(f"rgb_{i}" for i in range(2, 501))]
    assert tried < 5 * 500


@pytest.mark.parametrize(
    "named, there",
    [
        ("IMG_1.JPG", "img_1.jpg"),
        ("a\\b.jpg", "a/b.jpg"),
        ("a%20b.jpg", "a b.jpg"),
        ("caf\u00e9.jpg", "cafe\u0301.jpg"),  # one letter, and a letter with an accent behind it
        ("cafe\u0301.jpg", "caf\u00e9.jpg"),
        ("images\\1/b.jpg", "images/b.jpg"),  # as Label Studio wrote it
        ("images/b.jpg", "b.jpg"),
        ("b.jpg", "train/b.jpg"),  # as CVAT puts it
    ],
)
def test_a_file_of_a_name_that_looks_the_same_is_named(tmp_path, named, there):
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).touch()
    words = file_alike(tmp_path / named)
    assert words == file_alike(str(tmp_path / named))
    assert f"(but {str(tmp_path / there)!a} does: " in words


def test_a_folder_too_many_is_named(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "b.jpg").touch()
    words = file_alike(str(tmp_path / "images" / "images" / "b.jpg"))  # Label Studio's file_name
    assert words.endswith(" does: take images/ out of it)")
    words = file_alike(str(tmp_path / "images" / "images" / "B.jpg"))  # which is more than that
    assert words.endswith(" does: give the name as it is there)")


@pytest.mark.parametrize("named", ["b.jpg", "a.png", "a/b/c.jpg"])
def test_other_files_are_not_alike(tmp_path, named):
    (tmp_path / "a.jpg").touch()
    assert file_alike(str(tmp_path / named)) == ""


def test_a_name_in_two_folders_may_mean_either(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "a.jpg").touch()
    assert file_alike(str(tmp_path / "a.jpg")) == ""


def test_a_file_that_was_put_there_meanwhile_is_found(tmp_path):
    assert file_alike(str(tmp_path / "A.jpg")) == ""
    (tmp_path / "a.jpg").touch()
    os.utime(tmp_path, ns=(1, 1))
    assert "a.jpg" in file_alike(str(tmp_path / "A.jpg"))


def test_a_device_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "a.json")  # as /dev/null
    with pytest.raises(UserError, match="is a device or a pipe"):
        prepare_target(tmp_path / "a.json", overwrite=True, option="--json")


def test_what_a_kill_left_of_a_file_goes_before_it_is_written_again(tmp_path):
    process = subprocess.Popen(["true"])
    process.wait()
    (tmp_path / f"a.pth.{process.pid}.partial").touch()
    prepare_target(tmp_path / "a.pth", overwrite=False, option="--output")
    assert os.listdir(tmp_path) == []


def test_other_files_halves_stay(tmp_path):
    (tmp_path / "movie.mkv.99999999.partial").touch()
    with replace_file(tmp_path / "a.json") as file:
        check_targets(tmp_path / "b.json")
        file.write("{}")
    assert sorted(os.listdir(tmp_path)) == ["a.json", "movie.mkv.99999999.partial"]


def test_stdout_is_not_replaced_where_it_is_a_file(capfd):
    with pytest.raises(UserError, match="is a device"):
        check_targets("/dev/stdout", overwrite=True)
