"""Faster R-CNN R-50 FPN in testing, ours beside stock Detectron2's, torchvision's and its exports.

The input is 800 x 1088 after padding, with 1000 proposals; see ``networks``.
"""

import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..inference import PreparedModel, prepare_model
from ..utils.devices import has_bfloat16
from .measure import compare, is_timed_here, keeps_memory, row
from .networks import SIZE, Networks, build_networks, image_record, output_of
from .precisions import PRECISIONS, matmul_rates, variants_of

__all__ = [
    "STOCK_KEPT",
    "benchmark_inference",
    "call_without_grad",
    "count_flops",
    "count_proposals",
    "feature_error",
    "head_errors",
]

logger = logging.getLogger(__name__)

# Stock Detectron2 in a process that keeps freed memory, as this package's programs do.
STOCK_KEPT = "detectron2, memory kept"


def benchmark_inference(
    configs: Path,
    device: str,
    rounds: int,
    compiled: bool = False,
    size: tuple[int, int] = SIZE,
) -> list[dict[str, Any]]:
    """Time the detector in testing.

    Args:
        configs: the folder of configs.
        device: "cpu" or "cuda".
        rounds: how often.
        compiled: add the variants with torch.compile.
        size: of the image.

    Returns:
        rows, see :func:`fpn_d2.benchmark.measure.row`; ``max_error`` is of the box head's outputs
        on the same proposals, beside torchvision of the pyramid's features, as pooling differs.
    """
    networks = build_networks(configs, device, size)
    inputs = [image_record(0, size)]
    variants = variants_of(device)
    ready = {v: prepare_model(networks.ours, precision=PRECISIONS[v]) for v in variants}
    if compiled:
        ready |= {
            f"{v} compiled": prepare_model(networks.ours, precision=PRECISIONS[v], compile=True)
            for v in variants
        }
    stock = call_without_grad(networks.stock, inputs)
    contestants: dict[str, Callable[[], Any]] = {"detectron2": stock}
    if device == "cuda":
        amp = _in_autocast(networks.stock)
        contestants["detectron2 AMP"] = call_without_grad(amp, inputs)
    contestants |= {name: call_without_grad(model, inputs) for name, model in ready.items()}
    if is_timed_here(memory_kept=False):
        contestants |= _others(networks, inputs[0]["image"] / 255, device)
    kept = {*ready}
    if keeps_memory():
        contestants[STOCK_KEPT] = stock
        kept.add(STOCK_KEPT)
    timings = compare(contestants, rounds, device, kept)
    rates = matmul_rates(device)
    if not is_timed_here(memory_kept=False):
        return []
    flops, rows = count_flops(stock), []
    counts = {"proposals": count_proposals(networks.stock, inputs)}
    for name, model in ready.items():
        variant = name.split()[0]
        error = head_errors(networks.stock, model, inputs)[1]
        share = flops / timings[name].seconds / rates[variant]
        for baseline, timing in timings.items():
            if baseline not in ready and _comparable(baseline, variant):
                known = error if baseline.startswith("detectron2") else None
                if baseline == "torchvision":
                    # of the one that is not compiled, whose backbone takes no hook
                    known = feature_error(
                        ready[variant].model,
                        networks.torchvision,
                        contestants[variant],
                        contestants[baseline],
                    )
                label = baseline.removesuffix(f" {variant}")
                rows.append(
                    row("inference", name, timings[name], label, timing, known, share, **counts)
                )
    return rows


def call_without_grad(model: Callable[[Any], Any], inputs: Any) -> Callable[[], Any]:
    """A model's inference as a call.

    Args:
        model: in eval mode.
        inputs: what it takes.
    """

    def call() -> Any:
        with torch.no_grad():
            return model(inputs)

    return call


def _in_autocast(model: nn.Module) -> Callable[[Any], Any]:
    def call(inputs: Any) -> Any:
        with torch.autocast("cuda", torch.float16):
            return model(inputs)

    return call


def feature_error(
    ours: nn.Module,
    theirs: nn.Module,
    call: Callable[[], Any],
    their_call: Callable[[], Any],
) -> float:
    """The largest difference of a backbone's features, as a share of the largest value of each.

    Args:
        ours, theirs: detectors of the same weights with a ``backbone``.
        call, their_call: which run them on the same image.
    """
    found, expected = output_of(ours.backbone, call), output_of(theirs.backbone, their_call)
    pairs = zip(found.values(), expected.values(), strict=True)
    return max(float((a.float() - b).abs().max() / b.abs().max()) for a, b in pairs)


@torch.no_grad()
def head_errors(
    stock: nn.Module, ready: PreparedModel, inputs: list[dict[str, Any]]
) -> tuple[float, float]:
    """The largest difference of the box head's scores and deltas on the same proposals.

    Args:
        stock: in eval mode.
        ready: of the same weights, prepared.
        inputs: a batch, as models of Detectron2 take it.

    Returns:
        the difference, and the largest one as a share of the largest value of each output.
    """
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


@torch.no_grad()
def count_proposals(model: nn.Module, inputs: list[dict[str, Any]]) -> int:
    """How many proposals reach a detector's box head.

    Args:
        model: in eval mode.
        inputs: a batch, as models of Detectron2 take it.
    """
    images = model.preprocess_image(inputs)
    proposals, _ = model.proposal_generator(images, model.backbone(images.tensor))
    return sum(map(len, proposals))


def count_flops(call: Callable[[], Any]) -> int:
    """The floating-point operations of a call's convolutions and matrix products.

    Args:
        call: of inference or of a training step.
    """
    counter = FlopCounterMode(display=False)
    with counter:
        call()
    return counter.get_total_flops()


# --- what else a user would pick


def _comparable(baseline: str, variant: str) -> bool:
    """Exported models are compared in the same precision."""
    words = baseline.split()
    return words[0] not in ("onnxruntime", "openvino") or words[1] == variant


def _others(networks: Networks, image: Tensor, device: str) -> dict[str, Callable[[], Any]]:
    """torchvision's detector, and on CPUs what runs its exported form, where installed."""
    model, image = networks.torchvision, image.to(device)
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
                logger.warning("not compared with %s: %s", make.__name__.lstrip("_"), first)
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
