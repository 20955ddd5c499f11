"""Faster R-CNN R-50 FPN, ours beside stock Detectron2's, torchvision's and the latter's exports.

The image has 800 x 1088 px after padding, and a thousand proposals reach the box head; see
``networks``.
"""

import copy
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fpn_d2.export import load_exported
from fpn_d2.inference import compile_backbone, prepare_model
from fpn_d2.inference.openvino_parts import (
    LevelsPart,
    Part,
    compile_graph,
    convert,
    cpu_settings,
    example_inputs,
    openvino_core,
)
from fpn_d2.inference.quantization import quantize, quantize_part

from .contest import Comparison, Comparisons, keeps_memory, make_row
from .differences import feature_error, head_errors, largest_share, loss_error
from .networks import SIZE, build_networks, image_record, output_of
from .precisions import (
    PRECISIONS,
    autocast_dtype,
    choices_of,
    matmul_rates,
    prepared_variants_of,
    variants_of,
)

_CALIBRATION_IMAGES = 4  # of noise, which is all alike

Calls = dict[str, Callable[[], Any]]

logger = logging.getLogger(__name__)


def benchmark_inference(
    device: str, compiled: bool = False, size: tuple[int, int] = SIZE
) -> Comparisons:
    """Compare the detector's inference on an image.

    ``max_error`` is the box head's on the same proposals; beside torchvision, which pools
    differently, it is that of the pyramid's features. ``compiled`` adds variants with
    torch.compile. int8, which only OpenVINO has, is also compared with this package's other
    precisions; it is calibrated on four images.
    """
    networks = build_networks(device, size)
    inputs = [image_record(0, size)]
    calibration = [image_record(seed, size) for seed in range(_CALIBRATION_IMAGES)]
    ready = {
        name: prepare_model(networks.ours, calibration=calibration, **choices_of(name))
        for name in prepared_variants_of(device)
    }
    if compiled:
        ready |= {
            f"{name} compiled": prepare_model(networks.ours, compile=True, **choices_of(name))
            for name in variants_of(device)
        }
    calls: Calls = {"detectron2": call_without_grad(networks.stock, inputs)}
    if device == "cuda":
        calls["detectron2 AMP"] = torch.autocast("cuda", torch.float16)(calls["detectron2"])
    calls |= {name: call_without_grad(model, inputs) for name, model in ready.items()}
    if not keeps_memory():
        calls |= _others(networks.torchvision, inputs[0]["image"] / 255, device)

    timings = yield Comparison(calls, kept=ready, both=["detectron2"])
    if timings is None:
        return []
    rows, rates, flops = [], matmul_rates(device), _count_flops(calls["detectron2"])
    proposals, _ = output_of(networks.stock.proposal_generator, calls["detectron2"])
    for name, model in ready.items():
        variant = name.split()[0]
        share = flops / timings[name].seconds / rates[variant] if variant in rates else None
        head_error = head_errors(networks.stock, model, inputs)[1]
        for baseline in timings:
            if not _is_comparable(baseline, variant, baseline in ready):
                continue
            error = head_error if baseline.startswith("detectron2") else None
            if baseline == "torchvision":
                # With the variant that is not compiled: torch.compile skips hooks.
                plain = variant if variant in ready else name
                models = ready[plain].model, networks.torchvision
                error = feature_error(*models, calls[plain], calls[baseline])
            names = {"ours": name, "baseline": baseline, "proposals": len(proposals[0])}
            row = make_row("inference", name, timings, error, share, **names)
            rows.append({**row, "baseline": baseline.removesuffix(f" {variant}")})
    return rows


def _is_comparable(baseline: str, variant: str, is_ours: bool = False) -> bool:
    """Exported models are compared in the same precision only, and ours with ours for int8."""
    words = baseline.split()
    if is_ours:
        return variant == "int8" and words[0] != "int8"
    return words[0] not in ("onnxruntime", "openvino") or words[1] == variant


def call_without_grad(model: Callable[[Any], Any], inputs: Any) -> Callable[[], Any]:
    """Turn the inference of a model in eval mode into a call without arguments."""
    return torch.no_grad()(lambda: model(inputs))


def _count_flops(call: Callable[[], Any]) -> int:
    """Count the FLOPs of a call's convolutions and matrix products, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def _others(model: nn.Module, image: Tensor, device: str) -> Calls:
    """Return torchvision's call, and on CPUs those of installed programs that run its export."""
    image = image.to(device)
    calls: Calls = {"torchvision": call_without_grad(model, [image])}
    if device != "cpu":
        return calls
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.onnx")
        for make in (_onnxruntime, _openvino):
            try:
                if not os.path.isfile(path):
                    options = {"input_names": ["image"], "opset_version": 17, "dynamo": False}
                    torch.onnx.export(model, ([image],), path, **options)
                calls |= make(path, image)
            except Exception as error:  # whatever is not installed, or not able to run the model
                reason = (str(error) or type(error).__name__).splitlines()[0]
                logger.warning("not compared with %s: %s", make.__name__.lstrip("_"), reason)
    return calls


def _onnxruntime(path: str, image: Tensor) -> Calls:
    run = load_exported(Path(path).read_bytes(), "onnx")
    return {"onnxruntime fp32": lambda: run({"image": image})}


def _openvino(path: str, image: Tensor) -> Calls:
    import openvino

    graph, calls = openvino.convert_model(path), {}
    variants = {variant.split()[0]: graph for variant in prepared_variants_of("cpu")}
    if "int8" in variants:  # calibrated as ours are; all of its outputs rank or place boxes
        size = image.shape[-2:]
        samples = [image_record(seed, size)["image"] / 255 for seed in range(_CALIBRATION_IMAGES)]
        variants["int8"] = quantize(graph, samples, keep_first=True, last_outputs=range(3))
    for variant, graph in variants.items():
        settings = cpu_settings(PRECISIONS[variant])
        compiled = openvino_core().compile_model(graph, "CPU", settings)
        calls[f"openvino {variant}"] = lambda compiled=compiled: compiled([image.numpy()])
    return calls


def benchmark_parts(device: str, size: tuple[int, int] = SIZE) -> Comparisons:
    """Compare each part, in float32 and int8, compiled for any size of input and for this one.

    ``variant`` names the part and how OpenVINO runs it; the baseline is PyTorch in float32, and
    ``max_error`` is of the part's outputs. Without openvino and nncf there are no rows.
    """
    if "int8 by openvino" not in prepared_variants_of(device):
        return []
    networks = build_networks(device, size)
    model = prepare_model(networks.ours).model
    rows = []
    for part, example in example_inputs(model, "int8").items():
        x = _part_input(part, model, example, size)
        graph = convert(part, example)
        is_image = isinstance(part, LevelsPart)
        calls = {"torch": call_without_grad(part, x)}
        for precision, chosen in (("float32", graph), ("int8", quantize_part(part, graph, [x]))):
            for label, count in (("any size", 0), ("one size", 1)) if is_image else (("", 0),):
                run = compile_graph(chosen, precision, is_image=is_image, fixed_sizes=count)
                calls[f"{part.name} {precision} {label}".strip()] = call_without_grad(run, x)
        timings = yield Comparison(calls, kept=list(calls))
        expected = calls["torch"]()
        for name in calls if timings else []:
            if name != "torch":
                error = largest_share(calls[name](), expected)
                names = {"ours": name, "baseline": "torch"}
                rows.append(make_row("parts", name, timings, error, **names))
    return rows


def _part_input(part: Part, model: nn.Module, example: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the detector's network input, or noise in place of a thousand pooled RoIs."""
    if isinstance(part, LevelsPart):
        return model.preprocess_image([image_record(0, size)]).tensor
    generator = torch.Generator().manual_seed(0)
    rois = torch.rand(1000, *example.shape[1:], generator=generator)
    return rois.contiguous(memory_format=torch.channels_last)


def benchmark_training(
    device: str, compiled: bool = False, size: tuple[int, int] = SIZE
) -> Comparisons:
    """Compare a training step of two images with 8 objects each.

    ``max_error`` is :func:`benchmark.differences.loss_error`. ``compiled`` adds variants with
    torch.compile.
    """
    networks = build_networks(device, size)
    inputs = [image_record(seed, size, objects=8) for seed in (1, 2)]
    variants = [variant for variant in variants_of(device) if variant != "fp16"]
    variants += [f"{variant} compiled" for variant in variants] if compiled else []
    dtypes = {"detectron2": None, **{name: autocast_dtype(name) for name in variants}}
    if device == "cuda":
        dtypes["detectron2 AMP"] = torch.float16
    models, calls = {}, {}
    for name, dtype in dtypes.items():
        model = copy.deepcopy(networks.ours if name in variants else networks.stock).train()
        if name.endswith("compiled"):
            compile_backbone(model)
        models[name], calls[name] = model, training_step(networks.cfg, model, inputs, dtype)

    timings = yield Comparison(calls, kept=variants, both=["detectron2"])
    if timings is None:
        return []
    rows, rates, stock = [], matmul_rates(device), models["detectron2"]
    flops = 2 * _count_flops(training_step(networks.cfg, stock, inputs[:1], None))
    for name in variants:
        error = loss_error(models[name], dtypes[name], stock, inputs)
        share = flops / timings[name].seconds / rates[name.split()[0]]
        for baseline in timings:
            if baseline not in variants:
                names = {"ours": name, "baseline": baseline}
                rows.append(make_row("training", name, timings, error, share, **names))
    return rows


def training_step(
    cfg: CfgNode, model: nn.Module, inputs: list[dict[str, Any]], dtype: torch.dtype | None
) -> Callable[[], float]:
    """Turn a training step into a call that returns its loss and leaves the weights as they are.

    Args:
        cfg, model: the model, in training mode, and its config, which decides the optimizer.
        inputs: a batch as models of Detectron2 take it.
        dtype: the dtype of autocast; None for float32.
    """
    optimizer = build_optimizer(cfg, model)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    device = next(model.parameters()).device.type
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)

    def step() -> float:
        torch.manual_seed(7)  # decides the samples
        with EventStorage(), torch.autocast(device, dtype, enabled=dtype is not None):
            loss = sum(model(inputs).values())
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return float(loss.detach())

    return step
