"""misc/convert_checkpoint.py: jwyang's, chainercv's and caffe's weights, against their layers one by one."""

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.models import resnet50 as torchvision_resnet50

from misc.convert_checkpoint import convert
from model import FasterRCNNVGG16
from utils.bbox_tools import yx2xy
from utils.image_tool import normalize

# jwyang's faster-rcnn.pytorch


def conv(state, name, x, **keywords):
    return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), **keywords)


def norm(state, name, x):
    parts = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *parts)


def bottleneck(state, name, x, stride):
    """A block of caffe's ResNets: its stride is in the first convolution, of 1×1."""
    out = norm(state, f"{name}.bn1", conv(state, f"{name}.conv1", x, stride=stride)).relu()
    out = norm(state, f"{name}.bn2", conv(state, f"{name}.conv2", out, padding=1)).relu()
    out = norm(state, f"{name}.bn3", conv(state, f"{name}.conv3", out))
    if f"{name}.downsample.0.weight" in state:
        x = norm(state, f"{name}.downsample.1", conv(state, f"{name}.downsample.0", x, stride=stride))
    return (out + x).relu()


def stage(state, name, x, stride):
    block = 0
    while f"{name}.{block}.conv1.weight" in state:
        x = bottleneck(state, f"{name}.{block}", x, stride if block == 0 else 1)
        block += 1
    return x


def jwyangs_resnet50(n_class=4, n_anchor=9):
    """A state dict in his names, without num_batches_tracked, as files of his day are."""
    torch.manual_seed(0)
    network = torchvision_resnet50(weights=None)
    places = {"conv1": "RCNN_base.0", "bn1": "RCNN_base.1", "layer1": "RCNN_base.4", "layer2": "RCNN_base.5",
              "layer3": "RCNN_base.6", "layer4": "RCNN_top.0"}  # fmt: skip
    state = {}
    for name, value in network.state_dict().items():
        first, _, rest = name.partition(".")
        if first in places and not name.endswith("num_batches_tracked"):
            state[f"{places[first]}.{rest}"] = value
    return state | random_rest(1024, 2048, n_class, n_anchor)


def random_rest(channels, width, n_class, n_anchor):
    shapes = {
        "RCNN_rpn.RPN_Conv": (512, channels, 3, 3),
        "RCNN_rpn.RPN_cls_score": (2 * n_anchor, 512, 1, 1),
        "RCNN_rpn.RPN_bbox_pred": (4 * n_anchor, 512, 1, 1),
        "RCNN_cls_score": (n_class, width),
        "RCNN_bbox_pred": (4 * n_class, width),
    }
    weights = {f"{name}.weight": torch.randn(shape) * 0.02 for name, shape in shapes.items()}
    return weights | {f"{name}.bias": torch.randn(shape[0]) * 0.1 for name, shape in shapes.items()}


@torch.no_grad()
def test_jwyangs_resnet_layer_by_layer(tmp_path):
    state = jwyangs_resnet50()
    torch.save({"session": 1, "epoch": 7, "model": state, "pooling_mode": "crop", "class_agnostic": False},
               tmp_path / "x.pth")  # fmt: skip
    model = convert("jwyang_resnet50", tmp_path / "x.pth", ("a", "b", "c")).eval()
    assert (model.head.roi, model.input_mode, model.convention.plus_one) == ("crop", "caffe", 1)
    x = torch.randn(1, 3, 90, 131)
    expected = norm(state, "RCNN_base.1", conv(state, "RCNN_base.0", x, stride=2, padding=3)).relu()
    expected = F.max_pool2d(expected, 3, 2, ceil_mode=True)
    for k, stride in ((4, 1), (5, 2), (6, 2)):
        expected = stage(state, f"RCNN_base.{k}", expected, stride)
    features = model.extract(x, [(90, 131)])[0]
    torch.testing.assert_close(features, expected)

    hidden = conv(state, "RCNN_rpn.RPN_Conv", features, padding=1).relu()
    score = conv(state, "RCNN_rpn.RPN_cls_score", hidden)  # 0..8 background, 9..17 foreground
    offsets = conv(state, "RCNN_rpn.RPN_bbox_pred", hidden)  # anchor · 4 + (dx, dy, dw, dh)
    locs, scores, _, _, anchors, _ = model.rpn(features, [(90, 131)], [1.0])
    y, x, a = 2, 3, 5
    row = (y * features.shape[3] + x) * 9 + a
    torch.testing.assert_close(scores[0, row], torch.stack([score[0, a, y, x], score[0, 9 + a, y, x]]))
    dx, dy, dw, dh = offsets[0, 4 * a : 4 * a + 4, y, x]
    torch.testing.assert_close(locs[0, row], torch.stack([dy, dx, dh, dw]))
    assert yx2xy(anchors[row]).tolist() == [-248 + 48, -248 + 32, 263 + 48, 263 + 32]  # as py-faster-rcnn prints it

    pooled = torch.randn(2, 1024, 7, 7)
    through = stage(state, "RCNN_top.0", pooled, 2).mean(dim=(2, 3))
    torch.testing.assert_close(model.head.classifier(pooled), through)
    boxes = F.linear(through, state["RCNN_bbox_pred.weight"], state["RCNN_bbox_pred.bias"]).view(2, 4, 4)
    torch.testing.assert_close(model.head.cls_loc(through).view(2, 4, 4), boxes[..., [1, 0, 3, 2]])


def test_jwyangs_vgg16_and_its_settings(tmp_path):
    with torch.device("meta"):
        shapes = FasterRCNNVGG16(3).state_dict()
    state = {f"RCNN_base.{n.removeprefix('extractor.')}": v for n, v in shapes.items() if n.startswith("extractor.")}
    state |= {n.replace("head.classifier.0", "RCNN_top.0").replace("head.classifier.2", "RCNN_top.3"): v
              for n, v in shapes.items() if n.startswith("head.classifier.")}  # fmt: skip
    state = {name: torch.zeros(value.shape) for name, value in state.items()} | random_rest(512, 4096, 4, 12)
    agnostic = {"RCNN_bbox_pred.weight": torch.randn(4, 4096), "RCNN_bbox_pred.bias": torch.randn(4)}
    torch.save({"model": state | agnostic}, tmp_path / "x.pth")
    model = convert("jwyang_vgg16", tmp_path / "x.pth", ("a", "b", "c"))
    assert (model.head.roi, model.head.class_agnostic) == ("pool", True)
    assert model.head.corner_align  # for a file of his that says align
    assert model.preparation[:2] == (600, 6000)  # his test_net.py does not hold the long side
    assert model.rpn.anchor_scales == (4, 8, 16, 32)  # his for COCO: 12 anchors a cell
    torch.testing.assert_close(model.head.cls_loc.bias.detach(), agnostic["RCNN_bbox_pred.bias"][[1, 0, 3, 2]])


# chainercv


@torch.no_grad()
def test_chainercvs_npz(tmp_path):
    with torch.device("meta"):
        shapes = FasterRCNNVGG16(20).state_dict()
    generator = torch.Generator().manual_seed(0)
    arrays, block, layer = {}, 1, 1
    for i in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28):
        if i in (5, 10, 17, 24):
            block, layer = block + 1, 1
        for part in ("weight", "bias"):
            value = torch.randn(shapes[f"extractor.{i}.{part}"].shape, generator=generator) * 0.05
            arrays[f"extractor/conv{block}_{layer}/conv/{'W' if part == 'weight' else 'b'}"] = value.numpy()
        layer += 1
    for name, other in {"rpn/conv1": "rpn.conv1", "rpn/score": "rpn.score", "rpn/loc": "rpn.loc",
                        "head/fc6": "head.classifier.0", "head/fc7": "head.classifier.2",
                        "head/score": "head.score", "head/cls_loc": "head.cls_loc"}.items():  # fmt: skip
        for part in ("weight", "bias"):
            shape = shapes[f"{other}.{part}"].shape
            arrays[f"{name}/{'W' if part == 'weight' else 'b'}"] = np.full(shape, len(arrays), np.float32)
    np.savez(tmp_path / "x.npz", **arrays)
    model = convert("chainercv_vgg16", tmp_path / "x.npz")
    assert model.label_names[0] == "aeroplane"
    assert model.convention.foreground_logit
    for name, other in (("rpn/loc/b", "rpn.loc.bias"), ("head/fc7/W", "head.classifier.2.weight")):
        assert (model.state_dict()[other] == torch.from_numpy(arrays[name])).all()
    # it takes RGB less the mean; a side of 375 at scale 600 / 500 is int(450.0)
    img = torch.rand(3, 40, 50, generator=generator) * 255
    mean = torch.tensor([122.7717, 115.9465, 102.9801]).view(3, 1, 1)
    x = (img - mean)[None]
    for name in ("conv1_1", "conv1_2"):
        weight, bias = (torch.from_numpy(arrays[f"extractor/{name}/conv/{part}"]) for part in "Wb")
        x = F.conv2d(x, weight, bias, padding=1).relu()
    ours = model.extractor[:4](normalize(img, model.input_mode)[None])
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-2)


def test_caffes_backbone(tmp_path):
    torch.manual_seed(1)
    with torch.device("meta"):
        shapes = FasterRCNNVGG16(1).state_dict()
    state = {n.replace("extractor.", "features."): torch.randn(v.shape) * 0.01 for n, v in shapes.items()
             if n.startswith("extractor.")}  # fmt: skip
    torch.save(state, tmp_path / "vgg16_caffe.pth")
    model = convert("caffe_vgg16", tmp_path / "vgg16_caffe.pth")
    assert model.input_mode == "caffe"
    assert torch.equal(model.extractor[0].weight, state["features.0.weight"])
