"""One image through a model, by Detectron2's own path.

Shape shorthand: an image of H x W pixels, R detections on it.
"""

import os
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.structures import Boxes, Instances
from torch import nn
from torchvision.ops import nms

from ..checkpoint import load_model
from ..data import build_test_resize
from ..utils.errors import UserError
from .prepared import PreparedModel, prepare_model

__all__ = ["Predictor", "above", "class_names", "dataset_category_ids"]

# Proposals come by the thousand and on top of each other: of those that overlap a better one by
# more than this IoU none is kept, and of the others as many as a picture can show.
_PROPOSAL_IOU, _MOST_PROPOSALS = 0.5, 20


class Predictor(DefaultPredictor):
    """Detectron2's :class:`DefaultPredictor` on a checked checkpoint and a prepared model.

    Its constructor loads whatever a checkpoint happens to hold, so this one puts together the
    same parts with :func:`fpn_d2.load_model`; the call is inherited.

    Examples:
        >>> predictor = Predictor(load_config("configs/quick/demo.yaml", ["MODEL.WEIGHTS", path]))
        >>> predictor.detect(np.zeros((320, 320, 3), np.uint8)).pred_boxes.tensor.shape
        torch.Size([0, 4])
    """

    def __init__(self, cfg: CfgNode, model: nn.Module | None = None):
        """
        Args:
            cfg: a config from :func:`fpn_d2.load_config`; ``cfg.INFERENCE`` says how the model is
                prepared.
            model: the config's model with its weights; None loads ``cfg.MODEL.WEIGHTS``.

        Raises:
            UserError: where there are no weights, they are another model's, or the model needs
                proposals from a file.
        """
        if cfg.MODEL.LOAD_PROPOSALS:
            raise UserError(
                "this config is a Fast R-CNN on proposals from a file, which there are none of for "
                "an image of one's own; take a Faster R-CNN config, or add MODEL.LOAD_PROPOSALS "
                "False MODEL.PROPOSAL_GENERATOR.NAME LeanRPN with weights that have an RPN"
            )
        self.cfg = cfg.clone()
        model = load_model(cfg) if model is None else model.eval()
        keys = cfg.INFERENCE
        if keys.PREPARE and not isinstance(model, PreparedModel):
            model = prepare_model(model, precision=keys.PRECISION, compile=keys.COMPILE)
        self.model = model
        if len(cfg.DATASETS.TEST):
            self.metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
        self.aug = build_test_resize(cfg)
        self.input_format = cfg.INPUT.FORMAT

    def __call__(self, original_image: np.ndarray) -> dict[str, Any]:
        """See :meth:`DefaultPredictor.__call__`.

        Raises:
            UserError: for an image of which resizing would leave nothing.
        """
        resize = self.aug.get_transform(original_image)
        if 0 in (getattr(resize, "new_h", 1), getattr(resize, "new_w", 1)):
            height, width = original_image.shape[:2]
            raise UserError(
                f"an image of {width} x {height} pixels is too narrow for INPUT.MAX_SIZE_TEST "
                f"{self.cfg.INPUT.MAX_SIZE_TEST}, which leaves no pixel across; crop it"
            )
        return super().__call__(original_image)

    def detect(self, image: np.ndarray, *, threshold: float = 0.5) -> Instances:
        """The detections of an image.

        Args:
            image: (H, W, 3) uint8, RGB.
            threshold: the least score of a detection, 0 to 1.

        Returns:
            on the CPU, best first and in pixels of the image: ``pred_boxes``, ``scores`` and, where
            the model has them, ``pred_classes`` and ``pred_masks``. An RPN's are its proposals,
            without a class, with the probability of an object as their score. Of proposals, masks
            too, the best 20 are kept whose boxes overlap no better one by more than IoU 0.5.

        Raises:
            UserError: for an image that the model cannot take, or a model that finds no objects.
        """
        return above(self(np.ascontiguousarray(image[:, :, ::-1])), threshold)


def above(predictions: dict[str, Any], threshold: float) -> Instances:
    """What a model returned for an image as detections; see :meth:`Predictor.detect`."""
    if "instances" in predictions:
        found = predictions["instances"].to("cpu")
    elif "proposals" in predictions:
        proposals = predictions["proposals"].to("cpu")
        found = Instances(
            proposals.image_size,
            pred_boxes=Boxes(proposals.proposal_boxes.tensor),
            scores=proposals.objectness_logits.sigmoid(),
        )
    else:
        raise UserError(
            "the model returns neither instances nor proposals; MODEL.META_ARCHITECTURE must be a "
            "detector or an RPN"
        )
    found = found[found.scores >= threshold]
    found = found[torch.argsort(found.scores, descending=True, stable=True)]
    if found.has("pred_classes"):
        return found
    return found[nms(found.pred_boxes.tensor, found.scores, _PROPOSAL_IOU)[:_MOST_PROPOSALS]]


def class_names(cfg: CfgNode) -> list[str]:
    """The names of a config's classes, as its first test set has them.

    Args:
        cfg: a config from :func:`fpn_d2.load_config`.

    Returns:
        a name for each class, ``class 0`` and so on where the test set is not registered or is not
        of these classes; none for a model without classes.
    """
    number = _num_classes(cfg)
    names = list(_metadata(cfg).get("thing_classes", ()))
    return names if len(names) == number else [f"class {i}" for i in range(number)]


def dataset_category_ids(cfg: CfgNode) -> list[int]:
    """The category id of each class in the first test set's annotations.

    Args:
        cfg: a config from :func:`fpn_d2.load_config`.

    Returns:
        an id for each class, counted from 0 where the test set is not registered or is not of
        these classes; [1] for a model without classes, whose objects are all of one kind.
    """
    number = _num_classes(cfg)
    if not number:
        return [1]
    ids = _metadata(cfg).get("thing_dataset_id_to_contiguous_id", {})
    by_class = {contiguous: dataset_id for dataset_id, contiguous in ids.items()}
    return [by_class[i] for i in range(number)] if len(by_class) == number else list(range(number))


def _num_classes(cfg: CfgNode) -> int:
    kind = cfg.MODEL.META_ARCHITECTURE
    if kind == "RetinaNet":
        return cfg.MODEL.RETINANET.NUM_CLASSES
    return cfg.MODEL.ROI_HEADS.NUM_CLASSES if kind == "GeneralizedRCNN" else 0


def _metadata(cfg: CfgNode) -> Any:
    """Of the first test set, with its classes, which Detectron2 reads with its annotations."""
    name = cfg.DATASETS.TEST[0] if len(cfg.DATASETS.TEST) else ""
    if name not in DatasetCatalog:
        return {}
    metadata = MetadataCatalog.get(name)
    known = metadata.get("thing_classes") and metadata.get("thing_dataset_id_to_contiguous_id")
    if not known and os.path.isfile(metadata.get("json_file", "")):
        DatasetCatalog.get(name)
    return metadata
