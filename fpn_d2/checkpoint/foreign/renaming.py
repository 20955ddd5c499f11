"""What conversions from other code bases share: names by tables of patterns, norms without an eps.

The tables are data: ``(pattern, replacement)`` of a name's beginning, each of which must match at
a boundary that it spells out. A name that no pattern matches is listed, never dropped.
"""

import dataclasses
import re
from collections.abc import Iterable

import torch
from torch import Tensor

from ...utils.errors import UserError

__all__ = [
    "NORM_EPS",
    "Conversion",
    "Rule",
    "background_last",
    "put_eps_into_norms",
    "rename",
    "resnet_depth",
    "resnet_rules",
]

Rule = tuple[str, str]

NORM_EPS = 1e-5  # of Detectron2's norms, frozen or not

_DEPTHS = {6: 50, 23: 101, 36: 152}  # by the blocks of res4, of networks with bottleneck blocks


@dataclasses.dataclass
class Conversion:
    """Weights under this package's names, and what they need to run.

    Args:
        weights: by name.
        config: the config below ``configs/`` that they are for.
        labels: the source's label of each class.
        overrides: ``[KEY, value, ...]`` of that config.
        notes: what was left out or changed, a sentence each.
    """

    weights: dict[str, Tensor]
    config: str
    labels: list[int]
    overrides: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


def resnet_rules(theirs: str, ours: str, stages: Iterable[int] = (2, 3, 4, 5)) -> list[Rule]:
    """The names of a ResNet's stages in torchvision's way, ``layer1`` being res2.

    Args:
        theirs, ours: what stands before the stages, such as ``backbone.body.``.
        stages: by their numbers here.
    """
    rules = []
    for stage in stages:
        layer, block = rf"{re.escape(theirs)}layer{stage - 1}\.(\d+)\.", rf"{ours}res{stage}.\1."
        rules += [
            (rf"{layer}conv(\d)\.", rf"{block}conv\2."),
            (rf"{layer}bn(\d)\.", rf"{block}conv\2.norm."),
            (rf"{layer}downsample\.0\.", rf"{block}shortcut."),
            (rf"{layer}downsample\.1\.", rf"{block}shortcut.norm."),
        ]
    return rules


def rename(
    weights: dict[str, Tensor], rules: list[Rule], left_out: Iterable[str], source: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Give weights the names of this package.

    Args:
        weights: by the names of another code base.
        rules: for the beginnings of names; exactly one may match.
        left_out: patterns of names that no model here needs, found anywhere in a name.
        source: the code base, for the message.

    Returns:
        the weights by their new names, and the names that were left out.

    Raises:
        UserError: listing all names that neither a rule nor ``left_out`` knows, or that meet in
            one.
    """
    renamed: dict[str, Tensor] = {}
    left, unknown, twice = [], [], []
    for name, weight in weights.items():
        if any(re.search(pattern, name) for pattern in left_out):
            left.append(name)
            continue
        new = next((re.sub(f"^{a}", b, name) for a, b in rules if re.match(a, name)), None)
        if new is None:
            unknown.append(name)
        elif new in renamed:
            twice.append(name)
        else:
            renamed[new] = weight
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
    return renamed, left


def background_last(weight: Tensor) -> Tensor:
    """A classifier's weight or bias, (K + 1, ...), with the background's row last, not first."""
    return torch.cat([weight[1:], weight[:1]])


def put_eps_into_norms(weights: dict[str, Tensor], eps: float) -> None:
    """Scale the weights of norms (in place) so that they do with 1e-5 what they did with ``eps``.

    Variances stay as they are: one less by 1e-5 would be 0 where a channel has next to none.

    Args:
        weights: by this package's names.
        eps: what the source's norms added to their variance.

    Raises:
        UserError: where a variance is 0 and nothing was added to it.
    """
    for name, variance in weights.items():
        key = name.replace("running_var", "weight")
        # without a weight the checkpoint is not whole, which check_complete says
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


def resnet_depth(weights: dict[str, Tensor]) -> int:
    """The depth of a ResNet by the blocks of its res4; 50 where no network has so many."""
    blocks = {match[1] for name in weights if (match := re.search(r"\.res4\.(\d+)\.", name))}
    return _DEPTHS.get(len(blocks), 50)
