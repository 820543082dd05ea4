"""model/zoo.py: a detector from a checkpoint of any layout, and one line for a file that is none."""

import numpy as np
import pytest
import torch

from model import MODELS, FasterRCNNTiny, FasterRCNNVGG16, build_model, load_model
from model.zoo import STORED, architecture, model_from_checkpoint, names_in_order, stored_label_names
from trainer import FasterRCNNTrainer
from utils.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from utils.config import Config
from utils.errors import UserError
from utils.label_names import VOC_BBOX_LABEL_NAMES

NAMES = ("cat", "dog", "owl")
UNUSUAL = {
    "anchor_scales": (1.0, 3.0),
    "anchor_ratios": (0.25, 1.0, 4.0),
    "allowed_border": 5.0,
    "rpn_min_size": 3.0,
    "roi_n_sample": 33,
    "use_drop": True,
    "class_agnostic": True,
    "freeze_at": 3,
    "min_size": 77,
    "max_size": 99,
    "input_mode": "torchvision",
    "convention": "py-faster-rcnn",
    "nms_thresh": 0.45,
    "max_dets": 7,
    "rpn_only": True,
    "rpn_n_train_pre_nms": 81,
    "rpn_n_train_post_nms": 82,
    "rpn_n_test_pre_nms": 83,
    "rpn_n_test_post_nms": 84,
    "rpn_nms_thresh": 0.66,
    "rpn_score_thresh": 0.02,
}


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return build_model("tiny", 3, NAMES, min_size=48, max_size=64).eval()


def save_tiny(model, path, **config):
    return FasterRCNNTrainer(model, config=Config(**config)).save(save_path=path)


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# Round trips


@pytest.mark.parametrize(("name", "roi"), [*((name, "crop") for name in MODELS), ("tiny", "pool"), ("tiny", "align")])
def test_description_makes_the_same_network(name, roi):
    unusual = {**UNUSUAL, "roi": roi, "input_mode": "torchvision" if "caffe" in name else "caffe"}
    if name == "mobilenet_v3_large_fpn":
        unusual["freeze_at"] = 1
    if "_c4" in name:  # no layer to drop from
        del unusual["use_drop"]
    with torch.device("meta"):
        default = architecture(build_model(name, 3))
        model = build_model(name, 3, NAMES, **unusual)
        stored = architecture(model)
        assert stored["model"] == name
        assert set(stored) == {"model", *STORED}
        again = build_model(stored.pop("model"), 3, NAMES, **stored)
    assert type(again) is MODELS[name]
    for option, value in unusual.items():
        assert stored[option] == (list(value) if isinstance(value, tuple) else value)
        assert option == "roi" or stored[option] != default[option], option
    assert (again.rpn.anchor_scales, again.rpn.ratios) == ((1.0, 3.0), (0.25, 1.0, 4.0))
    assert again.rpn.anchor_base.shape[1] == again.rpn.loc.out_channels // 4 == 6
    assert (again.head.roi, again.rpn.proposal_layer.min_size, again.n_sample) == (roi, 3, 33)
    assert (again.allowed_border, again.min_size, again.max_size) == (5, 77, 99)
    assert (again.rpn_only, again.nms_thresh, again.max_dets) == (True, 0.45, 7)
    assert again.input_mode == unusual["input_mode"]
    layer = again.rpn.proposal_layer
    assert (layer.n_train_pre_nms, layer.n_test_post_nms, layer.score_thresh, layer.plus_one) == (81, 84, 0.02, 1)
    assert {n: p.shape for n, p in again.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}


def test_unusual_network_through_a_file(tmp_path):
    model = build_model("tiny", 3, NAMES, **UNUSUAL, roi="pool").eval()
    model.freeze_bn()
    again = load_model(save_tiny(model, tmp_path / "x.pth", min_size=600))
    assert same_weights(model, again)
    assert architecture(again) == architecture(model)
    assert again.label_names == NAMES
    assert again.frozen_bn
    assert not again.training
    img = np.random.default_rng(0).uniform(0, 255, (3, 60, 80)).astype(np.float32)
    for ours, theirs in zip(model.predict([img]), again.predict([img])):
        np.testing.assert_array_equal(ours[0], theirs[0])


@pytest.mark.parametrize("name", ["mobilenet_v2"])
def test_other_models_through_a_file(name, tmp_path):
    model = build_model(name, 3, NAMES, anchor_scales=(4, 8), rpn_min_size=6)
    again = load_model(save_tiny(model, tmp_path / "x.pth"))
    assert type(again) is type(model)
    assert same_weights(model, again)
    assert architecture(again) == architecture(model)
    assert not again.frozen_bn


def test_options_override_the_file(tiny, tmp_path):
    path = save_tiny(tiny, tmp_path / "x.pth")
    model = load_model(path, min_size=100, max_size=200, roi=None)
    assert (model.min_size, model.max_size, model.head.roi) == (100, 200, tiny.head.roi)


def test_options_that_a_model_does_not_have():
    with pytest.raises(UserError, match=r"^--model=resnet18_c4: use_drop: .*leave it out"):
        build_model("resnet18_c4", 3, use_drop=True)
    with pytest.raises(UserError, match=r"^--model=tiny: freeze_at 4: must be from 0 to 3"):
        build_model("tiny", 3, freeze_at=4)
    with pytest.raises(UserError, match=r"^--model=alexnet: min_size 30: "):
        build_model("alexnet", 3, min_size=30)
    build_model("alexnet", 3, min_size=31)


def test_unknown_model():
    with pytest.raises(UserError, match=r"^--model=vgg19: unknown; did you mean vgg16\?"):
        build_model("vgg19", 3)
    with pytest.raises(UserError, match=r"^--model=yolo: unknown; choose one of vgg16, .*tiny"):
        build_model("yolo", 3)


# Class names


def test_label_names(tiny):
    def names(n, other_info):
        return stored_label_names(Checkpoint("x", {"head.score.weight": torch.zeros(n + 1, 4)}, other_info=other_info))

    assert names(3, {"label_names": ["a", "b", "c"]}) == ("a", "b", "c")
    assert names(20, {}) == VOC_BBOX_LABEL_NAMES
    assert names(20, {"label_names": list("abcdefghijklmnopqrst")}) == tuple("abcdefghijklmnopqrst")
    assert names(3, {"label_names": None}) == ("class 0", "class 1", "class 2")


def test_given_names_replace_the_stored(tiny, tmp_path):
    checkpoint = read_checkpoint(save_tiny(tiny, tmp_path / "x.pth"))
    assert model_from_checkpoint(checkpoint, ("x", "y", "z")).label_names == ("x", "y", "z")
    with pytest.raises(UserError, match=r"x\.pth: has 3 classes.*2"):
        model_from_checkpoint(checkpoint, ("x", "y"))


def test_names_never_move_to_another_place(tiny, tmp_path):
    """A class is its place in the weights."""
    path = save_tiny(tiny, tmp_path / "x.pth")
    checkpoint = read_checkpoint(path)
    assert model_from_checkpoint(checkpoint, NAMES[::-1]).label_names == NAMES
    assert model_from_checkpoint(checkpoint, (NAMES[0], "x", NAMES[2])).label_names == (NAMES[0], "x", NAMES[2])
    with pytest.raises(UserError, match=f"{NAMES[0]!r}.*{','.join(NAMES)}"):
        model_from_checkpoint(checkpoint, ("x", NAMES[0], "y"))
    nameless = Checkpoint("old.pth", {"head.score.weight": torch.zeros(21, 4)})
    order = VOC_BBOX_LABEL_NAMES[1:] + VOC_BBOX_LABEL_NAMES[:1]
    assert names_in_order(nameless, (*order[:-1], "else")) == (*order[:-1], "else")


# Files of other makers and times


def test_bare_state_dict(tiny, tmp_path):
    path = tmp_path / "bare.pth"
    torch.save(tiny.state_dict(), path)
    model = load_model(path, model="tiny")
    assert same_weights(model, tiny)
    assert model.label_names == ("class 0", "class 1", "class 2")
    with pytest.raises(UserError, match=r"bare\.pth: .*--model"):
        load_model(path)


@pytest.mark.parametrize("prefix", ["module.", "module.faster_rcnn.", "faster_rcnn."])
def test_prefixes(tiny, tmp_path, prefix):
    path = tmp_path / "x.pth"
    torch.save({"model": {prefix + name: value for name, value in tiny.state_dict().items()}}, path)
    assert same_weights(load_model(path, model="tiny"), tiny)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("file_has_drop", [True, False])
@pytest.mark.parametrize("model_has_drop", [True, False])
def test_dropout_both_ways(tmp_path, file_has_drop, model_has_drop, zipped):
    theirs = FasterRCNNTiny(3, use_drop=file_has_drop)
    path = tmp_path / "x.pth"
    torch.save({"model": theirs.state_dict(), "config": {}}, path, _use_new_zipfile_serialization=zipped)
    ours = load_model(path, model="tiny", use_drop=model_has_drop).state_dict()
    own, other = (f"head.classifier.{3 if drop else 2}.weight" for drop in (model_has_drop, file_has_drop))
    assert torch.equal(ours[own], theirs.state_dict()[other])
    assert own == other or other not in ours


def old_vgg16(**config):
    """A VGG16 checkpoint of 2017 but for its weights, which cost no memory: stored is one number a tensor."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in FasterRCNNVGG16(20).state_dict().items()}
    state = {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}
    return Checkpoint("old.pth", state, {"lr1": 1e-3, "milestone": 12, **config}, {"best_map": np.float64(0.7)})


@pytest.mark.parametrize(
    ("config", "options", "mode"),
    [
        ({"caffe_pretrain": True}, {}, "caffe_legacy"),
        ({"caffe_pretrain": False}, {}, "torchvision"),
        ({}, {}, "torchvision"),
        ({}, {"input_mode": "caffe_legacy"}, "caffe_legacy"),
        ({"caffe_pretrain": True, "input_mode": "caffe"}, {}, "caffe"),
        ({"caffe_pretrain": True}, {"input_mode": "torchvision"}, "torchvision"),
    ],
)
def test_input_of_old_files(monkeypatch, config, options, mode):
    monkeypatch.setattr("model.zoo.fit_state_dict", lambda *args: None)
    with torch.device("meta"):
        model = model_from_checkpoint(old_vgg16(**config), **options)
    assert isinstance(model, FasterRCNNVGG16)
    assert model.input_mode == mode
    assert model.label_names == VOC_BBOX_LABEL_NAMES
    assert not model.frozen_bn


def test_old_file_that_trained_with_dropout(monkeypatch):
    fitted = []
    monkeypatch.setattr("model.zoo.fit_state_dict", lambda model, *args: fitted.append(model))
    with torch.device("meta"):
        assert "head.classifier.3.weight" in model_from_checkpoint(old_vgg16(use_drop=True)).state_dict()
    assert len(fitted) == 1


# Other classes


def test_weights_for_other_classes(tiny, tmp_path):
    path = save_tiny(FasterRCNNTiny(5), tmp_path / "five.pth")
    trainer = FasterRCNNTrainer(FasterRCNNTiny(3), config=Config())
    before = {name: value.clone() for name, value in trainer.state_dict().items()}
    with pytest.raises(UserError, match=r"five\.pth: [^\n]*other classes[^\n]*--finetune"):
        trainer.load(path)
    assert all(torch.equal(value, before[name]) for name, value in trainer.state_dict().items())


# Finetuning


@pytest.mark.parametrize("names", [("x", "y"), ("x", "y", "z")])
def test_finetune_takes_all_but_the_class_layers(tiny, tmp_path, names):
    path = tmp_path / "x.pth"
    save_checkpoint(path, {"model": tiny.state_dict(), "config": {**architecture(tiny), "frozen_bn": True}})
    torch.manual_seed(5)
    model = model_from_checkpoint(read_checkpoint(path), names, finetune=True)
    assert model.label_names == names
    assert model.n_class == len(names) + 1
    assert model.frozen_bn
    assert (model.min_size, model.max_size) == (48, 64)
    theirs = tiny.state_dict()
    for name, value in model.state_dict().items():
        if name.startswith(("head.score", "head.cls_loc")):
            assert len(value) == len(theirs[name]) // 4 * (len(names) + 1)
            assert name.endswith("bias") or value.shape != theirs[name].shape or not torch.equal(value, theirs[name])
        else:
            assert torch.equal(value, theirs[name]), name


def test_finetune_needs_all_the_rest(tiny, tmp_path):
    path = tmp_path / "part.pth"
    state = tiny.state_dict()
    del state["rpn.conv1.weight"]
    torch.save({"model": state, "config": {"model": "tiny"}}, path)
    with pytest.raises(UserError, match=r"part\.pth: .*rpn\.conv1\.weight"):
        model_from_checkpoint(read_checkpoint(path), ("x", "y"), finetune=True)
