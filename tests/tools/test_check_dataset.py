"""tools/check_dataset.py, as a user calls it: its report and its exit code."""

import functools
import io
import json
import shutil
import sys
from pathlib import Path

import check_dataset
import pytest
from coco_files import write_files

from fpn_d2.data.datasets import register_folders


@pytest.fixture
def data(tiny_root, tmp_path):
    """A copy of the tiny data set that may be spoiled."""
    return Path(shutil.copytree(Path(tiny_root) / "tiny", tmp_path / "data" / "tiny"))


@pytest.fixture
def check(run_tool):
    """``check(*words)``: run the tool in this process; return its exit code, stdout and stderr."""
    return functools.partial(run_tool, check_dataset)


def annotation_file(data):
    return data / "annotations" / "instances_val.json"


def spoil(data, **values):
    """Change the first annotation of tiny_val; return its image's file name."""
    content = json.loads(annotation_file(data).read_text())
    first = content["annotations"][0]
    first.update(values)
    annotation_file(data).write_text(json.dumps(content))
    return next(i["file_name"] for i in content["images"] if i["id"] == first["image_id"])


def test_a_sound_data_set_by_its_file(check, data):
    code, out, error = check(annotation_file(data))
    assert (code, error) == (0, "")
    assert out.startswith("4 images and ")
    assert out.endswith(" annotations: 0 errors, 0 warnings\n")


def test_by_name_on_a_terminal_of_few_characters(data, monkeypatch, capfd):
    content = json.loads(annotation_file(data).read_text())
    content["images"][3]["file_name"] = "\ud800\u20ac.jpg"  # no terminal can print it
    annotation_file(data).write_text(json.dumps(content))
    assert "tiny_val" in register_folders(str(data.parent))
    printed = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "argv", ["check_dataset.py", "tiny_val", "--workers", "2"])
    monkeypatch.setattr(sys, "stdout", printed)
    with pytest.raises(SystemExit) as end:
        check_dataset.main()
    printed.flush()
    assert (end.value.code, capfd.readouterr().err) == (1, "")
    assert b"\\ud800\\u20ac.jpg\n  error: image " in printed.buffer.getvalue()


def test_the_report_for_machines(check, data):
    name = spoil(data, bbox=[1, 2, 3, float("nan")], category_id=99)
    (data / "images" / name).write_bytes((data / "images" / name).read_bytes()[:-500])
    code, out, error = check(annotation_file(data), "--json", "--workers", 1)
    report = json.loads(out)
    assert (code, error) == (1, "")
    assert (report["images"], report["errors"], report["warnings"]) == (4, 3, 0)
    assert [finding["image"] for finding in report["findings"]] == [name] * 3
    assert [finding["annotation"] for finding in report["findings"]] == [1, 1, None]
    sentences = " ".join(finding["sentence"] for finding in report["findings"])
    for words in ("has the category_id 99", "[1, 2, 3, nan]", f"image {name} cannot be read"):
        assert words in sentences


def test_warnings_alone_have_a_code_of_their_own_where_they_count(check, data):
    name = spoil(data, bbox=[1, 2, 0, 3])
    code, out, _ = check(annotation_file(data), "--workers", 1, "--strict")
    assert code == 3
    assert check(annotation_file(data), "--workers", 1)[:2] == (0, out)
    assert f"{name}\n  warning: annotation 1 has the bbox [1, 2, 0, 3] without area" in out


def test_images_elsewhere(check, refused, data, tmp_path):
    (data / "images").rename(tmp_path / "photos")
    sentence = refused(check_dataset, annotation_file(data))
    assert sentence == f"error: image folder {data}/images does not exist: name it with --images\n"
    assert check(annotation_file(data), "--images", tmp_path / "photos", "--workers", 1)[0] == 0


@pytest.mark.parametrize(
    "dataset, words",
    [
        ("coco_2017_trian", "coco_2017_train"),
        ("nowhere/instances_val.json", "nowhere/instances_val.json does not exist"),
        ("cityscapes_fine_sem_seg_val", "has no annotation file"),
        ("lvis_v1_val", "has LVIS's annotations"),
        ("coco_2017_val", "instances_val2017.json does not exist"),
    ],
)
def test_what_cannot_be_checked(check, dataset, words):
    code, out, error = check(dataset)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert words in error


YOLO = {
    "data.yaml": "train: images/train\nval: images/val\nnames: [cat]\n",
    "labels/train/a.txt": "0 0.5 0.5 0.5 0.5\n",
    "labels/val/b.txt": "0 0.5 0.5 0.5 0.5\n1 0.5 0.5 0.5\n0 9 9 9 9\n",
    "images/train/a.png": (40, 20),
    "images/val/b.png": (40, 20),
}


@pytest.fixture
def yolo(tmp_path, monkeypatch):
    """A folder in YOLO's layout; val has two faulty lines."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_files(tmp_path / "zoo", YOLO)
    return tmp_path / "zoo"


def test_a_folder_of_another_layout_is_checked_with_all_its_splits(check, yolo):
    code, out, error = check(yolo, "--workers", 1, "--json")
    report = json.loads(out)
    assert (code, error) == (1, "")
    assert (report["images"], report["annotations"], report["errors"]) == (1, 1, 2)
    label = yolo / "labels" / "val" / "b.txt"
    for line, finding in zip((2, 3), report["findings"], strict=True):
        assert finding["sentence"].startswith(f"val: {label} line {line} ")
        assert finding["severity"] == "error"
    label.write_text("")
    assert check(yolo, "--workers", 1, "--strict")[:2] == (
        0,
        "2 images and 1 annotations: 0 errors, 0 warnings\n",
    )


def test_warnings_of_a_conversion_are_told(check, yolo):
    (yolo / "labels" / "val" / "b.txt").rename(yolo / "labels" / "val" / "c.txt")
    write_files(yolo, {"labels/val/c.txt": "", "images/val/c.png": (40, 20)})
    code, out, _ = check(yolo, "--workers", 1, "--strict")
    assert code == 3
    assert "  warning: val: images without a label file count" in out
    assert f"({yolo}/images/val/b.png)" in out


@pytest.mark.parametrize(
    "files, words",
    [
        (["data.yaml"], "zoo is in none of the layouts"),
        ([], "zoo is in the layouts of YOLO and Pascal VOC at once"),
    ],
)
def test_a_folder_of_no_layout_or_of_two(check, yolo, files, words):
    for name in files:
        (yolo / name).unlink()
    if not files:
        write_files(yolo, {"Annotations/a.xml": "<annotation/>", "a.png": (40, 20)})
    code, out, error = check(yolo)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert words in error


def test_a_folder_in_cocos_layout(check, data):
    code, out, _ = check(data, "--workers", 1)
    assert code == 0
    assert out.startswith("12 images and ")


def test_the_report_goes_to_a_file_that_is_named(check, refused, data, tmp_path):
    path = tmp_path / "new" / "report.json"
    words = [annotation_file(data), "--workers", 1]
    code, out, error = check(*words, "--json", path)
    assert (code, error) == (0, "")
    assert out.startswith("4 images and ")  # the text is still printed
    assert json.loads(path.read_text())["images"] == 4
    assert json.loads(check("--workers", 1, "--json", annotation_file(data))[1])["images"] == 4
    path.write_text("mine")
    assert "--force" in refused(check_dataset, *words, "--json", path)
    assert path.read_text() == "mine"
    assert check(*words, "--json", path, "--force")[0] == 0
    assert json.loads(path.read_text())["images"] == 4
    assert check("--json")[0] == 2
    error = refused(check_dataset, "nowhere", "--json", path / "below.json")  # before the work
    assert "below.json could not be written" in error
