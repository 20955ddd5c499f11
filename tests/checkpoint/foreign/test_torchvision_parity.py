"""torchvision's detectors against what the tool converts them to and a user loads.

The weights are random, as none may be downloaded, and scaled so that the models find objects.
torchvision alone builds and runs its models.
"""

import contextlib
import re
from types import SimpleNamespace

import convert_checkpoint as tool
import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection._utils import overwrite_eps
from torchvision.ops import FrozenBatchNorm2d

from fpn_d2 import UserError, load_model
from fpn_d2.checkpoint.foreign import torchvision_parity
from fpn_d2.checkpoint.foreign.torchvision_parity import compare_with_torchvision, noise_images

ROWS = {
    "fasterrcnn_resnet50_fpn": "torchvision/faster_rcnn_R_50_FPN",
    "retinanet_resnet50_fpn": "torchvision/retinanet_R_50_FPN",
}
# COCO's 80 categories: all numbers up to 90 but these
HOLES = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO = [number for number in range(1, 91) if number not in HOLES]


def spread(layer: nn.Module, outputs: Tensor, deviation: float, mean: float = 0.0) -> None:
    """Scale a layer with these outputs so that they have this deviation and mean."""
    factor = deviation / outputs.std()
    layer.weight.data.mul_(factor)
    layer.bias.data.copy_(layer.bias * factor + mean - outputs.mean() * factor)


def torchvision_model(kind: str, seed: int = 0) -> nn.Module:
    """A detector with random weights that finds some objects in noise."""
    torch.manual_seed(seed)
    model = getattr(detection, kind)(weights=None, weights_backbone=None).eval()
    for name, norm in model.named_modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.1)
            nn.init.uniform_(norm.weight, 0.1, 0.4 if name.endswith("bn3") else 1.2)
    with torch.no_grad():
        features = model.backbone(torch.randn(1, 3, 128, 160))
        if kind.startswith("retinanet"):
            levels = list(features.values())
            classes, boxes = model.head.classification_head, model.head.regression_head
            spread(classes.cls_logits, classes(levels), 1.2, -6.0)
            spread(boxes.bbox_reg, boxes(levels), 0.3)
            columns = classes.cls_logits.bias.data.reshape(9, 91)
            columns[:, [0, *HOLES]] = -20.0  # as training leaves them: nothing is of these classes
        else:
            calibrate_faster_rcnn(model, features)
    return model


def calibrate_faster_rcnn(model: nn.Module, features: dict[str, Tensor]) -> None:
    logits, deltas = model.rpn.head(list(features.values()))
    spread(model.rpn.head.cls_logits, torch.cat([x.flatten() for x in logits]), 2.0)
    spread(model.rpn.head.bbox_pred, torch.cat([x.flatten() for x in deltas]), 0.3)
    corners = torch.rand(64, 2, 2).sort(dim=1).values * torch.tensor([160.0, 128.0])
    heads = model.roi_heads
    pooled = heads.box_roi_pool(features, [corners.flatten(1)], [(128, 160)])
    found = heads.box_head(pooled)
    logits, deltas = heads.box_predictor(found)
    # Random RoIs differ little, and so would their classes.
    heads.box_predictor.cls_score.bias.data.sub_(logits.mean(dim=0))
    logits, deltas = heads.box_predictor(found)
    spread(heads.box_predictor.cls_score, logits - logits.mean(dim=0), 2.0)
    spread(heads.box_predictor.bbox_pred, deltas, 1.0)


@pytest.fixture
def convert(tmp_path, run_tool):
    """``convert(model, word, ...)``: run the tool on a model's weights; its exit code, stdout and
    stderr. The output is ``tmp_path / "ours.safetensors"``."""

    def run(model, *words):
        source = tmp_path / "theirs.pth"
        torch.save(model.state_dict(), source)
        result = run_tool(tool, source, tmp_path / "ours.safetensors", *words)
        source.unlink()
        return result

    return run


@pytest.fixture
def compare(tmp_path, row_config):
    """``compare(kind, model, images, ..., opts=[KEY, value, ...])``: load the converted weights,
    delete their file, and say for each list of images how far they are from the model."""

    def run(kind, model, *images, opts=()):
        target = tmp_path / "ours.safetensors"
        ours = load_model(row_config(ROWS[kind], "MODEL.WEIGHTS", target, *opts))
        target.unlink()
        found = [compare_with_torchvision(ours, model, some, COCO) for some in images]
        print(kind, found)
        return found

    return run


def check(found: dict[str, float], least: int, share: float = 0.995) -> None:
    assert {"features", "anchors", "head"} <= set(found)
    steps = ["features", "anchors", "head", "box_head", "scores"]
    assert all(found[step] < 1e-4 for step in steps if step in found), found
    assert found["detections"] >= least
    assert found["matched_share"] >= share, found


def freeze_without_eps(model: nn.Module) -> None:
    """Freeze the norms with an eps of 0, as torchvision does with published weights."""
    for module in list(model.modules()):
        for name, norm in list(module.named_children()):
            if isinstance(norm, nn.BatchNorm2d):
                frozen = FrozenBatchNorm2d(norm.num_features)
                frozen.load_state_dict(norm.state_dict())
                # ResNets from ImageNet have channels that never vary
                frozen.running_var[0], frozen.weight[0] = 1e-12, 1e-7
                setattr(module, name, frozen)
    overwrite_eps(model, 0.0)


@pytest.mark.slow
def test_a_faster_rcnn_of_frozen_norms(convert, compare):
    kind = "fasterrcnn_resnet50_fpn"
    model = torchvision_model(kind)
    model.rpn._post_nms_top_n["testing"] = 100  # fewer RoIs, for time
    freeze_without_eps(model)
    code, _, stderr = convert(model)
    assert code == 2
    assert "--norm-eps 0 for torchvision's published" in stderr
    assert convert(model, "--norm-eps", 0)[0] == 0
    opts = ["MODEL.RPN.POST_NMS_TOPK_TEST", 100]
    (found,) = compare(kind, model, noise_images(2), opts=opts)
    check(found, least=150, share=0.985)  # rounding may decide NMS otherwise for one or two
    assert {"box_head", "scores"} <= set(found)


@pytest.fixture(scope="module")
def ten_images():
    images = noise_images(10, seed=1)
    assert len({image.shape for image in images}) == 10
    return images


@pytest.mark.slow
def test_a_retinanet_that_the_tool_compares_too(convert, compare, repo, tmp_path, ten_images):
    kind = "retinanet_resnet50_fpn"
    model = torchvision_model(kind, seed=1)
    code, stdout, _ = convert(model, "--check", 2)
    assert code == 0
    found, found_in_ten = compare(kind, model, noise_images(2), ten_images)
    check(found, least=150)
    check(found_in_ten, least=500)
    printed = re.findall(r"^  (\w+) +([\d.e-]+)$", stdout, re.MULTILINE)
    assert {name: float(value) for name, value in printed} == pytest.approx(found, rel=1e-5)
    base = repo / "configs" / "torchvision" / "retinanet_R_50_FPN.yaml"
    other = tmp_path / "other.yaml"  # its strides are in other layers
    other.write_text(f"_BASE_: {base}\nMODEL: {{RESNETS: {{STRIDE_IN_1X1: True}}}}\n")
    code, _, stderr = convert(model, "--check", 1, "--config-file", other)
    assert code == 2
    assert "of the detections are torchvision's, so nothing is written" in stderr
    assert not (tmp_path / "ours.safetensors").exists()


@pytest.mark.slow
def test_a_faster_rcnn_on_ten_images_of_different_sizes(convert, compare, ten_images):
    kind = "fasterrcnn_resnet50_fpn"
    model = torchvision_model(kind, seed=1)
    assert convert(model)[0] == 0
    (found,) = compare(kind, model, ten_images)
    check(found, least=500)


def objects(count: int) -> Instances:
    """Return ``count`` boxes of class 0, side by side."""
    corners = 10.0 * torch.arange(count)[:, None] + torch.tensor([0.0, 0.0, 8.0, 8.0])
    classes = torch.zeros(count, dtype=torch.long)
    fields = {"pred_boxes": Boxes(corners), "scores": torch.ones(count), "pred_classes": classes}
    return Instances((64, 64), **fields)


class Finds(nn.Linear):
    """Replaces the converted model; finds ``count`` objects in any image."""

    def __init__(self, count: int):
        super().__init__(1, 1)
        self.count = count

    def preprocess_image(self, inputs: list) -> list:
        return inputs

    def forward(self, inputs: list) -> list:
        return [{"instances": objects(self.count)}]


@pytest.mark.parametrize(
    "ours, theirs, share, sentence",
    [
        (2, 2, 1.0, ""),
        (1, 2, 0.5, "only 50.0% of the detections are torchvision's"),
        (0, 2, 0.0, "only 0.0% of the detections are torchvision's"),
        (2, 0, 0.0, "only 0.0% of the detections are torchvision's"),
        (0, 0, 1.0, "torchvision's model finds nothing on noise, so .* try more images by --check"),
    ],
)
def test_a_model_that_finds_something_else_or_nothing_is_refused(
    monkeypatch, capsys, ours, theirs, share, sentence
):
    model = Finds(ours)
    monkeypatch.setattr("detectron2.modeling.build_model", lambda cfg: model)
    for name, result in {
        "build_torchvision": None,
        "_torchvision_outputs": {},
        "_outputs": {},
        "_torchvision_detections": (objects(theirs), 0.05),
    }.items():
        monkeypatch.setattr(torchvision_parity, name, lambda *_, result=result: result)
    args = SimpleNamespace(leave_out=[], check=1)
    conversion = SimpleNamespace(weights=model.state_dict(), labels=[1], norm_eps=0.0)
    refused = pytest.raises(UserError, match=sentence) if sentence else contextlib.nullcontext()
    with refused:
        tool.compare(args, SimpleNamespace(clone=dict), conversion, {})
    printed = dict(re.findall(r"^  (\w+) +([\d.]+)$", capsys.readouterr().out, re.MULTILINE))
    assert {name: float(value) for name, value in printed.items()} == {
        "detections": theirs,
        "matched_share": share,
    }
