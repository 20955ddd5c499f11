"""Pretraining on crops of the data: what is cut, and what the checkpoint fills."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.structures import BoxMode
from PIL import Image

from fpn_d2 import UserError, load_config
from fpn_d2.checkpoint import SafeCheckpointer
from fpn_d2.config import changed
from fpn_d2.data import load_train_dataset
from fpn_d2.engine.trainer import Trainer
from fpn_d2.experiments import pretraining
from fpn_d2.experiments.pretraining import (
    _CUT_SIZE,
    CONTEXT,
    CropClassifier,
    cut_crops,
    pretrain_backbone,
)

ROW = "configs/quick/RPN/rpn_R_18_FPN.yaml"


@pytest.fixture
def cfg(repo, tiny_opts):
    """An RPN on the tiny data."""
    return load_config(repo / ROW, tiny_opts)


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
    # the object has 40 of the 60 px that are cut, so its share of the area is (1 / context)^2
    red = (crops[0, 0] > 200).float().mean().item()
    assert red == pytest.approx(CONTEXT**-2, rel=0.1)
    assert crops[0, 0, _CUT_SIZE // 2, _CUT_SIZE // 2] == 255


def test_a_crop_has_the_whole_of_a_long_object(record):
    """The red square's upper quarter, 40 x 10 px, in 60 x 60 px that are cut."""
    record["annotations"][0]["bbox"] = [50, 30, 40, 10]
    crops, _ = cut_crops([record], "RGB", num_classes=5)
    half = _CUT_SIZE // 2
    below = (crops[0, 0, half:] > 200).float().mean().item()
    # below the object's middle, the square goes on for 35 px, of which 30 are cut
    assert below == pytest.approx(40 * 30 / (60 * 30), rel=0.1)
    above = (crops[0, 0, :half] > 200).float().mean().item()
    assert above == pytest.approx(40 * 5 / (60 * 30), rel=0.2)


def test_a_background_lies_in_the_image_apart_from_its_objects():
    rng, boxes = np.random.default_rng(0), np.array([[0.0, 0, 30, 20]] * 200)
    drawn = pretraining._background_boxes(rng, boxes, height=120, width=400)
    assert len(drawn) > 100
    assert np.allclose(drawn[:, 2:] - drawn[:, :2], (30, 20))  # an object's size
    assert drawn.min() >= 0
    assert 350 < drawn[:, 2].max() <= 400
    assert 110 < drawn[:, 3].max() <= 120
    width, height = np.maximum((30, 20) - drawn[:, :2], 0).T  # of what both cover
    assert (width * height < 0.1 * (2 * 600 - width * height) + 1e-6).all()


@pytest.mark.parametrize("image_format", ["BGR", "RGB", "L", "YUV-BT.601"])
def test_crops_are_as_the_network_takes_them(record, image_format):
    (rgb, _), (crops, _) = (cut_crops([record], name, 5) for name in ("RGB", image_format))
    red, green, blue = rgb.double().unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601
    expected = {
        "BGR": [blue, green, red],
        "RGB": [red, green, blue],
        "L": [luma],
        "YUV-BT.601": [luma / 255, 0.492 * (blue - luma) / 255, 0.877 * (red - luma) / 255],
    }[image_format]
    assert crops.dtype == (torch.float32 if image_format == "YUV-BT.601" else torch.uint8)
    atol = {"L": 0.51, "YUV-BT.601": 1e-3}.get(image_format, 0)
    torch.testing.assert_close(crops.double(), torch.stack(expected, 1), rtol=0, atol=atol)


def test_the_background_shows_no_object(record):
    crops, classes = cut_crops([record] * 20, "RGB", num_classes=5)
    background = crops[classes == 5]
    assert len(background)
    # a box whose IoU with an object is below 0.1 can still show a corner of it in its context
    assert all((crop[0] > 200).float().mean() < 0.25 for crop in background)


def test_an_image_without_objects_gives_no_crops(record):
    empty = {**record, "annotations": []}
    crops, classes = cut_crops([record, empty], "RGB", num_classes=5)
    assert len(crops) == len(classes) <= 2
    with pytest.raises(UserError, match="annotate some"):
        cut_crops([empty], "RGB", num_classes=5)


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


def test_the_classifier_averages_the_coarsest_map():
    class Network(torch.nn.Module):
        def output_shape(self):
            fine, coarse = ShapeSpec(channels=1, stride=4), ShapeSpec(channels=2, stride=8)
            return {"fine": fine, "coarse": coarse}

        def forward(self, x):
            return {"fine": x, "coarse": torch.cat([x, 2 * x], dim=1)}

    model = CropClassifier(Network(), num_classes=3)
    x = torch.arange(4.0).reshape(1, 1, 2, 2)  # mean 1.5
    expected = model.linear.weight @ torch.tensor([1.5, 3.0]) + model.linear.bias
    assert torch.allclose(model(x)[0], expected)


def test_the_checkpoint_fills_the_whole_bottom_up_network(cfg, tmp_path):
    path = str(tmp_path / "start" / "R-18.pkl")
    accuracy, iterations, _, held_out = pretrain_backbone(cfg, path, iterations=2, batch_size=4)
    assert 0 <= accuracy <= 1
    assert (iterations, held_out) == (2, 0)
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


@pytest.mark.parametrize(
    ("name", "says"),
    [("R-18.pth", r"R-18.pth: MODEL.WEIGHTS reads .* \*.pkl"), ("folder.pkl", "folder.pkl"),
     ("file/R-18.pkl", "R-18.pkl could not be written")],
)  # fmt: skip
def test_a_file_that_cannot_be_written_is_refused_before_the_data_are_read(
    cfg, tmp_path, name, says, monkeypatch
):
    (tmp_path / "folder.pkl").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr(pretraining, "load_train_dataset", lambda _: pytest.fail("read"))
    with pytest.raises(UserError, match=says):
        pretrain_backbone(cfg, str(tmp_path / name))


def test_a_batch_of_one_has_no_variance(cfg, tmp_path):
    with pytest.raises(UserError, match="--batch-size is 1: give 2 or more"):
        pretrain_backbone(cfg, str(tmp_path / "x.pkl"), batch_size=1)


def test_held_out_crops_end_the_training_where_they_stop_rising(cfg, tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "_EVERY", 1)
    # rises twice; three without a rise end the first learning rate, three more the second
    measured = iter([0.5, 0.7, 0.6, 0.7, 0.701, 0.701, 0.6, 0.6, 0.6, 0.6])
    seen, rates, weights = [], [], []

    def accuracy(training, crops, classes):
        seen.append((len(crops), len(classes)))
        state = training.model.bottom_up.state_dict()
        weights.append({name: value.clone() for name, value in state.items()})
        rates.append(training.optimizer.param_groups[0]["lr"])
        return next(measured)

    monkeypatch.setattr(pretraining._Training, "_accuracy", accuracy)
    path = tmp_path / "x.pkl"
    done = pretrain_backbone(cfg, str(path), iterations=50, batch_size=4, held_out=0.5)
    assert (done.accuracy, done.iterations) == (0.701, 5)  # the best, and its iteration
    assert rates == [0.05] * 5 + [pytest.approx(0.005)] * 3
    assert set(seen) == {(done.held_out, done.held_out)}
    assert min(done.crops, done.held_out) > 0
    kept = pickle.loads(path.read_bytes())["model"]
    assert all(torch.equal(weights[4][name], torch.tensor(value)) for name, value in kept.items())


def test_no_crop_is_of_a_held_out_image(cfg, tmp_path, monkeypatch):
    images, counts = [], []

    def cut(records, *words):
        crops, classes = cut_crops(records, *words)
        images.append({record["file_name"] for record in records})
        counts.append(len(crops))
        return crops, classes

    monkeypatch.setattr(pretraining, "cut_crops", cut)
    path = str(tmp_path / "x.pkl")
    done = pretrain_backbone(cfg, path, iterations=1, batch_size=2, held_out=0.25)
    held, rest = images
    every = {record["file_name"] for record in load_train_dataset(cfg)}
    assert not held & rest
    assert held | rest == every
    assert len(held) == round(len(every) / 4)
    assert (done.held_out, done.crops) == tuple(counts)


class Mean(torch.nn.Module):
    """A network of one weight, for each channel, whose map is the input times it."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3, 1, 1))
        self.modes, self.seen = [], []

    def output_shape(self):
        return {"out": ShapeSpec(channels=3, stride=1)}

    def forward(self, x):
        self.modes.append(self.training)
        self.seen.append(x)
        return {"out": x * self.weight}


@pytest.fixture
def training(cfg):
    """A training on 300 crops of a single colour, which is their class: 0, 1 or 2."""
    classes = torch.arange(300) % 3
    crops = torch.zeros(300, 3, _CUT_SIZE, _CUT_SIZE, dtype=torch.uint8)
    crops[torch.arange(300), classes] = 255
    cfg = changed(cfg, {"MODEL.PIXEL_STD": [2.0, 4.0, 8.0]})
    return pretraining._Training(CropClassifier(Mean(), 3), crops, classes, cfg, batch_size=8)


def test_the_accuracy_is_that_of_all_crops_at_their_centres_in_eval_mode(training):
    with torch.no_grad():
        training.model.linear.weight.copy_(torch.eye(3))
        training.model.linear.bias.copy_(training.mean.flatten() / training.std.flatten())
    training.crops[..., :8, :] = training.crops[..., 72:, :] = 0  # beyond the centre's 64 px
    training.crops[..., :8] = training.crops[..., 72:] = 0
    right = training.classes.clone()
    right[[0, 298, 299]] = (right[[0, 298, 299]] + 1) % 3
    assert training._accuracy(training.crops, right) == pytest.approx(297 / 300)
    bottom_up = training.model.bottom_up
    pixels = torch.cat(bottom_up.seen) * training.std + training.mean
    torch.testing.assert_close(pixels, training.crops[..., 8:72, 8:72].float())
    assert set(bottom_up.modes) == {False}
    assert training.model.training


def test_the_gradient_is_that_of_one_batch(training, monkeypatch):
    monkeypatch.setattr(training.optimizer, "step", lambda: None)
    found = []
    for _ in range(2):
        training.generator.manual_seed(3)
        training._step()
        found.append(training.model.linear.weight.grad.clone())
    assert found[0].any()
    assert torch.equal(*found)


def test_the_rate_follows_one_cycle_and_the_last_tenth_is_told(training, monkeypatch):
    rates = []

    def step():
        rates.append(training.optimizer.param_groups[0]["lr"])
        training.optimizer.step()
        return len(rates)

    monkeypatch.setattr(training, "_step", step)
    assert training.run(20) == (19 + 20) / 2
    peak = rates.index(max(rates))
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    # PyTorch's cycle: from a 25th to all of it within 30 % of the steps, then to nearly nothing
    assert (rates[0], rates[peak]) == pytest.approx((0.05 / 25, 0.05))
    assert peak == pytest.approx(0.3 * 20, abs=1)
    assert rates[-1] < 1e-5


def test_crops_are_shifted_within_their_margin_and_half_of_them_flipped():
    pixels = torch.arange(_CUT_SIZE**2).view(1, 1, _CUT_SIZE, _CUT_SIZE).expand(4, -1, -1, -1)
    generator, offsets = torch.Generator().manual_seed(0), set()
    for _ in range(200):
        found = pretraining._augment(pixels, generator)
        y, x = divmod(int(found[-1, 0, 0, 0]), _CUT_SIZE)
        offsets.add((y, x))
        shifted = pixels[0, 0, y : y + 64, x : x + 64]
        assert torch.equal(found[:, 0], torch.stack([shifted.flip(1)] * 2 + [shifted] * 2))
    assert {y for y, _ in offsets} == {x for _, x in offsets} == set(range(_CUT_SIZE - 64 + 1))


def test_held_out_crops_are_classified_as_the_network_sees_them(cfg, tmp_path):
    done, again = (
        pretrain_backbone(cfg, str(tmp_path / name), iterations=2, batch_size=4, held_out=0.5)
        for name in ("a.pkl", "b.pkl")
    )
    assert done == again  # the seed decides the split and the rest
    hits = done.accuracy * done.held_out
    assert hits == pytest.approx(round(hits), abs=1e-4)


@pytest.mark.parametrize("share, says", [(1.0, "--held-out is 1"), (0.99, "none can be held out")])
def test_images_that_cannot_be_held_out(cfg, tmp_path, share, says):
    with pytest.raises(UserError, match=says):
        pretrain_backbone(cfg, str(tmp_path / "x.pkl"), held_out=share)


def test_another_bottom_up_network_learns_with_its_norms(repo, tiny_opts, tmp_path):
    """The config section of RegNets has a norm of its own, which is frozen by default."""
    regnet = ["MODEL.FPN.BOTTOM_UP", "build_regnet_backbone"]
    levels = ["MODEL.FPN.IN_FEATURES", "['s1', 's2', 's3', 's4']"]
    cfg = load_config(repo / ROW, [*tiny_opts, *regnet, *levels])
    assert cfg.MODEL.REGNETS.NORM == "FrozenBN"
    path = tmp_path / "regnet.pkl"
    pretrain_backbone(cfg, str(path), iterations=2, batch_size=4)
    weights = pickle.loads(path.read_bytes())["model"]
    means = {name: value for name, value in weights.items() if name.endswith("running_mean")}
    assert {name.split(".")[0] for name in means} == {"stem", "s1", "s2", "s3", "s4"}
    assert all(value.any() for value in means.values())  # they start at 0
    model = Trainer.build_model(cfg)
    SafeCheckpointer(model).load(str(path))
    for name, value in model.backbone.bottom_up.state_dict().items():
        assert torch.equal(value, torch.from_numpy(weights[name])), name


@pytest.fixture(params=["norm", "conv.weight"])
def frozen_network(request):
    """The name of a registered network, and what of it is frozen whatever the config says."""

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 1, 1)
            if request.param == "norm":
                self.norm = FrozenBatchNorm2d(1)
            else:
                self.conv.weight.requires_grad_(False)

        def output_shape(self):
            return {"out": ShapeSpec(channels=1, stride=4)}

    BACKBONE_REGISTRY._do_register("FrozenNetwork", lambda cfg, shape: Network())
    yield "FrozenNetwork", request.param
    del BACKBONE_REGISTRY._obj_map["FrozenNetwork"]


def test_a_network_with_a_frozen_part_is_refused(cfg, tmp_path, frozen_network):
    name, part = frozen_network
    cfg = changed(cfg, {"MODEL.FPN.BOTTOM_UP": name})
    with pytest.raises(UserError, match=rf"BOTTOM_UP {name} keeps {part} frozen \(1 in all\)"):
        pretrain_backbone(cfg, str(tmp_path / "x.pkl"), iterations=2)
    assert not (tmp_path / "x.pkl").exists()


def test_the_seed_decides_everything(cfg, tmp_path):
    weights = {}
    for name, seed, elsewhere in (("a", 1, 5), ("b", 1, 6), ("c", 2, 5)):
        torch.manual_seed(elsewhere)  # the caller's own random numbers
        before = torch.get_rng_state()
        path = tmp_path / f"{name}.pkl"
        pretrain_backbone(changed(cfg, {"SEED": seed}), str(path), iterations=2, batch_size=4)
        assert torch.equal(torch.get_rng_state(), before)
        weights[name] = pickle.loads(path.read_bytes())["model"]
    first = "stem.conv1.weight"
    assert all((weights["a"][key] == weights["b"][key]).all() for key in weights["a"])
    assert (weights["a"][first] != weights["c"][first]).any()
