"""The second head: from the features in a RoI to a class and a box (Girshick 2015, Fast R-CNN, §2).

Letters: N images, C channels, (H, W) a feature map, R RoIs, L foreground classes.
"""

import math
from functools import partial

import torch
from torch import nn

from model.ops.roi_align import roi_align
from model.ops.roi_corner_align import roi_corner_align
from model.ops.roi_crop import roi_crop
from model.ops.roi_pool import roi_pool
from model.utils.anchor_tool import VGG_CELLS
from model.utils.batch_tool import as_levels
from utils.precision_tool import in_full_precision

ROI_OPS = {"pool": roi_pool, "align": roi_align, "crop": roi_crop}
OFF_THE_MAP = -1e6  # all four corners of a RoI that meets no cell


class FullyConnected(nn.Sequential):
    """Layers on each RoI's features as one row of numbers."""

    def forward(self, x):
        return super().forward(x.flatten(1))


def fc_layers(in_features, *widths, use_drop=False, std=None):
    """Fully connected layers with ReLU, and dropout after each if asked: VGG16's fc6 and fc7, of any widths.

    Args:
        widths: of the layers; one number is for two layers of it.
        std: deviation of the initial weights; None for torch's own initial weights.
    """
    layers = []
    for width in widths if len(widths) > 1 else widths * 2:
        linear = nn.Linear(in_features, width)
        if std is not None:
            nn.init.normal_(linear.weight, 0, std)
            nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU(inplace=True)]
        if use_drop:
            layers.append(nn.Dropout())
        in_features = width
    return FullyConnected(*layers)


class RoIHead(nn.Module):
    """Pools each RoI, runs `classifier` on it, and gives it a score and a box for each class.

    Of several feature maps, the levels of a pyramid, each RoI takes its features from the one that suits its size.

    Args:
        classifier: module from (R, C, roi_size, roi_size) to (R, width).
        width: features that `classifier` returns.
        n_class: classes with background, L + 1.
        roi_size: bins a side.
        cells: `Cells` of the feature map, or a tuple of those of each level.
        roi: a name of ROI_OPS.
        class_agnostic: give a RoI one box for all classes.
        aligned, corner_align: see `Convention`.
    """

    def __init__(
        self,
        classifier,
        width,
        n_class,
        roi_size=7,
        cells=VGG_CELLS,
        roi="pool",
        class_agnostic=False,
        aligned=True,
        corner_align=False,
    ):
        super().__init__()
        self.n_class = n_class
        self.roi_size = roi_size
        self.levels = as_levels(cells)
        if roi not in ROI_OPS:
            raise ValueError(f"roi {roi!r}: must be one of {', '.join(ROI_OPS)}")
        self.roi = roi
        self.aligned, self.corner_align = aligned, corner_align
        self.classifier = classifier
        self.class_agnostic = class_agnostic
        self.n_box = 1 if class_agnostic else n_class  # boxes that a RoI is given
        self.cls_loc = nn.Linear(width, self.n_box * 4)
        self.score = nn.Linear(width, n_class)
        nn.init.normal_(self.cls_loc.weight, 0, 0.001)
        nn.init.normal_(self.score.weight, 0, 0.01)
        nn.init.zeros_(self.cls_loc.bias)
        nn.init.zeros_(self.score.bias)

    def forward(self, x, rois, roi_indices):
        """
        Args:
            x: feature maps, (N, C, H, W) of each level, of which those beyond `cells` are left; a tensor for one level.
            rois: (R, 4) boxes (y_min, x_min, y_max, x_max) in pixels of the prepared image; R ≥ 0.
            roi_indices: (R,) the image of each.

        Returns:
            roi_cls_locs (R, (L + 1)·4), or (R, 4) if class-agnostic, and roi_scores (R, L + 1); class 0 is background.
        """
        pooled = self.pool(as_levels(x), rois, roi_indices)  # (R, C, size, size)
        return in_full_precision(self.classifier(pooled), self.cls_loc, self.score)

    def pool(self, x, rois, roi_indices, at_once=None):
        """Each RoI's features, from the map of its level: (R, C, roi_size, roi_size).

        `at_once` says whether each level takes all RoIs, those of others off the map, where there is nothing but 0 and
        little to do. That is a GPU's way (None), whose host would have to wait for how many RoIs a level has.
        """
        if len(self.levels) == 1:
            return self._pool_level(0, x[0], rois, roi_indices)
        maps = x[: len(self.levels)]
        level = roi_level(rois, [cells.stride for cells in self.levels])
        if at_once is None:
            at_once = rois.device.type == "cuda"
        if at_once:
            own = (torch.where((level == k)[:, None], rois, OFF_THE_MAP) for k in range(len(maps)))
            return sum(self._pool_level(k, maps[k], own_rois, roi_indices) for k, own_rois in enumerate(own))
        own = [torch.where(level == k)[0] for k in range(len(maps))]
        parts = [self._pool_level(k, x_k, rois[own[k]], roi_indices[own[k]]) for k, x_k in enumerate(maps)]
        return torch.cat(parts)[torch.cat(own).argsort()]

    def _pool_level(self, k, x, rois, roi_indices):
        cells, op = self.levels[k], ROI_OPS[self.roi]
        if self.aligned:  # the operators take it that a cell sees around the middle of its own square of pixels
            rois = rois + (cells.stride / 2 - cells.center)
        elif op is roi_align and self.corner_align:
            op = roi_corner_align
        elif op is not roi_pool:
            op = partial(op, aligned=False)
        return op(x, rois, roi_indices, self.roi_size, 1 / cells.stride)


def roi_level(rois, strides):
    """Which level of a pyramid each RoI takes its features from (Lin et al. 2017, equation 1).

    A RoI of the size of ImageNet's pictures, 224, goes to stride 16; one of half the side to half the stride.

    Args:
        rois: (R, 4) boxes in pixels of the prepared image.
        strides: of the levels, powers of two, falling fineness.

    Returns:
        (R,) int64, 0..len(strides) − 1.
    """
    first, last = (round(math.log2(strides[i])) for i in (0, -1))
    area = (rois[:, 2:] - rois[:, :2]).clamp(min=0).prod(dim=1)
    level = (4 + (area.sqrt() / 224).log2() + 1e-6).floor()  # the summand: 224 itself must not fall below its level
    return (level.clamp(first, last) - first).long()
