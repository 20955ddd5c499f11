"""Images that come from no annotation file, and what training and test sets share or lack."""

import math
import shutil

import numpy as np
import pytest
from coco_files import masked_content, write_coco
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from fpn_d2 import UserError
from fpn_d2.data.records import (
    check_ground_truth,
    check_keypoints,
    check_polygons,
    check_records,
    read_records,
    tell_splits,
)

RECORD = {"file_name": "a.png", "width": 40, "height": 32, "image_id": 1}
SOUND = {
    "bbox": [1, 2, 3, 4],
    "bbox_mode": BoxMode.XYWH_ABS,
    "segmentation": [[1, 1, 9, 1, 9, 9, 1, 9]],
    "category_id": 0,
}


@pytest.mark.parametrize(
    "record, annotation, words",
    [
        ({}, {}, None),
        ({"width": np.int64(40)}, {"bbox": np.array([1, 2, 3, 4])}, None),
        ({}, {"bbox": (1.5, 2, 3, 4)}, None),
        # as in Detectron2's tutorial of balloons
        ({}, {"bbox": [np.int64(1), 2, np.float32(3), 4]}, None),
        ({}, {"segmentation": [[np.int64(1)] * 6]}, "broken mask"),  # JSON would not take it
        ({}, {"bbox": [np.float32("inf"), 2, 3, 4]}, "four finite numbers"),
        ({"width": 40.5}, {}, "has the width 40.5"),
        ({"height": True}, {}, "has the height True"),
        ({}, {"bbox": [1, 2, 3]}, r"with bbox \[1, 2, 3\]"),
        ({}, {"bbox": np.array([1, 2, 3, np.nan])}, "four finite numbers"),
        ({}, {"segmentation": [[1, 1, 9, math.nan, 9, 9]]}, "broken mask"),
        ({}, {"segmentation": {"size": [4, 4], "counts": [16]}}, "broken mask"),
        ({}, {"segmentation": None}, "has no segmentation"),
        ({}, {"segmentation": np.ones((32, 40))}, "neither polygons nor an RLE but ndarray"),
        ({}, {"bbox": (1, (2, 3), 4, 5)}, "give four finite numbers"),
        ({}, {"category_id": np.int64(1)}, None),
        ({}, {"category_id": 2}, "of category_id 2: give a whole number from 0 to 1"),
        ({}, {"category_id": -1}, "of category_id -1"),
        ({}, {"category_id": "cat"}, "of category_id 'cat'"),
        ({}, {"bbox_mode": BoxMode.XYXY_ABS}, None),
        ({}, {"bbox_mode": BoxMode.XYXY_REL}, "with bbox_mode .*: give BoxMode.XYXY_ABS"),
        ({}, {"bbox_mode": "XYWH_ABS"}, "with bbox_mode XYWH_ABS"),
        ({}, {"bbox_mode": None}, "with bbox_mode None"),
    ],
)
def test_images_that_come_from_no_annotation_file(record, annotation, words):
    records = [{**RECORD, **record, "annotations": [{**SOUND, **annotation}]}]
    if words is None:
        check_records(["mine"], records, masks=True, classes=2)
        return
    with pytest.raises(UserError, match=f"data set mine.*{words}"):
        check_records(["mine"], records, masks=True, classes=2)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"image_id": np.int64(2)}, r"image_id np.int64\(2\): give a number of Python's"),
        ({"width": None}, "no width or no height"),
        ({"annotations": None}, r"no annotations, and others do: give \[\]"),
    ],
)
def test_what_would_stop_the_evaluation_after_the_training(change, words):
    first = {**RECORD, "image_id": 1, "annotations": [SOUND]}
    second = {key: value for key, value in {**first, "image_id": 2, **change}.items() if value}
    MetadataCatalog.get("mine").thing_classes = ["a", "b"]
    with pytest.raises(UserError, match=f"data set mine.*{words}"):
        check_records(["mine"], [first, second], masks=False, evaluation=True)


def test_an_image_whose_size_nobody_says():
    check_records(["mine"], [{"file_name": "a.png", "annotations": [SOUND]}], masks=True)


@pytest.mark.parametrize("found", [None, [], {}, (record for record in [RECORD])])
def test_a_function_returns_a_list_of_images(found):
    DatasetCatalog.register("mine", lambda: found)
    with pytest.raises(UserError, match="data set mine: the function .* returns a"):
        read_records(["mine"])


def test_the_images_of_several_functions():
    DatasetCatalog.register("mine", lambda: [RECORD])
    DatasetCatalog.register("others", lambda: (RECORD, RECORD))
    assert read_records(["mine", "others"]) == [RECORD] * 3


def test_what_detectron2_does_not_count_may_lack_annotations():
    MetadataCatalog.get("mine").evaluator_type = "my_own"
    records = [{**RECORD, "annotations": []}, {**RECORD, "image_id": 2}]
    check_records(["mine"], records, masks=False, evaluation=True)
    MetadataCatalog.get("mine").thing_classes = ["cat"]
    with pytest.raises(UserError, match="has no annotations, and others do"):
        check_records(["mine"], records, masks=False, evaluation=True)


def test_a_model_without_classes_takes_any():
    check_records(["mine"], [{**RECORD, "annotations": [{**SOUND, "category_id": 99}]}], False)


def test_an_image_without_a_file():
    for record in ({"image_id": 1}, {**RECORD, "file_name": None}):
        with pytest.raises(UserError, match="it has no file_name"):
            check_records(["mine"], [record], masks=False)
    check_records(["mine"], [{"image_id": 1, "image": np.zeros(3)}], masks=False)


def test_images_and_objects_of_another_form():
    with pytest.raises(UserError, match="data set mine: it has 'a.png' for an image; give a dict"):
        check_records(["mine"], ["a.png"], masks=False)
    for annotations in (None, {}, [None], "none"):
        with pytest.raises(UserError, match=r"image a.png: it has annotations that are no list"):
            check_records(["mine"], [{**RECORD, "annotations": annotations}], masks=False)


@pytest.mark.parametrize("change", [{"image_id": None}, {"image_id": 1}])
def test_evaluation_tells_images_apart_by_their_ids(change):
    MetadataCatalog.get("mine").thing_classes = ["cat"]
    records = [RECORD, {**RECORD, "file_name": "b.png", **change}]
    check_records(["mine"], records, masks=False)  # training does not
    with pytest.raises(UserError, match=r"image b.png: it has the image_id (None|1): give each"):
        check_records(["mine"], records, masks=False, evaluation=True)
    records[1]["image_id"] = "b"
    check_records(["mine"], records, masks=False, evaluation=True)


def test_evaluation_needs_the_names_of_the_classes():
    check_records(["mine"], [RECORD], masks=False)
    with pytest.raises(UserError, match=r"MetadataCatalog.get\('mine'\).set\(thing_classes=\["):
        check_records(["mine"], [RECORD], masks=False, evaluation=True)


# A user's function, and a file beside it that COCO's evaluation reads.


def test_the_images_and_classes_of_a_function_are_those_of_its_file(tmp_path):
    records = [{"image_id": i, "file_name": f"{i}.png", "annotations": [SOUND]} for i in (1, 2)]
    check_ground_truth("mine", records)  # without a file the evaluation writes one from the records
    mine = MetadataCatalog.get("mine")
    path = write_coco(tmp_path, "zoo", "train", masked_content())
    mine.json_file = str(path)  # its categories have the ids 1 and 2
    with pytest.raises(UserError, match=r"the ids of its categories are \[1, 2\].*counts .*from 0"):
        check_ground_truth("mine", records)
    mine.thing_dataset_id_to_contiguous_id = {1: 0, 2: 1}
    check_ground_truth("mine", records)
    with pytest.raises(UserError, match=r"no image of id 9, as data set mine says of 9.png"):
        check_ground_truth("mine", [*records, {**records[0], "image_id": 9, "file_name": "9.png"}])


def test_nothing_to_find_is_told(caplog):
    check_ground_truth("mine", [RECORD, {**RECORD, "annotations": [{**SOUND, "iscrowd": 1}]}])
    assert "data set mine has no objects to find but crowds, so its AP is NaN" in caplog.text
    caplog.clear()
    check_ground_truth("mine", [RECORD, {**RECORD, "annotations": [SOUND]}])
    assert caplog.text == ""


def test_an_rle_is_no_polygon():
    rle = {**SOUND, "segmentation": {"size": [32, 40], "counts": [0, 1280]}}
    sound = {**RECORD, "annotations": [SOUND, {**rle, "iscrowd": 1}]}  # crowds are left out
    check_polygons(["mine"], [sound, RECORD])
    with pytest.raises(UserError, match=r"image b.png: it has an RLE.*set it to bitmask"):
        check_polygons(["mine"], [sound, {"file_name": "b.png", "annotations": [SOUND, rle]}])


def test_an_image_of_which_one_object_alone_has_keypoints():
    objects = [{**SOUND, **more} for more in ({"keypoints": [5, 6, 2]}, {}, {"iscrowd": 1})]
    record = {"file_name": "a.png", "annotations": objects}
    with pytest.raises(UserError, match=r"a\.png: .* with 0 numbers as keypoints.*zeros where"):
        check_keypoints(["mine"], [record], 1, training=True)
    check_keypoints(["mine"], [record], 1, training=False)  # the evaluation adds zeros
    objects[1]["keypoints"] = [0, 0, 0]
    records = [record, {**record, "annotations": objects[2:]}]
    check_keypoints(["mine"], records, 1, training=True)


# What training and test sets share, and what one of them lacks.


def image_of(path, *classes, crowd=0):
    objects = [{"category_id": number, "iscrowd": crowd} for number in classes]
    return {"file_name": str(path), "annotations": objects}


@pytest.fixture
def files(tmp_path):
    """A folder with three files in ``a``; ``b`` has a copy of the first, a link to the second and a
    file with the third one's name and length."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    for i in range(3):
        (tmp_path / f"a/{i}.png").write_text(f"image {i}")
    shutil.copy(tmp_path / "a/0.png", tmp_path / "b/0.png")
    (tmp_path / "b/1.png").symlink_to(tmp_path / "a/1.png")
    (tmp_path / "b/2.png").write_text("image 7")
    return tmp_path


def test_images_of_both_sets_are_counted_and_the_first_is_named(files, caplog):
    train = [image_of(files / f"a/{i}.png", 0) for i in range(3)]
    tell_splits(train, {"other": [image_of(files / f"b/{i}.png", 0) for i in range(3)]})
    (message,) = (r.getMessage() for r in caplog.records)
    assert "data set other: at least 2 of its 3 images are trained on too" in message
    assert str(files / "b/0.png") in message


def test_a_set_that_is_trained_on_itself(files, caplog):
    train = [image_of(files / f"a/{i}.png", 0) for i in range(3)]
    tell_splits(train, {"same": train[1:]})
    assert "at least 2 of its 2 images" in caplog.text


@pytest.mark.parametrize("path", ["b/2.png", "a/3.png", "https://host/a/0.png"])
def test_other_images_of_the_same_name_are_no_fault(files, caplog, path):
    train = [image_of(files / f"a/{i}.png", 0) for i in range(3)]
    tell_splits(train, {"other": [image_of(files / path, 0)]})
    assert caplog.text == ""


def test_classes_that_no_training_image_has_are_named(caplog):
    MetadataCatalog.get("zoo_val").thing_classes = ["cat", "dog", "eel"]
    train = [image_of("0.png", 0), image_of("1.png", 2, crowd=1), image_of("2.png")]
    tell_splits(train, {"zoo_val": [image_of("3.png", 0, 1, 2)]})
    (message,) = (r.getMessage() for r in caplog.records)
    assert "no training image has an object of dog, eel" in message
    caplog.clear()
    tell_splits(train, {"zoo_val": [image_of("3.png", 0), image_of("4.png", 1, crowd=1)]})
    assert caplog.text == ""
