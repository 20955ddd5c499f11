"""An exported file beside the model that it was made of.

The model is the one that training left: batch norms not folded and, on a CPU, RoIAlign by this
package's own operator, so nothing but the weights is common to both.

Shape shorthand: H x W pixels, P proposals, R boxes.
"""

import copy
import dataclasses
import functools
import io
import os
import sys
from collections.abc import Callable, Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data.detection_utils import read_image
from detectron2.modeling import ProposalNetwork, RetinaNet
from torch import Tensor, nn
from torchvision.ops import box_iou

from ..data import build_test_resize, check_names
from ..data.images import image_fault
from ..evaluation import match_boxes
from ..utils.errors import UserError
from .exporting import DetectorGraph, Exported, require

__all__ = ["Parity", "check_export", "load_exported", "read_check_images"]

# The share of detections that are to be matched, from which score, and how closely; and the heads'
# outputs on the same proposals.
MATCHED_SHARE, LEAST_SCORE, PIXELS, HEAD_ERROR = 0.995, 0.05, 0.1, 1e-3
TIE = 1e-5  # scores that are as near are in no order: rounding decides which of two NMS keeps
NUM_IMAGES = 3
SCALES = (1.0, 0.77, 1.23)  # of the config's size: padding of different widths
NUM_PROPOSALS = 500  # for a Fast R-CNN


@dataclasses.dataclass
class Parity:
    """How far the file is from the model.

    Args:
        sizes: (H, W) of each image.
        detections: of the model, above the least score; in an RPN all proposals.
        found: those of the file.
        matched: how many of both belong together, one to one.
        tied: how many of the others are the model's too, before its NMS, where each may lose to
            one of the other side. One tie decides about all that its boxes overlap. Without
            lateral connections (row e), levels are C5 repeated, so that neighbours' scores are
            the same.
        head_max_error: the largest difference of the heads' outputs on the same proposals.
        max_pixels: of the matched boxes' coordinates.
        max_score: of their scores.
    """

    sizes: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    detections: int = 0
    found: int = 0
    matched: int = 0
    tied: int = 0
    head_max_error: float = 0.0
    max_pixels: float = 0.0
    max_score: float = 0.0

    @property
    def matched_share(self) -> float:
        """Of 0 to 1, of the model's detections or of the file's, whichever are more."""
        return self.matched / max(1, self.detections, self.found)

    @property
    def is_within_tolerance(self) -> bool:
        """Whether the file does what the model does."""
        not_tied = max(self.detections, self.found) - self.tied
        is_matched = self.matched >= MATCHED_SHARE * not_tied
        return is_matched and self.head_max_error <= HEAD_ERROR

    def summary(self) -> str:
        """The parity in a line."""
        return (
            f"{len(self.sizes)} images of {len(set(self.sizes))} sizes: "
            f"{self.matched} of {max(self.detections, self.found)} boxes matched "
            f"({100 * self.matched_share:.2f} %) within {PIXELS} px, {self.tied} tied; largest "
            f"difference {self.max_pixels:.1e} px, of scores {self.max_score:.1e}, of head outputs "
            f"on the same proposals {self.head_max_error:.1e}"
        )


def check_export(exported: Exported, model: nn.Module, images: Sequence[Tensor]) -> Parity:
    """Run an exported file and its model on the same images.

    Args:
        exported: from :func:`fpn_d2.export.export_model`.
        model: the model that it was made of.
        images: (3, H, W) float32 of 0 to 255 each.

    Returns:
        how far they are from each other.

    Raises:
        UserError: where no image has a detection, which would show nothing.
    """
    eager = DetectorGraph(copy.deepcopy(model).eval().cpu())
    run, run_check = (load_exported(x, exported.format) for x in (exported.content, exported.check))
    parity = Parity()
    for image in images:
        height, width = image.shape[-2:]
        parity.sizes.append((height, width))
        inputs = [image]
        if eager.takes_proposals:
            inputs.append(random_proposals(NUM_PROPOSALS, height, width))
        with torch.no_grad():
            expected = eager(*inputs)
        named = dict(zip(eager.input_names, inputs, strict=True))
        _compare_boxes(parity, run(named), expected, functools.partial(_candidates, model, inputs))
        outputs = run_check(named)[len(eager.output_names) :]
        _compare_heads(parity, eager, image, outputs)
    if not parity.detections:
        raise UserError(
            f"the model finds nothing above a score of {LEAST_SCORE} on these images, so nothing "
            "can be compared; name images with objects in them by --images"
        )
    return parity


def _compare_boxes(
    parity: Parity,
    found: Sequence[Tensor],
    expected: Sequence[Tensor],
    candidates: Callable[[], Sequence[Tensor]],
) -> None:
    found, expected = _confident(found), _confident(expected)
    pairs, differences = match_boxes(found[0], expected[0], found[2], expected[2], PIXELS)
    parity.detections += len(expected[0])
    parity.found += len(found[0])
    parity.matched += len(pairs)
    rest_found, rest_expected = _without(found, pairs[:, 0]), _without(expected, pairs[:, 1])
    if len(rest_found[0]) and len(rest_expected[0]):
        had = _are_among(rest_found, _confident(candidates()))
        rivals = [x[had] for x in rest_found]
        unexplained = max(
            int((~had | ~_may_lose(rest_found, rest_expected)).sum()),
            int((~_may_lose(rest_expected, rivals)).sum()),
        )
        parity.tied += max(0, max(len(rest_found[0]), len(rest_expected[0])) - unexplained)
    if len(pairs):
        away = (found[1][pairs[:, 0]] - expected[1][pairs[:, 1]]).abs()
        parity.max_score = max(parity.max_score, float(away.max()))
        parity.max_pixels = max(parity.max_pixels, float(differences.max()))


def _without(outputs: Sequence[Tensor], indices: Tensor) -> list[Tensor]:
    left = torch.ones(len(outputs[0]), dtype=torch.bool)
    left[indices] = False
    return [x[left] for x in outputs]


def _may_lose(boxes: Sequence[Tensor], rivals: Sequence[Tensor]) -> Tensor:
    """(R,) bool: which boxes overlap a rival of their class whose score is not below theirs, but
    for a tie, so that NMS may keep that one and not them."""
    loses = box_iou(boxes[0], rivals[0]) > 0
    loses &= rivals[1][None] >= boxes[1][:, None] - TIE
    return (loses & (boxes[2][:, None] == rivals[2][None])).any(dim=1)


@torch.no_grad()
def _candidates(model: nn.Module, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """What the model returns where its last NMS takes nothing away, in the form of the outputs."""
    model = copy.deepcopy(model).eval().cpu()
    if isinstance(model, ProposalNetwork):
        rpn = model.proposal_generator
        rpn.nms_thresh, rpn.post_nms_topk = 1.0, {False: sys.maxsize}
    elif isinstance(model, RetinaNet):
        model.test_nms_thresh, model.max_detections_per_image = 1.0, sys.maxsize
    else:
        predictor = model.roi_heads.box_predictor
        predictor.test_nms_thresh, predictor.test_topk_per_image = 1.0, sys.maxsize
    return DetectorGraph(model)(*inputs)


def _are_among(found: Sequence[Tensor], candidates: Sequence[Tensor]) -> Tensor:
    """(R,) bool: which boxes, with their scores and classes, are also among the candidates."""
    is_near = (found[0][:, None] - candidates[0][None]).abs().amax(dim=2) <= PIXELS
    is_near &= (found[1][:, None] - candidates[1][None]).abs() <= HEAD_ERROR
    return (is_near & (found[2][:, None] == candidates[2][None])).any(dim=1)


def _confident(outputs: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, scores and classes above the least score; proposals, which have no class, all."""
    if len(outputs) == 2:
        return outputs[0], outputs[1], torch.zeros_like(outputs[1])
    keep = outputs[1] > LEAST_SCORE
    return tuple(x[keep] for x in outputs)


def _compare_heads(
    parity: Parity, eager: DetectorGraph, image: Tensor, outputs: Sequence[Tensor]
) -> None:
    expected = eager.head_outputs(image, outputs[0] if len(outputs) == 3 else None)
    for x, y in zip(outputs[-2:], expected, strict=True):
        if x.shape != y.shape:
            raise UserError(
                f"the exported heads return {tuple(x.shape)} values and the model's "
                f"{tuple(y.shape)}; this is a defect of the export, please report it"
            )
        if len(x):
            parity.head_max_error = max(parity.head_max_error, float((x - y).abs().max()))


def load_exported(content: bytes, format: str) -> Callable[[dict[str, Tensor]], list[Tensor]]:
    """What runs an exported file, by ONNX Runtime or TorchScript, on the CPU.

    Args:
        content: the file.
        format: "onnx" or "torchscript".

    Returns:
        a function of the inputs by name, which returns the outputs in order.
    """
    if format == "torchscript":
        module = torch.jit.load(io.BytesIO(content), map_location="cpu").eval()

        def run_module(inputs: dict[str, Tensor]) -> list[Tensor]:
            with torch.no_grad():
                return list(module(*inputs.values()))

        return run_module
    onnxruntime = require("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # nothing about shapes that it could not infer
    session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])

    def run_session(inputs: dict[str, Tensor]) -> list[Tensor]:
        arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
        return [torch.from_numpy(array) for array in session.run(None, arrays)]

    return run_session


def random_proposals(count: int, height: int, width: int) -> Tensor:
    """The same (P, 4) boxes of all sizes for an image of a size, in its pixels."""
    generator = torch.Generator().manual_seed(height * width)
    sides = torch.tensor([width, height])
    size = sides * 2 ** (-4 * torch.rand(count, 2, generator=generator))
    corner = torch.rand(count, 2, generator=generator) * (sides - size)
    return torch.cat([corner, corner + size], dim=1)


def read_check_images(cfg: CfgNode, files: Sequence[str] = ()) -> list[Tensor]:
    """Images to compare on, each in three sizes.

    Args:
        cfg: the model's config.
        files: the images; none is the first of the config's test set.

    Returns:
        (3, H, W) float32 each, of 0 to 255, in the order of ``INPUT.FORMAT``.

    Raises:
        UserError: for a file that is no image, or a test set that is not there.
    """
    images = []
    for file in files or _test_files(cfg):
        fault = image_fault(file)
        if fault is not None:
            raise UserError(f"image {file} {fault}; name another by --images")
        pixels = read_image(file, cfg.INPUT.FORMAT)
        images += [_resize(cfg, pixels, scale) for scale in SCALES]
    return images


def _resize(cfg: CfgNode, pixels: np.ndarray, scale: float) -> Tensor:
    shortest = cfg.INPUT.MIN_SIZE_TEST or min(pixels.shape[:2])
    longest = cfg.INPUT.MAX_SIZE_TEST
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = (
        round(scale * shortest),
        round(scale * longest),
    )
    resize = build_test_resize(cfg)
    resized = resize.get_transform(pixels).apply_image(pixels)
    return torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1), np.float32))


def _test_files(cfg: CfgNode) -> list[str]:
    try:
        check_names(cfg.DATASETS.TEST[:1], "DATASETS.TEST")
        records = DatasetCatalog.get(cfg.DATASETS.TEST[0]) if cfg.DATASETS.TEST else []
    except (UserError, OSError) as error:
        raise UserError(f"{error}; or name images by --images") from error
    if not records:
        raise UserError("DATASETS.TEST has no image to check the export on; name some by --images")
    return [os.fspath(record["file_name"]) for record in records[:NUM_IMAGES]]
