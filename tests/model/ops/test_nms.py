"""model/ops/nms.py against plain greedy suppression in exact arithmetic."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.ops.nms import batched_nms, nms, nms_padded

SMALL = settings(max_examples=50, deadline=None)


def exact_iou(a, b):
    """Fraction, for whole corners and some area."""
    height = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    width = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - height * width
    return Fraction(height * width, union)


def slow_nms(boxes, scores, thresh):
    """The textbook's loop; of equal scores the first box goes first."""
    thresh = Fraction(str(thresh))
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(exact_iou(boxes[i], boxes[k]) <= thresh for k in kept):
            kept.append(i)
    return kept


def random_boxes(n, span, seed):
    """n whole boxes within about `span` pixels (a small span: much overlap) and scores with ties."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, span, (n, 2), generator=generator)
    size = torch.randint(5, 20, (n, 2), generator=generator)
    scores = torch.randint(0, max(2, n), (n,), generator=generator) / max(2, n)
    return torch.cat([corner, corner + size], dim=1), scores


whole = st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 9), st.integers(1, 9)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


GREEDY_CASES = given(
    rows=st.lists(st.tuples(whole, st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])), max_size=12),
    thresh=st.sampled_from([0.0, 0.5, 0.7, 1.0]),
    n_post=st.sampled_from([None, 0, 1, 3, 50]),
)


@SMALL
@GREEDY_CASES
def test_nms_is_the_greedy_loop(path, rows, thresh, n_post):
    boxes, scores = [box for box, _ in rows], [score for _, score in rows]
    box_tensor = torch.tensor(boxes, dtype=torch.float32, device=path.device).reshape(-1, 4)
    with path.run():
        keep = nms(box_tensor, torch.tensor(scores, device=path.device), thresh, n_post)
    assert keep.dtype == torch.int64
    assert keep.tolist() == slow_nms(boxes, scores, thresh)[:n_post]


@pytest.mark.parametrize("span", [15, 60, 2000])  # nearly all suppressed, some, none
@pytest.mark.parametrize("n_post", [3, 40, None])
@pytest.mark.parametrize("times", [1, 2, 7])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_chunks_change_nothing(span, n_post, times, more, monkeypatch):
    monkeypatch.setattr("model.ops.nms.CHUNK", 12)
    boxes, scores = random_boxes(12 * times + more, span, seed=span + times)
    for thresh in (0.0, 0.5):
        expected = slow_nms(boxes.tolist(), scores.tolist(), thresh)[:n_post]
        assert nms(boxes.float(), scores, thresh, n_post).tolist() == expected


@settings(max_examples=100, deadline=None)
@GREEDY_CASES
def test_ties_between_chunks(rows, thresh, n_post):
    boxes, scores = [box for box, _ in rows], [score for _, score in rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.ops.nms.CHUNK", 2)
        keep = nms(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.tensor(scores), thresh, n_post)
    assert keep.tolist() == slow_nms(boxes, scores, thresh)[:n_post]


def test_a_chunk_full_of_copies_is_not_the_end(monkeypatch):
    """More copies of one box than the first chunks hold, then the boxes that must be found behind them."""
    monkeypatch.setattr("model.ops.nms.CHUNK", 50)
    copies = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(200, 1)
    others = torch.tensor([[0.0, 100.0, 10.0, 110.0], [0.0, 200.0, 10.0, 210.0]])
    boxes, scores = torch.cat([copies, others]), torch.linspace(1, 0, 202)
    assert nms(boxes, scores, 0.7, 2).tolist() == [0, 200]
    assert nms(boxes, scores, 0.7, 3).tolist() == [0, 200, 201]
    assert nms(boxes, scores, 0.7, 300).tolist() == [0, 200, 201]


@pytest.mark.parametrize("n_post", [None, 5])
@pytest.mark.parametrize(("thresh", "width"), [(0.3, 3.0), (0.5, 5.0), (0.7, 7.0)])
def test_iou_exactly_at_the_threshold_keeps_both(path, n_post, thresh, width):
    """The contract: suppressed above the threshold, not at it."""
    scores = torch.tensor([0.9, 0.8], device=path.device)
    tie = torch.tensor([[0.0, 0.0, 1.0, 10.0], [0.0, 0.0, 1.0, width]], device=path.device)
    above = torch.tensor([[0.0, 0.0, 1.0, 10.0], [0.0, 0.0, 1.0, width + 0.01]], device=path.device)
    with path.run():
        assert nms(tie, scores, thresh, n_post).tolist() == [0, 1]
        assert nms(above, scores, thresh, n_post).tolist() == [0]


@pytest.mark.parametrize("n_post", [None, 2])
def test_equal_scores_keep_their_order(path, n_post):
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2], [5, 5, 7, 7], [9, 9, 12, 12]], device=path.device)
    with path.run():
        keep = nms(boxes, torch.full((4,), 0.5, device=path.device), 0.7, n_post)
    assert keep.tolist() == [0, 2, 3][:n_post]


@pytest.mark.parametrize("n_post", [None, 0, 3])
def test_no_boxes(path, n_post):
    none = torch.zeros(0, 4, device=path.device)
    with path.run():
        keep = nms(none, none[:, 0], 0.5, n_post)
        assert batched_nms(none, none[:, 0], none[:, 0].long(), 0.5).shape == (0,)
    assert keep.shape == (0,)
    assert keep.dtype == torch.int64


@pytest.mark.parametrize("n_post", [None, 3])
def test_zero_area_boxes_neither_suppress_nor_fall(n_post):
    boxes = torch.tensor([[4.0, 4, 4, 4], [4, 4, 4, 4], [0, 0, 8, 8]])
    assert sorted(nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5, n_post).tolist()) == [0, 1, 2]


def test_y_and_x_are_not_confused():
    boxes = torch.tensor([[0.0, 0, 10, 2], [0, 0, 2, 10]])  # a tall and a wide box: IoU 4/36
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.2).tolist() == [0, 1]
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.1).tolist() == [0]


def test_non_contiguous_boxes():
    boxes, scores = random_boxes(60, 30, seed=5)
    wide = torch.zeros(60, 8)
    wide[:, ::2] = boxes.float()
    column = torch.stack([scores, -scores], dim=1)
    assert nms(wide[:, ::2], column[:, 0], 0.5, 4).tolist() == slow_nms(boxes.tolist(), scores.tolist(), 0.5)[:4]


@pytest.mark.parametrize("span", [12, 60])
def test_batched_nms_works_group_by_group(path, span):
    boxes, scores = random_boxes(140, span, seed=9)
    scores = torch.randperm(140, generator=torch.Generator().manual_seed(1)) / 140  # no ties between the groups
    group = torch.tensor([7, 0, 3, 7] * 35)
    expected = []
    for k in (0, 3, 7):
        own = [i for i in range(140) if group[i] == k]
        expected += [own[j] for j in slow_nms(boxes[own].tolist(), scores[own].tolist(), 0.5)]
    expected.sort(key=lambda i: -scores[i])
    with path.run():
        keep = batched_nms(boxes.float().to(path.device), scores.to(path.device), group.to(path.device), 0.5)
        first = batched_nms(boxes.float().to(path.device), scores.to(path.device), group.to(path.device), 0.5, 9)
    assert keep.tolist() == expected
    assert first.tolist() == expected[:9]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_boxes_of_any_precision(path, dtype):
    boxes, scores = random_boxes(60, 30, seed=5)
    with path.run():
        keep = nms(boxes.to(path.device, dtype), scores.to(path.device), 0.5)
    assert keep.tolist() == slow_nms(boxes.tolist(), scores.tolist(), 0.5)


def test_groups_far_apart(path):
    """Whose lower 32 bits are the same."""
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 9]], device=path.device)
    group = torch.tensor([1, 1 + 2**32], device=path.device)
    with path.run():
        assert batched_nms(boxes, boxes[:, 2], group, 0.5).tolist() == [0, 1]


@pytest.mark.parametrize("count", [-3, 0, 2, 99])
def test_counts_are_kept_within_the_boxes(path, count):
    boxes, _ = random_boxes(5, 1000, seed=1)
    with path.run():
        kept = nms_padded(boxes.float()[None].to(path.device), 0.5, 9, count=torch.tensor([count], device=path.device))
    expected = list(range(min(max(count, 0), 5)))
    assert kept.count.tolist() == [len(expected)]
    assert kept.index[0].tolist() == expected + [-1] * (9 - len(expected))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"group": torch.zeros(1, 5)}, "must be whole numbers"),
        ({"group": torch.zeros(1, 4, dtype=torch.int64)}, r"must be whole numbers, \(1, 5\)"),
        ({"count": torch.zeros(2, dtype=torch.int64)}, "one for each of the 1 images"),
    ],
)
def test_what_does_not_fit_is_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        nms_padded(torch.zeros(1, 5, 4), 0.5, 3, **keywords)
    with pytest.raises(ValueError, match="must be"):
        nms_padded(torch.zeros(1, 5, 5), 0.5, 3)
