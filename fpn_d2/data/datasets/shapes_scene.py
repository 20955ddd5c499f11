"""What lies where in an image of the built-in data set: sizes, polygons, places.

A polygon is a (P, 2) float64 array of x, y in absolute pixels; pixel (row i, column j) covers
[j, j + 1] x [i, i + 1], which is COCO's convention.
"""

import dataclasses
import math

import numpy as np
from PIL import Image, ImageDraw

from ...utils.errors import UserError

__all__ = ["CLASSES", "Scene", "ShapesSpec", "compose_scene", "polygon_area"]

CLASSES = ("circle", "cross", "square", "star", "triangle")

# The gap in pixels that is kept free around every object, so that no two masks touch.
_GAP = 2
_TRIES = 200


@dataclasses.dataclass(frozen=True)
class ShapesSpec:
    """Everything that decides what a shapes data set looks like.

    Args:
        train: number of training images.
        val: number of validation images.
        size: longer side of every image, in pixels.
        min_aspect: the shorter image side is uniform between this fraction of ``size`` and it.
        min_side: shortest possible longer side of an object's box, in pixels.
        max_side: longest possible longer side of an object's box, as a fraction of ``size``.
        max_objects: objects are uniform in 1 to this number; one that finds no place is dropped.
        empty: fraction of images without objects.
        max_decoys: filled distractors are uniform in 0 to this number.
        max_strokes: lines, arcs and scribbles are uniform in 0 to this number.
        rotation: every shape is turned by up to this angle either way, in degrees.
        stretch: every shape's aspect ratio is log-uniform between 1 / stretch and stretch.
        seed: seed of the whole set; image i does not depend on how many there are.
        version: version of the generator; raise it when the same numbers draw other images.

    Raises:
        UserError: where a value cannot work.
    """

    train: int = 2000
    val: int = 300
    size: int = 320
    min_aspect: float = 0.8
    min_side: float = 12.0
    max_side: float = 0.75
    max_objects: int = 8
    empty: float = 0.03
    max_decoys: int = 3
    max_strokes: int = 4
    rotation: float = 20.0
    stretch: float = 1.2
    seed: int = 0
    version: int = 1

    def __post_init__(self) -> None:
        for key, least in _LEAST.items():
            if getattr(self, key) < least:
                raise UserError(
                    f"shapes data set: {key} is {getattr(self, key)}; give {least} or more"
                )
        for key in ("min_aspect", "max_side", "empty"):
            if not 0 <= getattr(self, key) <= 1:
                raise UserError(
                    f"shapes data set: {key} is {getattr(self, key)}; give a fraction, 0 to 1"
                )
        if self.max_side > self.min_aspect:
            raise UserError(
                f"shapes data set: objects of {self.max_side} of the image do not fit into images "
                f"of aspect {self.min_aspect}; give a max_side no larger than min_aspect"
            )
        if self.min_side > self.max_side * self.size:
            raise UserError(
                f"shapes data set: objects of at least {self.min_side:g} px do not fit under "
                f"{self.max_side} of an image of {self.size} px; give a larger size"
            )


_LEAST = {
    "train": 1,
    "val": 1,
    "size": 32,
    "min_side": 4,
    "max_objects": 1,
    "max_decoys": 0,
    "max_strokes": 0,
    "rotation": 0,
    "stretch": 1,
    "seed": 0,
}


@dataclasses.dataclass(frozen=True)
class Scene:
    """The geometry of one image.

    Args:
        height: image height in pixels.
        width: image width in pixels.
        objects: (index into :data:`CLASSES`, polygon) pairs; no two polygons overlap.
        decoys: polygons of filled shapes that belong to no class; they overlap nothing either.
    """

    height: int
    width: int
    objects: list[tuple[int, np.ndarray]]
    decoys: list[np.ndarray]


def compose_scene(rng: np.random.Generator, spec: ShapesSpec) -> Scene:
    """Draw one image's size, objects and filled distractors.

    Args:
        rng: the image's own generator.
        spec: the data set's specification.

    Returns:
        the scene.
    """
    sides = [spec.size, round(spec.size * rng.uniform(spec.min_aspect, 1))]
    width, height = rng.permutation(sides).tolist()
    taken = np.zeros((height, width), dtype=bool)
    count = 0 if rng.random() < spec.empty else int(rng.integers(1, spec.max_objects + 1))
    longest = spec.max_side * spec.size
    # Large ones first: they would find no place later, and small ones would be too common.
    object_sides = np.sort(_log_uniform(rng, spec.min_side, longest, count))[::-1]
    objects = []
    for side in object_sides:
        category = int(rng.integers(len(CLASSES)))
        polygon = _place(rng, _pose(rng, spec, _outline(CLASSES[category]), side), taken)
        if polygon is not None:
            objects.append((category, polygon))
    decoys = []
    # Below twice the smallest object's side a blob could not be told from a circle.
    least = min(2 * spec.min_side, longest)
    for side in _log_uniform(rng, least, longest, int(rng.integers(spec.max_decoys + 1))):
        polygon = _place(rng, _pose(rng, spec, _decoy_outline(rng), side), taken)
        if polygon is not None:
            decoys.append(polygon)
    return Scene(height, width, objects, decoys)


def polygon_area(polygon: np.ndarray) -> float:
    """The area of a polygon by the shoelace formula.

    Args:
        polygon: (P, 2) vertices in pixels.

    Returns:
        the area in square pixels.
    """
    x, y = polygon[:, 0], polygon[:, 1]
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def _log_uniform(rng: np.random.Generator, low: float, high: float, count: int) -> np.ndarray:
    return np.exp(rng.uniform(math.log(low), math.log(high), count))


def _spokes(radii: np.ndarray, start: float = 0.0) -> np.ndarray:
    """Vertices at these radii and at equal angles, the first at ``start`` from straight up."""
    angles = start + 2 * math.pi * np.arange(len(radii)) / len(radii)
    return np.stack([radii * np.sin(angles), -radii * np.cos(angles)], axis=1)


def _outline(name: str) -> np.ndarray:
    """The upright shape of a class, of about unit radius, y pointing down."""
    if name == "circle":
        return _spokes(np.ones(48))
    if name == "square":
        return _spokes(np.ones(4), start=math.pi / 4)
    if name == "triangle":
        return _spokes(np.ones(3))
    if name == "star":
        return _spokes(np.tile([1.0, 0.42], 5))
    assert name == "cross", name
    thin, far = 0.34, 1.0
    quarter = np.array([[thin, -far], [thin, -thin], [far, -thin]])
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])


def _decoy_outline(rng: np.random.Generator) -> np.ndarray:
    """The outline of a filled distractor: an irregular blob, or one half of a class's shape."""
    if rng.random() < 0.5:
        angles = 2 * math.pi * np.arange(40) / 40
        radii = np.ones(40)
        for wave in (2, 3, 5):
            radii += rng.uniform(0.2, 0.4) * np.cos(wave * angles + rng.uniform(0, 2 * math.pi))
        return _spokes(np.clip(radii, 0.3, None))
    name = CLASSES[rng.integers(len(CLASSES))]
    # A triangle's lower half is a trapezium; its right half would be a triangle again.
    axis = 1 if name == "triangle" else 0
    return _half(_outline(name), axis)


def _half(polygon: np.ndarray, axis: int) -> np.ndarray:
    """The part of a polygon with a coordinate of at least 0 (clipped edge by edge)."""
    kept = []
    for here, there in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if here[axis] >= 0:
            kept.append(here)
        if (here[axis] >= 0) != (there[axis] >= 0):
            kept.append(here + (there - here) * here[axis] / (here[axis] - there[axis]))
    return np.array(kept)


def _pose(
    rng: np.random.Generator, spec: ShapesSpec, outline: np.ndarray, side: float
) -> np.ndarray:
    """Stretch and turn an outline; the longer side of its box becomes ``side``, a corner (0, 0)."""
    stretch = math.sqrt(_log_uniform(rng, 1 / spec.stretch, spec.stretch, 1)[0])
    angle = math.radians(rng.uniform(-spec.rotation, spec.rotation))
    cos, sin = math.cos(angle), math.sin(angle)
    polygon = outline * [stretch, 1 / stretch] @ np.array([[cos, sin], [-sin, cos]])
    polygon = polygon - polygon.min(axis=0)
    return polygon * (side / polygon.max())


def _place(rng: np.random.Generator, polygon: np.ndarray, taken: np.ndarray) -> np.ndarray | None:
    """Find a free place for a polygon, and take it.

    Args:
        rng: the image's own generator.
        polygon: (P, 2), its box beginning at (0, 0).
        taken: (height, width) bool, the pixels in use; changed in place.

    Returns:
        the polygon at its place, in hundredths of a pixel, or None where none was found.
    """
    polygon = polygon + rng.uniform(0, 1, 2)
    columns, rows = (np.ceil(polygon.max(axis=0)).astype(int) + 2 * _GAP).tolist()
    canvas = Image.new("1", (columns, rows))
    points = [tuple(point) for point in polygon - 0.5 + _GAP]
    drawing = ImageDraw.Draw(canvas)
    drawing.polygon(points, fill=1)
    drawing.line([*points, points[0]], fill=1, width=2 * _GAP + 1, joint="curve")
    mask = np.asarray(canvas)
    height, width = taken.shape
    if rows > height or columns > width:
        return None
    for _ in range(_TRIES):
        x, y = int(rng.integers(width - columns + 1)), int(rng.integers(height - rows + 1))
        window = taken[y : y + rows, x : x + columns]
        if not (window & mask).any():
            window |= mask
            return np.round(polygon + (x + _GAP, y + _GAP), 2)
    return None
