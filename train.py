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
import sys
import time
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path

import fire
import torch
from fire.decorators import SetParseFn

from data.dataset import to_device
from data.splits import open_scored, open_split, report, report_both
from data.start import over, stored_proposals, training_data, training_loader
from model.start import (
    architecture_options,
    described_model,
    detector_at,
    model_of_part,
    ready,
    training_model,
)
from model.sync_batch_norm import synchronized
from model.zoo import MODELS, build_model, model_class, model_from_checkpoint, names_to_go_on
from trainer import FasterRCNNTrainer
from utils.check_tool import say_what_is_there, tell_anchors
from utils.checkpoint import read_checkpoint
from utils.cli_tool import beside, choose_device, make_room, return_free_memory, run_command
from utils.config import opt
from utils.dashboard_tool import about, dashboard, server_from, show_runs
from utils.detections import make_room_for_detections, path_part, write_detections
from utils.dist_tool import ALONE, check_start, joined, must_be_alike, refuse_several
from utils.environment_tool import environment
from utils.errors import UserError
from utils.finite_tool import Policy, check_finite, is_finite
from utils.inference_tool import detect_all, evaluate_model, propose_all
from utils.label_names import parse_label_names
from utils.memory_tool import ran_out, smaller
from utils.models_tool import describe, models_table
from utils.pace_tool import Pace
from utils.plan_tool import closing_lines, tell_plan
from utils.precision_tool import amp_dtype, autocast, be_deterministic, not_deterministic
from utils.predict_tool import draw, find_images
from utils.progress_tool import progress_bar
from utils.proposal_tool import read_proposals, recall_table, show_recall, write_proposals
from utils.random_tool import seed_everything
from utils.resume_tool import (
    Position,
    check_data,
    fingerprint,
    folder_of_run,
    n_recorded,
    position_of,
    read_options,
    take_up,
    what_it_has_had,
)
from utils.run_folder import BEST, LAST, RunFolder
from utils.scoring_tool import Scores, score
from utils.show_tool import Show, enter_debugger
from utils.signal_tool import Interrupts
from utils.terminal_tool import detail, say, say_result, tell


@SetParseFn(str)
def train(*args, **kwargs):
    """Train on --train-split, evaluate on --val-split, and keep the best and the last checkpoint in runs/NAME/."""
    with Interrupts() as interrupts, joined() as world:
        with world.first_here():
            state = read_options(opt, "train", args, kwargs)
            opt.check_schedule(goes_on=state is not None)
        learn(state, interrupts, world)


def learn(state, interrupts, world):
    """A run, from its data to its end.

    Args:
        state: the checkpoint that it goes on from, or None.
        world: the processes that make it together. All do the same, each with its share of the pictures; the main one
            alone writes and shows.

    The alternating schedule has four parts (Ren et al. 2015, §3.2): the RPN; Fast R-CNN on its proposals, from the
    first weights; a new RPN on the features of the latter, which stay as they are; the head on those, with the new
    proposals.
    """
    alternating = opt.schedule == "alternating"
    parts = PARTS[opt.schedule]
    at = position_of(state, len(parts)) if state else Position()
    if state and (had := what_it_has_had(at, opt, len(parts))):
        if opt.resume != "auto":
            raise UserError(f"--resume={opt.resume}: {had}")
        return say_result(f"{state.path}: {had}")  # no mistake of whoever starts it again after each restart
    check_start(world, opt.batch_size, opt.resume)
    run_dir = Path(world.of_main(str(folder_of_run(opt, state) if world.is_main else "")))  # the data may take minutes
    device = choose_device(opt.device, world)
    amp = amp_dtype(opt.amp, device)
    seed_everything(opt.seed)
    be_deterministic(opt.deterministic)
    with world.first_here():
        train_db, val_db, checkpoint = training_data(opt, names_to_go_on, checkpoint=state)
        report_both(train_db, val_db, opt.val_split, opt.data_dir)
        if state:
            check_data(at, state, train_db.ids, opt.batch_size)
        rois = stored_proposals(opt, train_db, val_db)
        model = training_model(opt, train_db.label_names, checkpoint, goes_on=state is not None)
    must_be_alike(world, options=opt.words(), pictures=fingerprint(train_db.ids), step=at.total_step)
    if world.is_main:
        tell_anchors(model, train_db, val_db)
    shown = opt.env, opt.visdom, server_from(opt), model.label_names, run_dir, about(opt)
    goes_on = (at.total_step, n_recorded(state)) if state else ()
    with (
        RunFolder(run_dir, state is not None, environment(device), opt.save_every, opt.keep, world.is_main) as run,
        dashboard(*shown, *goes_on) if world.is_main else nullcontext() as vis,
    ):
        for part in range(at.part, len(parts) + 1):
            if part > at.part:
                seed_everything(opt.seed)
                at = Position(part=part, total_step=at.total_step)
                model = model_of_part(opt, train_db.label_names, part, run_dir)
            if part > 2:
                model.extractor.requires_grad_(False)
            model.rpn_only = parts[part - 1] == "rpn"
            if opt.sync_bn and world.size > 1:
                model = synchronized(model, device)
            model = model.to(device, memory_format=torch.channels_last)
            trainer = FasterRCNNTrainer(model, vis, amp=amp, parts=parts[part - 1], world=world)
            if state:
                trainer.load_state(state)
            elif checkpoint is not None and opt.load_path and checkpoint.optimizer is not None:
                trainer.load_optimizer(checkpoint.optimizer, opt.load_path)
            if alternating:
                what = "RPN" if model.rpn_only else f"Fast R-CNN on the proposals of step {part - 1}"
                tell(f"step {part} of 4: {what}")
                files = run_dir / f"step{part - 1}_proposals.npz"
                rois = (None if model.rpn_only else read_proposals([files], train_db.ids)), None
            judged_by = val_db if part == len(parts) else None
            with interrupts.agreed(world):
                best_map = fit(trainer, run, interrupts, at, train_db, judged_by, *rois, state)
            state = checkpoint = None
            if alternating:
                proposals = propose_for(model, train_db, world) if model.rpn_only else None
                if world.is_main:
                    if model.rpn_only:
                        write_proposals(run_dir / f"step{part}_proposals.npz", train_db.ids, proposals)
                    trainer.save(save_path=run_dir / f"step{part}.pth")
                world.wait()  # the others read them
    if world.is_main:
        finish(run_dir, best_map, val_db)


def fit(trainer, run, interrupts, at, train_db, val_db, train_rois=None, val_rois=None, state=None):
    """The training loop, from the `Position` `at` on, where `state` was saved. Returns the best mAP or None."""
    model, device, vis, world = trainer.faster_rcnn, trainer.faster_rcnn.device, trainer.vis, trainer.world
    loader = training_loader(opt, model, train_db, train_rois, world)
    n_steps = opt.epoch * len(loader) if opt.max_iter is None else min(opt.max_iter, opt.epoch * len(loader))
    pace = Pace(n_steps, n_evaluations=0 if val_db is None else (opt.epoch - at.epoch) // opt.eval_every)
    followed = (train_db, train_rois) if val_db is None else (val_db, val_rois)
    show = Show(trainer, pace, len(loader), *followed, at.total_step - at.step, opt.show_proposals)
    info = state.other_info if state else {}
    best_map, begun_at, at.done = info.get("best_map"), at.step, 0
    if state:
        take_up(show, state)
    nonfinite = Policy(run.path, opt.on_nonfinite == "skip", opt.nonfinite_limit, info.get("n_nonfinite", 0), world)
    if world.is_main:
        tell_plan(opt, trainer, train_db, n_steps, len(loader), run.path)
    if opt.compile:
        model.compile_layers()

    def facts():
        check_finite(model, at.step)
        return {**at.info(), "best_map": best_map, "data": fingerprint(train_db.ids), "n_nonfinite": nonfinite.n,
                "show": show.state_dict() | {"events": vis.n_recorded()}}  # fmt: skip

    bar = progress_bar(total=n_steps, initial=at.step, desc="train", unit="step")
    try:
        for epoch in range(at.epoch, opt.epoch):
            trainer.epoch = epoch
            model.train()
            for own, weights, n_images in pace.waiting(islice(loader.epoch(epoch, skip=at.batch), n_steps - at.step)):
                with interrupts.held():
                    seed_everything(opt.seed, at.total_step, world.rank)
                    trainer.set_lr(trainer.learning_rate(epoch, at.step))
                    batches = [to_device(batch, device, model.input_mode) for batch in own]
                    with nonfinite.heeded(at, train_db.ids):
                        trainer.update(batches, weights)
                        pace.count(n_images)
                    bar.update()
                    if at.step % opt.plot_every == 0 or at.step == n_steps:
                        show.look(batches[0], at.step, bar)
                    if any(world.max(run.is_due(at.step))):
                        with nonfinite.heeded(at, train_db.ids, 0):
                            trainer.settle()
                        run.save_last(trainer, **facts())
                if at.step % opt.plot_every == 0 and world.is_main:
                    enter_debugger(opt.debug_file, trainer, batches[0])
                if device.type == "cpu" and at.step % 200 == 0:
                    return_free_memory()
            with nonfinite.heeded(at, train_db.ids, 0):
                trainer.settle()
            evaluation = None
            if val_db is not None and ((epoch + 1) % opt.eval_every == 0 or at.step >= n_steps):
                with pace.aside(evaluation=True), interrupts.free():
                    evaluation = evaluate(model, val_db, val_rois, world)
            with interrupts.held():
                if evaluation is not None:  # in the main process
                    show.result(evaluation, epoch + 1, at.step, opt.val_split)
                    if evaluation.voc.map07 > (-1.0 if best_map is None else best_map):  # never true of nan
                        best_map = evaluation.voc.map07
                        run.save_best(trainer, best_map=best_map, **at.info() | {"epoch": epoch + 1, "batch": 0})
                best_map = world.of_main(best_map)
                if opt.reload_best and epoch + 1 in opt.lr_milestones and best_map is not None and at.step < n_steps:
                    trainer.load(run.path / BEST)
                if at.batch == len(loader):
                    at.epoch, at.batch = epoch + 1, 0
                at.done = int(at.step >= n_steps)
                if at.done:
                    break
                run.save_last(trainer, **facts())
                run.keep_epoch(at.epoch)
    except BaseException as error:
        if at.step > begun_at and not trainer.half_updated and is_finite(model):  # what was learned is kept
            path = run.save_end(trainer, **facts())
            if path:
                again = f"python train.py train --resume={path.parent} goes on from there"
                say(f"stopped after step {at.step:,} of {n_steps:,}; {again}", file=sys.stderr)
        if ran_out(error) or not_deterministic(error):
            raise UserError(not_deterministic(error) or smaller(opt, at.step + 1, world.size)) from None
        raise
    finally:
        bar.close()
    if run.save_end(trainer, **facts()) != run.path / LAST:
        raise UserError(f"{run.path}: the run is done, but could not be written there")
    run.keep_epoch(at.epoch)
    return best_map


@SetParseFn(str)
def check(*args, **kwargs):
    """Tell what --train-split and --val-split hold, and name each thing that training would drop or misread."""
    state = read_options(opt, "check", args, kwargs)
    train_db, val_db, checkpoint = training_data(opt, names_to_go_on, strict=False, checkpoint=state)
    with nullcontext() if checkpoint else torch.device("meta"):  # without weights: only the anchors are asked for
        model = described_model(opt, train_db.label_names, checkpoint) if train_db.label_names else None
    say_what_is_there(model, train_db, val_db, opt.val_split)


@SetParseFn(str)
def evaluate_command(*args, **kwargs):
    """Score the checkpoint --load-path, or --detections that someone made, on --val-split; write it as JSON and CSV."""
    with joined() as world:
        evaluate_file(args, kwargs, world)


def evaluate_file(args, kwargs, world):
    with world.first_here():
        read_options(opt, "eval", args, kwargs)
    if bool(opt.load_path) == bool(opt.detections):
        raise UserError("give --load-path, a checkpoint such as runs/NAME/best.pth, or --detections; one of the two")
    of = opt.detections or os.path.splitext(opt.load_path)[0]
    path = Path(opt.out or beside(of, f"_eval_{path_part(opt.val_split)}.json"))
    make_room(*Scores.files(path))
    if opt.detections:
        refuse_several("eval --detections")
        names = parse_label_names(opt.label_names) if opt.label_names else None
        db, found = open_scored(opt.data, opt.data_dir, opt.val_split, opt.detections, names, opt.test_num)
        about, names = {"detections": opt.detections}, db.label_names
    else:
        with world.first_here():
            model = detector_at(opt, "evaluate", bool(opt.proposals), world)
            names = None if model.rpn_only else model.label_names  # to an RPN all are objects
            db = open_split(opt.data, opt.data_dir, opt.val_split, names, use_difficult=True)
            report(db)
            if opt.save_detections:
                make_room_for_detections(opt.save_detections, model.rpn_only, db.names)
            rois = read_proposals(opt.proposals, db.ids) if opt.proposals else None
        n = min(len(db), opt.test_num)
        found = over(opt, model, db, n, "eval on", partial(detect_all, rois=rois), world=world)
        if not world.is_main:
            return
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
    read_options(opt, "predict", args, kwargs)
    with Interrupts():
        paths = find_images(opt.image)
        draw(opt, detector_at(opt, "visualize"), paths, opt.out or "runs/predict", opt.every)


@SetParseFn(str)
def propose(*args, **kwargs):
    """Write what the RPN of --load-path proposes for the pictures of --val-split, and print how many boxes it finds."""
    read_options(opt, "propose", args, kwargs)
    path = Path(opt.out or beside(os.path.splitext(opt.load_path)[0], f"_proposals_{path_part(opt.val_split)}.npz"))
    make_room(path)
    model = detector_at(opt, "evaluate")
    db = open_split(opt.data, opt.data_dir, opt.val_split)
    report(db)
    proposals = propose_for(model, db)
    write_proposals(path, db.ids, proposals)
    say(show_recall(recall_table([bbox for bbox, _ in proposals], [db.get_annotation(i)[0] for i in range(len(db))])))
    say(f"{sum(len(bbox) for bbox, _ in proposals):,} proposals for {len(db):,} images written to {path}")


@SetParseFn(str)
def models(*args, **kwargs):
    """List the models with their parameters, stride, arithmetic and time on this machine (--model: only that one)."""
    read_options(opt, "models", args, kwargs)
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
    read_options(opt, "dashboard", args, kwargs)
    if opt.visdom == "off":
        raise UserError("--visdom=off: this command shows runs; leave it out, or give auto, keep or on")
    with Interrupts():
        show_runs(opt.run, opt.env if "env" in opt.given else None, opt.visdom, server_from(opt))


@SetParseFn(str)
def report_command(*args, **kwargs):
    """Write one file, --out in .html or .md, of what the run --run recorded; several, with commas, are compared."""
    from utils.report_tool import write_report  # with matplotlib, a second that no other command shall wait

    read_options(opt, "report", args, kwargs)
    say_result(f"written to {write_report(opt.run, opt.out)}")


COMMANDS = {"train": train, "eval": evaluate_command, "predict": predict, "check": check, "propose": propose,
            "models": models, "dashboard": dashboard_command, "report": report_command}  # fmt: skip
BEGIN = time.monotonic()  # of the program
PARTS = {"joint": ["both"], "rpn": ["rpn"], "fast_rcnn": ["head"],
         "alternating": ["rpn", "head", "rpn", "head"]}  # fmt: skip


def propose_for(model, db, world=ALONE):
    """(bbox, score) of each image of `db`: the best 2,000 after suppression, of all that the RPN makes."""
    counts = opt.rpn_n_test_pre_nms or sys.maxsize, opt.rpn_n_test_post_nms or 2000
    return over(opt, model, db, len(db), "propose for", propose_all, *counts, world=world)


def evaluate(model, db, rois=None, world=ALONE):
    n, function = min(len(db), opt.test_num), partial(evaluate_model, rois=rois)
    if evaluation := over(opt, model, db, n, "eval on", function, world=world):
        detail(evaluation.voc.table())
    return evaluation


def finish(run_dir, best_map, val_db):
    best = run_dir / (LAST if best_map is None else BEST)
    if best_map is not None:
        say_result(f"best mAP {best_map:.4f} (VOC07 11-point) on {opt.val_split}: {best}")
    if opt.draw and val_db is not None:
        model = ready(opt, model_from_checkpoint(read_checkpoint(best)), "visualize")
        draw(opt, model, [Path(val_db.path(i)) for i in range(min(opt.draw, len(val_db)))], run_dir / "detections")
    for line in closing_lines(opt, run_dir, best, val_db is not None, time.monotonic() - BEGIN):
        tell(line)


if __name__ == "__main__":
    heed_interrupts()
    sys.exit(run_command(COMMANDS, sys.argv[1:], fire))
