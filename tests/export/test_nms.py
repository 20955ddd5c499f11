"""NMS in exported graphs: each group by itself, whatever the coordinates."""

import io

import pytest
import torch
import torchvision
from torch import nn

from fpn_d2.export.nms import nms_by_group


class Suppress(nn.Module):
    def forward(self, boxes, scores, groups):
        return torchvision.ops.boxes.batched_nms(boxes, scores, groups, 0.5)


def scene(count, groups, size, seed):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * size
    boxes = torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * size / 3], 1)
    scores = torch.randn(count, generator=generator)  # objectness is negative too
    return boxes, scores, torch.randint(0, groups, (count,), generator=generator)


@pytest.fixture(scope="module", params=["onnx", "torchscript"])
def run(request):
    """``run(boxes, scores, groups)``: the exported NMS, which was traced on other inputs."""
    example = scene(10, 2, 50.0, seed=2)
    if request.param == "torchscript":
        with nms_by_group("torchscript"):
            return torch.jit.trace(Suppress(), example)
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    file, names = io.BytesIO(), ["boxes", "scores", "groups"]
    axes = {name: {0: "R"} for name in names}
    with nms_by_group("onnx"):
        torch.onnx.export(
            Suppress(), example, file, dynamo=False, input_names=names, dynamic_axes=axes
        )
    session = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])

    def call(*inputs):
        arrays = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, arrays)[0])

    return call


def greedy(boxes, scores, groups):
    """NMS by its definition: the best box, then the best one that it does not cover, ..."""
    order, kept = scores.argsort(descending=True).tolist(), []
    for i in order:
        rivals = [j for j in kept if groups[j] == groups[i]]
        if not rivals or torchvision.ops.box_iou(boxes[i : i + 1], boxes[rivals]).max() <= 0.5:
            kept.append(i)
    return torch.tensor(kept)


def test_it_is_the_definition_by_group(run):
    inputs = scene(400, 3, 100.0, seed=1)
    expected = greedy(*inputs)
    assert len(expected) < 400
    assert run(*inputs).equal(expected)


def test_small_boxes_of_a_late_group_are_told_apart(run):
    """Moving by 1000 * 10,000 px, where floats are 1 px apart, would merge two boxes of 0.4 px."""
    boxes = torch.tensor([[0.0, 0, 9999, 9999], [10.0, 10, 10.4, 10.4], [10.5, 10.5, 10.9, 10.9]])
    found = run(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1000, 1000]))
    assert found.tolist() == [0, 1, 2]


def test_no_box_is_no_box(run):
    found = run(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert found.shape == (0,)


def test_it_is_put_back():
    before = torchvision.ops.boxes.batched_nms
    with nms_by_group("onnx"):
        assert torchvision.ops.boxes.batched_nms is not before
    assert torchvision.ops.boxes.batched_nms is before
