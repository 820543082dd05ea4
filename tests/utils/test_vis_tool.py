"""The dashboard against real visdom servers on free ports: what arrives, and what outages cost (nothing)."""

import base64
import contextlib
import http.server
import io
import json
import os
import signal
import socket
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from utils import vis_tool
from utils.vis_tool import Visualizer
from utils.visdom_server import start_server

visdom = pytest.importorskip("visdom")

pytestmark = pytest.mark.timeout(60)  # a call that waited for a stopped server would wait for ever


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@contextlib.contextmanager
def running_server(folder, port=None):
    """A server with an empty environment folder; yields (port, process)."""
    port = port or free_port()
    folder.mkdir()
    process = start_server(port, folder / "visdom.log", folder / "env")
    try:
        yield port, process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("visdom") / "server"


@pytest.fixture(scope="module")
def server(server_folder):
    with running_server(server_folder) as (port, process):
        yield port, process


@pytest.fixture
def new_visualizer():
    """Makes Visualizers that try again soon and write their notes into `.notes`; closes them at the end."""
    made = []

    def make(port, **kwargs):
        notes = []
        visualizer = Visualizer(port=port, notify=notes.append, **{"timeout": 1.0, "retry_every": 0.2, **kwargs})
        visualizer.notes = notes
        made.append(visualizer)
        return visualizer

    yield make
    for visualizer in made:
        visualizer.close(timeout=2)


class Page:
    """What the server has of one environment."""

    def __init__(self, port, env):
        self.client = visdom.Visdom(port=port, env=env, raise_exceptions=True, use_incoming_socket=False)
        self.env = env

    def window(self, win):
        return json.loads(self.client.get_window_data(win, self.env))

    def has(self, win):
        return self.client.win_exists(win, self.env)

    def series(self, win):
        (trace,) = self.window(win)["content"]["data"]
        return trace["x"], trace["y"]


def recorded(visualizer, win):
    line = visualizer.state_dict()["lines"][win]
    return line["x"], line["y"]


# What arrives


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
    assert x == [*range(0, 2001, 2), *range(2001, 2500)]
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
    monkeypatch.setattr("utils.visdom_server.Link._text", lambda *_: 1 / 0)
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


# Outages


def test_no_server_costs_one_line_and_close_is_quick(new_visualizer):
    vis = new_visualizer(free_port(), server="http://user:s3cret@127.0.0.1")
    vis.plot("loss", 1.0)
    vis.img("gt_img", np.zeros((3, 4, 5)))
    vis.save()
    wait_for(lambda: vis.connected is False)
    assert not vis.flush(0.7)  # several attempts later
    begin = time.monotonic()
    vis.close(timeout=20)
    assert time.monotonic() - begin < 10
    (note,) = vis.notes
    assert "127.0.0.1" in note
    assert "s3cret" not in note
    assert "\n" not in note


def test_by_default_the_line_goes_to_stderr(capsys):
    vis = Visualizer(port=free_port())
    vis.plot("loss", 1.0)
    wait_for(lambda: vis.connected is False)
    vis.close()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("dashboard") == captured.err.count("\n") == 1


def test_a_killed_server_that_comes_back_empty_gets_everything(tmp_path, new_visualizer, capfd):
    def record(first):
        for step in range(first, first + 50):
            vis.plot("loss", step)

    with running_server(tmp_path / "first") as (port, process):
        vis = new_visualizer(port, env="outage")
        record(0)
        vis.img("gt_img", np.zeros((3, 4, 5)))
        vis.text("words", "labels")
        vis.heatmap("roi_cm", np.eye(2), ["a", "b"])
        vis.log("a line")
        assert vis.flush(20)
        process.kill()
        process.wait()
        record(50)
        wait_for(lambda: vis.connected is False)
        record(100)
        assert not vis.flush(0.5)
    with running_server(tmp_path / "second", port):
        wait_for(lambda: len(vis.notes) == 2)
        assert vis.flush(20)
        page = Page(port, "outage")
        assert page.series("loss") == ([float(i) for i in range(150)],) * 2
        assert all(map(page.has, ("gt_img", "labels", "roi_cm", "log_text")))
    assert [note.startswith("dashboard is back") for note in vis.notes] == [False, True]
    assert vis.connected is True
    captured = capfd.readouterr()
    assert "Traceback" not in captured.out + captured.err
    assert "rror" not in captured.out + captured.err


def test_a_restart_between_two_messages_is_noticed(tmp_path, new_visualizer):
    with running_server(tmp_path / "first") as (port, _):
        vis = new_visualizer(port, env="restart", retry_every=50.0)  # no look at the server in between
        vis.plot("loss", 1.0)
        vis.text("words", "labels")
        assert vis.flush(20)
    with running_server(tmp_path / "second", port):
        vis.plot("loss", 2.0)
        assert vis.flush(20)
        page = Page(port, "restart")
        assert page.series("loss") == ([0.0, 1.0], [1.0, 2.0])
        assert page.has("labels")
    assert vis.notes == []


def test_a_hung_server_costs_nothing_and_loses_nothing(server, new_visualizer):
    port, process = server
    vis = new_visualizer(port, env="hung", timeout=0.3)
    vis.plot("loss", 0)
    assert vis.flush(20)
    process.send_signal(signal.SIGSTOP)
    try:
        for step in range(1, 60):
            vis.plot("loss", step)
        vis.img("gt_img", np.zeros((3, 400, 600)))
        wait_for(lambda: vis.connected is False)
        vis.plot("loss", 60)
        late = new_visualizer(port, env="late", timeout=0.3)  # the connection is taken, the greeting is not answered
        late.plot("loss", 1.0)
        begin = time.monotonic()
        late.close(timeout=0.2)
        assert time.monotonic() - begin < 10
        assert not vis.flush(0.5)
    finally:
        process.send_signal(signal.SIGCONT)
    assert vis.flush(30)
    page = Page(port, "hung")
    time.sleep(0.3)
    assert page.series("loss") == ([float(i) for i in range(61)],) * 2  # once each: what had timed out came before
    assert page.has("gt_img")
    assert len(vis.notes) == 2


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (400, "", "login"),
        (500, "oh", "500"),
        (200, "", "not visdom"),
        (200, "<html>", "not visdom"),
        (200, "[]", "take"),
    ],
)
def test_answers_that_are_not_visdoms_are_an_outage(status, body, reason, new_visualizer):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as other:
        thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            vis = new_visualizer(other.server_port, retry_every=0.05)
            vis.plot("loss", 1.0)
            wait_for(lambda: vis.connected is False)
            time.sleep(0.3)  # several attempts, one line
            (note,) = vis.notes
            assert reason in note
            vis.close()
        finally:
            other.shutdown()
            thread.join()


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
