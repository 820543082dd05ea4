"""The dashboard: what a run records, for a visdom server and for the run's own log of events.

The caller only writes down floats, texts and pictures (microseconds; a picture is copied) and never meets the server:
see `vis_sender`.
"""

import importlib.util
import math
import os
import threading
import time
from collections import deque
from pathlib import Path

import numpy as np
from PIL import Image

from utils import array_tool as at
from utils.draw_tool import draw_bboxes, visdom_bbox
from utils.errors import UserError
from utils.event_log import EventLog
from utils.safe_read import is_within, read_bounded
from utils.terminal_tool import warn
from utils.vis_sender import Sender
from utils.vis_windows import LOG_LINES, Chart, History, Pane, Picture, style_of
from utils.visdom_server import Server

__all__ = ["Visualizer", "draw_bboxes", "visdom_bbox"]

EXPECTED = "<i>nothing yet</i>"
MAX_PICTURE_BYTES = 64 << 20  # of a recorded picture that is shown again


class Visualizer:
    """Windows of one visdom environment, under simple-faster-rcnn's method names.

    No method raises because of the server, slows the caller or waits (but `flush` and `close`, a bounded time). In a
    forked process (a data loader's worker) every method does nothing.

    Args:
        env: name of the environment; a slash becomes an underscore, as visdom itself has it, and so does a plus, by
            which its page means two environments.
        port, server: where visdom listens; or for the latter a `Server`, which says all about it. A password in the
            address is never printed.
        enabled: with False nothing is sent; curves that are loaded are kept for the next checkpoint.
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
        server: str | Server = "http://127.0.0.1",
        enabled=True,
        timeout=3.0,
        retry_every=5.0,
        notify=None,
        events: EventLog | None = None,
    ):
        self.events = events
        self.env = str(env).translate(dict.fromkeys(map(ord, "/+"), "_"))
        self._pid = os.getpid()
        self._changed = threading.Condition()  # guards the two below and tells `flush` that they changed
        self._windows: dict[str, Chart | Pane | History] = {}
        self._logs: dict[str, deque] = {}
        self._closing = False
        if not isinstance(server, Server):
            server = Server(server if "://" in server else f"http://{server}", port, timeout, retry_every)
        self._sender = Sender(self.env, server, self._windows, self._changed, notify)
        self._enabled = bool(enabled)
        if self._enabled and importlib.util.find_spec("visdom") is None:
            self._enabled = False
            self._sender.notify(
                "dashboard: visdom is not installed, so nothing is shown; install requirements.txt for it"
            )

    @property
    def connected(self) -> bool | None:
        """Whether the last attempt to send succeeded; None before the first one."""
        return self._sender.connected

    def at_step(self, step):
        """What is recorded from now on is of this step of the run."""
        if self.events is not None:
            self.events.step = int(step)

    def plot(self, name, y, x=None, line=""):
        """Append the point (x, y) to the curve `line` of the window `name`.

        A `y` that is None, infinite or NaN is a gap. `x` defaults to a counter per curve: 0, 1, ... or the last x + 1.
        A window's only curve needs no name.
        """
        if self._idle():
            return
        name, line, y, x = str(name), str(line), _finite(y), _finite(x)
        with self._changed:
            chart = self._windows.get(name)
            if not isinstance(chart, Chart):
                chart = self._windows[name] = Chart(style_of(name))
            x = chart.add(line, y, x)
        self._record(name, "point", x=x, y=y, **({"line": line} if line else {}))
        self._signal()

    def plot_many(self, d, x=None):
        """`plot` for each name and value of a dict; values that are None are left out."""
        for name, y in d.items():
            if y is not None:
                self.plot(name, y, x)

    def plot_lines(self, name, d, x=None):
        """`plot` for each curve's name and value of a dict, all in the window `name`; None is left out."""
        for line, y in d.items():
            if y is not None:
                self.plot(name, y, x, line)

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
        self._picture(name, _rgb(name, img))

    def img_many(self, d):
        """`img` for each name and picture of a dict."""
        for name, img in d.items():
            self.img(name, img)

    def follow(self, name, img, caption):
        """Add a picture, (3, H, W) as for `img`, to a window that keeps the former ones behind a slider."""
        if not self._idle():
            self._picture(name, _rgb(name, np.array(at.tonumpy(img))), str(caption))

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

    def bars(self, win, names, values):
        """Show a bar, 0..1, for each of `names`; a value that is NaN or None has none."""
        if self._idle():
            return
        names, values = [str(name) for name in names], [_finite(value) for value in values]
        if len(names) != len(values):
            raise ValueError(f"{win}: {len(names)} names, but {len(values)} values: give one for each")
        self._record(win, "bars", names=names, values=values)
        self._show(win, "bars", (names, values))

    def curves(self, win, names, x, y):
        """Show whole curves, of recall and precision, in place of what was there: for each of `names` two sequences."""
        if self._idle():
            return
        names = [str(name) for name in names]
        x, y = ([[_finite(value) for value in curve] for curve in column] for column in (x, y))
        if not len(names) == len(x) == len(y) or [*map(len, x)] != [*map(len, y)]:
            raise ValueError(f"{win}: give for each name as many x as y")
        self._record(win, "curves", names=names, x=x, y=y)
        self._show(win, "curves", (names, x, y))

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

    def n_recorded(self) -> int:
        """How many events the log has, once all of them are on the disk; 0 without a log."""
        if self.events is None:
            return 0
        self.events.sync()
        return self.events.n_events

    def save(self, envs=None):
        """Have the server write environments (default: this one) to its disk, after all that was recorded before."""
        if not self._idle() and self._enabled:
            self._sender.save([self.env] if envs is None else map(str, envs))

    def state_dict(self) -> dict:
        """Curves and logs as plain dicts, lists, numbers and strings, for a checkpoint (a gap is None)."""
        self._idle()  # renews the lock in a fork
        with self._changed:
            charts = {name: chart for name, chart in self._windows.items() if isinstance(chart, Chart)}
            return {
                "env": self.env,
                "lines": {name: chart.state_dict() for name, chart in charts.items()},
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
            for name, state in lines.items():
                self._windows[name] = Chart.from_state(name, state)
            for win, old in logs.items():
                self._logs[win] = deque(old, maxlen=LOG_LINES)
                self._windows[win] = Pane("log", self._logs[win])
        if lines or logs:
            self._signal()

    def replay(self, events, folder, run=None):
        """Show what a run recorded; its log of events does not get it a second time.

        Args:
            events: as `read_events` gives them.
            folder: the run's, where the pictures are; those that are gone are left out.
            run: its name, where several are shown beside each other: curves share their windows under it, all else has
                windows of its own. None for a run alone.
        """
        own, self.events = self.events, None
        pictures = {}  # of a window that shows one, the last
        try:
            for event in events:
                if event["kind"] == "img" and "caption" not in event:
                    pictures[event["win"]] = event
                else:
                    self._replay(event, Path(folder), run)
            for event in pictures.values():
                self._replay(event, Path(folder), run)
        finally:
            self.events = own

    def _replay(self, event, folder, run):
        win, kind = event["win"], event["kind"]
        alone = win if run is None else f"{run}: {win}"
        if kind == "point":
            line = event.get("line", "")
            self.plot(win, event["y"], event["x"], line if run is None else f"{run} {line}".strip())
        elif kind == "img":
            self._replay_picture(alone, folder, event["file"], event.get("caption"))
        elif kind == "text":
            self.text(event["text"], alone)
        elif kind == "log":
            self.log(event["text"], alone, event["time"])
        elif kind == "heatmap":
            self.heatmap(alone, np.array(event["matrix"]), event["names"])
        elif kind == "bars":
            self.bars(alone, event["names"], event["values"])
        elif kind == "curves":
            self.curves(alone, event["names"], event["x"], event["y"])

    def _replay_picture(self, win, folder, file, caption):
        path = folder / file
        try:
            if not is_within(path, folder):  # the log may be a stranger's
                return
            picture = Picture.from_jpeg(read_bounded(path, MAX_PICTURE_BYTES))
        except FileNotFoundError:
            return
        except UserError as error:
            warn(error)
            return
        except (OSError, Image.DecompressionBombError) as error:
            warn(f"{path}: left out, as it cannot be read ({getattr(error, 'strerror', 0) or 'it is no picture'})")
            return
        self._add_picture(win, picture, caption)

    def clear(self):
        """Forget all windows; those on the server stay until something of their names is recorded again."""
        if not self._idle():
            with self._changed:
                self._windows.clear()
                self._logs.clear()

    def flush(self, timeout=5.0) -> bool:
        """Wait until all that was recorded has arrived, at most `timeout` seconds; whether it has."""
        return True if self._idle() or not self._enabled else self._sender.flush(timeout)

    def close(self, timeout=5.0):
        """Send what is pending, if the server takes it within `timeout` seconds, and end; later calls do nothing."""
        if self._idle():
            return
        self._closing = True
        self._sender.close(timeout)
        if self.events is not None:
            self.events.close(timeout)

    def _idle(self) -> bool:
        """Whether there is nothing to do: closed, forked, or neither sent nor kept in `events`."""
        if os.getpid() != self._pid:  # a fork has not our threads, and its copy of the lock may be held for ever
            self._pid = os.getpid()
            self._enabled, self.events = False, None
            self._changed = threading.Condition()
        return self._closing or not (self._enabled or self.events)

    def _picture(self, name, rgb, caption=None):
        picture = Picture(rgb)
        if self.events is not None:
            self.events.add_picture(str(name), picture, caption)
        self._add_picture(name, picture, caption)

    def _add_picture(self, name, picture, caption):
        if caption is None:
            self._show(name, "img", picture)
            return
        with self._changed:
            history = self._windows.get(str(name))
            if not isinstance(history, History):
                history = self._windows[str(name)] = History()
            history.add(picture, caption)
        self._signal()

    def _record(self, win, kind, **content):
        if self.events is not None:
            self.events.add(str(win), kind, **content)

    def _show(self, name, kind, content):
        with self._changed:
            self._windows[str(name)] = Pane(kind, content)
        self._signal()

    def _signal(self):
        if not self._idle() and self._enabled:
            self._sender.signal()


def _rgb(name, img):
    """(3, H, W) float 0..1 or uint8 → (H, W, 3) uint8."""
    if img.ndim != 3 or img.shape[0] != 3 or 0 in img.shape:
        raise ValueError(f"{name}: a picture of shape {img.shape}: (3, H, W) is needed")
    if img.dtype != np.uint8:
        img = (np.nan_to_num(img, posinf=1, neginf=0).clip(0, 1) * 255).round().astype(np.uint8)
    return np.ascontiguousarray(img.transpose(1, 2, 0))


def _finite(value) -> float | None:
    """A float; None for what is None, infinite or NaN."""
    value = None if value is None else float(at.scalar(value))
    return value if value is not None and math.isfinite(value) else None
