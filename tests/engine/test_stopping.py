"""Signals, losses that are no numbers, and folders that hold another training."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from detectron2.engine import HookBase

from fpn_d2 import UserError, load_config
from fpn_d2.engine import Trainer, check_output_dir
from fpn_d2.engine.loss_guard import last_finite_checkpoint
from fpn_d2.engine.metrics_log import keep_steps_before

RPN = "configs/quick/RPN/rpn_R_18_FPN.yaml"


@pytest.fixture
def trainer(repo, tiny_opts):
    """``trainer(*opts)``: of five iterations, without a test set, its folder made."""

    def build(*opts, test="()"):
        five = ["SOLVER.MAX_ITER", "5", "SOLVER.CHECKPOINT_PERIOD", "2", "DATASETS.TEST", test]
        cfg = load_config(repo / RPN, [*tiny_opts, *five, *opts])
        os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
        made = Trainer(cfg)
        made.resume_or_load(resume=False)
        return made

    return build


@pytest.fixture
def heeded():
    """SIGINT does what it does at a prompt: a shell's background jobs begin with it ignored."""
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
    made.register_hooks([At(2, lambda: os.kill(os.getpid(), number))])
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped:
        made.train()
    assert stopped.value.code == code
    assert checkpoints(made) == ["model_0000001.pth", "model_0000002.pth"]
    assert made.checkpointer.get_checkpoint_file().endswith("model_0000002.pth")
    assert signal.getsignal(number) is before


def test_a_signal_in_the_last_step_leaves_the_final_checkpoint(trainer, monkeypatch):
    monkeypatch.setattr(Trainer, "test", lambda *_: pytest.fail("evaluated"))
    made = trainer(test="('tiny_val',)")
    made.register_hooks([At(4, lambda: os.kill(os.getpid(), signal.SIGTERM))])
    with pytest.raises(SystemExit) as stopped:
        made.train()
    assert stopped.value.code == 143
    assert "model_final.pth" in checkpoints(made)


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
def test_the_program_ends_with_the_signals_code(repo, tiny_opts, tiny_environment, processes):
    folder = tiny_opts[tiny_opts.index("OUTPUT_DIR") + 1]
    program = [sys.executable, "train_net.py", "--config-file", RPN, "--dist-url", "auto"]
    program += ["--num-gpus", str(processes), *tiny_opts, "SOLVER.MAX_ITER", "5000"]
    process = subprocess.Popen(
        [*program, "DATALOADER.NUM_WORKERS", str(2 - processes)],
        cwd=repo,
        env={**tiny_environment, "PYTHONPATH": str(repo)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    metrics = os.path.join(folder, "metrics.json")
    for _ in range(600):
        time.sleep(0.1)
        if (os.path.isfile(metrics) and os.path.getsize(metrics)) or process.poll() is not None:
            break
    process.terminate()
    assert process.wait(60) == 143
    assert os.path.isfile(os.path.join(folder, "last_checkpoint"))


@pytest.mark.parametrize("iteration, names_checkpoint", [(0, False), (3, True), (4, True)])
def test_a_loss_that_is_nan_stops_before_the_weights(trainer, iteration, names_checkpoint):
    made = trainer()
    before = {}

    def spoil():
        state = made.model.state_dict()
        before.update({key: value.clone() for key, value in state.items()})
        forward = made.model.forward
        made.model.forward = lambda batch: {
            key: value * (float("nan") if "cls" in key else 1)
            for key, value in forward(batch).items()
        }

    made.register_hooks([At(iteration, spoil)])
    with pytest.raises(UserError) as caught:
        made.train()
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.startswith(f"loss_rpn_cls became NaN or infinite at iteration {iteration} on")
    assert sentence.count("/images/") == 2
    assert ("model_000000" in sentence) == names_checkpoint
    for name, value in made.model.named_parameters():
        assert torch.equal(value, before[name]), name


def test_predictions_that_are_nan_before_there_are_losses_stop_with_the_same_words(trainer):
    made = trainer()

    def spoil():
        def forward(batch):  # as Detectron2's RPN does where its boxes are NaN
            raise FloatingPointError("Predicted boxes or scores contain Inf/NaN.")

        made.model.forward = forward

    made.register_hooks([At(3, spoil)])
    with pytest.raises(UserError) as caught:
        made.train()
    sentence = str(caught.value)
    assert sentence.startswith("the predicted boxes became NaN or infinite at iteration 3 on the")
    assert sentence.count("/images/") == 2
    assert "model_000000" in sentence


def test_the_last_good_checkpoint_is_the_newest_whose_weights_are_numbers(tmp_path):
    for i, value in enumerate((1.0, 2.0, float("inf"))):
        path = tmp_path / f"model_{i}.pth"
        torch.save({"model": {"w": torch.tensor([value])}}, path)
        os.utime(path, (i, i))
    (tmp_path / "model_3.pth").write_bytes(b"half")
    assert last_finite_checkpoint(str(tmp_path)) == str(tmp_path / "model_1.pth")


# --- one training in one folder


@pytest.fixture
def folder(repo, tmp_path):
    """A folder with checkpoints, and the config of a training into it."""
    (tmp_path / "out").mkdir()
    for name in ("last_checkpoint", "model_0000001.pth", "metrics.json"):
        (tmp_path / "out" / name).write_text("")
    return lambda *opts: load_config(repo / RPN, ["OUTPUT_DIR", str(tmp_path / "out"), *opts])


def test_a_second_training_is_refused_unless_it_resumes_or_overwrites(folder, tmp_path):
    with pytest.raises(UserError, match=r"model_0000001\.pth.*--resume.*OVERWRITE_OUTPUT_DIR"):
        check_output_dir(folder(), resume=False)
    assert check_output_dir(folder(), resume=True)
    overwriting = "OVERWRITE_OUTPUT_DIR", "True"
    assert not check_output_dir(folder(*overwriting), resume=False)
    assert (tmp_path / "out" / "model_0000001.pth").exists()  # until the new one begins
    own = str(tmp_path / "out" / "model_0000001.pth")
    with pytest.raises(UserError, match=r"MODEL\.WEIGHTS .* is one of the checkpoints"):
        check_output_dir(folder(*overwriting, "MODEL.WEIGHTS", own), resume=False)


def test_overwriting_deletes_checkpoints_and_metrics(trainer):
    first = trainer()
    first.train()
    again = trainer("OVERWRITE_OUTPUT_DIR", "True")
    assert checkpoints(again) == []
    assert not again.checkpointer.has_checkpoint()


def test_what_torchrun_restarts_resumes_only_what_it_began(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    for count in "012":  # refused at first, so also after torchrun's restarts
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
        with pytest.raises(UserError):
            check_output_dir(folder(), resume=False)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert check_output_dir(folder(), resume=True)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert check_output_dir(folder(), resume=False)


def test_a_kill_between_the_last_two_checkpoints_is_made_up_for(trainer):
    made = trainer("SOLVER.MAX_ITER", "2")
    made.train()
    os.remove(os.path.join(made.cfg.OUTPUT_DIR, "model_final.pth"))
    with open(os.path.join(made.cfg.OUTPUT_DIR, "last_checkpoint"), "w") as file:
        file.write("model_0000001.pth")
    again = Trainer(made.cfg)
    again.resume_or_load(resume=True)
    again.train()
    assert "model_final.pth" in checkpoints(again)


def test_metrics_of_what_comes_again_are_cut_off(tmp_path):
    path = tmp_path / "metrics.json"
    lines = [json.dumps({"iteration": i, "total_loss": 1.0}) + "\n" for i in (19, 39, 59)]
    path.write_text("".join(lines) + '{"iteration": 7')
    keep_steps_before(str(tmp_path), 60)
    assert path.read_text() == "".join(lines)
    keep_steps_before(str(tmp_path), 40)
    assert path.read_text() == "".join(lines[:2])
    keep_steps_before(str(tmp_path / "nowhere"), 40)
