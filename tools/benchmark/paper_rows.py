"""Every row of Tables 1 to 3, and RetinaNet, beside the same network as Detectron2 runs it.

The rows are the quick ones. Detectron2 has no neck without a top-down path, without laterals or
of P2 alone: there the baseline is this package's neck, with all else Detectron2's own.
"""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances

from fpn_d2.config import load_config
from fpn_d2.engine import Trainer
from fpn_d2.inference import prepare_model
from fpn_d2.utils.modules import settle_norms

from .contest import Comparison, Comparisons, make_row
from .detectors import call_without_grad, training_step
from .differences import feature_error, loss_error
from .networks import CONFIGS, STOCK_SIZE, image_record, random_boxes, stock_model

FOLDERS = ("RPN", "Fast-RCNN", "Faster-RCNN", "RetinaNet")


def benchmark_rows(
    device: str, folders: Sequence[str] = FOLDERS, size: int = 320, proposals: int = 1000
) -> Comparisons:
    """Compare each row's inference on one image and its training step of two, in float32.

    ``variant`` names the config. ``max_error`` is that of the backbone's features in inference, and
    :func:`benchmark.differences.loss_error` in training. The rows' configs are in ``folders`` below
    ``configs/quick``, the images are squares with sides of ``size`` pixels, and a Fast R-CNN is
    given ``proposals`` boxes for each.
    """
    rows = []
    paths = [p for f in folders for p in sorted((CONFIGS / "quick" / f).glob("*.yaml"))]
    for path in paths:
        # The same network as another row, or one that stock Detectron2 does not have
        if path.stem.endswith(("_2x", "_fp32", "_heads")):
            continue
        cfg = load_config(path, ["MODEL.DEVICE", device, "MODEL.WEIGHTS", "", *STOCK_SIZE])
        test, *train = (_record(cfg, seed, size, proposals) for seed in range(3))
        torch.manual_seed(0)
        ours = Trainer.build_model(cfg).eval()
        settle_norms(ours, call_without_grad(ours, [test]))
        stock = stock_model(cfg, ours)
        ready = prepare_model(ours)
        models = {"ours": ready, "detectron2": stock}
        calls = {name: call_without_grad(model, [test]) for name, model in models.items()}
        timings = yield Comparison(calls, kept=["ours"])
        if timings:
            error = feature_error(ready.model, stock, *calls.values())
            rows.append(make_row("rows", f"{path.stem} inference", timings, error))
        models = {"ours": ours.train(), "detectron2": stock.train()}
        calls = {name: training_step(cfg, model, train, None) for name, model in models.items()}
        timings = yield Comparison(calls, kept=["ours"])
        if timings:
            error = loss_error(ours, None, stock, train)
            rows.append(make_row("rows", f"{path.stem} training", timings, error))
    return rows


def _record(cfg: CfgNode, seed: int, side: int, proposals: int) -> dict[str, Any]:
    size = (side, side)
    record = image_record(seed, size, objects=8)
    if cfg.MODEL.LOAD_PROPOSALS:
        generator = torch.Generator().manual_seed(seed)
        record["proposals"] = Instances(
            size,
            proposal_boxes=Boxes(random_boxes(proposals, size, generator)),
            objectness_logits=torch.randn(proposals, generator=generator),
        )
    return record
