"""Every shipped row: its merged keys against the paper's values, a gradient for every weight."""

import functools
import re
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import BitMasks
from detectron2.utils.events import EventStorage
from model_zoo import twin

from fpn_d2 import load_config
from fpn_d2.config import flat

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
TASKS = {"RPN": "rpn", "Fast-RCNN": "fast_rcnn", "Faster-RCNN": "faster_rcnn"}
TASKS["RetinaNet"] = "retinanet"
TASKS["Feature-Sharing"] = "faster_rcnn"
TASKS["Mask-Proposals"] = "mask_proposals"
FPN_STAGES = ["res2", "res3", "res4", "res5"]
ONE_LEVEL = [[32, 64, 128, 256, 512]]  # Sec. 5.1.1: all scales on the only level
PER_LEVEL = [[32], [64], [128], [256], [512]]  # Sec. 4.1

# Sec. 4, 5 and 5.1: what all rows share
COMMON = {
    "DATASETS.TRAIN": ("coco_2014_train", "coco_2014_valminusminival"),  # trainval35k
    "DATASETS.TEST": ("coco_2014_minival",),
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN": 2000,
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": 1000,
    "INPUT.MIN_SIZE_TRAIN": (800,),
    "INPUT.MIN_SIZE_TEST": 800,
    "INPUT.MAX_SIZE_TRAIN": 1333,  # the authors' code
    "INPUT.MAX_SIZE_TEST": 1333,
    "SOLVER.IMS_PER_BATCH": 16,  # 8 GPUs x 2 images
    "SOLVER.REFERENCE_WORLD_SIZE": 8,
    "SOLVER.BASE_LR": 0.02,
    "SOLVER.GAMMA": 0.1,
    "SOLVER.WEIGHT_DECAY": 1e-4,
    "SOLVER.MOMENTUM": 0.9,
    "SOLVER.AMP.ENABLED": False,
    "MODEL.WEIGHTS": "detectron2://ImageNetPretrained/MSRA/R-50.pkl",
    "MODEL.MASK_ON": False,
    "MODEL.LOAD_PROPOSALS": False,
    "MODEL.BACKBONE.FREEZE_AT": 2,  # the authors' code: frozen BN, gradient stops after res2
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.RES5_DILATION": 1,  # 12k anchors: stride 32
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "MODEL.PROPOSAL_GENERATOR.NAME": "LeanRPN",
    "MODEL.RPN.HEAD_NAME": "build_level_rpn_head",
    "MODEL.RPN.SHARED_HEAD": True,
    "MODEL.RPN.CONV_DIMS": [-1],
    "MODEL.RPN.BOUNDARY_THRESH": -1,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 256,
    "MODEL.RPN.IOU_THRESHOLDS": [0.3, 0.7],
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 512,
    "MODEL.ROI_HEADS.NUM_CLASSES": 80,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIPool",
    "MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE": 224,  # Eq. 1
    "MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_LEVEL": 4,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 1024,
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": False,
    "MODEL.RETINANET.NUM_CLASSES": 80,
}
TWO_FC = {
    "MODEL.ROI_HEADS.NAME": "LevelROIHeads",
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.NUM_CONV": 0,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
}


def single_level(feature: str) -> dict:
    return {
        "MODEL.RPN.IN_FEATURES": [feature],
        "MODEL.ROI_HEADS.IN_FEATURES": [feature],
        "MODEL.ANCHOR_GENERATOR.SIZES": ONE_LEVEL,
        "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 12000,  # Detectron2 counts per level
        "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000,
    }


def plain_resnet(feature: str) -> dict:
    return {
        "MODEL.BACKBONE.NAME": "build_resnet_backbone",
        "MODEL.RESNETS.OUT_FEATURES": [feature],
        **single_level(feature),
    }


FPN = {
    "MODEL.BACKBONE.NAME": "build_fpn_backbone",
    "MODEL.RESNETS.OUT_FEATURES": FPN_STAGES,
    "MODEL.FPN.BOTTOM_UP": "build_resnet_backbone",
    "MODEL.FPN.IN_FEATURES": FPN_STAGES,
    "MODEL.FPN.OUT_CHANNELS": 256,
    "MODEL.FPN.NORM": "",
    "MODEL.FPN.FUSE_TYPE": "sum",
    "MODEL.FPN.TOP_DOWN": True,
    "MODEL.FPN.LATERAL": True,
    "MODEL.FPN.OUT_FEATURES": [],
    "MODEL.FPN.TOP_BLOCK": "maxpool",
    "MODEL.ANCHOR_GENERATOR.SIZES": PER_LEVEL,
    "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
    "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    **TWO_FC,
}
# The columns "feature", "lateral", "top-down" and "head" of Tables 1 to 3
MODELS = {
    "C4": {
        **plain_resnet("res4"),
        "MODEL.ROI_HEADS.NAME": "C4ROIHeads",
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 14,
    },
    "C5": {**plain_resnet("res5"), **TWO_FC},
    "FPN": FPN,
    "bottom_up": {**FPN, "MODEL.FPN.TOP_DOWN": False},
    "top_down": {**FPN, "MODEL.FPN.LATERAL": False},
    "P2": {**FPN, **single_level("p2"), "MODEL.FPN.OUT_FEATURES": ["p2"]},
}
END_TO_END = {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlignV2",
    "SOLVER.STEPS": (60000,),
    "SOLVER.MAX_ITER": 80000,
}
RPN = {
    "MODEL.META_ARCHITECTURE": "ProposalNetwork",
    "MODEL.RPN.POST_NMS_TOPK_TEST": 2000,  # what Fast R-CNN trains on
    "SOLVER.STEPS": (30000,),
    "SOLVER.MAX_ITER": 40000,
}
FAST_RCNN = {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.PROPOSAL_GENERATOR.NAME": "PrecomputedProposals",
    "MODEL.LOAD_PROPOSALS": True,
    "SOLVER.STEPS": (60000,),
    "SOLVER.MAX_ITER": 80000,
}
R_101 = {
    "MODEL.RESNETS.DEPTH": 101,
    "MODEL.WEIGHTS": "detectron2://ImageNetPretrained/MSRA/R-101.pkl",
}
RETINANET = {  # Detectron2's Base-RetinaNet.yaml and retinanet_R_50_FPN_1x.yaml
    "MODEL.META_ARCHITECTURE": "RetinaNet",
    "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL.FPN.TOP_BLOCK": "p6p7_c5",
    "MODEL.ANCHOR_GENERATOR.SIZES": [
        [side * 2 ** (i / 3) for i in range(3)] for side in (32, 64, 128, 256, 512)
    ],
    "MODEL.RETINANET.IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
    "MODEL.RETINANET.IOU_THRESHOLDS": [0.4, 0.5],
    "MODEL.RETINANET.IOU_LABELS": [0, -1, 1],
    "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": 0.0,
    "SOLVER.BASE_LR": 0.01,
    "SOLVER.STEPS": (60000, 80000),
    "SOLVER.MAX_ITER": 90000,
}
PAPER = {f"RPN/rpn_R_50_{name}": model | RPN for name, model in MODELS.items()}
# Sec. 5.1, without a number: rows (c) and (d) with a head for each level
for name in ("FPN", "bottom_up"):
    PAPER[f"RPN/rpn_R_50_{name}_heads"] = MODELS[name] | RPN | {"MODEL.RPN.SHARED_HEAD": False}
PAPER |= {f"Fast-RCNN/fast_rcnn_R_50_{name}": m | FAST_RCNN for name, m in MODELS.items()}
PAPER |= {
    f"Faster-RCNN/faster_rcnn_R_50_{name}": MODELS[name] | END_TO_END
    for name in ("C4", "C5", "FPN")
}
PAPER["Faster-RCNN/faster_rcnn_R_101_FPN"] = FPN | END_TO_END | R_101
PAPER["RetinaNet/retinanet_R_50_FPN"] = FPN | RETINANET
PAPER["RPN/rpn_R_101_FPN"] = FPN | RPN | R_101
PAPER["Fast-RCNN/fast_rcnn_R_101_FPN"] = FPN | FAST_RCNN | R_101
# Table 4: the number of mini-batches, not their size, is doubled at each learning rate
TWICE = {"SOLVER.STEPS": (120000,), "SOLVER.MAX_ITER": 160000, "SOLVER.IMS_PER_BATCH": 16}
PAPER["Fast-RCNN/fast_rcnn_R_101_FPN_2x"] = FPN | FAST_RCNN | R_101 | TWICE
# Table 5: the model is evaluated as one Faster R-CNN with the RoI pooling of its steps
for depth, backbone in (("50", {}), ("101", R_101)):
    for name, shared in (("shared", True), ("unshared", False)):
        PAPER[f"Feature-Sharing/{name}_R_{depth}_FPN"] = {
            **(FPN | END_TO_END | backbone),
            "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIPool",
            "FOUR_STEP.RPN": f"../RPN/rpn_R_{depth}_FPN.yaml",
            "FOUR_STEP.FAST_RCNN": f"../Fast-RCNN/fast_rcnn_R_{depth}_FPN.yaml",
            "FOUR_STEP.SHARED": shared,
        }
# Sec. 6 and Appendix A, Table 6
MASKS = {
    **FPN,
    "MODEL.META_ARCHITECTURE": "MaskProposalNetwork",
    "MODEL.PROPOSAL_GENERATOR.NAME": "MaskProposalGenerator",
    "MODEL.FPN.OUT_CHANNELS": 128,
    "MODEL.MASK_ON": True,
    "MODEL.MASK_PROPOSAL.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.MASK_PROPOSAL.PADDING": 0.25,
    "MODEL.MASK_PROPOSAL.HIDDEN_DIM": 512,
    "MODEL.MASK_PROPOSAL.MASK_SIZE": 14,
    "MODEL.MASK_PROPOSAL.BATCH_SIZE_PER_IMAGE": 128,
    "MODEL.MASK_PROPOSAL.POSITIVE_FRACTION": 0.25,  # 1:3
    "MODEL.MASK_PROPOSAL.MASK_LOSS_WEIGHT": 10.0,
    "MODEL.MASK_PROPOSAL.TOPK_TEST": 1000,
    "MODEL.MASK_PROPOSAL.TEST_SCALES": [1.0],
    "DATASETS.TRAIN": ("coco_2014_train",),
    "DATASETS.TEST": ("coco_2014_val_first5k",),
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.BASE_LR": 0.03,
    "SOLVER.STEPS": (60000,),
    "SOLVER.MAX_ITER": 80000,
}
FIVE, SEVEN = [32, 64, 128, 256, 512], [32 * 2 ** (i + 0.5) for i in range(5)]
WINDOWS = {
    "5x5": {"WINDOWS": [5], "SIZES": [FIVE]},
    "7x7": {"WINDOWS": [7], "SIZES": [SEVEN]},
    "dual": {"WINDOWS": [5, 7], "SIZES": [FIVE, SEVEN]},
    "dual_28": {"WINDOWS": [5, 7], "SIZES": [FIVE, SEVEN], "MASK_SIZE": 28},
}
for name, keys in WINDOWS.items():
    own = {f"MODEL.MASK_PROPOSAL.{key}": value for key, value in keys.items()}
    PAPER[f"Mask-Proposals/mask_R_50_{name}"] = MASKS | own
PAPER["Mask-Proposals/mask_R_50_dual_28_2x"] = {
    **PAPER["Mask-Proposals/mask_R_50_dual_28"],
    "SOLVER.STEPS": (120000,),
    "SOLVER.MAX_ITER": 160000,
}
PAPER["Mask-Proposals/mask_R_50_image_pyramid"] = {
    **MASKS,
    "MODEL.RESNETS.OUT_FEATURES": ["res4"],
    "MODEL.FPN.IN_FEATURES": ["res4"],
    "MODEL.FPN.TOP_BLOCK": "",
    "MODEL.MASK_PROPOSAL.IN_FEATURES": ["p4"],  # stride 16
    "MODEL.MASK_PROPOSAL.WINDOWS": [5],
    "MODEL.MASK_PROPOSAL.SIZES": [[128]],  # with 25 % padding: 160 px
    "MODEL.MASK_PROPOSAL.ASSIGN_EXTREMES": False,
    "MODEL.MASK_PROPOSAL.TEST_SCALES": [pytest.approx(2 ** (i / 2)) for i in range(-5, 2)],
    "INPUT.OBJECT_SCALE_TRAIN": 128.0,
}
PAPER["Mask-Proposals/mask_R_50_image_pyramid_zoom"] = {
    **PAPER["Mask-Proposals/mask_R_50_image_pyramid"],
    "MODEL.MASK_PROPOSAL.TEST_SCALES": [pytest.approx(2 ** (i / 2)) for i in range(-5, 3)],
}
QUICK = {
    f"quick/{row}".replace("R_50", "R_18"): row for row in PAPER if "R_101" not in row
}  # each with the row that it mirrors
for task, row in (("RPN", "rpn"), ("Faster-RCNN", "faster_rcnn")):
    QUICK[f"quick/{task}/{row}_R_18_FPN_fp32"] = f"{task}/{row}_R_50_FPN"
QUICK["quick/Fast-RCNN/fast_rcnn_R_18_FPN_2x"] = "Fast-RCNN/fast_rcnn_R_50_FPN"

# What a laptop and the built-in data change, and nothing else
LAPTOP = {
    "MODEL.WEIGHTS": "",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,  # Detectron2 requires it below R-50
    "MODEL.RESNETS.NORM": "BN",  # trainable; the pyramid's stays ""
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "MODEL.FPN.OUT_CHANNELS": 64,
    "MODEL.ROI_HEADS.NUM_CLASSES": 5,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 64,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 256,
    "MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE": 100,
    "MODEL.RETINANET.NUM_CLASSES": 5,
    "MODEL.MASK_PROPOSAL.HIDDEN_DIM": 256,
    "DATASETS.TRAIN": ("shapes_train",),
    "DATASETS.TEST": ("shapes_val",),
    "INPUT.MIN_SIZE_TRAIN": (320,),
    "INPUT.MIN_SIZE_TEST": 320,
    "INPUT.MAX_SIZE_TRAIN": 320,
    "INPUT.MAX_SIZE_TEST": 320,
    "SOLVER.REFERENCE_WORLD_SIZE": 0,
}
LAPTOP_FREE = {  # the recipe may follow what trials find; results/ has the numbers
    *("SOLVER.IMS_PER_BATCH", "SOLVER.AMP.ENABLED", "SOLVER.BASE_LR", "SOLVER.WARMUP_ITERS"),
    *("SOLVER.STEPS", "SOLVER.MAX_ITER", "SOLVER.CHECKPOINT_PERIOD", "DATALOADER.NUM_WORKERS"),
    *("FOUR_STEP.RPN", "FOUR_STEP.FAST_RCNN"),  # R-18's own
    *("SEED", "OUTPUT_DIR", "DATASETS.PROPOSAL_FILES_TRAIN", "DATASETS.PROPOSAL_FILES_TEST"),
}


@functools.cache
def load(row: str, *opts: str) -> CfgNode:
    return load_config(CONFIGS / f"{row}.yaml", ["MODEL.DEVICE", "cpu", *opts])


def rows_below(folder: Path) -> set[str]:
    return {
        path.relative_to(CONFIGS).with_suffix("").as_posix()
        for table in TASKS
        for path in (folder / table).glob("*.yaml")
    }


# --- the tree


def test_there_is_a_file_for_every_row_and_a_quick_one_beside_it():
    assert rows_below(CONFIGS) == set(PAPER)
    assert rows_below(CONFIGS / "quick") == set(QUICK)


@pytest.mark.parametrize("row", [*PAPER, *QUICK])
def test_a_row_is_one_or_two_lines_over_its_mixins(row):
    path = CONFIGS / f"{row}.yaml"
    lines = [line.strip() for line in path.read_text().splitlines()]
    assert 1 <= len([line for line in lines if line and not line.startswith("#")]) <= 2
    bases = yaml.safe_load(path.read_text())["_BASE_"]
    if isinstance(bases, str):  # another row, with another schedule, precision or scales
        assert path.stem.removeprefix(Path(bases).stem) in ("_2x", "_zoom", "_fp32", "_heads")
        assert (path.parent / bases).is_file()
        return
    assert all((path.parent / base).is_file() for base in bases)
    if "Mask-Proposals" in row:
        assert bases[0].endswith("models/FPN.yaml")
        return
    axes = [str((path.parent / base).resolve().relative_to(CONFIGS)) for base in bases]
    # the axis that inherits the common base comes first, or it would reset the others
    assert axes[0] == f"models/{re.sub('.*_R_[0-9]+_', '', row)}.yaml"
    assert axes[1] == f"tasks/{TASKS[row.split('/')[-2]]}.yaml"
    assert (axes[-1] == "quick/laptop.yaml") == (row in QUICK)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("models/*.yaml")), ids=lambda p: p.stem)
def test_a_model_inherits_the_common_base_and_a_mixin_nothing(path):
    mixins = {"R_101", "roi_align", "image_pyramid"}
    assert mixins | set(MODELS) == {p.stem for p in CONFIGS.glob("models/*.yaml")}
    chain = [path]
    while "_BASE_" in (content := yaml.safe_load(chain[-1].read_text())):
        chain.append((chain[-1].parent / content["_BASE_"]).resolve())
    if path.stem in mixins:
        assert chain == [path]
    else:
        assert chain[-1] == CONFIGS / "Base-COCO.yaml"
        assert len(chain) > 1


def test_tasks_and_the_laptop_mixin_inherit_nothing():
    # A second base that inherits the common one would reset what the first has changed.
    tasks = sorted(CONFIGS.glob("tasks/*.yaml"))
    assert {path.stem for path in tasks} == set(TASKS.values())
    for path in [*tasks, CONFIGS / "quick" / "laptop.yaml"]:
        assert "_BASE_" not in yaml.safe_load(path.read_text()), path


# --- the values


@pytest.mark.parametrize("row", PAPER)
def test_a_row_has_the_papers_values(row):
    merged, expected = flat(load(row)), COMMON | PAPER[row] | {"OUTPUT_DIR": f"output/{row}"}
    got = {key: merged[key] for key in expected}
    sizes = "MODEL.ANCHOR_GENERATOR.SIZES"
    got[sizes] = [pytest.approx(level) for level in got[sizes]]
    sizes = "MODEL.MASK_PROPOSAL.SIZES"
    got |= {sizes: [pytest.approx(level) for level in got[sizes]]} if sizes in got else {}
    assert got == expected


@pytest.mark.parametrize("row", QUICK)
def test_a_quick_row_is_its_papers_row_but_for_the_laptop(row):
    quick, paper = flat(load(row)), flat(load(QUICK[row]))
    assert {key: quick[key] for key in LAPTOP} == LAPTOP
    fixed = set(paper) - set(LAPTOP) - LAPTOP_FREE
    if row.endswith("_zoom"):
        fixed -= {"MODEL.MASK_PROPOSAL.TEST_SCALES"}  # one more, for smaller objects
    assert {key: quick[key] for key in fixed} == {key: paper[key] for key in fixed}
    assert quick["SOLVER.MAX_ITER"] > max(quick["SOLVER.STEPS"])
    assert quick["OUTPUT_DIR"] == f"output/{row}"


@pytest.mark.parametrize("row", [row for row in (*PAPER, *QUICK) if "Feature-Sharing" in row])
def test_the_steps_of_a_config_are_rows(row):
    folder, steps = (CONFIGS / f"{row}.yaml").parent, load(row).FOUR_STEP
    for step, kind in ((steps.RPN, "RPN"), (steps.FAST_RCNN, "Fast-RCNN")):
        path = (folder / step).resolve()
        assert path.relative_to(CONFIGS).parts[-2] == kind
        assert path.is_file()


def test_the_demo_is_the_quick_faster_rcnn_on_another_recipe():
    demo, row = flat(load("quick/demo")), flat(load("quick/Faster-RCNN/faster_rcnn_R_18_FPN"))
    different = {key for key in row if key.startswith("MODEL.") and demo[key] != row[key]}
    topk = {f"MODEL.RPN.{when}_NMS_TOPK_{w}" for when in ("PRE", "POST") for w in ("TRAIN", "TEST")}
    width = {f"MODEL.RESNETS.{name}_OUT_CHANNELS" for name in ("STEM", "RES2")}
    width.add("MODEL.FPN.OUT_CHANNELS")
    assert different == topk | width | {
        "MODEL.FPN.BOTTOM_UP", "MODEL.WEIGHTS", "MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE",
        "MODEL.BACKBONE.FREEZE_AT",
    }  # fmt: skip
    for key in width:
        assert 2 * demo[key] == row[key]
    assert demo["MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE"] == 224  # as in stock Detectron2


@pytest.mark.parametrize("row", [row for row in [*PAPER, *QUICK] if "Fast-RCNN" in row])
def test_fast_rcnn_reads_what_the_rpn_of_table_1c_wrote(row):
    depth = next(depth for depth in ("R_18", "R_50", "R_101") if f"{depth}_" in row)
    prefix = "quick/" if row in QUICK else ""
    written = load(f"{prefix}RPN/rpn_{depth}_FPN")
    cfg = load(row)
    for split in ("TRAIN", "TEST"):
        assert list(cfg.DATASETS[f"PROPOSAL_FILES_{split}"]) == [
            f"{written.OUTPUT_DIR}/inference/{name}/box_proposals.pkl"
            for name in cfg.DATASETS[split]
        ]
    assert written.MODEL.RPN.POST_NMS_TOPK_TEST >= cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN


# --- the models


# All layers of a deep network, narrowed to save time
NARROW = ["MODEL.RESNETS.RES2_OUT_CHANNELS", "32", "MODEL.RESNETS.WIDTH_PER_GROUP", "4"]
NARROW += ["MODEL.ROI_BOX_HEAD.FC_DIM", "64"]


@pytest.mark.parametrize("row", [row for row in (*PAPER, *QUICK) if twin(row) != row])
def test_a_row_of_another_schedule_has_the_network_of_its_twin(row):
    own, other = flat(load(row)), flat(load(twin(row)))
    different = {key for key in own if key.startswith("MODEL.") and own[key] != other[key]}
    assert different == ({"MODEL.MASK_PROPOSAL.TEST_SCALES"} if row.endswith("_zoom") else set())


@pytest.mark.parametrize("row", [row for row in (*PAPER, *QUICK) if twin(row) == row])
def test_every_trainable_weight_of_a_row_gets_a_gradient(make_input, row):
    narrow = [] if row in QUICK else NARROW
    cfg = load(row, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "16", *narrow)
    torch.manual_seed(0)
    model = build_model(cfg.clone()).train()
    for name, norm in model.named_modules():
        if name.endswith("conv3.norm"):  # frozen norms without statistics make R-50 explode
            norm.weight.data.mul_(0.1)
    inputs = [make_input(64, 64, [[2, 3, 50, 60], [10, 10, 20, 22]]), make_input(50, 62, [], 1)]
    if cfg.MODEL.MASK_ON:
        # an object for each scale, so that every window has positives
        sides = [min(64, 30 * 2 ** (i / 2)) for i in range(4)]
        inputs[0] = make_input(64, 64, [[0, 0, side, side] for side in sides])
        for image in inputs:
            masks = torch.ones(len(image["instances"]), *image["instances"].image_size)
            image["instances"].gt_masks = BitMasks(masks.bool())
    with EventStorage():
        losses = model(inputs)
    assert all(torch.isfinite(loss) for loss in losses.values()), losses
    sum(losses.values()).backward()
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert not [name for name, p in trainable.items() if p.grad is None]
    assert all(torch.isfinite(p.grad).all() for p in trainable.values())
    # only what FREEZE_AT and FrozenBN freeze is not trainable
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    prefixes = ("backbone.stem", "backbone.res2")
    prefixes += tuple(p.replace("backbone.", "backbone.bottom_up.") for p in prefixes)
    assert all(name.startswith(prefixes) for name in frozen)
    assert bool(frozen) == (cfg.MODEL.BACKBONE.FREEZE_AT == 2)


# --- configs for checkpoints from elsewhere

ELSEWHERE = {
    "torchvision/faster_rcnn_R_50_FPN": {
        "MODEL.ANCHOR_GENERATOR.SIZES": PER_LEVEL,
        "MODEL.RPN.NMS_THRESH": 0.7,  # the defaults of torchvision's arguments
        "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
        "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
        "MODEL.ROI_HEADS.NUM_CLASSES": 80,
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.05,
        "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.5,
        "MODEL.ROI_BOX_HEAD.NUM_UNUSED_CLASSES": 10,
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlign",
        "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 2,
        "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0),
        "TEST.DETECTIONS_PER_IMAGE": 100,
    },
    "torchvision/retinanet_R_50_FPN": {
        "MODEL.META_ARCHITECTURE": "ClippingRetinaNet",
        "MODEL.FPN.TOP_BLOCK": "p6p7_p5",
        "MODEL.RETINANET.SCORE_THRESH_TEST": 0.05,
        "MODEL.RETINANET.NMS_THRESH_TEST": 0.5,
        "MODEL.RETINANET.TOPK_CANDIDATES_TEST": 1000,
        "MODEL.RETINANET.IOU_THRESHOLDS": [0.4, 0.5],
        "TEST.DETECTIONS_PER_IMAGE": 300,
    },
    "maskrcnn_benchmark/faster_rcnn_R_50_FPN": {
        "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 2,
        "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
    },
    "maskrcnn_benchmark/faster_rcnn_R_50_C4": {
        "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 0,
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 14,
        "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000,
    },
}


@pytest.mark.parametrize("row", ELSEWHERE)
def test_a_config_for_checkpoints_from_elsewhere(row):
    cfg, merged = load(row), flat(load(row))
    expected = ELSEWHERE[row] | {"MODEL.WEIGHTS": "", "INPUT.MIN_SIZE_TEST": 800}
    assert {key: merged[key] for key in expected} == expected
    if row.startswith("torchvision"):
        mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # RGB, from 0 to 1
        assert pytest.approx([255 * x for x in mean]) == cfg.MODEL.PIXEL_MEAN
        assert pytest.approx([255 * x for x in std]) == cfg.MODEL.PIXEL_STD
        assert (cfg.INPUT.FORMAT, cfg.MODEL.RESNETS.STRIDE_IN_1X1) == ("RGB", False)
    else:
        assert cfg.MODEL.PIXEL_MEAN == [102.9801, 115.9465, 122.7717]
        assert cfg.MODEL.PIXEL_STD == [1.0, 1.0, 1.0]
        assert (cfg.INPUT.FORMAT, cfg.MODEL.RESNETS.STRIDE_IN_1X1) == ("BGR", True)
        assert cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE == "ROIAlign"


def test_there_are_no_other_configs_for_checkpoints_from_elsewhere():
    files = [*CONFIGS.glob("torchvision/*"), *CONFIGS.glob("maskrcnn_benchmark/*")]
    names = {path.relative_to(CONFIGS).with_suffix("").as_posix() for path in files}
    assert names == {*ELSEWHERE, "torchvision/common", "maskrcnn_benchmark/common"}
