"""model/ops/roi_pool.py against a loop over RoIs, channels and bins (Fast R-CNN, section 2.1)."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.ops.roi_pool import roi_pool

NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_CUDA])]
SMALL = settings(max_examples=40, deadline=None)


def half_up(value):
    """Nearest whole number, halves away from zero, as C's round."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def slow_roi_pool(x, rois, roi_indices, size, scale):
    """Rounded corners, both included; bin p of a side of n cells is [⌊p·n/size⌋, ⌈(p + 1)·n/size⌉); 0 where empty."""
    H, W = x.shape[2:]
    out = np.zeros((len(rois), x.shape[1], size, size), x.dtype)
    for r, (roi, image) in enumerate(zip(rois, roi_indices)):
        top, left, bottom, right = (half_up(v * scale) for v in roi)
        height, width = max(bottom - top + 1, 1), max(right - left + 1, 1)
        for p in range(size):
            y0, y1 = top + p * height // size, top - (-(p + 1) * height // size)
            y0, y1 = min(max(y0, 0), H), min(max(y1, 0), H)
            for q in range(size):
                x0, x1 = left + q * width // size, left - (-(q + 1) * width // size)
                x0, x1 = min(max(x0, 0), W), min(max(x1, 0), W)
                if y1 > y0 and x1 > x0:
                    out[r, :, p, q] = x[image, :, y0:y1, x0:x1].max(axis=(1, 2))
    return out


def run(x, rois, roi_indices, size=2, scale=0.25):
    """roi_pool on what numpy or lists hold."""
    rois = torch.as_tensor(rois, dtype=torch.float32, device=x.device).reshape(-1, 4)
    return roi_pool(x, rois, torch.as_tensor(roi_indices, dtype=torch.int64, device=x.device), size, scale)


def random_map(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


# A power of two as scale and quarters as corners: rounding ties occur, and occur exactly.
corner = st.integers(-60, 160).map(lambda v: v / 4)
roi = st.tuples(corner, corner, corner, corner).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)


@pytest.mark.parametrize("device", DEVICES)
@SMALL
@given(rows=st.lists(st.tuples(roi, st.integers(0, 2)), max_size=6), size=st.sampled_from([1, 2, 4]))
def test_agrees_with_the_slow_loop(device, rows, size):
    """RoIs in and out of the map, of three images in any order, some images without one."""
    x = random_map(3, 2, 6, 8)
    rois, indices = [r for r, _ in rows], [i for _, i in rows]
    out = run(x.to(device), rois, indices, size).cpu()
    np.testing.assert_array_equal(out.numpy(), slow_roi_pool(x.numpy(), rois, indices, size, 0.25))


def test_the_contract_size_7_at_one_sixteenth():
    x = random_map(2, 3, 20, 25)
    generator = np.random.default_rng(0)
    start = generator.uniform(0, 200, (30, 2))
    rois = np.concatenate([start, start + generator.uniform(16, 200, (30, 2))], axis=1).astype(np.float32)
    indices = generator.integers(0, 2, 30)
    out = run(x, rois, indices, 7, 1 / 16).numpy()
    assert out.shape == (30, 3, 7, 7)
    expected = slow_roi_pool(x.numpy(), rois.tolist(), indices, 7, 1 / 16)
    # a bin's edge may fall on a whole number only after rounding in float32: a cell more in a few bins
    assert (out >= expected).all()
    assert (out == expected).mean() > 0.97


@pytest.mark.parametrize("device", DEVICES)
def test_by_hand(device):
    x = torch.arange(16.0, device=device).reshape(1, 1, 4, 4)
    whole_map = run(x, [[0, 0, 48, 48]], [0], size=2, scale=1 / 16)  # cells 0..3, both included
    assert whole_map.tolist() == [[[[5, 7], [13, 15]]]]
    three_cells = run(x, [[0, 0, 2, 2]], [0], size=2, scale=1.0)  # bins [0, 2) and [1, 3) overlap
    assert three_cells.tolist() == [[[[5, 6], [9, 10]]]]


@pytest.mark.parametrize("device", DEVICES)
def test_halves_round_away_from_zero(device):
    x = torch.arange(16.0, device=device).reshape(1, 1, 4, 4)
    out = run(x, [[8, 40, 8, 40]], [0], size=1, scale=1 / 16)  # (0.5, 2.5) → cell (1, 3)
    assert out.item() == 7


def test_zero_area_roi_is_one_cell_and_an_outside_one_is_zero():
    x = random_map(1, 2, 4, 4) - 10  # all negative: an empty bin is 0, not the maximum with 0
    out = run(x, [[4, 8, 4, 8], [100, 100, 120, 120], [-50, 0, -40, 10]], [0, 0, 0], size=2)
    for channel in (0, 1):
        assert out[0, channel].unique().tolist() == [x[0, channel, 1, 2].item()]
    assert out[1:].abs().max() == 0


@pytest.mark.parametrize("device", DEVICES)
def test_boxes_stay_in_float32_beside_a_bfloat16_map(device):
    """A coordinate of 807 is 808 in bfloat16, which lies in another cell."""
    x = random_map(1, 8, 60, 60).bfloat16().to(device)
    out = run(x, [[7, 807, 23, 823]], [0], size=1, scale=1 / 16)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, x[:, :, 0:2, 50:52].amax(dim=(2, 3), keepdim=True))


@pytest.mark.parametrize("device", DEVICES)
def test_no_rois(device):
    x = torch.zeros(2, 3, 5, 5, device=device, requires_grad=True)
    out = run(x, [], [], size=7)
    assert out.shape == (0, 3, 7, 7)
    out.sum().backward()
    assert x.grad.abs().sum() == 0


def test_memory_layout_changes_nothing():
    x = random_map(2, 4, 6, 8)
    rois, indices = [[0, 0, 20, 30], [4, 4, 16, 12], [0, 8, 24, 24]], [1, 0, 1]
    expected = run(x, rois, indices)
    for view in (x.to(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)):
        assert not view.is_contiguous()
        assert torch.equal(run(view, rois, indices), expected)
    wide = torch.zeros(3, 8)
    wide[:, ::2] = torch.tensor(rois, dtype=torch.float32)
    spaced = torch.tensor([1, 9, 0, 9, 1, 9])[::2]
    assert torch.equal(roi_pool(x, wide[:, ::2], spaced, 2, 0.25), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_gradient(device, channels_last):
    # distinct values, so that a maximum has one place
    x = torch.randperm(2 * 2 * 5 * 6, generator=torch.Generator().manual_seed(3)).double().reshape(2, 2, 5, 6)
    x = x.to(device, memory_format=torch.channels_last if channels_last else torch.contiguous_format).requires_grad_()
    rois = torch.tensor([[0, 0, 19, 23], [4, 4, 9, 9], [-8, 8, 12, 40.0]], device=device, dtype=torch.float64)
    indices = torch.tensor([1, 0, 1], device=device)
    assert torch.autograd.gradcheck(
        lambda x: roi_pool(x, rois, indices, 3, 0.25), (x,), nondet_tol=1e-9 if device == "cuda" else 0.0
    )


def test_gradient_goes_to_the_maximum_by_hand():
    x = torch.arange(16.0).reshape(1, 1, 4, 4).requires_grad_()
    out = run(x, [[0, 0, 48, 48], [0, 0, 48, 48]], [0, 0], size=2, scale=1 / 16)
    out.sum().backward()
    assert x.grad[0, 0].tolist() == [[0, 0, 0, 0], [0, 2, 0, 2], [0, 0, 0, 0], [0, 2, 0, 2]]
