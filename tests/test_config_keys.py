"""Detectron2's keys: another value of one that is taken has an effect; a refused one is refused."""

import re
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog
from detectron2.engine import default_setup, defaults
from detectron2.layers import ShapeSpec
from detectron2.modeling import (
    ROI_BOX_HEAD_REGISTRY,
    ROI_KEYPOINT_HEAD_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    RPN_HEAD_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    DatasetMapperTTA,
    build_backbone,
    build_model,
    build_proposal_generator,
    build_roi_heads,
    build_sem_seg_head,
)

import train_net
from fpn_d2 import UserError, load_config
from fpn_d2.config import changed, flat
from fpn_d2.data import build_test_mapper, build_train_loader, load_train_dataset
from fpn_d2.data.dataset_mapper import build_train_mapper
from fpn_d2.engine import Trainer

KEYS = flat(get_cfg())
PAGE = Path(__file__).resolve().parents[1] / "docs" / "config_keys.md"
FASTER = "quick/Faster-RCNN/faster_rcnn_R_18_FPN"


def table(title: str) -> set[str]:
    """Return the keys of one of the page's tables."""
    text = PAGE.read_text(encoding="utf-8").partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    keys = set()
    for section, names in re.findall(
        r"^\| (?:`([\w.]+)`)? ?\| ((?:`\w+` ?)+)\|", text, re.MULTILINE
    ):
        keys |= {f"{section}.{name}".lstrip(".") for name in re.findall(r"\w+", names)}
    return keys


TABLES = {title: table(title) for title in ("Taken", "Refused", "Without meaning here")}


def places(key: str) -> list[str]:
    return [title for title, keys in TABLES.items() if key in keys]


def test_every_key_of_detectron2_is_in_one_table():
    assert {key: places(key) for key in KEYS if len(places(key)) != 1} == {}
    assert set().union(*TABLES.values()) <= KEYS.keys()


def test_a_key_that_is_new_is_in_none():
    newer = get_cfg()
    newer.SOLVER.INVENTED = 1
    assert [key for key in flat(newer) if not places(key)] == ["SOLVER.INVENTED"]


# --- refused


REFUSED = {
    "MODEL.PANOPTIC_FPN.COMBINE.ENABLED": "False",
    "MODEL.ANCHOR_GENERATOR.ANGLES": "[[0, 90]]",
}


@pytest.mark.parametrize("key", sorted(TABLES["Refused"]))
def test_a_refused_key_gets_a_sentence(key):
    with pytest.raises(UserError, match=f"^{key} has no effect .*; leave it"):
        load_config("", [key, REFUSED[key]])


# --- taken: what is built with another value differs


STOCK_POOLER = ("MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE", "224")
CASCADE = ("MODEL.ROI_HEADS.NAME", "CascadeROIHeads")
CASCADE += ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True")
CASCADE += STOCK_POOLER
PANOPTIC = ("MODEL.META_ARCHITECTURE", "PanopticFPN", "MODEL.MASK_ON", "True")
SIGMOID = ("MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", "True", "DATASETS.TRAIN", "('counted',)")
FED_LOSS = ("MODEL.ROI_BOX_HEAD.USE_FED_LOSS", "True", *SIGMOID)
WITHOUT_P2 = ("MODEL.RPN.IN_FEATURES", "['p3', 'p4', 'p5', 'p6']")
WITHOUT_P2 += ("MODEL.ANCHOR_GENERATOR.SIZES", "[[9], [18], [36], [72]]")
WITHOUT_P2 += ("MODEL.ROI_HEADS.IN_FEATURES", "['p3', 'p4', 'p5']")
R50 = ("MODEL.RESNETS.DEPTH", "50", "MODEL.RESNETS.RES2_OUT_CHANNELS", "32")
DEFORMED = ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", "[False, False, True, False]", *R50)
CROP = ("INPUT.CROP.ENABLED", "True")
CLIP = ("SOLVER.CLIP_GRADIENTS.ENABLED", "True")
COSINE = ("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR")
WARMUP = ("SOLVER.WARMUP_ITERS", "4")
REPEATING = ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler")
REPEATED = ("DATALOADER.REPEAT_THRESHOLD", "1.0")
SHAPES = {f"p{i}": ShapeSpec(channels=64, stride=2**i) for i in range(2, 7)}
# Words, and numbers that depend on other keys: another value, and the overrides that it needs.
OTHERS: dict[str, tuple[str, ...]] = {
    "MODEL.META_ARCHITECTURE": ("ProposalNetwork",),
    "MODEL.BACKBONE.NAME": ("build_resnet_fpn_backbone",),
    "MODEL.FPN.IN_FEATURES": ("['res3', 'res4', 'res5']", *WITHOUT_P2),
    "MODEL.FPN.NORM": ("GN",),
    "MODEL.FPN.FUSE_TYPE": ("avg",),
    "MODEL.PROPOSAL_GENERATOR.NAME": ("PrecomputedProposals",),
    "MODEL.ANCHOR_GENERATOR.NAME": ("RotatedAnchorGenerator",),
    "MODEL.ANCHOR_GENERATOR.SIZES": ("[[9], [18], [36], [72], [99]]",),
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": ("[[0.7, 1.5]]",),
    "MODEL.ANCHOR_GENERATOR.OFFSET": ("0.5",),
    "MODEL.RPN.HEAD_NAME": ("AnotherRPNHead",),
    "MODEL.RPN.IN_FEATURES": WITHOUT_P2[1:],
    "MODEL.RPN.IOU_THRESHOLDS": ("[0.2, 0.6]",),
    "MODEL.RPN.IOU_LABELS": ("[0, 0, 1]",),
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": ("giou",),
    "MODEL.RPN.CONV_DIMS": ("[32, 64]",),
    "MODEL.ROI_HEADS.NAME": ("StandardROIHeads", *STOCK_POOLER),
    "MODEL.ROI_HEADS.IN_FEATURES": ("['p2', 'p3']",),
    "MODEL.ROI_HEADS.IOU_THRESHOLDS": ("[0.6]",),
    "MODEL.ROI_HEADS.IOU_LABELS": ("[-1, 1]",),
    "MODEL.ROI_BOX_HEAD.NAME": ("AnotherBoxHead",),
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": ("ciou",),
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": ("ROIPool",),
    "MODEL.ROI_BOX_HEAD.CONV_DIM": ("32", "MODEL.ROI_BOX_HEAD.NUM_CONV", "1"),
    "MODEL.ROI_BOX_HEAD.NORM": ("GN", "MODEL.ROI_BOX_HEAD.NUM_CONV", "1"),
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": ("True", *SIGMOID),
    "MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES": ("3", *FED_LOSS),
    "MODEL.ROI_BOX_HEAD.FED_LOSS_FREQ_WEIGHT_POWER": ("0.9", *FED_LOSS),
    "MODEL.ROI_BOX_CASCADE_HEAD.IOUS": ("(0.5, 0.55, 0.6)", *CASCADE),
    "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS": (str(((9.0, 9.0, 5.0, 5.0),) * 3), *CASCADE),
    "MODEL.ROI_MASK_HEAD.NAME": ("AnotherMaskHead",),
    "MODEL.ROI_MASK_HEAD.NORM": ("GN", "MODEL.ROI_MASK_HEAD.NUM_CONV", "1"),
    "MODEL.ROI_MASK_HEAD.CONV_DIM": ("32", "MODEL.ROI_MASK_HEAD.NUM_CONV", "1"),
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": ("ROIPool",),
    "MODEL.ROI_KEYPOINT_HEAD.NAME": ("AnotherKeypointHead",),
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": ("2", "TEST.KEYPOINT_OKS_SIGMAS", "[0.1, 0.2]"),
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_TYPE": ("ROIPool",),
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": ("[8]",),
    "MODEL.SEM_SEG_HEAD.NAME": ("AnotherSemSegHead",),
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": ("['p2', 'p3']",),
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": ("64",),
    "MODEL.SEM_SEG_HEAD.NORM": ("BN",),
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": ("8", "MODEL.SEM_SEG_HEAD.IN_FEATURES", "['p3', 'p4']"),
    "MODEL.RETINANET.IN_FEATURES": ("['p3', 'p4']", "MODEL.ANCHOR_GENERATOR.SIZES", "[[9], [18]]"),
    "MODEL.RETINANET.IOU_THRESHOLDS": ("[0.3, 0.6]",),
    "MODEL.RETINANET.IOU_LABELS": ("[0, 0, 1]",),
    "MODEL.RETINANET.BBOX_REG_LOSS_TYPE": ("giou",),
    "MODEL.RETINANET.NORM": ("GN",),
    "MODEL.RESNETS.DEPTH": ("34", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64"),
    "MODEL.RESNETS.NORM": ("FrozenBN",),
    "MODEL.RESNETS.OUT_FEATURES": (
        *("['res3', 'res4', 'res5']", "MODEL.FPN.IN_FEATURES", "['res3', 'res4', 'res5']"),
        *WITHOUT_P2,
    ),
    "MODEL.RESNETS.NUM_GROUPS": ("2", *R50),
    "MODEL.RESNETS.WIDTH_PER_GROUP": ("32", *R50),
    "MODEL.RESNETS.STRIDE_IN_1X1": ("False", *R50),
    "MODEL.RESNETS.RES5_DILATION": (
        *("2", *R50, "MODEL.BACKBONE.NAME", "build_resnet_backbone"),
        *("MODEL.RESNETS.OUT_FEATURES", "['res5']", "MODEL.RPN.IN_FEATURES", "['res5']"),
        *("MODEL.ROI_HEADS.IN_FEATURES", "['res5']", "MODEL.ANCHOR_GENERATOR.SIZES", "[[9]]"),
    ),
    "MODEL.RESNETS.RES2_OUT_CHANNELS": ("64", *R50),
    "MODEL.RESNETS.STEM_OUT_CHANNELS": ("32", *R50),
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": DEFORMED[1:],
    "MODEL.RESNETS.DEFORM_MODULATED": ("True", *DEFORMED),
    "MODEL.RESNETS.DEFORM_NUM_GROUPS": ("2", *DEFORMED),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("range", "INPUT.MIN_SIZE_TRAIN", "(32, 64)"),
    "INPUT.RANDOM_FLIP": ("vertical",),
    "INPUT.FORMAT": ("RGB",),
    "INPUT.MASK_FORMAT": ("bitmask", "MODEL.MASK_ON", "True"),
    "INPUT.CROP.TYPE": ("relative", *CROP),
    "INPUT.CROP.SIZE": ("[0.5, 0.5]", *CROP),
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN": ("7", "MODEL.LOAD_PROPOSALS", "True"),
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": ("7", "MODEL.LOAD_PROPOSALS", "True"),
    "SOLVER.BASE_LR_END": ("0.001", *COSINE),
    "SOLVER.NUM_DECAYS": ("1", "SOLVER.LR_SCHEDULER_NAME", "WarmupStepWithFixedGammaLR"),
    "SOLVER.LR_SCHEDULER_NAME": ("WarmupCosineLR",),
    "SOLVER.WARMUP_METHOD": ("constant", *WARMUP),
    "SOLVER.WARMUP_FACTOR": ("0.2", *WARMUP),
    "SOLVER.WARMUP_ITERS": ("4",),
    "SOLVER.RESCALE_INTERVAL": ("True", *WARMUP, *COSINE),
    "SOLVER.STEPS": ("(2, 5)",),
    "SOLVER.GAMMA": ("0.3", "SOLVER.STEPS", "(2,)"),
    "SOLVER.MAX_ITER": ("9", *COSINE),
    "SOLVER.WEIGHT_DECAY_BIAS": ("0.01",),
    "SOLVER.CLIP_GRADIENTS.ENABLED": ("True",),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("norm", *CLIP),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": ("0.1", *CLIP),
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": ("1.0", *CLIP, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm"),
    "TEST.AUG.MIN_SIZES": ("(32,)",),
    "DATALOADER.SAMPLER_TRAIN": ("RepeatFactorTrainingSampler", *REPEATED),
    "DATALOADER.REPEAT_THRESHOLD": ("1.0", *REPEATING),
    "DATALOADER.REPEAT_SQRT": ("False", *REPEATING, *REPEATED),
    "DATASETS.TRAIN": ("('tiny_val',)",),
}
# Keys whose context goes with the other value only.
TIED = {
    *("MODEL.RPN.IN_FEATURES", "MODEL.RETINANET.IN_FEATURES", "DATALOADER.SAMPLER_TRAIN"),
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS",
}
# Overrides that a part needs, whatever the key's value.
CONTEXTS = {
    "MODEL.ROI_MASK_HEAD.": ("MODEL.MASK_ON", "True"),
    "MODEL.ROI_KEYPOINT_HEAD.": ("MODEL.KEYPOINT_ON", "True"),
    "MODEL.SEM_SEG_HEAD.": PANOPTIC,
    "MODEL.PANOPTIC_FPN.": PANOPTIC,
}
# Keys that act on more than an object that is built, and the file and name of their test.
SHOWN_BY = {
    "VERSION": "test_config.py test_a_file_of_detectron2s_first_version_is_upgraded",
    "OUTPUT_DIR": "test_config.py test_an_output_dir_of_the_file_or_of_the_overrides_wins",
    "SEED": "engine/test_hooks.py test_other_seeds_give_other_trainings",
    "MODEL.DEVICE": "test_config.py test_the_device_is_cuda_where_there_is_one",
    "MODEL.WEIGHTS": "test_train_net.py test_train_evaluate_and_resume",
    "DATASETS.TEST": "data/test_build.py test_no_test_set_is_a_choice_in_training_only",
    "DATASETS.PROPOSAL_FILES_TRAIN": "test_train_net.py test_an_rpns_proposals_train_a_fast_rcnn",
    "DATASETS.PROPOSAL_FILES_TEST": "test_train_net.py test_an_rpns_proposals_train_a_fast_rcnn",
    "SOLVER.REFERENCE_WORLD_SIZE": (
        "engine/test_resume_state.py test_config_yaml_says_what_was_trained"
    ),
    "SOLVER.AMP.ENABLED": (
        "engine/test_trainer.py test_mixed_precision_on_a_cpu_follows_the_processor"
    ),
    "TEST.AUG.ENABLED": "engine/test_trainer.py test_time_augmentation_is_detectron2s",
}


def another(value: Any) -> str:
    """Return another value of the same type."""
    if isinstance(value, bool):
        return str(not value)
    if isinstance(value, int):
        return str(value + 1)
    if isinstance(value, float):
        return str(value / 2 + 0.11)
    return str(type(value)(entry + 2 for entry in value))


def facts(thing: Any, seen: set[int] | None = None) -> Any:
    """Return what an object is made of: types, numbers, words, shapes, values of small tensors."""
    seen = set() if seen is None else seen
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    if isinstance(thing, torch.Tensor):
        content = thing.tolist() if thing.device.type != "meta" and thing.numel() < 99 else None
        return tuple(thing.shape), thing.requires_grad, content
    if isinstance(thing, list | tuple | set):
        return [facts(entry, seen) for entry in thing]
    if isinstance(thing, dict):
        return {str(key): facts(value, seen) for key, value in thing.items()}
    if isinstance(thing, partial):
        return facts([thing.func, thing.args, thing.keywords], seen)
    if id(thing) in seen:
        return None
    seen.add(id(thing))
    cells = [cell.cell_contents for cell in getattr(thing, "__closure__", None) or ()]
    name = getattr(thing, "__qualname__", type(thing).__qualname__)
    return [name, facts(cells, seen), facts(getattr(thing, "__dict__", {}), seen)]


@pytest.fixture(scope="module")
def others():
    """Register custom heads, and a data set whose images are counted for each class."""

    made = {
        "AnotherRPNHead": (RPN_HEAD_REGISTRY, "StandardRPNHead"),
        "AnotherBoxHead": (ROI_BOX_HEAD_REGISTRY, "FastRCNNConvFCHead"),
        "AnotherMaskHead": (ROI_MASK_HEAD_REGISTRY, "MaskRCNNConvUpsampleHead"),
        "AnotherKeypointHead": (ROI_KEYPOINT_HEAD_REGISTRY, "KRCNNConvDeconvUpsampleHead"),
        "AnotherSemSegHead": (SEM_SEG_HEADS_REGISTRY, "SemSegFPNHead"),
    }
    for name, (registry, stock) in made.items():
        registry.register(type(name, (registry.get(stock),), {}))
    counts = [{"id": i + 1, "image_count": i + 2} for i in range(5)]
    MetadataCatalog.get("counted").class_image_count = counts
    yield
    for name, (registry, _) in made.items():
        del registry._obj_map[name]
    MetadataCatalog.remove("counted")


def part(cfg: CfgNode, key: str) -> Any:
    """Build the smallest part of a model that a key can change."""
    section = key.rpartition(".")[0]
    cfg = changed(cfg, {"MODEL.DEVICE": "meta"})  # where no weights need to be drawn
    small = section.startswith(("MODEL.RPN", "MODEL.ANCHOR_GENERATOR", "MODEL.ROI_"))
    with torch.device("cpu" if small else "meta"):
        if section in ("MODEL.BACKBONE", "MODEL.FPN", "MODEL.RESNETS"):
            return build_backbone(cfg)
        if section in ("MODEL.RPN", "MODEL.ANCHOR_GENERATOR"):
            return build_proposal_generator(cfg, SHAPES)
        if section.startswith("MODEL.ROI_"):
            return build_roi_heads(cfg, SHAPES)
        if section == "MODEL.SEM_SEG_HEAD":
            return build_sem_seg_head(cfg, SHAPES)
        return build_model(cfg)


def mappers(cfg: CfgNode, key: str) -> Any:
    return [build_train_mapper(cfg), build_test_mapper(cfg)]


def solver(cfg: CfgNode, key: str) -> Any:
    """Return the optimizer's settings and the learning rate of every iteration."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.GroupNorm(1, 2))
    optimizer = Trainer.build_optimizer(cfg, net)
    scheduler = Trainer.build_lr_scheduler(cfg, optimizer)
    groups = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    rates = []
    for _ in range(8):
        rates.append(scheduler.get_lr())
        scheduler.last_epoch += 1
    return groups, [len(g["params"]) for g in optimizer.param_groups], rates, type(optimizer).step


def loader(cfg: CfgNode, key: str) -> Any:
    """Return the batches of images and the number of processes that load them."""
    made = build_train_loader(cfg)
    batches = made.dataset.batches()
    sizes = made.dataset.batch_size, made.num_workers, len(made.dataset.records)
    return sizes, [next(batches) for _ in range(30)], made.dataset._groups.tolist()


def hooks(cfg: CfgNode, key: str) -> Any:
    """Return the trainer's hooks: their names, and those attributes that are periods or numbers."""
    trainer = Trainer(cfg)
    return [
        [
            type(hook).__name__,
            *(str(v) for k, v in vars(hook).items() if "period" in k or "num" in k),
        ]
        for hook in trainer._hooks
    ]


BUILDERS = (
    ("MODEL.LOAD_PROPOSALS", mappers),
    ("INPUT.", mappers),
    ("DATASETS.PRECOMPUTED", mappers),
    ("SOLVER.CHECKPOINT_PERIOD", hooks),
    ("TEST.EVAL_PERIOD", hooks),
    ("TEST.PRECISE_BN", hooks),
    ("SOLVER.IMS_PER_BATCH", loader),
    ("SOLVER.", solver),
    ("DATALOADER.", loader),
    ("DATASETS.", loader),
    ("TEST.AUG.", lambda cfg, key: DatasetMapperTTA(cfg)),
    ("", part),
)
# Keys that the tests at the end of this file show.
ELSEWHERE = {
    *("CUDNN_BENCHMARK", "FLOAT32_PRECISION", "TEST.EXPECTED_RESULTS"),
    *("TEST.KEYPOINT_OKS_SIGMAS", "MODEL.RETINANET.PRIOR_PROB"),
    *("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"),
    *("MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE", "DATALOADER.ASPECT_RATIO_GROUPING"),
    *("DATALOADER.FILTER_EMPTY_ANNOTATIONS",),
}
BUILT = sorted(TABLES["Taken"] - SHOWN_BY.keys() - ELSEWHERE)


@pytest.fixture
def config(row_config, tiny_opts):
    def make(key, value, *context):
        row = "quick/RetinaNet/retinanet_R_18_FPN" if key.startswith("MODEL.RETINANET") else FASTER
        build = next(build for prefix, build in BUILDERS if key.startswith(prefix))
        opts = dict(zip(tiny_opts[::2], tiny_opts[1::2], strict=True))
        if build is solver:
            opts |= {"SOLVER.MAX_ITER": "8", "SOLVER.WARMUP_ITERS": "0", "SOLVER.BASE_LR": "0.01"}
        if key.startswith("TEST.PRECISE_BN"):
            opts |= {"MODEL.FPN.NORM": "BN", "TEST.PRECISE_BN.ENABLED": "True"}
        for prefix, words in CONTEXTS.items():
            if key.startswith(prefix):
                opts |= dict(zip(words[::2], words[1::2], strict=True))
        opts |= dict(zip(context[::2], context[1::2], strict=True))
        if value is not None:
            opts[key] = value
        elif key not in (*context[::2], "DATASETS.TRAIN"):
            opts.pop(key, None)  # the row's own value
        words = [word for pair in opts.items() for word in pair]
        return build, row_config(row, *words)

    return make


@pytest.mark.parametrize("key", BUILT)
def test_another_value_has_its_effect(config, others, key):
    value, *context = OTHERS.get(key, (None,))
    build, plain = config(key, None, *([] if key in TIED else context))
    _, cfg = config(key, value or another(flat(plain)[key]), *context)
    assert flat(cfg)[key] != flat(plain)[key]
    assert facts(build(cfg, key)) != facts(build(plain, key))


def test_the_comparison_sees_no_difference_where_there_is_none(config, others):
    for key in ("MODEL.RPN.NMS_THRESH", "INPUT.FORMAT", "SOLVER.GAMMA", "TEST.EVAL_PERIOD"):
        build, cfg = config(key, None)
        assert facts(build(cfg, key)) == facts(build(cfg, key))


def test_what_is_shown_elsewhere_is_there():
    for place in SHOWN_BY.values():
        file, name = place.split()
        assert f"def {name}(" in (Path(__file__).parent / file).read_text(), place
    assert SHOWN_BY.keys() <= TABLES["Taken"]


# --- the rest, one by one


@pytest.mark.usefixtures("no_stale_logs")
def test_benchmark_and_precision_reach_torch(row_config, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(defaults, "_set_float32_precision", given.append)
    monkeypatch.setattr(defaults, "collect_env_info", str)
    opts = ["CUDNN_BENCHMARK", True, "FLOAT32_PRECISION", "high", "OUTPUT_DIR", tmp_path]
    default_setup(row_config(FASTER, *opts), train_net.build_parser().parse_args([]))
    assert torch.backends.cudnn.benchmark
    assert given == ["high"]


def test_results_that_are_expected_are_compared(tiny_opts, row_config, monkeypatch):
    expected = "[['bbox', 'AP', 40.0, 1.0]]"
    monkeypatch.setattr(Trainer, "test", lambda *_: {"bbox": {"AP": 30.0}})
    cfg = row_config("quick/RPN/rpn_R_18_FPN", *tiny_opts, "TEST.EXPECTED_RESULTS", expected)
    Path(cfg.OUTPUT_DIR).mkdir()
    trainer = Trainer(changed(cfg, {"SOLVER.MAX_ITER": 1}))
    with pytest.raises(SystemExit):
        trainer.train()


def test_oks_sigmas_reach_the_evaluator(tiny_opts, row_config):
    cfg = row_config(FASTER, *tiny_opts, "TEST.KEYPOINT_OKS_SIGMAS", "[0.5, 0.25]")
    assert Trainer.build_evaluator(cfg, "tiny_val")._kpt_oks_sigmas == [0.5, 0.25]


def test_the_prior_is_the_bias_of_the_class_scores(row_config):
    cfg = row_config("quick/RetinaNet/retinanet_R_18_FPN", "MODEL.RETINANET.PRIOR_PROB", 0.2)
    bias = build_model(cfg).head.cls_score.bias
    assert torch.allclose(bias.sigmoid(), torch.tensor(0.2))


def test_pixels_are_normalized_by_the_mean_and_the_deviation(row_config):
    opts = ["MODEL.PIXEL_MEAN", "[1.0, 2.0, 3.0]", "MODEL.PIXEL_STD", "[4.0, 5.0, 6.0]"]
    model = build_model(row_config(FASTER, *opts))
    images = model.preprocess_image([{"image": torch.full((3, 32, 32), 9.0)}]).tensor
    assert images[0, :, 0, 0].tolist() == pytest.approx([8 / 4, 7 / 5, 6 / 6])


def test_filters_and_groups_are_what_the_data_sets_are_read_by(row_config, tiny_opts, monkeypatch):
    monkeypatch.setattr("fpn_d2.data.build.get_detection_dataset_dicts", read := Mock())
    monkeypatch.setattr("fpn_d2.data.build.check_annotation_files", lambda *args, **options: None)
    opts = ["DATALOADER.FILTER_EMPTY_ANNOTATIONS", False, "MODEL.KEYPOINT_ON", True]
    opts += ["MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE", 3]
    for words in ([], opts):
        load_train_dataset(row_config(FASTER, *tiny_opts, *words))
    assert [call.kwargs["filter_empty"] for call in read.call_args_list] == [True, False]
    assert [call.kwargs["min_keypoints"] for call in read.call_args_list] == [0, 3]


def test_images_are_grouped_by_their_orientation_if_so_asked(row_config, tiny_opts):
    for grouped in (True, False):
        cfg = row_config(FASTER, *tiny_opts, "DATALOADER.ASPECT_RATIO_GROUPING", grouped)
        stream = build_train_loader(cfg).dataset
        wide = [record["width"] > record["height"] for record in stream.records]
        assert stream._groups.tolist() == [int(grouped and not is_wide) for is_wide in wide]
