"""data/datasets/voc.py against hand-written boxes, Detectron2's VOC loader and supervision."""

import contextlib
import os

import numpy as np
import pytest
import supervision as sv
from coco_files import load_folder, sound_content, write_coco, write_files
from detectron2.data import DatasetCatalog
from detectron2.data.datasets.pascal_voc import load_voc_instances

from fpn_d2 import UserError
from fpn_d2.data import build_test_loader, load_train_dataset
from fpn_d2.data.datasets import converted_folders, register_folders
from fpn_d2.data.datasets.converted_folders import splits_by_layout
from fpn_d2.inspection.dataset_check import check_dataset

IMAGE = (40, 20)


def xml(*objects, size="<size><width>40</width><height>20</height></size>", name="a.jpg"):
    return f"<annotation><filename>{name}</filename>{size}{''.join(objects)}</annotation>"


def thing(name, corners, more=""):
    keys = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{k}>{v}</{k}>" for k, v in zip(keys, corners, strict=True))
    return f"<object><name>{name}</name><bndbox>{box}</bndbox>{more}</object>"


CAT, DOG = thing("cat", (1, 1, 40, 20)), thing("dog", (6, 4, 15, 13))
HARD = thing("dog", (1, 1, 10, 10), "<difficult>1</difficult><truncated>1</truncated>")


def voc(more=()):
    files = {
        "ImageSets/Main/train.txt": "a\nb\n",
        "ImageSets/Main/val.txt": "\ufeffc\n",  # with Windows' mark
        "ImageSets/Main/cat_train.txt": "a 1\nb -1\n",
        "Annotations/a.xml": xml(DOG, HARD),
        "Annotations/b.xml": xml(),
        "Annotations/c.xml": xml(CAT),
        **{f"JPEGImages/{name}.jpg": IMAGE for name in "abc"},
    }
    return {name: content for name, content in {**files, **dict(more)}.items() if content != 0}


def test_boxes_count_from_one_and_classes_are_those_of_all_splits(tmp_path, load_zoo):
    (first, second), classes = load_zoo(voc(), "train")
    assert classes == ["cat", "dog"]  # only val has a cat
    assert first["file_name"] == str(tmp_path / "zoo/JPEGImages/a.jpg")
    dog = first["annotations"][0]
    assert (dog["bbox"], dog["category_id"], dog["iscrowd"]) == ([5, 3, 10, 10], 1, 0)
    assert second["annotations"] == []
    (record,), _ = load_folder(tmp_path, "zoo_val")
    assert record["annotations"][0]["bbox"] == [0, 0, 40, 20]  # the whole image
    assert "zoo_cat_train" not in register_folders(str(tmp_path))


def test_difficult_objects_are_crowds_and_it_says_so(load_zoo, caplog):
    (first, _), _ = load_zoo(voc(), "train")
    assert [a["iscrowd"] for a in first["annotations"]] == [0, 1]
    assert "data set zoo_train: 1 objects marked difficult are crowds" in caplog.text


@pytest.mark.parametrize(
    "word, crowd",
    [("1", 1), (" True ", 1), ("yes", 1), ("0", 0), ("False", 0), ("no", 0), ("Unspecified", 0)],
)
def test_every_way_to_write_difficult(load_zoo, word, crowd):
    entry = thing("dog", (1, 1, 10, 10), f"<difficult>{word}</difficult>")
    (record,), _ = load_zoo(voc({"Annotations/c.xml": xml(entry)}), "val")
    assert [a["iscrowd"] for a in record["annotations"]] == [crowd]


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_of_two_images_of_a_name_the_file_says_which(tmp_path, load_zoo, ending):
    more = {"JPEGImages/c.png": IMAGE, "Annotations/c.xml": xml(CAT, name=f"c.{ending}")}
    (record,), _ = load_zoo(voc(more), "val")
    assert record["file_name"] == str(tmp_path / f"zoo/JPEGImages/c.{ending}")


def test_boxes_are_those_of_detectron2_and_of_supervision(tmp_path, load_zoo):
    rng = np.random.default_rng(0)
    corners = [
        (*rng.integers(1, 10, 2), *rng.integers(20, 40, 1), *rng.integers(12, 20, 1))
        for _ in range(20)
    ]
    things = [thing("cat", [*map(int, box)]) for box in corners]
    (record, _), classes = load_zoo(voc({"Annotations/a.xml": xml(*things)}), "train")
    ours = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in record["annotations"])]
    theirs, _ = load_voc_instances(str(tmp_path / "zoo"), "train", classes)
    assert ours == [a["bbox"] for a in theirs["annotations"]]
    parts = (str(tmp_path / "zoo" / part) for part in ("JPEGImages", "Annotations"))
    by_path = {path: found for path, _, found in sv.DetectionDataset.from_pascal_voc(*parts)}
    np.testing.assert_array_equal(ours, by_path[record["file_name"]].xyxy)


def test_polygons_are_kept(load_zoo):
    polygon = (
        "<polygon><x1>5.5</x1><y1>3</y1><x2>21</x2><y2>3</y2><x3>5.5</x3><y3>13</y3></polygon>"
    )
    entry = thing("cat", (5, 3, 20, 12), polygon)
    (record,), _ = load_zoo(voc({"Annotations/c.xml": xml(entry)}), "val")
    assert record["annotations"][0]["segmentation"] == [[4.5, 2, 20, 2, 4.5, 12]]


@pytest.mark.parametrize(
    "files, names",
    [
        ({"Annotations/a.xml": xml(CAT), "JPEGImages/a.jpg": IMAGE}, ["zoo_all"]),
        ({"annotations/a.xml": xml(CAT), "images/a.png": IMAGE}, ["zoo_all"]),
        ({"a.xml": xml(CAT), "a.jpg": IMAGE}, ["zoo_all"]),
        (  # Roboflow's
            {
                **{"train/a.xml": xml(CAT), "train/a.jpg": IMAGE},
                **{"valid/b.xml": xml(DOG), "valid/b.jpg": IMAGE},
            },
            ["zoo_train", "zoo_valid", "zoo_val"],
        ),
        ({"VOC2007/" + name: content for name, content in voc().items()}, None),  # VOCdevkit
    ],
)
def test_flat_folders_and_folders_of_splits(tmp_path, files, names):
    write_files(tmp_path / "zoo", files)
    wanted = names or ["VOC2007_train", "VOC2007_val"]
    assert register_folders(str(tmp_path)) == wanted
    for name in wanted:
        assert load_folder(tmp_path, name)[0][0]["annotations"]


@pytest.mark.parametrize(
    "content, words",
    [
        (xml(CAT, size=""), "has no size"),
        (xml(CAT, size="<size><width>0</width><height>20</height></size>"), "has no size"),
        (xml(CAT, "<object><name>dog</name></object>"), "object 2, has the bndbox None"),
        (xml(thing("dog", (9, 9, 3, 12))), r"object 1, has the bndbox \['9', '9', '3', '12'\]"),
        (xml(thing("dog", (3, 12, 9, 9))), r"object 1, has the bndbox \['3', '12', '9', '9'\]"),
        (xml(thing("dog", (1, 1, "inf", 12))), "object 1, has the bndbox"),
        (xml(thing(" ", (1, 1, 9, 12))), "object 1, has no name"),
        (xml(thing("dog", (1, 1, 9, 12), "<polygon><x1>1</x1></polygon>")), "has a polygon"),
        ("<annotation>", "is no readable XML"),
        (f'<?xml version="1.0" encoding="foo-bar"?>{xml(CAT)}', "is no readable XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', "is no readable XML"),
    ],
)
def test_a_faulty_file_is_named(tmp_path, load_zoo, content, words):
    with pytest.raises(UserError, match=words) as error:
        load_zoo(voc({"Annotations/c.xml": content}), "val")
    assert str(error.value).startswith(f"{tmp_path}/zoo/Annotations/c.xml")
    assert len(load_folder(tmp_path, "zoo_train")[0]) == 2


@pytest.mark.parametrize("lines, images", [("a\nb\na\n", "ab"), ("a.jpg\n", "a")])
def test_a_line_names_an_image_or_its_file_and_counts_once(tmp_path, lines, images):
    files = voc({"ImageSets/Main/train.txt": lines, "Annotations/b.xml": xml(CAT)})
    write_files(tmp_path / "zoo", files)
    names = [r["file_name"] for r in load_folder(tmp_path, "zoo_train")[0]]
    assert names == [str(tmp_path / f"zoo/JPEGImages/{image}.jpg") for image in images]


def test_hidden_files_are_no_annotations(tmp_path):
    files = {"a.xml": xml(CAT), "a.jpg": IMAGE, "._a.xml": "\0\5\26\7", "._a.jpg": "\0\5\26\7"}
    write_files(tmp_path / "zoo", files)
    assert len(load_folder(tmp_path, "zoo_all")[0]) == 1
    write_files(tmp_path / "none", {"._a.xml": "\0\5\26\7", "._a.jpg": "\0\5\26\7"})
    assert not [name for name in register_folders(str(tmp_path)) if name.startswith("none")]


@pytest.mark.parametrize(
    "more, words",
    [
        (
            {"ImageSets/Main/val.txt": "c\n\nd\n"},
            r"val\.txt line 3 names .*Annotations/d\.xml, do not",
        ),
        (
            {"Annotations/c.xml": 0, "Annotations/c.XML": xml(CAT)},
            r"c\.xml, do not exist \(but .*c\.XML' does: give",
        ),
        (
            {"ImageSets/Main/val.txt": "deep/d\n", "Annotations/deep/d.xml": xml(CAT)},
            r"line 1 names .*deep/d\.xml, which is not itself in .*: m",
        ),
        (
            {"JPEGImages/c.jpg": 0, "Annotations/c.xml": xml(CAT, name="c.jpg")},
            r"Annotations/c\.xml is left out, as its image is not in",
        ),
    ],
    ids=["absent", "another case", "in a folder below", "no image"],
)
def test_a_list_that_names_what_is_not_there(load_zoo, more, words):
    with pytest.raises(UserError, match=words):
        load_zoo(voc(more), "val")


def test_no_evaluation_starts_without_an_image_that_a_list_names(tmp_path, cfg):
    more = {"JPEGImages/b.jpg": 0, "Annotations/b.xml": xml(name="b.jpg")}
    write_files(tmp_path / "zoo", voc(more))
    register_folders(str(tmp_path))
    with pytest.raises(UserError, match=r"Annotations/b\.xml is left out, as its image is not in"):
        build_test_loader(cfg, "zoo_train")
    assert len(load_train_dataset(cfg)) == 1  # training may always skip one


def test_a_coco_folder_has_its_name_before_a_folder_that_holds_vocs_own(tmp_path):
    write_files(tmp_path / "PascalVOC/VOC2012", voc())
    write_coco(tmp_path, "VOC2012", "train", sound_content())
    records, _ = load_folder(tmp_path, "VOC2012_train")
    assert [record["image_id"] for record in records] == [1, 2, 3, 4]
    assert len(DatasetCatalog.get("VOC2012_val")) == 1  # a split that COCO's folder lacks


def test_annotations_without_images_and_the_reverse_are_told(tmp_path, cache):
    files = {"Annotations/a.xml": xml(CAT), "JPEGImages/a.jpg": IMAGE, "JPEGImages/b.jpg": IMAGE}
    write_files(tmp_path / "zoo", {**files, "Annotations/d.xml": xml(DOG, name="elsewhere.jpg")})
    records, classes = load_folder(tmp_path, "zoo_all")
    assert (len(records), classes) == (1, ["cat"])
    (file,) = cache.glob("zoo-*/instances_all.json")
    assert "zoo/JPEGImages/b.jpg" in file.read_text()
    assert "zoo/Annotations/d.xml" in file.read_text()
    assert "folders below" not in file.read_text()
    write_files(tmp_path / "zoo", {"Annotations/deep/e.xml": xml(DOG)})
    assert len(load_folder(tmp_path, "zoo_all")[0]) == 1
    assert f"are left out ({tmp_path}/zoo/Annotations/deep/e.xml): move them" in file.read_text()


def test_an_image_that_its_file_names_is_not_left_out(tmp_path):
    content = xml(thing("cat", (1, 1, 9, 9)), name="a.jpg")
    write_files(tmp_path / "zoo", {"images/a.jpg": (40, 20), "Annotations/task-a.xml": content})
    assert not check_dataset(str(tmp_path / "zoo"), workers=1).findings


def test_a_split_whose_name_ends_as_another_does(tmp_path):
    lists = {"train": "a\n", "small_train": "a\n", "cat_train": "a -1\n"}  # the last is VOC's
    lists = {f"ImageSets/Main/{name}.txt": text for name, text in lists.items()}
    write_files(tmp_path, {"images/a.jpg": (40, 20), "Annotations/a.xml": xml(), **lists})
    assert splits_by_layout(str(tmp_path)) == {"Pascal VOC": ["small_train", "train"]}


@pytest.mark.parametrize("first", ["jpg", "xml"])
def test_more_files_than_are_looked_at_of_one_kind_come_first(tmp_path, monkeypatch, first):
    for name in (f"{i}.{ending}" for ending in ("jpg", "xml") for i in range(1200)):
        (tmp_path / name).touch()
    scan = os.scandir

    @contextlib.contextmanager
    def by_kind(path):  # as some file systems list files that were copied one kind after the other
        yield iter(sorted(scan(path), key=lambda entry: not entry.name.endswith(first)))

    monkeypatch.setattr(converted_folders.os, "scandir", by_kind)
    assert splits_by_layout(str(tmp_path)) == {"Pascal VOC": ["all"]}
