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
        multiple: images are padded with zeros, at the bottom and right, until their sides are multiples of it.
    """

    windows: tuple
    multiple: int = 1

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

    def padded_size(self, img_size):
        """(H, W) in pixels of an image of `img_size` (H, W), with its padding."""
        return tuple(math.ceil(side / self.multiple) * self.multiple for side in img_size)

    def map_size(self, img_size):
        """(H, W) in cells, for an image of `img_size` (H, W) pixels."""
        height, width = self.padded_size(img_size)
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
    ratio, scale = _each_with_each(ratios, anchor_scales)  # (A,)
    side = base_size * scale
    center = base_size / 2 if center is None else center
    return _centred(side * np.sqrt(ratio), side / np.sqrt(ratio), center)


def caffe_anchor_base(base_size=16, ratios=(0.5, 1, 2), anchor_scales=(8, 16, 32), center=None):
    """py-faster-rcnn's anchors: of the box (0, 0, base_size − 1, base_size − 1), with whole sides at scale 1.

    Arguments and result as of `generate_anchor_base`, but corners are the indices of the first and last pixel, and
    stand around the middle of the cell whatever `center` is.
    """
    ratio, scale = _each_with_each(ratios, anchor_scales)
    width = np.round(np.sqrt(base_size**2 / ratio))
    height = np.round(width * ratio)
    return _centred(height * scale - 1, width * scale - 1, (base_size - 1) / 2)


def torchvision_anchor_base(base_size=16, ratios=(0.5, 1, 2), anchor_scales=(8, 16, 32), center=None):
    """torchvision's anchors: around the image's corner, whatever `center` is, with whole corners."""
    return generate_anchor_base(base_size, ratios, anchor_scales, 0).round()


def _each_with_each(ratios, anchor_scales):
    ratios, anchor_scales = np.asarray(ratios, np.float64), np.asarray(anchor_scales, np.float64)
    return np.repeat(ratios, len(anchor_scales)), np.tile(anchor_scales, len(ratios))


def _centred(height, width, center):
    corners = np.stack([-height, -width, height, width], axis=1) / 2  # (A, 4)
    return torch.from_numpy((corners + center).astype(np.float32))


def enumerate_shifted_anchor(anchor_base, feat_stride, height, width):
    """The anchors of all cells of a (height, width) map whose cells are `feat_stride` pixels apart.

    Args:
        anchor_base: (A, 4) anchors of the first cell.
        feat_stride: a number, or one down and one to the right.

    Returns:
        (K·A, 4) float32 boxes on the device of `anchor_base`: cells row by row, the A anchors of a cell together.
    """
    device = anchor_base.device
    down, right = feat_stride if isinstance(feat_stride, tuple) else (feat_stride, feat_stride)
    y = torch.arange(height, device=device, dtype=torch.float32) * down
    x = torch.arange(width, device=device, dtype=torch.float32) * right
    y, x = torch.meshgrid(y, x, indexing="ij")  # (height, width)
    shift = torch.stack([y, x, y, x], dim=-1).reshape(-1, 1, 4)  # (K, 1, 4)
    return (shift + anchor_base).reshape(-1, 4)


def best_anchor_iou(bbox, anchor_base, feat_stride, map_size, img_size, border=0.0):
    """The IoU of each box with the anchor that covers it best, without a look at all of them.

    Of the anchors of one shape that one overlaps a box most whose centre is nearest, down and to the right apart.

    Args:
        bbox: (R, 4) boxes; here and in the next, edges.
        anchor_base: (A, 4) anchors of the first cell.
        feat_stride, map_size: (R, 2) pixels between the cells, and cells, of the map of each box's image.
        img_size: (R, 2) pixels, (H, W).
        border: pixels by which an anchor may reach over the image's edge.

    Returns:
        (R,) 0..1; 0 where no anchor fits in the image.
    """
    bbox, base = bbox.double()[:, None], anchor_base.double()[None]  # (R, 1, 4), (1, A, 4)
    stride, n_cell, size = (own.double()[:, None] for own in (feat_stride, map_size, img_size))  # (R, 1, 2)
    first = torch.ceil((-border - base[..., :2]) / stride).clamp(min=0)  # (R, A, 2) cells
    last = torch.minimum(torch.floor((size + border - base[..., 2:]) / stride), n_cell - 1)
    nearest = torch.round((bbox[..., :2] + bbox[..., 2:] - base[..., :2] - base[..., 2:]) / 2 / stride)
    shift = torch.minimum(torch.maximum(nearest, first), last) * stride
    top_left, bottom_right = base[..., :2] + shift, base[..., 2:] + shift
    inter = (torch.minimum(bottom_right, bbox[..., 2:]) - torch.maximum(top_left, bbox[..., :2])).clamp(min=0).prod(-1)
    areas = (base[..., 2:] - base[..., :2]).prod(-1) + (bbox[..., 2:] - bbox[..., :2]).prod(-1)
    iou = inter / (areas - inter)
    return (iou * (first <= last).all(dim=-1)).amax(dim=1)


def crop_cells(x, map_sizes, own_sizes):
    """Rows of `x` that belong to the cells which an image has of its own within a padded batch.

    Args:
        x: (K·A, ...) one row an anchor, for the maps of the padded batch, one map after the other.
        map_sizes: (height, width) of each map in cells.
        own_sizes: (height, width) of each map that the image alone would have.

    Returns:
        (K'·A, ...) the rows of the top left `own_sizes` cells; `x` itself where nothing was padded.
    """
    if list(map(tuple, map_sizes)) == list(map(tuple, own_sizes)):
        return x
    n_anchor = len(x) // sum(height * width for height, width in map_sizes)
    maps = x.split([height * width * n_anchor for height, width in map_sizes])
    return torch.cat([
        cells.reshape(*map_size, n_anchor, *x.shape[1:])[:height, :width].flatten(0, 2)
        for cells, map_size, (height, width) in zip(maps, map_sizes, own_sizes, strict=True)
    ])  # fmt: skip
