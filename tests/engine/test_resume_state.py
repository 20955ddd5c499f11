"""What a resumed training takes anew from its config, and what it refuses, key by key."""

import logging
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from detectron2.engine import AMPTrainer
from detectron2.solver import LRMultiplier
from detectron2.structures import Keypoints
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from fvcore.common.param_scheduler import CosineParamScheduler
from torch.optim.lr_scheduler import OneCycleLR, SequentialLR, StepLR

import train_net
from fpn_d2 import UserError, load_config
from fpn_d2.config import flat
from fpn_d2.engine import Trainer, launch, resume_state

SCHEDULE = ["SOLVER.BASE_LR", "0.02", "SOLVER.WARMUP_ITERS", "0"]
SCHEDULE += ["SOLVER.GAMMA", "0.5", "SOLVER.STEPS", "(1,)"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("kept") / "output"


@pytest.fixture
def resumed(trainer, tiny_config, kept):
    """``resumed(*opts)``: a trainer that goes on after the second of five iterations."""

    def resume(*opts):
        if not kept.exists():
            first = trainer(*SCHEDULE, "SOLVER.MAX_ITER", "2")
            first.train()
            shutil.copytree(first.cfg.OUTPUT_DIR, kept)
        shutil.copytree(kept, tiny_config().OUTPUT_DIR, dirs_exist_ok=True)
        return trainer(*SCHEDULE, *opts, resume=True)

    return resume


def groups(trainer):
    """The settings of each group of the optimizer."""
    return [
        {name: value for name, value in group.items() if name != "params"}
        for group in trainer.optimizer.param_groups
    ]


def momenta(trainer):
    states = trainer.optimizer.state_dict()["state"]
    return [states[number]["momentum_buffer"] for number in sorted(states)]


def test_an_unchanged_config_changes_no_setting(resumed, kept, caplog):
    caplog.set_level(logging.INFO, "fpn_d2")
    made = resumed()
    state = torch.load(kept / "model_final.pth", weights_only=True)["trainer"]["_trainer"]
    loaded = state["optimizer"]["param_groups"]
    assert groups(made) == [{k: v for k, v in g.items() if k != "params"} for g in loaded]
    told = [r.getMessage() for r in caplog.records if "SOLVER" in r.getMessage()]
    assert told == ["Resumed with another SOLVER.MAX_ITER: 5 instead of 2"]


# iteration 2 comes next
RATES = {
    "SOLVER.MAX_ITER 9": 0.02 * 0.5,
    "SOLVER.BASE_LR 0.004": 0.004 * 0.5,
    "SOLVER.GAMMA 0.25": 0.02 * 0.25,
    "SOLVER.STEPS (1,2)": 0.02 * 0.5**2,
    "SOLVER.STEPS (4,)": 0.02,
    "SOLVER.WARMUP_ITERS 4 SOLVER.WARMUP_FACTOR 0.5 SOLVER.STEPS ()": 0.02 * 0.75,
    "SOLVER.WARMUP_ITERS 4 SOLVER.WARMUP_FACTOR 0.3 SOLVER.WARMUP_METHOD constant": 0.02 * 0.3,
    "SOLVER.LR_SCHEDULER_NAME WarmupCosineLR SOLVER.MAX_ITER 4": 0.02 * 0.5,  # half of the way
}


@pytest.mark.parametrize("opts", RATES)
def test_the_schedule_is_the_configs(resumed, opts):
    made = resumed(*opts.split())
    rates = [group["lr"] for group in groups(made)]
    assert rates == pytest.approx([RATES[opts]] * len(rates))


def test_what_else_the_optimizer_has_is_the_configs_and_momentum_stays(resumed, kept, caplog):
    caplog.set_level(logging.INFO, "fpn_d2")
    opts = "SOLVER.MOMENTUM 0.5 SOLVER.WEIGHT_DECAY 0.03 SOLVER.NESTEROV True"
    opts += " SOLVER.CLIP_GRADIENTS.ENABLED True SOLVER.IMS_PER_BATCH 4 SOLVER.BASE_LR 0.01"
    opts += " SOLVER.REFERENCE_WORLD_SIZE 1"  # it had none, so batch and schedule are as they were
    made = resumed(*opts.split())
    weights, norms = groups(made)
    assert (weights["momentum"], weights["weight_decay"], weights["nesterov"]) == (0.5, 0.03, True)
    assert (norms["momentum"], norms["weight_decay"]) == (0.5, 0.0)
    assert "Clip" in type(made.optimizer).__name__
    assert "Resumed with another SOLVER.BASE_LR: 0.01 instead of 0.02" in caplog.text
    before = torch.load(kept / "model_final.pth", weights_only=True)["trainer"]["_trainer"]
    states = before["optimizer"]["state"].values()
    assert all(map(torch.equal, momenta(made), (state["momentum_buffer"] for state in states)))
    assert any(value.any() for value in momenta(made))
    made.train()
    assert made.iter == 5
    assert len(next(iter(made.data_loader))) == 4


def test_a_rate_of_0_trains_nothing_any_more(resumed, kept):
    made = resumed("SOLVER.BASE_LR", "0.0")
    made.train()
    trained = torch.load(kept / "model_final.pth", weights_only=True)["model"]
    for name, value in made.model.named_parameters():
        assert torch.equal(value, trained[name]), name


REFUSED = {
    "MODEL.FPN.OUT_CHANNELS 128": "set MODEL.FPN.OUT_CHANNELS to 32 as before",
    "MODEL.BACKBONE.FREEZE_AT 2": "set MODEL.BACKBONE.FREEZE_AT to 0 as before",
    "MODEL.FPN.FREEZE True": "set MODEL.FPN.FREEZE to False as before",
    "MODEL.RPN.SHARED_HEAD False MODEL.FPN.NORM GN": "MODEL.FPN.NORM to '', MODEL.RPN.SHARED_HEAD",
    "SOLVER.BIAS_LR_FACTOR 2.0": "set SOLVER.BIAS_LR_FACTOR to 1.0 as before",
    "SOLVER.WEIGHT_DECAY_BIAS 0.0": "set SOLVER.WEIGHT_DECAY_BIAS to None as before",
    "MODEL.WEIGHTS other.pth": "MODEL.WEIGHTS is 'other.pth', and was ''; set it to that again",
    "SOLVER.MAX_ITER 1 SOLVER.STEPS ()": "is 1, and 2 iterations are done; set it to 2 or more",
}


@pytest.mark.parametrize("opts", REFUSED)
def test_what_cannot_be_taken_is_refused_by_its_key(resumed, opts):
    with pytest.raises(UserError) as caught:
        resumed(*opts.split())
    sentence = str(caught.value)
    assert REFUSED[opts] in sentence
    assert "set another OUTPUT_DIR" in sentence
    assert "\n" not in sentence


def test_without_known_settings_the_shapes_are_named(resumed, kept):
    """As with a checkpoint of version 0.1 or of stock Detectron2."""
    made = resumed()
    content = torch.load(kept / "model_final.pth", weights_only=True)
    state = content["trainer"]["hooks"]["ResumeState"]
    del state["config"]
    check = made.checkpointer.before_resume
    check(content, "here.pth")
    weights = content["model"]
    check({**content, "model": {f"module.{k}": v for k, v in weights.items()}}, "here.pth")
    weights["backbone.fpn_output2.weight"] = weights["backbone.fpn_output2.weight"][1:]
    for known in ({}, {"MODEL.DEVICE": "cuda"}):  # which is not at fault
        state["config"] = known
        with pytest.raises(UserError) as caught:
            check(content, "here.pth")
        assert re.match(
            r"backbone\.fpn_output2\.weight has the shape .* by this config, and .* in the trained "
            "network; set the keys of the network to what they were, or set another OUTPUT_DIR",
            str(caught.value),
        )


def test_a_folder_that_moved_and_a_key_of_another_version_are_no_change(tiny_config):
    cfg = tiny_config("MODEL.WEIGHTS", "runs/../start.pth")
    before = {**flat(cfg), "OUTPUT_DIR": "elsewhere", "SEED": 12345, "SOLVER.GONE": 1}
    before["MODEL.WEIGHTS"] = os.path.abspath("start.pth")
    before["SOLVER.STEPS"] = list(cfg.SOLVER.STEPS)  # as YAML has it
    assert resume_state.changes(before, cfg) == {"SEED": (12345, cfg.SEED)}


# --- what config.yaml says


@pytest.fixture
def start(repo, tiny_opts, output, monkeypatch, no_stale_logs):
    """``start(*words)``: run train_net.py on the quick RPN; return its folder's config.yaml."""
    monkeypatch.chdir(repo)

    def run(*words, row="configs/quick/RPN/rpn_R_18_FPN.yaml", opts=tiny_opts):
        flags = [str(word) for word in words if str(word).startswith("--")]
        rest = [str(word) for word in words if not str(word).startswith("--")]
        line = ["--config-file", str(row), *flags, *opts, *rest]
        launch(train_net.main, train_net.build_parser().parse_args(line))
        return yaml.safe_load((output / "config.yaml").read_text())

    return run


def test_config_yaml_says_what_was_trained(start, monkeypatch, capsys):
    drawn = iter([5, 6, 7, 8])
    monkeypatch.setattr(comm, "shared_random_seed", lambda: next(drawn))
    test = ["DATASETS.TEST", "()", "SEED", -1]
    world = ["SOLVER.REFERENCE_WORLD_SIZE", 2, "SOLVER.IMS_PER_BATCH", 4]
    # batch and schedule of two processes, trained in one
    first = start(*test, *world, "SOLVER.BASE_LR", 0.002)
    solver = first["SOLVER"]
    assert (solver["IMS_PER_BATCH"], solver["BASE_LR"], solver["MAX_ITER"]) == (2, 0.001, 4)
    assert first["SEED"] == 5
    # The rate is taken, and the seed stays.
    again = start(*test, *world, "SOLVER.BASE_LR", 0.02, "SOLVER.MAX_ITER", 3, "--resume")
    assert (again["SOLVER"]["BASE_LR"], again["SOLVER"]["MAX_ITER"], again["SEED"]) == (0.01, 6, 5)
    # An evaluation is no training, and a refused one has not begun.
    weights = ["MODEL.WEIGHTS", Path(again["OUTPUT_DIR"]) / "model_final.pth"]
    assert start("--eval-only", *weights, "SOLVER.BASE_LR", 9.0) == again
    with pytest.raises(SystemExit):
        start(*test, *world, "MODEL.FPN.OUT_CHANNELS", 64, "SOLVER.MAX_ITER", 3, "--resume")
    assert "MODEL.FPN.OUT_CHANNELS" in capsys.readouterr().err
    assert yaml.safe_load((Path(again["OUTPUT_DIR"]) / "config.yaml").read_text()) == again


def test_another_number_of_processes_is_refused_and_the_remedy_works(start):
    test = ["DATASETS.TEST", "()"]
    world = ["SOLVER.REFERENCE_WORLD_SIZE", 1]
    first = start(*test, *world)
    folder = first["OUTPUT_DIR"]
    content = torch.load(f"{folder}/model_final.pth", weights_only=True)
    cfg = Trainer.auto_scale_workers(load_config(f"{folder}/config.yaml"), 2)
    with pytest.raises(UserError) as caught:
        resume_state.check_resumable(cfg, torch.nn.Module(), None, content, "model_final.pth")
    sentence = str(caught.value)
    assert "for 2 processes" in sentence
    remedy = sentence.partition("`--config-file ")[2].partition("`")[0].split()
    row, *words = remedy
    again = start(*words, "SOLVER.MAX_ITER", 3, row=row, opts=[])
    assert again["SOLVER"]["REFERENCE_WORLD_SIZE"] == 0
    assert again["SOLVER"]["IMS_PER_BATCH"] == first["SOLVER"]["IMS_PER_BATCH"]


# --- the advice after a NaN loss


def test_the_advice_after_a_nan_loss_helps_when_it_is_followed(start, monkeypatch, capsys):
    """The loss is NaN from iteration 2 on where the rate is above 0.01, and the newest checkpoint
    is spoilt."""
    calls = []

    def run_step(self, run=Trainer.run_step):
        if self.iter == 2 and self.optimizer.param_groups[0]["lr"] > 0.01:
            forward = self.model.forward
            spoil = float("nan")
            self.model.forward = lambda batch: {k: v * spoil for k, v in forward(batch).items()}
        calls.append((self.iter, self.optimizer.param_groups[0]["lr"]))
        run(self)

    monkeypatch.setattr(Trainer, "run_step", run_step)
    words = ["SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.WARMUP_ITERS", 0]
    words += ["DATASETS.TEST", "()", "SOLVER.BASE_LR"]
    with pytest.raises(SystemExit):
        start(*words, 0.02)
    sentence = capsys.readouterr().err
    assert "lower SOLVER.BASE_LR" in sentence
    assert "by --resume" in sentence
    named = sentence.partition("checkpoint, ")[2].partition(",")[0]
    assert Path(named).name == "model_0000001.pth"
    content = torch.load(named, weights_only=True)
    spoilt = {k: v * float("nan") for k, v in content["model"].items()}
    torch.save({**content, "model": spoilt}, Path(named).with_name("model_0000002.pth"))
    calls.clear()
    rate = 0.002
    config = start(*words, rate, "--resume")
    assert calls == [(2, pytest.approx(rate)), (3, pytest.approx(rate))]
    assert config["SOLVER"]["BASE_LR"] == rate


def test_mixed_precision_can_begin_in_the_middle(resumed):
    """As on a GPU: after a training without mixed precision, its scaler has no state yet."""
    made = resumed()
    state = made.state_dict()
    made._trainer = AMPTrainer(made.model, [], made.optimizer)
    made.load_state_dict(state)
    assert made.iter == 1


def test_hostile_settings_in_a_checkpoint_are_no_traceback():
    for content in (None, [], {"hooks": 3}, {"hooks": {"ResumeState": {"config": [1]}}}):
        assert not isinstance(
            resume_state._inner({"trainer": content}, "trainer", "hooks", "ResumeState", "config"),
            dict,
        )


# --- what else a program may train with


def cut_and_whole(kind, tiny_config, *opts):
    """The weights after four iterations, in one go and resumed after two."""
    ends = []
    for parts in ([4], [2, 4]):
        shutil.rmtree(tiny_config().OUTPUT_DIR, ignore_errors=True)
        for end in parts:
            cfg = tiny_config(*opts, "SOLVER.CHECKPOINT_PERIOD", 2, "DATASETS.TEST", "()")
            Path(cfg.OUTPUT_DIR).mkdir(exist_ok=True)
            torch.manual_seed(0)
            made = kind(cfg)
            made.resume_or_load(resume=True)
            made.max_iter = end
            made.train()
        ends.append(made.model.state_dict())
    return ends


class Counting(torch.optim.SGD):
    """Counts its steps in its groups, as schedule-free optimizers do."""

    def __init__(self, weights, rate):
        super().__init__(weights, rate)
        self.param_groups[0]["k"] = 0

    def step(self):
        group = self.param_groups[0]
        group["k"] += 1
        rate, group["lr"] = group["lr"], group["lr"] / group["k"]
        super().step()
        group["lr"] = rate


class OwnOptimizer(Trainer):
    @classmethod
    def build_optimizer(cls, cfg, model):
        return Counting(model.parameters(), 0.01)


def cycle(optimizer):
    return OneCycleLR(optimizer, 0.01, total_steps=5)


def sequence(optimizer):
    return SequentialLR(optimizer, [cycle(optimizer), StepLR(optimizer, 1)], [4])


def fvcores(optimizer):
    """Return a schedule that becomes a scheduler when the training starts, as in Detectron2."""
    return CosineParamScheduler(1.0, 0.1)


def scheduled(build):
    """Return a trainer with the schedule that a function makes for its optimizer."""
    method = classmethod(lambda cls, cfg, optimizer: build(optimizer))
    return type(build.__name__, (Trainer,), {"build_lr_scheduler": method})


@pytest.mark.parametrize(
    "kind, steps",
    [(OwnOptimizer, 1), *((scheduled(build), 1) for build in (cycle, sequence, fvcores))]
    + [(scheduled(fvcores), 2)],
)
def test_a_resumed_training_goes_on_with_optimizers_and_schedules_of_ones_own(
    kind, steps, tiny_config
):
    opts = ["SOLVER.MAX_ITER", 4, "SOLVER.ACCUMULATE", steps]
    whole, cut = cut_and_whole(kind, tiny_config, *opts)
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


@pytest.mark.parametrize("by_visible", [True, False])
def test_a_keypoint_head_has_no_running_average(tiny_config, make_input, by_visible):
    batch = [make_input(64, 64, [[4, 5, 30, 40]], seed=seed) for seed in range(2)]
    for record in batch:
        record["instances"].gt_keypoints = Keypoints(torch.full((1, 17, 3), 20.0))

    class Stub(Trainer):
        build_train_loader = classmethod(lambda cls, cfg: [batch] * 2)

    opts = ["MODEL.KEYPOINT_ON", True, "MODEL.ROI_HEADS.NUM_CLASSES", 1, "DATASETS.TEST", "()"]
    section = "MODEL.ROI_KEYPOINT_HEAD"
    opts += [f"{section}.CONV_DIMS", "(8,)"]
    opts += [f"{section}.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS", by_visible]
    made = Stub(tiny_config(*opts, row="Faster-RCNN/faster_rcnn_R_18_FPN"))
    Path(made.cfg.OUTPUT_DIR).mkdir(exist_ok=True)
    made.train()
    assert made.resume_state.averages == [{}]


def test_the_latest_values_of_the_metrics_are_kept(tiny_config):
    with EventStorage() as storage:
        for storage.iter in range(25):
            storage.put_scalars(total_loss=storage.iter, time=1.0)
    hook = resume_state.ResumeState()
    hook.trainer = SimpleNamespace(storage=storage, cfg=tiny_config())
    kept = {"total_loss": [(number, number) for number in range(5, 25)]}  # Detectron2's window
    assert hook.state_dict()["history"] == kept
    again = resume_state.ResumeState()  # of a training that is done: it saves before any step
    again.trainer = SimpleNamespace(cfg=tiny_config())
    again.load_state_dict(hook.state_dict())
    assert again.state_dict() == hook.state_dict()


def test_averages_of_a_head_of_ones_own():
    own = torch.nn.Module()
    own.loss_normalizer = 37.5
    assert resume_state.averages_of(torch.nn.Sequential(own)) == {"0": 37.5}


def test_options_of_an_optimizer_are_taken_from_the_config_and_counters_are_kept():
    weights = [torch.nn.Parameter(torch.zeros(1))]
    made = torch.optim.AdamW(weights, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
    settings = [{"k": 0, "new": 1, **made.param_groups[0]}]
    loaded = torch.optim.AdamW(weights)
    loaded.param_groups[0]["k"] = 7
    schedule = LRMultiplier(loaded, CosineParamScheduler(1.0, 0.1), 4)
    resume_state.take_settings(loaded, schedule, settings, 2)
    group = loaded.param_groups[0]
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.8, 0.95), 1e-6, 0.1)
    assert (group["k"], group["new"]) == (7, 1)


def test_a_finished_training_without_a_model_final_may_be_ended_with_averages(trainer):
    trainer().train()
    folder = Path(trainer().cfg.OUTPUT_DIR)
    trained = torch.load(folder / "model_final.pth", weights_only=True)
    (folder / "model_final.pth").rename(folder / "model_0000004.pth")
    (folder / "last_checkpoint").write_text("model_0000004.pth")
    trainer("SOLVER.EMA_DECAY", 0.9, resume=True)
    final = torch.load(folder / "model_final.pth", weights_only=True)["model"]
    assert all(torch.equal(final[name], value) for name, value in trained["model"].items())


def test_averages_begin_with_the_weights_that_are_loaded(trainer, tmp_path):
    path = tmp_path / "start.pth"
    torch.save(trainer().model.state_dict(), path)
    made = trainer("SOLVER.EMA_DECAY", 0.9, "MODEL.WEIGHTS", path)
    averages = made.evaluated_model.state_dict()
    for name, value in torch.load(path, weights_only=True).items():
        assert torch.equal(averages[name], value)


def test_a_normalizer_of_another_kind_is_no_average():
    """A setting, or a buffer, which is among the weights."""
    model = torch.nn.ModuleDict({name: torch.nn.Identity() for name in ("a", "b", "c", "d")})
    model.a.loss_normalizer = "visible"
    model.b.register_buffer("loss_normalizer", torch.tensor(3.0))
    model.c.loss_normalizer = torch.tensor(2.0)
    model.d.loss_normalizer = torch.ones(2)  # one for each class
    assert resume_state.averages_of(model) == {"c": 2.0}


def test_an_average_stays_of_its_kind(tiny_config, caplog):
    model = torch.nn.ModuleDict({name: torch.nn.Identity() for name in ("a", "b", "c")})
    model.a.loss_normalizer, model.b.loss_normalizer = torch.tensor(2.0), None
    with resume_state.averages_kept(model):
        model.a.loss_normalizer.mul_(2)
        model.c.loss_normalizer = 1.0
    assert [vars(model[name]).get("loss_normalizer", "none") for name in "abc"] == [2, None, "none"]
    hook = resume_state.ResumeState()
    hook.trainer = SimpleNamespace(model=model, cfg=tiny_config(), start_iter=1, max_iter=1)
    hook.averages = [{"a": 3.0}]
    hook.before_train()
    assert model.a.loss_normalizer.mul_(2) == 6
    assert "begun in" not in caplog.text
    hook.averages *= 2
    hook.before_train()
    assert "begun in 2 processes and goes on in 1" in caplog.text
