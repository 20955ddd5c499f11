"""The MLPs of Sec. 6, as convolutions that all levels share.

Shape shorthand: N images, d channels of a level of H x W cells, K places, k x k cells of an MLP's
window, M x M mask outputs, D hidden units of an MLP (512).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MaskProposalHead(nn.Module):
    """MLPs that predict a mask and a score: k x k convolution, ReLU, two sibling 1x1 convolutions.

    Examples:
        >>> head = MaskProposalHead(128, window_sizes=[5, 7])
        >>> hidden = head.hidden(torch.zeros(1, 128, 20, 30), mlp=0)
        >>> tuple(hidden.shape), tuple(head.scores(hidden, mlp=0).shape)
        ((1, 512, 20, 30), (1, 20, 30))
    """

    def __init__(
        self, channels: int, *, window_sizes: list[int], hidden_dim: int = 512, mask_size: int = 14
    ):
        """
        Args:
            channels: d, channels of a level.
            window_sizes: k of each MLP, odd, in cells.
            hidden_dim: D, hidden units of an MLP.
            mask_size: M, side of a mask in its cells.
        """
        super().__init__()
        self.mask_size = mask_size
        self.mlps = nn.ModuleList(
            nn.Conv2d(channels, hidden_dim, size, padding=size // 2) for size in window_sizes
        )
        self.mask_outputs = nn.ModuleList(nn.Linear(hidden_dim, mask_size**2) for _ in window_sizes)
        self.score_outputs = nn.ModuleList(nn.Linear(hidden_dim, 1) for _ in window_sizes)
        for convolution in self.mlps:
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            nn.init.zeros_(convolution.bias)
        for output in (*self.mask_outputs, *self.score_outputs):
            nn.init.normal_(output.weight, std=0.01)
            nn.init.zeros_(output.bias)

    def hidden(self, feature: Tensor, mlp: int) -> Tensor:
        """Compute an MLP's hidden units at every cell of a level: (N, d, H, W) to (N, D, H, W)."""
        return F.relu(self.mlps[mlp](feature))

    def hidden_at(self, feature: Tensor, mlp: int, cells: Tensor) -> Tensor:
        """Compute an MLP's hidden units at some cells only, by gathering their windows.

        Args:
            feature: (N, d, H, W), a level.
            mlp: the number of the MLP, from 0.
            cells: (K, 3) int64, image, row and column.

        Returns:
            (K, D) hidden units.
        """
        convolution = self.mlps[mlp]
        window_size = convolution.kernel_size[0]
        padded = F.pad(feature, [window_size // 2] * 4).permute(0, 2, 3, 1)
        offsets = torch.arange(window_size, device=feature.device)
        image, row, column = cells.unbind(dim=1)
        rows = (row[:, None] + offsets)[:, :, None]
        columns = (column[:, None] + offsets)[:, None, :]
        windows = padded[image[:, None, None], rows, columns]  # (K, k, k, d)
        weight = convolution.weight.permute(0, 2, 3, 1).flatten(1)
        return F.relu(F.linear(windows.flatten(1), weight, convolution.bias))

    def scores(self, hidden: Tensor, mlp: int) -> Tensor:
        """Compute the logits of the score at every cell: (N, D, H, W) to (N, H, W)."""
        output = self.score_outputs[mlp]
        return F.conv2d(hidden, output.weight[:, :, None, None], output.bias)[:, 0]

    def scores_at(self, hidden: Tensor, mlp: int) -> Tensor:
        """Compute the logits of the score: (K, D) to (K,)."""
        return self.score_outputs[mlp](hidden)[:, 0]

    def masks_at(self, hidden: Tensor, mlp: int) -> Tensor:
        """Compute the logits of the masks: (K, D) to (K, M, M)."""
        masks = self.mask_outputs[mlp](hidden)
        return masks.view(-1, self.mask_size, self.mask_size)
