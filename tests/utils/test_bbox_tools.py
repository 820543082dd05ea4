"""utils/bbox_tools.py against one-box-at-a-time formulas of the paper and hand-computed cases."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.bbox_tools import (
    MAX_LOG_SCALE,
    bbox2loc,
    bbox_iou,
    clip_bbox,
    flip_bbox,
    loc2bbox,
    pixel_edges,
    resize_bbox,
    yx2xy,
)

NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_CUDA])]
SMALL = settings(max_examples=50, deadline=None)

number = st.floats(-200, 200, width=32)
side = st.floats(1, 300, width=32)
box = st.tuples(number, number, side, side).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])
whole = st.tuples(*[st.integers(0, 12)] * 4).map(
    lambda b: [min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3])]
)  # zero-area boxes too


# Slow references: Ren et al. 2015, equation 2, box by box in double precision


def slow_encode(source, target):
    y_a, x_a = (source[0] + source[2]) / 2, (source[1] + source[3]) / 2
    h_a, w_a = source[2] - source[0], source[3] - source[1]
    y, x = (target[0] + target[2]) / 2, (target[1] + target[3]) / 2
    h, w = target[2] - target[0], target[3] - target[1]
    return [(y - y_a) / h_a, (x - x_a) / w_a, math.log(h / h_a), math.log(w / w_a)]


def slow_decode(source, loc):
    y_a, x_a = (source[0] + source[2]) / 2, (source[1] + source[3]) / 2
    h_a, w_a = source[2] - source[0], source[3] - source[1]
    y, x = loc[0] * h_a + y_a, loc[1] * w_a + x_a
    h, w = math.exp(loc[2]) * h_a, math.exp(loc[3]) * w_a
    return [y - h / 2, x - w / 2, y + h / 2, x + w / 2]


def slow_iou_of_whole_boxes(a, b):
    """Counts the unit squares of each box: only for boxes with whole corners."""
    squares_a, squares_b = ({(y, x) for y in range(c[0], c[2]) for x in range(c[1], c[3])} for c in (a, b))
    union = squares_a | squares_b
    return len(squares_a & squares_b) / len(union) if union else 0.0


# loc


@SMALL
@given(st.lists(st.tuples(box, box), min_size=1, max_size=5))
def test_encode_and_decode_agree_with_the_formulas_and_undo_each_other(pairs):
    source = torch.tensor([a for a, _ in pairs], dtype=torch.float64)
    target = torch.tensor([b for _, b in pairs], dtype=torch.float64)
    loc = bbox2loc(source, target)
    expected = torch.tensor([slow_encode(a.tolist(), b.tolist()) for a, b in zip(source, target)], dtype=torch.float64)
    torch.testing.assert_close(loc, expected, rtol=1e-9, atol=1e-9)
    far = (loc[:, 2:] > MAX_LOG_SCALE).any(dim=1)  # beyond what is decoded
    torch.testing.assert_close(loc2bbox(source, loc)[~far], target[~far], rtol=1e-9, atol=1e-6)


@SMALL
@given(st.lists(st.tuples(box, st.tuples(*[st.floats(-3, 3, width=32)] * 4)), min_size=1, max_size=5))
def test_decode_agrees_with_the_formula(pairs):
    source = torch.tensor([a for a, _ in pairs], dtype=torch.float64)
    loc = torch.tensor([t for _, t in pairs], dtype=torch.float64)
    expected = torch.tensor([slow_decode(a.tolist(), t.tolist()) for a, t in zip(source, loc)], dtype=torch.float64)
    torch.testing.assert_close(loc2bbox(source, loc), expected, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_loc_by_hand(device):
    source = torch.tensor([[0.0, 0.0, 10.0, 20.0]], device=device)
    target = torch.tensor([[5.0, 10.0, 25.0, 20.0]], device=device)  # centre (15, 15), 20 high, 10 wide
    loc = bbox2loc(source, target)
    expected = torch.tensor([[1.0, 0.25, math.log(2), -math.log(2)]], device=device)
    torch.testing.assert_close(loc, expected)
    torch.testing.assert_close(loc2bbox(source, loc), target)


def test_decode_takes_one_offset_a_class():
    source = torch.tensor([[[0.0, 0.0, 4.0, 4.0]], [[2.0, 2.0, 4.0, 4.0]]])  # (2, 1, 4)
    loc = torch.zeros(2, 3, 4)
    loc[:, 1, 0] = 1.0
    out = loc2bbox(source, loc)
    assert out.shape == (2, 3, 4)
    assert out[:, 0].tolist() == out[:, 2].tolist() == source[:, 0].tolist()
    assert out[:, 1].tolist() == [[4, 0, 8, 4], [4, 2, 6, 4]]


def test_zero_area_and_huge_offsets_stay_finite():
    boxes = torch.tensor([[3.0, 3.0, 3.0, 3.0], [3.0, 3.0, 3.0, 9.0], [0.0, 0.0, 1000.0, 600.0]])
    for source in boxes:
        for target in boxes:
            assert bbox2loc(source[None], target[None]).isfinite().all()
    wild = torch.tensor([[0.0, 0.0, 500.0, 500.0]])
    assert loc2bbox(boxes[2:], wild).isfinite().all()
    assert loc2bbox(boxes[:1], wild).tolist() == [[3, 3, 3, 3]]


def test_no_boxes():
    none = torch.zeros(0, 4)
    some = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    assert loc2bbox(none, none).shape == bbox2loc(none, none).shape == (0, 4)
    assert loc2bbox(torch.zeros(0, 1, 4), torch.zeros(0, 3, 4)).shape == (0, 3, 4)
    assert bbox_iou(none, some).shape == (0, 1)
    assert bbox_iou(some, none).shape == (1, 0)
    assert clip_bbox(none, (5, 5)).shape == flip_bbox(none, (5, 5)).shape == (0, 4)
    assert resize_bbox(none, (5, 5), (10, 10)).shape == yx2xy(none).shape == (0, 4)


# IoU


@SMALL
@given(st.lists(whole, min_size=1, max_size=4), st.lists(whole, min_size=1, max_size=4))
def test_iou_counts_squares(a, b):
    iou = bbox_iou(torch.tensor(a, dtype=torch.float32), torch.tensor(b, dtype=torch.float32))
    expected = torch.tensor([[slow_iou_of_whole_boxes(one, other) for other in b] for one in a])
    torch.testing.assert_close(iou, expected, rtol=1e-6, atol=0)


@SMALL
@given(st.lists(box, min_size=1, max_size=5))
def test_iou_is_symmetric_within_0_and_1_and_one_with_itself(boxes):
    boxes = torch.tensor(boxes, dtype=torch.float64)
    iou = bbox_iou(boxes, boxes)
    torch.testing.assert_close(iou, iou.T)
    torch.testing.assert_close(iou.diagonal(), torch.ones(len(boxes), dtype=torch.float64))
    assert iou.min() >= 0
    assert iou.max() <= 1 + 1e-12


@pytest.mark.parametrize("device", DEVICES)
def test_iou_by_hand(device):
    a = torch.tensor([[0.0, 0.0, 1.0, 10.0], [5.0, 5.0, 5.0, 9.0]], device=device)
    b = torch.tensor(
        [[0.0, 0.0, 1.0, 7.0], [0.0, 0.0, 1.0, 3.0], [0.0, 5.0, 2.0, 10.0], [0.0, 10.0, 1.0, 12.0]], device=device
    )  # the last one touches: no common area
    assert bbox_iou(a, b).tolist() == [[pytest.approx(v) for v in (0.7, 0.3, 1 / 3, 0)], [0, 0, 0, 0]]
    assert bool((bbox_iou(a, b)[0, 0] >= 0.7) & ~(bbox_iou(a, b)[0, 1] < 0.3)), "ties must compare as ties"


def test_inverted_box_has_no_overlap():
    inverted = torch.tensor([[8.0, 8.0, 2.0, 2.0]])
    around = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    assert bbox_iou(inverted, around).item() == 0
    assert bbox_iou(inverted, inverted).item() == 0


# Pictures


def test_clip_by_hand():
    boxes = torch.tensor([[-5.0, -6.0, 700.0, 900.0], [1.0, 2.0, 3.0, 4.0], [-9.0, 820.0, -1.0, 900.0]])
    expected = [[0, 0, 600, 800], [1, 2, 3, 4], [0, 800, 0, 800]]
    assert clip_bbox(boxes, (600, 800)).tolist() == expected
    assert clip_bbox(boxes[:, None].expand(3, 2, 4), (600, 800))[:, 1].tolist() == expected


@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_flip_and_resize_by_hand_leave_the_original_alone(make):
    boxes = make([[1.0, 2.0, 3.0, 7.0]])
    assert flip_bbox(boxes, (50, 10)).tolist() == [[1, 3, 3, 8]]
    assert resize_bbox(boxes, (50, 10), (100, 40)).tolist() == [[2, 8, 6, 28]]
    assert boxes.tolist() == [[1, 2, 3, 7]]


@SMALL
@given(whole, st.integers(12, 20))
def test_flip_follows_the_pixels(one, width):
    mask = np.zeros((12, width), bool)
    mask[one[0] : one[2], one[1] : one[3]] = True
    flipped = flip_bbox(np.array([one]), (12, width))[0]
    again = np.zeros_like(mask)
    again[flipped[0] : flipped[2], flipped[1] : flipped[3]] = True
    np.testing.assert_array_equal(again, mask[:, ::-1])


def test_yx2xy_is_its_own_inverse():
    boxes = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
    assert yx2xy(boxes).tolist() == [[[2, 1, 4, 3]]]
    assert torch.equal(yx2xy(yx2xy(boxes)), boxes)


def test_non_contiguous_boxes():
    wide = torch.arange(24.0).reshape(3, 8)
    boxes = wide[:, ::2]  # a view with steps
    assert torch.equal(bbox_iou(boxes, boxes), bbox_iou(boxes.clone(), boxes.clone()))
    assert torch.equal(bbox2loc(boxes, boxes + 1), bbox2loc(boxes.contiguous(), boxes.contiguous() + 1))


def test_pixels_of_an_index_have_edges():
    assert pixel_edges(torch.tensor([[3.0, 4.0, 3.0, 9.0]])).tolist() == [[3, 4, 4, 10]]
    box = torch.rand(2, 5, 4)
    assert pixel_edges(box, 0) is box
