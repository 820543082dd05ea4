"""The cells of a feature map, and anchors: the reference boxes at each cell (Ren et al. 2015, §3.1.1).

Letters: A anchors a cell, K = H·W cells of a feature map.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch


class Window(NamedTuple):
    """What a strided layer (a convolution or a pooling) sees of its input for one cell of its output."""

    kernel: int
    stride: int
    padding: int = 0
    ceil: bool = False  # a last window may reach over the padded input's end, as in caffe's pooling

    def n_cells(self, n):
        """Cells of the output, for `n` of the input."""
        rounded = math.ceil if self.ceil else math.floor
        out = rounded((n + 2 * self.padding - self.kernel) / self.stride) + 1
        begins_outside = self.ceil and (out - 1) * self.stride >= n + self.padding
        return max(out - begins_outside, 0)


POOL, PADDED = Window(2, 2), Window(3, 2, 1)  # VGG's poolings; the strided convolutions of ResNets and MobileNets


@dataclass(frozen=True)
class Cells:
    """How the cells of a feature map lie on the image.

    Args:
        windows: of the layers before the map, first to last; those without a stride that keep the size may be left out.
    """

    windows: tuple

    @property
    def stride(self):
        """Pixels between two cells."""
        return math.prod(window.stride for window in self.windows)

    @property
    def center(self):
        """Pixels from the image's edges to the middle of what the first cell sees, which is where its anchors stand.

        Poolings of two leave it in the middle of the cell's own square of pixels; padded convolutions of stride 2 keep
        it at half a pixel, in the image's corner.
        """
        at, jump = 0.5, 1
        for window in self.windows:
            at += ((window.kernel - 1) / 2 - window.padding) * jump
            jump *= window.stride
        return at

    def map_size(self, img_size):
        """(H, W) in cells, for an image of `img_size` (H, W) pixels."""
        height, width = img_size
        for window in self.windows:
            height, width = window.n_cells(height), window.n_cells(width)
        return height, width


VGG_CELLS = Cells((POOL,) * 4)


def generate_anchor_base(base_size=16, ratios=(0.5, 1, 2), anchor_scales=(8, 16, 32), center=None):
    """The anchors of the cell at the origin.

    Args:
        base_size: pixels of a cell's side: scale 1 is its area.
        ratios: height / width.
        anchor_scales: √area in units of `base_size`.
        center: pixels from the image's edges to the anchors' centre; None takes the middle of the cell.

    Returns:
        (A, 4) float32 boxes (y_min, x_min, y_max, x_max), not rounded; anchor index = ratio · len(scales) + scale.
    """
    ratio = np.repeat(np.asarray(ratios, np.float64), len(anchor_scales))  # (A,)
    side = base_size * np.tile(np.asarray(anchor_scales, np.float64), len(ratios))
    height, width = side * np.sqrt(ratio), side / np.sqrt(ratio)
    corners = np.stack([-height, -width, height, width], axis=1) / 2  # (A, 4)
    center = base_size / 2 if center is None else center
    return torch.from_numpy((corners + center).astype(np.float32))


def enumerate_shifted_anchor(anchor_base, feat_stride, height, width):
    """The anchors of all cells of a (height, width) map whose cells are `feat_stride` pixels apart.

    Returns:
        (K·A, 4) float32 boxes on the device of `anchor_base`: cells row by row, the A anchors of a cell together.
    """
    device = anchor_base.device
    y = torch.arange(height, device=device, dtype=torch.float32) * feat_stride
    x = torch.arange(width, device=device, dtype=torch.float32) * feat_stride
    y, x = torch.meshgrid(y, x, indexing="ij")  # (height, width)
    shift = torch.stack([y, x, y, x], dim=-1).reshape(-1, 1, 4)  # (K, 1, 4)
    return (shift + anchor_base).reshape(-1, 4)


def crop_cells(x, map_size, own_size):
    """Rows of `x` that belong to the cells which an image has of its own within a padded batch.

    Args:
        x: (K·A, ...) one row an anchor, for the map of the padded batch.
        map_size: (height, width) of that map in cells.
        own_size: (height, width) of the map that the image alone would have.

    Returns:
        (K'·A, ...) the rows of the top left `own_size` cells; `x` itself where nothing was padded.
    """
    if tuple(map_size) == tuple(own_size):
        return x
    (height, width), (own_height, own_width) = map_size, own_size
    cells = x.reshape(height, width, -1, *x.shape[1:])[:own_height, :own_width]
    return cells.reshape(-1, *x.shape[1:])
