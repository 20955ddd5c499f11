"""From an image of a data set to a model's input: resizing, and what happens to unreadable images.

Detectron2's :class:`DatasetMapper` does the work, on the pixels of :mod:`fpn_d2.data.images`. Here
are another resize for training (DeepMask, the baseline of Table 6), another one for tests
(``INPUT.RESIZE_TEST``), and mappers that ask why an image could not be read: training skips some
such images, evaluation stops.
"""

import copy
import functools
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.structures import BoxMode

from ..utils.augmentations import build_augmentations
from ..utils.errors import UserError
from .images import read_as_here, use_image

logger = logging.getLogger(__name__)

Mapper = Callable[[dict[str, Any]], Any]

# How many times the standard deviation of a Poisson number lies beyond chance.
_BEYOND_CHANCE = 3.0
# DeepMask: a mask is positive where its scale is within 2^-0.25 to 2^0.25 of the canonical one.
_OCTAVES = 0.25


class NeverEmptyResize(T.ResizeShortestEdge):
    """Detectron2's resize, which keeps a pixel of each side of an image that is long and narrow."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """See :meth:`Augmentation.get_transform`; the image is (H, W, C)."""
        transform = super().get_transform(image)
        if isinstance(transform, T.ResizeTransform):
            transform.new_h, transform.new_w = max(1, transform.new_h), max(1, transform.new_w)
        return transform


class NeverEmptyCrop(T.RandomCrop):
    """Detectron2's crop, which keeps a pixel of each side."""

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """See :meth:`RandomCrop.get_crop_size`."""
        height, width = super().get_crop_size(image_size)
        return max(1, height), max(1, width)


def _never_empty(made: T.Augmentation) -> T.Augmentation:
    """Replace Detectron2's augmentations that may leave no pixel of a long and narrow image."""
    if type(made) is T.ResizeShortestEdge:
        sides, style = (made.short_edge_length, made.max_size), made.sample_style
        return NeverEmptyResize(*sides, style, made.interp)
    return NeverEmptyCrop(made.crop_type, made.crop_size) if type(made) is T.RandomCrop else made


class _Crop(T.CropTransform):
    """A crop that does not cut polygons (the base class needs shapely for that): what lies outside
    falls away when they are rasterised."""

    def apply_polygons(self, polygons: list[np.ndarray]) -> list[np.ndarray]:
        """See :meth:`Transform.apply_polygons`."""
        return [self.apply_coords(polygon) for polygon in polygons]


class AugmentingMapper(DatasetMapper):
    """Detectron2's training mapper with ``INPUT.AUGMENTATIONS`` between its crop and its resize."""

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """See :meth:`DatasetMapper.from_config`."""
        options = super().from_config(cfg, is_train)
        made, more = options["augmentations"], build_augmentations(cfg)
        resize = [isinstance(aug, T.ResizeShortestEdge) for aug in made].index(True)
        every = [*made[:resize], *more, *made[resize:]]
        return {**options, "augmentations": list(map(_never_empty, every))}


class ObjectScaleMapper(AugmentingMapper):
    """A training mapper that resizes an image so that one object gets a given scale.

    Each time it draws one of the objects that the test's image pyramid brings to that scale; an
    object's scale is max(width, height). The image gets no smaller and no larger than that pyramid
    makes it. Where it would be longer than ``INPUT.MAX_SIZE_TRAIN``, it is cropped to that length,
    at random around the object.
    """

    def __init__(self, cfg: CfgNode):
        """``INPUT.OBJECT_SCALE_TRAIN`` of the merged config is the scale in pixels."""
        super().__init__(cfg, is_train=True)
        self.scale = cfg.INPUT.OBJECT_SCALE_TRAIN
        self.max_size = cfg.INPUT.MAX_SIZE_TRAIN
        self.test_resize = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
        scales = cfg.MODEL.MASK_PROPOSAL.TEST_SCALES
        self.test_scales = min(scales), max(scales)
        # All that DatasetMapper has built but the resize.
        made = self.augmentations.augs
        self.other_augmentations = [a for a in made if not isinstance(a, T.ResizeShortestEdge)]

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """See :meth:`DatasetMapper.__call__`."""
        mapper = copy.copy(self)
        size = np.array([dataset_dict["height"], dataset_dict["width"]])
        box = self._choose(dataset_dict, size)
        mapper.recompute_boxes = box is not None  # from what the crop leaves of the masks
        resize = self._crop_and_resize(size, box)
        mapper.augmentations = T.AugmentationList([*resize, *self.other_augmentations])
        return DatasetMapper.__call__(mapper, dataset_dict)

    def _crop_and_resize(self, size: np.ndarray, box: np.ndarray | None) -> list[T.Transform]:
        wanted = 1.0 if box is None else self.scale / _side(box)
        jitter = np.exp2(np.random.uniform(-_OCTAVES, _OCTAVES))
        factor = float(np.clip(wanted * jitter, *self._factors(size)))
        kept = np.minimum(size, max(1, int(self.max_size / factor)))
        transforms: list[T.Transform] = []
        if (kept < size).any():
            x0, y0, x1, y1 = [0, 0, 0, 0] if box is None else box
            top = _start(kept[0], size[0], y0, y1)
            left = _start(kept[1], size[1], x0, x1)
            transforms.append(_Crop(left, top, int(kept[1]), int(kept[0])))
        resized = [max(1, round(side * factor)) for side in kept.tolist()]
        return [*transforms, T.ResizeTransform(*kept.tolist(), *resized)]

    def _factors(self, size: np.ndarray) -> tuple[float, float]:
        """The least and the greatest factor by which the test's image pyramid resizes an image."""
        shorter, longer = self.test_resize
        at_one = min(shorter / size.min(), longer / size.max())
        return self.test_scales[0] * at_one, self.test_scales[1] * at_one

    def _choose(self, dataset_dict: dict[str, Any], size: np.ndarray) -> np.ndarray | None:
        """The box of one object, clipped to the image, in pixels; None where there is no object."""
        boxes = [
            BoxMode.convert(o["bbox"], o["bbox_mode"], BoxMode.XYXY_ABS)
            for o in dataset_dict["annotations"]
            if not o.get("iscrowd", 0)
        ]
        boxes = [np.clip(box, 0, [*size[::-1]] * 2) for box in boxes]
        low, high = self._factors(size)
        low, high = low * 2**-_OCTAVES, high * 2**_OCTAVES
        boxes = [box for box in boxes if low <= self.scale / _side(box) <= high] or boxes
        return boxes[np.random.randint(len(boxes))] if boxes else None


def _side(box: np.ndarray) -> float:
    return max(box[2] - box[0], box[3] - box[1], 1.0)


def _start(kept: int, size: int, low: float, high: float) -> int:
    """Draw where a crop of ``kept`` of ``size`` pixels begins. The object from ``low`` to ``high``
    lies in it: all of it where it fits, else its centre."""
    if high - low > kept:
        low = high = (low + high) / 2
    first = max(0, int(np.ceil(high)) - kept)
    last = min(int(np.floor(low)), size - kept)
    return int(np.random.randint(first, max(first, last) + 1))


class _FloatResize(T.ResizeTransform):
    """Bilinear interpolation that neither rounds its result nor smooths what it shrinks."""

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """See :meth:`ResizeTransform.apply_image`, which does so with images of floats."""
        return super().apply_image(np.ascontiguousarray(img, dtype=np.float32), interp)


class TorchvisionResize(T.Augmentation):
    """The resize of torchvision's detectors: the shorter side becomes ``min_size``, or the longer
    one ``max_size`` where that makes a smaller image; both sides are rounded down."""

    def __init__(self, min_size: int, max_size: int):
        """The sizes are in pixels."""
        super().__init__()
        self.min_size = min_size
        self.max_size = max_size

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """See :meth:`Augmentation.get_transform`; the image is (H, W, C)."""
        sides = image.shape[:2]
        # This order of operations decides about sides just below a whole number.
        scale = min(self.min_size / min(sides), self.max_size / max(sides))
        return _FloatResize(*sides, *(max(1, math.floor(side * scale)) for side in sides))


def build_test_resize(cfg: CfgNode) -> T.Augmentation:
    """The resize of test images by ``INPUT.RESIZE_TEST``; Detectron2's where a config lacks it. A
    side of a long and narrow image keeps a pixel."""
    sides = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    if sides[0] and cfg.INPUT.get("RESIZE_TEST") == "torchvision":  # 0 resizes nothing
        return TorchvisionResize(*sides)
    return NeverEmptyResize([sides[0], sides[0]], sides[1])


def build_test_mapper(cfg: CfgNode) -> DatasetMapper:
    """Detectron2's test mapper with the resize of ``INPUT.RESIZE_TEST``."""
    return DatasetMapper(cfg, False, augmentations=[build_test_resize(cfg)])


def build_train_mapper(cfg: CfgNode) -> DatasetMapper:
    """The training mapper, or with ``INPUT.OBJECT_SCALE_TRAIN`` the one of that scale."""
    # A config of Detectron2 alone lacks it.
    of_scale = cfg.INPUT.get("OBJECT_SCALE_TRAIN")
    return ObjectScaleMapper(cfg) if of_scale else AugmentingMapper(cfg, True)


def map_record(mapper: Mapper, record: dict[str, Any]) -> Any:
    """Map an image by a mapper of Detectron2's, which then reads the pixels of
    :func:`fpn_d2.data.images.read_image`."""
    name = record.get("file_name")
    if name is None:  # a torch data set may read its images itself
        return mapper(record)
    mapped = mapper({**record, "file_name": read_as_here(name)})
    if isinstance(mapped, dict):
        mapped["file_name"] = name
        if mapped["image"].dtype == torch.float64:  # YUV, which no network takes so
            mapped["image"] = mapped["image"].float()
    return mapped


class SkippingMapper:
    """A training mapper that returns None for an image that cannot be read.

    :class:`fpn_d2.data.TrainStream` then takes another image. The log names each such image once.
    The worker processes of a loader count together where they are forked (Linux), and each for
    itself elsewhere; the processes of a training on several GPUs always count each for itself.
    """

    def __init__(self, mapper: Mapper, files: Iterable[str], max_share: float):
        """
        Args:
            mapper: the mapper of sound images.
            files: the ``file_name`` of every image of the training sets.
            max_share: the share of the images that may be skipped, from 0 to 1. One is skipped in
                any case, and never all.
        """
        self._mapper = mapper
        self._max_share = max_share
        self._positions = {file: i for i, file in enumerate(dict.fromkeys(files))}
        self._skipped = torch.zeros(len(self._positions), dtype=torch.bool).share_memory_()

    def __call__(self, record: dict[str, Any]) -> dict[str, Any] | None:
        """Map one image in Detectron2's format; None where it cannot be read.

        Raises:
            UserError: where too many images cannot be read.
        """
        mapped, fault = use_image(functools.partial(map_record, self._mapper), record)
        if fault is not None:
            self._count(record["file_name"], fault)
        return mapped

    def foresee(self, faults: Sequence[tuple[str, str]], drawn: int) -> None:
        """Skip images before the first iteration.

        Args:
            faults: the ``file_name`` and the fault of images of which the header tells it.
            drawn: the number of images whose headers were read.

        Raises:
            UserError: where so many cannot be read that this is no chance.
        """
        for fault in faults:
            self._count(*fault)
        expected = self._max_share * drawn
        if len(faults) > 1 + expected + _BEYOND_CHANCE * math.sqrt(expected):
            self._stop(f"{len(faults)} of {drawn} training images that were drawn", *faults[0])

    def _count(self, file: str, fault: str) -> None:
        position, images = self._positions[file], len(self._positions)
        seen = bool(self._skipped[position])
        self._skipped[position] = True
        count = int(self._skipped.sum())
        if count > max(1, self._max_share * images) or count == images:
            self._stop(f"{count} of the {images} training images", file, fault)
        if not seen:
            logger.warning(
                "image %s %s and is skipped (%d of %d training images so far)",
                *(file, fault, count, images),
            )

    def _stop(self, images: str, file: str, fault: str) -> NoReturn:
        raise UserError(
            f"{images} cannot be used, and DATALOADER.MAX_SKIPPED_SHARE is {self._max_share}: "
            f"image {file} {fault}; convert or replace them, or take them out of the annotation "
            "file (tools/check_dataset.py lists all)"
        )


def map_or_refuse(mapper: Mapper, record: dict[str, Any]) -> Any:
    """:func:`map_record`, with a :class:`UserError` for an image that cannot be read."""
    mapped, fault = use_image(functools.partial(map_record, mapper), record)
    if fault is not None:
        refuse(record["file_name"], fault)
    return mapped


def refuse(file: str, fault: str) -> NoReturn:
    """Stop an evaluation at an image that cannot be read."""
    raise UserError(
        f"image {file} {fault}, and results without it would not be those of the data set: replace "
        "it, or take it out of the annotation file"
    )
