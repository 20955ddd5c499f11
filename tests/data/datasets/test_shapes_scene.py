"""data/datasets/shapes_scene.py: scenes, by geometry and statistics, and their pixels."""

import math

import numpy as np
import pycocotools.mask as mask_util
import pytest

from fpn_d2.data.datasets import ShapesSpec
from fpn_d2.data.datasets.shapes import CLASSES
from fpn_d2.data.datasets.shapes_scene import (
    Scene,
    compose_scene,
    coverage,
    draw_scene,
    polygon_area,
)

SMALL = ShapesSpec(size=96)


def raster(polygon, height, width, scale=1):
    """Return a polygon's pixels as pycocotools draws them: (height, width) bool."""
    rle = mask_util.frPyObjects([(polygon * scale).ravel().tolist()], height, width)
    return mask_util.decode(mask_util.merge(rle)).astype(bool)


def scenes(spec, count):
    return [compose_scene(np.random.default_rng([1, i]), spec) for i in range(count)]


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
    """An upright shape fills the share of its box that geometry gives."""
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
    """Return a mask grown by so many pixels."""
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
