"""torchvision's ``fasterrcnn_resnet50_fpn`` and ``retinanet_resnet50_fpn`` under our names.

The names of torchvision before and after its release 0.13 are both known. Class heads:

    Faster R-CNN  Column 0 is the background and becomes the last; its box, which nothing reads,
                  is dropped. Of COCO's 91 columns 80 are categories. The columns of the ten
                  numbers that COCO skips stay beside the background (``NUM_UNUSED_CLASSES``), so
                  that all scores stay the same.
    RetinaNet     Every column is a score of its own. Of COCO's 91 columns the 80 categories stay.
                  Models of other numbers of columns keep all, and class k is torchvision's label
                  k.
"""

import torch
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from torch import Tensor

from ...utils.errors import UserError
from .name_rules import (
    Conversion,
    Rule,
    background_last,
    needed,
    put_eps_into_norms,
    rename,
    resnet_rules,
)

_BODY, _BOTTOM_UP = "backbone.body.", "backbone.bottom_up."
_COCO_COLUMNS = 91
_ANCHORS = 9  # of RetinaNet in each cell

_BACKBONE: list[Rule] = [
    (r"backbone\.body\.conv1\.", "backbone.bottom_up.stem.conv1."),
    (r"backbone\.body\.bn1\.", "backbone.bottom_up.stem.conv1.norm."),
    *resnet_rules(_BODY, _BOTTOM_UP),
]
_FASTER_RCNN: list[Rule] = [
    (r"rpn\.head\.conv(\.0\.0)?\.(?=weight|bias)", "proposal_generator.rpn_head.conv."),
    (r"rpn\.head\.cls_logits\.", "proposal_generator.rpn_head.objectness_logits."),
    (r"rpn\.head\.bbox_pred\.", "proposal_generator.rpn_head.anchor_deltas."),
    (r"roi_heads\.box_head\.fc6\.", "roi_heads.box_head.fc1."),
    (r"roi_heads\.box_head\.fc7\.", "roi_heads.box_head.fc2."),
    (r"roi_heads\.box_predictor\.cls_score\.", "roi_heads.box_predictor.cls_score."),
    (r"roi_heads\.box_predictor\.bbox_pred\.", "roi_heads.box_predictor.bbox_pred."),
]
_RETINANET: list[Rule] = [
    (r"backbone\.fpn\.extra_blocks\.(p6|p7)\.", r"backbone.top_block.\1."),
    (r"head\.classification_head\.cls_logits\.", "head.cls_score."),
    (r"head\.regression_head\.bbox_reg\.", "head.bbox_pred."),
]
for _theirs, _ours in (("classification_head", "cls_subnet"), ("regression_head", "bbox_subnet")):
    for _i in range(4):
        _new = f"head.{_ours}.{2 * _i}."
        _RETINANET.append((rf"head\.{_theirs}\.conv\.{_i}\.0\.(?=weight|bias)", _new))
        _RETINANET.append((rf"head\.{_theirs}\.conv\.{2 * _i}\.(?=weight|bias)", _new))

_LEFT_OUT = (r"\.num_batches_tracked$",)


def convert_torchvision(
    weights: dict[str, Tensor],
    *,
    norm_eps: float,
    all_classes: bool = False,
    left_out: tuple[str, ...] = (),
) -> Conversion:
    """Bring torchvision's weights under this package's names.

    Args:
        weights: the model's ``state_dict``.
        norm_eps: what the norms add to their variance; 0 in the published ``COCO_V1`` weights.
        all_classes: keep all of 91 columns as classes, and not only COCO's 80.
        left_out: patterns of more names that are not needed.

    Returns:
        the weights, for a config of ``configs/torchvision/``.

    Raises:
        UserError: listing what is unknown or missing.
    """
    retinanet = any(name.startswith("head.") for name in weights)
    finest = 3 if retinanet else 2
    rules = [*_BACKBONE, *_pyramid_rules(finest), *(_RETINANET if retinanet else _FASTER_RCNN)]
    renamed, left = rename(weights, rules, (*_LEFT_OUT, *left_out), "torchvision")
    put_eps_into_norms(renamed, norm_eps)
    select = _select_retinanet if retinanet else _select_faster_rcnn
    labels, overrides, note = select(renamed, all_classes)
    kind = "retinanet" if retinanet else "faster_rcnn"
    config = f"torchvision/{kind}_R_50_FPN.yaml"
    conversion = Conversion(renamed, config, labels, overrides, [note])
    conversion.add_depth()
    conversion.add_left_out(left)
    return conversion


def _pyramid_rules(finest: int) -> list[Rule]:
    rules = []
    for i in range(4):
        for theirs, ours in (("inner_blocks", "lateral"), ("layer_blocks", "output")):
            pattern = rf"backbone\.fpn\.{theirs}\.{i}(\.0)?\.(?=weight|bias)"
            rules.append((pattern, f"backbone.fpn_{ours}{finest + i}."))
    return rules


def _coco_ids() -> list[int]:
    """The ids of COCO's 80 categories, in the order of Detectron2's classes."""
    return [category["id"] for category in COCO_CATEGORIES if category["isthing"]]


def _select_faster_rcnn(
    weights: dict[str, Tensor], all_classes: bool
) -> tuple[list[int], list[str], str]:
    """Order the columns (in place); return their labels, the overrides and a note."""
    prefix = "roi_heads.box_predictor."
    columns = len(needed(weights, f"{prefix}cls_score.bias"))
    classes, unused = list(range(1, columns)), []
    if columns == _COCO_COLUMNS and not all_classes:
        classes = _coco_ids()
        unused = sorted(set(range(1, columns)) - set(classes))
    for kind in ("weight", "bias"):
        score = needed(weights, f"{prefix}cls_score.{kind}")
        weights[f"{prefix}cls_score.{kind}"] = background_last(score[[0, *classes, *unused]])
        boxes = needed(weights, f"{prefix}bbox_pred.{kind}")
        if len(boxes) != 4 * columns:
            raise UserError(
                f"{prefix}bbox_pred.{kind} has {len(boxes)} rows for {columns} columns of classes, "
                "not 4 each; only boxes of each class can be converted"
            )
        boxes = boxes.reshape(columns, 4, *boxes.shape[1:])[classes]
        weights[f"{prefix}bbox_pred.{kind}"] = boxes.flatten(0, 1)
    overrides = ["MODEL.ROI_HEADS.NUM_CLASSES", str(len(classes))]
    overrides += ["MODEL.ROI_BOX_HEAD.NUM_UNUSED_CLASSES", str(len(unused))]
    note = f"{columns} columns: the background, now last, and {len(classes)} classes"
    note += f", COCO's; {len(unused)} more count as background" if unused else ""
    return classes, overrides, note


def _select_retinanet(
    weights: dict[str, Tensor], all_classes: bool
) -> tuple[list[int], list[str], str]:
    """Order the columns (in place); return their labels, the overrides and a note."""
    scores = len(needed(weights, "head.cls_score.bias"))
    if scores % _ANCHORS:
        raise UserError(
            f"RetinaNet's head has {scores} scores, which is no multiple of its {_ANCHORS} anchors "
            "in each cell; models of other anchors cannot be converted"
        )
    columns = scores // _ANCHORS
    reduced = columns == _COCO_COLUMNS and not all_classes
    classes = _coco_ids() if reduced else list(range(columns))
    for kind in ("weight", "bias"):
        score = needed(weights, f"head.cls_score.{kind}")
        score = score.reshape(_ANCHORS, columns, *score.shape[1:])[:, torch.tensor(classes)]
        weights[f"head.cls_score.{kind}"] = score.flatten(0, 1)
    note = f"{columns} columns: {len(classes)} classes" + (", COCO's" if reduced else "")
    return classes, ["MODEL.RETINANET.NUM_CLASSES", str(len(classes))], note
