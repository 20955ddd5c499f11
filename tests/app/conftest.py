"""A page's session on an untrained tiny model, which finds boxes at a threshold of 0."""

import pytest
from detectron2.modeling import build_model

from fpn_d2.app import Limits, Models, Session
from fpn_d2.inference import Explainer

TITLE = "faster_rcnn_R_18_FPN"


@pytest.fixture(scope="session")
def make_models(row_config, tmp_path_factory):
    """``make_models(number)``: so many models, of random weights, 128 px and 64 channels."""
    cfg = row_config(
        "quick/Faster-RCNN/faster_rcnn_R_18_FPN",
        "INPUT.MIN_SIZE_TEST", 128,
        "INPUT.MAX_SIZE_TEST", 128,
        "MODEL.FPN.OUT_CHANNELS", 64,
        "MODEL.ROI_BOX_HEAD.FC_DIM", 64,
        "MODEL.WEIGHTS", "",
    )  # fmt: skip

    def make(number: int = 1) -> Models:
        return Models({TITLE + " again" * i: cfg for i in range(number)})

    return make


@pytest.fixture
def random_weights(monkeypatch):
    """Models are built, not loaded; returns the list of the models built."""
    built = []

    def explainer(cfg):
        built.append(cfg)
        return Explainer(cfg, build_model(cfg.clone()).eval())

    monkeypatch.setattr("fpn_d2.app.models.Explainer", explainer)
    return built


@pytest.fixture
def session(make_models, random_weights):
    """One model, and 10 kB or 0.3 megapixels for an upload."""
    return Session(make_models(), Limits(bytes=10_000, pixels=300_000))
