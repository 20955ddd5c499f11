"""tools/export.py, and the example that runs its file without torch and Detectron2."""

import ast
import json
import os
import re
import runpy
import subprocess
import sys
from types import SimpleNamespace

import export
import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor
from PIL import Image
from random_detectors import random_detector

from fpn_d2 import load_config
from fpn_d2.checkpoint import SafeCheckpointer
from fpn_d2.data import build_test_mapper
from fpn_d2.data.dataset_mapper import map_record
from fpn_d2.export import Parity, read_check_images

EXAMPLES = {
    "onnx": "docs/examples/run_exported.py",
    "openvino": "docs/examples/run_openvino.py",
}
RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino"}


@pytest.fixture(scope="module")
def words(repo, tmp_path_factory):
    """The tool's words for an image and a random detector of small images and few proposals."""
    folder = tmp_path_factory.mktemp("export")
    config = folder / "row.yaml"
    config.write_text(
        f"_BASE_: {repo}/configs/quick/Faster-RCNN/faster_rcnn_R_18_C5.yaml\n"
        "INPUT: {MIN_SIZE_TEST: 128}\n"
        "MODEL: {RPN: {POST_NMS_TOPK_TEST: 100}}\n"
    )
    model = random_detector(load_config(config, ["MODEL.DEVICE", "cpu"]))
    SafeCheckpointer(model, str(folder)).save("model")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    Image.fromarray(pixels).resize((450, 300), Image.BILINEAR).save(folder / "image.png")
    paths = ("--weights", folder / "model.pth", "--images", folder / "image.png")
    return ["--config-file", config, *paths]


@pytest.mark.parametrize("format", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_the_example_prints_what_the_model_finds(repo, words, tmp_path, printed, refused, format):
    pytest.importorskip("onnx")
    pytest.importorskip(RUNTIMES[format])
    output = tmp_path / f"model.{'xml' if format == 'openvino' else format}"
    ask = [*words, "--format", format, "--output", output, "--report", tmp_path / "report.json"]
    stdout = printed(export, *ask)
    assert "matched (" in stdout
    assert stdout.splitlines()[-1] == f"wrote {output}"
    assert (tmp_path / "report.json").is_file()

    cfg = load_config(words[1], ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", str(words[3])])
    rgb = np.asarray(Image.open(words[5]))
    expected = DefaultPredictor(cfg)(rgb[:, :, ::-1])["instances"]
    command = [sys.executable, repo / EXAMPLES[format], output, words[5]]
    env = {**os.environ, "PYTHONPATH": ""}
    printed = subprocess.check_output(command, text=True, env=env)
    lines = [line.split() for line in printed.splitlines()]
    assert len(lines) == len(expected) > 0
    boxes = torch.tensor([[float(x) for x in line[-4:]] for line in lines])
    assert (boxes - expected.pred_boxes.tensor).abs().amax(dim=1).quantile(0.9) < 0.1
    scores = torch.tensor([float(line[-5]) for line in lines])
    torch.testing.assert_close(scores, expected.scores, rtol=0, atol=2e-3)

    assert re.search(r"(is|are) there already", refused(export, *ask))


GREY = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)[:40]
COLOURS = np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8)
FILES = {  # by a file's name: its pixels, mode and EXIF orientation
    "colours.png": (COLOURS, "RGB", 1),
    "turned.tif": (COLOURS, "L", 6),
    "turned.jpg": (COLOURS, "RGB", 5),
    "turned.webp": (COLOURS, "RGB", 8),
    "transparent.png": (COLOURS, "RGBA", 1),
    "deep.png": (GREY, "I;16", 1),
    "deep.tif": (GREY, "I;16", 3),
    "narrow.png": (COLOURS[:1, [0] * 2000], "RGB", 1),
    "half.png": (COLOURS[:22], "RGB", 1),  # 27.5 px, which Detectron2 rounds down
}


@pytest.mark.parametrize("image_format", ["BGR", "RGB", "L"])
def test_the_example_makes_the_models_input(repo, row_config, tmp_path, monkeypatch, image_format):
    row, channels = "quick/Faster-RCNN/faster_rcnn_R_18_C5", 1 if image_format == "L" else 3
    pixels = [key for name in ("MEAN", "STD") for key in (f"MODEL.PIXEL_{name}", [1.0] * channels)]
    sizes = ["INPUT.MIN_SIZE_TEST", 50, "INPUT.MAX_SIZE_TEST", 80]
    cfg = row_config(row, "INPUT.FORMAT", image_format, *pixels, *sizes)
    about = {"class_names": "[]", "input_format": image_format, "min_size": 50, "max_size": 80}
    seen = []

    def run(names, inputs):
        seen.append(inputs["image"])
        return [np.zeros((0, 4), np.float32), np.zeros(0), np.zeros(0)]

    session = SimpleNamespace(
        get_modelmeta=lambda: SimpleNamespace(custom_metadata_map=about),
        get_inputs=lambda: [None],
        run=run,
    )
    runtime = SimpleNamespace(InferenceSession=lambda *args, **options: session)
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)

    def run_example(path):
        monkeypatch.setattr(sys, "argv", [EXAMPLES["onnx"], "model.onnx", str(path)])
        runpy.run_path(str(repo / EXAMPLES["onnx"]))

    for name, (values, mode, orientation) in FILES.items():
        exif, path = Image.Exif(), tmp_path / name
        exif[0x0112] = orientation
        image = Image.fromarray(values)
        (image if mode == "I;16" else image.convert(mode)).save(path, exif=exif)
        run_example(path)
        mapped = map_record(build_test_mapper(cfg), {"file_name": str(path)})["image"]
        assert seen[-1].shape == tuple(mapped.shape), name
        np.testing.assert_array_equal(seen[-1], mapped.numpy(), name)
        np.testing.assert_array_equal(seen[-1], read_check_images(cfg, [str(path)])[0], name)
    Image.new("F", (9, 9)).save(tmp_path / "float.tif")
    with pytest.raises(SystemExit, match=r"float\.tif: .*32 bits \(F\), is not read here"):
        run_example(tmp_path / "float.tif")
    about["input_format"] = "YUV-BT.601"
    with pytest.raises(SystemExit, match=r"colours\.png: YUV-BT.601, .* is not read here"):
        run_example(tmp_path / "colours.png")


@pytest.mark.parametrize("format", EXAMPLES)
def test_the_example_needs_no_more_than_it_says(repo, format):
    text = (repo / EXAMPLES[format]).read_text(encoding="utf-8")
    tree = ast.parse(text)
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    assert imported == {"json", "sys", "numpy", RUNTIMES[format], "PIL"}
    assert len(tree.body) <= 20


@pytest.mark.slow
def test_int8_is_judged_beside_float32(words, tmp_path, printed, refused, wide_opts):
    for package in ("onnx", "openvino", "nncf"):
        pytest.importorskip(package)
    output, report = tmp_path / "model.xml", tmp_path / "report.json"
    ask = [*words, "--format", "openvino", "--int8", "--output", output, "--report", report]
    opts = [*wide_opts, "INFERENCE.CALIBRATION_IMAGES", "2"]
    stdout = printed(export, *ask, "--validation-images", "3", *opts)
    told = re.search(r"AP on 3 images of tiny_val: int8 (\d+\.\d\d), float32 (\S+)\n", stdout)
    float32, int8 = json.loads(report.read_text())["exports"]
    assert "metric" not in float32
    assert (int8["format"], int8["metric"], int8["evaluated_images"]) == ("openvino int8", "AP", 3)
    assert [f"{int8[key]:.2f}" for key in ("int8", "float32")] == [*told.groups()]
    assert {path.name for path in tmp_path.glob("model.*")} == {"model.xml", "model.bin"}
    ask = [*words, "--format", "openvino", "--int8", "--output", tmp_path / "other.xml"]
    sentence = refused(export, *ask, *opts, "DATASETS.TRAIN", "()")
    assert "int8 is calibrated on images of DATASETS.TRAIN" in sentence
    assert not (tmp_path / "other.xml").exists()


@pytest.mark.parametrize(
    "config, name",
    [
        ("configs/quick/demo.yaml", "demo"),
        ("output/cats/config.yaml", "cats"),
        ("config.yaml", "dogs"),
        ("COCO-Detection/rpn_R_50_FPN_1x", "rpn_R_50_FPN_1x"),
    ],
)
def test_a_run_of_ones_own_is_called_after_its_folder(tmp_path, monkeypatch, config, name):
    (tmp_path / "dogs").mkdir()
    monkeypatch.chdir(tmp_path / "dogs")
    assert export.model_name(config) == name


def test_int8_is_openvinos(words, run_tool, tmp_path):
    ask = [*words, "--format", "torchscript", "--int8", "--output", tmp_path / "model.ts"]
    code, _, stderr = run_tool(export, *ask)
    assert code == 2
    assert "--int8 needs --format openvino" in stderr


@pytest.mark.parametrize(
    "more, sentence",
    [
        (["MODEL.WEIGHTS", "other.pth"], "weights are given twice, by --weights and by MODEL.W"),
        (["DATASETS.TEST", "()"], "DATASETS.TEST names no data set"),
        (["DATASETS.TRAIN", "()"], "int8 is calibrated on images of DATASETS.TRAIN"),
        (["DATASETS.TEST", "('gone_val',)"], "the data set 'gone_val', which is not registered"),
    ],
)
def test_what_would_fail_at_the_end_fails_at_once(
    words, refused, tmp_path, monkeypatch, more, sentence
):
    monkeypatch.setattr("fpn_d2.export.export_model", None)
    ask = [*words, "--format", "openvino", "--int8", "--output", tmp_path / "model.xml"]
    assert sentence in refused(export, *ask, *more)


def test_int8_without_nncf_is_told_before_the_work(
    words, refused, tmp_path, monkeypatch, wide_opts
):
    monkeypatch.setitem(sys.modules, "nncf", None)
    monkeypatch.setattr("fpn_d2.export.export_model", None)
    ask = [*words, "--format", "openvino", "--int8", "--output", tmp_path / "model.xml"]
    sentence = refused(export, *ask, *wide_opts, "INFERENCE.CALIBRATION_IMAGES", 2)
    assert "nncf is not installed; python -m pip install openvino nncf, or leave --int8" in sentence


def test_nothing_is_written_where_the_file_differs(words, tmp_path, run_tool, refused, monkeypatch):
    far = Parity([(1, 2), (3, 4), (5, 6)], detections=9, found=9, matched=1)
    monkeypatch.setattr("fpn_d2.export.export_model", lambda *_: None)
    monkeypatch.setattr("fpn_d2.export.check_export", lambda *_: far)
    output = tmp_path / "model.ts"
    ask = [*words, "--output", output, "--format"]
    code, stdout, stderr = run_tool(export, *ask, "torchscript")
    assert code == 2
    assert "images of 3 sizes" in stdout
    assert "not close enough" in stderr
    code, _, stderr = run_tool(export, *ask, "tflite")
    assert code == 2
    assert "onnx" in stderr
    ask[3] = tmp_path / "none.pth"
    assert "none.pth" in refused(export, *ask, "torchscript")
    assert not output.exists()


def test_a_file_returns_what_has_the_threshold_of_its_class(words, tmp_path, printed):
    classes = [{"threshold": value} for value in (1.0, 1.0, 1.0, 0.0, 1.0)]
    content = {"datasets": {"shapes_val": {"classes": classes}}}
    (tmp_path / "analysis.json").write_text(json.dumps(content))
    ask = [*words, "--output", tmp_path / "model.ts", "--format", "torchscript"]
    opts = ["OUTPUT_DIR", tmp_path, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.01"]
    stdout = printed(export, *ask, "--confidence-threshold", "best-f1", *opts)
    assert "images of 3 sizes" in stdout
    pixels = torch.from_numpy(np.array(Image.open(words[5]))[:, :, ::-1].copy())
    _, scores, kinds = torch.jit.load(str(tmp_path / "model.ts"))(pixels.permute(2, 0, 1).float())
    assert set(kinds.tolist()) == {3}
    assert 0.01 < float(scores.min()) < 0.05  # no less than the model's own, as evaluated
