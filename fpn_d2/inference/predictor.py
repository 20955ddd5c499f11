"""Images through a model, prepared as Detectron2's test loader prepares them.

Shape shorthand: an image of H x W pixels, R detections on it.
"""

import importlib.util
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.modeling import RetinaNet
from detectron2.structures import Boxes, Instances
from torch import nn
from torchvision.ops import nms

from ..checkpoint import load_model
from ..checkpoint.resume_point import checkpoints_in, newest_whole
from ..config import load_config
from ..data import build_test_resize
from ..utils.errors import UserError
from ..utils.model_zoo import close_zoo_names, zoo_config, zoo_names, zoo_weights
from .inputs import ImageInput, input_pixels, network_input
from .names import classes_of
from .prepared import PreparedModel, prepare_as_configured

# Proposals to show: their largest IoU with a better one, and their largest number.
_PROPOSAL_IOU, _MOST_PROPOSALS = 0.5, 20
# The most images that are in memory at once.
_MOST_TOGETHER = 8
# The meta-architectures whose outputs are supported here; a PanopticFPN's segments are not.
_NETWORKS = ("GeneralizedRCNN", "ProposalNetwork", "RetinaNet")

logger = logging.getLogger(__name__)


class Predictor(DefaultPredictor):
    """Detectron2's :class:`DefaultPredictor` on a checked checkpoint and a prepared model.

    The parent's constructor loads whatever a checkpoint happens to hold, so this one builds the
    same parts with :func:`fpn_d2.load_model`. ``class_names`` are the names of the model's classes;
    the log warns if they are a guess (:class:`fpn_d2.inference.Classes`).

    Neither class can run a Fast R-CNN on proposals from a file, since a new image has no proposals
    there. Take a Faster R-CNN, or give the network an RPN: ``MODEL.LOAD_PROPOSALS False
    MODEL.PROPOSAL_GENERATOR.NAME LeanRPN``, with weights that have one. To run it on proposals of
    your own, call the model itself with ``{"image": ..., "proposals": Instances}``.

    Examples:
        >>> predictor = Predictor.from_zoo("COCO-Detection/faster_rcnn_R_50_FPN_3x")
        >>> one, other = predictor(["street.jpg", cv2.imread("kitchen.jpg")])
        >>> [predictor.class_names[i] for i in one["instances"].pred_classes]
        ['person', 'bicycle']
    """

    def __init__(self, cfg: CfgNode, model: nn.Module | None = None):
        """
        Args:
            cfg: a config from :func:`fpn_d2.load_config`; ``cfg.INFERENCE`` says how the model is
                prepared.
            model: the config's model with its weights; None loads ``cfg.MODEL.WEIGHTS``.

        Raises:
            UserError: if there are no weights, the weights belong to another model, or the model
                needs proposals from a file.
        """
        if cfg.MODEL.LOAD_PROPOSALS:
            raise UserError(
                "this config is a Fast R-CNN on proposals from a file, which has none for a new "
                "image; take a Faster R-CNN config, or add MODEL.LOAD_PROPOSALS False "
                "MODEL.PROPOSAL_GENERATOR.NAME LeanRPN with weights that have an RPN"
            )
        self.cfg = cfg.clone()
        model = load_model(cfg) if model is None else model.eval()
        if cfg.INFERENCE.PREPARE and not isinstance(model, PreparedModel):
            model = prepare_as_configured(cfg, model)
        self.model = model
        classes = classes_of(cfg, getattr(model, "model", model))
        if classes.guess:
            logger.warning("%s", classes.guess)
        self.class_names = classes.names
        if len(cfg.DATASETS.TEST):
            self.metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
            if classes.names and self.metadata.get("thing_classes") != classes.names:
                self.metadata = Metadata(thing_classes=classes.names)
        self.aug = build_test_resize(cfg)
        self.input_format = cfg.INPUT.FORMAT

    @classmethod
    def from_zoo(cls, name: str, opts: Sequence[Any] = ()) -> "Predictor":
        """Load a trained model from Detectron2's model zoo, with the config of its training.

        Args:
            name: the entry's name, such as ``COCO-Detection/faster_rcnn_R_50_FPN_3x``, with or
                without ``.yaml``; docs/pretrained.md lists them.
            opts: overrides as ``[KEY, value, ...]``.

        Raises:
            UserError: if there is no such entry, it is of a kind that does not run here, or its
                weights cannot be downloaded.
        """
        why = why_not_in_zoo(name)
        if why:
            raise UserError(f"{name} {why}")
        return cls(load_config(name, ["MODEL.WEIGHTS", zoo_weights(name), *opts]))

    @classmethod
    def from_run(cls, folder: str | os.PathLike, opts: Sequence[Any] = ()) -> "Predictor":
        """Load the model that a training left in its ``OUTPUT_DIR``.

        The weights come from the first of these that exists: ``model_best.pth``,
        ``model_final.pth``, the last checkpoint that is whole. The device is this machine's.

        Args:
            folder: the ``OUTPUT_DIR``.
            opts: overrides as ``[KEY, value, ...]``; they may include ``MODEL.WEIGHTS``.

        Raises:
            UserError: if there is no ``config.yaml``, or neither checkpoint nor ``MODEL.WEIGHTS``.
        """
        folder = os.fspath(folder)
        config = os.path.join(folder, "config.yaml")
        found = checkpoints_in(folder)
        is_named = "MODEL.WEIGHTS" in opts[::2]
        if not (found or is_named) or not os.path.isfile(config):
            lacking = "checkpoint" if os.path.isfile(config) else "config.yaml"
            raise UserError(
                f"{folder} holds no {lacking}; name a folder that train_net.py has filled, such as "
                "output/demo"
            )
        own = ["MODEL.DEVICE", load_config().MODEL.DEVICE]
        if not is_named:
            ends = [os.path.join(folder, f"model_{which}.pth") for which in ("best", "final")]
            end = next((path for path in ends if path in found), "")
            own += ["MODEL.WEIGHTS", end or newest_whole(folder)]
        return cls(load_config(config, [*own, *opts]))

    def __call__(self, images: ImageInput | Sequence[ImageInput]) -> Any:
        """Run the model on an image or on a list of them.

        Up to 8 images whose network inputs have the same size run as one batch. Images of other
        sizes run separately: padding them to a common size would change the features.

        Args:
            images: an image in a form that :func:`fpn_d2.inference.inputs.input_pixels` takes,
                such as (H, W, 3) uint8 BGR or a path; or a list of images in any of these forms.

        Returns:
            for an image, a dict as from :meth:`DefaultPredictor.__call__`; for a list, a list.

        Raises:
            UserError: if an image has none of these forms.
        """
        if not isinstance(images, list | tuple):
            return self._run([self._record(images)])[0]
        outputs: list[Any] = []
        # Pillow decodes and resizes outside of Python's lock.
        with ThreadPoolExecutor(_MOST_TOGETHER) as pool:
            for start in range(0, len(images), _MOST_TOGETHER):
                part = images[start : start + _MOST_TOGETHER]
                made = {}
                for image in part:
                    if id(image) not in made:  # two threads cannot read one open file
                        made[id(image)] = pool.submit(self._record, image)
                records = []
                for number, image in enumerate(part, start):
                    try:
                        records.append(made[id(image)].result())
                    except UserError as error:
                        raise UserError(f"images[{number}]: {error}") from error
                outputs += self._run(records)
        return outputs

    def _record(self, image: ImageInput) -> dict[str, Any]:
        """Turn an image into a record that the model takes, resized as the config says."""
        pixels = input_pixels(image, self.input_format)
        height, width = pixels.shape[:2]
        return {"image": network_input(pixels, self.aug), "height": height, "width": width}

    @torch.no_grad()
    def _run(self, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the model's outputs for each record; records of one size run as a batch."""
        batches: dict[torch.Size, list[int]] = {}
        for number, record in enumerate(records):
            batches.setdefault(record["image"].shape, []).append(number)
        outputs: dict[int, dict[str, Any]] = {}
        for numbers in batches.values():
            found = self.model([records[number] for number in numbers])
            outputs.update(zip(numbers, found, strict=True))
        return [outputs[number] for number in range(len(records))]

    def detect(self, image: np.ndarray, *, threshold: float | Sequence[float] = 0.5) -> Instances:
        """Detect the objects of an image.

        Args:
            image: (H, W, 3) uint8, RGB, or anything else that a call takes for one image.
            threshold: the minimum score of a detection, 0 to 1; or one for each class.

        Returns:
            see :func:`detections_above`.

        Raises:
            UserError: for an image that the model cannot take, or thresholds that are not one for
                each class; and see :func:`detections_above`.
        """
        check_thresholds(threshold, len(self.class_names))
        # The call takes other arrays as they are: it refuses them, or they are grey.
        if isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] in (3, 4):
            image = np.ascontiguousarray(image[:, :, 2::-1])  # BGR; an alpha channel is dropped
        return detections_above(self(image), threshold)


def why_not_in_zoo(name: str) -> str:
    """Say why a model of the model zoo does not run here.

    Args:
        name: see :meth:`Predictor.from_zoo`.

    Returns:
        the end of a sentence that begins with the name; "" if the model runs.
    """
    if not zoo_weights(name):
        close = " or ".join(close_zoo_names(name))
        hint = f"did you mean {close}?" if close else f"name one, such as {zoo_names()[0]}"
        return f"is no entry of Detectron2's model zoo; {hint}"
    cfg = zoo_config(name)
    if cfg is None:
        return "has a LazyConfig in the model zoo; take an entry with a YAML config"
    if cfg.MODEL.LOAD_PROPOSALS:
        return "is a Fast R-CNN on proposals from a file; take a Faster R-CNN"
    if cfg.MODEL.META_ARCHITECTURE not in _NETWORKS:
        return f"is a {cfg.MODEL.META_ARCHITECTURE}, which does not run here; take a Mask R-CNN"
    compiled = importlib.util.find_spec("detectron2._C")
    if any(cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE) and not compiled:
        return "has deformable convolutions, which need Detectron2's compiled part; build it"
    return ""


def check_thresholds(threshold: float | Sequence[float], number: int) -> None:
    """Refuse thresholds of classes that are not one for each of a model's ``number`` classes."""
    if isinstance(threshold, Sequence) and len(threshold) != number:
        raise UserError(
            f"{len(threshold)} thresholds are given, and the model has {number or 'no'} classes; "
            "give one for each, or a number for all"
        )


def detections_above(predictions: dict[str, Any], threshold: float | Sequence[float]) -> Instances:
    """Turn a model's output for an image into detections.

    Proposals come by the thousand and on top of each other. Of boxes or masks without classes,
    NMS at an IoU of 0.5 therefore keeps the best 20 at most.

    Args:
        predictions: a model's output for one image.
        threshold: the minimum score of a detection, 0 to 1; or one for each class.

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


def _box_predictor(model: nn.Module) -> nn.Module | None:
    head = getattr(getattr(model, "roi_heads", None), "box_predictor", None)
    return head[-1] if isinstance(head, nn.ModuleList) else head  # the last stage of a cascade


def set_final_nms(model: nn.Module, iou: float, most: int | None = None) -> None:
    """Change a detector's last NMS, which decides between boxes that overlap, in place.

    Args:
        model: a detector of Detectron2's form, prepared or not. One that ends in no NMS, such as a
            network of mask proposals, stays as it is.
        iou: the IoU above which the worse of two boxes is dropped, 0 to 1.
        most: the maximum number of boxes kept per image; None leaves it as it is.
    """
    model = model.model if isinstance(model, PreparedModel) else model
    head = _box_predictor(model)
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
    """Change in place the minimum score that a box needs to enter a detector's last NMS.

    Args:
        model: a detector of Detectron2's form, prepared or not.
        threshold: the minimum score, 0 to 1; or one for each class, which stay on the model's
            device: move the model before this call.

    Raises:
        UserError: for a model without classes, or thresholds that are not one for each.
    """
    model = model.model if isinstance(model, PreparedModel) else model
    head = model if isinstance(model, RetinaNet) else _box_predictor(model)
    if not hasattr(head, "test_score_thresh"):
        raise UserError(
            f"a {type(model).__name__} has no classes with scores; leave --confidence-threshold out"
        )
    each = isinstance(threshold, Sequence)
    if each:
        check_thresholds(threshold, head.num_classes)
    device = next(model.parameters()).device
    head.test_score_thresh = torch.tensor(threshold, device=device) if each else threshold
