"""data/datasets/roboflow.py: one list of classes without the dummy."""

import json

import pytest
from coco_files import coco_image, coco_object, load_folder, write_files

from fpn_d2 import UserError
from fpn_d2.data import check_file
from fpn_d2.data.datasets.converted_folders import make_current

DUMMY = {"id": 0, "name": "pets", "supercategory": "none"}


def category(number, name):
    return {"id": number, "name": name, "supercategory": "pets"}


def content(categories, *objects):
    annotations = [coco_object(i, 0, [1, 2, 3, 4], number) for i, number in enumerate(objects)]
    images = [coco_image(0, 40, 20, "a.jpg")]
    return {"images": images, "categories": categories, "annotations": annotations}


TRAIN = content([category(2, "cat"), DUMMY, category(1, "dog")], 2, 1)  # in no order


def write(root, **splits):
    for split, found in splits.items():
        text = found if isinstance(found, str) else json.dumps(found)
        files = {f"{split}/_annotations.coco.json": text, f"{split}/a.jpg": (40, 20)}
        write_files(root / "zoo", files)


def test_the_dummy_goes(tmp_path, cache):
    write(tmp_path, train=TRAIN)
    (record,), classes = load_folder(tmp_path, "zoo_train")
    assert classes == ["dog", "cat"]
    assert record["file_name"] == str(tmp_path / "zoo/train/a.jpg")
    assert [a["category_id"] for a in record["annotations"]] == [1, 0]
    (file,) = cache.glob("zoo-*/instances_train.json")
    # COCO's evaluation counts an object of id 0 as missed.
    assert [a["id"] for a in json.loads(file.read_text())["annotations"]] == [1, 2]
    assert check_file(str(file), str(tmp_path / "zoo"), 1).findings == []


def test_all_splits_have_one_list_of_classes(tmp_path):
    # A class of train under another id, and one that train lacks.
    valid = content([DUMMY, category(1, "cat"), category(5, "emu")], 1, 5)
    write(tmp_path, train=TRAIN, valid=valid)
    for name in ("zoo_valid", "zoo_val"):
        (record,), classes = load_folder(tmp_path, name)
        assert classes == ["dog", "cat", "emu"]
        assert [a["category_id"] for a in record["annotations"]] == [1, 2]
    assert load_folder(tmp_path, "zoo_train")[1] == ["dog", "cat", "emu"]


@pytest.mark.parametrize(
    "categories, objects, classes",
    [
        ([DUMMY, category(1, "cat")], (0, 1), ["pets", "cat"]),  # it has an object
        ([{**DUMMY, "name": "dog"}, category(1, "cat")], (1,), ["dog", "cat"]),
        ([{**DUMMY, "supercategory": "none"}], (0,), ["pets"]),
    ],
)
def test_a_class_is_no_dummy(tmp_path, categories, objects, classes):
    write(tmp_path, train=content(categories, *objects))
    assert load_folder(tmp_path, "zoo_train")[1] == classes


@pytest.mark.parametrize("text", ["{", "[]", '{"images": []}', json.dumps({**TRAIN, "images": 3})])
def test_a_file_that_is_not_in_cocos_format(tmp_path, text):
    write(tmp_path, train=TRAIN, valid=text)
    with pytest.raises(UserError, match=r"zoo/valid/_annotations\.coco\.json is not in COCO's"):
        load_folder(tmp_path, "zoo_valid")
    assert len(load_folder(tmp_path, "zoo_train")[0]) == 1


def test_an_unknown_category_stays_one(tmp_path, cache):
    write(tmp_path, train=content([DUMMY, category(4, "dog")], 4, 1))
    make_current(str(tmp_path / "zoo"), "train")
    (file,) = cache.glob("zoo-*/instances_train.json")
    (finding,) = check_file(str(file), str(tmp_path / "zoo"), 1).findings
    assert "has the category_id '1 in _annotations.coco.json', which is not in" in finding.sentence


def test_whole_floats_are_ids(tmp_path):
    categories = [{**DUMMY, "id": 0.0}, category(1.0, "dog"), category(2, "cat")]
    found = content(categories, 2.0, 1)
    for annotation in found["annotations"]:
        annotation["id"] = float(annotation["id"])
    write(tmp_path, train=found)
    (record,), classes = load_folder(tmp_path, "zoo_train")
    assert classes == ["dog", "cat"]
    assert [a["category_id"] for a in record["annotations"]] == [1, 0]
