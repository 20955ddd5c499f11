"""Training images at the scale of one of their objects (DeepMask, the baseline of Table 6)."""

import copy
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import gen_crop_transform_with_instance
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

    The object is drawn anew each time; its scale is max(width, height). The image is made no
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
        box = self._choose(dataset_dict)
        mapper.recompute_boxes = box is not None  # from what a crop leaves of the masks
        resize = self._crop_and_resize(dataset_dict, box)
        mapper.augmentations = T.AugmentationList([*resize, *self.other_augmentations])
        return DatasetMapper.__call__(mapper, dataset_dict)

    def _crop_and_resize(
        self, dataset_dict: dict[str, Any], box: np.ndarray | None
    ) -> list[T.Transform]:
        size = np.array([dataset_dict["height"], dataset_dict["width"]])
        wanted = 1.0
        if box is not None:
            wanted = self.scale / max(box[2] - box[0], box[3] - box[1], 1.0)
        low, high = (scale * self._test_factor(size) for scale in self.test_scales)
        factor = float(np.clip(wanted * np.exp2(np.random.uniform(-_OCTAVES, _OCTAVES)), low, high))
        kept = np.minimum(size, max(1, int(self.max_size / factor)))
        transforms: list[T.Transform] = []
        if (kept < size).any():
            around = [0, 0, *size[::-1]] if box is None else box.tolist()
            instance = {"bbox": around, "bbox_mode": BoxMode.XYXY_ABS}
            crop = gen_crop_transform_with_instance(kept, size, instance)
            transforms.append(_Crop(crop.x0, crop.y0, crop.w, crop.h))
        resized = [max(1, round(side * factor)) for side in kept.tolist()]
        return [*transforms, T.ResizeTransform(*kept.tolist(), *resized)]

    def _test_factor(self, size: np.ndarray) -> float:
        """How much the test resizes an image, at scale 1."""
        shorter, longer = self.test_resize
        return min(shorter / size.min(), longer / size.max())

    @staticmethod
    def _choose(dataset_dict: dict[str, Any]) -> np.ndarray | None:
        """The box of one object, on the image, in its pixels; None without an object."""
        objects = [o for o in dataset_dict["annotations"] if not o.get("iscrowd", 0)]
        if not objects:
            return None
        chosen = objects[np.random.randint(len(objects))]
        box = BoxMode.convert(chosen["bbox"], chosen["bbox_mode"], BoxMode.XYXY_ABS)
        return np.clip(box, 0, [dataset_dict["width"], dataset_dict["height"]] * 2)
