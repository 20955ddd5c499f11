"""Images on which one row finds objects that another misses.

Shape shorthand: an image has G objects.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence

import numpy as np
from detectron2.data.detection_utils import read_image
from detectron2.structures import BoxMode
from PIL import Image, ImageColor

from ..evaluation import load_ground_truth
from ..visualization import (
    PALETTE,
    draw_boxes,
    overlaps_with_objects,
    read_results,
    side_by_side,
)
from .figures import row_styles
from .tables import Table

_PROPOSALS = 100
_FOUND, _MISSED = PALETTE[4], PALETTE[5]  # Blue and vermilion.


@dataclasses.dataclass(frozen=True)
class Example:
    """An image as two rows see it.

    Args:
        title: the two rows and the image.
        caption: what each of the rows found.
        picture: the image as each row sees it, side by side.
    """

    title: str
    caption: str
    picture: Image.Image


def find_examples(
    folders: Mapping[str, str],
    dataset: str,
    pairs: Sequence[tuple[str, str]],
    table: Table,
) -> list[Example]:
    """Find and draw, for each pair, the image on which one row finds most that the other misses.

    A row finds an object if one of its best 100 proposals, or a detection of the object's class
    whose score is 0.5 or more, has an IoU of 0.5 or more with it. Mask proposals are compared by
    their masks.

    Args:
        folders: the ``inference/<data set>`` folder of each row, which holds its
            ``box_proposals.pkl``, ``coco_instances_results.json`` or ``mask_proposals.json``.
        dataset: the name of the data set, with its split.
        pairs: pairs of rows (x, y); the images show what x finds and y misses.
        table: gives the rows their names and colours.

    Returns:
        the examples in the order of the pairs, each with an image of its own; none for a pair whose
        x finds nothing that y misses, or one of whose rows has no folder.

    Raises:
        UserError: if the data set is missing, or a folder has no boxes.
    """
    rows = {row for pair in pairs if all(row in folders for row in pair) for row in pair}
    if not rows:
        return []
    coco, image_root = load_ground_truth(dataset)
    found, objects = {}, {}
    for row in rows:
        kind, results = read_results(folders[row], threshold=0.5, proposals=_PROPOSALS)
        found[row] = {}
        for image_id in sorted(coco.imgs):
            objects[image_id], ious = overlaps_with_objects(kind, coco, image_id, results[image_id])
            found[row][image_id] = (ious >= 0.5).any(axis=0)
    examples: dict[int, Example] = {}  # by image, so that several pairs show more
    for x, y in pairs:
        if x not in rows or y not in rows:
            continue
        best = [i for i in _best_images(found[x], found[y]) if i not in examples]
        if best:
            name = coco.imgs[best[0]]["file_name"]
            image = read_image(os.path.join(image_root, name), format="RGB")
            boxes = np.array([o["bbox"] for o in objects[best[0]]], dtype=np.float64)
            boxes = BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
            seen = {row: found[row][best[0]] for row in (x, y)}
            examples[best[0]] = _example(name, image, boxes, seen, table)
    return list(examples.values())


def _best_images(x: Mapping[int, np.ndarray], y: Mapping[int, np.ndarray]) -> list[int]:
    """Return the images on which x finds what y misses, those with the most such objects first."""
    gains = {i: (int((x[i] & ~y[i]).sum()), -int((y[i] & ~x[i]).sum())) for i in x}
    gaining = [i for i, (gain, _) in gains.items() if gain]
    return sorted(gaining, key=lambda i: gains[i], reverse=True)


def _example(
    name: str,
    image: np.ndarray,
    objects: np.ndarray,
    seen: Mapping[str, np.ndarray],
    table: Table,
) -> Example:
    """Draw an image twice, as the two rows see it."""
    titles = {row: f"({row}) {table.rows[row].name}" for row in seen}
    styles = row_styles(table.rows)
    pictures, counts = {}, []
    for row, found in seen.items():
        picture = _draw(image, objects, found)
        picture[:5] = ImageColor.getrgb(styles[row].color)
        count = f"{int(found.sum())} of {len(found)}"
        pictures[f"{titles[row]}: {count} found"] = picture
        counts.append(f"{titles[row]} finds {count} objects")
    return Example(
        title=f"{' and '.join(titles.values())} on {os.path.basename(name)}",
        caption=f"{', '.join(counts)}. Found: solid blue; missed: dashed and labelled.",
        picture=side_by_side(pictures),
    )


def _draw(image: np.ndarray, objects: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Draw the found and the missed objects on the image, enlarged twice if it is small."""
    scale = 2 if max(image.shape[:2]) <= 400 else 1
    labels = ["" if f else "missed" for f in found]
    colors = [_FOUND if f else _MISSED for f in found]
    return draw_boxes(image, objects, labels, colors, scale, dashed=~found)
