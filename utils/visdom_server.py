"""What talks to a visdom server: is there one, start one, and a connection whose calls always end."""

import contextlib
import errno
import hashlib
import http.client
import ipaddress
import json
import logging
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from utils import visdom_panes as panes
from utils.dashboard_layout import HEADING_SIZE, heading_html, heading_id, headings_of, layout_items, place, size_of
from utils.errors import UserError

START_SECONDS = 60  # a start takes 1.3 s on an idle machine, and has taken over 15 on one whose cores others had
# `visdom` itself would first fetch its page's files from the net (misc/visdom_assets.py does that); this does not.
# Its own options are 127.0.0.1 or all addresses.
START = (
    "import os; from tornado.web import Application; from visdom.server.run_server import main; "
    "listen, at = Application.listen, {'address': os.environ['VISDOM_BIND']}; "
    "Application.listen = lambda self, port, **more: listen(self, port, **more | at); main()"
)
# The secret of its cookies goes to ~/.visdom: it is for this user alone, as all that it writes.
OWN = "import os; os.umask(0o077); os.makedirs(os.path.expanduser('~/.visdom'), exist_ok=True); "
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def port_in_use(port, bind="127.0.0.1") -> bool:
    """Whether some program holds `port` on the address `bind`."""
    return _error_of_binding(port, bind) == errno.EADDRINUSE


def _error_of_binding(port, bind):
    try:
        with socket.socket(socket.AF_INET6 if ":" in bind else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port whose last connections linger is free
            probe.bind((bind, port))
    except OSError as error:
        return error.errno
    return None


def is_loopback(bind) -> bool:
    """Whether only this machine reaches a server that listens on the IP address `bind`."""
    return ipaddress.ip_address(bind).is_loopback


def reached_at(bind) -> str:
    """The URL, without port, at which this machine reaches a server that listens on `bind`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bind, bind)
    return f"http://[{host}]" if ":" in host else f"http://{host}"


def is_visdom(port, server="http://127.0.0.1", timeout=2) -> bool:
    """Whether a visdom server (with or without a login) answers there within `timeout` seconds."""
    try:
        with _opener(server).open(f"{server}:{port}/", timeout=timeout) as answer:
            page = answer.read(1 << 20)  # the names of all environments stand before the title
    except (OSError, http.client.HTTPException, ValueError):
        return False
    return b"<title>visdom" in page.lower()


def environments(server: "Server", proxy=True) -> list[str]:
    """The names of a server's environments; none where it does not tell them (it asks for a login, say)."""
    request = urllib.request.Request(f"{server.address()}/env_state", b"{}", {"Content-Type": "application/json"})
    try:
        with _opener(server.url, proxy).open(request, timeout=server.timeout) as answer:
            names = json.load(answer)
    except (OSError, http.client.HTTPException, ValueError):
        return []
    return names if isinstance(names, list) else []


def _opener(url, proxy=True):
    """No proxy can reach this machine's loopback."""
    local = not proxy or urlsplit(url).hostname in LOOPBACK
    return urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if local else []))


def open_at(server: "Server") -> str | None:
    """An address at which other machines reach the server without a login, as far as this one can tell; or None.

    Of a server on this machine it is asked at the address that goes out to the network; it answers at once, or refuses.
    """
    address = urlsplit(server.url).hostname if not server.is_local() else _own_address()
    if not address or address.startswith("127."):
        return None
    url = f"{urlsplit(server.url).scheme}://{f'[{address}]' if ':' in address else address}"
    return address if environments(replace(server, url=url, timeout=min(server.timeout, 2.0)), proxy=False) else None


def _own_address():
    """This machine's address in the network, or None; nothing is sent to find it."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # of no machine (RFC 5737): the route to it is all that is asked for
        return probe.getsockname()[0]


def start_server(port, log_path, env_path=None, bind="127.0.0.1", login=None) -> subprocess.Popen:
    """Start a visdom server that outlives this process, and wait until it answers.

    Args:
        port (int): 1..65535.
        log_path (path): takes its output; its warnings are appended.
        env_path (path): folder where it keeps saved environments; None for visdom's own, ~/.visdom.
        bind (str): the IP address that it listens on.
        login (tuple): (username, password) that it asks for; None for nothing.

    Raises:
        UserError: the port is taken, the address is not this machine's, the log can't be written, or the server did not
            answer within a minute.
    """
    if not 1 <= port <= 65535:
        raise UserError(f"--port={port}: not a port; choose one from 1024 to 65535")
    if port_in_use(port, bind):
        raise UserError(f"--port={port}: taken by another program; choose another port")
    if _error_of_binding(port, bind) in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        raise UserError(f"--visdom-bind={bind}: not an address of this machine; 0.0.0.0 is for all that it has")
    # A line for every message (INFO) would fill the disk in a long run.
    program, environment = START, os.environ | {"VISDOM_BIND": bind}
    command = ["-port", str(port), "-bind_local", "-logging_level", "WARNING"]
    if login:
        program, command = OWN + START, [*command, "-enable_login"]
        own = {"USERNAME": login[0], "PASSWORD": login[1], "COOKIE": secrets.token_hex(32), "USE_ENV_CREDENTIALS": "1"}
        environment |= {f"VISDOM_{name}": value for name, value in own.items()}
    command = [sys.executable, "-c", program, *command]
    if env_path is not None:
        command += ["-env_path", str(env_path)]
    log_path = Path(log_path)
    try:
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with open(log_path, "ab") as log:
            begin = log.tell()
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                env=environment,
            )  # fmt: skip
    except OSError as error:
        raise UserError(f"{log_path}: the visdom server's log can't be written ({error.strerror})") from None
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if is_visdom(port, reached_at(bind)):
            return process
        time.sleep(0.1)
    raise UserError(f"visdom did not start on port {port} ({_last_words(process, log_path, begin)}); see {log_path}")


def _last_words(process, log_path, begin) -> str:
    """End a server that does not answer; its last line since `begin`, a position in its log."""
    if process.poll() is None:
        process.kill()
        process.wait()
        return f"no answer within {START_SECONDS} s"
    lines = log_path.read_bytes()[begin:].decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit code {process.returncode}"


@dataclass(frozen=True)
class Server:
    """Where a visdom server listens, who asks there, and how long to wait for it."""

    url: str = "http://127.0.0.1"  # with scheme, without port
    port: int = 8097
    timeout: float = 3.0  # seconds that it has for each answer
    retry_every: float = 5.0  # seconds between two attempts in an outage
    username: str | None = None  # for a server with a login
    password: str | None = field(default=None, repr=False)
    bind: str = "127.0.0.1"  # the IP address that one listens on which is started

    def address(self) -> str:
        """Scheme, host and port, without the user and password that the URL may hold."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}:{self.port}"

    def is_local(self) -> bool:
        return urlsplit(self.url).hostname in LOOPBACK

    def at(self, port: int) -> "Server":
        return replace(self, port=port)


class Link:
    """A connection to one visdom server, for one environment: every call ends within `timeout` seconds or so.

    Errors are OSErrors with a short text in which no address, and so no password, occurs.

    Args:
        server: all but its `retry_every`.
        env: the environment.
    """

    def __init__(self, server: Server, env: str):
        host = urlsplit(server.url).hostname
        self._server = server
        self._placed, self._headings = {}, set()  # the windows' sizes on the page; what stands over rows of them
        self._arranged = True  # whether the page's saved layout has all of these
        # Held open: it breaks when the server's process ends, which tells a restarted server from the one we filled.
        self._probe = socket.create_connection((host, server.port), server.timeout)
        self._probe.setblocking(False)
        try:
            self._client, self._env = _client(server, env), env
            if server.username:
                self._log_in(server)
            self._greet()
        except BaseException:
            self._probe.close()
            raise

    def _log_in(self, server):
        """As visdom's own client does it; its session keeps the cookie."""
        secret = hashlib.sha256((server.password or "").encode()).hexdigest()
        try:
            self._client.session.post(
                f"{server.url}:{server.port}", json={"username": server.username, "password": secret}
            )
        except ConnectionError as error:
            raise ConnectionError("it refused the login") if "login" in str(error) else error from None

    def _greet(self):
        try:
            known = isinstance(self._client.get_env_list(), list)
        except ValueError:
            known = False
        if not known:
            raise ConnectionError("what answers there is not visdom")

    def alive(self) -> bool:
        """Whether the server's process is still the one that we connected to."""
        try:
            return self._probe.recv(1) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def close(self):
        self._probe.close()
        self._client.session.close()

    def save(self, envs):
        """Have the server write these environments to its disk; those that it does not know are left out."""
        try:
            known = isinstance(json.loads(self._client.save(list(envs))), list)
        except (ValueError, TypeError):
            known = False
        if not known:
            raise ConnectionError("the environment could not be saved")

    def send(self, win, draft) -> bool:
        """Send one window; False, with nothing sent, where something is to be added to a window that is not there."""
        if win not in self._placed or self._client._win_exists_wrap(win) != "true":
            if not draft.whole:
                return False
            self._place(win)
        size = size_of(win, draft.kind, len(draft.content[0]) if draft.kind in ("heatmap", "bars") else 0)
        if self._placed.get(win) != size:
            self._placed[win], self._arranged = size, False
        if draft.kind == "chart":
            self._post(win, size, *panes.chart(win, draft.content, draft.whole), append=not draft.whole)
        elif draft.kind == "history":
            for k, one in enumerate(draft.content):
                self._post(win, size, *panes.frame(one, size), append=not draft.whole or k > 0)
        elif draft.kind == "img":
            self._post(win, size, *panes.img(draft.content, size))
        else:
            self._post(win, size, *getattr(panes, draft.kind)(win, draft.content))
        return True

    def _post(self, win, size, data, layout=None, append=False):
        message = {"data": data, "win": win, "eid": self._env}
        if append:  # what the page's user has made of the window stays
            message["append"] = True
        else:
            message |= {"opts": {"title": win, "width": size[0], "height": size[1]}, "layout": layout}
        reply = self._client._send(message, endpoint="update" if append else "events")
        if reply != win:  # visdom answers with the window's name; False, '' and error pages come from elsewhere
            raise ConnectionError("the server did not take a window")

    def _place(self, win):
        """Have the page show a new window, and its row's heading, in the order of `dashboard_layout`."""
        for heading, order in headings_of([*self._placed, win]).items():
            if heading not in self._headings:
                self._order(heading_id(heading), order)
                width, height = HEADING_SIZE
                opts = {"title": "", "width": width, "height": height}
                self._client.text(heading_html(heading), win=heading_id(heading), opts=opts)
                self._headings.add(heading)
        if place(win).order < 0:
            self._order(win, place(win).order)

    def _order(self, win, order):
        """Write down a window's order at the server, which else counts up: before the window comes, or into it."""
        pane = {"command": "window", "id": win, "type": "text", "title": "", "content": "", "contentID": win}
        if self._client._win_exists_wrap(win) == "true":
            pane = json.loads(self._client.get_window_data(win))
        if pane.get("i") != order:
            self._client.set_window_data(json.dumps(pane | {"i": order}), win)

    def arrange(self):
        """Save the layout for pages that are opened from now on; without effect where no websocket comes through."""
        if self._arranged:
            return
        import websocket  # visdom's own

        server = self._server
        parts = urlsplit(server.url)
        url = f"{'wss' if parts.scheme == 'https' else 'ws'}://{parts.hostname}:{server.port}/socket"
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in self._client.session.cookies)
        no_proxy = ["*"] if server.is_local() else None
        with contextlib.suppress(websocket.WebSocketException):
            page = websocket.create_connection(url, server.timeout, cookie=cookies or None, http_no_proxy=no_proxy)
            for win, item in layout_items(self._placed).items():
                command = {"cmd": "layout_item_update", "eid": self._client.env, "win": win, "data": item}
                page.send(json.dumps(command))
            page.close(timeout=server.timeout)  # waits for the server's answer, which comes after all that was sent
        self._arranged = True


def _client(server, env):
    """A visdom client that is built without a message, prints nothing and waits `server.timeout` seconds at most."""
    import visdom  # takes 2 s, and only the sender needs it

    logging.getLogger("visdom").setLevel(logging.CRITICAL)
    # With send=False the constructor does not post: its session has no timeout yet, and a hung server would hold it.
    client = visdom.Visdom(
        server=server.url, port=server.port, env=env, send=False, raise_exceptions=True, use_incoming_socket=False
    )
    client.send = True
    client.win_exists = lambda *_: True  # `send` has asked already; theirs prints when the server is gone
    client.session.trust_env = (
        urlsplit(server.url).hostname not in LOOPBACK
    )  # no proxy can reach this machine's loopback
    client.session.request = _bounded(client.session.request, server.timeout)
    return client


def _bounded(request, timeout):
    """`requests`' request with a timeout and with errors for every answer but success."""
    import requests

    def bounded(method, url, **kwargs):
        try:
            answer = request(method, url, **{**kwargs, "timeout": timeout})
        except requests.Timeout:
            raise TimeoutError(f"no answer within {timeout:g} s") from None
        except requests.RequestException:
            raise ConnectionError("the connection broke") from None
        if answer.status_code == 400:
            raise ConnectionError("it asks for a login: set VISDOM_USERNAME and VISDOM_PASSWORD")
        if not answer.ok:
            raise ConnectionError(f"HTTP status {answer.status_code}")
        return answer

    return bounded
