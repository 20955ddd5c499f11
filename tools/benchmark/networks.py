"""Faster R-CNN R-50 FPN with the same weights in three packages, and its inputs.

Weights are random, with norms that hold the statistics of the image, as a trained network's do.
Otherwise activations, and boxes with them, would grow from block to block, and NMS would leave four
proposals of a thousand. The strides are where torchvision has them (STRIDE_IN_1X1 False).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from fpn_d2 import config
from fpn_d2.checkpoint.foreign import convert_foreign
from fpn_d2.config import load_config, stock_config
from fpn_d2.engine import Trainer
from fpn_d2.utils.modules import settle_norms

CONFIGS = Path(config.CONFIGS)
SIZE = (800, 1066)  # height and width of an image in pixels; padded to 800 x 1088
_CONFIG = CONFIGS / "Faster-RCNN" / "faster_rcnn_R_50_FPN.yaml"
_AS_TORCHVISION = [  # strides and colours
    *("MODEL.RESNETS.STRIDE_IN_1X1", "False", "INPUT.FORMAT", "RGB"),
    *("MODEL.PIXEL_MEAN", "[123.675, 116.28, 103.53]"),
    *("MODEL.PIXEL_STD", "[58.395, 57.12, 57.375]"),
]
# Stock RoI heads know no other canonical size.
STOCK_SIZE = ("MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE", "224")
# A block adds less than it passes on, as in trained networks; else rounding would grow with depth.
_RESIDUAL = 0.25
_LOGIT_DEVIATION = 2.0  # standard deviation of class scores before softmax


class Networks(NamedTuple):
    """A network in three packages, in eval mode.

    Args:
        cfg: the config of ours.
        ours: the model as this package trains it.
        stock: Detectron2's model.
        torchvision: its ``fasterrcnn_resnet50_fpn``, which takes images from 0 to 1.
    """

    cfg: CfgNode
    ours: nn.Module
    stock: nn.Module
    torchvision: nn.Module


def build_networks(device: str, size: tuple[int, int]) -> Networks:
    """Build the network in three packages with the same weights.

    Args:
        device: "cpu" or "cuda".
        size: height and width, in pixels, of the image whose statistics the norms hold.
    """
    cfg = load_config(_CONFIG, ["MODEL.DEVICE", device, "MODEL.WEIGHTS", "", *_AS_TORCHVISION])
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
    spread_scores(theirs.roi_heads.box_predictor.cls_score, lambda: theirs([image]))
    state = theirs.state_dict()
    weights = convert_foreign("", state, "torchvision", norm_eps=1e-5, all_classes=True).weights
    ours = Trainer.build_model(cfg).eval()
    ours.load_state_dict(weights)
    return Networks(cfg, ours, stock_model(cfg, ours), theirs.to(device))


def stock_model(cfg: CfgNode, ours: nn.Module) -> nn.Module:
    """Build Detectron2's model of a config, with the weights of ours, in eval mode."""
    stock = build_model(stock_config(cfg)).eval()
    stock.load_state_dict(ours.state_dict())
    return stock


@torch.no_grad()
def spread_scores(layer: nn.Linear, call: Callable[[], Any]) -> None:
    """Scale class scores so that NMS and what follows have detections to work on.

    ``call`` runs the model whose classifier is ``layer``.
    """
    scores = output_of(layer, call)
    factor = _LOGIT_DEVIATION / scores.std(dim=0).mean()
    layer.weight.mul_(factor)
    layer.bias.sub_(scores.mean(dim=0)).mul_(factor)


def output_of(module: nn.Module, call: Callable[[], Any]) -> Any:
    """Return what a module returns the first time that a call runs it.

    The module must not be compiled: torch.compile skips hooks.
    """
    found: list[Any] = []
    with module.register_forward_hook(lambda module, inputs, output: found.append(output)):
        call()
    return found[0]


def image_record(seed: int, size: tuple[int, int], objects: int = 0) -> dict[str, Any]:
    """Make a record as models of Detectron2 take it, with an image of noise.

    ``seed`` decides the image and the objects. With 0 objects it has no annotations.
    """
    height, width = size
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    record = {"image": image, "height": height, "width": width}
    if objects:
        record["instances"] = random_objects(objects, size, generator)
    return record


def random_objects(count: int, size: tuple[int, int], generator: torch.Generator) -> Instances:
    """Annotate :func:`random_boxes` with five classes."""
    objects = Instances(size)
    objects.gt_boxes = Boxes(random_boxes(count, size, generator))
    objects.gt_classes = torch.randint(0, 5, (count,), generator=generator)
    return objects


def random_boxes(count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Draw boxes of 16 to 512 px, from 1:2 to 2:1, clipped to an image of this height and width.

    Returns:
        (count, 4), x0 y0 x1 y1 in pixels.
    """
    scale = 2 ** (4 + 5 * torch.rand(count, 1, generator=generator))
    aspect = 2 ** (torch.rand(count, 1, generator=generator) - 0.5)
    sides = torch.cat([scale * aspect, scale / aspect], dim=1)
    limit = torch.tensor([size[1], size[0]])
    center = torch.rand(count, 2, generator=generator) * limit
    corners = torch.stack([center - sides / 2, center + sides / 2], dim=1)
    return torch.minimum(corners.clamp(min=0), limit).flatten(1)
