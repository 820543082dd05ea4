"""Turn weights of other systems into a checkpoint of this one, with the conventions that they were trained under.

    python misc/convert_checkpoint.py fasterrcnn_resnet50_fpn fasterrcnn_resnet50_fpn_coco.pth --out=coco.pth
    python misc/convert_checkpoint.py jwyang_resnet101 faster_rcnn_1_10_12021.pth --out=jwyang.pth
    python train.py predict --load-path=coco.pth --image=FILE_OR_FOLDER

    fasterrcnn_resnet50_fpn, fasterrcnn_mobilenet_v3_large_fpn, fasterrcnn_mobilenet_v3_large_320_fpn: torchvision's
    jwyang_vgg16, jwyang_resnet50, jwyang_resnet101, jwyang_resnet152: faster-rcnn.pytorch's
    chainercv_vgg16: chainercv's npz
    caffe_vgg16: the backbone in torchvision's names; RPN and head stay random: for train.py train --finetune

Box order, background column, score channels, anchors, input statistics, sizes, RoI features and the order of steps come
along: `eval` and `predict` need no option. Nothing in a file is run.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `python misc/x.py` puts misc/ there, not the root

from model.roi_head import ROI_OPS
from model.zoo import build_model, checkpoint_content
from utils.checkpoint import as_checkpoint, fit_state_dict, read_state_dict, read_torch_file, save_checkpoint
from utils.errors import UserError, run_program
from utils.label_names import VOC_BBOX_LABEL_NAMES, parse_label_names
from utils.safe_read import opened_npz

TORCHVISION = {"convention": "torchvision", "min_size": 800, "max_size": 1333, "nms_thresh": 0.5, "max_dets": 100}
SMALL = {"min_size": 320, "max_size": 640, "rpn_n_test_pre_nms": 150, "rpn_n_test_post_nms": 150}
# his test_net.py leaves the long side as it comes
JWYANG = {"convention": "py-faster-rcnn", "input_mode": "caffe", "rpn_min_size": 0, "max_dets": 100, "max_size": 6000}
CHAINERCV = {"convention": "chainercv", "input_mode": "caffe"}

MOST_CLASSES = 100_000  # a file of some megabytes may say that it has more than memory holds


class Foreign(NamedTuple):
    """Weights under our names, and how to build the network for them."""

    state: dict  # name → tensor
    options: dict  # of `build_model`
    bn_eps: float | None = None  # what was added to BatchNorm's variances; None for as in our network


def xy_to_yx(tensor):
    """(A·4, ...) rows of (dx, dy, dw, dh) each → (dy, dx, dh, dw)."""
    return tensor.unflatten(0, (-1, 4))[:, [1, 0, 3, 2]].flatten(0, 1)


def rename(state, rules):
    """Name → tensor under the names that the first fitting of `rules` (pattern, replacement) makes; others are left."""
    renamed = {}
    for name, value in state.items():
        for pattern, replacement in rules:
            if re.match(pattern, name):
                renamed[re.sub(pattern, replacement, name, count=1)] = value
                break
    return renamed


def with_boxes_as_yx(state):
    return {n: xy_to_yx(v) if n.startswith(("rpn.loc.", "head.cls_loc.")) else v for n, v in state.items()}


def from_torchvision(path, frozen_eps=None):
    state = rename(read_state_dict(path), [
        (r"backbone\.body\.", "extractor."),
        (r"backbone\.fpn\.(inner|layer)_blocks\.(\d)\.(weight|bias)$", r"extractor.fpn.\1_blocks.\2.0.\3"),  # older
        (r"backbone\.fpn\.", "extractor.fpn."),
        (r"rpn\.head\.conv\.(0\.0\.)?", "rpn.conv1."),
        (r"rpn\.head\.cls_logits\.", "rpn.score."),
        (r"rpn\.head\.bbox_pred\.", "rpn.loc."),
        (r"roi_heads\.box_head\.fc6\.", "head.classifier.0."),
        (r"roi_heads\.box_head\.fc7\.", "head.classifier.2."),
        (r"roi_heads\.box_predictor\.cls_score\.", "head.score."),
        (r"roi_heads\.box_predictor\.bbox_pred\.", "head.cls_loc."),
    ])  # fmt: skip
    for name in ("rpn.score.weight", "rpn.score.bias"):  # the sigmoid of s is the softmax of (0, s)
        if name in state:
            state[name] = torch.stack([torch.zeros_like(state[name]), state[name]], dim=1).flatten(0, 1)
    if frozen_eps is None:
        frozen = not any(name.endswith("num_batches_tracked") for name in state)
        published = "head.score.bias" in state and state["head.score.bias"].shape == (91,)
        resnet = any(name.startswith("extractor.layer1.") for name in state)
        frozen_eps = 0.0 if frozen and published and resnet else 1e-5  # as torchvision does for its own ResNet file
    return Foreign(with_boxes_as_yx(state), TORCHVISION, frozen_eps)


def from_jwyang(path, frozen_eps=None):
    content = read_torch_file(path)
    state = as_checkpoint(path, content).model
    resnet = any(name.startswith("RCNN_base.4.") for name in state)
    backbone = [
        (r"RCNN_base\.0\.", "extractor.conv1."),
        (r"RCNN_base\.1\.", "extractor.bn1."),
        (r"RCNN_base\.4\.", "extractor.layer1."),
        (r"RCNN_base\.5\.", "extractor.layer2."),
        (r"RCNN_base\.6\.", "extractor.layer3."),
        (r"RCNN_top\.0\.", "head.classifier.layer4."),
    ] if resnet else [(r"RCNN_base\.", "extractor."), (r"RCNN_top\.", "head.classifier.")]  # fmt: skip
    state = rename(state, [
        *backbone,
        (r"RCNN_rpn\.RPN_Conv\.", "rpn.conv1."),
        (r"RCNN_rpn\.RPN_cls_score\.", "rpn.score."),
        (r"RCNN_rpn\.RPN_bbox_pred\.", "rpn.loc."),
        (r"RCNN_cls_score\.", "head.score."),
        (r"RCNN_bbox_pred\.", "head.cls_loc."),
    ])  # fmt: skip
    options = dict(JWYANG)
    for name in ("rpn.score.weight", "rpn.score.bias"):  # first the background of all anchors, then the foreground
        if name in state:
            state[name] = state[name].unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1)
            if len(state[name]) == 24:  # his setting for COCO and Visual Genome
                options["anchor_scales"] = [4, 8, 16, 32]
    if "head.cls_loc.bias" in state:
        options["class_agnostic"] = len(state["head.cls_loc.bias"]) == 4
    options["roi"] = content.get("pooling_mode") or ("align" if resnet else "pool")
    if options["roi"] not in ROI_OPS:
        raise UserError(f"{path}: its pooling_mode {options['roi']!r} is none of {', '.join(ROI_OPS)}; correct it")
    return Foreign(with_boxes_as_yx(state), options)


def from_chainercv(path, frozen_eps=None):
    try:
        with opened_npz(path) as arrays:
            arrays = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except Exception:  # numpy answers damaged files with whatever breaks first
        raise UserError(f"{path}: not an npz file of plain arrays; choose another file") from None
    layers = (2, 2, 3, 3, 3)  # convolutions between two poolings; each has a ReLU behind it
    first = [sum(2 * n + 1 for n in layers[:block]) for block in range(len(layers))]

    def convolution(match):
        return f"extractor.{first[int(match[1]) - 1] + 2 * (int(match[2]) - 1)}."

    state = rename({name.lstrip("/"): value for name, value in arrays.items()}, [
        (r"extractor/conv(\d)_(\d)/(conv/)?", convolution),
        (r"rpn/(conv1|score|loc)/", r"rpn.\1."),
        (r"head/fc6/", "head.classifier.0."),
        (r"head/fc7/", "head.classifier.2."),
        (r"head/(score|cls_loc)/", r"head.\1."),
    ])  # fmt: skip
    ends = {".W": ".weight", ".b": ".bias"}
    state = {name[:-2] + ends.get(name[-2:], name[-2:]): value for name, value in state.items()}
    if "extractor.0.weight" in state:
        state["extractor.0.weight"] = state["extractor.0.weight"].flip(1)  # it takes RGB: our caffe input is BGR
    return Foreign(state, CHAINERCV)


KINDS = {  # name → our model, how its file is read, options beside those of its system
    "fasterrcnn_resnet50_fpn": ("resnet50_fpn", from_torchvision, {}),
    "fasterrcnn_mobilenet_v3_large_fpn": ("mobilenet_v3_large_fpn", from_torchvision, {}),
    "fasterrcnn_mobilenet_v3_large_320_fpn": ("mobilenet_v3_large_fpn", from_torchvision, SMALL),
    "jwyang_vgg16": ("vgg16", from_jwyang, {}),
    "jwyang_resnet50": ("resnet50_c4_caffe", from_jwyang, {}),
    "jwyang_resnet101": ("resnet101_c4_caffe", from_jwyang, {}),
    "jwyang_resnet152": ("resnet152_c4_caffe", from_jwyang, {}),
    "chainercv_vgg16": ("vgg16", from_chainercv, {}),
    "caffe_vgg16": ("vgg16", None, {"input_mode": "caffe"}),
}


def convert(kind, path, label_names=None, frozen_eps=None):
    """The detector that the file `path` of another system holds.

    Args:
        kind: a key of KINDS.
        label_names: the foreground classes; None takes COCO's or VOC's where their number fits, else numbers.
        frozen_eps: what torchvision adds to the variances of frozen BatchNorm; None takes 0 for its published ResNet
            file, whose frozen layers were made without, and 1e-5 for others.

    Raises:
        UserError: the file can't be read, or holds something else.
    """
    name, read, options = KINDS[kind]
    if read is None:
        model = build_model(name, 20, label_names or VOC_BBOX_LABEL_NAMES, **options)
        model.load_pretrained(path)
        return model
    foreign = checked(read, kind, path, frozen_eps)
    n_fg_class = len(foreign.state["head.score.bias"]) - 1
    if n_fg_class > MOST_CLASSES:
        raise UserError(f"{path}: has {n_fg_class:,} classes, of {MOST_CLASSES:,} at most; choose another file")
    label_names = label_names or default_names(n_fg_class)
    if len(label_names) != n_fg_class:
        raise UserError(f"--label-names: {len(label_names)} names, but {path} has {n_fg_class} classes; name each")
    model = build_model(name, n_fg_class, label_names, **foreign.options | options)
    own = model.state_dict()
    state = {n: own[n] for n in own if n.endswith("num_batches_tracked")} | foreign.state
    fit_state_dict(model, state, path)
    if foreign.bn_eps is not None:
        take_over_eps(model, foreign.bn_eps)
    model.freeze_bn()
    return model


def checked(read, kind, path, frozen_eps):
    """`Foreign` of the file as `read` finds it, its shapes and numbers checked; `kind` is for the messages."""
    try:
        foreign = read(path, frozen_eps)
    except (RuntimeError, TypeError, IndexError):  # rows that are no whole number of boxes or scores, a scalar, ...
        raise UserError(f"{path}: its arrays do not have the shapes of {kind}; choose another kind or file") from None
    if foreign.state.get("head.score.bias", torch.zeros(())).ndim != 1:
        raise UserError(f"{path}: has no class scores under the names of {kind}; choose another kind or file")
    for name, value in foreign.state.items():
        if not name.endswith("num_batches_tracked") and not (value.is_floating_point() and value.isfinite().all()):
            raise UserError(f"{path}: {name} has other values than finite floats; choose another file")
    return foreign


@torch.no_grad()
def take_over_eps(model, eps):
    """Change BatchNorm's factors as if its variances had had `eps` added, not what our layers add."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            variance = module.running_var.double()
            module.weight.mul_(((variance + module.eps) / (variance + eps)).sqrt())


def default_names(n):
    """COCO's 90 categories as torchvision counts them, VOC's 20, or numbers."""
    if n == 90:
        names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:]
        return tuple(f"N/A {i + 1}" if name == "N/A" else name for i, name in enumerate(names))
    return VOC_BBOX_LABEL_NAMES if n == 20 else tuple(f"class {i}" for i in range(n))


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("kind", choices=KINDS, metavar="KIND", help="one of the names above")
    parser.add_argument("file", help="the other system's file")
    parser.add_argument("--out", required=True, help="checkpoint to write")
    parser.add_argument(
        "--label-names", type=parse_label_names, help="a,b,c or a file; default: COCO's, VOC's or numbers"
    )
    parser.add_argument(
        "--frozen-eps", type=float, help="of torchvision's frozen BatchNorm; default: found by the file"
    )
    args = parser.parse_args(argv)
    if args.frozen_eps is not None and not 0 <= args.frozen_eps < 1:
        raise UserError(f"--frozen-eps={args.frozen_eps}: must be from 0 to less than 1; torchvision's are 0 and 1e-5")
    if Path(args.out).exists():
        raise UserError(f"--out={args.out}: exists; choose another file, or remove it")
    model = convert(args.kind, args.file, args.label_names, args.frozen_eps)
    save_checkpoint(args.out, checkpoint_content(model))
    n = model.n_class - 1
    print(f"{args.out}: {type(model).__name__}, {n} classes ({', '.join(model.label_names[:3])}, ...)\nnext:")
    if KINDS[args.kind][1] is None:
        print(f"  python train.py train --finetune={args.out} --voc-data-dir=...")
    else:
        print(f"  python train.py predict --load-path={args.out} --image=FILE_OR_FOLDER")


if __name__ == "__main__":
    run_program(main)
