"""utils/models_tool.py: AlexNet's arithmetic by hand."""

import torch

from model import FasterRCNNAlexNet
from utils.models_tool import ModelRow, describe, models_table


def test_alexnets_row():
    """At 127×159: conv1 makes 31×39 cells, the poolings 15×19 and 7×9."""
    row = describe("alexnet", FasterRCNNAlexNet, (127, 159), torch.device("cpu"), rounds=1)
    convolutions = [
        (3, 64, 11, 31 * 39),
        (64, 192, 5, 15 * 19),
        (192, 384, 3, 63),
        (384, 256, 3, 63),
        (256, 256, 3, 63),
    ]
    rpn = [(256, 256, 3, 63), (256, 18, 1, 63), (256, 36, 1, 63)]
    linear = [(256 * 36, 4096), (4096, 4096), (4096, 21), (4096, 84)]
    expected = sum(2 * c_in * c_out * k * k * cells for c_in, c_out, k, cells in convolutions + rpn)
    expected += sum(2 * 300 * c_in * c_out for c_in, c_out in linear)
    assert row.flops == expected
    weights = [c_in * c_out * k * k + c_out for c_in, c_out, k, _ in convolutions + rpn]
    assert row.n_parameter == sum(weights) + sum(c_in * c_out + c_out for c_in, c_out in linear)
    assert (row.name, row.stride, row.n_roi) == ("alexnet", 16, 300)
    assert row.seconds > 0


def test_table():
    lines = models_table([ModelRow("tiny", 2_400_000, 8, 100, 3_210_000_000, 0.0456)], (600, 800)).splitlines()
    assert lines[0].split()[:6] == ["model", "parameters", "stride", "RoIs", "GFLOPs", "ms"]
    assert lines[1].split() == ["tiny", "2.4", "M", "8", "100", "3", "46"]
