"""model/utils/anchor_tool.py: the contract's anchors by hand, and the order of cells."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from model.utils.anchor_tool import (
    PADDED,
    POOL,
    Cells,
    Window,
    crop_cells,
    enumerate_shifted_anchor,
    generate_anchor_base,
)

NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_CUDA])]

# Half heights and half widths around (8, 8) of the contract's nine: √½ · 64 = 45.2548 and so on, unrounded.
HALVES = [
    (45.2548340, 90.5096680),  # ratio ½ (wide): scales 8, 16, 32
    (90.5096680, 181.0193360),
    (181.0193360, 362.0386720),
    (64, 64),  # ratio 1
    (128, 128),
    (256, 256),
    (90.5096680, 45.2548340),  # ratio 2 (tall)
    (181.0193360, 90.5096680),
    (362.0386720, 181.0193360),
]


def test_the_nine_anchors_of_the_contract():
    expected = torch.tensor([[8 - h, 8 - w, 8 + h, 8 + w] for h, w in HALVES])
    base = generate_anchor_base()
    assert base.dtype == torch.float32
    torch.testing.assert_close(base, expected, rtol=0, atol=1e-4)
    # the corners that simple-faster-rcnn prints
    assert base[0].tolist() == pytest.approx([-37.254834, -82.50967, 53.254834, 98.50967], abs=1e-4)


def test_index_is_ratio_times_scales_plus_scale():
    ratios, scales, base_size = (0.25, 1, 3, 4), (1, 2.5), 10
    base = generate_anchor_base(base_size, ratios, scales)
    assert base.shape == (8, 4)
    for i, ratio in enumerate(ratios):
        for j, scale in enumerate(scales):
            y_min, x_min, y_max, x_max = base[i * 2 + j].tolist()
            assert (y_max - y_min) / (x_max - x_min) == pytest.approx(ratio)
            assert math.sqrt((y_max - y_min) * (x_max - x_min)) == pytest.approx(base_size * scale)
            assert (y_min + y_max, x_min + x_max) == (pytest.approx(10, abs=1e-5), pytest.approx(10, abs=1e-5))


def test_a_given_centre_moves_them_all():
    moved = generate_anchor_base(16, (0.5, 1), (1, 4), center=0.5)
    torch.testing.assert_close(moved, generate_anchor_base(16, (0.5, 1), (1, 4)) - 7.5)


@pytest.mark.parametrize("device", DEVICES)
def test_shifts_row_by_row_with_a_cells_anchors_together(device):
    base = torch.tensor([[0.0, 1.0, 2.0, 3.0], [-4.0, -5.0, 6.0, 7.0]], device=device)
    anchors = enumerate_shifted_anchor(base, 16, 2, 3)
    expected = []
    for y in (0, 16):
        for x in (0, 16, 32):
            expected += [[y, x + 1, y + 2, x + 3], [y - 4, x - 5, y + 6, x + 7]]
    assert anchors.device.type == device
    assert anchors.tolist() == expected
    one = enumerate_shifted_anchor(base[:1], (10, 7), 2, 2)
    assert one.tolist() == [[0, 1, 2, 3], [0, 8, 2, 10], [10, 1, 12, 3], [10, 8, 12, 10]]


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_no_cells(shape):
    assert enumerate_shifted_anchor(generate_anchor_base(), 16, *shape).shape == (0, 4)


@pytest.mark.parametrize("trailing", [(), (4,), (2, 2)])
def test_crop_cells_keeps_the_top_left(trailing):
    height, width, per_cell = 3, 4, 2
    rows = torch.tensor([100 * y + 10 * x + a for y in range(height) for x in range(width) for a in range(per_cell)])
    x = rows.view(-1, *[1] * len(trailing)).expand(-1, *trailing)
    own = crop_cells(x, [(3, 4)], [(2, 3)])
    assert own.shape == (12, *trailing)
    expected = [100 * y + 10 * x + a for y in range(2) for x in range(3) for a in range(per_cell)]
    assert own.reshape(12, -1)[:, 0].tolist() == expected


def test_crop_cells_of_several_maps():
    first = [(0, y, x, a) for y in range(2) for x in range(3) for a in range(2)]
    rows = first + [(1, 0, x, a) for x in range(2) for a in range(2)]
    own = crop_cells(torch.tensor(rows), [(2, 3), (1, 2)], [(1, 2), (1, 1)])
    assert own.tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0], [0, 0, 1, 1], [1, 0, 0, 0], [1, 0, 0, 1]]


def test_crop_cells_without_padding():
    x = torch.randn(24, 4)
    assert crop_cells(x, [(3, 4)], [torch.Size((3, 4))]) is x


def test_cropped_anchors_are_those_of_the_small_map():
    base = generate_anchor_base()
    padded = enumerate_shifted_anchor(base, 16, 7, 9)
    assert torch.equal(crop_cells(padded, [(7, 9)], [(5, 4)]), enumerate_shifted_anchor(base, 16, 5, 4))


def test_crop_cells_lets_the_gradient_through():
    x = torch.ones(6, 1, requires_grad=True)
    crop_cells(x, [(2, 3)], [(1, 2)]).sum().backward()
    assert x.grad[:, 0].tolist() == [1, 1, 0, 0, 0, 0]


# The cells of a map


@settings(max_examples=200, deadline=None)
@given(
    n=st.integers(1, 200),
    kernel=st.integers(1, 11),
    stride=st.integers(1, 4),
    padding=st.integers(0, 5),
    ceil=st.booleans(),
)
def test_a_windows_cells_are_a_poolings(n, kernel, stride, padding, ceil):
    padding = min(padding, kernel // 2)  # as torch demands
    if n + 2 * padding < kernel:
        return
    expected = F.max_pool1d(torch.zeros(1, 1, n), kernel, stride, padding, ceil_mode=ceil).shape[2]
    assert Window(kernel, stride, padding, ceil).n_cells(n) == expected


@pytest.mark.parametrize(
    ("windows", "stride", "center"),
    [
        ((), 1, 0.5),  # the pixels themselves
        ((POOL,) * 4, 16, 8),
        ((PADDED,) * 4, 16, 0.5),
        ((Window(11, 4, 2), Window(3, 2), Window(3, 2)), 16, 15.5),  # AlexNet: -2..9 is around 3.5, then + 4, + 8
        ((Window(7, 2), Window(3, 2, 0, True), Window(5, 2, 1), Window(3, 2, 0, True)), 16, 17.5),  # VGG_CNN_M_1024
    ],
)
def test_cells(windows, stride, center):
    assert (Cells(windows).stride, Cells(windows).center) == (stride, center)


def test_no_cell_in_a_picture_that_is_too_small():
    assert Cells((Window(7, 2), POOL)).map_size((5, 9)) == (0, 1)
