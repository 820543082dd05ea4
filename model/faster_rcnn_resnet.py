"""Faster R-CNN on ResNets (He et al. 2016, §4.3 and appendix A): the "C4" detectors."""

from collections import OrderedDict

from torch import nn
from torchvision import models

from model.family import FasterRCNNFamily
from model.utils.anchor_tool import PADDED, Cells, Window


class LastStage(nn.Sequential):
    """A ResNet's layer4 on each RoI's features, and their mean: (R, C, P, P) → (R, C')."""

    def forward(self, x):
        return super().forward(x).mean(dim=(2, 3))


class FasterRCNNResNetC4(FasterRCNNFamily):
    """A ResNet to layer3 (stride 16); layer4 on each RoI is the head.

    The arguments are those of `FasterRCNNFamily`; there is no fully connected layer for `use_drop`.
    """

    cells = Cells((Window(7, 2, 3), PADDED, PADDED, PADDED))
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
