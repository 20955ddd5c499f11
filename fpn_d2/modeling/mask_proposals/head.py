"""The MLPs of Sec. 6, as convolutions that all levels share.

Shape shorthand: N images, d channels of a level of H x W cells, K places, M x M mask outputs, D the
MLP's hidden units (512).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["MaskProposalHead"]


class MaskProposalHead(nn.Module):
    """For each window a k x k convolution, ReLU, and sibling 1x1 convolutions: a mask and a score.

    Examples:
        >>> head = MaskProposalHead(128, windows=[5, 7])
        >>> hidden = head.hidden(torch.zeros(1, 128, 20, 30), 0)
        >>> tuple(hidden.shape), tuple(head.scores(hidden, 0).shape)
        ((1, 512, 20, 30), (1, 20, 30))
    """

    def __init__(
        self, channels: int, *, windows: list[int], hidden_dim: int = 512, mask_size: int = 14
    ):
        """
        Args:
            channels: d.
            windows: the sides k of the MLPs' inputs, odd, in cells.
            hidden_dim: D.
            mask_size: M.
        """
        super().__init__()
        self.mask_size = mask_size
        self.mlps = nn.ModuleList(
            nn.Conv2d(channels, hidden_dim, window, padding=window // 2) for window in windows
        )
        self.mask_outputs = nn.ModuleList(nn.Linear(hidden_dim, mask_size**2) for _ in windows)
        self.score_outputs = nn.ModuleList(nn.Linear(hidden_dim, 1) for _ in windows)
        for mlp in self.mlps:
            nn.init.kaiming_normal_(mlp.weight, nonlinearity="relu")
            nn.init.zeros_(mlp.bias)
        for output in (*self.mask_outputs, *self.score_outputs):
            nn.init.normal_(output.weight, std=0.01)
            nn.init.zeros_(output.bias)

    def hidden(self, level: Tensor, window: int) -> Tensor:
        """An MLP's hidden units everywhere.

        Args:
            level: (N, d, H, W).
            window: index of the MLP.

        Returns:
            (N, D, H, W).
        """
        return F.relu(self.mlps[window](level))

    def hidden_at(self, level: Tensor, window: int, index: Tensor) -> Tensor:
        """The same at some places only, whose windows are gathered.

        Args:
            level: (N, d, H, W).
            window: index of the MLP.
            index: (K, 3) int64, image, row and column.

        Returns:
            (K, D).
        """
        mlp = self.mlps[window]
        side = mlp.kernel_size[0]
        padded = F.pad(level, [side // 2] * 4).permute(0, 2, 3, 1)
        steps = torch.arange(side, device=level.device)
        image, row, column = index.unbind(dim=1)
        rows = (row[:, None] + steps)[:, :, None]
        columns = (column[:, None] + steps)[:, None, :]
        patches = padded[image[:, None, None], rows, columns]  # (K, k, k, d)
        weight = mlp.weight.permute(0, 2, 3, 1).flatten(1)
        return F.relu(F.linear(patches.flatten(1), weight, mlp.bias))

    def scores(self, hidden: Tensor, window: int) -> Tensor:
        """Logits of the score everywhere: (N, D, H, W) to (N, H, W)."""
        output = self.score_outputs[window]
        return F.conv2d(hidden, output.weight[:, :, None, None], output.bias)[:, 0]

    def scores_at(self, hidden: Tensor, window: int) -> Tensor:
        """Logits of the score: (K, D) to (K,)."""
        return self.score_outputs[window](hidden)[:, 0]

    def masks_at(self, hidden: Tensor, window: int) -> Tensor:
        """Logits of the masks: (K, D) to (K, M, M)."""
        masks = self.mask_outputs[window](hidden)
        return masks.view(-1, self.mask_size, self.mask_size)
