"""Compiled backbones compute and learn what the backbones themselves do."""

import shutil

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from fpn_d2 import load_config
from fpn_d2.engine import Trainer, trainer
from fpn_d2.inference import compile_backbone
from fpn_d2.inference import compiled as compiling

RPN = "configs/quick/RPN/rpn_R_18_FPN.yaml"


def test_p6_is_every_second_cell():
    x = torch.randn(1, 2, 7, 10)
    (expected,), (found,) = LastLevelMaxPool()(x), compiling._Subsample()(x)
    assert torch.equal(found, expected)


def test_training_compiles_where_the_key_says_so(repo, monkeypatch):
    compiled = []
    monkeypatch.setattr(trainer, "compile_backbone", compiled.append)
    for value in ("False", "True"):
        cfg = load_config(repo / RPN, ["SOLVER.COMPILE", value, "MODEL.DEVICE", "cpu"])
        model = Trainer.build_model(cfg)
        assert compiled == ([model] if value == "True" else [])


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("c++") and not shutil.which("g++"), reason="no C++ compiler")
def test_a_compiled_backbone_learns_the_same(repo):
    cfg = load_config(repo / RPN, ["MODEL.DEVICE", "cpu"])
    torch.manual_seed(0)
    plain, compiled = build_model(cfg.clone()), build_model(cfg.clone())
    compiled.load_state_dict(plain.state_dict())
    assert compile_backbone(compiled)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    x = torch.randn(2, 3, 64, 96)
    features = [model.backbone(x) for model in (plain, compiled)]
    for name, expected in features[0].items():
        torch.testing.assert_close(features[1][name], expected, rtol=1e-3, atol=1e-4)
    grads = [
        torch.autograd.grad(
            sum(feature.square().mean() for feature in found.values()),
            model.backbone.fpn_lateral2.weight,
        )[0]
        for found, model in zip(features, (plain, compiled), strict=True)
    ]
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-3, atol=1e-5)
