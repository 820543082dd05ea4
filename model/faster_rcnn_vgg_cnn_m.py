"""Faster R-CNN on VGG_CNN_M_1024 (Chatfield et al. 2014), the medium network of Fast R-CNN and py-faster-rcnn."""

from torch import nn

from model.family import FasterRCNNFamily
from model.roi_head import fc_layers
from model.utils.anchor_tool import Cells, Window

POOLING = Window(3, 2, 0, ceil=True)  # caffe's, whose last window may reach over the end


class FasterRCNNVGGCNNM(FasterRCNNFamily):
    """Five convolutions to stride 16, 512 channels, and fully connected layers of 4096 and 1024 on 6×6 bins.

    The arguments are those of `FasterRCNNFamily`. torchvision has no weights of it: --pretrained-path takes a file in
    the names of the layers below, as features.0.weight and so on.
    """

    cells = Cells((Window(7, 2), POOLING, Window(5, 2, 1), POOLING))
    rpn_width, roi_size = 256, 6
    stages = (4, 8, 14)
    default_freeze_at = 1
    pretrained_fc = ("classifier.0", "classifier.3")

    def layers(self, use_drop):
        extractor = nn.Sequential(
            nn.Conv2d(3, 96, 7, 2), nn.ReLU(inplace=True),
            nn.LocalResponseNorm(5, 5e-4, 0.75, 2), nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.Conv2d(96, 256, 5, 2, 1), nn.ReLU(inplace=True),
            nn.LocalResponseNorm(5, 5e-4, 0.75, 2), nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.Conv2d(256, 512, 3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(512, 512, 3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(512, 512, 3, padding=1), nn.ReLU(inplace=True),
        )  # fmt: skip
        return extractor, 512, fc_layers(512 * 6 * 6, 4096, 1024, use_drop=use_drop, std=0.01), 1024
