"""Images that cannot be read: training skips some, evaluation stops.

Both ask why only after Detectron2's mapper has failed, so sound images cost nothing.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from detectron2.data.detection_utils import check_image_size, read_image

from ..utils.errors import UserError
from .image_faults import image_fault

__all__ = ["RefusingMapper", "SkippingMapper", "read_sound_image"]

logger = logging.getLogger(__name__)

Mapper = Callable[[dict[str, Any]], Any]


class SkippingMapper:
    """A training mapper whose result is None for an image that cannot be read.

    Detectron2's ``MapDataset`` then takes another image. Each image is named once in the log. The
    worker processes of a loader count together where they are forked (Linux), else each for
    itself; the processes of a training on several GPUs never do.
    """

    def __init__(self, mapper: Mapper, files: Iterable[str], max_share: float):
        """
        Args:
            mapper: the mapper of sound images.
            files: the ``file_name`` of every image of the training sets.
            max_share: the share of the images, of 0 to 1, up to which they are skipped; one is
                skipped in any case, and never all.
        """
        self._mapper = mapper
        self._max_share = max_share
        self._positions = {file: i for i, file in enumerate(dict.fromkeys(files))}
        self._skipped = torch.zeros(len(self._positions), dtype=torch.bool).share_memory_()

    def __call__(self, record: dict[str, Any]) -> dict[str, Any] | None:
        """Map one image of Detectron2's format.

        Returns:
            what the mapper returns, or None where the image cannot be read.

        Raises:
            UserError: where too many images cannot be read.
        """
        mapped, fault = _map(self._mapper, record)
        if fault is not None:
            self._count(record["file_name"], fault)
        return mapped

    def _count(self, file: str, fault: str) -> None:
        position, images = self._positions[file], len(self._positions)
        seen = bool(self._skipped[position])
        self._skipped[position] = True
        count = int(self._skipped.sum())
        if count > max(1, self._max_share * images) or count == images:
            raise UserError(
                f"{count} of the {images} training images cannot be used, and "
                f"DATALOADER.MAX_SKIPPED_SHARE is {self._max_share}: image {file} {fault}; replace "
                "them, or take them out of the annotation file (tools/check_dataset.py lists all)"
            )
        if not seen:
            logger.warning(
                "image %s %s and is skipped (%d of %d training images so far)",
                *(file, fault, count, images),
            )


class RefusingMapper:
    """A test mapper that raises a :class:`UserError` for an image that cannot be read."""

    def __init__(self, mapper: Mapper):
        """
        Args:
            mapper: the mapper of sound images.
        """
        self._mapper = mapper

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Map one image of Detectron2's format.

        Raises:
            UserError: where it cannot be read.
        """
        mapped, fault = _map(self._mapper, record)
        if fault is not None:
            raise UserError(
                f"image {record['file_name']} {fault}, and results without it would not be those "
                "of the data set: replace it, or take it out of the annotation file"
            )
        return mapped


def read_sound_image(record: dict[str, Any], image_format: str) -> np.ndarray:
    """Read an image of Detectron2's format.

    Args:
        record: the image, with ``file_name``, and ``width`` and ``height`` where they are known.
        image_format: ``cfg.INPUT.FORMAT``.

    Returns:
        (H, W, 3) uint8.

    Raises:
        UserError: where it cannot be read, or is of another size.
    """

    def read(record: dict[str, Any]) -> np.ndarray:
        image = read_image(record["file_name"], format=image_format)
        check_image_size(record, image)
        return image

    image, fault = _map(read, record)
    if fault is not None:
        raise UserError(
            f"image {record['file_name']} {fault}: replace it, or take it out of the annotation "
            "file (tools/check_dataset.py lists all such images)"
        )
    return image


def _map(mapper: Mapper, record: dict[str, Any]) -> tuple[Any, str | None]:
    """What the mapper makes of an image, and else the image's fault."""
    try:
        return mapper(record), None
    except Exception:
        fault = image_fault(record["file_name"], record.get("width"), record.get("height"))
        if fault is not None:
            return None, fault
    # The image is sound: a disk that failed once, or an error that is none of the image's.
    return mapper(record), None
