"""The predictor resizes, batches and refuses images, and finds its model; the last NMS."""

import copy
import importlib.util
import pickle
from unittest.mock import patch

import numpy as np
import pytest
import supervision as sv
import torch
from detectron2 import model_zoo
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from PIL import Image
from random_detectors import detect, image_of, random_detector
from torch import nn
from torchvision.ops import box_iou

from fpn_d2 import Predictor, UserError, load_config
from fpn_d2.checkpoint import SafeCheckpointer
from fpn_d2.data import build_test_mapper
from fpn_d2.data.dataset_mapper import map_record
from fpn_d2.inference import Explainer, prepare_model, set_final_nms, set_score_threshold
from fpn_d2.inference.predictor import detections_above, why_not_in_zoo
from fpn_d2.utils.model_zoo import zoo_config, zoo_names

ROW = "quick/Faster-RCNN/faster_rcnn_R_18_FPN"
SIZES = ["INPUT.MIN_SIZE_TEST", 200, "INPUT.MAX_SIZE_TEST", 100, "MODEL.WEIGHTS", ""]


@pytest.fixture(scope="module")
def model(row_config):
    return build_model(row_config(ROW))


@pytest.mark.parametrize(
    "resize, size, expected",
    [  # heights and widths; the longer side becomes 100 px
        ("detectron2", (97, 120), (81, 100)),  # 80.83
        ("torchvision", (97, 120), (80, 100)),
        ("detectron2", (3, 5000), (1, 100)),  # 0.06
        ("detectron2", (3, 500), (1, 100)),  # 0.6, which is rounded up
    ],
)
def test_an_image_is_resized_as_the_config_says(row_config, model, resize, size, expected):
    predictor = Predictor(row_config(ROW, *SIZES, "INPUT.RESIZE_TEST", resize), model)
    seen = []
    predictor.model.model.register_forward_pre_hook(
        lambda module, args: seen.append(args[0][0]["image"].shape)
    )
    predictor.detect(np.zeros((*size, 3), np.uint8))
    assert seen == [(3, *expected)]


@pytest.mark.parametrize("image_format", ["BGR", "RGB", "L", "YUV-BT.601", "HSV"])
def test_an_image_is_what_evaluation_makes_of_its_file(row_config, tmp_path, image_format):
    values = [1.0] * (1 if image_format == "L" else 3)
    keys = ["MODEL.PIXEL_MEAN", values, "MODEL.PIXEL_STD", values, "INFERENCE.PREPARE", False]
    cfg = row_config(ROW, *SIZES, "INPUT.FORMAT", image_format, *keys)
    seen, path = [], str(tmp_path / "a.png")

    class Recorder(nn.Module):
        def forward(self, records):
            assert not self.training
            seen.append(records[0]["image"])
            boxes = Boxes(torch.zeros(0, 4))
            found = Instances((30, 40), pred_boxes=boxes, scores=torch.zeros(0))
            return [{"instances": found}]

    rgb = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(path)
    expected = map_record(build_test_mapper(cfg), {"file_name": path})["image"]
    alpha = np.full((30, 40, 1), 9, dtype=np.uint8)
    for image in (rgb, np.dstack([rgb, alpha]), path):
        Predictor(cfg, Recorder()).detect(image)
        torch.testing.assert_close(seen.pop(), expected.float(), rtol=0, atol=1e-6)


def test_fast_rcnn_is_refused_in_words(row_config):
    with pytest.raises(UserError, match="proposals from a file"):
        Predictor(row_config("quick/Fast-RCNN/fast_rcnn_R_18_FPN"))


def test_only_boxes_without_classes_are_thinned_out():
    corners = torch.arange(0, 3000, 100.0)[:, None]
    boxes = torch.cat([corners, corners, corners + 50, corners + 50], dim=1)
    boxes = Boxes(torch.cat([boxes, boxes + 5]))  # 30 pairs of IoU 45^2 / (2 * 50^2 - 45^2) = 0.68
    scores = torch.arange(60, 0, -1) / 60
    found = Instances((3100, 3100), pred_boxes=boxes, scores=scores)
    thin = detections_above({"instances": found}, 0.0)
    assert torch.equal(thin.scores, scores[:20])
    assert len(detections_above({"instances": found}, 0.9)) == 7  # 54 / 60 and more
    found.pred_classes = torch.zeros(60, dtype=torch.int64)
    turned = found[torch.arange(59, -1, -1)]
    assert torch.equal(detections_above({"instances": turned}, 0.0).scores, scores)
    with pytest.raises(UserError, match="neither instances nor proposals"):
        detections_above({"sem_seg": None}, 0.0)


def test_the_score_of_a_proposal_is_its_probability():
    """The odds are 1:1, 3:1 and 1:3."""
    boxes = Boxes(torch.tensor([[0.0, 0.0, 9.0, 9.0]]) + 20 * torch.arange(3.0)[:, None])
    logits = torch.tensor([1.0, 3.0, 1 / 3]).log()
    proposals = Instances((60, 60), proposal_boxes=boxes, objectness_logits=logits)
    found = detections_above({"proposals": proposals}, 0.5)
    torch.testing.assert_close(found.scores, torch.tensor([0.75, 0.5]))
    assert torch.equal(found.pred_boxes.tensor, boxes.tensor[[1, 0]])


# --- several images, and models by name

FASTER = "COCO-Detection/faster_rcnn_R_50_FPN_3x"
SMALL = [
    *("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.DEVICE", "cpu"),
    *("MODEL.FPN.OUT_CHANNELS", 32, "MODEL.ROI_BOX_HEAD.FC_DIM", 32),
    *("INPUT.MIN_SIZE_TEST", 96, "INPUT.MAX_SIZE_TEST", 160),
]


@pytest.fixture(scope="module")
def stock_weights(tmp_path_factory):
    """A stock config of the zoo's, made small, and the path of weights for it in the zoo's form,
    which lie where Detectron2 keeps its downloads."""
    cfg = model_zoo.get_config(f"{FASTER}.yaml")
    cfg.merge_from_list(SMALL)
    arrays = {k: v.numpy() for k, v in random_detector(cfg).state_dict().items()}
    content = {"model": arrays, "__author__": "Detectron2 Model Zoo"}
    cache = tmp_path_factory.mktemp("cache")
    path = cache / "detectron2" / FASTER / "137849458" / "model_final_280758.pkl"
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FVCORE_CACHE", str(cache))
        yield cfg, str(path)


@pytest.fixture(scope="module")
def predictor(stock_weights):
    return Predictor.from_zoo(FASTER, SMALL)


def noise(height, width, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.BILINEAR))


def fields(output):
    found = output["instances"]
    return found.image_size, found.pred_boxes.tensor, found.scores, found.pred_classes


def test_a_model_of_the_zoo_finds_what_stock_detectron2_finds(stock_weights, predictor):
    cfg, path = stock_weights
    cfg = cfg.clone()
    cfg.MODEL.WEIGHTS = path
    image = noise(110, 150)
    size, boxes, scores, classes = fields(DefaultPredictor(cfg)(image))
    assert len(boxes) > 20
    found = fields(predictor(image))
    assert found[0] == size == (110, 150)
    torch.testing.assert_close(found[2], scores, rtol=0, atol=1e-4)
    best = scores.diff() < -1e-4  # too far apart for rounding to change their order
    assert int(best.sum()) > 10
    for ours, stock in zip(found[1:], (boxes, scores, classes), strict=True):
        torch.testing.assert_close(ours[1:][best], stock[1:][best], rtol=0, atol=1e-2)
    assert predictor.class_names[:2] == ["person", "bicycle"]
    assert len(predictor.class_names) == 80
    assert predictor.model.model.weights_origin.dataset == "coco_2017_val"
    own = Predictor.from_zoo(FASTER, [*SMALL, "MODEL.WEIGHTS", path])
    assert own.model.model.weights_origin.path == path


def calls_of(predictor, images):
    """Return the predictor's outputs, and how many images each call of its network took."""
    sizes = []
    handle = predictor.model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    outputs = predictor(images)
    handle.remove()
    return outputs, sizes


def test_a_list_of_images_of_any_size_equals_call_by_call(predictor):
    sizes = [(96, 96), (96, 130), (150, 100), (200, 480), (97, 96)]
    images = [noise(*size, seed) for seed, size in enumerate(sizes)]
    outputs, calls = calls_of(predictor, images)
    assert calls == [1] * 5
    for image, output in zip(images, outputs, strict=True):
        alone = fields(predictor(image))
        assert len(alone[1]) > 5
        assert alone[0] == fields(output)[0] == image.shape[:2]
        assert all(map(torch.equal, fields(output)[1:], alone[1:]))


def test_images_of_one_network_size_go_through_together(predictor):
    images = [noise(96, 128, seed) for seed in range(4)]
    images.insert(2, noise(100, 90))
    images.append(noise(192, 256, 9))  # twice as large, and resized to the same size
    outputs, calls = calls_of(predictor, tuple(images))
    assert calls == [5, 1]
    for image, output in zip(images, outputs, strict=True):
        alone, found = fields(predictor(image)), fields(output)
        assert found[0] == alone[0]
        assert len(alone[1]) > 5
        torch.testing.assert_close(found[2], alone[2], rtol=0, atol=1e-4)
        apart = torch.cat([torch.tensor([True]), alone[2].diff() < -1e-5])
        torch.testing.assert_close(found[1][apart], alone[1][apart], rtol=0, atol=1e-2)
    assert calls_of(predictor, images[:1] * 9)[1] == [8, 1]
    assert predictor([]) == []


def test_an_image_of_a_list_is_refused_by_its_place(predictor):
    with pytest.raises(UserError, match=r"images\[9\]: an image is NoneType, as cv2\.imread"):
        predictor([*[noise(96, 96)] * 9, None])  # in the second batch
    with pytest.raises(UserError, match="is a batch; give list"):
        predictor(np.zeros((2, 96, 96, 3), np.uint8))


def test_an_open_file_that_is_given_twice_is_read_once(predictor, tmp_path, monkeypatch):
    """Pillow reads a file's pixels at their first use, which two threads must not do at once."""
    Image.fromarray(noise(96, 128)).save(tmp_path / "a.png")
    image, other = Image.open(tmp_path / "a.png"), noise(96, 128, 1)
    read, record = [], predictor._record
    monkeypatch.setattr(predictor, "_record", lambda image: [read.append(image), record(image)][1])
    found = [fields(output) for output in predictor([image, other, image, image])]
    assert sorted(map(id, read)) == sorted(map(id, (image, other)))
    assert not torch.equal(found[0][1], found[1][1])
    for own in found[2:]:
        torch.testing.assert_close(own[2], found[0][2], rtol=0, atol=1e-4)


def test_what_comes_back_goes_into_supervision(predictor):
    output = predictor(noise(96, 128))
    detections = sv.Detections.from_detectron2(output)
    found = output["instances"]
    assert len(detections) == len(found) > 5
    np.testing.assert_array_equal(detections.xyxy, found.pred_boxes.tensor.numpy())
    np.testing.assert_array_equal(detections.confidence, found.scores.numpy())
    np.testing.assert_array_equal(detections.class_id, found.pred_classes.numpy())


def test_the_example_for_sahi_finds_in_slices_what_the_predictor_finds(
    predictor, repo, monkeypatch
):
    pytest.importorskip("shapely")
    predict = pytest.importorskip("sahi.predict")
    monkeypatch.syspath_prepend(str(repo / "docs" / "examples"))
    from sahi_model import FpnD2Model

    def expected(image, shift=0):
        found = predictor(image[:, :, ::-1])["instances"]
        found = found[found.scores >= 0.06]
        boxes = found.pred_boxes.tensor + torch.tensor([shift, 0, shift, 0])
        return boxes.tolist(), found.pred_classes.tolist(), found.scores.tolist()

    def given(objects):
        objects = [one.get_shifted_object_prediction() for one in objects]
        classes = [one.category.id for one in objects]
        assert [one.category.name for one in objects] == [predictor.class_names[c] for c in classes]
        return (
            [one.bbox.to_xyxy() for one in objects],
            classes,
            [one.score.value for one in objects],
        )

    def assert_same(objects, image, shift=0):
        for ours, theirs in zip(given(objects), expected(image, shift), strict=True):
            assert len(ours) == len(theirs) > 5
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)

    image = noise(96, 256)  # RGB for SAHI
    model = FpnD2Model(model=predictor, confidence_threshold=0.06)
    assert_same(predict.get_prediction(image, model).object_prediction_list, image)
    left, right = image[:, :128], image[:, 128:]
    model.perform_batch_inference([left, right])
    model.convert_original_predictions([[0, 0], [128, 0]], [[96, 256]] * 2)
    both = model.object_prediction_list_per_image
    assert_same(both[0], left)
    assert_same(both[1], right, 128)
    sliced = predict.get_sliced_prediction(
        image, model, 96, 128, 0, 0, perform_standard_pred=False, batch_size=2, verbose=0
    )
    assert {one.bbox.minx >= 128 for one in sliced.object_prediction_list} == {False, True}


@pytest.mark.parametrize(
    "name, words",
    [
        ("COCO-Detection/faster_rcnn_R50_FPN_3x", f"did you mean .*{FASTER}"),
        ("faster_rcnn_R_50_FPN_3x", f"did you mean {FASTER}"),
        ("yolo", "is no entry of Detectron2's model zoo; name one, such as COCO-Detection/"),
        ("new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ", "LazyConfig .* take an entry with a YAML"),
        ("COCO-Detection/fast_rcnn_R_50_FPN_1x.yaml", "proposals from a file; take a Faster"),
        ("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x", "PanopticFPN, which does not run here"),
    ],
)
def test_other_names_are_refused_in_words(name, words):
    with pytest.raises(UserError, match=f"^{name} .*{words}"):
        Predictor.from_zoo(name)


@pytest.mark.parametrize("compiled", [None, "there"])
def test_deformable_convolutions_need_the_compiled_part(monkeypatch, compiled):
    find = importlib.util.find_spec
    found = lambda name, *more: compiled if name == "detectron2._C" else find(name, *more)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", found)
    why = why_not_in_zoo("Misc/mask_rcnn_R_50_FPN_1x_dconv_c3-c5")
    assert ("compiled part; build it" in why) == (compiled is None)
    assert bool(why) == (compiled is None)


def test_the_docs_list_the_models_of_the_zoo_that_run(repo):
    page = (repo / "docs" / "pretrained.md").read_text(encoding="utf-8")
    listed = page.partition("<!-- zoo -->")[2].partition("<!-- end -->")[0].split()
    listed = [word.strip("`") for word in listed if word.startswith("`")]
    # Detectron2 may be installed with or without its compiled part.
    run = [
        name for name in zoo_names() if "compiled part" in (why_not_in_zoo(name) or "compiled part")
    ]
    assert listed == run
    assert FASTER in run
    assert f"[{len(run)} models](docs/pretrained.md)" in (repo / "README.md").read_text()


# One for each kind of network and heads in the zoo, whatever its depth, width and schedule.
NARROW = [  # group norms have 32 groups
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 32, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 32, "MODEL.FPN.OUT_CHANNELS", 32),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", 32, "MODEL.ROI_BOX_HEAD.CONV_DIM", 32),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", 32, "MODEL.DEVICE", "cpu"),
]
KINDS = [
    *("COCO-Detection/faster_rcnn_R_50_C4_1x", "COCO-Detection/faster_rcnn_R_50_DC5_1x"),
    *("COCO-Detection/retinanet_R_50_FPN_1x", "COCO-Detection/rpn_R_50_C4_1x"),
    *("COCO-Detection/rpn_R_50_FPN_1x", "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x"),
    *(
        "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x",
        "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x",
    ),
    *("Misc/cascade_mask_rcnn_R_50_FPN_1x", "Misc/mask_rcnn_R_50_FPN_3x_gn"),
    *("Misc/mask_rcnn_R_50_FPN_3x_syncbn", "PascalVOC-Detection/faster_rcnn_R_50_C4"),
    *("LVISv0.5-InstanceSegmentation/mask_rcnn_R_50_FPN_1x", "Cityscapes/mask_rcnn_R_50_FPN"),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_the_zoo_runs(name, tmp_path):
    cfg = zoo_config(name)
    # a keypoint head is one of Detectron2's own size
    narrow = ["MODEL.DEVICE", "cpu"] if "Keypoint" in name else NARROW
    cfg.merge_from_list(narrow)
    torch.manual_seed(0)
    stock = build_model(cfg)
    weights = str(tmp_path / "weights.pth")
    torch.save({"model": stock.state_dict()}, weights)
    tiny = ["INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 96]
    predictor = Predictor(load_config(name, [*narrow, *tiny, "MODEL.WEIGHTS", weights]))
    (found,) = predictor([noise(70, 90)])[0].values()
    assert found.image_size == (70, 90)
    assert len(predictor.class_names) == cfg.MODEL.ROI_HEADS.NUM_CLASSES or "Mask" not in name


def test_a_run_is_loaded_by_its_folder(row_config, tmp_path, monkeypatch):
    run = tmp_path / "run"
    small = [*SMALL[6:10], "INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 64]
    cfg = row_config(ROW, *small, "OUTPUT_DIR", run)
    with pytest.raises(UserError, match="holds no config.yaml; name a folder that train_net.py"):
        Predictor.from_run(run)
    run.mkdir()
    # trained where there is a GPU
    (run / "config.yaml").write_text(cfg.dump().replace("DEVICE: cpu", "DEVICE: cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="holds no checkpoint; name"):
        Predictor.from_run(run)
    (run / "model_0000003.pth").write_bytes(b"half a check")
    names = ["cod", "eel", "ray", "carp", "bass"]
    saver = SafeCheckpointer(build_model(cfg.clone()), str(run), class_names=names)
    for name in ("model_0000002", "model_final", "model_best"):
        saver.save(name)
        predictor = Predictor.from_run(run, ["INPUT.MIN_SIZE_TEST", 80])
        assert predictor.model.model.weights_origin.path == str(run / f"{name}.pth")
        assert predictor.class_names == predictor.metadata.thing_classes == names
    assert (predictor.cfg.INPUT.MIN_SIZE_TEST, predictor.cfg.MODEL.DEVICE) == (80, "cpu")
    own = str(run / "model_0000002.pth")
    predictor = Predictor.from_run(run, ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", own])
    assert predictor.model.model.weights_origin.path == own
    own = str(tmp_path / "elsewhere.pth")
    (run / "model_final.pth").rename(own)
    for other in run.glob("*.pth"):
        other.unlink()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # as where there is a GPU
    predictor = Predictor.from_run(run, ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", own])
    assert predictor.cfg.MODEL.DEVICE == "cpu"
    assert predictor.model.model.weights_origin.path == own


# --- the last NMS

NMS = [
    "MODEL.FPN.OUT_CHANNELS", 32, "INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 64,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, "MODEL.RETINANET.SCORE_THRESH_TEST", 0.0,
]  # fmt: skip
CASCADE = [
    *("MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
    *("MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE", 224),
]
CLIPPING = ["MODEL.META_ARCHITECTURE", "ClippingRetinaNet"]


def found_by(model):
    """Return boxes (R, 4) and classes (R,) that a model finds in noise; proposals have class 0."""
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        ((found,),) = (result.values() for result in model([{"image": image}]))
    if found.has("proposal_boxes"):
        return found.proposal_boxes.tensor, torch.zeros(len(found))
    return found.pred_boxes.tensor, found.pred_classes


@pytest.mark.parametrize(
    "row, opts",
    [
        ("Faster-RCNN/faster_rcnn_R_18_FPN", []),
        ("Faster-RCNN/faster_rcnn_R_18_FPN", CASCADE),
        ("RetinaNet/retinanet_R_18_FPN", []),
        ("RetinaNet/retinanet_R_18_FPN", CLIPPING),
        ("RPN/rpn_R_18_FPN", []),
    ],
)
def test_the_last_nms(row_config, row, opts):
    torch.manual_seed(0)
    model = build_model(row_config(f"quick/{row}", *NMS, *opts)).eval()
    set_final_nms(model, 0.2, 100_000)
    boxes, classes = found_by(model)
    # An RPN's NMS runs within each level, and a RetinaNet's boxes are clipped after it.
    if "Faster" in row or opts is CLIPPING:
        ious = box_iou(boxes, boxes).fill_diagonal_(0)
        assert float(ious[classes[:, None] == classes].max()) <= 0.2 + 1e-4
    set_final_nms(model, 1.0)
    assert 1 < len(boxes) < len(found_by(model)[0])
    set_final_nms(model, 1.0, 7)
    assert len(found_by(model)[0]) == 7


@pytest.mark.parametrize("row", ["Faster-RCNN/faster_rcnn_R_18_C5", "RetinaNet/retinanet_R_18_FPN"])
def test_a_class_has_a_threshold_of_its_own(row_config, row):
    cfg = row_config(f"quick/{row}", "INPUT.MIN_SIZE_TEST", 150)
    model, image = random_detector(cfg), image_of(120, 150)
    set_final_nms(model, 0.5, 10_000)  # more than the best hundred, which depend on thresholds
    set_score_threshold(model, 0.05)
    boxes, scores, classes = detect(model, image)
    own = [float(scores[classes == k].median()) if (classes == k).any() else 0.5 for k in range(5)]
    enough = scores > torch.tensor(own)[classes]
    assert 0 < enough.sum() < len(scores)
    for wrong in (own[:4], [*own, 0.5]):
        with pytest.raises(UserError, match=f"{len(wrong)} thresholds .* the model has 5 classes"):
            set_score_threshold(model, wrong)
    set_score_threshold(model, own)
    for found, expected in zip(detect(model, image), (boxes, scores, classes), strict=True):
        torch.testing.assert_close(found, expected[enough])
    # the same from what the model returned, as in the demo
    instances = Instances((120, 150), pred_boxes=Boxes(boxes), scores=scores, pred_classes=classes)
    shown = detections_above({"instances": instances}, own)
    assert len(shown) == (scores >= torch.tensor(own)[classes]).sum()


def test_proposals_have_no_threshold_of_a_class(row_config):
    with pytest.raises(UserError, match="has no classes"):
        set_score_threshold(build_model(row_config("quick/RPN/rpn_R_18_FPN")), 0.5)


def test_thresholds_that_are_not_one_for_each_class_are_refused(row_config, predictor):
    """Such as one for each of torchvision's 91 columns."""
    cfg = row_config("quick/RPN/rpn_R_18_FPN")
    rpn = Explainer(cfg, build_model(cfg))
    calls = [(predictor.detect, 91, 80), (rpn.predictor.detect, 1, "no"), (rpn.explain, 1, "no")]
    for call, number, classes in calls:
        says = f"{number} thresholds are given, and the model has {classes} classes; give one"
        with pytest.raises(UserError, match=says):
            call(noise(96, 96), threshold=[0.5] * number)


def test_thresholds_of_classes_lie_where_the_model_does(row_config):
    model = build_model(row_config(ROW)).to("meta")
    set_score_threshold(model, [0.5] * 5)
    assert model.roi_heads.box_predictor.test_score_thresh.device.type == "meta"


@pytest.fixture
def retinanet(row_config):
    """A prepared RetinaNet that finds five objects and more in noise."""
    sizes = ["INPUT.MIN_SIZE_TEST", 96, "MODEL.RETINANET.SCORE_THRESH_TEST", 0.005]
    cfg = row_config("quick/RetinaNet/retinanet_R_18_FPN", *sizes)
    predictor = Predictor(cfg, random_detector(cfg))
    assert len(predictor(noise(96, 140))["instances"]) > 5
    return predictor


def test_settings_of_a_prepared_retinanet_are_its_copys(retinanet):
    assert Predictor(retinanet.cfg, retinanet.model).model is retinanet.model
    retinanet.model.max_detections_per_image = 3
    assert len(retinanet(noise(96, 140))["instances"]) == 3
    for copied in (copy.deepcopy(retinanet.model), pickle.loads(pickle.dumps(retinanet.model))):
        assert copied.max_detections_per_image == 3
    retinanet.model.mine = 5
    assert not hasattr(retinanet.model.model, "mine")
    set_final_nms(retinanet.model, 0.5, 2)
    assert len(retinanet(noise(96, 140))["instances"]) == 2
    set_score_threshold(retinanet.model, 1.0)
    assert len(retinanet(noise(96, 140))["instances"]) == 0


def test_a_prepared_model_and_its_copy_may_have_attributes_of_one_name():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 3, 1)

        @property
        def dtype(self):
            return self.layer.weight.dtype

        def inference(self):
            return "plain"

    prepared = prepare_model(Own())
    assert (prepared.dtype, prepared.model.dtype) == (None, torch.float32)
    with patch.object(prepared, "inference", lambda: "patched"):
        assert prepared.inference() == "patched"
    assert prepared.inference() == "plain"


@pytest.mark.parametrize("shape", [(3, 100, 140), (100, 140, 5), (100, 140, 2)])
def test_detect_refuses_arrays_that_a_call_refuses(predictor, shape):
    for call in (predictor, predictor.detect):
        with pytest.raises(UserError, match="is no "):
            call(np.zeros(shape, np.uint8))
