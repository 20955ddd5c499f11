"""Signals, losses that are NaN, autocast on CPUs, and resuming bit for bit."""

import contextlib
import gc
import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from coco_files import coco_content, coco_image, coco_object
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from model_zoo import different
from PIL import Image
from torch import distributed
from waiting import wait_for

from fpn_d2 import UserError, load_config
from fpn_d2.data.datasets import register_folders
from fpn_d2.engine import Trainer, hooks, resume_state
from fpn_d2.engine.hooks import (
    CPUAutocastTrainer,
    StepExchange,
    Stopper,
    _gathered,
    cpu_has_bfloat16,
    handling_signals,
    last_finite_checkpoint,
)

from .two_processes import CountCalls

RPN = "quick/RPN/rpn_R_18_FPN"
FASTER = "quick/Faster-RCNN/faster_rcnn_R_18_FPN"
RETINANET = "quick/RetinaNet/retinanet_R_18_FPN"


@pytest.fixture
def heeded():
    """Make SIGINT act as at a prompt: a shell's background jobs begin with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class At(HookBase):
    """Calls ``action`` in the middle of an iteration."""

    def __init__(self, iteration, action):
        self.iteration, self.action = iteration, action

    def before_step(self):
        if self.trainer.iter == self.iteration:
            self.action()


def checkpoints(trainer):
    return sorted(n for n in os.listdir(trainer.cfg.OUTPUT_DIR) if n.startswith("model"))


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_training_after_its_step(trainer, number, code, heeded):
    made = trainer()
    old = Path(made.cfg.OUTPUT_DIR, "model_0000002.pth")
    old.write_bytes(b"of an earlier training")
    made.register_hooks([At(2, lambda: os.kill(os.getpid(), number))])
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped:
        made.train()
    assert stopped.value.code == code
    assert checkpoints(made) == ["model_0000001.pth", "model_0000002.pth"]
    assert made.checkpointer.get_checkpoint_file().endswith("model_0000002.pth")
    assert torch.load(old, weights_only=True)["iteration"] == 2
    assert signal.getsignal(number) is before


def test_a_signal_that_the_program_was_told_to_ignore_stays_ignored(heeded):
    """As after nohup."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with handling_signals(handler := lambda *_: None):
            found = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        assert found == [signal.SIG_IGN, handler]
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_of_signals_only_a_second_ctrl_c_ends_a_step_at_once(monkeypatch):
    """A parent that passes Ctrl-C on sends it twice, within a moment."""
    now = [5.0]
    monkeypatch.setattr(hooks.time, "monotonic", lambda: now[0])
    stopper = Stopper()
    stopper._receive(signal.SIGINT, None)
    now[0] += 0.9
    stopper._receive(signal.SIGINT, None)
    now[0] += 0.2
    stopper._receive(signal.SIGTERM, None)
    with pytest.raises(KeyboardInterrupt):
        stopper._receive(signal.SIGINT, None)
    assert stopper.received == signal.SIGINT


def test_a_signal_in_the_last_step_leaves_the_final_checkpoint(trainer, monkeypatch):
    monkeypatch.setattr(Trainer, "test", lambda *_: pytest.fail("evaluated"))
    made = trainer(test="('tiny_val',)")
    made.register_hooks([At(4, lambda: os.kill(os.getpid(), signal.SIGTERM))])
    with pytest.raises(SystemExit) as stopped:
        made.train()
    assert stopped.value.code == 143
    assert checkpoints(made) == ["model_0000001.pth", "model_0000003.pth", "model_final.pth"]


def test_a_signal_in_an_evaluation_does_not_wait_for_its_end(trainer, monkeypatch):
    def test(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("went on")

    monkeypatch.setattr(Trainer, "test", test)
    made = trainer("TEST.EVAL_PERIOD", "3", test="('tiny_val',)")
    with pytest.raises(SystemExit):
        made.train()
    assert checkpoints(made) == ["model_0000001.pth", "model_0000002.pth"]


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_program_ends_with_the_signals_code(
    repo, tiny_opts, output, tiny_environment, processes
):
    program = [sys.executable, "train_net.py", "--config-file", f"configs/{RPN}.yaml"]
    program += ["--dist-url", "auto", "--num-gpus", str(processes), *tiny_opts]
    process = subprocess.Popen(
        [*program, "SOLVER.MAX_ITER", "5000", "DATALOADER.NUM_WORKERS", str(2 - processes)],
        cwd=repo,
        env={**tiny_environment, "PYTHONPATH": str(repo)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    metrics = output / "metrics.json"
    try:
        wait_for(lambda: process.poll() is not None or (metrics.is_file() and metrics.read_text()))
        process.terminate()
        assert process.wait(60) == 143
    finally:
        process.kill()
        process.wait()
    assert (output / "last_checkpoint").is_file()


def spoil_losses(losses):
    return {key: value * (float("nan") if "cls" in key else 1) for key, value in losses.items()}


def fail(losses):  # as Detectron2's RPN does where its boxes are NaN
    raise FloatingPointError("Predicted boxes or scores contain Inf/NaN.")


@pytest.mark.parametrize(
    "iteration, spoil, what, names_checkpoint",
    [
        (0, spoil_losses, "loss_rpn_cls", False),
        (3, spoil_losses, "loss_rpn_cls", True),
        (4, spoil_losses, "loss_rpn_cls", True),
        (3, fail, "the predicted boxes", True),
    ],
)
def test_what_is_nan_stops_before_the_weights(trainer, iteration, spoil, what, names_checkpoint):
    made = trainer()
    before = {}

    def change():
        before.update({name: p.detach().clone() for name, p in made.model.named_parameters()})
        forward = made.model.forward
        made.model.forward = lambda batch: spoil(forward(batch))

    made.register_hooks([At(iteration, change)])
    with pytest.raises(UserError) as caught:
        made.train()
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.startswith(f"{what} became NaN or infinite at iteration {iteration} on the")
    assert sentence.count("/images/") == 2
    assert ("model_000000" in sentence) == names_checkpoint
    for name, value in made.model.named_parameters():
        assert torch.equal(value, before[name]), name


def test_a_trained_model_needs_no_trainer(trainer):
    made = trainer("SOLVER.MAX_ITER", "1")
    made.train()
    model, batch = made.model, next(iter(made._trainer.data_loader))
    del made
    gc.collect()
    with EventStorage():
        assert model.train()(batch).keys() == pickle.loads(pickle.dumps(model))(batch).keys()


def test_a_step_may_look_at_its_own_detections(trainer):
    made = trainer("SOLVER.MAX_ITER", "1")
    batch = next(iter(made._trainer.data_loader))
    with EventStorage(), made._exchange.watching():
        made.model(batch)
        losses = made._exchange._losses
        made.model.eval()(batch)
    assert losses
    assert made._exchange._losses is losses


def test_a_model_may_return_one_loss():
    model = torch.nn.Identity()
    exchange = StepExchange(model, "folder", Stopper(), resume_state.ResumeState())
    for value, bad in ((float("nan"), ["total_loss"]), (1.0, [])):
        with exchange.watching():
            model(torch.tensor(value))
        assert exchange._bad_losses() == bad


def test_a_model_may_take_batches_of_another_form(trainer):
    made = trainer("SOLVER.MAX_ITER", "1")
    forward = made.model.forward
    made.model.forward = lambda batch: forward(batch["records"])
    batch = next(iter(made._trainer.data_loader))
    made._trainer.reset_data_loader(lambda: [{"records": batch}])
    made.train()


def test_the_last_good_checkpoint_is_the_newest_whose_weights_are_numbers(tmp_path):
    for i, value in enumerate((1.0, 2.0, float("inf"))):
        path = tmp_path / f"model_{i}.pth"
        torch.save({"model": {"w": torch.tensor([value])}}, path)
        os.utime(path, (i, i))
    (tmp_path / "model_3.pth").write_bytes(b"half")
    assert last_finite_checkpoint(str(tmp_path)) == str(tmp_path / "model_1.pth")


# --- what processes exchange


def test_a_process_that_is_alone_makes_no_collective_call(trainer, monkeypatch):
    for name in CountCalls.NAMES:  # undoes its wrapping at the end
        monkeypatch.setattr(distributed, name, getattr(distributed, name))
    calls = CountCalls()
    made = trainer()
    made.register_hooks([calls])
    made.train()
    assert calls.steps == [[]] * 5


def test_a_signal_of_any_process_is_heeded_and_each_ones_averages_are_kept(monkeypatch):
    rows = [[1.0, signal.SIGTERM, 7.5]]  # of the other process
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(hooks, "_gathered", lambda _, numbers, device: [[1.0, *numbers], *rows])
    stopper, state = Stopper(), resume_state.ResumeState()
    model = torch.nn.Sequential(torch.nn.Linear(1, 1))
    model[0].loss_normalizer = 37.5
    exchange = StepExchange(model, "folder", stopper, state)
    exchange.trainer = SimpleNamespace(iter=4)
    exchange.after_backward()
    assert (stopper.agreed, stopper.agreed_at) == (signal.SIGTERM, 4)
    assert state.averages == [{"0": 37.5}, {"0": 7.5}]


def test_no_losses_count_as_finite(monkeypatch):
    monkeypatch.setattr(distributed, "all_gather", lambda rows, own: rows[0].copy_(own))
    cpu, nan = torch.device("cpu"), torch.tensor(float("nan"))
    assert _gathered([], [2.0, 0.5], cpu) == [[1.0, 2.0, 0.5]]
    assert _gathered([nan, torch.ones(())], [2.0], cpu) == [[0.0, 2.0]]


# --- autocast


def test_a_processor_without_bfloat16_is_told_so(monkeypatch, caplog):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert not cpu_has_bfloat16()
    assert "float32" in caplog.text or "fp32" in caplog.text


class Linear(torch.nn.Module):
    """A model whose loss and gradient are known: the mean of x w + b."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)
        self.seen = []

    def forward(self, x):
        y = self.layer(x)
        self.seen.append(y.dtype)
        return {"loss": y.float().mean()}


def test_autocast_computes_in_bfloat16_and_learns_in_float32():
    model = Linear()
    x = torch.arange(8.0).reshape(2, 4)  # exact in bfloat16
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    step = CPUAutocastTrainer(model, [x], optimizer)
    step._write_metrics = lambda *args, **kwargs: None
    step.run_step()
    assert model.seen == [torch.bfloat16]
    assert model.layer.weight.dtype == model.layer.weight.grad.dtype == torch.float32
    # d mean(y) / d w_ij = sum_n x_nj / 6, d mean(y) / d b_i = 2 / 6
    assert torch.allclose(model.layer.weight.grad, x.sum(0).expand(3, 4) / 6, rtol=2**-7)
    assert torch.allclose(model.layer.bias.grad, torch.full((3,), 2 / 6), rtol=2**-7)


# --- a training that was cut and resumed equals an uncut one, bit for bit


@pytest.fixture(scope="module")
def mixed_root(tmp_path_factory):
    """A data set of seven images of noise, three of them portrait."""
    root = tmp_path_factory.mktemp("mixed")
    folder = root / "mixed"
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    generator = torch.Generator().manual_seed(0)
    images, annotations = [], []
    for i in range(7):
        width, height = (48, 64) if i % 2 else (64, 48)
        noise = torch.randint(256, (height, width, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(noise.numpy()).save(folder / "images" / f"{i + 1}.png")
        images.append(coco_image(i + 1, width, height))
        annotations.append(coco_object(i + 1, i + 1, [4 + i, 6, 20, 24], 1 + i % 5))
    content = coco_content(images, annotations, *(f"c{i}" for i in range(5)))
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(content))
    return str(root)


class Watch(HookBase):
    """Notes the losses of every step, and fails before iteration ``cut``, as a kill would."""

    def __init__(self, cut):
        self.cut, self.losses = cut, {}

    def before_step(self):
        if self.trainer.iter == self.cut:
            raise ConnectionError("cut")

    def after_step(self):
        self.losses[self.trainer.iter] = self.trainer.storage.history("total_loss").latest()


def train_until(trainer, cut):
    """Train until iteration ``cut``, or to the end if it is None; return each iteration's loss."""
    watch = Watch(cut)
    trainer.register_hooks([watch])
    with contextlib.nullcontext() if cut is None else pytest.raises(ConnectionError):
        trainer.train()
    return watch.losses


@pytest.fixture
def train(repo, tiny_words, tmp_path, mixed_root):
    """``train(row, folder, *opts, cut, resume)``: train six iterations; each one's loss."""
    register_folders(mixed_root)

    def call(row, folder, *opts, cut=None, resume=False):
        own = ["DATASETS.TRAIN", "('mixed_train',)", "DATASETS.TEST", "()"]
        own += ["INPUT.MIN_SIZE_TRAIN", "(48, 56, 64)", "OUTPUT_DIR", str(tmp_path / folder)]
        own += ["SOLVER.MAX_ITER", "6", "SOLVER.STEPS", "(4,)", "SOLVER.CHECKPOINT_PERIOD", "3"]
        cfg = load_config(repo / f"configs/{row}.yaml", [*tiny_words, *own, *opts])
        (tmp_path / folder).mkdir(exist_ok=True)
        seed_all_rng(None if cfg.SEED < 0 else cfg.SEED)  # what default_setup does
        if resume:
            torch.rand(5)  # the generator's state is not what makes them equal
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=resume)
        return train_until(trainer, cut)

    return call


def logged(folder):
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    lines = [line for line in lines if "total_loss" in line]
    return {line["iteration"]: {k: v for k, v in line.items() if "time" not in k} for line in lines}


def assert_same_weights(*folders):
    states = (torch.load(f / "model_final.pth", weights_only=True)["model"] for f in folders)
    assert not different(*states)


SAMPLER = ["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"]
RETINANETS = ["DATALOADER.ASPECT_RATIO_GROUPING", "False"]


@pytest.mark.parametrize(
    "row, opts, workers", [(FASTER, [], "02"), (RPN, SAMPLER, "0"), (RETINANET, RETINANETS, "0")]
)
def test_cut_after_a_checkpoint_and_resumed(train, tmp_path, row, opts, workers):
    whole = train(row, "whole", *opts)
    assert len(set(whole.values())) == 6
    for number in workers:
        opts = [*opts, "DATALOADER.NUM_WORKERS", number]
        before = train(row, number, *opts, cut=4)
        after = train(row, number, *opts, resume=True)
        assert (sorted(before), sorted(after)) == ([0, 1, 2, 3], [3, 4, 5])
        assert before == {i: whole[i] for i in before}  # equal floats
        assert after == {i: whole[i] for i in after}
        assert_same_weights(tmp_path / number, tmp_path / "whole")
        # The last line holds medians over all six iterations, and the line of iteration 3 is gone.
        assert logged(tmp_path / number).keys() == logged(tmp_path / "whole").keys()
        assert logged(tmp_path / number)[5] == logged(tmp_path / "whole")[5]


def test_a_drawn_seed_is_kept(train, tmp_path, monkeypatch):
    drawn = iter([5, 6])
    monkeypatch.setattr(comm, "shared_random_seed", lambda: next(drawn))
    before = train(FASTER, "cut", "SEED", "-1", cut=4)
    after = train(FASTER, "cut", "SEED", "-1", resume=True)
    assert next(drawn, None) is None  # the second draw was made, and given up for the first
    assert before[3] == after[3]
    # An uncut training with that seed, from the same checkpoint
    state = torch.load(tmp_path / "cut" / "model_0000002.pth", weights_only=True)
    assert state["trainer"]["hooks"]["ResumeState"]["seed"] == 5
    for name in ("model_0000002.pth", "last_checkpoint"):
        (tmp_path / "whole").mkdir(exist_ok=True)
        (tmp_path / "whole" / name).write_bytes((tmp_path / "cut" / name).read_bytes())
    (tmp_path / "whole" / "last_checkpoint").write_text("model_0000002.pth")
    assert train(FASTER, "whole", "SEED", "5", resume=True) == after
    assert_same_weights(tmp_path / "cut", tmp_path / "whole")


def test_other_seeds_give_other_trainings(train):
    assert train(FASTER, "1", "SEED", "1", cut=2) != train(FASTER, "2", "SEED", "2", cut=2)


def test_a_checkpoint_of_stock_detectron2_is_resumed(train, tmp_path):
    train(FASTER, "cut", cut=4)
    path = tmp_path / "cut" / "model_0000002.pth"
    state = torch.load(path, weights_only=True)
    del state["trainer"]["hooks"]["ResumeState"]
    torch.save(state, path)
    assert sorted(train(FASTER, "cut", resume=True)) == [3, 4, 5]
