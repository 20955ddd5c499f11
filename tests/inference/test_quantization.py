"""int8: what is quantized and what is not, and the file that keeps it."""

import importlib.util
import logging
import os
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data.datasets import register_coco_instances
from random_detectors import detect, image_of, random_detector

from fpn_d2 import UserError
from fpn_d2.checkpoint import SafeCheckpointer
from fpn_d2.config import changed
from fpn_d2.engine import Trainer
from fpn_d2.engine.trainer import _prepared
from fpn_d2.inference import Predictor, prepare_as_configured, prepare_model, prepared, quantization
from fpn_d2.inference.quantization import cache_paths

pytest.importorskip("openvino")
ROW = "quick/Faster-RCNN/faster_rcnn_R_18_C5"


def needs_nncf(test):
    """Mark a test that quantizes; `make test-slow` installs NNCF."""
    missing = not importlib.util.find_spec("nncf")
    return pytest.mark.slow(pytest.mark.skipif(missing, reason="NNCF is not installed")(test))


@pytest.fixture(scope="module")
def model(row_config):
    return random_detector(row_config(ROW))


@pytest.fixture
def cfg(row_config, model, wide_opts, tmp_path, monkeypatch):
    """The config of an int8 detector whose weights are in a folder of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "weights").mkdir()
    SafeCheckpointer(model, str(tmp_path / "weights")).save("model")
    return row_config(
        ROW,
        *wide_opts,
        *("MODEL.WEIGHTS", tmp_path / "weights" / "model.pth"),
        *("INFERENCE.ENGINE", "openvino", "INFERENCE.PRECISION", "int8"),
        *("INFERENCE.CALIBRATION_IMAGES", 2),
    )


def test_the_calibration_images_are_evenly_spaced(cfg):
    every = [record["image_id"] for record in quantization.load_train_dataset(cfg)]
    few = changed(cfg, {"INFERENCE.CALIBRATION_IMAGES": 3})
    found = [record["image_id"] for record in quantization.calibration_images(few)]
    assert found == every[: len(every) // 3 * 3 : len(every) // 3] != every[:3]


def test_a_graphs_weights_are_written_in_full_precision():
    openvino = pytest.importorskip("openvino")
    x, third = openvino.opset13.parameter([1, 64]), np.full((1, 64), 1 / 3, np.float32)
    product = openvino.opset13.multiply(x, openvino.opset13.constant(third))
    _, weights = quantization.graph_bytes(openvino.Model([product], [x]))
    assert third.tobytes() in weights


def records(count):
    return [{"image": image_of(96 + i, 128), "height": 96 + i, "width": 128} for i in range(count)]


def kind_of_input(node):
    node = node.input_value(0).get_node()
    return kind_of_input(node) if node.get_type_name() == "MaxPool" else node.get_type_name()


@needs_nncf
def test_first_and_last_layers_stay_and_the_scores_are_near(model, monkeypatch):
    graphs = {}
    real = quantization.quantize
    monkeypatch.setattr(
        quantization,
        "quantize",
        lambda graph, samples, **choices: graphs.setdefault(
            len(graphs), real(graph, samples, **choices)
        ),
    )
    ready = prepare_model(model, engine="openvino", precision="int8", calibration=records(2))
    assert list(graphs) == [0, 1]  # the backbone and the box head
    read_floats = {
        node.get_friendly_name()
        for node in graphs[0].get_ordered_ops()
        if node.get_type_name() == "Convolution" and kind_of_input(node) != "FakeQuantize"
    }
    wanted = ("stem.conv1", "objectness_logits", "anchor_deltas")
    assert len(read_floats) == len(wanted)
    assert all(any(name in found for found in read_floats) for name in wanted)
    expected, found = (detect(m, image_of(96, 128)) for m in (model, ready))
    assert (found[1][:5] - expected[1][:5]).abs().max() < 0.1
    assert not torch.equal(found[1][:5], expected[1][:5])


@needs_nncf
@pytest.mark.parametrize(
    "row, bound",  # of logits, and of scores from 0 to 1
    [("RPN/rpn_R_18_FPN", 1.0), ("RPN/rpn_R_18_P2", 1.0), ("RetinaNet/retinanet_R_18_FPN", 0.1)],
)
def test_the_scores_are_near_at_every_size(row_config, narrow_words, row, bound):
    model = random_detector(row_config(f"quick/{row}", *narrow_words))
    ready = prepare_model(model, engine="openvino", precision="int8", calibration=records(3))
    for size in ((65, 90), (190, 70), (128, 128), (96, 130)):  # the first two have their own graphs
        expected, found = (detect(m, image_of(*size))[1] for m in (model, ready))
        assert len(found) > 20
        assert (found[:20] - expected[:20]).abs().max() < bound, size


def test_int8_without_images_or_nncf_is_a_sentence(model, cfg, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "nncf", None)
        with pytest.raises(UserError, match="nncf is not installed; python -m pip install"):
            prepare_as_configured(cfg, model)
    monkeypatch.setitem(sys.modules, "nncf", types.ModuleType("nncf"))
    with pytest.raises(UserError, match="int8 is calibrated on images, and there is none"):
        prepare_model(model, engine="openvino", precision="int8")
    none = changed(cfg, {"DATASETS.TRAIN": ()})
    with pytest.raises(UserError, match=r"calibrated on images of DATASETS.TRAIN: .*no data set"):
        prepare_as_configured(none, model)
    auto = changed(none, {"INFERENCE.ENGINE": "auto"})
    assert prepare_as_configured(auto, model).engine == "torch"


# --- the file


def weights_in(path):
    """Return the sizes of the parts' weights; graphs differ in OpenVINO's operation numbers."""
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        return {i.filename: i.file_size for i in file.infolist() if i.filename.endswith(".bin")}


@needs_nncf
def test_the_second_run_reads_the_file_that_the_first_one_left(cfg, model, monkeypatch, caplog):
    first = Predictor(cfg).model
    kept = Path(cache_paths(cfg, model)[0])
    folder = Path(cfg.MODEL.WEIGHTS).parent
    assert [kept] == [path for path in folder.iterdir() if path.suffix == ".zip"]
    assert kept.name.startswith("model.int8-")
    monkeypatch.setattr(quantization, "load_train_dataset", None)  # no image is read again
    second = prepare_as_configured(cfg, model)
    expected, found = (detect(m, image_of(70, 90)) for m in (first, second))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    # A damaged file is reported and made anew.
    monkeypatch.undo()
    content, weights = kept.read_bytes(), weights_in(kept)
    kept.write_bytes(content[: len(content) // 2])
    prepare_as_configured(cfg, model)
    assert f"{kept} is damaged" in caplog.text
    assert weights_in(kept) == weights


def test_its_name_is_of_weights_config_images_and_versions(cfg, model, monkeypatch, tmp_path):
    names = {os.path.basename(path) for path in cache_paths(cfg, model)}
    assert len(names) == 1
    moved = changed(cfg, {"MODEL.WEIGHTS": str(tmp_path / "elsewhere" / "model.pth")})
    names |= {os.path.basename(path) for path in cache_paths(moved, model)}
    named = changed(cfg, {"MODEL.WEIGHTS": f"{cfg.MODEL.WEIGHTS}?matching_heuristics=True"})
    assert cache_paths(named, model) == cache_paths(cfg, model)
    assert len(names) == 1  # a copy of the weights elsewhere is the same model
    others = [
        changed(cfg, {"INPUT.MIN_SIZE_TEST": 96}),
        changed(cfg, {"INFERENCE.CALIBRATION_IMAGES": 3}),
        changed(cfg, {"MODEL.PIXEL_MEAN": [1.0, 2.0, 3.0]}),
        changed(cfg, {"DATALOADER.FILTER_EMPTY_ANNOTATIONS": False}),
        changed(cfg, {"DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": 7}),
        changed(cfg, {"TEST.DETECTIONS_PER_IMAGE": 7}),
        *(changed(cfg, {"DATASETS.TRAIN": (name,)}) for name in ("own_one", "own_two")),
        *(
            changed(cfg, {"MODEL.LOAD_PROPOSALS": True, "DATASETS.PROPOSAL_FILES_TRAIN": (file,)})
            for file in ("one.pkl", "two.pkl")
        ),
    ]
    names |= {os.path.basename(cache_paths(other, model)[0]) for other in others}
    assert len(names) == 11
    weight = model.roi_heads.box_head.fc1.bias
    before = weight[0].item()
    weight.data[0] += 1e-6
    names.add(os.path.basename(cache_paths(cfg, model)[0]))
    weight.data[0] = before
    assert len(names) == 12
    versions = {"openvino": "1.0", "nncf": "2.0"}
    monkeypatch.setattr(quantization, "installed_versions", lambda *packages: versions)
    name = os.path.basename(cache_paths(cfg, model)[0])
    assert name.endswith("-openvino1.0-nncf2.0.zip")
    names.add(name)
    assert len(names) == 13
    monkeypatch.setattr(quantization, "describe_versions", lambda: {"torch": "1.0"})
    names.add(os.path.basename(cache_paths(cfg, model)[0]))
    assert len(names) == 14


def test_its_name_is_of_the_annotation_file_as_it_is_now(cfg, model, monkeypatch, tmp_path):
    path, names = tmp_path / "own.json", set()
    register_coco_instances("own_train", {}, str(path), str(tmp_path))
    own = changed(cfg, {"DATASETS.TRAIN": ("own_train",)})
    for content, seconds in (("{}", 1), ("{}", 2), ("{} ", 2)):

        def convert(name, content=content, seconds=seconds):
            path.write_text(content)
            os.utime(path, (seconds, seconds))

        monkeypatch.setattr(quantization, "make_ready", convert)
        names.add(cache_paths(own, model)[0])
    assert len(names) == 3


def test_the_first_place_is_taken_and_a_damaged_file_is_told(tmp_path, caplog):
    paths = [tmp_path / "a.zip", tmp_path / "b.zip"]
    quantization.write_cache({}, paths)
    assert [*tmp_path.iterdir()] == paths[:1]
    paths[0].write_bytes(b"no zip")
    assert quantization.read_cache(paths) is None
    assert f"{paths[0]} is damaged" in caplog.text


@needs_nncf
def test_a_folder_that_cannot_be_written_is_told_and_the_cache_folder_taken(
    cfg, model, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(quantization, "quantize", lambda graph, *_, **__: graph)
    blocked = tmp_path / "blocked"
    blocked.write_text("no folder")
    paths = [blocked / "model.zip", tmp_path / "cache" / "model.zip"]
    calibration = records(1)
    choices = {"engine": "openvino", "precision": "int8", "calibration": calibration}
    prepare_model(model, cache=paths, **choices)
    assert caplog.text.count("cannot be kept as") == 1
    assert f"cannot be kept as {paths[0]} (" in caplog.text
    assert paths[1].is_file()
    prepare_model(model, cache=paths[:1], **choices)  # kept nowhere, but it runs
    assert caplog.text.count("cannot be kept as") == 2


def test_a_model_of_the_zoo_is_kept_in_the_cache_folder(cfg, model):
    named = changed(cfg, {"MODEL.WEIGHTS": "COCO-Detection/faster_rcnn_R_50_FPN_3x"})
    folders = [os.path.dirname(path) for path in cache_paths(named, model)]
    assert folders == [quantization.cache_folder()]


class Sized(torch.nn.Module):
    """Scales the second convolution's input by the image's width, and the output by its map's."""

    def __init__(self):
        super().__init__()
        self.first, self.middle = torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 4, 3)
        self.last = torch.nn.Conv2d(4, 2, 1)

    def forward(self, image):
        middle = self.middle(self.first(image) * image.shape[-1])
        return self.last(middle) * middle.shape[-1]


def test_a_size_is_no_value():
    import openvino

    x = torch.zeros(1, 3, 16, 16)
    graph = openvino.convert_model(Sized().eval(), example_input=x, input=[[1, 3, -1, -1]])
    (first,) = quantization._nearest_products(graph.get_parameters(), quantization._readers)
    output = graph.outputs[0].get_node()
    (last,) = quantization._nearest_products([output], quantization._sources)
    assert "first" in first
    assert "last" in last


def test_only_weights_of_a_file_are_kept(cfg, model, monkeypatch):
    """In training mode they are no longer those of MODEL.WEIGHTS."""
    monkeypatch.setattr(prepared, "prepare_model", lambda _, **keys: keys["cache"])
    try:
        assert _prepared(cfg, model.train()) == []
    finally:
        model.eval()
    assert _prepared(cfg, model) == cache_paths(cfg, model) != []


@needs_nncf
def test_a_trainer_evaluates_in_int8_and_keeps_no_file_of_weights_that_change(cfg, model, caplog):
    model.train()
    with caplog.at_level(logging.INFO, "fpn_d2"):
        results = Trainer.test(cfg, model)
    model.eval()
    assert set(results["bbox"]) >= {"AP"}
    assert "backbone, box_head by OpenVINO" in caplog.text
    assert not list(Path(cfg.MODEL.WEIGHTS).parent.glob("*.zip"))
