"""Checkpoints of other code bases: find out which one, convert the weights, check the result."""

import dataclasses
import hashlib
import os
import re

import torch
from detectron2.config import CfgNode
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager
from torch import Tensor

from ...config_checks import check_registered
from ...utils.errors import UserError
from .name_rules import maskrcnn_benchmark_rules, rename, torchvision_rules

SOURCES = ("torchvision", "maskrcnn_benchmark", "detectron2")
NORM_EPS = 1e-5  # of Detectron2's norms, frozen or not
_COCO_COLUMNS = 91  # of torchvision's models: one for each number up to 90, category or not
_ANCHORS = 9  # of RetinaNet in each cell
_DEPTHS = {23: 101, 36: 152}  # by the number of res4's blocks, for networks of bottleneck blocks

# torchvision gives the norms of its published COCO_V1 weights an eps of 0. These are the first
# digits of the files' SHA-256, which are also part of their names.
_WITHOUT_EPS = ("258fb6c6", "eeacb38b")


@dataclasses.dataclass(frozen=True)
class Conversion:
    """Weights under this package's names, and what they need to run.

    Args:
        weights: the weights by name.
        config: the config below ``configs/`` that the weights are for.
        labels: the source's label of each class.
        overrides: ``[KEY, value, ...]`` for that config.
        notes: a sentence for each thing that was left out or changed.
        norm_eps: what the source's norms add to their variance.
    """

    weights: dict[str, Tensor]
    config: str
    labels: list[int]
    overrides: list[str]
    notes: list[str]
    norm_eps: float


def find_source(weights: dict[str, Tensor]) -> str:
    """Tell from their names which of :data:`SOURCES` weights come from.

    Names of neither of the other code bases count as Detectron2's.
    """
    names = [name.removeprefix("module.") for name in weights]
    if any(re.match(r"backbone\.(fpn\.fpn_inner|body\.stem\.)", name) for name in names):
        return "maskrcnn_benchmark"
    if any(re.match(r"backbone\.(fpn\.inner_blocks|body\.layer\d)\.", name) for name in names):
        return "torchvision"
    return "detectron2"


def norm_eps_of(path: str, weights: dict[str, Tensor]) -> float:
    """Find out what the norms of a torchvision checkpoint add to their variance.

    Args:
        path: the file, or its URL.
        weights: its weights by name.

    Raises:
        UserError: if neither the file nor its weights tell.
    """
    if any(name.endswith("num_batches_tracked") for name in weights):
        return NORM_EPS  # norms that were not frozen
    if os.path.isfile(path := PathManager.get_local_path(path)):  # a URL's is downloaded already
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        if digest.hexdigest().startswith(_WITHOUT_EPS):
            return 0.0
    raise UserError(
        f"{path} has frozen norms and does not say what they add to their variance: give "
        "--norm-eps 0 for torchvision's published COCO_V1 weights and what was fine-tuned from "
        f"them, or --norm-eps {NORM_EPS:g} for what was trained from an ImageNet backbone"
    )


def convert_foreign(
    path: str,
    weights: dict[str, Tensor],
    source: str,
    *,
    norm_eps: float | None = None,
    all_classes: bool = False,
    left_out: tuple[str, ...] = (),
) -> Conversion:
    """Convert the weights of another code base to this package's names and layout.

    Args:
        path: the file of the weights.
        weights: the weights, by the source's names.
        source: "torchvision" or "maskrcnn_benchmark".
        norm_eps: what the norms add to their variance; None finds out.
        all_classes: keep all of torchvision's 91 columns as classes, not only COCO's 80.
        left_out: more patterns of names that are not needed, such as a mask head's.

    Raises:
        UserError: listing unknown names, naming a missing weight, or if shapes do not fit.
    """
    weights = {name.removeprefix("module."): weight for name, weight in weights.items()}
    for pattern in left_out:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f"--leave-out {pattern} is no regular expression: {error}") from error
    is_torchvision = source == "torchvision"
    is_retinanet = is_torchvision and any(name.startswith("head.") for name in weights)
    if is_torchvision:
        if norm_eps is None:
            norm_eps = norm_eps_of(path, weights)
        rules = torchvision_rules(is_retinanet)
        dropped = r"\.num_batches_tracked$"
        config = f"torchvision/{'retinanet' if is_retinanet else 'faster_rcnn'}_R_50_FPN.yaml"
    else:
        on_pyramid = any(name.startswith("backbone.fpn.") for name in weights)
        rules = maskrcnn_benchmark_rules(on_pyramid)
        dropped = r"^rpn\.anchor_generator\.cell_anchors\."
        config = f"maskrcnn_benchmark/faster_rcnn_R_50_{'FPN' if on_pyramid else 'C4'}.yaml"
    norm_eps = norm_eps or 0.0  # maskrcnn-benchmark's norms add nothing
    weights, num_left_out = rename(weights, rules, (dropped, *left_out), source)
    coco = is_torchvision and not all_classes
    try:
        _put_eps_into_norms(weights, norm_eps)
        if is_retinanet:
            labels, note = _order_retinanet(weights, coco)
        else:
            labels, num_unused, note = _order_faster_rcnn(weights, coco)
    except (IndexError, TypeError, RuntimeError) as error:  # from torch
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{path} has weights of shapes that no {source} detector has ({reason}); copy or "
            "download it again"
        ) from error
    key = "RETINANET" if is_retinanet else "ROI_HEADS"
    overrides = [f"MODEL.{key}.NUM_CLASSES", str(len(labels))]
    if is_torchvision and not is_retinanet:
        overrides += ["MODEL.ROI_BOX_HEAD.NUM_UNUSED_CLASSES", str(num_unused)]
    blocks = {match[1] for name in weights if (match := re.search(r"\.res4\.(\d+)\.", name))}
    if len(blocks) in _DEPTHS:
        overrides += ["MODEL.RESNETS.DEPTH", str(_DEPTHS[len(blocks)])]
    notes = [note]
    if num_left_out:
        notes.append(f"left out, as no model here needs them: {num_left_out} names")
    return Conversion(weights, config, labels, overrides, notes, norm_eps)


def _put_eps_into_norms(weights: dict[str, Tensor], eps: float) -> None:
    """Scale the weights of norms in place, to give with an eps of 1e-5 what they gave with ``eps``.

    The variances stay as they are: if lowered by 1e-5, the variance of a channel that hardly
    varies would be 0.
    """
    for name, variance in weights.items():
        key = name.replace("running_var", "weight")
        # check_complete reports a norm without its weight
        if eps == NORM_EPS or not name.endswith(".norm.running_var") or key not in weights:
            continue
        variance = variance.double()
        scale = torch.sqrt((variance + NORM_EPS) / (variance + eps))
        scaled = (weights[key].double() * scale).to(weights[key].dtype)
        if not scaled.isfinite().all():
            raise UserError(
                f"{name} has a variance of 0, by which the source's norms would divide; convert "
                f"with --norm-eps {NORM_EPS:g}"
            )
        weights[key] = scaled


def check_complete(weights: dict[str, Tensor], cfg: CfgNode) -> None:
    """Check that weights fill a config's model, and that each of them has a place in it.

    Raises:
        UserError: listing every name that is missing, has no place or has another shape; or if a
            component of the config is not registered.
    """
    check_registered(cfg)
    wanted = {name: value.shape for name, value in build_model(cfg.clone()).state_dict().items()}
    faults = [f"{name} is missing" for name in wanted if name not in weights]
    faults += [f"{name} has no place" for name in weights if name not in wanted]
    faults += [
        f"{name} is {tuple(weights[name].shape)} and not {tuple(shape)}"
        for name, shape in wanted.items()
        if name in weights and weights[name].shape != shape
    ]
    if faults:
        raise UserError(
            f"the converted weights do not fit the config, in {len(faults)} names: "
            f"{'; '.join(faults)}; give the config of this model with --config-file"
        )


# --- the columns of classifiers
#
# Faster R-CNN  Column 0 is the background and becomes the last; its box, which nothing reads, is
#               dropped. Of torchvision's 91 columns for COCO, 80 are categories. The columns of the
#               ten numbers that COCO skips stay beside the background (NUM_UNUSED_CLASSES), so that
#               all scores stay the same.
# RetinaNet     Every column is a score of its own. Of torchvision's 91 columns for COCO, the 80
#               categories stay. Models with another number of columns keep them all, and class k is
#               torchvision's label k.


def _order_faster_rcnn(weights: dict[str, Tensor], coco: bool) -> tuple[list[int], int, str]:
    """Order the columns of Faster R-CNN's box predictor in place; with ``coco``, 91 columns count
    as COCO's. Return the label of each class, the number of unused columns and a note."""
    prefix = "roi_heads.box_predictor."
    columns = len(_needed(weights, f"{prefix}cls_score.bias"))
    classes, unused = list(range(1, columns)), []
    if columns == _COCO_COLUMNS and coco:
        classes = _coco_ids()
        unused = sorted(set(range(1, columns)) - set(classes))
    for kind in ("weight", "bias"):
        score = _needed(weights, f"{prefix}cls_score.{kind}")
        weights[f"{prefix}cls_score.{kind}"] = score[[*classes, *unused, 0]]
        boxes = _needed(weights, f"{prefix}bbox_pred.{kind}")
        if len(boxes) != 4 * columns:
            raise UserError(
                f"{prefix}bbox_pred.{kind} has {len(boxes)} rows for {columns} columns of classes, "
                "not 4 each; only boxes of each class can be converted"
            )
        boxes = boxes.reshape(columns, 4, *boxes.shape[1:])[classes]
        weights[f"{prefix}bbox_pred.{kind}"] = boxes.flatten(0, 1)
    note = f"{columns} columns: the background, now last, and {len(classes)} classes"
    note += f", COCO's; {len(unused)} more count as background" if unused else ""
    return classes, len(unused), note


def _order_retinanet(weights: dict[str, Tensor], coco: bool) -> tuple[list[int], str]:
    """Order the columns of RetinaNet's head likewise; return each class's label and a note."""
    scores = len(_needed(weights, "head.cls_score.bias"))
    if scores % _ANCHORS:
        raise UserError(
            f"RetinaNet's head has {scores} scores, which is no multiple of its {_ANCHORS} anchors "
            "in each cell; models of other anchors cannot be converted"
        )
    columns = scores // _ANCHORS
    reduced = columns == _COCO_COLUMNS and coco
    classes = _coco_ids() if reduced else list(range(columns))
    for kind in ("weight", "bias"):
        score = _needed(weights, f"head.cls_score.{kind}")
        score = score.reshape(_ANCHORS, columns, *score.shape[1:])[:, torch.tensor(classes)]
        weights[f"head.cls_score.{kind}"] = score.flatten(0, 1)
    return classes, f"{columns} columns: {len(classes)} classes" + (", COCO's" if reduced else "")


def _coco_ids() -> list[int]:
    """The ids of COCO's 80 categories, in the order of Detectron2's classes."""
    return [category["id"] for category in COCO_CATEGORIES if category["isthing"]]


def _needed(weights: dict[str, Tensor], name: str) -> Tensor:
    """Return a weight that every detector needs."""
    if name not in weights:
        raise UserError(f"the checkpoint has nothing for {name}; convert a whole detector")
    return weights[name]
