"""An image of the built-in data set: what lies where in it, and its pixels.

One function chooses the colours and textures of objects and distractors. It does not know what it
paints, so the outline alone tells a class.

A polygon is a (P, 2) float64 array of x, y in absolute pixels; pixel (row i, column j) covers
[j, j + 1] x [i, i + 1], which is COCO's convention.

Shape shorthand: H, W image height and width; h, w those of a polygon's crop.
"""

import dataclasses
import math

import numpy as np
from PIL import Image, ImageDraw

from .shapes import CLASSES, ShapesSpec

# The gap in pixels that is kept free around every object, so that no two masks touch.
_GAP = 2
_TRIES = 200
# Sub-pixels along a pixel's side.
_FINE = 8
# Least distance of a fill from its background, and of its two colours from each other, in RGB.
_CONTRAST = 90.0
_TEXTURE_CONTRAST = (25.0, 60.0)


@dataclasses.dataclass(frozen=True)
class Scene:
    """The geometry of one image.

    Args:
        height, width: the image's size in pixels.
        objects: (index into :data:`CLASSES`, polygon) pairs; no two polygons overlap.
        decoys: polygons of filled shapes that belong to no class; they overlap nothing either.
    """

    height: int
    width: int
    objects: list[tuple[int, np.ndarray]]
    decoys: list[np.ndarray]


def compose_scene(rng: np.random.Generator, spec: ShapesSpec) -> Scene:
    """Draw one image's size, objects and filled distractors from the image's own generator."""
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
        polygon = _place(rng, _pose(rng, spec, _OUTLINES[CLASSES[category]], side), taken)
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
    """The area of a polygon in square pixels, by the shoelace formula.

    Detectron2's ``polygon_area`` rounds differently, and the data set's files must not change.
    """
    x, y = polygon[:, 0], polygon[:, 1]
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def _log_uniform(rng: np.random.Generator, low: float, high: float, count: int) -> np.ndarray:
    return np.exp(rng.uniform(math.log(low), math.log(high), count))


def _spokes(radii: np.ndarray, start: float = 0.0) -> np.ndarray:
    """Vertices at these radii and at equal angles, the first at ``start`` from straight up."""
    angles = start + 2 * math.pi * np.arange(len(radii)) / len(radii)
    return np.stack([radii * np.sin(angles), -radii * np.cos(angles)], axis=1)


_HALF_CROSS = np.array([[0.34, -1], [0.34, -0.34], [1, -0.34], [1, 0.34], [0.34, 0.34], [0.34, 1]])
# The upright shape of each class, of about unit radius, y pointing down.
_OUTLINES = {
    "circle": _spokes(np.ones(48)),
    "cross": np.concatenate([_HALF_CROSS, -_HALF_CROSS]),
    "square": _spokes(np.ones(4), start=math.pi / 4),
    "star": _spokes(np.tile([1.0, 0.42], 5)),
    "triangle": _spokes(np.ones(3)),
}


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
    polygon, kept = _OUTLINES[name], []
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
    """Find a free place for a polygon whose box begins at (0, 0), and take it: its pixels of
    ``taken``, (H, W) bool, become True. Return the polygon at its place, rounded to hundredths of a
    pixel, or None if there is no place."""
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


def draw_scene(rng: np.random.Generator, scene: Scene, max_strokes: int) -> np.ndarray:
    """Paint a scene: background, strokes, filled distractors, objects, a little sensor noise.

    Args:
        rng: the image's own generator.
        scene: what lies where.
        max_strokes: the number of lines, arcs and scribbles is uniform in 0 to this.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    image = _background(rng, scene.height, scene.width, int(rng.integers(max_strokes + 1)))
    for polygon in [*scene.decoys, *(polygon for _, polygon in scene.objects)]:
        _paint(rng, image, polygon)
    noise = rng.integers(-6, 7, image.shape[:2], dtype=np.int8)
    image += noise[..., None] * np.float32(rng.uniform(0, 1))
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)


def coverage(polygon: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Return how much of each pixel a polygon covers, as (h, w) float32 between 0 and 1, and the
    image column and row of the first of these pixels."""
    left, top = np.floor(polygon.min(axis=0)).astype(int).tolist()
    right, bottom = np.ceil(polygon.max(axis=0)).astype(int).tolist()
    canvas = Image.new("L", ((right - left) * _FINE, (bottom - top) * _FINE))
    # Pillow's coordinates are pixel centres, COCO's are pixel edges: half a sub-pixel apart.
    points = (polygon - (left, top)) * _FINE - 0.5
    ImageDraw.Draw(canvas).polygon([tuple(point) for point in points], fill=255)
    return np.asarray(canvas.reduce(_FINE), dtype=np.float32) / 255, left, top


def _paint(rng: np.random.Generator, image: np.ndarray, polygon: np.ndarray) -> None:
    """Fill a polygon, in place, with a texture that stands out from what lies under it."""
    alpha, left, top = coverage(polygon)
    height, width = alpha.shape
    crop = image[top : top + height, left : left + width]
    under = np.einsum("hw,hwc->c", alpha, crop) / alpha.sum()
    first, second = _two_colours(rng, under)
    mix = _texture(rng, height, width)[..., None]
    crop += alpha[..., None] * (first + (second - first) * mix - crop)


def _two_colours(rng: np.random.Generator, under: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draw two RGB colours, a texture's contrast apart and both far from the colour ``under``."""
    first = second = 255.0 - under
    for _ in range(50):
        first = rng.uniform(0, 255, 3)
        step = rng.standard_normal(3)
        second = first + step * (rng.uniform(*_TEXTURE_CONTRAST) / np.linalg.norm(step))
        second = np.clip(second, 0, 255)
        if min(np.linalg.norm(first - under), np.linalg.norm(second - under)) >= _CONTRAST:
            break
    return first.astype(np.float32), second.astype(np.float32)


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(h, w) float32 between 0 and 1: plain, stripes, checks, noise or a gradient."""
    kind = rng.choice(["plain", "stripes", "checks", "noise", "gradient"])
    side = max(height, width)
    angle, phase = rng.uniform(0, math.pi), rng.uniform(0, 1)
    period = max(4.0, side * rng.uniform(0.2, 0.5))
    if kind == "plain":
        return np.zeros((height, width), dtype=np.float32)
    if kind == "noise":
        cells = (max(2, round(2 * height / period)), max(2, round(2 * width / period)))
        return _enlarged(rng.uniform(0, 1, cells), height, width)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    along = x * math.cos(angle) + y * math.sin(angle)
    if kind == "gradient":
        return (along - along.min()) / max(float(np.ptp(along)), 1.0)
    wave = np.sin(2 * math.pi * (along / period + phase))
    if kind == "checks":
        across = y * math.cos(angle) - x * math.sin(angle)
        wave = wave * np.sin(2 * math.pi * across / period)
    # A steep slope instead of a step: stripes are anti-aliased too.
    return np.clip(0.5 + wave * (period / 6), 0, 1)


def _background(rng: np.random.Generator, height: int, width: int, strokes: int) -> np.ndarray:
    """(H, W, 3) float32: a smooth cast, faint patches and grain, crossed by strokes."""
    h, w = height // 2, width // 2  # all of it is smooth: half the resolution is enough
    cast = 24 * rng.standard_normal((4, 4, 3))
    image = np.stack([_enlarged(cast[..., c], h, w) for c in range(3)], axis=2)
    cells = int(rng.integers(3, 9))
    patches = rng.uniform(0, 10) * rng.standard_normal((cells, cells))
    kind = Image.Resampling.NEAREST if rng.random() < 0.5 else Image.Resampling.BICUBIC
    grain = rng.uniform(0, 8) * rng.standard_normal((h // 3, w // 3))
    image += (_enlarged(patches, h, w, kind) + _enlarged(grain, h, w))[..., None]
    image += rng.uniform(30, 225, 3).astype(np.float32)
    canvas = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    # Strokes are drawn twice as large, for smooth edges.
    canvas = canvas.resize((2 * width, 2 * height), Image.Resampling.BILINEAR)
    _draw_strokes(rng, canvas, strokes)
    return np.asarray(canvas.reduce(2), dtype=np.float32).copy()


def _enlarged(
    grid: np.ndarray, height: int, width: int, kind: int = Image.Resampling.BICUBIC
) -> np.ndarray:
    small = Image.fromarray(grid.astype(np.float32))
    return np.asarray(small.resize((width, height), kind))


def _draw_strokes(rng: np.random.Generator, canvas: Image.Image, count: int) -> None:
    """Draw this many lines, arcs and scribbles anywhere on a picture, in place."""
    width, height = canvas.size
    drawing = ImageDraw.Draw(canvas)
    for _ in range(count):
        colour = tuple(rng.integers(0, 256, 3).tolist())
        thickness = int(rng.integers(2, 9))
        kind = rng.choice(["line", "arc", "scribble"])
        if kind == "arc":
            x, y = rng.uniform(0, width), rng.uniform(0, height)
            radius_x, radius_y = rng.uniform(0.05, 0.4, 2) * width
            start = rng.uniform(0, 360)
            box = (x - radius_x, y - radius_y, x + radius_x, y + radius_y)
            drawing.arc(box, start, start + rng.uniform(40, 200), fill=colour, width=thickness)
            continue
        points = rng.uniform(0, 1, (2, 2)) * (width, height)
        if kind == "scribble":
            steps = rng.uniform(-0.12, 0.12, (12, 2)) * width
            points = points[0] + np.cumsum(steps, axis=0)
        drawing.line([tuple(p) for p in points], fill=colour, width=thickness, joint="curve")
