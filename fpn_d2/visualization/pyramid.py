"""Pictures of what is particular to a pyramid: levels, feature maps, anchors, proposals.

Shape shorthand: an image of H x W pixels with R detections. Every ``draw`` function takes an
:class:`fpn_d2.inference.Explanation` of one image and returns a picture, (H', W', 3) uint8, RGB.
"""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from PIL import Image

from ..inference.explanation import Explanation
from .drawing import PALETTE, detection_texts, draw_boxes
from .layout import beside, legend, picture_scale, stack, text_block

# Neighbouring levels differ in lightness too: orange, blue, green, purple, sky blue, vermilion.
LEVEL_COLORS = dict(zip(range(2, 8), (PALETTE[i] for i in (0, 4, 2, 6, 1, 5)), strict=True))
HEAT_MAP_TITLES = {
    "lateral": "1x1 lateral alone, without the top-down path",
    "merged": "merged with the coarser level, before the 3x3",
    "output": "after the 3x3: what the heads read",
}
_COLOR_MAP = "viridis"  # perceptually uniform, whatever the colour vision
_GAP, _WIDTH = 8, 300  # pixels: between pictures of levels, and the width of one
_TALLEST = 4  # the tallest picture of a level, in widths: an image may be thousands of widths tall


def level_number(feature: str) -> int:
    """Return the level of a feature: 4 for ``"p4"``, ``"res4"`` and ``"c4"``.

    Raises:
        ValueError: if the name does not end in a digit.
    """
    if not feature[-1:].isdigit():
        raise ValueError(
            f"{feature!r} names no level; a feature's name ends in its level, as p4 or res4 do"
        )
    return int(feature[-1])


def level_color(level: int) -> str:
    """Return the colour of a level as ``#RRGGBB``; P2 to P7 have their own, others share them."""
    return LEVEL_COLORS[2 + (level - 2) % len(LEVEL_COLORS)]


def draw_levels(explanation: Explanation, names: Sequence[str] = ()) -> np.ndarray:
    """Draw each detection in the colour of the level that Eq. 1 chose for it.

    ``names`` are the names of the classes; see :func:`fpn_d2.inference.classes_of`.
    """
    levels = explanation.levels.tolist()
    texts = detection_texts(explanation.detections, names)
    return draw_boxes(
        explanation.image,
        explanation.detections.pred_boxes.tensor.numpy(),
        [f"P{level} {text}" for level, text in zip(levels, texts, strict=True)],
        [level_color(level) for level in levels],
        scale=picture_scale(explanation.image),
    )


def level_legend(counts: Mapping[int | str, int]) -> np.ndarray:
    """Draw a strip with each level's colour, name and count.

    Args:
        counts: the count of each level, by its number or by its feature's name, such as ``"p4"``.
    """
    names = [f"P{level}" if isinstance(level, int) else level.capitalize() for level in counts]
    words = [f"{name} ({count})" for name, count in zip(names, counts.values(), strict=True)]
    return legend(words, [level_color(level_number(name)) for name in names])


def draw_heat_maps(explanation: Explanation, *, width: int = _WIDTH) -> np.ndarray:
    """Draw a feature map for each level (columns) and each kind (rows), cut to the image.

    The value of a cell is the mean absolute activation of its channels. Each map is scaled from its
    least to its largest value, and both are written above it.

    ``width`` is the width of a map in pixels; a map of a tall image is narrower than its title.
    """
    names = [n for n in explanation.strides if any(n in f for f in explanation.features.values())]
    rows = []
    for kind, maps in explanation.features.items():
        cells = [_heat_map(explanation, maps.get(name), name, width) for name in names]
        row = beside(cells, gap=_GAP)
        alone = kind == "output" and len(explanation.features) == 1
        title = "what the heads read" if alone else HEAT_MAP_TITLES[kind]
        rows += [text_block(title, row.shape[1]), row]
    return stack(rows, gap=4)


def _heat_map(
    explanation: Explanation, activation: np.ndarray | None, name: str, width: int
) -> np.ndarray:
    image_height, image_width = explanation.image.shape[:2]
    scale = min(width / image_width, _TALLEST * width / image_height)
    shown = max(1, round(min(width, _TALLEST * width * image_width / image_height)))
    height = max(1, round(min(width * image_height / image_width, _TALLEST * width)))
    if activation is None:
        blank = np.full((height, shown, 3), 238, np.uint8)
        return stack([text_block(f"{name.capitalize()}: none", width, lines=2, size=13), blank])
    low, high = float(activation.min()), float(activation.max())
    unit = (activation - low) / max(high - low, 1e-12)
    colors = (matplotlib.colormaps[_COLOR_MAP](unit)[..., :3] * 255).round().astype(np.uint8)
    # The last cells may reach beyond the image. Cells stay squares, which shows their size.
    cell = explanation.strides[name] / explanation.input_scale * scale
    rows, columns = activation.shape
    across = columns / max(shown, round(columns * cell))  # cells per pixel
    down = rows / max(height, round(rows * cell))
    picture = Image.fromarray(colors).transform(
        (shown, height), Image.Transform.AFFINE, (across, 0, 0, 0, down, 0)
    )
    title = (
        f"{name.capitalize()}, stride {explanation.strides[name]}, {columns} x {rows} cells\n"
        f"{low:.3g} to {high:.3g}"
    )
    return stack([text_block(title, width, lines=2, size=13), np.array(picture)])


def draw_anchors(explanation: Explanation) -> np.ndarray:
    """Draw the anchors that match objects in their levels' colours, and the objects in white."""
    matches, scale = explanation.anchors, picture_scale(explanation.image)
    assert matches is not None
    colors = [level_color(level_number(level)) for level in matches.levels]
    picture = draw_boxes(explanation.image, matches.boxes, [""] * len(colors), colors, scale)
    count = len(matches.targets)
    return draw_boxes(picture, matches.targets * scale, [""] * count, ["#FFFFFF"] * count)


def draw_proposals(explanation: Explanation) -> np.ndarray:
    """Draw the ten best proposals of each level, in one picture per level."""
    cells = []
    height, width = explanation.image.shape[:2]
    for name, proposals in explanation.proposals.items():
        boxes, scores = proposals.boxes[:10], proposals.scores[:10]
        picture = draw_boxes(
            explanation.image,
            boxes,
            [""] * len(boxes),
            [level_color(level_number(name))] * len(boxes),
            scale=min(_WIDTH / width, _TALLEST * _WIDTH / height),
        )
        span = f"{scores[-1]:.2f} to {scores[0]:.2f}" if len(scores) else "-"
        title = f"{name.capitalize()}: best {len(boxes)}\nscores {span}"
        cells.append(stack([text_block(title, _WIDTH, lines=2, size=13), picture]))
    return beside(cells, gap=_GAP)


def draw_explanation(explanation: Explanation, names: Sequence[str] = ()) -> np.ndarray:
    """Draw all that the explanation holds on one page; ``names`` as in :func:`draw_levels`."""
    eq1 = (
        f"Level by Eq. 1 (k0 = {explanation.canonical_level}, "
        f"{explanation.canonical_size:g} px) of {len(explanation.levels)} detections"
    )
    drawn = draw_levels(explanation, names)
    top = [stack([text_block(eq1, drawn.shape[1]), drawn, level_legend(explanation.counts)])]
    if explanation.anchors is not None:
        top.append(draw_anchor_panel(explanation))
    page = [beside(top, gap=2 * _GAP)]
    if explanation.proposals:
        title = "Best proposals of each level"
        drawn = draw_proposals(explanation)
        page += [text_block(title, drawn.shape[1]), drawn]
    if explanation.features:
        title = (
            "Feature maps: mean absolute activation over the channels, each map from its least "
            "(dark) to its largest value (bright)"
        )
        drawn = draw_heat_maps(explanation)
        page += [text_block(title, page[0].shape[1]), drawn]
    page += [text_block(note, page[0].shape[1]) for note in explanation.notes]
    return stack(page, gap=_GAP, margin=_GAP)


def draw_anchor_panel(explanation: Explanation) -> np.ndarray:
    """Draw the picture of :func:`draw_anchors` between a title and a legend of the levels."""
    matches = explanation.anchors
    what = "objects" if matches.to_ground_truth else "detections"
    title = (
        f"{len(matches.boxes)} anchors match the {len(matches.targets)} {what} (white): IoU >= "
        f"{matches.threshold:g}, or the best"
    )
    picture = draw_anchors(explanation)
    names = sorted(set(matches.levels), key=level_number)
    counts = {name: matches.levels.count(name) for name in names}
    return stack([text_block(title, picture.shape[1]), picture, level_legend(counts)])
