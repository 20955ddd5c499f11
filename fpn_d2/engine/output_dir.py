"""One training in one folder: what a training does that finds another's checkpoints there."""

import contextlib
import glob
import os
from collections.abc import Iterator

from detectron2.config import CfgNode
from detectron2.utils import comm

from ..utils.errors import UserError
from ..utils.files import replace_file
from .launch import restart_count

__all__ = ["check_output_dir", "clear_output_dir", "restored_config"]

# There where the training that torchrun started was allowed to write here, so that what it
# restarts goes on from that training's checkpoints and never from those that it was refused.
_BEGUN = ".torchrun"


def check_output_dir(cfg: CfgNode, resume: bool) -> bool:
    """Make sure that a training does not mix with an earlier one; for all processes together.

    Args:
        cfg: the merged config.
        resume: whether ``--resume`` was given.

    Returns:
        whether to resume: where it was given, and where torchrun has restarted the processes.

    Raises:
        UserError: where checkpoints lie in ``OUTPUT_DIR`` that are neither to be resumed nor,
            by ``OVERWRITE_OUTPUT_DIR``, to be deleted.
    """
    sentence = None
    if comm.is_main_process():
        begun = os.path.join(cfg.OUTPUT_DIR, _BEGUN)
        resume = resume or ((restart_count() or 0) > 0 and os.path.exists(begun))
        sentence = None if resume else _fault(cfg)
        if restart_count() is not None:
            _mark(begun, sentence is None)
    # The folder may be on the first machine alone.
    resume, sentence = comm.all_gather((resume, sentence))[0]
    if sentence is not None:
        raise UserError(sentence)
    return resume


@contextlib.contextmanager
def restored_config(folder: str) -> Iterator[None]:
    """Leave a run's ``config.yaml`` as it was where a start is refused.

    Detectron2 writes it before it knows whether the config can work, over that of the training
    whose results lie beside it.

    Args:
        folder: the OUTPUT_DIR.
    """
    path = os.path.join(folder, "config.yaml")
    before = None
    if comm.is_main_process() and os.path.isfile(path):
        with open(path, "rb") as file:
            before = file.read()
    try:
        yield
    except UserError:
        if before is not None:
            with replace_file(path, "wb") as file:
                file.write(before)
        raise


def clear_output_dir(folder: str) -> None:
    """Delete an earlier training's checkpoints.

    Args:
        folder: its OUTPUT_DIR.
    """
    for path in _checkpoints(folder):  # last_checkpoint first: it must not name what is gone
        os.remove(path)


def _fault(cfg: CfgNode) -> str | None:
    if os.path.lexists(cfg.OUTPUT_DIR) and not os.path.isdir(cfg.OUTPUT_DIR):
        return f"OUTPUT_DIR {cfg.OUTPUT_DIR} is no folder; set OUTPUT_DIR to another"
    found = _checkpoints(cfg.OUTPUT_DIR)
    if not found:
        return None
    if not cfg.OVERWRITE_OUTPUT_DIR:
        return (
            f"OUTPUT_DIR {cfg.OUTPUT_DIR} holds the checkpoints of an earlier training "
            f"({os.path.basename(found[-1])}): go on with it by --resume, set another OUTPUT_DIR, "
            "or set OVERWRITE_OUTPUT_DIR True to delete them and start again"
        )
    if os.path.abspath(cfg.MODEL.WEIGHTS) in map(os.path.abspath, found):
        return (
            f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS} is one of the checkpoints that "
            "OVERWRITE_OUTPUT_DIR True is to delete; set another OUTPUT_DIR"
        )
    return None


def _checkpoints(folder: str) -> list[str]:
    """The checkpoints of a training, behind the file that names the last."""
    names = ("last_checkpoint", "model_*.pth")
    found = [sorted(glob.glob(os.path.join(glob.escape(folder), name))) for name in names]
    return [path for paths in found for path in paths]


def _mark(path: str, begun: bool) -> None:
    if begun:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8"):
            pass
    else:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
