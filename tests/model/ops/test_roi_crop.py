"""model/ops/roi_crop.py against a loop over its points."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.ops.roi_crop import roi_crop
from tests.model.ops.test_roi_align import DEVICES, random_map, roi

ALIGNED = pytest.mark.parametrize("aligned", [True, False])


def value_at(channel, y, x):
    """Bilinear between the four cells around; a cell that is not there is 0."""
    total = 0.0
    for row in (int(np.floor(y)), int(np.floor(y)) + 1):
        for column in (int(np.floor(x)), int(np.floor(x)) + 1):
            if 0 <= row < channel.shape[0] and 0 <= column < channel.shape[1]:
                total += channel[row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def slow_roi_crop(x, rois, indices, size, scale, aligned):
    out = np.zeros((len(rois), x.shape[1], size, size))
    for r, (box, image) in enumerate(zip(rois, indices)):
        y0, x0, y1, x1 = (v * scale - (0.5 if aligned else 0) for v in box)
        for c in range(x.shape[1]):
            points = [
                [
                    value_at(x[image, c], y0 + (y1 - y0) * i / (2 * size - 1), x0 + (x1 - x0) * j / (2 * size - 1))
                    for j in range(2 * size)
                ]
                for i in range(2 * size)
            ]
            for p in range(size):
                for q in range(size):
                    out[r, c, p, q] = max(points[2 * p + i][2 * q + j] for i in (0, 1) for j in (0, 1))
    return out


@ALIGNED
@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(roi, st.integers(0, 2)), max_size=4), size=st.sampled_from([1, 3]))
def test_agrees_with_the_slow_loop(device, aligned, rows, size):
    """RoIs in and out of the map, of three images in any order: nothing comes from the image above or below."""
    x = random_map(3, 2, 6, 8)
    rois, indices = [r for r, _ in rows], [i for _, i in rows]
    boxes = torch.tensor(rois, dtype=torch.float64, device=device).reshape(-1, 4)
    out = roi_crop(x.to(device), boxes, torch.tensor(indices, dtype=torch.int64, device=device), size, 0.25, aligned)
    expected = slow_roi_crop(x.numpy(), rois, indices, size, 0.25, aligned)
    np.testing.assert_allclose(out.cpu().numpy(), expected, rtol=0, atol=1e-9)


def test_the_affine_grid_of_jwyangs_code():
    """theta = [(x2 - x1)/(W - 1), (x1 + x2 - W + 1)/(W - 1)] on cells whose outer centres are at -1 and 1."""
    x, (H, W) = random_map(1, 3, 9, 11), (9, 11)
    y1, x1, y2, x2 = (v / 16 for v in (20.0, 33.0, 100.0, 120.0))
    theta = torch.tensor(
        [[(x2 - x1) / (W - 1), 0, (x1 + x2 - W + 1) / (W - 1)], [0, (y2 - y1) / (H - 1), (y1 + y2 - H + 1) / (H - 1)]],
        dtype=torch.float64,
    )
    grid = torch.nn.functional.affine_grid(theta[None], (1, 3, 14, 14), align_corners=True)
    crop = torch.nn.functional.grid_sample(x, grid, align_corners=True)
    expected = torch.nn.functional.max_pool2d(crop, 2, 2)
    out = roi_crop(x, torch.tensor([[20.0, 33.0, 100.0, 120.0]]), torch.tensor([0]), 7, 1 / 16, aligned=False)
    torch.testing.assert_close(out, expected)


def test_gradient():
    x = random_map(2, 2, 5, 4).requires_grad_()
    rois = torch.tensor([[1.3, 2.1, 13.7, 11.9], [-6.1, 3.3, 9.2, 30.7]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: roi_crop(x, rois, torch.tensor([1, 0]), 2, 0.25), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_half_precision_and_layout(dtype):
    x = random_map(2, 3, 6, 7)
    rois, indices = torch.tensor([[3.0, 4, 20, 24], [0, 0, 9, 9]]), torch.tensor([1, 0])
    expected = roi_crop(x, rois, indices, 3, 0.25)
    for layout in (torch.contiguous_format, torch.channels_last):
        out = roi_crop(x.to(dtype=dtype, memory_format=layout), rois, indices, 3, 0.25)
        assert out.dtype == dtype
        torch.testing.assert_close(out.double(), expected, rtol=2e-2, atol=2e-2)


def test_no_rois():
    x = random_map(1, 3, 4, 4).requires_grad_()
    out = roi_crop(x, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 7, 1 / 16)
    assert out.shape == (0, 3, 7, 7)
    out.sum().backward()
    assert (x.grad == 0).all()
