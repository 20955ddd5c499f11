"""Running times: what is measured, in which order, and what two networks compute together."""

import dataclasses
import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances

from fpn_d2.experiments import FourStep, Row, Run, running_times
from fpn_d2.experiments.running_times import time_rows
from fpn_d2.utils import timing as utils_timing

OPTS = ("INPUT.MIN_SIZE_TEST", "64", "MODEL.DEVICE", "cpu", "SEED", "0")
OPTS += ("DATASETS.TRAIN", "('tiny_train',)", "DATASETS.TEST", "('tiny_val',)")
TINY_IMAGES = 4


@pytest.fixture
def clocked(monkeypatch):
    """``clocked(cost)``: a clock that only detectors move, by ``cost(name, call)`` seconds."""

    def install(cost):
        now, log = [0.0], []

        def build(_, row):
            calls = itertools.count()

            def detect(inputs):
                (image,) = inputs
                log.append((row.name, image))
                now[0] += cost(row.name, next(calls))

            cfg = SimpleNamespace(DATASETS=SimpleNamespace(TEST=("t_val",)))
            return detect, row.name == "fast", cfg

        monkeypatch.setattr(running_times, "_build", build)
        monkeypatch.setattr(running_times, "_images", lambda _: ["one", "two"])
        monkeypatch.setattr(utils_timing, "timer", lambda: now[0])
        return log

    return install


@pytest.fixture
def rows():
    return {
        name: Row(name, {"quick": f"quick/Faster-RCNN/faster_rcnn_R_18_{end}.yaml"})
        for name, end in (("fast", "FPN"), ("slow", "C4"))
    }


def test_the_median_of_the_measured_rounds_is_told(plan, tables, rows, clocked):
    # two images and four rounds, so the first two calls of each detector warm up
    costs = {"fast": [9, 9, 1, 2, 3, 4, 5, 60], "slow": [99, 99, 10, 10, 10, 30, 30, 30]}
    log = clocked(lambda name, call: costs[name][call])
    lines = []
    time_rows(plan, tables.table("time"), rows, lines.append)
    found = {}
    for name, row in rows.items():
        result = json.loads(Path(plan.timing_folder(row), "run.json").read_text())
        found[name] = result["results"]["t_val"]["timing"]
        assert result["iterations"] == 6
        assert set(result) >= {"commit", "machine", "versions", "losses"}
        # kept apart from the training
        assert plan.runner.result(plan.run(row, 0)) is None
        assert plan.results(tables.table("time"), row) == {0: result}
    assert found == {
        "fast": {"seconds": 3.5, "fastest": 1.0, "slowest": 60.0, "trained": True},
        "slow": {"seconds": 20.0, "fastest": 10.0, "slowest": 30.0, "trained": False},
    }
    assert lines == [
        "table time (fast) fast: 3.500 s an image",
        "table time (slow) slow: 20.000 s an image",
    ]
    # detectors take turns on each image
    assert log == [(name, image) for image in ("one", "two") for name in rows] * 4


def test_each_row_sees_the_images_of_its_own_config(plan, tables, rows, monkeypatch):
    """A round takes only as many images as every row has, here two."""
    seen = []

    def build(_, row):
        def detect(inputs):
            seen.append((row.name, *inputs))

        test = {"fast": ("fast_val",), "slow": ("slow_val",)}[row.name]
        return detect, True, SimpleNamespace(DATASETS=SimpleNamespace(TEST=test))

    images = {"fast_val": ["f1", "f2"], "slow_val": ["s1", "s2", "s3"]}
    monkeypatch.setattr(running_times, "_build", build)
    monkeypatch.setattr(running_times, "_images", lambda cfg: images[cfg.DATASETS.TEST[0]])
    time_rows(plan, tables.table("time"), rows, lambda _: None)
    assert seen == [("fast", "f1"), ("slow", "s1"), ("fast", "f2"), ("slow", "s2")] * 4
    for name, row in rows.items():
        result = json.loads(Path(plan.timing_folder(row), "run.json").read_text())
        assert list(result["results"]) == [f"{name}_val"]


# -- real networks -----------------------------------------------------------------------------


@pytest.fixture
def image(make_input):
    given = make_input(64, 64, [])
    return {key: given[key] for key in ("image", "height", "width")}


@pytest.fixture
def small_plan(plan, tiny_opts, monkeypatch):
    """The plan with runs on the tiny data."""
    monkeypatch.setattr(type(plan), "_opts", lambda *_: OPTS)
    return plan


def weights_of(model, path):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": model.state_dict()}, path)


@pytest.fixture
def separate(small_plan, tables):
    """A trained RPN and a trained Fast R-CNN, as "not shared" leaves them."""
    training = small_plan.run(tables.table("5").rows["not_shared"], 0)
    models = []
    for seed, run in enumerate(training.separate_runs()):
        torch.manual_seed(seed)
        models.append(build_model(run.load_config()).eval())
        weights_of(models[-1], run.weights)
    yield models
    for run in training.separate_runs():
        Path(run.weights).unlink()


def test_not_shared_is_an_rpn_and_a_fast_rcnn_on_its_proposals(small_plan, tables, separate, image):
    detector, trained, _ = running_times._build(small_plan, tables.table("5").rows["not_shared"])
    assert trained is True
    rpn, fast = separate
    with torch.no_grad():
        # what Detectron2's ProposalNetwork and GeneralizedRCNN return, one after the other
        found = rpn([image])[0]["proposals"]
        given = Instances((64, 64))
        given.proposal_boxes = found.proposal_boxes[:1000]
        given.objectness_logits = found.objectness_logits[:1000]
        expected = fast.inference([{**image, "proposals": given}])[0]["instances"]
        (actual,) = detector([image])
    assert len(found) > 0
    assert len(expected) > 0
    assert torch.equal(actual["instances"].scores, expected.scores)
    assert torch.equal(actual["instances"].pred_boxes.tensor, expected.pred_boxes.tensor)


def test_a_row_on_fixed_proposals_is_timed_with_their_rpn(small_plan, tables, image):
    rows = tables.table("2").rows
    row = rows["c"]
    detector, trained, _ = running_times._build(small_plan, row)
    assert trained is False
    with torch.no_grad():
        (output,) = detector([image])
    assert isinstance(output["instances"], Instances)
    other = dataclasses.replace(row, proposals={"quick": "quick/RPN/rpn_R_18_C5.yaml"})
    assert small_plan.timing_folder(row) != small_plan.timing_folder(other)


def test_a_fast_rcnn_is_given_1000_proposals(image):
    """The paper tests on 1000; the quick RPN's config keeps 2000 in training."""
    given = []
    proposals = Instances((64, 64), objectness_logits=torch.arange(1500, 0, -1))
    fast = SimpleNamespace(
        preprocess_image=lambda inputs: SimpleNamespace(tensor=torch.zeros(1, 3, 64, 64)),
        inference=lambda inputs: given.append(inputs[0]["proposals"]),
    )
    rpn = SimpleNamespace(backbone=lambda x: {}, proposal_generator=lambda *_: ([proposals], {}))
    running_times._two_networks(rpn, fast)([image])
    assert given[0].objectness_logits.tolist() == list(range(1500, 500, -1))


def test_a_row_that_is_not_trained_is_timed_with_random_weights(small_plan, tables, image):
    detector, trained, cfg = running_times._build(small_plan, tables.table("5").rows["shared"])
    assert trained is False
    with torch.no_grad():
        (output,) = detector([image])
    assert isinstance(output["instances"], Instances)
    assert cfg.DATASETS.TEST == ("tiny_val",)


def test_random_weights_hold_the_statistics_of_an_image(small_plan, tables):
    """Activations that grow through frozen norms would make boxes of which NMS leaves a few."""
    config = {"quick": "Faster-RCNN/faster_rcnn_R_50_C4.yaml"}
    opts = ["MODEL.ROI_HEADS.NUM_CLASSES", "5", "MODEL.RPN.POST_NMS_TOPK_TEST", "5"]
    c4 = Row("C4", config, opts=opts)
    detector, trained, cfg = running_times._build(small_plan, c4)
    assert trained is False
    statistics = []
    for part in detector.__self__.modules():
        if hasattr(part, "running_var"):
            # now, since ReLU works in place
            part.register_forward_hook(lambda *call: statistics.append(torch.var_mean(call[-1])))
    with torch.no_grad():
        detector(running_times._images(cfg)[:1])
    assert len(statistics) == 1 + 3 * 16 + 4  # the stem, 16 bottleneck blocks and 4 shortcuts
    for variance, mean in statistics:
        assert variance.item() == pytest.approx(1, abs=1e-2)
        assert mean.item() == pytest.approx(0, abs=1e-3)


def test_the_first_seed_that_is_trained_is_timed(small_plan, tables):
    row = tables.table("5").rows["shared"]
    saved = []
    for seed in (1, 2):
        run = small_plan.run(row, seed)
        torch.manual_seed(seed)
        saved.append(build_model(run.load_config()))
        weights_of(saved[-1], run.weights)
    # a run that was cut has a folder without weights
    Path(small_plan.run(row, 0).folder).mkdir()
    detector, trained, _ = running_times._build(small_plan, row)
    assert trained is True
    actual, expected, other = (next(model.parameters()) for model in (detector.__self__, *saved))
    assert torch.equal(actual, expected)
    assert not torch.equal(actual, other)


def test_two_networks_of_which_one_is_trained_are_not(small_plan, tables, separate, monkeypatch):
    settled = []
    monkeypatch.setattr(running_times, "settle_norms", lambda part, _: settled.extend(part))
    row = tables.table("5").rows["not_shared"]
    training = small_plan.run(row, 0)
    assert isinstance(training, FourStep)
    path = Path(training.separate_runs()[1].weights)
    path.rename(path.with_suffix(".away"))
    _, trained, _ = running_times._build(small_plan, row)
    path.with_suffix(".away").rename(path)
    assert trained is False
    (fast_rcnn,) = settled  # the trained RPN keeps its norms
    assert hasattr(fast_rcnn, "roi_heads")


def test_images_are_those_of_the_test_set_at_its_size(repo, tiny_opts, monkeypatch):
    """The file of proposals that a Fast R-CNN's config names is not read: its RPN makes them."""
    path = str(repo / "configs/quick/Fast-RCNN/fast_rcnn_R_18_FPN.yaml")
    images = running_times._images(Run(path, "none", OPTS).load_config())
    assert len(images) == TINY_IMAGES  # the set has no more
    assert len({image["file_name"] for image in images}) == TINY_IMAGES
    assert {min(image["image"].shape[1:]) for image in images} == {64}  # INPUT.MIN_SIZE_TEST
    monkeypatch.setattr(running_times, "_IMAGES", 2)
    assert len(running_times._images(Run(path, "none", OPTS).load_config())) == 2


def test_a_real_table_of_two_rows(small_plan, tables, rows):
    lines = []
    picked = dataclasses.replace(tables.table("time"), rows=rows)
    with torch.no_grad():
        time_rows(small_plan, picked, rows, lines.append)
    for name, row in rows.items():
        times = small_plan.results(picked, row)[0]["results"]["tiny_val"]["timing"]
        assert 0 < times["fastest"] <= times["seconds"] <= times["slowest"], name
    assert len(lines) == 2
