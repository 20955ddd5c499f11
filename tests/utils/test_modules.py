"""Scripted detectors return what the detectors return, and recast modules keep what they have."""

import io

import pytest
import torch
from detectron2.export import scripting_with_instances
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from torch import Tensor, nn

from fpn_d2.utils.modules import detached_copy, recast, renamed, settle_norms, without_memory

FIELDS = {
    "proposal_boxes": Boxes,
    "objectness_logits": Tensor,
    "pred_boxes": Boxes,
    "scores": Tensor,
    "pred_classes": Tensor,
}
FASTER = "quick/Faster-RCNN/faster_rcnn_R_18_FPN"
BACKEND = "MODEL.ROI_BOX_HEAD.POOLER_BACKEND"
DETECTORS = {  # row, options
    "FPN": (FASTER, [BACKEND, "torchvision"]),
    "gathering": (FASTER, []),
    "a head per level": (FASTER, ["MODEL.RPN.SHARED_HEAD", False, BACKEND, "torchvision"]),
    "C5": ("quick/Faster-RCNN/faster_rcnn_R_18_C5", [BACKEND, "torchvision"]),
    "RetinaNet": ("quick/RetinaNet/retinanet_R_18_FPN", []),
}


@pytest.mark.parametrize("row, opts", DETECTORS.values(), ids=DETECTORS)
def test_a_scripted_detector_detects_the_same(row_config, make_input, row, opts):
    thresholds = [
        *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),  # random weights are never sure
        *("MODEL.RETINANET.SCORE_THRESH_TEST", 0.0),
        *("MODEL.RPN.PRE_NMS_TOPK_TEST", 100),
    ]
    torch.manual_seed(0)
    model = build_model(row_config(row, *thresholds, *opts)).eval()
    inputs = [{"image": make_input(64, 96, [])["image"]}]
    with torch.no_grad():
        (expected,) = (output["instances"] for output in model(inputs))
        scripted = scripting_with_instances(model, FIELDS)
        if hasattr(model, "roi_heads"):
            (found,) = scripted.inference(inputs, do_postprocess=False)
        else:
            (found,) = scripted(inputs)
            found.pred_boxes.clip((64, 96))  # RetinaNet clips boxes only when it is not scripted
    assert len(expected) > 0
    tolerance = 0 if BACKEND in opts or "RetinaNet" in row else 1e-4
    for name, values in expected.get_fields().items():
        values = values.tensor if isinstance(values, Boxes) else values
        torch.testing.assert_close(found.get_fields()[name], values, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("path", ["TOP_DOWN", "LATERAL"])
def test_a_scripted_pyramid_of_one_path_computes_the_same(row_config, path):
    """What follows the pyramid is the same as in FPN, which the test above scripts."""
    torch.manual_seed(0)
    backbone = build_model(row_config(FASTER, f"MODEL.FPN.{path}", False)).backbone.eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected, found = backbone(x), torch.jit.script(backbone)(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


class _Parent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """Add one."""
        return x + 1


class _Child(_Parent):
    _add = renamed(_Parent.forward, "_add")

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self._add(x)


def test_a_parents_method_is_scripted_under_another_name():
    assert (_Child._add.__name__, _Child._add.__doc__) == ("_add", "Add one.")
    assert _Child()(torch.ones(1)).item() == 4
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(_Child()), file)
    file.seek(0)
    assert torch.jit.load(file)(torch.ones(1)).item() == 4


def test_a_recast_module_keeps_its_weights_and_hooks():
    class Named(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + self.shift

    layer, calls = nn.Linear(2, 1), []
    layer.register_forward_hook(lambda *_: calls.append(1))
    weight, x = layer.weight, torch.ones(1, 2)
    expected = layer(x) + 5
    recast(layer, Named, shift=5)
    assert type(layer) is Named
    assert layer.weight is weight
    assert torch.equal(layer(x), expected)
    assert len(calls) == 2
    with pytest.raises(AssertionError):
        recast(nn.Conv2d(1, 1, 1), Named)


@pytest.mark.parametrize("read", [None, int, Tensor.numpy])
def test_a_network_takes_no_memory_if_its_code_can_do_without(read):
    """Detectron2's Swin and ViT make lists of a tensor's values as they are built."""

    def build():
        width = torch.linspace(1, 4, 2)[1]
        return nn.Linear(2, int(read(width)) if read else 4)

    assert without_memory(build).weight.is_meta == (read is None)


def test_a_copy_has_what_was_computed_without_its_graph():
    layer = nn.Linear(2, 1)
    layer.last = layer(torch.ones(2))
    copy = detached_copy(layer)
    assert torch.equal(copy.last, layer.last)
    assert (copy.last.requires_grad, layer.last.requires_grad) == (False, True)


def test_norms_are_settled_in_the_order_of_the_network():
    torch.manual_seed(0)
    norms = [torch.nn.BatchNorm2d(3, eps=1e-9, affine=False) for _ in range(2)]
    conv = torch.nn.Conv2d(3, 3, 1)
    model = torch.nn.Sequential(norms[0], conv, norms[1]).eval()
    image = 5 + 3 * torch.randn(1, 3, 40, 40)
    settle_norms(model, lambda: model(image))
    torch.testing.assert_close(norms[0].running_mean, image.mean(dim=(0, 2, 3)))
    result = model(image)
    torch.testing.assert_close(result.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(result.var(dim=(0, 2, 3), correction=0), torch.ones(3))


def test_norms_of_vectors_are_settled_and_none_by_an_empty_batch():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False)).eval()
    rows = torch.arange(6.0).view(2, 3)
    for x in (rows, rows[:0]):  # the last call counts, if it has any
        settle_norms(model[0], lambda x=x: model[0](x))
    settle_norms(model, lambda: model(rows))
    assert model[0].running_mean.tolist() == [1.5, 2.5, 3.5]
    assert model[0].running_var.tolist() == [2.25] * 3
