"""What a config may say: the values of its keys, their combinations, the names of components.

Values and combinations are checked when a config is read (:func:`check_config`), names when a
model is built (:func:`check_registered`), since a program may register its components in between;
switches, which are judged by what the named component is, both times. The neck checks levels and
their strides (``modeling/fpn.py``), and ``data`` checks data sets. Detectron2 looks up the names
that programs extend by overriding one of the trainer's methods.
"""

import difflib
import functools
import importlib
import operator
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
    RPN_HEAD_REGISTRY,
    GeneralizedRCNN,
    ProposalNetwork,
    build_resnet_backbone,
)
from detectron2.modeling.backbone.fpn import (
    build_resnet_fpn_backbone,
    build_retinanet_resnet_fpn_backbone,
)
from detectron2.modeling.meta_arch import PanopticFPN, RetinaNet
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads, RROIHeads
from fvcore.common.registry import Registry
from PIL import Image

from .config_values import (
    DEPTH,
    MASK_VALUES,
    NORM,
    POOLER_TYPE,
    REGRESSION_LOSS,
    ROTATED_POOLER_TYPE,
    VALUES,
    Rule,
    are_positive,
    are_whole,
    is_finite,
    one_of,
)
from .modeling import MaskProposalNetwork, build_fpn_backbone
from .modeling.fpn import (
    TOP_BLOCKS,
    check_features_exist,
    features_read,
    is_written_in,
    meta_architecture,
)
from .utils.errors import UserError


def check_config(cfg: CfgNode) -> None:
    """Refuse values, and combinations of values, that cannot work, by a :class:`UserError`."""
    _check_values(cfg, VALUES | {"MODEL.FPN.TOP_BLOCK": one_of(*TOP_BLOCKS)})
    _check_programs(cfg)
    _check_schedule(cfg)
    _check_sampling(cfg)
    _check_pixels(cfg)
    _check_neck(cfg)
    _check_levels(cfg)
    if issubclass(meta_architecture(cfg), MaskProposalNetwork):
        _check_mask_proposals(cfg)
    _check_components(cfg)


def check_registered(cfg: CfgNode) -> None:
    """Refuse names that are not registered, and switches that the named components ignore.

    Raises:
        UserError: with the key and the names that come closest.
    """
    import_foreign(cfg)
    first = cfg.DATASETS.TRAIN[0] if cfg.DATASETS.TRAIN else ""
    counted = first in MetadataCatalog and MetadataCatalog.get(first).get("class_image_count")
    if cfg.MODEL.ROI_BOX_HEAD.USE_FED_LOSS and not counted:
        raise UserError(
            f"MODEL.ROI_BOX_HEAD.USE_FED_LOSS needs the number of images of each class, and data "
            f"set {first!r} has no class_image_count among its metadata; set it to False, or name "
            "an LVIS data set in DATASETS.TRAIN"
        )
    for key, registry in _names(cfg):
        name = _get(cfg, key)
        if name not in registry:
            known = sorted(known for known, _ in registry)
            names = difflib.get_close_matches(name, known, n=3) or known[:8]
            raise UserError(
                f"{key} is {name!r}, which is not registered; set it to one that is, such as "
                f"{', '.join(names)}, or register yours before the model is built"
            )
    _check_components(cfg)


def class_head_key(cfg: CfgNode) -> str | None:
    """The key of the number of classes; None for a network without classes or an unknown one."""
    network = meta_architecture(cfg)
    if issubclass(network, GeneralizedRCNN):
        return "MODEL.ROI_HEADS.NUM_CLASSES"
    return "MODEL.RETINANET.NUM_CLASSES" if issubclass(network, RetinaNet) else None


# Components that only checkpoints of other code bases need.
_FOREIGN = (
    *("ClippingRetinaNet", "MaskRCNNBenchmarkAnchorGenerator"),
    *("TorchvisionAnchorGenerator", "TorchvisionROIHeads"),
)


def import_foreign(cfg: CfgNode) -> None:
    """Register the components of other code bases that a config names; nothing else does."""
    for name, registry in (
        (cfg.MODEL.META_ARCHITECTURE, META_ARCH_REGISTRY),
        (cfg.MODEL.ANCHOR_GENERATOR.NAME, ANCHOR_GENERATOR_REGISTRY),
        (cfg.MODEL.ROI_HEADS.NAME, ROI_HEADS_REGISTRY),
    ):
        if name in _FOREIGN and name not in registry:
            importlib.import_module("fpn_d2.checkpoint.foreign.components")


# --- one key at a time


def _check_values(cfg: CfgNode, rules: dict[str, Rule]) -> None:
    for key, (holds, remedy) in rules.items():
        value = _get(cfg, key)
        if not holds(value):
            raise UserError(f"{key} is {value!r}; {remedy}")


def _get(cfg: CfgNode, key: str) -> Any:
    return functools.reduce(operator.getitem, key.split("."), cfg)


# --- combinations of keys


def _check_programs(cfg: CfgNode) -> None:
    """Refuse what no model says: the solver, the device, the copy that is evaluated."""
    images, world = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_WORLD_SIZE
    if world > 0 and images % world:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH {images} does not divide among the {world} processes of "
            "SOLVER.REFERENCE_WORLD_SIZE; set that to 0 to take batch and schedule as they are"
        )
    inference = cfg.INFERENCE
    if not inference.PREPARE and (inference.PRECISION != "float32" or inference.COMPILE):
        raise UserError(
            "INFERENCE.PRECISION and COMPILE have no effect without INFERENCE.PREPARE True; set it"
        )
    if not cfg.MODEL.PANOPTIC_FPN.COMBINE.ENABLED:
        raise UserError(
            "MODEL.PANOPTIC_FPN.COMBINE.ENABLED has no effect, since Detectron2 reads it no more; "
            "leave it True"
        )
    anchors = cfg.MODEL.ANCHOR_GENERATOR
    if list(anchors.ANGLES) != [[-90, 0, 90]] and anchors.NAME == "DefaultAnchorGenerator":
        raise UserError(
            "MODEL.ANCHOR_GENERATOR.ANGLES has no effect on the DefaultAnchorGenerator; leave it "
            "at [[-90, 0, 90]]"
        )
    device = cfg.MODEL.DEVICE
    try:
        torch.device(device)
    except RuntimeError as error:
        raise UserError(f"MODEL.DEVICE is {device}; give cpu or cuda") from error
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"MODEL.DEVICE is {device}, but torch sees no CUDA device; use cpu")


def _check_schedule(cfg: CfgNode) -> None:
    """What Detectron2's schedules make of their keys; another name is somebody's own schedule."""
    solver, name = cfg.SOLVER, cfg.SOLVER.LR_SCHEDULER_NAME
    steps = list(solver.STEPS)
    if steps != sorted(set(steps)):
        raise UserError(f"SOLVER.STEPS is {solver.STEPS}; give the iterations in their order")
    if name == "WarmupMultiStepLR" and solver.MAX_ITER in steps:
        raise UserError(
            f"SOLVER.STEPS is {solver.STEPS}, and the training ends at SOLVER.MAX_ITER "
            f"{solver.MAX_ITER}; give iterations before it"
        )
    if name == "WarmupCosineLR" and not solver.BASE_LR_END <= solver.BASE_LR > 0:
        raise UserError(
            f"SOLVER.BASE_LR_END is {solver.BASE_LR_END} and SOLVER.BASE_LR {solver.BASE_LR}; "
            "WarmupCosineLR goes down from BASE_LR, so give a number above 0 and an end up to it"
        )
    if name == "WarmupStepWithFixedGammaLR" and solver.NUM_DECAYS >= solver.MAX_ITER:
        raise UserError(
            f"SOLVER.NUM_DECAYS is {solver.NUM_DECAYS} in {solver.MAX_ITER} iterations "
            "(SOLVER.MAX_ITER); give fewer"
        )


def _check_sampling(cfg: CfgNode) -> None:
    """What the samplers and the augmentations make of their keys."""
    loader, inputs = cfg.DATALOADER, cfg.INPUT
    weighted = ("WeightedTrainingSampler", "WeightedCategoryTrainingSampler")
    for key, is_set, samplers in (
        (
            "DATALOADER.RANDOM_SUBSET_RATIO",
            loader.RANDOM_SUBSET_RATIO != 1,
            ("RandomSubsetTrainingSampler",),
        ),
        ("DATASETS.TRAIN_REPEAT_FACTOR", bool(cfg.DATASETS.TRAIN_REPEAT_FACTOR), weighted),
        (
            "DATALOADER.REPEAT_THRESHOLD",
            loader.REPEAT_THRESHOLD > 0,
            ("RepeatFactorTrainingSampler", weighted[1]),
        ),
    ):
        stock = loader.SAMPLER_TRAIN in _SAMPLERS
        if is_set and stock and loader.SAMPLER_TRAIN not in samplers:
            raise UserError(
                f"{key} has no effect on DATALOADER.SAMPLER_TRAIN {loader.SAMPLER_TRAIN}; set that "
                f"to {' or '.join(samplers)}"
            )
    unknown = {name for name, _ in cfg.DATASETS.TRAIN_REPEAT_FACTOR} - set(cfg.DATASETS.TRAIN)
    if unknown:
        raise UserError(
            f"DATASETS.TRAIN_REPEAT_FACTOR names {', '.join(sorted(unknown))}, which "
            "DATASETS.TRAIN does not; name data sets of it"
        )
    if cfg.MODEL.LOAD_PROPOSALS and loader.SAMPLER_TRAIN in weighted and cfg.DATASETS.TRAIN[1:]:
        raise UserError(
            f"DATALOADER.SAMPLER_TRAIN {loader.SAMPLER_TRAIN} reads the proposals of one data set "
            "only; name one in DATASETS.TRAIN, or take the TrainingSampler"
        )
    sizes = inputs.MIN_SIZE_TRAIN
    if inputs.MIN_SIZE_TRAIN_SAMPLING == "range" and not (len(sizes) == 2 and sizes[0] <= sizes[1]):
        raise UserError(
            f"INPUT.MIN_SIZE_TRAIN is {sizes}; give the least and the greatest size for "
            "INPUT.MIN_SIZE_TRAIN_SAMPLING range"
        )
    crop = inputs.CROP
    shares = crop.TYPE.startswith("relative")
    sound = len(crop.SIZE) == 2 and (are_positive if shares else are_whole)(crop.SIZE)
    if crop.TYPE == "absolute_range":
        sound = sound and crop.SIZE[0] <= crop.SIZE[1]
    if crop.ENABLED and not (sound and (not shares or max(crop.SIZE) <= 1)):
        what = "two shares, above 0.0 and up to 1.0" if shares else "two whole numbers of pixels"
        order = ", the lesser first" if crop.TYPE == "absolute_range" else ""
        raise UserError(
            f"INPUT.CROP.SIZE is {crop.SIZE}; give {what}{order} for INPUT.CROP.TYPE {crop.TYPE}"
        )


# Detectron2's; a trainer of somebody's own may know more.
_SAMPLERS = (
    *("TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler"),
    *("WeightedTrainingSampler", "WeightedCategoryTrainingSampler"),
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
    if cfg.INPUT.OBJECT_SCALE_TRAIN and not cfg.MODEL.MASK_ON:
        raise UserError(
            "INPUT.OBJECT_SCALE_TRAIN makes boxes of masks, and MODEL.MASK_ON is False; set it True"
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
    readers = features_read(cfg)
    for key, names in readers.items():
        if not names:
            raise UserError(f"{key} is empty, so there are no levels to read; name at least one")
        if _find(BACKBONE_REGISTRY, cfg.MODEL.BACKBONE.NAME) is build_resnet_backbone:
            check_features_exist(key, names, cfg.MODEL.RESNETS.OUT_FEATURES, "the ResNet")
    for reader in ("MODEL.RPN.IN_FEATURES", "MODEL.RETINANET.IN_FEATURES"):
        levels = readers.get(reader, [])
        for name in ("SIZES", "ASPECT_RATIOS"):
            lists = cfg.MODEL.ANCHOR_GENERATOR[name]
            # A flat list is one list for all levels.
            nested = bool(lists) and isinstance(lists[0], list | tuple)
            if levels and nested and len(lists) not in (1, len(levels)):
                raise UserError(
                    f"MODEL.ANCHOR_GENERATOR.{name} has {len(lists)} lists for the {len(levels)} "
                    f"levels {', '.join(levels)} of {reader}; give each level one, or one to all"
                )


def _check_mask_proposals(cfg: CfgNode) -> None:
    _check_values(cfg, MASK_VALUES)
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
    """The keys of the components that are built, with their registries; outer ones come first."""
    model = cfg.MODEL
    yield "MODEL.META_ARCHITECTURE", META_ARCH_REGISTRY
    yield "MODEL.BACKBONE.NAME", BACKBONE_REGISTRY
    if model.BACKBONE.NAME == "build_fpn_backbone":
        yield "MODEL.FPN.BOTTOM_UP", BACKBONE_REGISTRY
    network = meta_architecture(cfg)
    if issubclass(network, RetinaNet):
        yield "MODEL.ANCHOR_GENERATOR.NAME", ANCHOR_GENERATOR_REGISTRY
    if not issubclass(network, (GeneralizedRCNN, ProposalNetwork)):
        return
    if model.PROPOSAL_GENERATOR.NAME != "PrecomputedProposals":
        yield "MODEL.PROPOSAL_GENERATOR.NAME", PROPOSAL_GENERATOR_REGISTRY
        generator = _find(PROPOSAL_GENERATOR_REGISTRY, model.PROPOSAL_GENERATOR.NAME)
        if isinstance(generator, type) and issubclass(generator, RPN):
            yield "MODEL.RPN.HEAD_NAME", RPN_HEAD_REGISTRY
            yield "MODEL.ANCHOR_GENERATOR.NAME", ANCHOR_GENERATOR_REGISTRY
    if issubclass(network, GeneralizedRCNN):
        yield "MODEL.ROI_HEADS.NAME", ROI_HEADS_REGISTRY
        if model.ROI_BOX_HEAD.NAME:  # Res5ROIHeads has none
            yield "MODEL.ROI_BOX_HEAD.NAME", ROI_BOX_HEAD_REGISTRY


def _find(registry: Registry, name: str) -> Any:
    """What is registered under a name; None where nothing is."""
    return registry.get(name) if name in registry else None


def _check_components(cfg: CfgNode) -> None:
    """Refuse what the registered components do not take, and switches that they ignore: an
    ablation would report the model without it."""
    parts = {key: _find(registry, _get(cfg, key)) for key, registry in _names(cfg)}
    backbone = parts["MODEL.BACKBONE.NAME"]
    resnet_fpns = (build_resnet_fpn_backbone, build_retinanet_resnet_fpn_backbone)
    if backbone in (build_fpn_backbone, *resnet_fpns):
        _check_values(cfg, {"MODEL.FPN.NORM": NORM})
    if parts.get("MODEL.FPN.BOTTOM_UP", backbone) in (build_resnet_backbone, *resnet_fpns):
        _check_values(cfg, {"MODEL.RESNETS.DEPTH": DEPTH, "MODEL.RESNETS.NORM": NORM})
        depth, width = cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS
        if depth in (18, 34) and width != 64:
            raise UserError(
                f"MODEL.RESNETS.RES2_OUT_CHANNELS is {width}, and a ResNet-{depth} has 64; set it "
                "to 64"
            )
    _check_heads(cfg, parts.get("MODEL.ROI_HEADS.NAME"))
    for key, switches in _SWITCHES.items():
        for keys, is_set, is_ignored, remedy in switches:
            if parts.get(key) is not None and is_set(cfg) and is_ignored(parts[key]):
                raise UserError(f"{keys} no effect on {key} {_get(cfg, key)}; {remedy}")


# The norms of heads, and the channels that a GroupNorm shares out among its 32 groups.
_HEAD_NORMS = {
    "MODEL.FPN.NORM": "MODEL.FPN.OUT_CHANNELS",
    "MODEL.RETINANET.NORM": "MODEL.FPN.OUT_CHANNELS",
    "MODEL.ROI_BOX_HEAD.NORM": "MODEL.ROI_BOX_HEAD.CONV_DIM",
    "MODEL.ROI_MASK_HEAD.NORM": "MODEL.ROI_MASK_HEAD.CONV_DIM",
    "MODEL.SEM_SEG_HEAD.NORM": "MODEL.SEM_SEG_HEAD.CONVS_DIM",
}


def _check_heads(cfg: CfgNode, heads: Any) -> None:
    """Refuse what Detectron2's networks and heads would not take, or would not notice."""
    network, model = meta_architecture(cfg), cfg.MODEL
    if not is_written_in(network, "detectron2", "fpn_d2"):
        return
    read = {"MODEL.FPN.NORM"} if model.FPN.IN_FEATURES else set()
    matchers, losses = [], []
    if issubclass(network, RetinaNet):
        read.add("MODEL.RETINANET.NORM")
        matchers, losses = ["MODEL.RETINANET"], ["MODEL.RETINANET.BBOX_REG_LOSS_TYPE"]
        for key in ("MASK_ON", "KEYPOINT_ON", "LOAD_PROPOSALS"):
            if model[key]:
                raise UserError(f"MODEL.{key} has no effect on a RetinaNet; set it to False")
        if cfg.TEST.DETECTIONS_PER_IMAGE < 0:
            raise UserError(
                "TEST.DETECTIONS_PER_IMAGE is -1; a RetinaNet needs a limit, so give 1 or more"
            )
    elif issubclass(network, (GeneralizedRCNN, ProposalNetwork)):
        if model.PROPOSAL_GENERATOR.NAME != "PrecomputedProposals":
            matchers, losses = ["MODEL.RPN"], ["MODEL.RPN.BBOX_REG_LOSS_TYPE"]
        if is_written_in(heads, "detectron2", "fpn_d2"):
            matchers.append("MODEL.ROI_HEADS")
            losses.append("MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE")
            read.add("MODEL.ROI_BOX_HEAD.NORM")
            _check_roi_heads(cfg, heads)
        if issubclass(network, PanopticFPN):
            read.add("MODEL.SEM_SEG_HEAD.NORM")
        if model.MASK_ON and issubclass(network, GeneralizedRCNN):
            read.add("MODEL.ROI_MASK_HEAD.NORM")
    _check_values(cfg, dict.fromkeys(sorted(read), NORM) | dict.fromkeys(losses, REGRESSION_LOSS))
    for key in sorted(read):
        channels = _get(cfg, _HEAD_NORMS[key])
        if _get(cfg, key) == "GN" and channels % 32:
            raise UserError(
                f"{key} GN makes 32 groups of the channels, and {_HEAD_NORMS[key]} is {channels}; "
                "set that to a multiple of 32"
            )
    for section in matchers:
        thresholds, labels = (
            _get(cfg, f"{section}.IOU_{name}") for name in ("THRESHOLDS", "LABELS")
        )
        if len(labels) != len(thresholds) + 1:
            raise UserError(
                f"{section}.IOU_LABELS is {labels}; give {len(thresholds) + 1} labels, for below, "
                f"between and above the {section}.IOU_THRESHOLDS {thresholds}"
            )
    if cfg.TEST.AUG.ENABLED:
        _check_augmentation(cfg, network)


def _check_roi_heads(cfg: CfgNode, heads: Any) -> None:
    model, types = cfg.MODEL, {"MODEL.ROI_BOX_HEAD.POOLER_TYPE": POOLER_TYPE}
    if isinstance(heads, type) and issubclass(heads, RROIHeads):
        types = {"MODEL.ROI_BOX_HEAD.POOLER_TYPE": ROTATED_POOLER_TYPE}
    for key, head in (("MASK_ON", "ROI_MASK_HEAD"), ("KEYPOINT_ON", "ROI_KEYPOINT_HEAD")):
        if model[key]:
            types[f"MODEL.{head}.POOLER_TYPE"] = POOLER_TYPE
    _check_values(cfg, types)
    name, sigmas = model.ROI_HEADS.NAME, cfg.TEST.KEYPOINT_OKS_SIGMAS
    points = model.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    if model.KEYPOINT_ON and len(sigmas) not in (0, points):
        raise UserError(
            f"TEST.KEYPOINT_OKS_SIGMAS has {len(sigmas)} numbers; give one for each of the "
            f"{points} points of MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, or none for COCO's"
        )
    if model.KEYPOINT_ON and cfg.DATASETS.TEST and not sigmas and points != 17:
        raise UserError(
            f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is {points}, and COCO knows the OKS sigmas of "
            "its 17 points; give one for each of yours in TEST.KEYPOINT_OKS_SIGMAS"
        )
    box = model.ROI_BOX_HEAD
    if box.USE_FED_LOSS and not box.USE_SIGMOID_CE:
        raise UserError(
            "MODEL.ROI_BOX_HEAD.USE_FED_LOSS needs MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE; set it True"
        )
    if isinstance(heads, type) and issubclass(heads, CascadeROIHeads):
        cascade = model.ROI_BOX_CASCADE_HEAD
        if not box.CLS_AGNOSTIC_BBOX_REG:
            raise UserError(
                f"MODEL.ROI_HEADS.NAME {name} needs MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG; set "
                "it True"
            )
        if len(cascade.IOUS) != len(cascade.BBOX_REG_WEIGHTS):
            raise UserError(
                f"MODEL.ROI_BOX_CASCADE_HEAD.IOUS has {len(cascade.IOUS)} stages, and "
                f"BBOX_REG_WEIGHTS {len(cascade.BBOX_REG_WEIGHTS)}; give as many of both"
            )
        if cascade.IOUS[0] != model.ROI_HEADS.IOU_THRESHOLDS[0]:
            raise UserError(
                f"MODEL.ROI_BOX_CASCADE_HEAD.IOUS begins with {cascade.IOUS[0]}; set "
                f"MODEL.ROI_HEADS.IOU_THRESHOLDS to [{cascade.IOUS[0]}] as well"
            )
    if isinstance(heads, type) and issubclass(heads, Res5ROIHeads) and model.KEYPOINT_ON:
        raise UserError(
            f"MODEL.KEYPOINT_ON has no effect on MODEL.ROI_HEADS.NAME {name}; set that to "
            "LevelROIHeads"
        )


def _check_augmentation(cfg: CfgNode, network: type) -> None:
    """What Detectron2's GeneralizedRCNNWithTTA does not take."""
    fault = next(
        (
            fault
            for is_so, fault in (
                (
                    not issubclass(network, GeneralizedRCNN) or issubclass(network, PanopticFPN),
                    f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE}",
                ),
                (cfg.MODEL.KEYPOINT_ON, "MODEL.KEYPOINT_ON"),
                (cfg.MODEL.LOAD_PROPOSALS, "MODEL.LOAD_PROPOSALS"),
            )
            if is_so
        ),
        None,
    )
    if fault:
        raise UserError(
            f"TEST.AUG.ENABLED augments the images of a Faster or Mask R-CNN with an RPN, and does "
            f"not know {fault}; set it to False"
        )


def _changes_neck(cfg: CfgNode) -> bool:
    fpn = cfg.MODEL.FPN
    own_tops = ["maxpool"]
    if _find(BACKBONE_REGISTRY, cfg.MODEL.BACKBONE.NAME) is build_retinanet_resnet_fpn_backbone:
        own_tops.append("p6p7_c5")
    return not (
        fpn.TOP_DOWN
        and fpn.LATERAL
        and not fpn.OUT_FEATURES
        and fpn.BOTTOM_UP == "build_resnet_backbone"
        and fpn.TOP_BLOCK in own_tops
    )


def _has_no_switches(backbone: Any) -> bool:
    return backbone is not build_fpn_backbone and is_written_in(backbone, "detectron2", "fpn_d2")


def _builds_as(*modules: str) -> Callable[[Any], bool]:
    """Whether RoI heads build their pooler and classifier by methods of these modules alone."""

    def builds(heads: Any) -> bool:
        names = ("from_config", "_init_box_head")
        methods = [getattr(heads, name) for name in names if hasattr(heads, name)]
        return all(method.__module__.startswith(modules) for method in methods or [heads])

    return builds


# Keys of this package that act in some components and that others would ignore. By the key that
# names the component: the keys, with their verb; whether a config sets them to what not every
# component acts by; whether a registered component ignores them; the remedy.
_Switch = tuple[str, Callable[[CfgNode], bool], Callable[[Any], bool], str]
_SWITCHES: dict[str, tuple[_Switch, ...]] = {
    "MODEL.BACKBONE.NAME": (
        (
            "MODEL.FPN.TOP_DOWN, LATERAL, OUT_FEATURES, BOTTOM_UP and TOP_BLOCK have",
            _changes_neck,
            _has_no_switches,
            "set it to build_fpn_backbone",
        ),
        (
            "MODEL.FPN.FREEZE has",
            lambda cfg: cfg.MODEL.FPN.FREEZE,
            _has_no_switches,
            "set it to build_fpn_backbone, or freeze a ResNet by MODEL.BACKBONE.FREEZE_AT",
        ),
    ),
    "MODEL.RPN.HEAD_NAME": (
        (
            "MODEL.RPN.SHARED_HEAD False has",
            lambda cfg: not cfg.MODEL.RPN.SHARED_HEAD,
            lambda head: is_written_in(head, "detectron2"),
            "set it to build_level_rpn_head",
        ),
    ),
    "MODEL.ROI_HEADS.NAME": (
        (
            "MODEL.ROI_BOX_HEAD.POOLER_BACKEND has",
            lambda cfg: cfg.MODEL.ROI_BOX_HEAD.POOLER_BACKEND != "auto",
            _builds_as("detectron2."),
            "set it to LevelROIHeads or C4ROIHeads, or leave the backend auto",
        ),
        (
            "MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE and POOLER_CANONICAL_LEVEL have",
            lambda cfg: (
                cfg.MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE != 224
                or cfg.MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_LEVEL != 4
            ),
            _builds_as("detectron2."),
            "set it to LevelROIHeads or C4ROIHeads, or leave the keys at 224 and 4",
        ),
        (
            "MODEL.ROI_BOX_HEAD.NUM_UNUSED_CLASSES has",
            lambda cfg: cfg.MODEL.ROI_BOX_HEAD.NUM_UNUSED_CLASSES > 0,
            _builds_as("detectron2.", "fpn_d2.modeling."),
            "set it to TorchvisionROIHeads, or NUM_UNUSED_CLASSES to 0",
        ),
    ),
}
