"""A checkpointer that refuses files that fill too little of a model; and a model with weights."""

import dataclasses
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.utils.file_io import Detectron2Handler
from torch import Tensor, nn

from ..config import load_config
from ..config_checks import check_registered, num_classes
from ..utils.errors import UserError, reason_of
from ..utils.files import explain_disk_errors, is_local, replace_file
from ..utils.model_zoo import close_zoo_names, zoo_entry, zoo_weights
from ..utils.modules import overridden
from .resume_point import files_to_resume, newest_whole, tagged_checkpoint
from .safe_load import read_pickle, read_safetensors, read_torch

logger = logging.getLogger(__name__)

# A checkpoint's key for the names of its classes, a list of strings. Detectron2 ignores keys that
# it does not know.
CLASS_NAMES = "class_names"
_STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")


def load_model(cfg: CfgNode, *, resume: bool = False) -> nn.Module:
    """Build the model of a config and load its weights, ready for inference.

    Args:
        cfg: a config from :func:`fpn_d2.load_config`.
        resume: prefer the last checkpoint in ``cfg.OUTPUT_DIR``, if any, to ``MODEL.WEIGHTS``.

    Returns:
        the model, on ``cfg.MODEL.DEVICE``, in eval mode; its ``weights_origin``, a
        :class:`WeightsOrigin`, says what is known about its weights.

    Raises:
        UserError: if a component is not registered, or weights leave a key of the model unfilled.
    """
    check_registered(cfg)
    model = build_model(cfg.clone())  # the meta-architecture may change its config
    checkpointer = SafeCheckpointer(model, cfg.OUTPUT_DIR, strict=True)
    if not cfg.MODEL.WEIGHTS and not (resume and checkpointer.has_checkpoint()):
        raise UserError(
            "MODEL.WEIGHTS is empty, and random weights detect nothing; set it to a checkpoint, "
            "such as the model_final.pth that training left in its OUTPUT_DIR"
        )
    content = checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    model.weights_origin = WeightsOrigin(
        checkpointer.loaded_path, names_in(content), _own_dataset(checkpointer.loaded_path)
    )
    return model.eval()


@dataclasses.dataclass(frozen=True)
class WeightsOrigin:
    """Where weights are from, and what they or the files beside them say about their classes.

    Args:
        path: the path or URL of the weights.
        class_names: the names that the checkpoint holds; empty if another program wrote it.
        dataset: the data set of the config that they were trained with, which is the
            ``config.yaml`` beside the file or the model zoo entry's; "" if it is not known.
    """

    path: str
    class_names: tuple[str, ...]
    dataset: str


def names_in(checkpoint: dict[str, Any]) -> tuple[str, ...]:
    """Return the class names that a checkpoint holds; empty if it holds no usable ones."""
    names = checkpoint.get(CLASS_NAMES)
    usable = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) if usable else ()


def trained_class_names(cfg: CfgNode) -> list[str]:
    """Return the class names of the first training set; [] unless there is one for each class."""
    datasets = cfg.DATASETS.TRAIN
    if not datasets:
        return []
    names = list(map(str, MetadataCatalog.get(datasets[0]).get("thing_classes") or ()))
    return names if len(names) == num_classes(cfg) else []


def _own_dataset(path: str) -> str:
    """Return the data set that names the classes in the config of the weights' training, or ""."""
    entry, beside = zoo_entry(path), os.path.join(os.path.dirname(path), "config.yaml")
    if not entry and not os.path.isfile(beside):
        return ""
    try:
        cfg = load_config(entry or beside, ["MODEL.DEVICE", "cpu"])
    except UserError:  # another program's, or another version's
        return ""
    return (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN, "")[0]


class SafeCheckpointer(DetectionCheckpointer):
    """Loads all formats of :class:`DetectionCheckpointer`, and refuses files that match too little.

    Detectron2 logs the keys that a file does not fill and goes on, so with a wrong file it trains
    or evaluates random weights without an error.
    """

    def __init__(
        self,
        model: Any,
        save_dir: str = "",
        *,
        strict: bool = False,
        class_names: Sequence[str] = (),
        **kwargs: Any,
    ):
        """
        Args:
            model, save_dir, kwargs: see :class:`DetectionCheckpointer`.
            strict: require a file to fill every key of the model, as evaluation needs;
                otherwise at least half of the backbone's keys, as fine-tuning needs.
            class_names: the names of the model's classes, which are saved with it.
        """
        super().__init__(model, save_dir, **kwargs)
        self.path_manager = _ReplacingPathManager(self.path_manager)
        self.strict = strict
        self.class_names = list(class_names)
        # Called with a checkpoint's content and path before a training goes on from it.
        self.before_resume: Callable[[dict[str, Any], str], None] | None = None
        # A network with the same keys, whose weights to save instead of the model's.
        self.saved_model: nn.Module | None = None
        # The file that was loaded last, or an address of one.
        self.loaded_path = ""
        self._resuming = False

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """See :meth:`DetectionCheckpointer.load`; also takes names of model zoo entries.

        Raises:
            UserError: if the file is missing, cannot be downloaded or loaded, or fills too little
                of the model.
        """
        if path and is_local(path) and not os.path.isfile(path.split("?")[0]):
            path = _in_zoo(path)
        self.loaded_path = path
        if path and not is_local(path):
            _download(self.path_manager, path)
        elif path and ":" in os.path.splitdrive(path)[1].partition("/")[0]:
            path = f"./{path}"  # else Detectron2 takes "Run:1/a.pth" for a URL of scheme "run"
        try:
            return super().load(path, *args, **kwargs)
        except UserError:
            raise
        except Exception as error:  # what a readable file holds can be wrong in any way
            reason = reason_of(error)
            remedy = "set MODEL.WEIGHTS to another"
            if self._resuming:
                remedy = "delete it to go on from the one before it, or set another OUTPUT_DIR"
            raise UserError(
                f"the checkpoint {path} cannot be loaded ({type(error).__name__}: {reason}); it "
                f"belongs to something else than this config, so {remedy}"
            ) from error
        finally:
            self._parsed_url_during_load = None  # Detectron2 resets it only after a success

    def save(self, name: str, **kwargs: Any) -> None:
        """See :meth:`Checkpointer.save`.

        Raises:
            UserError: if it cannot be written, as on a full disk; files already there stay.
        """
        with explain_disk_errors(
            f"checkpoint {os.path.join(self.save_dir, name)}",
            "the checkpoints before it are kept: make room there and go on with --resume",
        ):
            names = {CLASS_NAMES: self.class_names} if self.class_names else {}
            with overridden(self, model=self.saved_model or self.model):
                super().save(name, **names, **kwargs)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """See :meth:`Checkpointer.tag_last_checkpoint`; never tags the best one as the last."""
        if last_filename_basename != "model_best.pth":
            super().tag_last_checkpoint(last_filename_basename)

    def has_checkpoint(self) -> bool:
        """See :meth:`Checkpointer.has_checkpoint`; ``last_checkpoint`` need not exist."""
        return bool(self.save_dir and files_to_resume(self.save_dir))

    def get_checkpoint_file(self) -> str:
        """See :meth:`Checkpointer.get_checkpoint_file`, and :func:`tagged_checkpoint`."""
        return tagged_checkpoint(self.save_dir)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """See :meth:`Checkpointer.resume_or_load`; resumes from what :func:`newest_whole` finds."""
        if resume and self.has_checkpoint():
            with overridden(self, _resuming=True):
                return self.load(newest_whole(self.save_dir, list(self.checkpointables)))
        return self.load(path, checkpointables=[])

    def _load_file(self, filename: str) -> dict[str, Any]:
        """See :meth:`DetectionCheckpointer._load_file`; also takes ``.safetensors``.

        Detectron2 would unpickle the file; here :mod:`fpn_d2.checkpoint.safe_load` reads it.
        """
        if filename.endswith(".pkl"):
            checkpoint = read_pickle(filename)
            if "model" not in checkpoint or "__author__" not in checkpoint:  # as the zoo's have
                blobs = checkpoint.get("blobs", checkpoint)  # Caffe2's: a detector's, or ImageNet's
                checkpoint = _with_names_of("Caffe2", blobs, without="_momentum")
        elif filename.endswith(".pyth"):
            content = read_torch(filename)
            if not isinstance(content, dict) or "model_state" not in content:
                raise UserError(
                    f"{self.loaded_path} is no checkpoint of pycls: it has no model_state; set "
                    "MODEL.WEIGHTS to another"
                )
            checkpoint = _with_names_of("pycls", content["model_state"], "num_batches_tracked")
        else:
            checkpoint = super()._load_file(filename)
        self._check_weights(checkpoint["model"])
        return checkpoint

    def _torch_load(self, f: str) -> Any:
        content = read_safetensors(f) if f.endswith(".safetensors") else read_torch(f)
        if not isinstance(content, dict):
            raise UserError(
                f"{self.loaded_path} holds a {type(content).__name__} and no weights by name; set "
                "MODEL.WEIGHTS to a checkpoint"
            )
        return content

    def _check_weights(self, weights: Any) -> None:
        """Refuse anything but a dict of tensors or arrays by name."""
        if not isinstance(weights, dict):
            raise UserError(
                f"the checkpoint {self.loaded_path} has a {type(weights).__name__} where its "
                "weights belong; set MODEL.WEIGHTS to another"
            )
        for key, value in weights.items():
            if not (isinstance(key, str) and isinstance(value, (Tensor, np.ndarray))):
                raise UserError(
                    f"the checkpoint {self.loaded_path} has a {type(value).__name__} as its weight "
                    f"{str(key)[:80]!r}; set MODEL.WEIGHTS to another"
                )

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        if self._resuming and self.before_resume is not None:
            self.before_resume(checkpoint, self.loaded_path)
        incompatible = super()._load_model(checkpoint)
        keys = list(self.model.state_dict())
        unfilled = set(incompatible.missing_keys)  # includes keys of another shape
        # When a file without versions (.pkl, Caffe2) lacks a norm, the norm fills its statistics
        # with defaults and reports only its weight and bias.
        unfilled |= {
            key
            for key in keys
            if key.endswith(_STATISTICS) and f"{key.rpartition('.')[0]}.weight" in unfilled
        }
        unfilled = sorted(unfilled)
        if self.strict and unfilled:
            beside = os.path.join(os.path.dirname(self.loaded_path), "config.yaml")
            more = ", or name the config by which it was trained"
            more += f", such as {beside}" if os.path.isfile(beside) else ""
            raise UserError(
                f"{self.loaded_path} does not fill {len(unfilled)} of the model's keys "
                f"({_some(unfilled)}), which would be evaluated as random weights; set "
                f"MODEL.WEIGHTS to a checkpoint of this config{more}"
            )
        backbone = [key for key in keys if key.startswith("backbone.")]
        empty = [key for key in unfilled if key.startswith("backbone.")]
        if 2 * len(empty) > len(backbone):
            raise UserError(
                f"{self.loaded_path} fills only {len(backbone) - len(empty)} of the backbone's "
                f"{len(backbone)} keys (not {_some(empty)}); it is a checkpoint of "
                "another network, so set MODEL.WEIGHTS to one of this config's backbone, or add "
                "?matching_heuristics=True to match names by their ends"
            )
        parameters = dict(self.model.named_parameters())
        stuck = [x for x in unfilled if x in parameters and not parameters[x].requires_grad]
        if stuck:  # such as the stem of a network for grey images
            logger.warning(
                "%s does not fill %s, frozen and so random to the end: set weights that fill it, "
                "or MODEL.BACKBONE.FREEZE_AT 0 (and MODEL.FPN.FREEZE False)",
                *(self.loaded_path, _some(stuck)),
            )
        return incompatible


class _ReplacingPathManager:
    """Detectron2's path manager, except that local files are written under another name first.

    :class:`fvcore.common.checkpoint.Checkpointer` writes in place, so a kill while it writes
    leaves half a checkpoint, or a ``last_checkpoint`` that names nothing.
    """

    def __init__(self, path_manager: Any):
        self._path_manager = path_manager

    def __getattr__(self, name: str) -> Any:
        if name == "_path_manager":  # not set yet while this object is copied
            raise AttributeError(name)
        return getattr(self._path_manager, name)

    def open(self, path: str, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if "w" in mode and is_local(path):
            return replace_file(path, mode)
        return self._path_manager.open(path, mode, *args, **kwargs)


def _in_zoo(name: str) -> str:
    """Return the address of the weights of a model zoo entry."""
    if address := zoo_weights(name):
        return address
    if os.path.isdir(name):
        raise UserError(
            f"the weights {name} are a folder; set MODEL.WEIGHTS to a checkpoint in it, such as "
            f"{os.path.join(name, 'model_final.pth')}"
        )
    close = close_zoo_names(name)
    hint = f"did you mean {' or '.join(close)} of the model zoo? Otherwise " if close else ""
    raise UserError(
        f"the weights {name} do not exist; {hint}set MODEL.WEIGHTS to a checkpoint, or to '' "
        "to start from random weights"
    )


def _download(path_manager: Any, address: str) -> None:
    """Download weights to where Detectron2 will look for them."""
    address = address.partition("?")[0]
    try:
        path_manager.get_local_path(address)
    except Exception as error:  # of any protocol
        reason = reason_of(getattr(error, "reason", "") or error)
        url = address.replace(Detectron2Handler.PREFIX, Detectron2Handler.S3_DETECTRON2_PREFIX)
        raise UserError(
            f"the weights {address} cannot be downloaded ({reason}); "
            f"connect this machine to the internet, or download {url} on another and set "
            "MODEL.WEIGHTS to the file"
        ) from error


def _with_names_of(author: str, weights: dict[str, Any], without: str) -> dict[str, Any]:
    """Make a checkpoint of another zoo's weights, except those whose names end in ``without``."""
    model = {name: value for name, value in weights.items() if not name.endswith(without)}
    return {"model": model, "__author__": author, "matching_heuristics": True}


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
