"""A copy of a detector that is faster and detects the same.

batch norm        folded into the convolution before it, frozen or in eval mode
memory            channels-last, in which CPUs and GPUs convolve faster
RPN               decodes only the boxes that enter NMS, and keeps the anchors of the last size
RoIs              pooled by :class:`LevelROIPooler`, in models of Detectron2's own too
linear layers     computed by oneDNN on CPUs where PyTorch multiplies matrices slowly
convolutions      by Winograd's method on some CPUs, if wide
precision         bfloat16 or float16 if asked; scores and deltas are float32
torch.compile     of the backbone if asked, for images of changing size
OpenVINO          runs the dense parts if asked, also in int8; see ``openvino_parts``

Modules that only OpenVINO needs are imported when a config asks for it: trainings start sooner.
"""

import contextlib
import functools
import logging
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, DeformConv, FrozenBatchNorm2d, ModulatedDeformConv
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import regnet
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator.rpn import RPN, StandardRPNHead
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.keypoint_head import KRCNNConvDeconvUpsampleHead
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import Boxes
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._pytree import tree_leaves

from ..config_checks import check_engine_keys
from ..layers import (
    speed_up_linears,
    speed_up_wide_convolutions,
    steady_group_norms,
    wide_convolutions,
)
from ..modeling import LeanRPN, LevelROIPooler
from ..modeling.fpn import is_written_in
from ..utils.devices import has_bfloat16
from ..utils.errors import UserError, reason_of
from ..utils.modules import detached_copy, recast, to_channels_last

logger = logging.getLogger(__name__)

PRECISIONS = {
    "float32": None,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": None,  # for what OpenVINO computes; the rest is float32
}
ENGINES = ("torch", "openvino", "auto")
# A graph overwrites its outputs at the next call, and two at once would share the cores.
_ENGINE_LOCK = threading.Lock()


class PreparedModel(nn.Module):
    """The result of :func:`prepare_model`: it holds the copy as ``model`` and is called like it."""

    def __init__(self, model: nn.Module, dtype: torch.dtype | None, engine: str = "torch"):
        """Take the copy, already changed, and the dtype of autocast, None for float32."""
        super().__init__()
        self.dtype = dtype
        self.engine = engine
        self.model = model  # last: from now on what the copy has is changed there
        self.eval()

    def train(self, mode: bool = True) -> "PreparedModel":
        """See :meth:`nn.Module.train`; a prepared model refuses ``mode`` True."""
        if mode:
            raise RuntimeError("a prepared model cannot be trained; train the one it was made of")
        return super().train(False)

    def __getattr__(self, name: str) -> Any:
        """Find the copy's own parts too, such as ``backbone``, as in the model it was made of."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__"):  # how Python copies the copy is not how it copies this
                raise
            return getattr(super().__getattr__("model"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Change what the copy has, such as a RetinaNet's ``test_score_thresh``, in the copy."""
        inner = self.__dict__.get("_modules", {}).get("model")
        own = name == "model" or name in self.__dict__ or hasattr(type(self), name)
        if inner is None or own or not hasattr(inner, name):
            super().__setattr__(name, value)
        else:
            setattr(inner, name, value)

    def __delattr__(self, name: str) -> None:
        """Delete from the copy what was set there, as unittest.mock does to undo a patch."""
        try:
            super().__delattr__(name)
        except AttributeError:
            delattr(super().__getattr__("model"), name)

    def load_weights(self, other: "PreparedModel") -> None:
        """Take the weights of another copy of the model, prepared in the same precision.

        What torch.compile compiled here stays compiled; ``other`` may be compiled or not.

        Raises:
            RuntimeError: with OpenVINO, whose graphs hold the weights.
        """
        if self.engine != "torch":
            raise RuntimeError("OpenVINO's graphs hold the old weights; prepare the model again")
        self.load_state_dict(other.state_dict())

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """See the original's ``forward`` in eval mode.

        Raises:
            FloatingPointError: if an image or its features are not finite; Detectron2 would return
                no detections.
        """
        for number, record in enumerate(batched_inputs):
            image = record.get("image") if isinstance(record, Mapping) else None
            is_real = isinstance(image, Tensor) and image.is_floating_point()
            if is_real and not image.isfinite().all():
                name = record.get("file_name", f"number {number} of the batch")
                raise FloatingPointError(f"image {name} has pixels that are NaN or infinite")
        device = next(self.model.parameters()).device.type
        one_at_a_time = contextlib.nullcontext() if self.engine == "torch" else _ENGINE_LOCK
        autocast = torch.autocast(device, self.dtype, enabled=self.dtype is not None)
        with one_at_a_time, autocast, _finite_outputs():
            return self.model(batched_inputs)


def prepare_model(
    model: nn.Module,
    *,
    precision: str = "float32",
    compile: bool = False,
    engine: str = "torch",
    calibration: Iterable[dict[str, Any]] = (),
    cache: Sequence[str | os.PathLike] = (),
) -> PreparedModel:
    """Make a copy of a model for inference; the model itself does not change.

    Args:
        model: a detector of this package or of Detectron2, or one wrapped for several processes.
        precision: "float32", "bfloat16", on CUDA "float16", or with OpenVINO "int8".
        compile: whether to compile the backbone; see :func:`compile_backbone`.
        engine: "torch"; "openvino" for the dense parts; or "auto", which takes OpenVINO if it can
            run them, else PyTorch (in float32 instead of int8), and logs the reason. In float32
            "auto" takes PyTorch where that computes wide convolutions by Winograd's method.
        calibration: for int8, images as models of Detectron2 take them; read only if no file of
            ``cache`` can be.
        cache: for int8, files for the quantized parts, kept in the first one that can be written;
            see :func:`fpn_d2.inference.quantization.cache_paths`.

    Returns:
        the copy, in eval mode.

    Raises:
        UserError: for weights that are not finite; an engine or a precision that does not exist, is
            not installed or is not available on the device; int8 without images; a model that
            OpenVINO cannot take; or a model that is prepared already.
    """
    if isinstance(model, PreparedModel):
        raise UserError("the model is prepared already; prepare the one that it was made of")
    if isinstance(model, DistributedDataParallel):
        model = model.module
    check_engine_keys(precision, compile, engine)
    if engine not in ENGINES:
        raise UserError(f"engine {engine!r} is none of {', '.join(ENGINES)}")
    if engine == "auto" and precision == "float32" and not compile and _has_wide_maps(model):
        logger.info("INFERENCE.ENGINE auto takes torch, whose wide convolutions are faster here")
        engine = "torch"
    if engine == "auto":
        choices = {"precision": precision, "calibration": calibration, "cache": cache}
        try:
            return prepare_model(model, engine="openvino", **choices)
        except UserError as error:
            logger.warning("INFERENCE.ENGINE auto takes torch: %s", error)
        precision, engine = "float32" if precision == "int8" else precision, "torch"
    device = next(model.parameters()).device
    dtype = _dtype(precision, device, engine)
    if device.type == "cpu":
        _check_deformable(model, precision if dtype else "float32")
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            raise UserError(
                f"the model's {name} has values that are NaN or infinite; take an earlier "
                "checkpoint"
            )
    prepared = _copied(model).eval().requires_grad_(False)
    fold_batch_norms(prepared)
    to_channels_last(prepared)
    for module in prepared.modules():
        if type(module) is ROIPooler:
            recast(module, LevelROIPooler, backend="auto")
        elif type(module) is RPN:
            recast(module, _FrugalRPN, proposals_in_training=True)
        elif type(module) is LeanRPN:
            recast(module, _FrugalRPN)
        elif type(module) is DefaultAnchorGenerator:
            recast(module, _KeptAnchors, kept=(None, None))
    steady_group_norms(prepared)
    if engine == "openvino":
        _attach_engine(prepared, precision, calibration, cache)
    elif not compile:
        speed_up_wide_convolutions(prepared, dtype or torch.float32)
    if dtype is not None:
        _lower(prepared, dtype)
    speed_up_linears(prepared)
    for name, module in prepared.named_modules():
        if isinstance(module, _CHECKED):
            module.register_forward_hook(functools.partial(_measure_outputs, name))
    if compile:
        compile_backbone(prepared)
    return PreparedModel(prepared, dtype, engine)


def _copied(model: nn.Module) -> nn.Module:
    try:
        return detached_copy(model)
    except TypeError as error:
        raise UserError(
            f"a {type(model).__name__} cannot be copied ({reason_of(error)}), and a prepared model "
            "is a copy: give it a __deepcopy__, or set INFERENCE.PREPARE False"
        ) from error


def _check_deformable(model: nn.Module, precision: str) -> None:
    """Refuse deformable convolutions that no CPU computes: Detectron2 takes torchvision's there."""
    kinds = (DeformConv, ModulatedDeformConv)
    layers = [module for module in model.modules() if isinstance(module, kinds)]
    if layers and precision != "float32":
        raise UserError(
            f"CPUs compute deformable convolutions in float32 alone, not in {precision}: take "
            "float32"
        )
    if any(isinstance(x, ModulatedDeformConv) or x.deformable_groups != 1 for x in layers):
        raise UserError(
            "CPUs compute deformable convolutions only without modulation and groups: set "
            "MODEL.DEVICE cuda"
        )


def prepare_as_configured(cfg: CfgNode, model: nn.Module, *, keep: bool = True) -> PreparedModel:
    """Prepare a model as ``cfg.INFERENCE`` says.

    Args:
        cfg: the config of the model, from :func:`fpn_d2.load_config`.
        model: see :func:`prepare_model`, which this calls.
        keep: whether the weights are those of ``cfg.MODEL.WEIGHTS``; an int8 model is then kept,
            see :func:`fpn_d2.inference.quantization.cache_paths`.

    Raises:
        UserError: see :func:`prepare_model`; and if the training set, which calibrates int8, cannot
            be read.
    """
    keys, more = cfg.INFERENCE, {}
    if keys.PRECISION == "int8":
        from .quantization import cache_paths, calibration_images

        more["calibration"] = calibration_images(cfg)
        more["cache"] = cache_paths(cfg, model) if keep else []
    return prepare_model(
        model, precision=keys.PRECISION, compile=keys.COMPILE, engine=keys.ENGINE, **more
    )


def fold_batch_norms(model: nn.Module) -> int:
    """Fold norms that are constants in eval mode into their convolutions, in place.

    Returns:
        the number of folded norms. Others, such as group norm, stay.
    """
    count = 0
    for module in model.modules():
        if isinstance(module, Conv2d) and _can_fold(module, module.norm):
            _fold(module, module.norm)
            module.norm = None
            count += 1
        # In Detectron2's RegNet the norm stands beside the convolution.
        pairs = _REGNET_PAIRS if type(module).__module__ == regnet.__name__ else ()
        for conv, norm in pairs:
            pair = [getattr(module, name, None) for name in (conv, norm)]
            if _can_fold(*pair):
                _fold(*pair)
                setattr(module, norm, nn.Identity())
                count += 1
    return count


_REGNET_PAIRS = (("conv", "bn"), ("proj", "bn"), ("a", "a_bn"), ("b", "b_bn"), ("c", "c_bn"))


def _can_fold(conv: nn.Module | None, norm: nn.Module | None) -> bool:
    """Whether a norm of constants follows a convolution, and nothing else is done.

    Somebody's own convolution may change its weights before it uses them, and their own norm may
    hold an activation. Weights that are pruned or reparametrized are no parameters.
    """
    kinds = "torch", "detectron2", "fpn_d2"
    if not is_written_in(type(conv), *kinds) or "weight" not in conv._parameters:
        return False
    return _is_batch_norm(norm) and is_written_in(type(norm).forward, *kinds)


def _is_batch_norm(norm: nn.Module | None) -> bool:
    if isinstance(norm, FrozenBatchNorm2d):
        return True
    return isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.track_running_stats


def _fold(conv: nn.Conv2d, norm: nn.Module) -> None:
    statistics = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    folded = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)
    conv.weight, conv.bias = (nn.Parameter(x.detach(), requires_grad=False) for x in folded)


def _attach_engine(
    model: nn.Module,
    precision: str,
    calibration: Iterable[dict[str, Any]],
    cache: Sequence[str | os.PathLike],
) -> None:
    """Have OpenVINO compute the dense parts of a model, in place."""
    from .openvino_parts import attach_graphs, convert, example_inputs
    from .quantization import quantize_parts, read_cache, write_cache

    examples = example_inputs(model, precision)
    if precision != "int8":
        graphs = {part.name: convert(part, example) for part, example in examples.items()}
    elif (graphs := read_cache(cache)) is None:
        graphs = quantize_parts(model, examples, calibration)
        write_cache(graphs, cache)
    logger.info(
        "inference: %s; the rest by PyTorch in %s",
        attach_graphs(examples, graphs, precision),
        "bfloat16" if precision == "bfloat16" else "float32",
    )


def _has_wide_maps(model: nn.Module) -> bool:
    """Whether Winograd's method speeds up a part that reads whole maps; RoIs have too few cells."""
    parts = (getattr(model, name, None) for name in ("backbone", "proposal_generator", "head"))
    return any(part is not None and wide_convolutions(part) for part in parts)


def _dtype(precision: str, device: torch.device, engine: str) -> torch.dtype | None:
    if precision not in PRECISIONS:
        raise UserError(f"precision {precision!r} is none of {', '.join(PRECISIONS)}")
    if engine == "openvino":
        from .openvino_parts import check_engine

        check_engine(precision, device)
    if precision == "float16" and device.type != "cuda":
        raise UserError(
            f"precision float16 is for CUDA, and the model is on {device.type}; take bfloat16, or "
            "set MODEL.DEVICE cuda"
        )
    if precision == "bfloat16" and not has_bfloat16(device):
        raise UserError(
            f"precision bfloat16 is slower than float32 on this {device.type}, which has no "
            "instructions for it; take float32"
        )
    return PRECISIONS[precision]


class _PickedProposals:
    """A level's proposals, which Detectron2 indexes like a tensor; only those picked are decoded.

    Args:
        transform: the RPN's.
        anchors: (R, 4), those of the level.
        deltas: (N, R, 4), predicted for N images.
    """

    def __init__(self, transform: Box2BoxTransform, anchors: Tensor, deltas: Tensor):
        self.transform, self.anchors, self.deltas = transform, anchors, deltas
        self.device = deltas.device

    def __getitem__(self, picked: tuple[Tensor, Tensor]) -> Tensor:
        """Return (N, K, 4) boxes for (N, 1) indices of images and (N, K) indices of anchors."""
        deltas, anchors = self.deltas[picked], self.anchors[picked[1]]
        boxes = self.transform.apply_deltas(deltas.flatten(0, 1), anchors.flatten(0, 1))
        return boxes.view_as(deltas)


class _FrugalRPN(LeanRPN):
    """Decodes 1000 boxes per level where :class:`RPN` decodes all, 160k on P2; same results."""

    def _decode_proposals(self, anchors: list[Boxes], pred_anchor_deltas: list[Tensor]) -> list:
        if torch.jit.is_tracing():
            return super()._decode_proposals(anchors, pred_anchor_deltas)
        levels = zip(anchors, pred_anchor_deltas, strict=True)
        return [_PickedProposals(self.box2box_transform, a.tensor, deltas) for a, deltas in levels]


class _KeptAnchors(DefaultAnchorGenerator):
    """Keeps the anchors of the last image size: 3.5 MB for 800 x 1088 px."""

    def _grid_anchors(self, grid_sizes: list[Any]) -> list[Tensor]:
        if torch.jit.is_tracing():
            return super()._grid_anchors(grid_sizes)
        device = next(self.buffers()).device
        # Another stream of a GPU might read them before they are written.
        stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
        key = [*map(tuple, grid_sizes), device, stream]
        known, anchors = self.kept
        if known != key:
            anchors = super()._grid_anchors(grid_sizes)
            self.kept = key, anchors
        return anchors


class _AsFloat32(nn.Module):
    """A layer that is computed in autocast's precision and returns float32."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def __getattr__(self, name: str) -> Any:  # such as the weight, which a cosine classifier reads
        own = name == "layer" or name.startswith("__")  # as in PreparedModel
        return super().__getattr__(name) if own else getattr(self.layer, name)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).float()


class _Float32(_AsFloat32):
    """A layer that is computed in float32 within autocast."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.layer(x.float())


# The first one's two small products decide the order of all detections. The outputs of the others
# are read per pixel or per box.
_LAST_LAYERS = {
    FastRCNNOutputLayers: (("cls_score", "bbox_pred"), _Float32),
    StandardRPNHead: (("objectness_logits", "anchor_deltas"), _AsFloat32),
    RetinaNetHead: (("cls_score", "bbox_pred"), _AsFloat32),
    MaskRCNNConvUpsampleHead: (("predictor",), _AsFloat32),
    KRCNNConvDeconvUpsampleHead: (("score_lowres",), _AsFloat32),
    SemSegFPNHead: (("predictor",), _AsFloat32),
}


def _lower(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast weights once instead of at every call; let last layers compute or return float32."""
    for module in list(model.modules()):
        for kind, (names, wrapper) in _LAST_LAYERS.items():
            for name in names if isinstance(module, kind) else ():
                if getattr(module, name, None) is not None:  # somebody's own head may lack one
                    setattr(module, name, wrapper(getattr(module, name)))
    wrapped = [module for module in model.modules() if isinstance(module, _Float32)]
    kept = {id(module) for wrapper in wrapped for module in wrapper.modules()}
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and id(module) not in kept:
            module.to(dtype)


# Detectron2 silently drops boxes that are not finite. Values that are not finite in the features,
# or that overflow in a head, reach one of these.
_CHECKED = (StandardRPNHead, FastRCNNOutputLayers, RetinaNetHead)


# The largest magnitudes of these modules' outputs, by the name of the module.
_magnitudes: ContextVar[list[tuple[str, Tensor]]] = ContextVar("magnitudes")


def _measure_outputs(name: str, module: nn.Module, args: Any, outputs: Any) -> None:
    leaves = tree_leaves(outputs)  # somebody's own head may return more, or a dict
    tensors = [x for x in leaves if isinstance(x, Tensor) and x.is_floating_point() and x.numel()]
    found = _magnitudes.get(None)
    if tensors and found is not None:  # it is None if the copy is called by itself
        found.append((name, get_total_norm(tensors, torch.inf)))


@contextlib.contextmanager
def _finite_outputs() -> Iterator[None]:
    """Raise if inner outputs were not finite, after the whole run: each check makes a GPU wait."""
    token = _magnitudes.set([])
    try:
        yield
    except Exception:  # values that are not finite may have caused it
        _check_magnitudes()
        raise
    else:
        _check_magnitudes()
    finally:
        _magnitudes.reset(token)


def _check_magnitudes() -> None:
    found = _magnitudes.get()
    finite = torch.stack([norm for _, norm in found]).isfinite().tolist() if found else []
    for (name, _), is_finite in zip(found, finite, strict=True):
        if not is_finite:
            raise FloatingPointError(
                f"the outputs of {name} are NaN or infinite: check the weights and the image, or "
                "take precision float32"
            )


def compile_backbone(model: nn.Module) -> bool:
    """Compile a model's backbone in place with :func:`torch.compile`, for any size of image.

    It serves testing and training. The first call compiles, which takes up to a minute. So does the
    first image that makes the side of some level odd instead of even, or even instead of odd, up to
    8 times (PyTorch's ``recompile_limit``); further such sizes run uncompiled. The names of the
    weights do not change.

    Args:
        model: a model with a ``backbone``.

    Returns:
        whether it has one and a compiler; if not, the log says so and the model is unchanged.
    """
    if not hasattr(model, "backbone"):
        logger.warning("compile: a %s has no backbone; it runs without it", type(model).__name__)
        return False
    device = next(model.parameters()).device
    if device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        logger.warning(
            "compile: there is no C++ compiler (c++, g++ or clang++) for torch.compile; the model "
            "runs without it"
        )
        return False
    for module in model.backbone.modules():
        if isinstance(getattr(module, "top_block", None), LastLevelMaxPool):
            # The pooling would be compiled anew for odd and for even sides of the map.
            module.top_block = _Subsample(module.top_block.in_feature)
    model.backbone.compile(dynamic=True)
    return True


class _Subsample(nn.Module):
    """Detectron2's :class:`LastLevelMaxPool`, which takes every second cell, written as a slice."""

    num_levels = 1

    def __init__(self, in_feature: str):
        super().__init__()
        self.in_feature = in_feature

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x[:, :, ::2, ::2]]
