"""Post-training quantization to int8 by NNCF, and the file that keeps its result.

Convolutions and matrix products compute with 8-bit weights and activations, whose ranges are taken
from images of the training set. The first layer and layers that rank boxes keep floating point.
"""

import contextlib
import hashlib
import io
import itertools
import json
import logging
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import Tensor, nn

from ..config import changed
from ..data.build import load_train_dataset
from ..data.dataset_mapper import build_test_mapper, map_or_refuse
from ..data.datasets.folders import make_ready
from ..utils.errors import UserError
from ..utils.files import cache_folder, replace_file
from ..utils.progress import told
from ..utils.provenance import describe_versions, installed_versions
from .openvino_parts import Part, convert, openvino_core, quietly, record_inputs, require

logger = logging.getLogger(__name__)

_PRODUCTS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul")


def quantize(
    graph: Any, samples: Sequence[Any], *, keep_first: bool, last_outputs: Sequence[int]
) -> Any:
    """Return a quantized copy of an OpenVINO model.

    Args:
        graph: from :func:`fpn_d2.inference.openvino_parts.convert`, or a whole detector's.
        samples: at least one input of the graph: each an array or a tensor, or a list or a dict of
            them; all are converted to float32.
        keep_first: whether the products that read the first input stay in floating point.
        last_outputs: the products behind these outputs stay in floating point.

    Raises:
        UserError: if NNCF is not installed.
    """
    nncf = require("nncf")
    kept = _nearest_products((graph.outputs[i].get_node() for i in last_outputs), _sources)
    if keep_first:
        kept |= _nearest_products(graph.get_parameters()[:1], _readers)
    nncf.set_log_level(logging.ERROR)
    # NNCF reads all samples twice, and draws bars on stdout.
    with (
        quietly(),
        contextlib.redirect_stdout(io.StringIO()),
        told("quantizing", total=2 * len(samples)) as bar,
    ):

        def counted(sample: Any) -> Any:
            bar.update()
            return _as_float32(sample)

        return nncf.quantize(
            graph,
            nncf.Dataset(samples, counted),
            subset_size=len(samples),
            ignored_scope=nncf.IgnoredScope(names=sorted(kept)),
        )


def _as_float32(sample: Any) -> Any:
    if isinstance(sample, dict):
        return {name: _as_float32(value) for name, value in sample.items()}
    return np.asarray(sample, dtype=np.float32)


def _nearest_products(nodes: Iterable[Any], following: Callable[[Any], list[Any]]) -> set[str]:
    """Return the names of the products reached from nodes without passing another product.

    The search stops at sizes: anchors know only a map's size, and boxes are clipped to the image's.
    """
    found, seen, ahead = set(), set(), list(nodes)
    while ahead:
        node = ahead.pop()
        name = node.get_friendly_name()
        if node.get_type_name() in _PRODUCTS:
            found.add(name)
        elif name not in seen and node.get_type_name() != "ShapeOf":
            seen.add(name)
            ahead += following(node)
    return found


def _readers(node: Any) -> list[Any]:
    return [target.get_node() for port in node.outputs() for target in port.get_target_inputs()]


def _sources(node: Any) -> list[Any]:
    return [value.get_node() for value in node.input_values()]


def quantize_parts(
    model: nn.Module, examples: Mapping[Part, Tensor], records: Iterable[dict[str, Any]]
) -> dict[str, Any]:
    """Quantize the parts of a detector.

    Args:
        model, examples: see :func:`fpn_d2.inference.openvino_parts.example_inputs`.
        records: the calibration images, as models of Detectron2 take them.

    Returns:
        an OpenVINO model for each part, by the part's name.

    Raises:
        UserError: if there is no image, a package is missing, or OpenVINO cannot take a part.
    """
    require("nncf")  # before minutes of work
    inputs = record_inputs(model, examples, records)
    if not inputs["backbone"]:
        raise UserError(
            "INFERENCE.PRECISION int8 is calibrated on images, and there is none; name a training "
            "set in DATASETS.TRAIN, or give prepare_model calibration images"
        )
    graphs = {}
    for part, example in examples.items():
        samples = [x for x in inputs[part.name] if len(x)]
        graph = convert(part, example)
        if samples:  # a mask head has none where nothing was detected, and stays as it is
            graph = quantize_part(part, graph, samples)
        graphs[part.name] = graph
    return graphs


def quantize_part(part: Part, graph: Any, samples: Sequence[Tensor]) -> Any:
    """:func:`quantize` a part's graph, except a backbone's first layer and layers ranking boxes."""
    last = range(len(graph.outputs) - part.num_last, len(graph.outputs))
    return quantize(graph, samples, keep_first=part.name == "backbone", last_outputs=last)


def calibration_images(cfg: CfgNode) -> Iterator[dict[str, Any]]:
    """Yield ``INFERENCE.CALIBRATION_IMAGES`` images of ``DATASETS.TRAIN``, evenly spaced.

    They are read as test images are.

    Raises:
        UserError: if there are none, or one cannot be read.
    """
    count = cfg.INFERENCE.CALIBRATION_IMAGES
    try:
        dataset = load_train_dataset(cfg)
    except UserError as error:
        raise UserError(
            f"INFERENCE.PRECISION int8 is calibrated on images of DATASETS.TRAIN: {error}"
        ) from error
    mapper = build_test_mapper(cfg)
    step = max(1, len(dataset) // count) if hasattr(dataset, "__len__") else 1
    chosen = itertools.islice(dataset, 0, step * count, step)
    for record in told("calibrating", chosen, count):
        yield map_or_refuse(mapper, record)


def _describe_calibration(cfg: CfgNode) -> dict[str, Any]:
    """Describe what determines the calibration images, without reading them."""
    for name in cfg.DATASETS.TRAIN:  # else the stamp would be that of an older conversion
        with contextlib.suppress(UserError):  # told when the images are read
            make_ready(name)
    files = [MetadataCatalog.get(name).get("json_file") for name in cfg.DATASETS.TRAIN]
    files += cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else []
    return {
        "count": cfg.INFERENCE.CALIBRATION_IMAGES,
        "empty": cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        "proposals": cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST,
        "sets": list(cfg.DATASETS.TRAIN),
        "files": [_stamp(file) for file in files if file],
        "input": cfg.INPUT.dump(),
    }


def _stamp(file: str) -> tuple[str, int, int]:
    if not os.path.isfile(file):
        return file, 0, 0
    status = os.stat(file)
    return file, status.st_size, status.st_mtime_ns


# --- the file of quantized parts


def cache_paths(cfg: CfgNode, model: nn.Module) -> list[str]:
    """Return the paths where a model's quantized parts may be kept.

    The file name stands for the weights, the network, the calibration images and the package
    versions: a file of another model is never taken.

    Args:
        cfg: the merged config, which determines the calibration images.
        model: the detector, with its weights.

    Returns:
        the path beside the weights, if these are a file, and the one in the user's cache folder.
    """
    versions = installed_versions("openvino", "nncf")
    weights = hashlib.sha256()
    for name, value in model.state_dict().items():
        weights.update(name.encode())
        weights.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    about = [
        [type(module).__qualname__ for module in model.modules()],
        changed(cfg, {"MODEL.WEIGHTS": ""}).MODEL.dump(),
        cfg.TEST.DETECTIONS_PER_IMAGE,  # so many masks are computed per image
        _describe_calibration(cfg),
        describe_versions(),
    ]
    config = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
    path = cfg.MODEL.WEIGHTS.split("?")[0]
    made_by = "-".join(f"{name}{version}" for name, version in versions.items())
    name = f"{Path(path).stem or 'weights'}.int8-{weights.hexdigest()[:12]}"
    name = f"{name}-{config.hexdigest()[:12]}-{made_by}.zip"
    # Nothing can be kept beside a URL or a name of the model zoo.
    folders = [os.path.dirname(path)] if os.path.isfile(path) else []
    return [os.path.join(folder, name) for folder in (*folders, cache_folder())]


def read_cache(paths: Iterable[str | os.PathLike]) -> dict[str, Any] | None:
    """Read the first of these files that is not damaged; return None if there is none."""
    for path in filter(os.path.isfile, paths):
        try:
            with zipfile.ZipFile(path) as file:
                parts = [name.removesuffix(".xml") for name in file.namelist()[::2]]
                read = openvino_core().read_model
                return {p: read(file.read(f"{p}.xml"), file.read(f"{p}.bin")) for p in parts}
        except (OSError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            logger.warning("%s is damaged (%s) and is made anew", path, reason)
    return None


def write_cache(graphs: Mapping[str, Any], paths: Iterable[str | os.PathLike]) -> None:
    """Write quantized parts into the first of these files that can be written.

    The log names that file, and those that could not be written.
    """
    for path in map(os.fspath, paths):
        try:
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            with replace_file(path, "wb") as opened, zipfile.ZipFile(opened, "w") as file:
                for part, graph in graphs.items():
                    for kind, content in zip(("xml", "bin"), graph_bytes(graph), strict=True):
                        file.writestr(f"{part}.{kind}", content)
        except OSError as error:
            reason = error.strerror or error
            logger.warning("the int8 model cannot be kept as %s (%s)", path, reason)
        else:
            logger.info("the int8 model is kept as %s", path)
            return


def graph_bytes(graph: Any) -> tuple[bytes, bytes]:
    """Return an OpenVINO model's two files, ``.xml`` and ``.bin``, with weights as they are."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        require("openvino").save_model(graph, path, compress_to_fp16=False)
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()
