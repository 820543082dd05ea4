"""What talks to a visdom server: is there one, start one, and a connection whose calls always end."""

import contextlib
import errno
import html
import http.client
import json
import logging
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np

from utils.dashboard_layout import (
    BAR,
    HEADING_SIZE,
    heading_html,
    heading_id,
    headings_of,
    layout_items,
    place,
    size_of,
)
from utils.errors import UserError

START_SECONDS = 60  # a start takes 1.3 s on an idle machine, and has taken over 15 on one whose cores others had
# `visdom` itself would first fetch its page's files from the net (misc/visdom_assets.py does that); this does not.
START = "from visdom.server.run_server import main; main()"
LOOPBACK = ("127.0.0.1", "localhost", "::1")

MARKED_POINTS = 30  # up to here a curve shows its points, else a single one (test_map after one epoch) draws nothing
JPEG_QUALITY = 90
# The newest line stays in view: a reversed column starts at its end; visdom's text window does not scroll by itself.
LOG_STYLE = "position:absolute;inset:0;padding:4px;overflow:auto;display:flex;flex-direction:column-reverse"


def port_in_use(port) -> bool:
    """Whether some program holds `port` on 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port whose last connections linger is free
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def is_visdom(port, server="http://127.0.0.1", timeout=2) -> bool:
    """Whether a visdom server (with or without a login) answers there within `timeout` seconds."""
    local = urlsplit(server).hostname in LOOPBACK
    opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if local else []))
    try:
        with opener.open(f"{server}:{port}/", timeout=timeout) as answer:
            page = answer.read(1 << 20)  # the names of all environments stand before the title
    except (OSError, http.client.HTTPException, ValueError):
        return False
    return b"<title>visdom" in page.lower()


def start_server(port, log_path, env_path=None) -> subprocess.Popen:
    """Start a visdom server on 127.0.0.1 that outlives this process, and wait until it answers.

    Args:
        port (int): 1..65535.
        log_path (path): takes its output; its warnings are appended.
        env_path (path): folder where it keeps saved environments; None for visdom's own, ~/.visdom.

    Raises:
        UserError: the port is taken, the log can't be written, or the server did not answer within a minute.
    """
    if not 1 <= port <= 65535:
        raise UserError(f"--port={port}: not a port; choose one from 1024 to 65535")
    if port_in_use(port):
        raise UserError(f"--port={port}: taken by another program; choose another port")
    # A line for every message (INFO) would fill the disk in a long run.
    command = [sys.executable, "-c", START, "-port", str(port), "-bind_local", "-logging_level", "WARNING"]
    if env_path is not None:
        command += ["-env_path", str(env_path)]
    log_path = Path(log_path)
    try:
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with open(log_path, "ab") as log:
            begin = log.tell()
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
    except OSError as error:
        raise UserError(f"{log_path}: the visdom server's log can't be written ({error.strerror})") from None
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if is_visdom(port):
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


class Draft(NamedTuple):
    """One window's message."""

    kind: str  # line, img, text, log or heatmap
    content: Any
    whole: bool = True  # False, curves only: the points to append
    mark: tuple = ()  # the sender's own note: what will have arrived with this

    def size(self, win) -> tuple[int, int]:
        """(width, height) of the window `win` on the page, in pixels."""
        return size_of(win, self.kind, len(self.content[0]) if self.kind == "heatmap" else 0)


class Link:
    """A connection to one visdom server, for one environment: every call ends within `timeout` seconds or so.

    Errors are OSErrors with a short text in which no address, and so no password, occurs.

    Args:
        server (str): with scheme, without port.
        port (int), env (str), timeout (float, seconds).
    """

    def __init__(self, server, port, env, timeout):
        host = urlsplit(server).hostname
        self._server, self._port, self._timeout = server, port, timeout
        self._placed, self._headings = {}, set()  # the windows' sizes on the page; what stands over rows of them
        self._arranged = True  # whether the page's saved layout has all of these
        # Held open: it breaks when the server's process ends, which tells a restarted server from the one we filled.
        self._probe = socket.create_connection((host, port), timeout)
        self._probe.setblocking(False)
        try:
            self._client = _client(server, port, env, timeout)
            self._greet()
        except BaseException:
            self._probe.close()
            raise

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
        """Send one window; False, with nothing sent, where points are to be appended to a window that is not there."""
        if win not in self._placed or self._client._win_exists_wrap(win) != "true":
            if not draft.whole:
                return False
            self._place(win)
        if self._placed.get(win) != draft.size(win):
            self._placed[win], self._arranged = draft.size(win), False
        if draft.kind == "line":
            reply = self._line(win, *draft.content, draft.whole)
        else:
            reply = getattr(self, f"_{draft.kind}")(win, draft.content)
        if reply != win:  # visdom answers with the window's name; False, '' and error pages come from elsewhere
            raise ConnectionError("the server did not take a window")
        return True

    def _place(self, win):
        """Have the page show a new window, and its row's heading, in the order of `dashboard_layout`."""
        width, height = HEADING_SIZE
        for heading, order in headings_of([*self._placed, win]).items():
            if heading not in self._headings:
                self._order(heading_id(heading), order)
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

        parts = urlsplit(self._server)
        url = f"{'wss' if parts.scheme == 'https' else 'ws'}://{parts.hostname}:{self._port}/socket"
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in self._client.session.cookies)
        no_proxy = ["*"] if parts.hostname in LOOPBACK else None
        with contextlib.suppress(websocket.WebSocketException):
            page = websocket.create_connection(url, self._timeout, cookie=cookies or None, http_no_proxy=no_proxy)
            for win, item in layout_items(self._placed).items():
                command = {"cmd": "layout_item_update", "eid": self._client.env, "win": win, "data": item}
                page.send(json.dumps(command))
            page.close(timeout=self._timeout)  # waits for the server's answer, which comes after all that was sent
        self._arranged = True

    def _line(self, win, x, y, whole):
        # The page's tool bar lies over the upper margin: the title stands at its lower edge.
        title = {"text": win, "yref": "paper", "y": 1, "yanchor": "bottom", "pad": {"b": 6}, "font": {"size": 15}}
        opts = {"title": win, "xlabel": "step", "markers": len(y) <= MARKED_POINTS, "markersize": 5}
        opts |= _box(win, "line") | {"marginleft": 48, "marginright": 16, "margintop": 56, "marginbottom": 50}
        opts["layoutopts"] = {"plotly": {"title": title}}
        x, y = np.array(x, dtype=np.float64), np.array(y, dtype=np.float64)  # None becomes NaN, visdom's gap
        return self._client.line(y, x, win=win, opts=opts if whole else None, update=None if whole else "append")

    def _img(self, win, img):
        options = {"title": win, "jpgquality": JPEG_QUALITY} | _box(win, "img")
        # The page forgets its title's bar and draws a high picture over its window's lower edge: white is cut there.
        below = -(-img.shape[1] * (BAR + 2) // options["height"])
        img = np.pad(img, ((0, 0), (0, below), (0, 0)), constant_values=255)
        return self._client.image(img, win=win, opts=options)

    def _text(self, win, text):
        return self._client.text(text, win=win, opts={"title": win} | _box(win, "text"))

    def _log(self, win, lines):
        body = "<br>".join(html.escape(line, quote=False) for line in lines)
        opts = {"title": win} | _box(win, "log")
        return self._client.text(f'<div style="{LOG_STYLE}"><div>{body}</div></div>', win=win, opts=opts)

    def _heatmap(self, win, content):
        matrix, names = content
        total = matrix.sum(axis=1, keepdims=True)
        share = np.divide(matrix, total, out=np.zeros_like(matrix), where=total > 0)
        axis = {
            "type": "category",
            "dtick": 1,
            "automargin": True,
            "tickfont": {"size": 11 if len(matrix) <= 30 else 8},
        }
        layout = {
            "xaxis": axis | {"title": "prediction", "tickangle": -90},
            "yaxis": axis | {"title": "target", "autorange": "reversed"},  # else visdom's page has row 0 at the bottom
        }
        opts = {
            "title": win,
            "columnnames": _axis_names(names, matrix.shape[1]),
            "rownames": _axis_names(names, matrix.shape[0]),
            "xmin": 0,
            "xmax": 1,
            "layoutopts": {"plotly": layout},
            **_box(win, "heatmap", len(matrix)),
        }
        return self._client.heatmap(share, win=win, opts=opts)


def _box(win, kind, n_classes=0):
    """The options of a window that say how large it is on the page."""
    width, height = size_of(win, kind, n_classes)
    return {"width": width, "height": height}


def _axis_names(names, count):
    """`count` different strings: the page would draw two rows of one name in the same place."""
    names = [names[i] if i < len(names) else str(i) for i in range(count)]
    return [name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names)]


def _client(server, port, env, timeout):
    """A visdom client that is built without a message, prints nothing and waits `timeout` seconds at most."""
    import visdom  # takes 2 s, and only the sender needs it

    logging.getLogger("visdom").setLevel(logging.CRITICAL)
    # With send=False the constructor does not post: its session has no timeout yet, and a hung server would hold it.
    client = visdom.Visdom(
        server=server, port=port, env=env, send=False, raise_exceptions=True, use_incoming_socket=False
    )
    client.send = True
    client.win_exists = lambda *_: True  # `send` has asked already; theirs prints when the server is gone
    client.session.trust_env = urlsplit(server).hostname not in LOOPBACK  # no proxy can reach this machine's loopback
    client.session.request = _bounded(client.session.request, timeout)
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
            raise ConnectionError("it asks for a login; start it without -enable_login")
        if not answer.ok:
            raise ConnectionError(f"HTTP status {answer.status_code}")
        return answer

    return bounded
