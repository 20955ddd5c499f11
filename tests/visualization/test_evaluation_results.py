"""Pictures of what an evaluation found, each in a file of its own."""

import json
import os
import pickle

import numpy as np
import pytest
from detectron2.data.datasets import register_coco_instances
from PIL import Image
from pycocotools.coco import COCO

from fpn_d2 import UserError
from fpn_d2.visualization import draw_results, evaluation_results, overlaps_with_objects


def test_two_images_of_one_name_have_two_pictures(tmp_path):
    """A black one in one folder, and a white one in another."""
    images, values = [], {"a": 0, "b": 255}
    for i, (folder, value) in enumerate(values.items()):
        name = f"{folder}/1.png"
        (tmp_path / folder).mkdir()
        Image.new("RGB", (64, 64), (value,) * 3).save(tmp_path / name)
        images.append({"id": i + 1, "file_name": name, "width": 64, "height": 64})
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "x"}]}
    (tmp_path / "twins.json").write_text(json.dumps(content))
    register_coco_instances("twins_val", {}, str(tmp_path / "twins.json"), str(tmp_path))
    inference = tmp_path / "inference" / "twins_val"
    inference.mkdir(parents=True)
    (inference / "coco_instances_results.json").write_text("[]")
    files = draw_results(str(inference), str(tmp_path / "pictures"))
    assert [os.path.basename(file) for file in files] == ["1.png", "1_2.png"]
    for file, value in zip(files, values.values(), strict=True):
        assert (np.array(Image.open(file))[-1, 0] == value).all()


def test_a_photo_is_drawn_at_a_size_to_look_at():
    assert evaluation_results._draw(np.zeros((30, 4000, 3), np.uint8), [], [], []).shape[1] == 1600


def test_results_are_compared_with_the_objects_of_their_class(tmp_path):
    truth, box = COCO(), [10, 10, 20, 20]
    objects = [{"bbox": box, "category_id": 1}, {"bbox": box, "category_id": 1, "iscrowd": 1}]
    truth.imgs, truth.imgToAnns = {1: {}}, {1: objects}
    corners = np.array([[10, 10, 30, 30], *[[0, 0, 9, 9]] * 149])
    content = {"ids": [1], "boxes": [corners], "objectness_logits": [np.zeros(150)]}
    (tmp_path / "box_proposals.pkl").write_bytes(pickle.dumps(content))
    kind, found = evaluation_results.read_results(str(tmp_path), truth)
    assert [found[1][0]["bbox"], len(found[1])] == [box, 100]
    assert overlaps_with_objects(kind, truth, 1, found[1])[1][:2].tolist() == [[1], [0]]
    detections = [{"bbox": box, "category_id": category} for category in (1, 2)]
    assert overlaps_with_objects("bbox", truth, 1, detections)[1].tolist() == [[1], [0]]


def test_proposals_of_another_data_set_are_refused(tmp_path):
    """Their images have other ids, so all objects would be drawn as missed."""
    truth = COCO()
    truth.imgs = {1: {}}
    found = {"ids": [777], "boxes": [np.zeros((1, 4))], "objectness_logits": [np.zeros(1)]}
    (tmp_path / "box_proposals.pkl").write_bytes(pickle.dumps(found))
    with pytest.raises(UserError, match="there is no image 777 in the annotations"):
        evaluation_results.read_results(str(tmp_path), truth)
