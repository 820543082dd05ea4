"""RoI align as jwyang's faster-rcnn.pytorch has it (`RoIAlignAvg`), for networks that were trained with it.

It takes a value at each corner of a bin, where Mask R-CNN's takes them inside (He et al. 2017, §3), and reaches one
cell beyond the RoI's last corner.

Letters: N images, C channels, (H, W) a map, R RoIs, P output bins a side, S = P + 1 samples a side.
"""

import torch
import torch.nn.functional as F

from model.ops.roi_crop import sample_points
from model.ops.roi_pool import box_dtype, check_rois


def roi_corner_align(x, rois, roi_indices, output_size, spatial_scale):
    """Lay (P + 1) × (P + 1) points over each RoI, from its first corner to one cell beyond its last, and take the mean
    of the four around each bin.

    A cell's value is at its first corner. Beyond the last cell's the values of the last two are extrapolated; outside
    the map everything is 0.

    Args:
        x: (N, C, H, W) float feature maps.
        rois: (R, 4) float boxes (y_min, x_min, y_max, x_max) in pixels of the prepared image; R ≥ 0.
        roi_indices: (R,) which of the N images each RoI lies in.
        output_size: bins a side, P.
        spatial_scale: cells of the map a pixel.

    Returns:
        (R, C, P, P) of the dtype of `x`. Its gradient on a GPU is summed by atomics, in any order.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    check_rois(x, rois, roi_indices)
    (h, w), s, dtype = x.shape[2:], output_size + 1, box_dtype(x)
    corners = rois.to(dtype) * spatial_scale
    size = (corners[:, 2:] - corners[:, :2] + 1).clamp(min=0)  # (R, 2)
    step = torch.linspace(0, 1, s, dtype=dtype, device=x.device)
    y, at_x = (corners[:, i, None] + size[:, i, None] * step for i in (0, 1))  # (R, S)
    inside = ((y >= 0) & (y < h))[:, :, None] & ((at_x >= 0) & (at_x < w))[:, None, :]  # (R, S, S)

    # One more row and column, so that what lies between the last cell's corner and them is extrapolated.
    x, kind = x.to(dtype), x.dtype
    x = torch.cat([x, 2 * x[:, :, -1:] - x[:, :, max(h - 2, 0), None]], dim=2)
    x = torch.cat([x, 2 * x[..., -1:] - x[..., max(w - 2, 0), None]], dim=3)
    samples = sample_points(x, roi_indices, y.clamp(0, h), at_x.clamp(0, w), "border") * inside[:, None]
    return F.avg_pool2d(samples, 2, stride=1).to(kind)
