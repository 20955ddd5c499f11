"""What conversions from other code bases share: tables of names, and norms without an eps.

The tables are data: pairs ``(pattern, replacement)`` for the beginning of a name. A pattern spells
out the boundary at which it ends. A name that no pattern matches is listed, never dropped.
"""

import dataclasses
import re
from collections.abc import Iterable

import torch
from torch import Tensor

from ...utils.errors import UserError

Rule = tuple[str, str]

NORM_EPS = 1e-5  # of Detectron2's norms, frozen or not

_DEPTHS = {6: 50, 23: 101, 36: 152}  # by the blocks of res4, for networks of bottleneck blocks


@dataclasses.dataclass
class Conversion:
    """Weights under this package's names, and what they need to run.

    Args:
        weights: by name.
        config: the config below ``configs/`` that the weights are for.
        labels: the source's label of each class.
        overrides: ``[KEY, value, ...]`` for that config.
        notes: a sentence for each thing that was left out or changed.
    """

    weights: dict[str, Tensor]
    config: str
    labels: list[int]
    overrides: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def add_depth(self) -> None:
        """Add the depth of the ResNet to the overrides, if the blocks of its res4 say another one
        than 50."""
        names = (re.search(r"\.res4\.(\d+)\.", name) for name in self.weights)
        depth = _DEPTHS.get(len({match[1] for match in names if match}), 50)
        if depth != 50:
            self.overrides += ["MODEL.RESNETS.DEPTH", str(depth)]

    def add_left_out(self, names: list[str]) -> None:
        """Add to the notes how many names were left out, if there are any."""
        if names:
            self.notes.append(f"left out, as no model here needs them: {len(names)} names")


def resnet_rules(theirs: str, ours: str, stages: Iterable[int] = (2, 3, 4, 5)) -> list[Rule]:
    """The rules for a ResNet's stages in torchvision's layout, where ``layer1`` is res2.

    Args:
        theirs, ours: what precedes the stages in a name, such as ``backbone.body.``.
        stages: the stages, by their numbers here.
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
        UserError: listing all names that neither a rule nor ``left_out`` knows, or all that
            would get a name twice.
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


def needed(weights: dict[str, Tensor], name: str) -> Tensor:
    """A weight that no detector can do without.

    Raises:
        UserError: if the checkpoint has none of this name.
    """
    if name not in weights:
        raise UserError(f"the checkpoint has nothing for {name}; convert a whole detector")
    return weights[name]


def background_last(weight: Tensor) -> Tensor:
    """A classifier's weight or bias, (K + 1, ...), with the background's row last, not first."""
    return torch.cat([weight[1:], weight[:1]])


def put_eps_into_norms(weights: dict[str, Tensor], eps: float) -> None:
    """Scale the weights of norms (in place) so that they do with 1e-5 what they did with ``eps``.

    The variances stay as they are: made smaller by 1e-5, the variance of a channel that hardly
    varies would be 0.

    Args:
        weights: by this package's names.
        eps: what the source's norms added to their variance.

    Raises:
        UserError: if a variance is 0 and nothing was added to it.
    """
    for name, variance in weights.items():
        key = name.replace("running_var", "weight")
        # check_complete tells of a norm without its weight
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
