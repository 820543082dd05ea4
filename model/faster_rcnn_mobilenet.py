"""Faster R-CNN on MobileNetV2, and on MobileNetV3 with a feature pyramid, for machines without a GPU."""

from collections import OrderedDict
from typing import ClassVar

from torchvision.models import MobileNet_V2_Weights, MobileNet_V3_Large_Weights, mobilenet_v2, mobilenet_v3_large

from model.family import FasterRCNNFamily
from model.pyramid import FasterRCNNPyramid, Pyramid, pyramid_cells
from model.roi_head import fc_layers
from model.utils.anchor_tool import PADDED, Cells, Window


class FasterRCNNMobileNetV2(FasterRCNNFamily):
    """MobileNetV2 to stride 16 (its layers 0..13, 96 channels) and two fully connected layers of 1024.

    The arguments are those of `FasterRCNNFamily`; the defaults suit pictures of about 320 px. Anchors that reach over
    the border are trained as well: at such sizes the large ones nearly all do, and untrained they flood the proposals.
    """

    cells = Cells((PADDED,) * 4)
    stages = (2, 4, 7, 14)
    default_freeze_at, default_allowed_border, default_n_sample = 1, 1024, 64
    default_anchor_scales, default_roi, default_rpn_min_size = (2, 4, 8, 16), "align", 4
    rpn_width = 256
    default_proposals: ClassVar = {
        "n_train_pre_nms": 2000,
        "n_train_post_nms": 1000,
        "n_test_pre_nms": 1000,
        "n_test_post_nms": 300,
    }
    pretrained_weights = MobileNet_V2_Weights.IMAGENET1K_V1

    def layers(self, use_drop):
        return mobilenet_v2(weights=None).features[:14], 96, fc_layers(96 * 7 * 7, 1024, use_drop=use_drop), 1024


WIDE = Window(5, 2, 2)
V3_WINDOWS = (PADDED, PADDED, WIDE, PADDED, WIDE)  # strides 2 to 32


class FasterRCNNMobileNetV3LargeFPN(FasterRCNNPyramid):
    """MobileNetV3-Large whose last two maps, both of stride 32, carry the pyramid, as torchvision's: quick but coarse.

    Anchors of √area 32 to 512, all on each level. Proposals of less than 0.05 are dropped.
    """

    cells = pyramid_cells(V3_WINDOWS, V3_WINDOWS)
    stages = (2, 4, 7, 13, 17, 18)
    default_freeze_at = 3
    anchor_base_size, default_anchor_scales = 16, (2, 4, 8, 16, 32)
    default_proposals: ClassVar = {**FasterRCNNPyramid.default_proposals, "score_thresh": 0.05}
    pretrained_weights = MobileNet_V3_Large_Weights.IMAGENET1K_V1

    def pyramid(self):
        layers = OrderedDict(mobilenet_v3_large(weights=None).features.named_children())
        return Pyramid(layers, {"13": 160, "16": 960})
