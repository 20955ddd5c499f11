"""Compare an exported file with the model it was made from, and report how far they are apart.

The model is as training left it: its batch norms are not folded, and on a CPU its RoIAlign is this
package's own operator. The file and the model have nothing in common but the weights.

Shape shorthand: H x W pixels, P proposals, R boxes.
"""

import dataclasses
import functools
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from tabulate import tabulate
from torch import Tensor, nn
from torchvision.ops import box_iou

from ..config import changed
from ..data import build_test_resize, check_names
from ..data.images import look_at, read_image
from ..evaluation.matching import match_boxes
from ..inference import set_final_nms
from ..inference.inputs import network_input
from ..inference.openvino_parts import cpu_settings, openvino_core
from ..utils.errors import UserError
from ..utils.files import check_targets, explain_disk_errors, is_config_key, read_json, write_json
from ..utils.modules import detached_copy
from ..utils.provenance import describe_machine, describe_versions, git_commit, installed_versions
from .exporter import DetectorGraph, Exported, require

MATCHED_SHARE = 0.995  # of the detections must be matched,
LEAST_SCORE = 0.05  # of those above this score,
PIXELS = 0.1  # to a box whose coordinates are that near;
HEAD_ERROR = 1e-3  # and the heads' outputs on the same proposals may differ by this much
# Scores closer than this have no order: rounding decides which of two boxes NMS keeps.
TIE = 1e-5
NUM_IMAGES = 3
SCALES = (1.0, 0.77, 1.23)  # of the config's size, so that the padding has different widths
NUM_PROPOSALS = 500  # for a Fast R-CNN


@dataclasses.dataclass
class Parity:
    """How far the file is from the model.

    Args:
        sizes: (H, W) of each image.
        detections: how many the model has above the minimum score; for an RPN, all its proposals.
        found: how many the file has.
        matched: how many of the two were matched, one to one.
        tied: how many of the unmatched the model also has before its NMS, and may have lost to a
            box of the other side. One tie decides about every box that its boxes overlap. Without
            lateral connections (row e), levels are C5 repeated, so neighbours have equal scores.
        head_max_error: the largest difference of the heads' outputs on the same proposals.
        max_pixels: the largest difference of the matched boxes' coordinates.
        max_score: the largest difference of their scores.
        most: the model's or the file's boxes, whichever are more on each image; ``tied`` is a part.
    """

    sizes: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    detections: int = 0
    found: int = 0
    matched: int = 0
    tied: int = 0
    head_max_error: float = 0.0
    max_pixels: float = 0.0
    max_score: float = 0.0
    most: int = 0

    @property
    def matched_share(self) -> float:
        """The matched share, 0 to 1, of the model's or the file's boxes, whichever are more."""
        return self.matched / max(1, self.detections, self.found)

    @property
    def is_within_tolerance(self) -> bool:
        """Whether the file does what the model does."""
        not_tied = max(self.most, self.detections, self.found) - self.tied
        is_matched = self.matched >= MATCHED_SHARE * not_tied
        return is_matched and self.head_max_error <= HEAD_ERROR

    def summary(self) -> str:
        """Describe the comparison in one line."""
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
        exported, model: from :func:`fpn_d2.export.export_model`, and the model it was made from.
        images: (C, H, W) float32 each, 0 to 255, with the channels of ``INPUT.FORMAT``.

    Raises:
        UserError: if no image has a detection, and so nothing can be compared.
    """
    eager = DetectorGraph(detached_copy(model).eval().cpu())
    run = load_exported(exported.content, exported.format, exported.weights)
    run_check = load_exported(exported.check, exported.format, exported.check_weights)
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
        *proposals, logits, deltas = run_check(named)[len(eager.output_names) :]
        expected = eager.head_outputs(image, proposals[0] if proposals else None)
        for x, y in zip((logits, deltas), expected, strict=True):
            if x.shape != y.shape:
                raise UserError(
                    f"the exported heads return {tuple(x.shape)} values and the model's "
                    f"{tuple(y.shape)}; this is a defect of the export, please report it"
                )
            if len(x):
                away = (x - y).abs().nan_to_num(torch.finfo(x.dtype).max)  # NaN is never the most
                parity.head_max_error = max(parity.head_max_error, float(away.max()))
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
    parity.most += max(len(expected[0]), len(found[0]))
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
    """Tell which boxes, (R,) bool, overlap a rival of their class that NMS may keep instead,
    because its score is above theirs or tied with it."""
    loses = box_iou(boxes[0], rivals[0]) > 0
    loses &= rivals[1][None] >= boxes[1][:, None] - TIE
    return (loses & (boxes[2][:, None] == rivals[2][None])).any(dim=1)


@torch.no_grad()
def _candidates(model: nn.Module, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the model's outputs as they are if its last NMS drops nothing."""
    model = detached_copy(model).eval().cpu()
    set_final_nms(model, 1.0, sys.maxsize)
    return DetectorGraph(model)(*inputs)


def _are_among(found: Sequence[Tensor], candidates: Sequence[Tensor]) -> Tensor:
    """Tell which boxes, (R,) bool, are also among the candidates, with their scores and classes."""
    is_near = (found[0][:, None] - candidates[0][None]).abs().amax(dim=2) <= PIXELS
    is_near &= (found[1][:, None] - candidates[1][None]).abs() <= HEAD_ERROR
    return (is_near & (found[2][:, None] == candidates[2][None])).any(dim=1)


def _confident(outputs: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the boxes, scores and classes above the minimum score; all proposals, with class 0."""
    if len(outputs) == 2:
        return outputs[0], outputs[1], torch.zeros_like(outputs[1])
    keep = outputs[1] > LEAST_SCORE
    return tuple(x[keep] for x in outputs)


# When a model that has run without a box ends, it takes with it what the next model of the same
# file uses: with OpenVINO 2026.4 that one crashes. So such a model stays to the end of the process.
_KEPT: list[Any] = []


def load_exported(
    content: bytes, format: str, weights: bytes = b""
) -> Callable[[dict[str, Tensor]], list[Tensor]]:
    """Load an exported file into ONNX Runtime, TorchScript or OpenVINO, on the CPU.

    Args:
        content, format, weights: see :class:`fpn_d2.export.Exported`.

    Returns:
        a function that runs it: it takes the inputs by name and returns the outputs in order.
    """
    if format == "torchscript":
        module = torch.jit.load(io.BytesIO(content), map_location="cpu").eval()
        return torch.no_grad()(lambda inputs: list(module(*inputs.values())))
    if format == "openvino":
        require("openvino")
        graph = openvino_core().read_model(content, weights)
        compiled = openvino_core().compile_model(graph, "CPU", cpu_settings("float32"))

        def run_compiled(inputs: dict[str, Tensor]) -> list[Tensor]:
            found = compiled({name: tensor.numpy() for name, tensor in inputs.items()})
            outputs = [torch.from_numpy(found[i].copy()) for i in range(len(compiled.outputs))]
            if not all(tensor.numel() for tensor in (*inputs.values(), *outputs)):
                _KEPT.append(compiled)
            return outputs

        return run_compiled
    onnxruntime = require("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors, but no warnings of shapes that it could not infer
    session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])

    def run_session(inputs: dict[str, Tensor]) -> list[Tensor]:
        arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
        return [torch.from_numpy(array) for array in session.run(None, arrays)]

    return run_session


def random_proposals(count: int, height: int, width: int) -> Tensor:
    """Draw (count, 4) boxes x0 y0 x1 y1 of all sizes, the same for all images of one size."""
    generator = torch.Generator().manual_seed(height * width)
    sides = torch.tensor([width, height])
    size = sides * 2 ** (-4 * torch.rand(count, 2, generator=generator))
    corner = torch.rand(count, 2, generator=generator) * (sides - size)
    return torch.cat([corner, corner + size], dim=1)


def read_check_images(cfg: CfgNode, files: Sequence[str] = ()) -> list[Tensor]:
    """Read the images to compare on, by default the first of the test set, each in three sizes.

    Returns:
        (C, H, W) float32 each, 0 to 255, with the channels of ``INPUT.FORMAT``.

    Raises:
        UserError: for a file that is no image, or if the test set does not exist.
    """
    images = []
    for file in files or _test_files(cfg):
        if is_config_key(file) and not os.path.exists(file):
            raise UserError(
                f"image {file} does not exist; config overrides come last, after another option: "
                f"--images FILE --output FILE {file} <value>"
            )
        fault, _ = look_at(file)
        if fault is not None:
            raise UserError(f"image {file} {fault}; name another by --images")
        pixels = read_image(file, cfg.INPUT.FORMAT)
        shortest = cfg.INPUT.MIN_SIZE_TEST or min(pixels.shape[:2])
        sides = {"INPUT.MIN_SIZE_TEST": shortest, "INPUT.MAX_SIZE_TEST": cfg.INPUT.MAX_SIZE_TEST}
        for scale in SCALES:
            scaled = changed(cfg, {key: round(scale * side) for key, side in sides.items()})
            images.append(network_input(pixels, build_test_resize(scaled)))
    return images


def _test_files(cfg: CfgNode) -> list[str]:
    try:
        check_names(cfg.DATASETS.TEST[:1], "DATASETS.TEST")
        records = DatasetCatalog.get(cfg.DATASETS.TEST[0])
    except (UserError, OSError) as error:
        raise UserError(f"{error}; or name images by --images") from error
    if not records:
        raise UserError("DATASETS.TEST has no image to check the export on; name some by --images")
    return [os.fspath(record["file_name"]) for record in records[:NUM_IMAGES]]


# --- the report


def report_parity(
    path: str | os.PathLike, model: str, format: str, parity: Parity, **more: Any
) -> None:
    """Add a model's parity to a JSON file; replace an earlier one of the same model and format.

    Args:
        path: the file; it need not exist.
        model, format: the model's name in the table, and the format of the exported file.
        parity: the exported file's.
        more: further keys, such as those of :func:`fpn_d2.export.judge_int8`.

    Raises:
        UserError: see :func:`check_report`; or if the file cannot be written.
    """
    rows = check_report(path)
    rows = [row for row in rows if (row["model"], row["format"]) != (model, format)]
    row = {
        "model": model,
        "format": format,
        "images": len(parity.sizes),
        "sizes": len(set(parity.sizes)),
        "boxes": max(parity.detections, parity.found),
        "matched_share": round(parity.matched_share, 5),
        "tied": parity.tied,
        "max_pixels": float(f"{parity.max_pixels:.1e}"),
        "max_score": float(f"{parity.max_score:.1e}"),
        "head_max_error": float(f"{parity.head_max_error:.1e}"),
        **more,
    }
    content = {
        "exports": sorted([*rows, row], key=lambda row: (row["model"], row["format"])),
        "commit": git_commit(),
        "machine": describe_machine(),
        "versions": describe_versions()
        | installed_versions("onnx", "onnxruntime", "openvino", "nncf"),
    }
    with explain_disk_errors(os.fspath(path), "name another --json"):
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        write_json(path, content)


def check_report(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Read the rows of :func:`report_parity`; none if the file does not exist.

    Raises:
        UserError: if the file is not such a report.
    """
    path = os.fspath(path)
    check_targets(path, overwrite=True)
    content = read_json(path) if os.path.isfile(path) else {"exports": []}
    rows = content.get("exports") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(map(_is_row, rows)):
        raise UserError(f"{path} is no report of exports, and is kept; name another by --json")
    return rows


def _is_row(row: Any) -> bool:
    return isinstance(row, dict) and {"model", "format"} <= row.keys()


def export_table(rows: Sequence[dict[str, Any]]) -> str:
    """Write the rows of :func:`report_parity` as a table in Markdown."""
    table = [
        {
            "model": row["model"],
            "format": row["format"],
            "images (sizes)": f"{row['images']} ({row['sizes']})",
            "boxes": row["boxes"],
            "matched %": f"{100 * row['matched_share']:.2f}",
            "tied": row["tied"],
            "largest difference, px": f"{row['max_pixels']:.0e}",
            "of scores": f"{row['max_score']:.0e}",
            "of head outputs": f"{row['head_max_error']:.0e}",
        }
        for row in rows
    ]
    return tabulate(table, "keys", tablefmt="github", disable_numparse=True) + "\n"
