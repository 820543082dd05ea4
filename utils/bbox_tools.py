"""Arithmetic on boxes, in torch.

Letters: R, S numbers of boxes. A box is (y_min, x_min, y_max, x_max), continuous edges in pixels: its height is
y_max − y_min, without +1. A `loc` is (dy, dx, dh, dw), the parameterisation of Faster R-CNN (Ren et al. 2015, §3.1.2,
equation 2), here in y, x order.
"""

import math

import torch

# A box is decoded to at most 62.5 times its source's side: it covers any picture then, and float32 stays finite. The
# number is Detectron's and torchvision's.
MAX_LOG_SCALE = math.log(1000 / 16)


def _centre_and_size(bbox):
    """(R, 4) boxes → (R, 2) centres (y, x) and (R, 2) sizes (height, width)."""
    size = bbox[..., 2:] - bbox[..., :2]
    return bbox[..., :2] + 0.5 * size, size


def loc2bbox(src_bbox, loc):
    """Decode offsets: move `src_bbox` by `loc`.

    Args:
        src_bbox: (R, 4) float boxes, or a shape that broadcasts with `loc`.
        loc: (R, 4) float offsets; (R, L, 4) with src_bbox (R, 1, 4) decodes one box a class.

    Returns:
        (R, 4) boxes (or `loc`'s shape), not clipped to any picture.
    """
    centre, size = _centre_and_size(src_bbox)
    new_centre = centre + loc[..., :2] * size
    half = 0.5 * size * loc[..., 2:].clamp(max=MAX_LOG_SCALE).exp()
    return torch.cat([new_centre - half, new_centre + half], dim=-1)


def bbox2loc(src_bbox, dst_bbox):
    """Encode: the (R, 4) offsets that move `src_bbox` (R, 4) to `dst_bbox` (R, 4); the inverse of `loc2bbox`.

    Sides are floored at the float's epsilon, so that a box without area gives a finite number.
    """
    eps = torch.finfo(src_bbox.dtype).eps
    src_centre, src_size = _centre_and_size(src_bbox)
    dst_centre, dst_size = _centre_and_size(dst_bbox)
    src_size, dst_size = src_size.clamp(min=eps), dst_size.clamp(min=eps)
    return torch.cat([(dst_centre - src_centre) / src_size, (dst_size / src_size).log()], dim=-1)


def bbox_iou(bbox_a, bbox_b):
    """(R, S) intersection over union of (R, 4) and (S, 4) boxes, 0..1; 0 where a box has no area."""
    top_left = torch.max(bbox_a[:, None, :2], bbox_b[None, :, :2])  # (R, S, 2)
    bottom_right = torch.min(bbox_a[:, None, 2:], bbox_b[None, :, 2:])
    inter = (bottom_right - top_left).clamp(min=0).prod(dim=2)  # (R, S)
    area_a, area_b = ((b[:, 2:] - b[:, :2]).clamp(min=0).prod(dim=1) for b in (bbox_a, bbox_b))
    union = area_a[:, None] + area_b[None, :] - inter
    return inter / union.clamp(min=torch.finfo(inter.dtype).tiny)


def clip_bbox(bbox, size):
    """(..., 4) boxes with their edges moved into a picture of `size` (H, W)."""
    height, width = size
    y, x = bbox[..., 0::2].clamp(0, height), bbox[..., 1::2].clamp(0, width)
    return torch.stack([y[..., 0], x[..., 0], y[..., 1], x[..., 1]], dim=-1)


def flip_bbox(bbox, size):
    """(R, 4) boxes (array or tensor) of a picture of `size` (H, W), after the picture is mirrored left to right."""
    flipped = bbox.copy() if hasattr(bbox, "copy") else bbox.clone()
    flipped[:, 1], flipped[:, 3] = size[1] - bbox[:, 3], size[1] - bbox[:, 1]
    return flipped


def resize_bbox(bbox, in_size, out_size):
    """(R, 4) boxes (array or tensor) of a picture of `in_size` (H, W), after it is resized to `out_size` (H, W)."""
    y_scale, x_scale = out_size[0] / in_size[0], out_size[1] / in_size[1]
    scaled = bbox.copy() if hasattr(bbox, "copy") else bbox.clone()
    scaled[:, 0::2] *= y_scale
    scaled[:, 1::2] *= x_scale
    return scaled


def pixel_edges(bbox, plus_one=1):
    """(..., 4) boxes of the indices of their first and last pixel → their edges, with which all else here reckons.

    `plus_one` 0 is for boxes that are edges already.
    """
    return torch.cat([bbox[..., :2], bbox[..., 2:] + plus_one], dim=-1) if plus_one else bbox


def yx2xy(bbox):
    """(..., 4) boxes from (y_min, x_min, y_max, x_max) to (x_min, y_min, x_max, y_max), or back."""
    return bbox[..., [1, 0, 3, 2]]


def xywh2yxyx(bbox):
    """(..., 4) COCO's (x, y, width, height) → (y_min, x_min, y_max, x_max); array or tensor."""
    out = yx2xy(bbox)  # a copy
    out[..., 2:] += out[..., :2]
    return out


def yxyx2xywh(bbox):
    """The inverse of `xywh2yxyx`."""
    out = yx2xy(bbox)
    out[..., 2:] -= out[..., :2]
    return out
