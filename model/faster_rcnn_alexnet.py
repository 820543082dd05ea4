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
    stages = (3, 6, 12)
    default_freeze_at = 1
    pretrained_weights = AlexNet_Weights.IMAGENET1K_V1
    pretrained_fc = ("classifier.1", "classifier.4")

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
        extractor = alexnet(weights=None).features[:12]  # without the last pooling
        classifier = fc_layers(256 * 6 * 6, 4096, use_drop=use_drop, std=0.01)
        super().__init__(
            extractor, 256, classifier, 4096, n_fg_class,
            ratios=ratios, anchor_scales=anchor_scales, roi=roi, rpn_min_size=rpn_min_size,
            rpn_width=256, roi_size=6, **others,
        )  # fmt: skip
