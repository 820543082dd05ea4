"""What the dashboard is told while a run goes on."""

import html
import os
import time

import numpy as np
import torch

from utils.analysis_tool import errors_by_image, precision_recall
from utils.bbox_tools import resize_bbox
from utils.draw_tool import draw_bboxes, draw_many, draw_pair
from utils.errors import UserError
from utils.image_tool import inverse_normalize, resize, resized_size
from utils.pace_tool import Pace, duration, memory_gb
from utils.precision_tool import autocast
from utils.terminal_tool import say_result, warn

N_FOLLOWED = 4  # pictures in which one sees the detector learn
N_WORST = 6  # pictures of the last evaluation with the most errors
MAX_CURVES = 20  # classes in one window of curves: those of the least AP
SIDE = 480  # pixels: the longest side of a followed picture, and the least that others are enlarged to
LETTERS = 18  # pixels, in a followed picture: on the page, whose windows show a pair of them smaller, 11 or 12
N_PROPOSALS = 100  # the best, where they are drawn


class Show:
    """What a run's dashboard is told: at each look, and after each evaluation.

    Args:
        trainer: a `FasterRCNNTrainer`; its `vis` is told.
        pace: what the loop's batches go through.
        steps_per_epoch: to count epochs between two of them.
        db: a `BboxDataset` of which some pictures are followed; None for none.
        rois: of each of its pictures (P, 4) stored proposals, in place of the RPN's.
        before: steps of the run before this loop's step 0: those of the schedule's earlier parts.
        proposals: draw them too, and the anchors, at each look.
    """

    def __init__(self, trainer, pace: Pace, steps_per_epoch, db=None, rois=None, before=0, proposals=False):
        self.trainer, self.pace, self.before, self.draws_proposals = trainer, pace, before, proposals
        self._steps_per_epoch = steps_per_epoch
        self._db, self._rois = db, rois
        n = 0 if db is None else min(N_FOLLOWED, len(db))
        self._followed = np.linspace(0, len(db) - 1, n).round().astype(int).tolist() if n else []
        self._followed_step = None
        self._follow_at = 0  # the next step at which: after each evaluation, and whenever the steps have doubled
        self._best = None  # mAP and epoch
        self._images_per_second = float("nan")  # at the last look

    def state_dict(self):
        """What the next look needs of the last ones, as plain values."""
        own = {name: getattr(self, f"_{name}") for name in ("followed_step", "follow_at", "images_per_second")}
        return {**own, "best": self._best and list(self._best), "pace": self.pace.state_dict()}

    def load_state_dict(self, state):
        """Take up what `state_dict` gave. Raises KeyError, TypeError or ValueError for something else."""
        step, best = state["followed_step"], state["best"]
        self._followed_step, self._follow_at = step if step is None else int(step), int(state["follow_at"])
        self._images_per_second = float(state["images_per_second"])
        self._best = best and (float(best[0]), int(best[1]))
        self.pace.load_state_dict(state["pace"])

    def look(self, batch, step: int, bar):
        """The means since the last look go to the bar and the dashboard, with what the model sees in one image."""
        trainer, vis, model = self.trainer, self.trainer.vis, self.trainer.faster_rcnn
        losses, pace = trainer.get_meter_data(), self.pace.take()
        if not trainer.world.is_main:  # which shows what all of them have counted
            return trainer.reset_meters()
        bar.set_postfix(loss=f"{losses['total_loss']:.3f}")
        with self.pace.aside():
            x = self.before + step
            vis.at_step(x)
            vis.plot_many(losses, x)
            vis.plot("learning_rate", trainer.learning_rate(trainer.epoch, step - 1), x)
            vis.plot("images_per_second", pace["images_per_second"], x)
            vis.plot_lines("step_time", {"step": pace["step"], "of it waiting for data": pace["waiting"]}, x)
            vis.plot_lines("memory", memory_gb(model.device), x)
            vis.plot_lines("rpn_recall", {f"IoU ≥ {iou}": part for iou, part in trainer.rpn_recall.items()}, x)
            vis.plot_lines("sample_counts", sample_counts(trainer, pace["n_images"]), x)
            vis.text(rpn_table(trainer.rpn_cm.value()), win="rpn_cm")
            vis.heatmap("roi_cm", trainer.roi_cm.value(), ["background", *(model.label_names or ())])
            self._images_per_second = pace["images_per_second"]
            vis.text(self._progress(step), win="progress")
            self._show_batch(batch)
            if step >= self._follow_at:
                self._follow(step)
        trainer.reset_meters()

    def result(self, evaluation, epoch: int, step: int, split: str):
        """The mAP after `epoch` epochs goes to the terminal and the dashboard, with where the errors are."""
        vis, voc = self.trainer.vis, evaluation.voc
        vis.at_step(self.before + step)
        vis.plot("test_map", voc.map07, x=epoch)
        line = f"epoch {epoch}: mAP {voc.map07:.4f} (VOC07 11-point), {voc.map:.4f} (area)"
        say_result(f"{line} on {split}")
        vis.log(f"{line}, lr {self.trainer.learning_rate(epoch - 1, step):g}")
        if self._best is None or voc.map07 > self._best[0]:
            self._best = voc.map07, epoch
        with self.pace.aside():
            vis.text(self._progress(step), win="progress")
            vis.bars("class_ap", voc.label_names, voc.ap07)
            curves = precision_recall(*evaluation.columns)
            known = [c for c in np.argsort(voc.ap, kind="stable").tolist() if curves.recall[c] is not None][:MAX_CURVES]
            points = curves.to_json(100)["curves"]
            recall, precision = ([points[c][axis] for c in known] for axis in ("recall", "precision"))
            vis.curves("pr_curves", [f"{voc.label_names[c]} {voc.ap[c]:.2f}" for c in known], recall, precision)
            self._show_worst(evaluation, curves.overall.score_thresh, epoch)
            self._follow(step)

    def _progress(self, step):
        """HTML: how far it is, how fast, and when it will be done."""
        epoch, n_epochs = step / self._steps_per_epoch, self.pace.n_steps / self._steps_per_epoch
        left = self.pace.seconds_left(step) or 0.0
        rows = {
            "step": f"{step:,} of {self.pace.n_steps:,} ({step / self.pace.n_steps:.0%})",
            "epoch": f"{epoch:.1f} of {n_epochs:.1f}",
            "images / s": f"{self._images_per_second:.3g}",
            "left": duration(left),
            "done about" if step < self.pace.n_steps else "done": time.strftime(
                "%a %H:%M", time.localtime(time.time() + left)
            ),
        }
        if self._best is not None:
            rows["best mAP"] = f"{self._best[0]:.4f} after epoch {self._best[1]}"
        return table(rows.items())

    def _show_batch(self, batch):
        """The first image of the batch, with its true boxes, and with those that are found."""
        trainer, vis, model = self.trainer, self.trainer.vis, self.trainer.faster_rcnn
        height, width = batch.sizes[0].tolist()
        prepared = batch.imgs[:1, :, :height, :width]
        img = inverse_normalize(prepared[0], model.input_mode).round().byte()  # once, where the picture is
        truth = batch.bboxes[0], batch.labels[0], None, model.label_names
        vis.img("gt_img", chw(draw_bboxes(img, *truth, enlarge_to=SIDE)))
        with autocast(model.device, trainer.amp):
            rois = None if batch.rois is None else [batch.rois[0]]
            detections = model.predict(prepared, [(height, width)], visualize=True, rois=rois)
            proposals = model.propose(prepared, [(height, width)]) if self.draws_proposals and rois is None else []
        found = [column[0] for column in detections]
        vis.img("pred_img", chw(draw_bboxes(img, *found, model.detected_names, enlarge_to=SIDE)))
        for bbox, score in proposals:
            drawn = draw_many(img, bbox[:N_PROPOSALS], score=score[:N_PROPOSALS], truth=truth[0], enlarge_to=SIDE,
                              caption=f"the {min(N_PROPOSALS, len(bbox))} best of {len(bbox)} proposals")  # fmt: skip
            vis.img("proposals", chw(drawn))
            self._show_anchors(img, truth[0])

    def _show_anchors(self, img, bbox):
        """Which anchors the RPN learns from in this image: positive, negative, and neither."""
        rpn, size = self.trainer.faster_rcnn.rpn, tuple(img.shape[1:])
        anchor = rpn.anchors(rpn.own_sizes(size), [size]).to(bbox.device)
        _, target = self.trainer.anchor_target_creator(bbox, anchor, size, torch.Generator(bbox.device).manual_seed(0))
        n = (target == 1).sum(), (target == 0).sum()
        caption = f"of {len(anchor):,} anchors {n[0]} positive, {n[1]} negative"
        drawn = draw_many(img, anchor, target=target, truth=bbox, caption=caption, enlarge_to=SIDE)
        self.trainer.vis.img("anchors", chw(drawn))

    def _follow(self, step):
        """The followed pictures as they are, beside what the model sees in them now."""
        if step == self._followed_step:  # a look and an evaluation after the same step
            return
        model = self.trainer.faster_rcnn
        self._followed_step, self._follow_at = step, 2 * step
        for k, (i, example) in enumerate(self._examples(self._followed), 1):
            if example is None:
                continue
            img, bbox, label, _ = example
            rois = None if self._rois is None else [self._rois[i]]
            with autocast(model.device, self.trainer.amp):
                found = model.predict([img], visualize=True, rois=rois)
            truth = bbox, label * 0 if model.rpn_only else label  # to an RPN all are objects
            picture = pair(img, truth, [column[0] for column in found], model.detected_names)
            self.trainer.vis.follow(f"followed_{k}", picture, f"step {self.before + step:,}")

    def _examples(self, indices):
        """(index, what the set has there), None where the picture can't be read: the run goes on without showing it."""
        for i in indices:
            try:
                yield i, self._db.get_example(i)
            except UserError as error:
                warn(f"{error}; the dashboard does not show it")
                yield i, None

    def _show_worst(self, evaluation, score_thresh, epoch):
        """The pictures with the most errors, at the threshold where F1 is best."""
        found = evaluation.found
        score_thresh = 0.0 if np.isnan(score_thresh) else score_thresh
        missed, false = errors_by_image(*evaluation.columns, score_thresh=score_thresh)
        worst = np.argsort(-(missed + false), kind="stable")[:N_WORST].tolist()
        for k, (i, example) in enumerate(self._examples(worst), 1):
            if example is None:
                continue
            img, *_ = example
            truth = [column[i] for column in evaluation.truth[:2]]
            kept = found.scores[i] > score_thresh
            shown = [column[i][kept] for column in found.columns]
            caption = f"epoch {epoch}: {missed[i]} missed, {false[i]} false"
            picture = pair(img, truth, shown, evaluation.voc.label_names)
            self.trainer.vis.follow(f"worst_{k}", picture, caption)


def pair(img, truth, found, label_names):
    """(3, H, W) uint8: a picture, of `SIDE` px, with its true boxes, and with those that are found."""
    img = torch.as_tensor(img, dtype=torch.float32)
    size = resized_size(img.shape[1:], SIDE, SIDE)
    truth, found = ((resize_bbox(bbox, img.shape[1:], size), *columns) for bbox, *columns in (truth, found))
    return chw(draw_pair(resize(img, size), truth, found, label_names, letters=LETTERS))


def chw(drawn):
    """(H, W, 3) → (3, H, W)."""
    return drawn.transpose(2, 0, 1)


def sample_counts(trainer, n_images: int) -> dict[str, float]:
    """How many anchors and RoIs an image the two losses were of, by what they are."""
    rpn, roi = trainer.rpn_cm.value().sum(axis=1), trainer.roi_cm.value().sum(axis=1)
    counts = {"anchors: background": rpn[0], "anchors: foreground": rpn[1],
              "RoIs: background": roi[0], "RoIs: foreground": roi[1:].sum()}  # fmt: skip
    return {name: float(count) / max(n_images, 1) for name, count in counts.items()}


def rpn_table(counts) -> str:
    """HTML of the RPN's confusion counts (2, 2): row = target, column = prediction."""
    names = ("background", "foreground")
    rows = ((name, *(f"{int(n):,}" for n in row)) for name, row in zip(names, counts, strict=True))
    note = "<div style='padding:3px 6px;font-size:12px'>rows: target, columns: prediction</div>"
    return table([("", *names), *rows]) + note


def table(rows) -> str:
    """HTML of rows of texts; the first of each, its name, stays on one line."""
    style = "padding:3px 6px;font-size:12px"
    texts = ((html.escape(str(cell), quote=False) for cell in row) for row in rows)
    cells = ("".join(f"<td style='{style}'>{text}</td>" for text in row) for row in texts)
    rows = (f"<tr>{row.replace(style, f'{style};white-space:nowrap', 1)}</tr>" for row in cells)
    return f"<table>{''.join(rows)}</table>"


def enter_debugger(path, trainer, batch):
    """simple-faster-rcnn's door: create the file `path` and look around; remove it to go on undisturbed."""
    if os.path.exists(path):
        import ipdb  # noqa: T100  only those who ask for it need it

        ipdb.set_trace()  # noqa: T100
