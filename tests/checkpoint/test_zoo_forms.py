"""Checkpoints of both model zoos load in each published form, and ours load back."""

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_backbone, build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from model_zoo import (
    caffe2_blobs,
    caffe2_model_would_have,
    different,
    scramble,
    stock_config,
    twin,
    without_prefix,
    write_pickle,
    write_python2_pickle,
)
from torch import nn

from fpn_d2 import load_config
from fpn_d2.checkpoint import SafeCheckpointer, load_model

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
ZOO = {  # row: the stock model (task, model, depth)
    "Faster-RCNN/faster_rcnn_R_50_FPN": ("Faster-RCNN", "FPN", 50),
    "Faster-RCNN/faster_rcnn_R_101_FPN": ("Faster-RCNN", "FPN", 101),
    "Faster-RCNN/faster_rcnn_R_50_C4": ("Faster-RCNN", "C4", 50),
    "Fast-RCNN/fast_rcnn_R_50_FPN": ("Fast-RCNN", "FPN", 50),
    "RPN/rpn_R_50_FPN": ("RPN", "FPN", 50),
    "RPN/rpn_R_50_C4": ("RPN", "C4", 50),
}
# Networks are tried narrow, since only names and forms are tested; the zoo's ResNet-101 is tried as
# published, which takes long.
NARROW = [
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 32, "MODEL.RESNETS.WIDTH_PER_GROUP", 4),
    *("MODEL.FPN.OUT_CHANNELS", 16, "MODEL.ROI_BOX_HEAD.FC_DIM", 64),
]


def width(row: str) -> list:
    return [] if "R_101" in row else NARROW


zoo_rows = pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=pytest.mark.slow if "R_101" in row else ()) for row in ZOO],
    indirect=True,
)


@pytest.fixture(scope="module")
def row(request: pytest.FixtureRequest) -> str:
    """A row's name. The scope is the module, so that all tests of a row share its stock model."""
    return request.param


@pytest.fixture(scope="module")
def stock(row) -> nn.Module:
    return build_model(stock_config(*ZOO[row], *width(row)))


def detectron2_pkl(path, state, stock, row):
    """A file of the zoo. Its first models were saved with the anchors, as a buffer."""
    arrays = {name: value.numpy() for name, value in state.items()}
    if hasattr(stock, "proposal_generator") and stock.proposal_generator is not None:
        for i, anchors in enumerate(stock.proposal_generator.anchor_generator.cell_anchors):
            arrays[f"proposal_generator.anchor_generator.cell_anchors.{i}"] = anchors.numpy()
    content = {"model": arrays, "__author__": "Detectron2 Model Zoo"}
    return write_pickle(path("model_final.pkl"), content)


def detectron1_pkl(path, state, stock, row):
    _, model, depth = ZOO[row]
    blobs = caffe2_blobs(state, depth, pyramid=model == "FPN")
    content = {"blobs": blobs, "cfg": "MODEL:\n  TYPE: generalized_rcnn\n"}
    return write_python2_pickle(path("model_final.pkl"), content)


def pth(path, state, stock, row):
    """A file as DefaultTrainer saves it, with a small part of a training's state."""
    cfg = stock_config(*ZOO[row], *width(row))
    last = list(stock.children())[-1]
    optimizer = build_optimizer(cfg, last)
    for parameter in last.parameters():
        if parameter.numel() < 100_000:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    saved = stock.state_dict()  # with Module's metadata, unlike a dict of arrays
    for name, value in saved.items():
        value.copy_(state[name])
    inner = {"iteration": 89999, "optimizer": optimizer.state_dict()}
    hooks = {"LRScheduler": build_lr_scheduler(cfg, optimizer).state_dict()}
    trainer = {"iteration": 89999, "hooks": hooks, "_trainer": inner}
    file = path("model_final.pth")
    torch.save({"model": saved, "trainer": trainer, "iteration": 89999}, file)
    return str(file)


@pytest.mark.parametrize("form", [detectron2_pkl, detectron1_pkl, pth])
@zoo_rows
def test_a_zoo_checkpoint_fills_the_matching_row_and_its_own_loads_back(
    row, form, stock, file_of, reports, row_config
):
    state = scramble(stock, seed=1)
    path = form(file_of, state, stock, row)
    expected = caffe2_model_would_have(state) if form is detectron1_pkl else state
    model = load_model(row_config(row, "MODEL.WEIGHTS", path, *width(row)))
    (report,) = reports
    assert report.missing_keys == report.unexpected_keys == report.incorrect_shapes == []
    assert not different(model.state_dict(), expected)
    assert not model.training
    if form is pth:  # and back
        state, path = scramble(model, seed=2), file_of("ours.pth")
        SafeCheckpointer(model, str(path.parent)).save("ours", iteration=3)
        scramble(stock, seed=3)
        DetectionCheckpointer(stock).load(str(path))
        report = reports[1]
        assert report.missing_keys == report.unexpected_keys == report.incorrect_shapes == []
        assert not different(stock.state_dict(), state)


# What configs/quick/laptop.yaml changes in a model's shapes, as stock Detectron2 reads it
QUICK = [
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.RESNETS.NORM", "BN"),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 4, "MODEL.FPN.OUT_CHANNELS", 64),
    *("MODEL.ROI_HEADS.NUM_CLASSES", 5, "MODEL.ROI_BOX_HEAD.FC_DIM", 256),
    *("MODEL.RETINANET.NUM_CLASSES", 5, "MODEL.BACKBONE.FREEZE_AT", 0),
]
ONE_LEVEL = [
    *("MODEL.ANCHOR_GENERATOR.SIZES", [[32, 64, 128, 256, 512]]),
    *("MODEL.RPN.IN_FEATURES", ["p2"], "MODEL.ROI_HEADS.IN_FEATURES", ["p2"]),
]


def convs(*names: str) -> set[str]:
    return {f"backbone.{name}.{what}" for name in names for what in ("weight", "bias")}


ABLATIONS = {  # row: the stock model, its overrides, the keys that only the stock model has
    "C4": ("C4", [], set()),
    "C5": ("C5", [], set()),
    "FPN": ("FPN", [], set()),
    "bottom_up": ("FPN", [], set()),
    "top_down": ("FPN", [], convs("fpn_lateral2", "fpn_lateral3", "fpn_lateral4")),
    "P2": ("FPN", ONE_LEVEL, convs("fpn_output3", "fpn_output4", "fpn_output5")),
}
ABLATION_ROWS = [
    *(("RPN", f"RPN/rpn_R_18_{name}", name) for name in ABLATIONS),
    *(("Fast-RCNN", f"Fast-RCNN/fast_rcnn_R_18_{name}", name) for name in ABLATIONS),
    *(("Faster-RCNN", f"Faster-RCNN/faster_rcnn_R_18_{n}", n) for n in ("C4", "C5", "FPN")),
    ("RetinaNet", "RetinaNet/retinanet_R_18_FPN", "FPN"),
]


@pytest.mark.parametrize("task, row, name", ABLATION_ROWS, ids=[row for _, row, _ in ABLATION_ROWS])
def test_every_ablation_loads_back_into_stock_detectron2(
    task, row, name, file_of, reports, row_config
):
    model, opts, only_stock = ABLATIONS[name]
    theirs = build_model(stock_config(task, model, 18, *QUICK, *opts))
    ours = build_model(row_config(f"quick/{row}"))
    before, state = scramble(theirs, seed=3), scramble(ours, seed=2)
    path = file_of("ours.pth")
    SafeCheckpointer(ours, str(path.parent)).save("ours")
    DetectionCheckpointer(theirs).load(str(path))
    (report,) = reports
    assert report.unexpected_keys == report.incorrect_shapes == []
    assert set(report.missing_keys) == only_stock
    kept = {name: before[name] for name in only_stock}
    assert not different(theirs.state_dict(), {**state, **kept})


def all_rows() -> list[str]:
    """The rows: every `configs/<row>.yaml` that is neither a base nor a mix-in."""
    rows = [path.relative_to(CONFIGS).with_suffix("") for path in CONFIGS.rglob("*.yaml")]
    mixed_in = {"Base-COCO", "models", "tasks", "laptop", "masks", "tables"}
    return sorted(str(row) for row in rows if not mixed_in & {row.parts[0], row.name})


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory) -> Iterator:
    """``imagenet(depth, form)``: a classifier's file, and the values in it for a ResNet."""
    folder = tmp_path_factory.mktemp("imagenet")
    yield functools.cache(
        lambda depth, form: write_imagenet(folder / f"{form}-R-{depth}.pkl", depth, form)
    )
    for path in folder.iterdir():
        path.unlink()


def write_imagenet(path, depth, form):
    small = ["MODEL.RESNETS.RES2_OUT_CHANNELS", 64] if depth == 18 else NARROW
    cfg = stock_config("RPN", "C5", depth, *small)
    resnet = build_backbone(cfg)
    state = scramble(resnet, seed=4)
    classes = {"weight": torch.rand(1000, 2048 // 4), "bias": torch.rand(1000)}
    if form == "MSRA":  # a bare dict, with what the solver had
        content = caffe2_blobs(state, depth, pyramid=False)
        content |= {"fc1000_w": classes["weight"].numpy(), "fc1000_b": classes["bias"].numpy()}
        content["fc1000_w_momentum"] = content["fc1000_w"] + 1
        content["conv1_b"] = torch.rand(64).numpy()  # the one bias of MSRA's ResNets
        return write_python2_pickle(path, content), caffe2_model_would_have(state)
    # as Detectron2's tools/convert-torchvision-to-d2.py writes it
    state |= {
        name.replace("running_var", "num_batches_tracked"): torch.tensor(len(name))
        for name in state
        if name.endswith("running_var")
    }
    arrays = {name: value.numpy() for name, value in state.items()}
    arrays |= {f"stem.fc.{name}": value.numpy() for name, value in classes.items()}
    content = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
    return write_pickle(path, content), state


# In the smallest row, an RPN on C4: the stem, two or three convolutions in a block, shortcuts
NUM_CONVS_OF_C4 = {18: 1 + 2 * 6 + 2, 50: 1 + 3 * 13 + 3, 101: 1 + 3 * 30 + 3}


def is_bottom_up(name: str, depth: int) -> bool:
    """Whether a name is the ResNet's. C4's head is its res5 of bottlenecks, which R-18 lacks."""
    prefixes = ("backbone.stem.", "backbone.res", "backbone.bottom_up.")
    return name.startswith(prefixes if depth == 18 else (*prefixes, "roi_heads.res5."))


# The demo's network is half as wide as ImageNet's. Twins: tests/test_configs.py
@pytest.mark.parametrize("row", [r for r in all_rows() if r != "quick/demo" and twin(r) == r])
def test_an_imagenet_checkpoint_fills_every_bottom_up_key(row, imagenet, reports):
    # narrow heads: half of the time would go into weights that no file fills
    small = [] if row.startswith("quick/") else map(str, NARROW)
    small = ["MODEL.DEVICE", "cpu", *small, "MODEL.ROI_BOX_HEAD.FC_DIM", "8"]
    cfg = load_config(CONFIGS / f"{row}.yaml", small)
    depth = cfg.MODEL.RESNETS.DEPTH
    model = build_model(cfg.clone())
    for form in ["converted"] if depth == 18 else ["converted", "MSRA"]:
        before = scramble(model, seed=5)
        path, values = imagenet(depth, form)
        SafeCheckpointer(model, "").resume_or_load(path, resume=False)
        after = model.state_dict()
        filled = {name for name in after if is_bottom_up(name, depth)}
        assert len(filled) >= 5 * NUM_CONVS_OF_C4[depth]
        expected = {
            name: values[without_prefix(name)] if name in filled else before[name] for name in after
        }
        if depth == 18:  # what happens to have the shape of the head's conv5 is filled too
            expected |= {n: v for n, v in after.items() if n.startswith("roi_heads.res5.")}
        assert not different(after, expected), form
        assert not filled & set(reports[-1].missing_keys)
