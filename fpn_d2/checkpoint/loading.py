"""A model with its weights, from a config."""

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from ..config_checks import check_registered
from ..utils.errors import UserError
from .checkpointer import SafeCheckpointer

__all__ = ["load_model"]


def load_model(cfg: CfgNode, *, resume: bool = False) -> nn.Module:
    """Build the model of a config and load its weights, ready for inference.

    Args:
        cfg: a config from :func:`fpn_d2.load_config`.
        resume: take the last checkpoint in ``cfg.OUTPUT_DIR``, where there is one, instead of
            ``cfg.MODEL.WEIGHTS``.

    Returns:
        the model, on ``cfg.MODEL.DEVICE``, in eval mode.

    Raises:
        UserError: where a component is not registered, there are no weights, or they leave a key
            of the model unfilled.
    """
    check_registered(cfg)
    model = build_model(cfg.clone())  # the meta-architecture may change its config
    checkpointer = SafeCheckpointer(model, cfg.OUTPUT_DIR, strict=True)
    if not cfg.MODEL.WEIGHTS and not (resume and checkpointer.has_checkpoint()):
        raise UserError(
            "MODEL.WEIGHTS is empty, and random weights detect nothing; set it to a checkpoint, "
            "such as the model_final.pth that training left in its OUTPUT_DIR"
        )
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    return model.eval()
