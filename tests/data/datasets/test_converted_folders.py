"""data/datasets/converted_folders.py: when a folder is converted, and where to."""

import json
import multiprocessing
import os
from pathlib import Path
from unittest.mock import Mock

import pytest
from coco_files import load_folder, sound_content, write_coco, write_files
from detectron2.data import DatasetCatalog

from fpn_d2 import UserError
from fpn_d2.data import build_test_loader
from fpn_d2.data.datasets import converted_folders, register_folders
from fpn_d2.data.datasets.converted_folders import annotation_file, make_current
from fpn_d2.data.validation import judged_file

FILES = {
    "data.yaml": "train: images\nnames: [cat]\n",
    "images/a.jpg": (40, 20),
    "labels/a.txt": "0 0.5 0.5 0.5 0.5\n",
}


@pytest.fixture
def yolo(tmp_path):
    write_files(tmp_path / "zoo", FILES)
    return tmp_path / "zoo"


def contents(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def test_a_folder_is_converted_once_and_never_written_to(yolo, cache):
    before = contents(yolo)
    load_folder(yolo.parent, "zoo_train")
    (file,) = cache.rglob("*.json")
    assert str(file) == annotation_file(str(yolo), "train")
    written = contents(cache)
    load_folder(yolo.parent, "zoo_train")
    assert contents(cache) == written
    assert contents(yolo) == before


def test_a_loader_looks_at_the_files_of_a_folder_once(yolo, cfg, monkeypatch):
    register_folders(str(yolo.parent))
    cfg.DATASETS.TEST, cfg.MODEL.ROI_HEADS.NUM_CLASSES = ("zoo_train",), 1
    look = Mock(wraps=converted_folders._fingerprint)
    monkeypatch.setattr(converted_folders, "_fingerprint", look)
    for number in (1, 2):  # and again for the next loader
        build_test_loader(cfg, "zoo_train")
        assert look.call_count == number


@pytest.mark.parametrize(
    "change", ["a label", "an image", "another image", "its time alone", "no time", "the code"]
)
def test_a_change_converts_it_anew(yolo, monkeypatch, change):
    load_folder(yolo.parent, "zoo_train")
    path = annotation_file(str(yolo), "train")
    before = os.stat(path).st_ino
    if change == "a label":
        write_files(yolo, {"labels/a.txt": "0 0.5 0.5 0.5 0.25\n"})
    elif change == "an image":
        write_files(yolo, {"images/a.jpg": (80, 20)})
    elif change == "another image":
        write_files(yolo, {"images/b.jpg": (40, 20)})
    elif change == "no time":  # all files of an archive may have the same time
        times = contents(yolo)
        write_files(yolo, {"labels/a.txt": "0 0.5 0.5 0.5 0.4\n"})
        os.utime(yolo / "labels" / "a.txt", ns=(0, times[yolo / "labels" / "a.txt"]))
    elif change == "the code":
        monkeypatch.setattr(converted_folders, "_VERSION", converted_folders._VERSION + 1)
    else:
        os.utime(yolo / "labels" / "a.txt", (1, 1))
    make_current(str(yolo), "train")
    assert os.stat(path).st_ino != before
    content = json.loads(Path(path).read_text())
    sides = {"a label": [20, 5], "an image": [40, 10], "no time": [20, 8]}.get(change, [20, 10])
    assert content["annotations"][0]["bbox"][2:] == sides
    assert len(content["images"]) == 1 + (change == "another image")


def test_a_file_that_is_judged_is_never_stale(yolo):
    load_folder(yolo.parent, "zoo_train")
    assert judged_file("zoo_train").classes == ["cat"]
    write_files(yolo, {"data.yaml": "train: images\nnames: [lynx]\n"})
    assert judged_file("zoo_train").classes == ["lynx"]


def test_what_is_damaged_is_replaced_and_what_another_machine_writes_is_left_alone(yolo):
    path = annotation_file(str(yolo), "train")
    os.makedirs(os.path.dirname(path))
    Path(path).write_text('{"info": {"fingerprint": "')
    Path(f"{path}.99999999.partial").write_text("{")  # of a process that was killed
    other = Path(f"{path}.@node-2.lan.99999999.partial")  # no process here has this number
    other.write_text("{")
    assert len(load_folder(yolo.parent, "zoo_train")[0]) == 1
    assert sorted(os.listdir(os.path.dirname(path))) == ["instances_train.json", other.name]
    assert other.read_text() == "{"


def test_processes_may_convert_at_once(yolo):
    path = annotation_file(str(yolo), "train")
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.starmap(make_current, [(str(yolo), "train")] * 8)
    assert len(json.loads(Path(path).read_text())["annotations"]) == 1
    assert os.listdir(os.path.dirname(path)) == ["instances_train.json"]


def test_folders_of_one_name_have_caches_of_their_own(tmp_path):
    one, two = (annotation_file(str(tmp_path / part / "zoo"), "train") for part in "ab")
    assert one != two


def test_a_cache_that_cannot_be_written_is_said(yolo, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="XDG_CACHE_HOME"):
        make_current(str(yolo), "train")


def test_two_layouts_at_once_are_refused(yolo):
    write_coco(yolo.parent, "zoo", "val", sound_content())
    assert register_folders(str(yolo.parent)) == ["zoo_val", "zoo_train"]
    for name in ("zoo_val", "zoo_train"):
        with pytest.raises(UserError, match="zoo is in the layouts of COCO and YOLO at once"):
            DatasetCatalog.get(name)


def test_no_layout(tmp_path):
    (tmp_path / "zoo" / "pictures").mkdir(parents=True)
    assert register_folders(str(tmp_path)) == []
    with pytest.raises(UserError, match="zoo is in none of the layouts of data sets"):
        make_current(str(tmp_path / "zoo"), "train")


def test_a_split_that_is_gone(yolo):
    register_folders(str(yolo.parent))
    write_files(yolo, {"data.yaml": "val: images\nnames: [cat]\n"})
    with pytest.raises(UserError, match="has no train any more"):
        DatasetCatalog.get("zoo_train")
