"""RoIAlign over the pyramid, the matching of anchors, and mask proposals against an image pyramid.

Shape shorthand: R boxes.
"""

from collections.abc import Callable, Sequence

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
from fpn_d2.utils.modules import settle_norms

from .contest import Comparison, Comparisons, make_row
from .differences import largest_share
from .networks import CONFIGS, SIZE, image_record, random_boxes, random_objects
from .precisions import DTYPES, PRECISIONS, variants_of

Call = Callable[[], Sequence[Tensor]]
_MATCHING_SIZE = (800, 1000)  # height and width in pixels of the image whose anchors are matched


def benchmark_pooling(device: str, count: int = 1000, size: tuple[int, int] = SIZE) -> Comparisons:
    """Compare the pooling of boxes: 7 x 7 bins, adaptive sampling, 256 channels, P2 to P5.

    The forward pass is compared alone, and together with the backward pass of a random gradient.
    ``max_error`` is a share of the largest value. ``count`` boxes are pooled, and the image is
    padded to multiples of 32. On a GPU both packages pool by torchvision's operator.
    """
    generator = torch.Generator().manual_seed(0)
    height, width = (-(-side // 32) * 32 for side in size)
    shapes = [(1, 256, height // s, width // s) for s in (4, 8, 16, 32)]
    levels = [torch.randn(shape, generator=generator).to(device) for shape in shapes]
    boxes = [Boxes(random_boxes(count, size, generator).to(device))]
    arguments = (7, [1 / 4, 1 / 8, 1 / 16, 1 / 32], 0, "ROIAlignV2")
    stock, ours = ROIPooler(*arguments), LevelROIPooler(*arguments)
    gradient = torch.randn(count, 256, 7, 7, generator=generator).to(device)
    variants = variants_of(device)
    inputs = {"detectron2": (stock, levels, gradient)}
    for variant in variants:
        kind = {"dtype": DTYPES[variant], "memory_format": torch.channels_last}
        inputs[variant] = ours, [level.to(**kind) for level in levels], gradient.to(**kind)

    rows = []
    for way, make in (("forward", _forward), ("forward and backward", _backward)):
        calls = {name: make(pooler, x, boxes, y) for name, (pooler, x, y) in inputs.items()}
        timings = yield Comparison(calls, kept=variants)
        for variant in variants if timings else []:
            error = largest_share(calls[variant](), calls["detectron2"]())
            rows.append(make_row("pooling", f"{variant} {way}", timings, error, ours=variant))
    return rows


def _forward(pooler: ROIPooler, levels: list[Tensor], boxes: list[Boxes], _: Tensor) -> Call:
    return lambda: [pooler(levels, boxes)]


def _backward(
    pooler: ROIPooler, levels: list[Tensor], boxes: list[Boxes], gradient: Tensor
) -> Call:
    leaves = [level.detach().requires_grad_() for level in levels]
    return lambda: torch.autograd.grad(pooler(leaves, boxes), leaves, gradient)


def benchmark_matching(
    device: str, count: int = 300, size: tuple[int, int] = _MATCHING_SIZE
) -> Comparisons:
    """Compare the matching of many objects with P2's anchors (Table 1(f), 750k at its size).

    The memory peaks differ most. ``max_error`` is the share of the anchors that are sampled
    differently. The image has ``count`` objects.
    """
    cfg = load_config(CONFIGS / "RPN" / "rpn_R_50_P2.yaml", ["MODEL.DEVICE", device])
    rpn = build_proposal_generator(cfg, {"p2": ShapeSpec(channels=1, stride=4)}).to(device)
    objects = random_objects(count, size, torch.Generator().manual_seed(0)).to(device)
    anchors = rpn.anchor_generator([torch.zeros(1, 1, size[0] // 4, size[1] // 4, device=device)])

    def match(kind: type[RPN]) -> Tensor:
        torch.manual_seed(0)  # decides the samples
        with EventStorage():
            labels, _ = kind.label_and_sample_anchors(rpn, anchors, [objects])
        return labels[0]

    calls = {"ours": lambda: match(type(rpn)), "detectron2": lambda: match(RPN)}

    timings = yield Comparison(calls, kept=["ours"])
    if timings is None:
        return []
    differ = float((calls["ours"]() != calls["detectron2"]()).float().mean())
    return [make_row("matching", f"{count} objects, P2", timings, differ)]


def benchmark_mask_proposals(device: str, size: tuple[int, int] = SIZE) -> Comparisons:
    """Compare Table 6's MLPs on the pyramid with the 5x5 one on an image pyramid.

    There is no ``max_error``, as the outputs are not the same.
    """
    opts = ["MODEL.DEVICE", device, "MODEL.WEIGHTS", ""]
    inputs = [image_record(0, size)]
    models = {}
    for name in ("5x5", "dual", "image_pyramid"):
        cfg = load_config(CONFIGS / "Mask-Proposals" / f"mask_R_50_{name}.yaml", opts)
        torch.manual_seed(0)
        models[name] = model = build_model(cfg).eval()
        settle_norms(model, lambda model=model: model(inputs))

    rows = []
    for variant in variants_of(device):
        ready = {n: prepare_model(m, precision=PRECISIONS[variant]) for n, m in models.items()}
        calls = {name: lambda model=model: model(inputs) for name, model in ready.items()}
        timings = yield Comparison(calls, kept=list(calls))
        for name in ("5x5", "dual") if timings else ():
            names = {"ours": name, "baseline": "image_pyramid"}
            rows.append(make_row("mask_proposals", f"{variant} {name}", timings, None, **names))
    return rows
