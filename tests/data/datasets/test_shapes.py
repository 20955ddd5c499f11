"""data/datasets/shapes.py: what one process or several write, and what may get in the way."""

import dataclasses
import errno
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from unittest.mock import Mock

import portalocker
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from PIL import Image

from fpn_d2 import UserError
from fpn_d2.data.datasets import ShapesSpec, generate_shapes, register_shapes, shapes, shapes_scene
from fpn_d2.data.datasets.shapes import CLASSES

SMALL = ShapesSpec(train=6, val=4, size=96)


def annotations_of(folder, split):
    return json.loads((Path(folder) / "annotations" / f"instances_{split}.json").read_text())


def test_what_is_written(tmp_path):
    folder = generate_shapes(str(tmp_path), spec=SMALL)
    assert folder == str(tmp_path / "shapes")
    for split, images in (("train", 6), ("val", 4)):
        content = annotations_of(folder, split)
        assert [image["id"] for image in content["images"]] == list(range(1, images + 1))
        assert [category["id"] for category in content["categories"]] == [1, 2, 3, 4, 5]
        for image in content["images"]:
            with Image.open(Path(folder) / "images" / image["file_name"]) as picture:
                assert picture.size == (image["width"], image["height"])
                assert picture.mode == "RGB"
        ids = [annotation["id"] for annotation in content["annotations"]]
        assert ids == list(range(1, len(ids) + 1))
        for annotation in content["annotations"]:
            xs, ys = annotation["segmentation"][0][::2], annotation["segmentation"][0][1::2]
            box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
            assert annotation["bbox"] == pytest.approx(box)
            fine = [16 * coordinate for coordinate in annotation["segmentation"][0]]
            (rle,) = mask_util.frPyObjects([fine], 96 * 16, 96 * 16)
            assert annotation["area"] == pytest.approx(mask_util.area(rle) / 256, rel=0.02)


def test_image_i_depends_on_the_seed_and_the_split_but_not_on_the_number_of_images(tmp_path):
    few = Path(generate_shapes(str(tmp_path), "few", SMALL))
    more = Path(generate_shapes(str(tmp_path), "more", dataclasses.replace(SMALL, train=8, val=5)))
    for image in (few / "images").iterdir():
        assert image.read_bytes() == (more / "images" / image.name).read_bytes()
    some, all_of_it = annotations_of(few, "train"), annotations_of(more, "train")
    assert all_of_it["annotations"][: len(some["annotations"])] == some["annotations"]
    other = Path(generate_shapes(str(tmp_path), "other", dataclasses.replace(SMALL, seed=1)))
    firsts = [folder / "images" / "train_000001.jpg" for folder in (few, other)]
    assert len({p.read_bytes() for p in [*firsts, few / "images" / "val_000001.jpg"]}) == 3


@pytest.fixture
def several_processes(monkeypatch):
    monkeypatch.setattr(shapes, "_MANY", 1)


def test_several_processes_draw_the_same_images(tmp_path, several_processes, monkeypatch):
    together = Path(generate_shapes(str(tmp_path), "together", SMALL))
    monkeypatch.setattr(shapes, "_MANY", 100)
    alone = Path(generate_shapes(str(tmp_path), "alone", SMALL))
    for path in sorted(p.relative_to(alone) for p in alone.rglob("*.*")):
        assert (together / path).read_bytes() == (alone / path).read_bytes(), path


def draw_in_a_daemon(root):
    shapes._MANY = 1
    return os.listdir(Path(generate_shapes(root, spec=SMALL)) / "images")


def test_a_process_that_may_have_no_children_draws_alone(tmp_path):
    with FORK.Pool(1) as pool:
        assert len(pool.apply(draw_in_a_daemon, (str(tmp_path),))) == 10


def test_a_process_that_is_ended_from_outside_is_done_without(
    tmp_path, several_processes, monkeypatch
):
    own, draw = os.getpid(), shapes_scene.draw_scene

    def draw_or_die(*args):
        if os.getpid() != own:
            os.kill(os.getpid(), signal.SIGKILL)
        return draw(*args)

    monkeypatch.setattr(shapes_scene, "draw_scene", draw_or_die)
    assert len(os.listdir(Path(generate_shapes(str(tmp_path), spec=SMALL)) / "images")) == 10


def test_processes_that_cannot_be_had_are_done_without(tmp_path, several_processes, monkeypatch):
    monkeypatch.setattr(os, "fork", Mock(side_effect=OSError(errno.EAGAIN, "try again")))
    assert len(os.listdir(Path(generate_shapes(str(tmp_path), spec=SMALL)) / "images")) == 10


def test_an_interruption_ends_the_processes(tmp_path, several_processes, monkeypatch):
    def interrupt(work, loader):
        images = iter(loader)  # it holds the processes, and this frame holds it
        yield next(images)
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, "told", interrupt)
    with pytest.raises(KeyboardInterrupt) as raised:
        generate_shapes(str(tmp_path), spec=SMALL)
    assert multiprocessing.active_children() == []
    assert raised.traceback  # kept until here, as by a handler
    assert os.listdir(tmp_path) == [".shapes.lock"]


def test_generating_leaves_random_numbers_as_they_are(tmp_path, several_processes):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    generate_shapes(str(tmp_path), spec=SMALL)
    assert torch.equal(torch.rand(3), expected)


def test_registration_generates_nothing_and_use_does(tmp_path):
    register_shapes(str(tmp_path), "tiny", SMALL)
    assert list(tmp_path.iterdir()) == []
    assert MetadataCatalog.get("tiny_train").thing_classes == list(CLASSES)

    records = DatasetCatalog.get("tiny_val")

    assert [record["image_id"] for record in records] == [1, 2, 3, 4]
    assert all(os.path.isfile(record["file_name"]) for record in records)
    assert len(DatasetCatalog.get("tiny_train")) == 6
    COCOEvaluator("tiny_val", output_dir=str(tmp_path))
    register_shapes(str(tmp_path), "tiny", SMALL)  # twice is harmless
    assert {"shapes_train", "shapes_val"} <= set(DatasetCatalog.keys())  # the built-in set's names


# What may get in the way of generation.


def stamp(folder):
    return (Path(folder) / "specification.json").stat().st_mtime_ns


def test_same_specification_is_used_as_is_and_another_is_generated_anew(tmp_path):
    folder = generate_shapes(str(tmp_path), spec=SMALL)
    first = stamp(folder)
    assert generate_shapes(str(tmp_path), spec=SMALL) == folder
    assert stamp(folder) == first
    for change in ({"train": 3}, {"version": 99}):
        generate_shapes(str(tmp_path), spec=dataclasses.replace(SMALL, **change))
        assert stamp(folder) != first
        first = stamp(folder)
    generate_shapes(str(tmp_path), spec=dataclasses.replace(SMALL, train=3))
    assert len(list((Path(folder) / "images").glob("train_*"))) == 3
    assert sorted(os.listdir(tmp_path)) == [".shapes.lock", "shapes"]


@pytest.mark.parametrize("specification", [None, "{}", "[1]", "no json", '{"generator": "mine"}'])
def test_a_folder_of_the_users_own_is_never_touched(tmp_path, specification):
    folder = tmp_path / "shapes"
    folder.mkdir()
    (folder / "precious.txt").write_text("data")
    if specification is not None:
        (folder / "specification.json").write_text(specification)
    before = sorted(os.listdir(folder))
    with pytest.raises(UserError, match="was not made by fpn_d2"):
        generate_shapes(str(tmp_path), spec=SMALL)
    assert sorted(os.listdir(folder)) == before
    assert (folder / "precious.txt").read_text() == "data"


def test_a_root_that_cannot_be_written(tmp_path):
    root = tmp_path / "file"
    root.write_text("")
    for path in (root, root / "below"):
        with pytest.raises(UserError, match="set DETECTRON2_DATASETS to a folder"):
            generate_shapes(str(path), spec=SMALL)


@pytest.mark.parametrize("many", [1, 100], ids=["several processes", "one process"])
def test_a_full_disk_leaves_nothing_behind(many, tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "_MANY", many)
    full = Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UserError, match="No space left"):
        generate_shapes(str(tmp_path), spec=SMALL)
    assert os.listdir(tmp_path) == [".shapes.lock"]


def test_a_data_set_that_is_there_needs_no_writing(tmp_path, monkeypatch):
    folder = generate_shapes(str(tmp_path), spec=SMALL)

    refuse = Mock(side_effect=portalocker.LockException("read-only file system"))
    monkeypatch.setattr(portalocker, "Lock", refuse)
    assert generate_shapes(str(tmp_path), spec=SMALL) == folder
    with pytest.raises(UserError, match="read-only file system"):
        generate_shapes(str(tmp_path), spec=dataclasses.replace(SMALL, train=3))


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", ".."])
def test_names_that_are_no_folder_names(tmp_path, name):
    with pytest.raises(UserError, match="give a plain word"):
        generate_shapes(str(tmp_path), name, SMALL)


@pytest.mark.parametrize(
    "values",
    [{"train": 0}, {"val": -1}, {"size": 8}, {"empty": 1.5}, {"max_side": 0.9}, {"stretch": 0.5}]
    + [{"size": 32, "min_side": 30}],
)
def test_specifications_that_cannot_work(values):
    with pytest.raises(UserError, match="shapes data set: "):
        ShapesSpec(**values)


# Several processes; forked, so that they start at once.

FORK = multiprocessing.get_context("fork")


def generate_when_told(root, start, log):
    write = shapes._write

    def logged(*args):
        with open(log, "a") as file:
            file.write("one generation\n")
        write(*args)

    shapes._write = logged
    start.wait()
    generate_shapes(root, spec=SMALL)
    assert len(annotations_of(Path(root) / "shapes", "train")["images"]) == 6


def test_two_processes_at_once(tmp_path, several_processes):
    root, log, start = tmp_path / "root", tmp_path / "log", FORK.Barrier(2)
    processes = [
        FORK.Process(target=generate_when_told, args=(str(root), start, log)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert log.read_text() == "one generation\n"
    assert sorted(os.listdir(root)) == [".shapes.lock", "shapes"]


def stall_in_the_middle(root, reached):
    """Generate, but stop before a worker's third image until the process is killed."""
    drawn, draw, own = [], shapes_scene.draw_scene, os.getpid()

    def draw_two(*args):
        if len(drawn) == 2:
            reached.set()
            while os.getppid() == own:
                time.sleep(0.1)
        drawn.append(1)
        return draw(*args)

    shapes_scene.draw_scene = draw_two
    generate_shapes(root, spec=SMALL)


def die_between_the_renames(root):
    rename = os.rename

    def rename_and_die(*args):
        rename(*args)
        os.kill(os.getpid(), signal.SIGKILL)

    os.rename = rename_and_die
    generate_shapes(root, spec=SMALL)


def test_a_kill_in_the_middle(tmp_path, several_processes):
    reached = FORK.Event()
    process = FORK.Process(target=stall_in_the_middle, args=(str(tmp_path), reached))
    process.start()
    assert reached.wait(60)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert sorted(os.listdir(tmp_path)) == [".shapes.lock", ".shapes.partial"]

    folder = generate_shapes(str(tmp_path), spec=SMALL)

    assert sorted(os.listdir(tmp_path)) == [".shapes.lock", "shapes"]
    assert len(os.listdir(Path(folder) / "images")) == 10


def test_a_kill_while_an_older_set_is_replaced(tmp_path):
    generate_shapes(str(tmp_path), spec=dataclasses.replace(SMALL, train=3))
    process = FORK.Process(target=die_between_the_renames, args=(str(tmp_path),))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    left = [".shapes.lock", ".shapes.partial", ".shapes.replaced"]
    assert sorted(os.listdir(tmp_path)) == left

    generate_shapes(str(tmp_path), spec=SMALL)

    assert sorted(os.listdir(tmp_path)) == [".shapes.lock", "shapes"]
