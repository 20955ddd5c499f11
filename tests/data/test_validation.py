"""Faults of a data set: of its annotation file, each beside the sound one, and of its images."""

import itertools
import json
import math

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
from fpn_d2.data.annotation_file import (
    ERROR,
    WARNING,
    Finding,
    annotation_findings,
    read_annotations,
)
from fpn_d2.data.validation import check_dataset, check_file, check_records

# The images of conftest.py have 40 x 32 pixels; annotation 2 is of image 2, 1.png.
SQUARE = [[1, 1, 9, 1, 9, 9, 1, 9]]
HUGE = 10**400


def change(key, number, **values):
    return lambda c: c[key][number].update(values)


def drop(key, number, field):
    return lambda c: c[key][number].pop(field)


def box(*values, area=None):
    """A box of annotation 2, with its area where it has one."""
    if area is None:
        sound = len(values) == 4 and all(type(value) in (int, float) for value in values)
        area = max(0, min(values[2] * values[3], 1e9)) if sound else 120
    return change("annotations", 1, bbox=list(values), area=area)


def mask(segmentation):
    def to_all(content):
        for annotation in content["annotations"]:
            annotation["segmentation"] = SQUARE
        content["annotations"][1]["segmentation"] = segmentation

    return to_all


NONE = [], ""  # a sound twin: no finding
BOX_WORDS = "annotation 2 has the bbox .*give four finite numbers"
OUTSIDE = "annotation 2 has the bbox .* outside the image of 40 x 32 pixels"
NO_MASK = "annotation 2 has no segmentation, as others have"

CASES = {
    # the box: left, top, width, height
    "a box that fills the image": (box(0, 0, 40, 32), *NONE),
    "a box that is rounded outwards": (box(-1, -1, 42, 34), *NONE),
    "a box beyond the left": (box(-1.5, 0, 9, 9), [WARNING], "1.5 pixels beyond"),
    "a box beyond the right": (box(30, 0, 15, 9), [WARNING], "5 pixels beyond"),
    "a box beyond the bottom": (box(0, 30, 9, 9), [WARNING], "7 pixels beyond"),
    "a box to the left": (box(-10, 0, 10, 9), [ERROR], OUTSIDE),
    "a box to the right": (box(40, 0, 5, 9), [ERROR], OUTSIDE),
    "a box above": (box(0, -9, 5, 8), [ERROR], OUTSIDE),
    "a box below": (box(0, 33, 5, 8), [ERROR], OUTSIDE),
    "a box without width": (box(3, 3, 0, 8), [WARNING], "annotation 2 .* without area"),
    "a box without height": (box(3, 3, 8, 0.0), [WARNING], "annotation 2 .* without area"),
    "a box of corners": (box(20, 20, -3, 8), [ERROR], "of a negative side"),
    "a box of NaN": (box(1, 2, 3, math.nan), [ERROR], BOX_WORDS),
    "a box of infinity": (box(1, 2, math.inf, 3), [ERROR], BOX_WORDS),
    "a box of a huge number": (box(1, 2, HUGE, 3), [ERROR], BOX_WORDS),
    "a box of a large number": (box(1, 2, 3, 2**64), [ERROR], BOX_WORDS),
    "a box of texts": (box("1", "2", "3", "4"), [ERROR], BOX_WORDS),
    "a box of truths": (box(1, 2, 3, True), [ERROR], BOX_WORDS),
    "a box of three": (box(1, 2, 3), [ERROR], BOX_WORDS),
    "an empty box": (box(), [ERROR], BOX_WORDS),
    "no box": (drop("annotations", 1, "bbox"), [ERROR], BOX_WORDS),
    # the area
    "an area of a mask": (change("annotations", 1, area=7.5), *NONE),
    "an area of text": (change("annotations", 1, area="12"), [ERROR], "has the area '12'"),
    "no area, said": (change("annotations", 1, area=None), [ERROR], "has the area None"),
    "an area of NaN": (change("annotations", 1, area=math.nan), [ERROR], "has the area nan"),
    "a negative area": (change("annotations", 1, area=-120), [ERROR], "has the area -120"),
    "an area of 0": (change("annotations", 1, area=0), [WARNING], "area 0, .* not belong to the b"),
    # 11 * 13 * 2 = 286 for a box of 10 x 12
    "the largest area that is let through": (change("annotations", 1, area=286), *NONE),
    "an area beyond the box": (change("annotations", 1, area=287), [WARNING], "area 287, .* not"),
    # 40 * 30 / 1000 = 1.2
    "an area of 1": (box(0, 0, 40, 30, area=1), [WARNING], "has the area 1, .* not belong"),
    "a share of the image": (box(0, 0, 9, 9, area=0.06), [WARNING], "has the area 0.06, .* not be"),
    # ids, images, categories
    "an unknown category": (
        change("annotations", 1, category_id=9), [ERROR], "annotation 2 has the category_id 9",
    ),
    "a category as a text": (change("annotations", 1, category_id="1"), [ERROR], "category_id '1'"),
    "a category as a list": (change("annotations", 1, category_id=[1]), [ERROR], r"_id \[1\]"),
    "another category": (change("annotations", 1, category_id=1), *NONE),
    "an unknown image": (change("annotations", 1, image_id=9), [ERROR], "has the image_id 9"),
    "no image": (drop("annotations", 1, "image_id"), [ERROR], "has the image_id None"),
    "a repeated annotation": (change("annotations", 1, id=1), [ERROR], "repeats the id 1 of"),
    "another id": (change("annotations", 1, id=77), *NONE),
    "an id that evaluation takes for none": (
        change("annotations", 1, id=0), [ERROR], "has the id 0: give a whole number from 1 on",
    ),
    "no id": (drop("annotations", 1, "id"), [ERROR], "entry 1 of annotations has the id None"),
    "an id of thousands of digits": (change("annotations", 1, id=HUGE), [ERROR], "entry 1 of"),
    "ids of whole floats": (
        lambda c: [
            entry.update({key: float(entry[key]) for key in entry if key.endswith("id")})
            for entries in c.values() for entry in entries
        ],
        *NONE,
    ),
    "an id of a fraction": (change("annotations", 1, id=1.5), [ERROR], "has the id 1.5"),
    "a repeated image": (
        change("images", 1, id=1), [ERROR, ERROR], "repeats the id 1|image_id 2, which is not",
    ),
    "a repeated category": (
        change("categories", 1, id=1), [ERROR, ERROR], "repeats the id 1|category_id 2, which",
    ),
    "a repeated class": (change("categories", 1, name="cat"), [WARNING], "repeats the name 'cat'"),
    "a class without name": (drop("categories", 1, "name"), [ERROR], "has the name None"),
    "an image as a text": (
        lambda c: (c["images"][3].update(id="4")),
        [WARNING, ERROR], "has the id '4'|partly numbers and partly texts",
    ),
    # images
    "no file name": (drop("images", 1, "file_name"), [ERROR], "entry 1 .* the file_name None"),
    "a file name of no text": (change("images", 1, file_name=7), [ERROR], "the file_name 7"),
    "an empty file name": (change("images", 1, file_name=""), [ERROR], "the file_name ''"),
    "a repeated file name": (change("images", 1, file_name="0.png"), [WARNING], "repeats the file"),
    "no width": (drop("images", 1, "width"), [ERROR], "has the width None"),
    "a height of nothing": (change("images", 1, height=0), [ERROR], "has the height 0"),
    "a height as a text": (change("images", 1, height="32"), [ERROR], "has the height '32'"),
    # other fields of annotations
    "a crowd": (change("annotations", 1, iscrowd=1), *NONE),
    "a crowd of two": (change("annotations", 1, iscrowd=2), [ERROR], "has the iscrowd 2"),
    "no iscrowd": (drop("annotations", 1, "iscrowd"), [WARNING], "1 annotations have no iscrowd"),
    "no area": (drop("annotations", 1, "area"), [WARNING], "1 annotations have no area"),
    "ignore": (change("annotations", 1, ignore=1), [ERROR], "use 'iscrowd'"),
    "not ignore": (change("annotations", 1, ignore=0), *NONE),
    "keypoints": (change("annotations", 1, keypoints=[1, 2, 2]), *NONE),
    "keypoints of text": (change("annotations", 1, keypoints="abc"), [ERROR], "has keypoints"),
    # masks
    "polygons": (mask(SQUARE * 2), *NONE),
    "a polygon of NaN": (mask([[1, 1, 9, math.nan, 9, 9]]), [ERROR], "annotation 2 has a broken"),
    "a polygon of seven": (mask([[1, 1, 9, 1, 9, 9, 1]]), [ERROR], "x and y go in pairs"),
    "a polygon of a huge number": (mask([[1, 1, 9, HUGE, 9, 9]]), [ERROR], "no list of finite"),
    "a line": (mask([[1, 1, 9, 9]]), [WARNING], "leaves the object out"),
    "a line more": (mask([*SQUARE, [1, 1, 9, 9]]), [WARNING], "leaves them out"),
    "an RLE": (mask({"size": [32, 40], "counts": [0, 1280]}), *NONE),
    "an RLE of another size": (mask({"size": [40, 32], "counts": [0, 1280]}), [ERROR], "of size"),
    "an RLE that ends": (mask({"size": [32, 40], "counts": [0, 5]}), [ERROR], "an RLE of 5 pixels"),
    "an RLE of a huge run": (mask({"size": [32, 40], "counts": [0, HUGE]}), [ERROR], "whole num"),
    "a mask of text": (mask("mask"), [ERROR], "neither polygons nor an RLE"),
    "no mask": (mask(None), [WARNING], NO_MASK),
    # entries and lists
    "an entry of no object": (
        lambda c: c["annotations"].append(3), [ERROR], "entry 3 of annotations is no object",
    ),
    "images that are none": (
        lambda c: c["images"].append([1]), [ERROR], "entry 4 of images is no object",
    ),
    "no list of annotations": (lambda c: c.pop("annotations"), *NONE),
    "annotations as an object": (
        lambda c: c.update(annotations={}), [ERROR], "there is no list named annotations",
    ),
    "no categories": (
        lambda c: c.update(categories=[], annotations=[]), [ERROR], "categories is empty",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_fault_of_the_content(case, coco):
    spoil, severities, words = CASES[case]
    content = coco.content()
    assert [*annotation_findings(content)] == []
    spoil(content)
    findings = [*annotation_findings(content)]
    assert [finding.severity for finding in findings] == severities
    for finding in findings:
        with pytest.raises(AssertionError, match=words):
            raise AssertionError(finding.sentence)


def of_ten(*boxes):
    """The content of ten images of 400 x 320 pixels with these boxes in turn."""
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": 400, "height": 320} for i in range(10)
        ],
        "annotations": [
            {"id": i + 1, "image_id": i, "category_id": 1, "iscrowd": 0, "bbox": list(box)}
            for i, box in zip(range(10), itertools.cycle(boxes), strict=False)
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }
    for annotation in content["annotations"]:
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    return content


WHOLE_FILES = {
    "shares of the image": (of_ten((0.1, 0.2, 0.5, 0.3), (0, 0, 1, 1)), "all 10 boxes lie between"),
    "one box of a pixel among them": (of_ten((0.1, 0.2, 0.5, 0.3), (9, 9, 30, 1)), None),
    # as sides, the first three end at 560, 650 and 700 of 400 pixels, the last at 210 of 400
    "corners": (
        of_ten((200, 60, 360, 200), (300, 10, 350, 20), (320, 9, 380, 90), (10, 10, 200, 150)),
        "all 10 boxes could be left, top, right and bottom",
    ),
    "corners, but for one that has none": (
        of_ten((200, 60, 360, 200), (300, 10, 350, 20), (300, 10, 90, 20)), None,
    ),
    "sides that could be corners": (of_ten((10, 20, 200, 150), (100, 100, 300, 220)), None),
}  # fmt: skip


@pytest.mark.parametrize("case", WHOLE_FILES)
def test_boxes_that_show_in_the_whole_file_that_they_are_none(case):
    content, words = WHOLE_FILES[case]
    refused = [f for f in annotation_findings(content) if "training" in f.stops]
    assert len(refused) == (words is not None)
    for finding in refused:
        assert words in finding.sentence
        assert finding.stops == ("training", "evaluation")


def test_minival_may_repeat_ids_as_detectron2_has_it(coco):
    content = coco.content()
    content["annotations"][1]["id"] = 1
    assert [*annotation_findings(content, "instances_minival2014.json")] == []
    (finding,) = annotation_findings(content, "instances_val2014.json")
    assert (finding.severity, finding.stops) == (ERROR, ("training", "evaluation"))


def test_a_finding_names_image_and_annotation(coco):
    content = coco.content()
    content["annotations"][1]["category_id"] = 9
    text = "annotation 2 has the category_id 9, which is not in categories: correct it or add it"
    stops = "training", "evaluation"
    assert [*annotation_findings(content)] == [Finding(ERROR, "1.png", 2, f"{text} there", stops)]


def test_a_crowd_needs_no_mask(coco):
    content = coco.content()
    mask(None)(content)
    content["annotations"][1]["iscrowd"] = 1
    assert [*annotation_findings(content)] == []


@pytest.mark.parametrize("content", [None, 3, "text", [1, 2], math.nan])
def test_what_is_no_object_at_all(content):
    (finding,) = annotation_findings(content)
    assert "top level is no object" in finding.sentence


# Whole data sets, with their images.


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
    check_records(["zoo_of_a_test"], records)
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
    monkeypatch.setattr("fpn_d2.data.images._CHUNK", 1)
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


def test_a_file_that_detectron2_would_read_in_another_encoding(zoo, monkeypatch):
    monkeypatch.setattr("locale.getpreferredencoding", lambda do_setlocale=True: "cp1252")
    path, _, content = zoo
    assert read_annotations(str(path)) == (content, None)
    content["categories"][0]["name"] = "K\u00e4fer"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    _, sentence = read_annotations(str(path))
    assert "would read as cp1252" in sentence
    assert "set PYTHONUTF8=1" in sentence
    monkeypatch.setattr("locale.getpreferredencoding", lambda do_setlocale=True: "UTF-8")
    assert read_annotations(str(path)) == (content, None)


RECORD = {"file_name": "a.png", "width": 40, "height": 32, "image_id": 1}
SOUND = {"bbox": [1, 2, 3, 4], "segmentation": SQUARE, "category_id": 0}


@pytest.mark.parametrize(
    "record, annotation, words",
    [
        ({}, {}, None),
        ({"width": np.int64(40)}, {"bbox": np.array([1, 2, 3, 4])}, None),
        ({}, {"bbox": (1.5, 2, 3, 4)}, None),
        ({"width": 40.5}, {}, "has the width 40.5"),
        ({"height": True}, {}, "has the height True"),
        ({}, {"bbox": [1, 2, 3]}, r"with bbox \[1, 2, 3\]"),
        ({}, {"bbox": np.array([1, 2, 3, np.nan])}, "four finite numbers"),
        ({}, {"segmentation": [[1, 1, 9, math.nan, 9, 9]]}, "broken mask"),
        ({}, {"segmentation": {"size": [4, 4], "counts": [16]}}, "broken mask"),
        ({}, {"segmentation": None}, "has no segmentation"),
    ],
)
def test_images_that_come_from_no_annotation_file(record, annotation, words):
    records = [{**RECORD, **record, "annotations": [{**SOUND, **annotation}]}]
    if words is None:
        check_records(["mine"], records, masks=True)
        return
    with pytest.raises(UserError, match=f"data set mine.*{words}"):
        check_records(["mine"], records, masks=True)


def test_an_image_whose_size_nobody_says():
    check_records(["mine"], [{"file_name": "a.png", "annotations": [SOUND]}], masks=True)
