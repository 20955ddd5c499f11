"""The check of a whole data set: any JSON at all, and files of every kind of fault."""

import itertools
import json

import numpy as np
import pytest
from any_json import FEW, VALUES, places, replaced
from detectron2.config import get_cfg
from detectron2.data import DatasetMapper, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fpn_d2 import UserError
from fpn_d2.data.annotation_faults import Finding
from fpn_d2.data.checks import check_boxes
from fpn_d2.data.dataset_check import check_dataset, check_file, read_annotations


@pytest.fixture
def zoo(tmp_path, coco):
    """A sound data set of four images, with masks; ``(annotation file, image folder, content)``."""
    content = coco.content()
    square, rle = [[3, 3, 9, 3, 9, 9]], {"size": [32, 40], "counts": [0, 1280]}
    for annotation, mask in zip(content["annotations"], (square, rle, square), strict=True):
        annotation["segmentation"] = mask
    path = coco.write(tmp_path, "zoo", "train", content)
    return path, tmp_path / "zoo" / "images", content


def assert_is_a_report(findings):
    for finding in findings:
        assert finding.severity in ("error", "warning")
        assert finding.image is None or isinstance(finding.image, str)
        assert finding.annotation is None or isinstance(finding.annotation, int)
        assert len(finding.sentence) < 1000
    json.dumps([vars(finding) for finding in findings], allow_nan=False)


@FEW
@given(content=VALUES)
def test_any_json_is_survived(zoo, content):
    findings = check_dataset(content, zoo[1], workers=1)
    assert_is_a_report(findings)
    assert findings  # none of these has images and categories


@FEW
@given(data=st.data())
def test_a_sound_file_with_anything_in_one_place(zoo, data):
    path, folder, sound = zoo
    where = data.draw(st.sampled_from(list(places(sound))))
    content = replaced(sound, where, data.draw(VALUES))
    findings = check_dataset(content, folder, workers=1)
    assert_is_a_report(findings)
    if any(finding.severity == "error" for finding in findings):
        return
    # What has no error is read by Detectron2, from the file to the model's input.
    path.write_text(json.dumps(content))
    MetadataCatalog.pop("zoo_of_a_test", None)  # the classes of the last example
    records = load_coco_json(str(path), str(folder), "zoo_of_a_test")
    check_boxes(["zoo_of_a_test"], records)
    cfg = get_cfg()
    cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT = True, "bitmask"
    mapper = DatasetMapper(cfg, True)
    for record in records:
        if all("segmentation" in annotation for annotation in record["annotations"]):
            mapper(record)


@FEW
@given(content=st.binary(max_size=30))
def test_any_bytes_are_survived(zoo, content):
    zoo[0].write_bytes(content)
    assert_is_a_report(check_file(str(zoo[0]), str(zoo[1]), workers=1).findings)


@pytest.mark.parametrize(
    "text, words",
    [
        ('{"images": [],\n "annotations" []}', "line 2 column 16"),
        ("", "line 1 column 1"),
        ("[" * 100_000, "nested too deeply"),
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


def test_a_value_of_the_largest_depth_is_survived(zoo):
    depth = 600
    deep = json.loads("[" * depth + "]" * depth)
    for where in places(zoo[2]):
        assert check_dataset(replaced(zoo[2], where, deep), zoo[1], workers=1)


def spoil_images(folder, width=41):
    """0.png is sound; 1.png is cut, 2.png is away, 3.png is too wide."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "1.png")
    content = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(content[: len(content) // 2])
    (folder / "2.png").unlink()
    Image.new("RGB", (width, 32)).save(folder / "3.png")


@pytest.mark.parametrize("workers", [1, 3])
def test_image_files_by_one_process_and_by_several(zoo, coco, workers, monkeypatch):
    path, folder, _ = zoo
    monkeypatch.setattr("fpn_d2.data.dataset_check._CHUNK", 1)
    assert check_file(str(path), str(folder), workers).findings == []
    spoil_images(folder)
    findings = check_file(str(path), str(folder), workers).findings
    assert [(f.severity, f.image, f.annotation) for f in findings] == [
        ("error", f"{i}.png", None) for i in (1, 2, 3)
    ]
    cut, away, wide = (finding.sentence for finding in findings)
    assert "image 1.png cannot be read (" in cut
    assert "image 2.png does not exist: replace it, or correct the annotation file" in away
    assert "has 41 x 32 pixels, and the annotation file says 40 x 32" in wide


def test_the_findings_of_an_image_stand_together(zoo):
    path, folder, content = zoo
    content["annotations"][1]["bbox"] = [1, 2, 0, 3]
    content["annotations"][0]["category_id"] = 7
    content["categories"][1]["name"] = "cat"
    del content["images"][1]["width"]
    path.write_text(json.dumps(content))
    (folder / "0.png").unlink()
    report = check_file(str(path), str(folder), 1)
    images = [finding.image for finding in report.findings]
    assert images == [None, "1.png", "1.png", "0.png", "0.png"]
    assert (report.count("error"), report.count("warning")) == (3, 2)
    assert report.as_json()["findings"][3]["annotation"] == 1
    head, *_, last = report.as_text().splitlines()
    assert head == str(path)
    assert last == "4 images and 3 annotations: 3 errors, 2 warnings"
    lines = report.as_text().splitlines()
    assert lines[lines.index("0.png") + 2] == (
        "  error: image 0.png does not exist: replace it, or correct the annotation file"
    )
    assert len(list(itertools.chain(lines))) == 2 + 3 + 3 + 1


def test_an_image_of_unknown_size_is_read_all_the_same(zoo):
    _, folder, content = zoo
    del content["images"][3]["width"]
    (folder / "3.png").write_bytes(b"")
    findings = check_dataset(content, folder, workers=1)
    assert [finding.image for finding in findings] == ["3.png", "3.png"]
    assert isinstance(findings[0], Finding)


def test_what_cannot_be_checked(zoo, tmp_path):
    path, folder, content = zoo
    with pytest.raises(UserError, match=r"nothing.json does not exist"):
        check_file(str(tmp_path / "nothing.json"), str(folder))
    with pytest.raises(UserError, match=r"image folder .*/nowhere does not exist: .* --images"):
        check_file(str(path), str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="--workers is 0: give 1 or more"):
        check_dataset(content, str(folder), workers=0)
