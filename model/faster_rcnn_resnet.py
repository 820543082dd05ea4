"""Faster R-CNN on ResNets: the "C4" detectors (He et al. 2016, §4.3 and appendix A), and with a feature pyramid."""

from collections import OrderedDict

from torch import nn
from torchvision import models
from torchvision.models.resnet import Bottleneck

from model.family import FasterRCNNFamily
from model.pyramid import FasterRCNNPyramid, Pyramid, pyramid_cells
from model.utils.anchor_tool import PADDED, Cells, Window

STEM = (Window(7, 2, 3), PADDED)  # conv1 and the pooling


class LastStage(nn.Sequential):
    """A ResNet's layer4 on each RoI's features, and their mean: (R, C, P, P) → (R, C')."""

    def forward(self, x):
        return super().forward(x).mean(dim=(2, 3))


class FasterRCNNResNetC4(FasterRCNNFamily):
    """A ResNet to layer3 (stride 16); layer4 on each RoI is the head.

    The arguments are those of `FasterRCNNFamily`; there is no fully connected layer for `use_drop`.
    """

    cells = Cells((*STEM, PADDED, PADDED))
    stages = (4, 5, 6, 7)  # conv1 to the pooling, layer1, layer2, layer3
    default_freeze_at, default_roi = 2, "align"
    network = None  # torchvision's function

    def layers(self, use_drop):
        if use_drop:
            raise ValueError("use_drop: a ResNet's head has no fully connected layers to drop from; leave it out")
        layers = OrderedDict(type(self).network(weights=None).named_children())
        classifier = LastStage(OrderedDict(layer4=layers.pop("layer4")))
        width = layers.pop("fc").in_features
        del layers["avgpool"]
        return nn.Sequential(layers), width // 2, classifier, width

    def pretrained_name(self, name):
        return f"head.classifier.{name}" if name.startswith("layer4.") else f"extractor.{name}"


class FasterRCNNResNetC4Caffe(FasterRCNNResNetC4):
    """jwyang's ResNets, with the layers of caffe's: the stride is in the first 1×1 convolution of a stage, and the
    first pooling is not padded, but may reach over the end.

    torchvision has no weights of them: --pretrained-path takes a file in torchvision's names (resnet101_caffe.pth).
    """

    cells = Cells((STEM[0], Window(3, 2, 0, ceil=True), Window(1, 2), Window(1, 2)))
    default_input_mode = "caffe"

    def layers(self, use_drop):
        extractor, *others, classifier, width = super().layers(use_drop)
        extractor.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True)
        for module in (*extractor.modules(), *classifier.modules()):
            if isinstance(module, Bottleneck) and module.stride == 2:
                module.conv1.stride, module.conv2.stride = (2, 2), (1, 1)
        return extractor, *others, classifier, width


class FasterRCNNResNet18C4(FasterRCNNResNetC4):
    network, pretrained_weights = models.resnet18, models.ResNet18_Weights.IMAGENET1K_V1


class FasterRCNNResNet34C4(FasterRCNNResNetC4):
    network, pretrained_weights = models.resnet34, models.ResNet34_Weights.IMAGENET1K_V1


class FasterRCNNResNet50C4(FasterRCNNResNetC4):
    network, pretrained_weights = models.resnet50, models.ResNet50_Weights.IMAGENET1K_V1


class FasterRCNNResNet101C4(FasterRCNNResNetC4):
    network, pretrained_weights = models.resnet101, models.ResNet101_Weights.IMAGENET1K_V1


class FasterRCNNResNet152C4(FasterRCNNResNetC4):
    network, pretrained_weights = models.resnet152, models.ResNet152_Weights.IMAGENET1K_V1


class FasterRCNNResNet50C4Caffe(FasterRCNNResNetC4Caffe):
    network = models.resnet50


class FasterRCNNResNet101C4Caffe(FasterRCNNResNetC4Caffe):
    network = models.resnet101


class FasterRCNNResNet152C4Caffe(FasterRCNNResNetC4Caffe):
    network = models.resnet152


class FasterRCNNResNetFPN(FasterRCNNPyramid):
    """A ResNet whose layers 1 to 4 (strides 4 to 32) carry the pyramid; anchors of √area 32 to 512, one a level."""

    cells = pyramid_cells(STEM, *((*STEM, *(PADDED,) * n) for n in (1, 2, 3)))
    stages = (4, 5, 6, 7, 8, 9)  # conv1 to the pooling, layer1, ..., layer4, the pyramid
    default_anchor_scales = (8,)
    network = None  # torchvision's function

    def pyramid(self):
        layers = OrderedDict(type(self).network(weights=None).named_children())
        width = layers.pop("fc").in_features
        del layers["avgpool"]
        return Pyramid(layers, {f"layer{k}": width // 2 ** (4 - k) for k in (1, 2, 3, 4)})

    def pretrained_name(self, name):
        return f"extractor.{name}"


class FasterRCNNResNet18FPN(FasterRCNNResNetFPN):
    network, pretrained_weights = models.resnet18, models.ResNet18_Weights.IMAGENET1K_V1


class FasterRCNNResNet34FPN(FasterRCNNResNetFPN):
    network, pretrained_weights = models.resnet34, models.ResNet34_Weights.IMAGENET1K_V1


class FasterRCNNResNet50FPN(FasterRCNNResNetFPN):
    network, pretrained_weights = models.resnet50, models.ResNet50_Weights.IMAGENET1K_V1


class FasterRCNNResNet101FPN(FasterRCNNResNetFPN):
    network, pretrained_weights = models.resnet101, models.ResNet101_Weights.IMAGENET1K_V1
