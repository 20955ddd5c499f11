"""The network of Sec. 6, on one image or, as its baseline, on an image pyramid."""

from typing import Any

import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, ProposalNetwork
from detectron2.structures import ImageList, Instances
from torch import Tensor

__all__ = ["MaskProposalNetwork"]


@META_ARCH_REGISTRY.register()
class MaskProposalNetwork(ProposalNetwork):
    """A :class:`ProposalNetwork` whose proposals are masks.

    In testing it returns, for each input, ``{"instances": Instances}`` in pixels of the original
    image: ``scores`` (K,), ``pred_masks`` (:class:`fpn_d2.structures.RegionMasks`) and
    ``pred_boxes``, the masks' tight boxes, best first.
    """

    @configurable
    def __init__(self, *, test_scales: list[float], **kwargs: Any):
        """
        Args:
            test_scales: factors of the network input's size; the image pyramid of DeepMask, for
                the baseline. One of 1 is Sec. 6.
            kwargs: see :class:`ProposalNetwork`.
        """
        super().__init__(**kwargs)
        self.test_scales = test_scales

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """See :meth:`ProposalNetwork.from_config`."""
        keys = cfg.MODEL.MASK_PROPOSAL
        return {**super().from_config(cfg), "test_scales": list(keys.TEST_SCALES)}

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """See :meth:`ProposalNetwork.forward`; in testing, see the class."""
        if self.training:
            return super().forward(batched_inputs)
        return self.inference(batched_inputs)

    def inference(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Propose masks.

        Args:
            batched_inputs: as :class:`ProposalNetwork` takes them.

        Returns:
            see the class.
        """
        images = [self._move_to_current_device(x["image"]) for x in batched_inputs]
        images = [(image - self.pixel_mean) / self.pixel_std for image in images]
        found: list[list[Instances]] = [[] for _ in images]
        for scale in self.test_scales:
            resized = [_resize(image, scale) for image in images]
            batch = ImageList.from_tensors(
                resized,
                self.backbone.size_divisibility,
                padding_constraints=self.backbone.padding_constraints,
            )
            proposals, _ = self.proposal_generator(batch, self.backbone(batch.tensor))
            for parts, part in zip(found, proposals, strict=True):
                parts.append(part)
        return [
            {"instances": self._merge(parts, image.get("height"), image.get("width"))}
            for parts, image in zip(found, batched_inputs, strict=True)
        ]

    def _merge(self, parts: list[Instances], height: int | None, width: int | None) -> Instances:
        """The best of all scales, in pixels of the original image."""
        size = (height or parts[0].image_size[0], width or parts[0].image_size[1])
        merged = []
        for part in parts:
            resized = Instances(size, scores=part.scores, pred_masks=part.pred_masks.scaled(*size))
            merged.append(resized)
        all_scales = Instances.cat(merged)
        best = all_scales.scores.sort(descending=True, stable=True).indices
        found = all_scales[best[: self.proposal_generator.topk]]
        found.pred_boxes = found.pred_masks.tight_boxes()
        return found


def _resize(image: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return image
    size = [max(1, round(side * scale)) for side in image.shape[-2:]]
    return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
