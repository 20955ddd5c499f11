"""Rules for the value of each key on its own: a test, and the words of the remedy.

A closed list of words is used only where no program can add one by a registry or a subclass.
"""

import functools
import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

from detectron2.config import CfgNode

from .utils.errors import UserError

# A test of a key's value, and the words to show after ``KEY is value`` where it fails.
Rule = tuple[Callable[[Any], bool], str]


def one_of(*choices: str) -> Rule:
    """Make the rule that a value is one of these words."""
    return lambda value: value in choices, f"set it to {' or '.join(map(repr, choices))}"


def at_least(least: int) -> Rule:
    """Make the rule that a value is finite and at least ``least``."""
    return lambda value: math.isfinite(value) and value >= least, f"give {least} or more"


def is_finite(value: Any) -> bool:
    """Whether a value is a number, and neither infinite nor NaN."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def are_whole(values: Sequence[Any]) -> bool:
    """Whether all values are whole numbers above 0."""
    return all(type(value) is int and value >= 1 for value in values)


def are_positive(values: Sequence[Any]) -> bool:
    """Whether a list, or a list of lists, holds numbers above 0 and nothing else."""
    lists = (one if isinstance(one, list | tuple) else [one] for one in values)
    return all(is_finite(value) and value > 0 for value in itertools.chain(*lists))


def _is_expected(entries: Sequence[Any]) -> bool:
    return all(
        isinstance(entry, list | tuple)
        and [isinstance(part, str) for part in entry] == [True, True, False, False]
        and is_finite(entry[2])
        and is_finite(entry[3])
        for entry in entries
    )


def _are_pairs(entries: Sequence[Any]) -> bool:
    """Whether each entry is a data set and a number above 0."""
    return all(
        isinstance(entry, list | tuple)
        and len(entry) == 2
        and isinstance(entry[0], str)
        and are_positive(entry[1:])
        for entry in entries
    )


_NAMES: Rule = (
    lambda values: all(isinstance(value, str) for value in values),
    "give names, such as ['p2', 'p3']",
)
_POSITIVE: Rule = (are_positive, "give numbers above 0")
_ABOVE_0: Rule = (lambda value: math.isfinite(value) and value > 0, "give a number above 0")
_WHOLE = "give whole numbers above 0"
_SIZES: Rule = (lambda values: len(values) > 0 and are_whole(values), _WHOLE)
_FRACTION: Rule = (lambda share: 0 <= share <= 1, "give a fraction, 0.0 to 1.0")
_PART: Rule = (lambda share: 0 < share < 1, "give a fraction between 0.0 and 1.0")
FOUR: Rule = (lambda values: len(values) == 4 and are_positive(values), "give 4 numbers above 0")
# Of rotated boxes, the fifth is for the angle.
FIVE: Rule = (lambda values: len(values) == 5 and are_positive(values), "give 5 numbers above 0")
_IOUS: Rule = (
    lambda values: (
        len(values) > 0
        and are_positive(values)
        and list(values) == sorted(values)
        and values[-1] <= 1
    ),
    "give IoUs above 0.0 and up to 1.0, the lowest first",
)
_LABELS: Rule = (
    lambda values: all(value in (-1, 0, 1) for value in values),
    "give 0 for background, 1 for objects, and -1 for neither",
)

VALUES: dict[str, Rule] = {
    "DATALOADER.MAX_SKIPPED_SHARE": _FRACTION,
    "DATALOADER.NUM_WORKERS": at_least(0),
    "DATALOADER.RANDOM_SUBSET_RATIO": (
        lambda share: 0 < share <= 1,
        "give a share of the images, above 0.0 and up to 1.0",
    ),
    "DATALOADER.REPEAT_THRESHOLD": _FRACTION,
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": at_least(1),
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN": at_least(1),
    "DATASETS.TRAIN_REPEAT_FACTOR": (_are_pairs, "give pairs, such as [('shapes_train', 2.0)]"),
    "FLOAT32_PRECISION": one_of("", "highest", "high", "medium"),
    "INFERENCE.CALIBRATION_IMAGES": at_least(1),
    "INFERENCE.ENGINE": one_of("torch", "openvino", "auto"),
    "INFERENCE.PRECISION": one_of("float32", "bfloat16", "float16", "int8"),
    "INPUT.CROP.TYPE": one_of("relative_range", "relative", "absolute", "absolute_range"),
    "INPUT.MASK_FORMAT": one_of("polygon", "bitmask"),
    "INPUT.MAX_SIZE_TEST": at_least(1),
    "INPUT.MAX_SIZE_TRAIN": at_least(1),
    "INPUT.MIN_SIZE_TEST": at_least(0),  # 0 resizes nothing
    "INPUT.MIN_SIZE_TRAIN": (
        lambda values: len(values) > 0 and are_whole([value for value in values if value != 0]),
        "give whole numbers, 0 for no resize",
    ),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": one_of("choice", "range"),
    "INPUT.OBJECT_SCALE_TRAIN": at_least(0),  # 0 is off
    "INPUT.RANDOM_FLIP": one_of("horizontal", "vertical", "none"),
    "INPUT.RESIZE_TEST": one_of("detectron2", "torchvision"),
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": _POSITIVE,
    "MODEL.ANCHOR_GENERATOR.OFFSET": (
        lambda share: 0 <= share < 1,
        "give a share of the stride, from 0.0 to below 1.0",
    ),
    "MODEL.ANCHOR_GENERATOR.SIZES": _POSITIVE,
    "MODEL.BACKBONE.FREEZE_AT": at_least(0),
    "MODEL.FPN.FUSE_TYPE": one_of("sum", "avg"),
    "MODEL.FPN.IN_FEATURES": _NAMES,
    "MODEL.FPN.OUT_CHANNELS": at_least(1),
    "MODEL.FPN.OUT_FEATURES": _NAMES,
    "MODEL.MASK_PROPOSAL.BATCH_SIZE_PER_IMAGE": at_least(1),
    "MODEL.MASK_PROPOSAL.CENTER_RADIUS": _ABOVE_0,
    "MODEL.MASK_PROPOSAL.HIDDEN_DIM": at_least(1),
    "MODEL.MASK_PROPOSAL.IN_FEATURES": _NAMES,
    "MODEL.MASK_PROPOSAL.MASK_LOSS_WEIGHT": at_least(0),
    "MODEL.MASK_PROPOSAL.MASK_SIZE": at_least(1),
    "MODEL.MASK_PROPOSAL.MASK_THRESHOLD": _FRACTION,
    "MODEL.MASK_PROPOSAL.PADDING": at_least(0),
    "MODEL.MASK_PROPOSAL.POSITIVE_FRACTION": _FRACTION,
    "MODEL.MASK_PROPOSAL.SIZES": (are_positive, "give scales in pixels, above 0"),
    "MODEL.MASK_PROPOSAL.TEST_SCALES": (
        lambda values: len(values) > 0 and are_positive(values),
        "give factors above 0, [1.0] for none",
    ),
    "MODEL.MASK_PROPOSAL.TOPK_TEST": at_least(1),
    "MODEL.MASK_PROPOSAL.WINDOWS": (
        lambda values: len(values) > 0 and are_whole(values) and all(v % 2 for v in values),
        "give odd sides in cells, such as [5, 7]",
    ),
    "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH": _FRACTION,
    "MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH": _FRACTION,
    "MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT": at_least(0),
    "MODEL.RESNETS.NUM_GROUPS": at_least(1),
    "MODEL.RESNETS.OUT_FEATURES": _NAMES,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": at_least(1),
    "MODEL.RESNETS.RES5_DILATION": (lambda value: value in (1, 2), "set it to 1 or 2"),
    "MODEL.RESNETS.STEM_OUT_CHANNELS": at_least(1),
    "MODEL.RESNETS.WIDTH_PER_GROUP": at_least(1),
    "MODEL.RETINANET.BBOX_REG_WEIGHTS": FOUR,
    "MODEL.RETINANET.FOCAL_LOSS_ALPHA": (
        lambda value: value == -1 or 0 <= value <= 1,
        "give a fraction, 0.0 to 1.0, or -1 for none",
    ),
    "MODEL.RETINANET.FOCAL_LOSS_GAMMA": at_least(0),
    "MODEL.RETINANET.IN_FEATURES": _NAMES,
    "MODEL.RETINANET.IOU_LABELS": _LABELS,
    "MODEL.RETINANET.IOU_THRESHOLDS": _IOUS,
    "MODEL.RETINANET.NMS_THRESH_TEST": _FRACTION,
    "MODEL.RETINANET.NUM_CLASSES": at_least(1),
    "MODEL.RETINANET.NUM_CONVS": at_least(1),
    "MODEL.RETINANET.PRIOR_PROB": _PART,
    "MODEL.RETINANET.SCORE_THRESH_TEST": _FRACTION,
    "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": at_least(0),
    "MODEL.RETINANET.TOPK_CANDIDATES_TEST": at_least(1),
    "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS": (
        lambda values: all(FOUR[0](value) for value in values),
        "give 4 numbers above 0 for each stage",
    ),
    "MODEL.ROI_BOX_CASCADE_HEAD.IOUS": _IOUS,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": at_least(1),
    "MODEL.ROI_BOX_HEAD.FC_DIM": at_least(1),
    "MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES": at_least(1),
    "MODEL.ROI_BOX_HEAD.NUM_CONV": at_least(0),
    "MODEL.ROI_BOX_HEAD.NUM_FC": at_least(0),
    "MODEL.ROI_BOX_HEAD.NUM_UNUSED_CLASSES": at_least(0),
    "MODEL.ROI_BOX_HEAD.POOLER_BACKEND": one_of("auto", "gather", "torchvision"),
    "MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE": (
        lambda value: value > 0,
        "Eq. 1 divides by it, so set a side in pixels, such as the paper's 224",
    ),
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": at_least(1),
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": at_least(0),
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": at_least(0),
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": at_least(1),
    "MODEL.ROI_HEADS.IN_FEATURES": _NAMES,
    "MODEL.ROI_HEADS.IOU_LABELS": _LABELS,
    "MODEL.ROI_HEADS.IOU_THRESHOLDS": _IOUS,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": _FRACTION,
    "MODEL.ROI_HEADS.NUM_CLASSES": at_least(1),
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": _FRACTION,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": _FRACTION,
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": _SIZES,
    "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE": at_least(0),
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": at_least(1),
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION": at_least(1),
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_SAMPLING_RATIO": at_least(0),
    "MODEL.ROI_MASK_HEAD.CONV_DIM": at_least(1),
    "MODEL.ROI_MASK_HEAD.NUM_CONV": at_least(0),
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": at_least(1),
    "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": at_least(0),
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": at_least(1),
    "MODEL.RPN.BOUNDARY_THRESH": at_least(-1),
    "MODEL.RPN.CONV_DIMS": (
        lambda values: len(values) > 0 and all(value == -1 or value >= 1 for value in values),
        "give channels, -1 for as many as the features have",
    ),
    "MODEL.RPN.IN_FEATURES": _NAMES,
    "MODEL.RPN.IOU_LABELS": _LABELS,
    "MODEL.RPN.IOU_THRESHOLDS": _IOUS,
    "MODEL.RPN.NMS_THRESH": _FRACTION,
    "MODEL.RPN.POSITIVE_FRACTION": _FRACTION,
    "MODEL.RPN.POST_NMS_TOPK_TEST": at_least(1),
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": at_least(1),
    "MODEL.RPN.PRE_NMS_TOPK_TEST": at_least(1),
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": at_least(1),
    "MODEL.RPN.SMOOTH_L1_BETA": at_least(0),
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": at_least(1),
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": at_least(1),
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": _NAMES,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": at_least(1),
    "OUTPUT_DIR": (
        lambda path: path != "" and "://" not in path,
        "name a folder of this machine, such as output/mine",
    ),
    # NumPy takes 32 bits, and each process of a training adds its rank to the seed.
    "SEED": (lambda seed: seed < 2**31, "give one below 2^31, or -1 to draw it"),
    "SOLVER.ACCUMULATE": at_least(1),
    "SOLVER.BASE_LR": at_least(0),
    "SOLVER.BASE_LR_END": at_least(0),
    "SOLVER.CHECKPOINT_PERIOD": at_least(1),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": one_of("value", "norm"),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": _ABOVE_0,
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": (lambda value: value > 0, "give 2.0, or float('inf')"),
    "SOLVER.EMA_DECAY": (
        lambda value: 0 <= value < 1,
        "give a number from 0.0, which averages nothing, to below 1.0, such as 0.999",
    ),
    "SOLVER.GAMMA": at_least(0),
    "SOLVER.MAX_ITER": at_least(1),
    "SOLVER.MOMENTUM": (lambda value: 0 <= value < 1, "give a number from 0.0 to below 1.0"),
    "SOLVER.NUM_DECAYS": at_least(0),
    "SOLVER.REFERENCE_WORLD_SIZE": at_least(0),
    "SOLVER.STEPS": (are_whole, _WHOLE),
    "SOLVER.WARMUP_FACTOR": at_least(0),
    "SOLVER.WARMUP_ITERS": at_least(0),
    "SOLVER.WARMUP_METHOD": one_of("linear", "constant"),
    "SOLVER.WEIGHT_DECAY": at_least(0),
    "SOLVER.WEIGHT_DECAY_NORM": at_least(0),
    "TEST.AUG.MAX_SIZE": at_least(1),
    "TEST.AUG.MIN_SIZES": _SIZES,
    "TEST.DETECTIONS_PER_IMAGE": at_least(-1),
    "TEST.EVAL_PERIOD": at_least(0),
    "TEST.EXPECTED_RESULTS": (
        _is_expected,
        "give lists of task, metric, value and tolerance, such as ['bbox', 'AP', 38.5, 0.2]",
    ),
    "TEST.KEYPOINT_OKS_SIGMAS": _POSITIVE,
    "TEST.PATIENCE": at_least(0),
    "TEST.PRECISE_BN.NUM_ITER": at_least(1),
    "VIS_PERIOD": at_least(0),
}
# Values that Detectron2's own components accept; other people's may accept more.
DEPTH: Rule = (lambda depth: depth in (18, 34, 50, 101, 152), "set it to 18, 34, 50, 101 or 152")


def _some_of(*stages: str) -> Rule:
    is_known = set(stages).issuperset
    words = f"name one or more of {', '.join(stages)}"
    return lambda names: len(names) > 0 and is_known(names), words


STAGES = _some_of("stem", "res2", "res3", "res4", "res5")
REGNET_STAGES = _some_of("s1", "s2", "s3", "s4")
NORM = one_of(
    "", "BN", "SyncBN", "FrozenBN", "GN", "LN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N"
)
POOLER_TYPE = one_of("ROIAlignV2", "ROIAlign", "ROIPool")
ROTATED_POOLER_TYPE = one_of("ROIAlignRotated")
REGRESSION_LOSS = one_of("smooth_l1", "giou", "diou", "ciou")


def check_values(cfg: CfgNode, rules: dict[str, Rule]) -> None:
    """Refuse a value that breaks its key's rule."""
    for key, (holds, remedy) in rules.items():
        value = value_of(cfg, key)
        if not holds(value):
            raise UserError(f"{key} is {value!r}; {remedy}")


def value_of(cfg: CfgNode, key: str) -> Any:
    """Return the value, or the section, of a key such as ``MODEL.RPN``."""
    return functools.reduce(operator.getitem, key.split("."), cfg)
