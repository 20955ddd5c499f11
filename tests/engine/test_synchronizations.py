"""A training step waits for a GPU no more often than Detectron2's.

The tests count, without a GPU, copies to the CPU and the operators after which the program goes on
only once a GPU has told it a number or a shape; with one, what PyTorch reports.
"""

import collections
import functools
import warnings

import pytest
import torch
from detectron2.engine import SimpleTrainer
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch.utils._python_dispatch import TorchDispatchMode

from fpn_d2.config import stock_config
from fpn_d2.engine import Trainer
from fpn_d2.engine.trainer import _step
from fpn_d2.modeling import rpn as rpn_module

WAITING = {
    "aten::_local_scalar_dense",  # item(), bool(), float(), int() and `if tensor`
    "aten::nonzero",
    "aten::masked_select",
    "aten::unique_consecutive",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::repeat_interleave.Tensor",
    "aten::equal",
    "torchvision::nms",
}
INDEXING = {"aten::index.Tensor", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_"}
TO_CPU = ("cpu", "numpy", "tolist")


class Waits(TorchDispatchMode):
    """Counts the calls inside it that would wait for a GPU."""

    def __enter__(self):
        self.counts = collections.Counter()
        self._patches = pytest.MonkeyPatch()
        for name in TO_CPU:
            self._patches.setattr(torch.Tensor, name, self._counted(name))
        return super().__enter__()

    def __exit__(self, *error):
        self._patches.undo()
        return super().__exit__(*error)

    def _counted(self, name):
        original = getattr(torch.Tensor, name)

        def call(tensor, *args):
            self.counts[name] += 1
            return original(tensor, *args)

        return call

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        if name in WAITING or (name in INDEXING and self._counts_the_true_ones(name, args)):
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))

    @staticmethod
    def _counts_the_true_ones(name, args):
        masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
        # Writing one number to the places of a mask needs no count of them.
        fills = "put" in name and len(args[1]) == len(masks) == 1 and args[2].numel() == 1
        return bool(masks) and not fills


def test_what_waits_is_counted():
    x = torch.arange(6.0)
    with Waits() as waits:
        x.sum().item()
        if x[0] > 3:
            pytest.fail("it is 0")
        x[x > 2]
        x[x > 2] = 0.0
        x[x > 2] = x[x > 2]
        x.nonzero()
        x.cpu()
        x.tolist()
        x[torch.tensor([1, 2])] + x.clamp(min=1).max(dim=0).values
    assert waits.counts == {
        "aten::_local_scalar_dense": 2, "aten::index.Tensor": 2, "aten::index_put_": 1,
        "aten::nonzero": 1, "cpu": 1, "tolist": 1,
    }  # fmt: skip


def record_of(seed, count):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=generator).sort(dim=1).values
    boxes = Boxes((corners * torch.tensor([96, 64])).flatten(1))
    classes = torch.randint(0, 5, (count,), generator=generator)
    image = torch.randint(0, 256, (3, 64, 96), generator=generator, dtype=torch.uint8)
    instances = Instances((64, 96), gt_boxes=boxes, gt_classes=classes)
    return {"image": image, "height": 64, "width": 96, "instances": instances}


ROWS = [f"Faster-RCNN/faster_rcnn_R_18_{n}" for n in ("FPN", "C4")]
ROWS += ["RetinaNet/retinanet_R_18_FPN", "RPN/rpn_R_18_FPN"]


@pytest.mark.parametrize("count", [4, 60])  # objects; 60 are matched in pieces
@pytest.mark.parametrize("row", ROWS)
def test_a_training_step_waits_no_more_often_than_detectron2s(row_config, monkeypatch, row, count):
    monkeypatch.setattr(rpn_module, "_MAX_PAIRS", 20_000)  # of 360 to 1536 anchors with the objects
    monkeypatch.setattr(rpn_module.LeanRPN, "_ends_nms_early", lambda *args: False)  # as on a GPU
    waits, losses = {}, {}
    for name, (run_step, storage) in both_steps(row_config, row, count, "cpu").items():
        with storage, Waits() as waits[name]:
            run_step()
        losses[name] = latest_losses(storage)
    assert losses["ours"] == pytest.approx(losses["detectron2"], rel=1e-3)  # the same step
    assert sum(waits["detectron2"].counts.values()) > 5
    assert waits["ours"].counts <= waits["detectron2"].counts


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("count", [4, 60])
@pytest.mark.parametrize("row", ROWS)
def test_on_a_gpu_a_training_step_waits_no_more_often(row_config, monkeypatch, row, count):
    monkeypatch.setattr(rpn_module, "_MAX_PAIRS", 20_000)
    waits, losses = {}, {}
    for name, (run_step, storage) in both_steps(row_config, row, count, "cuda").items():
        with storage:
            run_step()  # allocates and chooses what is kept
            losses[name] = latest_losses(storage)
            torch.cuda.set_sync_debug_mode("warn")
            try:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    run_step()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        waits[name] = sum("synchronizing CUDA operation" in str(w.message) for w in caught)
    print(f"{row}, {count} objects: {waits}")
    assert losses["ours"] == pytest.approx(losses["detectron2"], rel=0.05)  # convolved in TF32
    assert waits["detectron2"] > 5
    assert waits["ours"] <= waits["detectron2"]


def both_steps(row_config, row, count, device):
    """Return, for our model and Detectron2's, a function that makes a step and its EventStorage."""
    opts = ["SOLVER.AMP.ENABLED", False, "MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE", 224]
    # On a GPU RoIAlign is torchvision's.
    opts += ["MODEL.ROI_BOX_HEAD.POOLER_BACKEND", "torchvision", "MODEL.DEVICE", device]
    cfg = row_config(f"quick/{row}", *opts)
    batch = [record_of(seed, count) for seed in (1, 2)]
    torch.manual_seed(0)
    ours = Trainer.build_model(cfg)
    stock = build_model(stock_config(cfg))
    stock.load_state_dict(ours.state_dict())
    steps = {}
    for name, model in (("ours", ours), ("detectron2", stock)):
        optimizer = build_optimizer(cfg, model)
        make = _step if name == "ours" else lambda cfg, *parts: SimpleTrainer(*parts)
        trainer = make(cfg, model.train(), [batch] * 2, optimizer)
        trainer.iter = trainer.start_iter = trainer.max_iter = 0
        steps[name] = functools.partial(_seeded_step, trainer), EventStorage()
    return steps


def latest_losses(storage):
    return {k: v[0] for k, v in storage.latest().items() if "loss" in k}


def _seeded_step(trainer):
    torch.manual_seed(7)  # decides the samples
    trainer.run_step()
