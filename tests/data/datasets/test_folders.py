"""Data sets in COCO's format: folders, and the first images of a set (Table 6's test set)."""

import json
import logging

import pytest
from coco_files import sound_content, write_coco, write_files
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from fpn_d2 import UserError
from fpn_d2.data import check_names
from fpn_d2.data.datasets import register_first_images, register_folders


def test_every_split_of_every_folder_is_registered_and_twice_is_harmless(tmp_path, caplog):
    write_coco(tmp_path, "zoo", "train", sound_content())
    write_coco(tmp_path, "zoo", "all_days", sound_content())
    write_coco(tmp_path, "attic", "val", sound_content())

    names = register_folders(str(tmp_path))

    assert names == ["attic_val", "zoo_all_days", "zoo_train"]
    records = DatasetCatalog.get("zoo_train")
    assert [record["image_id"] for record in records] == [1, 2, 3, 4]
    assert records[0]["file_name"] == str(tmp_path / "zoo" / "images" / "0.png")
    assert records[1]["annotations"][0]["bbox"] == [3, 3, 10, 12]
    metadata = MetadataCatalog.get("zoo_train")
    assert metadata.thing_classes == ["cat", "dog"]
    assert metadata.evaluator_type == "coco"
    with caplog.at_level(logging.WARNING):
        assert register_folders(str(tmp_path)) == []
    assert not caplog.records


def test_detectron2s_names_win_and_it_says_so(tmp_path, caplog):
    builtin = MetadataCatalog.get("coco_2017_train").json_file
    path = write_coco(tmp_path, "coco_2017", "train", sound_content())
    with caplog.at_level(logging.WARNING):
        assert register_folders(str(tmp_path)) == []
    assert MetadataCatalog.get("coco_2017_train").json_file == builtin
    assert str(path) in caplog.text


def test_what_is_no_data_set_of_the_users_is_left_out(tmp_path):
    for name in ("shapes", ".zoo.partial", "zoo"):
        write_coco(tmp_path, name, "train", sound_content())
    names = ("zoo/annotations/captions_train", "no_images/annotations/instances_train", "file")
    write_files(tmp_path, {f"{name}.json": "{}" for name in names})
    (tmp_path / "no_annotations" / "images").mkdir(parents=True)
    assert register_folders(str(tmp_path)) == ["zoo_train"]


def test_any_character_in_the_roots_name_and_a_root_that_is_not_there(tmp_path):
    root = tmp_path / "data [1] *"
    assert register_folders(str(root)) == []
    write_coco(root, "zoo", "train", sound_content())
    assert register_folders(str(root)) == ["zoo_train"]


def test_a_name_that_is_not_registered_says_what_its_folder_has(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_coco(tmp_path, "my_zoo", "train", sound_content())
    (tmp_path / "attic").mkdir()
    for name, words in (
        ("my_zoo_val", "my_zoo has train: choose among"),
        ("attic_train", "attic is in none of the layouts of data sets: give it"),
        ("nothing_at_all", "need <name>/images/ and"),
    ):
        with pytest.raises(UserError, match=words):
            check_names([name], "DATASETS.TRAIN")


@pytest.fixture
def whole(tmp_path):
    """Four images with ids out of order, an object in each but the last."""
    content = sound_content()
    for image, number in zip(content["images"], (40, 10, 30, 20), strict=True):
        image["id"] = number
    for annotation, image in zip(content["annotations"], content["images"], strict=False):
        annotation["image_id"] = image["id"]
    path = tmp_path / "instances_whole.json"
    path.write_text(json.dumps(content))
    register_coco_instances("whole_set", {}, str(path), str(tmp_path))
    return path


def test_the_first_by_ascending_id(whole, tmp_path):
    register_first_images("first_set", of="whole_set", count=2)
    assert not (tmp_path / "instances_whole_first2.json").exists()  # not before the first use
    records = DatasetCatalog.get("first_set")
    assert [record["image_id"] for record in records] == [10, 20]
    content = json.loads((tmp_path / "instances_whole_first2.json").read_text())
    assert [annotation["image_id"] for annotation in content["annotations"]] == [10]
    assert MetadataCatalog.get("first_set").thing_classes == ["cat", "dog"]
    assert MetadataCatalog.get("first_set").evaluator_type == "coco"


def test_a_missing_or_broken_whole_is_named(whole):
    register_first_images("first_set", of="whole_set", count=2)
    for spoil in (lambda: whole.write_text("{"), whole.unlink):
        spoil()
        with pytest.raises(UserError, match=r"first_set cannot be made of \S+_whole\.json"):
            DatasetCatalog.get("first_set")


def test_the_papers_test_set_is_registered():
    assert "coco_2014_val_first5k" in DatasetCatalog
    assert MetadataCatalog.get("coco_2014_val_first5k").json_file.endswith(
        "instances_val2014_first5000.json"
    )
