#!/usr/bin/env python
"""Train, resume or evaluate a config.

python train_net.py --config-file configs/quick/RPN/rpn_R_18_FPN.yaml
python train_net.py --config-file ... --resume
python train_net.py --config-file ... --epochs 12
python train_net.py --config-file ... --eval-only MODEL.WEIGHTS output/.../model_final.pth
"""

import argparse
import os
import sys
from typing import Any


def build_parser() -> argparse.ArgumentParser:
    """Define Detectron2's flags and --epochs without importing Detectron2, which takes seconds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="of configs/, or a model zoo's name")
    add("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR")
    add("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS; train nothing")
    add("--num-gpus", type=int, default=1, help="processes on this machine; default: 1")
    add("--num-machines", type=int, default=1, help="default: 1")
    add("--machine-rank", type=int, default=0, help="this machine's number, from 0")
    # A fixed port for each user, so that processes left over from a killed training are noticed.
    port = 2**15 + 2**14 + hash(os.getuid() if sys.platform != "win32" else 1) % 2**14
    add("--dist-url", default=f"tcp://127.0.0.1:{port}", help="where the processes meet")
    add(
        "--epochs",
        type=float,
        metavar="N",
        help="train for N times the training images: SOLVER.MAX_ITER is N x images / "
        "SOLVER.IMS_PER_BATCH; SOLVER.STEPS, WARMUP_ITERS and TEST.EVAL_PERIOD keep their shares",
    )
    opts = "config keys and their values, last of all, such as SOLVER.BASE_LR 0.001"
    add("opts", nargs=argparse.REMAINDER, default=None, metavar="KEY VALUE", help=opts)
    return parser


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Run one process of the training or the evaluation, as in Detectron2's train_net."""
    from detectron2.engine import default_setup
    from detectron2.evaluation import verify_results
    from detectron2.utils import comm
    from detectron2.utils.logger import setup_logger

    from fpn_d2 import load_model
    from fpn_d2.engine import Trainer, check_output_dir, read_config, restored_config

    cfg = read_config(args)
    if not args.eval_only:
        # This refuses a folder that holds another training, and resumes one that torchrun restarts.
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
    ARGS = build_parser().parse_args()  # before torch and Detectron2 are imported
    from fpn_d2.engine import launch

    launch(main, ARGS)
