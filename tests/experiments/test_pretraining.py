"""The start from crops of the data: what is cut, and what the checkpoint fills."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import BoxMode
from PIL import Image

from fpn_d2 import UserError, load_config
from fpn_d2.checkpoint import SafeCheckpointer
from fpn_d2.engine.trainer import Trainer
from fpn_d2.experiments.pretraining import (
    _CUT_SIZE,
    CONTEXT,
    CropClassifier,
    cut_crops,
    pretrain_backbone,
)

ROW = "configs/quick/RPN/rpn_R_18_FPN.yaml"


@pytest.fixture
def record(tmp_path):
    """A grey image of 120 x 160 with a red square of 40 px."""
    image = np.full((120, 160, 3), 128, np.uint8)
    image[30:70, 50:90] = (255, 0, 0)
    Image.fromarray(image).save(tmp_path / "image.png")
    box = {"bbox": [50, 30, 40, 40], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 3}
    crowd = {**box, "iscrowd": 1}
    return {"file_name": str(tmp_path / "image.png"), "annotations": [box, crowd]}


def test_a_crop_is_the_object_with_its_context(record):
    crops, classes = cut_crops([record], "RGB", num_classes=5)
    assert crops.dtype == torch.uint8
    assert crops.shape[1:] == (3, _CUT_SIZE, _CUT_SIZE)
    assert classes[0] == 3
    # 40 px of the 60 px that are cut: the share of the crop's area is (1 / context)^2
    red = (crops[0, 0] > 200).float().mean().item()
    assert red == pytest.approx(CONTEXT**-2, rel=0.1)
    assert crops[0, 0, _CUT_SIZE // 2, _CUT_SIZE // 2] == 255


def test_the_background_shows_no_object(record):
    found = [cut_crops([record], "RGB", num_classes=5, seed=seed) for seed in range(20)]
    background = [
        crop for crops, classes in found for crop, k in zip(crops, classes, strict=True) if k == 5
    ]
    assert background
    # boxes that overlap an object by less than 0.1 can show a corner of it within their context
    assert all((crop[0] > 200).float().mean() < 0.25 for crop in background)


def test_an_image_without_objects_gives_no_crops(record):
    empty = {**record, "annotations": []}
    crops, classes = cut_crops([record, empty], "RGB", num_classes=5)
    assert len(crops) == len(classes) <= 2


@pytest.mark.parametrize("fault", ["cut", "away", "of another size"])
def test_an_image_that_cannot_be_read_is_named(record, fault):
    path = Path(record["file_name"])
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:100])
    elif fault == "away":
        path.unlink()
    else:
        record = {**record, "width": 161, "height": 120}
    with pytest.raises(UserError, match=rf"image {path} .*: replace it, or take it out"):
        cut_crops([record], "RGB", num_classes=5)


def test_no_object_at_all_is_said(record):
    with pytest.raises(UserError, match="annotate some"):
        cut_crops([{**record, "annotations": []}], "RGB", num_classes=5)


def test_the_classifier_averages_the_coarsest_map():
    class Network(torch.nn.Module):
        def output_shape(self):

            return {
                "fine": ShapeSpec(channels=1, stride=4),
                "coarse": ShapeSpec(channels=2, stride=8),
            }

        def forward(self, x):
            return {
                "fine": x,
                "coarse": x.repeat(1, 2, 1, 1) * torch.tensor([1.0, 2.0]).view(2, 1, 1),
            }

    model = CropClassifier(Network(), num_classes=3)
    x = torch.arange(4.0).reshape(1, 1, 2, 2)  # mean 1.5
    expected = model.linear.weight @ torch.tensor([1.5, 3.0]) + model.linear.bias
    assert torch.allclose(model(x)[0], expected)


def test_the_checkpoint_fills_the_whole_bottom_up_network(repo, tiny_opts, tmp_path):
    cfg = load_config(repo / ROW, tiny_opts)
    path = str(tmp_path / "start" / "R-18.pkl")
    accuracy = pretrain_backbone(cfg, path, iterations=2, batch_size=4)
    assert 0 <= accuracy <= 1
    model = Trainer.build_model(cfg)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    SafeCheckpointer(model).load(path)
    with open(path, "rb") as file:
        weights = pickle.load(file)["model"]
    for name, value in model.state_dict().items():
        stem, _, inner = name.partition("backbone.bottom_up.")
        expected = before[name] if stem else torch.from_numpy(np.asarray(weights.pop(inner)))
        assert torch.equal(value, expected), name
    assert not weights


def test_the_seed_decides_everything(repo, tiny_opts, tmp_path):
    weights = {}
    for name, seed, elsewhere in (("a", 1, 5), ("b", 1, 6), ("c", 2, 5)):
        cfg = load_config(repo / ROW, [*tiny_opts, "SEED", str(seed)])
        torch.manual_seed(elsewhere)  # what the caller has drawn before
        before = torch.get_rng_state()
        pretrain_backbone(cfg, str(tmp_path / f"{name}.pkl"), iterations=2, batch_size=4)
        assert torch.equal(torch.get_rng_state(), before)
        with open(tmp_path / f"{name}.pkl", "rb") as file:
            weights[name] = pickle.load(file)["model"]
    first = "stem.conv1.weight"
    assert all((weights["a"][key] == weights["b"][key]).all() for key in weights["a"])
    assert (weights["a"][first] != weights["c"][first]).any()
