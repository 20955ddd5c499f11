"""Images on which one row finds objects that another misses.

N images, G objects of an image, R boxes found on it.
"""

import dataclasses
import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from detectron2.data.detection_utils import read_image
from detectron2.structures import BoxMode
from PIL import Image, ImageColor
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from ..data.proposals import read_proposals
from ..evaluation import load_ground_truth
from ..utils.errors import UserError
from ..visualization import PALETTE, draw_boxes, side_by_side
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
    objects = {image_id: _objects(coco, image_id) for image_id in sorted(coco.imgs)}
    found = {}
    for row in rows:
        masks = os.path.join(folders[row], "mask_proposals.json")
        if os.path.isfile(masks):
            found[row] = _found_by_masks(coco, masks, proposals)
            continue
        boxes = _read_boxes(folders[row], proposals, threshold)
        found[row] = {i: _found(*objects[i], *boxes[i]) for i in objects}
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
            examples.append(_example(info["file_name"], image, objects[image_id][0], seen, table))
    return examples


def _objects(coco: COCO, image_id: int) -> tuple[np.ndarray, np.ndarray]:
    """The boxes (G, 4), x0 y0 x1 y1, and the categories (G,) of an image without its crowds."""
    annotations = [a for a in coco.imgToAnns[image_id] if not a.get("iscrowd", 0)]
    boxes = np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes, np.array([a["category_id"] for a in annotations], dtype=np.int64)


# The found boxes of an image (R, 4), x0 y0 x1 y1, and their categories (R,), _ANY for proposals.
_Boxes = tuple[np.ndarray, np.ndarray]
_ANY = -1


def _read_boxes(folder: str, proposals: int, threshold: float) -> Mapping[int, _Boxes]:
    """The boxes that count, by image."""
    found: dict[int, _Boxes] = defaultdict(lambda: (np.zeros((0, 4)), np.zeros(0, np.int64)))
    path = os.path.join(folder, "coco_instances_results.json")
    if os.path.isfile(path):
        by_image = defaultdict(list)
        with open(path, encoding="utf-8") as file:
            for detection in json.load(file):
                if detection["score"] >= threshold:
                    by_image[detection["image_id"]].append(detection)
        for image_id, detections in by_image.items():
            boxes = np.array([d["bbox"] for d in detections], dtype=np.float64)
            boxes[:, 2:] += boxes[:, :2]
            found[image_id] = boxes, np.array([d["category_id"] for d in detections])
        return found
    path = os.path.join(folder, "box_proposals.pkl")
    if not os.path.isfile(path):
        raise UserError(
            f"{folder} holds neither coco_instances_results.json nor box_proposals.pkl; evaluate "
            "the row first, with train_net.py --eval-only"
        )
    content = read_proposals(path)
    for image_id, boxes in zip(content["ids"], content["boxes"], strict=True):
        boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)[:proposals]
        boxes = BoxMode.convert(boxes, BoxMode(content["bbox_mode"]), BoxMode.XYXY_ABS)
        found[image_id] = boxes, np.full(len(boxes), _ANY)
    return found


def _found(
    objects: np.ndarray, categories: np.ndarray, boxes: np.ndarray, classes: np.ndarray
) -> np.ndarray:
    """Which objects (G,) a box of their class, or a proposal, overlaps by an IoU of 0.5."""
    if not len(objects) or not len(boxes):
        return np.zeros(len(objects), dtype=bool)
    sizes = [np.hstack([b[:, :2], b[:, 2:] - b[:, :2]]) for b in (boxes, objects)]
    overlaps = mask_util.iou(*sizes, [0] * len(objects)) >= 0.5
    may = (classes[:, None] == categories[None]) | (classes[:, None] == _ANY)
    return (overlaps & may).any(axis=0)


def _found_by_masks(coco: COCO, path: str, proposals: int) -> dict[int, np.ndarray]:
    """The same for each image's best masks, by the IoU of masks."""
    best = defaultdict(list)
    with open(path, encoding="utf-8") as file:
        for proposal in json.load(file):
            best[proposal["image_id"]].append(proposal["segmentation"])
    found = {}
    for image_id in coco.imgs:
        annotations = [a for a in coco.imgToAnns[image_id] if not a.get("iscrowd", 0)]
        truth = [coco.annToRLE(annotation) for annotation in annotations]
        masks = best[image_id][:proposals]
        found[image_id] = np.zeros(len(truth), dtype=bool)
        if truth and masks:
            found[image_id] = (mask_util.iou(masks, truth, [0] * len(truth)) >= 0.5).any(axis=0)
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
