"""The best checkpoint, early stopping, validation losses, averaged weights, accumulation."""

import copy
import json
import logging
import os
import random
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.engine import SimpleTrainer
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.modeling import build_model
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from model_zoo import different
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from fpn_d2 import UserError, load_model
from fpn_d2.data import build_loss_loader, build_test_loader
from fpn_d2.engine import Trainer
from fpn_d2.engine.monitoring import (
    AccumulatingOptimizer,
    AccumulatingScaler,
    BestKeeper,
    WeightAverager,
    validation_losses,
)
from fpn_d2.engine.output_dir import clear_output_dir, losses_of
from fpn_d2.evaluation import metric_names

from .test_hooks import train_until

VAL = "('tiny_val',)"
AR = "box_proposals/AR@100"


# --- the best checkpoint and early stopping


@pytest.fixture
def scripted(trainer, monkeypatch):
    """``scripted(values, *opts)``: a trainer whose evaluation after an iteration gives its value.

    Its ``evaluated`` lists the iterations whose weights were evaluated.
    """

    def build(values, *opts, resume=False):
        def test(*_):
            made.evaluated.append(min(made.iter, made.max_iter - 1))
            return {"box_proposals": {"AR@100": values[made.evaluated[-1]]}}

        monkeypatch.setattr(Trainer, "test", test)
        words = ["TEST.BEST_METRIC", AR, "TEST.EVAL_PERIOD", "1", *opts]
        made = trainer(*words, test=VAL, resume=resume)
        made.evaluated = []
        return made

    return build


def content(made, name):
    return torch.load(Path(made.cfg.OUTPUT_DIR, f"{name}.pth"), weights_only=True)


def last_metrics(folder):
    return json.loads(Path(folder, "metrics.json").read_text().splitlines()[-1])


@pytest.mark.parametrize(
    "metric, is_lowest",
    [
        *(("validation_loss", True), ("bbox/AP", False), ("bbox/AP-leaf/blossom", False)),
        *(("glossy_val/box_proposals/AR@1000", False), ("glossy_val/mine/loss", True)),
    ],
)
def test_the_best_of_a_loss_is_the_lowest(metric, is_lowest):
    keeper = BestKeeper(SimpleNamespace(period=1), metric, 0, None, True)
    assert keeper._compare(1.0, 2.0) == is_lowest


def test_the_best_is_kept(scripted):
    made = scripted([1.0, float("nan"), 3.0, 3.0, 2.0])
    made.train()
    best = content(made, "model_best")
    assert best["iteration"] == best["trainer"]["iteration"] == 2
    assert best["trainer"]["hooks"]["BestKeeper"]["best_metric"] == 3.0
    assert made.checkpointer.get_checkpoint_file().endswith("model_final.pth")


def test_the_best_may_be_the_last_and_of_a_loss_it_is_the_least(scripted, monkeypatch):
    losses = iter([5.0, 4.0, 4.5, 6.0, 3.0])
    monkeypatch.setattr(
        "fpn_d2.engine.trainer.validation_losses", lambda *_: {"validation_loss": next(losses)}
    )
    opts = ["TEST.BEST_METRIC", "validation_loss", "TEST.VALIDATION_LOSS", "True"]
    made = scripted([0.0] * 5, *opts)
    made.train()
    assert content(made, "model_best")["iteration"] == 4
    assert content(made, "model_final")["iteration"] == 4


def test_it_stops_when_the_metric_does_not_become_better(scripted, caplog):
    caplog.set_level(logging.INFO, "fpn_d2")
    values = [1.0, 2.0, 2.0, 1.5, 9.0]
    made = scripted(values, "TEST.PATIENCE", "2")
    made.train()
    assert made.evaluated == [0, 1, 2, 3]
    assert "Stopped early after iteration 3" in caplog.text
    assert content(made, "model_best")["iteration"] == 1
    final = content(made, "model_final")
    assert final["iteration"] == final["trainer"]["iteration"] == 3
    assert last_metrics(made.cfg.OUTPUT_DIR)[AR] == 1.5
    # Resumed, it stays stopped; with more patience, it goes on.
    again = scripted(values, "TEST.PATIENCE", "2", resume=True)
    again.train()
    assert (again.start_iter, again.max_iter) == (4, 4)
    more = scripted(values, "TEST.PATIENCE", "3", resume=True)
    more.train()
    assert (more.start_iter, content(more, "model_best")["iteration"]) == (4, 4)


def test_a_metric_that_was_never_a_number_stops_nothing(scripted):
    made = scripted([float("nan")] * 5, "TEST.PATIENCE", "2")
    made.train()
    assert made.evaluated == [0, 1, 2, 3, 4]
    assert not Path(made.cfg.OUTPUT_DIR, "model_best.pth").exists()


def test_expected_results_are_verified_after_an_early_stop(scripted):
    expected = ["TEST.EXPECTED_RESULTS", "[['box_proposals', 'AR@100', 1.0, 0.1]]"]
    made = scripted([1.0, 1.0, 1.0], "TEST.PATIENCE", "1", *expected)
    assert made.train() == {"box_proposals": {"AR@100": 1.0}}
    assert made.max_iter == 2


@pytest.mark.parametrize("lost, lacks", [(None, [3]), ((1, 3), [])])
def test_a_cut_training_keeps_and_stops_as_an_uncut_one(scripted, lost, lacks):
    """Checkpoints are saved after iterations 1 and 3, and the best one, which alone knows its own
    evaluation, after 1."""
    values = [1.0, 3.0, 2.0, 1.0, 2.0]
    opts = ["TEST.PATIENCE", "3"]
    whole = {"best_metric": 3.0, "best_iter": 1, "waited": 3, "_judged": 5, "metric": AR}
    whole["tests"] = ["tiny_val"]
    made = scripted(values, *opts)
    train_until(made, 4)
    for number in lost or ():
        Path(made.cfg.OUTPUT_DIR, f"model_{number:07d}.pth").unlink()
    resumed = scripted(values, *opts, resume=True)
    resumed.train()
    assert resumed.start_iter == (2 if lost else 4)
    assert resumed.evaluated == [*lacks, *range(resumed.start_iter, 5)]
    assert resumed.best_keeper.state_dict() == whole
    assert content(resumed, "model_best")["iteration"] == 1


def test_a_signal_cuts_the_evaluation_that_was_lacking(scripted, monkeypatch):
    train_until(scripted([0.0] * 5), 4)
    resumed = scripted([0.0] * 5, resume=True)
    cut = lambda *_: resumed.stopper._receive(signal.SIGINT, None)  # noqa: E731
    monkeypatch.setattr(Trainer, "test", cut)
    monkeypatch.setattr(resumed, "run_step", lambda: pytest.fail("went on"))
    with pytest.raises(SystemExit):
        resumed.train()
    names = {path.name for path in Path(resumed.cfg.OUTPUT_DIR).glob("model_0*.pth")}
    assert names == {"model_0000001.pth", "model_0000003.pth"}


def test_another_test_set_has_a_best_of_its_own(scripted):
    train_until(scripted([9.0] * 5), 4)
    other = scripted([1.0] * 5, "DATASETS.TEST", "('tiny_train',)", resume=True)
    assert other.best_keeper.best_metric is None


@pytest.mark.parametrize(
    "opts, says",
    [
        (["TEST.BEST_METRIC", "bbox/AP"], "'bbox/AP', which no .*box_proposals/AR@100, .*or to ''"),
        (["TEST.BEST_METRIC", "validation_loss"], "which no evaluation .* measures"),
        (["TEST.PATIENCE", "3", "TEST.EVAL_PERIOD", "2"], "TEST.PATIENCE 3 counts .*BEST_METRIC"),
        (["TEST.PATIENCE", "3", "TEST.BEST_METRIC", AR], "TEST.PATIENCE 3 .* TEST.EVAL_PERIOD"),
        (["TEST.PATIENCE", "-1"], "TEST.PATIENCE is -1; give 0 or more"),
        (["SOLVER.EMA_DECAY", "1.0"], "SOLVER.EMA_DECAY is 1.0; give a number from 0.0"),
        (["SOLVER.EMA_DECAY", "-0.1"], "SOLVER.EMA_DECAY is -0.1; give"),
        (["SOLVER.ACCUMULATE", "0"], "SOLVER.ACCUMULATE is 0; give 1 or more"),
    ],
)
def test_what_cannot_work_is_refused(tiny_config, monkeypatch, opts, says):
    monkeypatch.setattr(Trainer, "build_model", lambda *_: pytest.fail("built a model first"))
    with pytest.raises(UserError, match=says) as caught:
        Trainer(tiny_config(*opts))
    assert "\n" not in str(caught.value)


def test_with_several_test_sets_a_metric_is_named_with_its_own(tiny_config):
    words = ["DATASETS.TEST", "('tiny_val', 'tiny_train')", "TEST.BEST_METRIC"]
    assert Trainer._check_best_metric(tiny_config(*words, f"tiny_train/{AR}"))
    with pytest.raises(UserError, match=f"'{AR}', which no .*tiny_val/{AR}.*tiny_train/{AR}"):
        Trainer._check_best_metric(tiny_config(*words, AR))


def test_somebodys_evaluator_is_asked_after_the_first_evaluation(scripted, monkeypatch):
    monkeypatch.setattr(Trainer, "build_evaluator", lambda *_: object())
    made = scripted([1.0], "TEST.BEST_METRIC", "mine/best")
    with pytest.raises(UserError, match="'mine/best', .*reports box_proposals/AR@100;"):
        made.train()


ROWS = ["RPN/rpn_R_18_FPN", "Faster-RCNN/faster_rcnn_R_18_FPN", "Mask-Proposals/mask_R_18_5x5"]


@pytest.mark.parametrize("row", ROWS)
def test_the_names_are_those_of_an_evaluation(tiny_config, row):
    cfg = tiny_config("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, row=row)
    results = Trainer.test(cfg, build_model(cfg))
    names = metric_names(cfg, "tiny_val", Trainer.build_evaluator(cfg, "tiny_val"))
    assert sorted(names) == sorted(flatten_results_dict(results))


# --- validation loss


def test_validation_losses_are_means_and_change_nothing(tiny_config):
    random_in_training = [
        *("INPUT.RANDOM_FLIP", "horizontal", "INPUT.CROP.ENABLED", "True"),
        *("INPUT.AUGMENTATIONS", "[['RandomBrightness', 0.5, 0.6]]", "INPUT.MAX_SIZE_TRAIN", "50"),
        *("INPUT.MIN_SIZE_TRAIN", "(32, 48)", "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"),
    ]
    cfg = tiny_config("MODEL.RESNETS.NORM", "BN", *random_in_training)
    model = build_model(cfg).train()
    loader = build_loss_loader(cfg, "tiny_val")
    for own, tested in zip(
        [*loader, *loader], [*build_test_loader(cfg, "tiny_val")] * 2, strict=True
    ):
        assert torch.equal(own[0]["image"], tested[0]["image"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    with EventStorage() as storage:
        losses = validation_losses(model, [loader, loader], 7)
        assert not storage.latest()
    assert validation_losses(model, [loader], 7).keys() == losses.keys()
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert not different(model.state_dict(), before)
    assert all(module.training for module in model.modules())
    assert set(losses) == {
        *("validation_loss", "validation_loss_rpn_cls", "validation_loss_rpn_loc")
    }
    parts = losses["validation_loss_rpn_cls"] + losses["validation_loss_rpn_loc"]
    assert losses["validation_loss"] == pytest.approx(parts)


def test_a_mean_is_over_the_images():
    class Sum(nn.Module):
        """Two losses: the mean of the images' numbers, before and after a batch norm."""

        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(1)
            self.norm.running_mean.fill_(1.0)
            self.norm.running_var.fill_(4.0)

        def forward(self, batch):
            assert self.training
            x = torch.tensor([[float(image)] for image in batch])
            return {"loss_a": x.mean(), "loss_norm": self.norm(x).mean()}

    model = Sum()
    model.norm.eval()  # as in a frozen part
    losses = validation_losses(model, [[[1], [3]], [[8]]], 0)
    assert (model.training, model.norm.training) == (True, False)
    assert losses["validation_loss_a"] == pytest.approx(4.0)
    assert losses["validation_loss_norm"] == pytest.approx(1.5, rel=1e-4)  # (4 - 1) / sqrt(4)
    assert losses["validation_loss"] == pytest.approx(5.5, rel=1e-4)
    assert model.norm.running_mean.item() == 1.0
    assert model.norm.num_batches_tracked.item() == 0


def test_a_running_normalizer_stays():
    class Average(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, batch):
            self.loss_normalizer = getattr(self, "loss_normalizer", 100.0) + 1
            return {"loss": self.weight + self.loss_normalizer}

    fresh, used = Average(), Average()
    used.loss_normalizer = 5.0
    assert validation_losses(fresh, [[[0]]], 0) == {"validation_loss": 101.0}
    assert validation_losses(used, [[[0], [0]]], 0) == {"validation_loss": 6.5}
    assert not hasattr(fresh, "loss_normalizer")
    assert used.loss_normalizer == 5.0


def test_a_retinanets_validation_loss_depends_on_its_weights_alone(tiny_config):
    cfg = tiny_config(row="RetinaNet/retinanet_R_18_FPN")
    model, loader = build_model(cfg), build_loss_loader(cfg, "tiny_val")
    found = []
    for average, times in ((100.0, 1), (400.0, 1), (100.0, 2)):
        model.loss_normalizer = average
        found.append(validation_losses(model, [loader] * times, 7)["validation_loss"])
        assert model.loss_normalizer == average
    assert found == pytest.approx([found[0]] * 3, rel=1e-5)


# a test of one's own may return nothing
@pytest.mark.parametrize("measured", [{}, None, {"box_proposals": {"AR@100": 12.5}}])
def test_the_losses_lie_beside_the_metrics_and_not_in_the_losses_curve(
    measured, trainer, monkeypatch
):
    monkeypatch.setattr(Trainer, "test", lambda *_: measured)
    opts = ["TEST.VALIDATION_LOSS", "True", "TEST.EVAL_PERIOD", "2", "SOLVER.MAX_ITER", "2"]
    made = trainer(*opts, test=VAL)
    made.train()
    written = last_metrics(made.cfg.OUTPUT_DIR)
    assert written["validation_loss"] > 0
    assert written.get(AR) == (12.5 if measured else None)
    steps = [{"iteration": 0, "total_loss": 1.0, "validation_loss": 2.0}]
    assert losses_of(steps) == {"iteration": [0], "total_loss": [1.0]}


# --- averaged weights


def test_averaging_weights_reads_nothing_from_their_device():
    """On a GPU it would wait for the optimizer; from the meta device nothing can be read."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)).to("meta")
    averager = WeightAverager(model, 0.5)
    averager.trainer = SimpleNamespace(optimizer=None)
    averager.before_train()
    averager.after_step()
    assert averager.state_dict()["steps"] == 2


def test_averages_by_hand():
    model = nn.Linear(1, 1, bias=False)
    model.register_buffer("statistic", torch.zeros(1))

    def set_to(value):
        nn.init.constant_(model.weight, value)
        model.statistic.fill_(value)

    set_to(4.0)
    averager = WeightAverager(model, 0.25)
    averager.trainer = type("T", (), {"optimizer": None})
    averager.before_train()
    values = []
    for weight in (0.0, 8.0, 8.0):
        set_to(weight)
        averager.after_step()
        values.append(averager.model.weight.item())
        assert averager.model.statistic.item() == values[-1]
    first = 4 * 2 / 11  # the decay is (1 + n) / (10 + n) where that is less: 2/11, then 3/12
    second = first * 0.25 + 8 * 0.75
    assert values == pytest.approx([first, second, second * 0.25 + 8 * 0.75])
    assert model.weight.item() == 8.0
    # Batches whose gradients wait for a step do not count.
    averager.trainer.optimizer = type("O", (), {"waiting": 1})
    averager.after_step()
    assert averager.model.weight.item() == values[-1]
    # A checkpoint's model is the average, and a resumed training goes on with both.
    state = copy.deepcopy(averager.state_dict())
    again = WeightAverager(model, 0.25)
    model.load_state_dict(averager.model.state_dict())
    again.load_state_dict(state)
    again.before_train()
    assert (again.model.weight.item(), model.weight.item()) == (values[-1], 8.0)


def test_the_averages_are_evaluated_and_saved_and_the_trained_weights_go_on(trainer, monkeypatch):
    seen = []
    monkeypatch.setattr(Trainer, "test", lambda cls, cfg, model: seen.append(model) or {})
    made = trainer("SOLVER.EMA_DECAY", "0.5", "SOLVER.ACCUMULATE", "2", test=VAL)
    made.train()
    assert made.optimizer.waiting == 0  # the last of five batches got its step
    assert seen == [made.evaluated_model]
    final = content(made, "model_final")
    averages = made.averager.model.state_dict()
    assert not different(final["model"], averages)
    trained = final["trainer"]["hooks"]["WeightAverager"]["trained"]
    assert not different(trained, made.model.state_dict())
    name = "proposal_generator.rpn_head.conv.weight"
    assert not torch.equal(trained[name], final["model"][name])
    loaded = load_model(made.cfg, resume=True)  # as an evaluation does
    assert torch.equal(loaded.state_dict()[name], averages[name])
    without = trainer("SOLVER.MAX_ITER", "6", test=VAL, resume=True)
    assert torch.equal(without.model.state_dict()[name], trained[name])


# --- several batches for a step


class Toy(nn.Module):
    """Linear regression to 0 with a loss that is a mean over the images."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return {"loss": self.layer(x).square().mean()}


def run(batches, accumulate, steps=None, state=None):
    model = Toy()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    if accumulate > 1:
        optimizer = AccumulatingOptimizer(optimizer, accumulate)
    step = SimpleTrainer(model, batches, optimizer)
    step._write_metrics = lambda *args, **kwargs: None
    if state:
        model.load_state_dict(state[0])
        step.load_state_dict(state[1])
    for _ in range(len(batches) if steps is None else steps):
        step.run_step()
    return model, step


def test_three_batches_are_one_of_three_times_the_size():
    images = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    large, _ = run(list(images.split(6)), 1)
    small, _ = run(list(images.split(2)), 3)
    other, _ = run(list(images.split(2)), 1)
    for one, two, three in zip(*(m.parameters() for m in (large, small, other)), strict=True):
        assert torch.allclose(one, two, rtol=1e-5, atol=1e-7)
        assert not torch.allclose(one, three, rtol=1e-2)


def test_a_cut_between_two_steps_resumes_to_the_bit(tmp_path):
    batches = list(torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(1)))
    whole, _ = run(batches, 3)
    model, step = run(batches, 3, steps=4)
    assert step.optimizer.waiting == 1
    torch.save((model.state_dict(), step.state_dict()), tmp_path / "cut.pth")
    state = torch.load(tmp_path / "cut.pth", weights_only=True)
    resumed, _ = run(batches[4:], 3, state=state)
    assert all(map(torch.equal, whole.parameters(), resumed.parameters()))
    # torch's own optimizer takes the state too, as it would in stock Detectron2
    torch.optim.SGD(Toy().parameters(), lr=0.1, momentum=0.9).load_state_dict(state[1]["optimizer"])


def test_the_last_step_waits_for_no_more_batches():
    batch = torch.ones(1, 3)
    model, step = run([batch, batch], 3, steps=1)
    before = model.layer.weight.detach().clone()
    step.optimizer.is_last = True
    step._data_loader_iter_obj = iter([batch])
    step.run_step()
    assert step.optimizer.waiting == 0
    one, _ = run([batch], 1)  # two equal batches have the gradient of one
    assert not torch.equal(before, model.layer.weight)
    assert torch.allclose(model.layer.weight, one.layer.weight)


def test_gradients_that_wait_keep_their_scale():
    model = Toy()
    weights = model.layer.weight
    optimizer = AccumulatingOptimizer(torch.optim.SGD(model.parameters(), lr=1.0), 2)
    scaler = AccumulatingScaler("cpu", init_scale=8.0, growth_interval=1)
    before = weights.detach().clone()
    gradients = []
    for x in (torch.ones(1, 3), torch.full((1, 3), 2.0)):
        loss = model(x)["loss"]
        gradients.append(torch.autograd.grad(loss, weights, retain_graph=True)[0])
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if len(gradients) == 1:
            assert scaler.get_scale() == 8.0
            assert torch.equal(weights, before)
    assert scaler.get_scale() == 16.0
    assert torch.allclose(weights, before - sum(gradients) / 2)


# --- all of it, cut and resumed


EVERYTHING = ["SOLVER.EMA_DECAY", "0.9", "SOLVER.ACCUMULATE", "3", "TEST.EVAL_PERIOD", "2"]
EVERYTHING += ["TEST.VALIDATION_LOSS", "True", "TEST.BEST_METRIC", "validation_loss"]


@pytest.mark.slow
def test_all_of_it_resumes_to_the_bit(trainer, tmp_path, monkeypatch):
    """A checkpoint is saved after iteration 3, the first of the three batches of a step."""
    monkeypatch.setattr(Trainer, "test", lambda *_: {})

    def make(folder, resume=False):
        opts = ["OUTPUT_DIR", str(tmp_path / folder), *EVERYTHING]
        seed_all_rng(0)  # what default_setup does
        return trainer("SOLVER.MAX_ITER", "7", *opts, test=VAL, resume=resume)

    make("whole").train()
    train_until(make("cut"), 4)
    resumed = make("cut", resume=True)
    assert resumed.start_iter == 4
    assert resumed.optimizer.waiting == 1
    resumed.train()
    for name in ("model_final", "model_best"):
        one, two = (
            torch.load(tmp_path / f / f"{name}.pth", weights_only=True) for f in ("whole", "cut")
        )
        assert one["iteration"] == two["iteration"]
        assert not different(one["model"], two["model"]), name
        one, two = (c["trainer"]["hooks"] for c in (one, two))
        assert one["BestKeeper"] == two["BestKeeper"]
        assert not different(*(hooks["WeightAverager"]["trained"] for hooks in (one, two)))
    one, two = (last_metrics(tmp_path / f)["validation_loss"] for f in ("whole", "cut"))
    assert one == two


# --- TensorBoard


def test_tensorboard_forgets_what_is_trained_again(trainer, monkeypatch):
    monkeypatch.setattr("detectron2.engine.hooks.PeriodicWriter.after_step", _write_each_step)
    made = trainer()
    train_until(made, 4)
    folder = made.cfg.OUTPUT_DIR
    os.remove(Path(folder, "model_0000003.pth"))  # so iterations 2 and 3 are trained again
    resumed = trainer(resume=True)
    assert resumed.start_iter == 2
    resumed.train()
    events = EventAccumulator(folder).Reload().Scalars("total_loss")
    assert [event.step for event in events] == [0, 1, 2, 3, 4]
    clear_output_dir(folder)
    assert not list(Path(folder).glob("events.out.tfevents.*"))


def _write_each_step(hook):
    for writer in hook._writers:
        writer.write()
