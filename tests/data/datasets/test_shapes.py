import dataclasses
import errno
import json
import math
import multiprocessing
import os
import signal
import time
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import portalocker
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from PIL import Image

from fpn_d2 import UserError
from fpn_d2.data.datasets import (
    ShapesSpec,
    generate_shapes,
    register_shapes,
    shapes,
    shapes_scene,
)
from fpn_d2.data.datasets.shapes import CLASSES
from fpn_d2.data.datasets.shapes_scene import (
    Scene,
    compose_scene,
    coverage,
    draw_scene,
    polygon_area,
)

SMALL = ShapesSpec(train=6, val=4, size=96)


def raster(polygon, height, width, scale=1):
    """A polygon's pixels by pycocotools: (height, width) bool."""
    rle = mask_util.frPyObjects([(polygon * scale).ravel().tolist()], height, width)
    return mask_util.decode(mask_util.merge(rle)).astype(bool)


def scenes(spec, count):
    return [compose_scene(np.random.default_rng([1, i]), spec) for i in range(count)]


def annotations_of(folder, split):
    return json.loads((Path(folder) / "annotations" / f"instances_{split}.json").read_text())


# Geometry.


def test_areas_and_coverage_are_the_polygons():
    square = np.array([[1.0, 2.0], [5.0, 2.0], [5.0, 6.0], [1.0, 6.0]])
    assert polygon_area(square) == 16
    assert polygon_area(square[::-1]) == 16
    for scene in scenes(SMALL, 20):
        for _, polygon in scene.objects:
            counted = raster(polygon, scene.height * 16, scene.width * 16, scale=16).sum() / 256
            assert polygon_area(polygon) == pytest.approx(counted, rel=0.02)
    for scene in scenes(ShapesSpec(), 20):
        for _, polygon in scene.objects:
            alpha, left, top = coverage(polygon)
            assert alpha.sum() == pytest.approx(polygon_area(polygon), rel=0.05)
            assert (left, top) == tuple(np.floor(polygon.min(axis=0)))


def test_objects_lie_inside_and_never_overlap():
    found = 0
    for scene in scenes(SMALL, 40):
        count = np.zeros((scene.height, scene.width), dtype=int)
        for polygon in [*scene.decoys, *(p for _, p in scene.objects)]:
            assert polygon.min() >= 0
            assert (polygon.max(axis=0) <= (scene.width, scene.height)).all()
            count += raster(polygon, scene.height, scene.width)
            found += 1
        assert count.max(initial=0) <= 1
    assert found > 100


def test_sides_are_log_uniform():
    # One object in each image always finds a place, so nothing is dropped.
    spec = ShapesSpec(max_objects=1, empty=0)
    polygons = [scene.objects[0][1] for scene in scenes(spec, 1500)]
    sides = np.array([np.ptp(polygon, axis=0).max() for polygon in polygons])
    assert sides.min() >= 11.98  # polygons are in hundredths of a pixel
    assert sides.max() <= 240.02
    # Quantile q of a log-uniform law from 12 to 240 is 12 * 20**q; 0.04 is three sigma here.
    for q in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert np.mean(sides <= 12 * 20**q) == pytest.approx(q, abs=0.04)


def test_image_sizes_and_numbers_of_objects():
    drawn = scenes(ShapesSpec(), 600)
    assert {max(scene.height, scene.width) for scene in drawn} == {320}
    shorter = [min(scene.height, scene.width) for scene in drawn]
    assert min(shorter) >= 256
    assert np.mean(shorter) == pytest.approx(288, abs=4)  # uniform from 256 to 320
    assert np.mean([scene.height < scene.width for scene in drawn]) == pytest.approx(0.5, abs=0.07)
    counts = np.array([len(scene.objects) for scene in drawn])
    assert counts.max() == 8
    assert np.mean(counts == 0) == pytest.approx(0.03, abs=0.025)
    # 4.5 on average where there are any; large ones may find no place.
    assert 0.85 * 4.5 < counts[counts > 0].mean() <= 4.7


def test_classes_are_equally_common():
    drawn = scenes(ShapesSpec(size=64, max_side=0.2), 800)
    counts = np.bincount([c for scene in drawn for c, _ in scene.objects], minlength=len(CLASSES))
    expected = counts.sum() / len(CLASSES)
    assert ((counts - expected) ** 2 / expected).sum() < 18.5  # chi-square, 4 degrees: p = 0.001


def test_empty_is_a_fraction_of_the_images():
    assert not any(scene.objects for scene in scenes(ShapesSpec(empty=1), 20))
    assert all(scene.objects for scene in scenes(ShapesSpec(empty=0), 20))


def test_outlines_tell_the_classes_apart():
    """The share of its box that an upright shape fills, by geometry."""
    spec = ShapesSpec(rotation=0, stretch=1, max_objects=1, empty=0)
    step = math.pi / 5
    star = 5 * 0.42 * math.sin(step)  # ten triangles of sides 1 and 0.42
    star_box = 2 * math.sin(2 * step) * (1 + math.cos(step))
    filled = {
        "circle": math.pi / 4,
        "cross": 1 - 0.66**2,
        "square": 1,
        "star": star / star_box,
        "triangle": 0.5,
    }
    seen = set()
    for scene in scenes(spec, 60):
        category, polygon = scene.objects[0]
        box = np.ptp(polygon, axis=0).prod()
        assert polygon_area(polygon) / box == pytest.approx(filled[CLASSES[category]], abs=0.01)
        seen.add(category)
    assert len(seen) == len(CLASSES)


# Pixels.


def test_pixels_are_the_polygons():
    for i, scene in enumerate(scenes(ShapesSpec(max_decoys=0), 12)):
        bare = Scene(scene.height, scene.width, [], [])
        with_objects, without = (
            draw_scene(np.random.default_rng(i), s, max_strokes=0).astype(int)
            for s in (scene, bare)
        )
        changed = np.abs(with_objects - without).max(axis=2)
        background = np.ones_like(changed, dtype=bool)
        for _, polygon in scene.objects:
            fine = raster(polygon, scene.height * 8, scene.width * 8, scale=8)
            cells = grow(fine, 1).reshape(scene.height, 8, scene.width, 8)  # Pillow's outline
            # The noise differs by at most 12; a fill is 90 away, in RGB, from what it covers.
            assert np.median(changed[cells.all(axis=(1, 3))]) > 40
            background &= ~cells.any(axis=(1, 3))
        assert changed[grow(~background, 3) & background].max(initial=0) <= 14


def grow(mask, steps):
    """A mask and so many pixels around it."""
    for _ in range(steps):
        padded = np.pad(mask, 1)
        mask = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:] | mask
    return mask


def test_colour_tells_nothing_about_the_class():
    spec = ShapesSpec(size=96, max_decoys=0, min_side=14, max_side=0.4)
    colours = [[] for _ in CLASSES]
    for i, scene in enumerate(scenes(spec, 300)):
        image = draw_scene(np.random.default_rng(i), scene, max_strokes=2)
        for category, polygon in scene.objects:
            alpha, left, top = coverage(polygon)
            crop = image[top : top + alpha.shape[0], left : left + alpha.shape[1]]
            colours[category].append(crop[alpha == 1].mean(axis=0))
    groups = [np.array(group) for group in colours]
    everything = np.concatenate(groups)
    within = sum(((group - group.mean(0)) ** 2).sum(0) for group in groups)
    between = sum(len(g) * (g.mean(0) - everything.mean(0)) ** 2 for g in groups)
    f = (between / 4) / (within / (len(everything) - 5))
    assert len(everything) > 1000
    assert (f < 4.7).all()  # F statistic with 4 and many degrees of freedom: p = 0.001
    assert everything.std(axis=0).min() > 40  # and the colours do vary


# Files.


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
            polygon = np.stack([xs, ys], axis=1)
            counted = raster(polygon, 96 * 16, 96 * 16, scale=16).sum() / 256
            assert annotation["area"] == pytest.approx(counted, rel=0.02)


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
        images = iter(loader)  # it has the processes, and this frame it
        yield next(images)
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, "told", interrupt)
    with pytest.raises(KeyboardInterrupt) as raised:
        generate_shapes(str(tmp_path), spec=SMALL)
    assert multiprocessing.active_children() == []
    assert raised.traceback  # until here, as a handler keeps it
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


# Generation that meets something.


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
