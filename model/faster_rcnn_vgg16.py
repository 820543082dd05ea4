"""Faster R-CNN on VGG16: the network of the paper, and of simple-faster-rcnn's checkpoints."""

from torchvision.models import VGG16_Weights, vgg16

from model.faster_rcnn import FasterRCNN
from model.region_proposal_network import RegionProposalNetwork
from model.roi_head import RoIHead, fc_layers
from model.utils.anchor_tool import VGG_CELLS


class FasterRCNNVGG16(FasterRCNN):
    """VGG16's convolutions without the last pooling (stride 16), its fc6 and fc7 as the head.

    Args:
        n_fg_class: foreground classes, L.
        ratios, anchor_scales: anchors, see `generate_anchor_base`.
        use_drop: dropout after fc6 and fc7.
        roi: 'pool', 'align' or 'crop'.
        rpn_min_size: pixels of the original picture; shorter proposals are dropped.
        others: keywords of `FasterRCNN`.

    The weights are random until `load_pretrained` or `load_state_dict`.
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
        proposals = {"min_size": rpn_min_size}
        rpn = RegionProposalNetwork(512, 512, ratios, anchor_scales, self.cells, proposals)
        classifier = fc_layers(512 * 7 * 7, 4096, use_drop=use_drop, std=0.01)
        head = RoIHead(classifier, 4096, n_fg_class + 1, 7, self.cells, roi)
        super().__init__(extractor, rpn, head, **others)
