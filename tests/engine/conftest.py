"""Fixtures that the tests of training share."""

import os

import pytest

from fpn_d2.engine import Trainer


@pytest.fixture
def tiny_config(row_config, tiny_opts):
    """``tiny_config(*opts, row=...)``: a quick row, by default the RPN, on the tiny data."""
    return lambda *opts, row="RPN/rpn_R_18_FPN": row_config(f"quick/{row}", *tiny_opts, *opts)


@pytest.fixture
def trainer(tiny_config):
    """``trainer(*opts)``: a trainer of five iterations without a test set, new or resumed from what
    is in its folder, which is made."""

    def build(*opts, test="()", resume=False):
        five = ["SOLVER.MAX_ITER", "5", "SOLVER.CHECKPOINT_PERIOD", "2", "DATASETS.TEST", test]
        cfg = tiny_config(*five, *opts)
        os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
        made = Trainer(cfg)
        made.resume_or_load(resume=resume)
        return made

    return build
