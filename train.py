"""Train, evaluate and use Faster R-CNN.

    python train.py train --voc-data-dir=toy_voc --model=tiny --min-size=160 --use-adam --batch-size=2
    python train.py eval --load-path=runs/NAME/best.pth --voc-data-dir=toy_voc
    python train.py predict --load-path=runs/NAME/best.pth --image=toy_voc/JPEGImages

`python train.py COMMAND --help` lists the options. A mistake in an option or a file is one line and exit code 2.
"""

import json
import os
import random
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

# By default the threads of a parallel region spin while they wait for the last one: with any other process on one of
# the cores (a data loader's, say) that makes a step on a CPU several times as slow. Read when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import fire
import numpy as np
import torch
from fire.decorators import SetParseFn
from tqdm import tqdm

try:
    import torchvision  # noqa: F401
except RuntimeError as reason:  # its operators are not compiled for this build of torch (+cpu, say)
    print(f"error: torchvision does not fit torch {torch.__version__} ({reason}); install both anew", file=sys.stderr)
    sys.exit(2)

from data.dataset import Dataset, TestDataset, inverse_normalize, set_epoch, test_loader, to_device, train_loader
from data.voc_dataset import VOCBboxDataset, find_label_names, report_problems
from model.zoo import ARCHITECTURE, MODELS, architecture, build_model, model_from_checkpoint, names_to_go_on
from trainer import FasterRCNNTrainer
from utils.checkpoint import read_checkpoint
from utils.cli_tool import choose_device, make_run_dir, return_free_memory, run_command, say
from utils.config import opt
from utils.errors import UserError
from utils.label_names import parse_label_names
from utils.models_tool import describe, models_table
from utils.precision_tool import amp_dtype, autocast
from utils.predict_tool import evaluate_model, find_images, predict_files
from utils.vis_tool import Visualizer, visdom_bbox
from utils.visdom_server import is_visdom


@SetParseFn(str)
def train(*args, **kwargs):
    """Train on --train-split, evaluate on --val-split, and keep the best and the last checkpoint in runs/NAME/."""
    read_options(args, kwargs)
    leave_with_the_state_saved()
    device = choose_device(opt.device)
    amp = amp_dtype(opt.amp, device)
    seed_everything(opt.seed)
    train_db, val_db, checkpoint = training_data()
    model = training_model(train_db.label_names, checkpoint).to(device, memory_format=torch.channels_last)
    if opt.compile:
        model.compile_layers()
    preparation = model.min_size, model.max_size, model.input_mode
    dataset = Dataset(train_db, *preparation, opt.seed, raw=device.type == "cuda")  # a GPU resizes faster
    loader = train_loader(dataset, opt.batch_size, workers(opt.num_workers))
    default_name = f"{architecture(model)['model']}-{time.strftime('%m%d-%H%M%S')}"
    run_dir = make_run_dir(opt.name or default_name, opt.overwrite)
    vis = dashboard()
    trainer = FasterRCNNTrainer(model, vis, amp=amp)
    if opt.load_path and checkpoint.optimizer is not None:
        trainer.load_optimizer(checkpoint.optimizer, opt.load_path)
    vis.text("<br>".join(model.label_names), win="labels")

    n_steps = opt.epoch * len(loader) if opt.max_iter is None else min(opt.max_iter, opt.epoch * len(loader))
    say(f"train: {type(model).__name__} on {device}, {n_steps} steps of {opt.batch_size} images; run: {run_dir}")
    bar = tqdm(total=n_steps, desc="train", unit="step", smoothing=0.05)
    step, epoch, best_map = 0, 0, None
    try:
        for epoch in range(opt.epoch):
            set_epoch(loader, epoch)
            trainer.epoch = epoch
            model.train()
            for batch in loader:
                if step >= n_steps:
                    break
                trainer.set_lr(learning_rate(epoch, step))
                batch = to_device(batch, device, *preparation)
                trainer.train_step(*batch)
                step += 1
                bar.update()
                if step % opt.plot_every == 0 or step == n_steps:
                    enter_debugger(trainer, batch)
                    show(trainer, batch, step, bar)
                if device.type == "cpu" and step % 200 == 0:
                    return_free_memory()
            check_finite(model, step)
            progress = {"epoch": epoch + 1, "step": step}
            if val_db is not None and ((epoch + 1) % opt.eval_every == 0 or step >= n_steps):
                result = evaluate(model, val_db)
                vis.plot("test_map", result.map07, x=epoch + 1)
                line = f"epoch {epoch + 1}: mAP {result.map07:.4f} (VOC07 11-point), {result.map:.4f} (area)"
                say(f"{line} on {opt.val_split}")
                vis.log(f"{line}, lr {learning_rate(epoch, step):g}")
                if result.map07 > (-1.0 if best_map is None else best_map):  # never true of nan
                    best_map = result.map07
                    trainer.save(save_path=run_dir / "best.pth", best_map=best_map, **progress)
            trainer.save(save_optimizer=True, save_path=run_dir / "last.pth", best_map=best_map, **progress)
            if step >= n_steps:
                break
            if opt.reload_best and epoch + 1 in opt.lr_milestones and best_map is not None:
                trainer.load(run_dir / "best.pth")
    except BaseException:
        if step and is_finite(model):  # whatever stopped the run, what it learned is kept
            path = trainer.save(save_optimizer=True, save_path=run_dir / "interrupted.pth", epoch=epoch, step=step)
            say(f"stopped in step {step}; the state is in {path}", file=sys.stderr)
        raise
    finally:
        bar.close()
        vis.save()
        vis.close()
    finish(run_dir, best_map, validated=val_db is not None)


@SetParseFn(str)
def evaluate_command(*args, **kwargs):
    """Print the average precisions of the checkpoint --load-path on --val-split, and write them as JSON."""
    read_options(args, kwargs, needs="load_path")
    path = Path(opt.out or f"{os.path.splitext(opt.load_path)[0]}_eval_{opt.val_split}.json")
    with writing(path):  # before the work
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
    model = detector("evaluate")
    db = VOCBboxDataset(opt.voc_data_dir, opt.val_split, model.label_names, use_difficult=True)
    report(db)
    result = evaluate(model, db)
    say(result.table())
    about = {
        "checkpoint": opt.load_path,
        "voc_data_dir": opt.voc_data_dir,
        "split": opt.val_split,
        "n_images": min(len(db), opt.test_num),
        "score_thresh": model.score_thresh,
        "nms_thresh": model.nms_thresh,
    }
    with writing(path):
        path.write_text(json.dumps(about | result.to_json(), indent=1, ensure_ascii=False), "utf-8")
    say(f"written to {path}")


@SetParseFn(str)
def predict(*args, **kwargs):
    """Draw what the checkpoint --load-path sees in --image (a picture, a folder or a glob), and write it as JSON."""
    read_options(args, kwargs, needs="load_path")
    if not opt.image:
        raise UserError("--image is missing: name a picture, a folder or a glob")
    paths = find_images(opt.image)
    out_dir = opt.out or "runs/predict"
    model = detector("visualize")
    with autocast(model.device, amp_dtype(opt.amp, model.device)):
        records, problems = predict_files(model, paths, out_dir, opt.max_dets, 8 if model.device.type == "cuda" else 1)
    for line in problems:
        say(f"left out: {line}", file=sys.stderr)
    n_boxes = sum(len(record["detections"]) for record in records)
    say(f"{n_boxes} objects in {len(records)} pictures; drawn pictures and detections.json are in {out_dir}")


@SetParseFn(str)
def models(*args, **kwargs):
    """List the models with their parameters, stride, arithmetic and time on this machine (--model: only that one)."""
    read_options(args, kwargs)
    device, names = choose_device(opt.device), [opt.model] if "model" in opt.given else list(MODELS)
    with autocast(device, amp_dtype(opt.amp, device)):
        rows = [describe(name, MODELS[name], (600, 800), device) for name in tqdm(names, unit="model", leave=False)]
    say(models_table(rows, (600, 800)))


COMMANDS = {"train": train, "eval": evaluate_command, "predict": predict, "models": models}


# What the commands are made of, in the order of use.


def read_options(args, kwargs, needs=None):
    if args:
        raise UserError(f"{args[0]}: an option is written --name=value; --help lists them")
    opt.parse(kwargs)
    if needs and not getattr(opt, needs):
        raise UserError(f"--{needs.replace('_', '-')} is missing: name a checkpoint, such as runs/NAME/best.pth")


@contextmanager
def writing(path):
    """Where a file is written: what goes wrong is one line."""
    try:
        yield
    except OSError as error:
        raise UserError(f"--out={path}: can't be written ({error.strerror}); choose another file") from None


def seed_everything(seed):
    """For the initial weights and dropout; all else draws from (seed, epoch, image)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def leave_with_the_state_saved():
    """On SIGTERM, and when the terminal is closed (unless nohup has it ignored), as after Ctrl-C."""
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: sys.exit(128 + number))


def workers(n):
    return min(n, os.cpu_count() or 1)


def training_data():
    """The training set, the validation set or None, and the checkpoint to start from or None."""
    checkpoint = read_checkpoint(opt.load_path or opt.finetune) if opt.load_path or opt.finetune else None
    val_list = Path(opt.voc_data_dir, "ImageSets", "Main", f"{opt.val_split}.txt")
    splits = [opt.train_split]
    if val_list.exists() or "val_split" in opt.given:
        splits.append(opt.val_split)
    names = parse_label_names(opt.label_names) if opt.label_names else find_label_names(opt.voc_data_dir, splits)
    if opt.load_path:
        names = names_to_go_on(checkpoint, names, given=bool(opt.label_names))
    if not names:
        raise UserError(f"{opt.voc_data_dir}: no object in the annotations of {' and '.join(splits)}; name the classes")
    train_db = VOCBboxDataset(opt.voc_data_dir, opt.train_split, names)
    report(train_db)
    if len(splits) == 1:
        say(f"no {val_list}: the run goes on without validation, and keeps last.pth alone")
        return train_db, None, checkpoint
    val_db = VOCBboxDataset(opt.voc_data_dir, opt.val_split, names, use_difficult=True)
    report(val_db)
    n_both = len(set(train_db.ids) & set(val_db.ids))
    if n_both:
        splits = f"{opt.train_split} and {opt.val_split}"
        say(f"warning: {n_both} images are in both {splits}: the mAP is flattered; choose others", file=sys.stderr)
    return train_db, val_db, checkpoint


def report(db):
    say(db.summary())
    if db.problems:
        say(report_problems(db.problems), file=sys.stderr)


def architecture_options(only_given):
    """The options that decide on the network, for `build_model`; all, or those that the user gave."""
    return {name: getattr(opt, name) for name in ARCHITECTURE if not only_given or name in opt.given}


def training_model(label_names, checkpoint):
    """The network to train, evaluated with the thresholds that were given."""
    if checkpoint is None:
        return with_thresholds(new_model(label_names))
    options = checkpoint_options(checkpoint)
    model = model_from_checkpoint(checkpoint, label_names, finetune=bool(opt.finetune), **options)
    say(f"starting from {checkpoint.path}")
    return with_thresholds(model)


def new_model(label_names):
    """A network from the options, with ImageNet weights if it has any and they are wanted."""
    options = architecture_options(only_given=False)
    if "caffe_pretrain_path" in opt.given and not opt.caffe_pretrain:
        raise UserError("--caffe-pretrain-path is read only with --caffe-pretrain=True; add it, or leave it out")
    if opt.caffe_pretrain:
        if opt.model != "vgg16":
            raise UserError(f"--caffe-pretrain is for --model=vgg16, not {opt.model}; leave it out")
        options["input_mode"] = options["input_mode"] or "caffe"
    model = build_model(opt.model, len(label_names), label_names, **options)
    if "pretrained_model" in opt.given and opt.pretrained_model not in (opt.model, "none"):
        raise UserError(f"--pretrained-model={opt.pretrained_model}: must be none or the model's own, {opt.model}")
    path = opt.caffe_pretrain_path if opt.caffe_pretrain else opt.pretrained_path
    scratch = opt.pretrained_model == "none" or (model.pretrained_weights is None and path is None)
    if not scratch:
        model.load_pretrained(path)
    return model


def with_thresholds(model):
    if opt.score_thresh is not None:
        model.score_thresh = opt.score_thresh
    if opt.nms_thresh is not None:
        model.nms_thresh = opt.nms_thresh
    return model


def checkpoint_options(checkpoint):
    """What the user gave to override the checkpoint's own description."""
    options = architecture_options(only_given=True)
    if opt.caffe_pretrain and not options.get("input_mode") and not checkpoint.config.get("input_mode"):
        options["input_mode"] = "caffe_legacy"  # an old file without options: simple-faster-rcnn's own caffe input
    if "model" in opt.given:
        options["model"] = opt.model
    return options


def dashboard():
    vis = Visualizer(opt.env, opt.port, enabled=opt.visdom)
    if opt.visdom and is_visdom(opt.port):
        say(f"dashboard: http://127.0.0.1:{opt.port}/env/{vis.env}")
    elif opt.visdom:
        say(f"dashboard: no visdom answers on port {opt.port}; the run goes on, and shows there as soon as one does")
    return vis


def learning_rate(epoch, step):
    """Of the step after `step` steps, in epoch `epoch` (from 0): `lr`, reached over `warmup`, less at milestones."""
    n_passed = sum(epoch >= milestone for milestone in opt.lr_milestones)
    lr = opt.lr * opt.batch_size if opt.scale_lr else opt.lr
    return lr * opt.lr_decay**n_passed * min(1.0, (step + 1) / max(opt.warmup, 1))


def enter_debugger(trainer, batch):
    """simple-faster-rcnn's door: create the file `debug_file` and look around; remove it to go on undisturbed."""
    if os.path.exists(opt.debug_file):
        import ipdb  # noqa: T100  only those who ask for it need it

        ipdb.set_trace()  # noqa: T100


def is_finite(model):
    return all(bool(parameter.isfinite().all()) for parameter in model.parameters() if parameter.requires_grad)


def check_finite(model, step):
    """Before a checkpoint is written: one with NaN would take the place of a good one."""
    if not is_finite(model):
        raise UserError(f"the parameters are not finite after step {step}: lower --lr, or raise --warmup")


def show(trainer, batch, step, bar):
    """The mean losses since the last look go to the bar and the dashboard, with what the model sees in one image."""
    losses = trainer.get_meter_data()
    if not np.isfinite(losses["total_loss"]):
        raise UserError(f"the loss is not finite near step {step}: lower --lr, or raise --warmup")
    bar.set_postfix(loss=f"{losses['total_loss']:.3f}")
    vis, model = trainer.vis, trainer.faster_rcnn
    if opt.visdom:
        vis.plot_many(losses, x=step)
        vis.text(rpn_table(trainer.rpn_cm.value()), win="rpn_cm")
        vis.heatmap("roi_cm", trainer.roi_cm.value(), ["background", *model.label_names])
        height, width = batch.sizes[0].tolist()
        img = inverse_normalize(batch.imgs[0, :, :height, :width], model.input_mode)
        vis.img("gt_img", visdom_bbox(img, batch.bboxes[0], batch.labels[0], None, model.label_names))
        with autocast(model.device, trainer.amp):
            detections = model.predict(batch.imgs[:1, :, :height, :width], [(height, width)], visualize=True)
        vis.img("pred_img", visdom_bbox(img, *(column[0] for column in detections), model.label_names))
    trainer.reset_meters()


def rpn_table(counts):
    """HTML of the RPN's confusion counts (2, 2): row = target, column = prediction."""
    names = ("background", "foreground")
    rows = ((name, *(f"{int(n)}" for n in row)) for name, row in zip(names, counts, strict=True))
    cells = ("".join(f"<td style='padding:4px 12px'>{cell}</td>" for cell in row) for row in (("", *names), *rows))
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>rows: target, columns: prediction"


def evaluate(model, db):
    on_gpu = model.device.type == "cuda"
    dataset = TestDataset(db, model.min_size, model.max_size, model.input_mode, raw=on_gpu)
    n = min(len(db), opt.test_num)
    with tqdm(total=n, desc=f"eval on {db.split}", unit="img", leave=False) as bar:
        loader = test_loader(dataset, workers(opt.test_num_workers), n)
        with autocast(model.device, amp_dtype(opt.amp, model.device)):
            return evaluate_model(model, loader, opt.max_dets, bar.update, 32 if on_gpu else 1, raw=on_gpu)


def finish(run_dir, best_map, validated):
    best = run_dir / "best.pth" if best_map is not None else run_dir / "last.pth"
    if best_map is not None:
        say(f"best mAP {best_map:.4f} (VOC07 11-point) on {opt.val_split}: {best}")
    say("next:")
    if validated:
        say(f"  python train.py eval --load-path={best} --voc-data-dir={opt.voc_data_dir} --val-split={opt.val_split}")
    say(f"  python train.py predict --load-path={best} --image=FILE_OR_FOLDER")


def detector(preset):
    """The model of --load-path, ready to predict with the thresholds of `preset` or those given."""
    checkpoint = read_checkpoint(opt.load_path)
    names = parse_label_names(opt.label_names) if opt.label_names else None
    model = model_from_checkpoint(checkpoint, names, **checkpoint_options(checkpoint))
    model.use_preset(preset)
    if opt.compile:
        model.compile_layers()
    return with_thresholds(model).to(choose_device(opt.device), memory_format=torch.channels_last).eval()


if __name__ == "__main__":
    sys.exit(run_command(COMMANDS, sys.argv[1:], fire))
