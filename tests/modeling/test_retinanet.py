"""RetinaNet matches as Detectron2's does, bit for bit and in bounded memory, in every config."""

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY, RetinaNet, build_model
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator.rpn import RPN
from detectron2.structures import Boxes, Instances
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fpn_d2 import load_config
from fpn_d2.engine import Trainer
from fpn_d2.modeling import LeanRetinaNet, LeanRPN, bound_matching
from fpn_d2.modeling import rpn as rpn_module

ROW = "quick/RetinaNet/retinanet_R_18_FPN"
SIZE = (160, 224)
GRIDS = [torch.zeros(1, 1, -(-SIZE[0] // s), -(-SIZE[1] // s)) for s in (8, 16, 32, 64, 128)]


@pytest.fixture(scope="module")
def model(row_config):
    torch.manual_seed(0)
    return bound_matching(build_model(row_config(ROW)))


def objects_of(count, seed, anchors):
    """Return random objects; some equal an anchor, some equal others but for their random class. Of
    seven, one lies where no anchor is: all anchors are its best match, and so positive."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=generator).sort(dim=1).values
    boxes = (corners * torch.tensor([SIZE[1], SIZE[0]])).flatten(1)
    if count > 6:
        boxes[1] = boxes[5]
        boxes[2] = anchors.tensor[1000]
        boxes[3] = anchors.tensor[1000]
    if count == 7:
        boxes[4] = torch.tensor([5000.0, 5000.0, 5010.0, 5020.0])
    classes = torch.randint(0, 5, (count,), generator=generator)
    return Instances(SIZE, gt_boxes=Boxes(boxes), gt_classes=classes)


@pytest.mark.parametrize("at_once", [1, 2, 3, 7])
@pytest.mark.parametrize(
    ("thresholds", "labels", "low_quality"),
    [
        ([0.4, 0.5], [0, -1, 1], True),  # RetinaNet's; between them an anchor is ignored
        ([0.5], [0, 1], True),
        ([0.3, 0.6], [-1, 0, 1], False),
    ],
)
def test_matching_in_pieces_is_detectron2s(
    model, monkeypatch, at_once, thresholds, labels, low_quality
):
    matcher = Matcher(thresholds, labels, allow_low_quality_matches=low_quality)
    monkeypatch.setattr(model, "anchor_matcher", matcher)
    anchors = model.anchor_generator(GRIDS)
    count = sum(map(len, anchors))
    images = [objects_of(n, n + at_once, Boxes.cat(anchors)) for n in (23, 0, 1, 7)]
    expected = RetinaNet.label_anchors(model, anchors, images)
    kinds = {-1, model.num_classes} if -1 in labels else {model.num_classes}
    assert kinds < set(expected[0][0].tolist())
    all_positive = (expected[0][3] >= 0) & (expected[0][3] < model.num_classes)
    assert all_positive.all() == low_quality
    monkeypatch.setattr(rpn_module, "_MAX_PAIRS", at_once * count)
    found = model.label_anchors(anchors, images)
    for mine, theirs in zip(found, expected, strict=True):
        assert [one.dtype for one in mine] == [one.dtype for one in theirs]
        assert all(map(torch.equal, mine, theirs))


class _Largest(TorchDispatchMode):
    """Counts the elements of the largest tensor that any operator returns."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        sizes = [one.numel() for one in tree_leaves(found) if isinstance(one, torch.Tensor)]
        self.numel = max(self.numel, *sizes, 0)
        return found


def test_its_memory_does_not_grow_with_the_objects(model, monkeypatch):
    anchors = model.anchor_generator(GRIDS)
    count = sum(map(len, anchors))
    images = [objects_of(300, 0, Boxes.cat(anchors))]
    largest = {}
    monkeypatch.setattr(rpn_module, "_MAX_PAIRS", 10 * count)
    for kind in (RetinaNet, LeanRetinaNet):
        with _Largest() as largest[kind]:
            kind.label_anchors(model, anchors, images)
    assert largest[RetinaNet].numel == 2 * 300 * count  # width and height of the overlaps
    assert largest[LeanRetinaNet].numel <= 2 * 10 * count


SMALL = ["MODEL.DEVICE", "cpu", "MODEL.RESNETS.DEPTH", "18"]
SMALL += ["MODEL.RESNETS.RES2_OUT_CHANNELS", "64"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("COCO-Detection/retinanet_R_50_FPN_3x", LeanRetinaNet),
        ("COCO-Detection/rpn_R_50_FPN_1x", LeanRPN),
    ],
)
def test_the_zoos_models_are_trained_in_bounded_memory(name, kind):
    model = Trainer.build_model(load_config(name, SMALL))
    found = getattr(model, "proposal_generator", model)
    assert type(found) is kind
    assert getattr(found, "proposals_in_training", True)  # as Detectron2 trains it


def test_ours_are_too(row_config):
    assert type(Trainer.build_model(row_config(ROW))) is LeanRetinaNet
    cfg = row_config(ROW, "MODEL.META_ARCHITECTURE", "ClippingRetinaNet")
    kind = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    assert kind.label_anchors is LeanRetinaNet.label_anchors


def test_a_class_of_somebody_elses_is_left_alone():
    class Theirs(RPN):
        """May match in a way of its own."""

    theirs = Theirs.__new__(Theirs)
    torch.nn.Module.__init__(theirs)
    bound_matching(theirs)
    assert type(theirs) is Theirs
