"""Feature pyramids (Lin et al. 2017, Feature pyramid networks for object detection), in torchvision's structure."""

from collections import OrderedDict
from typing import ClassVar

from torch import nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from model.family import FasterRCNNFamily
from model.roi_head import fc_layers
from model.utils.anchor_tool import Cells, Window

CHANNELS = 256  # of every level's map


class Pyramid(nn.Sequential):
    """A backbone's layers, one after the other, and on top of them the pyramid.

    Args:
        layers: name → layer.
        ends: name of the layer that ends a level → channels of its map; finest first.

    From images (N, 3, H, W), H and W multiples of the coarsest level's stride, to a list of maps (N, 256, H', W'): one
    a level, and at last every second cell of the coarsest.
    """

    def __init__(self, layers, ends):
        fpn = FeaturePyramidNetwork(list(ends.values()), CHANNELS, extra_blocks=LastLevelMaxPool())
        super().__init__(OrderedDict(**layers, fpn=fpn))
        self.ends = tuple(ends)

    def forward(self, x):
        maps = OrderedDict()
        for name, layer in self.named_children():
            if name != "fpn":
                x = layer(x)
            if name in self.ends:
                maps[name] = x
        return list(self.fpn(maps).values())


def pyramid_cells(*windows_of_levels, multiple=32):
    """`Cells` of each level, and of the last one's every second cell, from the windows up to the end of each."""
    last = (*windows_of_levels[-1], Window(1, 2))
    return tuple(Cells(windows, multiple) for windows in (*windows_of_levels, last))


class FasterRCNNPyramid(FasterRCNNFamily):
    """What the detectors with a pyramid share: torchvision's numbers.

    The arguments are those of `FasterRCNNFamily`. Anchors that reach over the border are trained as well.
    """

    rpn_width = CHANNELS
    default_freeze_at, default_allowed_border, default_n_sample = 2, 1024, 512
    default_roi, default_rpn_min_size = "align", 0.001
    default_proposals: ClassVar = {
        "n_train_pre_nms": 2000,  # of each level
        "n_train_post_nms": 2000,
        "n_test_pre_nms": 1000,
        "n_test_post_nms": 1000,
    }
    beside_backbone = ("extractor.fpn.",)

    def layers(self, use_drop):
        return self.pyramid(), CHANNELS, fc_layers(CHANNELS * 7 * 7, 1024, use_drop=use_drop), 1024

    def pyramid(self):
        """The extractor, a `Pyramid` with random weights."""
        raise NotImplementedError
