"""Feature Pyramid Networks for Object Detection (Lin et al., CVPR 2017) on Detectron2.

Importing this package registers its data sets and components under Detectron2's registries and
changes none of Detectron2's defaults. The entry points are :class:`Predictor`, :func:`load_config`,
:func:`load_model` and :func:`add_fpn_config`.
"""

from typing import Any

__version__ = "0.2.0"

try:
    import detectron2  # noqa: F401
    import torch
except ImportError as error:
    raise ImportError(
        f"fpn_d2 could not import Detectron2 ({error}), which is on no package index: run "
        "`make setup`, or install torch and torchvision first and then `python -m pip install "
        "--no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git"
        "@02b5c4e295e990042a714712c21dc79b731e8833'`"
    ) from error

# Compare major and minor only: 2.7.0a0+nv, as in NVIDIA's containers, counts as 2.7.
if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 7):
    raise ImportError(
        f"fpn_d2 needs torch 2.7 or later, and this is {torch.__version__}: run `make setup` in a "
        "new environment, or install a later torch, its torchvision, and Detectron2 built for them"
    )

from . import data, modeling  # noqa: F401  (registers the data sets and the components)
from .checkpoint import load_model
from .config import add_fpn_config, load_config
from .utils.errors import UserError

__all__ = ["Predictor", "UserError", "add_fpn_config", "load_config", "load_model"]


def __getattr__(name: str) -> Any:
    """Import the predictor only when it is asked for: training does not need it."""
    if name != "Predictor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .inference import Predictor

    return Predictor
