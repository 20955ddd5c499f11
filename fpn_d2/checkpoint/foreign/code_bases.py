"""Checkpoints of other code bases: which one it is, its conversion, and a check of the result."""

import hashlib
import os
import re

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager
from torch import Tensor

from ...utils.errors import UserError
from .maskrcnn_benchmark_names import convert_maskrcnn_benchmark
from .name_rules import NORM_EPS, Conversion
from .torchvision_names import convert_torchvision

SOURCES = ("torchvision", "maskrcnn_benchmark", "detectron2")

# torchvision gives the norms of its published COCO_V1 weights an eps of 0. These are the first
# digits of the files' SHA-256, which stand in their names too.
_WITHOUT_EPS = ("258fb6c6", "eeacb38b")


def find_source(weights: dict[str, Tensor]) -> str:
    """Tell by the names which code base weights come from.

    Args:
        weights: by name.

    Returns:
        one of :data:`SOURCES`; weights of neither of the others count as Detectron2's.
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

    Returns:
        the eps.

    Raises:
        UserError: if neither the file nor its weights tell.
    """
    if any(name.endswith("num_batches_tracked") for name in weights):
        return NORM_EPS  # norms that were not frozen
    if os.path.isfile(path := PathManager.get_local_path(path)):  # a URL's is downloaded by now
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
    """Bring the weights of another code base under this package's names.

    Args:
        path: the file of the weights.
        weights: by name.
        source: "torchvision" or "maskrcnn_benchmark".
        norm_eps: what the norms add to their variance; None finds out.
        all_classes, left_out: see :func:`convert_torchvision`.

    Returns:
        the weights, and what they need to run.

    Raises:
        UserError: listing what is unknown.
    """
    weights = {name.removeprefix("module."): weight for name, weight in weights.items()}
    for pattern in left_out:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f"--leave-out {pattern} is no regular expression: {error}") from error
    if source == "torchvision":
        eps = norm_eps_of(path, weights) if norm_eps is None else norm_eps
        return convert_torchvision(
            weights, norm_eps=eps, all_classes=all_classes, left_out=left_out
        )
    return convert_maskrcnn_benchmark(weights, norm_eps=norm_eps or 0.0, left_out=left_out)


def check_complete(weights: dict[str, Tensor], cfg: CfgNode) -> None:
    """Check that weights fill a config's model, and that each of them has a place in it.

    Args:
        weights: by this package's names.
        cfg: the config.

    Raises:
        UserError: listing every name that is missing, has no place or has another shape.
    """
    wanted = {
        name: tuple(value.shape) for name, value in build_model(cfg.clone()).state_dict().items()
    }
    faults = [f"{name} is missing" for name in wanted if name not in weights]
    faults += [f"{name} has no place" for name in weights if name not in wanted]
    faults += [
        f"{name} is {tuple(weights[name].shape)} and not {shape}"
        for name, shape in wanted.items()
        if name in weights and tuple(weights[name].shape) != shape
    ]
    if faults:
        raise UserError(
            f"the converted weights do not fit the config, in {len(faults)} names: "
            f"{'; '.join(faults)}; give the config of this model with --config-file"
        )
