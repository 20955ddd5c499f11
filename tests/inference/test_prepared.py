"""Prepared and compiled models compute the same as the models that they were made from."""

import contextlib
import copy
import shutil
import threading
from unittest.mock import Mock

import pytest
import torch
from detectron2.layers import Conv2d, DeformConv, FrozenBatchNorm2d, ModulatedDeformConv
from detectron2.modeling import build_backbone, build_model
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, ImageList, Instances
from model_zoo import stock_config
from stage_convs import StageConvs
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import spectral_norm
from torch.nn.utils.parametrizations import weight_norm

from fpn_d2 import UserError
from fpn_d2.engine import Trainer, trainer
from fpn_d2.inference import PreparedModel, compile_backbone, prepare_model, prepared
from fpn_d2.modeling import LeanRPN
from fpn_d2.utils.devices import has_bfloat16
from fpn_d2.utils.modules import recast

AGNOSTIC = ["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True]
ROWS = [
    *(f"RPN/rpn_R_18_{name}" for name in ("FPN", "C4", "C5", "P2", "bottom_up", "top_down")),
    *(f"Fast-RCNN/fast_rcnn_R_18_{name}" for name in ("FPN", "C4", "P2")),
    *(f"Faster-RCNN/faster_rcnn_R_18_{name}" for name in ("FPN", "C4", "C5")),
    "RetinaNet/retinanet_R_18_FPN",
    "Mask-Proposals/mask_R_18_dual",
    "Mask-Proposals/mask_R_18_image_pyramid",
]
REGNET = [
    *("MODEL.FPN.BOTTOM_UP", "build_regnet_backbone", "MODEL.WEIGHTS", ""),
    *("MODEL.FPN.IN_FEATURES", ["s1", "s2", "s3", "s4"]),
]
FASTER = "quick/Faster-RCNN/faster_rcnn_R_18_FPN"


@pytest.fixture(scope="module")
def build(row_config, narrow_words):
    """``build(row, KEY, value, ...)``: a narrow model whose norms and biases are not neutral."""

    def make(row, *opts, narrow=True):
        opts = [
            *(narrow_words if narrow else ()),
            *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, "MODEL.RETINANET.SCORE_THRESH_TEST", 0.0),
            *("MODEL.RPN.PRE_NMS_TOPK_TEST", 100, "MODEL.RPN.POST_NMS_TOPK_TEST", 50),
            *opts,
        ]
        torch.manual_seed(0)
        model = build_model(row_config(row, *opts)).eval()
        generator = torch.Generator().manual_seed(1)
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if value.dim() == 1 and "norm" in name:
                with torch.no_grad():
                    away = 0.2 * torch.rand(value.shape, generator=generator)
                    value.add_(away)
        if hasattr(model, "roi_heads"):  # random features would make boxes and scores overflow
            for layer in model.roi_heads.box_predictor.children():
                nn.init.normal_(layer.weight, std=1e-4)
        return model

    return make


@pytest.fixture(scope="module")
def faster(build):
    """A Faster R-CNN, which no test changes."""
    return build(FASTER)


@pytest.fixture(scope="module", params=ROWS)
def row(request, build, make_input):
    """A row's model, an image, and the fields of the instances that the model returns for it."""
    model = build(f"quick/{request.param}", narrow=False)  # bfloat16's bounds hold for its width
    image = make_input(150, 193, [], seed=1)
    with torch.no_grad():
        return model, image, fields_of(model([image]))


def fields_of(outputs):
    (instances,) = (next(iter(output.values())) for output in outputs)
    fields = {}
    for name, value in instances.get_fields().items():
        if hasattr(value, "paste"):
            value = value.regions
        fields[name] = value.tensor if isinstance(value, Boxes) else value
    return fields


def batch_norms(model):
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | FrozenBatchNorm2d)]


@pytest.fixture
def bfloat16(monkeypatch):
    """Allow bfloat16 on any machine; without instructions for it, it is merely slow."""
    monkeypatch.setattr(prepared, "has_bfloat16", lambda device: True)
    return "bfloat16"


def test_it_finds_what_the_model_finds_and_ranks_in_float32(row, bfloat16):
    model, image, expected = row
    found = fields_of(prepare_model(model)([image]))
    assert set(found) == set(expected)
    ranks = next(name for name in ("scores", "objectness_logits") if name in found)
    assert len(found[ranks]) == len(expected[ranks]) > 0
    torch.testing.assert_close(found[ranks], expected[ranks], rtol=1e-3, atol=1e-4)
    ready = prepare_model(model, precision=bfloat16)
    found = fields_of(ready([image]))
    for name, value in found.items():
        assert not value.is_floating_point() or value.dtype == torch.float32, name
    # The features have 8 bits, so rounding decides which boxes follow the best one.
    assert (found[ranks][0] - expected[ranks][0]).abs() <= 0.05 * expected[ranks].abs().max()
    kinds = {p.dtype for p in ready.model.backbone.parameters() if p.dim() == 4}
    assert kinds == {torch.bfloat16}


@pytest.mark.parametrize(
    "row, opts",
    [
        ("RPN/rpn_R_50_FPN", []),
        (FASTER, []),
        ("quick/RetinaNet/retinanet_R_18_FPN", []),
        *((FASTER, ["MODEL.FPN.NORM", norm]) for norm in ("GN", "LN", "")),  # GN and LN stay
        ("quick/RPN/rpn_R_18_FPN", REGNET),
    ],
)
def test_features_are_the_models(build, row, opts):
    model = build(row, *opts)
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    ready = prepare_model(model).model
    with torch.no_grad():
        expected, found = model.backbone(x), ready.backbone(x)
    for name, level in expected.items():
        assert (found[name] - level).abs().max() <= 1e-4 * level.abs().max(), name
    if opts is REGNET:
        assert len(batch_norms(model)) > 20
        assert not batch_norms(ready)


def test_no_batch_norm_is_left_and_the_model_is_not_changed(faster, make_input):
    state = copy.deepcopy(faster.state_dict())
    with torch.no_grad():
        before = fields_of(faster([make_input(64, 64, [])]))
    ready = prepare_model(faster, precision="bfloat16" if has_bfloat16("cpu") else "float32")
    assert not batch_norms(ready)
    assert [m for m in faster.modules() if isinstance(m, nn.BatchNorm2d)]
    after = faster.state_dict()
    assert list(after) == list(state)
    assert all(torch.equal(after[name], value) for name, value in state.items())
    assert all(p.requires_grad for p in faster.parameters())
    with torch.no_grad():
        again = fields_of(faster([make_input(64, 64, [])]))
    assert all(torch.equal(again[name], value) for name, value in before.items())


def test_folding_by_hand():
    norm = FrozenBatchNorm2d(1, eps=0.0)
    norm.weight, norm.bias = torch.tensor([6.0]), torch.tensor([1.0])
    norm.running_mean, norm.running_var = torch.tensor([2.0]), torch.tensor([4.0])
    conv = Conv2d(1, 1, 1, bias=False, norm=norm)
    nn.init.constant_(conv.weight, 5.0)
    assert prepared.fold_batch_norms(nn.Sequential(conv).eval()) == 1
    # 6 (5 x - 2) / 2 + 1 = 15 x - 5
    assert (conv.weight.item(), conv.bias.item(), conv.norm) == (15.0, -5.0, None)


class Standardized(Conv2d):
    """Subtracts the mean of its weights before it uses them."""

    def forward(self, x):
        return self.norm(nn.functional.conv2d(x, self.weight - self.weight.mean(), self.bias))


class WithReLU(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


@pytest.mark.parametrize(
    "layer",
    [
        Standardized(2, 3, 1, norm=nn.BatchNorm2d(3)),
        Conv2d(2, 3, 1, norm=WithReLU(3)),
        weight_norm(Conv2d(2, 3, 1, norm=nn.BatchNorm2d(3))),
        Conv2d(2, 3, 1, norm=nn.BatchNorm2d(3, track_running_stats=False)),
    ],
    ids=["a convolution", "a norm", "reparametrized weights", "statistics of the batch"],
)
def test_what_others_wrote_is_not_folded(layer):
    model = nn.Sequential(layer).eval()
    nn.init.normal_(layer.norm.bias)
    x = torch.randn(2, 2, 4, 4)
    assert prepare_model(model).model(x).allclose(model(x), atol=1e-5)


def test_a_norm_of_ones_own_with_pytorchs_forward_is_folded():
    class Norm(nn.BatchNorm2d):
        def __init__(self, channels):
            super().__init__(channels, eps=1e-3)

    assert prepared.fold_batch_norms(nn.Sequential(Conv2d(2, 3, 1, norm=Norm(3)))) == 1


class OfClips(nn.Module):
    """Somebody's own network, with weights of five dimensions; it holds what it computed last."""

    def __init__(self):
        super().__init__()
        self.conv = spectral_norm(nn.Conv2d(3, 4, 3))
        self.conv.norm = nn.BatchNorm2d(4)  # which this network calls itself
        self.over_time = nn.Conv3d(4, 4, 1)

    def forward(self, records):
        self.maps = [self.conv.norm(self.conv(record["clip"])) for record in records]
        return [self.over_time(x[:, :, None]).mean() for x in self.maps]


def test_a_network_of_ones_own_is_prepared_between_two_steps():
    model, records = OfClips(), [{"clip": torch.rand(1, 3, 8, 8)}]
    sum(model(records)).backward()
    ready = prepare_model(model)
    torch.testing.assert_close(ready(records), model.eval()(records))
    assert model.maps[0].requires_grad


def test_what_a_network_holds_may_be_computed_anywhere_within():
    model = OfClips()
    (loss,) = model([{"clip": torch.rand(1, 3, 8, 8)}])
    model.found, model.shown = Instances((8, 8), gt_boxes=Boxes(loss.expand(2, 4))), {loss}
    model.classes = {"name": "animal"}
    model.classes["children"] = [{"name": "cat", "parent": model.classes}]
    ready = prepare_model(model)
    assert torch.equal(ready.found.gt_boxes.tensor, model.found.gt_boxes.tensor)
    assert not ready.found.gt_boxes.tensor.requires_grad


def test_a_lack_of_memory_is_no_fault_of_the_network(monkeypatch):
    fails = Mock(side_effect=torch.OutOfMemoryError("CUDA out of memory."))
    monkeypatch.setattr(nn.Conv2d, "__deepcopy__", fails, raising=False)
    with pytest.raises(torch.OutOfMemoryError):
        prepare_model(OfClips())


def test_a_network_that_cannot_be_copied_names_the_remedy():
    model = OfClips()
    model.files = iter(()), threading.Lock()
    with pytest.raises(UserError, match="OfClips cannot be copied .*set INFERENCE.PREPARE False"):
        prepare_model(model)


class CosineLayers(FastRCNNOutputLayers):
    """Somebody's own box head: it reads a layer's weights, and returns more, by name."""

    def forward(self, x):
        weights = F.normalize(self.cls_score.weight, dim=1)
        scores = F.linear(F.normalize(x.flatten(1)), weights)
        return {"scores": scores, "deltas": self.bbox_pred(x.flatten(1)), "more": None}

    def inference(self, found, proposals):
        return super().inference((found["scores"], found["deltas"]), proposals)


def test_a_box_head_of_ones_own_may_return_anything(build, make_input, bfloat16):
    model, image = build(FASTER), make_input(65, 90, [], seed=1)
    recast(model.roi_heads.box_predictor, CosineLayers)
    with torch.no_grad():
        expected = fields_of(model([image]))
    found = fields_of(prepare_model(model)([image]))
    torch.testing.assert_close(found["scores"], expected["scores"], rtol=1e-3, atol=1e-4)
    found = fields_of(prepare_model(model, precision=bfloat16)([image]))
    torch.testing.assert_close(found["scores"][0].float(), expected["scores"][0], rtol=0.1, atol=0)
    ready = prepare_model(model)
    ready.roi_heads.box_predictor.bbox_pred.bias[0] = torch.nan
    with pytest.raises(FloatingPointError, match=r"roi_heads.box_predictor are NaN"):
        ready([image])


class WithoutDeltas(FastRCNNOutputLayers):
    def forward(self, x):
        assert self.bbox_pred is None
        return self.cls_score(x.flatten(1)), x.new_zeros(len(x), 4 * self.num_classes)


def test_a_box_head_of_ones_own_may_lack_a_layer(build, make_input, bfloat16):
    model = build(FASTER)
    recast(model.roi_heads.box_predictor, WithoutDeltas, bbox_pred=None)
    assert prepare_model(model, precision=bfloat16)([make_input(65, 90, [])])


def test_scores_are_computed_in_float32_and_masks_returned_in_it(build, bfloat16):
    model = build(FASTER, "MODEL.MASK_ON", True)
    ready = prepare_model(model, precision=bfloat16).model
    layers = [
        ready.roi_heads.mask_head.predictor,
        ready.proposal_generator.rpn_head.anchor_deltas,
        ready.roi_heads.box_predictor.bbox_pred,
        ready.roi_heads.box_predictor.cls_score,
    ]
    inputs = [torch.randn(2, layer.weight.shape[1], 1, 1).bfloat16() for layer in layers]
    with torch.autocast("cpu", torch.bfloat16):
        found = [
            layer(x if layer.weight.dim() == 4 else x.flatten(1))
            for layer, x in zip(layers, inputs, strict=True)
        ]
    assert {x.dtype for x in found} == {torch.float32}
    plain = model.roi_heads.box_predictor.cls_score
    expected = F.linear(inputs[-1].flatten(1).float(), plain.weight, plain.bias)
    torch.testing.assert_close(found[-1], expected, rtol=1e-4, atol=1e-7)


def test_large_outputs_are_finite():
    """The sum of their squares is not."""
    for value in (1e30, torch.inf):
        with contextlib.ExitStack() as stack:
            if value == torch.inf:
                stack.enter_context(pytest.raises(FloatingPointError, match="outputs of head"))
            stack.enter_context(prepared._finite_outputs())
            prepared._measure_outputs("head", None, None, [torch.tensor([1.0, -value])])


def test_a_layer_with_a_copy_of_its_own_stays_float32(monkeypatch):
    monkeypatch.setattr(nn.Linear, "__deepcopy__", lambda self, memo: self, raising=False)
    assert type(copy.deepcopy(prepared._Float32(nn.Linear(1, 1)))) is prepared._Float32


def test_deformable_layers_that_no_cpu_computes_are_refused(bfloat16):
    plain = nn.Sequential(DeformConv(4, 4, 3))
    assert prepare_model(plain)
    with pytest.raises(UserError, match="float32 alone, not in bfloat16"):
        prepare_model(plain, precision=bfloat16)
    for layer in (DeformConv(4, 4, 3, deformable_groups=2), ModulatedDeformConv(4, 4, 3)):
        with pytest.raises(UserError, match="without modulation and groups: set MODEL.DEVICE cuda"):
            prepare_model(nn.Sequential(layer))


def test_the_parts_of_the_copy_are_found(faster):
    ready = prepare_model(faster)
    assert ready.backbone is ready.model.backbone
    assert ready.device == faster.device
    assert copy.deepcopy(ready).backbone is not ready.backbone
    assert not hasattr(ready, "nothing_like_this")


def test_what_cannot_be_is_refused(faster, monkeypatch):
    with pytest.raises(UserError, match="'half' is none of float32, bfloat16, float16"):
        prepare_model(faster, precision="half")
    with pytest.raises(UserError, match="float16 is for CUDA, and the model is on cpu"):
        prepare_model(faster, precision="float16")
    monkeypatch.setattr(prepared, "has_bfloat16", lambda device: False)
    with pytest.raises(UserError, match="no instructions for it; take float32"):
        prepare_model(faster, precision="bfloat16")
    ready = prepare_model(faster)
    assert not ready.training
    with pytest.raises(UserError, match="prepared already"):
        prepare_model(ready, precision="bfloat16")
    with pytest.raises(RuntimeError, match="cannot be trained"):
        ready.train()


def test_without_a_compiler_it_runs_and_says_so(faster, make_input, monkeypatch, caplog):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    ready = prepare_model(faster, compile=True)
    assert "no C++ compiler" in caplog.text
    assert ready([make_input(64, 64, [])])


def test_a_model_without_a_backbone_is_not_compiled(caplog):
    assert not compile_backbone(nn.Conv2d(1, 1, 1))
    assert "a Conv2d has no backbone" in caplog.text


def test_nan_is_named_and_not_an_image_without_detections(faster, make_input):
    model = copy.deepcopy(faster)
    image = make_input(64, 64, [])
    image["image"][0, 5, 5] = float("nan")
    image["file_name"] = "cats.jpg"
    with pytest.raises(FloatingPointError, match=r"cats\.jpg has pixels that are NaN"):
        prepare_model(model)([image])
    for layer, where in (
        ("backbone.bottom_up.stem.conv1", "proposal_generator.rpn_head"),
        ("roi_heads.box_head.fc1", "roi_heads.box_predictor"),
    ):
        ready = prepare_model(model)
        ready.model.get_submodule(layer).weight[0] = float("inf")
        with pytest.raises(FloatingPointError, match=f"outputs of {where} are NaN or infinite"):
            ready([make_input(64, 64, [])])
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.bias[0] = float("nan")
    with pytest.raises(UserError, match=r"roi_heads\.box_predictor\.cls_score\.bias has values"):
        prepare_model(model)


@pytest.mark.parametrize(
    "error, seen", [(AssertionError, FloatingPointError), (KeyboardInterrupt, KeyboardInterrupt)]
)
def test_what_is_not_finite_explains_an_error_and_hides_no_interrupt(
    faster, make_input, error, seen
):
    ready = prepare_model(faster)
    ready.model.get_submodule("backbone.bottom_up.stem.conv1").weight[0] = float("inf")
    ready.model.roi_heads.register_forward_pre_hook(Mock(side_effect=error))
    with pytest.raises(seen):
        ready([make_input(64, 64, [])])


def test_an_image_without_proposals_has_no_detections(faster, make_input):
    ready = prepare_model(faster)
    ready.model.proposal_generator.min_box_size = 1e6
    (output,) = ready([make_input(64, 64, [])])
    assert len(output["instances"]) == 0


# --- models of Detectron2 alone

PLAIN = {
    "Mask R-CNN": ["MODEL.MASK_ON", True],
    "RoI pooling": ["MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIPool"],
    "Cascade": ["MODEL.ROI_HEADS.NAME", "CascadeROIHeads", *AGNOSTIC],
    "Keypoint": ["MODEL.KEYPOINT_ON", True, "MODEL.ROI_HEADS.NUM_CLASSES", 1],
    "Panoptic FPN": ["MODEL.META_ARCHITECTURE", "PanopticFPN", "MODEL.MASK_ON", True],
}


@pytest.mark.parametrize("opts", PLAIN.values(), ids=PLAIN)
def test_models_of_detectron2_alone(opts, make_input, bfloat16):
    small = [
        *("MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.ROI_BOX_HEAD.FC_DIM", 64),
        *("MODEL.ROI_MASK_HEAD.NUM_CONV", 2, "MODEL.ROI_MASK_HEAD.CONV_DIM", 32),
        *("MODEL.SEM_SEG_HEAD.CONVS_DIM", 32, "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [64]),
        *("MODEL.RPN.POST_NMS_TOPK_TEST", 50, "TEST.DETECTIONS_PER_IMAGE", 20),
    ]
    scores = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0]
    # without a key of this package
    cfg = stock_config("Faster-RCNN", "FPN", 18, *small, *scores, *opts)
    torch.manual_seed(0)
    plain = build_model(cfg).eval()
    for module in plain.modules():
        for name, std in (("cls_score", 1e-4), ("bbox_pred", 1e-4), ("score_lowres", 1e-6)):
            if hasattr(module, name):
                nn.init.normal_(getattr(module, name).weight, std=std)
    image = make_input(128, 160, [], seed=1)
    with torch.no_grad():
        expected = plain([image])[0]["instances"]
    found = prepare_model(plain)([image])[0]["instances"]
    assert len(found) == len(expected) > 0
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-3, atol=1e-4)
    low = prepare_model(plain, precision=bfloat16)([image])[0]["instances"]
    assert low.scores.dtype == torch.float32
    assert (low.scores[0] - expected.scores[0]).abs() < 0.05


# --- a trainer, and compiled backbones


@pytest.mark.parametrize("asked", [True, False])
def test_a_trainer_compiles_and_prepares_where_the_keys_say_so(
    row_config, tiny_opts, monkeypatch, asked
):
    compiled, used = [], []
    keys = ["SOLVER.COMPILE", asked, "INFERENCE.PREPARE", asked]
    cfg = row_config("quick/RPN/rpn_R_18_FPN", *tiny_opts, *keys)
    monkeypatch.setattr(trainer, "compile_backbone", compiled.append)
    monkeypatch.setattr(
        "fpn_d2.engine.trainer.DefaultTrainer.test",
        classmethod(lambda cls, cfg, model, evaluators=None: used.append(model)),
    )
    model = Trainer.build_model(cfg)
    assert compiled == [model] * asked
    Trainer.test(cfg, model)
    assert isinstance(used[0], PreparedModel) == asked
    assert (used[0] is model) == (not asked)


@torch.no_grad()
@pytest.mark.parametrize("last", [4, 5])
def test_a_compiled_pyramid_may_end_before_p5(row_config, monkeypatch, last):
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(nn.Module, "compile", lambda *args, **options: None)
    levels = [f"p{k}" for k in range(2, last + 2)]
    cfg = row_config(
        "quick/RPN/rpn_R_18_FPN",
        *("MODEL.FPN.BOTTOM_UP", StageConvs.__name__, "MODEL.ANCHOR_GENERATOR.SIZES", "[[32]]"),
        *("MODEL.FPN.IN_FEATURES", [f"res{k}" for k in range(2, last + 1)]),
        *("MODEL.RPN.IN_FEATURES", levels),
    )
    model = nn.ModuleDict({"backbone": build_backbone(cfg)})
    x = torch.randn(1, 3, 64, 96)
    expected = model.backbone(x)
    assert compile_backbone(model)
    found = model.backbone(x)
    assert list(found) == list(expected) == levels
    assert all(found[name].equal(expected[name]) for name in levels)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("c++") and not shutil.which("g++"), reason="no C++ compiler")
def test_a_compiled_backbone_learns_the_same(row_config):
    """Compile P4 to P6 alone: each further level would only add one more of the same."""
    opts = ["MODEL.FPN.BOTTOM_UP", StageConvs.__name__, "MODEL.FPN.IN_FEATURES", ["res4", "res5"]]
    opts += ["MODEL.RPN.IN_FEATURES", ["p4", "p5", "p6"]]
    opts += ["MODEL.ANCHOR_GENERATOR.SIZES", [[64], [128], [256]]]
    cfg = row_config("quick/RPN/rpn_R_18_FPN", *opts)
    torch.manual_seed(0)
    plain, compiled = build_model(cfg.clone()), build_model(cfg.clone())
    compiled.load_state_dict(plain.state_dict())
    assert compile_backbone(compiled)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    x = torch.randn(2, 3, 64, 96)
    features, grads = [], []
    for model in (plain, compiled):
        features.append(model.backbone(x))
        loss = sum(feature.square().mean() for feature in features[-1].values())
        grads += torch.autograd.grad(loss, model.backbone.fpn_lateral4.weight)
    for name, expected in features[0].items():
        torch.testing.assert_close(features[1][name], expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", [LeanRPN, RPN])
def test_an_rpn_decodes_the_boxes_that_it_picks_and_finds_the_same_bits(build, kind, monkeypatch):
    model = build("quick/RPN/rpn_R_18_FPN", "MODEL.PROPOSAL_GENERATOR.NAME", kind.__name__)
    frugal = prepare_model(model).model.proposal_generator
    plain = copy.deepcopy(frugal)
    plain.__class__, plain.anchor_generator.__class__ = kind, DefaultAnchorGenerator
    decode = Mock(wraps=frugal.box2box_transform.apply_deltas)
    monkeypatch.setattr(frugal.box2box_transform, "apply_deltas", decode)
    channels = frugal.rpn_head.conv.in_channels
    generator = torch.Generator().manual_seed(0)
    for scale, size in ((1, (64, 96)), (1, (64, 96)), (1, (96, 64)), (0, (96, 64))):  # 0: all tie
        images = ImageList(torch.zeros(2, 3, *size), [size, (50, 60)])
        features = {
            name: scale * torch.randn(2, channels, size[0] // s, size[1] // s, generator=generator)
            for name, s in (("p2", 4), ("p3", 8), ("p4", 16), ("p5", 32), ("p6", 64))
        }
        with torch.no_grad():
            expected, found = plain(images, features)[0], frugal(images, features)[0]
        for x, y in zip(found, expected, strict=True):
            assert len(y) > 0
            assert torch.equal(x.proposal_boxes.tensor, y.proposal_boxes.tensor)
            assert torch.equal(x.objectness_logits, y.objectness_logits)
        # 100 of each of two images, out of 1152 and 288 anchors
        assert [len(call.args[0]) for call in decode.call_args_list[:2]] == [200, 200]
        decode.reset_mock()


def test_anchors_are_those_of_the_image_and_of_the_device(build):
    ready = prepare_model(build("quick/RPN/rpn_R_18_FPN")).model
    generator = ready.proposal_generator.anchor_generator
    plain = copy.deepcopy(generator)
    plain.__class__ = DefaultAnchorGenerator
    for size in ((8, 12), (8, 12), (12, 8)):
        maps = [torch.zeros(1, 1, *size) for _ in plain.cell_anchors]
        for x, y in zip(generator(maps), plain(maps), strict=True):
            assert torch.equal(x.tensor, y.tensor)
    assert generator(maps)[0].tensor is generator(maps)[0].tensor
    assert generator.to("meta")(maps)[0].tensor.device.type == "meta"


@pytest.mark.parametrize("size", [(25, 40), (1, 1)])
def test_group_norm_of_a_flat_map(size):
    """PyTorch's kernel for channels-last maps on CPUs is off by more than 5 here."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.GroupNorm(2, 64, eps=1e-4)
            for weight in self.norm.parameters():
                nn.init.uniform_(weight, 0.5, 1.5)

        def forward(self, batched_inputs):
            return self.norm(batched_inputs[0]["image"])

    noise = torch.randn(1, 64, *size, generator=torch.Generator().manual_seed(0))
    image = 50 + 0.01 * noise
    last = torch.empty(1, *size, 64).permute(0, 3, 1, 2).copy_(image)
    prepared = prepare_model(net := Net())
    found = prepared([{"image": last}])
    groups = image.double().unflatten(1, (2, 32)).flatten(2)
    mean, variance = groups.mean(2, keepdim=True), groups.var(2, correction=0, keepdim=True)
    expected = ((groups - mean) / (variance + 1e-4).sqrt()).view_as(image)
    weight, bias = (x.detach()[:, None, None] for x in (net.norm.weight, net.norm.bias))
    expected = weight * expected + bias
    torch.testing.assert_close(found.double(), expected, atol=2e-2, rtol=0)
    assert torch.jit.script(prepared.model.norm)(last).equal(found)
