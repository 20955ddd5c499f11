"""The dense parts of a detector, compiled by OpenVINO for images of any size.

    backbone and heads    the bottom-up network, the pyramid and the head that reads its levels (of
                          an RPN, a RetinaNet, mask proposals): one graph, because each map that
                          leaves a graph is copied
    RoI heads             C4's res5 stage, the convolutions of mask and keypoint heads; in int8 also
                          the box head's hidden layers. In float32 PyTorch multiplies their large
                          matrices faster
    the rest              anchors, NMS, Eq. 1, pooling and the layers that rank boxes: PyTorch

The modules stay in place; a graph is called instead of one of their methods.

Shape shorthand: N images of H x W pixels, R RoIs, C channels.
"""

import contextlib
import functools
import importlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.modeling import Backbone
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from ..modeling import MaskProposalNetwork
from ..utils.errors import UserError, reason_of
from ..utils.modules import overridden

_PRECISION_HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}
_REMEDY = "take INFERENCE.ENGINE torch"
_MOST_ROIS = 16  # of a calibration image
# A graph for one image size is faster than the one for any size, most of all in int8 (python
# tools/benchmark.py --tasks parts), but takes as much memory again. So the first sizes get theirs.
_FIXED_SIZES = 2

Run = Callable[[Tensor], list[Tensor]]


class Part(nn.Module):
    """A part of a detector that becomes a graph, from a tensor to a tuple of tensors.

    Args:
        name: its name in the log and in the file of quantized graphs.
        owner, method: the module, and the name of the method to replace, which takes one tensor.
        num_last: how many of the outputs, counted from the end, rank boxes or make masks.
    """

    def __init__(self, name: str, owner: nn.Module, method: str, num_last: int = 0):
        super().__init__()
        self.name, self.owner, self.method, self.num_last = name, owner, method, num_last
        self.eager = getattr(owner, method)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        return (self.eager(x),)

    def attach(self, run: Run) -> None:
        """Replace the method by a function that runs the graph."""
        eager = self.eager
        # OpenVINO need not take an empty batch. Detectron2 keeps a keypoint head's maps, which the
        # graph's next call would overwrite.
        setattr(self.owner, self.method, lambda x: run(x)[0].clone() if len(x) else eager(x))


class LevelsPart(Part):
    """The backbone and the head on its levels: (N, C, H, W) to maps, the backbone's first.

    Once attached, the backbone computes the head's outputs as well, and the head returns them. Call
    the module once before it is attached: the call records the number of its outputs.
    """

    def __init__(self, model: nn.Module):
        """``model`` is the detector."""
        super().__init__("backbone", model.backbone, "forward")
        self.names: list[str] = []
        self.num_lists = 0
        self.head: nn.Module | None = None
        self.read: list[str] = []
        generator = getattr(model, "proposal_generator", None)
        self.has_masks = isinstance(model, MaskProposalNetwork)
        if self.has_masks:
            self.head, self.read = generator.head, list(generator.in_features)
        elif isinstance(generator, RPN):
            self.head, self.read = generator.rpn_head, list(generator.in_features)
        elif isinstance(model, DenseDetector):
            self.head = model.head
            self.read = list(model.head_in_features or model.backbone.output_shape())

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        features = self.eager(image)
        self.names = list(features)
        levels = [features[name] for name in self.read]
        if self.head is None:
            return tuple(features.values())
        if self.has_masks:
            mlps = range(len(self.head.mlps))
            hidden = [[self.head.hidden(level, i) for level in levels] for i in mlps]
            lists = [*hidden, *([self.head.scores(x, i) for x in hidden[i]] for i in mlps)]
            self.num_last = len(mlps) * len(levels)
        else:
            lists = self.head(levels)
            self.num_last = len(lists) * len(levels)
        self.num_lists = len(lists)
        return (*features.values(), *(x for one in lists for x in one))

    def attach(self, run: Run) -> None:
        """See :meth:`Part.attach`; the head's methods are replaced, too."""
        levels: list[Tensor] = []
        lists: list[list[Tensor]] = []  # the head's outputs, each with a map per level

        def backbone(image: Tensor) -> dict[str, Tensor]:
            found = run(image)
            features = dict(zip(self.names, found, strict=False))
            levels[:] = [features[name] for name in self.read]
            first, step = len(features), len(levels)
            lists[:] = [found[first + i * step :][:step] for i in range(self.num_lists)]
            return features

        def head(features: list[Tensor]) -> tuple[list[Tensor], ...]:
            is_known = [*map(id, features)] == [*map(id, levels)]
            return tuple(lists) if is_known else eager_head(features)

        def hidden(level: Tensor, mlp: int) -> Tensor:
            i = _index(levels, level)
            return eager_hidden(level, mlp) if i is None else lists[mlp][i]

        def scores(units: Tensor, mlp: int) -> Tensor:
            i = _index(lists[mlp], units)
            return eager_scores(units, mlp) if i is None else lists[self.num_lists // 2 + mlp][i]

        self.owner.forward, self.owner.eager_forward = backbone, self.eager
        if self.has_masks:
            eager_hidden, eager_scores = self.head.hidden, self.head.scores
            self.head.hidden, self.head.scores = hidden, scores
        elif self.head is not None:
            eager_head = self.head.forward
            self.head.forward = head


def _index(tensors: Sequence[Tensor], tensor: Tensor) -> int | None:
    return next((i for i, known in enumerate(tensors) if known is tensor), None)


def parts_of(model: nn.Module, precision: str) -> list[Part]:
    """Find a detector's dense parts; the module's docstring lists them.

    Args:
        model: a detector of this package or of Detectron2, in eval mode.
        precision: "float32", "bfloat16" or "int8".

    Raises:
        UserError: for a model without a backbone.
    """
    if not isinstance(getattr(model, "backbone", None), Backbone):
        raise UserError(
            f"OpenVINO cannot take a {type(model).__name__}, which has no backbone of "
            f"Detectron2's; {_REMEDY}"
        )
    heads = getattr(model, "roi_heads", None)
    parts: list[Part] = [LevelsPart(model)]
    if isinstance(getattr(heads, "res5", None), nn.Module):
        parts.append(Part("res5", heads.res5, "forward"))
    box_head = getattr(heads, "box_head", None) if precision == "int8" else None
    stages = list(box_head) if isinstance(box_head, nn.ModuleList) else [box_head]  # of a cascade
    for i, stage in enumerate(stages, start=1):
        if isinstance(stage, nn.Module):
            parts.append(Part(f"box_head{i if len(stages) > 1 else ''}", stage, "forward"))
    for name in ("mask_head", "keypoint_head"):
        if callable(getattr(getattr(heads, name, None), "layers", None)):
            parts.append(Part(name, getattr(heads, name), "layers", num_last=1))
    return parts


# --- the inputs of parts


@torch.no_grad()
def example_inputs(model: nn.Module, precision: str) -> dict[Part, Tensor]:
    """Find the dense parts that a model calls, and make a small input for each.

    Args:
        model: a detector of this package or of Detectron2, in eval mode.
        precision: "float32", "bfloat16" or "int8".
    """
    parts = parts_of(model, precision)
    side = 128
    proposals = Instances((side, side), proposal_boxes=Boxes(torch.tensor([[4.0, 4.0, 60.0, 60]])))
    proposals.objectness_logits = torch.zeros(1)
    generator = torch.Generator().manual_seed(0)
    channels = len(model.pixel_mean)
    image = torch.randint(0, 256, (channels, side, side), generator=generator).float()
    record = {"image": image, "height": side, "width": side, "proposals": proposals}
    inputs = record_inputs(model, parts, [record])
    called = {part: inputs[part.name][0] for part in parts if inputs[part.name]}
    examples = {part: torch.zeros(1, *x.shape[1:]) for part, x in called.items()}
    for part, example in examples.items():
        part(example)  # records the number of its outputs
    return examples


@torch.no_grad()
def record_inputs(
    model: nn.Module, parts: Iterable[Part], records: Iterable[dict[str, Any]]
) -> dict[str, list[Tensor]]:
    """Run a model on images, and return what each part was given.

    Args:
        model: the detector that the parts belong to, with nothing attached.
        parts: from :func:`parts_of`.
        records: images as models of Detectron2 take them.

    Returns:
        the inputs of all calls, by the part's name: (N, C, H, W) images, or at most 16 RoIs per
        call (R, C, h, w), evenly spaced; float16 where that holds the values, since there are many.
    """
    found: dict[str, list[Tensor]] = {part.name: [] for part in parts}

    def recorder(part: Part) -> Run:
        def call(x: Tensor) -> Any:
            is_image = isinstance(part, LevelsPart)
            chosen = x if is_image else x[:: max(1, -(-len(x) // _MOST_ROIS))]
            small = chosen.half()
            found[part.name].append(small if small.isfinite().all() else chosen.clone())
            return part.eager(x)

        return call

    with contextlib.ExitStack() as stack:
        for part in parts:
            stack.enter_context(overridden(part.owner, **{part.method: recorder(part)}))
        for record in records:
            model([record])
    return found


# --- graphs


@torch.no_grad()
def convert(part: Part, example: Tensor) -> Any:
    """Convert a part to an OpenVINO model for any batch size and, of images, any height and width.

    Args:
        part: from :func:`parts_of`.
        example: an input of the part.

    Raises:
        UserError: if OpenVINO is not installed, or lacks an operation of the part.
    """
    openvino = require("openvino")
    free = [0, 2, 3] if isinstance(part, LevelsPart) else [0]
    shape = [-1 if i in free else side for i, side in enumerate(example.shape)]
    try:
        # The converter needs graphs without calls; after a training on a CPU they would have some.
        with quietly(), torch.jit.optimized_execution(True):
            # Without the check, which traces twice more, and PyTorch keeps the weights of each.
            decoder = importlib.import_module("openvino.frontend.pytorch.ts_decoder")
            traced = decoder.TorchScriptPythonDecoder(
                part, example_input=example, trace_kwargs={"check_trace": False}
            )
            return openvino.convert_model(traced, example_input=example, input=[shape])
    except Exception as error:  # from the trace, or from any operation
        reason = reason_of(error)
        raise UserError(f"OpenVINO cannot take the {part.name} ({reason}); {_REMEDY}") from error


def compile_graph(
    graph: Any,
    precision: str,
    *,
    is_image: bool,
    num_last: int = 0,
    fixed_sizes: int = _FIXED_SIZES,
) -> Run:
    """Compile an OpenVINO model for this processor, with as many threads as PyTorch has.

    Args:
        graph: the model, which has one input.
        precision: "float32", "bfloat16" or, for a quantized graph, "int8".
        is_image: whether the input is images, channels-first; RoIs come channels-last.
        num_last: see :class:`Part`; these outputs are float32 even in bfloat16.
        fixed_sizes: how many image sizes, the first ones, get a graph of their own.

    Returns:
        a function from a tensor to the outputs, with maps channels-last as pooling reads them; the
        next call overwrites them.
    """
    openvino = require("openvino")
    graph = graph.clone()  # a change of layouts changes the graph
    if precision == "int8":
        part_from_readers(result.input(0) for result in graph.get_results())
    steps = openvino.preprocess.PrePostProcessor(graph)
    first, last = openvino.Layout("NCHW"), openvino.Layout("NHWC")
    maps = [output.partial_shape.rank.get_length() == 4 for output in graph.outputs]
    ports = [steps.output(i) for i, is_map in enumerate(maps) if is_map]
    if precision == "bfloat16":  # the pooling reads it faster
        for i in range(len(maps) - num_last):
            steps.output(i).tensor().set_element_type(openvino.Type.bf16)
    for port in ports if is_image else [*ports, steps.input()]:
        port.model().set_layout(first)
        port.tensor().set_layout(last)
    settings = cpu_settings(precision) | {
        "PERFORMANCE_HINT": "LATENCY",
        # PyTorch's threads take turns on the same cores, so no thread may be tied to one.
        "ENABLE_CPU_PINNING": False,
    }
    ready = steps.build()
    compiled: dict[tuple[int, ...] | None, Any] = {}  # by size; None is any size

    def compiled_for(shape: tuple[int, ...]) -> Any:
        if shape not in compiled and (not is_image or len(compiled) >= fixed_sizes):
            shape = None
        if shape not in compiled:
            graph = ready
            if shape is not None:
                graph = ready.clone()
                graph.reshape(shape)
            compiled[shape] = openvino_core().compile_model(graph, "CPU", settings)
        return compiled[shape]

    def run(x: Tensor) -> list[Tensor]:
        x = (x.float() if is_image else x.float().permute(0, 2, 3, 1)).contiguous()
        graph = compiled_for(tuple(x.shape))
        found = graph(x.numpy(), share_inputs=True, share_outputs=True)
        outputs = [_tensor_of(found[i]) for i in range(len(maps))]
        return [y.permute(0, 3, 1, 2) if m else y for y, m in zip(outputs, maps, strict=True)]

    return run


def part_from_readers(inputs: Iterable[Any]) -> None:
    """Let inputs of nodes of a quantized graph be reshaped to the shape that they have.

    Where a map is also read in floating point, as the pyramid's are by the outputs or the pooling,
    OpenVINO's graph for any size may give its other readers, such as the head, integers without
    their scale (seen with 2026.4). Nothing is computed or copied here, and graphs for one size drop
    it.
    """
    from openvino import opset13

    for port in inputs:
        value = port.get_source_output()
        same = opset13.reshape(value, opset13.shape_of(value), special_zero=False)
        port.replace_source_output(same.output(0))


def cpu_settings(precision: str) -> dict[str, Any]:
    """Return OpenVINO's settings for a precision, with as many threads as PyTorch has."""
    return {
        "INFERENCE_PRECISION_HINT": _PRECISION_HINTS[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }


def _tensor_of(output: np.ndarray) -> Tensor:
    """Return a graph's output; NumPy has no bfloat16, so OpenVINO passes it as float16."""
    if output.dtype == np.float16:
        return torch.from_numpy(output.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(output)


def attach_graphs(parts: Iterable[Part], graphs: Mapping[str, Any], precision: str) -> str:
    """Have a detector call compiled graphs instead of its parts.

    Returns:
        what runs where, in words.
    """
    for part in parts:
        is_image = isinstance(part, LevelsPart)
        run = compile_graph(graphs[part.name], precision, is_image=is_image, num_last=part.num_last)
        part.attach(run)
    version, threads = require("openvino").__version__.split("-")[0], torch.get_num_threads()
    on = f"{threads} thread{'s' * (threads > 1)}"
    return f"{', '.join(graphs)} by OpenVINO {version} in {precision} on {on}"


# --- what is installed


def check_engine(precision: str, device: torch.device) -> None:
    """Refuse a device or a precision that OpenVINO does not support here.

    Raises:
        UserError: for these, and if OpenVINO is not installed.
    """
    require("openvino")
    if device.type != "cpu":
        raise UserError(
            f"INFERENCE.ENGINE openvino is for CPUs, and the model is on {device.type}; set "
            f"MODEL.DEVICE cpu, or {_REMEDY}"
        )
    if precision not in _PRECISION_HINTS:
        raise UserError(
            f"INFERENCE.PRECISION {precision} is not one of OpenVINO's; take "
            f"{' or '.join(_PRECISION_HINTS)}, or {_REMEDY}"
        )
    able = openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "int8" and "INT8" not in able:
        raise UserError(
            "precision int8 is slower than float32 on this CPU, which has no instructions for it; "
            "take float32"
        )


@functools.cache
def openvino_core() -> Any:
    """Return OpenVINO's core, the same one to the end of the process.

    Each core gives the thread its own stack for signals, and takes it away when the core ends. If
    two cores end in the order in which they began, the thread is left with the first one's stack,
    which is gone. The next signal, such as Ctrl-C or a loader process's end, kills the program.

    Raises:
        UserError: if OpenVINO is not installed.
    """
    return require("openvino").Core()


def require(package: str, remedy: str = f"openvino nncf, or {_REMEDY}") -> Any:
    """Import an optional package, such as openvino or nncf.

    Args:
        package: its name.
        remedy: what to install, and what to do instead.

    Raises:
        UserError: if it is not installed.
    """
    try:
        with quietly():
            return importlib.import_module(package)
    except ImportError as error:
        raise UserError(f"{package} is not installed; python -m pip install {remedy}") from error


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep openvino and nncf from sending usage statistics and from changing the root logger.

    They send statistics without asking, unless an environment variable announces continuous
    integration. A conversion that fails leaves the log switched off.
    """
    root, mute = logging.getLogger(), {"CI": "true", "NNCF_CI": "1"}
    level, filters, handlers = root.level, list(root.filters), list(root.handlers)
    before = {name: os.environ[name] for name in mute if name in os.environ}
    os.environ |= mute
    try:
        yield
    finally:
        for name in mute:
            os.environ.pop(name, None)
        os.environ |= before
        root.setLevel(level)
        root.filters, root.handlers = filters, handlers
