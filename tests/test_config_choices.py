"""With each word that an error offers for a key, a model trains, is evaluated and detects."""

import contextlib
import functools
import re

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from fpn_d2 import UserError, config_values
from fpn_d2.config import changed
from fpn_d2.config_combinations import LOOKED_UP
from fpn_d2.engine import Trainer
from fpn_d2.export import export_model
from fpn_d2.inference import Predictor
from fpn_d2.modeling.fpn import TOP_BLOCKS

FASTER = "quick/Faster-RCNN/faster_rcnn_R_18_FPN"


def offered(remedy: str) -> list[str]:
    """Return the words that a sentence such as ``set it to 'sum' or 'avg'`` offers."""
    return re.findall(r"'([^']*)'", remedy) if remedy.startswith("set it to '") else []


CHOICES = {key: offered(remedy) for key, (_, remedy) in config_values.VALUES.items()}
CHOICES |= {
    "MODEL.FPN.TOP_BLOCK": list(TOP_BLOCKS),
    "MODEL.FPN.NORM": offered(config_values.NORM[1]),
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": offered(config_values.POOLER_TYPE[1]),
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": offered(config_values.REGRESSION_LOSS[1]),
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": offered(config_values.REGRESSION_LOSS[1]),
}
CHOICES |= {key: list(names) for key, names in LOOKED_UP.items()}
CHOICES = {key: words for key, words in CHOICES.items() if words}
# The other overrides that a word needs.
NEEDS = {
    ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"): ["INPUT.MIN_SIZE_TRAIN", "(48, 64)"],
    ("INPUT.CROP.TYPE", "absolute"): ["INPUT.CROP.SIZE", "[40, 40]"],
    ("INPUT.CROP.TYPE", "absolute_range"): ["INPUT.CROP.SIZE", "[32, 40]"],
    ("MODEL.FPN.TOP_BLOCK", ""): [
        *("MODEL.RPN.IN_FEATURES", "['p2','p3','p4','p5']"),
        *("MODEL.ANCHOR_GENERATOR.SIZES", "[[8],[16],[32],[64]]"),
    ],
    ("DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler"): [
        *("DATALOADER.RANDOM_SUBSET_RATIO", "0.5"),
    ],
}
ALWAYS = ["INPUT.CROP.ENABLED", "True", "SOLVER.CLIP_GRADIENTS.ENABLED", "True"]
ALWAYS += ["SOLVER.MAX_ITER", "4", "SOLVER.WARMUP_ITERS", "2", "MODEL.MASK_ON", "True"]
ALWAYS += ["TEST.DETECTIONS_PER_IMAGE", "5", "MODEL.ROI_BOX_HEAD.FC_DIM", "16"]
ROUNDS = max(map(len, CHOICES.values()))


def words_of(number: int) -> list[str]:
    """Return a round's overrides: of each key another word, until all have had their turn."""
    words = []
    for key, choices in sorted(CHOICES.items()):
        choice = choices[number % len(choices)]
        words += [key, choice, *NEEDS.get((key, choice), [])]
    return words


@pytest.fixture
def config(row_config, tiny_opts, monkeypatch):
    """``config(number)``: the config of a round; float32 replaces a precision that is lacking."""
    monkeypatch.setattr("fpn_d2.inference.prepared.has_bfloat16", lambda device: True)

    def make(number):
        words = words_of(number)
        place = words.index("INFERENCE.PRECISION") + 1
        lacking = ["int8"] if torch.cuda.is_available() else ["int8", "float16"]
        if words[place] in lacking:  # tests/inference/test_quantization.py and test_prepared.py
            words[place] = "float32"
        return row_config(FASTER, *tiny_opts, *ALWAYS, *words)

    return make


def test_the_rounds_have_every_word():
    assert len(CHOICES) >= 15
    assert all(len(set(words)) == len(words) <= ROUNDS for words in CHOICES.values())


@pytest.mark.slow
@pytest.mark.parametrize("number", range(ROUNDS))
def test_every_word_trains_is_evaluated_and_detects(config, number, tmp_path):
    cfg = config(number)
    (tmp_path / "output").mkdir()
    trainer = Trainer(cfg)
    trainer.max_iter = 1  # the first of the schedule
    trainer.resume_or_load(resume=False)
    trainer.train()  # and evaluates
    found = Predictor(cfg, trainer.model).detect(np.zeros((64, 48, 3), np.uint8))
    assert len(found) <= 5
    assert trainer.storage.latest()["total_loss"][0] > 0


@pytest.mark.slow
@pytest.mark.parametrize("number", range(ROUNDS))
def test_every_word_is_exported(config, number, monkeypatch):
    trace = torch.jit.trace

    @functools.cache
    def trace_once(graph, inputs, **options):
        graph.with_heads = True  # the compared trace has all outputs of the file
        return trace(graph, inputs, **options)

    monkeypatch.setattr(torch.jit, "trace", trace_once)
    cfg = changed(config(number), {"MODEL.MASK_ON": False})  # masks are not exported at all
    with contextlib.suppress(UserError):  # what cannot be exported says so
        assert export_model(cfg, build_model(cfg).eval(), "torchscript")
