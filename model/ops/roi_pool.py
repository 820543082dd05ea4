"""RoI pooling (Girshick 2015, Fast R-CNN, §2.1).

Letters: N images, C channels, (H, W) a map, R RoIs, P output bins a side.
"""

import math

import numpy as np
import torch
from torch import Tensor

from model.ops import kernel
from model.ops.kernel import CHANNELS, THREADS
from utils.bbox_tools import yx2xy


def roi_pool(x, rois, roi_indices, output_size, spatial_scale):
    """Divide each RoI into a grid of bins and take the maximum in each; 0 in a bin that has no cell.

    Args:
        x: (N, C, H, W) float feature maps.
        rois: (R, 4) float boxes (y_min, x_min, y_max, x_max) in pixels of the prepared image; R ≥ 0.
        roi_indices: (R,) which of the N images each RoI lies in.
        output_size: bins a side, P.
        spatial_scale: cells of the map a pixel.

    Returns:
        (R, C, P, P) of the dtype of `x`. Its gradient is the same in every run, on a GPU too.

    Raises:
        ValueError: shapes that do not fit each other; on a CPU also an index of no image.
    """
    check_rois(x, rois, roi_indices)
    return _roi_pool(x, rois.to(box_dtype(x)), roi_indices.long(), output_size, float(spatial_scale))[0]


def check_rois(x, rois, roi_indices):
    """Refuse shapes for which a kernel would read beyond its tensors."""
    if x.ndim != 4 or rois.ndim != 2 or rois.shape[1] != 4 or roi_indices.shape != rois.shape[:1]:
        shapes = ", ".join(str(tuple(t.shape)) for t in (x, rois, roi_indices))
        raise ValueError(f"maps, RoIs and indices of shapes {shapes}: must be (N, C, H, W), (R, 4) and (R,)")


def check_range(roi_indices, n):
    """Refuse indices of no image. On a GPU its host would have to wait for the answer, so nothing is refused there."""
    if roi_indices.device.type == "cpu" and len(roi_indices):
        low, high = (int(value) for value in roi_indices.aminmax())
        if low < 0 or high >= n:
            raise ValueError(f"RoIs of images {low} to {high}, but there are {n} images")


def torchvision_rois(rois, roi_indices, dtype):
    """(R, 5) in torchvision's order: index, x_min, y_min, x_max, y_max."""
    return torch.cat([roi_indices[:, None].to(dtype), yx2xy(rois).to(dtype)], dim=1)


def box_dtype(x):
    """Boxes stay in float32 beside maps of half precision, which has no place for a coordinate's fraction."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


@torch.library.custom_op("faster_rcnn::roi_pool", mutates_args=())
def _roi_pool(
    x: Tensor, rois: Tensor, roi_indices: Tensor, output_size: int, spatial_scale: float
) -> tuple[Tensor, Tensor]:
    """The bins, and where each has its maximum, for the backward pass."""
    check_range(roi_indices, len(x))
    if not kernel.takes(x):
        dtype = box_dtype(x)
        boxes = torchvision_rois(rois, roi_indices, dtype)
        out, argmax = torch.ops.torchvision.roi_pool(x.to(dtype), boxes, spatial_scale, output_size, output_size)
        return out.to(x.dtype), argmax
    (_, c, h, w), r, p = x.shape, len(rois), output_size
    out = x.new_empty(r, c, p, p)
    argmax = x.new_empty(r, p, p, c, dtype=torch.int32)
    values = (x, *map(np.int64, x.stride()), rois.contiguous(), roi_indices.contiguous(), spatial_scale, c, h, w, p)
    grid = (r, math.ceil(c / CHANNELS), 1)
    kernel.launch("roi_pool", "roi_pool_forward", grid, THREADS, (*values, out, argmax), x.device, x.dtype)
    return out, argmax


@_roi_pool.register_fake
def _(x, rois, roi_indices, output_size, spatial_scale):
    r, c, p = rois.shape[0], x.shape[1], output_size
    argmax_shape = (r, p, p, c) if kernel.takes(x) else (r, c, p, p)
    return x.new_empty(r, c, p, p), x.new_empty(argmax_shape, dtype=torch.int32)


@torch.library.custom_op("faster_rcnn::roi_pool_backward", mutates_args=())
def _roi_pool_backward(
    grad: Tensor, argmax: Tensor, rois: Tensor, roi_indices: Tensor, spatial_scale: float, shape: list[int]
) -> Tensor:
    (n, c, h, w), p = shape, grad.shape[2]
    if not kernel.takes(grad):
        dtype = box_dtype(grad)
        boxes = torchvision_rois(rois, roi_indices, dtype)
        grad_x = torch.ops.torchvision._roi_pool_backward(
            grad.to(dtype), boxes, argmax, spatial_scale, p, p, n, c, h, w
        )
        return grad_x.to(grad.dtype)
    grad_x = grad.new_empty(n, h, w, c).permute(0, 3, 1, 2)
    values = (grad.permute(0, 2, 3, 1).contiguous(), argmax, rois.contiguous(), roi_indices.contiguous(), spatial_scale)
    values += (len(rois), c, h, w, p, grad_x)
    grid = (w, h, n * math.ceil(c / THREADS))
    kernel.launch("roi_pool", "roi_pool_backward", grid, THREADS, values, grad.device, grad.dtype)
    return grad_x


@_roi_pool_backward.register_fake
def _(grad, argmax, rois, roi_indices, spatial_scale, shape):
    n, c, h, w = shape
    return grad.new_empty(n, h, w, c).permute(0, 3, 1, 2) if kernel.takes(grad) else grad.new_empty(shape)


def _setup_context(ctx, inputs, output):
    x, rois, roi_indices, _, ctx.spatial_scale = inputs
    ctx.shape = x.shape
    ctx.save_for_backward(output[1], rois, roi_indices)


def _backward(ctx, grad, _):
    grad_x = _roi_pool_backward(grad, *ctx.saved_tensors, ctx.spatial_scale, ctx.shape)
    return grad_x, None, None, None, None


_roi_pool.register_autograd(_backward, setup_context=_setup_context)
