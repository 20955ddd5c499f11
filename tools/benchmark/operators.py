"""RoIAlign over the pyramid, the matching of anchors, and mask proposals against an image pyramid.

Shape shorthand: R boxes.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import build_proposal_generator
from detectron2.modeling.proposal_generator.rpn import RPN
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage
from torch import Tensor

from fpn_d2.config import load_config
from fpn_d2.inference import prepare_model
from fpn_d2.modeling import LevelROIPooler

from .contest import Comparison, Timing, make_row
from .networks import CONFIGS, SIZE, image_record, random_boxes, random_objects, settle_norms
from .outputs import largest_share
from .precisions import DTYPES, PRECISIONS, variants_of

__all__ = ["benchmark_mask_proposals", "benchmark_matching", "benchmark_pooling"]

_MATCHING_SIZE = (800, 1000)  # height and width in pixels of the image whose anchors are matched


def benchmark_pooling(
    device: str, count: int = 1000, size: tuple[int, int] = SIZE
) -> Iterator[Comparison]:
    """Compare the pooling of boxes: 7 x 7 bins, adaptive sampling, 256 channels, P2 to P5.

    Args:
        device: "cpu" or "cuda".
        count: how many boxes are pooled.
        size: height and width of the image in pixels, which is padded to multiples of 32.

    Yields:
        the forward pass; and with the backward pass of a random gradient. ``max_error`` is a share
        of the largest value.
    """
    generator = torch.Generator().manual_seed(0)
    height, width = (-(-side // 32) * 32 for side in size)
    shapes = [(1, 256, height // s, width // s) for s in (4, 8, 16, 32)]
    levels = [torch.randn(shape, generator=generator).to(device) for shape in shapes]
    boxes = [Boxes(random_boxes(count, size, generator).to(device))]
    arguments = (7, [1 / 4, 1 / 8, 1 / 16, 1 / 32], 0, "ROIAlignV2")
    stock, ours = ROIPooler(*arguments), LevelROIPooler(*arguments, backend="gather")
    gradient = torch.randn(count, 256, 7, 7, generator=generator).to(device)
    variants = variants_of(device)
    inputs = {"detectron2": (stock, levels, gradient)}
    for variant in variants:
        kind = {"dtype": DTYPES[variant], "memory_format": torch.channels_last}
        inputs[variant] = ours, [level.to(**kind) for level in levels], gradient.to(**kind)

    for way, make in (("forward", _forward), ("forward and backward", _backward)):
        calls = {name: make(pooler, x, boxes, y) for name, (pooler, x, y) in inputs.items()}

        def rows(timings: dict[str, Timing], way=way, calls=calls) -> list[dict[str, Any]]:
            expected = calls["detectron2"]()
            return [
                make_row(
                    *("pooling", f"{variant} {way}", timings[variant]),
                    *("detectron2", timings["detectron2"]),
                    largest_share(calls[variant](), expected),
                )
                for variant in variants
            ]

        yield Comparison(calls, variants, rows)


def _forward(
    pooler: ROIPooler, levels: list[Tensor], boxes: list[Boxes], _: Tensor
) -> Callable[[], Sequence[Tensor]]:
    return lambda: [pooler(levels, boxes)]


def _backward(
    pooler: ROIPooler, levels: list[Tensor], boxes: list[Boxes], gradient: Tensor
) -> Callable[[], Sequence[Tensor]]:
    leaves = [level.detach().requires_grad_() for level in levels]
    return lambda: torch.autograd.grad(pooler(leaves, boxes), leaves, gradient)


def benchmark_matching(
    device: str, count: int = 300, size: tuple[int, int] = _MATCHING_SIZE
) -> Iterator[Comparison]:
    """Compare the matching of P2's anchors (Table 1(f), 750k at the paper's size) with many objects.

    Args:
        device: "cpu" or "cuda".
        count: how many objects the image has.
        size: height and width of the image in pixels.

    Yields:
        one comparison, of peaks of memory above all. ``max_error`` is the share of the anchors that
        are sampled differently.
    """
    cfg = load_config(CONFIGS / "RPN" / "rpn_R_50_P2.yaml", ["MODEL.DEVICE", device])
    rpn = build_proposal_generator(cfg, {"p2": ShapeSpec(channels=1, stride=4)})
    objects = random_objects(count, size, torch.Generator().manual_seed(0)).to(device)
    anchors = rpn.anchor_generator([torch.zeros(1, 1, size[0] // 4, size[1] // 4, device=device)])

    def match(kind: type[RPN]) -> Tensor:
        torch.manual_seed(0)  # decides the samples
        with EventStorage():
            labels, _ = kind.label_and_sample_anchors(rpn, anchors, [objects])
        return labels[0]

    calls = {"ours": lambda: match(type(rpn)), "detectron2": lambda: match(RPN)}

    def rows(timings: dict[str, Timing]) -> list[dict[str, Any]]:
        differ = float((calls["ours"]() != calls["detectron2"]()).float().mean())
        pair = timings["ours"], "detectron2", timings["detectron2"]
        return [make_row("matching", f"{count} objects, P2", *pair, differ)]

    yield Comparison(calls, ["ours"], rows)


def benchmark_mask_proposals(device: str, size: tuple[int, int] = SIZE) -> Iterator[Comparison]:
    """Compare Table 6's MLPs on the pyramid with an image pyramid of the one of 5x5.

    Args:
        device: "cpu" or "cuda".
        size: height and width of the image in pixels.

    Yields:
        a comparison for each precision, without ``max_error``: the outputs are not the same.
    """
    opts = ["MODEL.DEVICE", device, "MODEL.WEIGHTS", ""]
    inputs = [image_record(0, size)]
    models = {}
    for name in ("5x5", "dual", "image_pyramid"):
        cfg = load_config(CONFIGS / "Mask-Proposals" / f"mask_R_50_{name}.yaml", opts)
        torch.manual_seed(0)
        models[name] = model = build_model(cfg).eval()
        settle_norms(model, lambda model=model: model(inputs))

    for variant in variants_of(device):
        ready = {n: prepare_model(m, precision=PRECISIONS[variant]) for n, m in models.items()}
        calls = {name: lambda model=model: model(inputs) for name, model in ready.items()}

        def rows(timings: dict[str, Timing], variant=variant) -> list[dict[str, Any]]:
            theirs = "image_pyramid", timings["image_pyramid"]
            return [
                make_row("mask_proposals", f"{variant} {name}", timings[name], *theirs, None)
                for name in ("5x5", "dual")
            ]

        yield Comparison(calls, calls.keys(), rows)
