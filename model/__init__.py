"""The detectors."""

from model.faster_rcnn import Detections, FasterRCNN
from model.faster_rcnn_alexnet import FasterRCNNAlexNet
from model.faster_rcnn_mobilenet import FasterRCNNMobileNetV2
from model.faster_rcnn_tiny import FasterRCNNTiny
from model.faster_rcnn_vgg16 import FasterRCNNVGG16
from model.zoo import MODELS, build_model, load_model

__all__ = [
    "MODELS",
    "Detections",
    "FasterRCNN",
    "FasterRCNNAlexNet",
    "FasterRCNNMobileNetV2",
    "FasterRCNNTiny",
    "FasterRCNNVGG16",
    "build_model",
    "load_model",
]
