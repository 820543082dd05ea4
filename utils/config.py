"""The options of all commands: one dataclass, whose fields are the names on the command line.

Only `train.py` and `trainer.py` read `opt`; everything below them takes plain arguments.
"""

import os
from dataclasses import dataclass, fields

from utils.errors import UserError
from utils.option_set import OptionSet, option
from utils.option_values import FALSE, MOST_BOXES, TRUE, bind_address, flag, save_interval, server_url


@dataclass
class Config(OptionSet):
    """Options with their defaults. Use `parse` to change them from a command line or from keywords."""

    # data
    data: str = option("voc", "data", "kind of annotations", choices=("voc", "coco"))
    voc_data_dir: str = option(
        "VOCdevkit/VOC2007", "data", "folder with Annotations, ImageSets and JPEGImages; A,B for a union"
    )
    coco_data_dir: str = option("coco", "data", "folder with annotations/instances_SPLIT.json and SPLIT/; A,B likewise")
    train_split: str = option(
        "train", "data", "split to train on (VOC's own: trainval); a,b for A,B; - leaves a folder out"
    )
    val_split: str = option("val", "data", "split to evaluate on (VOC's own: test); a,b for A,B; - leaves a folder out")
    label_names: str | None = option(None, "data", "class names, a,b,c or a file; default: the checkpoint's, or found")
    min_size: int = option(600, "data", "pixels that the short side is resized to", low=16, high=10000)
    max_size: int = option(1000, "data", "pixels that the long side may have at most", low=16, high=10000)
    train_sizes: tuple[int, ...] | None = option(
        None, "data", "short sides, as 480,600,720, one of which is drawn for each training image", low=16, high=10000
    )
    max_ratio: float | None = option(
        None, "data", "training images longer than so many short sides are cut around their boxes (jwyang's: 2)", low=1
    )
    jitter: float = option(
        0.0, "data", "how much colours of training images change: brightness, contrast, saturation times 1 ± this, "
        "hue by a fifth of it in turns, all at most (SSD's: about 0.5)", low=0, high=1,
    )  # fmt: skip
    scale_crop: float = option(
        0.0, "data", "probability with which only a part of a training image is taken, 0.3 to 1 of each side, with "
        "a box's centre in it (SSD's: 0.86)", low=0, high=1,
    )  # fmt: skip
    group_by_aspect: bool = option(False, "data", "batches of wide or of tall images, so that little is padded")
    num_workers: int = option(8, "data", "processes that load training images, at most one a core", low=0, high=256)
    test_num_workers: int = option(
        8, "data", "processes that load images for evaluation, at most one a core", low=0, high=256
    )
    # model
    model: str = option("vgg16", "model", "network; python train.py models lists them")
    pretrained_model: str = option("vgg16", "model", "ImageNet weights to start from: the model's own name, or none")
    pretrained_path: str | None = option(None, "model", "file of ImageNet weights; default: torchvision's download")
    caffe_pretrain: bool = option(False, "model", "start VGG16 from caffe's weights, with caffe's input")
    caffe_pretrain_path: str = option("checkpoints/vgg16_caffe.pth", "model", "file of caffe's VGG16 in torch's names")
    input_mode: str | None = option(
        None, "model", "range, mean and channel order of the input", choices=("torchvision", "caffe", "caffe_legacy")
    )
    freeze_at: int | None = option(
        None, "model", "stages of the extractor that stay as they were; default: the model's", low=0, high=6
    )
    use_drop: bool = option(False, "model", "dropout after the fully connected layers of the head")
    roi: str | None = option(None, "model", "RoI features; default: the model's", choices=("pool", "align", "crop"))
    class_agnostic: bool = option(False, "model", "one box a RoI in place of one a class")
    anchor_scales: tuple[float, ...] | None = option(
        None, "model", "√area of the anchors in strides, as 8,16,32; default: the model's", low=0.1, high=1024
    )
    anchor_ratios: tuple[float, ...] | None = option(
        None, "model", "height / width of the anchors, as 0.5,1,2; default: the model's", low=0.01, high=100
    )
    allowed_border: float | None = option(
        None, "model", "pixels by which an anchor in training may cross the border; default: the model's", low=0
    )
    rpn_min_size: float | None = option(
        None, "model", "shortest side of a proposal in pixels of the picture; default: the model's", low=0
    )
    rpn_n_train_pre_nms: int | None = option(
        None,
        "model",
        "proposals before their suppression, of each level, in training; default: the model's",
        low=1,
        high=MOST_BOXES,
    )
    rpn_n_train_post_nms: int | None = option(
        None, "model", "proposals after it at most, in training; default: the model's", low=1, high=MOST_BOXES
    )
    rpn_n_test_pre_nms: int | None = option(
        None,
        "model",
        "proposals before their suppression, of each level, in testing; default: the model's",
        low=1,
        high=MOST_BOXES,
    )
    rpn_n_test_post_nms: int | None = option(
        None, "model", "proposals after it at most, in testing; default: the model's", low=1, high=MOST_BOXES
    )
    rpn_nms_thresh: float | None = option(
        None, "model", "IoU above which the weaker of two proposals is dropped; default: 0.7", low=0, high=1
    )
    rpn_score_thresh: float | None = option(
        None, "model", "probability below which a proposal is dropped; default: the model's", low=0, high=1
    )
    convention: str | None = option(
        None, "model", "whose pixels, anchors and order of steps; default: continuous, or the checkpoint's",
        choices=("continuous", "chainercv", "py-faster-rcnn", "torchvision"),
    )  # fmt: skip
    # schedule
    schedule: str = option(
        "joint", "schedule", "what is trained: RPN and head together, one of them, or in the paper's four steps",
        choices=("joint", "rpn", "fast_rcnn", "alternating"),
    )  # fmt: skip
    proposals: tuple[str, ...] | None = option(
        None, "schedule", "files of train.py propose, a,b: for --schedule=fast_rcnn, and for eval in place of the RPN's"
    )
    epoch: int = option(14, "schedule", "passes over the training images", low=1, high=10**6)
    max_iter: int | None = option(None, "schedule", "stop after so many steps in all", low=1, high=10**12)
    batch_size: int = option(
        1, "schedule", "images a step, of all processes together where torchrun starts several", low=1, high=4096
    )
    accumulate: int = option(
        1, "schedule", "parts in which a process takes its images of a step, one after the other: needs less memory",
        low=1, high=4096,
    )  # fmt: skip
    lr: float = option(
        1e-3, "schedule", "learning rate: factor of the gradient in a step; biases take twice as much", low=0, high=100
    )
    lr_decay: float = option(0.1, "schedule", "factor of the learning rate at each milestone", low=0, high=1)
    lr_milestones: tuple[int, ...] = option((10,), "schedule", "epochs after which the learning rate falls", low=0)
    reload_best: bool = option(True, "schedule", "go on from the best checkpoint at each milestone")
    scale_lr: bool = option(False, "schedule", "multiply --lr by the images a step (Goyal et al. 2017, §2.1)")
    warmup: int = option(0, "schedule", "steps over which the learning rate rises to its value", low=0)
    weight_decay: float = option(
        0.0005, "schedule", "factor of the parameters in a step, but for biases and norms", low=0, high=1
    )
    use_adam: bool = option(False, "schedule", "AdamW in place of SGD with momentum 0.9")
    # training
    rpn_sigma: float = option(3.0, "training", "σ of the RPN's smooth L1 loss", low=1e-3, high=1e3)
    roi_sigma: float = option(1.0, "training", "σ of the head's smooth L1 loss", low=1e-3, high=1e3)
    rpn_n_sample: int = option(256, "training", "anchors an image in the loss", low=1, high=MOST_BOXES)
    rpn_pos_ratio: float = option(0.5, "training", "share of positives among these anchors at most", low=0, high=1)
    rpn_pos_iou: float = option(0.7, "training", "IoU with a box from which an anchor is positive", low=0, high=1)
    rpn_neg_iou: float = option(0.3, "training", "IoU with all boxes below which an anchor is negative", low=0, high=1)
    rpn_clobber_positives: bool = option(False, "training", "a box's best anchor is negative if below --rpn-neg-iou")
    rpn_positive_weight: float | None = option(
        None, "training", "weight of all positives' boxes in the RPN's loss; default: 1 / samples for each",
        low=1e-6, high=1,
    )  # fmt: skip
    roi_n_sample: int | None = option(
        None, "training", "RoIs an image in the loss; default: the model's", low=1, high=MOST_BOXES
    )
    roi_pos_ratio: float = option(0.25, "training", "share of positives among these RoIs at most", low=0, high=1)
    roi_pos_iou: float = option(0.5, "training", "IoU with a box from which a RoI is positive", low=0, high=1)
    roi_neg_iou_hi: float = option(0.5, "training", "IoU below which a RoI is background", low=0, high=1)
    roi_neg_iou_lo: float = option(0.0, "training", "IoU from which a RoI is background (jwyang's: 0.1)", low=0, high=1)
    grad_clip: float | None = option(
        None, "training", "largest L2 norm of all gradients together; default: any", low=1e-6
    )
    load_path: str | None = option(None, "training", "checkpoint: to start from in train, to use in eval and predict")
    finetune: str | None = option(None, "training", "checkpoint for other classes: all but the class layers is taken")
    seed: int = option(
        0,
        "training",
        "number that order, augmentation, samples and initial weights are drawn from",
        low=0,
        high=2**32 - 1,
    )
    deterministic: bool = option(
        False, "training", "the same numbers in every run on a GPU too, where that is slower; on a CPU they always are"
    )
    device: str = option("auto", "training", "cpu, cuda, cuda:1, ...; auto takes a GPU if there is one")
    sync_bn: bool = option(
        False, "training", "let BatchNorm, where it learns, take the images of all processes together (with ImageNet "
        "weights it is frozen)"
    )  # fmt: skip
    amp: str = option(
        "auto", "training", "precision of the network: bf16, fp16, off (float32); auto takes bf16 where it is fast",
        choices=("auto", "bf16", "fp16", "off"),
    )  # fmt: skip
    compile: bool = option(False, "training", "let torch.compile fuse the network's layers; minutes at the start")
    # run
    name: str | None = option(None, "run", "the run's folder under runs/; default: model and time")
    run: tuple[str, ...] | None = option(
        None, "run", "for dashboard and report: folder of a recorded run, as runs/NAME; a,b: several in the same plots"
    )
    resume: str | None = option(
        None, "run", "go on where a run was saved last, with its options and those given, to the same end: its folder, "
        "runs/NAME, or auto, the run of --name if there is one"
    )  # fmt: skip
    save_every: str = option(
        "10min", "run", "how often last.pth is saved beside the ends of epochs: a time, 30s, 10min or 2h, or steps, 500"
    )
    keep: int = option(0, "run", "of so many of the last epochs the checkpoint is kept, as epoch-0007.pth", low=0)
    on_nonfinite: str = option(
        "stop", "run", "what a loss or gradient that is not finite does: stop ends the run, skip leaves the batch out; "
        "both keep the batch in runs/NAME/nonfinite", choices=("stop", "skip"),
    )  # fmt: skip
    nonfinite_limit: int = option(10, "run", "batches that are left out so at most; one more ends the run", low=0)
    overwrite: bool = option(False, "run", "allow a folder that has checkpoints, or in predict annotations, already")
    env: str = option("faster-rcnn", "run", "environment in visdom; dashboard: by default the run's name")
    port: int = option(8097, "run", "visdom's port (or set VISDOM_PORT)", low=1, high=65535)
    visdom: str = option(
        "auto", "run", "dashboard: auto starts a visdom server on 127.0.0.1 where none answers, and ends it with the "
        "run; keep leaves it running; on starts none; off sends nothing (or set VISDOM)",
        choices=("auto", "keep", "on", "off"), also={**dict.fromkeys(TRUE, "on"), **dict.fromkeys(FALSE, "off")},
    )  # fmt: skip
    visdom_server: str = option(
        "http://127.0.0.1", "run", "address of visdom without its port (or set VISDOM_SERVER); for a server with a "
        "login set VISDOM_USERNAME and VISDOM_PASSWORD"
    )  # fmt: skip
    visdom_bind: str = option(
        "127.0.0.1", "run", "address that a visdom server listens on which is started: 0.0.0.0 for all of this "
        "machine's; then VISDOM_USERNAME and VISDOM_PASSWORD are its login (or set VISDOM_BIND)"
    )  # fmt: skip
    plot_every: int = option(40, "run", "steps between two updates of the dashboard", low=1)
    show_proposals: bool = option(
        False, "run", "draw also the best proposals and the anchors that the RPN learns from, at each update"
    )
    eval_every: int = option(1, "run", "epochs between two evaluations on val_split", low=1)
    debug_file: str = option("/tmp/debugf", "run", "if this file exists, ipdb opens at the next update")
    draw: int | None = option(
        None, "run", "at the end, draw what the best checkpoint sees in so many pictures of --val-split", low=1
    )
    config: str | None = option(
        None, "run", "checkpoint, or runs/NAME, whose run's options are taken where the command line says nothing else"
    )
    quiet: bool = option(False, "run", "results, warnings and errors only, and no bars")
    verbose: bool = option(False, "run", "say more: options that are not the default, average precision by class")
    # evaluation and prediction
    test_num: int = option(10000, "evaluation", "images evaluated at most", low=1)
    score_thresh: float | None = option(
        None, "evaluation", "boxes below this score are dropped; default: 0.05 in eval, 0.7 in predict", low=0, high=1
    )
    nms_thresh: float | None = option(
        None,
        "evaluation",
        "IoU above which a class's weaker box is dropped; default: 0.3, or the checkpoint's",
        low=0,
        high=1,
    )
    max_dets: int | None = option(
        None,
        "evaluation",
        "boxes an image at most, the best; default: all, or the checkpoint's",
        low=1,
        high=MOST_BOXES,
    )
    detections: str | None = option(
        None, "evaluation", "file to score in place of a checkpoint: COCO's results.json, or VOC's comp4_det_test_*.txt"
    )
    save_detections: str | None = option(
        None, "evaluation", "where to write what eval finds: COCO's form in a .json, VOC's in a folder"
    )
    iou_thresh: float = option(
        0.5, "evaluation", "IoU from which a box is found, but for COCO's numbers", low=0, high=1
    )
    plus_one: bool = option(True, "evaluation", "a box of n pixels is n wide (VOC's), not n − 1, in that IoU")
    out: str | None = option(
        None, "prediction", "where to write; default: beside the checkpoint (eval), runs/predict, in --run (report)"
    )
    image: str | None = option(None, "prediction", "a picture, a video, a folder of them or a glob")
    every: int = option(1, "prediction", "of a video, take every N-th frame", low=1)
    save: tuple[str, ...] = option(
        ("pictures", "json"), "prediction", "what predict writes, a,b: drawn pictures and videos, detections.json, "
        "annotations and pictures as a VOC folder", choices=("pictures", "json", "voc"),
    )  # fmt: skip
    # simple-faster-rcnn's, whose purpose is gone
    use_chainer: bool = option(False, "model", "gone: there is one implementation; refused if set")

    @property
    def data_dir(self):
        """The folder or folders that hold the data of the kind `data`."""
        return self.coco_data_dir if self.data == "coco" else self.voc_data_dir

    def _check(self, values):
        """What one option forbids to another."""
        if values.get("use_chainer"):
            raise UserError("--use-chainer: there are no chainer models here any more; leave it out")
        start = next((name for name in ("load_path", "finetune") if values.get(name)), None)
        weights = next((name for name in ("pretrained_model", "pretrained_path") if name in values), None)
        if start and weights:
            raise UserError(f"{flag(weights)} and {flag(start)} both say where the weights come from; give one of them")
        if values.get("pretrained_model") == "none" and values.get("pretrained_path"):
            raise UserError("--pretrained-model=none starts from random weights; leave out it or --pretrained-path")
        caffe = values.get("caffe_pretrain", self.caffe_pretrain)
        for name in ("pretrained_model", "pretrained_path"):
            if caffe and values.get(name) not in (None, "vgg16"):
                raise UserError(f"{flag(name)} and --caffe-pretrain both say where the weights come from; give one")
        after = {f.name: getattr(self, f.name) for f in fields(self)} | values
        server_url(after["visdom_server"])
        save_interval(after["save_every"])
        bind_address(after["visdom_bind"])
        other = {"voc": "coco", "coco": "voc"}[after["data"]]
        if f"{other}_data_dir" in values and f"{after['data']}_data_dir" not in values:  # the default would be read
            raise UserError(f"{flag(f'{other}_data_dir')} goes with --data={other}; give both, or leave it out")
        for low, high in (("rpn_neg_iou", "rpn_pos_iou"), ("roi_neg_iou_lo", "roi_neg_iou_hi")):
            if after[low] > after[high]:
                raise UserError(f"{flag(low)}={after[low]} is more than {flag(high)}={after[high]}; make it less")
        from_file = after["load_path"] or after["finetune"]  # its sizes are known when it is read
        if after["min_size"] > after["max_size"] and not (from_file and {"min_size", "max_size"} - values.keys()):
            raise UserError(
                f"--min-size={after['min_size']} is more than --max-size={after['max_size']}; make it less, or set both"
            )
        if after["train_sizes"] and max(after["train_sizes"]) > after["max_size"] and not from_file:
            raise UserError(
                f"--train-sizes: {max(after['train_sizes'])} is more than --max-size={after['max_size']}; make it less"
            )
        places = {os.path.realpath(after[name]): name for name in ("load_path", "detections") if after[name]}
        for name in filter(after.get, ("save_detections", "out")):
            if (other := places.setdefault(os.path.realpath(after[name]), name)) != name:
                raise UserError(f"{flag(name)}={after[name]}: is {flag(other)} too, and would be lost; choose another")
        if after["quiet"] and after["verbose"]:
            raise UserError("--quiet and --verbose: say how much is to be said; give one of them")
        if after["load_path"] and after["finetune"]:
            raise UserError("--load-path and --finetune both name a checkpoint; give one of them")

    def check_schedule(self, goes_on=False):
        """What a training run's schedule needs, and what it would not read; `goes_on`: with a former run's state.

        Raises UserError.
        """
        if self.schedule == "fast_rcnn" and not self.proposals:
            raise UserError("--schedule=fast_rcnn learns from stored proposals: name their files with --proposals")
        if self.schedule != "fast_rcnn" and self.proposals:
            raise UserError(f"--schedule={self.schedule} learns from its own proposals: leave out --proposals")
        if self.schedule == "alternating" and (self.finetune or (self.load_path and not goes_on)):
            raise UserError("--schedule=alternating begins from ImageNet weights: leave out --load-path and --finetune")


opt = Config()
