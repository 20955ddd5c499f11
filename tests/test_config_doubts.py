"""Settings that hardly mean what they say get one warning each, and usual settings none."""

import logging

import pytest

from fpn_d2 import load_config
from fpn_d2.config import changed
from fpn_d2.config_combinations import tell_doubts

ROW = "quick/Faster-RCNN/faster_rcnn_R_18_FPN"
IMAGENET_RGB = "[123.675,116.28,103.53]"
HANDS = ["left_hand", "face", "Right_hand"]


@pytest.fixture
def told(row_config, caplog):
    """``told(training, *opts)``: the warnings about a row with these overrides."""

    def tell(training, *opts, row=ROW, classes=()):
        caplog.clear()
        tell_doubts(row_config(row, *opts), classes, training=training)
        return [record.getMessage() for record in caplog.records]

    return tell


@pytest.mark.parametrize(
    "opts, words",
    [
        (["SOLVER.WARMUP_ITERS", 300], ["SOLVER.WARMUP_ITERS is 300 of", "such as 30"]),
        (["SOLVER.MAX_ITER", 20], ["SOLVER.WARMUP_ITERS is 50 of SOLVER.MAX_ITER 20"]),
        (["MODEL.BACKBONE.FREEZE_AT", 2], ["random", "MODEL.BACKBONE.FREEZE_AT 2 leave"]),
        (["MODEL.RESNETS.NORM", "FrozenBN"], ["MODEL.RESNETS.NORM FrozenBN leave random"]),
        (
            ["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"],
            ["DATALOADER.REPEAT_THRESHOLD 0.0"],
        ),
        (
            ["INPUT.MIN_SIZE_TRAIN", "(320,640)"],
            ["INPUT.MIN_SIZE_TRAIN 640 is above INPUT.MAX_SIZE_TRAIN 320"],
        ),
        (["INPUT.MIN_SIZE_TEST", 321], ["INPUT.MIN_SIZE_TEST 321", "INPUT.MAX_SIZE_TEST 320"]),
        (["INPUT.FORMAT", "RGB"], ["in the order of BGR, and INPUT.FORMAT is RGB"]),
        (["MODEL.PIXEL_MEAN", IMAGENET_RGB], ["in the order of RGB, and INPUT.FORMAT is BGR"]),
        (
            ["MODEL.PIXEL_MEAN", "[0.4,0.45,0.48]", "MODEL.PIXEL_STD", "[0.22,0.22,0.23]"],
            ["shares of 1", "multiply both by 255"],
        ),
    ],
)
def test_a_doubtful_setting_of_a_training_is_told_with_the_remedy(told, opts, words):
    (sentence,) = told(True, *opts)
    for word in words:
        assert word in sentence


@pytest.mark.parametrize(
    "opts",
    [
        [],
        ["SOLVER.WARMUP_ITERS", 299],
        # with weights, frozen layers are usual
        ["MODEL.WEIGHTS", "a.pth", "MODEL.BACKBONE.FREEZE_AT", 2, "MODEL.RESNETS.NORM", "FrozenBN"],
        [
            *("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"),
            *("DATALOADER.REPEAT_THRESHOLD", 0.1),
        ],
        ["INPUT.MIN_SIZE_TEST", 320],
        ["DATASETS.TEST", "()"],
        ["INPUT.FORMAT", "RGB", "MODEL.PIXEL_MEAN", IMAGENET_RGB],
        ["MODEL.PIXEL_MEAN", "[0.0,0.0,0.0]", "MODEL.PIXEL_STD", "[255.0,255.0,255.0]"],
        ["MODEL.PIXEL_MEAN", "[0.0,0.0,0.0]"],  # with Detectron2's deviations of 1
        ["INPUT.FORMAT", "L", "MODEL.PIXEL_MEAN", "[116.0]", "MODEL.PIXEL_STD", "[1.0]"],
    ],
)
def test_what_is_usual_in_a_training_is_not_told(told, opts):
    assert told(True, *opts) == []


@pytest.mark.parametrize(
    "flip, classes, words",
    [
        ("horizontal", HANDS, "turns the class left_hand into Right_hand"),
        ("horizontal", ["左转", "右转"], "turns the class 左转 into 右转"),
        ("vertical", ["arrow up", "arrow down"], "turns the class arrow up into arrow down"),
        ("vertical", HANDS, None),
        ("none", HANDS, None),
        ("horizontal", ["left_hand", "face"], None),  # nothing to mistake it for
        ("horizontal", ["upright", "copyright"], None),
        ("horizontal", [], None),
    ],
)
def test_classes_that_a_flip_turns_into_each_other(told, flip, classes, words):
    sentences = told(True, "INPUT.RANDOM_FLIP", flip, classes=classes)
    assert len(sentences) == (words is not None)
    assert all(words in sentence for sentence in sentences)


@pytest.mark.parametrize(
    "row, key", [(ROW, "ROI_HEADS"), ("quick/RetinaNet/retinanet_R_18_FPN", "RETINANET")]
)
def test_a_threshold_that_lowers_the_ap_is_told_in_evaluation(told, row, key):
    key = f"MODEL.{key}.SCORE_THRESH_TEST"
    assert told(False, row=row) == []
    assert told(True, key, 0.7, row=row) == []
    (sentence,) = told(False, key, 0.7, row=row)
    assert f"{key} is 0.7" in sentence
    assert "set it to 0.05" in sentence


def test_no_row_that_is_shipped_is_doubtful(repo, caplog):
    others = "models", "maskrcnn_benchmark", "torchvision"  # parts, and models that are not trained
    rows = [path for path in (repo / "configs").rglob("*_R_*.yaml")]
    rows = [path for path in rows if path.parent.name not in others]
    assert len(rows) > 20
    for path in rows:
        cfg = load_config(path, ["MODEL.DEVICE", "cpu"])
        for training in (True, False):
            tell_doubts(cfg, training=training)
    assert caplog.text == ""


@pytest.mark.parametrize(
    "name, norm",
    [
        ("build_resnet_backbone", "MODEL.RESNETS.NORM GN"),
        ("build_regnet_backbone", "MODEL.REGNETS.NORM BN"),
        ("build_swin_backbone", None),  # somebody's own
    ],
)
def test_random_weights_that_stay_are_told_of_the_network_that_is_built(caplog, name, norm):
    cfg = load_config("", ["MODEL.DEVICE", "cpu"])
    for neck in (name, "build_fpn_backbone"):
        words = {"MODEL.BACKBONE.NAME": neck, "MODEL.FPN.BOTTOM_UP": name, "MODEL.WEIGHTS": ""}
        caplog.clear()
        tell_doubts(changed(cfg, words), training=True)
        told = [text for text in map(logging.LogRecord.getMessage, caplog.records) if "ran" in text]
        assert [text.endswith(f"FREEZE_AT 0 and {norm}") for text in told] == [True] * bool(norm)
