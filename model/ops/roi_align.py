"""RoI align (He et al. 2017, Mask R-CNN, §3).

Letters: N images, C channels, (H, W) a map, R RoIs, P output bins a side, G samples a side of each bin.
"""

import torch
from torchvision.ops import roi_align as _torchvision_roi_align

from model.ops.roi_pool import torchvision_rois


def roi_align(x, rois, roi_indices, output_size, spatial_scale, sampling_ratio=2, aligned=True):
    """Divide each RoI into a grid of bins and average bilinear samples in each, without rounding.

    Args:
        x: (N, C, H, W) float feature maps.
        rois: (R, 4) float boxes (y_min, x_min, y_max, x_max) in pixels of the prepared image; R ≥ 0.
        roi_indices: (R,) which of the N images each RoI lies in.
        output_size: bins a side, P.
        spatial_scale: cells of the map a pixel, 1 / stride.
        sampling_ratio: samples a side of each bin, G; 0 or less takes ⌈side of the bin⌉.
        aligned: shift by half a cell, so that a cell's value is at its centre (Detectron2's correction).

    Returns:
        (R, C, P, P) of the dtype of `x`.
    """
    if x.device.type == "cpu" and x.requires_grad and sampling_ratio > 0:
        return _separable_roi_align(x, rois, roi_indices, output_size, spatial_scale, sampling_ratio, aligned)
    rois = torchvision_rois(rois, roi_indices, x.dtype)
    return _torchvision_roi_align(x, rois, output_size, spatial_scale, sampling_ratio, aligned)


def _separable_roi_align(x, rois, roi_indices, output_size, spatial_scale, sampling_ratio, aligned):
    """The same numbers as two matrix products a RoI, which a CPU does fast in both directions.

    A bilinear sample's weight is a weight in y times a weight in x, and the samples of a bin are a grid: so is their
    mean. torchvision's backward scatters sample by sample on one core: forward and backward take two to eight times as
    long there (`misc/bench_ops.py`).
    """
    edges = rois.to(x.dtype) * spatial_scale - (0.5 if aligned else 0.0)  # (R, 4) in cells
    y, x_ = (_axis_weights(edges[:, i], edges[:, i + 2], output_size, sampling_ratio, x.shape[2 + i], aligned)
             for i in (0, 1))  # fmt: skip
    out = x.new_zeros(len(rois), output_size, output_size, x.shape[1])
    for i, own_map in enumerate(x.permute(0, 2, 3, 1)):  # (H, W, C): products of whole channel vectors
        own = torch.where(roi_indices == i)[0]
        rows = torch.einsum("rph,hwc->rpwc", y[own], own_map)
        out = out.index_copy(0, own, x_[own, None] @ rows)  # (R', 1, P, W) @ (R', P, W, C)
    return out.permute(0, 3, 1, 2)


def _axis_weights(low, high, output_size, sampling_ratio, n_cells, aligned):
    """(R, P, H or W): how much of each cell along one axis is in each bin of the RoIs [low, high], in cells."""
    size = high - low
    if not aligned:
        size = size.clamp(min=1.0)
    n_samples = output_size * sampling_ratio
    step = (torch.arange(n_samples, dtype=low.dtype) + 0.5) / n_samples  # (P·G,)
    at = low[:, None] + size[:, None] * step  # (R, P·G)
    inside = (at >= -1) & (at <= n_cells)
    at = at.clamp(0, n_cells - 1)
    cells = torch.arange(n_cells, dtype=low.dtype)
    weight = (1 - (at[..., None] - cells).abs()).clamp(min=0) * inside[..., None]  # (R, P·G, H or W)
    return weight.view(len(low), output_size, sampling_ratio, n_cells).mean(dim=2)
