"""Train, evaluate and use Faster R-CNN.

    python train.py train --voc-data-dir=toy_voc --model=tiny --min-size=160 --use-adam --batch-size=2
    python train.py eval --load-path=runs/NAME/best.pth --voc-data-dir=toy_voc
    python train.py predict --load-path=runs/NAME/best.pth --image=toy_voc/JPEGImages
    python train.py propose --load-path=runs/NAME/best.pth --voc-data-dir=toy_voc --val-split=train
    python train.py report --run=runs/NAME

`python train.py COMMAND --help` lists the options. A mistake in an option or a file is one line and exit code 2.
"""

from utils.startup import heed_interrupts, load_torch

load_torch(is_program=__name__ == "__main__")  # before all that imports it

import os
import shlex
import sys
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import fire
import torch
from fire.decorators import SetParseFn

from data.dataset import set_epoch, to_device
from data.splits import open_scored, open_split, report, report_both
from data.start import over, stored_proposals, training_data, training_loader
from model.start import architecture_options, described_model, detector, new_model, training_model, with_threshold
from model.zoo import MODELS, architecture, build_model, model_class, model_from_checkpoint, names_to_go_on
from trainer import FasterRCNNTrainer
from utils.check_tool import anchor_line, best_anchor_ious, notices, say_what_is_there
from utils.checkpoint import read_checkpoint, state_to_go_on_from, stored_options
from utils.cli_tool import (
    beside,
    check_finite,
    choose_device,
    free_run_dir,
    is_finite,
    leave_with_the_state_saved,
    make_room,
    make_run_dir,
    return_free_memory,
    run_command,
    seed_everything,
    set_aside,
)
from utils.command_options import options_of, refuse_unread, refuse_without_needed
from utils.config import opt
from utils.dashboard_tool import about, dashboard, from_environment, server_from, show_runs
from utils.detections import make_room_for_detections, path_part, write_detections
from utils.errors import UserError
from utils.inference_tool import detect_all, evaluate_model, propose_all
from utils.label_names import parse_label_names
from utils.models_tool import describe, models_table
from utils.pace_tool import Pace
from utils.plan_tool import closing_lines, stopped_line, tell_plan
from utils.precision_tool import amp_dtype, autocast
from utils.predict_tool import find_images, predict_files, summary
from utils.progress_tool import progress_bar
from utils.proposal_tool import read_proposals, recall_table, show_recall, write_proposals
from utils.resume_tool import check_position, file_to_resume, take_options
from utils.scoring_tool import score
from utils.show_tool import Show, enter_debugger
from utils.terminal_tool import QUIET, USUAL, VERBOSE, detail, say, say_result, set_verbosity, tell, warn


@SetParseFn(str)
def train(*args, **kwargs):
    """Train on --train-split, evaluate on --val-split, and keep the best and the last checkpoint in runs/NAME/."""
    state = read_options("train", args, kwargs)
    opt.check_schedule()
    begin_anew = opt.overwrite or opt.resume == "auto"  # which found no whole epoch
    if opt.name and not state and opt.schedule != "alternating":  # which goes on in a folder that has checkpoints
        free_run_dir(opt.name, begin_anew)  # before the data are read, which may take minutes
    leave_with_the_state_saved()
    device = choose_device(opt.device)
    amp = amp_dtype(opt.amp, device)
    seed_everything(opt.seed)
    train_db, val_db, checkpoint = training_data(opt, names_to_go_on, checkpoint=state)
    report_both(train_db, val_db, opt.val_split, opt.data_dir)
    if opt.schedule == "alternating":
        return alternate(train_db, val_db, device, amp)
    train_rois, val_rois = stored_proposals(opt, train_db, val_db)
    model = training_model(opt, train_db.label_names, checkpoint).to(device, memory_format=torch.channels_last)
    model.rpn_only = opt.schedule == "rpn"
    best = best_anchor_ious(model, train_db)
    tell(anchor_line(best))
    for line in notices(train_db, val_db, best):
        warn(line)
    at = state.other_info if state else {}
    if state:
        check_position(opt, state, len(training_loader(opt, model, train_db, train_rois)))
        run_dir = Path(opt.resume).parent
        set_aside([*run_dir.glob("interrupted.pth")])
    else:
        name = opt.name or f"{architecture(model)['model']}-{time.strftime('%m%d-%H%M%S')}"
        run_dir = make_run_dir(name, begin_anew)
    names = model.label_names
    with dashboard(opt.env, opt.visdom, server_from(opt), names, run_dir, about(opt), at.get("total_step")) as vis:
        trainer = FasterRCNNTrainer(model, vis, amp=amp, parts=PARTS[opt.schedule])
        if opt.load_path and checkpoint.optimizer is not None:
            trainer.load_optimizer(checkpoint.optimizer, opt.load_path)
        if state:
            trainer.load_random_state(state.rng, state.path)
        best_map = fit(trainer, train_db, val_db, run_dir, train_rois, val_rois, at.get("epoch", 0), at.get("best_map"))
    finish(run_dir, best_map, val_db)


def fit(trainer, train_db, val_db, run_dir, train_rois=None, val_rois=None, first_epoch=0, best_map=None, **facts):
    """The training loop, from epoch `first_epoch` on. Returns the best mAP or None. `facts` go into the checkpoints."""
    model, device = trainer.faster_rcnn, trainer.faster_rcnn.device
    loader = training_loader(opt, model, train_db, train_rois)
    n_steps = opt.epoch * len(loader) if opt.max_iter is None else min(opt.max_iter, opt.epoch * len(loader))
    step, epoch = first_epoch * len(loader), first_epoch
    pace = Pace(n_steps, n_evaluations=0 if val_db is None else (opt.epoch - first_epoch) // opt.eval_every)
    before = (facts.get("alternating", 1) - 1) * n_steps  # of the schedule's earlier parts
    followed = (train_db, train_rois) if val_db is None else (val_db, val_rois)
    show = Show(trainer, pace, len(loader), *followed, before, opt.show_proposals, best_map)
    tell_plan(opt, trainer, train_db, n_steps, len(loader), run_dir)
    if opt.compile:
        model.compile_layers()
    bar = progress_bar(total=n_steps, initial=step, desc="train", unit="step")
    try:
        for epoch in range(first_epoch, opt.epoch):
            set_epoch(loader, epoch)
            trainer.epoch = epoch
            model.train()
            for batch in pace.waiting(loader):
                if step >= n_steps:
                    break
                trainer.set_lr(trainer.learning_rate(epoch, step))
                batch = to_device(batch, device, model.input_mode)
                trainer.train_step(*batch)
                step += 1
                bar.update()
                if step % opt.plot_every == 0 or step == n_steps:
                    enter_debugger(opt.debug_file, trainer, batch)
                    show.look(batch, step, bar)
                if device.type == "cpu" and step % 200 == 0:
                    return_free_memory()
            check_finite(model, step)
            progress = {"epoch": epoch + 1, "step": step, "total_step": before + step, **facts}
            if val_db is not None and ((epoch + 1) % opt.eval_every == 0 or step >= n_steps):
                with pace.aside(evaluation=True):
                    evaluation = evaluate(model, val_db, val_rois)
                show.result(evaluation, epoch + 1, step, opt.val_split)
                if evaluation.voc.map07 > (-1.0 if best_map is None else best_map):  # never true of nan
                    best_map = evaluation.voc.map07
                    trainer.save(save_path=run_dir / "best.pth", best_map=best_map, **progress)
            trainer.save(save_optimizer=True, save_path=run_dir / "last.pth", best_map=best_map, **progress)
            if step >= n_steps:
                break
            if opt.reload_best and epoch + 1 in opt.lr_milestones and best_map is not None:
                trainer.load(run_dir / "best.pth")
    except BaseException:
        if step > first_epoch * len(loader) and is_finite(model):  # whatever stopped the run, what it learned is kept
            progress = {"epoch": epoch, "step": step, **facts}
            path = trainer.save(save_optimizer=True, save_path=run_dir / "interrupted.pth", **progress)
            say(f"stopped in step {step:,} of {n_steps:,}; {stopped_line(path, facts)}", file=sys.stderr)
        raise
    finally:
        bar.close()
    return best_map


def alternate(train_db, val_db, device, amp):
    """The paper's four steps (Ren et al. 2015, §3.2): the RPN; Fast R-CNN on its proposals, from the first weights; a
    new RPN on the features of the latter, which stay as they are; the head on those, with the new proposals.

    A step that is done is not done again; one that was interrupted goes on behind its last whole epoch.
    """
    name = opt.name or f"{opt.model}-alternating"
    state = state_to_go_on_from(Path("runs", name), opt.that_decide())
    run_dir = Path("runs", name) if state is not None else make_run_dir(name, opt.overwrite)
    done = state.other_info["alternating"] if state is not None else 0  # the last step that has a whole epoch
    facts = {"options": opt.that_decide()}
    go_on_from = state.other_info.get("total_step", 0) if state is not None else None  # 0: it begins again
    names = train_db.label_names
    with dashboard(opt.env, opt.visdom, server_from(opt), names, run_dir, about(opt), go_on_from) as vis:
        for k, parts in enumerate(("rpn", "head", "rpn", "head"), start=1):
            if k < done:
                continue
            tell(f"step {k} of 4: {'RPN' if parts == 'rpn' else 'Fast R-CNN on the proposals of step ' + str(k - 1)}")
            seed_everything(opt.seed)
            if k == done:
                model, epoch = model_from_checkpoint(state), state.other_info["epoch"]
            elif k <= 2:
                model, epoch = new_model(opt, train_db.label_names), 0
            else:
                model, epoch = model_from_checkpoint(read_checkpoint(run_dir / f"step{k - 1}.pth")), 0
                if k == 3:
                    model.rpn.reset_parameters()
            if k > 2:
                model.extractor.requires_grad_(False)
            model.rpn_only = parts == "rpn"
            model = with_threshold(opt, model).to(device, memory_format=torch.channels_last)
            trainer = FasterRCNNTrainer(model, vis, amp=amp, parts=parts)
            best_map, rois = None, None
            if k == done:
                trainer.load_optimizer(state.optimizer, state.path)
                best_map = state.other_info["best_map"]
            if parts == "head":
                rois = read_proposals([run_dir / f"step{k - 1}_proposals.npz"], train_db.ids)
            if epoch < opt.epoch:
                best_map = fit(trainer, train_db, val_db if k == 4 else None, run_dir, rois,
                               first_epoch=epoch, best_map=best_map, alternating=k, **facts)  # fmt: skip
            if parts == "rpn":
                write_proposals(run_dir / f"step{k}_proposals.npz", train_db.ids, propose_for(model, train_db))
            trainer.save(save_path=run_dir / f"step{k}.pth")
    finish(run_dir, best_map, val_db)


@SetParseFn(str)
def check(*args, **kwargs):
    """Tell what --train-split and --val-split hold, and name each thing that training would drop or misread."""
    state = read_options("check", args, kwargs)
    train_db, val_db, checkpoint = training_data(opt, names_to_go_on, strict=False, checkpoint=state)
    with nullcontext() if checkpoint else torch.device("meta"):  # without weights: only the anchors are asked for
        model = described_model(opt, train_db.label_names, checkpoint) if train_db.label_names else None
    say_what_is_there(model, train_db, val_db, opt.val_split)


@SetParseFn(str)
def evaluate_command(*args, **kwargs):
    """Score the checkpoint --load-path, or --detections that someone made, on --val-split; write it as JSON and CSV."""
    read_options("eval", args, kwargs)
    if bool(opt.load_path) == bool(opt.detections):
        raise UserError("give --load-path, a checkpoint such as runs/NAME/best.pth, or --detections; one of the two")
    of = opt.detections or os.path.splitext(opt.load_path)[0]
    path = Path(opt.out or beside(of, f"_eval_{path_part(opt.val_split)}.json"))
    make_room(path)
    if opt.detections:
        names = parse_label_names(opt.label_names) if opt.label_names else None
        db, found = open_scored(opt.data, opt.data_dir, opt.val_split, opt.detections, names, opt.test_num)
        about, names = {"detections": opt.detections}, db.label_names
    else:
        model = detector_at("evaluate", with_rois=bool(opt.proposals))
        names = None if model.rpn_only else model.label_names  # to an RPN all are objects
        db = open_split(opt.data, opt.data_dir, opt.val_split, names, use_difficult=True)
        report(db)
        if opt.save_detections:
            make_room_for_detections(opt.save_detections, model.rpn_only, db.names)
        rois = read_proposals(opt.proposals, db.ids) if opt.proposals else None
        found = over(opt, model, db, min(len(db), opt.test_num), "eval on", partial(detect_all, rois=rois))
        about = {"checkpoint": opt.load_path, "score_thresh": model.score_thresh, "nms_thresh": model.nms_thresh}
        names = model.detected_names
    about |= {"data_dir": opt.data_dir, "split": opt.val_split, "n_images": len(found)}
    scores = score(found, db, names, iou_thresh=opt.iou_thresh, plus_one=opt.plus_one)
    files = scores.write(path, about)  # first: nobody may read on to the end of what is printed
    if opt.save_detections:
        write_detections(opt.save_detections, found, db.names, opt.val_split)
    say(scores.text())
    say(f"written to {', '.join(map(str, files))}")


@SetParseFn(str)
def predict(*args, **kwargs):
    """Write what the checkpoint --load-path sees in --image (a picture, video, folder or glob): drawn, JSON or VOC."""
    read_options("predict", args, kwargs)
    leave_with_the_state_saved()
    paths = find_images(opt.image)
    draw(detector_at("visualize"), paths, opt.out or "runs/predict", opt.every)


@SetParseFn(str)
def propose(*args, **kwargs):
    """Write what the RPN of --load-path proposes for the pictures of --val-split, and print how many boxes it finds."""
    read_options("propose", args, kwargs)
    path = Path(opt.out or beside(os.path.splitext(opt.load_path)[0], f"_proposals_{path_part(opt.val_split)}.npz"))
    make_room(path)
    model = detector_at("evaluate")
    db = open_split(opt.data, opt.data_dir, opt.val_split)
    report(db)
    proposals = propose_for(model, db)
    write_proposals(path, db.ids, proposals)
    say(show_recall(recall_table([bbox for bbox, _ in proposals], [db.get_annotation(i)[0] for i in range(len(db))])))
    say(f"{sum(len(bbox) for bbox, _ in proposals):,} proposals for {len(db):,} images written to {path}")


@SetParseFn(str)
def models(*args, **kwargs):
    """List the models with their parameters, stride, arithmetic and time on this machine (--model: only that one)."""
    read_options("models", args, kwargs)
    names = [opt.model] if "model" in opt.given else list(MODELS)
    for name in names:
        model_class(name)  # an unknown one is refused before any work
    device = choose_device(opt.device)
    with autocast(device, amp_dtype(opt.amp, device)):
        options = architecture_options(opt, only_given=True)
        rows = [describe(name, partial(build_model, name, 20, **options), (600, 800), device)
                for name in progress_bar(names, "models", unit="model", leave=False)]  # fmt: skip
    say(models_table(rows, (600, 800)))


@SetParseFn(str)
def dashboard_command(*args, **kwargs):
    """Show a run, --run=runs/NAME, live or months later, on a visdom server; of several, a,b, the curves together."""
    read_options("dashboard", args, kwargs)
    leave_with_the_state_saved()
    if opt.visdom == "off":
        raise UserError("--visdom=off: this command shows runs; leave it out, or give auto, keep or on")
    show_runs(opt.run, opt.env if "env" in opt.given else None, opt.visdom, server_from(opt))


@SetParseFn(str)
def report_command(*args, **kwargs):
    """Write one file, --out in .html or .md, of what the run --run recorded; several, with commas, are compared."""
    from utils.report_tool import write_report  # with matplotlib, a second that no other command shall wait

    read_options("report", args, kwargs)
    say_result(f"written to {write_report(opt.run, opt.out)}")


COMMANDS = {"train": train, "eval": evaluate_command, "predict": predict, "check": check, "propose": propose,
            "models": models, "dashboard": dashboard_command, "report": report_command}  # fmt: skip
BEGIN = time.monotonic()  # of the program
PARTS = {"joint": "both", "rpn": "rpn", "fast_rcnn": "head"}  # what a schedule trains


# What the commands are made of, in the order of use.


def read_options(command, args, kwargs):
    """The command line into `opt`; returns the checkpoint that --resume goes on from, or None."""
    if args:
        raise UserError(f"{args[0]}: an option is written --name=value; --help lists them")
    refuse_unread(command, kwargs)
    path = file_to_resume(*map(kwargs.get, ("resume", "name", "schedule")))
    if path and kwargs.get("config"):
        raise UserError("--config and --resume both say which run's options are meant; give one of them")
    state = read_checkpoint(path) if path else None
    if state:
        take_options(opt, state, options_of(command).names, kwargs.get("model"))
    elif config := kwargs.get("config"):
        opt.begin_with(stored_options(config), options_of(command).names, kwargs.get("model"))
    opt.parse(from_environment(kwargs) | kwargs)
    if state:
        opt.resume = opt.load_path = state.path
        opt.finetune, opt.given = None, opt.given | {"load_path"}
    refuse_without_needed(command, opt)
    set_verbosity(QUIET if opt.quiet else VERBOSE if opt.verbose else USUAL)
    detail(f"options: {shlex.join(opt.words())}")
    return state


def propose_for(model, db):
    """(bbox, score) of each image of `db`: the best 2,000 after suppression, of all that the RPN makes."""
    counts = opt.rpn_n_test_pre_nms or sys.maxsize, opt.rpn_n_test_post_nms or 2000
    return over(opt, model, db, len(db), "propose for", propose_all, *counts)


def evaluate(model, db, rois=None):
    evaluation = over(opt, model, db, min(len(db), opt.test_num), "eval on", partial(evaluate_model, rois=rois))
    detail(evaluation.voc.table())
    return evaluation


def finish(run_dir, best_map, val_db):
    best = run_dir / "best.pth" if best_map is not None else run_dir / "last.pth"
    if best_map is not None:
        say_result(f"best mAP {best_map:.4f} (VOC07 11-point) on {opt.val_split}: {best}")
    if opt.draw and val_db is not None:
        model = ready(model_from_checkpoint(read_checkpoint(best)), "visualize")
        draw(model, [Path(val_db.path(i)) for i in range(min(opt.draw, len(val_db)))], run_dir / "detections")
    for line in closing_lines(opt, run_dir, best, val_db is not None, time.monotonic() - BEGIN):
        tell(line)


def draw(model, paths, out_dir, every=1):
    with autocast(model.device, amp_dtype(opt.amp, model.device)):
        n_together = 8 if model.device.type == "cuda" else 1
        records, problems = predict_files(model, paths, out_dir, n_together, opt.save, every, opt.overwrite)
    for line in problems:
        warn(line)
    say_result(summary(records, opt.save, out_dir))


def detector_at(preset, with_rois=False):
    """The model of --load-path, ready to predict; `with_rois`: on stored proposals."""
    checkpoint = read_checkpoint(opt.load_path)
    if checkpoint.config.get("schedule") == "fast_rcnn" and not with_rois:
        warn(f"{checkpoint.path} learned on stored proposals, and its RPN nothing")
    return ready(detector(opt, checkpoint), preset)


def ready(model, preset):
    """`model` with the thresholds of `preset` or those given, where it shall run."""
    model.use_preset(preset)
    if opt.compile:
        model.compile_layers()
    model = with_threshold(opt, model)
    return model.to(choose_device(opt.device), memory_format=torch.channels_last).eval()


if __name__ == "__main__":
    heed_interrupts()
    sys.exit(run_command(COMMANDS, sys.argv[1:], fire))
