"""Non-maximum suppression."""

import torch
from torchvision.ops import nms as _torchvision_nms

from utils.bbox_tools import yx2xy


def nms(bbox, score, thresh, n_post=None):
    """Greedy suppression: a box is dropped if its IoU with a kept box of higher score is above `thresh`.

    Args:
        bbox: (R, 4) float boxes (y_min, x_min, y_max, x_max).
        score: (R,) float; equal scores keep their order.
        thresh: IoU, 0..1; equality keeps both.
        n_post: at most so many are kept; None keeps all.

    Returns:
        (R',) int64 indices of the kept boxes, best score first.
    """
    # torchvision's CPU code compares a float32 IoU with the threshold in double precision: float32(0.3) is above 0.3,
    # and a tie would be dropped. In the precision of the boxes a tie is a tie.
    thresh = torch.tensor(thresh, dtype=bbox.dtype).item()
    order = score.argsort(descending=True, stable=True)
    bbox, score = yx2xy(bbox)[order], score[order]
    if n_post is None or bbox.device.type != "cpu":
        return order[_torchvision_nms(bbox, score, thresh)][:n_post]
    # Whether a box is kept depends on better boxes alone, so a prefix of the sorted boxes gives a prefix of the answer.
    # Suppression on a CPU is quadratic: growing prefixes end as soon as enough are kept.
    n = 4 * n_post
    while True:
        keep = _torchvision_nms(bbox[:n], score[:n], thresh)
        if len(keep) >= n_post or n >= len(bbox):
            return order[keep[:n_post]]
        n *= 2


def batched_nms(bbox, score, group, thresh):
    """`nms` within each group (the class, say): boxes of different groups never suppress each other.

    Args:
        bbox: (R, 4); score: (R,); group: (R,) int; thresh: IoU, 0..1.

    Returns:
        (R',) int64 indices of the kept boxes, best score first.
    """
    keep = [g[nms(bbox[g], score[g], thresh)] for g in (torch.where(group == i)[0] for i in group.unique())]
    if not keep:
        return group.new_zeros(0, dtype=torch.long)
    keep = torch.cat(keep)
    return keep[score[keep].argsort(descending=True, stable=True)]
