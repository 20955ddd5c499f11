"""Checks of a config: the values of its keys, their combinations, the names of components.

:func:`check_config` checks values and combinations when a config is read; :func:`check_registered`
checks names when a model is built, since a program may register its components in between. Both
check switches, which depend on the named component. The neck checks levels and their strides
(``modeling/fpn.py``), and ``data`` checks data sets. Names that programs extend by overriding one
of the trainer's methods are left to Detectron2, which looks them up.
"""

import difflib
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_KEYPOINT_HEAD_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    RPN_HEAD_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    GeneralizedRCNN,
    PanopticFPN,
    ProposalNetwork,
    SemanticSegmentor,
    StandardROIHeads,
    build_resnet_backbone,
)
from detectron2.modeling.backbone.fpn import (
    build_resnet_fpn_backbone,
    build_retinanet_resnet_fpn_backbone,
)
from detectron2.modeling.meta_arch import RetinaNet
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.proposal_generator.rrpn import RRPN
from detectron2.modeling.roi_heads import RROIHeads
from fvcore.common.registry import Registry
from PIL import Image

from .config_combinations import check_heads, check_norms, check_sampling, check_schedule
from .config_values import (
    DEPTH,
    NORM,
    REGNET_STAGES,
    STAGES,
    VALUES,
    at_least,
    check_values,
    is_finite,
    one_of,
    value_of,
)
from .modeling import (
    MaskProposalGenerator,
    MaskProposalNetwork,
    build_basic_resnet_backbone,
    build_fpn_backbone,
    build_regnet_backbone,
)
from .modeling.fpn import (
    TOP_BLOCKS,
    check_features_exist,
    features_read,
    is_known,
    is_written_in,
    meta_architecture,
    registered,
)
from .utils.augmentations import build_augmentations
from .utils.errors import UserError

# Detectron2's pyramids, and the levels that they add.
_STOCK_FPNS = {
    build_resnet_fpn_backbone: ["p6"],
    build_retinanet_resnet_fpn_backbone: ["p6", "p7"],
}


def check_config(cfg: CfgNode) -> None:
    """Raise a :class:`UserError` for values, and combinations of values, that cannot work."""
    check_values(cfg, VALUES | {"MODEL.FPN.TOP_BLOCK": one_of(*TOP_BLOCKS)})
    _check_programs(cfg)
    check_schedule(cfg)
    check_sampling(cfg)
    _check_pixels(cfg)
    _check_neck(cfg)
    _check_levels(cfg)
    if issubclass(meta_architecture(cfg), MaskProposalNetwork):
        _check_mask_proposals(cfg)
    _check_components(cfg)


def check_registered(cfg: CfgNode) -> None:
    """Refuse names that are not registered, and switches that the named components ignore.

    Raises:
        UserError: naming the key and, for a name, the closest registered ones.
    """
    check_own_keys(cfg)
    import_foreign(cfg)
    for key in ("DATASETS.TRAIN", "DATASETS.TEST"):  # set as an attribute, whose type none checks
        if isinstance(name := value_of(cfg, key), str):
            raise UserError(f"{key} is {name!r}, a str; give it a tuple, such as ({name!r},)")
    first = cfg.DATASETS.TRAIN[0] if cfg.DATASETS.TRAIN else ""
    counted = first in MetadataCatalog and MetadataCatalog.get(first).get("class_image_count")
    if cfg.MODEL.ROI_BOX_HEAD.USE_FED_LOSS and not counted:
        raise UserError(
            f"MODEL.ROI_BOX_HEAD.USE_FED_LOSS needs the number of images of each class, and data "
            f"set {first!r} has no class_image_count among its metadata; set it to False, or name "
            "an LVIS data set in DATASETS.TRAIN"
        )
    for key, registry in _names(cfg):
        name = value_of(cfg, key)
        if name not in registry:
            known = sorted(known for known, _ in registry)
            names = difflib.get_close_matches(name, known, n=3) or known[:8]
            raise UserError(
                f"{key} is {name!r}, which is not registered; set it to one that is, such as "
                f"{', '.join(names)}, or register yours before the model is built"
            )
    _check_components(cfg)
    _check_compiled_part(cfg)


def check_own_keys(cfg: CfgNode) -> None:
    """Refuse a config of Detectron2's alone, as ``get_cfg()`` returns it."""
    if "INFERENCE" not in cfg:
        raise UserError(
            "the config has no key INFERENCE, nor this package's others: read it by "
            "fpn_d2.load_config, or call fpn_d2.add_fpn_config(cfg) right after get_cfg()"
        )


def _check_compiled_part(cfg: CfgNode) -> None:
    """Refuse what needs Detectron2's compiled part, where a build without a compiler lacks it."""
    deformable = any(cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE)
    needing = rotated_key(cfg) or ("MODEL.RESNETS.DEFORM_ON_PER_STAGE" if deformable else None)
    if needing and not importlib.util.find_spec("detectron2._C"):
        raise UserError(
            f"{needing} needs Detectron2's compiled part, which this installation lacks: "
            "install a C++ compiler, uninstall detectron2 and run `make setup`"
        )


def rotated_key(cfg: CfgNode) -> str | None:
    """Return the key of a component that reads rotated boxes; None where all are upright."""
    for key, registry in _names(cfg):
        part = registered(registry, value_of(cfg, key))
        if isinstance(part, type) and issubclass(part, (RRPN, RROIHeads)):
            return key
    return None


def class_head_key(cfg: CfgNode) -> str | None:
    """Return the key of the number of classes; None if the network has none or is unknown."""
    network = meta_architecture(cfg)
    if issubclass(network, GeneralizedRCNN):
        return "MODEL.ROI_HEADS.NUM_CLASSES"
    return "MODEL.RETINANET.NUM_CLASSES" if issubclass(network, RetinaNet) else None


def num_classes(cfg: CfgNode) -> int | None:
    """Return the number of classes; None where :func:`class_head_key` returns None."""
    key = class_head_key(cfg)
    return value_of(cfg, key) if key else None


def check_engine_keys(precision: str, compile: bool, engine: str) -> None:
    """Refuse a compilation or a precision that the engine lacks; see ``cfg.INFERENCE``."""
    if compile and engine != "torch":
        raise UserError(
            "INFERENCE.COMPILE compiles by PyTorch; set INFERENCE.ENGINE torch, or COMPILE False"
        )
    if precision == "int8" and engine == "torch":
        raise UserError(
            "INFERENCE.PRECISION int8 is OpenVINO's; set INFERENCE.ENGINE openvino, or take "
            "float32 or bfloat16"
        )


# Components that only checkpoints of other code bases need.
_FOREIGN = (
    *("ClippingRetinaNet", "MaskRCNNBenchmarkAnchorGenerator"),
    *("TorchvisionAnchorGenerator", "TorchvisionROIHeads"),
)


def import_foreign(cfg: CfgNode) -> None:
    """Register other code bases' components if a config names one; ``import fpn_d2`` does not."""
    for name, registry in (
        (cfg.MODEL.META_ARCHITECTURE, META_ARCH_REGISTRY),
        (cfg.MODEL.ANCHOR_GENERATOR.NAME, ANCHOR_GENERATOR_REGISTRY),
        (cfg.MODEL.ROI_HEADS.NAME, ROI_HEADS_REGISTRY),
    ):
        if name in _FOREIGN and name not in registry:
            importlib.import_module("fpn_d2.checkpoint.foreign.components")


# --- combinations of keys


def _check_programs(cfg: CfgNode) -> None:
    """Check the solver, the device, what is evaluated, and two model keys that have no effect."""
    images, world = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_WORLD_SIZE
    if world > 0 and images % world:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH {images} does not divide among the {world} processes of "
            "SOLVER.REFERENCE_WORLD_SIZE; set that to 0 to take batch and schedule as they are"
        )
    if cfg.TEST.EXPECTED_RESULTS and len(cfg.DATASETS.TEST) > 1:
        raise UserError(
            "TEST.EXPECTED_RESULTS names no test set, and DATASETS.TEST names "
            f"{len(cfg.DATASETS.TEST)}; test on one alone, or set TEST.EXPECTED_RESULTS []"
        )
    inference = cfg.INFERENCE
    asked = inference.PRECISION, inference.COMPILE, inference.ENGINE
    if not inference.PREPARE and asked != ("float32", False, "torch"):
        raise UserError(
            "INFERENCE.PRECISION, ENGINE and COMPILE have no effect without INFERENCE.PREPARE "
            "True; set it"
        )
    check_engine_keys(*asked)
    if not cfg.MODEL.PANOPTIC_FPN.COMBINE.ENABLED:
        raise UserError(
            "MODEL.PANOPTIC_FPN.COMBINE.ENABLED has no effect (Detectron2 no longer reads it); "
            "leave it True"
        )
    anchors = cfg.MODEL.ANCHOR_GENERATOR
    if list(anchors.ANGLES) != [[-90, 0, 90]] and anchors.NAME == "DefaultAnchorGenerator":
        raise UserError(
            "MODEL.ANCHOR_GENERATOR.ANGLES has no effect on the DefaultAnchorGenerator; leave it "
            "at [[-90, 0, 90]]"
        )
    _check_device(cfg.MODEL.DEVICE)


def _check_device(device: str) -> None:
    try:
        kind, index = torch.device(device).type, torch.device(device).index
        if kind not in ("cpu", "cuda"):  # a tensor on a GPU would take its memory
            torch.empty(1, device=device).item()
    except Exception as error:  # of any backend
        raise UserError(f"MODEL.DEVICE is {device}; give cpu or cuda") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"MODEL.DEVICE is {device}, but torch sees no CUDA device; use cpu")
    if kind == "cuda" and index is not None and index >= torch.cuda.device_count():
        raise UserError(
            f"MODEL.DEVICE is {device}, and this machine has {torch.cuda.device_count()} GPUs; "
            "count them from 0"
        )


def _check_pixels(cfg: CfgNode) -> None:
    try:
        shape = convert_PIL_to_numpy(Image.new("RGB", (1, 1)), cfg.INPUT.FORMAT).shape
    except ValueError:
        shape = ()
    if len(shape) != 3:
        raise UserError(
            f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}; set it to 'BGR', 'RGB', 'L', 'YUV-BT.601' or "
            "another mode of Pillow's"
        )
    for name in ("PIXEL_MEAN", "PIXEL_STD"):
        values = cfg.MODEL[name]
        if len(values) != shape[2] or not all(map(is_finite, values)):
            raise UserError(
                f"MODEL.{name} is {values}; give a number for each of the {shape[2]} channels of "
                f"INPUT.FORMAT {cfg.INPUT.FORMAT}"
            )
    if 0 in cfg.MODEL.PIXEL_STD:
        raise UserError(f"MODEL.PIXEL_STD is {cfg.MODEL.PIXEL_STD}; give no 0, it divides")
    build_augmentations(cfg)
    if cfg.INPUT.OBJECT_SCALE_TRAIN and not cfg.MODEL.MASK_ON:
        raise UserError(
            "INPUT.OBJECT_SCALE_TRAIN makes boxes of masks, and MODEL.MASK_ON is False; set it True"
        )
    if cfg.INPUT.OBJECT_SCALE_TRAIN and not cfg.INPUT.MIN_SIZE_TEST:
        raise UserError(
            "INPUT.OBJECT_SCALE_TRAIN takes its limits from INPUT.MIN_SIZE_TEST, which is 0; give "
            "a size"
        )


def _check_neck(cfg: CfgNode) -> None:
    fpn = cfg.MODEL.FPN
    if not (fpn.TOP_DOWN or fpn.LATERAL):
        raise UserError(
            "MODEL.FPN.TOP_DOWN and MODEL.FPN.LATERAL are both False, so no level gets an input; "
            "switch one of them on"
        )
    if fpn.FUSE_TYPE == "avg" and not (fpn.TOP_DOWN and fpn.LATERAL):
        raise UserError(
            "MODEL.FPN.FUSE_TYPE avg averages the two paths, so it needs MODEL.FPN.TOP_DOWN and "
            "MODEL.FPN.LATERAL both True; use FUSE_TYPE sum"
        )
    if cfg.MODEL.BACKBONE.NAME == "build_fpn_backbone" and not fpn.IN_FEATURES:
        raise UserError(
            "MODEL.FPN.IN_FEATURES is empty; name the pyramid's stages, such as ['res2', 'res3']"
        )


def _check_levels(cfg: CfgNode) -> None:
    what, existing = _outputs(cfg)
    for key, names in features_read(cfg, known_alone=True).items():
        if not names:
            raise UserError(f"{key} is empty, so there are no levels to read; name at least one")
        if what:
            check_features_exist(key, names, existing, what)
        if key in ("MODEL.RPN.IN_FEATURES", "MODEL.RETINANET.IN_FEATURES"):
            _check_anchors(cfg, key, names)


def _outputs(cfg: CfgNode) -> tuple[str, list[str]]:
    """Describe a backbone and list its features; "" and [] for an unknown one, and for
    ``build_fpn_backbone``, which checks its levels itself."""
    backbone, fpn = registered(BACKBONE_REGISTRY, cfg.MODEL.BACKBONE.NAME), cfg.MODEL.FPN
    if backbone in (build_resnet_backbone, build_basic_resnet_backbone):
        return "the ResNet", cfg.MODEL.RESNETS.OUT_FEATURES
    if backbone is build_regnet_backbone:
        return "the RegNet", cfg.MODEL.REGNETS.OUT_FEATURES
    if backbone in _STOCK_FPNS and fpn.IN_FEATURES:
        levels = [name.replace("res", "p") for name in fpn.IN_FEATURES]
        return "the pyramid", [*levels, *_STOCK_FPNS[backbone]]
    return "", []


def _check_anchors(cfg: CfgNode, reader: str, levels: list[str]) -> None:
    """Check that each level gets its anchors, and as many as the others."""
    section, counts = cfg.MODEL.ANCHOR_GENERATOR, [1] * len(levels)
    generator = registered(ANCHOR_GENERATOR_REGISTRY, section.NAME)
    if not is_known(generator):  # it may take other lists
        return
    usual = section.NAME == "DefaultAnchorGenerator"
    for name in ("SIZES", "ASPECT_RATIOS"):
        lists = section[name]
        if not any(isinstance(one, list | tuple) for one in lists):
            lists = [lists]  # one list for all levels
        if usual and not all(isinstance(one, list | tuple) and one for one in lists):
            raise UserError(
                f"MODEL.ANCHOR_GENERATOR.{name} is {section[name]}; give numbers, or a list of "
                "them for each level"
            )
        if len(lists) not in (1, len(levels)):
            raise UserError(
                f"MODEL.ANCHOR_GENERATOR.{name} has {len(lists)} lists for the {len(levels)} "
                f"levels {', '.join(levels)} of {reader}; give one for each level, or one for all"
            )
        if usual:
            each = lists * len(levels) if len(lists) == 1 else lists
            counts = [count * len(one) for count, one in zip(counts, each, strict=True)]
    head = registered(RPN_HEAD_REGISTRY, cfg.MODEL.RPN.HEAD_NAME)
    is_retinanets = reader == "MODEL.RETINANET.IN_FEATURES"
    if len(set(counts)) > 1 and (is_retinanets or is_known(head)):
        raise UserError(
            f"MODEL.ANCHOR_GENERATOR.SIZES and ASPECT_RATIOS make {', '.join(map(str, counts))} "
            f"anchors for a cell of {', '.join(levels)}, whose heads are alike; give each level "
            "the same number"
        )


def _check_mask_proposals(cfg: CfgNode) -> None:
    keys, levels = cfg.MODEL.MASK_PROPOSAL, list(cfg.MODEL.MASK_PROPOSAL.IN_FEATURES)
    if [len(sizes) for sizes in keys.SIZES] != [len(levels)] * len(keys.WINDOWS):
        raise UserError(
            f"MODEL.MASK_PROPOSAL.SIZES must have a list for each of the {len(keys.WINDOWS)} "
            f"WINDOWS, with a scale in pixels for each of the levels {', '.join(levels)}"
        )
    if not cfg.MODEL.MASK_ON:
        raise UserError(
            "MODEL.MASK_ON is False, and a MaskProposalNetwork needs masks; set it True"
        )


# --- components: their names, and what they read


def _names(cfg: CfgNode) -> Iterator[tuple[str, Registry]]:
    """Yield the keys of the components that are built, with their registries, outermost first."""
    model = cfg.MODEL
    yield "MODEL.META_ARCHITECTURE", META_ARCH_REGISTRY
    yield "MODEL.BACKBONE.NAME", BACKBONE_REGISTRY
    if model.BACKBONE.NAME == "build_fpn_backbone":
        yield "MODEL.FPN.BOTTOM_UP", BACKBONE_REGISTRY
    network = meta_architecture(cfg)
    if issubclass(network, RetinaNet):
        yield "MODEL.ANCHOR_GENERATOR.NAME", ANCHOR_GENERATOR_REGISTRY
    if issubclass(network, (PanopticFPN, SemanticSegmentor)):
        yield "MODEL.SEM_SEG_HEAD.NAME", SEM_SEG_HEADS_REGISTRY
    if not issubclass(network, (GeneralizedRCNN, ProposalNetwork)):
        return
    if model.PROPOSAL_GENERATOR.NAME != "PrecomputedProposals":
        yield "MODEL.PROPOSAL_GENERATOR.NAME", PROPOSAL_GENERATOR_REGISTRY
        generator = registered(PROPOSAL_GENERATOR_REGISTRY, model.PROPOSAL_GENERATOR.NAME)
        if isinstance(generator, type) and issubclass(generator, RPN):
            yield "MODEL.RPN.HEAD_NAME", RPN_HEAD_REGISTRY
            yield "MODEL.ANCHOR_GENERATOR.NAME", ANCHOR_GENERATOR_REGISTRY
    if issubclass(network, GeneralizedRCNN):
        yield "MODEL.ROI_HEADS.NAME", ROI_HEADS_REGISTRY
        heads = registered(ROI_HEADS_REGISTRY, model.ROI_HEADS.NAME)
        # Only heads of these modules: others, such as PointRend's, take unregistered names.
        where = getattr(heads, "__module__", "")
        known = where.startswith(("detectron2.modeling.", "fpn_d2."))
        if model.ROI_BOX_HEAD.NAME or (known and issubclass(heads, StandardROIHeads)):
            yield "MODEL.ROI_BOX_HEAD.NAME", ROI_BOX_HEAD_REGISTRY
        if known and model.MASK_ON:
            yield "MODEL.ROI_MASK_HEAD.NAME", ROI_MASK_HEAD_REGISTRY
        if known and model.KEYPOINT_ON:
            yield "MODEL.ROI_KEYPOINT_HEAD.NAME", ROI_KEYPOINT_HEAD_REGISTRY


def _check_components(cfg: CfgNode) -> None:
    """Refuse what the registered components do not accept, and switches that they ignore: an
    ablation by such a switch would report the unchanged model."""
    parts = {key: registered(registry, value_of(cfg, key)) for key, registry in _names(cfg)}
    backbone = parts["MODEL.BACKBONE.NAME"]
    if backbone in (build_fpn_backbone, *_STOCK_FPNS):
        check_norms(cfg, ["MODEL.FPN.NORM"])
    _check_bottom_up(cfg, parts.get("MODEL.FPN.BOTTOM_UP", backbone))
    _check_generator(cfg, parts.get("MODEL.PROPOSAL_GENERATOR.NAME"))
    for key, switches, is_ignored, remedy in _SWITCHES:
        component = parts.get(key)
        given = [name for name, usual in switches.items() if value_of(cfg, name) not in usual]
        if given and component is not None and is_ignored(component):
            verb = "have" if given[1:] else "has"
            raise UserError(
                f"{' and '.join(given)} {verb} no effect on {key} {value_of(cfg, key)}; {remedy}"
            )
    check_heads(cfg, parts.get("MODEL.ROI_HEADS.NAME"))


def _check_bottom_up(cfg: CfgNode, bottom_up: Any) -> None:
    if bottom_up is build_regnet_backbone:
        rules = {"NORM": NORM, "OUT_FEATURES": REGNET_STAGES, "DEPTH": at_least(1)}
        check_values(cfg, {f"MODEL.REGNETS.{key}": rule for key, rule in rules.items()})
    resnets, basic = cfg.MODEL.RESNETS, bottom_up is build_basic_resnet_backbone
    if not basic and bottom_up not in (build_resnet_backbone, *_STOCK_FPNS):
        return
    check_values(cfg, {"MODEL.RESNETS.NORM": NORM, "MODEL.RESNETS.OUT_FEATURES": STAGES})
    fixed = {"RES5_DILATION": 1, "DEFORM_ON_PER_STAGE": [False] * 4}
    if not basic:
        check_values(cfg, {"MODEL.RESNETS.DEPTH": DEPTH})
        fixed |= {"RES2_OUT_CHANNELS": 64, "NUM_GROUPS": 1}
    widths = {key: resnets[key] for key in ("STEM_OUT_CHANNELS", "RES2_OUT_CHANNELS")}
    if resnets.DEPTH not in (18, 34):
        widths["NUM_GROUPS x WIDTH_PER_GROUP"] = resnets.NUM_GROUPS * resnets.WIDTH_PER_GROUP
    for key, channels in widths.items():
        if resnets.NORM == "GN" and channels % 32:
            raise UserError(
                f"MODEL.RESNETS.NORM GN makes 32 groups of the channels, and MODEL.RESNETS.{key} "
                f"is {channels}; set that to a multiple of 32, or the norm to BN"
            )
    for key, only in fixed.items():
        if resnets.DEPTH in (18, 34) and resnets[key] != only:
            raise UserError(
                f"MODEL.RESNETS.{key} is {resnets[key]}, and a ResNet-{resnets.DEPTH} has {only}; "
                f"set it to {only}"
            )


def _check_generator(cfg: CfgNode, generator: Any) -> None:
    network = meta_architecture(cfg)
    if not (is_known(network) and is_known(generator)):
        return
    if issubclass(generator, MaskProposalGenerator) != issubclass(network, MaskProposalNetwork):
        raise UserError(
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} does not go with "
            f"MODEL.PROPOSAL_GENERATOR.NAME {cfg.MODEL.PROPOSAL_GENERATOR.NAME}; set "
            "MaskProposalNetwork and MaskProposalGenerator both, or neither"
        )


def _has_no_switches(backbone: Any) -> bool:
    return backbone is not build_fpn_backbone and is_known(backbone)


def _has_p6_alone(backbone: Any) -> bool:
    return _has_no_switches(backbone) and backbone is not build_retinanet_resnet_fpn_backbone


def _builds_as(*modules: str) -> Callable[[Any], bool]:
    """Make a test: RoI heads build pooler and classifier by methods of these modules alone."""

    def builds(heads: Any) -> bool:
        names = ("from_config", "_init_box_head")
        methods = [getattr(heads, name) for name in names if hasattr(heads, name)]
        return all(method.__module__.startswith(modules) for method in methods or [heads])

    return builds


# Switches of this package that some components ignore: the key that names the component; the
# switches, each with the values that no component ignores; a test whether a registered component
# ignores the switches; the remedy.
_Switches = tuple[str, dict[str, tuple], Callable[[Any], bool], str]
_SWITCHES: tuple[_Switches, ...] = (
    (
        "MODEL.BACKBONE.NAME",
        {
            "MODEL.FPN.TOP_DOWN": (True,),
            "MODEL.FPN.LATERAL": (True,),
            "MODEL.FPN.OUT_FEATURES": ([],),
            "MODEL.FPN.BOTTOM_UP": ("build_resnet_backbone",),
            "MODEL.FPN.TOP_BLOCK": ("maxpool", "p6p7_c5"),
        },
        _has_no_switches,
        "set it to build_fpn_backbone",
    ),
    (
        "MODEL.BACKBONE.NAME",
        {"MODEL.FPN.TOP_BLOCK": ("maxpool",)},
        _has_p6_alone,
        "set it to build_fpn_backbone",
    ),
    (
        "MODEL.BACKBONE.NAME",
        {"MODEL.FPN.FREEZE": (False,)},
        _has_no_switches,
        "set it to build_fpn_backbone, or freeze a ResNet by MODEL.BACKBONE.FREEZE_AT",
    ),
    (
        "MODEL.RPN.HEAD_NAME",
        {"MODEL.RPN.SHARED_HEAD": (True,)},
        lambda head: is_written_in(head, "detectron2"),
        "set it to build_level_rpn_head",
    ),
    (
        "MODEL.ROI_HEADS.NAME",
        {
            "MODEL.ROI_BOX_HEAD.POOLER_BACKEND": ("auto",),
            "MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE": (224,),
            "MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_LEVEL": (4,),
        },
        _builds_as("detectron2."),
        "set it to LevelROIHeads or C4ROIHeads, derive yours from one, or leave auto, 224 and 4",
    ),
    (
        "MODEL.ROI_HEADS.NAME",
        {"MODEL.ROI_BOX_HEAD.NUM_UNUSED_CLASSES": (0,)},
        _builds_as("detectron2.", "fpn_d2.modeling."),
        "set it to TorchvisionROIHeads, or NUM_UNUSED_CLASSES to 0",
    ),
)
