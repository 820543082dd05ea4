"""Finding and starting visdom servers."""

import http.server
import os
import signal
import socket
import sys
import threading
import urllib.request

import pytest

from utils import visdom_server
from utils.errors import UserError
from utils.visdom_server import is_visdom, port_in_use, start_server

pytest.importorskip("visdom")

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def taken_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_started_server_is_found_and_outlives_its_caller(tmp_path, free_port, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # loopback is reached directly
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert not port_in_use(free_port)
    assert not is_visdom(free_port)
    process = start_server(free_port, tmp_path / "logs" / "visdom.log", tmp_path / "env")
    try:
        assert is_visdom(free_port)
        assert port_in_use(free_port)
        assert os.getsid(process.pid) == process.pid != os.getsid(0)  # Ctrl-C at the run does not reach it
        assert (tmp_path / "logs" / "visdom.log").exists()
        assert (tmp_path / "env").is_dir()
        with pytest.raises(UserError, match=f"port={free_port}.*taken"):
            start_server(free_port, tmp_path / "visdom.log")
        assert listens_on(process.pid, free_port) == ["127.0.0.1"]
        process.send_signal(signal.SIGSTOP)
        assert not is_visdom(free_port, timeout=0.2)
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
    assert not is_visdom(free_port)


def listens_on(pid, port):
    psutil = pytest.importorskip("psutil")
    return [
        i.laddr.ip
        for i in psutil.Process(pid).net_connections("inet")
        if i.laddr.port == port and i.status == psutil.CONN_LISTEN
    ]


def test_other_programs_are_not_visdom(taken_port):
    assert port_in_use(taken_port)
    assert not is_visdom(taken_port, timeout=0.2)  # takes the connection and says nothing
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as other:
        other.RequestHandlerClass.log_message = lambda *_: None
        thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{other.server_port}/") as answer:
                assert answer.status == 200
            assert not is_visdom(other.server_port)
        finally:
            other.shutdown()
            thread.join()


def test_a_taken_port_and_a_wrong_one_are_refused(tmp_path, taken_port):
    with pytest.raises(UserError, match="taken by another program"):
        start_server(taken_port, tmp_path / "log")
    with pytest.raises(UserError, match="not a port"):
        start_server(70_000, tmp_path / "log")


def test_a_log_that_can_not_be_written_is_named(tmp_path, free_port):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/log"):
        start_server(free_port, tmp_path / "file" / "log")


def test_a_server_that_ends_at_once_is_reported_with_its_last_line(tmp_path, free_port, monkeypatch):
    monkeypatch.setattr(visdom_server, "START", "print('first'); raise SystemExit('no such thing')")
    (tmp_path / "log").write_text("an older run's words\n")
    with pytest.raises(UserError, match="no such thing") as caught:
        start_server(free_port, tmp_path / "log")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "log").read_text().startswith("an older run's words\n")


def test_a_server_that_never_answers_is_ended(tmp_path, free_port, monkeypatch):
    monkeypatch.setattr(visdom_server, "START_SECONDS", 0.5)
    monkeypatch.setattr(visdom_server, "START", "import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    with pytest.raises(UserError, match="no answer within"):
        start_server(free_port, tmp_path / "log")
    words = (tmp_path / "log").read_text()
    if words:  # else it was ended before it came to speak
        with pytest.raises(ProcessLookupError):
            os.kill(int(words), 0)


def test_the_server_runs_in_this_interpreter(tmp_path, free_port, monkeypatch):
    monkeypatch.setattr(visdom_server, "START", "import sys; raise SystemExit(sys.executable)")
    with pytest.raises(UserError) as caught:
        start_server(free_port, tmp_path / "log")
    assert sys.executable in str(caught.value)
