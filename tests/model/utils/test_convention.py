"""model/utils/convention.py: the other systems' anchors, targets and decoding, by their printed values and formulas.

What is expected is reckoned here from their formulas, in (x, y) and with + 1, never by our own functions.
"""

import math

import pytest
import torch

from model.utils.anchor_tool import caffe_anchor_base, torchvision_anchor_base
from model.utils.convention import CONVENTIONS
from model.utils.creator_tool import AnchorTargetCreator, ProposalCreator, ProposalTargetCreator
from tests.model.test_faster_rcnn import lively_tiny
from utils.bbox_tools import yx2xy
from utils.image_tool import resized_size

# as py-faster-rcnn prints them: x_min, y_min, x_max, y_max
PRINTED = [
    [-84, -40, 99, 55], [-176, -88, 191, 103], [-360, -184, 375, 199],
    [-56, -56, 71, 71], [-120, -120, 135, 135], [-248, -248, 263, 263],
    [-36, -80, 51, 95], [-80, -168, 95, 183], [-168, -344, 183, 359],
]  # fmt: skip
# its bbox_transform and bbox_transform_inv, of one box (x_min, y_min, x_max, y_max)


def encode(source, target):
    (sx, sy, sw, sh), (tx, ty, tw, th) = (
        ((x2 - x1 + 1) / 2 + x1, (y2 - y1 + 1) / 2 + y1, x2 - x1 + 1, y2 - y1 + 1)
        for x1, y1, x2, y2 in (source, target)
    )
    return [(tx - sx) / sw, (ty - sy) / sh, math.log(tw / sw), math.log(th / sh)]


def decode(source, loc):
    x1, y1, x2, y2 = source
    width, height = x2 - x1 + 1, y2 - y1 + 1
    x, y = x1 + width / 2 + loc[0] * width, y1 + height / 2 + loc[1] * height
    width, height = math.exp(loc[2]) * width, math.exp(loc[3]) * height
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def iou(a, b):
    width = max(min(a[2], b[2]) - max(a[0], b[0]) + 1, 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]) + 1, 0)
    areas = [(x2 - x1 + 1) * (y2 - y1 + 1) for x1, y1, x2, y2 in (a, b)]
    return width * height / (sum(areas) - width * height)


def xy(boxes):
    """Our order from theirs, or back."""
    return yx2xy(torch.as_tensor(boxes, dtype=torch.float32))


def test_anchors_of_py_faster_rcnn():
    assert xy(caffe_anchor_base()).tolist() == PRINTED


def test_anchors_of_torchvision():
    """√area 32: 22.6 and 45.3 wide for the ratio 2 and ½, halves of it rounded, around the corner."""
    assert torchvision_anchor_base(32, (0.5, 1, 2), (1,), center=5).tolist() == [
        [-11, -23, 11, 23],
        [-16, -16, 16, 16],
        [-23, -11, 23, 11],
    ]


def test_proposals_of_py_faster_rcnn():
    """Decoded, then cut to the last pixel's index; sides and overlaps count + 1."""
    anchors = [PRINTED[0], [0, 0, 15, 15], [100, 100, 115, 115], [100, 100, 115, 114]]
    locs = [[0.1, 0.2, -0.3, 0.1], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    creator = ProposalCreator(nms_thresh=0.9, min_size=16, plus_one=1)
    roi = creator(xy(locs), torch.tensor([4.0, 3, 2, 1]), xy(anchors), (150, 200))
    first = decode(anchors[0], locs[0])
    first = [max(first[0], 0), max(first[1], 0), min(first[2], 199), min(first[3], 149)]
    # the second is decoded to 0..16 and so is 17 wide; of the last two, overlapping by 16·17 / 17·17, one stays
    expected = torch.tensor([first, [0, 0, 16, 16], [100, 100, 116, 116]])
    torch.testing.assert_close(xy(roi), expected)
    assert ProposalCreator(min_size=18, plus_one=1)(xy(locs), torch.ones(4), xy(anchors), (150, 200)).shape == (1, 4)


def test_targets_of_py_faster_rcnns_rpn():
    anchors = [[0, 0, 9, 9], [2, 0, 11, 9], [30, 30, 39, 39], [90, 90, 99, 99], [91, 91, 100, 100]]
    box = [1, 0, 10, 9]
    loc, label = AnchorTargetCreator(plus_one=1)(xy([box]), xy(anchors), (100, 100))
    overlaps = [iou(anchor, box) for anchor in anchors]
    assert overlaps[:2] == [90 / 110, 90 / 110]  # 0.82 by + 1, but 8 · 9 / 90 = 0.8 without
    assert label.tolist() == [1, 1, 0, 0, -1]  # the last one has a pixel of index 100: outside
    for k in range(2):
        torch.testing.assert_close(xy(loc)[k], torch.tensor(encode(anchors[k], box)))


@pytest.mark.parametrize("plus_one", [0, 1])
def test_overlap_at_the_threshold_tells_the_conventions_apart(plus_one):
    """[0, 9] and [0, 6] have 10 and 7 pixels: 0.7. As edges they are 9 and 6 long: 0.667."""
    roi, box = xy([[0, 0, 9, 6]]), xy([[0, 0, 9, 9]])
    assert iou([0, 0, 9, 6], [0, 0, 9, 9]) == 0.7
    creator = ProposalTargetCreator(4, 1.0, pos_iou_thresh=0.69, neg_iou_thresh_hi=0.69, plus_one=plus_one)
    sample_roi, loc, label = creator(roi, box, torch.tensor([2]), (0, 0, 0, 0), (0.1, 0.1, 0.2, 0.2))
    own = label[(sample_roi == roi).all(dim=1)].item()
    assert own == (3 if plus_one else 0)
    if plus_one:
        expected = [v / std for v, std in zip(encode([0, 0, 9, 6], [0, 0, 9, 9]), (0.1, 0.1, 0.2, 0.2))]
        torch.testing.assert_close(xy(loc)[0], torch.tensor(expected))


def test_detections_of_py_faster_rcnn():
    """As jwyang's test_net.py has it, and his demo.py: the head's boxes are decoded with + 1 and cut to the prepared
    picture's last pixel, then divided by the scale. (py-faster-rcnn divides first: half a pixel less at that edge.)"""
    model = lively_tiny(convention="py-faster-rcnn")
    rois = [[10.0, 20, 59, 89], [0, 0, 99, 79]]
    loc = torch.zeros(2, model.n_class, 4)
    loc[0, 1] = torch.tensor([0.2, -0.1, 0.3, -0.2])
    loc[1, 2] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    mean, std = model.loc_normalization
    raw = ((xy(loc) - mean) / std).flatten(1)
    bbox, _ = model._decode(raw, torch.zeros(2, model.n_class), xy(rois), (100, 120), (50, 60))
    expected = [v / 2 for v in decode(rois[0], [0.2, -0.1, 0.3, -0.2])]
    torch.testing.assert_close(xy(bbox[0, 0]), torch.tensor(expected))
    assert xy(bbox[1, 1]).tolist() == [0, 0, 119 / 2, 99 / 2]


@pytest.mark.parametrize(
    ("rule", "size", "expected"),
    [
        ("round", (375, 500), (600, 800)),
        ("round", (333, 500), (600, 901)),  # 900.9
        ("floor", (333, 500), (600, 900)),
        ("floor", (375, 500), (600, 800)),
    ],
)
def test_whole_sizes(rule, size, expected):
    assert resized_size(size, 600, 1000, rule) == expected


def test_rounding_down_may_fall_short_by_a_float():
    """600 / 281 · 281 is 599.9999999999999 in floats, and so 599, in torchvision as in chainercv."""
    short = [side for side in range(200, 1000) if resized_size((side, 1000), 600, 9999, "floor")[0] == 599]
    assert short
    assert all(int(side * (600 / side)) == 599 for side in short)
    assert all(resized_size((side, 1000), 600, 9999, "round")[0] == 600 for side in short)


def test_only_chainercv_ranks_by_the_logit():
    assert [name for name, convention in CONVENTIONS.items() if convention.foreground_logit] == ["chainercv"]
