"""model/ops/roi_align.py against a loop over samples (Mask R-CNN, section 3), on both of its ways on a CPU."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.ops.roi_align import roi_align

NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_CUDA])]
SMALL = settings(max_examples=40, deadline=None)
BOTH_WAYS = pytest.mark.parametrize("with_gradient", [False, True])  # torchvision's kernel; separable products
ALIGNED = pytest.mark.parametrize("aligned", [True, False])


def bilinear(channel, y, x):
    """The value between four cells; up to a cell outside the border cell counts, beyond it nothing is there."""
    H, W = channel.shape
    if not (-1 <= y <= H and -1 <= x <= W):
        return 0.0
    y, x = min(max(y, 0.0), H - 1.0), min(max(x, 0.0), W - 1.0)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, H - 1), min(left + 1, W - 1)
    dy, dx = y - top, x - left
    upper = channel[top, left] * (1 - dx) + channel[top, right] * dx
    lower = channel[bottom, left] * (1 - dx) + channel[bottom, right] * dx
    return upper * (1 - dy) + lower * dy


def slow_roi_align(x, rois, roi_indices, size, scale, samples, aligned):
    out = np.zeros((len(rois), x.shape[1], size, size))
    for r, (roi, image) in enumerate(zip(rois, roi_indices)):
        y0, x0, y1, x1 = (v * scale - (0.5 if aligned else 0) for v in roi)
        height, width = y1 - y0, x1 - x0
        if not aligned:
            height, width = max(height, 1.0), max(width, 1.0)
        n_y = samples if samples > 0 else math.ceil(height / size)
        n_x = samples if samples > 0 else math.ceil(width / size)
        for c in range(x.shape[1]):
            for p in range(size):
                for q in range(size):
                    values = [
                        bilinear(
                            x[image, c],
                            y0 + (p + (i + 0.5) / n_y) * height / size,
                            x0 + (q + (j + 0.5) / n_x) * width / size,
                        )
                        for i in range(n_y)
                        for j in range(n_x)
                    ]
                    out[r, c, p, q] = sum(values) / max(len(values), 1)
    return out


def run(x, rois, roi_indices, size=2, scale=0.25, samples=2, aligned=True):
    rois = torch.as_tensor(rois, dtype=x.dtype, device=x.device).reshape(-1, 4)
    indices = torch.as_tensor(roi_indices, dtype=torch.int64, device=x.device)
    return roi_align(x, rois, indices, size, scale, samples, aligned)


def random_map(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


# Odd fractions: samples near the rims of the map, but none at the very spot where the value jumps to 0.
corner = st.integers(-30, 60).map(lambda v: v + 0.317)
roi = st.tuples(corner, corner, corner, corner).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]) + 0.05, max(b[1], b[3]) + 0.05)
)


@BOTH_WAYS
@ALIGNED
@pytest.mark.parametrize("device", DEVICES)
@SMALL
@given(
    rows=st.lists(st.tuples(roi, st.integers(0, 2)), max_size=4),
    size=st.sampled_from([1, 3]),
    samples=st.sampled_from([1, 2, 3]),
)
def test_agrees_with_the_slow_loop(device, with_gradient, aligned, rows, size, samples):
    """RoIs in, partly out and wholly out of the map, of three images in any order, some images without one."""
    x = random_map(3, 2, 6, 8)
    rois, indices = [r for r, _ in rows], [i for _, i in rows]
    out = run(x.to(device).requires_grad_(with_gradient), rois, indices, size, 0.25, samples, aligned)
    assert out.requires_grad == with_gradient
    expected = slow_roi_align(x.detach().numpy(), rois, indices, size, 0.25, samples, aligned)
    np.testing.assert_allclose(out.detach().cpu().numpy(), expected, rtol=0, atol=1e-9)


@BOTH_WAYS
@ALIGNED
def test_adaptive_samples(with_gradient, aligned):
    x = random_map(1, 1, 12, 12).requires_grad_(with_gradient)
    rois = [[1.3, 2.2, 40.9, 17.1], [5.3, 4.1, 9.7, 44.2]]
    expected = slow_roi_align(x.detach().numpy(), rois, [0, 0], 2, 0.25, 0, aligned)
    for samples in (0, -1):
        out = run(x, rois, [0, 0], 2, 0.25, samples, aligned).detach()
        np.testing.assert_allclose(out.numpy(), expected, rtol=0, atol=1e-9)


@BOTH_WAYS
@pytest.mark.parametrize("device", DEVICES)
def test_by_hand(device, with_gradient):
    """On a plane the mean of the samples is the value at the bin's centre; a cell's value is at its middle."""
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    plane = (10 * y + x)[None, None].to(device).requires_grad_(with_gradient)
    out = run(plane, [[16, 32, 48, 96]], [0], size=2, scale=1 / 16)  # rows 1..3, columns 2..6 of cells
    # centres of the bins: y 1.5, 2.5 and x 3, 5, less half a cell
    assert out[0, 0].tolist() == [[pytest.approx(v) for v in row] for row in ([12.5, 14.5], [22.5, 24.5])]
    unaligned = run(plane, [[16, 32, 48, 96]], [0], size=2, scale=1 / 16, aligned=False)
    assert unaligned[0, 0].tolist() == [[pytest.approx(v) for v in row] for row in ([18, 20], [28, 30])]


@BOTH_WAYS
def test_samples_exactly_on_the_rims(with_gradient):
    """One sample a RoI, at −1, at the map's size and just beyond, where a border cell stops to count."""
    x = torch.tensor([[[[3.0, 4.0], [5.0, 6.0]]]]).requires_grad_(with_gradient)
    at = [(-1, 0), (2, 0), (0, 2), (-1.01, 0), (2.01, 0), (0, 2.01), (2, 2)]
    rois = [[y - 1, x_ - 1, y + 1, x_ + 1] for y, x_ in at]
    out = run(x, rois, [0] * len(at), size=1, scale=1.0, samples=1, aligned=False)
    assert out.flatten().tolist() == [3, 5, 4, 0, 0, 0, 6]


@BOTH_WAYS
def test_zero_area_rois_are_finite(with_gradient):
    x = random_map(1, 2, 5, 5).requires_grad_(with_gradient)
    rois = [[8, 8, 8, 8], [0, 0, 0, 12], [18, 2, 18, 2]]
    for aligned in (True, False):
        out = run(x, rois, [0, 0, 0], 3, 0.25, 2, aligned)
        expected = slow_roi_align(x.detach().numpy(), rois, [0, 0, 0], 3, 0.25, 2, aligned)
        np.testing.assert_allclose(out.detach().numpy(), expected, rtol=0, atol=1e-9)


@BOTH_WAYS
@pytest.mark.parametrize("device", DEVICES)
def test_no_rois(device, with_gradient):
    x = torch.zeros(2, 3, 5, 5, device=device, requires_grad=with_gradient)
    out = run(x, [], [], size=7)
    assert out.shape == (0, 3, 7, 7)
    if with_gradient:
        out.sum().backward()
        assert x.grad.abs().sum() == 0


@BOTH_WAYS
def test_float32_and_its_dtype(with_gradient):
    x = random_map(2, 3, 38, 50)
    generator = np.random.default_rng(0)
    start = generator.uniform(-20, 400, (8, 2))
    rois = np.concatenate([start, start + generator.uniform(1, 300, (8, 2))], axis=1)
    indices = [1, 0, 0, 1, 1, 0, 1, 0]
    out = run(x.float().requires_grad_(with_gradient), rois, indices, 2, 1 / 16)
    assert out.dtype == torch.float32
    expected = slow_roi_align(x.numpy(), rois, indices, 2, 1 / 16, 2, True)
    np.testing.assert_allclose(out.detach().numpy(), expected, rtol=0, atol=1e-3)


@BOTH_WAYS
def test_memory_layout_changes_nothing(with_gradient):
    x = random_map(2, 4, 6, 8)
    rois, indices = [[0, 0, 20, 30], [4.5, 4, 16, 12], [0, 8, 24, 24]], [1, 0, 1]
    expected = slow_roi_align(x.numpy(), rois, indices, 2, 0.25, 2, True)
    for view in (x.to(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)):
        assert not view.is_contiguous()
        out = run(view.requires_grad_(with_gradient), rois, indices).detach()
        np.testing.assert_allclose(out.numpy(), expected, rtol=0, atol=1e-9)
    wide = torch.zeros(3, 8, dtype=torch.float64)
    wide[:, ::2] = torch.tensor(rois, dtype=torch.float64)
    spaced = torch.tensor([1, 9, 0, 9, 1, 9])[::2]
    out = roi_align(x.requires_grad_(with_gradient), wide[:, ::2], spaced, 2, 0.25).detach()
    np.testing.assert_allclose(out.numpy(), expected, rtol=0, atol=1e-9)


@ALIGNED
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("samples", [2, 0])  # separable products; torchvision's kernel
def test_gradient(device, aligned, samples):
    x = random_map(2, 2, 5, 6).to(device, memory_format=torch.channels_last).requires_grad_()
    rois = torch.tensor([[0, 0, 19, 23], [4, 4, 9.5, 9], [-8, 8, 12, 40]], device=device, dtype=torch.float64)
    indices = torch.tensor([1, 0, 1], device=device)
    assert torch.autograd.gradcheck(
        lambda x: roi_align(x, rois, indices, 3, 0.25, samples, aligned),
        (x,),
        nondet_tol=1e-9 if device == "cuda" else 0.0,
    )


def test_gradient_of_an_image_without_rois_is_zero():
    x = random_map(3, 2, 5, 6).requires_grad_()
    run(x, [[0, 0, 12, 12], [4, 4, 16, 16]], [2, 0]).sum().backward()
    sums = x.grad.sum(dim=(1, 2, 3))
    assert sums[1] == 0
    assert x.grad[1].abs().sum() == 0
    # a bin's weights sum to 1: 2 channels × 4 bins
    assert sums[[0, 2]].tolist() == [pytest.approx(8), pytest.approx(8)]
