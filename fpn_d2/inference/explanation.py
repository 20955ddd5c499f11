"""What a pyramid does with an image: Eq. 1's levels, feature maps, anchors, proposals.

Shape shorthand: an image of H x W pixels, R detections, A anchors, G objects, K proposals of a
level. The map of a level has h x w cells, without those on the padding right of and below the
image.

    merged     the sum of the lateral and the upsampled coarser level, before the 3x3 (Sec. 3)
    output     after the 3x3: P2 to P6, which the heads read
    lateral    the 1x1 of the bottom-up stage alone, without the top-down path
"""

import contextlib
import dataclasses
import functools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import FPN
from detectron2.modeling.proposal_generator.rpn import RPN
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from ..config_checks import rotated_key
from ..config_values import value_of
from ..modeling import levels_of_boxes, match_anchors
from ..utils.errors import UserError
from ..utils.modules import overridden
from .predictor import Predictor, check_thresholds, detections_above
from .prepared import PreparedModel


@dataclasses.dataclass(frozen=True)
class Proposals:
    """The RPN's best boxes of one level, after NMS, best first."""

    boxes: np.ndarray  # (K, 4), x0 y0 x1 y1 in pixels of the image
    scores: np.ndarray  # (K,), the probability that the box holds an object, 0 to 1


@dataclasses.dataclass(frozen=True)
class AnchorMatches:
    """The anchors that Detectron2's matcher makes positive, and the object that each would learn.

    Args:
        boxes: (A, 4), x0 y0 x1 y1 in pixels of the image.
        levels: the feature of each anchor, such as ``"p2"``; A names.
        objects: (A,), the index of the anchor's object.
        ious: (A,), the IoU with that object; below the threshold only if no anchor overlaps the
            object more.
        targets: (G, 4), the objects, x0 y0 x1 y1 in pixels of the image.
        threshold: the minimum IoU of a match, 0 to 1.
        to_ground_truth: whether the objects were given; otherwise they are the detections.
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
    """Everything recorded for one image; the module's docstring defines the terms.

    Args:
        image: (H, W, 3) uint8, RGB.
        detections: see :meth:`Predictor.detect`. With RoI heads they also have ``roi_boxes``, the
            RoI from which each detection was read, in pixels of the network input.
        levels: (R,) int, the level that Eq. 1 chose for each detection's RoI; without
            ``roi_boxes``, as of a cascade, the one that it would choose for the box.
        level_range: the finest and the coarsest level that Eq. 1 can choose.
        canonical_size, canonical_level: Eq. 1's constants in use, a size in pixels of the network
            input and k0; 224 and 4 in the paper.
        input_scale: the width of the network input divided by that of the image.
        features: the mean over the channels of the absolute activation, (h, w) float32, by kind
            (``"lateral"``, ``"merged"`` and ``"output"``, where the model has them) and then by
            the feature's name, fine to coarse.
        strides: pixels of the network input per cell, by the feature's name.
        proposals: by the feature's name, fine to coarse; empty for a model without an RPN.
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

    @property
    def counts(self) -> dict[int, int]:
        """The number of detections on each level that Eq. 1 can choose, fine to coarse."""
        low, high = self.level_range
        return {k: int((self.levels == k).sum()) for k in range(low, high + 1)}


class Explainer:
    """Explains images with one model: any detector of this package or of plain Detectron2.

    Calls from several threads run one after the other. A model that another thread predicts with
    needs a copy: what that computes meanwhile would be recorded, too.

    Examples:
        >>> explainer = Explainer(load_config("configs/quick/demo.yaml", ["MODEL.WEIGHTS", path]))
        >>> explanation = explainer.explain(image)
        >>> explanation.levels, list(explanation.features["output"])
        (array([3, 2]), ['p2', 'p3', 'p4', 'p5', 'p6'])
    """

    _lock = threading.Lock()  # of all explainers: set_stance is for the whole process

    def __init__(self, cfg: CfgNode, model: nn.Module | None = None):
        """See :class:`Predictor`.

        Raises:
            UserError: also for a model of rotated boxes.
        """
        key = rotated_key(cfg)
        if key:  # the demo and the page show and write what this finds
            raise UserError(
                f"{key} {value_of(cfg, key)} finds rotated boxes, and only upright ones are shown "
                "and written here: call fpn_d2.Predictor, whose outputs are Detectron2's"
            )
        self.cfg = cfg
        self.predictor = Predictor(cfg, model)
        model = self.predictor.model
        self.model = model.model if isinstance(model, PreparedModel) else model

    def explain(
        self,
        image: np.ndarray,
        *,
        threshold: float | Sequence[float] = 0.5,
        canonical_size: float | None = None,
        canonical_level: int | None = None,
        ground_truth: np.ndarray | None = None,
        proposals_per_level: int = 50,
    ) -> Explanation:
        """Detect objects, and record what the model did on the way to them.

        The model runs without ``torch.compile``, even with ``INFERENCE.COMPILE True``: a compiled
        backbone calls no hooks, and the maps are recorded by hooks. With OpenVINO the maps within
        the pyramid come from a second run of the backbone, by PyTorch.

        Args:
            image: (H, W, 3) uint8, RGB.
            threshold: the minimum score of a detection, 0 to 1; or one for each class.
            canonical_size, canonical_level: Eq. 1's constants, a size in pixels of the network
                input and a level, also for the pooling of RoIs; None keeps the model's own.
            ground_truth: (G, 4), the objects to match anchors to, x0 y0 x1 y1 in pixels of the
                image; None takes the detections.
            proposals_per_level: how many of each level's best proposals are kept.

        Raises:
            UserError: see :meth:`Predictor.detect`.
        """
        check_thresholds(threshold, len(self.predictor.class_names))
        pooler, record = box_pooler(self.model), _Record(self.model)
        with self._lock, torch.no_grad(), torch.compiler.set_stance("force_eager"):
            size, level, level_range = self._eq1_constants(canonical_size, canonical_level)
            eq1 = overridden(pooler, canonical_box_size=size, canonical_level=level)
            with eq1, record.recording():
                predictions = self.predictor(np.ascontiguousarray(image[:, :, ::-1]))
        detections = detections_above(predictions, threshold)
        scale = record.input_size[1] / image.shape[1]
        to_image = np.array([1 / scale, image.shape[0] / record.input_size[0]] * 2)
        boxes = detections.pred_boxes.tensor
        if detections.has("roi_boxes"):
            rois = detections.roi_boxes.tensor
        else:
            rois = boxes / torch.from_numpy(to_image).float()
        return Explanation(
            image=image,
            detections=detections,
            levels=levels_of_boxes(rois, *level_range, size, level).numpy(),
            level_range=level_range,
            canonical_size=size,
            canonical_level=level,
            input_scale=scale,
            features=record.features,
            strides=record.strides,
            proposals={
                name: Proposals(
                    found.proposal_boxes.tensor[:proposals_per_level].cpu().numpy() * to_image,
                    found.objectness_logits[:proposals_per_level].sigmoid().cpu().numpy(),
                )
                for name, found in record.proposals.items()
            },
            anchors=self._matches(record.anchors, boxes.numpy(), ground_truth, to_image),
            notes=tuple(self._notes(record, of_rois=detections.has("roi_boxes"))),
        )

    def _eq1_constants(
        self, size: float | None, level: int | None
    ) -> tuple[float, int, tuple[int, int]]:
        """Return Eq. 1's size, k0 and range of levels; what is not given is the model's own."""
        pooler, box = box_pooler(self.model), self.cfg.MODEL.ROI_BOX_HEAD
        if pooler is not None:
            own = pooler.canonical_box_size, pooler.canonical_level
            levels = [int(pooler.min_level), int(pooler.max_level)]
        else:
            own = box.POOLER_CANONICAL_SIZE, box.POOLER_CANONICAL_LEVEL
            shapes = self.model.backbone.output_shape().values()
            levels = [int(math.log2(shape.stride)) for shape in shapes]
            levels = [k for k in levels if k <= 5] or levels  # no RoI is pooled from P6 (Sec. 4.2)
        size, level = own[0] if size is None else size, own[1] if level is None else level
        return size, level, (min(levels), max(levels))

    def _matches(
        self,
        anchors: dict[str, Boxes],
        detected: np.ndarray,
        ground_truth: np.ndarray | None,
        to_image: np.ndarray,
    ) -> AnchorMatches | None:
        """Match the anchors of each feature to the given objects, or else to the detections."""
        owner = getattr(self.model, "proposal_generator", None) or self.model
        matcher = getattr(owner, "anchor_matcher", None)
        if matcher is None or not anchors:
            return None
        targets = detected if ground_truth is None else ground_truth
        targets = np.asarray(targets, dtype=np.float32).reshape(-1, 4)
        all_anchors = Boxes.cat(list(anchors.values()))
        names = np.repeat(list(anchors), [len(boxes) for boxes in anchors.values()])
        objects = Boxes(torch.from_numpy(targets / to_image).to(all_anchors.tensor))
        owners, labels, ious = match_anchors(all_anchors, objects, matcher, skip_untouched=True)
        chosen = labels == 1
        return AnchorMatches(
            boxes=all_anchors.tensor[chosen].cpu().numpy() * to_image,
            levels=tuple(names[chosen.cpu().numpy()].tolist()),
            objects=owners[chosen].cpu().numpy(),
            ious=ious[chosen].cpu().numpy(),
            targets=targets,
            threshold=matcher.thresholds[-2],  # the last one is infinity
            to_ground_truth=ground_truth is not None,
        )

    def _notes(self, record: "_Record", of_rois: bool) -> Iterator[str]:
        pooler = box_pooler(self.model)
        neck = next((module for module in self.model.modules() if isinstance(module, FPN)), None)
        if pooler is None:
            yield "No RoI head: the levels are those that Eq. 1 would choose for these boxes."
        elif pooler.min_level == pooler.max_level:
            yield f"RoIs are pooled from level {pooler.min_level} alone; Eq. 1 chooses nothing."
        elif not of_rois:  # as of a cascade
            yield "The levels are those of the boxes: this head does not tell the RoIs of them."
        if neck is None:
            yield f"No pyramid: the model reads {', '.join(record.strides)} alone."
        elif not record.features:
            yield "No map at the network input's own size: the model sees an image pyramid."
        elif not getattr(neck, "top_down", True):
            yield "No top-down path: before the 3x3, a level is its lateral."
        elif not getattr(neck, "lateral", True):
            yield "No lateral connections: every level is the coarsest one, upsampled."
        if not record.proposals:
            yield "No RPN: there are no proposals of a level."
        if not record.anchors:
            yield "No anchors are matched by IoU in this model."


def box_pooler(model: nn.Module) -> nn.Module | None:
    """Return the pooler that pools RoIs by Eq. 1, or None for a model without RoI heads."""
    heads = getattr(model, "roi_heads", None)
    return getattr(heads, "box_pooler", None) or getattr(heads, "pooler", None)


class _Record:
    """The data that pass through a model's parts while it runs on one image, caught by hooks."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.input_size = (0, 0)  # height and width of the network input before padding, in pixels
        self.features: dict[str, dict[str, np.ndarray]] = {}  # see Explanation
        self.strides: dict[str, int] = {}
        self.anchors: dict[str, Boxes] = {}
        self.proposals: dict[str, Instances] = {}
        self._is_at_input_size = False

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record while the model is called on one image."""
        rpn = getattr(self.model, "proposal_generator", None)
        box_head = getattr(getattr(self.model, "roi_heads", None), "box_predictor", None)
        with contextlib.ExitStack() as stack:
            for handle in self._hooks():
                stack.callback(handle.remove)
            if isinstance(rpn, RPN):
                stack.enter_context(overridden(rpn, predict_proposals=self._by_level(rpn)))
            if isinstance(box_head, FastRCNNOutputLayers):
                stack.enter_context(overridden(box_head, inference=_with_rois(box_head)))
            yield
        # fine to coarse, whatever the order of the calls
        self.strides = dict(sorted(self.strides.items(), key=lambda item: item[1]))
        self.features = {
            kind: {name: maps[name] for name in self.strides if name in maps}
            for kind in ("lateral", "merged", "output")
            if (maps := self.features.get(kind))
        }

    def _hooks(self) -> Iterator[Any]:
        """Register the hooks; yields their handles."""
        backbone = self.model.backbone
        yield self.model.register_forward_pre_hook(self._take_input_size)
        yield backbone.register_forward_pre_hook(self._compare_size)
        yield backbone.register_forward_hook(self._take_outputs)
        for neck in (module for module in self.model.modules() if isinstance(module, FPN)):
            shapes = neck.bottom_up.output_shape()
            strides = [shapes[name].stride for name in reversed(neck.in_features)]
            for stride, lateral, output in zip(
                strides, neck.lateral_convs, neck.output_convs, strict=True
            ):
                # An identity stands for a convolution that is not built.
                take = functools.partial(self._take, f"p{int(math.log2(stride))}", stride)
                if not isinstance(lateral, nn.Identity):
                    yield lateral.register_forward_hook(
                        lambda module, args, x, take=take: take("lateral", x)
                    )
                if not isinstance(output, nn.Identity):
                    yield output.register_forward_pre_hook(
                        lambda module, args, take=take: take("merged", args[0])
                    )
        owner = getattr(self.model, "proposal_generator", None) or self.model
        names = getattr(owner, "in_features", None) or getattr(owner, "head_in_features", None)
        if hasattr(owner, "anchor_generator"):
            yield owner.anchor_generator.register_forward_hook(
                lambda module, args, boxes: self.anchors.update(zip(names, boxes, strict=True))
            )

    def _take(self, name: str, stride: int, kind: str, feature: Tensor) -> None:
        if not self._is_at_input_size:
            return
        height, width = (math.ceil(side / stride) for side in self.input_size)
        activation = feature[0].detach().float().abs().mean(dim=0)[:height, :width]
        self.features.setdefault(kind, {})[name] = activation.cpu().numpy()
        self.strides[name] = stride

    def _take_input_size(self, model: nn.Module, args: tuple[list[dict]]) -> None:
        self.input_size = tuple(args[0][0]["image"].shape[-2:])

    def _compare_size(self, backbone: nn.Module, args: tuple[Tensor]) -> None:
        # The baseline of Sec. 6 runs its backbone once for each size of an image pyramid.
        padding = backbone.size_divisibility, 0.0, backbone.padding_constraints
        padded = ImageList.from_tensors([torch.empty(1, *self.input_size)], *padding).tensor
        self._is_at_input_size = args[0].shape[-2:] == padded.shape[-2:]

    def _take_outputs(self, backbone: nn.Module, args: Any, features: dict[str, Tensor]) -> None:
        for name, shape in backbone.output_shape().items():
            if name in features:
                self._take(name, shape.stride, "output", features[name])
        if hasattr(backbone, "eager_forward"):  # an OpenVINO graph calls no inner hooks
            backbone.eager_forward(*args)

    def _by_level(self, rpn: RPN) -> Callable[..., list[Instances]]:
        """Wrap the RPN's last step so that it also runs on each level alone."""
        original = rpn.predict_proposals

        def predict(anchors: list, logits: list, deltas: list, image_sizes: list) -> list:
            for name, *of_level in zip(rpn.in_features, anchors, logits, deltas, strict=True):
                (self.proposals[name],) = original(*([x] for x in of_level), image_sizes)
            return original(anchors, logits, deltas, image_sizes)

        return predict


def _with_rois(box_head: FastRCNNOutputLayers) -> Callable[..., tuple]:
    """Wrap the head's last step so that its detections keep their RoIs as ``roi_boxes``.

    Eq. 1 is about RoIs, not about the boxes that the head refines them to.
    """
    original = box_head.inference

    def inference(predictions: tuple, proposals: list[Instances]) -> tuple[list, list]:
        found, kept = original(predictions, proposals)
        for instances, indices, rois in zip(found, kept, proposals, strict=True):
            instances.roi_boxes = Boxes(rois.proposal_boxes.tensor[indices].clone())
        return found, kept

    return inference
