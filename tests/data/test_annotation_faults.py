"""Faults of an annotation file's content, each beside the sound content without it."""

import math

import pytest

from fpn_d2.data.annotation_faults import ERROR, WARNING, Finding, annotation_findings

# The images of conftest.py have 40 x 32 pixels; annotation 2 is of image 2, 1.png.
SQUARE = [[1, 1, 9, 1, 9, 9, 1, 9]]
HUGE = 10**400


def change(key, number, **values):
    return lambda c: c[key][number].update(values)


def drop(key, number, field):
    return lambda c: c[key][number].pop(field)


def box(*values):
    return change("annotations", 1, bbox=list(values))


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
    assert list(annotation_findings(content)) == []
    spoil(content)
    findings = list(annotation_findings(content))
    assert [finding.severity for finding in findings] == severities
    for finding in findings:
        with pytest.raises(AssertionError, match=words):
            raise AssertionError(finding.sentence)


def test_a_finding_names_image_and_annotation(coco):
    content = coco.content()
    content["annotations"][1]["category_id"] = 9
    text = "annotation 2 has the category_id 9, which is not in categories: correct it or add it"
    assert list(annotation_findings(content)) == [Finding(ERROR, "1.png", 2, f"{text} there")]


def test_a_crowd_needs_no_mask(coco):
    content = coco.content()
    mask(None)(content)
    content["annotations"][1]["iscrowd"] = 1
    assert list(annotation_findings(content)) == []


@pytest.mark.parametrize("content", [None, 3, "text", [1, 2], math.nan])
def test_what_is_no_object_at_all(content):
    (finding,) = annotation_findings(content)
    assert "top level is no object" in finding.sentence
