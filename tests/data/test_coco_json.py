"""Annotation files are read as json and pycocotools do, but only once and always as UTF-8."""

import builtins
import gc
import json
import math

import pytest
from coco_files import masked_content, sound_content, write_coco
from detectron2.data.datasets import load_coco_json
from pycocotools.coco import COCO

from fpn_d2 import UserError
from fpn_d2.data import check_file
from fpn_d2.data.coco_json import AnnotationFile, parse, read_annotations, shared_reading


@pytest.mark.parametrize(
    "text, words",
    [
        ('{"images": [],\n "annotations" []}', "line 2 column 16"),
        ("", "line 1 column 1"),
        ("[" * 100_000, "nested too deeply"),
        ("\ufeff{}", "begins with a byte-order mark: write it as UTF-8 without BOM"),
        ("9" * 5000, "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_what_is_no_json(tmp_path, text, words):
    path = tmp_path / "a.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    content, sentence = read_annotations(str(path))
    assert content is None
    assert sentence.count("\n") == 0
    assert str(path) in sentence
    assert words in sentence
    report = check_file(str(path), str(tmp_path))
    assert [finding.sentence for finding in report.findings] == [sentence]


@pytest.mark.parametrize(
    "text",
    ["[1, 1.0, -0, -0.0, 1E5, 0.1, 123456789012345678901234567890, 1e400, true, null]"]
    + ['"\\ud800\\u00e4"', '{"a": 1, "a": 2}', "-Infinity", '["\u00e4", "\U0001f600"]', "[[], {}]"],
)
def test_what_is_parsed_is_what_json_makes_of_it(text):
    found = parse(text.encode())
    assert repr(found) == repr(json.loads(text))  # tells 1 from 1.0, and 0.0 from -0.0


def test_nan_is_parsed_and_garbage_is_collected_again():
    assert math.isnan(parse(b"NaN"))
    assert gc.isenabled()
    with pytest.raises(json.JSONDecodeError):
        parse(b"{")
    assert gc.isenabled()


def test_visible_keypoints_are_counted_where_a_file_does_not(tmp_path):
    content = sound_content()
    first, second, _ = content["annotations"]
    first["keypoints"] = [1, 2, 2, 3, 4, 1, 0, 0, 0]
    second.update(keypoints=[1, 2, 2, 0, 0, 0, 0, 0, 0], num_keypoints=7)
    for number, keypoints in ((4, []), (5, [0] * 12)):  # only one object has 12 numbers
        content["annotations"].append({**second, "id": number, "keypoints": keypoints})
    truth = AnnotationFile(str(write_coco(tmp_path, "zoo", "train", content)))
    assert [truth.anns[i]["num_keypoints"] for i in (1, 2, 3, 4)] == [2, 7, 0, 7]
    # Detectron2's training and COCO's evaluation need keypoints for every object.
    assert [truth.anns[i]["keypoints"] for i in (3, 4)] == [[0] * 9] * 2


def test_the_index_is_pycocotools(tmp_path, capsys):
    path = str(write_coco(tmp_path, "zoo", "train", masked_content()))
    ours, theirs = AnnotationFile(path), COCO(path)
    for name in ("dataset", "anns", "cats", "imgs", "imgToAnns", "catToImgs"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert "AnnotationFile" not in capsys.readouterr().out
    assert AnnotationFile().dataset == {}
    (tmp_path / "none.json").write_text("{")
    with pytest.raises(UserError, match="none.json is not valid JSON"):
        AnnotationFile(str(tmp_path / "none.json"))


def test_other_letters_in_a_process_whose_default_encoding_is_not_utf8(tmp_path, monkeypatch):
    content = sound_content()
    content["categories"][0]["name"] = "K\u00e4fer"
    text = json.dumps(content, ensure_ascii=False)
    path = write_coco(tmp_path, "zoo", "train", "")
    path.write_text(text, encoding="utf-8")
    original = builtins.open

    def in_ascii(file, mode="r", buffering=-1, encoding=None, **options):
        encoding = "ascii" if encoding is None and "b" not in mode else encoding
        return original(file, mode, buffering, encoding, **options)

    monkeypatch.setattr(builtins, "open", in_ascii)
    with pytest.raises(UnicodeDecodeError):
        load_coco_json(str(path), "images")
    with shared_reading():
        assert len(load_coco_json(str(path), "images")) == 4
    assert read_annotations(str(path)) == (content, None)
    assert AnnotationFile(str(path)).cats[1]["name"] == "K\u00e4fer"


def test_detectron2_changes_a_copy_of_its_own(tmp_path):
    content = sound_content()
    content["annotations"][0]["keypoints"] = [1, 2, 2]
    path = str(write_coco(tmp_path, "zoo", "train", content))
    for _ in range(2):  # it shifts keypoints in place, by half a pixel
        with shared_reading():
            read_annotations(path)
            first, second = load_coco_json(path, "images"), load_coco_json(path, "images")
        assert first[0]["annotations"][0]["keypoints"] == [1.5, 2.5, 2]
        assert second == first
