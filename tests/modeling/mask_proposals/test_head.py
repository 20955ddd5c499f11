"""The MLPs compute the same at single cells as everywhere, and see only their window."""

import pytest
import torch
from torch import nn

from fpn_d2.modeling.mask_proposals import MaskProposalHead


@pytest.fixture
def head():
    torch.manual_seed(0)
    return MaskProposalHead(6, window_sizes=[5, 7], hidden_dim=16, mask_size=4).double()


@pytest.mark.parametrize("mlp", [0, 1])
def test_at_places_it_is_what_it_is_everywhere(head, mlp):
    level = torch.randn(2, 6, 9, 11, dtype=torch.float64)
    everywhere = head.hidden(level, mlp)
    cells = torch.tensor([[0, 0, 0], [1, 8, 10], [1, 4, 5], [0, 8, 0], [0, 4, 5]])
    at = head.hidden_at(level, mlp, cells)
    torch.testing.assert_close(at, torch.stack([everywhere[n, :, y, x] for n, y, x in cells]))
    scores = head.scores(everywhere, mlp)
    expected = torch.stack([scores[n, y, x] for n, y, x in cells])
    torch.testing.assert_close(head.scores_at(at, mlp), expected)
    assert head.masks_at(at, mlp).shape == (5, 4, 4)


@pytest.mark.parametrize("mlp, window_size", [(0, 5), (1, 7)])
def test_a_place_sees_its_window_and_no_more(head, mlp, window_size):
    level = torch.zeros(1, 6, 15, 15, dtype=torch.float64, requires_grad=True)
    nn.init.constant_(head.mlps[mlp].bias, 1.0)
    head.hidden(level, mlp)[0, :, 7, 7].sum().backward()
    seen = level.grad.abs().sum(dim=(0, 1)).nonzero()
    reach = window_size // 2
    assert seen.min(dim=0).values.tolist() == [7 - reach] * 2
    assert seen.max(dim=0).values.tolist() == [7 + reach] * 2
    assert len(seen) == window_size**2


def test_no_places():
    head = MaskProposalHead(6, window_sizes=[5], hidden_dim=16)
    hidden = head.hidden_at(torch.zeros(1, 6, 4, 4), 0, torch.zeros((0, 3), dtype=torch.int64))
    assert hidden.shape == (0, 16)
    assert head.masks_at(hidden, 0).shape == (0, 14, 14)


def test_the_papers_sizes():
    # 5x5 over 128 channels to 512, then 14 * 14 outputs and one score
    head = MaskProposalHead(128, window_sizes=[5])
    assert sum(p.numel() for p in head.parameters()) == sum(
        (128 * 25 * 512 + 512, 512 * 196 + 196, 512 + 1)
    )
