"""The trainer's seams, mixed precision on CPUs, and resuming."""

import json
import math

import pytest
import torch
from detectron2.engine import DefaultTrainer, SimpleTrainer

from fpn_d2 import UserError, load_config
from fpn_d2.checkpoint import SafeCheckpointer
from fpn_d2.engine import Trainer, autocast
from fpn_d2.engine import trainer as trainer_module
from fpn_d2.engine.autocast import CPUAutocastTrainer

RPN = "configs/quick/RPN/rpn_R_18_FPN.yaml"


@pytest.fixture
def cfg(repo, tiny_opts):
    return load_config(repo / RPN, tiny_opts)


def test_each_seam_is_used(cfg):
    calls = []

    class Seams(Trainer):
        def wrap_model(self, cfg, model):
            calls.append("model")
            return super().wrap_model(cfg, model)

        def build_step(self, *args):
            calls.append("step")
            return super().build_step(*args)

        def build_checkpointer(self, cfg, model):
            calls.append("checkpointer")
            return super().build_checkpointer(cfg, model)

    trainer = Seams(cfg)
    assert calls == ["model", "step", "checkpointer"]
    assert isinstance(trainer, DefaultTrainer)
    assert isinstance(trainer._trainer, SimpleTrainer)
    assert isinstance(trainer.checkpointer, SafeCheckpointer)
    assert trainer.checkpointer.model is trainer.model


def test_it_has_the_attributes_of_detectron2s_trainer(cfg, monkeypatch):
    """Nothing that DefaultTrainer's constructor sets is forgotten by ours."""
    trainer = Trainer(cfg)
    monkeypatch.setattr(DefaultTrainer, "build_evaluator", Trainer.build_evaluator)
    stock = DefaultTrainer(cfg)
    assert vars(stock).keys() <= vars(trainer).keys()
    kinds = [type(hook) for hook in trainer._hooks]
    assert [type(hook) for hook in stock._hooks] == [
        kind for kind in kinds if kind.__module__.startswith("detectron2.")
    ]


def test_a_resumed_training_goes_on_where_it_stopped(repo, tiny_opts):
    cfg = load_config(repo / RPN, [*tiny_opts, "SOLVER.MAX_ITER", "2", "TEST.EVAL_PERIOD", "0"])
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    momentum = trainer.optimizer.state_dict()["state"]
    cfg = load_config(repo / RPN, [*tiny_opts, "SOLVER.MAX_ITER", "3"])
    resumed = Trainer(cfg)
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 2
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    for index, state in resumed.optimizer.state_dict()["state"].items():
        assert torch.equal(state["momentum_buffer"], momentum[index]["momentum_buffer"])
    resumed.train()
    assert resumed.iter == 3


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_mixed_precision_on_a_cpu_follows_the_processor(repo, tiny_opts, monkeypatch, has_bfloat16):
    monkeypatch.setattr(trainer_module, "cpu_has_bfloat16", lambda: has_bfloat16)
    cfg = load_config(repo / RPN, [*tiny_opts, "SOLVER.AMP.ENABLED", "True"])
    step = Trainer(cfg)._trainer
    assert type(step) is (CPUAutocastTrainer if has_bfloat16 else SimpleTrainer)


def test_a_processor_without_bfloat16_is_told_so(monkeypatch, caplog):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert not autocast.cpu_has_bfloat16()
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


def test_weights_are_channels_last_under_autocast(repo, tiny_opts, monkeypatch):
    monkeypatch.setattr(trainer_module, "cpu_has_bfloat16", lambda: True)
    cfg = load_config(repo / RPN, [*tiny_opts, "SOLVER.AMP.ENABLED", "True"])
    weight = Trainer(cfg).model.backbone.fpn_output2.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_results_of_each_test_set_lie_in_a_folder_of_their_own(repo, tiny_opts):
    opts = [*tiny_opts, "DATASETS.TEST", "('tiny_val', 'tiny_train')"]
    cfg = load_config(repo / RPN, opts)
    trainer = Trainer(cfg)
    returned = trainer.test(cfg, trainer.model)
    for name in ("tiny_val", "tiny_train"):
        folder = f"{cfg.OUTPUT_DIR}/inference/{name}"
        with open(f"{folder}/results.json") as file:
            written = json.load(file)["box_proposals"]
        expected = returned[name]["box_proposals"]
        assert written == {k: None if math.isnan(v) else v for k, v in expected.items()}
        assert any(v is None for v in written.values())  # nothing here is large
        with open(f"{folder}/box_proposals.pkl", "rb") as file:
            assert file.read(1)


@pytest.mark.parametrize(("images", "world", "processes"), [(3, 0, 2), (0, 0, 1)])
def test_a_batch_that_cannot_be_shared_is_refused(
    repo, tiny_opts, monkeypatch, images, world, processes
):
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: processes)
    opts = ["SOLVER.IMS_PER_BATCH", str(images), "SOLVER.REFERENCE_WORLD_SIZE", str(world)]
    cfg = load_config(repo / RPN, [*tiny_opts, *opts])
    with pytest.raises(UserError, match="SOLVER.IMS_PER_BATCH"):
        Trainer(cfg)
