"""utils/show_tool.py: what a look and an evaluation leave in the log of events."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from data.dataset import Batch
from tests.test_trainer import BOXES, LABELS, NAMES, images, make_trainer
from utils.detections import Detections
from utils.eval_tool import evaluate_detections
from utils.event_log import EventLog, read_events
from utils.inference_tool import Evaluation
from utils.pace_tool import Pace
from utils.show_tool import Show, rpn_table, table
from utils.vis_tool import Visualizer

BOX = np.array([[2, 2, 20, 20]], np.float32)


class Bar:
    def set_postfix(self, **shown):
        self.shown = shown


class Pictures:
    """A set of six pictures, the k-th of brightness 10 k."""

    label_names = NAMES

    def __len__(self):
        return 6

    def get_example(self, i):
        return np.full((3, 40, 60), 10.0 * i, np.float32), BOX, np.array([1]), np.array([False])


def show_of(folder, db=None, **kwargs):
    trainer = make_trainer()
    trainer.vis = Visualizer(enabled=False, events=EventLog(folder))
    pace = Pace(n_steps=100, n_evaluations=2)
    return Show(trainer, pace, steps_per_epoch=50, db=db, **kwargs)


def batch_of(n=2):
    sizes = torch.tensor([[64, 80]] * n)
    return Batch(images(n), [BOXES] * n, [LABELS] * n, torch.ones(n), sizes, torch.arange(n))


def look(show, step=10, n_steps=2):
    batch = batch_of()
    for _ in show.pace.waiting([batch] * n_steps):
        show.trainer.train_step(*batch)
        show.pace.count(len(batch.sizes))
    bar = Bar()
    show.look(batch, step, bar)
    return bar


def events_of(show, folder):
    show.trainer.vis.close()
    return [*read_events(folder)][:-1]


def test_a_look_tells_everything_at_its_step(tmp_path):
    show = show_of(tmp_path, Pictures(), before=1000, proposals=True)
    bar = look(show)
    assert math.isfinite(float(bar.shown["loss"]))
    events = events_of(show, tmp_path)
    assert {event["step"] for event in events} == {1010}
    assert {event["win"] for event in events} == {
        "rpn_loc_loss", "rpn_cls_loss", "roi_loc_loss", "roi_cls_loss", "total_loss", "learning_rate",
        "images_per_second", "step_time", "memory", "rpn_recall", "sample_counts", "rpn_cm", "roi_cm", "progress",
        "gt_img", "pred_img", "proposals", "anchors", "followed_1", "followed_2", "followed_3", "followed_4",
    }  # fmt: skip
    assert {event["x"] for event in events if event["kind"] == "point"} == {1010}
    losses = {event["win"]: event["y"] for event in events if event["win"].endswith("_loss")}
    assert losses["total_loss"] == pytest.approx(sum(v for name, v in losses.items() if name != "total_loss"), rel=1e-5)
    counts = {event["line"]: event["y"] for event in events if event["win"] == "sample_counts"}
    assert sum(v for name, v in counts.items() if name.startswith("anchors")) <= 256  # an image
    assert show.trainer.rpn_cm.value().sum() == 0  # the next look begins anew
    for event in events:
        if event["kind"] == "img":
            with Image.open(tmp_path / event["file"]) as picture:
                assert max(picture.size) >= 480


def test_pictures_are_followed_when_the_steps_have_doubled(tmp_path):
    show = show_of(tmp_path, Pictures())
    for step in (10, 15, 20, 39, 40):
        look(show, step, n_steps=1)
    captions = [event["caption"] for event in events_of(show, tmp_path) if event["win"] == "followed_1"]
    assert captions == ["step 10", "step 20", "step 40"]


def test_proposals_are_drawn_only_on_request_and_nothing_is_followed_without_a_set(tmp_path):
    show = show_of(tmp_path)
    look(show)
    windows = {event["win"] for event in events_of(show, tmp_path)}
    assert "gt_img" in windows
    assert not windows & {"proposals", "anchors", "followed_1"}


def test_a_show_goes_on_where_it_was(tmp_path):
    """After a look within an interval, and an evaluation, another process shows what this one would have shown."""
    show, again = show_of(tmp_path / "a"), show_of(tmp_path / "b")
    look(show, 40)
    show._best, show.pace._n_images = (0.5, 3), 7
    state = json.loads(json.dumps(show.state_dict()))
    again.load_state_dict(state)
    kept = again.state_dict()
    assert kept["pace"].pop("seconds") >= state["pace"].pop("seconds")
    assert kept == state
    assert "0.5000 after epoch 3" in again._progress(50)
    assert again.pace.take()["n_images"] == 7
    assert state["follow_at"] == 80


def test_an_evaluation_shows_where_the_errors_are(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("utils.show_tool.say_result", said.append)
    truth = [BOX] * 6, [np.array([1])] * 6, [np.array([False])] * 6
    wrong = BOX + 18
    # found in all but two; picture 4 has two false boxes and its own missed, picture 2 has none at all
    bboxes = [BOX, BOX, BOX[:0], BOX, np.concatenate([wrong, wrong]), BOX]
    labels = [np.full(len(bbox), 1) for bbox in bboxes]
    scores = [np.full(len(bbox), 0.9) for bbox in bboxes]
    found = Detections(bboxes, labels, scores)
    evaluation = Evaluation(evaluate_detections(*found.columns, *truth, label_names=NAMES), found, truth)
    show = show_of(tmp_path, Pictures())
    show.result(evaluation, epoch=1, step=50, split="val")
    events = events_of(show, tmp_path)
    by_window = {event["win"]: event for event in events}
    assert by_window["test_map"]["y"] == pytest.approx(evaluation.voc.map07)
    assert by_window["test_map"]["x"] == 1
    assert by_window["class_ap"]["values"] == [None, pytest.approx(evaluation.voc.ap07[1]), None]
    assert by_window["pr_curves"]["names"] == [f"b {evaluation.voc.ap[1]:.2f}"]
    assert by_window["pr_curves"]["x"][0][-1] == pytest.approx(4 / 6)
    assert [by_window[f"worst_{k}"]["caption"] for k in (1, 2)] == [
        "epoch 1: 1 missed, 2 false", "epoch 1: 1 missed, 0 false",
    ]  # fmt: skip
    for k, brightness in ((1, 40), (2, 20)):
        with Image.open(tmp_path / by_window[f"worst_{k}"]["file"]) as picture:
            assert abs(np.asarray(picture)[-20, 20].mean() - brightness) < 8
    assert f"{evaluation.voc.map07:.4f} after epoch 1" in by_window["progress"]["text"]
    assert "epoch 1: mAP" in said[0]


def test_tables_are_text():
    assert "&lt;b&gt;" in table([("<b>", 1)])
    words = rpn_table(np.array([[1234, 5], [6, 7]]))
    assert "1,234" in words
    assert words.count("<tr>") == 3


def test_a_model_without_names_is_shown_with_numbers(tmp_path):
    show = show_of(tmp_path)
    show.trainer.faster_rcnn.label_names = None
    look(show)
    heatmap = next(event for event in events_of(show, tmp_path) if event["win"] == "roi_cm")
    assert heatmap["names"] == ["background"]
    assert len(heatmap["matrix"]) == 4
