"""Images on which one row finds objects that another misses.

Shape shorthand: an image has G objects, and a row finds R boxes on it.
"""

import dataclasses
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.data.detection_utils import read_image
from detectron2.structures import BoxMode
from PIL import Image, ImageColor
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from ..data.proposals import read_proposals
from ..evaluation.ground_truth import load_ground_truth
from ..utils.errors import UserError
from ..utils.files import read_json
from ..visualization import PALETTE, draw_boxes, side_by_side
from .figures import row_styles
from .tables import Table

__all__ = ["Example", "find_examples"]

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
    *,
    table: Table | None = None,
    images_per_pair: int = 1,
    proposals: int = 100,
    threshold: float = 0.5,
) -> list[Example]:
    """Find and draw the images on which one row finds the most objects that another misses.

    A row finds an object if one of its best proposals, or a detection of the object's class, has an
    IoU of 0.5 or more with it. Mask proposals are compared by their masks.

    Args:
        folders: the ``inference/<data set>`` folder of each row, which holds its
            ``box_proposals.pkl``, ``coco_instances_results.json`` or ``mask_proposals.json``.
        dataset: the name of the data set, with its split.
        pairs: pairs of rows (x, y); the images show what x finds and y misses.
        table: gives the rows their names and colours.
        images_per_pair: the most images of a pair.
        proposals: how many of an image's best proposals count.
        threshold: the least score of a detection that counts.

    Returns:
        the examples in the order of the pairs; none for a pair whose x finds nothing that y misses,
        or one of whose rows has no folder.

    Raises:
        UserError: if the data set is missing, or a folder has no boxes.
    """
    rows = {row for pair in pairs if all(row in folders for row in pair) for row in pair}
    if not rows:
        return []
    coco, image_root = load_ground_truth(dataset)
    found = {}
    for row in rows:
        finds = _read_finds(folders[row], proposals, threshold)
        found[row] = {i: _found(coco, _objects(coco, i), finds[i]) for i in sorted(coco.imgs)}
    examples, drawn = [], set()  # Each image is drawn once, so that several pairs show more.
    for x, y in pairs:
        if x not in rows or y not in rows:
            continue
        best = [i for i in _best_images(found[x], found[y]) if i not in drawn]
        for image_id in best[:images_per_pair]:
            drawn.add(image_id)
            name = coco.imgs[image_id]["file_name"]
            image = read_image(os.path.join(image_root, name), format="RGB")
            boxes = np.array([o["bbox"] for o in _objects(coco, image_id)], dtype=np.float64)
            boxes = BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
            seen = {row: found[row][image_id] for row in (x, y)}
            examples.append(_example(name, image, boxes, seen, table))
    return examples


def _objects(coco: COCO, image_id: int) -> list[dict[str, Any]]:
    """Return the G annotations of an image that are not crowds."""
    return [a for a in coco.imgToAnns[image_id] if not a.get("iscrowd", 0)]


# What a row found on an image: R boxes x0 y0 w h in pixels, or R masks as RLE, each with its
# category, which is None for a proposal.
_Finds = list[tuple[Any, int | None]]


def _read_finds(folder: str, proposals: int, threshold: float) -> Mapping[int, _Finds]:
    """Read what a row found and what counts of it, by image."""
    masks, detections, boxes = (
        os.path.join(folder, name)
        for name in ("mask_proposals.json", "coco_instances_results.json", "box_proposals.pkl")
    )
    finds: dict[int, _Finds] = defaultdict(list)
    if os.path.isfile(masks):
        for proposal in read_json(masks):
            if len(finds[proposal["image_id"]]) < proposals:  # The file has the best ones first.
                finds[proposal["image_id"]].append((proposal["segmentation"], None))
    elif os.path.isfile(detections):
        for found in read_json(detections):
            if found["score"] >= threshold:
                finds[found["image_id"]].append((found["bbox"], found["category_id"]))
    elif os.path.isfile(boxes):
        content = read_proposals(boxes)
        mode = BoxMode(content["bbox_mode"])
        for image_id, found in zip(content["ids"], content["boxes"], strict=True):
            best = np.asarray(found, dtype=np.float64).reshape(-1, 4)[:proposals]
            best = BoxMode.convert(best, mode, BoxMode.XYWH_ABS)
            finds[image_id] = [(box, None) for box in best]
    else:
        raise UserError(
            f"{folder} holds neither coco_instances_results.json nor box_proposals.pkl; evaluate "
            "the row first, with train_net.py --eval-only"
        )
    return finds


def _found(coco: COCO, objects: list[dict[str, Any]], finds: _Finds) -> np.ndarray:
    """Return, as (G,) booleans, which objects a proposal, or a detection of their class, covers."""
    if not objects or not finds:
        return np.zeros(len(objects), dtype=bool)
    if isinstance(finds[0][0], dict):
        shapes = [shape for shape, _ in finds]
        truth = [coco.annToRLE(annotation) for annotation in objects]
    else:
        shapes = np.array([shape for shape, _ in finds], dtype=np.float64)
        truth = np.array([annotation["bbox"] for annotation in objects], dtype=np.float64)
    covers = mask_util.iou(shapes, truth, [0] * len(objects)) >= 0.5
    may = [[c in (None, annotation["category_id"]) for annotation in objects] for _, c in finds]
    return (covers & np.array(may)).any(axis=0)


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
    """Draw the found and the missed objects on the image, enlarged twice if it is small."""
    scale = 2 if max(image.shape[:2]) <= 400 else 1
    labels = ["" if f else "missed" for f in found]
    colors = [_FOUND if f else _MISSED for f in found]
    return draw_boxes(image, objects, labels, colors, scale, dashed=~found)
