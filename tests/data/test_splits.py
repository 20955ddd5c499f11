"""What training and test sets share, and what the one lacks."""

import shutil

import pytest
from detectron2.data import MetadataCatalog

from fpn_d2.data.splits import tell_splits


def record(path, *classes, crowd=0):
    objects = [{"category_id": number, "iscrowd": crowd} for number in classes]
    return {"file_name": str(path), "annotations": objects}


@pytest.fixture
def files(tmp_path):
    """Three files in ``a``, and in ``b`` a copy of the first, a link to the second, and a file of
    the third one's name and length."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    for i in range(3):
        (tmp_path / f"a/{i}.png").write_text(f"image {i}")
    shutil.copy(tmp_path / "a/0.png", tmp_path / "b/0.png")
    (tmp_path / "b/1.png").symlink_to(tmp_path / "a/1.png")
    (tmp_path / "b/2.png").write_text("image 7")
    return tmp_path


def test_images_of_both_sets_are_counted_and_the_first_is_named(files, caplog):
    train = [record(files / f"a/{i}.png", 0) for i in range(3)]
    tell_splits(train, {"other": [record(files / f"b/{i}.png", 0) for i in range(3)]})
    (message,) = (r.getMessage() for r in caplog.records)
    assert "data set other: at least 2 of its 3 images are trained on too" in message
    assert str(files / "b/0.png") in message


def test_a_set_that_is_trained_on_itself(files, caplog):
    train = [record(files / f"a/{i}.png", 0) for i in range(3)]
    tell_splits(train, {"same": train[1:]})
    assert "at least 2 of its 2 images" in caplog.text


@pytest.mark.parametrize("path", ["b/2.png", "a/3.png", "https://host/a/0.png"])
def test_other_images_of_the_same_name_are_no_fault(files, caplog, path):
    train = [record(files / f"a/{i}.png", 0) for i in range(3)]
    tell_splits(train, {"other": [record(files / path, 0)]})
    assert caplog.text == ""


def test_classes_that_no_training_image_has_are_named(caplog):
    MetadataCatalog.get("zoo_val").thing_classes = ["cat", "dog", "eel"]
    train = [record("0.png", 0), record("1.png", 2, crowd=1), record("2.png")]
    tell_splits(train, {"zoo_val": [record("3.png", 0, 1, 2)]})
    (message,) = (r.getMessage() for r in caplog.records)
    assert "no training image has an object of dog, eel" in message
    caplog.clear()
    tell_splits(train, {"zoo_val": [record("3.png", 0), record("4.png", 1, crowd=1)]})
    assert caplog.text == ""
