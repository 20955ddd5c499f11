"""The names of a model's classes and where these come from, and the names of models.

Class names come from the checkpoint, or else from the data set that it was trained on, which the
config beside it or the model zoo names. If neither is known, the names of the given config's data
set fit only by chance: they are a guess.
"""

import dataclasses
import logging
import os
import re
from collections.abc import Container, Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import nn

from ..config_checks import num_classes
from ..data.datasets.shapes import BUILTIN_NAME
from ..utils.errors import UserError
from ..utils.model_zoo import zoo_weights

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Classes:
    """The classes of a model.

    Args:
        names: a name for each class, ``class 0`` and so on where none is known; empty for a model
            without classes.
        category_ids: the id of each class in the annotations, counted from 0 where they are not
            known; [1] for a model without classes, whose objects are all of one kind.
        source: where the names come from: "the checkpoint", "data set NAME" or "".
        guess: "", or why the names are not certain, as a sentence.
    """

    names: list[str]
    category_ids: list[int]
    source: str = ""
    guess: str = ""

    @property
    def labels(self) -> list[str]:
        """The names to draw, with a question mark if they are a guess."""
        return [f"{name}?" for name in self.names] if self.guess and self.source else self.names


def classes_of(cfg: CfgNode, model: nn.Module | None = None) -> Classes:
    """Find out the classes of a model.

    Args:
        cfg: a config from :func:`fpn_d2.load_config`.
        model: from :func:`fpn_d2.load_model`, or a copy of it; its ``weights_origin`` tells what
            is known of the weights' classes. Without it, the classes are the config's data set's.
    """
    number = num_classes(cfg)
    if number is None:
        return Classes([], [1])
    dataset = (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN, "")[0]
    numbered = [f"class {i}" for i in range(number)]
    origin = getattr(model, "weights_origin", None)
    if origin is None:
        known = _names_and_ids(dataset, number)
        return Classes(*known, f"data set {dataset}") if known else _numbered(numbered)
    own = _names_and_ids(origin.dataset, number)
    if len(origin.class_names) == number:
        names = list(origin.class_names)
        for found in (own, _names_and_ids(dataset, number)):
            if found and found[0] == names:
                return Classes(names, found[1], "the checkpoint")
        return Classes(names, list(range(number)), "the checkpoint")
    if own:
        return Classes(*own, f"data set {origin.dataset}")
    why = f"the weights {origin.path} do not say what their classes are called"
    # A user's own five classes are not the five shapes.
    built_in = dataset.rpartition("_")[0] == BUILTIN_NAME
    known = None if built_in else _names_and_ids(dataset, number)
    if known is None:
        return _numbered(numbered, f"{why}, so they have numbers for names")
    why = f"{why}; to take those of data set {dataset}, which the config names, is a guess"
    return Classes(*known, f"data set {dataset}", why)


def _numbered(names: list[str], guess: str = "") -> Classes:
    return Classes(names, list(range(len(names))), guess=guess)


def _names_and_ids(dataset: str, number: int) -> tuple[list[str], list[int]] | None:
    """Return the names and ids of a data set's ``number`` classes, read if need be; else None."""
    if not dataset:
        return None
    metadata = MetadataCatalog.get(dataset)
    names, json_file = metadata.get("thing_classes"), metadata.get("json_file", "")
    known = names and metadata.get("thing_dataset_id_to_contiguous_id")
    is_there = os.path.isfile(json_file) if json_file else not names
    if dataset in DatasetCatalog and is_there and not known:
        try:  # Detectron2 knows the classes of a COCO data set once it is read
            DatasetCatalog.get(dataset)
        except Exception as error:  # Detectron2 and pycocotools assert
            if not metadata.get("thing_classes"):  # Detectron2 reads these first
                logger.warning(
                    "data set %s cannot be read, so its classes have numbers for names: %r",
                    dataset,
                    error,
                )
    names = list(map(str, metadata.get("thing_classes", ())))
    if len(names) != number:
        return None
    ids = metadata.get("thing_dataset_id_to_contiguous_id", {})
    by_class = {contiguous: dataset_id for dataset_id, contiguous in ids.items()}
    if len(by_class) == number:
        return names, [by_class[i] for i in range(number)]
    first = int(metadata.get("evaluator_type") == "lvis")  # whose ids count from 1
    return names, list(range(first, first + number))


# --- models


def split_pair(words: str, option: str) -> tuple[str, str]:
    """Split an option's ``CONFIG:WEIGHTS`` into the config's path and the weights' path or URL.

    Raises:
        UserError: if the words have another form.
    """
    # The weights may be a URL with a colon of its own, so the config ends at its suffix.
    match = re.fullmatch(r"(.+?\.ya?ml):(.+)", words)
    if not match:
        raise UserError(
            f"{option} {words} is not of the form CONFIG:WEIGHTS, such as "
            "configs/quick/demo.yaml:output/demo/model_final.pth"
        )
    return match[1], match[2]


def check_weights(weights: str, opts: Sequence[str]) -> None:
    """Refuse weights that are given by ``--weights`` and again by an override.

    Raises:
        UserError: if both are given.
    """
    if weights and "MODEL.WEIGHTS" in opts[::2]:
        raise UserError("weights are given twice, by --weights and by MODEL.WEIGHTS; leave one out")


def config_for(config_file: str, weights: str) -> str:
    """Return the config to read: the given one, or else the model zoo entry that the weights name.

    Raises:
        UserError: if no config is given, and the weights are no entry of the model zoo.
    """
    if not config_file and not zoo_weights(weights):
        raise UserError(
            "no config is named; add --config-file, or give --weights a name of the model zoo, "
            "which brings its config, such as COCO-Detection/faster_rcnn_R_50_FPN_3x"
        )
    return config_file or weights


def free_title(config: str, taken: Container[str]) -> str:
    """Return the config's file name as a title, numbered if another model has that title."""
    name = title = os.path.splitext(os.path.basename(config))[0]
    number = 1
    while title in taken:
        number += 1
        title = f"{name} ({number})"
    return title
