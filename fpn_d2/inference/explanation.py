"""What a pyramid does with an image: Eq. 1's levels, feature maps, anchors, proposals.

Shape shorthand: an image of H x W pixels, R detections, A anchors, G objects, K proposals of a
level; a level's map is h x w cells, those on the padding below and beside the image left out.

    merged     the sum of the lateral and the upsampled coarser level, before the 3x3 (Sec. 3)
    output     after the 3x3: P2 to P6, what the heads read
    lateral    the 1x1 of the bottom-up stage alone, without the top-down path
"""

import contextlib
import dataclasses
import math
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import FPN
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor, nn

from ..modeling import levels_of_boxes
from .listening import Listener
from .predictor import Predictor, detections_above
from .prepared import PreparedModel

__all__ = ["AnchorMatches", "Explainer", "Explanation", "Proposals"]

# IoUs of objects with anchors that are computed at once.
_MAX_PAIRS = 1 << 24


@dataclasses.dataclass(frozen=True)
class Proposals:
    """The RPN's best boxes of one level, after NMS.

    Args:
        boxes: (K, 4), x0 y0 x1 y1 in pixels of the image, best first.
        scores: (K,), the probability of an object.
    """

    boxes: np.ndarray
    scores: np.ndarray


@dataclasses.dataclass(frozen=True)
class AnchorMatches:
    """The anchors that would learn an object, and which, by Detectron2's matcher.

    Args:
        boxes: (A, 4), x0 y0 x1 y1 in pixels of the image.
        levels: A names of features, such as ``"p2"``.
        objects: (A,), the index of the object.
        ious: (A,), IoU with it. Below the threshold only where no anchor of the object is above it.
        targets: (G, 4), the objects, x0 y0 x1 y1 in pixels of the image.
        threshold: the IoU from which an anchor matches.
        to_ground_truth: whether the objects were given; else they are the detections.
    """

    boxes: np.ndarray
    levels: tuple[str, ...]
    objects: np.ndarray
    ious: np.ndarray
    targets: np.ndarray
    threshold: float
    to_ground_truth: bool


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What there is to see of one image; see the module.

    Args:
        image: (H, W, 3) uint8, RGB.
        detections: see :meth:`Predictor.detect`; with RoI heads also ``roi_boxes``, the RoI that
            each was read from, in pixels of the network input.
        levels: (R,) int, the level that Eq. 1 chose for each detection's RoI.
        level_range: the finest and the coarsest level that Eq. 1 can choose.
        canonical_size, canonical_level: Eq. 1's constants that were in force; the size is in
            pixels of the network input.
        input_scale: how much larger the network input is than the image.
        features: ``"lateral"``, ``"merged"`` and ``"output"``, of what the model has, to the
            feature's name, fine to coarse, to (h, w) float32: the mean over the channels of the
            absolute activation.
        strides: pixels of the network input per cell, by the feature's name.
        proposals: by the feature's name, fine to coarse; empty for a model without RPN.
        anchors: None for a model without anchors.
        notes: a sentence for each thing that this model does not have.
    """

    image: np.ndarray
    detections: Instances
    levels: np.ndarray
    level_range: tuple[int, int]
    canonical_size: float
    canonical_level: int
    input_scale: float
    features: dict[str, dict[str, np.ndarray]]
    strides: dict[str, int]
    proposals: dict[str, Proposals]
    anchors: AnchorMatches | None
    notes: tuple[str, ...]


class Explainer:
    """Explains images with one model; takes every detector of this package and plain Detectron2's.

    Calls from several threads run one after the other.

    Examples:
        >>> explainer = Explainer(load_config("configs/quick/demo.yaml", ["MODEL.WEIGHTS", path]))
        >>> explanation = explainer.explain(image)
        >>> explanation.levels, list(explanation.features["output"])
        (array([3, 2]), ['p2', 'p3', 'p4', 'p5', 'p6'])
    """

    def __init__(self, cfg: CfgNode, model: nn.Module | None = None):
        """
        Args:
            cfg, model: see :class:`Predictor`.

        Raises:
            UserError: see :class:`Predictor`.
        """
        self.cfg = cfg
        self.predictor = Predictor(cfg, model)
        model = self.predictor.model
        self.model = model.model if isinstance(model, PreparedModel) else model
        self._lock = threading.Lock()

    def explain(
        self,
        image: np.ndarray,
        *,
        threshold: float = 0.5,
        canonical_size: float | None = None,
        canonical_level: int | None = None,
        ground_truth: np.ndarray | None = None,
        proposals_per_level: int = 50,
    ) -> Explanation:
        """Detect, and keep what was on the way.

        Args:
            image: (H, W, 3) uint8, RGB.
            threshold: the least score of a detection, 0 to 1.
            canonical_size, canonical_level: Eq. 1's constants, in pixels of the network input and
                as a level; RoIs are pooled by them too. None is the model's own.
            ground_truth: (G, 4), x0 y0 x1 y1 in pixels of the image: what anchors are matched to;
                None is the detections.
            proposals_per_level: how many of a level's best proposals are kept.

        Raises:
            UserError: see :meth:`Predictor.detect`.
        """
        pooler = box_pooler(self.model)
        with self._lock, _eq1(pooler, canonical_size, canonical_level), torch.no_grad():
            with Listener(self.model).listening() as heard:
                predictions = self.predictor(np.ascontiguousarray(image[:, :, ::-1]))
            detections = detections_above(predictions, threshold)
            size, level, level_range = self._eq1_constants(canonical_size, canonical_level)
        scale = heard.input_size[1] / image.shape[1]
        to_image = np.array([1 / scale, image.shape[0] / heard.input_size[0]] * 2)
        if detections.has("roi_boxes"):
            rois = detections.roi_boxes
        else:
            rois = Boxes(detections.pred_boxes.tensor / torch.from_numpy(to_image).float())
        levels = levels_of_boxes(rois.tensor, *level_range, size, level)
        targets = detections.pred_boxes.tensor.numpy() if ground_truth is None else ground_truth
        return Explanation(
            image=image,
            detections=detections,
            levels=levels.numpy(),
            level_range=level_range,
            canonical_size=size,
            canonical_level=level,
            input_scale=scale,
            features=heard.features,
            strides=heard.strides,
            proposals={
                name: Proposals(
                    found.proposal_boxes.tensor[:proposals_per_level].cpu().numpy() * to_image,
                    found.objectness_logits[:proposals_per_level].sigmoid().cpu().numpy(),
                )
                for name, found in heard.proposals.items()
            },
            anchors=self._matches(heard.anchors, targets, to_image, ground_truth is not None),
            notes=tuple(self._notes(heard)),
        )

    def _eq1_constants(
        self, size: float | None, level: int | None
    ) -> tuple[float, int, tuple[int, int]]:
        """224, k0 and the range of levels: the pooler's, or without one the config's."""
        pooler, box = box_pooler(self.model), self.cfg.MODEL.ROI_BOX_HEAD
        if pooler is not None:
            levels = int(pooler.min_level), int(pooler.max_level)
            return pooler.canonical_box_size, pooler.canonical_level, levels
        strides = [shape.stride for shape in self.model.backbone.output_shape().values()]
        levels = [int(math.log2(stride)) for stride in strides]
        levels = [k for k in levels if k <= 5] or levels  # P6 is no RoI's (Sec. 4.2)
        return (
            box.POOLER_CANONICAL_SIZE if size is None else size,
            box.POOLER_CANONICAL_LEVEL if level is None else level,
            (min(levels), max(levels)),
        )

    def _matches(
        self,
        anchors: dict[str, Boxes],
        targets: np.ndarray,
        to_image: np.ndarray,
        to_ground_truth: bool,
    ) -> AnchorMatches | None:
        matcher = _anchor_matcher(self.model)
        if matcher is None or not anchors:
            return None
        targets = np.asarray(targets, dtype=np.float32).reshape(-1, 4)
        all_anchors = Boxes.cat(list(anchors.values()))
        names = np.repeat(list(anchors), [len(boxes) for boxes in anchors.values()])
        objects = Boxes(torch.from_numpy(targets / to_image).to(all_anchors.tensor))
        best, owner = _match(all_anchors, objects, matcher)
        chosen = (owner >= 0).nonzero().squeeze(1).cpu()
        return AnchorMatches(
            boxes=all_anchors.tensor.cpu()[chosen].numpy() * to_image,
            levels=tuple(names[chosen.numpy()].tolist()),
            objects=owner.cpu()[chosen].numpy(),
            ious=best.cpu()[chosen].numpy(),
            targets=targets,
            threshold=matcher.thresholds[-2],  # the last is infinity
            to_ground_truth=to_ground_truth,
        )

    def _notes(self, heard: Any) -> Iterator[str]:
        pooler = box_pooler(self.model)
        neck = find_neck(self.model)
        if pooler is None:
            yield "No RoI head: the levels are those that Eq. 1 would choose for these boxes."
        elif pooler.min_level == pooler.max_level:
            yield f"RoIs are pooled from level {pooler.min_level} alone; Eq. 1 chooses nothing."
        if neck is None:
            yield f"No pyramid: the model reads {', '.join(heard.strides)} alone."
        elif not heard.features:
            yield "No map at the network input's own size: the model sees an image pyramid."
        elif not getattr(neck, "top_down", True):
            yield "No top-down path: before the 3x3, a level is its lateral."
        elif not getattr(neck, "lateral", True):
            yield "No lateral connections: every level is the coarsest one, upsampled."
        if not heard.proposals:
            yield "No RPN: there are no proposals of a level."
        if not heard.anchors:
            yield "No anchors are matched by IoU in this model."


def box_pooler(model: nn.Module) -> nn.Module | None:
    """The pooler that Eq. 1 decides for, or None in a model without RoI heads."""
    heads = getattr(model, "roi_heads", None)
    return getattr(heads, "box_pooler", None) or getattr(heads, "pooler", None)


def find_neck(model: nn.Module) -> FPN | None:
    """The pyramid of a model, or None."""
    return next((module for module in model.modules() if isinstance(module, FPN)), None)


def _anchor_matcher(model: nn.Module) -> Any:
    generator = getattr(model, "proposal_generator", None)
    return getattr(generator, "anchor_matcher", None) or getattr(model, "anchor_matcher", None)


@contextlib.contextmanager
def _eq1(pooler: nn.Module | None, size: float | None, level: int | None) -> Iterator[None]:
    """Let a pooler work with other constants for a while."""
    if pooler is None:
        yield
        return
    own = pooler.canonical_box_size, pooler.canonical_level
    pooler.canonical_box_size = own[0] if size is None else size
    pooler.canonical_level = own[1] if level is None else level
    try:
        yield
    finally:
        pooler.canonical_box_size, pooler.canonical_level = own


def _match(anchors: Boxes, objects: Boxes, matcher: Any) -> tuple[Tensor, Tensor]:
    """The IoU (A,) of each anchor with its object, and the object's index (A,), -1 for none.

    Some objects after the others, since a thousand of them with a million anchors are 4 GB.
    """
    best = torch.zeros(len(anchors), device=anchors.device)
    owner = torch.full((len(anchors),), -1, device=anchors.device)
    at_once = max(1, _MAX_PAIRS // max(1, len(anchors)))
    for first in range(0, len(objects), at_once):
        ious = pairwise_iou(objects[first : first + at_once], anchors)
        # Of an object that touches no anchor, the matcher takes all that touch none for the best.
        touched = (ious > 0).any(dim=1).nonzero().squeeze(1)
        if not len(touched):
            continue
        ious = ious[touched]
        matched, labels = matcher(ious)
        iou = ious.gather(0, matched[None])[0]
        better = (labels == 1) & ((iou > best) | (owner < 0))
        best = torch.where(better, iou, best)
        owner = torch.where(better, touched[matched] + first, owner)
    return best, owner
