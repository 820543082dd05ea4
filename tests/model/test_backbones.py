"""The families of detectors: ImageNet weights in torchvision's names, what is frozen, and that each one learns."""

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from model import MODELS, build_model, load_model
from trainer import FasterRCNNTrainer
from utils.config import Config
from utils.errors import UserError
from utils.image_tool import normalize
from utils.inference_tool import evaluate_model

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT.parent / "shared/data/weights/squeezenet1_1_features_imagenet.pth"
NAMES = ("a", "b", "c")
BIG = ("vgg16", "resnet101_c4", "resnet152_c4")  # hundreds of megabytes each
SMALL = [name for name in MODELS if name not in BIG]
ROIS = ("pool", "align", "crop")


def torchvisions(name):
    torch.manual_seed(3)
    network = getattr(torchvision.models, name.removesuffix("_c4"))(weights=None).eval()
    for module in network.modules():  # statistics and factors that a wrong name would not have
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return network


def features_of(network, name, img):
    if name == "alexnet":
        return network.features[:12](img)
    x = network.maxpool(network.relu(network.bn1(network.conv1(img))))
    return network.layer3(network.layer2(network.layer1(x)))


@pytest.mark.parametrize("name", ["alexnet", "resnet18_c4", "resnet50_c4"])
def test_pretrained_file_in_torchvisions_names(name, tmp_path):
    network = torchvisions(name)
    torch.save(network.state_dict(), tmp_path / "imagenet.pth")
    model = build_model(name, 3, NAMES)
    model.load_pretrained(tmp_path / "imagenet.pth")
    model.eval()
    assert model.frozen_bn
    img = torch.randn(1, 3, 130, 170, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = features_of(network, name, img)
        torch.testing.assert_close(model.extractor(img), expected)
        roi = torch.randn(2, expected.shape[1], model.head.roi_size, model.head.roi_size)
        if name == "alexnet":  # fc6 and fc7
            through = network.classifier[:6](roi.flatten(1))
        else:
            through = network.layer4(roi).mean(dim=(2, 3))
        torch.testing.assert_close(model.head.classifier(roi), through)


def test_without_weights_in_torchvision_a_file_is_needed(tmp_path):
    model = build_model("vgg_cnn_m_1024", 3, NAMES)
    with pytest.raises(UserError, match="no ImageNet weights"):
        model.load_pretrained()
    state = {f"features.{name}": value + 1 for name, value in model.extractor.state_dict().items()}
    fc = {f"classifier.{i}.weight": torch.ones_like(model.head.classifier[j].weight) for i, j in ((0, 0), (3, 2))}
    torch.save(state | fc, tmp_path / "m.pth")
    model.load_pretrained(tmp_path / "m.pth")
    assert all(torch.equal(state[f"features.{n}"], value) for n, value in model.extractor.state_dict().items())
    assert (model.head.classifier[2].weight == 1).all()


@pytest.mark.parametrize("name", SMALL)
def test_freeze_at_freezes_the_first_stages(name):
    with torch.device("meta"):
        n_stages = len(MODELS[name].stages)
        for freeze_at in (None, *range(n_stages + 1)):
            model = build_model(name, 3, NAMES, freeze_at=freeze_at)
            expected = model.default_freeze_at if freeze_at is None else freeze_at
            end = model.stages[expected - 1] if expected else 0
            for i, child in enumerate(model.extractor.children()):
                assert all(p.requires_grad == (i >= end) for p in child.parameters())
        assert model.stages[-1] == len(list(model.extractor.children()))  # the last stage is the last layer


PICTURES = torch.rand(2, 3, 128, 160, generator=torch.Generator().manual_seed(1)) * 255
BOXES = [torch.tensor([[8.0, 10, 90, 100], [30, 30, 120, 150]])] * 2, [torch.tensor([1, 0])] * 2  # and labels


def few_steps(model, n=6, lr=1e-4):
    """Losses of the same two images in each of n steps."""
    trainer = FasterRCNNTrainer(model.train(), config=Config(lr=lr, use_adam=True, roi_n_sample=32))
    imgs = normalize(PICTURES, model.input_mode)
    return trainer, [trainer.train_step(imgs, *BOXES, 1.0, indices=[0, 1]).total_loss.item() for _ in range(n)]


@torch.no_grad()
def normalize_layers(model):
    """Give BatchNorm the statistics of two pictures: without any, 100 layers of random weights make infinities."""
    norms = [module for module in model.train().modules() if isinstance(module, nn.BatchNorm2d)]
    for module in norms:
        module.momentum = 1.0
    FasterRCNNTrainer(model)(normalize(PICTURES, model.input_mode), *BOXES, 1.0)


def learns_saves_loads_and_evaluates(name, roi, tmp_path):
    torch.manual_seed(0)
    # a few steps are not enough for proposals above MobileNetV3's 0.05
    options = {"allowed_border": 1024, "rpn_score_thresh": 0}
    model = build_model(name, 3, NAMES, roi=roi, min_size=128, max_size=160, **options)
    normalize_layers(model)
    model.freeze_bn()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    trainer, losses = few_steps(model)
    assert all(map(torch.isfinite, map(torch.tensor, losses)))
    assert min(losses[-2:]) < losses[0]
    for n, p in model.named_parameters():  # and the gradient reaches whatever is not frozen
        assert p.grad.any() if p.requires_grad else torch.equal(p, before[n]), n
    again = load_model(trainer.save(save_path=tmp_path / "x.pth"))
    img = torch.rand(3, 120, 150, generator=torch.Generator().manual_seed(2)) * 255
    model.score_thresh = again.score_thresh = 0.0
    for ours, theirs in zip(model.predict([img], max_dets=20), again.predict([img], max_dets=20), strict=True):
        assert len(ours[0]) > 5
        assert (ours[0] == theirs[0]).all()
    bbox, label = model.predict([img], max_dets=1)[:2]  # as truth, what it is the surest of: it finds that at once
    loader = [(img, (120, 150), bbox[0], label[0], np.zeros(1, bool))]
    assert evaluate_model(again, loader, raw=True).voc.map == 1.0


@pytest.mark.parametrize(("name", "roi"), [("alexnet", "crop"), ("resnet18_c4", "align"), ("vgg_cnn_m_1024", "pool")])
def test_a_backbone_learns_saves_loads_and_evaluates(name, roi, tmp_path):
    learns_saves_loads_and_evaluates(name, roi, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("roi", ROIS)
@pytest.mark.parametrize("name", MODELS)
def test_each_backbone_with_each_roi_feature(name, roi, tmp_path):
    learns_saves_loads_and_evaluates(name, roi, tmp_path)


# The backbone of docs/change_a_part.md


@pytest.fixture
def squeezenet(tmp_path, monkeypatch):
    """The class in the guide's text, under a name in MODELS."""
    text = re.search(
        r"```python\n(\"\"\"Faster R-CNN on SqueezeNet.*?)```", (ROOT / "docs/change_a_part.md").read_text(), re.DOTALL
    )[1]
    assert len(text.splitlines()) <= 60
    (tmp_path / "faster_rcnn_squeezenet.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    family = importlib.import_module("faster_rcnn_squeezenet").FasterRCNNSqueezeNet
    monkeypatch.setitem(MODELS, "squeezenet", family)
    yield family
    del sys.modules["faster_rcnn_squeezenet"]


def test_a_backbone_in_one_file(squeezenet, tmp_path):
    learns_saves_loads_and_evaluates("squeezenet", "align", tmp_path)
    with torch.device("meta"):
        model = squeezenet().eval()
        for size in ((63, 200), (241, 320), (600, 801)):
            assert tuple(model.extractor(torch.empty(1, 3, *size)).shape[1:]) == (512, *model.cells.map_size(size))


@pytest.mark.skipif(not WEIGHTS.exists(), reason=f"no real weights at {WEIGHTS}")
def test_its_imagenet_weights_are_read(squeezenet, tmp_path):
    stored = torch.load(WEIGHTS, weights_only=True)  # of `features` alone, without that name
    torch.save({f"features.{name}": value for name, value in stored.items()}, tmp_path / "imagenet.pth")
    model = squeezenet(3)
    model.load_pretrained(tmp_path / "imagenet.pth")
    assert all(torch.equal(stored[name], value) for name, value in model.extractor.state_dict().items())
