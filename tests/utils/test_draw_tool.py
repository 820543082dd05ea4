"""utils/draw_tool.py: boxes on a picture."""

import numpy as np
import pytest
import torch

from utils.draw_tool import draw_bboxes, visdom_bbox


def box(*values):
    return np.array([values], dtype=np.float32)


def test_a_box_is_drawn_in_its_classs_colour_and_the_picture_is_not_modified():
    img = np.full((3, 120, 160), 60.0, dtype=np.float32)
    drawn = draw_bboxes(img, box(40, 20, 100, 120), [3], [0.9], ["a", "b", "c", "dog"])
    assert drawn.shape == (120, 160, 3)
    assert drawn.dtype == np.uint8
    assert (img == 60).all()
    changed = (drawn != 60).any(-1)
    rows, columns = np.nonzero(changed)
    assert (columns.min(), rows.max(), columns.max()) == (20, 100, 120)
    assert rows.min() < 40  # the name stands above the box
    assert not changed[45:95, 30:110].any()
    assert (drawn[70, 20] == draw_bboxes(img, box(40, 20, 100, 120), [3])[70, 20]).all()
    assert (drawn[70, 20] != draw_bboxes(img, box(40, 20, 100, 120), [4])[70, 20]).any()


def test_twenty_classes_have_distinct_colours():
    img = np.zeros((3, 60, 60))
    colours = np.array([draw_bboxes(img, box(30, 30, 50, 50), [i])[40, 30] for i in range(20)], dtype=int)
    distance = np.abs(colours[:, None] - colours[None]).sum(-1) + 1000 * np.eye(20, dtype=int)
    assert distance.min() > 40


@pytest.mark.parametrize("kind", ["uint8", "tensor"])
def test_no_boxes_leave_the_picture_as_it_is(kind):
    img = np.random.default_rng(0).integers(0, 256, (3, 30, 40), dtype=np.uint8)
    given = img if kind == "uint8" else torch.tensor(img, dtype=torch.float32, requires_grad=True)
    for bbox in (np.zeros((0, 4)), torch.zeros(0, 4), []):
        assert (draw_bboxes(given, bbox, [], [], ["a"]) == img.transpose(1, 2, 0)).all()


def test_boxes_outside_the_picture_or_not_finite_are_left_out():
    img = np.zeros((3, 30, 40))
    bbox = np.array([(-50, -50, -10, -10), (100, 0, 200, 10), (0, 50, 10, 90), (0, 0, np.nan, 9), (0, 0, np.inf, 9)])
    assert draw_bboxes(img, bbox, range(5), np.ones(5), ["a"]).max() == 0
    assert draw_bboxes(img, box(-1e9, -1e9, 1e9, 1e9), [0]).max() > 0
    assert draw_bboxes(img, box(20, 30, 5, 10), [0]).max() > 0  # corners the other way round
    assert draw_bboxes(img, box(9, 9, 9, 9), [0]).max() > 0  # no area


@pytest.mark.parametrize("corner", [(0, 0, 15, 15), (0, 185, 15, 200), (185, 0, 200, 15), (185, 185, 200, 200)])
def test_a_name_stays_whole_inside_the_picture(corner):
    img = np.zeros((3, 200, 200))

    def letters(bbox):
        """Pixels that the letters leave of the name's ground: the same wherever the name is whole."""
        named = draw_bboxes(img, bbox, [0], [0.5], ["aeroplane"]).astype(int)
        return np.count_nonzero(named.min(-1) > named[..., 0].max() * 0.5)

    middle = letters(box(90, 90, 110, 110))
    assert middle > 50
    assert letters(box(*corner)) == middle


def test_an_index_without_a_name_shows_its_number():
    img = np.zeros((3, 100, 100))
    args = img, box(40, 10, 90, 90)
    for index in (7, -1):
        assert (draw_bboxes(*args, [index], None, ["a"]) == draw_bboxes(*args, [index], None, None)).all()
        assert (draw_bboxes(*args, [index], None, ["a"]) != 0).any()
    assert (draw_bboxes(*args, [0], None, ["a"]) != draw_bboxes(*args, [0], None, ["b"])).any()


def test_lines_grow_with_the_picture():
    def width(size):
        drawn = draw_bboxes(np.zeros((3, size, size)), box(size / 2, size / 2, size * 0.9, size * 0.9))
        return int((drawn[int(size * 0.7)].max(-1) > 0).sum()) // 2

    assert width(50) == 1
    assert width(600) == 2
    assert width(3000) == 10


def test_visdom_bbox_is_the_drawing_as_chw_floats():
    img = np.random.default_rng(0).uniform(0, 255, (3, 50, 60))
    args = img, box(20, 10, 40, 50), [1], [0.5], ["a", "b"]
    out = visdom_bbox(*args)
    assert out.shape == (3, 50, 60)
    assert out.dtype == np.float32
    assert (np.round(out * 255) == draw_bboxes(*args).transpose(2, 0, 1)).all()


def test_drawing_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="shape"):
        draw_bboxes(np.zeros((30, 40, 3)), box(0, 0, 5, 5))
    with pytest.raises(ValueError, match="labels"):
        draw_bboxes(np.zeros((3, 30, 40)), box(0, 0, 5, 5), [0, 1])
