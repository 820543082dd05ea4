"""model/faster_rcnn_vgg16.py against the contract: names, shapes, initial weights, and the detections of its formulas.

The reference below is written from the contract's formulas alone, in numpy; torch's convolutions and torchvision's
RoI pooling are all that it shares with the model.
"""

import urllib.error

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from skimage.transform import resize as skimage_resize
from torch import nn

from model import FasterRCNNVGG16, load_model
from model.faster_rcnn import FasterRCNN
from trainer import FasterRCNNTrainer
from utils.config import Config
from utils.errors import UserError

CONVS = {0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128), 12: (256, 256), 14: (256, 256),
         17: (512, 256), 19: (512, 512), 21: (512, 512), 24: (512, 512), 26: (512, 512), 28: (512, 512)}  # fmt: skip
POOL_BEFORE = (5, 10, 17, 24)
OTHERS = {"rpn.conv1": (512, 512, 3, 3), "rpn.score": (18, 512, 1, 1), "rpn.loc": (36, 512, 1, 1),
          "head.classifier.0": (4096, 25088), "head.classifier.2": (4096, 4096),
          "head.cls_loc": (84, 4096), "head.score": (21, 4096)}  # fmt: skip
WEIGHTS = {f"extractor.{i}": (*channels, 3, 3) for i, channels in CONVS.items()} | OTHERS
SHAPES = {f"{name}.weight": shape for name, shape in WEIGHTS.items()}
SHAPES |= {f"{name}.bias": shape[:1] for name, shape in WEIGHTS.items()}


def with_drop(names):
    return {name.replace("head.classifier.2", "head.classifier.3") for name in names}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file in the published layout whose random network finds something: (path, name → tensor)."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in SHAPES.items():
        fan_in = np.prod(shape[1:]) if len(shape) > 1 else 1
        state[name] = torch.zeros(shape)
        if name.endswith("weight"):
            state[name].normal_(0, float(np.sqrt(2 / fan_in)), generator=generator)
    state["rpn.loc.weight"] *= 0.2
    state["head.cls_loc.weight"] *= 0.5
    state["head.score.bias"][[0, 4, 9, 15]] = torch.tensor([1.5, 2.0, 1.0, 1.5])
    path = tmp_path_factory.mktemp("published") / "fasterrcnn_12211511_0.701052458187_torchvision_pretrain.pth"
    config = {"voc_data_dir": "/home/cy/.chainer/dataset/pfnet/chainercv/voc/VOCdevkit/VOC2007/", "lr1": 1e-3,
              "lr2": 1e-4, "lr3": 1e-4, "milestone": 12, "min_size": 600, "max_size": 1000, "use_chainer": False,
              "caffe_pretrain": False, "use_drop": False, "rpn_sigma": 3.0, "num_workers": 8}  # fmt: skip
    other_info = {"best_map": np.float64(0.701052458187)}
    content = {"model": state, "config": config, "other_info": other_info, "vis_info": {"env": "faster-rcnn"}}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path, state


@pytest.fixture(scope="module")
def model(published):
    return load_model(published[0])


# Names and shapes


@pytest.mark.parametrize("use_drop", [False, True])
def test_state_dict_is_the_contracts(use_drop):
    with torch.device("meta"):
        state = FasterRCNNVGG16(20, use_drop=use_drop).state_dict()
    assert len(state) == 40
    assert sum(value.numel() for value in state.values()) == 137_078_239
    assert set(state) == (with_drop(SHAPES) if use_drop else set(SHAPES))
    for name, value in state.items():
        assert tuple(value.shape) == SHAPES[name.replace("head.classifier.3", "head.classifier.2")], name
        assert value.dtype == torch.float32


def test_dropout_only_when_asked():
    with torch.device("meta"):
        plain, dropping = FasterRCNNVGG16(), FasterRCNNVGG16(use_drop=True)
    assert not any(isinstance(m, nn.Dropout) for m in plain.modules())
    assert sum(isinstance(m, nn.Dropout) and m.p == 0.5 for m in dropping.modules()) == 2


def test_constants():
    with torch.device("meta"):
        model = FasterRCNNVGG16()
    assert (model.n_class, model.feat_stride, model.min_size, model.max_size) == (21, 16, 600, 1000)
    assert model.loc_normalize_mean == (0, 0, 0, 0)
    assert model.loc_normalize_std == (0.1, 0.1, 0.2, 0.2)
    assert (model.head.roi, model.head.roi_size, model.head.levels[0].stride) == ("pool", 7, 16)
    assert (model.allowed_border, model.n_sample, model.input_mode) == (0, 128, "torchvision")
    creator = model.rpn.proposal_layer
    assert (creator.nms_thresh, creator.min_size) == (0.7, 16)
    assert (creator.n_train_pre_nms, creator.n_train_post_nms) == (12000, 2000)
    assert (creator.n_test_pre_nms, creator.n_test_post_nms) == (6000, 300)
    for name, parameter in model.named_parameters():
        frozen = name.split(".")[:2] in [["extractor", str(i)] for i in (0, 2, 5, 7)]
        assert parameter.requires_grad is not frozen, name


# One real network: its first weights, then torchvision's names


@pytest.fixture(scope="module")
def fresh():
    torch.manual_seed(1)
    return FasterRCNNVGG16(20)


def test_initial_weights(fresh):
    stds = {"rpn.conv1": 0.01, "rpn.score": 0.01, "rpn.loc": 0.01, "head.score": 0.01, "head.cls_loc": 0.001}
    state = fresh.state_dict()
    for name, std in stds.items():
        weight = state[f"{name}.weight"]
        error = 5 / np.sqrt(2 * weight.numel())  # five standard errors of a standard deviation
        assert weight.std().item() == pytest.approx(std, rel=error), name
        assert abs(weight.mean().item()) < 5 * std / np.sqrt(weight.numel()), name
        assert (state[f"{name}.bias"] == 0).all(), name


@pytest.mark.parametrize("use_drop", [False, True])
def test_pretrained_file_in_torchvisions_names(fresh, tmp_path, use_drop):
    with torch.device("meta"):
        names = torchvision.models.vgg16().state_dict()
    generator = torch.Generator().manual_seed(2)
    drawn = {name: torch.rand(min(97, v.numel()), generator=generator) for name, v in names.items()}
    state = {name: drawn[name].repeat(v.numel() // 97 + 1)[: v.numel()].view(v.shape) for name, v in names.items()}
    path = tmp_path / "vgg16-397923af.pth"
    torch.save(state, path)
    model = fresh
    if use_drop:  # the same network, as its dropping twin has its layers
        fc6, relu, fc7, relu_too = fresh.head.classifier
        model = FasterRCNN(fresh.extractor, fresh.rpn, fresh.head)
        model.__class__ = FasterRCNNVGG16
        model.head.classifier = nn.Sequential(fc6, relu, nn.Dropout(), fc7, relu_too, nn.Dropout())
    rest = {n: v.clone() for n, v in model.state_dict().items() if n.startswith(("rpn.", "head.score", "head.cls"))}
    try:
        model.load_pretrained(path)
        own = model.state_dict()
        for i in CONVS:
            for kind in ("weight", "bias"):
                assert torch.equal(own[f"extractor.{i}.{kind}"], state[f"features.{i}.{kind}"])
        fc7_name = "head.classifier.3" if use_drop else "head.classifier.2"
        assert torch.equal(own["head.classifier.0.weight"], state["classifier.0.weight"])
        assert torch.equal(own[f"{fc7_name}.weight"], state["classifier.3.weight"])
        assert torch.equal(own[f"{fc7_name}.bias"], state["classifier.3.bias"])
        assert all(torch.equal(own[name], value) for name, value in rest.items())
    finally:
        if use_drop:
            fresh.head.classifier = nn.Sequential(fc6, relu, fc7, relu_too)
        path.unlink()


@pytest.mark.parametrize(
    "error",
    [
        urllib.error.URLError("Name or service not known"),
        urllib.error.HTTPError("https://x", 403, "Forbidden", None, None),
        TimeoutError("timed out"),
        ConnectionResetError("reset"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_route_to_the_download(monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", fail)
    with torch.device("meta"):
        model = FasterRCNNVGG16()
    with pytest.raises(UserError) as raised:
        model.load_pretrained()
    message = str(raised.value)
    assert "--pretrained-path" in message
    assert "--pretrained-model=none" in message
    assert "\n" not in message


def test_pretrained_file_of_another_network(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3), "fc.weight": torch.zeros(2, 2)}, path)
    with torch.device("meta"):
        model = FasterRCNNVGG16()
    with pytest.raises(UserError, match=r"^\S*other\.pth: [^\n]*$"):
        model.load_pretrained(path)


# The heart: the contract's formulas


def slow_iou(box, boxes):
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    inter = np.prod(np.maximum(high - low, 0), axis=1)
    return inter / (np.prod(box[2:] - box[:2]) + np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) - inter)


def slow_nms(boxes, scores, thresh, n):
    left, kept = np.argsort(-scores, kind="stable"), []
    while len(left) and len(kept) < n:
        best, left = left[0], left[1:]
        kept.append(best)
        left = left[slow_iou(boxes[best], boxes[left]) <= thresh]
    return np.array(kept, int)


def slow_softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def slow_decode(src, loc):
    height, width = src[:, 2] - src[:, 0], src[:, 3] - src[:, 1]
    y = (src[:, 0] + src[:, 2]) / 2 + loc[:, 0] * height
    x = (src[:, 1] + src[:, 3]) / 2 + loc[:, 1] * width
    h, w = height * np.exp(loc[:, 2]), width * np.exp(loc[:, 3])
    return np.stack([y - h / 2, x - w / 2, y + h / 2, x + w / 2], axis=1)


def slow_clip(boxes, height, width):
    return np.stack([np.clip(boxes[:, k], 0, (height, width)[k % 2]) for k in range(4)], axis=1)


def slow_anchors(rows, columns):
    anchors = []
    for row in range(rows):
        for column in range(columns):
            for ratio in (0.5, 1, 2):
                for scale in (8, 16, 32):
                    h, w = 16 * scale * ratio**0.5, 16 * scale / ratio**0.5
                    y, x = 16 * row + 8, 16 * column + 8
                    anchors.append([y - h / 2, x - w / 2, y + h / 2, x + w / 2])
    return np.array(anchors)


def slow_prepare(img, min_size, max_size):
    _, height, width = img.shape
    scale = min(min_size / min(height, width), max_size / max(height, width))
    size = (3, round(height * scale), round(width * scale))
    img = skimage_resize(img / 255.0, size, mode="reflect", anti_aliasing=False)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return torch.tensor((img - mean[:, None, None]) / std[:, None, None], dtype=torch.float32)


def array(x):
    return x.numpy().astype(np.float64)


@torch.no_grad()
def slow_predict(state, img, original, score_thresh=0.05, nms_thresh=0.3):
    """Prepared img (3, H, W) → boxes in pixels of the original, labels, scores."""
    height, width = img.shape[1:]
    scale = height / original[0]
    x = img[None]
    for i in CONVS:
        if i in POOL_BEFORE:
            x = F.max_pool2d(x, 2, 2)
        x = F.relu(F.conv2d(x, state[f"extractor.{i}.weight"], state[f"extractor.{i}.bias"], padding=1))
    h = F.relu(F.conv2d(x, state["rpn.conv1.weight"], state["rpn.conv1.bias"], padding=1))
    score, loc = (F.conv2d(h, state[f"rpn.{k}.weight"], state[f"rpn.{k}.bias"])[0] for k in ("score", "loc"))
    score, loc = (array(t.permute(1, 2, 0).reshape(-1, n)) for t, n in ((score, 2), (loc, 4)))
    foreground = slow_softmax(score)[:, 1]
    rois = slow_clip(slow_decode(slow_anchors(*x.shape[2:]), loc), height, width)
    large = (rois[:, 2] - rois[:, 0] >= 16 * scale) & (rois[:, 3] - rois[:, 1] >= 16 * scale)
    rois, foreground = rois[large], foreground[large]
    order = np.argsort(-foreground, kind="stable")[:6000]
    rois, foreground = rois[order], foreground[order]
    rois = rois[slow_nms(rois, foreground, 0.7, 300)]

    xyxy = torch.tensor(rois[:, [1, 0, 3, 2]], dtype=torch.float32)
    pooled = torchvision.ops.roi_pool(x, [xyxy], 7, 1 / 16).flatten(1)
    for k in ("head.classifier.0", "head.classifier.2"):
        pooled = F.relu(F.linear(pooled, state[f"{k}.weight"], state[f"{k}.bias"]))
    locs, scores = (array(F.linear(pooled, state[f"head.{k}.weight"], state[f"head.{k}.bias"]))
                    for k in ("cls_loc", "score"))  # fmt: skip
    probs = slow_softmax(scores)
    found = []
    for c in range(1, 21):
        loc = locs[:, 4 * c : 4 * c + 4] * (0.1, 0.1, 0.2, 0.2)
        boxes = slow_clip(slow_decode(rois, loc) / scale, *original)
        sure = probs[:, c] > score_thresh
        boxes, prob = boxes[sure], probs[sure, c]
        found += [(prob[k], c - 1, boxes[k]) for k in slow_nms(boxes, prob, nms_thresh, len(prob))]
    found.sort(key=lambda item: -item[0])
    return [np.array(column) for column in (*[[item[k] for item in found] for k in (2, 1, 0)],)]


def scene(height=375, width=500):
    """Something to see: blobs of colour under noise."""
    rng = np.random.default_rng(3)
    img = rng.uniform(0, 60, (3, height, width))
    for _ in range(12):
        y, x, h, w = rng.integers(0, height - 60), rng.integers(0, width - 60), *rng.integers(40, 200, 2)
        img[:, y : y + h, x : x + w] += rng.uniform(0, 190, (3, 1, 1))
    return np.clip(img, 0, 255).astype(np.float32)


@pytest.mark.parametrize("min_size", [240, pytest.param(600, marks=pytest.mark.slow)])
def test_detections_are_those_of_the_formulas(published, model, min_size):
    img = scene()
    original = img.shape[1:]
    prepared = slow_prepare(img, min_size, 1000)
    bbox, label, score = slow_predict(published[1], prepared, original)
    ours = model.predict([prepared], [original])
    assert len(bbox) >= 20
    assert len(set(label)) >= 2
    theirs, own = (bbox, label, score), [column[0] for column in ours]
    # Of two boxes whose overlap is the threshold but for rounding one CPU keeps the second, another does not.
    assert n_alone(theirs, own) <= 0.02 * len(bbox)
    assert n_alone(own, theirs) <= 0.02 * len(bbox)


def n_alone(those, others):
    """How many of `those` detections are not among the others, within 0.1 pixel and a score of 1e-4."""
    n = 0
    for box, name, prob in zip(*those, strict=True):
        off = np.abs(others[0] - box).max(axis=1) + 1e9 * (others[1] != name)
        n += off.min() >= 0.1 or abs(others[2][off.argmin()] - prob) >= 1e-4
    return n


def test_published_file_gives_a_ready_detector(model):
    assert isinstance(model, FasterRCNNVGG16)
    assert not any(m.training for m in model.modules())
    assert model.label_names[14] == "person"
    assert (model.min_size, model.max_size, model.input_mode) == (600, 1000, "torchvision")
    assert model.extractor[0].weight.dtype == torch.float32


@pytest.mark.parametrize("size", [(176, 240), pytest.param((600, 800), marks=pytest.mark.slow)])
def test_whole_step_and_prediction(model, size):
    """Runs last: the step changes the weights."""
    before = {name: model.get_parameter(name).detach().clone() for name in ("extractor.7.weight", "rpn.loc.bias")}
    trainer = FasterRCNNTrainer(model.train(), config=Config(lr=1e-6))
    img = prepared = slow_prepare(scene(*size), min(size), max(size))
    bbox = torch.tensor([[[10.0, 10, 110, 120], [40, 60, 170, 230]]])
    losses = trainer.train_step(img[None], bbox, torch.tensor([[3, 14]]), 1.6)
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses)
    assert torch.equal(model.extractor[7].weight, before["extractor.7.weight"])
    assert not torch.equal(model.rpn.loc.bias, before["rpn.loc.bias"])
    model.zero_grad(set_to_none=True)
    trainer.optimizer.state.clear()
    bboxes, _, scores = model.predict([prepared], [size], max_dets=7)
    assert len(bboxes[0]) == len(scores[0]) <= 7
    assert model.training
