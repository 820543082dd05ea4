"""The network that a command begins with: from its options, with ImageNet weights, or from a checkpoint."""

import torch

from model.zoo import NETWORK_OPTIONS, build_model, model_class, model_from_checkpoint
from utils.checkpoint import read_checkpoint
from utils.cli_tool import choose_device
from utils.dist_tool import ALONE
from utils.errors import UserError
from utils.label_names import parse_label_names
from utils.terminal_tool import tell, warn


def training_model(opt, label_names, checkpoint, goes_on=False):
    """The network to train.

    Args:
        opt: a `Config`.
        label_names: the classes.
        checkpoint: a `Checkpoint` to start from, or None.
        goes_on: its run goes on.
    """
    if checkpoint is None:
        return new_model(opt, label_names)
    options = checkpoint_options(opt, checkpoint)
    model = model_from_checkpoint(checkpoint, label_names, finetune=bool(opt.finetune), **options)
    if goes_on:
        info = checkpoint.other_info
        tell(f"going on from {checkpoint.path}: epoch {info.get('epoch', 0) + 1}, step {info.get('step', 0) + 1:,}")
    else:
        tell(f"starting with the weights of {checkpoint.path}; epochs and steps count from the beginning")
    return with_threshold(opt, model)


def new_model(opt, label_names):
    """A network from the options, with ImageNet weights if it has any and they are wanted."""
    options = architecture_options(opt)
    if "caffe_pretrain_path" in opt.given and not opt.caffe_pretrain:
        raise UserError("--caffe-pretrain-path is read only with --caffe-pretrain=True; add it, or leave it out")
    if opt.caffe_pretrain:
        if opt.model != "vgg16":
            raise UserError(f"--caffe-pretrain is for --model=vgg16, not {opt.model}; leave it out")
        options["input_mode"] = options["input_mode"] or "caffe"
    if "pretrained_model" in opt.given and opt.pretrained_model not in (opt.model, "none"):
        raise UserError(f"--pretrained-model={opt.pretrained_model}: must be none or the model's own, {opt.model}")
    path = opt.caffe_pretrain_path if opt.caffe_pretrain else opt.pretrained_path
    if opt.pretrained_model == "none" or (path is None and model_class(opt.model).pretrained_weights is None):
        if options["freeze_at"] is None:
            options["freeze_at"] = 0  # random stages must learn
        tell(f"{opt.model} starts from random weights")
        return with_threshold(opt, build_model(opt.model, len(label_names), label_names, **options))
    model = build_model(opt.model, len(label_names), label_names, **options)
    model.load_pretrained(path)
    return with_threshold(opt, model)


def model_of_part(opt, label_names, part, run_dir):
    """The network with which part 2, 3 or 4 of the alternating schedule begins (Ren et al. 2015, §3.2).

    Args:
        run_dir: where the parts before it left theirs.
    """
    if part == 2:
        return new_model(opt, label_names)
    model = with_threshold(opt, model_from_checkpoint(read_checkpoint(run_dir / f"step{part - 1}.pth")))
    if part == 3:
        model.rpn.reset_parameters()
    return model


def described_model(opt, label_names, checkpoint):
    """`training_model` without its weights: those of a checkpoint aside, nothing is read."""
    if checkpoint is None:
        return build_model(opt.model, len(label_names), label_names, **architecture_options(opt))
    options = checkpoint_options(opt, checkpoint)
    return model_from_checkpoint(checkpoint, label_names, finetune=bool(opt.finetune), **options)


def detector(opt, checkpoint):
    """The model of a checkpoint, to predict with; options that were given override the checkpoint's own."""
    names = parse_label_names(opt.label_names) if opt.label_names else None
    return model_from_checkpoint(checkpoint, names, **checkpoint_options(opt, checkpoint))


def detector_at(opt, preset, with_rois=False, world=ALONE):
    """The model of --load-path, ready to predict.

    Args:
        preset: see `ready`.
        with_rois: it is given stored proposals.
        world: the processes that predict together.
    """
    checkpoint = read_checkpoint(opt.load_path)
    if checkpoint.config.get("schedule") == "fast_rcnn" and not with_rois:
        warn(f"{checkpoint.path} learned on stored proposals, and its RPN nothing")
    return ready(opt, detector(opt, checkpoint), preset, world)


def ready(opt, model, preset, world=ALONE):
    """`model` with the thresholds of `preset` or those given, where it shall run."""
    model.use_preset(preset)
    if opt.compile:
        model.compile_layers()
    model = with_threshold(opt, model)
    return model.to(choose_device(opt.device, world), memory_format=torch.channels_last).eval()


def architecture_options(opt, only_given=False):
    """The options that decide on the network, for `build_model`; all, or those that the user gave."""
    return {name: getattr(opt, name) for name in NETWORK_OPTIONS if not only_given or name in opt.given}


def checkpoint_options(opt, checkpoint):
    """What the user gave to override the checkpoint's own description."""
    options = architecture_options(opt, only_given=True)
    if opt.caffe_pretrain and not options.get("input_mode") and not checkpoint.config.get("input_mode"):
        options["input_mode"] = "caffe_legacy"  # an old file without options: simple-faster-rcnn's own caffe input
    if "model" in opt.given:
        options["model"] = opt.model
    return options


def with_threshold(opt, model):
    """`model`, with the score threshold that was given."""
    if opt.score_thresh is not None:
        model.score_thresh = opt.score_thresh
    return model
