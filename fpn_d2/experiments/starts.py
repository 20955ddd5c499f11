"""What every row of a seed starts from: ``--start crops``, ``imagenet`` or a file.

``crops`` is trained by :mod:`fpn_d2.experiments.pretraining`, one for each seed. ``imagenet`` is
torchvision's published ResNet-18. A file is any that ``MODEL.WEIGHTS`` takes, or a classifier of
torchvision's form, which is converted and takes pixels in another order and scale.
"""

import functools
import hashlib
import logging
import os
from pathlib import Path

import torch
import torchvision
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from torch import nn

from ..checkpoint import SafeCheckpointer
from ..checkpoint.conversion import convert_checkpoint, read_weights
from ..checkpoint.foreign.name_rules import rename, torchvision_rules
from ..config import changed
from ..utils.errors import UserError
from ..utils.files import is_local

# RGB, and 255 times the means and deviations of torchvision's presets.
TORCHVISION_OPTS = (
    *("INPUT.FORMAT", "RGB", "MODEL.RESNETS.STRIDE_IN_1X1", "False"),
    *("MODEL.PIXEL_MEAN", "[123.675, 116.28, 103.53]"),
    *("MODEL.PIXEL_STD", "[58.395, 57.12, 57.375]"),
)


def file_of(start: str) -> str:
    """Return the file of ``--start``, or the URL of torchvision's weights for ``imagenet``."""
    if start == "imagenet":
        return torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url
    return start


@functools.lru_cache
def kept_name(path: str) -> str:
    """Return a name for a file's copy or conversion; it changes with the file's content, or URL."""
    ending = ".pth" if is_torchvision(path) else os.path.splitext(path)[1]
    content = Path(path).read_bytes() if is_local(path) else path.encode()
    digest = hashlib.sha256(content).hexdigest()
    return f"start_{os.path.splitext(os.path.basename(path))[0]}_{digest[:8]}{ending}"


@functools.lru_cache
def is_torchvision(path: str) -> bool:
    """Whether a file, or what a URL leads to, is a ResNet classifier of torchvision's form.

    Raises:
        UserError: if it cannot be read.
    """
    if is_local(path) and not os.path.isfile(path):
        raise UserError(f"--start {path}: there is no such file; give crops, imagenet or a file")
    weights = read_weights(path)["model"]
    return {"conv1.weight", "layer1.0.conv1.weight"} <= weights.keys()


def convert_torchvision(source: str, target: str) -> None:
    """Write a ResNet classifier of torchvision under Detectron2's names, without its last layer.

    The source is a file or its URL, and the target a file ``*.pth``.

    Raises:
        UserError: if it cannot be read or written, or holds anything else.
    """

    def change(checkpoint: dict) -> dict:
        weights = {f"backbone.body.{name}": value for name, value in checkpoint["model"].items()}
        left_out = (r"\.num_batches_tracked$", r"^backbone\.body\.fc\.")
        renamed, _ = rename(weights, torchvision_rules(False), left_out, "torchvision")
        model = {key.removeprefix("backbone.bottom_up."): value for key, value in renamed.items()}
        # Detectors hold these layers under several names; see align_and_update_state_dicts.
        return {"model": model, "__author__": "torchvision", "matching_heuristics": True}

    convert_checkpoint(source, target, overwrite=True, change=change)


def check_start(path: str, cfg: CfgNode) -> None:
    """Make sure that a start fills the whole bottom-up network of a config.

    The rows freeze its first layers and all of its norms, which would otherwise stay random.

    Raises:
        UserError: if it is of another network, or leaves a layer out.
    """
    model = nn.Module()
    model.backbone = build_backbone(changed(cfg, {"MODEL.DEVICE": "cpu"}))
    with torch.no_grad():
        state = [(k, v) for k, v in model.state_dict().items() if v.is_floating_point()]
        for _, value in state:
            value.fill_(float("nan"))  # what a file does not fill remains so
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # Detectron2 logs each name that it matches.
    try:
        SafeCheckpointer(model).load(path)
    finally:
        logging.disable(before)
    prefix = "backbone.bottom_up." if hasattr(model.backbone, "bottom_up") else "backbone."
    empty = [k for k, v in state if k.startswith(prefix) and v.isnan().any()]
    if empty:
        raise UserError(
            f"--start {path} leaves {len(empty)} weights of the bottom-up network empty, such as "
            f"{empty[0].removeprefix(prefix)}: give a checkpoint of this network"
        )
