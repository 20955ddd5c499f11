"""Names and columns of torchvision and maskrcnn-benchmark, by tables that are written here anew.

These tables give a narrow model of this package the other code base's names and order of classes;
the conversion must bring back every bit.
"""

import re

import convert_checkpoint as tool
import pytest
import torch
from detectron2.modeling import build_model
from model_zoo import different, scramble
from torchvision.models.detection import (
    FasterRCNN_ResNet50_FPN_Weights,
    RetinaNet_ResNet50_FPN_Weights,
)

from fpn_d2 import UserError, load_config, load_model
from fpn_d2.checkpoint.foreign import (
    check_complete,
    code_bases,
    convert_foreign,
    find_source,
    norm_eps_of,
)

NARROW = (
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 4, "MODEL.FPN.OUT_CHANNELS", 8),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", 8),
)
HEADS = {
    "proposal_generator.rpn_head.conv": "rpn.head.conv",
    "proposal_generator.rpn_head.objectness_logits": "rpn.head.cls_logits",
    "proposal_generator.rpn_head.anchor_deltas": "rpn.head.bbox_pred",
}
BENCHMARK = {
    **HEADS,
    "roi_heads.box_head.fc1": "roi_heads.box.feature_extractor.fc6",
    "roi_heads.box_head.fc2": "roi_heads.box.feature_extractor.fc7",
    "roi_heads.box_predictor.cls_score": "roi_heads.box.predictor.cls_score",
    "roi_heads.box_predictor.bbox_pred": "roi_heads.box.predictor.bbox_pred",
    **{f"backbone.fpn_lateral{i}": f"backbone.fpn.fpn_inner{i - 1}" for i in (2, 3, 4, 5)},
    **{f"backbone.fpn_output{i}": f"backbone.fpn.fpn_layer{i - 1}" for i in (2, 3, 4, 5)},
}
TORCHVISION = {
    **HEADS,
    "roi_heads.box_head.fc1": "roi_heads.box_head.fc6",
    "roi_heads.box_head.fc2": "roi_heads.box_head.fc7",
    "roi_heads.box_predictor.cls_score": "roi_heads.box_predictor.cls_score",
    "roi_heads.box_predictor.bbox_pred": "roi_heads.box_predictor.bbox_pred",
    "backbone.top_block.p6": "backbone.fpn.extra_blocks.p6",
    "backbone.top_block.p7": "backbone.fpn.extra_blocks.p7",
    "head.cls_score": "head.classification_head.cls_logits",
    "head.bbox_pred": "head.regression_head.bbox_reg",
    # as they were called before torchvision 0.13, in the files that it has published
    **{f"head.cls_subnet.{i}": f"head.classification_head.conv.{i}" for i in (0, 2, 4, 6)},
    **{f"head.bbox_subnet.{i}": f"head.regression_head.conv.{i}" for i in (0, 2, 4, 6)},
}


@pytest.fixture
def state_of(row_config):
    """``state_of(row, KEY, value, ...)``: the random weights of a narrow model, and its config."""

    def make(row, *opts):
        cfg = row_config(row, *NARROW, *opts)
        model = build_model(cfg.clone())
        state = scramble(model, seed=1)
        for name, value in state.items():
            if name.endswith("running_var"):
                value.abs_().add_(0.1)
        return state, cfg

    return make


def rename(name: str, table: dict[str, str], stem: str, finest: int = 2) -> str:
    """Return another code base's name for one of ours."""
    module, _, kind = name.rpartition(".")
    for ours, theirs in ((".norm", "bn"), ("", "conv")):
        found = re.fullmatch(rf"(.*)\.res(\d)\.(\d+)\.(conv(\d)|shortcut){re.escape(ours)}", module)
        if found:
            body = "backbone.body" if "backbone" in name else "roi_heads.box.feature_extractor.head"
            part = f"{theirs}{found[5]}" if found[5] else f"downsample.{int(theirs == 'bn')}"
            return f"{body}.layer{int(found[2]) - 1}.{found[3]}.{part}.{kind}"
    if ".stem." in name:
        return f"backbone.body.{stem}{'bn1' if '.norm' in name else 'conv1'}.{kind}"
    level = re.fullmatch(r"backbone\.fpn_(lateral|output)(\d)", module)
    if level and module not in table:
        blocks = {"lateral": "inner_blocks", "output": "layer_blocks"}[level[1]]
        return f"backbone.fpn.{blocks}.{int(level[2]) - finest}.{kind}"
    return f"{table[module]}.{kind}"


def background_first(weights: dict, predictor: str) -> dict:
    """Turn our order of columns into the other code bases', with a box for the background."""
    weights = dict(weights)
    for kind in ("weight", "bias"):
        scores, boxes = f"{predictor}.cls_score.{kind}", f"{predictor}.bbox_pred.{kind}"
        weights[scores] = torch.cat([weights[scores][-1:], weights[scores][:-1]])
        background = torch.rand(4, *weights[boxes].shape[1:])
        weights[boxes] = torch.cat([background, weights[boxes]])
    return weights


def without_eps(state: dict) -> dict:
    """Scale norms to do with an eps of 0 what they do now with 1e-5."""
    state = dict(state)
    for name in [name for name in state if name.endswith("norm.weight")]:
        variance = state[name.replace("weight", "running_var")]
        state[name] = state[name] * (variance / (variance + 1e-5)).sqrt()
    return state


@pytest.mark.parametrize("model", ["FPN", "C4"])
def test_maskrcnn_benchmarks_detectors(state_of, row_config, model):
    row = f"maskrcnn_benchmark/faster_rcnn_R_50_{model}"
    state, cfg = state_of(row, "MODEL.ROI_HEADS.NUM_CLASSES", 6)
    theirs = {rename(name, BENCHMARK, "stem."): v for name, v in without_eps(state).items()}
    theirs = background_first(theirs, "roi_heads.box.predictor")
    theirs = {f"module.{name}": value for name, value in theirs.items()}
    theirs["module.rpn.anchor_generator.cell_anchors.0"] = torch.zeros(3, 4)
    assert find_source(theirs) == "maskrcnn_benchmark"
    result = convert_foreign("model.pth", theirs, "maskrcnn_benchmark")
    norms = {name for name in state if name.endswith("norm.weight")}
    for name in norms:  # rounded twice
        torch.testing.assert_close(result.weights[name], state[name], rtol=1e-6, atol=0)
    assert set(different(result.weights, state)) <= norms
    check_complete(result.weights, cfg)
    assert result.config == f"{row}.yaml"
    assert result.overrides == ["MODEL.ROI_HEADS.NUM_CLASSES", "6"]
    assert result.labels == [1, 2, 3, 4, 5, 6]
    row_config(row, *result.overrides)


def test_torchvisions_faster_rcnn(state_of, row_config):
    row = "torchvision/faster_rcnn_R_50_FPN"
    unused = "MODEL.ROI_BOX_HEAD.NUM_UNUSED_CLASSES"
    state, cfg = state_of(row, "MODEL.ROI_HEADS.NUM_CLASSES", 3, unused, 0)
    for new_names in (False, True):
        theirs = background_first(torchvision_state(state, 2, new_names), "roi_heads.box_predictor")
        assert find_source(theirs) == "torchvision"
        result = convert_foreign("model.pth", theirs, "torchvision")
        assert not different(result.weights, state)  # an eps of 1e-5 leaves norms alone
        assert result.labels == [1, 2, 3]
        assert result.overrides == ["MODEL.ROI_HEADS.NUM_CLASSES", "3", unused, "0"]
    check_complete(result.weights, cfg)
    with pytest.raises(UserError, match=r"ROI_HEADS\.NAME is 'MyHeads', which is not registered"):
        check_complete(result.weights, row_config(row, "MODEL.ROI_HEADS.NAME", "MyHeads"))
    del result.weights["backbone.fpn_output2.bias"]
    result.weights["more.weight"] = torch.zeros(1)
    result.weights["roi_heads.box_head.fc2.bias"] = torch.zeros(9)
    with pytest.raises(UserError) as error:
        check_complete(result.weights, cfg)
    for fault in (
        "in 3 names",
        "backbone.fpn_output2.bias is missing",
        "more.weight has no place",
        "roi_heads.box_head.fc2.bias is (9,) and not (8,)",
    ):
        assert fault in str(error.value)


def test_torchvisions_retinanet_keeps_every_column_of_ones_own_data(state_of):
    state, cfg = state_of("torchvision/retinanet_R_50_FPN", "MODEL.RETINANET.NUM_CLASSES", 4)
    for new_names in (False, True):
        theirs = torchvision_state(state, 3, new_names)
        result = convert_foreign("model.pth", theirs, "torchvision")
        assert not different(result.weights, state)
        assert result.labels == [0, 1, 2, 3]
    check_complete(result.weights, cfg)


def torchvision_state(state: dict, finest: int, new_names: bool) -> dict:
    theirs = {}
    for name, value in state.items():
        new = rename(name, TORCHVISION, "", finest)
        if new_names:
            new = re.sub(r"(inner|layer)_blocks\.(\d)", r"\1_blocks.\2.0", new)
            new = new.replace("rpn.head.conv.", "rpn.head.conv.0.0.")
            new = re.sub(r"_head\.conv\.(\d)", lambda m: f"_head.conv.{int(m[1]) // 2}.0", new)
        theirs[new] = value
        if new.endswith("running_var"):
            theirs[new.replace("running_var", "num_batches_tracked")] = torch.tensor(7)
    return theirs


# --- COCO's classes


def predictor(columns: int) -> dict[str, torch.Tensor]:
    """Return a box predictor in which every value is the number of its column."""
    score = torch.arange(float(columns))
    prefix = "roi_heads.box_predictor."
    return {
        f"{prefix}cls_score.weight": score[:, None].repeat(1, 2),
        f"{prefix}cls_score.bias": score,
        f"{prefix}bbox_pred.weight": score.repeat_interleave(4)[:, None].repeat(1, 2),
        f"{prefix}bbox_pred.bias": score.repeat_interleave(4),
    }


def convert(weights, source="torchvision", **options):
    return convert_foreign("model.pth", weights, source, norm_eps=0.0, **options)


def test_cocos_91_columns_of_faster_rcnn():
    """COCO numbers person 1, stop sign 13 after the hole at 12, and toothbrush 90."""
    result = convert(predictor(91))
    prefix = "roi_heads.box_predictor."
    columns = result.weights[f"{prefix}cls_score.bias"].tolist()
    holes = [12, 26, 29, 30, 45, 66, 68, 69, 71, 83]
    assert columns[:12] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13]
    assert columns[79:] == [90, *holes, 0]
    assert result.labels == columns[:80]
    assert result.weights[f"{prefix}cls_score.weight"][:, 1].tolist() == columns
    boxes = result.weights[f"{prefix}bbox_pred.bias"].reshape(80, 4)
    assert boxes.tolist() == [[label] * 4 for label in columns[:80]]
    assert result.overrides[1::2] == ["80", "10"]

    result = convert(predictor(91), all_classes=True)
    columns = result.weights["roi_heads.box_predictor.cls_score.bias"].tolist()
    assert columns == [*range(1, 91), 0]
    assert result.overrides[1::2] == ["90", "0"]


def test_cocos_91_columns_of_retinanet():
    """Each of the 9 anchors keeps 80 columns."""
    columns = torch.arange(91.0).repeat(9)
    weights = {
        "head.classification_head.cls_logits.weight": columns.reshape(-1, 1, 1, 1),
        "head.classification_head.cls_logits.bias": columns,
    }
    result = convert(weights)
    found = result.weights["head.cls_score.bias"].reshape(9, 80)
    assert (found == torch.tensor(result.labels)).all()
    assert result.weights["head.cls_score.weight"].flatten().tolist() == found.flatten().tolist()
    assert result.labels[11:13] == [13, 14]
    assert len(result.labels) == 80
    assert convert(weights, all_classes=True).labels == list(range(91))


@pytest.mark.parametrize("number, depth", [(23, "101"), (36, "152")])
def test_a_deeper_resnet_is_seen(number, depth):
    """It has more blocks in layer3, which is res4."""
    blocks = {f"backbone.body.layer3.{i}.conv1.weight": torch.zeros(1) for i in range(number)}
    result = convert(predictor(3) | blocks)
    assert result.overrides[-2:] == ["MODEL.RESNETS.DEPTH", depth]


# --- what is refused


def test_unknown_names_are_listed_all_of_them():
    weights = predictor(3) | {"roi_heads.mask_head.mask_fcn1.weight": torch.zeros(1)}
    weights |= {"rpn.head.conv.1.0.weight": torch.zeros(1)}
    with pytest.raises(UserError) as error:
        convert(weights)
    assert "2 of the checkpoint's 6 names" in str(error.value)
    assert "roi_heads.mask_head.mask_fcn1.weight, rpn.head.conv.1.0.weight;" in str(error.value)
    result = convert(weights, left_out=("^roi_heads\\.mask_", r"conv\.1\.0"))
    assert len(result.weights) == 4
    assert any("2 names" in note for note in result.notes)
    with pytest.raises(UserError, match=r"--leave-out \( is no regular expression"):
        convert(weights, left_out=("(",))


ZERO, ONE = torch.zeros(1), torch.ones(1)
NORM, HEAD = "backbone.body.bn1", "head.classification_head.cls_logits"
SCORES = "roi_heads.box_predictor.cls_score"
REFUSED = [
    ({"rpn.head.conv.weight": ONE}, r"nothing for .*cls_score.*; convert a whole detector"),
    (
        {"rpn.head.conv.weight": ZERO, "rpn.head.conv.0.0.weight": ONE},
        r"rpn\.head\.conv\.0\.0\.weight under two names",
    ),
    (
        predictor(3) | {f"{NORM}.running_var": ZERO, f"{NORM}.weight": ONE},
        r"stem\.conv1\.norm\.running_var has a variance of 0",
    ),
    (  # class-agnostic boxes
        predictor(3) | {"roi_heads.box_predictor.bbox_pred.weight": torch.zeros(4, 2)},
        r"bbox_pred\.weight has 4 rows for 3 columns",
    ),
    (
        {f"{HEAD}.weight": torch.zeros(15, 2, 3, 3), f"{HEAD}.bias": torch.zeros(15)},
        r"15 scores, which is no multiple of its 9 anchors",
    ),
    *(  # fewer scores than columns, a scalar for a vector, and a norm of two lengths
        (predictor(3) | odd, r"model\.pth has weights of shapes that no torchvision detector has")
        for odd in (
            {f"{SCORES}.weight": torch.zeros(2, 2)},
            {f"{SCORES}.bias": torch.tensor(1.0)},
            {f"{NORM}.running_var": torch.ones(3), f"{NORM}.weight": torch.ones(2)},
        )
    ),
]


@pytest.mark.parametrize("weights, why", REFUSED)
def test_what_no_model_here_can_be_is_refused(weights, why):
    with pytest.raises(UserError, match=why):
        convert(weights)


def test_half_a_detector_of_maskrcnn_benchmark_is_refused_and_half_a_norm_is_left():
    with pytest.raises(UserError, match=r"nothing for .*cls_score.*; convert a whole detector"):
        convert({"rpn.head.conv.weight": ONE}, "maskrcnn_benchmark")
    # It is left to check_complete, which lists what is missing.
    found = convert(predictor(3) | {f"{NORM}.running_var": ZERO}).weights
    assert "backbone.bottom_up.stem.conv1.norm.weight" not in found


def test_the_eps_of_frozen_norms_is_asked_for(tmp_path, monkeypatch):
    path = tmp_path / "model.pth"
    path.write_bytes(b"abc")
    with pytest.raises(UserError, match="--norm-eps 0 for torchvision's published"):
        norm_eps_of(str(path), {})
    assert norm_eps_of(str(path), {"bn.num_batches_tracked": torch.tensor(0)}) == 1e-5
    # torchvision names its files by the first digits
    kinds = (FasterRCNN_ResNet50_FPN_Weights, RetinaNet_ResNet50_FPN_Weights)
    ends = tuple(f"-{digits}.pth" for digits in code_bases._WITHOUT_EPS)
    assert all(kind.COCO_V1.url.endswith(ends) for kind in kinds)
    # the SHA-256 of "abc", as in FIPS 180-2
    monkeypatch.setattr(code_bases, "_WITHOUT_EPS", ("ba7816bf",))
    assert norm_eps_of(str(path), {}) == 0.0
    # from a URL, the file that was downloaded is looked at
    local = {"https://nowhere.example/abc": str(path)}
    monkeypatch.setattr(code_bases.PathManager, "get_local_path", local.get)
    assert norm_eps_of("https://nowhere.example/abc", {}) == 0.0


@pytest.fixture
def run(tmp_path, run_tool):
    """``run(weights, word, ...)``: run the tool on a file of weights; its exit code, stdout
    and stderr. The output is ``tmp_path / "ours.pth"``."""

    def call(weights, *words):
        torch.save({"model": weights}, tmp_path / "theirs.pth")
        return run_tool(tool, tmp_path / "theirs.pth", tmp_path / "ours.pth", *words)

    return call


def test_the_tool_writes_nothing_of_what_it_does_not_know(tmp_path, run):
    ours = {"backbone.bottom_up.stem.conv1.weight": torch.zeros(1)}
    for words, why in (
        (["--from", "torchvision", "--norm-eps", 0], "1 of the checkpoint's 1 names"),
        (["--from", "maskrcnn_benchmark"], "1 of the checkpoint's 1 names"),
        (["--check", 3], "--check compares with torchvision, but the names are detectron2's"),
        (["--check", -1], "--check takes a number of images"),
        (["--norm-eps", -1], "--norm-eps one from 0 to 1"),
        (["--leave-out", "mask"], "--leave-out has no effect on weights with the names of"),
        (["--from", "maskrcnn_benchmark", "--all-classes"], "--all-classes has no effect"),
    ):
        code, _, stderr = run(ours, *words)
        assert (code, stderr.count("\n")) == (2, 1)
        assert why in stderr
        assert not (tmp_path / "ours.pth").exists()


def test_the_tool_names_the_config_and_what_to_override(state_of, tmp_path, run):
    """A narrow model does not fit the shipped config, but it fits one of its own."""
    row = "maskrcnn_benchmark/faster_rcnn_R_50_FPN"
    state, cfg = state_of(row, "MODEL.ROI_HEADS.NUM_CLASSES", 6)
    theirs = {rename(name, BENCHMARK, "stem."): value for name, value in state.items()}
    theirs = background_first(theirs, "roi_heads.box.predictor")
    code, stdout, stderr = run(theirs)
    assert code == 2
    assert "backbone.bottom_up.stem.conv1.weight is (8, 3, 7, 7) and not (64, 3, 7, 7)" in stderr
    config = tmp_path / "narrow.yaml"
    config.write_text(cfg.dump())
    words = ["--config-file", config]
    code, stdout, stderr = run(theirs, *words)
    assert (code, stderr) == (0, "")
    assert stdout.startswith("names of maskrcnn_benchmark, as they look\n")
    expected = f"{config} MODEL.ROI_HEADS.NUM_CLASSES 6 MODEL.WEIGHTS {tmp_path / 'ours.pth'}"
    assert stdout.splitlines()[-1] == f"its config: --config-file {expected}"
    load_model(load_config(config, expected.split()[1:]))
