"""Run by test_launch.py under torchrun: train_net.py, whose second process is killed once."""

import os
import signal

from detectron2.engine import HookBase
from detectron2.utils import comm

import train_net
from fpn_d2 import engine
from fpn_d2.engine import Trainer, launch


class DiesOnce(HookBase):
    def before_step(self) -> None:
        first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if first and self.trainer.iter == 3 and comm.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)


class Dying(Trainer):
    def build_hooks(self) -> list:
        return [*super().build_hooks(), DiesOnce()]


engine.Trainer = Dying

if __name__ == "__main__":
    launch(train_net.main, train_net.build_parser().parse_args())
