"""Map images of data sets to a model's input: resizing, and what happens to unreadable images.

Detectron2's :class:`DatasetMapper` does the work, on the pixels of :mod:`fpn_d2.data.images`. This
module adds a resize for training (DeepMask, the baseline of Table 6), one for tests
(``INPUT.RESIZE_TEST``), and mappers that find out why an image could not be read: training skips
some such images, evaluation stops.
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

from ..config_checks import rotated_key
from ..config_values import value_of
from ..utils.augmentations import build_augmentations
from ..utils.errors import UserError
from .images import read_as_here, use_image

logger = logging.getLogger(__name__)

Mapper = Callable[[dict[str, Any]], Any]

# An excess of this many standard deviations of a Poisson count is no chance.
_BEYOND_CHANCE = 3.0
# DeepMask: a mask is positive if its scale is 2^-0.25 to 2^0.25 times the canonical one.
_OCTAVES = 0.25


class NeverEmptyResize(T.ResizeShortestEdge):
    """Detectron2's resize, but each side of a long and narrow image keeps at least one pixel."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """See :meth:`Augmentation.get_transform`; the image is (H, W, C)."""
        transform = super().get_transform(image)
        if isinstance(transform, T.ResizeTransform):
            transform.new_h, transform.new_w = max(1, transform.new_h), max(1, transform.new_w)
        return transform


class NeverEmptyCrop(T.RandomCrop):
    """Detectron2's crop, but each side keeps at least one pixel."""

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
    """A crop that does not cut polygons (the base class needs shapely for that): rasterising them
    drops what lies outside."""

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

    Each time it draws one of the objects that the test's image pyramid brings to that scale, or one
    of all if there is none; an object's scale is max(width, height). The image gets no smaller and
    no larger than that pyramid makes it. If it would be longer than ``INPUT.MAX_SIZE_TRAIN``, it is
    cropped to that length, at random around the object.
    """

    def __init__(self, cfg: CfgNode):
        """``INPUT.OBJECT_SCALE_TRAIN`` of the merged config is the scale in pixels."""
        super().__init__(cfg, is_train=True)
        self.scale = cfg.INPUT.OBJECT_SCALE_TRAIN
        self.max_size = cfg.INPUT.MAX_SIZE_TRAIN
        self.test_resize = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
        scales = cfg.MODEL.MASK_PROPOSAL.TEST_SCALES
        self.test_scales = min(scales), max(scales)
        # All augmentations that DatasetMapper has built, except the resize.
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
        """Draw one object; return its box in pixels, clipped to the image; None without objects."""
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
    """Draw where a crop of ``kept`` of ``size`` pixels begins. The crop contains the object from
    ``low`` to ``high`` if that fits, else the object's centre."""
    if high - low > kept:
        low = high = (low + high) / 2
    first = max(0, int(np.ceil(high)) - kept)
    last = min(int(np.floor(low)), size - kept)
    return int(np.random.randint(first, max(first, last) + 1))


class _FloatResize(T.ResizeTransform):
    """A bilinear resize that neither rounds its result nor smooths when it shrinks."""

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """See :meth:`ResizeTransform.apply_image`, which does this for float images."""
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
        # The order of operations decides whether a side comes out just below a whole number.
        scale = min(self.min_size / min(sides), self.max_size / max(sides))
        return _FloatResize(*sides, *(max(1, math.floor(side * scale)) for side in sides))


def build_test_resize(cfg: CfgNode) -> T.Augmentation:
    """Build the resize of test images for ``INPUT.RESIZE_TEST``; Detectron2's if a config lacks it.
    Each side of a long and narrow image keeps at least one pixel."""
    sides = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    if sides[0] and cfg.INPUT.get("RESIZE_TEST") == "torchvision":  # 0 resizes nothing
        return TorchvisionResize(*sides)
    return NeverEmptyResize([sides[0], sides[0]], sides[1])


def build_test_mapper(cfg: CfgNode) -> DatasetMapper:
    """Build Detectron2's test mapper with the resize of ``INPUT.RESIZE_TEST``."""
    return DatasetMapper(cfg, False, augmentations=[build_test_resize(cfg)])


def build_train_mapper(cfg: CfgNode) -> DatasetMapper:
    """Build the training mapper; for ``INPUT.OBJECT_SCALE_TRAIN`` an :class:`ObjectScaleMapper`.

    Raises:
        UserError: for a model of rotated boxes, which Detectron2's mapper makes upright.
    """
    key = rotated_key(cfg)
    if key:
        raise UserError(
            f"{key} {value_of(cfg, key)} reads rotated boxes, which Detectron2's mapper makes "
            "upright: map them in the build_train_loader of a Trainer of your own, and set "
            "TEST.VALIDATION_LOSS False"
        )
    # A plain Detectron2 config lacks it.
    of_scale = cfg.INPUT.get("OBJECT_SCALE_TRAIN")
    return ObjectScaleMapper(cfg) if of_scale else AugmentingMapper(cfg, True)


def map_labels(mapper: Mapper, classes: int, ignored: int, record: dict[str, Any]) -> Any:
    """Map an image with a label map, and refuse labels other than those below ``classes`` and
    ``ignored``, at which Detectron2's losses stop, on a GPU without a reason.

    Raises:
        UserError: naming the file and the label.
    """
    mapped = mapper(record)
    labels = mapped["sem_seg"]
    wrong = labels[(labels >= classes) & (labels != ignored)]  # none of the file is negative
    if len(wrong):
        raise UserError(
            f"label map {record['sem_seg_file_name']} has the label {int(wrong[0])}, which is no "
            f"class of MODEL.SEM_SEG_HEAD.NUM_CLASSES {classes} and not "
            f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE {ignored}: correct one of them"
        )
    return mapped


def map_record(mapper: Mapper, record: dict[str, Any]) -> Any:
    """Map an image by one of Detectron2's mappers, and let it read the pixels of
    :func:`fpn_d2.data.images.read_image`."""
    name = record.get("file_name")
    if name is None:  # a torch data set may read its images itself
        return mapper(record)
    mapped = mapper({**record, "file_name": read_as_here(name)})
    if isinstance(mapped, dict):
        mapped["file_name"] = name
        if mapped["image"].dtype == torch.float64:  # YUV, which no network takes in float64
            mapped["image"] = mapped["image"].float()
    return mapped


class SkippingMapper:
    """A training mapper that returns None for an image that cannot be read.

    :class:`fpn_d2.data.TrainStream` then takes another image. The log names each such image once.
    The worker processes of a loader share one count where they are forked (Linux) and count
    separately elsewhere; the processes of a multi-GPU training always count separately.
    """

    def __init__(self, mapper: Mapper, files: Iterable[str], max_share: float):
        """
        Args:
            mapper: the mapper for images that can be read.
            files: the ``file_name`` of every image of the training sets.
            max_share: the share of the images that may be skipped, from 0 to 1. One image may
                always be skipped, but never all.
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
            faults: the ``file_name`` and the fault of each image whose header shows one.
            drawn: the number of images whose headers were read.

        Raises:
            UserError: if more images cannot be read than ``max_share`` and chance explain.
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
    """Map an image as :func:`map_record` does; raise a :class:`UserError` if it cannot be read."""
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
