"""One image through a model."""

import numpy as np
import pytest
from detectron2.modeling import build_model

from fpn_d2 import UserError, load_config
from fpn_d2.demo import parse_rows
from fpn_d2.inference import Predictor

CONFIG = "configs/quick/Faster-RCNN/faster_rcnn_R_18_FPN.yaml"


@pytest.mark.parametrize("resize, height", [("detectron2", 81), ("torchvision", 80)])
def test_an_image_is_resized_as_the_config_says(repo, resize, height):
    sizes = ["INPUT.MIN_SIZE_TEST", "200", "INPUT.MAX_SIZE_TEST", "100"]
    cfg = load_config(repo / CONFIG, ["MODEL.WEIGHTS", "", "INPUT.RESIZE_TEST", resize, *sizes])
    predictor = Predictor(cfg, build_model(cfg.clone()))
    seen = []
    predictor.model.model.register_forward_pre_hook(
        lambda module, args: seen.append(args[0][0]["image"].shape)
    )
    # 97 x 120 px times 100 / 120: 80.83 x 100
    predictor.detect(np.zeros((97, 120, 3), np.uint8))
    assert seen == [(3, height, 100)]


def test_weights_that_are_given_twice_are_refused(repo):
    config = str(repo / CONFIG)
    with pytest.raises(UserError, match="--weights"):
        parse_rows(config, "a.pth", (), ["MODEL.WEIGHTS", "b.pth"])


def test_an_image_that_resizing_leaves_nothing_of_is_refused(repo):
    sizes = ["INPUT.MIN_SIZE_TEST", "200", "INPUT.MAX_SIZE_TEST", "100"]
    cfg = load_config(repo / CONFIG, ["MODEL.WEIGHTS", "", *sizes])
    predictor = Predictor(cfg, build_model(cfg.clone()))
    # 3 px times 100 / 5000 are 0.06, and times 100 / 500 are 0.6, which is rounded up
    with pytest.raises(UserError, match="5000 x 3 pixels is too narrow"):
        predictor.detect(np.zeros((3, 5000, 3), np.uint8))
    predictor.detect(np.zeros((3, 500, 3), np.uint8))
