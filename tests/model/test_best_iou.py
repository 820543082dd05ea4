"""What anchors can make of boxes: the short way against a look at every anchor."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model import build_model
from model.utils.anchor_tool import best_anchor_iou
from model.utils.convention import CONVENTIONS
from model.utils.creator_tool import AnchorTargetCreator
from utils.bbox_tools import bbox_iou, pixel_edges

MODELS = {
    "vgg16": ("vgg16", {}),
    "small anchors": ("tiny", {"anchor_scales": [1, 2.5], "anchor_ratios": [0.3, 1]}),
    "a pyramid": ("resnet50_fpn", {}),
    "three levels of all sizes": ("mobilenet_v3_large_fpn", {}),
}


def rpn_of(name, convention):
    name, options = MODELS[name]
    with torch.device("meta"):
        return build_model(name, 2, convention=convention, **options).rpn


def every_anchor(rpn, bbox, size, border):
    """(R,) the best IoU with any anchor that takes part in training."""
    rpn.anchor_base = rpn.make_anchor_base()
    anchor = pixel_edges(rpn.anchors(rpn.own_sizes(size), [size]), rpn.convention.plus_one)
    inside = AnchorTargetCreator(allowed_border=border)._inside(anchor, size)
    iou = bbox_iou(anchor.double(), pixel_edges(bbox.double(), rpn.convention.plus_one)) * inside[:, None]
    return iou.amax(dim=0) if len(iou) else torch.zeros(len(bbox), dtype=torch.float64)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("name", MODELS)
def test_the_best_of_all_anchors(name, convention):
    rpn = rpn_of(name, convention)
    generator = torch.Generator().manual_seed(len(name))
    for size in ((600, 800), (97, 211), (320, 64)):
        for border in (0.0, 20.0, 1024.0):
            height, width = size
            corners = torch.rand(60, 2, 2, generator=generator) * torch.tensor([height, width])
            corners = corners.sort(dim=1).values.flatten(1)
            bbox = corners[(corners[:, 2:] - corners[:, :2] > 0.5).all(dim=1)]
            got = rpn.best_iou(bbox, [size] * len(bbox), border)
            torch.testing.assert_close(got, every_anchor(rpn, bbox, size, border), rtol=0, atol=1e-5)


def test_images_of_several_sizes():
    rpn = rpn_of("vgg16", "continuous")
    bbox = torch.tensor([[10.0, 20, 200, 260], [0, 0, 90, 40], [5, 5, 590, 500]])
    sizes = [(300, 400), (160, 100), (600, 600)]
    alone = torch.cat([rpn.best_iou(bbox[k : k + 1], sizes[k : k + 1]) for k in range(3)])
    assert torch.equal(rpn.best_iou(bbox, sizes), alone)
    assert rpn.best_iou(torch.zeros(0, 4), []).shape == (0,)


def test_where_no_anchor_fits():
    """The smallest of VGG16's is 128 px wide at least in one direction: none fits in a picture of 64 px."""
    rpn = rpn_of("vgg16", "continuous")
    box = torch.tensor([[0.0, 0, 64, 64]])
    assert rpn.best_iou(box, [(64, 64)]).item() == 0
    assert rpn.best_iou(box, [(64, 64)], 1024).item() == pytest.approx(64 * 64 / 128**2)


@settings(max_examples=200)
@given(st.tuples(*[st.floats(0, 90)] * 2, *[st.floats(0.5, 60)] * 2), st.integers(1, 12), st.integers(1, 12))
def test_an_anchor_of_its_own_shape(box, n_down, n_right):
    """Of anchors of the box's own shape, s px apart, one is within s / 2 of it, or it is the last in its row."""
    y, x, height, width = box
    base = torch.tensor([[0.0, 0, height, width]])
    bbox = torch.tensor([[y, x, y + height, x + width]])
    iou = best_anchor_iou(bbox, base, torch.tensor([[8, 8]]), torch.tensor([[n_down, n_right]]),
                          torch.tensor([[200, 200]]), border=1000.0).item()  # fmt: skip
    far = [min(abs(at - 8 * k) for k in range(n)) for at, n in ((y, n_down), (x, n_right))]
    inter = max(height - far[0], 0) * max(width - far[1], 0)
    assert iou == pytest.approx(inter / (2 * height * width - inter), abs=1e-5)
