"""model/pyramid.py: levels, their anchors and proposals, and which level a RoI takes its features from."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.ops import MultiScaleRoIAlign

from model import MODELS
from model.faster_rcnn_mobilenet import FasterRCNNMobileNetV3LargeFPN
from model.faster_rcnn_resnet import FasterRCNNResNet18FPN
from model.roi_head import ROI_OPS, RoIHead, roi_level
from model.utils.anchor_tool import PADDED, Cells
from model.utils.creator_tool import ProposalCreator
from tests.model.test_faster_rcnn import lively
from utils.bbox_tools import yx2xy

PYRAMIDS = [name for name in MODELS if name.endswith("_fpn")]
LEVELS = tuple(Cells((PADDED,) * n, 32) for n in (2, 3, 4, 5))  # strides 4 to 32


@pytest.fixture(scope="module", params=PYRAMIDS)
def shapes_only(request):
    with torch.device("meta"):
        return MODELS[request.param](2).eval()


@settings(max_examples=10, deadline=None)
@given(size=st.tuples(st.integers(16, 400), st.integers(16, 400)))
def test_sizes_of_the_maps_are_the_extractors(shapes_only, size):
    features = shapes_only.extract(torch.empty(1, 3, *size, device="meta"), [size])
    assert [tuple(level.shape[1:]) for level in features] == [(256, *own) for own in shapes_only.rpn.own_sizes(size)]
    assert len(shapes_only.head.levels) == len(features) - 1


@pytest.mark.parametrize("family", [FasterRCNNResNet18FPN, FasterRCNNMobileNetV3LargeFPN])
def test_anchors_stand_where_the_cells_look(family):
    """Through the network from below, which the pyramid leaves where they are: every path open, means for maxima."""
    model = family(1).eval()
    for module in model.extractor.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if hasattr(model.extractor, "maxpool"):
        model.extractor.maxpool = nn.AvgPool2d(3, 2, 1)
    for k, end in enumerate(model.extractor.ends):
        layers = nn.Sequential()
        for name, layer in model.extractor.named_children():
            layers.append(layer)
            if name == end:
                break
        img = torch.full((1, 3, 1024, 1024), 0.01, requires_grad=True)
        stride = model.rpn.levels[k].stride
        cell = 512 // stride
        layers(img)[0, :, cell, cell].sum().backward()
        seen = img.grad[0].abs().sum(dim=(0, 1))
        middle = (seen * (torch.arange(1024) + 0.5)).sum() / seen.sum()  # of what it sees, by weight
        anchor = model.rpn.anchor_base[k, 0]
        assert (anchor[1] + anchor[3]).item() / 2 + cell * stride == pytest.approx(middle.item(), abs=1.0)


def test_anchors_of_the_levels():
    """ResNet: one scale a level, 32 to 512; MobileNetV3: all five on each."""
    with torch.device("cpu"):
        resnet, mobilenet = FasterRCNNResNet18FPN(1), FasterRCNNMobileNetV3LargeFPN(1)
    side = (resnet.rpn.anchor_base[..., 2:] - resnet.rpn.anchor_base[..., :2]).prod(dim=2).sqrt()
    torch.testing.assert_close(side, torch.tensor([32.0, 64, 128, 256, 512])[:, None].expand(5, 3))
    side = (mobilenet.rpn.anchor_base[..., 2:] - mobilenet.rpn.anchor_base[..., :2]).prod(dim=2).sqrt()
    torch.testing.assert_close(side, torch.tensor([32.0, 64, 128, 256, 512]).repeat(3, 3))
    anchors = resnet.rpn.anchors([(8, 8), (4, 4), (2, 2), (1, 1), (1, 1)], [(32, 32)])
    assert len(anchors) == 3 * (64 + 16 + 4 + 1 + 1)
    centre = ((anchors[:, :2] + anchors[:, 2:]) / 2)[3 * 64 : 3 * 80 : 3]
    torch.testing.assert_close(centre, torch.tensor([[y * 8 + 0.5, x * 8 + 0.5] for y in range(4) for x in range(4)]))


def brute_proposals(loc, score, anchor, size, level_sizes, n_pre, n_post, thresh, min_size):
    """One image's, box by box: the best of each level, suppressed within it; offsets (dy, dx, 0, 0)."""
    candidates, first = [], 0
    for level, n in enumerate(level_sizes):
        own = []
        for i in range(first, first + n):
            y1, x1, y2, x2 = anchor[i]
            height, width = y2 - y1, x2 - x1
            y1, x1, y2, x2 = (v + d for v, d in zip((y1, x1, y2, x2), (loc[i][0] * height, loc[i][1] * width) * 2))
            box = [min(max(v, 0), size[k % 2]) for k, v in enumerate((y1, x1, y2, x2))]
            if min(box[2] - box[0], box[3] - box[1]) >= min_size:
                own.append((score[i], level, box))
        candidates += sorted(own, key=lambda c: -c[0])[:n_pre]
        first += n
    kept = []
    for candidate in sorted(candidates, key=lambda c: -c[0]):
        if all(level != candidate[1] or overlap(box, candidate[2]) <= thresh for _, level, box in kept):
            kept.append(candidate)
    return [box for _, _, box in kept[:n_post]]


def overlap(a, b):
    height, width = (max(min(a[k + 2], b[k + 2]) - max(a[k], b[k]), 0) for k in (0, 1))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return height * width / (areas - height * width)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), level_sizes=st.lists(st.integers(0, 30), min_size=2, max_size=4).filter(any))
def test_proposals_of_several_levels(seed, level_sizes):
    rng = np.random.default_rng(seed)
    n = sum(level_sizes)
    corner = rng.uniform(-5, 60, (n, 2))
    anchor = np.concatenate([corner, corner + rng.uniform(5, 40, (n, 2))], axis=1).astype(np.float32)
    loc = np.zeros((n, 4), np.float32)
    loc[:, :2] = rng.uniform(-0.3, 0.3, (n, 2))
    score = rng.permutation(n).astype(np.float32)  # no ties
    creator = ProposalCreator(n_test_pre_nms=12, n_test_post_nms=20, nms_thresh=0.4, min_size=6)
    parts = (torch.from_numpy(part)[None] for part in (loc, score))
    roi, n_roi, _ = creator.batch(*parts, torch.from_numpy(anchor), [(70, 64)], [1.0], None, level_sizes)
    expected = brute_proposals(loc, score, anchor.tolist(), (70, 64), level_sizes, 12, 20, 0.4, 6)
    assert n_roi.item() == len(expected)
    np.testing.assert_allclose(roi[0, : len(expected)].numpy(), np.reshape(expected, (-1, 4)), atol=1e-4)


@pytest.mark.parametrize(("last", "kept"), [(False, [2, 1]), (True, [2])])
def test_small_boxes_go_before_or_after_the_choice_of_the_best(last, kept):
    anchor = torch.tensor([[0.0, 0, 2, 30], [0, 0, 30, 30], [40, 40, 80, 80]])  # the first is 2 high
    creator = ProposalCreator(n_test_pre_nms=2, small_last=last)
    roi = creator(torch.zeros(3, 4), torch.tensor([0.5, 0.4, 0.6]), anchor, (100, 100))
    assert torch.equal(roi, anchor[kept])


def test_proposals_below_the_score_threshold_are_dropped():
    anchor = torch.tensor([[0.0, 0, 30, 30], [40, 40, 80, 80]])
    logit = torch.tensor([0.0, -3.0])  # probabilities 0.5 and 0.047
    roi = ProposalCreator(score_thresh=0.05)(torch.zeros(2, 4), logit, anchor, (100, 100))
    assert torch.equal(roi, anchor[:1])


# Which level a RoI takes its features from


@pytest.mark.parametrize(
    ("side", "stride"),
    [(1, 4), (111.9, 4), (112, 8), (223.9, 8), (224, 16), (447, 16), (448, 32), (5000, 32), (0, 4)],
)
def test_level_by_the_side_of_the_roi(side, stride):
    strides = [4, 8, 16, 32]
    rois = torch.tensor([[10.0, 10, 10 + side, 10 + side], [0, 0, side * 2, side / 2]])  # the same area
    assert [strides[k] for k in roi_level(rois, strides)] == [stride] * 2


def random_rois(n, generator):
    corner = torch.rand(n, 2, generator=generator) * 300
    side = 2 ** (torch.rand(n, 2, generator=generator) * 8 + 1)
    return torch.cat([corner, corner + side], dim=1), torch.randint(0, 2, (n,), generator=generator)


@pytest.mark.parametrize("n", [0, 1, 60])
def test_features_are_torchvisions(n):
    """Its MultiScaleRoIAlign, without the half cell and the shift of ours."""
    generator = torch.Generator().manual_seed(n)
    maps = [torch.randn(2, 3, 512 // s, 512 // s, generator=generator) for s in (4, 8, 16, 32, 64)]
    rois, indices = random_rois(n, generator)
    head = RoIHead(nn.Flatten(), 3 * 49, 2, 7, LEVELS, "align", aligned=False)
    pooled = head.pool(maps, rois, indices)
    theirs = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    own = [torch.where(indices == i)[0] for i in range(2)]
    features = {str(k): level for k, level in enumerate(maps)}
    expected = theirs(features, [yx2xy(rois[places]) for places in own], [(512, 512)] * 2)
    torch.testing.assert_close(pooled[torch.cat(own)], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("roi", ROI_OPS)
@pytest.mark.parametrize("n", [0, 50])
def test_a_gpus_way_gives_the_same(roi, n):
    generator = torch.Generator().manual_seed(n)
    maps = [torch.randn(2, 3, 512 // s, 512 // s, generator=generator).requires_grad_() for s in (4, 8, 16, 32)]
    rois, indices = random_rois(n, generator)
    head = RoIHead(nn.Flatten(), 3 * 49, 2, 7, LEVELS, roi)
    weight = torch.randn(n, 3, 7, 7, generator=generator)
    results = []
    for at_once in (False, True):
        pooled = head.pool(maps, rois, indices, at_once=at_once)
        (pooled * weight).sum().backward()
        results.append([pooled.detach(), *(level.grad for level in maps)])
        for level in maps:
            level.grad = None
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_an_image_in_a_padded_batch_is_seen_as_alone():
    """Its neighbour is larger; both are padded to multiples of 32 beside that."""
    torch.manual_seed(0)
    model = lively(FasterRCNNResNet18FPN(3)).eval()
    model.rpn.proposal_layer.n_test_post_nms = 50
    generator = torch.Generator().manual_seed(1)
    img = torch.randn(1, 3, 64, 96, generator=generator)
    both = torch.randn(2, 3, 150, 130, generator=generator)
    both[1] = 0
    both[1, :, :64, :96] = img
    sizes = [(150, 130), (64, 96)]
    with torch.no_grad():
        features = model.extract(both, sizes)
        assert [tuple(level.shape[2:]) for level in features[:2]] == [(40, 40), (20, 20)]
        assert all((level[1, :, 64 // s :] == 0).all() for level, s in zip(features, (4, 8, 16, 32)))
        _, scores, rois, indices = model(both, 1.0, sizes)
        assert rois[indices == 1].amax(dim=0)[2:].tolist() <= [64, 96]
        assert (indices == 1).sum() > 20
    assert torch.isfinite(scores).all()
