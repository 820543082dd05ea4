"""Faster R-CNN on VGG16: the network of the paper, and of simple-faster-rcnn's checkpoints."""

from torch import nn
from torchvision.models import VGG16_Weights, vgg16

from model.faster_rcnn import FasterRCNN
from model.region_proposal_network import RegionProposalNetwork
from model.roi_head import RoIHead, fc_layers
from model.utils.anchor_tool import VGG_CELLS

N_FROZEN = 10  # conv1 and conv2 stay as ImageNet left them (Girshick 2015, Fast R-CNN, §4.5)


class FasterRCNNVGG16(FasterRCNN):
    """VGG16's convolutions without the last pooling (stride 16), its fc6 and fc7 as the head.

    Args:
        n_fg_class: foreground classes, L.
        ratios, anchor_scales: anchors, see `generate_anchor_base`.
        use_drop: dropout after fc6 and fc7.
        roi: 'pool' or 'align'.
        rpn_min_size: pixels of the original picture; shorter proposals are dropped.
        others: keywords of `FasterRCNN`.

    The weights are random until `load_pretrained` or `load_state_dict`.
    """

    cells = VGG_CELLS
    pretrained_weights = VGG16_Weights.IMAGENET1K_V1

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
        for layer in extractor[:N_FROZEN]:
            layer.requires_grad_(False)
        proposals = {"min_size": rpn_min_size}
        rpn = RegionProposalNetwork(512, 512, ratios, anchor_scales, self.cells, proposals)
        classifier = fc_layers(512 * 7 * 7, 4096, use_drop)
        for layer in classifier:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, 0, 0.01)
                nn.init.zeros_(layer.bias)
        head = RoIHead(classifier, 4096, n_fg_class + 1, 7, self.cells, roi)
        super().__init__(extractor, rpn, head, **others)

    def pretrained_name(self, name):
        """torchvision's classifier.0 and .3 (it has dropout between) are our fc6 and fc7."""
        fc7 = [i for i, layer in enumerate(self.head.classifier) if isinstance(layer, nn.Linear)][1]
        name = name.replace("classifier.3.", f"classifier.{fc7}.") if name.startswith("classifier.") else name
        return name.replace("features.", "extractor.", 1) if name.startswith("features.") else f"head.{name}"
