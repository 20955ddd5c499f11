"""The pixels of an image of the built-in data set.

Objects and distractors take their colours and textures from one and the same function, which
does not know what it paints: only the outline tells a class.

Shape shorthand: H, W image height and width; h, w those of a polygon's crop.
"""

import math

import numpy as np
from PIL import Image, ImageDraw

from .shapes_scene import Scene

__all__ = ["coverage", "draw_scene"]

# Sub-pixels along a pixel's side.
_FINE = 8
# Least distance of a fill from its background, and of its two colours from each other, in RGB.
_CONTRAST = 90.0
_TEXTURE_CONTRAST = (25.0, 60.0)


def draw_scene(rng: np.random.Generator, scene: Scene, max_strokes: int) -> np.ndarray:
    """Paint a scene: background, strokes, filled distractors, objects, a little sensor noise.

    Args:
        rng: the image's own generator.
        scene: what lies where.
        max_strokes: lines, arcs and scribbles are uniform in 0 to this number.

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
    """How much of each pixel a polygon covers.

    Args:
        polygon: (P, 2) vertices in pixels.

    Returns:
        (h, w) float32 between 0 and 1, and the column and row of its first pixel.
    """
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
    """Two RGB colours, a texture's contrast apart and both far from the colour ``under``."""
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
    grid: np.ndarray,
    height: int,
    width: int,
    kind: Image.Resampling = Image.Resampling.BICUBIC,
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
