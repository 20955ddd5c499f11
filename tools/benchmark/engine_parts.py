"""The dense parts of the detector by PyTorch and by OpenVINO, which decide what runs where."""

import torch
from torch import Tensor

from fpn_d2.inference import prepare_model
from fpn_d2.inference.openvino_parts import LevelsPart, compile_graph, convert, example_inputs
from fpn_d2.inference.quantization import quantize_part

from .contest import Comparison, Comparisons, make_row
from .detectors import call_without_grad
from .differences import largest_share
from .networks import SIZE, build_networks, image_record
from .precisions import prepared_variants_of

_PROPOSALS = 1000


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
        x = _input(part, model, example, size)
        graph = convert(part, example)
        is_image = isinstance(part, LevelsPart)
        calls = {"torch": call_without_grad(part, x)}
        for precision, chosen in (("float32", graph), ("int8", quantize_part(part, graph, [x]))):
            for label, count in (("any size", 0), ("one size", 1)) if is_image else (("", 0),):
                run = compile_graph(chosen.clone(), precision, is_image=is_image, fixed_sizes=count)
                calls[f"{part.name} {precision} {label}".strip()] = call_without_grad(run, x)
        timings = yield Comparison(calls, kept=list(calls))
        expected = calls["torch"]()
        for name in calls if timings else []:
            if name != "torch":
                error = largest_share(calls[name](), expected)
                names = {"ours": name, "baseline": "torch"}
                rows.append(make_row("parts", name, timings, error, **names))
    return rows


def _input(part: object, model: torch.nn.Module, example: Tensor, size: tuple[int, int]) -> Tensor:
    """The detector's network input, or noise in the place of a thousand pooled RoIs."""
    if isinstance(part, LevelsPart):
        return model.preprocess_image([image_record(0, size)]).tensor
    generator = torch.Generator().manual_seed(0)
    rois = torch.rand(_PROPOSALS, *example.shape[1:], generator=generator)
    return rois.contiguous(memory_format=torch.channels_last)
