"""data/datasets/yolo.py: boxes, polygons and splits by arithmetic; faults by file and line."""

import json
from pathlib import Path

import numpy as np
import pytest
import supervision as sv
from coco_files import load_folder, write_files
from PIL import Image

from fpn_d2 import UserError
from fpn_d2.data import build_test_loader, check_file, load_train_dataset
from fpn_d2.data.datasets import register_folders
from fpn_d2.inspection.dataset_check import check_dataset

# 40 x 20 pixels (width x height).
IMAGE = (40, 20)
YAML = "train: images/train\nval: images/val\nnames: [cat, dog]\n"
# x: 0.5 * 40 = 20 minus half of 0.25 * 40 = 10; y: 0.5 * 20 = 10 minus half of 0.4 * 20 = 8.
BOX, IN_PIXELS = "1 0.5 0.5 0.25 0.4\n", [15, 6, 10, 8]
# (4, 2), (20, 2), (4, 12): half of 16 x 10.
TRIANGLE = "0 0.1 0.1 0.5 0.1 0.1 0.6\n"
FIRST = "0 0.5 0.5 0.2 0.2\n"  # a box of the first class


def folder(more=()):
    files = {
        "data.yaml": YAML,
        "images/train/a.jpg": IMAGE,
        "images/train/deeper/b.png": IMAGE,
        "labels/train/a.txt": BOX + TRIANGLE,
        "labels/train/deeper/b.txt": "",
        "images/val/c.jpg": IMAGE,
        "labels/val/c.txt": BOX,
    }
    return {name: content for name, content in {**files, **dict(more)}.items() if content != 0}


def test_boxes_and_polygons(tmp_path, load_zoo, cache):
    (first, second), classes = load_zoo(folder(), "train")
    assert classes == ["cat", "dog"]
    assert first["file_name"] == str(tmp_path / "zoo/images/train/a.jpg")
    assert (first["width"], first["height"]) == IMAGE
    box, triangle = first["annotations"]
    assert (box["category_id"], triangle["category_id"]) == (1, 0)
    assert box["bbox"] == pytest.approx(IN_PIXELS)
    assert "segmentation" not in box
    assert triangle["bbox"] == pytest.approx([4, 2, 16, 10])
    assert triangle["segmentation"] == [pytest.approx([4, 2, 20, 2, 4, 12])]
    assert second["annotations"] == []
    (file,) = cache.glob("zoo-*/instances_train.json")
    annotations = json.loads(file.read_text())["annotations"]
    assert [a["area"] for a in annotations] == pytest.approx([80, 80])
    assert [a["id"] for a in annotations] == [1, 2]
    ((record,), _) = load_folder(tmp_path, "zoo_val")
    assert record["annotations"][0]["bbox"] == pytest.approx(IN_PIXELS)


def test_boxes_are_those_of_supervision(tmp_path):
    rng = np.random.default_rng(0)
    lines = []
    for _ in range(20):
        sides = rng.uniform(0.1, 0.4, 2)
        lines.append(" ".join(map(str, [0, *rng.uniform(0.2, 0.8, 2), *sides])))
    write_files(tmp_path / "zoo", folder({"labels/val/c.txt": "\n".join(lines)}))
    other = sv.DetectionDataset.from_yolo(
        *(str(tmp_path / "zoo" / name) for name in ("images/val", "labels/val", "data.yaml"))
    )
    ((_, _, theirs),) = list(other)
    ours = [a["bbox"] for a in load_folder(tmp_path, "zoo_val")[0][0]["annotations"]]
    corners = [[x, y, x + w, y + h] for x, y, w, h in ours]
    np.testing.assert_allclose(corners, theirs.xyxy, atol=1e-4)


@pytest.mark.parametrize(
    "yaml, more",
    [
        ("path: .\ntrain: [images/train]\nnames: {0: cat, 1: dog}\n", {}),
        ("path: zoo\ntrain: images/train\nnames: {1: dog, 0: cat}\nnc: 2\n", {}),
        ("train: ../images/train\nval: ../images/val\nnames: [cat, dog]\n", {}),  # Roboflow's
        ("train: images/train\nvalid: images/val\nnames: [cat, dog]\n", {}),
        (
            "train: [one.txt, images/train/deeper]\nnames: [cat, dog]\n",
            {"one.txt": "./images/train/a.jpg\n"},
        ),
        (YAML, {"labels/train/a.txt": f"\ufeff{BOX}{TRIANGLE}"}),  # with Windows' mark
    ],
)
def test_every_way_to_name_the_images(load_zoo, yaml, more):
    records, classes = load_zoo(folder({"data.yaml": yaml, **more}), "train")
    assert [len(record["annotations"]) for record in records] == [2, 0]
    assert classes == ["cat", "dog"]


def test_labels_beside_images_and_classes_with_gaps(load_zoo):
    yaml = "train: photos\nnames: {3: cat, 7: dog}\n"
    files = {"data.yaml": yaml, "photos/a.jpg": IMAGE, "photos/a.txt": f"7{BOX[1:]}"}
    ((record,), classes) = load_zoo({**files, "photos/classes.txt": "cat\ndog\n"}, "train")
    assert (record["annotations"][0]["category_id"], classes) == (1, ["cat", "dog"])


def test_labels_are_shares_of_the_turned_image(tmp_path, load_zoo):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    path = tmp_path / "zoo/images/val/c.jpg"
    path.parent.mkdir(parents=True)
    Image.new("RGB", (20, 40)).save(path, exif=exif)
    ((record,), _) = load_zoo(folder({"images/val/c.jpg": 0}), "val")
    assert (record["width"], record["height"]) == IMAGE
    assert record["annotations"][0]["bbox"] == pytest.approx(IN_PIXELS)


def test_of_poses_the_boxes_are_read_and_it_says_so(load_zoo, caplog):
    yaml = f"{YAML}kpt_shape: [2, 3]\n"
    line = f"{BOX.strip()} 0.5 0.5 2 0.6 0.6 1\n"
    labels = {f"labels/{name}.txt": line for name in ("train/a", "train/deeper/b", "val/c")}
    records, _ = load_zoo(folder({"data.yaml": yaml, **labels}), "val")
    assert records[0]["annotations"][0]["bbox"] == pytest.approx(IN_PIXELS)
    assert "the keypoints of 1 objects are left out" in caplog.text


@pytest.mark.parametrize(
    "line, words",
    [
        ("0 0.5 0.5 0.2", "has 4 numbers"),
        ("0 0.5 0.5 0.2 0.2 0.9", "has 6 numbers"),  # with a confidence
        ("0 0.5 0.5 0.2 0.2 0.9 0.9 0.9", "has 8 numbers"),
        ("cat 0.5 0.5 0.2 0.2", "write a class number"),
        ("0 0.5 nan 0.2 0.2", "no shares of the image"),
        ("0 15 6 10 8", "no shares of the image"),
        ("0 1.02 0.5 0.2 0.2", "no shares of the image"),
        ("0 0.5 0.5 -0.005 0.2", "of a negative side"),
        ("2 0.5 0.5 0.2 0.2", "has the class 2, and data.yaml names 0 to 1"),
        ("0.5 0.5 0.5 0.2 0.2", "has the class 0.5"),
    ],
)
def test_a_faulty_line_is_named(tmp_path, load_zoo, line, words):
    with pytest.raises(UserError, match=words) as error:
        load_zoo(folder({"labels/val/c.txt": f"{BOX}\n{line}\n"}), "val")
    assert str(error.value).startswith(f"{tmp_path}/zoo/labels/val/c.txt line 3 ")
    assert len(load_folder(tmp_path, "zoo_train")[0]) == 2  # the other split is sound


def test_all_faulty_lines_are_kept(load_zoo):
    with pytest.raises(UserError, match=r"line 1 has the class 2, .*\(and 1 more: ") as error:
        load_zoo(folder({"labels/val/c.txt": "2 0 0 0 0\n3 0 0 0 0\n"}), "val")
    assert ["line 2 has the class 3" in text for text in error.value.sentences] == [False, True]


@pytest.mark.parametrize(
    "yaml, words",
    [
        ("train: images/train\n", "data.yaml has no names: add"),
        ("names: []\ntrain: images/train\n", "has no names"),
        ("names: {cat: 0}\ntrain: images/train\n", "number them"),
        ("names: [cat, dog]\nnc: 3\ntrain: images/train\n", "nc: 3 and 2 names"),
        ("names: [cat, yes]\ntrain: images/train\n", "the class 1 True, .* name in quotes"),
        ("names: {0: 1.10, 1: dog}\ntrain: images/train\n", "the class 0 1.1, .* in quotes"),
        ("names: [cat, null]\ntrain: images/train\n", "the class 1 None, .* in quotes"),
        ("names: [cat\ntrain: x\n", "line 2 is no readable YAML"),
        ("[1, 2]", "no lines of the form key: value"),
        ("names: [cat, dog]\ntrain: nowhere\n", "names nowhere for train, which does not exist"),
        ("names: !!python/object/apply:os.getpid []\n", "is no readable YAML"),
    ],
)
def test_a_data_yaml_that_cannot_be_used(tmp_path, load_zoo, yaml, words):
    with pytest.raises(UserError, match=words) as error:
        load_zoo(folder({"data.yaml": yaml}), "train")
    assert str(tmp_path / "zoo/data.yaml") in str(error.value)


def test_a_split_without_any_label_is_refused(load_zoo):
    with pytest.raises(UserError, match=r"none of the 1 images of val .*/labels/val/c\.txt: put"):
        load_zoo(folder({"labels/val/c.txt": 0}), "val")


def test_labels_without_images_and_the_reverse_are_told(tmp_path, load_zoo, cache):
    more = {"images/val/d.jpg": IMAGE, "labels/val/e.txt": BOX, "images/val/f.jpg": "no image"}
    assert len(load_zoo(folder(more), "val")[0]) == 2
    (file,) = cache.glob("zoo-*/instances_val.json")
    report = check_file(str(file), str(tmp_path / "zoo"), 1)
    severities = [finding.severity for finding in report.findings]
    assert severities == ["error", "warning", "warning"]
    for finding, name in zip(report.findings, ("f.jpg", "d.jpg", "e.txt"), strict=True):
        assert f"zoo/{'labels' if name == 'e.txt' else 'images'}/val/{name}" in finding.sentence


@pytest.mark.parametrize("ending", ["gif", "jfif", "jp2", "pgm", "ppm"])
def test_images_of_rarer_formats_are_read_too(load_zoo, ending):
    files = {"data.yaml": "train: images\nnames: [cat, dog]\n", f"images/a.{ending}": IMAGE}
    ((record,), _) = load_zoo({**files, "labels/a.txt": BOX}, "train")
    assert len(record["annotations"]) == 1


def test_a_label_file_whose_ending_is_in_capitals_is_told(tmp_path, load_zoo, cache):
    load_zoo(folder({"images/val/d.jpg": IMAGE, "labels/val/d.TXT": BOX}), "val")
    (file,) = cache.glob("zoo-*/instances_val.json")
    (*_, finding) = check_file(str(file), str(tmp_path / "zoo"), 1).findings
    assert finding.sentence.endswith("labels/val/d.TXT): add the images, or end the names in .txt")


def test_a_list_that_is_not_in_utf8(tmp_path):
    write_files(tmp_path / "zoo", folder({"data.yaml": "train: a.txt\nnames: [cat, dog]\n"}))
    (tmp_path / "zoo/a.txt").write_text("images/train/a.jpg\n", encoding="utf-16")
    with pytest.raises(UserError, match=r"zoo/a\.txt is not in UTF-8: save it as UTF-8"):
        load_folder(tmp_path, "zoo_train")


def test_hidden_files_are_no_images(tmp_path):
    """Jupyter keeps hidden copies, and macOS keeps hidden notes beside each file."""
    hidden = {"images/train/.ipynb_checkpoints/a.jpg": IMAGE, "images/train/._a.jpg": "\0\5"}
    write_files(tmp_path / "zoo", folder(hidden))
    names = [record["file_name"] for record in load_folder(tmp_path, "zoo_train")[0]]
    images = tmp_path / "zoo/images/train"
    assert names == [str(images / "a.jpg"), str(images / "deeper/b.png")]


def test_images_below_a_linked_folder(tmp_path):
    write_files(tmp_path / "elsewhere", {"d.jpg": IMAGE})
    write_files(tmp_path / "zoo", folder())
    images = tmp_path / "zoo/images/val"
    (images / "linked").symlink_to(tmp_path / "elsewhere")
    (images / "again").symlink_to(images)  # an endless loop
    (tmp_path / "elsewhere/again").symlink_to(tmp_path / "elsewhere")
    records, _ = load_folder(tmp_path, "zoo_val")
    assert [record["file_name"] for record in records] == [
        str(images / "c.jpg"), str(images / "linked/d.jpg")
    ]  # fmt: skip


@pytest.fixture
def listed(tmp_path, cfg):
    """``listed(*lines)``: the config of a training on the images that these lines name."""

    def write(*lines):
        yaml = "train: a.txt\nval: images/val\nnames: [cat, dog]\n"
        texts = {"data.yaml": yaml, "a.txt": "\n".join(lines), "images/train/bad.jpg": "no image"}
        write_files(tmp_path / "zoo", folder(texts))
        register_folders(str(tmp_path))
        cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
        return cfg

    return write


SOUND, BROKEN, MISSPELT = "images/train/a.jpg", "images/train/bad.jpg", r"images\train\deeper\B.png"


@pytest.mark.parametrize(
    "left_out, words",
    [
        (BROKEN, r"bad\.jpg is no image of a format that Pillow knows, and is left out"),
        (MISSPELT, r"does not exist \(but '\S*/deeper/b\.png' does: give the name .*, and is left"),
    ],
)
def test_no_evaluation_starts_without_an_image(listed, left_out, words):
    cfg = listed(SOUND, left_out)
    with pytest.raises(UserError, match=words):
        build_test_loader(cfg, "zoo_train")
    assert len(load_train_dataset(cfg)) == 1  # training may always skip one


def test_no_training_starts_without_too_many_images(listed):
    cfg = listed(SOUND, BROKEN, MISSPELT)
    words = (
        r"2 of the 3 training images cannot be used, .*MAX_SKIPPED_SHARE is 0\.5: .*bad\.jpg is "
    )
    cfg.DATALOADER.MAX_SKIPPED_SHARE = 0.5  # 1.5 images
    with pytest.raises(UserError, match=words):
        load_train_dataset(cfg)
    cfg.DATALOADER.MAX_SKIPPED_SHARE = 0.7  # 2.1 images
    assert len(load_train_dataset(cfg)) == 1


def test_no_image_at_all_can_be_read(listed):
    cfg = listed(BROKEN)
    with pytest.raises(UserError, match=r"bad\.jpg is no image of a format that Pillow knows"):
        load_train_dataset(cfg)


def test_cvats_lists_and_subsets(tmp_path):
    yaml = "names:\n  0: cat\npath: .\nTrain: Train.txt\nValidation: Validation.txt\n"
    lists = {"Train.txt": "data/images/T/a.jpg\n", "Validation.txt": "images/V/b.jpg\n"}
    images = {"images/T/a.jpg": (40, 30), "images/V/b.jpg": (40, 30)}
    labels = {"labels/T/a.txt": FIRST, "labels/V/b.txt": FIRST}
    write_files(tmp_path / "zoo", {"data.yaml": yaml, **lists, **images, **labels})
    for split, image in (("train", "images/T/a.jpg"), ("val", "images/V/b.jpg")):
        ((record,), _) = load_folder(tmp_path, f"zoo_{split}")
        assert record["file_name"] == str(tmp_path / "zoo" / image)
        assert len(record["annotations"]) == 1


def test_what_is_above_a_linked_folder(tmp_path):
    yaml = "train: images\nval: ../common/images\nnames: [cat]\n"
    own = {"fish/data.yaml": yaml, "fish/images/a.jpg": (40, 30), "fish/labels/a.txt": FIRST}
    common = {"common/images/b.jpg": (40, 30), "common/labels/b.txt": FIRST}
    write_files(tmp_path / "far", own | common)
    # A folder of that name beside the link is another one.
    write_files(tmp_path / "sets", {"common/images/c.jpg": (9, 9), "common/labels/c.txt": FIRST})
    (tmp_path / "sets/fish").symlink_to(tmp_path / "far/fish")
    ((record,), _) = load_folder(tmp_path / "sets", "fish_val")
    assert Path(record["file_name"]).samefile(tmp_path / "far/common/images/b.jpg")


@pytest.mark.parametrize("entries", ["val: ../common/images", "path: ../common\nval: images"])
def test_linked_images_keep_their_labels(tmp_path, entries):
    yaml = f"{entries}\nnames: [cat]\n"
    common = {"far/common/labels/b.txt": FIRST, "storage/b.jpg": (40, 30)}
    other = {"sets/common/images/c.jpg": (9, 9), "sets/common/labels/c.txt": FIRST}
    write_files(tmp_path, {"far/fish/data.yaml": yaml, **common, **other})
    (tmp_path / "far/common/images").symlink_to(tmp_path / "storage")
    (tmp_path / "sets/fish").symlink_to(tmp_path / "far/fish")
    ((record,), _) = load_folder(tmp_path / "sets", "fish_val")
    assert Path(record["file_name"]).samefile(tmp_path / "storage/b.jpg")
    assert len(record["annotations"]) == 1


@pytest.mark.parametrize("word", ["3", "010", "12:30", "1_0", "0x1F", "'1.10'"])
def test_numbers_as_names_are_as_written(load_zoo, word):
    yaml = f"train: images\nnames: [cat, {word}]\n"
    files = {"data.yaml": yaml, "images/a.jpg": (40, 30), "labels/a.txt": FIRST}
    assert load_zoo(files, "train")[1] == ["cat", word.strip("'")]


def test_images_that_cannot_be_read_are_told_beside_a_faulty_line(tmp_path):
    files = {"images/a.jpg": (40, 30), "labels/a.txt": "0 0\n", "images/b.jpg": "none"}
    write_files(tmp_path / "zoo", {"data.yaml": "train: images\nnames: [cat]\n", **files})
    findings = check_dataset(str(tmp_path / "zoo"), workers=1).findings
    assert ["b.jpg is no image" in one.sentence for one in findings] == [False, True]
