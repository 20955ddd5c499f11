"""``coco_2014_val_first5k``: the test set of Table 6, the first 5,000 images of COCO 2014 val."""

import json
import os
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from ...utils.errors import UserError
from ...utils.files import replace_file

__all__ = ["register_first_images"]


def register_first_images(name: str, of: str, count: int) -> None:
    """Register the first images of a COCO-format data set, by ascending id, as another.

    Its annotation file is written beside the other's when it is first used. A name that is
    registered already is left alone.

    Args:
        name: the new data set.
        of: the registered one.
        count: how many images.
    """
    if name in DatasetCatalog or of not in DatasetCatalog:
        return
    whole = MetadataCatalog.get(of)
    stem, ending = os.path.splitext(whole.json_file)
    json_file = f"{stem}_first{count}{ending}"

    def load() -> list[dict[str, Any]]:
        if not os.path.isfile(json_file):
            _write_subset(whole.json_file, json_file, count, name)
        return load_coco_json(json_file, whole.image_root, name)

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        **{
            key: value
            for key, value in whole.as_dict().items()
            if key not in ("name", "json_file", "thing_dataset_id_to_contiguous_id")
        },
        json_file=json_file,
    )


def _write_subset(source: str, target: str, count: int, name: str) -> None:
    try:
        with open(source, encoding="utf-8") as file:
            content = json.load(file)
        content["images"] = sorted(content["images"], key=lambda image: image["id"])[:count]
        ids = {image["id"] for image in content["images"]}
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
        with replace_file(target, encoding="utf-8") as file:
            json.dump(content, file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"data set {name} cannot be made of {source} ({error!r}): put COCO's annotation file "
            "there, in a folder that can be written, or set DETECTRON2_DATASETS"
        ) from error
