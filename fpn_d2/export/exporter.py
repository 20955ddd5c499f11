"""Export a detector as an ONNX, TorchScript or OpenVINO file that runs without Detectron2.

The graph takes one image of any size and, for a Fast R-CNN, its proposals. It returns boxes in
pixels of that image, and holds everything from the normalization to the last NMS.

Shape shorthand: H x W pixels, P given proposals, R boxes returned.
"""

import contextlib
import dataclasses
import functools
import io
import json
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.export.torchscript_patch import patch_builtin_len
from detectron2.layers import DeformConv, shapes_to_tensor
from detectron2.modeling import GeneralizedRCNN, ProposalNetwork, RetinaNet
from detectron2.modeling.proposal_generator.rrpn import RRPN
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from ..inference import classes_of, openvino_parts, prepare_model
from ..inference.quantization import graph_bytes, quantize
from ..utils.errors import UserError
from ..utils.files import check_targets, explain_disk_errors, replace_file
from ..utils.modules import overridden, recast
from .nms import nms_by_group

logger = logging.getLogger(__name__)

FORMATS = ("onnx", "torchscript", "openvino")
# Opset 16 is the first with RoIAlign's half-pixel shift; most runtimes know the next one too.
OPSET = 17
METADATA_FILE = "metadata.json"  # in a TorchScript file
METADATA_PATH = "fpn_d2"  # in the rt_info of OpenVINO's
_TRACE_SIZE = (120, 150)  # (H, W); any will do, since sizes become symbols


@dataclasses.dataclass(frozen=True)
class Exported:
    """An exported model, as the bytes of a file; OpenVINO's is a pair of files.

    Args:
        format: "onnx", "torchscript" or "openvino".
        content: the file; for OpenVINO, the ``.xml``.
        check: the same file, except that it also returns the outputs of the model's heads, for
            :func:`fpn_d2.export.check_export` to compare.
        metadata: what the file says about the model, as texts: ``class_names`` (a JSON list, empty
            for proposals), ``class_names_from`` (the source in :class:`fpn_d2.inference.Classes`,
            or "guess: " and a sentence), ``input_format`` ("BGR" or "RGB"), ``min_size`` and
            ``max_size`` (the sides in pixels to which an image is resized), ``resize`` (how it is
            resized, ``INPUT.RESIZE_TEST``), ``model`` and ``license``.
    """

    format: str
    content: bytes
    check: bytes
    metadata: dict[str, str]
    weights: bytes = b""  # OpenVINO's ``.bin`` for ``content``
    check_weights: bytes = b""  # and for ``check``


def export_model(
    cfg: CfgNode, model: nn.Module, format: str, calibration: Sequence[dict[str, Tensor]] = ()
) -> Exported:
    """Export a detector.

    Args:
        cfg: the detector's config.
        model: from :func:`fpn_d2.load_model`; it is not changed.
        format: "onnx", "torchscript" or "openvino".
        calibration: for OpenVINO, inputs of the graph by name; if there are any, the file is int8.

    Raises:
        UserError: for an unknown format, for a kind of model that cannot be exported, or if a
            package is missing.
    """
    if format not in FORMATS:
        raise UserError(f"format {format!r} is none of {', '.join(FORMATS)}")
    _check_exportable(model)
    if cfg.TEST.DETECTIONS_PER_IMAGE == 0 and type(model) is not ProposalNetwork:
        raise UserError(  # OpenVINO would end the process by a signal
            "TEST.DETECTIONS_PER_IMAGE is 0, so the file would find nothing; set it to 1 or more"
        )
    if format != "torchscript":
        require("onnx")  # OpenVINO's files are made from ONNX
        require(format)
    classes = classes_of(cfg, model)
    if classes.guess:
        logger.warning("%s", classes.guess)
    metadata = {
        "class_names": json.dumps(classes.names),
        "class_names_from": f"guess: {classes.guess}" if classes.guess else classes.source,
        "input_format": cfg.INPUT.FORMAT,
        "min_size": str(cfg.INPUT.MIN_SIZE_TEST),
        "max_size": str(cfg.INPUT.MAX_SIZE_TEST),
        "resize": cfg.INPUT.get("RESIZE_TEST", "detectron2"),
        "model": type(model).__name__,
        "license": "none",
    }
    prepared = prepare_model(model).model.cpu()
    prepared.to(memory_format=torch.contiguous_format)
    for module in prepared.modules():
        if type(module) is DeformConv:
            recast(module, _TracedDeformConv)
    graph = DetectorGraph(prepared).eval()
    size = len(cfg.MODEL.PIXEL_MEAN), *_TRACE_SIZE
    image = 255 * torch.rand(size, generator=torch.Generator().manual_seed(0))
    inputs = (image,)
    if graph.takes_proposals:
        # one for the coarsest level and one for the finest
        inputs = (image, torch.tensor([[0.0, 0.0, 140.0, 110.0], [10.0, 10.0, 30.0, 30.0]]))
    write = {
        "onnx": _onnx,
        "torchscript": _torchscript,
        "openvino": functools.partial(_openvino, calibration=calibration),
    }[format]
    quiet = contextlib.redirect_stdout(io.StringIO())
    # PyTorch prints the whole graph, thousands of lines, before it raises an error.
    silent = overridden(torch._C, _jit_onnx_log=lambda *_: None)
    try:
        with warnings.catch_warnings(), quiet, silent, nms_by_group(format), torch.no_grad():
            warnings.simplefilter("ignore")  # the check finds out what tracing warns of
            files = write(graph, inputs, metadata)
    except RuntimeError as error:
        # TorchScript has no error of its own for a function that is Python's, as of autograd.
        is_known = isinstance(error, torch.onnx.errors.OnnxExporterError)
        if not is_known and "Could not export Python function" not in str(error):
            raise
        reason = str(error).strip().splitlines()[0].split(". ")[0]
        other = "onnx" if format == "torchscript" else "torchscript"
        raise UserError(
            f"a layer of this model has no form in {format} ({reason}); try --format {other}"
        ) from error
    return Exported(format, *files[:2], metadata, *files[2:])


def _check_exportable(model: nn.Module) -> None:
    """Refuse a model that has no exported form, saying what can be done instead."""
    if isinstance(getattr(model, "proposal_generator", None), RRPN):
        raise UserError(
            "rotated boxes cannot be exported: no format has their NMS; prepare the model in "
            "Python with fpn_d2.inference.prepare_model"
        )
    if type(model) is ProposalNetwork or isinstance(model, RetinaNet):
        return
    if type(model) is not GeneralizedRCNN:
        raise UserError(
            f"a {type(model).__name__} cannot be exported: only RPNs, Fast R-CNN, Faster R-CNN and "
            "RetinaNet can; run it with train_net.py --eval-only, or prepare it in Python with "
            "fpn_d2.inference.prepare_model"
        )
    heads = model.roi_heads
    if getattr(heads, "mask_on", False) or getattr(heads, "keypoint_on", False):
        raise UserError(
            "only boxes are exported: set MODEL.MASK_ON and MODEL.KEYPOINT_ON to False and export "
            "the detector alone"
        )
    if not isinstance(getattr(heads, "box_predictor", None), FastRCNNOutputLayers):
        raise UserError(
            f"the {type(heads).__name__} cannot be exported: its box head is not Fast R-CNN's one; "
            "set MODEL.ROI_HEADS.NAME to LevelROIHeads or C4ROIHeads"
        )


class _TracedDeformConv(DeformConv):
    """What :class:`DeformConv` computes on CPUs, without its autograd function, which no file can
    hold."""

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """See :meth:`DeformConv.forward`."""
        window = self.stride, self.padding, self.dilation
        x = deform_conv2d(x, offset, self.weight, None, *window)
        x = x if self.norm is None else self.norm(x)
        return x if self.activation is None else self.activation(x)


class DetectorGraph(nn.Module):
    """A detector of one image, with tensors for inputs and outputs.

    ``input_names`` and ``output_names`` list them in order; ``check_names`` lists the outputs that
    ``with_heads`` adds.
    """

    def __init__(self, model: nn.Module):
        """
        Args:
            model: a detector in eval mode. From here on, the graph keeps its heads' outputs.
        """
        super().__init__()
        self.model = model
        self.is_proposal_network = isinstance(model, ProposalNetwork)
        self.takes_proposals = getattr(model, "proposal_generator", self) is None
        self.with_heads = False
        self.input_names = ["image", "proposals"] if self.takes_proposals else ["image"]
        self.output_names = ["boxes", "scores", "classes"]
        self.check_names = ["head_logits", "head_deltas"]
        self._kept: dict[str, Any] = {}
        if isinstance(model, GeneralizedRCNN):
            self.check_names = ["head_proposals", *self.check_names]
            model.roi_heads.register_forward_pre_hook(self._keep_proposals)
            head = model.roi_heads.box_predictor
        elif self.is_proposal_network:
            self.output_names = ["boxes", "objectness_logits"]
            head = model.proposal_generator.rpn_head
        else:
            head = model.head
        head.register_forward_hook(self._keep_outputs)

    def forward(self, image: Tensor, proposals: Tensor | None = None) -> tuple[Tensor, ...]:
        """
        Args:
            image: (C, H, W) float32, 0 to 255, with the channels of ``INPUT.FORMAT``.
            proposals: (P, 4), x0 y0 x1 y1 in pixels of the image, if ``takes_proposals``.

        Returns:
            boxes (R, 4), x0 y0 x1 y1 in pixels, best first; their scores (R,) and classes (R,)
            int64, or for a proposal network their objectness logits (R,). With ``with_heads``,
            the proposals of the box head (P, 4) follow, and the logits and deltas as the head
            returns them; a dense head's are flattened and concatenated.
        """
        record = {"image": image}
        if proposals is not None:
            size = shapes_to_tensor(list(image.shape[-2:]))
            record["proposals"] = Instances(size, proposal_boxes=Boxes(proposals))
        with patch_builtin_len():
            found = self.model([record])[0]
        if self.is_proposal_network:
            found = found["proposals"]
            outputs = (found.proposal_boxes.tensor, found.objectness_logits)
        else:
            found = found["instances"]
            outputs = (found.pred_boxes.tensor, found.scores, found.pred_classes)
        return outputs + self._heads() if self.with_heads else outputs

    @torch.no_grad()
    def head_outputs(self, image: Tensor, proposals: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the logits and deltas as :meth:`forward` does, but for given proposals.

        Args:
            image: see :meth:`forward`.
            proposals: (P, 4) for the box head; None for a detector without one.
        """
        if proposals is None:
            self.model([{"image": image}])
        else:
            images = self.model.preprocess_image([{"image": image}])
            given = Instances(images.image_sizes[0], proposal_boxes=Boxes(proposals))
            self.model.roi_heads(images, self.model.backbone(images.tensor), [given], None)
        return self._heads()[-2:]

    def _heads(self) -> tuple[Tensor, ...]:
        outputs = self._kept["outputs"]
        if not isinstance(outputs, tuple | list) or len(outputs) != 2:
            raise UserError(
                "only heads that return logits and deltas are exported, and this model's own head "
                "returns something else; prepare it in Python with fpn_d2.inference.prepare_model"
            )
        logits, deltas = outputs
        if "proposals" in self._kept:
            return (self._kept["proposals"], logits, deltas)
        return tuple(torch.cat([x.flatten() for x in part]) for part in (logits, deltas))

    def _keep_proposals(self, module: nn.Module, args: tuple) -> None:
        self._kept["proposals"] = args[2][0].proposal_boxes.tensor

    def _keep_outputs(self, module: nn.Module, args: tuple, outputs: Any) -> None:
        self._kept["outputs"] = outputs


def _trace_to_onnx(graph: DetectorGraph, inputs: tuple[Tensor, ...]) -> bytes:
    """Trace the graph to ONNX, with the outputs of the heads after its own."""
    outputs, heads = graph.output_names, graph.check_names
    axes: dict[str, dict[int, str]] = {name: {0: "R"} for name in outputs}
    axes |= {name: {0: f"{name} rows"} for name in heads}
    axes |= {"image": {1: "H", 2: "W"}, "proposals": {0: "P"}}
    graph.with_heads = True
    file = io.BytesIO()
    torch.onnx.export(
        graph,
        inputs,
        file,
        dynamo=False,
        opset_version=OPSET,
        input_names=graph.input_names,
        output_names=outputs + heads,
        dynamic_axes=axes,
    )
    return file.getvalue()


def _onnx(
    graph: DetectorGraph, inputs: tuple[Tensor, ...], metadata: dict[str, str]
) -> tuple[bytes, bytes]:
    onnx = require("onnx")
    full = onnx.load_from_string(_trace_to_onnx(graph, inputs))
    onnx.helper.set_model_props(full, metadata)
    # ONNX Runtime would make [0, -1] of computed shapes, which no tensor without rows can take.
    computed = {node.output[0] for node in full.graph.node if node.op_type == "Concat"}
    for node in full.graph.node:
        if node.op_type == "Reshape" and node.input[1] in computed:
            del node.attribute[:]
            node.attribute.append(onnx.helper.make_attribute("allowzero", 1))
    check = full.SerializeToString()
    # the same graph as the one to check, with fewer outputs
    del full.graph.output[len(graph.output_names) :]
    onnx.checker.check_model(full)
    return full.SerializeToString(), check


def _openvino(
    graph: DetectorGraph,
    inputs: tuple[Tensor, ...],
    metadata: dict[str, str],
    calibration: Sequence[dict[str, Tensor]],
) -> tuple[bytes, bytes, bytes, bytes]:
    full = openvino_parts.openvino_core().read_model(_trace_to_onnx(graph, inputs))
    if calibration:
        samples = [{name: x.numpy() for name, x in sample.items()} for sample in calibration]
        # The heads' outputs, and a box head's proposals, which the RPN's outputs rank and place.
        heads = range(len(graph.output_names), len(full.outputs))
        full = quantize(full, samples, keep_first=True, last_outputs=heads)
        poolers = [node for node in full.get_ops() if node.get_type_name() == "ROIAlign"]
        openvino_parts.part_from_readers(node.input(0) for node in poolers)
    full.set_rt_info(metadata, [METADATA_PATH])
    check, check_weights = graph_bytes(full)
    for result in full.get_results()[len(graph.output_names) :]:
        full.remove_result(result)
    content, weights = graph_bytes(full)
    return content, check, weights, check_weights


def _torchscript(
    graph: DetectorGraph, inputs: tuple[Tensor, ...], metadata: dict[str, str]
) -> tuple[bytes, bytes]:
    files = []
    for graph.with_heads in (False, True):
        file = io.BytesIO()
        traced = torch.jit.trace(graph, inputs, check_trace=False)
        torch.jit.save(traced, file, _extra_files={METADATA_FILE: json.dumps(metadata)})
        files.append(file.getvalue())
    return files[0], files[1]


def require(package: str) -> Any:
    """Import onnx, onnxruntime or openvino; see :func:`openvino_parts.require`."""
    remedy = "onnx and onnxruntime or openvino, or take --format torchscript, which needs none"
    return openvino_parts.require(package, f"{remedy} of them")


def check_output(
    path: str | os.PathLike, overwrite: bool = False, format: str = "", weights: str = ""
) -> None:
    """Refuse a file whose folder does not exist, or that exists and may not be replaced.

    Args:
        path, overwrite: see :func:`write_export`.
        format: the format if it is known; OpenVINO's files are named ``.xml`` and ``.bin``.
        weights: the file of the weights if it is known, which is never replaced.

    Raises:
        UserError: before the work for the file begins.
    """
    folder = os.path.dirname(os.fspath(path)) or "."
    if not os.path.isdir(folder):
        raise UserError(f"the folder {folder} of {path} does not exist; create it first")
    if format == "openvino" and Path(path).suffix != ".xml":
        raise UserError(f"OpenVINO reads no {path}; name an .xml, beside which its .bin is written")
    if os.path.realpath(weights) in map(os.path.realpath, _files(path, format)):
        raise UserError(f"the weights {weights} would be overwritten; name another --output")
    check_targets(*_files(path, format), overwrite=overwrite)


def _files(path: str | os.PathLike, format: str) -> list[Path]:
    """Return the files of an export, the named one first."""
    return [Path(path), *[Path(path).with_suffix(".bin")] * (format == "openvino")]


def write_export(exported: Exported, path: str | os.PathLike, overwrite: bool = False) -> None:
    """Write an exported model, whole or not at all.

    Args:
        exported: from :func:`export_model`.
        path, overwrite: the file, and whether an existing one may be replaced.

    Raises:
        UserError: see :func:`check_output`; or if it cannot be written.
    """
    check_output(path, overwrite, exported.format)
    remedy = "choose another --output, or make room there"
    contents = exported.content, exported.weights  # only OpenVINO has the second
    with contextlib.ExitStack() as stack:  # renames both files once both are written, last first
        for name, content in zip(_files(path, exported.format), contents, strict=False):
            stack.enter_context(explain_disk_errors(os.fspath(name), remedy))
            file = stack.enter_context(replace_file(name, "wb"))
            file.write(content)
            file.flush()
