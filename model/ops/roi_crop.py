"""RoI crop, the third way of jwyang's faster-rcnn.pytorch to take a RoI's features (Jaderberg et al. 2015, Spatial
transformer networks, §3.3, with an affine grid and the bilinear kernel).

Letters: N images, C channels, (H, W) a map, R RoIs, P output bins a side, S = 2·P samples a side.
"""

import torch
import torch.nn.functional as F

from model.ops.roi_pool import box_dtype, check_rois


def roi_crop(x, rois, roi_indices, output_size, spatial_scale, aligned=True):
    """Lay 2·P × 2·P points evenly over each RoI, from edge to edge, sample there, and take the maximum of each 2 × 2.

    Outside the map everything is 0.

    Args:
        x: (N, C, H, W) float feature maps.
        rois: (R, 4) float boxes (y_min, x_min, y_max, x_max) in pixels of the prepared image; R ≥ 0.
        roi_indices: (R,) which of the N images each RoI lies in.
        output_size: bins a side, P.
        spatial_scale: cells of the map a pixel.
        aligned: as in `roi_align`: a cell's value is at its centre; False puts it at its first corner, as jwyang's.

    Returns:
        (R, C, P, P) of the dtype of `x`. Its gradient on a GPU is summed by atomics, in any order.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    check_rois(x, rois, roi_indices)
    h, s, dtype = x.shape[2], 2 * output_size, box_dtype(x)
    edges = rois.to(dtype) * spatial_scale - (0.5 if aligned else 0.0)  # in cells whose values are at whole numbers
    step = torch.linspace(0, 1, s, dtype=dtype, device=x.device)
    y, at_x = (edges[:, i, None] * (1 - step) + edges[:, i + 2, None] * step for i in (0, 1))  # (R, S)

    # Zeros above and below each image, so that rows further out are 0 as well.
    samples = sample_points(F.pad(x.to(dtype), (0, 0, 1, 1)), roi_indices, y.clamp(-1, h) + 1, at_x, "zeros")
    return F.max_pool2d(samples, 2).to(x.dtype)


def sample_points(x, roi_indices, y, at_x, padding_mode):
    """Bilinear values at each RoI's lattice of points.

    Args:
        x: (N, C, H, W) maps in the precision of the points.
        roi_indices: (R,) the image of each RoI.
        y, at_x: (R, S) rows, 0..H − 1, and columns, in cells whose values are at whole numbers.
        padding_mode: grid_sample's, for columns outside.

    Returns:
        (R, C, S, S)
    """
    (n, c, h, w), (r, s) = x.shape, y.shape
    # The images one below the other, so that one call samples all: (1, C, N·H, W).
    stacked = x.permute(1, 0, 2, 3).reshape(1, c, n * h, w)
    y = y + roi_indices[:, None].to(y.dtype) * h
    # grid_sample's coordinates without align_corners: -1 and 1 are the outer edges of the first and last cell
    y, at_x = (2 * y + 1) / (n * h) - 1, (2 * at_x + 1) / w - 1
    grid = torch.stack([at_x[:, None, :].expand(-1, s, s), y[:, :, None].expand(-1, s, s)], dim=-1)  # (R, S, S, 2)
    samples = F.grid_sample(stacked, grid.reshape(1, -1, s, 2), padding_mode=padding_mode, align_corners=False)
    return samples.view(c, r, s, s).transpose(0, 1)
