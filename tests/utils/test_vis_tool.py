"""The dashboard against a real visdom server: what arrives."""

import base64
import io
import json
import os
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from tests.running_visdom import Page, free_port, wait_for
from utils import vis_tool
from utils.event_log import EventLog, read_events
from utils.vis_tool import Visualizer

pytestmark = pytest.mark.timeout(60)  # a call that waited for a stopped server would wait for ever


def recorded(visualizer, win):
    line = visualizer.state_dict()["lines"][win]
    return line["x"], line["y"]


def test_every_kind_of_window_arrives(server, new_visualizer):
    vis = new_visualizer(server[0], env="kinds")
    assert vis.connected is None
    vis.plot("total_loss", torch.tensor(2.5, requires_grad=True))
    vis.plot_many({"total_loss": np.float32(1.5), "test_map": 0.5, "left_out": None}, x=10)
    vis.img("gt_img", np.full((3, 20, 30), 0.5, dtype=np.float32))
    vis.img_many({"pred_img": torch.zeros(3, 20, 30, dtype=torch.uint8)})
    vis.text("<b>words</b>", "labels")
    vis.heatmap("roi_cm", torch.tensor([[3, 1], [0, 0]]), ["background", "cat"])
    vis.log("epoch 1 <done>")
    assert vis.flush(20)
    assert vis.connected is True
    page = Page(server[0], "kinds")
    assert page.series("total_loss") == ([0.0, 10.0], [2.5, 1.5])
    assert page.window("total_loss")["title"] == "total_loss"
    assert page.window("total_loss")["content"]["layout"]["xaxis"]["title"] == "step"
    assert page.series("test_map") == ([10.0], [0.5])
    assert not page.has("left_out")
    assert page.window("labels")["content"] == "<b>words</b>"
    assert "epoch 1 &lt;done&gt;" in page.window("log_text")["content"]
    assert page.window("pred_img")["title"] == "pred_img"
    assert vis.notes == []


@pytest.mark.parametrize("enabled", [True, False])
def test_a_run_that_is_replayed_shows_the_same(server, new_visualizer, tmp_path, enabled):
    """Also one that was recorded without a server."""
    vis = new_visualizer(server[0], env="first", enabled=enabled, events=EventLog(tmp_path / "run"))
    for k in range(5):
        vis.plot("total_loss", 1 / (k + 1) if k != 2 else float("nan"), x=None if k == 3 else 40 * k)
    vis.img("gt_img", np.full((3, 20, 30), 0.5, dtype=np.float32))
    vis.text("<b>words</b>", "labels")
    vis.heatmap("roi_cm", torch.tensor([[3, 1], [0, 0]]), ["background", "cat"])
    vis.log("epoch 1 <done>")
    vis.close(20)
    again = new_visualizer(server[0], env="again")
    again.replay(read_events(tmp_path / "run"), tmp_path / "run")
    assert again.flush(20)
    assert again.state_dict()["lines"] == vis.state_dict()["lines"]
    assert again.state_dict()["log"] == vis.state_dict()["log"]
    page = Page(server[0], "again")
    assert page.series("total_loss")[0] == [0, 40, 80, 81, 160]
    assert page.window("labels")["content"] == "<b>words</b>"
    assert page.has("gt_img")
    assert page.has("roi_cm")


def test_a_picture_is_sent_as_jpeg_with_its_values(server, new_visualizer):
    vis = new_visualizer(server[0], env="picture")
    img = np.zeros((3, 16, 24), dtype=np.float32)
    img[0] = 1.0
    vis.img("gt_img", img)
    img[:] = 0.0  # the caller's buffer is its own again
    assert vis.flush(20)
    source = Page(server[0], "picture").window("gt_img")["content"]["src"]
    assert source.startswith("data:image/jpeg;base64,")
    sent = np.array(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))
    assert sent.shape == (16, 24, 3)
    assert np.abs(sent.reshape(-1, 3).mean(0) - [255, 0, 0]).max() < 4


def test_a_matrix_is_a_grey_picture(server, new_visualizer):
    """simple-faster-rcnn shows the confusion counts so: vis.img('roi_cm', at.totensor(roi_cm.conf, False).float())."""
    vis = new_visualizer(server[0], env="matrix")
    counts = np.array([[0, 5], [10, 0]], dtype=np.int32).repeat(8, axis=0).repeat(8, axis=1)
    for matrix in (counts, counts[None], torch.from_numpy(counts).float()):
        vis.img("roi_cm", matrix)
        assert vis.flush(20)
        source = Page(server[0], "matrix").window("roi_cm")["content"]["src"]
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGB"))
        assert shown.shape[1:] == (16, 3)
        np.testing.assert_allclose(shown[:16, :, 0], counts * 25.5, atol=12)
        assert np.ptp(shown.astype(int), axis=2).max() < 12


def test_the_heatmap_is_upright_and_its_rows_are_shares(server, new_visualizer):
    vis = new_visualizer(server[0], env="heatmap")
    vis.heatmap("roi_cm", np.array([[6, 2, 0], [0, 0, 0], [1, 0, 3]]), ["background", "cat", "cat"])
    assert vis.flush(20)
    window = Page(server[0], "heatmap").window("roi_cm")
    (trace,) = window["content"]["data"]
    assert trace["z"] == [[0.75, 0.25, 0.0], [0.0, 0.0, 0.0], [0.25, 0.0, 0.75]]
    assert trace["y"] == ["background", "cat (1)", "cat (2)"]  # two of one name would be drawn in one place
    assert window["content"]["layout"]["yaxis"]["autorange"] == "reversed"
    assert window["title"] == "roi_cm"


def test_a_value_that_is_not_finite_is_a_gap(server, new_visualizer):
    vis = new_visualizer(server[0], env="gaps")
    vis.plot("loss", float("nan"))
    assert vis.flush(20)
    for y in (1.0, float("inf"), None, torch.tensor(float("nan")), 2.0):
        vis.plot("loss", y)
    vis.plot("loss", 3.0, x=float("nan"))  # a place that is none: the counter's
    assert vis.flush(20)
    assert Page(server[0], "gaps").series("loss") == ([0, 1, 2, 3, 4, 5, 6], [None, 1, None, None, None, 2, 3])
    assert vis.notes == []


def test_points_are_appended_and_a_window_closed_on_the_page_comes_back_whole(server, new_visualizer):
    vis = new_visualizer(server[0], env="append")
    page = Page(server[0], "append")
    for count in range(40):  # passes the length at which points are no longer marked
        vis.plot("loss", count)
        if count % 8 == 0:
            assert vis.flush(20)
    assert vis.flush(20)
    assert page.series("loss") == ([float(i) for i in range(40)],) * 2
    page.client.close("loss", "append")
    vis.plot("loss", 40)
    assert vis.flush(20)
    assert page.series("loss") == ([float(i) for i in range(41)],) * 2


def test_a_long_curve_is_thinned_and_keeps_its_ends(server, new_visualizer):
    vis = new_visualizer(server[0], env="thin")
    for step in range(2_500):
        vis.plot("loss", step / 2)
        if step == 1_990:
            assert vis.flush(20)
    assert vis.flush(20)
    x, y = Page(server[0], "thin").series("loss")
    assert (x, y) == recorded(vis, "loss")
    assert x == [*range(0, 2001, 2), *range(2001, 2500)]  # every second one when there were too many
    assert y == [step / 2 for step in x]


def test_save_writes_the_environment_to_the_servers_disk(server, server_folder, new_visualizer):
    vis = new_visualizer(server[0], env="runs/saved")
    vis.plot("loss", 1.0)
    vis.save()
    assert vis.flush(20)
    saved = json.loads((server_folder / "env" / "runs_saved.json").read_text())
    assert saved["jsons"]["loss"]["content"]["data"][0]["y"] == [1.0]


def test_the_log_keeps_the_last_500_lines(new_visualizer):
    vis = new_visualizer(free_port())
    for i in range(510):
        vis.log(f"line {i}.")
    log = vis.state_dict()["log"]["log_text"]
    assert len(log) == 500
    assert "line 10." in log[0]
    assert "line 509." in log[-1]


def test_what_visdom_can_not_draw_does_not_hold_up_the_rest(server, new_visualizer, monkeypatch):
    vis = new_visualizer(server[0], env="odd")
    monkeypatch.setattr("utils.visdom_panes.text", lambda *_: 1 / 0)
    vis.text("words", "labels")
    vis.plot("loss", 1.0)
    assert vis.flush(20)
    assert Page(server[0], "odd").series("loss") == ([0.0], [1.0])
    assert len(vis.notes) == 1
    assert "labels" in vis.notes[0]


def test_wrong_shapes_are_refused_at_the_call(new_visualizer):
    vis = new_visualizer(free_port())
    with pytest.raises(ValueError, match="gt_img"):
        vis.img("gt_img", np.zeros((20, 30, 3)))
    with pytest.raises(ValueError, match="roi_cm"):
        vis.heatmap("roi_cm", np.zeros(3), ["a"])


# Off, forked, closed


@pytest.mark.parametrize("missing", [False, True])
def test_switched_off_or_without_visdom_it_does_nothing(missing, monkeypatch):
    if missing:
        monkeypatch.setattr(vis_tool.importlib.util, "find_spec", lambda _: None)
    notes = []
    vis = Visualizer(enabled=missing, notify=notes.append)
    before = threading.active_count()
    vis.plot("loss", 1.0)
    vis.plot_many({"loss": 1.0})
    vis.img("gt_img", None)
    vis.img_many({"gt_img": None})
    vis.text("words", "labels")
    vis.heatmap("roi_cm", None, None)
    vis.log("line")
    vis.save()
    assert vis.flush(0)
    vis.close()
    assert vis.connected is None
    assert threading.active_count() == before
    assert len(notes) == missing


def test_it_is_inert_in_a_fork(server, new_visualizer):
    vis = new_visualizer(server[0], env="fork")
    vis.plot("loss", 1.0)
    assert vis.flush(20)
    held, release = threading.Event(), threading.Event()

    def hold():
        with vis._changed:  # as the sender may at the moment of the fork
            held.set()
            release.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    child = os.fork()
    if child == 0:
        vis.plot("loss", 2.0)
        vis.log("line")
        vis.state_dict()
        vis.flush(1)
        vis.close()
        os._exit(0)
    release.set()
    holder.join()
    ended = []
    wait_for(lambda: ended.append(os.waitpid(child, os.WNOHANG)) or ended[-1][0] == child)
    assert ended[-1][1] == 0
    vis.plot("loss", 3.0)
    assert vis.flush(20)
    assert Page(server[0], "fork").series("loss") == ([0.0, 1.0], [1.0, 3.0])


def test_close_sends_what_is_pending_and_later_calls_do_nothing(server, new_visualizer):
    vis = new_visualizer(server[0], env="close")
    for step in range(100):
        vis.plot("loss", step)
    vis.close(timeout=20)
    vis.plot("loss", 100)
    vis.log("late")
    vis.close()
    assert Page(server[0], "close").series("loss")[1] == list(range(100))


# The state in a checkpoint


def test_the_state_survives_json_and_a_safe_checkpoint(tmp_path, server, new_visualizer):
    vis = new_visualizer(free_port(), env="state")
    for step in range(5):
        vis.plot("loss", step, x=40 * step)
        vis.plot("test_map", step)
    vis.plot("loss", float("nan"), x=200)
    vis.log("before")
    state = vis.state_dict()
    assert json.loads(json.dumps(state, allow_nan=False)) == state
    torch.save({"vis_info": state}, tmp_path / "checkpoint.pth")
    state = torch.load(tmp_path / "checkpoint.pth", weights_only=True)["vis_info"]
    after = new_visualizer(server[0], env="state")
    after.load_state_dict(state)
    after.plot("loss", 7, x=240)
    after.plot("test_map", 9)
    after.log("after")
    assert after.flush(20)
    page = Page(server[0], "state")
    assert page.series("loss") == ([0, 40, 80, 120, 160, 200, 240], [0, 1, 2, 3, 4, None, 7])
    assert page.series("test_map") == ([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 9])
    log = page.window("log_text")["content"]
    assert log.index("before") < log.index("after")
    assert state["env"] == "state"


def test_a_run_without_a_dashboard_hands_the_state_on():
    state = {"env": "e", "lines": {"loss": {"x": [0.0], "y": [1.0], "next_x": 1.0}}, "log": {"log_text": ["a"]}}
    vis = Visualizer(env="e", enabled=False)
    vis.load_state_dict(state)
    assert vis.state_dict() == state
    vis.load_state_dict({})
    assert vis.state_dict() == state


def test_it_takes_over_simple_faster_rcnns_state(new_visualizer):
    vis = new_visualizer(free_port())
    vis.load_state_dict({"index": {"loss": 7}, "vis_kw": {}, "log_text": "[1] a <br>[2] b <br>", "env": "old"})
    vis.plot("loss", 1.0)
    state = vis.state_dict()
    assert state["lines"]["loss"]["x"] == [7.0]
    assert state["log"]["log_text"] == ["[1] a", "[2] b"]
    assert state["env"] == "faster-rcnn"
