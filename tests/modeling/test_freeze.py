"""MODEL.FPN.FREEZE: the shared layers of steps 3 and 4 stay, and the heads learn (Sec. 5.2)."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage
from torch import nn

from fpn_d2 import UserError

ROW = "quick/Faster-RCNN/faster_rcnn_R_18_FPN"
BOXES = [[4, 4, 40, 40], [30, 20, 60, 60]]


def build(row_config, *opts):
    torch.manual_seed(0)
    cfg = row_config(ROW, "SOLVER.WEIGHT_DECAY", 0.1, *opts)
    return cfg, build_model(cfg)


def copy_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(module, before):
    return {
        name for name, value in module.state_dict().items() if not torch.equal(value, before[name])
    }


def train_one_step(cfg, model, make_input):
    """Train a step with weight decay and momentum, which change weights without a gradient too."""
    optimizer = build_optimizer(cfg, model)
    with EventStorage():
        losses = model.train()([make_input(64, 64, BOXES)])
    sum(losses.values()).backward()
    optimizer.step()


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
@pytest.mark.parametrize("neck_norm", ["", "BN"])
def test_a_step_changes_the_heads_and_nothing_of_the_neck(row_config, make_input, norm, neck_norm):
    norms = ("MODEL.RESNETS.NORM", norm, "MODEL.FPN.NORM", neck_norm)
    cfg, model = build(row_config, *norms, "MODEL.FPN.FREEZE", True)
    before = copy_of(model)
    train_one_step(cfg, model, make_input)
    heads = {name for name, _ in model.named_parameters() if not name.startswith("backbone.")}
    assert len(heads) == 14  # 3 convolutions of the RPN, 2 fc and 2 predictors, each with a bias
    assert changed(model, before) == heads
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    groups = build_optimizer(cfg, model).param_groups
    given = {id(parameter) for group in groups for parameter in group["params"]}
    assert given == {id(p) for name, p in model.named_parameters() if name in heads}


def test_an_unfrozen_neck_does_change(row_config, make_input):
    """The step above can change weights and statistics alike."""
    cfg, model = build(row_config)
    before = copy_of(model)
    # so that the checkpoints of all four steps load into each other
    assert list(build(row_config, "MODEL.FPN.FREEZE", True)[1].state_dict()) == list(before)
    train_one_step(cfg, model, make_input)
    names = changed(model, before)
    assert names == set(before)
    assert any(name.endswith("running_mean") for name in names)


def test_it_stays_in_eval_mode_under_any_call_of_train(row_config):
    _, model = build(row_config, "MODEL.FPN.FREEZE", True)
    assert not any(module.training for module in model.backbone.modules())
    for call in (model.train, model.eval, model.backbone.train):
        call()
        assert not any(module.training for module in model.backbone.modules())
    model.train()
    assert model.training
    assert model.proposal_generator.training
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.backbone.modules())


def test_detections_do_not_depend_on_it(row_config, make_input):
    image = [make_input(64, 64, BOXES)]
    outputs = []
    _, first = build(row_config)
    weights = copy_of(first)
    for name, value in weights.items():  # statistics that are not the ones of a fresh network
        if "running" in name:
            value += torch.rand(value.shape, generator=torch.Generator().manual_seed(1))
    for freeze in (False, True):
        _, model = build(row_config, "MODEL.FPN.FREEZE", freeze)
        model.load_state_dict(weights)
        with torch.no_grad():
            found = model.eval().inference(image)[0]["instances"]
            outputs.append((found, model.backbone(image[0]["image"][None])))
    (ours, levels), (frozen, frozen_levels) = outputs
    assert len(ours) > 0
    assert torch.equal(ours.pred_boxes.tensor, frozen.pred_boxes.tensor)
    assert torch.equal(ours.scores, frozen.scores)
    for name in ("p2", "p3", "p4", "p5", "p6"):
        assert torch.equal(levels[name], frozen_levels[name])


@pytest.mark.parametrize(
    "row, opts",
    [
        ("quick/RPN/rpn_R_18_C4", []),
        ("quick/RPN/rpn_R_18_C5", []),
        (ROW, ["MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"]),
    ],
)
def test_without_this_neck_it_is_refused_with_the_other_key(row_config, row, opts):
    row_config(row, *opts)  # only the key is refused
    with pytest.raises(UserError, match=r"FPN.FREEZE has no effect.*MODEL\.BACKBONE\.FREEZE_AT"):
        row_config(row, *opts, "MODEL.FPN.FREEZE", True)
