"""Images on which one row finds objects that another misses.

N images, G objects of an image, R boxes found on it.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence

import numpy as np
from detectron2.data.detection_utils import read_image
from PIL import Image, ImageColor
from pycocotools.coco import COCO

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

__all__ = ["Example", "find_examples"]

_FOUND, _MISSED = PALETTE[4], PALETTE[5]  # blue and vermilion


@dataclasses.dataclass(frozen=True)
class Example:
    """An image as two rows see it.

    Args:
        title: which image, and the two rows.
        caption: what each of them found.
        picture: both, side by side.
    """

    title: str
    caption: str
    picture: Image.Image


def find_examples(
    folders: Mapping[str, str],
    dataset: str,
    pairs: Sequence[tuple[str, str]],
    *,
    table: Table | None = None,
    images_per_pair: int = 1,
    proposals: int = 100,
    threshold: float = 0.5,
) -> list[Example]:
    """Find and draw the images where one row finds most objects that another misses.

    An object is found where a box has an IoU of 0.5 or more with it: one of the best proposals,
    or a detection of its class; of mask proposals the masks count.

    Args:
        folders: the ``inference/<data set>`` folder of each row, with its ``box_proposals.pkl``,
            ``coco_instances_results.json`` or ``mask_proposals.json``.
        dataset: the name of the data set, with its split.
        pairs: rows (x, y), where x is to find what y misses.
        table: gives the rows their names and colours.
        images_per_pair: how many images of each pair.
        proposals: how many of the best proposals of an image count.
        threshold: the least score of a detection that counts.

    Returns:
        the examples, in the order of the pairs; none for a pair where x finds nothing that y
        misses, or where a row has no folder.

    Raises:
        UserError: where the data set is not here, or a folder has no boxes.
    """
    rows = {row for pair in pairs if all(row in folders for row in pair) for row in pair}
    if not rows:
        return []
    coco, image_root = load_ground_truth(dataset)
    objects, found = {}, {}
    for row in rows:
        images = _found(folders[row], coco, proposals, threshold)
        objects = {image_id: boxes for image_id, (boxes, _) in images.items()}
        found[row] = {image_id: seen for image_id, (_, seen) in images.items()}
    examples, drawn = [], set()  # an image once, so that several pairs show more
    for x, y in pairs:
        if x not in rows or y not in rows:
            continue
        best = [i for i in _best_images(found[x], found[y]) if i not in drawn]
        for image_id in best[:images_per_pair]:
            drawn.add(image_id)
            info = coco.imgs[image_id]
            image = read_image(os.path.join(image_root, info["file_name"]), format="RGB")
            seen = {row: found[row][image_id] for row in (x, y)}
            examples.append(_example(info["file_name"], image, objects[image_id], seen, table))
    return examples


def _found(
    folder: str, coco: COCO, proposals: int, threshold: float
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Read a row's results; return for each image its objects' boxes (G, 4), x0 y0 x1 y1, and
    which of them (G,) are found."""
    kind, results = read_results(folder, threshold=threshold, proposals=proposals)
    found = {}
    for image_id in sorted(coco.imgs):
        objects, ious = overlaps_with_objects(kind, coco, image_id, results[image_id])
        boxes = np.array([o["bbox"] for o in objects], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        found[image_id] = boxes, (ious >= 0.5).any(axis=0)
    return found


def _best_images(x: Mapping[int, np.ndarray], y: Mapping[int, np.ndarray]) -> list[int]:
    """The images where x finds what y misses, those first where it is most."""
    gains = {i: (int((x[i] & ~y[i]).sum()), -int((y[i] & ~x[i]).sum())) for i in x}
    gaining = [i for i, (gain, _) in gains.items() if gain]
    return sorted(gaining, key=lambda i: gains[i], reverse=True)


def _example(
    name: str,
    image: np.ndarray,
    objects: np.ndarray,
    seen: Mapping[str, np.ndarray],
    table: Table | None,
) -> Example:
    titles = {row: f"({row}) {table.rows[row].name}" if table else row for row in seen}
    styles = row_styles(table.rows if table else list(seen))
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
    """The image, twice as large where it is small, with the objects found and missed."""
    scale = 2 if max(image.shape[:2]) <= 400 else 1
    labels = ["" if f else "missed" for f in found]
    colors = [_FOUND if f else _MISSED for f in found]
    return draw_boxes(image, objects, labels, colors, scale, dashed=~found)
