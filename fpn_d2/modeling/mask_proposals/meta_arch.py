"""The network of Sec. 6, on one image or, as the baseline, on an image pyramid.

Shape shorthand: K proposals of an image.
"""

from typing import Any

import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, ProposalNetwork
from detectron2.structures import ImageList, Instances
from torch import Tensor


@META_ARCH_REGISTRY.register()
class MaskProposalNetwork(ProposalNetwork):
    """A :class:`ProposalNetwork` whose proposals are masks.

    In testing it returns ``{"instances": Instances}`` for each input, in pixels of the original
    image and best first: ``scores`` (K,) of 0 to 1, ``pred_masks``
    (:class:`fpn_d2.structures.RegionMasks`) and ``pred_boxes``, the tight boxes of the masks.
    """

    @configurable
    def __init__(self, *, resize_factors: list[float], **kwargs: Any):
        """
        Args:
            resize_factors: factors by which the network input is resized in testing. [1.0] is
                Sec. 6; several make the image pyramid of DeepMask, the baseline.
            kwargs: see :class:`ProposalNetwork`.
        """
        super().__init__(**kwargs)
        self.resize_factors = resize_factors

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """See :meth:`ProposalNetwork.from_config`."""
        keys = cfg.MODEL.MASK_PROPOSAL
        return {**super().from_config(cfg), "resize_factors": list(keys.TEST_SCALES)}

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """See :meth:`ProposalNetwork.forward`, and in testing :meth:`inference`."""
        if self.training:
            return super().forward(batched_inputs)
        return self.inference(batched_inputs)

    def inference(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Propose masks: ``{"instances": Instances}`` for each input; see the class."""
        images = [self._move_to_current_device(x["image"]) for x in batched_inputs]
        images = [(image - self.pixel_mean) / self.pixel_std for image in images]
        found: list[list[Instances]] = [[] for _ in images]
        for factor in self.resize_factors:
            resized = [_resize(image, factor) for image in images]
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
        """Merge the proposals of all sizes of an image into its best ones, in its own pixels."""
        size = (height or parts[0].image_size[0], width or parts[0].image_size[1])
        proposals = Instances.cat(
            [
                Instances(size, scores=part.scores, pred_masks=part.pred_masks.scaled(*size))
                for part in parts
            ]
        )
        best = proposals.scores.sort(descending=True, stable=True).indices
        found = proposals[best[: self.proposal_generator.topk]]
        found.pred_boxes = found.pred_masks.tight_boxes()
        return found


def _resize(image: Tensor, factor: float) -> Tensor:
    if factor == 1:
        return image
    size = [max(1, round(side * factor)) for side in image.shape[-2:]]
    return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
