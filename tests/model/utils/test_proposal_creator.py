"""ProposalCreator of model/utils/creator_tool.py: hand-computed cases, and batches against single images."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from model.utils.creator_tool import ProposalCreator
from tests.model.utils.test_creator_tool import DEVICES, boxes, seeded


@pytest.mark.parametrize("device", DEVICES)
def test_proposals_by_hand(device):
    anchor = boxes([[0, 0, 40, 40], [0, 0, 40, 40], [-20, 50, 40, 90], [50, 50, 58, 90], [60, 0, 100, 40]], device)
    loc = torch.zeros(5, 4, device=device)
    loc[1] = torch.tensor([0.25, 0.5, 0, math.log(0.5)])  # → centre (30, 40), 40 high, 20 wide: (10, 30, 50, 50)
    score = torch.tensor([0.1, 0.2, 0.3, 0.9, 0.4], device=device)  # the fourth is 8 high: too small
    out = ProposalCreator()(loc, score, anchor, (100, 80), 1.0)
    assert out.dtype == torch.float32
    torch.testing.assert_close(
        out, boxes([[60, 0, 100, 40], [0, 50, 40, 80], [10, 30, 50, 50], [0, 0, 40, 40]], device)
    )


def test_proposals_take_numpy():
    anchor = np.array([[0, 0, 40, 40], [50, 0, 90, 40]], dtype=np.float32)
    out = ProposalCreator()(np.zeros((2, 4), np.float32), np.array([0.1, 0.2]), anchor, (100, 100))
    assert out.tolist() == [[50, 0, 90, 40], [0, 0, 40, 40]]


@pytest.mark.parametrize(("side", "scale", "kept"), [(16, 1.0, 1), (15.5, 1.0, 0), (31.5, 2.0, 0), (32, 2.0, 1)])
def test_min_size_counts_pixels_of_the_original(side, scale, kept):
    anchor = boxes([[0, 0, side, 50], [0, 0, 50, side]])
    for one in anchor:
        out = ProposalCreator()(torch.zeros(1, 4), torch.ones(1), one[None], (100, 100), scale)
        assert len(out) == kept


def test_min_size_is_taken_after_clipping():
    out = ProposalCreator()(torch.zeros(1, 4), torch.ones(1), boxes([[-40, 0, 10, 50]]), (100, 100))
    assert out.shape == (0, 4)


@pytest.mark.parametrize("device", DEVICES)
def test_no_proposals(device):
    creator, none = ProposalCreator(), torch.zeros(0, 4, device=device)
    assert creator(none, none[:, 0], none, (100, 100)).shape == (0, 4)
    small = boxes([[0, 0, 5, 50], [7, 7, 7, 7]], device)  # all too small, one without area
    assert creator(torch.zeros_like(small), torch.ones(2, device=device), small, (100, 100)).shape == (0, 4)


def test_nms_keeps_a_tie_and_equal_scores_keep_their_order():
    anchor = boxes([[0, 0, 100, 100], [0, 0, 70, 100], [0, 0, 71, 100], [20, 0, 90, 100]])  # IoU .7, .71 with the first
    out = ProposalCreator()(torch.zeros(4, 4), torch.full((4,), 0.5), anchor, (100, 100))
    assert out.tolist() == [[0, 0, 100, 100], [0, 0, 70, 100], [20, 0, 90, 100]]


@pytest.mark.parametrize(("training", "pre", "post"), [(True, 6, 4), (False, 3, 2), (None, 3, 2)])
def test_counts_follow_the_mode_of_the_parent(training, pre, post):
    parent = None if training is None else nn.Identity().train(training)
    params = {"n_train_pre_nms": 6, "n_train_post_nms": 100, "n_test_pre_nms": 3, "n_test_post_nms": 100}
    anchor = boxes([[0, x, 20, x + 20] for x in range(0, 300, 30)])  # apart from each other
    score = torch.tensor([3.0, 9, 1, 7, 5, 0, 8, 2, 6, 4])
    order = [1, 6, 3, 8, 4, 9, 0, 7, 2, 5]
    arguments = (torch.zeros(10, 4), score, anchor, (100, 300))
    assert torch.equal(ProposalCreator(parent, **params)(*arguments), anchor[order[:pre]])
    params |= {"n_train_post_nms": 4, "n_test_post_nms": 2}
    assert torch.equal(ProposalCreator(parent, **params)(*arguments), anchor[order[:post]])


def test_pre_nms_count_is_taken_before_suppression():
    anchor = boxes([[0, 0, 20, 20]] * 3 + [[50, 50, 90, 90]])
    out = ProposalCreator(n_test_pre_nms=3)(torch.zeros(4, 4), torch.tensor([4.0, 3, 2, 1]), anchor, (100, 100))
    assert out.tolist() == [[0, 0, 20, 20]]


def test_a_batch_of_images_has_the_proposals_of_each():
    """Anchors that are not the image's own are left out; unused slots are 0."""
    generator = seeded(4)
    corner = torch.rand(60, 2, generator=generator) * 80
    anchor = torch.cat([corner, corner + 8 + torch.rand(60, 2, generator=generator) * 40], dim=1)
    loc, score = torch.randn(3, 60, 4, generator=generator) * 0.2, torch.rand(3, 60, generator=generator)
    valid = torch.rand(3, 60, generator=generator) < torch.tensor([[0.9], [0.2], [0.0]])
    sizes, scales = [(100, 80), (60, 120), (90, 90)], [1.0, 0.5, 2.0]
    creator = ProposalCreator(n_test_post_nms=25, min_size=14)
    roi, n_roi, roi_score = creator.batch(loc, score, anchor, sizes, scales, valid)
    assert roi.shape == (3, 25, 4)
    assert n_roi[0] > n_roi[1] > n_roi[2] == 0
    for i in range(3):
        alone = creator(loc[i][valid[i]], score[i][valid[i]], anchor[valid[i]], sizes[i], scales[i])
        assert torch.equal(roi[i, : n_roi[i]], alone)
        assert roi[i, n_roi[i] :].abs().sum() == 0
        assert (roi_score[i, : n_roi[i]].diff() <= 0).all()
        assert (roi_score[i, n_roi[i] :] == -math.inf).all()


def test_unused_slots_are_zero_whatever_the_offsets_are():
    anchor = boxes([[0, 0, 40, 40], [50, 0, 90, 40]])
    loc = torch.full((1, 2, 4), float("nan"))
    roi, n_roi, _ = ProposalCreator(n_test_post_nms=3).batch(loc, torch.rand(1, 2), anchor, [(100, 100)], [1.0])
    assert n_roi.tolist() == [0]
    assert (roi == 0).all()
