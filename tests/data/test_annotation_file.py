"""Faults of an annotation file, each against a sound file; masks also against pycocotools."""

import itertools
import math
import re

import numpy as np
import pycocotools.mask as mask_util
import pytest
from bad_inputs import REMEDY
from coco_files import coco_content, coco_image, coco_object, sound_content

from fpn_d2.data import annotation_file
from fpn_d2.data.annotation_file import (
    ERROR,
    WARNING,
    Finding,
    _runs,
    annotation_findings,
    mask_fault,
)

# The images of conftest.py have 40 x 32 pixels; annotation 2 belongs to image 2, 1.png.
SQUARE = [[1, 1, 9, 1, 9, 9, 1, 9]]
HUGE = 10**400


def change(key, number, **values):
    return lambda c: c[key][number].update(values)


def drop(key, number, field):
    return lambda c: c[key][number].pop(field)


def box(*values, area=None):
    """Return a change of annotation 2's box, and of its area to the box's where that has one."""
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


def again(**values):
    """Return a change that adds annotation 2 once more, as 9 and with these values."""
    return lambda c: c["annotations"].append({**c["annotations"][1], "id": 9, **values})


# A finding's severity, and the runs that it stops
STOPS, TEST, MASKS, WRONG = (
    (ERROR, runs) for runs in (("training", "evaluation"), ("evaluation",), ("masks",), ())
)
LACKS, MASKLESS, TOLD = ((WARNING, runs) for runs in (("evaluation",), ("masks",), ()))
NONE = [], ""  # a sound twin: no finding
BOX_WORDS = "annotation 2 has the bbox .*give four finite numbers"
OUTSIDE = "annotation 2 has the bbox .* outside the image of 40 x 32 pixels"

CASES = {
    # the box: left, top, width, height
    "a box that fills the image": (box(0, 0, 40, 32), *NONE),
    "a box that is rounded outwards": (box(-1, -1, 42, 34), *NONE),
    "a box beyond the left": (box(-1.5, 0, 9, 9), [TOLD], "1.5 pixels beyond"),
    "a box beyond the right": (box(30, 0, 15, 9), [TOLD], "5 pixels beyond"),
    "a box beyond the bottom": (box(0, 30, 9, 9), [TOLD], "7 pixels beyond"),
    "a box to the left": (box(-10, 0, 10, 9), [WRONG], OUTSIDE),
    "a box to the right": (box(40, 0, 5, 9), [WRONG], OUTSIDE),
    "a box above": (box(0, -9, 5, 8), [WRONG], OUTSIDE),
    "a box below": (box(0, 33, 5, 8), [WRONG], OUTSIDE),
    "a box without width": (box(3, 3, 0, 8), [TOLD], "annotation 2 .* without area"),
    "a box without height": (box(3, 3, 8, 0.0), [TOLD], "annotation 2 .* without area"),
    "a crowd without width": (
        change("annotations", 1, bbox=[3, 3, 0, 8], iscrowd=1, area=0), *NONE,
    ),
    "a box of corners": (box(20, 20, -3, 8), [STOPS], "of a negative side"),
    "a box of NaN": (box(1, 2, 3, math.nan), [STOPS], BOX_WORDS),
    "a box of infinity": (box(1, 2, math.inf, 3), [STOPS], BOX_WORDS),
    "a box of a huge number": (box(1, 2, HUGE, 3), [STOPS], BOX_WORDS),
    "a box of a large number": (box(1, 2, 3, 2**64), [STOPS], BOX_WORDS),
    "a box of texts": (box("1", "2", "3", "4"), [STOPS], BOX_WORDS),
    "a box of null": (box(None, 2, 3, 4), [STOPS], BOX_WORDS),
    "a box of truths": (box(1, 2, 3, True), [STOPS], BOX_WORDS),
    "a box of three": (box(1, 2, 3), [STOPS], BOX_WORDS),
    "an empty box": (box(), [STOPS], BOX_WORDS),
    "no box": (drop("annotations", 1, "bbox"), [STOPS], BOX_WORDS),
    # the area
    "an area of a mask": (change("annotations", 1, area=7.5), *NONE),
    "an area of text": (change("annotations", 1, area="12"), [TEST], "has the area '12'"),
    "no area, said": (change("annotations", 1, area=None), [TEST], "has the area None"),
    "an area of truth": (change("annotations", 1, area=True), [TEST], "has the area True"),
    "an infinite area": (change("annotations", 1, area=math.inf), [TEST], "has the area inf"),
    "an area of NaN": (change("annotations", 1, area=math.nan), [TEST], "has the area nan"),
    "a negative area": (change("annotations", 1, area=-120), [TEST], "has the area -120"),
    "an area of 0": (change("annotations", 1, area=0), [TOLD], "area 0, .* not belong to the b"),
    # 11 * 13 * 2 = 286 for a box of 10 x 12
    "the largest area that is let through": (change("annotations", 1, area=286), *NONE),
    "an area beyond the box": (change("annotations", 1, area=287), [TOLD], "area 287, .* not"),
    # 40 * 30 / 1000 = 1.2
    "an area of 1": (box(0, 0, 40, 30, area=1), [TOLD], "has the area 1, .* not belong"),
    "a share of the image": (box(0, 0, 9, 9, area=0.06), [TOLD], "has the area 0.06, .* not be"),
    # ids, images, categories
    "an unknown category": (
        change("annotations", 1, category_id=9), [STOPS], "annotation 2 has the category_id 9",
    ),
    "a category as a text": (change("annotations", 1, category_id="1"), [STOPS], "category_id '1'"),
    "a category as a list": (change("annotations", 1, category_id=[1]), [STOPS], r"_id \[1\]"),
    "a category of null": (change("annotations", 1, category_id=None), [STOPS], "category_id None"),
    "another category": (change("annotations", 1, category_id=1), *NONE),
    "an unknown image": (change("annotations", 1, image_id=9), [WRONG], "has the image_id 9"),
    "no image": (drop("annotations", 1, "image_id"), [WRONG], "has the image_id None"),
    "a repeated annotation": (change("annotations", 1, id=1), [STOPS], "repeats the id 1 of"),
    "another id": (change("annotations", 1, id=77), *NONE),
    "an id of 0": (change("annotations", 1, id=0), *NONE),
    "no id": (drop("annotations", 1, "id"), [TEST], "entry 1 of annotations has the id None"),
    "an id of thousands of digits": (change("annotations", 1, id=HUGE), [TEST], "entry 1 of"),
    "ids of whole floats": (
        lambda c: [
            entry.update({key: float(entry[key]) for key in entry if key.endswith("id")})
            for entries in c.values() for entry in entries
        ],
        *NONE,
    ),
    "a negative id": (change("annotations", 1, id=-3), [TEST], "has the id -3"),
    "an id as a text": (change("annotations", 1, id="2"), [TEST], "has the id '2'"),
    "an id of a fraction": (change("annotations", 1, id=1.5), [TEST], "has the id 1.5"),
    "a repeated image": (
        change("images", 1, id=1), [STOPS, WRONG], "repeats the id 1|image_id 2, which is not",
    ),
    "a repeated category": (
        change("categories", 1, id=1), [STOPS, STOPS], "repeats the id 1|category_id 2, which",
    ),
    "a class with a blank": (change("categories", 1, name="Cat "), [TOLD], "id and take it out"),
    "a repeated class": (change("categories", 1, name="cat"), [TOLD], "repeats the name 'cat'"),
    "a class without name": (drop("categories", 1, "name"), [STOPS], "has the name None"),
    "images as texts": (
        lambda c: [
            entry.update({key: str(entry[key])})
            for key, of in (("id", "images"), ("image_id", "annotations")) for entry in c[of]
        ],
        [TOLD], "the ids of images are texts",
    ),
    "an image as a text": (
        lambda c: (c["images"][3].update(id="4")),
        [STOPS], "partly numbers and partly texts",
    ),
    # images
    "no file name": (drop("images", 1, "file_name"), [STOPS], "entry 1 .* the file_name None"),
    "a file name of no text": (change("images", 1, file_name=7), [STOPS], "the file_name 7"),
    "an empty file name": (change("images", 1, file_name=""), [STOPS], "the file_name ''"),
    "a repeated file name": (change("images", 1, file_name="0.png"), [TOLD], "repeats the file"),
    "no width": (drop("images", 1, "width"), [STOPS], "has the width None"),
    "a height of nothing": (change("images", 1, height=0), [STOPS], "has the height 0"),
    "a height as a text": (change("images", 1, height="32"), [STOPS], "has the height '32'"),
    # other fields of annotations
    "a crowd": (change("annotations", 1, iscrowd=1), *NONE),
    "a crowd of two": (change("annotations", 1, iscrowd=2), [TEST], "has the iscrowd 2"),
    "no iscrowd": (drop("annotations", 1, "iscrowd"), [LACKS], "1 annotations have no iscrowd"),
    "no area": (drop("annotations", 1, "area"), [LACKS], "1 annotations have no area"),
    "a crowd of null": (change("annotations", 1, iscrowd=None), [TEST], "has the iscrowd None"),
    "a crowd of NaN": (change("annotations", 1, iscrowd=math.nan), [TEST], "has the iscrowd nan"),
    "ignore": (change("annotations", 1, ignore=1), [STOPS], "use 'iscrowd'"),
    "not ignore": (change("annotations", 1, ignore=0), *NONE),
    "a score": (change("annotations", 1, score=0.5), *NONE),
    "a score of null": (change("annotations", 1, score=None), [TEST], "has the score None: "),
    "most as crowds": (
        lambda c: [a.update(iscrowd=1) for a in c["annotations"][1:]],
        [TOLD], "2 of 3 annotations have iscrowd 1, .* give single objects iscrowd 0",
    ),
    "a crowd twice": (
        lambda c: c["annotations"].append({**c["annotations"][1], "id": 9, "iscrowd": 1}), *NONE,
    ),
    "an object twice": (
        again(bbox=[3.0, 3, 10, 12]),
        [TOLD], r"1 annotations repeat .*\(the first is 9\), and evaluation counts each as mi",
    ),
    "a box of two classes": (again(category_id=1), *NONE),
    "a box in two images": (again(image_id=1), *NONE),
    "keypoints": (change("annotations", 1, keypoints=[1, 2, 2]), *NONE),
    "keypoints of half a point": (
        change("annotations", 1, keypoints=[1, 2, 2, 3]), [WRONG], "has keypoints .* three of each",
    ),
    "keypoints of text": (change("annotations", 1, keypoints="abc"), [WRONG], "has keypoints"),
    # masks
    "polygons": (mask(SQUARE * 2), *NONE),
    "an RLE": (mask({"size": [32, 40], "counts": [0, 1280]}), *NONE),
    "a broken mask": (mask([[1, 1, 9, math.nan, 9, 9]]), [MASKS], "annotation 2 has a broken"),
    "an RLE of another size": (mask({"size": [40, 32], "counts": [0, 1280]}), [MASKS], "of size"),
    "a line": (
        mask([[1, 1, 9, 9]]), [(WARNING, ("evaluation of masks",))], "leaves the object out",
    ),
    "a line more": (mask([*SQUARE, [1, 1, 9, 9]]), [TOLD], "leaves them out"),
    "an empty polygon": (mask([[]]), [MASKLESS], "annotation 2 has no segmentation, as others"),
    "a truth in a polygon": (mask([[1, 1, 9, 1, 9, True]]), [MASKS], "annotation 2 has a broken"),
    "a text in a polygon": (mask([[1, 1, 9, 1, 9, "9"]]), [MASKS], "annotation 2 has a broken"),
    "a huge coordinate": (mask([[1, 1, 9, 1, 9, HUGE]]), [MASKS], "annotation 2 has a broken"),
    "a distant point": (mask([[1, 1, 9, 1, 9, 100_001]]), [MASKS], "beyond 100000 pixels"),
    "many points that are not distant": (mask([[9e4, 9e4, 9, 1, 9, 9]]), *NONE),
    "an odd polygon": (mask([[1, 1, 9, 1, 9, 9, 3]]), [MASKS], "of 7 numbers"),
    "no mask": (mask(None), [MASKLESS], "annotation 2 has no segmentation, as others"),
    "a crowd without mask": (
        lambda c: (mask(None)(c), c["annotations"][1].update(iscrowd=1)), *NONE,
    ),
    # entries and lists
    "an entry of no object": (
        lambda c: c["annotations"].append(3), [STOPS], "entry 3 of annotations is no object",
    ),
    "images as a number": (
        lambda c: c.update(images=3),
        [STOPS] + [WRONG] * 3, "no list named images|which is not in images",
    ),
    "no images": (
        lambda c: c.update(images=[], annotations=[]), [STOPS], "list named images is empty",
    ),
    "images that are none": (
        lambda c: c["images"].append([1]), [STOPS], "entry 4 of images is no object",
    ),
    "no list of annotations": (lambda c: c.pop("annotations"), *NONE),
    "annotations as an object": (
        lambda c: c.update(annotations={}), [STOPS], "there is no list named annotations",
    ),
    "no list of categories": (
        lambda c: (c.pop("categories"), c.pop("annotations")), [STOPS], "no list named categories",
    ),
    "no categories": (
        lambda c: c.update(categories=[], annotations=[]), [STOPS], "categories is empty",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_fault_of_the_content(case):
    spoil, expected, words = CASES[case]
    content = sound_content()
    assert [*annotation_findings(content)] == []
    spoil(content)
    findings = [*annotation_findings(content)]
    assert [(finding.severity, finding.stops) for finding in findings] == expected
    for finding in findings:
        assert re.search(words, finding.sentence)
        assert not finding.stops or REMEDY.search(finding.sentence)


@pytest.mark.parametrize("case", CASES)
def test_the_quick_answer_hides_nothing(case, monkeypatch):
    content = sound_content()
    CASES[case][0](content)
    quick = [*annotation_findings(content)]
    monkeypatch.setattr(annotation_file, "_is_plain", lambda *_: False)
    assert [*annotation_findings(content)] == quick


def of_ten(*boxes):
    """Return a file's content: ten images of 400 x 320 pixels, with these boxes in turn."""
    in_turn = zip(range(10), itertools.cycle(boxes), strict=False)
    annotations = [coco_object(i + 1, i, box) for i, box in in_turn]
    return coco_content([coco_image(i, 400, 320) for i in range(10)], annotations, "cat")


WHOLE_FILES = {
    "shares of the image": (of_ten((0.1, 0.2, 0.5, 0.3), (0, 0, 1, 1)), "all 10 boxes lie between"),
    "one box of a pixel among them": (of_ten((0.1, 0.2, 0.5, 0.3), (9, 9, 30, 1)), None),
    # if they were sides, the first three would end at 560, 650 and 700 of 400 px, the last at 210
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


@pytest.mark.parametrize("area, told", [(1, True), (0.5, True), (1.5, False), (30, False)])
def test_areas_that_show_in_the_whole_file_that_they_are_none(area, told):
    content = of_ten((10, 20, 20, 15), (100, 100, 10, 5))  # 300 and 50 pixels
    for annotation in content["annotations"]:
        annotation["area"] = area
    sentences = [finding.sentence for finding in annotation_findings(content)]
    assert any("all 10 areas are 1 or less" in sentence for sentence in sentences) == told
    content["annotations"][4]["area"] = 50
    sentences = [finding.sentence for finding in annotation_findings(content)]
    assert not any("all 10 areas" in sentence for sentence in sentences)


def test_minival_may_repeat_ids_as_detectron2_has_it():
    content = sound_content()
    content["annotations"][1]["id"] = 1
    for path in ("instances_minival2014.json", "coco/instances_valminusminival2014.json"):
        assert [*annotation_findings(content, path)] == []
    for path in ("instances_val2014.json", "minival/instances_val.json", "instances_minival.json"):
        (finding,) = annotation_findings(content, path)
        assert (finding.severity, finding.stops) == (ERROR, ("training", "evaluation"))


# For an object of 100 x 50 pixels at (40, 20) in an image of 400 x 320; and whether it is told.
CORNERS = np.array([[40, 20], [140, 20], [140, 70], [40, 70]])
POLYGONS = {
    "its corners": (CORNERS, False),
    "a part of it": (CORNERS * 0.6 + [16, 8], False),  # 60 x 30 of 100 x 50
    "shares of the image": (CORNERS / [400, 320], True),
    "of an image of half the size": (CORNERS / 2, True),  # 70 - 40 by 35 - 20: 9 % of the box
    "y and x": (CORNERS[:, ::-1], True),  # 70 - 40 by 70 - 40: 18 % of the box
}


@pytest.mark.parametrize("case", POLYGONS)
def test_polygons_that_show_in_the_whole_file_that_they_are_none(case):
    points, told = POLYGONS[case]
    content = of_ten((40, 20, 100, 50))
    for annotation in content["annotations"]:
        annotation["segmentation"] = [points.ravel().tolist()]
    for right, of_most in ((0, told), (4, told), (5, False)):  # right ones of ten
        for annotation in content["annotations"][:right]:
            annotation["segmentation"] = [CORNERS.ravel().tolist()]
        found = [f for f in annotation_findings(content) if "polygons" in f.sentence]
        assert [(f.severity, f.stops) for f in found] == [MASKLESS] * of_most
        for finding in found:
            assert f"{10 - right} of 10 masks" in finding.sentence
            assert f"annotation {right + 1})" in finding.sentence


def test_a_finding_names_image_and_annotation():
    content = sound_content()
    content["annotations"][1]["category_id"] = 9
    text = "annotation 2 has the category_id 9, which is not in categories: correct it or add it"
    stops = "training", "evaluation"
    assert [*annotation_findings(content)] == [Finding(ERROR, "1.png", 2, f"{text} there", stops)]


# Masks.


@pytest.mark.parametrize("seed", range(20))
def test_sound_masks_have_none(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 300, 2).tolist()
    mask = np.asfortranarray(rng.random((height, width)) > rng.random(), dtype=np.uint8)
    rle = mask_util.encode(mask)
    flat = mask.T.ravel()
    # an independent run-length encoding, column by column, zeros first
    runs = np.diff(np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1, [flat.size]])).tolist()
    runs = [0, *runs] if flat[0] else runs
    assert _runs(rle["counts"]) == runs
    text = {**rle, "counts": rle["counts"].decode()}
    for segmentation in (rle, text, {"size": [height, width], "counts": runs}):
        assert mask_fault(segmentation, height, width) is None


def test_polygons():
    assert mask_fault([[0, 0, 5, 0.5, 5, 5], [1, 1, 2, 2, 3, 1]], 10, 10) is None
    assert mask_fault([[-50, 0, 500, 0, 5, 700]], 10, 10) is None
    assert mask_fault([[-100_000, 0, 500, 0, 5, 700]], 10, 10) is None
    assert mask_fault([], 10, 10) is None  # a missing mask is reported elsewhere


@pytest.mark.parametrize(
    "segmentation, words",
    [
        ("mask", "neither polygons nor an RLE but str"),
        (3.5, "neither polygons nor an RLE but float"),
        ([1, 2, 3, 4, 5, 6], "number 1, that is no list of finite numbers"),
        ([[0, 0, 1, 1, 2, 2], [0, 0, 1, math.nan, 2, 2]], "number 2, that is no list of finite"),
        ([[0, 0, 1, math.inf, 2, 2]], "no list of finite numbers"),
        ([[0, 0, 1, "1", 2, 2]], "no list of finite numbers"),
        ([[0, 0, 1, 1, 2, 2, 3]], "of 7 numbers: x and y go in pairs"),
        ([[0, 0, 1, 1, 2, 10**400]], "no list of finite numbers"),
        ([[0, 0, 1, 1, 2, -100_001]], "number 1, that reaches beyond 100000 pixels"),
        ([[0, 0, 1, 1, 2, 1e300]], "number 1, that reaches beyond 100000 pixels"),
        ({"size": [4, 8], "counts": [10**400]}, "neither a list of whole numbers nor a text"),
        ({"counts": [32]}, "size None, and the image is 4 x 8"),
        ({"size": [8, 4], "counts": [32]}, r"size \[8, 4\], and the image is 4 x 8"),
        ({"size": 32, "counts": [32]}, "size 32"),
        ({"size": [4, 8]}, "neither a list of whole numbers nor a text"),
        ({"size": [4, 8], "counts": [1.5, 30.5]}, "neither a list of whole numbers nor a text"),
        ({"size": [4, 8], "counts": [10]}, "of 10 pixels, and the image has 32"),
        ({"size": [4, 8], "counts": [40, -8]}, "of 32 pixels, and the image has 32"),
        ({"size": [4, 8], "counts": ""}, "of 0 pixels"),
        ({"size": [4, 8], "counts": "0"}, "of 0 pixels"),
        ({"size": [4, 8], "counts": "\x00"}, "no compressed run lengths"),
        ({"size": [4, 8], "counts": "\N{EURO SIGN}"}, "pixels|no compressed"),
        ({"size": [4, 8], "counts": "P"}, "no compressed run lengths"),  # announces more, but ends
        ({"size": [4, 8], "counts": b"o" * 100}, "no compressed run lengths"),
    ],
)
def test_faults(segmentation, words):
    assert re.search(words, mask_fault(segmentation, 4, 8))
