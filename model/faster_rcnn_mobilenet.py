"""Faster R-CNN on MobileNetV2, for machines without a GPU."""

from torchvision.models import MobileNet_V2_Weights, mobilenet_v2

from model.family import FasterRCNNFamily
from model.roi_head import fc_layers
from model.utils.anchor_tool import PADDED, Cells


class FasterRCNNMobileNetV2(FasterRCNNFamily):
    """MobileNetV2 to stride 16 (its layers 0..13, 96 channels) and two fully connected layers of 1024.

    The arguments are those of `FasterRCNNFamily`; the defaults suit pictures of about 320 px. Anchors that reach over
    the border are trained as well: at such sizes the large ones nearly all do, and untrained they flood the proposals.
    """

    cells = Cells((PADDED,) * 4)
    stages = (2, 4, 7, 14)
    default_freeze_at = 1
    pretrained_weights = MobileNet_V2_Weights.IMAGENET1K_V1

    def __init__(
        self,
        n_fg_class=20,
        ratios=(0.5, 1, 2),
        anchor_scales=(2, 4, 8, 16),
        *,
        use_drop=False,
        roi="align",
        rpn_min_size=4,
        allowed_border=1024,
        n_sample=64,
        **others,
    ):
        extractor = mobilenet_v2(weights=None).features[:14]
        proposals = {"n_train_pre_nms": 2000, "n_train_post_nms": 1000, "n_test_pre_nms": 1000, "n_test_post_nms": 300}
        classifier = fc_layers(96 * 7 * 7, 1024, use_drop=use_drop)
        super().__init__(
            extractor, 96, classifier, 1024, n_fg_class,
            ratios=ratios, anchor_scales=anchor_scales, roi=roi, rpn_min_size=rpn_min_size,
            rpn_width=256, proposals=proposals, allowed_border=allowed_border, n_sample=n_sample, **others,
        )  # fmt: skip
