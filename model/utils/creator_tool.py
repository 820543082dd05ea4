"""The three creators: proposals from the RPN's output, and training targets for the RPN and for the head.

Plain callables: hyperparameters in `__init__`, tensors of one image in `__call__` (numpy arrays are taken too), no
gradient, any device, and an explicit `torch.Generator` for what is drawn at random. Sizes of results do not depend on
values, so that nothing waits for a GPU: what is unused is marked.

Letters: N images, A anchors of one image, P proposals, R boxes, S samples. Boxes are (y_min, x_min, y_max, x_max).
"""

import math
from itertools import accumulate
from typing import NamedTuple

import torch

from model.ops.nms import nms_padded
from utils.array_tool import totensor
from utils.bbox_tools import bbox2loc, bbox_iou, clip_bbox, loc2bbox, pixel_edges


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


def take_rows(x, index):
    """(N, M, 4)[(N, K)] → (N, K, 4): each image's own rows."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))


def _float(x):
    return totensor(x, dtype=torch.float32)


class Proposals(NamedTuple):
    """What the `ProposalCreator` makes of N images, in tensors of fixed size."""

    roi: torch.Tensor  # (N, P, 4) best score first, zeros in unused slots
    count: torch.Tensor  # (N,) int32, how many are used
    score: torch.Tensor  # (N, P) as given, −∞ in unused slots


class ProposalCreator:
    """Region proposals of one image from the RPN's offsets and scores (Ren et al. 2015, §3.1 and §3.3).

    Decode, clip to the image, drop what is too small, keep the best `n_pre_nms`, suppress overlaps, keep `n_post_nms`.
    Where there are several levels of anchors, the best `n_pre_nms` of each are kept, and boxes suppress those of their
    own level (Lin et al. 2017, Feature pyramid networks, §4.1).

    Args:
        parent_model: its `training` flag chooses between the `train` and `test` counts; None means test.
        nms_thresh: IoU above which the lower score is dropped.
        n_train_pre_nms, n_train_post_nms, n_test_pre_nms, n_test_post_nms: proposals before and after NMS.
        min_size: pixels of the original picture; proposals with a shorter side are dropped.
        score_thresh: probability below which a proposal is dropped; 0 for none. Scores must be logits then.
        plus_one, small_last: see `Convention`.
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
        score_thresh=0.0,
        plus_one=0,
        small_last=False,
    ):
        self.parent_model = parent_model
        self.nms_thresh = nms_thresh
        self.n_train_pre_nms = n_train_pre_nms
        self.n_train_post_nms = n_train_post_nms
        self.n_test_pre_nms = n_test_pre_nms
        self.n_test_post_nms = n_test_post_nms
        self.min_size = min_size
        self.score_thresh = score_thresh
        self.plus_one = plus_one
        self.small_last = small_last

    def __call__(self, loc, score, anchor, img_size, scale=1.0):
        """The proposals of one image.

        Args:
            loc: (A, 4) offsets (dy, dx, dh, dw) from the anchors.
            score: (A,) foreground scores.
            anchor: (A, 4) anchors.
            img_size: (H, W) of the prepared image.
            scale: prepared size / original size.

        Returns:
            (P', 4) float32 proposals, best score first; P' ≤ n_post_nms. Their number is what a GPU's host waits for.
        """
        loc, score, anchor = _float(loc), _float(score), _float(anchor)
        if len(anchor) == 0:
            return anchor
        proposals = self.batch(loc[None], score[None], anchor, [img_size], [scale])
        return proposals.roi[0, : int(proposals.count[0])]

    @torch.no_grad()
    def batch(self, loc, score, anchor, sizes, scales, valid=None, level_sizes=None):
        """The proposals of several images, in tensors of fixed size.

        Args:
            loc: (N, A, 4) float32; score: (N, A) float32; anchor: (A, 4) float32, of the whole padded maps, A ≥ 1.
            sizes: N pairs (H, W) of the prepared images without padding; scales: N floats.
            valid: (N, A) bool: the anchors that stand in each image; None for all.
            level_sizes: how many of the anchors each level has, one level after the other; None for one level.

        Returns:
            `Proposals`. P = n_post_nms, whatever A is: what is drawn from the slots does not depend on the padding.
        """
        training = self.parent_model is not None and self.parent_model.training
        n_pre_nms = self.n_train_pre_nms if training else self.n_test_pre_nms
        n_post_nms = self.n_train_post_nms if training else self.n_test_post_nms
        level_sizes = level_sizes or [len(anchor)]

        roi = loc2bbox(pixel_edges(anchor, self.plus_one), loc)  # (N, A, 4)
        ends = [(height - self.plus_one, width - self.plus_one) for height, width in sizes]
        roi = torch.stack([clip_bbox(own, end) for own, end in zip(roi, ends, strict=True)])
        side = (roi[..., 2:] - roi[..., :2]).amin(dim=2) + self.plus_one  # (N, A)
        usable = torch.stack([own >= self.min_size * scale for own, scale in zip(side, scales, strict=True)])
        if self.score_thresh > 0:
            usable = usable & (score.sigmoid() >= self.score_thresh)
        if valid is not None:
            score = score.masked_fill(~valid, -math.inf)
        if not self.small_last:
            score = score.masked_fill(~usable, -math.inf)

        best, first = [], 0  # places among the anchors
        for own in score.split(level_sizes, dim=1):
            best.append(own.argsort(dim=1, descending=True, stable=True)[:, :n_pre_nms] + first)
            first += own.shape[1]
        order = torch.cat(best, dim=1)  # (N, B)
        score = score.gather(1, order)
        if self.small_last:
            score = score.masked_fill(~usable.gather(1, order), -math.inf)
        if self.small_last or len(level_sizes) > 1:
            score, again = score.sort(dim=1, descending=True, stable=True)
            order = order.gather(1, again)
        n_usable = (score != -math.inf).sum(dim=1)  # they come first
        level = None
        if len(level_sizes) > 1:
            level = sum((order >= end).long() for end in accumulate(level_sizes[:-1]))  # (N, B)
        roi = take_rows(roi, order)
        kept = nms_padded(pixel_edges(roi, self.plus_one), self.nms_thresh, n_post_nms, level, n_usable)
        place, used = kept.index.clamp(min=0), kept.index >= 0
        roi = torch.where(used[..., None], take_rows(roi, place), 0.0)
        return Proposals(roi, kept.count, torch.where(used, score.gather(1, place), -math.inf))


class AnchorTargetCreator:
    """Which anchors the RPN learns from, and what (Ren et al. 2015, §3.1.2 and §3.1.3).

    Positive: IoU ≥ `pos_iou_thresh` with some box, and every anchor tied for a box's best IoU (if above 0). Negative:
    IoU < `neg_iou_thresh` with all boxes. Of these at most `n_sample` are drawn, positives at most `pos_ratio` of it.

    Args:
        allowed_border: pixels by which an anchor may reach over the image's edge and still take part.
        clobber_positives: an anchor that is both, a box's best but below `neg_iou_thresh`, is negative (an option of
            py-faster-rcnn).
        plus_one: see `Convention`.
    """

    def __init__(
        self,
        n_sample=256,
        pos_iou_thresh=0.7,
        neg_iou_thresh=0.3,
        pos_ratio=0.5,
        allowed_border=0,
        clobber_positives=False,
        plus_one=0,
    ):
        self.n_sample = n_sample
        self.pos_iou_thresh = pos_iou_thresh
        self.neg_iou_thresh = neg_iou_thresh
        self.pos_ratio = pos_ratio
        self.allowed_border = allowed_border
        self.clobber_positives = clobber_positives
        self.plus_one = plus_one

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
        bbox, anchor = (pixel_edges(_float(boxes), self.plus_one) for boxes in (bbox, anchor))
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
        negative = inside & (max_iou < self.neg_iou_thresh)
        if self.clobber_positives:
            positive = positive & ~negative
        else:
            negative = negative & ~positive
        return positive, negative, argmax


class ProposalTargetCreator:
    """Which proposals the head learns from, and what (Girshick 2015, Fast R-CNN, §2.3).

    The true boxes join the proposals. Positive: IoU ≥ `pos_iou_thresh` with some box; negative: IoU in
    [`neg_iou_thresh_lo`, `neg_iou_thresh_hi`). Of these at most `n_sample` are drawn, positives at most `pos_ratio`.
    `plus_one`: see `Convention`.
    """

    def __init__(
        self,
        n_sample=128,
        pos_ratio=0.25,
        pos_iou_thresh=0.5,
        neg_iou_thresh_hi=0.5,
        neg_iou_thresh_lo=0.0,
        plus_one=0,
    ):
        self.n_sample = n_sample
        self.pos_ratio = pos_ratio
        self.pos_iou_thresh = pos_iou_thresh
        self.neg_iou_thresh_hi = neg_iou_thresh_hi
        self.neg_iou_thresh_lo = neg_iou_thresh_lo
        self.plus_one = plus_one

    @torch.no_grad()
    def __call__(
        self,
        roi,
        bbox,
        label,
        loc_normalize_mean=(0.0, 0.0, 0.0, 0.0),
        loc_normalize_std=(0.1, 0.1, 0.2, 0.2),
        generator=None,
        n_roi=None,
    ):
        """
        Args:
            roi: (P, 4) proposals.
            bbox: (R, 4) true boxes, R ≥ 0.
            label: (R,) their classes, 0..L−1 without background.
            loc_normalize_mean, loc_normalize_std: 4 numbers each; offsets are returned as (loc − mean) / std.
            generator: for the draw.
            n_roi: how many of the proposals there are, the first ones, an int or a 0-dim tensor; None for all.

        Returns:
            sample_roi (S, 4) float32, positives first; S = n_sample, or P + R where that is less.
            gt_roi_loc (S, 4) float32: normalised offsets to the box of largest IoU; 0 in an unused slot.
            gt_roi_label (S,) int64: 0 background, 1..L the class + 1, −1 in an unused slot.
        """
        roi, bbox = _float(roi), _float(bbox)
        label = totensor(label, bbox.device).long()
        place = torch.arange(len(roi) + len(bbox), device=roi.device)
        there = (place < (len(roi) if n_roi is None else n_roi)) | (place >= len(roi))
        roi = torch.cat([roi, bbox])  # the true boxes are sure positives from the first step on
        if len(bbox) > 0:
            max_iou, argmax = bbox_iou(*(pixel_edges(boxes, self.plus_one) for boxes in (roi, bbox))).max(dim=1)
            positive = there & (max_iou >= self.pos_iou_thresh)
            negative = there & (max_iou < self.neg_iou_thresh_hi) & (max_iou >= self.neg_iou_thresh_lo)
        else:  # all is background; each proposal is its own box, of offsets 0
            positive, negative, argmax = torch.zeros_like(there), there, place
            bbox, label = roi, torch.zeros_like(place)
        positive = random_subset(positive, round(self.pos_ratio * self.n_sample), generator)
        negative = random_subset(negative & ~positive, self.n_sample - positive.sum(), generator)

        # positives, then negatives, then the others, each in order
        rank = 2 - 2 * positive.long() - negative.long()
        rank, keep = rank.sort(stable=True)
        rank, keep = rank[: self.n_sample], keep[: self.n_sample]  # (S,)
        sample_roi, gt_bbox = roi[keep], bbox[argmax[keep]]
        gt_roi_label = torch.where(rank == 0, label[argmax[keep]] + 1, 0).where(rank < 2, -1)
        mean, std = (torch.as_tensor(x, dtype=roi.dtype, device=roi.device)
                     for x in (loc_normalize_mean, loc_normalize_std))  # fmt: skip
        gt_roi_loc = bbox2loc(pixel_edges(sample_roi, self.plus_one), pixel_edges(gt_bbox, self.plus_one))
        gt_roi_loc = (gt_roi_loc - mean) / std * (rank < 2)[:, None]
        return sample_roi, gt_roi_loc, gt_roi_label
