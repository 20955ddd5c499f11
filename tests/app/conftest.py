"""A page's session on an untrained tiny model, which finds boxes at a threshold of 0."""

import pytest
from detectron2.modeling import build_model

from fpn_d2.app import Limits, Session
from fpn_d2.inference import Explainer

TITLE = "faster_rcnn_R_18_FPN"


@pytest.fixture(scope="session")
def tiny_config(row_config):
    """A config of 128 px and 64 channels."""
    return row_config(
        "quick/Faster-RCNN/faster_rcnn_R_18_FPN",
        "INPUT.MIN_SIZE_TEST", 128,
        "INPUT.MAX_SIZE_TEST", 128,
        "MODEL.FPN.OUT_CHANNELS", 64,
        "MODEL.ROI_BOX_HEAD.FC_DIM", 64,
        "MODEL.WEIGHTS", "",
    )  # fmt: skip


@pytest.fixture
def random_weights(monkeypatch):
    """Build models instead of loading them; return the list of the configs that were built."""
    built = []

    def explainer(cfg):
        built.append(cfg)
        return Explainer(cfg, build_model(cfg.clone()).eval())

    monkeypatch.setattr("fpn_d2.app.session.Explainer", explainer)
    return built


@pytest.fixture
def session(tiny_config, random_weights):
    """A session with one model, for uploads of at most 10 kB and 0.3 megapixels."""
    return Session({TITLE: tiny_config}, Limits(bytes=10_000, pixels=300_000))
