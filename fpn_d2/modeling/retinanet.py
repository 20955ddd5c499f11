"""RetinaNet with torchvision's order of its last steps."""

from typing import Any

from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch import RetinaNet
from detectron2.structures import Instances

__all__ = ["ClippingRetinaNet"]


@META_ARCH_REGISTRY.register()
class ClippingRetinaNet(RetinaNet):
    """Detectron2's :class:`RetinaNet`, with boxes clipped to the image before NMS, not after it.

    Boxes that reach beyond the image overlap more once they are clipped, so that NMS removes
    others.
    """

    def _decode_per_level_predictions(self, *args: Any) -> Instances:
        """See :meth:`DenseDetector._decode_per_level_predictions`."""
        predictions = super()._decode_per_level_predictions(*args)
        predictions.pred_boxes.clip(predictions.image_size)
        return predictions
