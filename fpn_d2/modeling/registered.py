"""The names of components in a config, against Detectron2's registries.

They are looked up when a model is built, not when a config is read: a program may register its own
components in between.
"""

import difflib

from detectron2.config import CfgNode
from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    RPN_HEAD_REGISTRY,
)
from fvcore.common.registry import Registry

from ..utils.errors import UserError

__all__ = ["check_registered"]


def check_registered(cfg: CfgNode) -> None:
    """Refuse names that are not registered, which Detectron2 answers with a KeyError.

    Args:
        cfg: the merged config.

    Raises:
        UserError: naming the key and the closest names.
    """
    model = cfg.MODEL
    _check("MODEL.META_ARCHITECTURE", model.META_ARCHITECTURE, META_ARCH_REGISTRY)
    _check("MODEL.BACKBONE.NAME", model.BACKBONE.NAME, BACKBONE_REGISTRY)
    if model.BACKBONE.NAME == "build_fpn_backbone":
        _check("MODEL.FPN.BOTTOM_UP", model.FPN.BOTTOM_UP, BACKBONE_REGISTRY)
    if model.META_ARCHITECTURE not in ("GeneralizedRCNN", "ProposalNetwork"):
        return
    name = model.PROPOSAL_GENERATOR.NAME
    if name != "PrecomputedProposals":
        _check("MODEL.PROPOSAL_GENERATOR.NAME", name, PROPOSAL_GENERATOR_REGISTRY)
        _check("MODEL.RPN.HEAD_NAME", model.RPN.HEAD_NAME, RPN_HEAD_REGISTRY)
        _check(
            "MODEL.ANCHOR_GENERATOR.NAME", model.ANCHOR_GENERATOR.NAME, ANCHOR_GENERATOR_REGISTRY
        )
    if model.META_ARCHITECTURE == "GeneralizedRCNN":
        _check("MODEL.ROI_HEADS.NAME", model.ROI_HEADS.NAME, ROI_HEADS_REGISTRY)
        if model.ROI_BOX_HEAD.NAME:  # Res5ROIHeads has none
            _check("MODEL.ROI_BOX_HEAD.NAME", model.ROI_BOX_HEAD.NAME, ROI_BOX_HEAD_REGISTRY)


def _check(key: str, name: str, registry: Registry) -> None:
    if name in registry:
        return
    known = sorted(known for known, _ in registry)
    names = difflib.get_close_matches(name, known, n=3) or known[:8]
    raise UserError(
        f"{key} is {name!r}, which is not registered; set it to one that is, such as "
        f"{', '.join(names)}, or register yours before the model is built"
    )
