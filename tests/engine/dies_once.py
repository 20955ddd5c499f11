"""train_net.py, whose second process is killed once; test_launch.py runs it under torchrun. With
MACHINE_DIES in the environment the first is killed instead, with the torchrun that started it. With
AGENT_DIES only that torchrun is killed, and its worker stays until somebody kills it."""

import os
import signal
import time
from pathlib import Path

from detectron2.engine import HookBase
from detectron2.utils import comm

import train_net
from fpn_d2 import engine
from fpn_d2.engine import Trainer, launch


class DiesOnce(HookBase):
    def before_step(self) -> None:
        died = Path(self.trainer.cfg.OUTPUT_DIR, "died")
        agent = "AGENT_DIES" in os.environ
        first = agent or "MACHINE_DIES" in os.environ
        if self.trainer.iter == 3 and comm.get_rank() == int(not first) and not died.exists():
            died.write_text(str(os.getpid()))
            if first:
                os.kill(os.getppid(), signal.SIGKILL)
            if agent:
                time.sleep(300)
            os.kill(os.getpid(), signal.SIGKILL)


class Dying(Trainer):
    def build_hooks(self) -> list:
        return [*super().build_hooks(), DiesOnce()]


engine.Trainer = Dying

if __name__ == "__main__":
    launch(train_net.main, train_net.build_parser().parse_args())
