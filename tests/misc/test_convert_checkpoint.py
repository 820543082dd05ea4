"""misc/convert_checkpoint.py: detectors of other systems and ours, after conversion, see the same."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torchvision.models import detection
from torchvision.models import resnet50 as torchvision_resnet50
from torchvision.ops import FrozenBatchNorm2d

from misc.convert_checkpoint import KINDS, convert
from model import FasterRCNNVGG16, load_model
from model.zoo import checkpoint_content
from trainer import FasterRCNNTrainer
from utils.bbox_tools import yx2xy
from utils.checkpoint import save_checkpoint
from utils.config import Config
from utils.errors import UserError
from utils.image_tool import normalize, prepare, read_image

ROOT = Path(__file__).resolve().parents[2]
TORCHVISION = [kind for kind in KINDS if kind.startswith("fasterrcnn_")]


@pytest.fixture(autouse=True)
def one_thread():
    """torchvision's resizing and ours share their last bits then: they depend on how many threads share the work."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def torchvisions(kind, seed=0, n_class=91, **options):
    """torchvision's detector with random weights that make of every picture many sure detections of many classes."""
    torch.manual_seed(seed)
    model = getattr(detection, kind)(weights=None, weights_backbone=None, num_classes=n_class, **options)
    for module in model.modules():  # factors that a wrong name would not have
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.uniform_(module.bias, -0.1, 0.1)
    return model.eval()


@torch.no_grad()
def enliven(model, imgs):
    """Make the features depend on the picture, by BatchNorm's statistics of `imgs`, and scale the last layers by what
    it makes of them: more would magnify the last bits, by which two orders of the same sums differ, beyond 1e-4."""
    imgs = [torch.from_numpy(img) / 255 for img in imgs]
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in norms:
        module.momentum = 1.0
        module.train()
    model(imgs)
    for module in norms:
        module.eval()
    outputs = {}

    def keep(name):
        return lambda _, __, output: outputs.setdefault(name, []).append(output)

    layers = {
        "cls_logits": (model.rpn.head.cls_logits, 1.0),
        "rpn_bbox": (model.rpn.head.bbox_pred, 0.1),
        "cls_score": (model.roi_heads.box_predictor.cls_score, 0.1),
        "bbox_pred": (model.roi_heads.box_predictor.bbox_pred, 0.5),
    }
    for name, (layer, deviation) in layers.items():
        handle = layer.register_forward_hook(keep(name))
        model(imgs)
        handle.remove()
        values = torch.cat([out.flatten() for out in outputs[name]])
        layer.weight.mul_(deviation / values.std())
        layer.bias.fill_(0.0)
    model.roi_heads.box_predictor.cls_score.bias[1:3] = 4.0  # two classes of which each picture has many
    return model


def frozen(model):
    """BatchNorm as in torchvision's published ResNet file: constants, no epsilon."""
    for name, module in model.named_children():
        if isinstance(module, nn.BatchNorm2d):
            state = {k: v for k, v in module.state_dict().items() if k != "num_batches_tracked"}
            constant = FrozenBatchNorm2d(module.num_features, eps=0.0)
            constant.load_state_dict(state)
            setattr(model, name, constant)
        else:
            frozen(module)
    return model


def converted(kind, state, tmp_path, **arguments):
    """Our detector, from a file as a user would load it."""
    torch.save(state, tmp_path / "theirs.pth")
    model = convert(kind, tmp_path / "theirs.pth", **arguments)
    return load_model(save_checkpoint(tmp_path / "ours.pth", checkpoint_content(model)))


def same_detections(ours, theirs, img):
    """Assert that both see the same in `img`, order aside; returns the number of detections."""
    with torch.no_grad():
        expected = theirs([torch.from_numpy(img) / 255])[0]
    bbox, label, score = (column[0] for column in ours.predict([img]))
    assert len(bbox) == len(expected["boxes"]) >= 20
    boxes, labels, scores = yx2xy(expected["boxes"]).numpy(), expected["labels"].numpy() - 1, expected["scores"].numpy()
    left = list(range(len(bbox)))
    for k in range(len(boxes)):
        near = [
            i
            for i in left
            if label[i] == labels[k] and abs(score[i] - scores[k]) <= 1e-4 and abs(bbox[i] - boxes[k]).max() <= 0.1
        ]
        assert near, f"detection {k}: {boxes[k]}, {labels[k]}, {scores[k]}"
        left.remove(near[0])
    return len(bbox)


@pytest.mark.parametrize("kind", TORCHVISION)
@pytest.mark.parametrize("batch_norm", ["trained", "frozen"])
def test_torchvisions_detectors_see_the_same(kind, batch_norm, shared_data, tmp_path):
    paths = sorted((shared_data / "demo").glob("**/*.jpg"))[:2]
    paths += sorted((shared_data / "coco_subset/val2017").glob("*.jpg"))[:2]
    imgs = [read_image(path) for path in paths]
    sizes = {"min_size": 224, "max_size": 380}  # the short form of the slow test below
    theirs = enliven(torchvisions(kind, **sizes), imgs)
    if batch_norm == "frozen":
        if kind != "fasterrcnn_resnet50_fpn":
            pytest.skip("torchvision takes the epsilon from the frozen layers of its ResNet file alone")
        theirs = frozen(theirs)
    ours = converted(kind, theirs.state_dict(), tmp_path)
    ours.min_size, ours.max_size = 224, 380
    for img in imgs:
        same_detections(ours, theirs, img)


@pytest.mark.slow
@pytest.mark.parametrize("kind", TORCHVISION)
def test_torchvisions_detectors_see_the_same_at_full_size(kind, shared_data, tmp_path):
    paths = sorted((shared_data / "demo").glob("**/*.jpg")) + sorted(
        (shared_data / "coco_subset/val2017").glob("*.jpg")
    )
    assert len(paths) == 55
    theirs = enliven(torchvisions(kind), [read_image(path) for path in paths[:5]])
    ours = converted(kind, theirs.state_dict(), tmp_path)
    for path in paths:
        same_detections(ours, theirs, read_image(path))


@pytest.mark.parametrize("kind", TORCHVISION)
def test_torchvisions_losses_are_ours(kind, tmp_path):
    """Of one image, with so many samples that none is drawn by lot: all proposals and all anchors take part."""
    sizes = {"min_size": 192, "max_size": 256}
    img = np.random.default_rng(0).uniform(0, 255, (3, 150, 200)).astype(np.float32)
    many = {"rpn_batch_size_per_image": 10**6, "box_batch_size_per_image": 10**4, "box_positive_fraction": 0.5}
    theirs = enliven(torchvisions(kind, n_class=5, **sizes, **many), [img]).train()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    boxes = torch.tensor([[20.0, 10, 120, 100], [100, 60, 190, 140], [5, 90, 60, 130]])  # x_min, y_min, x_max, y_max
    labels = torch.tensor([0, 3, 1])
    with torch.no_grad():
        expected = theirs([torch.from_numpy(img) / 255], [{"boxes": boxes, "labels": labels + 1}])

    ours = converted(kind, theirs.state_dict(), tmp_path)
    ours.min_size, ours.max_size, ours.n_sample = 192, 256, 10**4
    assert ours.allowed_border > 700  # all anchors
    config = Config(rpn_n_sample=10**6, roi_sigma=3.0, roi_pos_ratio=0.5)
    trainer = FasterRCNNTrainer(ours.train(), config=config)
    img = prepare(img, *ours.preparation)
    scale = img.shape[1] / 150
    with torch.no_grad():
        losses = trainer(img[None], [yx2xy(boxes) * scale], [labels], scale)
    names = {"rpn_loc_loss": "loss_rpn_box_reg", "rpn_cls_loss": "loss_objectness",
             "roi_loc_loss": "loss_box_reg", "roi_cls_loss": "loss_classifier"}  # fmt: skip
    for name, other in names.items():
        assert expected[other] > 0
        torch.testing.assert_close(getattr(losses, name), expected[other], rtol=1e-4, atol=0, msg=name)
    assert trainer.roi_cm.value()[1:].sum() > 10  # positives among the samples


def test_names_of_torchvisions_older_files(tmp_path):
    state = torchvisions("fasterrcnn_mobilenet_v3_large_fpn", n_class=4).state_dict()
    older = {
        name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        .replace("blocks.0.0.", "blocks.0.")
        .replace("blocks.1.0.", "blocks.1."): value
        for name, value in state.items()
    }
    assert set(older) != set(state)
    now, before = (converted("fasterrcnn_mobilenet_v3_large_fpn", s, tmp_path).state_dict() for s in (state, older))
    assert all(torch.equal(now[name], before[name]) for name in now)


def test_what_a_converted_checkpoint_says(tmp_path):
    state = torchvisions("fasterrcnn_mobilenet_v3_large_320_fpn", n_class=91).state_dict()
    model = converted("fasterrcnn_mobilenet_v3_large_320_fpn", state, tmp_path)
    assert (model.min_size, model.max_size, model.max_dets, model.nms_thresh) == (320, 640, 100, 0.5)
    assert model.rpn.proposal_layer.n_test_post_nms == 150
    assert model.label_names[:2] == ("person", "bicycle")
    assert model.label_names[89] == "toothbrush"
    assert len(set(model.label_names)) == 90
    assert model.frozen_bn


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


# The command


def run(*arguments):
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)


def test_as_a_user_would(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (120, 160, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    img = np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)
    theirs = enliven(torchvisions("fasterrcnn_mobilenet_v3_large_320_fpn", n_class=4), [img])
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    out = tmp_path / "ours.pth"
    words = ["misc/convert_checkpoint.py", "fasterrcnn_mobilenet_v3_large_320_fpn", str(tmp_path / "theirs.pth")]
    done = run(*words, f"--out={out}", "--label-names=ant,bee,cat")
    assert done.returncode == 0, done.stderr
    assert f"predict --load-path={out}" in done.stdout
    again = run(*words, f"--out={out}")
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)

    done = run("train.py", "predict", f"--load-path={out}", f"--image={tmp_path / 'picture.png'}",
               f"--out={tmp_path / 'seen'}", "--score-thresh=0.05", "--amp=off")  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "seen/detections.json").read_text())["images"][0]["detections"]
    with torch.no_grad():
        expected = theirs([torch.from_numpy(img) / 255])[0]
    assert len(found) == len(expected["boxes"]) >= 20
    for one in found[:5]:
        nearest = (expected["boxes"] - torch.tensor(one["bbox"])).abs().amax(dim=1).argmin()
        assert (expected["boxes"][nearest] - torch.tensor(one["bbox"])).abs().max() < 0.1
        assert one["label"] == ("ant", "bee", "cat")[expected["labels"][nearest] - 1]
        assert one["score"] == pytest.approx(expected["scores"][nearest].item(), abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("fasterrcnn_resnet50_fpn", None, "no such"),
        ("chainercv_vgg16", None, "no such"),
        ("fasterrcnn_resnet50_fpn", {"a.weight": torch.zeros(1)}, "no class scores"),
        ("jwyang_resnet101", {"model": {"RCNN_cls_score.bias": torch.zeros(4)}}, "not for FasterRCNN"),
        ("chainercv_vgg16", {"x": 1}, "not an npz"),
        ("caffe_vgg16", {"features.0.weight": torch.zeros(64, 3, 3, 3)}, "lacks"),
    ],
)
def test_files_that_hold_something_else(kind, content, message, tmp_path):
    if content is not None:
        torch.save(content, tmp_path / "x")
    with pytest.raises(UserError, match=message):
        convert(kind, tmp_path / "x")


def test_an_npz_is_never_unpickled(tmp_path):
    np.savez(tmp_path / "x.npz", **{"head/score/b": np.array([print], dtype=object)})
    with pytest.raises(UserError, match="plain arrays"):
        convert("chainercv_vgg16", tmp_path / "x.npz")


def test_too_few_names(tmp_path):
    torch.save(torchvisions("fasterrcnn_mobilenet_v3_large_fpn", n_class=4).state_dict(), tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"2 names, but .* 3 classes"):
        convert("fasterrcnn_mobilenet_v3_large_fpn", tmp_path / "x.pth", ("a", "b"))
