"""Stock Detectron2 models from its own base configs, and the files of its model zoos.

Nothing here reads this package's configs or uses Detectron2's conversion of names: what the tests
expect is written down a second time, from the layout of the published files.
"""

import pickle
import re
import struct
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.model_zoo import get_config_file
from torch import Tensor, nn

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
CONVS = {"conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c", "shortcut": "branch1"}
STATISTICS = ("running_mean", "running_var")  # Caffe2's files have them folded into s and b
HEADS = {
    "proposal_generator.rpn_head.conv": "conv_rpn",
    "proposal_generator.rpn_head.objectness_logits": "rpn_cls_logits",
    "proposal_generator.rpn_head.anchor_deltas": "rpn_bbox_pred",
    "roi_heads.box_head.fc1": "fc6",
    "roi_heads.box_head.fc2": "fc7",
    "roi_heads.box_predictor.cls_score": "cls_score",
    "roi_heads.box_predictor.bbox_pred": "bbox_pred",
}


def stock_config(task: str, model: str, depth: int, *opts: object) -> CfgNode:
    """Return a config of Detectron2's own: an "RPN", "Fast-RCNN", "Faster-RCNN" or "RetinaNet" on
    "FPN" or "C4", or on "C5" with the heads of the pyramid, but on res5 alone."""
    bases = {"FPN": "RCNN-FPN", "C4": "RCNN-C4", "C5": "RCNN-DilatedC5"}
    base = "RetinaNet" if task == "RetinaNet" else bases[model]
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(f"Base-{base}.yaml"))
    cfg.MODEL.DEVICE, cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES5_DILATION = "cpu", depth, 1
    if task == "RPN":
        cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"
    elif task == "Fast-RCNN":
        cfg.MODEL.LOAD_PROPOSALS = True
        cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
    cfg.merge_from_list(list(opts))
    return cfg


def twin(row: str) -> str:
    """Return the row from which this one differs only in schedule, precision, the image pyramid of
    the test or sharing between steps, so not in its network; any other row is its own twin."""
    return re.sub(r"_(2x|fp32|zoom)$", "", row).replace("unshared", "shared")


def scramble(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Give every entry of a model's state random values; return a copy of that state."""
    generator = torch.Generator().manual_seed(seed)
    state = model.state_dict()
    for value in state.values():
        if value.is_floating_point():
            value.uniform_(-1, 1, generator=generator)
        else:  # num_batches_tracked
            value.random_(1, 1 << 30, generator=generator)
    return {name: value.clone() for name, value in state.items()}


def caffe2_names(depth: int, *, pyramid: bool = False) -> dict[str, str]:
    """Map Detectron2's name of every tensor, for a ResNet's tensors without their prefix
    ("backbone.", "backbone.bottom_up.", "roi_heads."), to Detectron1's."""
    stages = dict(zip((2, 3, 4, 5), BLOCKS[depth], strict=True))
    modules = {"stem.conv1": ("conv1", "res_conv1_bn")}
    for stage, blocks in stages.items():
        for block in range(blocks):
            for ours, theirs in CONVS.items():
                name = f"res{stage}_{block}_{theirs}"
                modules[f"res{stage}.{block}.{ours}"] = (name, f"{name}_bn")
    names = {}
    for ours, (conv, norm) in modules.items():
        names[f"{ours}.weight"] = f"{conv}_w"
        names |= {f"{ours}.norm.weight": f"{norm}_s", f"{ours}.norm.bias": f"{norm}_b"}
    heads = dict(HEADS)
    if pyramid:  # Detectron1 names the pyramid's layers after the blobs that they read
        for name in heads:
            heads[name] += "_fpn2" if "rpn_head" in name else ""
        for stage, blocks in stages.items():
            blob, lateral = f"res{stage}_{blocks - 1}_sum", "_lateral" if stage < 5 else ""
            heads[f"backbone.fpn_lateral{stage}"] = f"fpn_inner_{blob}{lateral}"
            heads[f"backbone.fpn_output{stage}"] = f"fpn_{blob}"
    for ours, theirs in heads.items():
        names[f"{ours}.weight"], names[f"{ours}.bias"] = f"{theirs}_w", f"{theirs}_b"
    return names


def without_prefix(name: str) -> str:
    """Return the name that a ResNet's tensor has in the ResNet itself; keep any other name."""
    for prefix in ("backbone.bottom_up.", "backbone.", "roi_heads."):
        short = name.removeprefix(prefix)
        if short != name and short.startswith(("stem.", "res")):
            return short
    return name


def caffe2_blobs(state: dict[str, Tensor], depth: int, *, pyramid: bool) -> dict[str, np.ndarray]:
    """Turn a state of Detectron2 into Detectron1's blobs, momentum included."""
    names, blobs = caffe2_names(depth, pyramid=pyramid), {}
    random = np.random.default_rng(0)
    for name, value in state.items():
        if name.endswith(STATISTICS):
            continue
        if "box_predictor.cls_score" in name:  # Detectron1's class 0 is the background
            value = torch.cat([value[-1:], value[:-1]])
        elif "box_predictor.bbox_pred" in name:  # and has a box of its own, never used
            background = random.random((4, *value.shape[1:]), dtype=np.float32)
            value = torch.cat([torch.from_numpy(background), value])
        blob = names[without_prefix(name)]
        assert blob not in blobs
        blobs[blob] = value.numpy()
        if value.numel() < 100_000 and "_bn_" not in blob:  # all learn; more would fill the disk
            blobs[f"{blob}_momentum"] = random.random(value.shape, dtype=np.float32)
    return blobs


def write_pickle(path: Path, content: dict) -> str:
    path.write_bytes(pickle.dumps(content, protocol=4))
    return str(path)


class _Python2Pickler(pickle._Pickler):
    """Writes text and an array's bytes as Python 2 did, as strings."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, value: str | bytes) -> None:
        content = value.encode("latin1") if isinstance(value, str) else value
        short = len(content) < 256
        head = b"U" + bytes([len(content)]) if short else b"T" + struct.pack("<i", len(content))
        self.write(head + content)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_string


def write_python2_pickle(path: Path, content: object) -> str:
    """Write a pickle of Python 2, as the first Detectron's checkpoints and proposals are."""
    with open(path, "wb") as file:
        _Python2Pickler(file, 2).dump(content)
    return str(path)


def caffe2_model_would_have(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what a model gets from a file of this state that lacks the running statistics: the
    state, with statistics that have no effect."""
    neutral = {"running_mean": torch.zeros_like, "running_var": torch.ones_like}
    return {n: neutral.get(n.rpartition(".")[2], torch.clone)(v) for n, v in state.items()}


def different(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    """Return the names of tensors that differ in any bit, or that only one of the two has."""
    wrong = sorted(actual.keys() ^ expected.keys())
    for name in actual.keys() & expected.keys():
        a, b = actual[name], expected[name]
        same = a.dtype == b.dtype and a.shape == b.shape
        if not same or not torch.equal(*(x.reshape(-1).view(torch.uint8) for x in (a, b))):
            wrong.append(name)
    return wrong
