"""What is heard of a model while it runs once: hooks, and no copy of a forward.

Shape shorthand: one image, network input of H x W pixels before padding; a level's map is h x w
cells.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from detectron2.modeling import FPN
from detectron2.modeling.proposal_generator.rpn import RPN
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

__all__ = ["Listener"]


class Listener:
    """Keeps what passes through a model's parts; one for each image."""

    def __init__(self, model: nn.Module):
        """
        Args:
            model: a meta-architecture of Detectron2's form, with a ``backbone``.
        """
        self.model = model
        self.input_size = (0, 0)
        # kind ("lateral", "merged", "output") to name to (h, w) float32; see explanation.py
        self.features: dict[str, dict[str, np.ndarray]] = {}
        self.strides: dict[str, int] = {}
        self.anchors: dict[str, Boxes] = {}
        self.proposals: dict[str, Instances] = {}
        self._is_at_input_size = False

    @contextlib.contextmanager
    def listening(self) -> Iterator["Listener"]:
        """Listen while the model is called on one image."""
        with contextlib.ExitStack() as stack:
            for handle in self._hooks():
                stack.callback(handle.remove)
            generator = getattr(self.model, "proposal_generator", None)
            if isinstance(generator, RPN):
                stack.enter_context(
                    _replaced(generator, "predict_proposals", self._by_level(generator))
                )
            box_head = getattr(getattr(self.model, "roi_heads", None), "box_predictor", None)
            if isinstance(box_head, FastRCNNOutputLayers):
                stack.enter_context(_replaced(box_head, "inference", _with_rois(box_head)))
            yield self
        # fine to coarse, whatever the order of the calls
        order = sorted(self.strides, key=self.strides.get)
        self.strides = {name: self.strides[name] for name in order}
        kinds = [kind for kind in ("lateral", "merged", "output") if kind in self.features]
        self.features = {
            kind: {name: self.features[kind][name] for name in order if name in self.features[kind]}
            for kind in kinds
        }

    def _hooks(self) -> Iterator[Any]:
        backbone = self.model.backbone
        yield self.model.register_forward_pre_hook(self._take_input_size)
        yield backbone.register_forward_pre_hook(self._compare_size)
        yield backbone.register_forward_hook(self._take_outputs)
        for neck in (module for module in self.model.modules() if isinstance(module, FPN)):
            yield from self._neck_hooks(neck)
        owner = getattr(self.model, "proposal_generator", None) or self.model
        generator = getattr(owner, "anchor_generator", None)
        names = getattr(owner, "in_features", None) or getattr(owner, "head_in_features", None)
        if generator is not None:

            def take_anchors(module: nn.Module, args: Any, anchors: list[Boxes]) -> None:
                self.anchors = dict(zip(names, anchors, strict=True))

            yield generator.register_forward_hook(take_anchors)

    def _neck_hooks(self, neck: FPN) -> Iterator[Any]:
        """Laterals, and what goes into the 3x3; a convolution that is not built is an identity."""
        shapes = neck.bottom_up.output_shape()
        strides = [shapes[name].stride for name in reversed(neck.in_features)]
        parts = zip(strides, neck.lateral_convs, neck.output_convs, strict=True)
        for stride, lateral, output in parts:
            name = f"p{int(math.log2(stride))}"
            if not isinstance(lateral, nn.Identity):
                yield lateral.register_forward_hook(self._taker("lateral", name, stride))
            if not isinstance(output, nn.Identity):
                take = self._taker("merged", name, stride)
                yield output.register_forward_pre_hook(
                    lambda module, args, take=take: take(module, args, args[0])
                )

    def _taker(self, kind: str, name: str, stride: int) -> Callable[..., None]:
        def take(module: nn.Module, args: Any, feature: Tensor) -> None:
            self._take(kind, name, stride, feature)

        return take

    def _take(self, kind: str, name: str, stride: int, feature: Tensor) -> None:
        if not self._is_at_input_size:
            return
        height, width = (math.ceil(side / stride) for side in self.input_size)
        activation = feature[0].detach().float().abs().mean(dim=0)[:height, :width]
        self.features.setdefault(kind, {})[name] = activation.cpu().numpy()
        self.strides[name] = stride

    def _take_input_size(self, model: nn.Module, args: tuple[list[dict]]) -> None:
        self.input_size = tuple(args[0][0]["image"].shape[-2:])

    def _compare_size(self, backbone: nn.Module, args: tuple[Tensor]) -> None:
        # The baseline of Sec. 6 runs its backbone on an image pyramid, once for each size.
        divisor = max(1, backbone.size_divisibility)
        padded = tuple(math.ceil(side / divisor) * divisor for side in self.input_size)
        self._is_at_input_size = tuple(args[0].shape[-2:]) == padded

    def _take_outputs(self, backbone: nn.Module, args: Any, features: dict[str, Tensor]) -> None:
        for name, shape in backbone.output_shape().items():
            if name in features:
                self._take("output", name, shape.stride, features[name])

    def _by_level(self, rpn: RPN) -> Callable[..., list[Instances]]:
        """The RPN's own last step, done for each level alone as well."""
        original = rpn.predict_proposals

        def predict(anchors: list, logits: list, deltas: list, image_sizes: list) -> list:
            for i, name in enumerate(rpn.in_features):
                alone = original(
                    anchors[i : i + 1], logits[i : i + 1], deltas[i : i + 1], image_sizes
                )
                self.proposals[name] = alone[0]
            return original(anchors, logits, deltas, image_sizes)

        return predict


def _with_rois(box_head: FastRCNNOutputLayers) -> Callable[..., tuple]:
    """The head's own last step, with the RoI that each detection was read from as ``roi_boxes``,
    in pixels of the network input: Eq. 1 is about RoIs, not about what they were refined to."""
    original = box_head.inference

    def inference(predictions: tuple, proposals: list[Instances]) -> tuple[list, list]:
        found, kept = original(predictions, proposals)
        for instances, indices, rois in zip(found, kept, proposals, strict=True):
            instances.roi_boxes = Boxes(rois.proposal_boxes.tensor[indices].clone())
        return found, kept

    return inference


@contextlib.contextmanager
def _replaced(owner: nn.Module, name: str, function: Callable) -> Iterator[None]:
    """Shadow a method of one object for a while."""
    setattr(owner, name, function)
    try:
        yield
    finally:
        delattr(owner, name)
