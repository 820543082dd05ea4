"""data/augmentation.py: which part of a picture a scale crop takes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.augmentation import draw_augmentation, random_window

NO_BOXES = np.zeros((0, 4))
SIZES = st.tuples(st.integers(1, 300), st.integers(1, 300))


def window(size, bbox, min_iou, *trials):
    return random_window(size, np.array(bbox, np.float32).reshape(-1, 4), min_iou, np.array(trials))


def test_windows_by_hand():
    least, all_of_it, low_right = [0, 0, 0, 0], [0.9999, 0.9999, 0, 0], [0, 0, 0.9999, 0.9999]
    assert window((100, 200), [], 0.9, least) == (0, 0, 30, 60)
    assert window((100, 200), [], 0, all_of_it) == (0, 0, 100, 200)
    assert window((100, 200), [], 0, low_right) == (70, 140, 100, 200)
    assert window((100, 200), [], 0, [0.5, 0, 0.5, 0.5]) == (18, 70, 83, 130)  # of 36 and 141 places
    assert window((100, 210), [], 0, least) is None  # 30×63
    assert window((100, 210), [], 0, least, low_right, all_of_it, [0.5, 0, 0, 0]) == (0, 0, 65, 63)
    assert window((1, 1), [], 0, least) == (0, 0, 1, 1)
    assert window((1, 9), [], 0, least, all_of_it) is None


@pytest.mark.parametrize(
    ("box", "min_iou", "is_shown"),
    [
        ([0, 0, 30, 60], 0.9, True),
        ([0, 0, 30, 30], 0.5, True),
        ([0, 0, 30, 29], 0.5, False),  # 29 / 60
        ([10, 10, 12, 12], 0.0, True),
        ([10, 10, 12, 12], 0.1, False),
        ([0, 0, 59, 119], 0.0, True),  # centre 29.5, 59.5
        ([0, 0, 60, 119], 0.0, False),  # its centre is the first point outside
        ([40, 80, 90, 160], 0.0, False),
        ([10, 10, 10, 12], 0.0, True),  # without area: no box to show, so any window will do
    ],
)
def test_what_a_window_must_show(box, min_iou, is_shown):
    least = [0, 0, 0, 0]
    assert window((100, 200), box, min_iou, least) == ((0, 0, 30, 60) if is_shown else None)
    far = [[40, 80, 90, 190], box]  # one of several boxes is enough
    if box[0] < box[2]:
        assert window((100, 200), far, min_iou, least) == ((0, 0, 30, 60) if is_shown else None)


@settings(max_examples=300, deadline=None)
@given(SIZES, st.integers(0, 10**6), st.booleans())
def test_windows_lie_in_the_picture_and_vary_its_scale(size, seed, has_box):
    bbox = np.array([[0, 0, *size]], np.float32) if has_box else NO_BOXES
    drawn = draw_augmentation(np.random.default_rng(seed), size, bbox, scale_crop=1.0)
    if drawn.crop is None:
        assert drawn.window == (0, 0, *size)
        return
    assert drawn.window == drawn.crop
    y_min, x_min, y_max, x_max = drawn.window
    assert all(type(edge) is int for edge in drawn.window)
    assert 0 <= y_min < y_max <= size[0]
    assert 0 <= x_min < x_max <= size[1]
    sides = np.array(drawn.size)
    assert sides.max() <= 2 * sides.min()
    assert (sides >= np.maximum(1, 0.3 * np.array(size) - 0.5)).all()
    assert drawn.belong(bbox).tolist() == [True] * len(bbox) or not has_box


def test_the_option_is_a_probability():
    def crops(probability):
        rngs = (np.random.default_rng(seed) for seed in range(400))
        return [draw_augmentation(rng, (90, 100), NO_BOXES, scale_crop=probability).crop for rng in rngs]

    assert crops(0.0) == [None] * 400
    always = crops(1.0)
    assert None not in always
    half = crops(0.5)
    assert 160 < half.count(None) < 240
    assert all(crop in (None, other) for crop, other in zip(half, always))
    windows = np.array(always)
    for axis, side in enumerate((90, 100)):
        lengths = windows[:, axis + 2] - windows[:, axis]
        assert (lengths.min(), lengths.max()) == (pytest.approx(0.3 * side, abs=3), pytest.approx(side, abs=3))
        free = (windows[:, axis] / np.maximum(side - lengths, 1))[lengths < 0.8 * side]
        assert np.histogram(free, 4, (0, 1))[0].min() > 40  # everywhere alike


def test_small_objects_become_large_ones():
    """What it is for: a box's share of the picture is spread, up to all that SSD's least IoUs ask for."""
    bbox = np.array([[40, 40, 60, 60]], np.float32)
    shares = []
    for seed in range(200):
        drawn = draw_augmentation(np.random.default_rng(seed), (100, 100), bbox, scale_crop=1.0)
        y_min, x_min, y_max, x_max = drawn.boxes(bbox)[0]
        shares.append((y_max - y_min) * (x_max - x_min) / np.prod(drawn.size))
    assert min(shares) < 0.05
    assert max(shares) > 0.25


def test_what_is_left_is_cut_around_its_own_boxes():
    bbox = np.array([[20, 150, 40, 158], [30, 170, 60, 182], [5, 20, 95, 90]], np.float32)
    seen = 0
    for seed in range(300):
        drawn = draw_augmentation(np.random.default_rng(seed), (100, 200), bbox, scale_crop=1.0, max_ratio=1.2)
        crop, window = np.array(drawn.crop or (0, 0, 100, 200)), np.array(drawn.window)
        sides = crop[2:] - crop[:2]
        axis = int(sides[1] > sides[0])
        length = min(sides[axis], int(1.2 * sides[1 - axis]))
        assert drawn.size[axis] == length
        assert drawn.size[1 - axis] == sides[1 - axis]
        assert (window[:2] >= crop[:2]).all()
        assert (window[2:] <= crop[2:]).all()
        own = bbox[drawn.belong(bbox)]
        begin, end = max(own[:, axis].min(), crop[axis]), min(own[:, axis + 2].max(), crop[axis + 2])
        if end - begin <= length:
            assert window[axis] <= begin
            assert window[axis + 2] >= end
            seen += drawn.crop is not None and length < sides[axis]
    assert seen > 30
