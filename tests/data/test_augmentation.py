"""data/augmentation.py: what is kept of a picture and its boxes, by marking the boxes in the picture."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.augmentation import Augmentation, cut, draw_augmentation


@st.composite
def pictures(draw):
    """A picture of one white box and that box, of any shape."""
    height, width = draw(st.tuples(st.integers(4, 60), st.integers(4, 60)))
    y, x = draw(st.integers(0, height - 2)), draw(st.integers(0, width - 2))
    box = [y, x, draw(st.integers(y + 1, height)), draw(st.integers(x + 1, width))]
    img = np.zeros((3, height, width), np.float32)
    img[:, box[0] : box[2], box[1] : box[3]] = 255
    return img, np.array([box], np.float32)


@settings(max_examples=200, deadline=None)
@given(pictures(), st.floats(1, 4), st.integers(0, 1000), st.sampled_from([0, 1]))
def test_boxes_follow_the_pixels(picture, max_ratio, seed, plus_one):
    img, bbox = picture
    bbox -= np.array([0, 0, plus_one, plus_one], np.float32)  # the last pixel's index, or the edge behind it
    rng = np.random.default_rng(seed)
    drawn = draw_augmentation(rng, img.shape[1:], bbox, max_ratio=max_ratio, plus_one=plus_one)
    out, box = drawn.picture(img), drawn.boxes(bbox)[0]
    assert out.shape[1:] == drawn.size
    assert max(drawn.size) <= max(max_ratio, 1) * min(img.shape[1:])
    assert min(drawn.size) == min(img.shape[1:]) or max(img.shape[1:]) <= max_ratio * min(img.shape[1:])
    rows, columns = np.flatnonzero(out[0].any(axis=1)), np.flatnonzero(out[0].any(axis=0))
    if len(rows):
        assert np.add(box, [0, 0, plus_one, plus_one]).tolist() == [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]
    else:
        assert (box[2:] - box[:2]).min() == 0


@settings(max_examples=200, deadline=None)
@given(
    length=st.integers(5, 40),
    boxes=st.lists(st.tuples(st.floats(0, 99), st.floats(0.5, 60)), max_size=4),
    where=st.floats(0, 1, exclude_max=True),
    axis=st.integers(0, 1),
)
def test_the_cut_holds_all_boxes_if_it_can_else_lies_among_them(length, boxes, where, axis):
    size = [10, 10]
    size[axis] = 100
    bbox = np.zeros((len(boxes), 4))
    for row, (begin, extent) in zip(bbox, boxes):
        row[axis], row[axis + 2], row[3 - axis] = begin, min(begin + extent, 100), 10
    window = cut(tuple(size), bbox, axis, length, where)
    start, end = window[axis], window[axis + 2]
    assert (start >= 0, end <= 100, end - start) == (True, True, length)
    assert (window[1 - axis], window[3 - axis]) == (0, 10)
    if boxes:
        begin, last = bbox[:, axis].min(), bbox[:, axis + 2].max()
        if np.ceil(last) - np.floor(begin) <= length:
            assert start <= begin
            assert end >= last
        else:
            assert start >= np.floor(begin) - 1
            assert end <= np.ceil(last) + 1


def test_every_place_is_drawn():
    starts = {cut((10, 100), np.array([[0, 40, 10, 60.0]]), 1, 24, k / 50)[1] for k in range(50)}
    assert starts == {36, 37, 38, 39, 40}
    assert {cut((10, 30), np.zeros((0, 4)), 1, 28, k / 50)[1] for k in range(50)} == {0, 1, 2}


def test_sizes_are_drawn_alike():
    rng = np.random.default_rng(0)
    drawn = [draw_augmentation(rng, (10, 10), np.zeros((0, 4)), min_sizes=(480, 600, 720)) for _ in range(300)]
    counts = [sum(one.min_size == size for one in drawn) for size in (480, 600, 720)]
    assert min(counts) > 70
    assert sum(one.flip for one in drawn) == pytest.approx(150, abs=40)
    assert all(one.window == (0, 0, 10, 10) for one in drawn)


def test_options_do_not_change_what_else_is_drawn():
    def flips(**options):
        bbox = np.zeros((0, 4))
        return [draw_augmentation(np.random.default_rng(i), (10, 40), bbox, **options).flip for i in range(40)]

    assert flips() == flips(min_sizes=(1, 2, 3)) == flips(max_ratio=2) == flips(scale_crop=1.0) == flips(jitter=0.5)
    assert not any(flips(flip=False))


def test_a_run_without_new_options_draws_what_it_always_did():
    bbox = np.array([[2, 30, 9, 60], [1, 5, 4, 9]], np.float32)
    options = {"min_sizes": (48, 60, 72), "max_ratio": 2}
    drawn = [draw_augmentation(np.random.default_rng((3, 1, i)), (10, 100), bbox, **options)[:3] for i in range(6)]
    assert drawn == [
        ((0, 17, 10, 37), True, 60),
        ((0, 17, 10, 37), False, 72),
        ((0, 13, 10, 33), True, 72),
        ((0, 32, 10, 52), True, 72),
        ((0, 7, 10, 27), False, 72),
        ((0, 17, 10, 37), True, 48),
    ]


def test_by_hand():
    drawn = Augmentation((0, 10, 4, 18), True, 600)
    img = np.arange(80, dtype=np.float32).reshape(1, 4, 20)
    assert drawn.picture(img)[0, 0].tolist() == [17, 16, 15, 14, 13, 12, 11, 10]
    assert drawn.boxes(np.array([[1, 12, 3, 15], [0, 0, 4, 11], [0, 0, 4, 9]], np.float32)).tolist() == [
        [1, 3, 3, 6],
        [0, 7, 4, 8],
        [0, 8, 4, 8],
    ]
