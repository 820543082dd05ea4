"""The three creators: proposals from the RPN's output, and training targets for the RPN and for the head.

Plain callables: hyperparameters in `__init__`, tensors of one image in `__call__` (numpy arrays are taken too), no
gradient, any device, and an explicit `torch.Generator` for what is drawn at random.

Letters: A anchors of one image, R boxes (or proposals), S samples. Boxes are (y_min, x_min, y_max, x_max).
"""

import torch

from model.ops.nms import nms
from utils.array_tool import totensor
from utils.bbox_tools import bbox2loc, bbox_iou, clip_bbox, loc2bbox


def random_subset(mask, n, generator=None):
    """At most `n` of the true entries of `mask`, drawn uniformly.

    Args:
        mask: (M,) bool.
        n: how many to keep, an int or a 0-dim tensor (so that a count on a GPU need not travel to the host).
        generator: on the device of `mask`; None draws from torch's global one.

    Returns:
        (M,) bool, a subset of `mask`.
    """
    order = torch.randperm(len(mask), generator=generator, device=mask.device)
    shuffled = mask[order]
    kept = torch.zeros_like(mask)
    kept[order] = shuffled & (shuffled.cumsum(0) <= n)
    return kept


def _float(x):
    return totensor(x, dtype=torch.float32)


class ProposalCreator:
    """Region proposals of one image from the RPN's offsets and scores (Ren et al. 2015, §3.1 and §3.3).

    Decode, clip to the image, drop what is too small, keep the best `n_pre_nms`, suppress overlaps, keep `n_post_nms`.

    Args:
        parent_model: its `training` flag chooses between the `train` and `test` counts; None means test.
        nms_thresh: IoU above which the lower score is dropped.
        n_train_pre_nms, n_train_post_nms, n_test_pre_nms, n_test_post_nms: proposals before and after NMS.
        min_size: pixels of the original picture; proposals with a shorter side are dropped.
    """

    def __init__(
        self,
        parent_model=None,
        nms_thresh=0.7,
        n_train_pre_nms=12000,
        n_train_post_nms=2000,
        n_test_pre_nms=6000,
        n_test_post_nms=300,
        min_size=16,
    ):
        self.parent_model = parent_model
        self.nms_thresh = nms_thresh
        self.n_train_pre_nms = n_train_pre_nms
        self.n_train_post_nms = n_train_post_nms
        self.n_test_pre_nms = n_test_pre_nms
        self.n_test_post_nms = n_test_post_nms
        self.min_size = min_size

    @torch.no_grad()
    def __call__(self, loc, score, anchor, img_size, scale=1.0):
        """
        Args:
            loc: (A, 4) offsets (dy, dx, dh, dw) from the anchors.
            score: (A,) foreground scores.
            anchor: (A, 4) anchors.
            img_size: (H, W) of the prepared image.
            scale: prepared size / original size.

        Returns:
            (R, 4) float32 proposals, best score first; R ≤ n_post_nms.
        """
        loc, score, anchor = _float(loc), _float(score), _float(anchor)
        training = self.parent_model is not None and self.parent_model.training
        n_pre_nms = self.n_train_pre_nms if training else self.n_test_pre_nms
        n_post_nms = self.n_train_post_nms if training else self.n_test_post_nms

        roi = clip_bbox(loc2bbox(anchor, loc), img_size)  # (A, 4)
        large = ((roi[:, 2:] - roi[:, :2]) >= self.min_size * scale).all(dim=1)
        roi, score = roi[large], score[large]
        score, order = score.sort(descending=True, stable=True)
        roi, score = roi[order[:n_pre_nms]], score[:n_pre_nms]
        return roi[nms(roi, score, self.nms_thresh, n_post_nms)]


class AnchorTargetCreator:
    """Which anchors the RPN learns from, and what (Ren et al. 2015, §3.1.2 and §3.1.3).

    Positive: IoU ≥ `pos_iou_thresh` with some box, and every anchor tied for a box's best IoU (if above 0). Negative:
    IoU < `neg_iou_thresh` with all boxes. Of these at most `n_sample` are drawn, positives at most `pos_ratio` of it.

    Args:
        allowed_border: pixels by which an anchor may reach over the image's edge and still take part.
    """

    def __init__(self, n_sample=256, pos_iou_thresh=0.7, neg_iou_thresh=0.3, pos_ratio=0.5, allowed_border=0):
        self.n_sample = n_sample
        self.pos_iou_thresh = pos_iou_thresh
        self.neg_iou_thresh = neg_iou_thresh
        self.pos_ratio = pos_ratio
        self.allowed_border = allowed_border

    @torch.no_grad()
    def __call__(self, bbox, anchor, img_size, generator=None):
        """
        Args:
            bbox: (R, 4) true boxes, R ≥ 0.
            anchor: (A, 4) anchors.
            img_size: (H, W) of the image.
            generator: for the draw.

        Returns:
            loc (A, 4) float32: offsets from each anchor to its box of largest IoU; 0 outside the image or if R = 0.
            label (A,) int64: 1 positive, 0 negative, −1 takes no part.
        """
        bbox, anchor = _float(bbox), _float(anchor)
        inside = self._inside(anchor, img_size)
        positive, negative, argmax = self._assign(anchor, bbox, inside)
        positive = random_subset(positive, int(self.pos_ratio * self.n_sample), generator)
        negative = random_subset(negative, self.n_sample - positive.sum(), generator)
        label = positive.long() - (~positive & ~negative).long()
        if argmax is None:
            return torch.zeros_like(anchor), label
        return bbox2loc(anchor, bbox[argmax]) * inside[:, None], label

    def _inside(self, anchor, img_size):
        border = self.allowed_border
        top_left = (anchor[:, :2] >= -border).all(dim=1)
        return top_left & (anchor[:, 2] <= img_size[0] + border) & (anchor[:, 3] <= img_size[1] + border)

    def _assign(self, anchor, bbox, inside):
        """positive (A,), negative (A,) bool, before sampling; argmax (A,) the box of largest IoU."""
        if len(bbox) == 0 or len(anchor) == 0:
            return torch.zeros_like(inside), inside, None
        iou = bbox_iou(anchor, bbox) * inside[:, None]  # (A, R); 0 for those outside, which no rule below takes
        max_iou, argmax = iou.max(dim=1)
        best_of_box = iou.max(dim=0).values  # (R,)
        best = ((iou == best_of_box) & (best_of_box > 0)).any(dim=1)
        positive = inside & (best | (max_iou >= self.pos_iou_thresh))
        negative = inside & ~positive & (max_iou < self.neg_iou_thresh)
        return positive, negative, argmax


class ProposalTargetCreator:
    """Which proposals the head learns from, and what (Girshick 2015, Fast R-CNN, §2.3).

    The true boxes join the proposals. Positive: IoU ≥ `pos_iou_thresh` with some box; negative: IoU in
    [`neg_iou_thresh_lo`, `neg_iou_thresh_hi`). Of these at most `n_sample` are drawn, positives at most `pos_ratio`.
    """

    def __init__(self, n_sample=128, pos_ratio=0.25, pos_iou_thresh=0.5, neg_iou_thresh_hi=0.5, neg_iou_thresh_lo=0.0):
        self.n_sample = n_sample
        self.pos_ratio = pos_ratio
        self.pos_iou_thresh = pos_iou_thresh
        self.neg_iou_thresh_hi = neg_iou_thresh_hi
        self.neg_iou_thresh_lo = neg_iou_thresh_lo

    @torch.no_grad()
    def __call__(
        self,
        roi,
        bbox,
        label,
        loc_normalize_mean=(0.0, 0.0, 0.0, 0.0),
        loc_normalize_std=(0.1, 0.1, 0.2, 0.2),
        generator=None,
    ):
        """
        Args:
            roi: (R', 4) proposals.
            bbox: (R, 4) true boxes, R ≥ 0.
            label: (R,) their classes, 0..L−1 without background.
            loc_normalize_mean, loc_normalize_std: 4 numbers each; offsets are returned as (loc − mean) / std.
            generator: for the draw.

        Returns:
            sample_roi (S, 4) float32, positives first; S ≤ n_sample.
            gt_roi_loc (S, 4) float32: normalised offsets to the box of largest IoU; 0 if R = 0.
            gt_roi_label (S,) int64: 0 background, 1..L the class + 1.
        """
        roi, bbox = _float(roi), _float(bbox)
        label = totensor(label, bbox.device).long()
        roi = torch.cat([roi, bbox])  # the true boxes are sure positives from the first step on
        if len(bbox) == 0:
            keep = random_subset(roi.new_ones(len(roi), dtype=torch.bool), self.n_sample, generator)
            sample_roi = roi[keep]
            return sample_roi, torch.zeros_like(sample_roi), label.new_zeros(len(sample_roi))

        max_iou, argmax = bbox_iou(roi, bbox).max(dim=1)
        positive = max_iou >= self.pos_iou_thresh
        negative = (max_iou < self.neg_iou_thresh_hi) & (max_iou >= self.neg_iou_thresh_lo)
        positive = random_subset(positive, round(self.pos_ratio * self.n_sample), generator)
        negative = random_subset(negative & ~positive, self.n_sample - positive.sum(), generator)

        keep = torch.cat([positive.nonzero(), negative.nonzero()])[:, 0]  # (S,)
        sample_roi, gt_bbox = roi[keep], bbox[argmax[keep]]
        gt_roi_label = torch.where(positive[keep], label[argmax[keep]] + 1, 0)
        mean, std = roi.new_tensor(loc_normalize_mean), roi.new_tensor(loc_normalize_std)
        return sample_roi, (bbox2loc(sample_roi, gt_bbox) - mean) / std, gt_roi_label
