"""Rules that turn the names of torchvision's and maskrcnn-benchmark's weights into this package's.

A rule is a pair ``(pattern, replacement)`` for the beginning of a name. A name that no rule matches
is listed, never dropped. The rules know torchvision's names from before and after release 0.13.
"""

import re
from collections.abc import Iterable

from torch import Tensor

from ...utils.errors import UserError

Rule = tuple[str, str]

_RPN: list[Rule] = [
    (r"rpn\.head\.conv(\.0\.0)?\.(?=weight|bias)", "proposal_generator.rpn_head.conv."),
    (r"rpn\.head\.cls_logits\.", "proposal_generator.rpn_head.objectness_logits."),
    (r"rpn\.head\.bbox_pred\.", "proposal_generator.rpn_head.anchor_deltas."),
]


def torchvision_rules(retinanet: bool) -> list[Rule]:
    """The rules for torchvision's ``retinanet_resnet50_fpn`` or ``fasterrcnn_resnet50_fpn``."""
    rules = _resnet_rules("backbone.body.", "backbone.bottom_up.", stem="")
    finest = 3 if retinanet else 2
    for i in range(4):
        for theirs, ours in (("inner_blocks", "lateral"), ("layer_blocks", "output")):
            pattern = rf"backbone\.fpn\.{theirs}\.{i}(\.0)?\.(?=weight|bias)"
            rules.append((pattern, f"backbone.fpn_{ours}{finest + i}."))
    if not retinanet:
        return [*rules, *_RPN, *_box_rules("roi_heads.box_head.", "roi_heads.box_predictor.")]
    for theirs, ours in (("classification_head", "cls_subnet"), ("regression_head", "bbox_subnet")):
        for i in range(4):
            new = f"head.{ours}.{2 * i}."
            rules.append((rf"head\.{theirs}\.conv\.{i}\.0\.(?=weight|bias)", new))
            rules.append((rf"head\.{theirs}\.conv\.{2 * i}\.(?=weight|bias)", new))
    return [
        *rules,
        (r"backbone\.fpn\.extra_blocks\.(p6|p7)\.", r"backbone.top_block.\1."),
        (r"head\.classification_head\.cls_logits\.", "head.cls_score."),
        (r"head\.regression_head\.bbox_reg\.", "head.bbox_pred."),
    ]


def maskrcnn_benchmark_rules(pyramid: bool) -> list[Rule]:
    """The rules for maskrcnn-benchmark's Faster R-CNN on the pyramid, or on C4."""
    extractor = "roi_heads.box.feature_extractor."
    rules = [*_RPN, *_box_rules(extractor, "roi_heads.box.predictor.")]
    if not pyramid:
        rules += _resnet_rules("backbone.body.", "backbone.", stem="stem.", stages=(2, 3, 4))
        return rules + _resnet_rules(f"{extractor}head.", "roi_heads.", stages=(5,))
    rules += _resnet_rules("backbone.body.", "backbone.bottom_up.", stem="stem.")
    for i in range(1, 5):  # 1 belongs to C2
        rules.append((rf"backbone\.fpn\.fpn_inner{i}\.", f"backbone.fpn_lateral{i + 1}."))
        rules.append((rf"backbone\.fpn\.fpn_layer{i}\.", f"backbone.fpn_output{i + 1}."))
    return rules


def _resnet_rules(
    theirs: str, ours: str, stem: str | None = None, stages: Iterable[int] = (2, 3, 4, 5)
) -> list[Rule]:
    """The rules for a ResNet's stages (``layer1`` is res2) and, if ``stem`` is given, its stem."""
    rules = []
    if stem is not None:
        rules += [
            (re.escape(f"{theirs}{stem}conv1."), f"{ours}stem.conv1."),
            (re.escape(f"{theirs}{stem}bn1."), f"{ours}stem.conv1.norm."),
        ]
    for stage in stages:
        layer, block = rf"{re.escape(theirs)}layer{stage - 1}\.(\d+)\.", rf"{ours}res{stage}.\1."
        rules += [
            (rf"{layer}conv(\d)\.", rf"{block}conv\2."),
            (rf"{layer}bn(\d)\.", rf"{block}conv\2.norm."),
            (rf"{layer}downsample\.0\.", rf"{block}shortcut."),
            (rf"{layer}downsample\.1\.", rf"{block}shortcut.norm."),
        ]
    return rules


def _box_rules(head: str, predictor: str) -> list[Rule]:
    """The rules for Fast R-CNN's two hidden layers and its outputs."""
    names = {f"{head}fc6.": "box_head.fc1.", f"{head}fc7.": "box_head.fc2."}
    for layer in ("cls_score", "bbox_pred"):
        names[f"{predictor}{layer}."] = f"box_predictor.{layer}."
    return [(re.escape(theirs), f"roi_heads.{ours}") for theirs, ours in names.items()]


def rename(
    weights: dict[str, Tensor], rules: list[Rule], left_out: Iterable[str], source: str
) -> tuple[dict[str, Tensor], int]:
    """Give weights the names of this package.

    Args:
        weights: the weights, by the names of another code base.
        rules: rules for the beginnings of names; the first that matches applies.
        left_out: patterns, found anywhere in a name, of names that no model here needs.
        source: the code base, for the message.

    Returns:
        the weights by their new names, and how many were left out.

    Raises:
        UserError: listing all names that neither a rule nor ``left_out`` matches, or all whose
            new name is already taken.
    """
    needed = [name for name in weights if not any(re.search(x, name) for x in left_out)]
    renamed: dict[str, Tensor] = {}
    unknown, twice = [], []
    for name in needed:
        new = next((re.sub(f"^{a}", b, name) for a, b in rules if re.match(a, name)), None)
        if new is None:
            unknown.append(name)
        elif new in renamed:
            twice.append(name)
        else:
            renamed[new] = weights[name]
    if unknown:
        raise UserError(
            f"{len(unknown)} of the checkpoint's {len(weights)} names are none of the {source} "
            f"models that can be converted: {', '.join(unknown)}; leave out what is not needed "
            "with --leave-out PATTERN, or say with --from where the checkpoint comes from"
        )
    if twice:
        raise UserError(
            f"the checkpoint has the weights of {', '.join(twice)} under two names; leave one of "
            "them out with --leave-out PATTERN"
        )
    return renamed, len(weights) - len(needed)
