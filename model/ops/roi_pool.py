"""RoI pooling (Girshick 2015, Fast R-CNN, §2.1)."""

import torch
from torchvision.ops import roi_pool as _torchvision_roi_pool

from utils.bbox_tools import yx2xy


def roi_pool(x, rois, roi_indices, output_size, spatial_scale):
    """Divide each RoI into a grid of bins and take the maximum in each.

    Args:
        x: (N, C, H, W) float feature maps.
        rois: (R, 4) float boxes (y_min, x_min, y_max, x_max) in pixels of the prepared image; R ≥ 0.
        roi_indices: (R,) which of the N images each RoI lies in.
        output_size: bins a side.
        spatial_scale: cells of the map a pixel, 1 / stride.

    Returns:
        (R, C, output_size, output_size) of the dtype of `x`.
    """
    return _torchvision_roi_pool(x, torchvision_rois(rois, roi_indices, x.dtype), output_size, spatial_scale)


def torchvision_rois(rois, roi_indices, dtype):
    """(R, 5) in torchvision's order: index, x_min, y_min, x_max, y_max."""
    return torch.cat([roi_indices[:, None].to(dtype), yx2xy(rois).to(dtype)], dim=1)
