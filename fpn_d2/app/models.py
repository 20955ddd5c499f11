"""The models that a page offers: those on the command line, or the trained ones in a folder."""

import logging
import os
from collections.abc import Container

from detectron2.config import CfgNode

from ..config import load_config
from ..inference import free_title, split_pair
from ..utils.errors import UserError

logger = logging.getLogger(__name__)


def parse_model(words: str, taken: Container[str] = ()) -> tuple[str, CfgNode]:
    """Read a model from ``CONFIG:WEIGHTS``.

    Args:
        words: a config file and a checkpoint.
        taken: the titles of other models.

    Returns:
        a title that is not taken, and the model's config with its weights.

    Raises:
        UserError: if the words have another form, a file does not exist, the config cannot work or
            needs proposals from a file.
    """
    config, weights = split_pair(words, "--model")
    if ":" not in weights and not os.path.isfile(weights):
        raise UserError(f"--model {words}: {weights} does not exist; name a checkpoint")
    return free_title(config, taken), _load(config, weights, config)


def find_models(folder: str) -> dict[str, CfgNode]:
    """Find the trained models below a folder that need only an image; the log names the others.

    Args:
        folder: a folder that ``train_net.py`` filled, with ``config.yaml`` beside
            ``model_final.pth`` in each run.

    Returns:
        the models' configs with their weights, by the run's path in the folder.

    Raises:
        UserError: if there is no such model.
    """
    # A run's config names the device that it was trained on.
    device = load_config().MODEL.DEVICE
    found: dict[str, CfgNode] = {}
    for place, _, files in sorted(os.walk(folder)):
        if not {"config.yaml", "model_final.pth"} <= set(files):
            continue
        config, weights = (os.path.join(place, name) for name in ("config.yaml", "model_final.pth"))
        try:
            found[os.path.relpath(place, folder)] = _load(config, weights, place, device)
        except UserError as error:  # another version's, or a Fast R-CNN on proposals from a file
            logger.warning("left out: %s", error)
    if not found:
        raise UserError(
            f"there is no trained model below {folder}: train one, such as `python train_net.py "
            "--config-file configs/quick/demo.yaml`, or name one with --model CONFIG:WEIGHTS"
        )
    return found


def _load(config: str, weights: str, name: str, device: str = "") -> CfgNode:
    """A config with its weights; refuses a model that needs more than an image."""
    opts = ["MODEL.WEIGHTS", weights, *(("MODEL.DEVICE", device) if device else ())]
    cfg = load_config(config, opts)
    if cfg.MODEL.LOAD_PROPOSALS:
        raise UserError(
            f"{name} is a Fast R-CNN on proposals from a file, and an uploaded image has no such "
            "file; take a Faster R-CNN, an RPN or a RetinaNet"
        )
    return cfg
