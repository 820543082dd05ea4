"""The cells of each family's feature map, and batches that are padded: floor (VGG16's pooling) and ceil."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from model import MODELS, FasterRCNNAlexNet, FasterRCNNMobileNetV2, FasterRCNNTiny, FasterRCNNVGG16
from model.faster_rcnn_resnet import FasterRCNNResNet18C4, FasterRCNNResNet50C4Caffe
from model.faster_rcnn_vgg_cnn_m import FasterRCNNVGGCNNM
from model.region_proposal_network import RegionProposalNetwork
from model.utils.anchor_tool import PADDED, POOL, Cells
from tests.model.test_faster_rcnn import lively_tiny


@pytest.fixture(scope="module")
def tiny():
    return lively_tiny()


@pytest.mark.parametrize(
    "family",
    [
        FasterRCNNVGG16,
        FasterRCNNVGGCNNM,
        FasterRCNNAlexNet,
        FasterRCNNResNet18C4,
        FasterRCNNResNet50C4Caffe,
        FasterRCNNMobileNetV2,
        FasterRCNNTiny,
    ],
)
def test_anchors_and_rois_stand_where_the_cells_look(family):
    """What a cell sees, by the gradient of its feature, is symmetrical around the centre of its anchors.

    Every path from the picture is open: positive weights, small values (ReLU6), means in place of maxima.
    """
    model = family(1).eval()
    extractor = model.extractor
    for module in extractor.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for name, module in list(extractor.named_children()):
        if isinstance(module, nn.MaxPool2d):
            mean = nn.AvgPool2d(module.kernel_size, module.stride, module.padding, module.ceil_mode)
            setattr(extractor, name, mean)
    img = torch.full((1, 3, 320, 320), 0.01, requires_grad=True)
    cell = 160 // family.cells.stride
    extractor(img)[0, :, cell, cell].sum().backward()
    seen = img.grad[0].abs().sum(dim=(0, 1)).nonzero()  # columns
    assert 0 < seen.min() < seen.max() < 319  # all of it
    middle = (seen.min() + seen.max() + 1).item() / 2  # a pixel of index i reaches from i to i + 1
    anchor = model.rpn.anchor_base[0, 0]
    assert (anchor[1] + anchor[3]).item() / 2 + cell * family.cells.stride == pytest.approx(middle, abs=0.01)
    # and the head takes a RoI's features from the cells that look at it
    columns = torch.arange(8.0).expand(1, 1, 8, 8)
    rois = torch.full((1, 4), model.cells.center + 4 * family.cells.stride)
    model.head.classifier, model.head.cls_loc, model.head.score = nn.Flatten(), nn.Identity(), nn.Identity()
    model.head.roi = "align"
    features, _ = model.head(columns, rois, torch.zeros(1, dtype=torch.long))
    assert features.unique().tolist() == [4]


ONE_MAP = [name for name, family in MODELS.items() if not isinstance(family.cells, tuple)]  # else: test_pyramid.py


@pytest.fixture(scope="module", params=ONE_MAP)
def shapes_only(request):
    with torch.device("meta"):
        return MODELS[request.param]().eval()


@settings(max_examples=6, deadline=None)
@given(st.tuples(st.integers(31, 1100), st.integers(31, 1100)))  # 31: the least that AlexNet has a cell for
def test_size_of_the_map_is_the_extractors(shapes_only, size):
    features = shapes_only.extractor(torch.empty(1, 3, *size, device="meta"))
    assert shapes_only.cells.map_size(size) == tuple(features.shape[2:])
    assert shapes_only.rpn.conv1.in_channels == features.shape[1]


def spy_on(creator, calls):
    """Make `creator` note the anchors and the size of each image."""
    batch = creator.batch

    def spy(loc, score, anchor, sizes, scales, valid, level_sizes):
        own = [anchor] * len(loc) if valid is None else [anchor[mask] for mask in valid]
        calls.extend(zip(own, map(tuple, sizes), scales))
        return batch(loc, score, anchor, sizes, scales, valid, level_sizes)

    creator.batch = spy


@pytest.mark.parametrize("window", [PADDED, POOL])
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_proposals_never_come_from_the_padding(window, data):
    sizes = data.draw(st.lists(st.tuples(st.integers(16, 130), st.integers(16, 130)), min_size=1, max_size=3))
    stride = 16
    torch.manual_seed(0)
    rpn = RegionProposalNetwork(4, 4, (1,), (1, 2), Cells((window,) * 4), {"min_size": 1}).eval()
    padded = [max(side) for side in zip(*sizes)]
    middle = 0.5 if window is PADDED else 8

    def cells(side):
        return -(-side // stride) if window is PADDED else side // stride

    x = torch.randn(len(sizes), 4, *map(cells, padded))
    for i, (height, width) in enumerate(sizes):
        x[i, :, cells(height) :] = 50.0  # whoever looks there will score high
        x[i, :, :, cells(width) :] = 50.0
    calls = []
    spy_on(rpn.proposal_layer, calls)
    scales = [1.0 + i for i in range(len(sizes))]
    _, _, rois, n_rois, all_anchors, _ = rpn(x, sizes, scales)

    assert len(all_anchors) == x.shape[2] * x.shape[3] * 2
    assert [scale for _, _, scale in calls] == scales
    for i, ((height, width), (anchor, img_size, _)) in enumerate(zip(sizes, calls, strict=True)):
        assert img_size == (height, width)
        assert len(anchor) == cells(height) * cells(width) * 2
        centre = (anchor[:, :2] + anchor[:, 2:]) / 2
        assert centre.unique(dim=0).tolist() == [
            [y * 16 + middle, x * 16 + middle] for y in range(cells(height)) for x in range(cells(width))
        ]
        own = rois[i, : n_rois[i]]
        assert len(own) > 0
        assert (own >= 0).all()
        assert (own[:, 2] <= height).all()
        assert (own[:, 3] <= width).all()


def test_padded_batch_through_the_whole_model(tiny):
    imgs = torch.zeros(2, 3, 96, 120)
    imgs[0] = torch.randn(3, 96, 120)
    imgs[1, :, :50, :70] = torch.randn(3, 50, 70)
    with torch.no_grad():
        locs, scores, rois, indices = tiny(imgs, [1.0, 2.0], [(96, 120), (50, 70)])
    assert locs.shape == (len(rois), 4 * 4)
    assert scores.shape == (len(rois), 4)
    assert rois.shape == (len(indices), 4)
    assert (rois[indices == 1].amax(dim=0)[2:] <= torch.tensor([50, 70])).all()
    assert rois[indices == 0].amax() > 70
    assert (indices == 1).sum() > 10
    assert not rois.requires_grad
