"""The accuracy of exported files on a validation set: an int8 file beside the float32 one."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ..data import build_test_loader, check_names
from ..evaluation import ResultsWritingCOCOEvaluator
from ..evaluation.evaluators import quiet_pycocotools
from ..inference.quantization import calibration_images
from ..utils.errors import UserError
from ..utils.progress import told
from .exporter import Exported
from .parity import load_exported

# What is compared, in percent: a detector's AP, or an RPN's recall.
_METRICS = (("bbox", "AP"), ("box_proposals", "AR@1000"))


def calibration_inputs(cfg: CfgNode) -> list[dict[str, Tensor]]:
    """Read what an int8 file is calibrated on, as inputs of the file.

    Raises:
        UserError: see :func:`calibration_images`; and if there is no image.
    """
    inputs = [_inputs(record) for record in calibration_images(cfg)]
    # NNCF reads ranges off every input, and an image without proposals has none.
    inputs = [one for one in inputs if all(map(len, one.values()))]
    if not inputs:
        raise UserError(
            "int8 is calibrated on images (with proposals, if the model takes them), and "
            "DATASETS.TRAIN has none; name others"
        )
    return inputs


def judge_int8(cfg: CfgNode, float32: Exported, int8: Exported, most: int) -> dict[str, Any]:
    """Evaluate both files on the first of ``DATASETS.TEST``.

    Args:
        cfg: the detector's config.
        float32, int8: from :func:`fpn_d2.export.export_model`.
        most: the maximum number of images to read, from the first on.

    Returns:
        ``{"metric", "float32", "int8", "evaluated_images"}``, for "AP" or "AR@1000" in percent.

    Raises:
        UserError: if the data set cannot be read or is LVIS's, or its images have no object to
            find.
    """
    check_names(cfg.DATASETS.TEST[:1], "DATASETS.TEST")
    if MetadataCatalog.get(cfg.DATASETS.TEST[0]).get("evaluator_type") == "lvis":
        raise UserError(
            f"int8 is judged by COCO's metrics, and {cfg.DATASETS.TEST[0]} is LVIS's; name another "
            "set in DATASETS.TEST"
        )
    found: dict[str, Any] = {}
    for name, exported in (("float32", float32), ("int8", int8)):
        run = load_exported(exported.content, exported.format, exported.weights)
        metric, found[name], found["evaluated_images"] = _evaluate(cfg, run, most)
    return {"metric": metric, **found}


def _evaluate(cfg: CfgNode, run: Callable, most: int) -> tuple[str, float, int]:
    name = cfg.DATASETS.TEST[0]
    evaluator = ResultsWritingCOCOEvaluator(name, output_dir=None)
    evaluator.reset()
    image_ids = []
    loader = build_test_loader(cfg, name)
    images = itertools.islice(loader, most)
    for inputs in told("judging", images, min(most, len(loader))):
        (record,) = inputs
        evaluator.process(inputs, [_outputs(run(_inputs(record)), record)])
        image_ids.append(record["image_id"])
    with quiet_pycocotools():
        results = evaluator.evaluate(image_ids)
    truth = evaluator._coco_api
    objects = truth.loadAnns(truth.getAnnIds(imgIds=image_ids)) if image_ids else []
    if all(one.get("iscrowd") for one in objects):  # crowds do not count as objects to find
        raise UserError(
            f"nothing can be judged on the first {len(image_ids)} images of {name}, which have no "
            "objects; raise --validation-images, or name another set in DATASETS.TEST"
        )
    task, metric = next(one for one in _METRICS if one[0] in results)
    value = float(results[task][metric])  # NaN where nothing was found
    return metric, 0.0 if math.isnan(value) else round(value, 2), len(image_ids)


def _inputs(record: dict[str, Any]) -> dict[str, Tensor]:
    inputs = {"image": torch.as_tensor(record["image"]).float()}
    if "proposals" in record:
        inputs["proposals"] = record["proposals"].proposal_boxes.tensor
    return inputs


def _outputs(found: list[Tensor], record: dict[str, Any]) -> dict[str, Instances]:
    """Turn a file's outputs for a record into what the model itself would return."""
    size, is_rpn = tuple(record["image"].shape[-2:]), len(found) == 2
    if is_rpn:
        fields = {"proposal_boxes": Boxes(found[0]), "objectness_logits": found[1]}
    else:
        fields = {"pred_boxes": Boxes(found[0]), "scores": found[1], "pred_classes": found[2]}
    instances = Instances(size, **fields)
    instances = detector_postprocess(instances, record["height"], record["width"])
    return {"proposals" if is_rpn else "instances": instances}
