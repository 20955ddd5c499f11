"""Masks that stay as small as the network made them, until they are drawn or encoded.

Shape shorthand: R masks of M x M cells, each over a region of an image of H x W pixels. A window is
the part of the image whose pixels have their centres in a region, h x w pixels.

A pixel's value is interpolated bilinearly between the centres of the cells. Within half a cell of
the region's border it is the border cell's, and beyond the region there is nothing. Pixel (i, j)
covers [j, j + 1] x [i, i + 1], which is COCO's convention.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.structures import Boxes
from torch import Tensor

Window = tuple[int, int, np.ndarray]


class RegionMasks:
    """R masks as M x M probabilities and the regions that they cover; a field of ``Instances``.

    Examples:
        >>> masks = RegionMasks(torch.ones(1, 14, 14), torch.tensor([[2.0, 2, 6, 6]]), (8, 8), 0.5)
        >>> masks.areas().tolist(), masks[0:1].paste().sum().item()
        ([16], 16)
    """

    def __init__(
        self, masks: Tensor, regions: Tensor, image_size: tuple[int, int], threshold: float
    ):
        """
        Args:
            masks: (R, M, M) probabilities, 0 to 1.
            regions: (R, 4) x0 y0 x1 y1, in pixels of the image; a region may leave the image.
            image_size: (H, W) in pixels.
            threshold: the least probability at which a pixel belongs to the mask.

        Raises:
            ValueError: if a region is not finite.
        """
        assert masks.dim() == 3, masks.shape
        assert masks.shape[1] == masks.shape[2], masks.shape
        assert regions.shape == (len(masks), 4), (regions.shape, masks.shape)
        finite = regions.isfinite().all(dim=1)
        if not finite.all():
            first = int(finite.long().argmin())
            raise ValueError(
                f"region {first} of {len(regions)}, {regions[first].tolist()}, is not finite; "
                "check the network for NaN"
            )
        self.masks = masks
        self.regions = regions
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.threshold = threshold
        self._rles: list[dict[str, Any]] | None = None  # made when they are first needed

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, item: Any) -> "RegionMasks":
        """Select masks by an int, a slice or a tensor; an int selects R = 1."""
        if isinstance(item, (int, np.integer)):
            if not -len(self) <= item < len(self):
                raise IndexError(f"mask {item} of {len(self)}")
            item = slice(item, item + 1 or None)
        chosen = self._with(self.masks[item], self.regions[item])
        if self._rles is not None:
            numbers = torch.arange(len(self), device=self.device)[item].tolist()
            chosen._rles = [self._rles[number] for number in numbers]
        return chosen

    def __repr__(self) -> str:
        side = self.masks.shape[-1]
        return f"RegionMasks({len(self)} of {side} x {side}, image_size={self.image_size})"

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.masks.device

    def to(self, *args: Any, **kwargs: Any) -> "RegionMasks":
        """See :meth:`torch.Tensor.to`."""
        moved = self._with(self.masks.to(*args, **kwargs), self.regions.to(*args, **kwargs))
        if moved.masks.dtype == self.masks.dtype:
            moved._rles = self._rles
        return moved

    @staticmethod
    def cat(parts: list["RegionMasks"]) -> "RegionMasks":
        """Join masks that have the same image size, number of cells and threshold."""
        first = parts[0]
        assert all(part.image_size == first.image_size for part in parts)
        assert all(part.threshold == first.threshold for part in parts)
        return first._with(
            torch.cat([part.masks for part in parts]), torch.cat([part.regions for part in parts])
        )

    def scaled(self, height: int, width: int) -> "RegionMasks":
        """Return the masks on the image resized to ``height`` x ``width`` pixels."""
        ratio = [width / self.image_size[1], height / self.image_size[0]] * 2
        regions = self.regions * self.regions.new_tensor(ratio)
        return RegionMasks(self.masks, regions, (height, width), self.threshold)

    def paste(self) -> Tensor:
        """Return the masks as pixels, (R, H, W) bool on the CPU.

        For many masks :meth:`to_rle` needs less memory.
        """
        pasted = torch.zeros((len(self), *self.image_size), dtype=torch.bool)
        for mask, (top, left, window) in zip(pasted, self._windows(), strict=True):
            width, height = window.shape
            mask[top : top + height, left : left + width] = torch.from_numpy(window.T)
        return pasted

    def to_rle(self) -> list[dict[str, Any]]:
        """Encode the masks as COCO's compressed RLEs, which are kept for later calls.

        Besides the result, this needs the memory of one window.

        Returns:
            R of ``{"size": [H, W], "counts": bytes}``.
        """
        if self._rles is None:
            height, width = self.image_size
            self._rles = []
            for window in self._windows():
                # Compressed at once, since the runs of a thousand masks are tens of megabytes.
                runs = {"size": [height, width], "counts": _run_lengths(window, height, width)}
                self._rles += mask_util.frPyObjects([runs], height, width)
        return [dict(rle) for rle in self._rles]

    def tight_boxes(self) -> Boxes:
        """Return the boxes of the pasted masks, x0 y0 x1 y1 in pixels; zeros for an empty mask."""
        rles = self.to_rle()
        boxes = torch.from_numpy(mask_util.toBbox(rles) if rles else np.zeros((0, 4))).float()
        return Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1).to(self.device))

    def areas(self) -> Tensor:
        """Return the number of pixels of each mask, (R,) int64."""
        # One by one: pycocotools 2.0.11 refuses more than 255 together under NumPy 2.
        areas = [int(mask_util.area(rle)) for rle in self.to_rle()]
        return torch.tensor(areas, dtype=torch.int64, device=self.device)

    def _with(self, masks: Tensor, regions: Tensor) -> "RegionMasks":
        return RegionMasks(masks, regions, self.image_size, self.threshold)

    def _windows(self) -> Iterator[Window]:
        """Yield each mask's top and left pixel, and its window as (w, h) bool, column by column."""
        # Subtracting the threshold first keeps a plateau of exactly that value at exactly zero:
        # the weights of a pixel add up to one only up to rounding, but any multiple of zero is
        # exact.
        masks = self.masks.detach().float().cpu().numpy() - np.float32(self.threshold)
        regions = self.regions.detach().double().cpu().numpy()
        height, width = self.image_size
        for mask, (x0, y0, x1, y1) in zip(masks, regions, strict=True):
            top, rows = _interpolation(y0, y1, height, len(mask))
            left, columns = _interpolation(x0, x1, width, len(mask))
            yield top, left, (columns @ mask.T) @ rows.T >= 0


def _interpolation(low: float, high: float, size: int, cells: int) -> tuple[int, np.ndarray]:
    """Find the first pixel of a region along an axis, and (pixels, M) weights of its cells."""
    first, last = max(0, int(np.ceil(low - 0.5))), min(size, int(np.floor(high - 0.5)) + 1)
    if last <= first or high <= low:
        return 0, np.zeros((0, cells), dtype=np.float32)
    centers = np.arange(first, last) + 0.5
    position = np.clip((centers - low) / (high - low) * cells - 0.5, 0, cells - 1)
    cell = np.minimum(position.astype(np.int64), max(cells - 2, 0))
    share = (position - cell).astype(np.float32)
    weights = np.zeros((len(centers), cells), dtype=np.float32)
    index = np.arange(len(centers))
    weights[index, cell] = 1 - share
    weights[index, np.minimum(cell + 1, cells - 1)] += share
    return first, weights


def _run_lengths(window: Window, height: int, width: int) -> np.ndarray:
    """Return the lengths of runs of zeros and ones, column by column over the whole image."""
    top, left, mask = window
    # Each column is followed by a zero, so that no run crosses into the next column.
    columns = np.zeros((mask.shape[0], mask.shape[1] + 1), dtype=bool)
    columns[:, :-1] = mask
    pixels = columns.ravel()
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    if pixels.size and pixels[0]:
        changes = np.concatenate([[0], changes])
    column, row = np.divmod(changes, columns.shape[1])
    changes = (column + left) * height + row + top  # of the whole image
    starts, ends = changes[::2], changes[1::2]
    # A run that reaches the bottom of a column may continue at the top of the next.
    joined = starts[1:] == ends[:-1]
    if len(starts):
        starts = starts[np.concatenate([[True], ~joined])]
        ends = ends[np.concatenate([~joined, [True]])]
    borders = np.concatenate([[0], np.stack([starts, ends], axis=1).ravel(), [height * width]])
    runs = np.diff(borders)
    return runs[:-1] if len(starts) and not runs[-1] else runs  # pycocotools drops a last 0
