"""What the dashboard is sent while a run goes on."""

import os
from contextlib import contextmanager

import numpy as np

from utils.cli_tool import say
from utils.dashboard_layout import EACH_RUN
from utils.errors import UserError
from utils.event_log import EventLog
from utils.image_tool import inverse_normalize
from utils.precision_tool import autocast
from utils.vis_tool import Visualizer, visdom_bbox
from utils.visdom_server import is_visdom


@contextmanager
def dashboard(env, port, enabled, label_names, run_dir, go_on_from=None):
    """The `Visualizer` of a run, saved and closed at its end; what it records is kept in `run_dir`, see `EventLog`."""
    vis = Visualizer(env, port, enabled=enabled, events=EventLog(run_dir, go_on_from))
    if enabled and is_visdom(port):
        say(f"dashboard: http://127.0.0.1:{port}/env/{vis.env}")
    elif enabled:
        say(f"dashboard: no visdom answers on port {port}; the run goes on, and shows there as soon as one does")
    vis.expect(EACH_RUN)
    vis.text("<br>".join(label_names), win="labels")
    try:
        yield vis
    finally:
        vis.save()
        vis.close()


def show(trainer, batch, step, bar):
    """The mean losses since the last look go to the bar and the dashboard, with what the model sees in one image."""
    losses = trainer.get_meter_data()
    if not np.isfinite(losses["total_loss"]):
        raise UserError(f"the loss is not finite near step {step}: lower --lr, or raise --warmup")
    bar.set_postfix(loss=f"{losses['total_loss']:.3f}")
    vis, model = trainer.vis, trainer.faster_rcnn
    vis.at_step(step)
    vis.plot_many(losses, x=step)
    vis.text(rpn_table(trainer.rpn_cm.value()), win="rpn_cm")
    vis.heatmap("roi_cm", trainer.roi_cm.value(), ["background", *model.label_names])
    height, width = batch.sizes[0].tolist()
    img = inverse_normalize(batch.imgs[0, :, :height, :width], model.input_mode)
    vis.img("gt_img", visdom_bbox(img, batch.bboxes[0], batch.labels[0], None, model.label_names))
    with autocast(model.device, trainer.amp):
        prepared = batch.imgs[:1, :, :height, :width]
        rois = None if batch.rois is None else [batch.rois[0]]
        detections = model.predict(prepared, [(height, width)], visualize=True, rois=rois)
    vis.img("pred_img", visdom_bbox(img, *(column[0] for column in detections), model.detected_names))
    trainer.reset_meters()


def show_result(trainer, result, epoch, step, split):
    """The mAP after `epoch` epochs goes to the terminal and the dashboard."""
    vis = trainer.vis
    vis.at_step(step)
    vis.plot("test_map", result.map07, x=epoch)
    line = f"epoch {epoch}: mAP {result.map07:.4f} (VOC07 11-point), {result.map:.4f} (area)"
    say(f"{line} on {split}")
    vis.log(f"{line}, lr {trainer.learning_rate(epoch - 1, step):g}")


def rpn_table(counts):
    """HTML of the RPN's confusion counts (2, 2): row = target, column = prediction."""
    names = ("background", "foreground")
    rows = ((name, *(f"{int(n)}" for n in row)) for name, row in zip(names, counts, strict=True))
    cells = (
        "".join(f"<td style='padding:3px 6px;font-size:12px'>{cell}</td>" for cell in row)
        for row in (("", *names), *rows)
    )
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>rows: target, columns: prediction"


def enter_debugger(path, trainer, batch):
    """simple-faster-rcnn's door: create the file `path` and look around; remove it to go on undisturbed."""
    if os.path.exists(path):
        import ipdb  # noqa: T100  only those who ask for it need it

        ipdb.set_trace()  # noqa: T100
