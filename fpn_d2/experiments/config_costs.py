"""The configs that come with the package: their rows in the tables, and what a network costs."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.export import TracingAdapter
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.analysis import FlopCountAnalysis
from fvcore.nn import ActivationCountAnalysis, flop_count_table, parameter_count_table
from torch import nn

from ..config import changed, load_config
from ..config_checks import check_registered
from ..utils.errors import UserError
from ..utils.modules import without_memory
from .tables import Tables

TASKS = ("flop", "activation", "parameter", "structure")

_PARTS = ("models", "tasks")  # folders of mix-ins, which are no networks
_IMAGE = (480, 640)  # height and width of most images of COCO, before they are resized
_MAIN = ("AP", "AR1k", "AR")  # shown for a row: the first of these that the paper has


def shipped_configs(tables: Tables, chosen: Sequence[str] = ()) -> list[str]:
    """List the configs of networks below the folder of the tables, relative to it.

    With words ``chosen``, list only the configs whose path contains one of them.

    Raises:
        UserError: if there is no config, or a word is in no config's path.
    """
    folder = Path(tables.path).parent
    names = []
    for path in folder.rglob("*.yaml"):
        below = path.relative_to(folder)
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.constructor.ConstructorError:
            continue  # tags of another program
        # a file that builds on no other is a part of others
        if below.parts[0] not in _PARTS and isinstance(content, dict) and "_BASE_" in content:
            names.append(below.as_posix())
    if not names:
        raise UserError(f"there is no config below {folder}; name the --tables beside your configs")
    for word in chosen:
        if not any(word in name for name in names):
            raise UserError(
                f"there is no config with {word} in its path below {folder}; give a part of one, "
                "such as Faster-RCNN or R_101"
            )
    return sorted(name for name in names if not chosen or any(word in name for word in chosen))


def rows_of_configs(tables: Tables) -> dict[str, list[dict[str, Any]]]:
    """Find the rows that each config trains, and the paper's numbers for those of its own scale."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for table in tables.tables.values():
        for name, row in table.rows.items():
            for scale, config in row.configs.items():
                about = {"table": table.table, "row": name, "name": row.name, "scale": scale}
                about["paper"] = dict(row.paper) if scale == "paper" else {}
                rows.setdefault(config, []).append(about)
    return rows


def list_configs(
    tables: Tables, chosen: Sequence[str] = (), *, flops: bool = False
) -> Iterator[dict[str, Any]]:
    """Describe each config, one after the other.

    Args:
        tables, chosen: see :func:`shipped_configs`.
        flops: whether to run each network once, which takes seconds for each.

    Yields:
        ``config``, ``rows`` (see :func:`rows_of_configs`), ``parameters``, ``trainable`` (those
        that a training changes), ``weights_mb`` (the weights and norms' statistics in float32);
        and with ``flops`` what :func:`count_costs` returns.
    """
    rows = rows_of_configs(tables)
    for name in shipped_configs(tables, chosen):
        cfg = load_config(tables.config_file(name), ["MODEL.DEVICE", "cpu"])
        entry = {"config": name, "rows": rows.get(name, []), **count_parameters(cfg)}
        yield entry | (count_costs(cfg) if flops else {})


def count_parameters(cfg: CfgNode) -> dict[str, float]:
    """Count a network's weights without allocating them; see :func:`list_configs`."""
    check_registered(cfg)
    model = without_memory(lambda: build_model(changed(cfg, {"MODEL.DEVICE": "meta"})))
    parameters = list(model.parameters())
    stored = [*parameters, *model.buffers()]
    return {
        "parameters": sum(p.numel() for p in parameters),
        "trainable": sum(p.numel() for p in parameters if p.requires_grad),
        "weights_mb": round(sum(t.numel() * t.element_size() for t in stored) / 2**20, 1),
    }


def count_costs(cfg: CfgNode) -> dict[str, Any]:
    """Run a network with random weights on one image of noise, and count its costs with fvcore.

    Returns:
        ``input``, the height and width of the network input, a 480 x 640 image as the config
        resizes it; ``gflops``, 10^9 multiply-adds of convolutions and matrix products, as fvcore
        and Detectron2 count them; ``activations_mb``, the outputs of these in float32, most of
        which a training keeps for each image. Norms and resizing add a little; NMS and RoI pooling
        are not counted.
    """
    check_registered(cfg)
    model, inputs = build_model(cfg).eval(), noise_input(cfg)
    with torch.no_grad():
        gflops = _flops(model, inputs).total() / 1e9
        activations = _activations(model, inputs).total()
    return {
        "input": list(inputs[0]["image"].shape[1:]),
        "gflops": round(gflops, 1),
        "activations_mb": round(activations * 4 / 2**20),
    }


def analyze_model(
    model: nn.Module, tasks: Sequence[str], inputs: Iterable[list[dict[str, Any]]]
) -> Iterator[str]:
    """Do what Detectron2's ``tools/analyze_model.py`` does.

    Args:
        model: the network.
        tasks: some of :data:`TASKS`.
        inputs: one or several inputs of one image each, for ``flop`` and ``activation``.

    Yields:
        a table or a text for each task.
    """
    counters = {"flop": (_flops, "GFLOPs"), "activation": (_activations, "million activations")}
    model.eval()
    asked = [counters[task] for task in tasks if task in counters]
    totals: dict[str, list[float]] = {unit: [] for _, unit in asked}
    table = ""
    with torch.no_grad():
        for one in inputs if asked else ():
            for count, unit in asked:
                counted = count(model, one)
                scale = 1e9 if unit == "GFLOPs" else 1e6
                totals[unit].append(counted.total() / scale)
                if count is _flops:
                    table = flop_count_table(counted, max_depth=3)
    if table:
        yield f"The last image, as fvcore counts (flop: a multiply and an add):\n{table}"
    for unit, values in totals.items():
        mean, deviation = float(np.mean(values)), float(np.std(values))
        yield f"{mean:.2f} +- {deviation:.2f} {unit} for an image, over {len(values)}"
    if "parameter" in tasks:
        yield f"Parameters:\n{parameter_count_table(model, max_depth=5)}"
    if "structure" in tasks:
        yield f"Structure:\n{model}"


def _flops(model: nn.Module, inputs: list[dict[str, Any]]) -> FlopCountAnalysis:
    return _quiet(FlopCountAnalysis(model, inputs))


def _activations(model: nn.Module, inputs: list[dict[str, Any]]) -> ActivationCountAnalysis:
    adapter = TracingAdapter(model, inputs, allow_non_tensor=True)
    return _quiet(ActivationCountAnalysis(adapter, adapter.flattened_inputs))


def _quiet(analysis: Any) -> Any:
    """Keep fvcore from naming each operator that it leaves out, such as a norm or a sort."""
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return analysis.tracer_warnings("none")


def noise_input(cfg: CfgNode) -> list[dict[str, Any]]:
    """Make the input of a network from an image of noise, with proposals if it reads them."""
    generator = torch.Generator().manual_seed(0)
    size = _IMAGE
    if cfg.INPUT.MIN_SIZE_TEST:
        keys = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
        size = ResizeShortestEdge.get_output_shape(*_IMAGE, *keys)
    channels = len(cfg.MODEL.PIXEL_MEAN)
    record: dict[str, Any] = {"image": 255 * torch.rand(channels, *size, generator=generator)}
    if cfg.MODEL.LOAD_PROPOSALS:
        number = cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST
        corners = torch.rand(number, 2, 2, generator=generator).sort(dim=1).values
        boxes = (corners * torch.tensor([size[1], size[0]])).flatten(1)
        logits = torch.zeros(number)
        record["proposals"] = Instances(size, proposal_boxes=Boxes(boxes), objectness_logits=logits)
    return [record]


def config_table(entries: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the lines of a table of :func:`list_configs`, as texts."""
    costs = "gflops" in entries[0]
    header = ["config", "row", "paper", "parameters", "weights"]
    header += ["input", "GFLOPs", "activations"] if costs else []
    lines = []
    for entry in entries:
        rows = [f"{row['table']} ({row['row']})" for row in entry["rows"]]
        paper = {
            f"{metric} {row['paper'][metric]:g}": None
            for row in entry["rows"]
            for metric in [m for m in _MAIN if m in row["paper"]][:1]
        }
        line = [os.path.splitext(entry["config"])[0], ", ".join(rows), ", ".join(paper)]
        line += [f"{entry['parameters'] / 1e6:.1f} M", f"{entry['weights_mb']:.0f} MB"]
        if costs:
            line += ["{} x {}".format(*entry["input"]), f"{entry['gflops']:.1f}"]
            line += [f"{entry['activations_mb']} MB"]
        lines.append(line)
    return header, lines
