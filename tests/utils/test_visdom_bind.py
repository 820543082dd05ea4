"""On which address a visdom server listens that is started here, and who is warned of an open one."""

import contextlib
import socket

import pytest

from tests.running_visdom import free_port
from utils import dashboard_tool, visdom_server
from utils.config import Config
from utils.dashboard_tool import from_environment, server_from, serving
from utils.errors import UserError
from utils.visdom_server import Link, Server, environments, is_visdom, open_at, reached_at, start_server

pytest.importorskip("visdom")

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def said(monkeypatch, tmp_path):
    lines = {"tell": [], "warn": []}
    for name, own in lines.items():
        monkeypatch.setattr(dashboard_tool, name, own.append)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))  # where visdom keeps the secret of its cookies
    return lines


@contextlib.contextmanager
def started(folder, bind, login=None):
    port = free_port()
    process = start_server(port, folder / "visdom.log", folder / "env", bind, login)
    try:
        yield port
    finally:
        process.kill()
        process.wait()


def has_ipv6():
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True


def answers(host, port):
    try:
        socket.create_connection((host, port), 2).close()
    except OSError:
        return False
    return True


def own_address():
    address = visdom_server._own_address()
    if not address or address.startswith("127."):
        pytest.skip("this machine has no address in a network")
    return address


@pytest.mark.parametrize(
    ("bind", "there", "not_there"),
    [("127.0.0.1", "127.0.0.1", "127.0.0.2"), ("127.0.0.2", "127.0.0.2", "127.0.0.1"),
     ("0.0.0.0", "127.0.0.2", "::1"), ("::1", "::1", "127.0.0.1")],
)  # fmt: skip
def test_it_listens_there_and_nowhere_else(tmp_path, bind, there, not_there):
    if ":" in bind and not has_ipv6():
        pytest.skip("no IPv6 here")
    with started(tmp_path, bind) as port:
        assert answers(there, port)
        assert not answers(not_there, port)
        server = Server(url=reached_at(bind), port=port)
        assert "main" in environments(server)
        Link(server, "main").close()  # visdom's own client finds it too


def test_an_address_of_another_machine(tmp_path):
    with pytest.raises(UserError, match=r"^--visdom-bind=203\.0\.113\.7: not an address of this machine; .*0\.0\.0\.0"):
        start_server(free_port(), tmp_path / "log", bind="203.0.113.7")


def test_by_default_it_is_this_machines_alone(said):
    server = server_from(Config().parse({"port": free_port()}))
    with serving("auto", server) as (at, here):
        assert here
        assert answers("127.0.0.1", at.port)
        assert not answers("127.0.0.2", at.port)
        with serving("auto", server) as (_, again):  # which finds it
            assert not again
    assert said["warn"] == [line for line in said["warn"] if "stays blank" in line]


def test_an_open_one_without_a_login_is_warned_of_when_started_and_when_found(said, monkeypatch):
    address = own_address()
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # which is not asked about this machine
    server = server_from(Config().parse({"port": free_port(), "visdom_bind": "0.0.0.0"}))
    with serving("auto", server) as (at, _):
        assert (at.url, at.username) == ("http://127.0.0.1", None)
        assert answers(address, at.port)
        assert sum("listens on 0.0.0.0 without a login" in line for line in said["warn"]) == 1
        for url in ("http://127.0.0.1", f"http://{address}"):
            said["warn"].clear()
            with serving("auto", Server(url, at.port)) as (_, again):
                assert not again
            (line,) = said["warn"]
            assert f"answers at {address} without a login" in line
            assert "\n" not in line
            monkeypatch.setenv("no_proxy", "*")  # but it is asked about others


def test_with_a_user_and_a_password_it_asks_for_them(said, tmp_path):
    server = Server(port=free_port(), username="me", password="s3cret", bind="0.0.0.0")
    with serving("auto", server) as (at, here):
        assert here
        assert (at.username, at.password) == ("me", "s3cret")
        assert is_visdom(at.port)
        assert environments(at) == []  # it tells nobody
        assert open_at(at) is None
        Link(at, "main").close()
        with pytest.raises(ConnectionError, match="login"):
            Link(Server(port=at.port), "main")
    assert said["warn"] == [line for line in said["warn"] if "stays blank" in line]
    assert "s3cret" not in (tmp_path / "runs/visdom.log").read_text()
    assert (tmp_path / ".visdom/COOKIE_SECRET").stat().st_mode & 0o077 == 0


def test_one_that_was_left_running_on_another_address_is_found_again(said, tmp_path):
    port = free_port()
    with serving("auto", Server(port=port, bind="127.0.0.2")) as (at, here):
        assert here
        assert (at.url, at.port) == ("http://127.0.0.2", port)
        assert not [line for line in said["warn"] if "login" in line]  # a loopback address too
    with started(tmp_path, "0.0.0.0") as port, serving("auto", Server(port=port, bind="0.0.0.0")) as (_, here):
        assert not here


@pytest.mark.parametrize("text", ["", "all", "0.0.0.0:8097", "*", "http://0.0.0.0", "1.2.3", "127.0.0.1\nx", "None"])
def test_what_is_no_address(text):
    with pytest.raises(UserError, match=r"^--visdom-bind=") as error:
        Config().parse({"visdom_bind": text})
    assert "\n" not in str(error.value)


def test_the_environment_has_it_too(monkeypatch):
    assert server_from(Config()).bind == "127.0.0.1"
    assert server_from(Config().parse({"visdom_bind": "localhost"})).bind == "127.0.0.1"
    monkeypatch.setenv("VISDOM_BIND", "0.0.0.0")
    assert from_environment({}) == {"visdom": "on", "visdom_bind": "0.0.0.0"}
    assert "visdom_bind" not in from_environment({"visdom-bind": "::"})
    monkeypatch.setenv("VISDOM_BIND", "everywhere")
    with pytest.raises(UserError, match=r"^VISDOM_BIND=everywhere: must be an IP address"):
        from_environment({})


def test_no_file_says_where_a_server_listens_or_when_the_debugger_opens():
    stored = {
        "visdom_bind": "0.0.0.0",
        "visdom_server": "http://far",
        "debug_file": "/",
        "out": "/x",
        "overwrite": True,
    }
    assert Config().update_known(stored) == Config()
    config = Config()
    config.begin_with(stored, stored.keys())
    assert config == Config()
