"""Whole models equal stock Detectron2 on the same weights, bit for bit in float32.

Both have Detectron2's POOLER_CANONICAL_SIZE of 224, which stock heads cannot change.
"""

import functools

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage
from torch import nn

from fpn_d2.config import stock_config

RPN_LOSSES = {"loss_rpn_cls", "loss_rpn_loc"}
BOX_LOSSES = {"loss_cls", "loss_box_reg"}
MODELS = {  # row, losses
    "Faster R-CNN": ("Faster-RCNN/faster_rcnn_R_18_FPN", RPN_LOSSES | BOX_LOSSES),
    # its backbone is Detectron2's ResNet already
    "Faster R-CNN C5": ("Faster-RCNN/faster_rcnn_R_18_C5", RPN_LOSSES | BOX_LOSSES),
    "RPN": ("RPN/rpn_R_18_FPN", RPN_LOSSES),
    "Fast R-CNN": ("Fast-RCNN/fast_rcnn_R_18_FPN", BOX_LOSSES),
    "RetinaNet": ("RetinaNet/retinanet_R_18_FPN", BOX_LOSSES),
}
models = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(scope="module")
def pair(row_config):
    """``pair(name)``: our model and Detectron2's, on the same weights, none of them neutral.

    Each pair is built once. Both models of a pair go through the same tests.
    """

    @functools.cache
    def build(name: str, pooling: str = "torchvision") -> tuple[nn.Module, nn.Module]:
        row, _ = MODELS[name]
        opts = [
            *("MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE", 224),
            *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),  # random weights are never sure
            *("MODEL.RETINANET.SCORE_THRESH_TEST", 0.0),
            *("MODEL.RPN.PRE_NMS_TOPK_TRAIN", 200, "MODEL.RPN.PRE_NMS_TOPK_TEST", 100),
        ]
        torch.manual_seed(0)
        backend = ("MODEL.ROI_BOX_HEAD.POOLER_BACKEND", pooling)  # stock heads have no other
        cfg = row_config(f"quick/{row}", *opts, *backend)
        ours, theirs = build_model(cfg), build_model(stock_config(cfg))
        kinds = {type(module) for module in theirs.modules()}
        assert not [kind for kind in kinds if kind.__module__.startswith("fpn_d2")]
        for parameter in ours.parameters():
            if parameter.dim() == 1:
                nn.init.normal_(parameter, mean=0.1, std=0.1)
        theirs.load_state_dict(ours.state_dict())
        assert list(ours.state_dict()) == list(theirs.state_dict())
        return ours, theirs

    return build


@pytest.fixture
def batches(make_input):
    objects = make_input(70, 93, [[3, 5, 60, 66], [70, 20, 71, 21], [0, 0, 93, 70]], seed=1)
    small = make_input(64, 75, [[10, 10, 30, 40]], seed=2)
    return {
        "odd sizes and a one-pixel box": [objects, small],
        "one image without objects": [small, make_input(33, 50, [], seed=3)],
        "no objects at all": [make_input(64, 37, [], seed=4), make_input(50, 31, [], seed=5)],
    }


def run_training(model: nn.Module, inputs: list[dict]) -> tuple[dict, dict]:
    """Return the losses of one batch under one seed, and the gradients of their sum."""
    model.train().zero_grad()
    torch.manual_seed(7)  # the RPN and the RoI heads draw their samples
    # RetinaNet's focal loss is scripted, and the JIT rounds differently once it has warmed up
    with EventStorage(), torch.jit.optimized_execution(False):
        losses = model(inputs)
    sum(losses.values()).backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {name: loss.detach() for name, loss in losses.items()}, gradients


def boxes_and_fields(instances) -> dict[str, torch.Tensor]:
    fields = instances.get_fields()
    return {k: v.tensor if isinstance(v, Boxes) else v for k, v in fields.items()}


def box_outputs(model, features, proposals):
    """The class scores and box deltas of proposals, before softmax and decoding."""
    heads = model.roi_heads
    levels = [features[name] for name in heads.box_in_features]
    pooled = heads.box_pooler(levels, [p.proposal_boxes for p in proposals])
    return heads.box_predictor(heads.box_head(pooled))


@models
def test_training_losses_and_gradients_are_detectron2s(pair, batches, name):
    (ours, theirs), losses = pair(name), MODELS[name][1]
    for what, batch in batches.items():
        a, gradients_a = run_training(ours, batch)
        b, gradients_b = run_training(theirs, batch)
        assert set(a) == set(b) == losses, what
        assert all(torch.isfinite(loss) for loss in a.values()), (what, a)
        assert all(torch.equal(a[name], b[name]) for name in b), (what, a, b)
        if what == "no objects at all":
            without = {name for name, loss in a.items() if loss == 0}
            assert without == losses & {"loss_rpn_loc", "loss_box_reg"}
        assert list(gradients_a) == list(gradients_b)
        different = [n for n, g in gradients_b.items() if not torch.equal(gradients_a[n], g)]
        assert not different, (what, different)
    state = theirs.state_dict()  # the norms' running averages too
    assert all(torch.equal(tensor, state[name]) for name, tensor in ours.state_dict().items())


@models
def test_features_and_detections_are_detectron2s(pair, batches, name):
    ours, theirs = (model.eval() for model in pair(name))
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        a, b = ours.backbone(x), theirs.backbone(x)
        assert list(a) == list(b)
        assert all(torch.equal(a[name], b[name]) for name in b)
        for batch in batches.values():
            for mine, stocks in zip(ours(batch), theirs(batch), strict=True):
                (key,) = stocks
                a, b = boxes_and_fields(mine[key]), boxes_and_fields(stocks[key])
                assert len(stocks[key]) > 0
                assert set(a) == set(b)
                assert all(torch.equal(a[name], b[name]) for name in b)


def test_with_our_pooling_losses_gradients_and_detections_are_detectron2s_to_rounding(
    pair, batches
):
    ours, theirs = pair("Faster R-CNN", "gather")
    for batch in batches.values():
        a, gradients_a = run_training(ours, batch)
        b, gradients_b = run_training(theirs, batch)
        for name in b:
            torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5)
        largest = max(gradient.abs().max() for gradient in gradients_b.values())
        for name, gradient in gradients_b.items():
            assert (gradients_a[name] - gradient).abs().max() <= 1e-4 * largest, name
    ours, theirs = ours.eval(), theirs.eval()
    with torch.no_grad():
        for batch in batches.values():
            images = theirs.preprocess_image(batch)
            features = theirs.backbone(images.tensor)
            proposals, _ = theirs.proposal_generator(images, features)
            outputs = [box_outputs(model, features, proposals) for model in (ours, theirs)]
            scores, deltas = zip(*outputs, strict=True)
            torch.testing.assert_close(*scores, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(*deltas, rtol=1e-4, atol=1e-5)
