"""Detectors with random weights whose scores can be told apart, and inputs for them."""

import functools

import torch
from detectron2.modeling import build_model
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances

# Detectron2's pyramid on a ResNet-18, and a head for segments of two classes
SMALL_SEGMENTOR = {
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 2,
    "MODEL.BACKBONE.NAME": "build_fpn_backbone",
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
    "MODEL.DEVICE": "cpu",
    "INPUT.MIN_SIZE_TEST": 32,
    "DATALOADER.NUM_WORKERS": 0,
}


def image_of(height, width):
    generator = torch.Generator().manual_seed(height)
    coarse = torch.rand(1, 3, 9, 9, generator=generator) * 255
    image = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
    return (image + 20 * torch.rand(image.shape, generator=generator)).clamp(0, 255)


def proposals_of(count, height, width):
    corners = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(count))
    return (corners.sort(dim=1).values * torch.tensor([width, height])).flatten(1)


def detect(model, image, proposals=None):
    """Run a model on an image and return its detections as a list of tensors."""
    record = {"image": image, "height": image.shape[1], "width": image.shape[2]}
    if proposals is not None:
        size = image.shape[1:]
        record["proposals"] = Instances(tuple(size), proposal_boxes=Boxes(proposals))
    with torch.no_grad():
        found = model([record])[0]
    if "proposals" in found:
        found = found["proposals"]
        return [found.proposal_boxes.tensor, found.objectness_logits]
    found = found["instances"]
    return [found.pred_boxes.tensor, found.scores, found.pred_classes]


def random_detector(cfg):
    """Build a detector with random weights, and scale its last layers so that their outputs for an
    image have a useful spread.

    Unscaled, scores would be nearly tied, or features too large, because the norms have no
    statistics yet.
    """
    torch.manual_seed(0)
    model = build_model(cfg.clone()).eval()

    def scale(module, inputs, outputs, deviation):
        hooks.pop(module).remove()  # the first level decides
        module.weight.data *= deviation / float(outputs.std())
        return module(*inputs)

    hooks = {}
    for module in model.modules():
        layers = {
            StandardRPNHead: {"objectness_logits": 2.0, "anchor_deltas": 0.3},
            FastRCNNOutputLayers: {"cls_score": 2.0, "bbox_pred": 1.0},
            RetinaNetHead: {"cls_score": 2.0, "bbox_pred": 0.3},
        }.get(type(module), {})
        for name, deviation in layers.items():
            layer = getattr(module, name)
            hooks[layer] = layer.register_forward_hook(
                functools.partial(scale, deviation=deviation)
            )
    proposals = proposals_of(40, 120, 150) if cfg.MODEL.LOAD_PROPOSALS else None
    detect(model, image_of(120, 150), proposals)
    assert not hooks
    return model
