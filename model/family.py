"""What the families of detectors share: from a backbone and a family's numbers to a whole `FasterRCNN`."""

from model.faster_rcnn import FasterRCNN
from model.region_proposal_network import RegionProposalNetwork
from model.roi_head import RoIHead


class FasterRCNNFamily(FasterRCNN):
    """Builds the RPN and the head around a backbone. A family is a subclass that brings the layers and its defaults.

    Args:
        extractor: module from prepared images to feature maps.
        channels: of a feature map.
        classifier, width: the head's layers, module from (R, channels, roi_size, roi_size) to (R, width).
        n_fg_class: foreground classes, L.
        ratios, anchor_scales: anchors, see `generate_anchor_base`.
        roi: 'pool', 'align' or 'crop'.
        rpn_min_size: pixels of the original picture; shorter proposals are dropped.
        class_agnostic: one box a RoI in place of one a class.
        rpn_width, roi_size: channels of the RPN's convolution; bins a side of a RoI.
        proposals: keywords of `ProposalCreator`.
        others: keywords of `FasterRCNN`.

    The weights are random until `load_pretrained` or `load_state_dict`.
    """

    cells = None  # `Cells` of the feature map

    def __init__(
        self,
        extractor,
        channels,
        classifier,
        width,
        n_fg_class,
        *,
        ratios,
        anchor_scales,
        roi,
        rpn_min_size,
        class_agnostic=False,
        rpn_width=512,
        roi_size=7,
        proposals=None,
        **others,
    ):
        proposals = {"min_size": rpn_min_size, **(proposals or {})}
        rpn = RegionProposalNetwork(channels, rpn_width, ratios, anchor_scales, self.cells, proposals)
        head = RoIHead(classifier, width, n_fg_class + 1, roi_size, self.cells, roi, class_agnostic)
        super().__init__(extractor, rpn, head, **others)
