import logging

from detectron2.data import DatasetCatalog, MetadataCatalog

from fpn_d2.data.datasets import register_coco_folders


def test_every_split_of_every_folder_is_registered(tmp_path, coco):
    coco.write(tmp_path, "zoo", "train", coco.content())
    coco.write(tmp_path, "zoo", "all_days", coco.content())
    coco.write(tmp_path, "attic", "val", coco.content())

    names = register_coco_folders(str(tmp_path))

    assert names == ["attic_val", "zoo_all_days", "zoo_train"]
    records = DatasetCatalog.get("zoo_train")
    assert [record["image_id"] for record in records] == [1, 2, 3, 4]
    assert records[0]["file_name"] == str(tmp_path / "zoo" / "images" / "0.png")
    assert records[1]["annotations"][0]["bbox"] == [3, 3, 10, 12]
    metadata = MetadataCatalog.get("zoo_train")
    assert metadata.thing_classes == ["cat", "dog"]
    assert metadata.evaluator_type == "coco"


def test_twice_is_harmless(tmp_path, coco, caplog):
    coco.write(tmp_path, "zoo", "train", coco.content())
    assert register_coco_folders(str(tmp_path)) == ["zoo_train"]
    with caplog.at_level(logging.WARNING):
        assert register_coco_folders(str(tmp_path)) == []
    assert not caplog.records


def test_detectron2s_names_win_and_it_says_so(tmp_path, coco, caplog):
    builtin = MetadataCatalog.get("coco_2017_train").json_file
    path = coco.write(tmp_path, "coco_2017", "train", coco.content())
    with caplog.at_level(logging.WARNING):
        assert register_coco_folders(str(tmp_path)) == []
    assert MetadataCatalog.get("coco_2017_train").json_file == builtin
    assert str(path) in caplog.text


def test_what_is_no_data_set_of_the_users_is_left_out(tmp_path, coco):
    for name in ("shapes", ".zoo.partial", "zoo"):
        coco.write(tmp_path, name, "train", coco.content())
    (tmp_path / "zoo" / "annotations" / "captions_train.json").write_text("{}")
    (tmp_path / "no_images" / "annotations").mkdir(parents=True)
    (tmp_path / "no_images" / "annotations" / "instances_train.json").write_text("{}")
    (tmp_path / "no_annotations" / "images").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    assert register_coco_folders(str(tmp_path)) == ["zoo_train"]


def test_any_character_in_the_roots_name(tmp_path, coco):
    root = tmp_path / "data [1] *"
    coco.write(root, "zoo", "train", coco.content())
    assert register_coco_folders(str(root)) == ["zoo_train"]


def test_a_root_that_is_not_there(tmp_path):
    assert register_coco_folders(str(tmp_path / "nowhere")) == []
