"""Run by test_launch.py: every ablation takes two steps in two processes, one after the other."""

import argparse
import os
import sys

import torch
from detectron2.utils import comm

from fpn_d2 import load_config
from fpn_d2.engine import Trainer, launch

VARIANTS = {
    "both paths": ["RPN/rpn_R_18_FPN"],
    "no top-down": ["RPN/rpn_R_18_bottom_up"],
    "no lateral": ["RPN/rpn_R_18_top_down"],
    "P2 only": ["RPN/rpn_R_18_P2"],
    "P2 only, no top-down": ["RPN/rpn_R_18_P2", "MODEL.FPN.TOP_DOWN", "False"],
    "P2 only, no lateral": ["RPN/rpn_R_18_P2", "MODEL.FPN.LATERAL", "False"],
    "a head for each level": ["RPN/rpn_R_18_FPN", "MODEL.RPN.SHARED_HEAD", "False"],
    "C4": ["Faster-RCNN/faster_rcnn_R_18_C4"],
    "C5": ["Faster-RCNN/faster_rcnn_R_18_C5"],
    "Faster R-CNN": ["Faster-RCNN/faster_rcnn_R_18_FPN"],
    "RetinaNet": ["RetinaNet/retinanet_R_18_FPN"],
}


class TwoSteps(Trainer):
    """No evaluation and no checkpoints: the steps are what is tested."""

    def build_hooks(self) -> list:
        return []


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    for name, (row, *opts) in VARIANTS.items():
        cfg = load_config(os.path.join(args.configs, f"{row}.yaml"), [*args.opts, *opts])
        trainer = TwoSteps(cfg)
        trainer.resume_or_load(resume=False)
        trainer.train()
        weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
        # DDP averages the gradients, so both processes must hold the same weights
        same = all(torch.equal(weights, other) for other in comm.all_gather(weights))
        if comm.is_main_process():
            print(f"{name}: {trainer.iter} iterations, weights {'same' if same else 'DIFFER'}")


if __name__ == "__main__":
    launch(
        main,
        argparse.Namespace(
            num_gpus=2,
            num_machines=1,
            machine_rank=0,
            dist_url="auto",
            configs=sys.argv[1],
            opts=sys.argv[2:],
        ),
    )
