"""RoIAlign as a gather has the values and the gradients of torchvision's."""

import pytest
import torch
from torchvision.ops import roi_align

from fpn_d2.layers import pyramid_align, pyramid_roi_align

SCALES = (1 / 4, 1 / 8, 1 / 16)
HEIGHT, WIDTH = 96, 160  # of the network input, in pixels


def pyramid(dtype=torch.float32, channels=3, images=2):
    generator = torch.Generator().manual_seed(0)
    shapes = [(images, channels, int(HEIGHT * s), int(WIDTH * s)) for s in SCALES]
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes
    ]


def random_boxes(count, seed, dtype=torch.float32):
    """Make (R, 5) boxes in two images, some of which leave the image, and their levels."""
    generator = torch.Generator().manual_seed(seed)
    size = 200 ** torch.rand(count, 2, generator=generator, dtype=torch.float64)
    center = torch.rand(count, 2, generator=generator, dtype=torch.float64) * torch.tensor(
        [180, 110]
    )
    image = torch.randint(0, 2, (count, 1), generator=generator)
    boxes = torch.cat([image, center - size / 2, center + size / 2], dim=1)
    return boxes.to(dtype), torch.randint(0, len(SCALES), (count,), generator=generator)


def by_torchvision(features, boxes, levels, size, ratio, aligned):
    height, width = (size, size) if isinstance(size, int) else size
    pooled = features[0].new_zeros((len(boxes), features[0].shape[1], height, width))
    for level, (feature, scale) in enumerate(zip(features, SCALES, strict=True)):
        here = levels == level
        found = roi_align(feature, boxes[here], (height, width), scale, ratio, aligned)
        pooled = pooled.index_put((here.nonzero().squeeze(1),), found)
    return pooled


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [7, 1, (3, 5)])
def test_values_and_gradients_are_torchvisions(size, ratio, aligned):
    features = [f.requires_grad_() for f in pyramid(torch.float64)]
    boxes, levels = random_boxes(60, seed=ratio, dtype=torch.float64)
    ours = pyramid_roi_align(features, boxes, levels, SCALES, size, ratio, aligned)
    theirs = by_torchvision(features, boxes, levels, size, ratio, aligned)
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    grad = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for mine, stock in zip(
        torch.autograd.grad(ours, features, grad),
        torch.autograd.grad(theirs, features, grad),
        strict=True,
    ):
        torch.testing.assert_close(mine, stock, rtol=0, atol=1e-11)


DEGENERATE = {
    "a point": [40, 40, 40, 40],
    "a line": [10, 40, 90, 40],
    "the other way round": [60, 50, 20, 10],
    "far outside": [-500, -400, -300, -200],
    "beyond the far corner": [900, 900, 950, 950],
    "larger than the image": [-300, -300, 900, 900],
    "at the border": [0, 0, WIDTH, HEIGHT],
    "a cell outside": [-4.0, -4.0, 0.0, 0.0],
    "thinner than a cell": [30, 30, 30.5, 90],
    "a sample on the far border": [WIDTH - 16, HEIGHT - 16, WIDTH + 40, HEIGHT + 40],
}


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("aligned", [True, False])
def test_degenerate_boxes_are_torchvisions(ratio, aligned):
    features = pyramid(torch.float64)
    boxes = torch.tensor([[0, *box] for box in DEGENERATE.values()], dtype=torch.float64)
    for level in range(len(SCALES)):
        levels = torch.full((len(boxes),), level)
        ours = pyramid_roi_align(features, boxes, levels, SCALES, 7, ratio, aligned)
        theirs = by_torchvision(features, boxes, levels, 7, ratio, aligned)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_by_hand():
    # a ramp in x: a bin's value is the mean of its samples' x in cells, which is its centre's x
    feature = torch.arange(16.0).expand(1, 1, 16, 16)
    box = torch.tensor([[0.0, 16.0, 16.0, 48.0, 48.0]])  # 4 to 12 in cells
    pooled = pyramid_roi_align([feature], box, torch.zeros(1, dtype=torch.int64), [0.25], 4, 0)
    # bins of two cells around 5, 7, 9 and 11, less half a cell
    assert pooled[0, 0].tolist() == [[4.5, 6.5, 8.5, 10.5]] * 4


# bfloat16 has 8 bits in the result and in each weight
@pytest.mark.parametrize("dtype, bound", [(torch.float32, 1e-4), (torch.bfloat16, 2**-7)])
def test_it_is_within_its_rounding(dtype, bound):
    boxes, levels = random_boxes(300, seed=5)
    rounded = [feature.to(dtype) for feature in pyramid(channels=16)]
    ours = pyramid_roi_align(rounded, boxes, levels, SCALES, 7)
    theirs = by_torchvision([f.float() for f in rounded], boxes, levels, 7, 0, True)
    assert ours.dtype == dtype
    assert (ours.float() - theirs).abs().max() <= bound * theirs.abs().max()


def test_the_gradient_is_that_of_finite_differences():
    features = [f[:1, :2, :4, :5].clone().requires_grad_() for f in pyramid(torch.float64)]
    boxes = torch.tensor([[0, 1.0, 2, 15, 13], [0, -3, 5, 9, 9], [0, 2, 2, 2, 2]]).double()
    levels = torch.tensor([0, 1, 0])

    def pool(*features):
        return pyramid_roi_align(features, boxes, levels, SCALES, 2)

    assert torch.autograd.gradcheck(pool, features)


def test_only_what_needs_a_gradient_gets_one():
    features = pyramid(torch.float64)
    features[1].requires_grad_()
    boxes, levels = random_boxes(20, seed=7, dtype=torch.float64)
    boxes.requires_grad_()
    pooled = pyramid_roi_align(features, boxes, levels, SCALES, 3)
    pooled.sum().backward()
    assert features[0].grad is None
    assert boxes.grad is None
    assert features[1].grad.abs().sum() > 0


@pytest.mark.parametrize("needs_grad", [True, False])
def test_no_boxes(needs_grad):
    features = [f.requires_grad_(needs_grad) for f in pyramid()]
    pooled = pyramid_roi_align(
        features, torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64), SCALES, (3, 5)
    )
    assert pooled.shape == (0, 3, 3, 5)
    if needs_grad:
        pooled.sum().backward()
        assert all(torch.equal(f.grad, torch.zeros_like(f)) for f in features)


def test_memory_layout_changes_nothing():
    boxes, levels = random_boxes(30, seed=8)
    last = [f.to(memory_format=torch.channels_last) for f in pyramid()]
    a = pyramid_roi_align(pyramid(), boxes, levels, SCALES, 7)
    b = pyramid_roi_align(last, boxes, levels, SCALES, 7)
    assert torch.equal(a, b)
    assert b.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("at_once", [1, 1000, 20_000])
def test_work_is_cut_into_pieces(monkeypatch, at_once):
    boxes, levels = random_boxes(50, seed=9, dtype=torch.float64)
    results = []
    for limit in (1 << 22, at_once):
        monkeypatch.setattr(pyramid_align, "_MAX_ENTRIES", limit)
        features = [f.requires_grad_() for f in pyramid(torch.float64)]
        pooled = pyramid_roi_align(features, boxes, levels, SCALES, 7)
        pooled.square().sum().backward()
        results.append([pooled, *(f.grad for f in features)])
    for whole, pieces in zip(*results, strict=True):
        torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-11)


def test_boxes_that_are_nowhere_give_zeros():
    boxes = torch.tensor([[0, 10.0, 10, 40, 40]]).repeat(5, 1)
    boxes[1, 3], boxes[2, 1] = float("nan"), float("inf")
    levels = torch.tensor([0, 0, 0, -1, 3])
    features = [f.requires_grad_() for f in pyramid()]
    pooled = pyramid_roi_align(features, boxes, levels, SCALES, 7)
    assert (pooled[0] != 0).all()
    assert (pooled[1:] == 0).all()
    pooled.sum().backward()
    assert all(f.grad.isfinite().all() for f in features)
