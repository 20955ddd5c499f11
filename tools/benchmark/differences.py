"""How far the outputs of two models are apart on the same input."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from fpn_d2.inference import PreparedModel

from .networks import output_of


def largest_share(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest difference of like-shaped tensors, as a share of the expected maximum."""
    pairs = zip(found, expected, strict=True)
    return max(float((a.float() - b).abs().max() / b.abs().max()) for a, b in pairs)


def feature_error(
    ours: nn.Module, theirs: nn.Module, call: Callable[[], Any], their_call: Callable[[], Any]
) -> float:
    """Return the :func:`largest_share` of the features of two detectors with the same weights.

    ``call`` and ``their_call`` run them on the same image.
    """
    found, expected = output_of(ours.backbone, call), output_of(theirs.backbone, their_call)
    return largest_share([*found.values()], [*expected.values()])


@torch.no_grad()
def head_errors(
    stock: nn.Module, ready: PreparedModel, inputs: list[dict[str, Any]]
) -> tuple[float, float]:
    """Compare the class scores and box deltas of two detectors on the same proposals.

    Args:
        stock, ready: a detector in eval mode, and a prepared one with the same weights.
        inputs: a batch as models of Detectron2 take it.

    Returns:
        the largest difference, and the largest share (:func:`largest_share`).
    """
    images = stock.preprocess_image(inputs)
    features = stock.backbone(images.tensor)
    proposals, _ = stock.proposal_generator(images, features)

    def outputs(model: nn.Module, features: dict[str, Tensor]) -> Sequence[Tensor]:
        heads = model.roi_heads
        return output_of(heads.box_predictor, lambda: heads(images, features, proposals))

    expected = outputs(stock, features)
    device = images.tensor.device.type
    with torch.autocast(device, ready.dtype, enabled=ready.dtype is not None):
        found = outputs(ready.model, ready.model.backbone(images.tensor))
    differences = [float((a.float() - b).abs().max()) for a, b in zip(found, expected, strict=True)]
    return max(differences), largest_share(found, expected)


@torch.no_grad()
def loss_error(
    ours: nn.Module, dtype: torch.dtype | None, stock: nn.Module, inputs: list[dict[str, Any]]
) -> float:
    """Return the difference of the sums of all training losses, as a share of stock's.

    Both use the same proposals. With random weights many proposals score alike, so rounding would
    otherwise decide which of them are kept and sampled.

    Args:
        ours, stock: models with the same weights, in training mode.
        dtype: the autocast dtype of ours; None for float32.
        inputs: a batch as models of Detectron2 take it.
    """
    expected, proposals = _losses(stock, inputs, None, None)
    found, _ = _losses(ours, inputs, dtype, proposals)
    return abs(found / expected - 1)


def _losses(
    model: nn.Module,
    inputs: list[dict[str, Any]],
    dtype: torch.dtype | None,
    proposals: list[Instances] | None,
) -> tuple[float, list[Instances] | None]:
    """Return the sum of a model's losses, and the proposals that it made or was given."""
    device = next(model.parameters()).device
    with EventStorage(), torch.autocast(device.type, dtype, enabled=dtype is not None):
        torch.manual_seed(7)  # decides the samples
        if getattr(model, "proposal_generator", None) is None or not hasattr(model, "roi_heads"):
            return float(sum(model(inputs).values())), None
        images = model.preprocess_image(inputs)
        objects = [record["instances"].to(device) for record in inputs]
        features = model.backbone(images.tensor)
        own, losses = model.proposal_generator(images, features, objects)
        proposals = own if proposals is None else proposals
        torch.manual_seed(7)
        losses |= model.roi_heads(images, features, proposals, objects)[1]
    return float(sum(losses.values())), proposals
