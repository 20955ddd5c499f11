"""Training images at the scale of one of their objects (DeepMask, the baseline of Table 6)."""

import copy
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.structures import BoxMode

__all__ = ["ObjectScaleMapper"]

# DeepMask: a mask is positive where its scale is within 2^-0.25 to 2^0.25 of the canonical one.
_OCTAVES = 0.25


class _Crop(T.CropTransform):
    """A crop that leaves cutting polygons to their rasterisation (the base's needs shapely)."""

    def apply_polygons(self, polygons: list[np.ndarray]) -> list[np.ndarray]:
        """See :meth:`Transform.apply_polygons`."""
        return [self.apply_coords(polygon) for polygon in polygons]


class ObjectScaleMapper(DatasetMapper):
    """A :class:`DatasetMapper` that resizes an image so that one object gets a given scale.

    The object is drawn anew each time, of those that the test's image pyramid brings to that
    scale; its scale is max(width, height). The image is made no
    smaller and no larger than the test's image pyramid makes it, and where it would be longer than
    ``INPUT.MAX_SIZE_TRAIN`` it is cropped to that around the object, at random.
    """

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: with ``INPUT.OBJECT_SCALE_TRAIN`` in pixels.
        """
        super().__init__(cfg, is_train=True)
        self.scale = cfg.INPUT.OBJECT_SCALE_TRAIN
        self.max_size = cfg.INPUT.MAX_SIZE_TRAIN
        self.test_resize = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
        scales = cfg.MODEL.MASK_PROPOSAL.TEST_SCALES
        self.test_scales = min(scales), max(scales)
        # what DatasetMapper has built, but for the resize
        self.other_augmentations = [
            augmentation
            for augmentation in self.augmentations.augs
            if not isinstance(augmentation, T.ResizeShortestEdge)
        ]

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """See :meth:`DatasetMapper.__call__`."""
        mapper = copy.copy(self)
        size = np.array([dataset_dict["height"], dataset_dict["width"]])
        box = self._choose(dataset_dict, size)
        mapper.recompute_boxes = box is not None  # from what a crop leaves of the masks
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
        """How much the test's image pyramid resizes an image, at the least and at the most."""
        shorter, longer = self.test_resize
        at_one = min(shorter / size.min(), longer / size.max())
        return self.test_scales[0] * at_one, self.test_scales[1] * at_one

    def _choose(self, dataset_dict: dict[str, Any], size: np.ndarray) -> np.ndarray | None:
        """The box of one object, on the image, in its pixels; None without an object."""
        boxes = [
            BoxMode.convert(o["bbox"], o["bbox_mode"], BoxMode.XYXY_ABS)
            for o in dataset_dict["annotations"]
            if not o.get("iscrowd", 0)
        ]
        boxes = [np.clip(box, 0, [*size[::-1]] * 2) for box in boxes]
        low, high = self._factors(size)
        reached = [
            box
            for box in boxes
            if low * 2**-_OCTAVES <= self.scale / _side(box) <= high * 2**_OCTAVES
        ]
        boxes = reached or boxes
        return boxes[np.random.randint(len(boxes))] if boxes else None


def _side(box: np.ndarray) -> float:
    return max(box[2] - box[0], box[3] - box[1], 1.0)


def _start(kept: int, size: int, low: float, high: float) -> int:
    """Where a crop of ``kept`` of ``size`` pixels begins, at random, with the object from ``low``
    to ``high`` in it: all of it where it fits, else its centre."""
    if high - low > kept:
        low = high = (low + high) / 2
    first = max(0, int(np.ceil(high)) - kept)
    last = min(int(np.floor(low)), size - kept)
    return int(np.random.randint(first, max(first, last) + 1))
