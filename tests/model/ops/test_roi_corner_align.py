"""model/ops/roi_corner_align.py against a loop over its points."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.ops.roi_corner_align import roi_corner_align
from model.roi_head import OFF_THE_MAP
from tests.model.ops.test_roi_align import DEVICES, random_map, roi


def value_at(channel, y, x):
    """What faster-rcnn.pytorch's kernel makes of a point: 0 outside; else of the four cells from the greatest whole
    numbers below it on, but never so late that the second of them is outside: then by extrapolation."""
    height, width = channel.shape
    if not (0 <= y < height and 0 <= x < width):
        return 0.0
    top, left = min(int(np.floor(y)), height - 2), min(int(np.floor(x)), width - 2)
    down, right = y - top, x - left
    upper = channel[top, left] * (1 - right) + channel[top, left + 1] * right
    lower = channel[top + 1, left] * (1 - right) + channel[top + 1, left + 1] * right
    return upper * (1 - down) + lower * down


def slow_roi_corner_align(x, rois, indices, size, scale):
    out = np.zeros((len(rois), x.shape[1], size, size))
    for r, (box, image) in enumerate(zip(rois, indices)):
        y0, x0, y1, x1 = (v * scale for v in box)
        bins = max(y1 - y0 + 1, 0) / size, max(x1 - x0 + 1, 0) / size
        for c in range(x.shape[1]):
            points = [
                [value_at(x[image, c], y0 + bins[0] * i, x0 + bins[1] * j) for j in range(size + 1)]
                for i in range(size + 1)
            ]
            for p in range(size):
                for q in range(size):
                    out[r, c, p, q] = np.mean([points[p + i][q + j] for i in (0, 1) for j in (0, 1)])
    return out


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(roi, st.integers(0, 2)), max_size=4), size=st.sampled_from([1, 3]))
def test_agrees_with_the_slow_loop(device, rows, size):
    """RoIs in and out of the map, of three images in any order: nothing comes from the image above or below."""
    x = random_map(3, 2, 6, 8)
    # off whole numbers by less than a test could see, where a last bit decides whether a point is inside
    rois, indices = [[v + 1e-7 for v in r] for r, _ in rows], [i for _, i in rows]
    boxes = torch.tensor(rois, dtype=torch.float64, device=device).reshape(-1, 4)
    out = roi_corner_align(x.to(device), boxes, torch.tensor(indices, dtype=torch.int64, device=device), size, 0.25)
    np.testing.assert_allclose(
        out.cpu().numpy(), slow_roi_corner_align(x.numpy(), rois, indices, size, 0.25), atol=1e-6
    )


def test_by_hand():
    """A map of 10·y + x; a RoI from cell (1, 1) to (2, 3), so points 2/2 and 3/2 of a cell apart; two bins a side."""
    x = (10 * torch.arange(5.0)[:, None] + torch.arange(6.0))[None, None]
    out = roi_corner_align(x, torch.tensor([[16.0, 16, 32, 48]]), torch.tensor([0]), 2, 1 / 16)
    assert out[0, 0].tolist() == [[16.75, 18.25], [26.75, 28.25]]
    # half a cell beyond the last cell's corner: extrapolated, 40 + 5 + 50/10; and 0 from the map's end on
    out = roi_corner_align(x, torch.tensor([[72.0, 0, 72, 0]]), torch.tensor([0]), 1, 1 / 16)
    assert out.item() == (45 + 46) / 4
    off = roi_corner_align(x, torch.full((1, 4), OFF_THE_MAP), torch.tensor([0]), 2, 1 / 16)
    assert not off.any()


def test_gradient():
    x = random_map(2, 2, 5, 4).requires_grad_()
    rois = torch.tensor([[1.3, 2.1, 13.7, 11.9], [-6.1, 3.3, 9.2, 30.7]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: roi_corner_align(x, rois, torch.tensor([1, 0]), 2, 0.25), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_half_precision_and_layout(dtype):
    x = random_map(2, 3, 6, 7)
    rois, indices = torch.tensor([[3.0, 4, 20, 24], [0, 0, 9, 9]]), torch.tensor([1, 0])
    expected = roi_corner_align(x, rois, indices, 3, 0.25)
    for layout in (torch.contiguous_format, torch.channels_last):
        out = roi_corner_align(x.to(dtype=dtype, memory_format=layout), rois, indices, 3, 0.25)
        assert out.dtype == dtype
        torch.testing.assert_close(out.double(), expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 1)])
def test_a_map_of_one_cell_a_side(size):
    x = random_map(1, 2, *size)
    out = roi_corner_align(x, torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([0]), 2, 1 / 16)
    assert out.isfinite().all()


def test_no_rois():
    x = random_map(1, 3, 4, 4).requires_grad_()
    out = roi_corner_align(x, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 7, 1 / 16)
    assert out.shape == (0, 3, 7, 7)
    out.sum().backward()
    assert (x.grad == 0).all()
