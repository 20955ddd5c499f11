"""The models that a page offers, of which a few are in memory at a time."""

import collections
import logging
import os
from collections.abc import Container, Mapping, Sequence

from detectron2.config import CfgNode

from ..config import load_config
from ..inference import Explainer, free_title, split_pair
from ..utils.errors import UserError

__all__ = ["Models", "find_models", "parse_model"]

logger = logging.getLogger(__name__)

_KEPT = 2  # models in memory


class Models:
    """Models by title, loaded when they are first asked for; the two used last are kept."""

    def __init__(self, configs: Mapping[str, CfgNode]):
        """
        Args:
            configs: with their weights, by title; one at least.
        """
        assert configs
        self.configs = dict(configs)
        self._loaded: collections.OrderedDict[str, Explainer] = collections.OrderedDict()

    @property
    def titles(self) -> list[str]:
        """What there is to choose from."""
        return list(self.configs)

    def explainer(self, title: str) -> Explainer:
        """The model of a title.

        Raises:
            UserError: where there is no such title, or its weights cannot be loaded.
        """
        if title not in self.configs:
            raise UserError(f"there is no model {title!r} on this page: reload it and choose again")
        if title not in self._loaded:
            while len(self._loaded) >= _KEPT:
                self._loaded.popitem(last=False)  # before the next one takes its memory
            self._loaded[title] = Explainer(self.configs[title])
        self._loaded.move_to_end(title)
        return self._loaded[title]


def parse_model(words: str, taken: Container[str] = ()) -> tuple[str, CfgNode]:
    """A model from ``CONFIG:WEIGHTS``.

    Args:
        words: a config file and a checkpoint.
        taken: the titles of other models.

    Returns:
        its title, which is none of the others', and its config.

    Raises:
        UserError: where the words have another form, a file is not there or the config cannot work.
    """
    config, weights = split_pair(words, "--model")
    if ":" not in weights and not os.path.isfile(weights):
        raise UserError(f"--model {words}: {weights} does not exist; name a checkpoint")
    return free_title(config, taken), _interactive(
        load_config(config, ["MODEL.WEIGHTS", weights]), config
    )


def find_models(folder: str) -> dict[str, CfgNode]:
    """The trained models below a folder that need nothing but an image; the log names the others.

    Args:
        folder: as ``train_net.py`` fills it, with ``config.yaml`` beside ``model_final.pth``.

    Returns:
        configs by their place in the folder.

    Raises:
        UserError: where there is none.
    """
    found: dict[str, CfgNode] = {}
    for place, _, files in sorted(os.walk(folder)):
        if not {"config.yaml", "model_final.pth"} <= set(files):
            continue
        weights = os.path.join(place, "model_final.pth")
        try:
            cfg = load_config(
                os.path.join(place, "config.yaml"), ["MODEL.WEIGHTS", weights, *_device()]
            )
            found[os.path.relpath(place, folder)] = _interactive(cfg, place)
        except UserError as error:  # of another version, or a Fast R-CNN on proposals from a file
            logger.warning("left out: %s", error)
    if not found:
        raise UserError(
            f"there is no trained model below {folder}: train one, such as `python train_net.py "
            "--config-file configs/quick/demo.yaml`, or name one with --model CONFIG:WEIGHTS"
        )
    return found


def _device() -> Sequence[str]:
    """A run's own config names the device that it was trained on."""
    return "MODEL.DEVICE", load_config().MODEL.DEVICE


def _interactive(cfg: CfgNode, name: str) -> CfgNode:
    if cfg.MODEL.LOAD_PROPOSALS:
        raise UserError(
            f"{name} is a Fast R-CNN on proposals from a file, which no uploaded image has; "
            "take a Faster R-CNN, an RPN or a RetinaNet"
        )
    return cfg
