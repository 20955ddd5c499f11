"""Faster R-CNN R-50 FPN of one set of weights in three packages, and what is fed to it.

Weights are random, with norms that hold the statistics of the image, as those of a trained network
do: without them activations grow from block to block, boxes with them, and NMS leaves four
proposals of a thousand. The strides are where torchvision has them (STRIDE_IN_1X1 False).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from ..checkpoint.foreign.torchvision_names import convert_torchvision
from ..config import load_config
from ..engine import Trainer

__all__ = [
    "SIZE",
    "Networks",
    "build_for_training",
    "build_networks",
    "image_record",
    "output_of",
    "random_objects",
    "settle_norms",
]

SIZE = (800, 1066)  # height, width; padded to 800 x 1088
CONFIG = "Faster-RCNN/faster_rcnn_R_50_FPN.yaml"
# torchvision's strides and colours
_AS_TORCHVISION = [
    *("MODEL.RESNETS.STRIDE_IN_1X1", "False", "INPUT.FORMAT", "RGB"),
    *("MODEL.PIXEL_MEAN", "[123.675, 116.28, 103.53]"),
    *("MODEL.PIXEL_STD", "[58.395, 57.12, 57.375]"),
]
# The same model as stock Detectron2 has it.
_STOCK = [
    *("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.PROPOSAL_GENERATOR.NAME", "RPN"),
    *("MODEL.RPN.HEAD_NAME", "StandardRPNHead", "MODEL.ROI_HEADS.NAME", "StandardROIHeads"),
]
# A block adds less than it passes on, as in trained networks, or rounding grows with depth.
_RESIDUAL = 0.25
_LOGIT_DEVIATION = 2.0  # of class scores before softmax


class Networks(NamedTuple):
    """A network in three packages, in eval mode.

    Args:
        cfg: of ours.
        ours: as training builds it.
        stock: Detectron2's.
        torchvision: its ``fasterrcnn_resnet50_fpn``, on images from 0 to 1.
    """

    cfg: CfgNode
    ours: nn.Module
    stock: nn.Module
    torchvision: nn.Module


def build_networks(configs: Path, device: str, size: tuple[int, int]) -> Networks:
    """Build the network in three packages on the same weights.

    Args:
        configs: the folder of configs.
        device: "cpu" or "cuda".
        size: of the image whose statistics the norms hold.
    """
    opts = ["MODEL.DEVICE", device, "MODEL.WEIGHTS", "", *_AS_TORCHVISION]
    cfg = load_config(configs / CONFIG, opts)
    torch.manual_seed(0)
    columns = cfg.MODEL.ROI_HEADS.NUM_CLASSES + 1
    theirs = fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=columns, min_size=min(size)
    ).eval()
    image = image_record(0, size)["image"] / 255
    for name, norm in theirs.named_modules():
        if name.endswith("bn3"):
            nn.init.constant_(norm.weight, _RESIDUAL)
    settle_norms(theirs, lambda: theirs([image]))
    _spread_scores(theirs.roi_heads.box_predictor.cls_score, lambda: theirs([image]))
    weights = convert_torchvision(theirs.state_dict(), norm_eps=1e-5, all_classes=True).weights
    ours = build_for_training(cfg).eval()
    stock = build_model(load_config(configs / CONFIG, [*opts, *_STOCK]).clone()).eval()
    _load(ours, weights)
    stock.load_state_dict(ours.state_dict())
    return Networks(cfg, ours, stock, theirs.to(device))


def _load(model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    missing, unexpected = model.load_state_dict(weights, strict=False)
    # what is no weight
    left = [name for name in missing if "pixel_" not in name and "cell_anchors" not in name]
    if left or unexpected:
        raise RuntimeError(f"torchvision's weights left out {left} and had {unexpected} too many")


def build_for_training(cfg: CfgNode) -> nn.Module:
    """A model as this package trains it on the config's device.

    Args:
        cfg: the model's.
    """
    return (Trainer.build_model if cfg.MODEL.DEVICE == "cpu" else build_model)(cfg.clone())


@torch.no_grad()
def settle_norms(model: nn.Module, call: Callable[[], Any]) -> None:
    """Give every norm the mean and the variance of what reaches it, in place.

    Args:
        model: with batch norm, frozen or in eval mode.
        call: one that runs it.
    """

    def settle(norm: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance.clamp(min=1e-4))

    norms = [module for module in model.modules() if hasattr(module, "running_mean")]
    hooks = [norm.register_forward_pre_hook(settle) for norm in norms]
    try:
        call()
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _spread_scores(layer: nn.Linear, call: Callable[[], Any]) -> None:
    """Scale class scores so that there are detections, which NMS and its users have work with."""
    scores = output_of(layer, call)
    factor = _LOGIT_DEVIATION / scores.std(dim=0).mean()
    layer.weight.mul_(factor)
    layer.bias.sub_(scores.mean(dim=0)).mul_(factor)


def output_of(module: nn.Module, call: Callable[[], Any]) -> Any:
    """What a module returns the first time that a call runs it.

    Args:
        module: not compiled, as hooks are left out then.
        call: which runs it.
    """
    found: list[Any] = []
    hook = module.register_forward_hook(lambda *args: found.append(args[2]))
    try:
        call()
    finally:
        hook.remove()
    return found[0]


def image_record(seed: int, size: tuple[int, int], objects: int = 0) -> dict[str, Any]:
    """A record as models of Detectron2 take it, of an image of noise.

    Args:
        seed: of the image and the objects.
        size: its height and width.
        objects: how many; 0 for a record without annotations.
    """
    height, width = size
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    record = {"image": image, "height": height, "width": width}
    if objects:
        record["instances"] = random_objects(objects, height, width, generator)
    return record


def random_objects(count: int, height: int, width: int, generator: torch.Generator) -> Instances:
    """Objects with sides of 16 to 362 px, as far as the image has room, of five classes."""
    limit = torch.tensor([width, height])
    size = (2 ** (4 + 4.5 * torch.rand(count, 2, generator=generator))).minimum(limit)
    corner = torch.rand(count, 2, generator=generator) * (limit - size)
    objects = Instances((height, width))
    objects.gt_boxes = Boxes(torch.cat([corner, corner + size], dim=1))
    objects.gt_classes = torch.randint(0, 5, (count,), generator=generator)
    return objects
