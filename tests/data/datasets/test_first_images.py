"""The first images of a data set, by id, as a data set of their own (Table 6's test set)."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from fpn_d2 import UserError
from fpn_d2.data.datasets import register_first_images


@pytest.fixture
def whole(tmp_path):
    """Four images with ids out of order, an object in each."""
    ids = [40, 10, 30, 20]
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 9, "width": 9} for i in ids],
        "annotations": [
            {
                "id": i,
                "image_id": i,
                "category_id": 7,
                "bbox": [0, 0, 5, 5],
                "area": 25,
                "iscrowd": 0,
                "segmentation": [[0, 0, 5, 0, 5, 5, 0, 5]],
            }
            for i in ids
        ],
        "categories": [{"id": 7, "name": "thing"}],
    }
    path = tmp_path / "instances_whole.json"
    path.write_text(json.dumps(content))
    register_coco_instances("whole_set", {}, str(path), str(tmp_path))
    yield path
    for name in ("whole_set", "first_set"):
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def test_the_first_by_ascending_id(whole, tmp_path):
    register_first_images("first_set", of="whole_set", count=2)
    assert not (tmp_path / "instances_whole_first2.json").exists()  # before the first use
    records = DatasetCatalog.get("first_set")
    assert [record["image_id"] for record in records] == [10, 20]
    content = json.loads((tmp_path / "instances_whole_first2.json").read_text())
    assert [annotation["image_id"] for annotation in content["annotations"]] == [10, 20]
    assert MetadataCatalog.get("first_set").thing_classes == ["thing"]
    assert MetadataCatalog.get("first_set").evaluator_type == "coco"


def test_a_missing_or_broken_whole_is_named(whole):
    register_first_images("first_set", of="whole_set", count=2)
    whole.write_text("{")
    with pytest.raises(UserError, match=r"first_set cannot be made of \S+instances_whole\.json"):
        DatasetCatalog.get("first_set")
    whole.unlink()
    with pytest.raises(UserError, match=r"first_set cannot be made of \S+instances_whole\.json"):
        DatasetCatalog.get("first_set")


def test_the_papers_test_set_is_registered():
    assert "coco_2014_val_first5k" in DatasetCatalog
    assert MetadataCatalog.get("coco_2014_val_first5k").json_file.endswith(
        "instances_val2014_first5000.json"
    )
