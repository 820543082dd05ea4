"""misc/convert_checkpoint.py: detectors of other systems and ours, after conversion, see the same."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import detection
from torchvision.ops import FrozenBatchNorm2d

from misc.convert_checkpoint import KINDS, convert
from model import load_model
from model.zoo import checkpoint_content
from tests.run_server import the_runs
from trainer import FasterRCNNTrainer
from utils.bbox_tools import yx2xy
from utils.checkpoint import save_checkpoint
from utils.config import Config
from utils.errors import UserError
from utils.image_tool import prepare, read_image

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
    it makes of them: probabilities that round to 1 would tie, and torchvision's order of ties is any."""
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
        "cls_logits": (model.rpn.head.cls_logits, 0.1),
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
    return model.to(memory_format=torch.channels_last)  # as ours: another layout's last bits would be magnified


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
def test_torchvisions_detectors_see_the_same(kind, shared_data, tmp_path):
    """The short form of the slow test below. Of its ResNet file alone torchvision takes no epsilon in frozen layers."""
    paths = sorted((shared_data / "demo").glob("**/*.jpg"))[:1]
    paths += sorted((shared_data / "coco_subset/val2017").glob("*.jpg"))[:1]
    imgs = [read_image(path) for path in paths]
    theirs = enliven(torchvisions(kind, min_size=160, max_size=280), imgs)
    for change in [None, frozen] if kind == "fasterrcnn_resnet50_fpn" else [None]:
        theirs = change(theirs) if change else theirs
        ours = converted(kind, theirs.state_dict(), tmp_path)
        ours.min_size, ours.max_size = 160, 280
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


# The command


def run(program, *words, code=0, anew=False):
    return the_runs().run(ROOT, words, program=program, code=code, anew=anew)


def test_as_a_user_would(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (120, 160, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    img = np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)
    theirs = enliven(torchvisions("fasterrcnn_mobilenet_v3_large_320_fpn", n_class=4), [img])
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    out = tmp_path / "ours.pth"
    words = ["misc/convert_checkpoint.py", "fasterrcnn_mobilenet_v3_large_320_fpn", str(tmp_path / "theirs.pth")]
    done = run(*words, f"--out={out}", "--label-names=ant,bee,cat", anew=True)
    assert f"predict --load-path={out}" in done.stdout
    assert run(*words, f"--out={out}", code=2).stderr.count("\n") == 1

    done = run("train.py", "predict", f"--load-path={out}", f"--image={tmp_path / 'picture.png'}",
               f"--out={tmp_path / 'seen'}", "--score-thresh=0.05", "--amp=off")  # fmt: skip
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
        ("fasterrcnn_resnet50_fpn", {"roi_heads.box_predictor.bbox_pred.weight": torch.zeros(7, 2)}, "the shapes"),
        ("fasterrcnn_resnet50_fpn", {"roi_heads.box_predictor.cls_score.bias": torch.zeros(())}, "no class scores"),
        ("jwyang_vgg16", {"RCNN_rpn.RPN_cls_score.weight": torch.zeros(17, 2)}, "the shapes"),
        ("jwyang_vgg16", {"model": {"a": torch.zeros(1)}, "pooling_mode": "foo"}, "pooling_mode 'foo' is none of pool"),
        ("jwyang_vgg16", {"RCNN_rpn.RPN_cls_score.bias": torch.zeros(())}, "the shapes"),
        ("jwyang_vgg16", {"RCNN_cls_score.bias": torch.full((4,), torch.nan)}, "other values than finite"),
        ("jwyang_vgg16", {"RCNN_cls_score.bias": torch.zeros(4, dtype=int)}, "other values than finite"),
    ],
)
def test_files_that_hold_something_else(kind, content, message, tmp_path):
    if content is not None:
        torch.save(content, tmp_path / "x")
    with pytest.raises(UserError, match=message):
        convert(kind, tmp_path / "x")


def test_an_epsilon_that_is_none(tmp_path):
    for value in ("-1", "nan", "1"):
        words = ["fasterrcnn_resnet50_fpn", "x", "--out=y", f"--frozen-eps={value}"]
        done = run("misc/convert_checkpoint.py", *words, code=2)
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith(f"error: --frozen-eps={float(value)}: must be from 0")


def test_a_layer_that_no_network_has_is_one_line(tmp_path):
    np.savez(tmp_path / "x.npz", **{"extractor/conv9_9/conv/W": np.zeros(3)})
    with pytest.raises(UserError, match="the shapes"):
        convert("chainercv_vgg16", tmp_path / "x.npz")


def test_an_npz_is_never_unpickled(tmp_path):
    np.savez(tmp_path / "x.npz", **{"head/score/b": np.array([print], dtype=object)})
    with pytest.raises(UserError, match="plain arrays"):
        convert("chainercv_vgg16", tmp_path / "x.npz")


def test_too_few_names(tmp_path):
    torch.save(torchvisions("fasterrcnn_mobilenet_v3_large_fpn", n_class=4).state_dict(), tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"2 names, but .* 3 classes"):
        convert("fasterrcnn_mobilenet_v3_large_fpn", tmp_path / "x.pth", ("a", "b"))


def test_an_npz_is_read_as_a_strangers(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    np.savez_compressed(tmp_path / "bomb.npz", **{"head/score/b": np.zeros(10**7, np.float32)})
    for name, told in (("pipe", "a pipe or a device"), ("bomb.npz", "not an npz file of plain arrays")):
        with pytest.raises(UserError, match=told):
            convert("chainercv_vgg16", tmp_path / name)


def test_more_classes_than_memory_holds(tmp_path):
    torch.save({"roi_heads.box_predictor.cls_score.bias": torch.zeros(3_000_000)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="has 2,999,999 classes, of 100,000 at most"):
        convert("fasterrcnn_resnet50_fpn", tmp_path / "x.pth")
