"""The dashboard: what a run records, and the one thread that carries it to a visdom server.

The caller only writes down floats, texts and pictures (microseconds; a picture is copied) and never meets the server:
absent, killed, restarted empty or hung, it costs the run nothing. A daemon thread sends what is pending, one message a
window, and after an outage sends every window whole, so that nothing is lost.
"""

import atexit
import importlib.util
import logging
import math
import os
import sys
import threading
import time
from collections import deque
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from tqdm import tqdm

from utils import array_tool as at
from utils.dashboard_layout import in_order
from utils.draw_tool import draw_bboxes, visdom_bbox
from utils.event_log import EventLog
from utils.image_tool import read_image
from utils.vis_windows import Line, Pane
from utils.visdom_server import Link

__all__ = ["Visualizer", "draw_bboxes", "visdom_bbox"]

LOG_LINES = 500
EXPECTED = "<i>nothing yet</i>"
PAUSE = 0.25  # seconds between two batches: an open page loses points of appends that come in a burst


class Visualizer:
    """Windows of one visdom environment, under simple-faster-rcnn's method names.

    No method raises because of the server, slows the caller or waits (but `flush` and `close`, a bounded time). In a
    forked process (a data loader's worker) every method does nothing.

    Args:
        env: name of the environment; a slash becomes an underscore, as visdom itself has it.
        port, server: where visdom listens. A password in the address is never printed.
        enabled: with False nothing is recorded or sent; curves that are loaded are kept for the next checkpoint.
        timeout: seconds that the server has for each answer.
        retry_every: seconds between two attempts in an outage.
        notify: takes one line when an outage begins and one when it ends; by default to stderr, between the bars.
        events: where all that is recorded is kept, whatever the server does, also with `enabled` False; None for
            nowhere. The visualizer closes it at its end.
    """

    def __init__(
        self,
        env="faster-rcnn",
        port=8097,
        server="http://127.0.0.1",
        enabled=True,
        timeout=3.0,
        retry_every=5.0,
        notify=None,
        events: EventLog | None = None,
    ):
        self.events = events
        self.env = str(env).replace("/", "_")
        self.port = port
        self.server = server if "://" in server else f"http://{server}"
        self.timeout = timeout
        self.retry_every = retry_every
        self._notify_with = notify or _print_line
        self._pid = os.getpid()
        self._changed = threading.Condition()  # guards the four below and tells `flush` that they changed
        self._windows: dict[str, Line | Pane] = {}
        self._logs: dict[str, deque] = {}
        self._to_save: set[str] = set()
        self._thread = None
        self._wake, self._hurry = threading.Event(), threading.Event()  # something is pending; don't pause
        self._closing = False
        self._link = None  # the sender's alone, like `_connected`
        self._connected = None
        self._enabled = bool(enabled)
        if self._enabled and importlib.util.find_spec("visdom") is None:
            self._enabled = False
            self._notify("dashboard: visdom is not installed, so nothing is shown; install requirements.txt for it")

    @property
    def connected(self) -> bool | None:
        """Whether the last attempt to send succeeded; None before the first one."""
        return self._connected

    def at_step(self, step):
        """What is recorded from now on is of this step of the run."""
        if self.events is not None:
            self.events.step = int(step)

    def plot(self, name, y, x=None):
        """Append the point (x, y) to the curve `name`. A `y` that is None, infinite or NaN is a gap in the curve.

        `x` defaults to a counter per window: 0, 1, ... or the last x + 1.
        """
        if self._idle():
            return
        name, y, x = str(name), _finite(y), _finite(x)
        with self._changed:
            line = self._windows.get(name)
            if not isinstance(line, Line):
                line = self._windows[name] = Line()
            x = line.add(y, x)
        self._record(name, "point", x=x, y=y)
        self._signal()

    def plot_many(self, d, x=None):
        """`plot` for each name and value of a dict; values that are None are left out."""
        for name, y in d.items():
            if y is not None:
                self.plot(name, y, x)

    def img(self, name, img):
        """Show a picture, in place of the one before: (3, H, W) RGB, float 0..1 or uint8, array or tensor.

        A matrix, (H, W) or (1, H, W), such as a confusion meter's counts, is shown grey, its largest value white.
        """
        if self._idle():
            return
        img = np.array(at.tonumpy(img))  # a copy: the caller may go on with its buffer
        if img.ndim == 2 or img.shape[:1] == (1,):
            grey = img.reshape(img.shape[-2:]).astype(np.float64)
            img = np.stack([grey / max(grey.max(initial=0), 1e-12)] * 3)
        if img.ndim != 3 or img.shape[0] != 3 or 0 in img.shape:
            raise ValueError(f"{name}: a picture of shape {img.shape}: (3, H, W) is needed")
        if img.dtype != np.uint8:
            img = (np.nan_to_num(img, posinf=1, neginf=0).clip(0, 1) * 255).round().astype(np.uint8)
        if self.events is not None:
            self.events.add_picture(str(name), img.transpose(1, 2, 0))
        self._show(name, "img", img)

    def img_many(self, d):
        """`img` for each name and picture of a dict."""
        for name, img in d.items():
            self.img(name, img)

    def text(self, text, win):
        """Show `text` (HTML, as visdom takes it) in the window `win`, in place of what was there."""
        if not self._idle():
            self._record(win, "text", text=str(text))
            self._show(win, "text", str(text))

    def heatmap(self, win, matrix, names):
        """Show a confusion matrix: row = target (row 0 on top), column = prediction, each row as shares of its sum.

        Args:
            matrix (array or tensor): (L, L) counts, or anything not negative.
            names (sequence of str): the classes; an index outside them is shown as its number.
        """
        if self._idle():
            return
        matrix = np.array(at.tonumpy(matrix), dtype=np.float64)
        if matrix.ndim != 2 or 0 in matrix.shape:
            raise ValueError(f"{win}: a matrix of shape {matrix.shape}: (L, L) is needed")
        names = [str(name) for name in names]
        self._record(win, "heatmap", matrix=matrix.tolist(), names=names)
        self._show(win, "heatmap", (matrix, names))

    def log(self, info, win="log_text", at=None):
        """Append a line, with the time, to the text window `win`; it keeps the last 500 lines.

        `at` is in seconds since 1970; None is now.
        """
        if self._idle():
            return
        with self._changed:
            lines = self._logs.setdefault(str(win), deque(maxlen=LOG_LINES))
            lines.append(f"[{time.strftime('%m-%d %H:%M:%S', time.localtime(at))}] {info}")
            self._windows[str(win)] = Pane("log", lines)
        self._record(win, "log", text=str(info))
        self._signal()

    def expect(self, windows):
        """Keep places for windows that will come, so that a page which is open meanwhile has them in order."""
        if self._idle():
            return
        with self._changed:
            for win in windows:
                self._windows.setdefault(win, Pane("text", EXPECTED))
        self._signal()

    def save(self, envs=None):
        """Have the server write environments (default: this one) to its disk, after all that was recorded before."""
        if self._idle():
            return
        with self._changed:
            self._to_save.update([self.env] if envs is None else map(str, envs))
        self._signal()

    def state_dict(self) -> dict:
        """Curves and logs as plain dicts, lists, numbers and strings, for a checkpoint (a gap is None)."""
        self._idle()  # renews the lock in a fork
        with self._changed:
            lines = {name: line for name, line in self._windows.items() if isinstance(line, Line)}
            return {
                "env": self.env,
                "lines": {name: {"x": [*i.x], "y": [*i.y], "next_x": i.next_x} for name, i in lines.items()},
                "log": {win: list(log) for win, log in self._logs.items()},
            }

    def load_state_dict(self, d):
        """Take over the curves and logs of a `state_dict` (also of simple-faster-rcnn's: its counters and its log).

        Windows of the same names are replaced, others stay; the environment stays the one given at construction.
        """
        self._idle()
        legacy = {"log_text": [i.strip() for i in d.get("log_text", "").split("<br>") if i.strip()]}
        logs = {win: old for win, old in (d.get("log") or legacy).items() if old}
        lines = {name: {"next_x": count} for name, count in d.get("index", {}).items()} | d.get("lines", {})
        with self._changed:
            for name, i in lines.items():
                self._windows[name] = Line([*i.get("x", ())], [*i.get("y", ())], i["next_x"])
            for win, old in logs.items():
                self._logs[win] = deque(old, maxlen=LOG_LINES)
                self._windows[win] = Pane("log", self._logs[win])
        if lines or logs:
            self._signal()

    def flush(self, timeout=5.0) -> bool:
        """Wait until all that was recorded has arrived, at most `timeout` seconds; whether it has."""
        if self._idle() or not self._enabled:
            return True
        self._hurry.set()
        self._wake.set()
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending(), timeout)

    def close(self, timeout=5.0):
        """Send what is pending, if the server takes it within `timeout` seconds, and end; later calls do nothing."""
        if self._idle():
            return
        self._closing = True
        self._wake.set()
        self._hurry.set()
        if self._thread is not None:
            atexit.unregister(self.close)
            self._thread.join(timeout)
        if self.events is not None:
            self.events.close(timeout)

    def _idle(self) -> bool:
        """Whether there is nothing to do: closed, forked, or neither sent nor kept in `events`."""
        if os.getpid() != self._pid:  # a fork has not our threads, and its copy of the lock may be held for ever
            self._pid = os.getpid()
            self._enabled, self.events = False, None
            self._changed = threading.Condition()
        return self._closing or not (self._enabled or self.events)

    def _record(self, win, kind, **content):
        if self.events is not None:
            self.events.add(str(win), kind, **content)

    def _show(self, name, kind, content):
        with self._changed:
            self._windows[str(name)] = Pane(kind, content)
        self._signal()

    def _signal(self):
        """Wake the sender; the first call starts it."""
        if self._idle() or not self._enabled:
            return
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="visdom-sender", daemon=True)
                self._thread.start()
                atexit.register(self.close)  # a script that ends without close() still gets its last points out
        if not self._wake.is_set():
            self._wake.set()

    def _pending(self) -> bool:
        return bool(self._to_save) or any(window.pending for window in self._windows.values())

    # From here on: the sender's thread.

    def _run(self):
        while True:
            self._wake.wait(self.retry_every)  # an idle run still looks now and then whether the server was restarted
            self._wake.clear()
            closing = self._closing  # read before the round: what was recorded before close() goes out
            delivered = self._round()
            if closing:
                return
            self._hurry.wait(PAUSE if delivered else self.retry_every)
            self._hurry.clear()
            if not delivered:
                self._wake.set()

    def _round(self) -> bool:
        """Send all that is pending, or note the outage; says whether the server took it."""
        try:
            self._deliver()
            if self._link is not None:
                if self._connected is False:
                    self._notify(f"dashboard is back: {_address(self.server, self.port)}/env/{self.env}")
                self._connected = True
            return True
        except Exception as error:  # whatever it is, the run must not notice
            self._drop_link()
            if self._connected is not False:
                self._connected = False
                reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
                where = _address(self.server, self.port)
                again = f"the run goes on, all is sent once it answers (tried every {self.retry_every:g} s)"
                self._notify(f"dashboard: visdom at {where} takes nothing ({reason}); {again}")
            return False
        finally:
            with self._changed:
                self._changed.notify_all()

    def _deliver(self):
        """One pass over the windows; raises OSError where the server is at fault."""
        if self._link is not None and not self._link.alive():
            self._drop_link()
        with self._changed:
            if not self._pending():
                return
        if self._link is None:
            self._link = Link(self.server, self.port, self.env, self.timeout)
        with self._changed:
            windows = [(name, window) for name, window in self._windows.items() if window.pending]
            to_save = set(self._to_save)
        windows = dict(windows)
        for name in in_order(windows):
            self._send(name, windows[name])
        self._link.arrange()
        if to_save:
            self._link.save(sorted(to_save))
            with self._changed:
                self._to_save -= to_save

    def _send(self, name, window):
        with self._changed:
            draft = window.draft()
        try:
            if not self._link.send(name, draft):  # closed on the page: it comes back whole
                with self._changed:
                    window.forget()
                    draft = window.draft()
                self._link.send(name, draft)
        except OSError:
            raise
        except Exception as error:  # what visdom can't draw must not hold up the other windows
            self._notify(f"dashboard: window {name} can't be drawn ({type(error).__name__}: {error})")
        with self._changed:
            window.done(draft)

    def _drop_link(self):
        """The server is gone, or may have been restarted empty: every window is to be sent whole."""
        if self._link is not None:
            self._link.close()
            self._link = None
        with self._changed:
            for window in self._windows.values():
                window.forget()

    def _notify(self, line):
        try:
            self._notify_with(line)
        except Exception:  # a closed stderr must not end the sender
            logging.getLogger(__name__).debug("the line %r could not be shown", line)


def replay(events, folder, vis):
    """Show the events of a run, as `read_events` gives them, of which the pictures lie in `folder`."""
    for event in events:
        win, kind = event["win"], event["kind"]
        if kind == "point":
            vis.plot(win, event["y"], event["x"])
        elif kind == "img":
            vis.img(win, read_image(Path(folder, event["file"])).astype(np.uint8))
        elif kind == "text":
            vis.text(event["text"], win)
        elif kind == "log":
            vis.log(event["text"], win, event["time"])
        elif kind == "heatmap":
            vis.heatmap(win, np.array(event["matrix"]), event["names"])


def _finite(value) -> float | None:
    """A float; None for what is None, infinite or NaN."""
    value = None if value is None else float(at.scalar(value))
    return value if value is not None and math.isfinite(value) else None


def _address(server, port) -> str:
    """The server's address without the user and password that it may hold."""
    parts = urlsplit(server)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}:{port}"


def _print_line(line):
    tqdm.write(line, file=sys.stderr)
