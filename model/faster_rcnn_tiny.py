"""Faster R-CNN on a small residual network that learns from nothing in minutes on a CPU: the demo's and the tests'."""

from typing import ClassVar

import torch.nn.functional as F
from torch import nn

from model.family import FasterRCNNFamily
from model.roi_head import fc_layers
from model.utils.anchor_tool import PADDED, Cells


def conv_bn(in_channels, out_channels, kernel_size, stride=1):
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_channels),
    )


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut (He et al. 2016, figure 2)."""

    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__()
        self.conv1 = conv_bn(in_channels, out_channels, 3, stride)
        self.conv2 = conv_bn(out_channels, out_channels, 3)
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else conv_bn(in_channels, out_channels, 1, stride)

    def forward(self, x):
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


class FasterRCNNTiny(FasterRCNNFamily):
    """32-64-128 channels to stride 8, and two fully connected layers of 256: 2.4 M parameters.

    The arguments are those of `FasterRCNNFamily`; the defaults suit pictures of about 200 px.
    """

    cells = Cells((PADDED,) * 3)
    stages = (2, 3, 5)
    default_allowed_border = 1024
    default_anchor_scales, default_roi, default_rpn_min_size = (2, 4, 8), "align", 4
    rpn_width = 128
    default_proposals: ClassVar = {
        "n_train_pre_nms": 600,
        "n_train_post_nms": 200,
        "n_test_pre_nms": 600,
        "n_test_post_nms": 100,
    }

    def layers(self, use_drop):
        extractor = nn.Sequential(
            conv_bn(3, 32, 3, stride=2), nn.ReLU(inplace=True),
            ResidualBlock(32, 64, stride=2), ResidualBlock(64, 128, stride=2), ResidualBlock(128, 128),
        )  # fmt: skip
        return extractor, 128, fc_layers(128 * 7 * 7, 256, use_drop=use_drop), 256
