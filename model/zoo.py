"""The detectors by name, and how one is made from options or from a checkpoint."""

import difflib
import math

import numpy as np
from torch import nn

from model.faster_rcnn_alexnet import FasterRCNNAlexNet
from model.faster_rcnn_mobilenet import FasterRCNNMobileNetV2, FasterRCNNMobileNetV3LargeFPN
from model.faster_rcnn_resnet import (
    FasterRCNNResNet18C4,
    FasterRCNNResNet18FPN,
    FasterRCNNResNet34C4,
    FasterRCNNResNet34FPN,
    FasterRCNNResNet50C4,
    FasterRCNNResNet50C4Caffe,
    FasterRCNNResNet50FPN,
    FasterRCNNResNet101C4,
    FasterRCNNResNet101C4Caffe,
    FasterRCNNResNet101FPN,
    FasterRCNNResNet152C4,
    FasterRCNNResNet152C4Caffe,
)
from model.faster_rcnn_tiny import FasterRCNNTiny
from model.faster_rcnn_vgg16 import FasterRCNNVGG16
from model.faster_rcnn_vgg_cnn_m import FasterRCNNVGGCNNM
from model.utils.convention import CONVENTIONS
from utils.checkpoint import FORMAT_VERSION, fit_state_dict, read_checkpoint
from utils.errors import UserError
from utils.image_tool import INPUT_MODES
from utils.json_tool import is_number
from utils.label_names import VOC_BBOX_LABEL_NAMES
from utils.option_values import MOST_BOXES

MODELS = {
    "vgg16": FasterRCNNVGG16,
    "vgg_cnn_m_1024": FasterRCNNVGGCNNM,
    "alexnet": FasterRCNNAlexNet,
    "resnet18_c4": FasterRCNNResNet18C4,
    "resnet34_c4": FasterRCNNResNet34C4,
    "resnet50_c4": FasterRCNNResNet50C4,
    "resnet101_c4": FasterRCNNResNet101C4,
    "resnet152_c4": FasterRCNNResNet152C4,
    "resnet50_c4_caffe": FasterRCNNResNet50C4Caffe,
    "resnet101_c4_caffe": FasterRCNNResNet101C4Caffe,
    "resnet152_c4_caffe": FasterRCNNResNet152C4Caffe,
    "resnet18_fpn": FasterRCNNResNet18FPN,
    "resnet34_fpn": FasterRCNNResNet34FPN,
    "resnet50_fpn": FasterRCNNResNet50FPN,
    "resnet101_fpn": FasterRCNNResNet101FPN,
    "mobilenet_v2": FasterRCNNMobileNetV2,
    "mobilenet_v3_large_fpn": FasterRCNNMobileNetV3LargeFPN,
    "tiny": FasterRCNNTiny,
}

# Option → keyword of the constructors, for what decides which network it is and how pictures reach it.
ARCHITECTURE = {
    "anchor_scales": "anchor_scales",
    "anchor_ratios": "ratios",
    "allowed_border": "allowed_border",
    "rpn_min_size": "rpn_min_size",
    "roi": "roi",
    "roi_n_sample": "n_sample",
    "use_drop": "use_drop",
    "class_agnostic": "class_agnostic",
    "freeze_at": "freeze_at",
    "min_size": "min_size",
    "max_size": "max_size",
    "input_mode": "input_mode",
    "convention": "convention",
    "nms_thresh": "default_nms_thresh",
    "max_dets": "max_dets",
    "rpn_only": "rpn_only",
}
PROPOSALS = {f"rpn_{name}": name for name in ("n_train_pre_nms", "n_train_post_nms", "n_test_pre_nms",
             "n_test_post_nms", "nms_thresh", "score_thresh")}  # of `ProposalCreator`  # fmt: skip
STORED = (*ARCHITECTURE, *PROPOSALS)
NETWORK_OPTIONS = tuple(name for name in STORED if name != "rpn_only")  # which --schedule decides
KINDS = {"anchor_scales": list, "anchor_ratios": list, "roi": str, "use_drop": bool, "class_agnostic": bool,
         "input_mode": str, "convention": str, "rpn_only": bool}  # else numbers  # fmt: skip
COUNTS = {"max_dets", "roi_n_sample", *(name for name in PROPOSALS if name.endswith("_nms"))}
MAX_ANCHORS = 100  # scales, or ratios
CLASS_LAYERS = ("head.score.", "head.cls_loc.")  # what depends on the classes


def model_class(name):
    """The family of the name. Raises UserError for an unknown one."""
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, 1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(MODELS)}"
        raise UserError(f"--model={name}: unknown; {hint}")
    return MODELS[name]


def build_model(name, n_fg_class, label_names=None, **options):
    """A detector with random weights.

    Args:
        name: a key of MODELS.
        n_fg_class: foreground classes, L.
        label_names: their names.
        options: some of STORED; None means the model's own default.
    """
    family = model_class(name)
    options = {key: value for key, value in options.items() if value is not None}
    proposals = {PROPOSALS[key]: options.pop(key) for key in list(options) if key in PROPOSALS}
    keywords = {ARCHITECTURE[key]: value for key, value in options.items()} | {"proposals": proposals}
    try:
        return family(n_fg_class, label_names=label_names, **keywords)
    except ValueError as error:
        raise UserError(f"--model={name}: {error}") from None


def architecture(model):
    """The options with which `build_model` makes this network again, as plain values for a checkpoint."""
    names = {cls: name for name, cls in MODELS.items()}
    conventions = {convention: name for name, convention in CONVENTIONS.items()}
    proposals = {key: getattr(model.rpn.proposal_layer, name) for key, name in PROPOSALS.items()}
    return proposals | {
        "model": names.get(type(model), type(model).__name__),
        "anchor_scales": list(model.rpn.anchor_scales),
        "anchor_ratios": list(model.rpn.ratios),
        "allowed_border": model.allowed_border,
        "rpn_min_size": model.rpn.proposal_layer.min_size,
        "roi": model.head.roi,
        "roi_n_sample": model.n_sample,
        "class_agnostic": model.head.class_agnostic,
        "freeze_at": model.freeze_at,
        "use_drop": any(isinstance(module, nn.Dropout) for module in model.head.modules()),
        "min_size": model.min_size,
        "max_size": model.max_size,
        "input_mode": model.input_mode,
        "convention": conventions[model.convention],
        "nms_thresh": model.default_nms_thresh,
        "max_dets": model.max_dets,
        "rpn_only": model.rpn_only,
    }


def checkpoint_content(model, config=None, vis_info=None, /, **other_info):
    """What a checkpoint says of `model`: its weights, how it is built, `config` (options as plain values), other facts.

    numpy's values become Python's: a file is read again without any class of another package.
    """
    plain = {name: v.tolist() if isinstance(v, np.ndarray | np.generic) else v for name, v in other_info.items()}
    names = list(model.label_names) if model.label_names else None
    return {
        "model": model.state_dict(),
        "config": {**(config or {}), **architecture(model), "frozen_bn": model.frozen_bn},
        "other_info": {"format_version": FORMAT_VERSION, "label_names": names, **plain},
        "vis_info": vis_info or {},
    }


def load_model(path, device="cpu", **options):
    """A ready detector from a checkpoint, in evaluation mode.

    Args:
        path: a checkpoint of this project or of simple-faster-rcnn, or a bare state dict.
        device: where it shall run.
        options: `model` or some of STORED that override what the file says; None means no override.

    Raises:
        UserError: not a checkpoint, or one that fits no model.
    """
    return model_from_checkpoint(read_checkpoint(path), **options).to(device).eval()


def model_from_checkpoint(checkpoint, label_names=None, finetune=False, **options):
    """The network that `checkpoint` (a `Checkpoint`) describes, with its weights.

    Args:
        label_names: the classes, in place of those in the file.
        finetune: the classes are others: all weights are taken but those of the head's last two layers.
        options: as in `load_model`.
    """
    given = {key: value for key, value in options.items() if value is not None}
    options = {"model": _model_name(checkpoint, given.get("model")), **_stored_options(checkpoint, given)} | given
    n_fg_class = len(label_names) if finetune else _n_fg_class(checkpoint)
    if not finetune:
        label_names = names_in_order(checkpoint, label_names)
    low, high = options.get("min_size", 600), options.get("max_size", 1000)
    if not 1 <= low <= high < math.inf:
        raise UserError(
            f"{checkpoint.path}: pictures can't be brought to a short side of {low:g} and a long side of at most "
            f"{high:g} pixels; set --min-size and --max-size"
        )
    try:
        model = build_model(options.pop("model"), n_fg_class, tuple(label_names), **options)
    except (TypeError, ValueError) as error:
        raise UserError(f"{checkpoint.path}: its description of the network can't be used ({error})") from None
    state, required = checkpoint.model, None
    if finetune:
        state = {name: value for name, value in state.items() if not name.startswith(CLASS_LAYERS)}
        required = [name for name in model.state_dict() if not name.startswith(CLASS_LAYERS)]
    fit_state_dict(model, state, checkpoint.path, required)
    if checkpoint.config.get("frozen_bn"):
        model.freeze_bn()
    return model


def _model_name(checkpoint, given=None):
    """Files older than the option `model` hold VGG16 and can be known by its layers."""
    name = given or checkpoint.config.get("model")
    if name is None and "extractor.28.weight" in checkpoint.model:
        return "vgg16"
    if name is None:
        raise UserError(f"{checkpoint.path}: does not say which model it is for; name it with --model")
    if not isinstance(name, str) or name not in MODELS:
        raise UserError(f"{checkpoint.path}: made with the model {name!r}, which is not one of {', '.join(MODELS)}")
    return name


def _stored_options(checkpoint, given):
    """What the file says of the network and its input, apart from what is `given`; simple-faster-rcnn's files say
    less, and in other words."""
    config = checkpoint.config
    options = {key: config[key] for key in STORED if config.get(key) is not None and key not in given}
    for key, value in options.items():
        numbers = value if isinstance(value, list) else [value]
        # of thousands of scales and as many ratios there would be millions of anchors
        fits = len(numbers) <= MAX_ANCHORS and not any(isinstance(n, int) and not is_number(int(n)) for n in numbers)
        fits = fits and (key not in COUNTS or (type(value) is int and 1 <= value <= MOST_BOXES))
        if not (isinstance(value, KINDS.get(key, int | float)) and fits):
            shown = f"{value!r:.60}"
            raise UserError(f"{checkpoint.path}: its {key} is {shown}, which can't be; set --{key.replace('_', '-')}")
    if "input_mode" not in options and config.get("caffe_pretrain"):
        options["input_mode"] = "caffe_legacy"
    if options.get("input_mode", "torchvision") not in INPUT_MODES:
        raise UserError(f"{checkpoint.path}: input mode {options['input_mode']!r} is unknown; set --input-mode")
    return options


def _n_fg_class(checkpoint):
    score = checkpoint.model.get("head.score.weight")
    if score is None or score.ndim != 2:
        raise UserError(f"{checkpoint.path}: no head.score.weight, so not a detector of this project; choose another")
    return len(score) - 1


def names_in_order(checkpoint, given=None):
    """The checkpoint's classes by their index; those of `given` for a file without names, or to call them otherwise.

    The weights of a class are at its index: names that the file has too never change their place.
    """
    stored = stored_label_names(checkpoint)
    if given is None or set(given) == set(stored):
        return stored
    if len(given) != len(stored):
        raise UserError(f"{checkpoint.path}: has {len(stored)} classes, but --label-names names {len(given)}")
    moved = [name for i, name in enumerate(given) if name in stored and stored[i] != name]
    if moved and names_are_stored(checkpoint):
        raise UserError(
            f"{checkpoint.path}: has {moved[0]!r} at another place of its classes; give --label-names in this order, "
            f"renamed or not: {','.join(stored)}"
        )
    return tuple(given)


def names_to_go_on(checkpoint, names, given=False):
    """The checkpoint's classes, in its order, for a run that goes on from it.

    Args:
        names: the classes of the data, which must be among them.
        given: whether the user named them, as is needed for an old file that does not.
    """
    if given and not names_are_stored(checkpoint):
        return names_in_order(checkpoint, names)
    known = stored_label_names(checkpoint)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(
            f"{checkpoint.path}: is for {len(known)} other classes, without {unknown[0]!r}; "
            "start from it with --finetune in place of --load-path"
        )
    return known


def names_are_stored(checkpoint):
    """Whether the file names its classes; old ones do not."""
    names = checkpoint.other_info.get("label_names")
    return isinstance(names, list | tuple) and len(names) == _n_fg_class(checkpoint)


def stored_label_names(checkpoint):
    """Class names in the file; VOC's for an old file of 20 classes; else numbers."""
    if names_are_stored(checkpoint):
        return tuple(checkpoint.other_info["label_names"])
    n_fg_class = _n_fg_class(checkpoint)
    return VOC_BBOX_LABEL_NAMES if n_fg_class == 20 else tuple(f"class {i}" for i in range(n_fg_class))
