"""Every row of Tables 1 to 3, and RetinaNet, beside the same network as Detectron2 runs it; and
the matching of P2's anchors with many objects.

The rows are the quick ones. Detectron2 has no neck without a top-down path, without laterals or of
P2 alone: there the baseline is this package's neck with all else Detectron2's own.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.proposal_generator import build_proposal_generator
from detectron2.modeling.proposal_generator.rpn import RPN
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage

from ..config import load_config
from ..inference import prepare_model
from .detectors import call_without_grad, feature_error
from .measure import compare, is_timed_here, row
from .networks import build_for_training, image_record, random_objects, settle_norms
from .training import loss_errors, training_step

__all__ = ["benchmark_matching", "benchmark_rows"]

SIZE = 320  # of the rows' images
HEIGHT, WIDTH = 800, 1000  # of the image whose anchors are matched
FOLDERS = ("RPN", "Fast-RCNN", "Faster-RCNN", "RetinaNet")
_PROPOSALS = 1000
# Stock RoI heads know no other size.
_CANONICAL = ("MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE", "224")
# What Detectron2 has instead of this package's classes.
_STOCK = {
    "MODEL.PROPOSAL_GENERATOR.NAME": {"LeanRPN": "RPN"},
    "MODEL.RPN.HEAD_NAME": {"build_level_rpn_head": "StandardRPNHead"},
    "MODEL.ROI_HEADS.NAME": {"LevelROIHeads": "StandardROIHeads", "C4ROIHeads": "Res5ROIHeads"},
}


def benchmark_rows(configs: Path, device: str, rounds: int) -> list[dict[str, Any]]:
    """Time a row's inference on one image and a training step of two, in float32.

    Args:
        configs: the folder of configs.
        device: "cpu" or "cuda".
        rounds: how often.

    Returns:
        rows, see :func:`fpn_d2.benchmark.measure.row`; ``variant`` names the config. ``max_error``
        is that of :func:`fpn_d2.benchmark.training.loss_errors`, and of inference that of the
        backbone's features.
    """
    rows, reports = [], is_timed_here(memory_kept=False)
    for path in _row_configs(configs):
        cfg = load_config(path, ["MODEL.DEVICE", device, "MODEL.WEIGHTS", "", *_CANONICAL])
        torch.manual_seed(0)
        ours, name = build_for_training(cfg).eval(), path.stem
        test = [_record(cfg, 0)]
        settle_norms(ours, lambda m=ours, x=test: m(x))
        stock = build_model(_stock_config(cfg)).eval()
        stock.load_state_dict(ours.state_dict())
        ready = prepare_model(ours)
        calls = {
            "ours": lambda m=ready, x=test: m(x),
            "stock": call_without_grad(stock, test),
        }
        timings = compare(calls, rounds, device, ["ours"])
        error = None
        if reports:
            error = feature_error(ready.model, stock, calls["ours"], calls["stock"])
        rows.append(row("rows", f"{name} inference", *_pair(timings), error))
        train = [_record(cfg, seed) for seed in (1, 2)]
        ours.train(), stock.train()
        calls = {
            who: training_step(cfg, model, train, None)
            for who, model in (("ours", ours), ("stock", stock))
        }
        # before weights differ
        errors = loss_errors({name: (ours, None)}, stock, train) if reports else {name: None}
        timings = compare(calls, rounds, device, ["ours"])
        rows.append(row("rows", f"{name} training", *_pair(timings), errors[name]))
    return rows


def _pair(timings: dict[str, Any]) -> tuple[Any, str, Any]:
    return timings["ours"], "detectron2", timings["stock"]


def _row_configs(configs: Path) -> Iterator[Path]:
    for folder in FOLDERS:
        for path in sorted((configs / "quick" / folder).glob("*.yaml")):
            if not path.stem.endswith(("_2x", "_fp32")):  # the same network
                yield path


def _stock_config(cfg: CfgNode) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    for key, names in _STOCK.items():
        *sections, last = key.split(".")
        node = cfg
        for section in sections:
            node = node[section]
        node[last] = names.get(node[last], node[last])
    return cfg


def _record(cfg: CfgNode, seed: int) -> dict[str, Any]:
    record = image_record(seed, (SIZE, SIZE), objects=8)
    if cfg.MODEL.LOAD_PROPOSALS:
        generator = torch.Generator().manual_seed(seed)
        record["proposals"] = Instances((SIZE, SIZE))
        boxes = random_objects(_PROPOSALS, SIZE, SIZE, generator).gt_boxes
        record["proposals"].proposal_boxes = boxes
        record["proposals"].objectness_logits = torch.randn(_PROPOSALS, generator=generator)
    return record


def benchmark_matching(
    configs: Path, device: str, rounds: int, count: int = 300
) -> list[dict[str, Any]]:
    """Time the matching of P2's anchors (Table 1(f), 750k at the paper's size) with many objects.

    Args:
        configs: the folder of configs.
        device: "cpu" or "cuda".
        rounds: how often.
        count: of the objects.

    Returns:
        a row, whose peaks of memory are what it is for; ``max_error`` is the share of the anchors
        that are sampled differently.
    """
    cfg = load_config(configs / "RPN" / "rpn_R_50_P2.yaml", ["MODEL.DEVICE", device])
    rpn = build_proposal_generator(cfg, {"p2": ShapeSpec(channels=1, stride=4)})
    generator = torch.Generator().manual_seed(0)
    objects = random_objects(count, HEIGHT, WIDTH, generator).to(device)
    anchors = rpn.anchor_generator([torch.zeros(1, 1, HEIGHT // 4, WIDTH // 4, device=device)])

    sampled = {}

    def match(name: str, kind: type[RPN]) -> None:
        torch.manual_seed(0)  # of the samples
        sampled[name] = kind.label_and_sample_anchors(rpn, anchors, [objects])[0][0]

    calls = {"ours": lambda: match("ours", type(rpn)), "stock": lambda: match("stock", RPN)}
    with EventStorage():
        timings = compare(calls, rounds, device, ["ours"])
    if not is_timed_here(memory_kept=False):
        return []
    differ = float((sampled["ours"] != sampled["stock"]).float().mean())
    return [row("matching", f"{count} objects, P2", *_pair(timings), differ)]
