"""The dashboard while its visdom server is absent, killed, hung or another's: outages cost nothing."""

import http.server
import signal
import threading
import time

import numpy as np
import pytest

from tests.running_visdom import Page, free_port, running_server, wait_for
from utils.vis_tool import Visualizer

pytestmark = pytest.mark.timeout(60)  # a call that waited for a stopped server would wait for ever


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
