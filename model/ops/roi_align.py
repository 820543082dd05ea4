"""RoI align (He et al. 2017, Mask R-CNN, §3).

Letters: N images, C channels, (H, W) a map, R RoIs, P output bins a side, G samples a side of each bin.
"""

import math

import numpy as np
import torch
from torch import Tensor

from model.ops import kernel
from model.ops.kernel import CHANNELS, MAX_BINS, THREADS
from model.ops.roi_pool import box_dtype, check_range, check_rois, torchvision_rois

CHUNK = 2**24  # numbers that the backward pass holds beside its result on a CPU
# Cells up to which a CPU's products over whole rows and columns beat torchvision's loops over samples, of which the
# backward one, on a single core, is the slower.
SMALL_MAP, SMALL_MAP_BACKWARD = 1024, 32768


def roi_align(x, rois, roi_indices, output_size, spatial_scale, sampling_ratio=2, aligned=True):
    """Divide each RoI into a grid of bins and average bilinear samples in each, without rounding.

    Args:
        x: (N, C, H, W) float feature maps.
        rois: (R, 4) float boxes (y_min, x_min, y_max, x_max) in pixels of the prepared image; R ≥ 0.
        roi_indices: (R,) which of the N images each RoI lies in.
        output_size: bins a side, P; at most 32 on a GPU.
        spatial_scale: cells of the map a pixel, 1 / stride.
        sampling_ratio: samples a side of each bin, G; 0 or less takes ⌈side of the bin⌉.
        aligned: shift by half a cell, so that a cell's value is at its centre (Detectron2's correction).

    Returns:
        (R, C, P, P) of the dtype of `x`. Its gradient is the same in every run, on a GPU too.

    Raises:
        ValueError: shapes that do not fit each other; on a CPU also an index of no image.
    """
    check_rois(x, rois, roi_indices)
    return _roi_align(
        x, rois.to(box_dtype(x)), roi_indices.long(), output_size, float(spatial_scale), sampling_ratio, aligned
    )


def _takes(x, output_size):
    return kernel.takes(x) and output_size <= MAX_BINS


@torch.library.custom_op("faster_rcnn::roi_align", mutates_args=())
def _roi_align(
    x: Tensor,
    rois: Tensor,
    roi_indices: Tensor,
    output_size: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    check_range(roi_indices, len(x))
    (_, c, h, w), r, p = x.shape, len(rois), output_size
    if _takes(x, p):
        out = x.new_empty(r, c, p, p)
        values = (x, *map(np.int64, x.stride()), rois.contiguous(), roi_indices.contiguous(), spatial_scale)
        values += (int(aligned), sampling_ratio, c, h, w, p, out)
        grid = (r, math.ceil(c / CHANNELS), 1)
        kernel.launch("roi_align", "roi_align_forward", grid, THREADS, values, x.device, x.dtype)
        return out
    dtype = box_dtype(x)
    if _separable(x, sampling_ratio) and h * w <= SMALL_MAP:
        y_weights, x_weights = _separable_weights(rois, spatial_scale, sampling_ratio, aligned, p, (h, w), dtype)
        return _separable_forward(x.to(dtype), y_weights, x_weights, roi_indices).to(x.dtype)
    boxes = torchvision_rois(rois, roi_indices, dtype)
    out = torch.ops.torchvision.roi_align(x.to(dtype), boxes, spatial_scale, p, p, sampling_ratio, aligned)
    return out.to(x.dtype)


@_roi_align.register_fake
def _(x, rois, roi_indices, output_size, spatial_scale, sampling_ratio, aligned):
    return x.new_empty(rois.shape[0], x.shape[1], output_size, output_size)


@torch.library.custom_op("faster_rcnn::roi_align_backward", mutates_args=())
def _roi_align_backward(
    grad: Tensor,
    rois: Tensor,
    roi_indices: Tensor,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    shape: list[int],
) -> Tensor:
    (n, c, h, w), p = shape, grad.shape[2]
    if _takes(grad, p):
        grad_x = grad.new_empty(n, h, w, c).permute(0, 3, 1, 2)
        values = (grad.permute(0, 2, 3, 1).contiguous(), rois.contiguous(), roi_indices.contiguous(), spatial_scale)
        values += (int(aligned), sampling_ratio, len(rois), c, h, w, p, grad_x)
        grid = (w, h, n * math.ceil(c / THREADS))
        kernel.launch("roi_align", "roi_align_backward", grid, THREADS, values, grad.device, grad.dtype)
        return grad_x
    dtype = box_dtype(grad)
    if _separable(grad, sampling_ratio) and h * w <= SMALL_MAP_BACKWARD:
        y_weights, x_weights = _separable_weights(rois, spatial_scale, sampling_ratio, aligned, p, (h, w), dtype)
        return _separable_backward(grad.to(dtype), y_weights, x_weights, roi_indices, n).to(grad.dtype)
    boxes = torchvision_rois(rois, roi_indices, dtype)
    grad_x = torch.ops.torchvision._roi_align_backward(
        grad.to(dtype), boxes, spatial_scale, p, p, n, c, h, w, sampling_ratio, aligned
    )
    last = grad.new_empty(n, h, w, c)  # the layout that the other ways leave
    return last.copy_(grad_x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@_roi_align_backward.register_fake
def _(grad, rois, roi_indices, spatial_scale, sampling_ratio, aligned, shape):
    n, c, h, w = shape
    return grad.new_empty(n, h, w, c).permute(0, 3, 1, 2)


def _separable(x, sampling_ratio):
    """Whether `x` may go through the products: 0 · ∞ would spread one value that is not finite over every RoI."""
    return x.device.type == "cpu" and sampling_ratio > 0 and x.shape[1] > 0 and bool(x.isfinite().all())


# On a CPU. A bilinear sample's weight is a weight in y times a weight in x, and the samples of a bin are a grid: so is
# their mean. Two matrix products a RoI give the same numbers as torchvision's loops over samples, of which the backward
# one, on a single core, takes several times as long (`misc/bench_ops.py`).


def _separable_weights(rois, spatial_scale, sampling_ratio, aligned, output_size, map_size, dtype):
    """(R, P, H) and (R, P, W): how much of each row and column of cells is in each row and column of bins."""
    edges = rois.to(dtype) * spatial_scale - (0.5 if aligned else 0.0)  # (R, 4) in cells
    return (
        _axis_weights(edges[:, i], edges[:, i + 2], output_size, sampling_ratio, map_size[i], aligned) for i in (0, 1)
    )


@torch.autocast("cpu", enabled=False)
def _separable_forward(x, y_weights, x_weights, roi_indices):
    (n, c, h, w), (r, p, _) = x.shape, y_weights.shape
    out = x.new_empty(r, p, p, c)
    for i in range(n):
        own = torch.where(roi_indices == i)[0]
        cells = x[i].permute(1, 2, 0).reshape(h, w * c)
        rows = (y_weights[own].flatten(0, 1) @ cells).view(-1, p, w, c)  # (R', P, W, C)
        out[own] = x_weights[own, None] @ rows  # (R', 1, P, W) @ (R', P, W, C)
    return out.permute(0, 3, 1, 2).contiguous()


@torch.autocast("cpu", enabled=False)
def _separable_backward(grad, y_weights, x_weights, roi_indices, n):
    h, w, c = y_weights.shape[2], x_weights.shape[2], grad.shape[1]
    grad_x = grad.new_empty(n, h, w, c)
    step = max(1, CHUNK // (y_weights.shape[1] * w * c))
    for i in range(n):
        total = grad.new_zeros(h, w * c)
        for own in torch.where(roi_indices == i)[0].split(step):
            bins = grad[own].permute(0, 2, 3, 1)  # (R', P, P, C)
            rows = x_weights[own, None].mT @ bins  # (R', 1, W, P) @ (R', P, P, C) → (R', P, W, C)
            total.addmm_(y_weights[own].flatten(0, 1).T, rows.flatten(0, 1).flatten(1))
        grad_x[i] = total.view(h, w, c)
    return grad_x.permute(0, 3, 1, 2)


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


def _setup_context(ctx, inputs, output):
    x, rois, roi_indices, _, *ctx.numbers = inputs
    ctx.shape = x.shape
    ctx.save_for_backward(rois, roi_indices)


def _backward(ctx, grad):
    return _roi_align_backward(grad, *ctx.saved_tensors, *ctx.numbers, ctx.shape), *[None] * 6


_roi_align.register_autograd(_backward, setup_context=_setup_context)
