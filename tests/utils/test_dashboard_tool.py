"""utils/dashboard_tool.py: a server for a run, and runs that come back."""

import os
import re
import signal
import sys
import threading

import numpy as np
import pytest

from tests.run_server import the_runs
from tests.running_visdom import Page, free_port, running_server, wait_for
from utils import dashboard_tool
from utils.config import Config
from utils.dashboard_tool import about, dashboard, from_environment, run_names, server_from, serving, show_runs
from utils.errors import UserError
from utils.event_log import EventLog, read_events
from utils.visdom_server import START, Server, is_visdom, port_in_use


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(dashboard_tool, "tell", lines.append)
    monkeypatch.setattr(dashboard_tool, "warn", lines.append)
    return lines


# A server


def test_auto_starts_one_for_the_block(here, said):
    port = free_port()
    with serving("auto", Server(port=port)) as (server, started):
        assert started
        assert server.port == port
        assert is_visdom(port)
    assert not is_visdom(port)
    assert f"http://127.0.0.1:{port}" in said[0]
    assert (here / "runs/visdom.log").exists()


def test_a_server_that_hangs_is_ended_all_the_same(here, said):
    port = free_port()
    with serving("auto", Server(port=port)):
        for process in processes_on(port):
            process.suspend()
    assert not port_in_use(port)


def processes_on(port):
    psutil = pytest.importorskip("psutil")
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or ()
        if str(port) in words and "visdom" in " ".join(words):
            yield process


def test_keep_leaves_it_running_and_auto_takes_one_that_answers(here, said):
    port = free_port()
    with serving("keep", Server(port=port)) as (_, started):
        assert started
    with serving("auto", Server(port=port)) as (_, started):
        assert not started
    assert is_visdom(port)  # nobody ends what it did not start
    for process in processes_on(port):
        process.kill()


@pytest.mark.parametrize("mode", ["on", "off"])
def test_on_and_off_start_none(mode, here, said):
    port = free_port()
    with serving(mode, Server(port=port)) as (_, started):
        assert not started
    assert not port_in_use(port)
    assert len(said) == (mode == "on")


def test_no_server_is_started_for_another_machine(here, said):
    with serving("auto", Server("http://visdom.invalid", port=free_port())) as (_, started):
        assert not started
    assert "visdom.invalid" in said[0]


def test_a_port_that_another_program_has_is_left_to_it(here, said):
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with serving("auto", Server(port=taken)) as (server, started):
            assert started
            assert server.port > taken


def test_a_login_is_for_the_server_that_was_meant_not_for_one_started_here(here, said, monkeypatch):
    with serving("auto", Server("http://localhost", free_port(), username="me", password="s3cret")) as (
        server,
        started,
    ):
        assert started
        assert (server.url, server.username, server.password) == ("http://127.0.0.1", None, None)


def test_a_server_that_does_not_start_is_a_warning(here, said, monkeypatch):
    def fail(*_):
        raise UserError("visdom did not start")

    monkeypatch.setattr(dashboard_tool, "start_server", fail)
    with serving("auto", Server(port=free_port())) as (_, started):
        assert not started
    assert "visdom did not start; the run goes on" in said[0]


# Options


def test_options_from_the_environment(monkeypatch):
    for name, value in {"VISDOM": "off", "VISDOM_PORT": "9000", "VISDOM_SERVER": "http://far"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("VISDOM_USERNAME", "me")
    monkeypatch.setenv("VISDOM_PASSWORD", "s3cret")
    assert from_environment({"visdom-server": "http://near"}) == {"visdom": "off", "port": "9000"}
    config = Config().parse(from_environment({}))
    server = server_from(config)
    assert (server.url, server.port, server.username, server.password) == ("http://far", 9000, "me", "s3cret")
    assert "s3cret" not in repr(server)
    assert "s3cret" not in str(config.state_dict())
    assert config.visdom == "off"


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [("VISDOM", "perhaps", "VISDOM=perhaps: "), ("VISDOM_PORT", "x", "VISDOM_PORT=x: "),
     ("VISDOM_PORT", "0", "VISDOM_PORT=0: "), ("VISDOM_SERVER", "ftp://far", "VISDOM_SERVER=ftp://far: must be")],
)  # fmt: skip
def test_a_mistake_in_the_environment_names_the_variable(monkeypatch, name, value, told):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as refused:
        from_environment({})
    assert str(refused.value).startswith(told)


def test_a_password_in_the_address_is_refused():
    with pytest.raises(UserError, match="VISDOM_PASSWORD") as refused:
        Config().parse({"visdom_server": "http://me:s3cret@far"})
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("address", "told"),
    [("", "must be"), ("http://", "must be"), ("ftp://far", "must be"), ("http://far/visdom", "must be"),
     ("http://[::1", "must be"), ("far:80", "the port goes to --port"), ("http://far:", "the port goes to --port"),
     ("http://[::1]:9000", "the port goes to --port"), ("http://far:many", "must be")],
)  # fmt: skip
def test_an_address_that_is_none_is_refused_before_any_work(address, told):
    with pytest.raises(UserError, match=f"^--visdom-server={re.escape(address)}: {told}"):
        Config().parse({"visdom_server": address})


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("far", "http://far"),
        ("https://far/", "https://far"),
        ("http://[::1]", "http://[::1]"),
        ("10.0.0.1", "http://10.0.0.1"),
    ],
)
def test_an_address_with_and_without_a_scheme(address, url):
    assert server_from(Config().parse({"visdom_server": address})).url == url


def test_who_shares_an_environment_is_told(server, here, said):
    for k in range(2):
        with dashboard("shared", "on", Server(port=server[0]), ["cat"], here / f"runs/{k}", {}) as vis:
            vis.plot("loss", 1)
        assert any("shared is there already" in line for line in said) == (k == 1)


def test_the_printed_address_is_one_that_a_browser_takes(server, here, said):
    with dashboard("lr=0.1 #2+a/b", "on", Server(port=server[0]), ["cat"], here / "runs/a", {}):
        pass
    assert said[-1].endswith("/env/lr%3D0.1%20%232_a_b")


def test_what_a_run_is_about(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/train.py", "train", "--name=a b"])
    told = about(Config().parse({"lr": 0.5, "name": "a b"}))
    assert told["command"] == "python train.py train '--name=a b'"
    assert told["--lr"] == 0.5
    assert "--epoch" not in told


# A run, and runs that come back


def record(folder, first, last, offset=0.0, **kwargs):
    with EventLog(folder, **kwargs) as log:
        for log.step in range(first, last):
            log.add("total_loss", "point", x=log.step, y=log.step + offset)
        log.add("labels", "text", text="cat")
        log.add("class_ap", "bars", names=["cat"], values=[0.5])
        log.add("pr_curves", "curves", names=["cat"], x=[[0, 1]], y=[[1, 0.5]])
        log.add("roi_cm", "heatmap", matrix=[[1, 0], [0, 2]], names=["background", "cat"])


def test_a_run_that_goes_on_goes_on_in_its_curves(server, here, said):
    place = Server(port=server[0])
    with dashboard("goes_on", "on", place, ["cat"], "runs/a", {"lr": 1}) as vis:
        for step in (1, 2, 3):
            vis.at_step(step)
            vis.plot("total_loss", 10 - step, x=step)
            vis.follow("followed_1", np.zeros((3, 8, 9)), f"step {step}")
    with dashboard("goes_on", "on", place, ["cat"], "runs/a", {"lr": 1}, go_on_from=2) as vis:
        vis.at_step(3)
        vis.plot("total_loss", 0.5, x=3)
        vis.follow("followed_1", np.zeros((3, 8, 9)), "again")
    points = [(event["x"], event["y"]) for event in read_events("runs/a") if event["kind"] == "point"]
    assert points == [(1, 9), (2, 8), (3, 0.5)]
    page = Page(server[0], "goes_on")
    assert page.series("total_loss") == ([1, 2, 3], [9, 8, 0.5])
    assert [frame["caption"] for frame in page.window("followed_1")["content"]] == ["step 1", "step 2", "again"]


def test_a_run_that_is_stopped_says_so(here, said):
    with pytest.raises(KeyboardInterrupt), dashboard("e", "off", Server(), ["<cat>"], "runs/a", {}):
        raise KeyboardInterrupt
    events = [*read_events("runs/a")]
    assert events[-1]["why"] == "stopped"
    assert "&lt;cat&gt;" in next(event["text"] for event in events if event["win"] == "labels")


def test_several_runs_stand_over_each_other(server, here, said):
    record("runs/a", 0, 5)
    record("runs/b", 0, 7, offset=100.0)
    show_runs(["runs/a", "runs/b"], None, "on", Server(port=server[0]))
    page = Page(server[0], "a-vs-b")
    assert page.series("total_loss", "a") == ([0, 1, 2, 3, 4],) * 2
    assert page.series("total_loss", "b")[1] == [100.0 + step for step in range(7)]
    assert page.has("a: labels")
    assert page.has("b: labels")
    assert page.window("b: roi_cm")["content"]["data"][0]["customdata"] == [[1, 0], [0, 2]]


def test_a_run_is_followed_while_it_goes_on_and_from_its_checkpoint_again(server, here, said, monkeypatch):
    monkeypatch.setattr(dashboard_tool, "LOOK_EVERY", 0.05)
    page = Page(server[0], "live")
    log = EventLog("runs/live")
    log.add("total_loss", "point", x=0, y=5)
    watcher = threading.Thread(target=show_runs, args=(["runs/live"], None, "on", Server(port=server[0])))
    watcher.start()
    wait_for(lambda: page.has("total_loss") and page.window("total_loss")["type"] == "plot")  # it is a text at first
    wait_for(lambda: page.series("total_loss") == ([0], [5]))
    log.step = 40
    log.add("total_loss", "point", x=40, y=4)
    wait_for(lambda: page.series("total_loss") == ([0, 40], [5, 4]))
    again = EventLog("runs/live", go_on_from=0)  # killed without a word, and started again
    again.step = 40
    again.add("total_loss", "point", x=40, y=3)
    wait_for(lambda: page.series("total_loss") == ([0, 40], [5, 3]))
    again.close()
    watcher.join(60)
    assert not watcher.is_alive()
    log.close()


def test_names_of_runs():
    assert run_names(["runs/a", "runs/b/"]) == ["a", "b"]
    assert run_names(["x/a", "y/a"]) == ["x/a", "y/a"]


def test_no_such_run(here):
    with pytest.raises(UserError, match="--run=runs/no: no such folder"):
        show_runs(["runs/no"], None, "on", Server(port=free_port()))


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_the_command_serves_a_run_until_it_is_stopped(tmp_path, monkeypatch, how, code):
    record(tmp_path / "runs/a", 0, 5)
    port = free_port()
    for name in [name for name in os.environ if name.startswith("VISDOM")]:
        monkeypatch.delenv(name)
    run = the_runs().start(tmp_path, ["dashboard", "--run=runs/a", f"--port={port}"], anew=how == signal.SIGINT)
    try:
        run.wait_for(lambda: "Ctrl-C ends the server" in run.text())
        assert Page(port, "a").series("total_loss")[1] == [0, 1, 2, 3, 4]
        run.send(how)
        assert run.wait(60) == code
    finally:
        run.kill()
    assert not is_visdom(port)
    assert f"http://127.0.0.1:{port}/env/a" in run.text()


def test_a_server_with_a_login(tmp_path, monkeypatch, said):
    """Without the password nothing is shown, and the run is told why; with it all arrives."""
    for name, value in {"USERNAME": "me", "PASSWORD": "s3cret", "COOKIE": "any", "USE_ENV_CREDENTIALS": "1"}.items():
        monkeypatch.setenv(f"VISDOM_{name}", value)
    (tmp_path / ".visdom").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))  # where it keeps the secret of its cookies
    monkeypatch.setattr("utils.visdom_server.START", LOGIN)
    record(tmp_path / "runs/a", 0, 3)
    with running_server(tmp_path / "server") as (port, _):
        config = Config().parse({"port": port, "visdom": "on"})
        notes = []
        for n, (password, arrives) in enumerate((("wrong", False), (None, False), ("s3cret", True)), start=1):
            server = Server(port=port, username="me" if password else None, password=password)
            vis = dashboard_tool.Visualizer("login", server=server, notify=notes.append)
            vis.plot("loss", 1.0)
            if not arrives:
                wait_for(lambda n=n: len(notes) == n)
            assert vis.flush(10 if arrives else 1) == arrives
            vis.close(0)
        assert [note.count("login") for note in notes] == [1, 1]
        assert "s3cret" not in str(notes)
        show_runs([tmp_path / "runs/a"], "shown", "on", server_from(config))


LOGIN = "import sys; sys.argv += ['-enable_login', '-force_new_cookie']; " + START
