"""add_fpn_config, load_config, and the combinations that are refused in a sentence."""

import json
import os
import re
import runpy
import signal
import subprocess
import sys

import pytest
import torch
import yaml
from bad_inputs import REMEDY
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_HEADS_REGISTRY,
    GeneralizedRCNN,
    ProposalNetwork,
    StandardROIHeads,
    build_model,
)
from detectron2.modeling.meta_arch import RetinaNet
from detectron2.modeling.proposal_generator.rrpn import RRPN

import fpn_d2
from fpn_d2 import UserError, add_fpn_config, load_config
from fpn_d2.config import changed, flat, stock_config
from fpn_d2.config_checks import check_registered, class_head_key, features_read
from fpn_d2.modeling import LevelROIHeads

NEW_KEYS = {
    "MODEL.ROI_BOX_HEAD.NUM_UNUSED_CLASSES": 0,
    "INPUT.AUGMENTATIONS": [],
    "INPUT.RESIZE_TEST": "detectron2",
    "DATALOADER.MAX_SKIPPED_SHARE": 0.01,
    "DATALOADER.RANDOM_SUBSET_RATIO": 1.0,
    "DATASETS.TRAIN_REPEAT_FACTOR": [],
    "OVERWRITE_OUTPUT_DIR": False,
    "MODEL.FPN.FREEZE": False,
    "MODEL.NUM_CLASSES_FROM_DATA": False,
    "INFERENCE.PREPARE": True,
    "INFERENCE.ENGINE": "torch",
    "INFERENCE.CALIBRATION_IMAGES": 64,
    "INFERENCE.PRECISION": "float32",
    "INFERENCE.COMPILE": False,
    "SOLVER.COMPILE": False,
    "SOLVER.ACCUMULATE": 1,
    "SOLVER.EMA_DECAY": 0.0,
    "TEST.BEST_METRIC": "",
    "TEST.PATIENCE": 0,
    "TEST.VALIDATION_LOSS": False,
    "FOUR_STEP.RPN": "",
    "FOUR_STEP.FAST_RCNN": "",
    "FOUR_STEP.SHARED": True,
    "MODEL.FPN.BOTTOM_UP": "build_resnet_backbone",
    "MODEL.FPN.TOP_DOWN": True,
    "MODEL.FPN.LATERAL": True,
    "MODEL.FPN.OUT_FEATURES": [],
    "MODEL.FPN.TOP_BLOCK": "maxpool",
    "MODEL.RPN.SHARED_HEAD": True,
    "MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE": 224,
    "MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_LEVEL": 4,
    "MODEL.ROI_BOX_HEAD.POOLER_BACKEND": "auto",
}


@pytest.fixture
def write(tmp_path):
    """``write(text, name)``: write a config file, by default ``a.yaml``; return its path (str)."""

    def to_file(text: str, name: str = "a.yaml") -> str:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return to_file


def on_cpu(opts: str = "") -> CfgNode:
    """Return the defaults with these overrides, which are separated by spaces."""
    return load_config("", ["MODEL.DEVICE", "cpu", *opts.split()])


def assert_is_a_sentence(message: str) -> None:
    assert "\n" not in message
    assert len(message) < 500
    assert not re.search("has no attribute|NoneType|recursion", message)  # Python's, not the user's
    assert REMEDY.search(message) or "((((" in message  # a long value, which is cut


# --- the keys


def test_every_key_is_added_at_the_papers_value_and_none_is_changed():
    cfg, stock = get_cfg(), flat(get_cfg())
    add_fpn_config(cfg)
    ours = flat(cfg)
    assert {key: ours[key] for key in stock} == stock
    added = {key: value for key, value in ours.items() if key not in stock}
    # tested in modeling/test_bottom_up_networks.py and, as rows of Table 6, in test_configs.py
    elsewhere = ("MODEL.REGNETS.", "MODEL.MASK_PROPOSAL.", "INPUT.OBJECT_SCALE_TRAIN")
    others = {key for key in added if key.startswith(elsewhere)}
    assert {key: added[key] for key in added if key not in others} == NEW_KEYS
    assert others


@pytest.fixture(scope="module")
def fresh(repo):
    """What a new process sees, with a torch that calls itself 2.7.0a0+nv: Detectron2's defaults
    before and after it imports the package, and whether a foreign code base's component is
    registered before and after it imports the foreign components."""
    program = """if True:
        import json, torch
        torch.__version__ = torch.torch_version.TorchVersion("2.7.0a0+nv")
        from detectron2.config import get_cfg
        from detectron2.modeling import ROI_HEADS_REGISTRY as heads
        seen = {"torch": torch.__version__, "defaults": [get_cfg().dump()], "foreign": []}
        import fpn_d2
        seen["defaults"].append(get_cfg().dump())
        seen["foreign"].append("TorchvisionROIHeads" in heads)
        import fpn_d2.checkpoint.foreign
        seen["foreign"].append("TorchvisionROIHeads" in heads)
        print(json.dumps(seen))
    """
    environment = {**os.environ, "PYTHONPATH": str(repo)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_the_package_changes_none_of_detectron2s_defaults(fresh):
    stock, ours = fresh["defaults"]
    assert "MODEL:" in stock
    assert ours == stock


def test_an_older_torch_is_refused_with_the_version_that_is_needed(monkeypatch):
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.6.0+cpu"))
    needed = "fpn_d2 needs torch 2.7 or later, and this is 2.6.0+cpu: run `make setup`"
    with pytest.raises(ImportError, match=re.escape(needed)):
        runpy.run_path(fpn_d2.__file__)


def test_a_build_before_the_release_is_judged_by_major_and_minor(fresh):
    assert fresh["torch"] == "2.7.0a0+nv"  # and the package was imported


def test_the_public_names_are_the_ways_in():
    names = {"Predictor", "UserError", "add_fpn_config", "load_config", "load_model"}
    assert set(fpn_d2.__all__) == names
    assert all(hasattr(fpn_d2, name) for name in fpn_d2.__all__)


# --- load_config


def test_the_file_and_then_the_overrides_are_merged_into_a_frozen_config(write):
    path = write(
        "MODEL: {BACKBONE: {NAME: build_fpn_backbone}, "
        "FPN: {IN_FEATURES: [res4], TOP_DOWN: False, OUT_CHANNELS: 32}}"
    )
    cfg = load_config(path, ["MODEL.FPN.OUT_CHANNELS", "16", "SOLVER.BASE_LR", "0.5"])
    assert (cfg.MODEL.FPN.TOP_DOWN, cfg.MODEL.FPN.OUT_CHANNELS) == (False, 16)
    assert cfg.SOLVER.BASE_LR == 0.5
    with pytest.raises(AttributeError, match="immutable"):
        cfg.SEED = 1


def test_without_a_file_there_are_the_defaults():
    cfg, expected = flat(load_config()), get_cfg()
    add_fpn_config(expected)
    assert cfg | {"MODEL.DEVICE": ""} == flat(expected) | {"MODEL.DEVICE": ""}


@pytest.mark.parametrize("available, device", [(True, "cuda"), (False, "cpu")])
def test_the_device_is_cuda_where_there_is_one(monkeypatch, available, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    found = [load_config("", opts).MODEL.DEVICE for opts in ([], ["MODEL.DEVICE", "cpu"])]
    assert found == [device, "cpu"]


@pytest.mark.parametrize(
    "name, expected",
    [
        ("configs/RPN/row.yaml", "output/RPN/row"),
        ("configs/quick/RPN/row.v2.yaml", "output/quick/RPN/row.v2"),
        ("configs/old/configs/row.yaml", "output/row"),
        ("configs/configs.yaml", "output/configs"),
        ("elsewhere/row.yaml", "output/row"),
    ],
)
def test_each_file_has_an_output_dir_of_its_own(write, name, expected):
    folder = load_config(write("SEED: 1", name)).OUTPUT_DIR
    assert folder == expected


def test_an_output_dir_of_the_file_or_of_the_overrides_wins(write):
    path = write("OUTPUT_DIR: ./mine", "configs/RPN/row.yaml")
    assert load_config(path).OUTPUT_DIR == "./mine"
    assert load_config(path, ["OUTPUT_DIR", "theirs"]).OUTPUT_DIR == "theirs"
    inherits = write("_BASE_: row.yaml", "configs/RPN/other.yaml")
    assert load_config(inherits).OUTPUT_DIR == "./mine"


# --- a file or an override that cannot be read


BOMB = "\n".join(["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60)])
FILES = {
    "unknown key": ("MODEL: {FPN: {TOP_DOWM: False}}", "no config key MODEL.FPN.TOP_DOWM; did you "
                    "mean MODEL.FPN.TOP_DOWN"),
    "unknown section": ("MODLE: {DEPTH: 3}", "MODLE"),
    "wrong type": ("SOLVER: {BASE_LR: [1, 2]}", "BASE_LR"),
    "value for a section": ("MODEL: {FPN: 3}", "FPN"),
    "section for a value": ("SEED: {A: 3}", "SEED"),
    "a section twice": ("SOLVER: {BASE_LR: 0.5}\nSEED: 1\nSOLVER: {MAX_ITER: 9}",
                        "a.yaml line 3: SOLVER is there twice"),
    "a key twice": ("SOLVER:\n  BASE_LR: 0.5\n  BASE_LR: 0.1", "line 3: SOLVER.BASE_LR is there"),
    "missing base": ("_BASE_: gone.yaml", r"_BASE_ .*gone\.yaml does not exist"),
    "missing base of a list": ("_BASE_: [b.yaml, gone.yaml]", r"_BASE_ .*gone\.yaml does not"),
    "broken": ("MODEL: {FPN: [", "not a readable YAML file"),
    "tabs": ("MODEL:\n\tFPN: 3", "a.yaml.* line 2 "),
    "value for a large section": ("MODEL: 3", "MODEL"),
    "a list": ("- 1\n- 2", "a.yaml"),
    "a word": ("hello", "a.yaml"),
    "empty": ("", "a.yaml"),
    "a number as base": ("_BASE_: 3", "_BASE_"),
    "itself as base": ("_BASE_: a.yaml", "_BASE_"),
    "itself as a value": ("SEED: &a [*a]", "a.yaml would unfold"),
    "aliases of aliases": (BOMB, "a.yaml would unfold to more than 100000 values"),
    "merges of merges": ("\n".join(
        ["a0: &a0 {x: 1}"] + [f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 60)]),
        "a.yaml would unfold to more than 100000 values"),
    "nested too deep": ("SEED: " + "[" * 5000 + "]" * 5000, "nested too deep"),
    "brackets in a text": ("SEED: '" + "(" * 5000 + "'", "a.yaml"),
    "larger than a config": ("# " + "x" * 2**20, "a.yaml is larger than 1 MB"),
    "a device as base": ("_BASE_: /dev/zero", "config file /dev/zero is no file"),
    "many times the same base": ("_BASE_: [" + "b.yaml, " * 101 + "]", "_BASE_"),
    "not text": ("\x00\x01", "not a readable YAML file"),
}  # fmt: skip


@pytest.mark.parametrize("text, says", FILES.values(), ids=FILES)
def test_a_file_that_cannot_be_merged_is_refused_in_a_sentence(write, text, says):
    write("SEED: 1", "b.yaml")
    path = write(text)
    with pytest.raises(UserError, match=says) as caught:
        load_config(path)
    assert_is_a_sentence(str(caught.value))
    assert "a.yaml" in str(caught.value) or "/dev/zero" in str(caught.value)


def test_a_key_without_a_value_is_named(write):
    with pytest.raises(UserError, match=r"SOLVER.BASE_LR has no value; give it one"):
        load_config(write("SOLVER:\n  BASE_LR:\n  MAX_ITER: 9"))
    assert load_config(write("SOLVER: {WEIGHT_DECAY_BIAS: null}")).SOLVER.WEIGHT_DECAY_BIAS is None


def test_a_long_word_is_looked_at_once(write):
    path = write("SEED: 1  # " + "x" * 900_000)  # hours, if each of its letters began a word
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it takes far too long"))
    signal.alarm(120)
    try:
        assert load_config(path).SEED == 1
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_the_same_key_in_two_sections_and_in_a_base_is_there_once(write):
    write("SOLVER: {BASE_LR: 0.5}", "base.yaml")
    path = write(
        "_BASE_: base.yaml\nSOLVER: {BASE_LR: 0.1}\nMODEL: {RESNETS: {NORM: BN}, FPN: {NORM: BN}}"
    )
    assert load_config(path).SOLVER.BASE_LR == 0.1


def test_a_tilde_is_the_home_folder(write, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    cfg = load_config(write("OUTPUT_DIR: ~/runs/1\nMODEL: {WEIGHTS: ~/w.pth}"))
    assert (cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS) == ("/home/someone/runs/1", "/home/someone/w.pth")


def test_aliases_that_stay_small_are_read(write):
    path = write("MODEL:\n  PIXEL_MEAN: &a [1.0, 2.0, 3.0]\n  PIXEL_STD: *a")
    assert load_config(path).MODEL.PIXEL_STD == [1.0, 2.0, 3.0]


def test_a_lazy_config_is_refused_as_such(write):
    for path in (write("model = 1", "a.py"), "new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py"):
        with pytest.raises(UserError, match=r"\.py is a LazyConfig, .* name a \.yaml"):
            load_config(path)


def test_a_bomb_in_a_base_is_refused_too(write):
    write(BOMB, "base.yaml")
    with pytest.raises(UserError, match=r"base\.yaml would unfold"):
        load_config(write("_BASE_: base.yaml"))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.yaml does not exist"):
        load_config(tmp_path / "gone.yaml")
    with pytest.raises(UserError, match=rf"{tmp_path} is a folder; name one"):
        load_config(tmp_path)


@pytest.mark.parametrize("where", ["file", "base", "base of a list"])
def test_a_tag_that_runs_code_is_refused_and_not_run(write, tmp_path, where):
    proof = tmp_path / "ran"
    text = f'OUTPUT_DIR: !!python/object/apply:os.mkdir ["{proof}"]'
    path = unsafe = write(text)
    if where != "file":
        base = "a.yaml" if where == "base" else "[a.yaml]"
        path = write(f"_BASE_: {base}", "b.yaml")
    with pytest.raises(UserError, match=r"a\.yaml.*tags that run code are refused"):
        load_config(path)
    assert not proof.exists()
    get_cfg().merge_from_file(unsafe, allow_unsafe=True)  # the text does what it is refused for
    assert proof.exists()


OPTS = {
    "SEED 1 OUTPUT_DIR": "pairs.*3 words",
    "MODEL.FPN.LATERALS True": "LATERALS; did you mean MODEL.FPN.LATERAL",
    "FPN.LATERAL True": "no config key FPN.LATERAL; did you mean MODEL.F",
    "XYZZY 1": "no config key XYZZY",
    "SOLVER.EPOCHS 10": "set SOLVER.MAX_ITER to epochs x images / SOLVER.IMS_PER_BATCH.*--epochs",
    "SOLVER.BASE_LR fast": "SOLVER.BASE_LR fast",
    "SEED.A 1": "SEED.A",
    "MODEL.FPN 3": "MODEL.FPN",
    "MODEL.FPN {'TOP_DOWN':False}": "MODEL.FPN",
    "SEED 1 --resume": "--resume is no config key; give flags before the overrides",
    "--resume True": "--resume is no config key; give flags before the overrides",
    "SOLVER.BASE_LR None": "SOLVER.BASE_LR has no value",
    "OUTPUT_DIR ''": "OUTPUT_DIR is ''; name a folder of this machine",
    "OUTPUT_DIR s3://bucket/run": "OUTPUT_DIR is 's3://bucket/run'; name a folder of this machine",
    "MODEL.RESNETS.NORM None": "MODEL.RESNETS.NORM has no value",
}


@pytest.mark.parametrize("opts, says", OPTS.items(), ids=OPTS)
def test_an_override_that_cannot_be_merged_is_refused_in_a_sentence(opts, says):
    with pytest.raises(UserError, match=says) as caught:
        load_config("", opts.split())
    assert_is_a_sentence(str(caught.value))


@pytest.mark.parametrize("opts, says", [(["SEED", 1, 3], "pairs.*SEED 1 3"), ([3, "x"], "key 3")])
def test_an_override_in_python_may_be_a_number(opts, says):
    with pytest.raises(UserError, match=says):
        load_config("", opts)


# --- combinations that cannot work


FPN = (
    "MODEL.BACKBONE.NAME build_fpn_backbone MODEL.FPN.IN_FEATURES ['res2','res3'] "
    "MODEL.RPN.IN_FEATURES ['p2','p3'] MODEL.ROI_HEADS.IN_FEATURES ['p2','p3'] "
    "MODEL.ROI_HEADS.NAME LevelROIHeads "
)
R_18 = "MODEL.RESNETS.DEPTH 18 MODEL.RESNETS.RES2_OUT_CHANNELS 64 "
BASIC = "MODEL.BACKBONE.NAME build_basic_resnet_backbone " + R_18
STOCK_NECK = "MODEL.BACKBONE.NAME build_resnet_fpn_backbone "
STOCK_HEADS = "MODEL.ROI_HEADS.NAME StandardROIHeads "
BOX_HEAD = "MODEL.ROI_BOX_HEAD.NAME FastRCNNConvFCHead MODEL.ROI_BOX_HEAD.NUM_FC 1 "
# Values just beyond the limits of keys, without a sentence of their own.
BEYOND = {
    "-1": "DATALOADER.NUM_WORKERS MODEL.BACKBONE.FREEZE_AT "
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT "
    "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE "
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_SAMPLING_RATIO MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO "
    "SOLVER.REFERENCE_WORLD_SIZE TEST.EVAL_PERIOD TEST.PATIENCE VIS_PERIOD",
    "-2": "MODEL.RPN.BOUNDARY_THRESH TEST.DETECTIONS_PER_IMAGE",
    "0": "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN "
    "INFERENCE.CALIBRATION_IMAGES INPUT.MAX_SIZE_TEST INPUT.MAX_SIZE_TRAIN "
    "MODEL.FPN.OUT_CHANNELS MODEL.MASK_PROPOSAL.BATCH_SIZE_PER_IMAGE "
    "MODEL.MASK_PROPOSAL.HIDDEN_DIM MODEL.MASK_PROPOSAL.MASK_SIZE MODEL.MASK_PROPOSAL.TOPK_TEST "
    "MODEL.RESNETS.STEM_OUT_CHANNELS MODEL.RESNETS.WIDTH_PER_GROUP MODEL.RETINANET.NUM_CLASSES "
    "MODEL.RETINANET.NUM_CONVS MODEL.RETINANET.TOPK_CANDIDATES_TEST MODEL.ROI_BOX_HEAD.FC_DIM "
    "MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION "
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION "
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE MODEL.RPN.POST_NMS_TOPK_TRAIN MODEL.RPN.PRE_NMS_TOPK_TEST "
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN MODEL.SEM_SEG_HEAD.COMMON_STRIDE MODEL.SEM_SEG_HEAD.NUM_CLASSES "
    "SOLVER.ACCUMULATE SOLVER.CHECKPOINT_PERIOD SOLVER.MAX_ITER TEST.AUG.MAX_SIZE "
    "TEST.PRECISE_BN.NUM_ITER",
    "-0.1": "MODEL.RETINANET.FOCAL_LOSS_GAMMA MODEL.RETINANET.SMOOTH_L1_LOSS_BETA "
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA MODEL.RPN.SMOOTH_L1_BETA SOLVER.BASE_LR SOLVER.EMA_DECAY "
    "SOLVER.WARMUP_FACTOR SOLVER.WEIGHT_DECAY_NORM",
    "0.0": "MODEL.RETINANET.PRIOR_PROB SOLVER.CLIP_GRADIENTS.CLIP_VALUE "
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE",
    "1.0": "MODEL.RETINANET.PRIOR_PROB SOLVER.EMA_DECAY",
    "1.1": "DATALOADER.REPEAT_THRESHOLD MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH "
    "MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH MODEL.RETINANET.FOCAL_LOSS_ALPHA "
    "MODEL.RETINANET.NMS_THRESH_TEST MODEL.RETINANET.SCORE_THRESH_TEST "
    "MODEL.ROI_HEADS.NMS_THRESH_TEST MODEL.RPN.POSITIVE_FRACTION",
    "[0.5,1.1]": "MODEL.RETINANET.IOU_THRESHOLDS MODEL.ROI_BOX_CASCADE_HEAD.IOUS",
    "[0,-1,2]": "MODEL.RETINANET.IOU_LABELS",
    "[0.0]": "MODEL.MASK_PROPOSAL.SIZES MODEL.MASK_PROPOSAL.TEST_SCALES TEST.KEYPOINT_OKS_SIGMAS",
    "[4,7]": "MODEL.MASK_PROPOSAL.WINDOWS",
    "unknown": "INFERENCE.ENGINE INFERENCE.PRECISION INPUT.RANDOM_FLIP",
    "1e999": "SOLVER.BASE_LR",  # Python reads infinity
}
REFUSED = {
    FPN + "MODEL.FPN.TOP_DOWN False MODEL.FPN.LATERAL False":
        "MODEL.FPN.TOP_DOWN and MODEL.FPN.LATERAL are both False",
    "SOLVER.STEPS ('a',)": "SOLVER.STEPS is .*give whole numbers",
    "SOLVER.STEPS (0,)": "SOLVER.STEPS is .*whole numbers above 0",
    "SOLVER.STEPS (1.5,)": "SOLVER.STEPS is .*whole numbers",
    "INPUT.MIN_SIZE_TRAIN (100.5,)": "INPUT.MIN_SIZE_TRAIN is .*give whole numbers",
    "INPUT.MIN_SIZE_TRAIN ()": "INPUT.MIN_SIZE_TRAIN is .*whole numbers, 0 for no resize",
    "INPUT.MIN_SIZE_TRAIN (-800,)": "INPUT.MIN_SIZE_TRAIN is .*whole numbers, 0 for no resize",
    "INPUT.OBJECT_SCALE_TRAIN 128.0 MODEL.MASK_ON True INPUT.MIN_SIZE_TEST 0":
        "OBJECT_SCALE_TRAIN takes its limits from INPUT.MIN_SIZE_TEST, which is 0; give a size",
    "DATALOADER.MAX_SKIPPED_SHARE -0.1": "MAX_SKIPPED_SHARE is -0.1; give a frac",
    "DATALOADER.MAX_SKIPPED_SHARE 1.5": "DATALOADER.MAX_SKIPPED_SHARE is 1.5; give a frac",
    "INPUT.FORMAT XYZ": "INPUT.FORMAT is 'XYZ'.*'BGR'",  # Pillow has no such mode
    "INPUT.FORMAT F": "INPUT.FORMAT is 'F'.*'BGR'",  # without channels
    "MODEL.RPN.IN_FEATURES [1]": "IN_FEATURES is .*give names",
    "MODEL.PIXEL_MEAN [1.0]": "PIXEL_MEAN is .*3 channels",
    "INPUT.FORMAT L": "PIXEL_MEAN is .*each of the 1 channels of .*L",
    "MODEL.PIXEL_MEAN [1,2,'a']": "PIXEL_MEAN is .*a number",
    "MODEL.PIXEL_STD [1,True,1]": "PIXEL_STD is .*a number",
    "MODEL.PIXEL_STD [1,0,1]": "PIXEL_STD is .*give no 0",
    "MODEL.ANCHOR_GENERATOR.SIZES [['a','b']]": "ANCHOR_GENERATOR.SIZES is .*give numbers above 0",
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS [[0.5,0.0]]":
        "ANCHOR_GENERATOR.ASPECT_RATIOS is .*give numbers above 0",
    "INPUT.MIN_SIZE_TEST -5": "INPUT.MIN_SIZE_TEST is -5; give 0 or",
    FPN + "MODEL.FPN.FUSE_TYPE avg MODEL.FPN.TOP_DOWN False":
        "MODEL.FPN.FUSE_TYPE avg .* needs MODEL.FPN.TOP_DOWN and MODEL.FPN.LATERAL",
    FPN + "MODEL.FPN.FUSE_TYPE avg MODEL.FPN.LATERAL False": "MODEL.FPN.FUSE_TYPE avg",
    FPN + "MODEL.FPN.FUSE_TYPE max": "MODEL.FPN.FUSE_TYPE is 'max'.*'sum'",
    FPN + "MODEL.FPN.TOP_BLOCK p6": "MODEL.FPN.TOP_BLOCK is 'p6'.*'maxpool'",
    FPN + "MODEL.FPN.IN_FEATURES []": "MODEL.FPN.IN_FEATURES is empty",
    FPN + "MODEL.RPN.IN_FEATURES []": "MODEL.RPN.IN_FEATURES is empty",
    FPN + "MODEL.ROI_HEADS.IN_FEATURES []": "MODEL.ROI_HEADS.IN_FEATURES is empty",
    FPN + "MODEL.ANCHOR_GENERATOR.SIZES [[32],[64],[128]]": "MODEL.ANCHOR_GENERATOR.SIZES has 3 "
        "lists for the 2 levels p2, p3 of MODEL.RPN.IN_FEATURES",
    FPN + "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS [[1.0],[1.0],[1.0]]":
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS has 3 lists for the 2 levels",
    FPN + "MODEL.META_ARCHITECTURE RetinaNet MODEL.ANCHOR_GENERATOR.SIZES [[32],[64]]":
        "2 lists for the 5 levels p3, p4, p5, p6, p7 of MODEL.RETINANET.IN_FEATURES",
    **{
        f"{FPN}MODEL.ANCHOR_GENERATOR.{name} {lists}":
            f"ANCHOR_GENERATOR.{name} is .*; give numbers, or a list of them for each level"
        for name in ("SIZES", "ASPECT_RATIOS")
        for lists in ("[]", "[[]]", "[[32],[]]", "[[32],64]")
    },
    FPN + "MODEL.ANCHOR_GENERATOR.SIZES [[32,64],[128]]":  # with 3 aspect ratios
        "make 6, 3 anchors for a cell of p2, p3, .*; give each level the same number",
    FPN + "MODEL.META_ARCHITECTURE RetinaNet MODEL.ANCHOR_GENERATOR.SIZES [[9],[9],[9],[9],[9,8]]":
        "make 3, 3, 3, 3, 6 anchors for a cell of p3, p4, p5, p6, p7",
    FPN + "MODEL.META_ARCHITECTURE RetinaNet MODEL.RPN.HEAD_NAME TheirOwn "
    "MODEL.ANCHOR_GENERATOR.SIZES [[9],[9],[9],[9],[9,8]]": "make 3, 3, 3, 3, 6 anchors",
    "MODEL.RPN.IN_FEATURES ['res5']":
        "MODEL.RPN.IN_FEATURES names res5, but the ResNet has only res4",
    BASIC + "MODEL.RPN.IN_FEATURES ['res5']":
        "MODEL.RPN.IN_FEATURES names res5, but the ResNet has only res4",
    "MODEL.BACKBONE.NAME build_regnet_backbone":
        "MODEL.RPN.IN_FEATURES names res4, but the RegNet has only s1, s2, s3, s4",
    FPN + STOCK_NECK + "MODEL.RPN.IN_FEATURES ['p2','p7']":
        "MODEL.RPN.IN_FEATURES names p7, but the pyramid has only p2, p3, p6",
    "MODEL.RESNETS.OUT_FEATURES ['res4','res6']": "OUT_FEATURES is .*name one or more of stem, res",
    "MODEL.RESNETS.DEPTH 18": "RES2_OUT_CHANNELS is 256, and a ResNet-18 has 64; set it to 64",
    **{
        f"{network}MODEL.RESNETS.{key}": f"{key.split()[0]} is .*, and a ResNet-18 has {only}; set"
        for network in (R_18, BASIC)
        for key, only in (
            ("RES5_DILATION 2", "1"),
            ("DEFORM_ON_PER_STAGE [False,True,True,True]", r"\[False, False, False, False\]"),
        )
    },
    **{
        f"{BASIC}MODEL.RESNETS.NORM GN MODEL.RESNETS.{key}": f"NORM GN .*{key.split()[0]} is .* 32"
        for key in ("STEM_OUT_CHANNELS 16", "RES2_OUT_CHANNELS 48")
    },
    "MODEL.RESNETS.NORM GN MODEL.RESNETS.WIDTH_PER_GROUP 8": "NORM GN .*WIDTH_PER_GROUP is 8; set",
    **{
        "MODEL.BACKBONE.NAME build_regnet_backbone MODEL.RPN.IN_FEATURES ['s3'] "
        f"MODEL.ROI_HEADS.IN_FEATURES ['s3'] MODEL.REGNETS.{key}": f"REGNETS.{words}"
        for key, words in (
            ("NORM FOO", "NORM is 'FOO'"),
            ("OUT_FEATURES ['s3','s9']", "OUT_FEATURES is .*name one or more of s1, s2"),
            ("DEPTH 0", "DEPTH is 0"),
        )
    },
    R_18 + "MODEL.RESNETS.NUM_GROUPS 32": "NUM_GROUPS is 32, and a ResNet-18 has 1; set it to 1",
    STOCK_NECK + "MODEL.FPN.TOP_DOWN False":
        "MODEL.BACKBONE.NAME build_resnet_fpn_backbone; set it to build_fpn_backbone",
    STOCK_NECK + "MODEL.FPN.OUT_FEATURES ['p2']": "build_fpn_backbone",
    STOCK_NECK + "MODEL.FPN.TOP_BLOCK p6p7_p5": "MODEL.FPN.*TOP_BLOCK.*build_fpn_backbone",
    FPN + STOCK_NECK + "MODEL.FPN.TOP_BLOCK p6p7_c5": "MODEL.FPN.TOP_BLOCK has no effect on MODEL",
    STOCK_NECK + "MODEL.FPN.BOTTOM_UP build_regnet_backbone":
        "MODEL.FPN.*BOTTOM_UP.*build_fpn_backbone",
    "MODEL.BACKBONE.NAME build_resnet_backbone MODEL.FPN.TOP_DOWN False": "MODEL.FPN.TOP_DOWN.* "
        "no effect on MODEL.BACKBONE.NAME build_resnet_backbone; .*build_fpn",
    "MODEL.BACKBONE.NAME build_regnet_backbone MODEL.FPN.LATERAL False "
    "MODEL.RPN.IN_FEATURES ['s3'] MODEL.ROI_HEADS.IN_FEATURES ['s3']":
        "MODEL.FPN.*no effect on MODEL.BACKBONE.NAME build_regnet_backbone",
    "MODEL.RPN.SHARED_HEAD False": "MODEL.RPN.SHARED_HEAD.*build_level_rpn_head",
    "MODEL.ROI_BOX_HEAD.POOLER_BACKEND cuda": "POOLER_BACKEND is 'cuda'",
    STOCK_HEADS + "MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE 80":
        "POOLER_CANONICAL_SIZE.*LevelROIHeads",
    STOCK_HEADS + "MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_LEVEL 5":
        "POOLER_CANONICAL_LEVEL.*LevelROIHeads",
    STOCK_HEADS + "MODEL.ROI_BOX_HEAD.POOLER_BACKEND gather": "POOLER_BACKEND has no effect on "
        "MODEL.ROI_HEADS.NAME StandardROIHeads; .*LevelROIHeads",
    **{
        f"MODEL.ROI_HEADS.NAME {heads} MODEL.ROI_BOX_HEAD.{key} {value}":
            f"{key}.* no effect on MODEL.ROI_HEADS.NAME {heads}; set it to {ours}"
        for heads in ("CascadeROIHeads", "Res5ROIHeads")
        for key, value, ours in (
            ("POOLER_BACKEND", "gather", "LevelROIHeads"),
            ("POOLER_CANONICAL_SIZE", "100", "LevelROIHeads"),
            ("NUM_UNUSED_CLASSES", "10", "TorchvisionROIHeads"),
        )
    },
    "MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE 0": "CANONICAL_SIZE is 0",  # Eq. 1 divides by it
    # words
    "INPUT.MIN_SIZE_TRAIN_SAMPLING chioce": "SAMPLING is 'chioce'; set it to 'choice' or 'range'",
    "INPUT.CROP.TYPE relativ": "INPUT.CROP.TYPE is 'relativ'; set it to .*'absolute_range'",
    "INPUT.RESIZE_TEST pil": "RESIZE_TEST is 'pil'; set it to 'detectron2' or 'torchvision'",
    "INPUT.MASK_FORMAT rle": "INPUT.MASK_FORMAT is 'rle'; set it to 'polygon' or 'bitmask'",
    "SOLVER.WARMUP_METHOD cosine": "WARMUP_METHOD is 'cosine'; set it to 'linear' or 'constant'",
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE l2": "CLIP_TYPE is 'l2'; set it to 'value' or 'norm'",
    "FLOAT32_PRECISION low": "FLOAT32_PRECISION is 'low'; set it to .*'medium'",
    "MODEL.RPN.BBOX_REG_LOSS_TYPE l1": "RPN.BBOX_REG_LOSS_TYPE is 'l1'; set it to 'smooth_l1'",
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE iou": "ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE is 'iou'",
    "MODEL.ROI_BOX_HEAD.NORM bn": "MODEL.ROI_BOX_HEAD.NORM is 'bn'; set it to '' or 'BN'",
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE ROIAlignRotated": "set it to 'ROIAlignV2' or .*'ROIPool'$",
    "MODEL.MASK_ON True MODEL.ROI_MASK_HEAD.POOLER_TYPE Max": "ROI_MASK_HEAD.POOLER_TYPE is 'Max'",
    "MODEL.MASK_ON True MODEL.ROI_MASK_HEAD.POOLER_TYPE ''": "ROI_MASK_HEAD.POOLER_TYPE is ''",
    # ranges
    "INPUT.MIN_SIZE_TRAIN_SAMPLING range": r"MIN_SIZE_TRAIN is \(800,\); give the least and the",
    "INPUT.MIN_SIZE_TRAIN_SAMPLING range INPUT.MIN_SIZE_TRAIN (900,800)": "the least and the gr",
    "INPUT.MIN_SIZE_TRAIN_SAMPLING range INPUT.MIN_SIZE_TRAIN (0,800)": "the least and the gr",
    "INPUT.CROP.ENABLED True INPUT.CROP.SIZE [1.5,0.5]": "CROP.SIZE is .*two shares",
    "INPUT.CROP.ENABLED True INPUT.CROP.TYPE absolute": "CROP.SIZE is .*two whole numbers",
    "INPUT.CROP.ENABLED True INPUT.CROP.TYPE absolute_range INPUT.CROP.SIZE [9,3]": "lesser first",
    "INPUT.OBJECT_SCALE_TRAIN 128.0": "OBJECT_SCALE_TRAIN makes boxes of masks, .*set it True",
    "INPUT.OBJECT_SCALE_TRAIN -128.0": "OBJECT_SCALE_TRAIN is -128.0; give 0 or more",
    "MODEL.MASK_PROPOSAL.CENTER_RADIUS 0.0": "CENTER_RADIUS is 0.0; give a number above 0",
    "MODEL.MASK_PROPOSAL.MASK_LOSS_WEIGHT -10.0": "MASK_LOSS_WEIGHT is -10.0; give 0 or more",
    "MODEL.MASK_PROPOSAL.MASK_THRESHOLD 20.0": "MASK_THRESHOLD is 20.0; give a fraction",
    "MODEL.MASK_PROPOSAL.PADDING -3.0": "PADDING is -3.0; give 0 or more",
    "MODEL.MASK_PROPOSAL.POSITIVE_FRACTION 2.0": "POSITIVE_FRACTION is 2.0; give a fraction",
    "MODEL.RPN.NMS_THRESH 70.0": "MODEL.RPN.NMS_THRESH is 70.0; give a fraction",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST 5.0": "SCORE_THRESH_TEST is 5.0; give a fraction",
    "MODEL.ROI_HEADS.POSITIVE_FRACTION 25.0": "POSITIVE_FRACTION is 25.0; give a fraction",
    "MODEL.ROI_HEADS.IOU_THRESHOLDS [50]": "IOU_THRESHOLDS is .*give IoUs",
    "MODEL.RPN.IOU_THRESHOLDS [0.7,0.3]": "RPN.IOU_THRESHOLDS is .*the lowest first",
    "MODEL.RPN.IOU_LABELS [0,1]": r"RPN.IOU_LABELS is \[0, 1\]; give 3 labels",
    "MODEL.ROI_HEADS.IOU_LABELS [0,2]": "IOU_LABELS is .*give 0 for background",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE 0": "BATCH_SIZE_PER_IMAGE is 0; give 1 or more",
    "MODEL.ROI_BOX_HEAD.NUM_UNUSED_CLASSES -1": "NUM_UNUSED_CLASSES is -1; give 0 or more",
    "MODEL.ROI_HEADS.NUM_CLASSES 0": "NUM_CLASSES is 0; give 1 or more",
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS (10.0,10.0)": "BBOX_REG_WEIGHTS is .*give 4 numbers",
    "MODEL.RPN.POST_NMS_TOPK_TEST 0": "POST_NMS_TOPK_TEST is 0; give 1 or more",
    "MODEL.RPN.CONV_DIMS [0]": "CONV_DIMS is .*give channels",
    "MODEL.ANCHOR_GENERATOR.OFFSET 1.0": "OFFSET is 1.0; give a share",
    "MODEL.RESNETS.RES5_DILATION 3": "RES5_DILATION is 3; set it to 1 or 2",
    "SOLVER.MOMENTUM 1.0": "SOLVER.MOMENTUM is 1.0; give a number from 0.0 to below 1.0",
    "SOLVER.WEIGHT_DECAY -0.1": "SOLVER.WEIGHT_DECAY is -0.1; give 0 or more",
    "SOLVER.GAMMA -1.0": "SOLVER.GAMMA is -1.0; give 0 or more",
    "SOLVER.WARMUP_ITERS -5": "SOLVER.WARMUP_ITERS is -5; give 0 or more",
    "SOLVER.STEPS (10,) SOLVER.MAX_ITER 10": "SOLVER.STEPS is .*ends at SOLVER.MAX_ITER 10",
    "SOLVER.STEPS (3,3)": "SOLVER.STEPS is .*in their order",
    "SOLVER.STEPS (3,1)": "SOLVER.STEPS is .*in their order",
    "SOLVER.LR_SCHEDULER_NAME WarmupCosineLR SOLVER.BASE_LR_END 1.0": "BASE_LR_END is 1.0",
    "SOLVER.LR_SCHEDULER_NAME WarmupCosineLR SOLVER.BASE_LR 0.0": "SOLVER.BASE_LR 0.0; .*above 0",
    "TEST.PATIENCE 3 TEST.EVAL_PERIOD 9": "TEST.PATIENCE 3 counts evaluations .*set TEST.BEST_ME",
    "TEST.PATIENCE 3 TEST.BEST_METRIC bbox/AP": "TEST.PATIENCE 3 counts .*set .*TEST.EVAL_PERIOD",
    **{
        f"SOLVER.LR_SCHEDULER_NAME WarmupStepWithFixedGammaLR SOLVER.{opts}": says
        for opts, says in (
            ("MAX_ITER 3", "NUM_DECAYS is 3 in 3 iterations"),
            ("NUM_DECAYS 0", "NUM_DECAYS is 0 .*give 1 or more"),
            ("GAMMA 0.0", "GAMMA is 0.0; .* give a number above 0"),
        )
    },
    "SOLVER.RESCALE_INTERVAL True SOLVER.WARMUP_ITERS 9 SOLVER.MAX_ITER 9":
        "WARMUP_ITERS 9 are all of SOLVER.MAX_ITER 9; give fewer",
    "TEST.AUG.MIN_SIZES ()": "TEST.AUG.MIN_SIZES is .*whole numbers",
    "TEST.EXPECTED_RESULTS [['bbox','AP']]": "TEST.EXPECTED_RESULTS is .*task, metric, value and",
    "TEST.EXPECTED_RESULTS [['bbox','AP',1e999,1]]": "TEST.EXPECTED_RESULTS is .*task, metric",
    "TEST.EXPECTED_RESULTS [['bbox','AP',9,1]] DATASETS.TEST ('a','b')": "names no test set, and D",
    "DATALOADER.RANDOM_SUBSET_RATIO 0.0": "RANDOM_SUBSET_RATIO is 0.0; give a share",
    "DATASETS.TRAIN_REPEAT_FACTOR ['a']": "TRAIN_REPEAT_FACTOR is .*give pairs",
    "DATASETS.TRAIN_REPEAT_FACTOR [('a',)]": "TRAIN_REPEAT_FACTOR is .*give pairs",
    **{
        f"{key} {value}": f"^{key} is .*; (give|set it to)"
        for value, keys in BEYOND.items()
        for key in keys.split()
    },
    # keys without an effect, and keys that only work with others
    "DATALOADER.RANDOM_SUBSET_RATIO 0.5": "no effect on .*TrainingSampler; set that to RandomSubs",
    "DATALOADER.REPEAT_THRESHOLD 0.5": "REPEAT_THRESHOLD has no effect .*RepeatFactorTraining",
    "DATASETS.TRAIN_REPEAT_FACTOR [('a',2.0)]": "TRAIN_REPEAT_FACTOR has no effect .*Weighted",
    "DATALOADER.SAMPLER_TRAIN WeightedTrainingSampler DATASETS.TRAIN_REPEAT_FACTOR [('a',2.0)]":
        "TRAIN_REPEAT_FACTOR names a, which DATASETS.TRAIN does not",
    "MODEL.LOAD_PROPOSALS True DATALOADER.SAMPLER_TRAIN WeightedTrainingSampler "
    "DATASETS.TRAIN ('a','b')": "reads the proposals of one data set only; name one",
    **{
        f"{FPN}MODEL.META_ARCHITECTURE RetinaNet MODEL.{opts}": says
        for opts, says in (
            ("MASK_ON True", "MASK_ON has no effect on a RetinaNet"),
            ("KEYPOINT_ON True", "KEYPOINT_ON has no effect on a RetinaNet"),
            ("LOAD_PROPOSALS True", "LOAD_PROPOSALS has no effect on a RetinaNet"),
            ("RETINANET.NORM bn", "RETINANET.NORM is 'bn'; set it to"),
            ("RETINANET.IOU_LABELS [0,1]", "RETINANET.IOU_LABELS is .*give 3 labels"),
            ("RETINANET.BBOX_REG_LOSS_TYPE l1", "RETINANET.BBOX_REG_LOSS_TYPE is 'l1'; set it to"),
        )
    },
    **{
        f"MODEL.MASK_ON True MODEL.ROI_MASK_HEAD.{opts}": f"ROI_MASK_HEAD.{says}"
        for opts, says in (
            ("NORM bn", "NORM is 'bn'; set it to"),
            ("NORM GN MODEL.ROI_MASK_HEAD.CONV_DIM 48", "CONV_DIM is 48; .*multiple of 32"),
        )
    },
    **{
        f"{FPN}MODEL.META_ARCHITECTURE SemanticSegmentor MODEL.SEM_SEG_HEAD.{opts}": says
        for opts, says in (
            ("NORM bn", "SEM_SEG_HEAD.NORM is 'bn'; set it to"),
            ("NORM GN MODEL.SEM_SEG_HEAD.CONVS_DIM 48", "SEM_SEG_HEAD.CONVS_DIM is 48; .* of 32"),
        )
    },
    FPN + "MODEL.META_ARCHITECTURE PanopticFPN MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT 2.0":
        "INSTANCE_LOSS_WEIGHT weighs the mask head's loss too, .*MASK_ON is False; set it True",
    FPN + "MODEL.KEYPOINT_ON True TEST.KEYPOINT_OKS_SIGMAS [0.1]":
        "KEYPOINT_OKS_SIGMAS has 1 numbers; give one for each of the 17",
    FPN + "MODEL.KEYPOINT_ON True MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS 5 DATASETS.TEST ('a',)":
        "NUM_KEYPOINTS is 5, and COCO knows .* 17 points; give one for each of yours",
    FPN + "MODEL.META_ARCHITECTURE RetinaNet TEST.DETECTIONS_PER_IMAGE -1": "RetinaNet needs a l",
    "MODEL.KEYPOINT_ON True": "KEYPOINT_ON has no effect on .*Res5ROIHeads; set that to Level",
    "MODEL.ROI_HEADS.NAME C4ROIHeads MODEL.RESNETS.OUT_FEATURES ['res3','res4'] "
    "MODEL.ROI_HEADS.IN_FEATURES ['res3','res4']": "IN_FEATURES names res3, res4, and .*C4ROIHeads "
        "reads one level; name one, or set that to LevelROIHeads",
    STOCK_HEADS + "MODEL.ROI_BOX_HEAD.NAME FastRCNNConvFCHead": "NUM_FC and NUM_CONV are both 0, ",
    FPN + "MODEL.META_ARCHITECTURE MaskProposalNetwork": "MaskProposalNetwork needs masks; set it",
    "MODEL.PROPOSAL_GENERATOR.NAME MaskProposalGenerator":
        "GeneralizedRCNN does not go with .*MaskProposalGenerator; set MaskProposalNetwork and",
    FPN + "MODEL.META_ARCHITECTURE MaskProposalNetwork MODEL.MASK_ON True":
        "MaskProposalNetwork does not go with MODEL.PROPOSAL_GENERATOR.NAME RPN",
    "MODEL.ROI_HEADS.NAME CascadeROIHeads": "CascadeROIHeads needs .*CLS_AGNOSTIC_BBOX_REG; set",
    **{
        "MODEL.ROI_HEADS.NAME CascadeROIHeads MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG True "
        f"MODEL.ROI_BOX_CASCADE_HEAD.IOUS {ious}": f"ROI_BOX_CASCADE_HEAD.IOUS {says}"
        for ious, says in (
            ("(0.5,0.6)", "has 2 stages, and BBOX_REG_WEIGHTS 3; give as many"),
            ("(0.4,0.6,0.7)", r"begins with 0.4; set .*ROI_HEADS.IOU_THRESHOLDS to \[0.4\]"),
        )
    },
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS True": "USE_FED_LOSS needs .*USE_SIGMOID_CE; set it True",
    FPN + "MODEL.FPN.NORM GN MODEL.FPN.OUT_CHANNELS 48": "OUT_CHANNELS is 48; .*multiple of 32",
    FPN + "MODEL.FPN.NORM GN MODEL.FPN.OUT_CHANNELS 48 MODEL.META_ARCHITECTURE TheirOwn":
        "OUT_CHANNELS is 48; .*multiple of 32",
    **{
        f"{FPN}TEST.AUG.ENABLED True {what}": f"TEST.AUG.ENABLED .*does not support {key}"
        for what, key in (
            ("MODEL.META_ARCHITECTURE RetinaNet", "MODEL.META_ARCHITECTURE RetinaNet"),
            ("MODEL.META_ARCHITECTURE ProposalNetwork", "MODEL.META_ARCHITECTURE ProposalNet"),
            ("MODEL.META_ARCHITECTURE PanopticFPN", "MODEL.META_ARCHITECTURE PanopticFPN"),
            ("MODEL.LOAD_PROPOSALS True", "MODEL.LOAD_PROPOSALS"),
            (STOCK_HEADS + "MODEL.KEYPOINT_ON True", "MODEL.KEYPOINT_ON"),
        )
    },
    "SOLVER.IMS_PER_BATCH 6 SOLVER.REFERENCE_WORLD_SIZE 8":
        "SOLVER.IMS_PER_BATCH 6 .*SOLVER.REFERENCE_WORLD_SIZE",
    **{
        f"INFERENCE.{opts}": says
        for opts, says in (
            ("PREPARE False INFERENCE.PRECISION bfloat16", "no effect without INFERENCE.PREPARE"),
            ("ENGINE openvino INFERENCE.COMPILE True", "COMPILE compiles by PyTorch; set"),
            ("PRECISION int8", "int8 is OpenVINO's; set INFERENCE.ENGINE"),
        )
    },
    "SEED 2147483648": "SEED is 2147483648; give one below 2",
}  # fmt: skip


@pytest.mark.parametrize(
    "opts, says", REFUSED.items(), ids=[opts.removeprefix(FPN) for opts in REFUSED]
)
def test_a_combination_that_cannot_work_is_refused_by_its_key(opts, says):
    with pytest.raises(UserError, match=says) as caught:
        on_cpu(opts)
    assert_is_a_sentence(str(caught.value))


def test_cuda_is_refused_where_torch_sees_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="MODEL.DEVICE is cuda:1.*use cpu"):
        load_config("", ["MODEL.DEVICE", "cuda:1"])


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert load_config("", ["MODEL.DEVICE", "cuda:1"]).MODEL.DEVICE == "cuda:1"
    with pytest.raises(UserError, match="MODEL.DEVICE is cuda:2, and this machine has 2 GPUs"):
        load_config("", ["MODEL.DEVICE", "cuda:2"])


@pytest.mark.parametrize("device", ["mps", "meta", "xpu", "gpu"])
def test_a_device_that_torch_cannot_use_here_is_refused(monkeypatch, device):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match=f"MODEL.DEVICE is {device}; give cpu or cuda"):
        load_config("", ["MODEL.DEVICE", device])


@pytest.mark.parametrize("seed", [2**31 - 1, -1])  # and 2^31 is refused above
def test_a_seed_is_what_numpy_takes(seed):
    assert seed == on_cpu(f"SEED {seed}").SEED


ACCEPTED = [
    "MODEL.RETINANET.FOCAL_LOSS_ALPHA -1.0",  # none
    "MODEL.ROI_HEADS.IOU_THRESHOLDS [1.0]",
    "SOLVER.LR_SCHEDULER_NAME WarmupCosineLR SOLVER.STEPS (40000,)",  # which it does not read
    "SOLVER.LR_SCHEDULER_NAME WarmupCosineLR SOLVER.BASE_LR 0.1 SOLVER.BASE_LR_END 0.1",
    "INPUT.CROP.SIZE [1.5,0.5]",  # without crops
    "INPUT.CROP.ENABLED True INPUT.CROP.SIZE [1.0,1.0]",
    "INPUT.MIN_SIZE_TRAIN_SAMPLING range INPUT.MIN_SIZE_TRAIN (800,800)",
    "INFERENCE.PRECISION bfloat16",
    STOCK_HEADS + "MODEL.ROI_BOX_HEAD.NAME FastRCNNConvFCHead MODEL.ROI_BOX_HEAD.NUM_CONV 1",
    "MODEL.BACKBONE.NAME build_retinanet_resnet_fpn_backbone MODEL.FPN.IN_FEATURES "
    "['res3','res4','res5'] MODEL.RESNETS.OUT_FEATURES ['res3','res4','res5'] "
    "MODEL.META_ARCHITECTURE RetinaNet MODEL.FPN.TOP_BLOCK p6p7_c5",  # it reads the neck's p7
    "MODEL.RESNETS.NORM GN MODEL.RESNETS.NUM_GROUPS 32 MODEL.RESNETS.WIDTH_PER_GROUP 4",
    FPN + "MODEL.ANCHOR_GENERATOR.SIZES [[32]]",  # one list for all levels
    FPN + "MODEL.ANCHOR_GENERATOR.SIZES [32,64,128]",
    "MODEL.ANCHOR_GENERATOR.NAME TheirOwn MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS []",
    FPN + "MODEL.ANCHOR_GENERATOR.NAME TheirOwn MODEL.ANCHOR_GENERATOR.SIZES [[32],[64]]",
    FPN + "MODEL.RPN.HEAD_NAME TheirOwn MODEL.ANCHOR_GENERATOR.SIZES [[32,64],[128]]",
    BASIC + "MODEL.RESNETS.NUM_GROUPS 32",  # for the conv5 head
    "MODEL.MASK_ON True MODEL.ROI_MASK_HEAD.NAME PointRendMaskHead "
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE ''",
    "INPUT.MIN_SIZE_TRAIN (0,)",  # no resize, as in Detectron2
    "INPUT.FORMAT L MODEL.PIXEL_MEAN [114.0] MODEL.PIXEL_STD [58.0]",
    FPN + "MODEL.FPN.FUSE_TYPE avg",
    FPN + STOCK_NECK,
    FPN + "MODEL.RPN.IN_FEATURES [] MODEL.PROPOSAL_GENERATOR.NAME PrecomputedProposals",
    "SOLVER.IMS_PER_BATCH 6",
    "INPUT.FORMAT HSV",
    "DATALOADER.MAX_SKIPPED_SHARE 0.0",
    "DATALOADER.MAX_SKIPPED_SHARE 1.0",
    "SOLVER.LR_SCHEDULER_NAME MyOwn",
    "DATALOADER.SAMPLER_TRAIN MyOwn DATALOADER.RANDOM_SUBSET_RATIO 0.5",
    "DATALOADER.SAMPLER_TRAIN MyOwn",
    # RoI heads that are not built
    "MODEL.META_ARCHITECTURE ProposalNetwork MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE 100",
    # somebody else's
    "MODEL.BACKBONE.NAME TheirOwn MODEL.FPN.TOP_DOWN False MODEL.RESNETS.NORM TheirNorm",
    "MODEL.BACKBONE.NAME TheirOwn MODEL.FPN.IN_FEATURES ['a'] MODEL.FPN.NORM TheirNorm",
    "MODEL.META_ARCHITECTURE TheirOwn MODEL.RPN.IN_FEATURES []",
]


@pytest.mark.parametrize("opts", ACCEPTED, ids=[opts.removeprefix(FPN) for opts in ACCEPTED])
def test_what_can_work_is_accepted(opts):
    assert on_cpu(opts).is_frozen()


# --- the same model of Detectron2's components


@pytest.mark.parametrize(
    "opts, neck",
    {
        "": "build_resnet_fpn_backbone",
        "MODEL.FPN.TOP_DOWN False": "",
        "MODEL.FPN.LATERAL False": "",
        "MODEL.FPN.FREEZE True": "",
        "MODEL.FPN.OUT_FEATURES ['p2','p3']": "",
        "MODEL.FPN.TOP_BLOCK p6p7_c5": "",
        "MODEL.FPN.BOTTOM_UP build_regnet_backbone": "",
        "MODEL.META_ARCHITECTURE RetinaNet": "",
        "MODEL.META_ARCHITECTURE RetinaNet MODEL.FPN.TOP_BLOCK p6p7_c5":
            "build_retinanet_resnet_fpn_backbone",
    }.items(),
)  # fmt: skip
def test_where_detectron2_has_no_such_neck_ours_stays(opts, neck):
    found = stock_config(on_cpu(FPN + opts)).MODEL.BACKBONE.NAME
    assert found == (neck or "build_fpn_backbone")


@pytest.mark.parametrize("shared", [True, False])
def test_where_detectron2_has_no_such_heads_ours_stay(shared):
    opts = f"{FPN}MODEL.RPN.HEAD_NAME build_level_rpn_head MODEL.RPN.SHARED_HEAD {shared}"
    model = stock_config(on_cpu(opts)).MODEL
    found = [model.RPN.HEAD_NAME, model.ROI_HEADS.NAME]
    assert found == ["StandardRPNHead" if shared else "build_level_rpn_head", "StandardROIHeads"]


# --- registered components, judged by what they are


@pytest.fixture
def register(monkeypatch):
    """``register(registry, component)``: register it under its own name until the test ends."""
    return lambda registry, component: monkeypatch.setitem(
        registry._obj_map, component.__name__, component
    )


def heads_config(name: str) -> CfgNode:
    return on_cpu(f"MODEL.ROI_HEADS.NAME {name} MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE 100")


class PoolingHeads(StandardROIHeads):
    @classmethod
    def _init_box_head(cls, cfg, input_shape):  # a pooler of their own
        return super()._init_box_head(cfg, input_shape)


class ConfiguredHeads(StandardROIHeads):
    @classmethod
    def from_config(cls, cfg, input_shape):  # a pooler of their own
        return super().from_config(cfg, input_shape)


def test_rotated_boxes_have_a_fifth_weight(register):
    opts = "MODEL.PROPOSAL_GENERATOR.NAME RRPN MODEL.ROI_HEADS.NAME RROIHeads MODEL.DEVICE cpu "
    opts += "MODEL.ROI_BOX_HEAD.POOLER_TYPE ROIAlignRotated MODEL.BACKBONE.NAME build_fpn_backbone "
    opts += "MODEL.ANCHOR_GENERATOR.NAME RotatedAnchorGenerator MODEL.RPN.HEAD_NAME StandardRPNHead"
    zoo = "COCO-Detection/faster_rcnn_R_50_FPN_1x"
    four = [*opts.split(), "MODEL.RPN.BBOX_REG_WEIGHTS", "(1.0,1.0,1.0,1.0,1.0)"]
    with pytest.raises(UserError, match="ROI_BOX_HEAD.BBOX_REG_WEIGHTS is .*give 5 numbers"):
        load_config(zoo, four)
    five = [*four, "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", "(10.,10.,5.,5.,1.)"]
    cfg = load_config(zoo, five)
    with pytest.raises(UserError, match="does not support MODEL.ROI_HEADS.NAME RROIHeads"):
        load_config(zoo, [*five, "TEST.AUG.ENABLED", "True"])
    assert len(build_model(cfg).proposal_generator.box2box_transform.weights) == 5
    register(PROPOSAL_GENERATOR_REGISTRY, type("RotatedOfTheirs", (RRPN,), {}))
    opts = ["MODEL.PROPOSAL_GENERATOR.NAME", "RotatedOfTheirs"]
    load_config(zoo, [*five, *opts])


@pytest.mark.parametrize(
    "heads", [type("HeadsOfTheirs", (LevelROIHeads,), {}), PoolingHeads, ConfiguredHeads]
)
def test_heads_that_derive_from_ours_or_build_their_own_pooler_are_accepted(register, heads):
    register(ROI_HEADS_REGISTRY, heads)
    check_registered(heads_config(heads.__name__))


def test_heads_with_detectron2s_pooler_are_refused_as_soon_as_they_are_registered(register):
    cfg = heads_config("LateHeads")  # not registered yet
    register(ROI_HEADS_REGISTRY, type("LateHeads", (StandardROIHeads,), {}))
    with pytest.raises(UserError, match="no effect on MODEL.ROI_HEADS.NAME LateHeads"):
        check_registered(cfg)
    with pytest.raises(UserError, match="no effect on MODEL.ROI_HEADS.NAME LateHeads"):
        heads_config("LateHeads")


@pytest.mark.parametrize(
    "opts, says",
    {
        "": "^MODEL.ROI_BOX_HEAD.NAME is '', which is not registered",
        BOX_HEAD + "MODEL.MASK_ON True MODEL.ROI_MASK_HEAD.NAME Unknown":
            "^MODEL.ROI_MASK_HEAD.NAME is 'Unknown', which is not registered",
        BOX_HEAD + "MODEL.KEYPOINT_ON True MODEL.ROI_KEYPOINT_HEAD.NAME Unknown":
            "^MODEL.ROI_KEYPOINT_HEAD.NAME is 'Unknown', which is not registered",
    }.items(),
)  # fmt: skip
def test_heads_that_are_built_must_be_registered(opts, says):
    cfg = on_cpu(STOCK_HEADS + opts)
    with pytest.raises(UserError, match=says):
        check_registered(cfg)


def test_data_sets_are_a_tuple_and_count_the_images_of_a_federated_loss():
    with pytest.raises(UserError, match=r"TRAIN is 'a', a str; give it a tuple, such as \('a',\)"):
        check_registered(changed(on_cpu(), {"DATASETS.TRAIN": "a"}))
    keys = {"USE_FED_LOSS": True, "USE_SIGMOID_CE": True}
    cfg = changed(on_cpu(), {f"MODEL.ROI_BOX_HEAD.{key}": on for key, on in keys.items()})
    with pytest.raises(UserError, match="data set 'a' has no class_image_count"):
        check_registered(changed(cfg, {"DATASETS.TRAIN": ("a",)}))


def test_projects_beside_detectron2_may_take_names_that_are_not_registered(register):
    """PointRend's RoI heads also take the former name of their mask head."""
    module = {"__module__": "detectron2.projects.point_rend.roi_heads"}
    register(ROI_HEADS_REGISTRY, type("HeadsBeside", (StandardROIHeads,), module))
    opts = "MODEL.ROI_HEADS.NAME HeadsBeside MODEL.MASK_ON True "
    opts += BOX_HEAD + "MODEL.ROI_MASK_HEAD.NAME CoarseMaskHead"
    check_registered(on_cpu(opts))


@pytest.mark.parametrize(
    "key, opts",
    [
        (
            "MODEL.RESNETS.DEFORM_ON_PER_STAGE",
            "MODEL.RESNETS.DEFORM_ON_PER_STAGE [False,False,False,True] "
            "MODEL.FPN.BOTTOM_UP build_resnet_backbone",
        ),
        (
            "MODEL.PROPOSAL_GENERATOR.NAME",
            "MODEL.PROPOSAL_GENERATOR.NAME RRPN MODEL.RPN.BBOX_REG_WEIGHTS (1.,1.,1.,1.,1.) "
            "MODEL.ANCHOR_GENERATOR.NAME RotatedAnchorGenerator MODEL.META_ARCHITECTURE "
            "ProposalNetwork",
        ),
    ],
)
def test_what_needs_detectron2s_compiled_part_says_so(key, opts, monkeypatch):
    cfg = on_cpu(opts)
    check_registered(cfg)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"{key} needs Detectron2's compiled part"):
        check_registered(cfg)


def test_a_network_is_judged_by_what_it_derives_from(register):
    register(META_ARCH_REGISTRY, type("TheirRetinaNet", (RetinaNet,), {}))
    register(META_ARCH_REGISTRY, type("TheirRCNN", (GeneralizedRCNN,), {}))
    register(META_ARCH_REGISTRY, type("TheirNetwork", (torch.nn.Module,), {}))
    keys = {}
    for name in ("TheirRetinaNet", "TheirRCNN", "TheirNetwork"):
        cfg = on_cpu(f"{FPN}MODEL.META_ARCHITECTURE {name}")
        keys[name] = (class_head_key(cfg), list(features_read(cfg)))
    assert keys == {
        "TheirRetinaNet": ("MODEL.RETINANET.NUM_CLASSES", ["MODEL.RETINANET.IN_FEATURES"]),
        "TheirRCNN": (
            "MODEL.ROI_HEADS.NUM_CLASSES",
            ["MODEL.RPN.IN_FEATURES", "MODEL.ROI_HEADS.IN_FEATURES"],
        ),
        "TheirNetwork": (None, []),
    }


class ConfiguredNetwork:
    @classmethod
    def from_config(cls, cfg):  # from keys of their own
        raise NotImplementedError


class NetworkOfCfg:
    def __init__(self, cfg):  # as before Detectron2 had from_config
        raise NotImplementedError


@pytest.mark.parametrize("own", [ConfiguredNetwork, NetworkOfCfg])
@pytest.mark.parametrize("network", [GeneralizedRCNN, ProposalNetwork, RetinaNet])
def test_a_network_that_is_built_by_a_method_of_theirs_may_leave_keys_untouched(
    register, own, network
):
    opts = "MODEL.BACKBONE.NAME build_resnet_backbone "
    opts += "MODEL.RESNETS.OUT_FEATURES ['res2'] "  # Detectron2's heads read res4 or p3
    register(META_ARCH_REGISTRY, type("BuiltAsTheirs", (own, network), {}))
    register(META_ARCH_REGISTRY, type("BuiltAsStock", (network,), {}))
    assert features_read(on_cpu(opts + "MODEL.META_ARCHITECTURE BuiltAsTheirs")) == {}
    with pytest.raises(UserError, match="IN_FEATURES names .*the ResNet has only res2"):
        on_cpu(opts + "MODEL.META_ARCHITECTURE BuiltAsStock")


def test_foreign_components_are_registered_by_their_own_import(fresh):
    assert fresh["foreign"] == [False, True]


def test_a_component_that_only_foreign_checkpoints_need_is_imported_by_its_name(monkeypatch):
    imported = []
    monkeypatch.setattr("importlib.import_module", imported.append)
    name = "TorchvisionAnchorGenerator"
    monkeypatch.delitem(ANCHOR_GENERATOR_REGISTRY._obj_map, name, raising=False)
    on_cpu()
    assert imported == []
    on_cpu(f"MODEL.ANCHOR_GENERATOR.NAME {name}")
    assert imported == ["fpn_d2.checkpoint.foreign.components"]


def test_a_config_of_version_0_1_gets_the_heads_that_have_unused_classes_now():
    for name in ("LevelROIHeads", "FPNROIHeads"):
        opts = f"MODEL.ROI_HEADS.NAME {name} MODEL.ROI_BOX_HEAD.NUM_UNUSED_CLASSES 10 "
        cfg = on_cpu(opts + BOX_HEAD)
        assert cfg.MODEL.ROI_HEADS.NAME == "TorchvisionROIHeads"
        check_registered(cfg)
    cfg = changed(cfg, {"MODEL.ROI_HEADS.NAME": "C4ROIHeads"})
    with pytest.raises(UserError, match="NUM_UNUSED_CLASSES .*C4ROIHeads; set it to Torchvision"):
        check_registered(cfg)


def test_each_file_is_read_once(write, monkeypatch):
    read = []
    load = yaml.safe_load
    monkeypatch.setattr(yaml, "safe_load", lambda stream: read.append(stream.name) or load(stream))
    monkeypatch.setattr(yaml, "compose", lambda *args, **kwargs: pytest.fail("parsed twice"))
    base = write("SEED: 1", "base.yaml")
    path = write("_BASE_: base.yaml\nVERSION: 2")
    assert load_config(path).SEED == 1
    assert read == [path, base]


def test_a_file_of_detectron2s_first_version_is_upgraded(write):
    path = write("VERSION: 1\nMODEL: {RPN: {NMS_THRESH: 0.6}}")
    assert load_config(path).MODEL.RPN.NMS_THRESH == 0.6


@pytest.mark.parametrize("value", [{"TOP_DOWN": False}, "{'TOP_DOWN': False}", "fpn"])
def test_a_section_is_no_key(value):
    with pytest.raises(UserError, match=r"override MODEL\.FPN: it is a section; .* MODEL\.FPN\."):
        load_config(opts=["MODEL.FPN", value])
