"""maskrcnn-benchmark's Faster R-CNN on the pyramid or on C4, under our names.

``fpn_inner1`` and ``fpn_layer1`` belong to C2. The background is column 0 and becomes the last;
its box, which nothing reads, is dropped. The other columns are COCO's 80 categories in
Detectron2's order. Masks, key points and RetinaNet cannot be converted.
"""

from torch import Tensor

from .name_rules import (
    Conversion,
    Rule,
    background_last,
    needed,
    put_eps_into_norms,
    rename,
    resnet_rules,
)

_BODY = "backbone.body."
_HEADS: list[Rule] = [
    (r"rpn\.head\.conv\.", "proposal_generator.rpn_head.conv."),
    (r"rpn\.head\.cls_logits\.", "proposal_generator.rpn_head.objectness_logits."),
    (r"rpn\.head\.bbox_pred\.", "proposal_generator.rpn_head.anchor_deltas."),
    (r"roi_heads\.box\.predictor\.cls_score\.", "roi_heads.box_predictor.cls_score."),
    (r"roi_heads\.box\.predictor\.bbox_pred\.", "roi_heads.box_predictor.bbox_pred."),
]
_FPN: list[Rule] = [
    (r"backbone\.body\.stem\.conv1\.", "backbone.bottom_up.stem.conv1."),
    (r"backbone\.body\.stem\.bn1\.", "backbone.bottom_up.stem.conv1.norm."),
    *resnet_rules(_BODY, "backbone.bottom_up."),
    *((rf"backbone\.fpn\.fpn_inner{i}\.", f"backbone.fpn_lateral{i + 1}.") for i in range(1, 5)),
    *((rf"backbone\.fpn\.fpn_layer{i}\.", f"backbone.fpn_output{i + 1}.") for i in range(1, 5)),
    (r"roi_heads\.box\.feature_extractor\.fc6\.", "roi_heads.box_head.fc1."),
    (r"roi_heads\.box\.feature_extractor\.fc7\.", "roi_heads.box_head.fc2."),
    *_HEADS,
]
_C4: list[Rule] = [
    (r"backbone\.body\.stem\.conv1\.", "backbone.stem.conv1."),
    (r"backbone\.body\.stem\.bn1\.", "backbone.stem.conv1.norm."),
    *resnet_rules(_BODY, "backbone.", stages=(2, 3, 4)),
    *resnet_rules("roi_heads.box.feature_extractor.head.", "roi_heads.", stages=(5,)),
    *_HEADS,
]
_LEFT_OUT = (r"^rpn\.anchor_generator\.cell_anchors\.",)


def convert_maskrcnn_benchmark(
    weights: dict[str, Tensor], *, norm_eps: float = 0.0, left_out: tuple[str, ...] = ()
) -> Conversion:
    """Bring maskrcnn-benchmark's weights under this package's names.

    Args:
        weights: the value under ``model`` in its checkpoints, with names without ``module.``.
        norm_eps: what the norms add to their variance; maskrcnn-benchmark's add nothing.
        left_out: patterns of more names that are not needed, such as a mask head's.

    Returns:
        the weights, for a config of ``configs/maskrcnn_benchmark/``.

    Raises:
        UserError: listing what is unknown, or naming what is missing.
    """
    pyramid = any(name.startswith("backbone.fpn.") for name in weights)
    rules = _FPN if pyramid else _C4
    renamed, left = rename(weights, rules, (*_LEFT_OUT, *left_out), "maskrcnn-benchmark")
    put_eps_into_norms(renamed, norm_eps)
    prefix = "roi_heads.box_predictor."
    for kind in ("weight", "bias"):
        score = needed(renamed, f"{prefix}cls_score.{kind}")
        renamed[f"{prefix}cls_score.{kind}"] = background_last(score)
        boxes = needed(renamed, f"{prefix}bbox_pred.{kind}")
        renamed[f"{prefix}bbox_pred.{kind}"] = boxes[4:].clone()
    columns = len(renamed[f"{prefix}cls_score.bias"])
    conversion = Conversion(
        renamed,
        f"maskrcnn_benchmark/faster_rcnn_R_50_{'FPN' if pyramid else 'C4'}.yaml",
        labels=list(range(1, columns)),
        overrides=["MODEL.ROI_HEADS.NUM_CLASSES", str(columns - 1)],
        notes=[f"{columns} columns: the background, now last, and {columns - 1} classes"],
    )
    conversion.add_depth()
    conversion.add_left_out(left)
    return conversion
