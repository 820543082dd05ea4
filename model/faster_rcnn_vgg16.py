"""Faster R-CNN on VGG16: the network of the paper, and of simple-faster-rcnn's checkpoints."""

from torchvision.models import VGG16_Weights, vgg16

from model.family import FasterRCNNFamily
from model.roi_head import fc_layers
from model.utils.anchor_tool import VGG_CELLS


class FasterRCNNVGG16(FasterRCNNFamily):
    """VGG16's convolutions without the last pooling (stride 16), its fc6 and fc7 as the head.

    The arguments are those of `FasterRCNNFamily`.
    """

    cells = VGG_CELLS
    stages = (5, 10, 17, 24, 30)
    default_freeze_at = 2  # conv1 and conv2 are generic (Girshick 2015, Fast R-CNN, §4.5)
    pretrained_weights = VGG16_Weights.IMAGENET1K_V1
    pretrained_fc = ("classifier.0", "classifier.3")

    def layers(self, use_drop):
        classifier = fc_layers(512 * 7 * 7, 4096, use_drop=use_drop, std=0.01)
        return vgg16(weights=None).features[:30], 512, classifier, 4096
