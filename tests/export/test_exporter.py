"""ONNX Runtime and TorchScript run exported files as the model itself runs."""

import copy
import functools
import io
import json
import sys

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.modeling.proposal_generator.rrpn import RRPN
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from random_detectors import detect, image_of, proposals_of, random_detector

from fpn_d2 import UserError
from fpn_d2.checkpoint.checkpointer import WeightsOrigin
from fpn_d2.config import changed
from fpn_d2.data.datasets.shapes import CLASSES
from fpn_d2.evaluation.matching import match_boxes
from fpn_d2.export import (
    FORMATS,
    Exported,
    check_export,
    check_output,
    export_model,
    exporter,
    load_exported,
    write_export,
)
from fpn_d2.inference import prepare_model
from fpn_d2.inference.openvino_parts import cpu_settings, openvino_core
from fpn_d2.utils.modules import recast

# Not multiples of 32; wide and tall; sides smaller than, equal to and larger than those traced.
SIZES = [(65, 90), (120, 150), (190, 70)]
RPN = "RPN/rpn_R_18_FPN"
FAST, FASTER = "Fast-RCNN/fast_rcnn_R_18_FPN", "Faster-RCNN/faster_rcnn_R_18_FPN"
C5 = "Fast-RCNN/fast_rcnn_R_18_C5"
SLOW_ROWS = [
    *(f"RPN/rpn_R_18_{row}" for row in ("C4", "C5", "FPN", "P2", "bottom_up")),
    *(f"Fast-RCNN/fast_rcnn_R_18_{row}" for row in ("C4", "C5", "P2", "bottom_up", "top_down")),
    *(f"Faster-RCNN/faster_rcnn_R_18_{row}" for row in ("C4", "C5")),
    "Feature-Sharing/shared_R_18_FPN",
    "RetinaNet/retinanet_R_18_FPN",
]
ROWS = [FASTER, FAST, *(pytest.param(row, marks=pytest.mark.slow) for row in SLOW_ROWS)]
# OpenVINO runs the same graph as ONNX Runtime, and onnx is installed only for the slow tests.
FORMATS = [*FORMATS[:2], pytest.param("openvino", marks=pytest.mark.slow)]


@pytest.fixture(autouse=True)
def packages_if_needed(request):
    for format, packages in (("onnx", "onnx onnxruntime"), ("openvino", "onnx openvino")):
        for package in packages.split() if format in request.node.name else ():
            pytest.importorskip(package)


@pytest.fixture(scope="module")
def model_of(row_config):
    """``model_of(row, KEY, value, ...)``: a row's config and a random model with spread scores."""

    @functools.cache
    def build(row, *opts):
        cfg = row_config(f"quick/{row}", *opts)
        return cfg, random_detector(cfg)

    return build


@pytest.fixture(scope="module")
def exported_of(model_of):
    """``exported_of(row, format, KEY, value, ...)``: the exported model of a row. The trace that
    ONNX and OpenVINO share is made once for the two, which come one after the other."""
    trace = exporter._trace_to_onnx
    last = {}

    @functools.cache
    def export(row, format, *opts):
        def trace_once(graph, inputs):
            key = (row, *opts)
            if key not in last:
                last.clear()
                last[key] = trace(graph, inputs)
            return last[key]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(exporter, "_trace_to_onnx", trace_once)
            return export_model(*model_of(row, *opts), format)

    return export


def load(exported):
    return load_exported(exported.content, exported.format, exported.weights)


def assert_same(found, expected):
    assert [x.shape for x in found] == [x.shape for x in expected]
    assert [x.dtype for x in found] == [x.dtype for x in expected]
    classes = [x[2] if len(x) == 3 else torch.zeros(len(x[0])) for x in (found, expected)]
    pairs, _ = match_boxes(found[0], expected[0], *classes, pixels=0.1)
    assert len(pairs) == len(expected[0])
    a, b = found[1][pairs[:, 0]], expected[1][pairs[:, 1]]
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert (found[1].diff() <= 0).all()  # best first


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("row", ROWS)
def test_rows_run_as_the_model_does(model_of, exported_of, row, format):
    cfg, model = model_of(row)
    run = load(exported_of(row, format))
    most = 0
    for height, width in SIZES:
        inputs = {"image": image_of(height, width)}
        if cfg.MODEL.LOAD_PROPOSALS:
            inputs["proposals"] = proposals_of(40, height, width)
        expected = detect(model, *inputs.values())
        assert_same(run(inputs), expected)
        most = max(most, len(expected[0]))
    assert most > 5


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_an_rpn_without_laterals_runs_as_the_model_does_but_for_ties(model_of, exported_of, format):
    """Its levels are C5 repeated, and each runtime sorts equal values in its own way."""
    row = "RPN/rpn_R_18_top_down"
    _, model = model_of(row)
    parity = check_export(exported_of(row, format), model, [image_of(*size) for size in SIZES])
    assert parity.is_within_tolerance, parity.summary()


SCENES = {  # row, overrides, size of the image, number of proposals, least and most detections
    "a head for each level": (RPN, ("MODEL.RPN.SHARED_HEAD", False), (65, 90), None, 1, 5000),
    "no proposal, so that all levels of Eq. 1 are empty": (FAST, (), (65, 90), 0, 0, 0),
    "no proposal, and one level": (C5, (), (65, 90), 0, 0, 0),
    "one proposal, so that all levels but one are empty": (FAST, (), (65, 90), 1, 1, 5),
    "many proposals": (FAST, (), (65, 90), 300, 1, 100),
    "nothing found": (FASTER, ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 1.0), (70, 90), None, 0, 0),
    "so many boxes that torchvision's NMS takes another way than in a trace": (
        FAST,
        ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.02, "TEST.DETECTIONS_PER_IMAGE", 2000),
        *((190, 230), 1000, 1001, 2000),
    ),
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("scene", SCENES)
def test_any_number_of_boxes(model_of, exported_of, format, scene):
    row, opts, size, count, least, most = SCENES[scene]
    inputs = {"image": image_of(*size)}
    if count is not None:
        inputs["proposals"] = proposals_of(count, *size)
    expected = detect(model_of(row, *opts)[1], *inputs.values())
    assert least <= len(expected[0]) <= most
    assert_same(load(exported_of(row, format, *opts))(inputs), expected)


def test_an_onnx_file_says_what_it_takes_and_returns(exported_of):
    onnx = pytest.importorskip("onnx")
    exported = exported_of(FASTER, "onnx")
    model = onnx.load_from_string(exported.content)
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(about["class_names"]) == list(CLASSES)
    assert (about["input_format"], about["min_size"], about["max_size"]) == ("BGR", "320", "320")
    assert about["license"] == "none"
    assert [x.name for x in model.graph.input] == ["image"]
    assert [x.name for x in model.graph.output] == ["boxes", "scores", "classes"]
    sides = model.graph.input[0].type.tensor_type.shape.dim
    assert [side.dim_param or side.dim_value for side in sides] == [3, "H", "W"]


def test_a_torchscript_file_says_the_same(exported_of):
    exported = exported_of(FASTER, "torchscript")
    files = {"metadata.json": ""}
    torch.jit.load(io.BytesIO(exported.content), _extra_files=files)
    assert json.loads(files["metadata.json"]) == exported.metadata
    assert json.loads(exported.metadata["class_names"]) == list(CLASSES)


@pytest.fixture
def without_graph(monkeypatch):
    """Export the metadata of a model alone, since tracing the model takes two seconds."""
    monkeypatch.setattr(exporter, "_torchscript", lambda graph, inputs, metadata: (b"", b""))


@pytest.mark.usefixtures("without_graph")
@pytest.mark.parametrize(
    "names, source", [(["a", "b", "c", "d", "\u00e9"], "the checkpoint"), ([], "")]
)
def test_a_file_names_the_classes_of_its_checkpoint(model_of, names, source, caplog):
    cfg, model = model_of(FASTER)
    model = copy.copy(model)
    model.weights_origin = WeightsOrigin("own.pth", tuple(names), "")
    about = export_model(cfg, model, "torchscript").metadata
    assert json.loads(about["class_names"]) == (names or [f"class {i}" for i in range(5)])
    expected = source or "guess: the weights own.pth do not say what their classes are called"
    assert about["class_names_from"].startswith(expected)
    assert ("do not say what their classes are called" in caplog.text) == (not names)


@pytest.mark.usefixtures("without_graph")
def test_classes_without_names_are_numbered(model_of):
    row, opts = "Fast-RCNN/fast_rcnn_R_18_C5", ("MODEL.ROI_HEADS.NUM_CLASSES", 2)
    about = export_model(*model_of(row, *opts), "torchscript").metadata
    assert json.loads(about["class_names"]) == ["class 0", "class 1"]


@pytest.mark.usefixtures("without_graph")
def test_an_rpn_has_no_classes_and_torchvisions_resizing_is_told(model_of):
    cfg, model = model_of(RPN)
    cfg = changed(cfg, {"INPUT.RESIZE_TEST": "torchvision"})
    about = export_model(cfg, model, "torchscript").metadata
    told = about["model"], about["class_names"], about["resize"]
    assert told == ("ProposalNetwork", "[]", "torchvision")


def test_a_model_of_grey_images_is_exported(row_config):
    grey = ("INPUT.FORMAT", "L", "MODEL.PIXEL_MEAN", [128.0], "MODEL.PIXEL_STD", [1.0])
    cfg = row_config("quick/RPN/rpn_R_18_C4", *grey)
    model = build_model(cfg.clone()).eval()
    inputs = {"image": image_of(65, 90)[:1]}
    assert_same(
        load(export_model(cfg, model, "torchscript"))(inputs), detect(model, *inputs.values())
    )


@pytest.mark.usefixtures("without_graph")
def test_a_config_of_detectron2_alone_is_exported(model_of):
    _, model = model_of(FASTER)
    metadata = export_model(get_cfg(), model, "torchscript").metadata
    assert metadata["resize"] == "detectron2"
    assert (metadata["min_size"], metadata["max_size"]) == ("800", "1333")


CASCADE = ("MODEL.ROI_HEADS.NAME", "CascadeROIHeads")
CASCADE += ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True)
CASCADE += ("MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE", 224)


@pytest.mark.parametrize(
    "row, opts, sentence",
    [
        ("Mask-Proposals/mask_R_18_5x5", (), "MaskProposalNetwork cannot .* --eval-only"),
        (FASTER, CASCADE, "CascadeROIHeads cannot be exported: .* LevelROIHeads or C4ROIHeads"),
    ],
)
def test_models_of_another_kind_are_refused(row_config, row, opts, sentence):
    cfg = row_config(f"quick/{row}", *opts)
    with pytest.raises(UserError, match=sentence):
        export_model(cfg, build_model(cfg.clone()).eval(), "torchscript")


DEFORMED = ("MODEL.RESNETS.DEPTH", "50", "MODEL.RESNETS.RES2_OUT_CHANNELS", "32")
DEFORMED += ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", "[False, True, False, False]")


def test_deformable_convolutions_are_exported_as_torchscript(model_of):
    pytest.importorskip("detectron2._C")
    cfg, model = model_of(FASTER, *DEFORMED)
    exported = export_model(cfg, model, "torchscript")
    assert check_export(exported, model, [image_of(120, 150)]).is_within_tolerance


def test_what_onnx_lacks_is_told_in_a_sentence_alone(model_of, capfd):
    pytest.importorskip("detectron2._C")
    pytest.importorskip("onnx")
    cfg, model = model_of(FASTER, *DEFORMED)
    capfd.readouterr()
    with pytest.raises(UserError, match=r"no form in onnx .*try --format torchscript"):
        export_model(cfg, model, "onnx")
    assert "graph(" not in "".join(capfd.readouterr())


def test_modulated_convolutions_are_refused_on_cpus(row_config):
    pytest.importorskip("detectron2._C")
    words = [*DEFORMED, "MODEL.RESNETS.DEFORM_MODULATED", "True"]
    model = build_model(row_config(f"quick/{FASTER}", *words)).eval()
    with pytest.raises(UserError, match="only without modulation"):
        prepare_model(model)


def test_rotated_boxes_are_refused(model_of):
    cfg, model = model_of(RPN)
    rotated = copy.deepcopy(model)
    recast(rotated.proposal_generator, type("Rotated", (RRPN, type(model.proposal_generator)), {}))
    with pytest.raises(UserError, match="rotated boxes cannot be exported"):
        export_model(cfg, rotated, "torchscript")


def test_masks_no_boxes_an_unknown_format_and_a_missing_package_are_refused(model_of, monkeypatch):
    cfg, model = model_of("Fast-RCNN/fast_rcnn_R_18_C4", "MODEL.MASK_ON", True)
    with pytest.raises(UserError, match=r"only boxes are exported: set MODEL\.MASK_ON"):
        export_model(cfg, model, "torchscript")
    _, keypoints = model_of(C5)
    keypoints = copy.deepcopy(keypoints)
    keypoints.roi_heads.keypoint_on = True
    with pytest.raises(UserError, match=r"only boxes are exported: .*KEYPOINT_ON to False"):
        export_model(cfg, keypoints, "torchscript")
    with pytest.raises(UserError, match=r"'tflite' is none of onnx, torchscript, openvino"):
        export_model(cfg, model, "tflite")
    with pytest.raises(UserError, match=r"DETECTIONS_PER_IMAGE is 0, .* set it to 1 or more"):
        export_model(*model_of(C5, "TEST.DETECTIONS_PER_IMAGE", 0), "openvino")
    cfg, model = model_of("Fast-RCNN/fast_rcnn_R_18_C5")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"onnx is not installed; python -m pip install onnx"):
        export_model(cfg, model, "onnx")


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x


class ThreeValues(FastRCNNOutputLayers):
    def forward(self, x):
        return *super().forward(x), x

    def inference(self, predictions, proposals):
        return super().inference(predictions[:2], proposals)


class PythonFunction(FastRCNNOutputLayers):
    def forward(self, x):
        return super().forward(Doubled.apply(x))


@pytest.mark.parametrize(
    "kind, sentence",
    [
        (ThreeValues, "only heads that return logits and deltas are exported"),
        (PythonFunction, r"no form in torchscript \(Could .* call 'Doubled'\); try --format onnx"),
    ],
)
def test_a_head_of_ones_own_that_no_file_can_hold_is_refused(model_of, kind, sentence):
    cfg, model = model_of(C5)
    model = copy.deepcopy(model)
    recast(model.roi_heads.box_predictor, kind)
    with pytest.raises(UserError, match=sentence):
        export_model(cfg, model, "torchscript")


def test_a_pyramid_is_exported_by_torch_export(row_config):
    """Export as docs/export.md does, which also says what cannot be exported."""
    pyramid = prepare_model(random_detector(row_config(f"quick/{RPN}"))).model.backbone
    height, width = torch.export.Dim("height", max=30), torch.export.Dim("width", max=30)
    sizes = ({2: 64 * height, 3: 64 * width},)
    program = torch.export.export(pyramid, (torch.zeros(1, 3, 128, 192),), dynamic_shapes=sizes)
    x = torch.randn(1, 3, 192, 256)
    with torch.no_grad():
        expected, found = pyramid(x), program.module()(x)
    assert list(found) == list(expected) == ["p2", "p3", "p4", "p5", "p6"]
    for name, level in expected.items():
        torch.testing.assert_close(found[name], level, rtol=1e-4, atol=1e-5 * level.abs().max())


# --- int8


@pytest.mark.slow
@pytest.mark.parametrize("row", [FASTER, FAST, RPN])
def test_an_openvino_file_in_int8_finds_nearly_the_same(model_of, exported_of, row):
    pytest.importorskip("nncf")
    cfg, model = model_of(row)
    samples = []
    for height, width in SIZES:
        samples.append({"image": image_of(height, width)})
        if cfg.MODEL.LOAD_PROPOSALS:
            samples[-1]["proposals"] = proposals_of(40, height, width)
    exported = export_model(cfg, model, "openvino", samples)
    assert len(exported.weights) < 0.35 * len(exported_of(row, "openvino").weights)
    # With random weights int8 picks other proposals; on the same ones only rounding differs.
    most = 0.3 if row == FASTER else 0.1
    for sample in samples:
        found, expected = load(exported)(sample), detect(model, *sample.values())
        assert len(found[0]) > 5
        assert (found[1][:3] - expected[1][:3]).abs().max() < most * expected[1].abs().max()
        assert not torch.equal(found[1][:3], expected[1][:3])


@pytest.mark.slow
def test_an_openvino_file_in_int8_is_the_same_at_any_size(model_of):
    """Also where the pyramid's last convolutions have no bias, as these random ones."""
    openvino = pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    image = image_of(120, 150)
    exported = export_model(*model_of(FASTER), "openvino", [{"image": image}])
    graph = openvino_core().read_model(exported.content, exported.weights)
    graph.reshape([3, 120, 150])
    of_one_size = openvino.compile_model(graph, "CPU", cpu_settings("float32"))
    expected = [*map(torch.from_numpy, of_one_size({"image": image.numpy()}).values())]
    found = load(exported)({"image": image})
    pairs, _ = match_boxes(found[0], expected[0], found[2], expected[2], pixels=1.0)
    assert len(pairs) > 0.8 * len(expected[0]) > 5


# --- the file on the disk


def test_a_file_is_written_and_not_replaced_unless_asked(tmp_path):
    exported = Exported("onnx", b"graph", b"", {})
    path = tmp_path / "model.onnx"
    write_export(exported, path)
    assert path.read_bytes() == b"graph"
    path.write_bytes(b"mine")
    with pytest.raises(UserError, match=r"model\.onnx is there already; .* --force"):
        write_export(exported, path)
    assert path.read_bytes() == b"mine"
    write_export(exported, path, overwrite=True)
    assert path.read_bytes() == b"graph"
    assert [x.name for x in tmp_path.iterdir()] == ["model.onnx"]
    exported = Exported("openvino", b"graph", b"", {}, b"weights")
    with pytest.raises(UserError, match=r"reads no .*model\.bin; name an \.xml"):
        check_output(tmp_path / "model.bin", format="openvino")
    write_export(exported, tmp_path / "model.xml")
    assert (tmp_path / "model.xml").read_bytes() == b"graph"
    assert (tmp_path / "model.bin").read_bytes() == b"weights"
    (tmp_path / "model.xml").unlink()
    with pytest.raises(UserError, match=r"model\.bin is there already; .* --force"):
        write_export(exported, tmp_path / "model.xml")
    with pytest.raises(UserError, match="does not exist; create it first"):
        check_output(tmp_path / "no" / "model.onnx")
    with pytest.raises(UserError, match="is a folder; name a file"):
        check_output(tmp_path, overwrite=True)
    weights = str(tmp_path / "model.bin")
    with pytest.raises(UserError, match=r"model\.bin would be overwritten; name another --output"):
        check_output(tmp_path / "model.xml", overwrite=True, format="openvino", weights=weights)
    check_output(tmp_path / "model.onnx", overwrite=True, format="onnx", weights=weights)


@pytest.mark.parametrize("full", [".xml", ".bin"])
def test_a_pair_of_files_is_written_whole_or_not_at_all(tmp_path, monkeypatch, full):
    write_export(Exported("openvino", b"graph", b"", {}, b"weights"), tmp_path / "model.xml")
    real = open

    def on_a_full_disk(path, mode="r", **options):
        return real("/dev/full" if f"{full}.@" in str(path) else path, mode, **options)

    monkeypatch.setattr("builtins.open", on_a_full_disk)
    exported = Exported("openvino", b"another", b"", {}, b"others")
    with pytest.raises(UserError, match=rf"model\{full} could not be written \(No space left"):
        write_export(exported, tmp_path / "model.xml", overwrite=True)
    monkeypatch.undo()
    found = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert found == {"model.xml": b"graph", "model.bin": b"weights"}
