"""One image through a model, by Detectron2's own path; the names of models and of their classes.

Shape shorthand: an image of H x W pixels, R detections on it.
"""

import logging
import operator
import os
import re
from collections.abc import Container, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.engine import DefaultPredictor
from detectron2.modeling import RetinaNet
from detectron2.structures import Boxes, Instances
from PIL import Image
from torch import nn
from torchvision.ops import nms

from ..checkpoint import load_model
from ..config_checks import class_head_key
from ..data import build_test_resize
from ..utils.errors import UserError
from .prepared import PreparedModel, prepare_model

# Proposals to show: boxes that overlap no better one by more than this IoU, and so many at most.
_PROPOSAL_IOU, _MOST_PROPOSALS = 0.5, 20

logger = logging.getLogger(__name__)


class Predictor(DefaultPredictor):
    """Detectron2's :class:`DefaultPredictor` on a checked checkpoint and a prepared model.

    The constructor of the parent loads whatever a checkpoint happens to hold, so this one puts
    together the same parts with :func:`fpn_d2.load_model`. The call is inherited.

    Neither class can run a Fast R-CNN on proposals from a file, since a new image has no proposals
    there. Take a Faster R-CNN, or give the network an RPN: ``MODEL.LOAD_PROPOSALS False
    MODEL.PROPOSAL_GENERATOR.NAME LeanRPN``, with weights that have one. To run it on proposals of
    your own, call the model itself with ``{"image": ..., "proposals": Instances}``.

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
            UserError: where there are no weights, the weights are those of another model, or the
                model needs proposals from a file.
        """
        if cfg.MODEL.LOAD_PROPOSALS:
            raise UserError(
                "this config is a Fast R-CNN on proposals from a file, which has none for a new "
                "image; take a Faster R-CNN config, or add MODEL.LOAD_PROPOSALS False "
                "MODEL.PROPOSAL_GENERATOR.NAME LeanRPN with weights that have an RPN"
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
        """See :meth:`DefaultPredictor.__call__`; the image is BGR, whatever ``INPUT.FORMAT`` is.

        Raises:
            UserError: where resizing would leave no pixel of the image.
        """
        if self.input_format not in ("BGR", "RGB"):
            picture = Image.fromarray(np.ascontiguousarray(original_image[:, :, ::-1]))
            original_image = convert_PIL_to_numpy(picture, self.input_format)
        resize = self.aug.get_transform(original_image)
        if 0 in (getattr(resize, "new_h", 1), getattr(resize, "new_w", 1)):
            height, width = original_image.shape[:2]
            raise UserError(
                f"an image of {width} x {height} pixels is too narrow for INPUT.MAX_SIZE_TEST "
                f"{self.cfg.INPUT.MAX_SIZE_TEST}, which leaves no pixel across; crop it"
            )
        return super().__call__(original_image)

    def detect(self, image: np.ndarray, *, threshold: float | Sequence[float] = 0.5) -> Instances:
        """Detect the objects of an image.

        Args:
            image: (H, W, 3) uint8, RGB.
            threshold: the least score of a detection, 0 to 1; or that of each class.

        Returns:
            see :func:`detections_above`.

        Raises:
            UserError: for an image that the model cannot take, or a model that finds no objects.
        """
        return detections_above(self(np.ascontiguousarray(image[:, :, ::-1])), threshold)


def detections_above(predictions: dict[str, Any], threshold: float | Sequence[float]) -> Instances:
    """Turn what a model returned for an image into detections.

    Proposals come by the thousand and on top of each other. Of boxes or masks without classes,
    only the best 20 are kept whose boxes overlap no better one by more than an IoU of 0.5.

    Args:
        predictions: a model's output for one image.
        threshold: the least score of a detection, 0 to 1; or that of each class.

    Returns:
        R detections on the CPU, best first, in pixels of the image: ``pred_boxes``, ``scores``
        and, where the model has them, ``pred_classes`` and ``pred_masks``. An RPN's proposals have
        the probability of an object as their score.

    Raises:
        UserError: for a model that returns neither detections nor proposals.
    """
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
    if isinstance(threshold, Sequence):
        threshold = found.scores.new_tensor(threshold)[found.pred_classes]
    found = found[found.scores >= threshold]
    found = found[torch.argsort(found.scores, descending=True, stable=True)]
    if found.has("pred_classes"):
        return found
    return found[nms(found.pred_boxes.tensor, found.scores, _PROPOSAL_IOU)[:_MOST_PROPOSALS]]


def set_final_nms(model: nn.Module, iou: float, most: int | None = None) -> None:
    """Change the last NMS of a detector in place, which decides between boxes that overlap.

    Args:
        model: a detector of Detectron2's form, not a :class:`PreparedModel`. One that ends in no
            NMS, such as a network of mask proposals, stays as it is.
        iou: the IoU above which the worse of two boxes is dropped, 0 to 1.
        most: how many boxes of an image are kept; None leaves that number as it is.
    """
    head = getattr(getattr(model, "roi_heads", None), "box_predictor", None)
    head = head[-1] if isinstance(head, nn.ModuleList) else head  # the last stage of a cascade
    rpn = getattr(model, "proposal_generator", None)
    if hasattr(head, "test_nms_thresh"):
        head.test_nms_thresh = iou
        head.test_topk_per_image = head.test_topk_per_image if most is None else most
    elif isinstance(model, RetinaNet):
        model.test_nms_thresh = iou
        model.max_detections_per_image = model.max_detections_per_image if most is None else most
    elif hasattr(rpn, "nms_thresh"):
        rpn.nms_thresh = iou
        if most is not None:
            rpn.post_nms_topk = {**rpn.post_nms_topk, False: most}


def set_score_threshold(model: nn.Module, threshold: float | Sequence[float]) -> None:
    """Change the least score of a detector's detections in place, before its last NMS.

    Args:
        model: a detector of Detectron2's form, not a :class:`PreparedModel`.
        threshold: 0 to 1; or that of each class.

    Raises:
        UserError: for a model without classes.
    """
    head = getattr(getattr(model, "roi_heads", None), "box_predictor", None)
    head = head[-1] if isinstance(head, nn.ModuleList) else head  # the last stage of a cascade
    head = model if isinstance(model, RetinaNet) else head
    if not hasattr(head, "test_score_thresh"):
        raise UserError(
            f"a {type(model).__name__} has no classes with scores; leave --confidence-threshold out"
        )
    each = isinstance(threshold, Sequence)
    head.test_score_thresh = torch.tensor(threshold) if each else threshold


# --- names


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


def free_title(config: str, taken: Container[str]) -> str:
    """Return the config's file name as a title, numbered if another model has that title."""
    name = title = os.path.splitext(os.path.basename(config))[0]
    number = 1
    while title in taken:
        number += 1
        title = f"{name} ({number})"
    return title


def class_names(cfg: CfgNode) -> list[str]:
    """Return the names of a config's classes, as its first test set has them.

    Args:
        cfg: a config from :func:`fpn_d2.load_config`. Without a test set, its first training set
            names the classes.

    Returns:
        a name for each class: ``class 0`` and so on where the data set is not known, cannot be
        read or has other classes; none for a model without classes.
    """
    number = _num_classes(cfg)
    names = list(_metadata(cfg).get("thing_classes", ()))
    return names if len(names) == number else [f"class {i}" for i in range(number)]


def dataset_category_ids(cfg: CfgNode) -> list[int]:
    """Return the category id that each class has in the annotations; see :func:`class_names`.

    Returns:
        an id for each class, counted from 0 where the data set is not known, cannot be read or has
        other classes; [1] for a model without classes, whose objects are all of one kind.
    """
    number = _num_classes(cfg)
    if not number:
        return [1]
    ids = _metadata(cfg).get("thing_dataset_id_to_contiguous_id", {})
    by_class = {contiguous: dataset_id for dataset_id, contiguous in ids.items()}
    return [by_class[i] for i in range(number)] if len(by_class) == number else list(range(number))


def _num_classes(cfg: CfgNode) -> int:
    key = class_head_key(cfg)
    return operator.attrgetter(key)(cfg) if key else 0


def _metadata(cfg: CfgNode) -> Any:
    """Return the metadata of the data set that names the classes, or an empty dict."""
    datasets = cfg.DATASETS.TEST or cfg.DATASETS.TRAIN
    if not datasets:
        return {}
    metadata = MetadataCatalog.get(datasets[0])
    names, json_file = metadata.get("thing_classes"), metadata.get("json_file", "")
    known = names and metadata.get("thing_dataset_id_to_contiguous_id")
    is_there = os.path.isfile(json_file) if json_file else not names
    if datasets[0] in DatasetCatalog and is_there and not known:
        try:  # Detectron2 knows the classes of a COCO data set once it is read
            DatasetCatalog.get(datasets[0])
        except (OSError, ValueError, KeyError) as error:
            logger.warning(
                "data set %s cannot be read, so its classes have numbers for names: %r",
                datasets[0],
                error,
            )
    return metadata
