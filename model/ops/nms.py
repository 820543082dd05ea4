"""Non-maximum suppression.

Letters: N images, K boxes an image at the most, R boxes.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.ops import kernel
from model.ops.kernel import PHASE, THREADS, TILE
from utils.bbox_tools import yx2xy

CHUNK = 512  # boxes that a CPU looks at together


class Kept(NamedTuple):
    """What `nms_padded` keeps, of N images."""

    index: Tensor  # (N, n_post) int64 places among the K boxes, best score first; −1 in unused slots
    count: Tensor  # (N,) int32


def nms(bbox, score, thresh, n_post=None):
    """Greedy suppression: a box is dropped if its IoU with a kept box of higher score is above `thresh`.

    Args:
        bbox: (R, 4) float boxes (y_min, x_min, y_max, x_max).
        score: (R,) float; equal scores keep their order.
        thresh: IoU, 0..1; equality keeps both.
        n_post: at most so many are kept; None keeps all.

    Returns:
        (R',) int64 indices of the kept boxes, best score first. Their number is what a GPU's host must wait for.
    """
    return batched_nms(bbox, score, None, thresh, n_post)


def batched_nms(bbox, score, group, thresh, n_post=None):
    """`nms` within each group (the class, say): boxes of different groups never suppress each other.

    Args:
        bbox: (R, 4); score: (R,); group: (R,) int or None; thresh: IoU, 0..1; n_post: as in `nms`, of all groups.

    Returns:
        (R',) int64 indices of the kept boxes, best score first.
    """
    order = score.argsort(descending=True, stable=True)
    n_post = len(bbox) if n_post is None else min(n_post, len(bbox))
    kept = nms_padded(bbox[order][None], thresh, n_post, None if group is None else group[order][None])
    return order[kept.index[0, : int(kept.count[0])]]


def nms_padded(bbox, thresh, n_post, group=None, count=None):
    """`nms` of several images at once, in tensors whose sizes do not depend on what is kept: nothing waits for a GPU.

    Args:
        bbox: (N, K, 4) float boxes, each image's best score first.
        thresh: IoU, 0..1; equality keeps both.
        n_post: at most so many are kept of an image.
        group: (N, K) int: boxes of different groups never suppress each other; None for one group.
        count: (N,) int, 0..K: how many of the K boxes each image has, the first ones; None for all.

    Returns:
        `Kept`.

    Raises:
        ValueError: shapes that do not fit each other, or groups that are not whole numbers.
    """
    n, k = bbox.shape[:2]
    if bbox.ndim != 3 or bbox.shape[2] != 4:
        raise ValueError(f"boxes of shape {tuple(bbox.shape)}: must be (N, K, 4)")
    if group is not None and (group.shape != (n, k) or group.is_floating_point()):
        raise ValueError(f"groups {group.dtype} of shape {tuple(group.shape)}: must be whole numbers, {(n, k)}")
    if count is None:
        count = torch.full((n,), k, dtype=torch.int32, device=bbox.device)
    elif count.shape != (n,):
        raise ValueError(f"counts of shape {tuple(count.shape)}: must be one for each of the {n} images")
    group = None if group is None else group.long()
    bbox = bbox if bbox.dtype == torch.float64 else bbox.float()
    if bbox.dtype == torch.float32:
        # torchvision's CPU code compares a float32 IoU with the threshold in double precision: float32(0.3) is above
        # 0.3, and a tie would be dropped. In the precision of the boxes a tie is a tie.
        thresh = float(np.float32(thresh))
    return Kept(*_nms(bbox, group, count.int().clamp(0, k), thresh, n_post))


@torch.library.custom_op("faster_rcnn::nms", mutates_args=())
def _nms(bbox: Tensor, group: Tensor | None, count: Tensor, thresh: float, n_post: int) -> tuple[Tensor, Tensor]:
    (n, k), device = bbox.shape[:2], bbox.device
    index = torch.full((n, n_post), -1, dtype=torch.int64, device=device)
    kept = torch.zeros(n, dtype=torch.int32, device=device)
    if not kernel.takes(bbox):
        for i, size in enumerate(count.tolist()):
            own = _torchvision_groups(bbox[i, :size], None if group is None else group[i, :size], thresh, n_post)
            index[i, : len(own)] = own
            kept[i] = len(own)
        return index, kept
    bbox, group, count = bbox.contiguous(), None if group is None else group.contiguous(), count.contiguous()
    n_tile, n_phase = PHASE // TILE, math.ceil(k / PHASE)
    overlaps = torch.empty(n, PHASE, n_tile, dtype=torch.int64, device=device)
    gone = torch.zeros(n_phase, n, n_tile, dtype=torch.int64, device=device)
    for phase in range(n_phase):  # all are launched; those for which nothing is left return at once
        start = phase * PHASE
        n_kept_tile = math.ceil(min(n_post, start) / TILE)
        compare = (bbox, group, count, thresh, k, start, n_post, index, kept, overlaps, gone[phase])
        kernel.launch("nms", "nms_compare", (n_tile, n_tile + n_kept_tile, n), TILE, compare, device)
        keep = (overlaps, gone[phase], count, k, start, n_post, index, kept)
        kernel.launch("nms", "nms_keep", (n, 1, 1), THREADS, keep, device)
    return index, kept


@_nms.register_fake
def _(bbox, group, count, thresh, n_post):
    n = bbox.shape[0]
    return bbox.new_empty(n, n_post, dtype=torch.int64), bbox.new_empty(n, dtype=torch.int32)


def _torchvision_groups(bbox, group, thresh, n_post):
    """Of one image's sorted boxes, by torchvision's operator: (R',) indices, R' ≤ n_post."""
    bbox = yx2xy(bbox)
    if group is None:
        return _by_chunks(bbox, thresh, n_post)
    order = group.argsort(stable=True)
    _, sizes = group[order].unique_consecutive(return_counts=True)
    parts = (part.split(sizes.tolist()) for part in (order, bbox[order]))
    keep = [own[_by_chunks(boxes, thresh, n_post)] for own, boxes in zip(*parts, strict=True)]
    return torch.cat([*keep, order[:0]]).sort().values[:n_post]


def _sorted_nms(bbox, thresh):
    """torchvision's operator on boxes that are sorted already."""
    falling = -torch.arange(len(bbox), dtype=bbox.dtype, device=bbox.device)  # scores that keep the boxes' order
    return torch.ops.torchvision.nms(bbox, falling, thresh)


def _by_chunks(bbox, thresh, n_post):
    """Suppression on a CPU is quadratic: the boxes come in chunks, and it ends as soon as enough are kept.

    Better boxes alone decide on a box. So what the kept ones suppress in the next chunk goes first, in one table of
    overlaps, and torchvision's loop, on one core, has only the few that are left.
    """
    if bbox.device.type != "cpu":
        return _sorted_nms(bbox, thresh)[:n_post]
    x_min, y_min, x_max, y_max = bbox.t().contiguous()
    area = (x_max - x_min) * (y_max - y_min)
    keep = _sorted_nms(bbox[:CHUNK], thresh)
    for start in range(CHUNK, len(bbox), CHUNK):
        if len(keep) >= n_post:
            break
        own, kept = slice(start, start + CHUNK), keep[:, None]
        width = torch.minimum(x_max[kept], x_max[own]) - torch.maximum(x_min[kept], x_min[own])  # (kept, chunk)
        height = torch.minimum(y_max[kept], y_max[own]) - torch.maximum(y_min[kept], y_min[own])
        overlap = width.clamp_(min=0).mul_(height.clamp_(min=0))
        iou = overlap / (area[kept] + area[own]).sub_(overlap)  # in torchvision's order, to the last bit
        left = torch.where(~(iou > thresh).any(dim=0))[0] + start
        keep = torch.cat([keep, left[_sorted_nms(bbox[left], thresh)]])
    return keep[:n_post]
