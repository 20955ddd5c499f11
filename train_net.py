#!/usr/bin/env python
"""Train, resume or evaluate a config.

python train_net.py --config-file configs/quick/RPN/rpn_R_18_FPN.yaml
python train_net.py --config-file ... --resume
python train_net.py --config-file ... --epochs 12
python train_net.py --config-file ... --eval-only MODEL.WEIGHTS output/.../model_final.pth
"""

import argparse
from typing import Any

from detectron2.engine import default_setup
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from fpn_d2 import load_model
from fpn_d2.engine import (
    Trainer,
    argument_parser,
    check_output_dir,
    launch,
    read_config,
    restored_config,
)


def main(args: argparse.Namespace) -> dict[str, Any]:
    """One process of the training or the evaluation, as in Detectron2's train_net."""
    cfg = read_config(args)
    if not args.eval_only:
        # It refuses a folder that holds another training, and resumes one that torchrun restarts.
        args.resume = check_output_dir(cfg, args.resume)
    # default_setup writes config.yaml; the file is put back if the run is refused after that.
    with restored_config(cfg.OUTPUT_DIR, args.eval_only):
        default_setup(cfg, args)
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="fpn_d2")
        if args.eval_only:
            model = load_model(cfg, resume=args.resume)
            results = Trainer.test(cfg, model)
            if cfg.TEST.AUG.ENABLED:
                results.update(Trainer.test_with_TTA(cfg, model))
            if comm.is_main_process():
                verify_results(cfg, results)
            return results
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    launch(main, argument_parser().parse_args())
