"""Faster R-CNN on AlexNet: the smallest of the classical networks, and a lecture's exercise."""

from torchvision.models import AlexNet_Weights, alexnet

from model.family import FasterRCNNFamily
from model.roi_head import fc_layers
from model.utils.anchor_tool import Cells, Window


class FasterRCNNAlexNet(FasterRCNNFamily):
    """AlexNet's five convolutions (Krizhevsky 2014, One weird trick; stride 16, 256 channels), its fc6 and fc7 as head.

    The arguments are those of `FasterRCNNFamily`.
    """

    cells = Cells((Window(11, 4, 2), Window(3, 2), Window(3, 2)))
    rpn_width, roi_size = 256, 6
    stages = (3, 6, 12)
    default_freeze_at = 1
    pretrained_weights = AlexNet_Weights.IMAGENET1K_V1
    pretrained_fc = ("classifier.1", "classifier.4")

    def layers(self, use_drop):
        extractor = alexnet(weights=None).features[:12]  # without the last pooling
        return extractor, 256, fc_layers(256 * 6 * 6, 4096, use_drop=use_drop, std=0.01), 4096
