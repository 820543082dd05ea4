"""Faster R-CNN on VGG16: the network of the paper, and of simple-faster-rcnn's checkpoints."""

from torchvision.models import VGG16_Weights, vgg16

from model.family import FasterRCNNFamily
from model.roi_head import fc_layers
from model.utils.anchor_tool import VGG_CELLS


class FasterRCNNVGG16(FasterRCNNFamily):
    """VGG16's convolutions without the last pooling (stride 16), its fc6 and fc7 as the head.

    The arguments are those of `FasterRCNNFamily`, and `use_drop`: dropout after fc6 and fc7.
    """

    cells = VGG_CELLS
    stages = (5, 10, 17, 24, 30)
    default_freeze_at = 2  # conv1 and conv2 are generic (Girshick 2015, Fast R-CNN, §4.5)
    pretrained_weights = VGG16_Weights.IMAGENET1K_V1
    pretrained_fc = ("classifier.0", "classifier.3")

    def __init__(
        self,
        n_fg_class=20,
        ratios=(0.5, 1, 2),
        anchor_scales=(8, 16, 32),
        *,
        use_drop=False,
        roi="pool",
        rpn_min_size=16,
        **others,
    ):
        extractor = vgg16(weights=None).features[:30]
        classifier = fc_layers(512 * 7 * 7, 4096, use_drop=use_drop, std=0.01)
        super().__init__(
            extractor, 512, classifier, 4096, n_fg_class,
            ratios=ratios, anchor_scales=anchor_scales, roi=roi, rpn_min_size=rpn_min_size,
            **others,
        )  # fmt: skip
