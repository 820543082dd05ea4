"""model/utils/creator_tool.py against the rules of the papers, one box at a time, and hand-computed cases."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.utils.creator_tool import AnchorTargetCreator, ProposalCreator, ProposalTargetCreator, random_subset

NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_CUDA])]
SMALL = settings(max_examples=40, deadline=None)

whole = st.tuples(st.integers(-4, 14), st.integers(-4, 14), st.integers(1, 12), st.integers(1, 12)).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)
inner = st.tuples(st.integers(0, 14), st.integers(0, 14), st.integers(1, 6), st.integers(1, 6)).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)


def seeded(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def boxes(rows, device="cpu"):
    return torch.tensor(rows, dtype=torch.float32, device=device).reshape(-1, 4)


# Slow references, with whole corners: IoU is (squares in common, squares in all), compared without division


def iou_parts(a, b):
    common = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return common, (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common


def at_least(parts, tenths):
    return 10 * parts[0] >= tenths * parts[1]


def better(one, other):
    return one[0] * other[1] - other[0] * one[1]  # above 0, 0, below 0


def best_index(box, others):
    best = 0
    for k in range(1, len(others)):
        if better(iou_parts(box, others[k]), iou_parts(box, others[best])) > 0:
            best = k
    return best


def encode(source, target):
    sides = [(source[k + 2] - source[k], target[k + 2] - target[k]) for k in (0, 1)]
    shifts = [((target[k] + target[k + 2]) - (source[k] + source[k + 2])) / 2 / sides[k][0] for k in (0, 1)]
    return [*shifts, *(math.log(b / a) for a, b in sides)]


def slow_anchor_labels(anchors, gt, height, width, border=0):
    """1, 0 or −1 for each anchor, before sampling (Ren et al. 2015, 3.1.2)."""
    labels = []
    inside = [
        a[0] >= -border and a[1] >= -border and a[2] <= height + border and a[3] <= width + border for a in anchors
    ]
    for i, anchor in enumerate(anchors):
        if not inside[i]:
            labels.append(-1)
            continue
        overlaps = [iou_parts(anchor, b) for b in gt]
        label = 0 if not any(at_least(o, 3) for o in overlaps) else -1
        for b, own in zip(gt, overlaps):
            rivals = [iou_parts(a, b) for a, ok in zip(anchors, inside) if ok]
            if at_least(own, 7) or (own[0] > 0 and all(better(own, rival) >= 0 for rival in rivals)):
                label = 1
        labels.append(label)
    return labels


# random_subset


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("as_tensor", [False, True])
@SMALL
@given(mask=st.lists(st.booleans(), max_size=20), n=st.integers(0, 25), seed=st.integers(0, 99))
def test_random_subset_has_the_size_and_draws_from_the_mask(device, as_tensor, mask, n, seed):
    mask = torch.tensor(mask, dtype=torch.bool, device=device)
    count = torch.tensor(n, device=device) if as_tensor else n
    kept = random_subset(mask, count, seeded(seed, device))
    assert kept.dtype == torch.bool
    assert kept.sum() == min(n, int(mask.sum()))
    assert not (kept & ~mask).any()
    torch.rand(5)  # what else is drawn must not matter
    assert torch.equal(random_subset(mask, count, seeded(seed, device)), kept)


def test_random_subset_is_uniform():
    mask = torch.tensor([True, False, True, True, True, False, True])
    generator = seeded(3)
    draws = torch.stack([random_subset(mask, 2, generator) for _ in range(2000)]).long()
    counts = draws.sum(dim=0)[mask].double()
    expected = 2000 * 2 / 5
    # five cells; 23.5 is passed once in 10,000 times
    assert ((counts - expected) ** 2 / expected).sum() < 23.5
    pairs = (draws.T @ draws)[mask][:, mask].triu(1)
    pairs = pairs[pairs > 0].double()
    assert len(pairs) == 10
    assert ((pairs - 200) ** 2 / 200).sum() < 33.7  # ten cells


def test_random_subset_without_a_generator_takes_the_global_one():
    mask = torch.ones(50, dtype=torch.bool)
    torch.manual_seed(5)
    first = random_subset(mask, 10)
    torch.manual_seed(5)
    assert torch.equal(random_subset(mask, 10), first)
    assert not torch.equal(random_subset(mask, 10), first)


def test_the_defaults_are_the_contracts():
    creator = ProposalCreator()
    counts = (creator.n_train_pre_nms, creator.n_train_post_nms, creator.n_test_pre_nms, creator.n_test_post_nms)
    assert (creator.nms_thresh, creator.min_size, *counts) == (0.7, 16, 12000, 2000, 6000, 300)
    creator = AnchorTargetCreator()
    assert (creator.n_sample, creator.pos_iou_thresh, creator.neg_iou_thresh) == (256, 0.7, 0.3)
    assert (creator.pos_ratio, creator.allowed_border) == (0.5, 0)
    creator = ProposalTargetCreator()
    assert (creator.n_sample, creator.pos_ratio, creator.pos_iou_thresh) == (128, 0.25, 0.5)
    assert (creator.neg_iou_thresh_hi, creator.neg_iou_thresh_lo) == (0.5, 0.0)


# AnchorTargetCreator


@pytest.mark.parametrize("device", DEVICES)
@SMALL
@given(st.data())
def test_anchor_targets_without_sampling_follow_the_rules(device, data):
    anchors = data.draw(st.lists(whole, min_size=1, max_size=15))
    gt = data.draw(st.lists(inner, min_size=1, max_size=4))
    border = data.draw(st.sampled_from([0, 2, 100]))
    creator = AnchorTargetCreator(n_sample=1000, allowed_border=border)
    loc, label = creator(boxes(gt, device), boxes(anchors, device), (20, 18), seeded(0, device))
    assert label.dtype == torch.int64
    assert label.tolist() == slow_anchor_labels(anchors, gt, 20, 18, border)
    for anchor, own_loc, own_label in zip(anchors, loc.tolist(), label.tolist()):
        if own_label == 1:  # the others' offsets take no part
            assert own_loc == pytest.approx(encode(anchor, gt[best_index(anchor, gt)]), abs=1e-4)
    assert loc.isfinite().all()


@pytest.mark.parametrize("device", DEVICES)
def test_ties_at_the_thresholds(device):
    gt = [[0, 0, 10, 10]]
    anchors = [[0, 0, 10, 10], [0, 0, 7, 10], [0, 0, 10, 3], [0, 0, 6, 10], [0, 0, 2, 10], [10, 10, 20, 20]]
    _, label = AnchorTargetCreator()(boxes(gt, device), boxes(anchors, device), (20, 20), seeded(0, device))
    # IoU 1; .7 counts as positive; .3 is not below .3; .6 between; .2; 0
    assert label.tolist() == [1, 1, -1, -1, 0, 0]


def test_every_anchor_tied_for_a_boxs_best_is_positive():
    _, label = AnchorTargetCreator()(
        boxes([[0, 0, 10, 10]]), boxes([[0, 0, 5, 10], [5, 0, 10, 10], [0, 0, 4, 10], [0, 0, 1, 5]]), (20, 20), seeded()
    )
    assert label.tolist() == [1, 1, -1, 0]  # IoU .5, .5, .4, .05


def test_a_best_below_the_negative_threshold_is_positive():
    _, label = AnchorTargetCreator()(boxes([[0, 0, 10, 10]]), boxes([[0, 0, 1, 10], [0, 0, 1, 5]]), (20, 20), seeded())
    assert label.tolist() == [1, 0]


def test_clobbering_makes_such_a_best_negative():
    """py-faster-rcnn assigns the negatives last then; a best at or above the threshold stays positive."""
    creator = AnchorTargetCreator(clobber_positives=True)
    gt = boxes([[0, 0, 10, 10], [10, 10, 20, 20]])
    _, label = creator(gt, boxes([[0, 0, 1, 10], [0, 0, 1, 5], [10, 10, 20, 13]]), (20, 20), seeded())
    assert label.tolist() == [0, 0, 1]  # IoU .1, .05; .3 is not below .3


def test_a_box_that_touches_no_anchor_makes_no_positives():
    gt = boxes([[0, 0, 10, 10], [15, 15, 19, 19], [3, 3, 3, 3]])  # the last has no area
    loc, label = AnchorTargetCreator()(gt, boxes([[0, 0, 8, 10], [0, 10, 9, 20], [10, 0, 20, 10]]), (20, 20), seeded())
    assert label.tolist() == [1, 0, 0]
    assert loc.isfinite().all()


def test_anchors_outside_take_no_part_even_as_best():
    anchors = boxes([[-1, 0, 10, 10], [0, -1, 10, 10], [11, 0, 21, 9], [0, 11, 9, 21], [0, 0, 5, 10], [10, 10, 20, 20]])
    loc, label = AnchorTargetCreator()(boxes([[0, 0, 10, 10]]), anchors, (20, 20), seeded())
    assert label.tolist() == [-1, -1, -1, -1, 1, 0]
    assert loc[:4].abs().max() == 0


@pytest.mark.parametrize("device", DEVICES)
def test_an_image_without_boxes_is_background(device):
    anchors = boxes([[0, 0, 10, 10]] * 300 + [[-5, 0, 10, 10]], device)
    loc, label = AnchorTargetCreator()(boxes([], device), anchors, (20, 20), seeded(0, device))
    assert (label == 0).sum() == 256
    assert (label == 1).sum() == 0
    assert label[-1] == -1
    assert loc.shape == (301, 4)
    assert loc.abs().max() == 0


def test_no_anchors_and_no_boxes():
    loc, label = AnchorTargetCreator()(boxes([]), boxes([]), (20, 20), seeded())
    assert (loc.shape, label.shape) == ((0, 4), (0,))


@pytest.mark.parametrize(
    ("n_pos", "n_neg", "expected"),
    [(200, 400, (128, 128)), (20, 400, (20, 236)), (200, 50, (128, 50)), (3, 5, (3, 5)), (128, 128, (128, 128))],
)
def test_anchor_sample_counts(n_pos, n_neg, expected):
    anchors = boxes([[0, 0, 10, 10]] * n_pos + [[10, 10, 20, 20]] * n_neg + [[0, 0, 10, 5]] * 7)
    _, label = AnchorTargetCreator()(boxes([[0, 0, 10, 10]]), anchors, (20, 20), seeded())
    assert ((label[:n_pos] == 1).sum(), (label[n_pos : n_pos + n_neg] == 0).sum()) == expected
    assert ((label == 1).sum(), (label == 0).sum()) == expected
    assert (label[-7:] == -1).all()


def test_anchor_targets_take_numpy_and_repeat_with_the_seed():
    anchors = np.array([[0, 0, 10, 10]] * 30 + [[10, 10, 20, 20]] * 30, dtype=np.float32)
    gt = np.array([[0, 0, 10, 10]], dtype=np.float32)
    creator = AnchorTargetCreator(n_sample=10)
    first, again, other = (creator(gt, anchors, (20, 20), seeded(s))[1] for s in (1, 1, 2))
    assert torch.equal(first, creator(torch.from_numpy(gt), torch.from_numpy(anchors), (20, 20), seeded(1))[1])
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# ProposalTargetCreator


def unsampled(pos_iou=0.5, lo=0.0):
    return ProposalTargetCreator(n_sample=1000, pos_ratio=0.5, pos_iou_thresh=pos_iou, neg_iou_thresh_lo=lo)


@pytest.mark.parametrize("device", DEVICES)
@SMALL
@given(st.data())
def test_proposal_targets_without_sampling_follow_the_rules(device, data):
    rois = data.draw(st.lists(whole, max_size=10))
    gt = data.draw(st.lists(inner, min_size=1, max_size=4))
    lo = data.draw(st.sampled_from([0.0, 0.1]))
    labels = list(range(3, 3 + len(gt)))
    arguments = (boxes(rois, device), boxes(gt, device), torch.tensor(labels, dtype=torch.int32, device=device))
    roi, loc, label = unsampled(lo=lo)(*arguments, generator=seeded(0, device))
    positives, negatives = [], []
    for r in rois + gt:
        k = best_index(r, gt)
        overlap = iou_parts(r, gt[k])
        normalised = [v / s for v, s in zip(encode(r, gt[k]), (0.1, 0.1, 0.2, 0.2))]
        if at_least(overlap, 5):
            positives.append((r, normalised, labels[k] + 1))
        elif at_least(overlap, 10 * lo):
            negatives.append((r, normalised, 0))
    n_used = len(positives + negatives)
    assert roi[:n_used].tolist() == [r for r, _, _ in positives + negatives]
    assert label[:n_used].tolist() == [n for _, _, n in positives + negatives]
    assert len(label) == len(rois + gt)  # as many slots as candidates; the others take no part
    assert (label[n_used:] == -1).all()
    assert label.dtype == torch.int64
    for own, (_, expected, _) in zip(loc.tolist(), positives):
        assert own == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_normalisation_by_hand():
    gt = boxes([[0, 0, 10, 20]])
    roi = boxes([[2, 0, 12, 20]])  # moved by 2 of its height 10: dy = −0.2
    creator = unsampled()
    _, loc, label = creator(roi, gt, [4], generator=seeded())
    assert loc.tolist() == [[pytest.approx(v, abs=1e-5) for v in row] for row in ([-2, 0, 0, 0], [0, 0, 0, 0])]
    assert label.tolist() == [5, 5]
    _, loc, _ = creator(roi, gt, [4], (0.1, 0.2, 0.3, 0.4), (0.5, 0.1, 0.2, 1.0), seeded())
    expected = ([-0.6, -2, -1.5, -0.4], [-0.2, -2, -1.5, -0.4])
    assert loc.tolist() == [[pytest.approx(v, abs=1e-5) for v in row] for row in expected]


@pytest.mark.parametrize("device", DEVICES)
def test_iou_of_one_half_is_positive(device):
    rois = boxes([[0, 0, 5, 10], [0, 0, 5, 9], [20, 20, 30, 30]], device)
    _, _, label = unsampled()(rois, boxes([[0, 0, 10, 10]], device), torch.zeros(1), generator=seeded(0, device))
    assert label.tolist() == [1, 1, 0, 0]  # .5 and the box itself, then .45 and 0


@pytest.mark.parametrize(
    ("n_pos", "n_neg", "expected"),
    [(100, 500, (32, 96)), (9, 500, (10, 118)), (100, 20, (32, 20)), (0, 0, (1, 0)), (31, 96, (32, 96))],
)
def test_proposal_sample_counts(n_pos, n_neg, expected):
    """The true box joins the proposals: one positive more."""
    rois = boxes([[0, 0, 10, 9]] * n_pos + [[10, 10, 20, 20]] * n_neg)
    roi, loc, label = ProposalTargetCreator()(rois, boxes([[0, 0, 10, 10]]), [2], generator=seeded())
    assert ((label == 3).sum(), (label == 0).sum()) == expected
    assert len(roi) == len(loc) == len(label) == min(128, n_pos + n_neg + 1)
    assert (label == -1).sum() == len(label) - sum(expected)
    assert label.tolist() == sorted(label.tolist(), reverse=True), "positives first"


@pytest.mark.parametrize("as_tensor", [False, True])
def test_unused_proposals_are_never_drawn(as_tensor):
    rois = boxes([[i, 0, i + 10, 10] for i in range(40)] + [[0, 0, 0, 0]] * 60)
    n_roi = torch.tensor(40) if as_tensor else 40
    for gt, label in ((boxes([[3, 0, 13, 10]]), [2]), (boxes([]), [])):
        label = torch.tensor(label, dtype=torch.int64)
        roi, loc, roi_label = ProposalTargetCreator()(rois, gt, label, generator=seeded(), n_roi=n_roi)
        used = roi_label >= 0
        assert used.sum() == 40 + len(gt)
        assert (roi[used][:, 2] > 0).all()
        assert loc.isfinite().all()
        assert loc[~used].abs().sum() == 0


@pytest.mark.parametrize("device", DEVICES)
def test_proposals_of_an_image_without_boxes_are_background(device):
    rois = boxes([[i, 0, i + 10, 10] for i in range(200)], device)
    none = torch.zeros(0, dtype=torch.int32, device=device)
    roi, loc, label = ProposalTargetCreator()(rois, boxes([], device), none, generator=seeded(0, device))
    assert roi.shape == loc.shape == (128, 4)
    assert len({tuple(r) for r in roi.tolist()}) == 128
    assert loc.abs().max() == 0
    assert label.tolist() == [0] * 128
    assert label.dtype == torch.int64
    roi, loc, label = ProposalTargetCreator()(boxes([], device), boxes([], device), none)
    assert (roi.shape, loc.shape, label.shape) == ((0, 4), (0, 4), (0,))


def test_zero_area_rois_and_boxes_give_finite_targets():
    rois = boxes([[5, 5, 5, 5], [0, 0, 0, 10], [0, 0, 10, 10]])
    _, loc, label = unsampled()(rois, boxes([[0, 0, 10, 10], [7, 7, 7, 7]]), [0, 1], generator=seeded())
    assert loc.isfinite().all()
    assert label.tolist() == [1, 1, 0, 0, 0]


def test_proposal_targets_take_numpy_and_repeat_with_the_seed():
    rois = np.array([[0, 0, 10, i] for i in range(1, 61)], dtype=np.float32)
    gt, gt_label = np.array([[0, 0, 10, 40]], dtype=np.float32), np.array([1], dtype=np.int32)
    creator = ProposalTargetCreator(n_sample=12)
    first, again, other = (creator(rois, gt, gt_label, generator=seeded(s))[0] for s in (1, 1, 2))
    tensors = map(torch.from_numpy, (rois, gt, gt_label))
    assert torch.equal(first, creator(*tensors, generator=seeded(1))[0])
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_no_gradient_flows_through_the_targets():
    roi = boxes([[0, 0, 10, 9]]).requires_grad_()
    assert not any(out.requires_grad for out in unsampled()(roi, boxes([[0, 0, 10, 10]]), [0], generator=seeded()))
    loc = torch.zeros(1, 4, requires_grad=True)
    assert not ProposalCreator()(loc, torch.ones(1), boxes([[0, 0, 20, 20]]), (30, 30)).requires_grad


def test_reversed_views_are_taken():
    """x, y boxes turned round are a view with negative strides, which torch refuses by itself."""
    gt = np.array([[10, 0, 20, 10], [0, 0, 9, 9]], dtype=np.float32)[:, [1, 0, 3, 2]][::-1]
    anchor = np.array([[0, 0, 10, 10], [0, 10, 10, 20]], dtype=np.float32)[::-1]
    _, label = AnchorTargetCreator()(gt, anchor, (40, 40))
    assert label.tolist() == [1, 1]
    roi, _, _ = unsampled()(anchor, gt, np.array([1, 0])[::-1], generator=seeded())
    assert len(roi) == 4
    assert len(ProposalCreator(min_size=1)(np.zeros((2, 4))[::-1], np.arange(2.0)[::-1], anchor, (40, 40))) == 2
