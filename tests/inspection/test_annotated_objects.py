"""inspection/annotated_objects.py: which annotations of a file are objects."""

import copy
import json

import pytest
from coco_files import coco_content, coco_image, coco_object
from detectron2.data.datasets import register_coco_instances

from fpn_d2 import UserError
from fpn_d2.inspection.annotated_objects import AnnotatedObjects, dataset_files

# Three images of 40 x 32 pixels (width x height), each with an object.
CONTENT = coco_content(
    [coco_image(i, 40, 32) for i in (1, 2, 3)],
    [coco_object(i, i, [1 + i, 3, 10, 12], 1 + (i - 1) % 2) for i in (1, 2, 3)],
    *("cat", "dog"),
)


def test_boxes_are_corners_and_others_are_counted(tmp_path):
    content = copy.deepcopy(CONTENT)
    first, second, third = content["annotations"]
    first["bbox"] = [30, 20, 50, 50]  # beyond the image
    second["iscrowd"] = 1
    extra = [{**third, "bbox": bad} for bad in ([1, 2, 0, 3], [1, 2, float("nan"), 3], None, "x")]
    content["annotations"] += [*extra, {**third, "image_id": 99}, {**third, "category_id": []}]
    (tmp_path / "set.json").write_text(json.dumps(content))
    objects = AnnotatedObjects(str(tmp_path / "set.json"), "images")
    assert objects.boxes.tolist() == [[30, 20, 40, 32], [4, 3, 14, 15]]
    assert objects.images.tolist() == [0, 2]
    assert objects.image_sizes.tolist() == [[32, 40]] * 3
    assert objects.classes.tolist() == [0, 0]
    assert objects.class_names == ["cat", "dog"]
    assert objects.left_out == {
        "crowd regions": 1,
        "without a box of some area on the image": 4,
        "of no known image or category": 2,
    }


@pytest.mark.parametrize(
    "content, words",
    [
        ({**CONTENT, "images": []}, "has no images"),
        ({**CONTENT, "annotations": []}, "has no annotations with a box"),
        ({**CONTENT, "annotations": 3}, "has no list named annotations"),
        ([], "has no list named images"),
        ("{", "is not valid JSON at line 1"),
    ],
)
def test_a_file_without_objects_is_refused(tmp_path, content, words):
    path = tmp_path / "set.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=words) as error:
        AnnotatedObjects(str(path), "images")
    assert str(path) in str(error.value)


def test_a_data_set_whose_file_names_need_no_folder(tmp_path):
    path = str(tmp_path / "set.json")
    register_coco_instances("no_folder_val", {}, path, "")
    assert dataset_files("no_folder_val") == (path, ".")
