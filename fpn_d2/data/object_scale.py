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


class ObjectScaleMapper(DatasetMapper):
    """A :class:`DatasetMapper` that resizes an image so that one object gets a given scale.

    The object is drawn anew each time; its scale is max(width, height). The image's shorter side
    stays within what the test's image pyramid covers, 2^-2.5 to 2^0.5 of ``INPUT.MIN_SIZE_TEST``.
    """

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: with ``INPUT.OBJECT_SCALE_TRAIN`` in pixels.
        """
        super().__init__(cfg, is_train=True)
        self.scale = cfg.INPUT.OBJECT_SCALE_TRAIN
        self.limits = [cfg.INPUT.MIN_SIZE_TEST * 2**octaves for octaves in (-2.5, 0.5)]
        # what DatasetMapper has built, but for the resize
        self.other_augmentations = [
            augmentation
            for augmentation in self.augmentations.augs
            if not isinstance(augmentation, T.ResizeShortestEdge)
        ]

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """See :meth:`DatasetMapper.__call__`."""
        mapper = copy.copy(self)
        resize = T.ResizeShortestEdge(self._shorter_side(dataset_dict), max_size=10**6)
        mapper.augmentations = T.AugmentationList([resize, *self.other_augmentations])
        return DatasetMapper.__call__(mapper, dataset_dict)

    def _shorter_side(self, dataset_dict: dict[str, Any]) -> int:
        objects = [o for o in dataset_dict["annotations"] if not o.get("iscrowd", 0)]
        shorter = min(dataset_dict["height"], dataset_dict["width"])
        factor = np.exp2(np.random.uniform(-_OCTAVES, _OCTAVES))
        if objects:
            chosen = objects[np.random.randint(len(objects))]
            box = BoxMode.convert(chosen["bbox"], chosen["bbox_mode"], BoxMode.XYXY_ABS)
            side = max(box[2] - box[0], box[3] - box[1], 1.0)
            factor *= self.scale / side
        return round(float(np.clip(shorter * factor, *self.limits)))
