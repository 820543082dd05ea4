"""utils/draw_tool.py: boxes on a picture."""

import numpy as np
import pytest
import torch

from utils.draw_tool import class_color, draw_bboxes, draw_many, draw_pair, visdom_bbox


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
    assert (columns.min(), rows.max(), columns.max()) == (19, 101, 121)  # a thin line in a contrasting colour around it
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
        return np.count_nonzero(named.min(-1) > named[..., 0].max() * 0.8)

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
        return int(has(drawn[int(size * 0.7)], class_color(None)).sum()) // 2

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


def has(drawn, colour):
    return (drawn == np.array(colour)).all(-1)


@pytest.mark.parametrize("size", [120, 500, 6000])
def test_a_small_box_is_seen_beside_its_name_at_any_size(size):
    """At a border, in a corner, in the middle: of what is inside the box nothing is hidden."""
    side, height = max(16, size // 40), max(120, size // 4)
    img = np.full((3, height, size), 90, np.uint8)
    for y, x in ((0, 0), (0, size - side), (height - side, 0), (height // 2, size // 2), (height // 2, size - side)):
        drawn = draw_bboxes(img, box(y, x, y + side, x + side), [0], [0.87], ["dog"])
        inside = drawn[y + side // 3 : y + 2 * side // 3, x + side // 3 : x + 2 * side // 3]
        assert (inside == 90).all(), (y, x)
        assert has(drawn, class_color(0)).sum() > side * 4  # and there is a name


def test_a_small_box_is_drawn_over_a_large_one_and_not_filled_by_its_lines():
    img = np.full((3, 3000, 3000), 90, np.uint8)
    bbox = np.array([(1000, 1000, 1020, 1020), (990, 500, 2900, 2900)])  # the line of the large one crosses the small
    drawn = draw_bboxes(img, bbox, [0, 1])
    assert (drawn[1000, 1005:1015] == class_color(0)).all()
    assert (drawn[1008:1012, 1008:1012] == 90).all()


def test_a_box_of_the_colour_of_its_ground_is_seen():
    for index in range(6):
        img = np.broadcast_to(np.array(class_color(index), np.uint8)[:, None, None], (3, 200, 200))
        changed = (draw_bboxes(img, box(50, 50, 150, 150), [index]) != class_color(index)).any(-1)
        assert changed[100, :60].any()


def test_a_small_picture_is_enlarged_and_a_large_one_left():
    img = np.random.default_rng(0).integers(0, 256, (3, 30, 40), dtype=np.uint8)
    drawn = draw_bboxes(img, box(6, 10, 24, 30), [0], enlarge_to=480)
    assert drawn.shape == (360, 480, 3)
    rows, columns = np.nonzero(has(drawn[72:], class_color(0)))  # below its name
    assert (columns.min(), rows.max() + 72, columns.max()) == (120, 288, 360)
    assert (draw_bboxes(img, box(6, 10, 24, 30), [0], enlarge_to=40) == draw_bboxes(img, box(6, 10, 24, 30), [0])).all()
    assert visdom_bbox(img, np.zeros((0, 4)), enlarge_to=400).shape == (3, 300, 400)


def test_a_pair_is_the_truth_beside_what_was_found():
    img = np.full((3, 90, 100), 60, np.uint8)
    truth, found = (box(20, 10, 80, 60), [0]), (box(30, 40, 85, 95), [1], [0.9])
    drawn = draw_pair(img, truth, found, ["a", "b"])
    left, right = draw_bboxes(img, *truth, None, ["a", "b"]), draw_bboxes(img, *found, ["a", "b"])
    assert (drawn[-90:, :100] == left).all()
    assert (drawn[-90:, -100:] == right).all()
    assert (drawn[:-90, :100] < 128).any(-1).sum() > 20  # "truth"
    assert (drawn[:-90, :100] != drawn[:-90, -100:]).any()


def test_letters_of_a_size_that_is_asked_for():
    img = np.full((3, 240, 320), 60, np.uint8)
    truth, found = (box(100, 100, 200, 200), [0]), (np.zeros((0, 4)), [], [])

    def inked(letters):
        """Rows of the strip above, and of the name's ground."""
        drawn = draw_pair(img, truth, found, ["name"], letters=letters)
        strip = len(drawn) - 240
        return strip, has(drawn[strip : strip + 95, 98:140], class_color(0)).any(1).sum()

    (strip, name), (strip_18, name_18) = inked(None), inked(18)
    assert strip_18 > 1.5 * (strip - 8)
    assert name_18 > 1.5 * name


def test_of_a_very_wide_picture_one_is_above_the_other():
    img = np.full((3, 50, 300), 60, np.uint8)
    nothing = np.zeros((0, 4)), np.zeros(0)
    drawn = draw_pair(img, (box(10, 10, 40, 60), [0]), (*nothing, []), ["a"])
    assert drawn.shape[1] == 300
    assert (drawn[-50:] == 60).all()


def test_many_boxes_show_what_they_are_for():
    img = np.full((3, 200, 200), 60, np.uint8)
    bbox = np.array([(20, 20, 180, 100), (20, 20, 180, 100), (20, 20, 180, 100)])
    both = draw_many(img, bbox, target=[1, 0, -1])
    assert (both[100, 20] == draw_many(img, bbox[:1], target=[1])[100, 20]).all()  # positives on top, whole
    assert (both[100, 20] == draw_many(img, bbox[:1], target=[6])[100, 20]).all()  # whatever their class
    seen = [draw_many(img, bbox[:1], target=[k])[100, 20].astype(int) for k in (1, 0, -1)]
    assert all(np.abs(a - b).sum() > 60 for a, b in ((seen[0], seen[1]), (seen[0], seen[2]), (seen[1], seen[2])))
    ranked = draw_many(img, bbox[:2], score=torch.tensor([-3.0, 7.0]))[100, 20].astype(int)
    assert ranked[0] > ranked[2] + 60  # the better one is yellow, and on top
    assert (draw_many(img, bbox[:2], score=[7, -3])[100, 20] == ranked).all()
    half = draw_many(img, bbox[:1], score=[0.5])[100, 20].astype(int)  # probabilities: whatever the others have
    assert ranked[0] > half[0] + 40
    assert (draw_many(img, bbox[1:], score=[0.0, 0.5])[100, 20] > half - 30).all()
    assert (draw_many(img, bbox, truth=box(40, 40, 90, 90))[60, 40] == 255).all()
    assert draw_many(img, np.zeros((0, 4)), score=[], caption="none").shape[0] > 200
    bright = draw_many(np.full((3, 200, 200), 255, np.uint8), bbox[:1], target=[1], truth=box(40, 40, 90, 90))
    assert all(np.abs(bright[y, x].astype(int) - bright[5, 5]).sum() > 100 for y, x in ((100, 20), (60, 40)))
    crowd = draw_many(img, np.repeat(bbox[:1], 3000, axis=0) + np.arange(3000)[:, None] % 20, target=[-1] * 3000)
    assert crowd[100, 60].max() < 120  # under three thousand that take no part the picture is still seen
    for wrong in ({"score": [1, 2]}, {"target": [1]}, {"score": [1, 2, 3], "target": [1, 2, 3]}):
        with pytest.raises(ValueError):
            draw_many(img, bbox, **wrong)
