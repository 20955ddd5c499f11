"""The pyramid neck of Sec. 3, with the switches of Tables 1 and 2.

Shape shorthand: N images of H x W pixels, d channels (``MODEL.FPN.OUT_CHANNELS``); C_k is the
output of the bottom-up stage with stride 2^k, P_k the level of the same stride,
(N, d, H / 2^k, W / 2^k).

    both paths:       M_k = lateral_k(C_k) + upsample(M_k+1)      P_k = output_k(M_k)
    no top-down (d):  M_k = lateral_k(C_k)
    no lateral (e):   M_5 = lateral_5(C_5), M_k = upsample(M_k+1)

The 3x3 output convolutions stand outside the recursion, and nothing here has a non-linearity.

Layers that cannot reach the loss are not built: a convolution without a gradient stops
multi-process training at its second step, and its weights in a checkpoint would only mislead.
"""

import itertools
import logging
import math
import operator
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    FPN,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_HEADS_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    Backbone,
    GeneralizedRCNN,
    PanopticFPN,
    ProposalNetwork,
    SemanticSegmentor,
)
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from detectron2.modeling.meta_arch import RetinaNet
from detectron2.utils import comm
from fvcore.common.registry import Registry
from torch import Tensor, nn

from ..utils.errors import UserError
from ..utils.modules import renamed
from .mask_proposals import MaskProposalNetwork

logger = logging.getLogger(__name__)


class FeaturePyramid(FPN):
    """Detectron2's :class:`FPN` with switches for its two paths and its levels.

    With all defaults it is Detectron2's module, bit for bit, under the same parameter names.

    Examples:
        >>> cfg = fpn_d2.load_config("configs/RPN/rpn_R_50_FPN.yaml")
        >>> neck = build_fpn_backbone(cfg, ShapeSpec(channels=3))
        >>> {name: tuple(p.shape) for name, p in neck(torch.zeros(1, 3, 64, 96)).items()}
        {'p2': (1, 256, 16, 24), 'p3': (1, 256, 8, 12), 'p4': (1, 256, 4, 6),
         'p5': (1, 256, 2, 3), 'p6': (1, 256, 1, 2)}
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: list[str],
        out_channels: int,
        *,
        norm: str = "",
        top_block: nn.Module | None = None,
        fuse_type: str = "sum",
        square_pad: int = 0,
        top_down: bool = True,
        lateral: bool = True,
        out_features: list[str] | None = None,
        frozen: bool = False,
    ):
        """
        Args:
            bottom_up, in_features, out_channels, norm, top_block, fuse_type, square_pad: see
                :class:`FPN`.
            top_down: add the upsampled coarser level (Tables 1 and 2, row d: False).
            lateral: connect every stage by its 1x1 convolution; False keeps only the coarsest
                stage's, which starts the top-down path (row e).
            out_features: the levels to return; None for all (row f: ``["p2"]``).
            frozen: freeze the weights and the norms' statistics of the bottom-up network and the
                pyramid (Sec. 5.2, steps 3 and 4: the shared layers).
        """
        assert top_down or lateral
        super().__init__(
            bottom_up, in_features, out_channels, norm, top_block, fuse_type, square_pad
        )
        self.top_down = top_down
        self.lateral = lateral
        # Detectron2's _out_features are all levels; its forward computes one from another.
        wanted = out_features or self._out_features
        assert set(wanted) <= set(self._out_features)
        self.returned = [name for name in self._out_features if name in wanted]
        self._remove_unused_convs()
        self.frozen = frozen
        if frozen:
            self.requires_grad_(False)
            self.train(False)

    def train(self, mode: bool = True) -> "FeaturePyramid":
        """See :meth:`nn.Module.train`; a frozen pyramid stays in eval mode."""
        return super().train(mode and not self.frozen)

    def _remove_unused_convs(self) -> None:
        """Delete the convolutions that no returned level depends on."""
        kept = set(self.returned)
        if self.top_block is not None:
            kept.add(self.top_block.in_feature)
        shapes = self.bottom_up.output_shape()
        for i, name in enumerate(reversed(self.in_features)):  # coarse to fine, like the lists
            stage = int(math.log2(shapes[name].stride))
            if f"p{stage}" not in kept:
                delattr(self, f"fpn_output{stage}")
                self.output_convs[i] = nn.Identity()
            levels = range(stage + 1) if self.top_down else [stage]
            feeds_output = any(f"p{k}" in kept for k in levels)
            if not feeds_output or (not self.lateral and i > 0):
                delattr(self, f"fpn_lateral{stage}")
                self.lateral_convs[i] = nn.Identity()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """See :meth:`FPN.forward`; returns ``out_features`` only, fine to coarse.

        Args:
            x: (N, C, H, W) images. The top-down path restricts H and W: see Raises.

        Raises:
            UserError: if upsampling by two would not give the finer level's size.
        """
        if not torch.jit.is_scripting() and self.top_down:
            self._check_size(*x.shape[-2:])
        if self.top_down and self.lateral:
            features = self._forward_both_paths(x)
        else:
            features = self._forward_one_path(x)
        return {name: features[name] for name in self.returned}

    # Detectron2's own method; TorchScript has no super().
    _forward_both_paths = renamed(FPN.forward, "_forward_both_paths")

    def _forward_one_path(self, x: Tensor) -> dict[str, Tensor]:
        """Rows (d) and (e): laterals without the sum, or the upsampled C5 without laterals."""
        bottom_up = self.bottom_up(x)
        merged = bottom_up[self.in_features[-1]]
        results = []
        # TorchScript knows no strict=
        for i, (lateral, output) in enumerate(zip(self.lateral_convs, self.output_convs)):  # noqa: B905
            if i == 0 or self.lateral:
                merged = lateral(bottom_up[self.in_features[-i - 1]])
            else:
                merged = F.interpolate(merged, scale_factor=2.0, mode="nearest")
            results.insert(0, output(merged))
        if self.top_block is not None:
            name = self.top_block.in_feature
            if name in bottom_up:
                results.extend(self.top_block(bottom_up[name]))
            else:
                results.extend(self.top_block(results[self._out_features.index(name)]))
        return {name: level for name, level in zip(self._out_features, results)}  # noqa: B905

    def _check_size(self, height: int, width: int) -> None:
        # Stages round sizes up, so the finest stage decides: 30 pixels suit strides of 4 to 32.
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return
        shapes = self.bottom_up.output_shape()
        finest, coarsest = (shapes[self.in_features[i]].stride for i in (0, -1))
        if any(math.ceil(side / finest) % (coarsest // finest) for side in (height, width)):
            raise UserError(
                f"the pyramid cannot take an input of {height} x {width} pixels, because its "
                f"levels would not double in size; pad height and width to a multiple of "
                f"{self.size_divisibility}, as Detectron2's meta-architectures do"
            )

    def output_shape(self) -> dict[str, ShapeSpec]:
        """See :meth:`FPN.output_shape`; the returned levels only."""
        shapes = super().output_shape()
        return {name: shape for name, shape in shapes.items() if name in self.returned}


# The values of MODEL.FPN.TOP_BLOCK, and the number of levels that each adds.
TOP_BLOCKS = {"maxpool": 1, "p6p7_c5": 2, "p6p7_p5": 2, "": 0}


@BACKBONE_REGISTRY.register()
def build_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FeaturePyramid:
    """Build the neck of ``cfg.MODEL.FPN`` on the bottom-up network of the same section.

    Raises:
        UserError: for a bottom-up network that is not registered, stages that it does not output
            or whose strides do not double, and levels that do not exist or that nothing reads.
    """
    fpn = cfg.MODEL.FPN
    if fpn.BOTTOM_UP not in BACKBONE_REGISTRY:
        names = ", ".join(sorted(name for name, _ in BACKBONE_REGISTRY))
        raise UserError(f"MODEL.FPN.BOTTOM_UP {fpn.BOTTOM_UP} is not registered; there are {names}")
    build_bottom_up = BACKBONE_REGISTRY.get(fpn.BOTTOM_UP)
    random_state = torch.get_rng_state()
    bottom_up = build_bottom_up(cfg, input_shape)
    needed, top_block = _needed_stages(cfg, bottom_up.output_shape())
    if _stages_beyond(bottom_up, needed):
        # They cannot reach the loss. The network's own rule leaves them out, so build it again,
        # from the same random numbers as the first time.
        torch.set_rng_state(random_state)
        bottom_up = build_bottom_up(_ending_at(cfg, needed), input_shape)
    beyond = _stages_beyond(bottom_up, needed)
    if beyond and not fpn.FREEZE and any(p.requires_grad for p in bottom_up.parameters()):
        _report_unused(
            f"the pyramid does not use {', '.join(beyond)} of MODEL.FPN.BOTTOM_UP {fpn.BOTTOM_UP}, "
            f"so these stages get no gradient; have the network end at {needed[-1]}"
        )
    neck = FeaturePyramid(
        bottom_up,
        needed,
        fpn.OUT_CHANNELS,
        norm=fpn.NORM,
        top_block=_build_top_block(top_block, bottom_up, needed[-1], fpn.OUT_CHANNELS),
        fuse_type=fpn.FUSE_TYPE,
        square_pad=bottom_up.padding_constraints.get("square_size", 0),
        top_down=fpn.TOP_DOWN,
        lateral=fpn.LATERAL,
        out_features=list(fpn.OUT_FEATURES),
        frozen=fpn.FREEZE,
    )
    _check_readers(cfg, neck)
    return neck


def _needed_stages(cfg: CfgNode, shapes: dict[str, ShapeSpec]) -> tuple[list[str], str]:
    """Return the stages that the requested levels depend on, and the top block, "" for none."""
    fpn, stages = cfg.MODEL.FPN, cfg.MODEL.FPN.IN_FEATURES
    check_features_exist("MODEL.FPN.IN_FEATURES", stages, list(shapes), "the bottom-up network")
    strides = [shapes[name].stride for name in stages]
    if any(coarse != 2 * fine for fine, coarse in itertools.pairwise(strides)):
        raise UserError(
            f"MODEL.FPN.IN_FEATURES {', '.join(stages)} have the strides "
            f"{', '.join(map(str, strides))}; a pyramid needs each to be twice the one before, so "
            "name neighbouring stages from fine to coarse (a dilated stage does not fit)"
        )
    levels = [f"p{int(math.log2(stride))}" for stride in strides]
    extra = [f"p{int(math.log2(strides[-1])) + 1 + i}" for i in range(TOP_BLOCKS[fpn.TOP_BLOCK])]
    wanted = list(fpn.OUT_FEATURES) or levels + extra
    check_features_exist("MODEL.FPN.OUT_FEATURES", wanted, levels + extra, "the pyramid")
    if len(extra) == 2 and extra[0] in wanted and extra[1] not in wanted:
        raise UserError(
            f"MODEL.FPN.OUT_FEATURES names {extra[0]} without {extra[1]}, which "
            f"MODEL.FPN.TOP_BLOCK {fpn.TOP_BLOCK} computes as well; name both or choose maxpool"
        )
    top_block = fpn.TOP_BLOCK if set(extra) & set(wanted) else ""
    needed = [i for i, level in enumerate(levels) if level in wanted]
    if top_block or fpn.TOP_DOWN:
        needed.append(len(levels) - 1)
    return list(stages[min(needed) : max(needed) + 1]), top_block


def _stages_beyond(bottom_up: Backbone, needed: list[str]) -> list[str]:
    """List the stages that a bottom-up network outputs beyond the last needed one."""
    shapes = bottom_up.output_shape()
    last = shapes[needed[-1]].stride
    # A feature of the whole image has no stride.
    return [n for n, s in shapes.items() if n not in needed and s.stride and s.stride >= last]


def _ending_at(cfg: CfgNode, stages: list[str]) -> CfgNode:
    """Return a config with which the bottom-up network outputs ``stages`` and nothing beyond."""
    cfg = cfg.clone()
    cfg.defrost()
    for section in cfg.MODEL.values():
        # RESNETS, REGNETS and, by the same convention, those of other people's backbones
        if isinstance(section, CfgNode) and set(stages) <= set(section.get("OUT_FEATURES", ())):
            section.OUT_FEATURES = stages
    return cfg


def _build_top_block(
    name: str, bottom_up: Backbone, stage: str, out_channels: int
) -> nn.Module | None:
    """Build the top block, which follows the coarsest stage's level; None for an empty name."""
    if not name:
        return None
    shape = bottom_up.output_shape()[stage]
    coarsest = f"p{int(math.log2(shape.stride))}"
    if name == "p6p7_c5":
        return LastLevelP6P7(shape.channels, out_channels, in_feature=stage)
    if name == "p6p7_p5":
        return LastLevelP6P7(out_channels, out_channels, in_feature=coarsest)
    top_block = LastLevelMaxPool()
    top_block.in_feature = coarsest
    return top_block


# --- what reads the levels


def features_read(cfg: CfgNode, *, known_alone: bool = False) -> dict[str, list[str]]:
    """Return the features that a config's detector reads, by key; {} for an unknown network.

    Args:
        cfg: the config.
        known_alone: leave out the keys of heads and of a proposal generator that other people
            wrote and that may read other keys.
    """
    if not _is_built_by_known_keys(meta_architecture(cfg)):
        return {}
    return {
        key: list(operator.attrgetter(key)(cfg))
        for key, part in _readers(cfg)
        if not known_alone or _is_built_by_known_keys(part)
    }


def _readers(cfg: CfgNode) -> Iterator[tuple[str, Any]]:
    """Yield the keys that name a detector's levels, each with the registered part that reads it."""
    model, network = cfg.MODEL, meta_architecture(cfg)
    generator = registered(PROPOSAL_GENERATOR_REGISTRY, model.PROPOSAL_GENERATOR.NAME)
    if issubclass(network, MaskProposalNetwork):
        yield "MODEL.MASK_PROPOSAL.IN_FEATURES", generator
    elif issubclass(network, RetinaNet):
        yield "MODEL.RETINANET.IN_FEATURES", network
    elif issubclass(network, (GeneralizedRCNN, ProposalNetwork)):
        if model.PROPOSAL_GENERATOR.NAME != "PrecomputedProposals":
            yield "MODEL.RPN.IN_FEATURES", generator
        if issubclass(network, GeneralizedRCNN):
            heads = registered(ROI_HEADS_REGISTRY, model.ROI_HEADS.NAME)
            yield "MODEL.ROI_HEADS.IN_FEATURES", heads
    if issubclass(network, (PanopticFPN, SemanticSegmentor)):
        head = registered(SEM_SEG_HEADS_REGISTRY, model.SEM_SEG_HEAD.NAME)
        yield "MODEL.SEM_SEG_HEAD.IN_FEATURES", head


def meta_architecture(cfg: CfgNode) -> type:
    """Return the class of a config's network, or ``nn.Module`` if none is registered (yet)."""
    network = registered(META_ARCH_REGISTRY, cfg.MODEL.META_ARCHITECTURE)
    return network if isinstance(network, type) else nn.Module


def registered(registry: Registry, name: str) -> Any:
    """Return what is registered under a name, or None."""
    return registry.get(name) if name in registry else None


def _is_built_by_known_keys(component: Any) -> bool:
    """Whether all methods that build a component are known; others may read other keys."""
    names = ("__init__", "from_config", "_init_box_head")
    methods = [getattr(component, name) for name in names if hasattr(component, name)]
    return isinstance(component, type) and all(map(is_known, methods))


def is_known(component: Any) -> bool:
    """Whether a class or a function is one of Detectron2's or of this package's."""
    return is_written_in(component, "detectron2", "fpn_d2")


def is_written_in(component: Any, *packages: str) -> bool:
    """Whether a class or a function was written in one of these packages."""
    return getattr(component, "__module__", "").partition(".")[0] in packages


def check_features_exist(key: str, names: list[str], existing: list[str], what: str) -> None:
    """Refuse ``names`` under ``key`` that are not among the ``existing`` features of ``what``."""
    absent = [name for name in names if name not in existing]
    if absent:
        raise UserError(
            f"{key} names {', '.join(absent)}, but {what} has only {', '.join(existing)}; "
            f"name levels that exist, or have {what} output more"
        )


def _check_readers(cfg: CfgNode, neck: FeaturePyramid) -> None:
    """Check that the heads find their levels and that every level with weights is read."""
    readers, levels = features_read(cfg, known_alone=True), list(neck.output_shape())
    for key, names in readers.items():
        check_features_exist(key, names, levels, "the pyramid")
    roi = readers.get("MODEL.ROI_HEADS.IN_FEATURES", [])
    steps = [int(b[1:]) - int(a[1:]) for a, b in itertools.pairwise(roi)]
    if any(step != 1 for step in steps):
        raise UserError(
            f"MODEL.ROI_HEADS.IN_FEATURES {', '.join(roi)} are not neighbours "
            "from fine to coarse, which Eq. 1 needs; name such levels"
        )
    readers = features_read(cfg)
    unread = _unread_levels(neck, {name for names in readers.values() for name in names})
    if not readers or not unread or cfg.MODEL.FPN.FREEZE:
        return
    which = f"the pyramid's {', '.join(unread)}"
    parts = [meta_architecture(cfg), *(part for _, part in _readers(cfg))]
    if all(map(is_known, parts)):
        _report_unused(
            f"nothing reads {which}, so their convolutions get no gradient; name the levels that "
            "are read in MODEL.FPN.OUT_FEATURES"
        )
    else:  # somebody else's part may read more than the keys say
        _report_unused(
            f"no key names {which}; if nothing reads them, their convolutions get no gradient: "
            "name the levels that are read in MODEL.FPN.OUT_FEATURES",
            refuse=False,
        )


def _report_unused(message: str, *, refuse: bool = True) -> None:
    """Warn of weights without a gradient, and refuse them where they would stop the training."""
    if refuse and comm.get_world_size() > 1:
        raise UserError(f"{message} (training in several processes stops on such weights)")
    logger.warning(message)


def _unread_levels(neck: FeaturePyramid, read: set[str]) -> list[str]:
    """List levels with weights of their own that neither a head nor a level in use needs."""
    top = neck.top_block
    extra = neck._out_features[-top.num_levels :] if top is not None else []
    used = [i for i, name in enumerate(extra) if name in read]
    if used:  # P7 is computed from P6, and P6 from P5 or C5
        read = read.union(extra[: used[-1] + 1], [top.in_feature])
    learned = extra if isinstance(top, LastLevelP6P7) else []
    weighted = [
        name for name in neck.returned if name in learned or hasattr(neck, f"fpn_output{name[1:]}")
    ]
    return [name for name in weighted if name not in read]
