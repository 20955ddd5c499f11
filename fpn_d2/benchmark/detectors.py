"""Faster R-CNN R-50 FPN, ours beside stock Detectron2's and torchvision's, on the same weights.

The input is 800 x 1088 after padding, with 1000 proposals in testing. Weights are random, which
leaves hardly a box for the last NMS, of all alike.
"""

import copy
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..config import load_config
from ..devices import has_bfloat16
from ..engine import Trainer
from ..export import PreparedModel, compile_backbone, prepare_model
from .measure import compare, is_timed_here, matmul_rate, row

__all__ = [
    "benchmark_inference",
    "benchmark_training",
    "call_without_grad",
    "head_errors",
    "random_objects",
    "training_step",
]

logger = logging.getLogger(__name__)

CONFIG = "Faster-RCNN/faster_rcnn_R_50_FPN.yaml"
# The same model as stock Detectron2 has it.
STOCK = [
    *("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.PROPOSAL_GENERATOR.NAME", "RPN"),
    *("MODEL.RPN.HEAD_NAME", "StandardRPNHead", "MODEL.ROI_HEADS.NAME", "StandardROIHeads"),
]
# Stock Detectron2 in a process that keeps freed memory, as this package's programs do.
_STOCK_KEPT = "detectron2, memory kept"
HEIGHT, WIDTH = 800, 1066
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def variants_of(device: str) -> list[str]:
    """The precisions that a device has, fp32 first."""
    return [
        "fp32",
        *(["bf16"] if has_bfloat16(device) else []),
        *(["fp16"] if device == "cuda" else []),
    ]


def benchmark_inference(
    configs: Path, device: str, rounds: int, compiled: bool = False
) -> list[dict[str, Any]]:
    """Time the detector in testing.

    Args:
        configs: the folder of configs.
        device: "cpu" or "cuda".
        rounds: how often.
        compiled: add the variants with torch.compile.

    Returns:
        rows, see :func:`fpn_d2.benchmark.measure.row`.
    """
    _, ours, stock = _models(configs, device)
    ours.eval(), stock.eval()
    inputs = [_image(0, with_objects=False)]
    ready = {v: prepare_model(ours, precision=PRECISIONS[v]) for v in variants_of(device)}
    if compiled:
        both = {f"{v} compiled": (v, PRECISIONS[v]) for v in ready}
        ready |= {k: prepare_model(ours, precision=p, compile=True) for k, (_, p) in both.items()}
    contestants: dict[str, Callable[[], Any]] = {"detectron2": call_without_grad(stock, inputs)}
    if device == "cuda":
        contestants["detectron2 AMP"] = call_without_grad(_in_autocast(stock), inputs)
    contestants |= {name: call_without_grad(model, inputs) for name, model in ready.items()}
    contestants |= _others(device) if is_timed_here(memory_kept=False) else {}
    kept = {*ready}
    if device == "cpu":
        contestants[_STOCK_KEPT] = contestants["detectron2"]
        kept.add(_STOCK_KEPT)
    timings = compare(contestants, rounds, device, kept)
    errors = {name: head_errors(stock, model, inputs)[1] for name, model in ready.items()}
    flops = _flops(stock, inputs)
    rates = {v: matmul_rate(DTYPES[v], device) for v in variants_of(device)}
    rows = []
    for name in ready:
        variant = name.split()[0]
        share = flops / timings[name].seconds / rates[variant]
        for baseline, timing in timings.items():
            if baseline in ready or not _comparable(baseline, variant):
                continue
            error = errors[name] if baseline == "detectron2" else None
            more = {"share_of_matmul": round(share, 2)}
            label = baseline.removesuffix(f" {variant}")
            rows.append(row("inference", name, timings[name], label, timing, error, **more))
    return rows


def benchmark_training(
    configs: Path, device: str, rounds: int, compiled: bool = False
) -> list[dict[str, Any]]:
    """Time a training step of two images; see :func:`benchmark_inference`."""
    cfg, ours, stock = _models(configs, device)
    inputs = [_image(seed, with_objects=True) for seed in (1, 2)]
    variants = [v for v in variants_of(device) if v != "fp16"]
    variants += [f"{v} compiled" for v in variants] if compiled else []
    contestants = {}
    for name in ("detectron2", *variants):
        model = copy.deepcopy(stock if name == "detectron2" else ours).train()
        if name.endswith("compiled"):
            compile_backbone(model)
        dtype = DTYPES["bf16"] if name.startswith("bf16") else None
        contestants[name] = training_step(cfg, model, inputs, dtype)
    if device == "cuda":
        amp = copy.deepcopy(stock).train()
        contestants["detectron2 AMP"] = training_step(cfg, amp, inputs, torch.float16)
    kept = {*variants}
    if device == "cpu":
        contestants[_STOCK_KEPT] = contestants["detectron2"]
        kept.add(_STOCK_KEPT)
    timings = compare(contestants, rounds, device, kept)
    rows = []
    for name in variants:
        # the first step, before weights differ
        error = abs(timings[name].first / timings["detectron2"].first - 1)
        for baseline in contestants:
            if baseline.startswith("detectron2"):
                timing = timings[baseline]
                rows.append(row("training", name, timings[name], baseline, timing, error))
    return rows


def _models(configs: Path, device: str) -> tuple[CfgNode, nn.Module, nn.Module]:
    """The config, our model and Detectron2's on the same weights."""
    opts = ["MODEL.DEVICE", device, "MODEL.WEIGHTS", ""]
    torch.manual_seed(0)
    cfg = load_config(configs / CONFIG, opts)
    ours = Trainer.build_model(cfg.clone()) if device == "cpu" else build_model(cfg.clone())
    stock = build_model(load_config(configs / CONFIG, [*opts, *STOCK]).clone())
    stock.load_state_dict(ours.state_dict())
    return cfg, ours, stock


def _image(seed: int, with_objects: bool) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, HEIGHT, WIDTH), generator=generator, dtype=torch.uint8)
    record = {"image": image, "height": HEIGHT, "width": WIDTH}
    if with_objects:
        record["instances"] = random_objects(8, HEIGHT, WIDTH, generator)
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


def call_without_grad(model: Callable[[Any], Any], inputs: Any) -> Callable[[], Any]:
    """A model's inference on its inputs as a call."""

    def call() -> Any:
        with torch.no_grad():
            return model(inputs)

    return call


def _in_autocast(model: nn.Module) -> Callable[[Any], Any]:
    def call(inputs: Any) -> Any:
        with torch.autocast("cuda", torch.float16):
            return model(inputs)

    return call


def training_step(
    cfg: CfgNode,
    model: nn.Module,
    inputs: list[dict[str, Any]],
    dtype: torch.dtype | None,
) -> Callable[[], float]:
    """A training step as a call that returns its loss, at a learning rate that changes nothing.

    Args:
        cfg: its solver's.
        model: in training mode.
        inputs: a batch, as models of Detectron2 take it.
        dtype: of autocast; None for float32.
    """
    optimizer = build_optimizer(cfg, model)
    for group in optimizer.param_groups:
        group["lr"] = 1e-9  # random weights would diverge at the recipe's rate
    device = next(model.parameters()).device.type
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)

    def step() -> float:
        torch.manual_seed(7)  # of the samples
        with EventStorage(), torch.autocast(device, dtype, enabled=dtype is not None):
            loss = sum(model(inputs).values())
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return float(loss.detach())

    return step


@torch.no_grad()
def head_errors(
    stock: nn.Module, ready: PreparedModel, inputs: list[dict[str, Any]]
) -> tuple[float, float]:
    """The largest difference of the box head's scores and deltas on the same proposals: as it is,
    and as a share of the largest value of each."""
    images = stock.preprocess_image(inputs)
    features = stock.backbone(images.tensor)
    proposals, _ = stock.proposal_generator(images, features)
    expected = _head_outputs(stock, features, proposals)
    device = images.tensor.device.type
    with torch.autocast(device, ready.dtype, enabled=ready.dtype is not None):
        found = _head_outputs(ready.model, ready.model.backbone(images.tensor), proposals)
    errors = [float((a.float() - b).abs().max()) for a, b in zip(found, expected, strict=True)]
    shares = [e / float(b.abs().max()) for e, b in zip(errors, expected, strict=True)]
    return max(errors), max(shares)


def _head_outputs(
    model: nn.Module, features: dict[str, Tensor], proposals: list[Instances]
) -> tuple[Tensor, Tensor]:
    """A detector's class scores and box deltas of proposals, before softmax and decoding."""
    heads = model.roi_heads
    levels = [features[name] for name in heads.box_in_features]
    pooled = heads.box_pooler(levels, [p.proposal_boxes for p in proposals])
    return heads.box_predictor(heads.box_head(pooled))


def _flops(model: nn.Module, inputs: list[dict[str, Any]]) -> int:
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(inputs)
    return counter.get_total_flops()


# --- what else a user would pick


def _comparable(baseline: str, variant: str) -> bool:
    """Exported models are compared in the same precision."""
    words = baseline.split()
    return words[0] not in ("onnxruntime", "openvino") or words[1] == variant


def _others(device: str) -> dict[str, Callable[[], Any]]:
    """torchvision's detector, and on CPUs what runs its exported form, where installed."""
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    torch.manual_seed(0)
    model = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).eval().to(device)
    image = _image(0, with_objects=False)["image"].to(device) / 255
    found: dict[str, Callable[[], Any]] = {"torchvision": call_without_grad(model, [image])}
    if device != "cpu":
        return found
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.onnx")
        for make in (_onnxruntime, _openvino):
            try:
                if not os.path.isfile(path):
                    torch.onnx.export(model, ([image],), path, opset_version=17, dynamo=False)
                found |= make(path, image.numpy())
            except Exception as error:  # of whatever is not installed, or not able to
                first = str(error).splitlines()[0] if str(error) else type(error).__name__
                logger.info("not compared with %s: %s", make.__name__.lstrip("_"), first)
    return found


def _onnxruntime(path: str, image: np.ndarray) -> dict[str, Callable[[], Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: image}
    return {"onnxruntime fp32": lambda: session.run(None, inputs)}


def _openvino(path: str, image: np.ndarray) -> dict[str, Callable[[], Any]]:
    import openvino

    graph, found = openvino.convert_model(path), {}
    hints = {"fp32": "f32"} | ({"bf16": "bf16"} if has_bfloat16("cpu") else {})
    for variant, hint in hints.items():
        threads = torch.get_num_threads()
        settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads}
        compiled = openvino.compile_model(graph, "CPU", settings)
        found[f"openvino {variant}"] = lambda compiled=compiled: compiled([image])
    return found
