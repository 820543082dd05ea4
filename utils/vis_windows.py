"""The windows of a dashboard as a run keeps them: what is in them, and how much of it a server has.

Whoever records changes them; the sender takes a `Draft` of what is new and says when it has arrived (`done`), or that a
server is empty (`forget`). All of it under the visualizer's lock.
"""

import threading
from collections import deque
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

MAX_POINTS = 2_000  # of a window: an append costs the server O(points in it), 22 ms at 2,000, 99 ms at 10,000
MARKED_POINTS = 30  # up to here a curve shows its points, else a single one (test_map after one epoch) draws nothing
LOG_LINES = 500  # the newest ones of a log
MAX_FRAMES = 30  # of a window with a history: the page of an environment holds them all
JPEG_QUALITY = 90


class Draft(NamedTuple):
    """One window's message."""

    kind: str  # chart, img, history, text, log, heatmap, bars or curves
    content: Any
    whole: bool = True  # False, charts and histories only: what is to be appended
    mark: tuple = ()  # the window's own note: what will have arrived with this


class Style(NamedTuple):
    """How a window of curves looks."""

    ylabel: str = ""
    xlabel: str = "step"
    smooth: bool = False  # each curve thin, under its moving average
    best: bool = False  # the greatest value is marked
    from_zero: bool = False
    legend: tuple[float, float] = (1, 1)  # where it hides no curve: shares of the plot's width and height


STYLES = {
    "test_map": Style("mAP (VOC07, 11-point)", "epoch", best=True, from_zero=True, legend=(1, 0)),
    "learning_rate": Style("learning rate", from_zero=True),
    "images_per_second": Style("images / s", from_zero=True),
    "step_time": Style("ms / step", from_zero=True, legend=(1, 0.45)),
    "memory": Style("GB", from_zero=True),
    "rpn_recall": Style("share of true boxes found", smooth=True, from_zero=True, legend=(1, 0)),
    "sample_counts": Style("samples / image", from_zero=True, legend=(1, 0.7)),
}


def style_of(win: str) -> Style:
    """The `Style` of the window `win`; losses are smoothed, others that are not known are plain."""
    return STYLES.get(win, Style(smooth=win.endswith("_loss")))


@dataclass(eq=False)
class Series:
    """One curve; y is None at a gap. Of a long one every `stride`-th point is kept, with the newest ones."""

    x: list[float] = field(default_factory=list)
    y: list[float | None] = field(default_factory=list)
    next_x: float = 0.0
    place: list[int] = field(default_factory=list)  # of each point, among all that ever came
    stride: int = 1

    def add(self, x, y):
        self.place.append(self.place[-1] + 1 if self.place else 0)
        self.x.append(x)
        self.y.append(y)
        self.next_x = x + 1

    def thin(self, limit):
        """Leave out points until there is room for a quarter of `limit`; the first and the newest stay.

        The strides are powers of two, so that those of each are among those of the one before: the curve stays even.
        """
        while True:
            kept = [i for i, place in enumerate(self.place[:-1]) if place % self.stride == 0] + [len(self.x) - 1]
            if len(kept) <= 0.75 * limit:
                break
            self.stride *= 2
        self.x, self.y, self.place = ([column[i] for i in kept] for column in (self.x, self.y, self.place))

    def state_dict(self) -> dict:
        state = {"x": [*self.x], "y": [*self.y], "next_x": self.next_x}
        return state | ({"place": [*self.place], "stride": self.stride} if self.stride > 1 else {})

    @classmethod
    def from_state(cls, state) -> "Series":
        x = [*state.get("x", ())]
        place = [*state.get("place", range(len(x)))]
        return cls(x, [*state.get("y", ())], state["next_x"], place, state.get("stride", 1))


@dataclass(eq=False)
class Chart:
    """A window of curves by name (a window's only curve is named ''), and how many of their points the server has."""

    style: Style = field(default_factory=Style)
    series: dict[str, Series] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)  # empty: the server has nothing
    version: int = 0  # counts the times it was to be sent anew: what was under way before does not count

    def add(self, line, y, x):
        """Add a point to the curve `line`, where `x` is None behind the last. Returns its x."""
        new = line not in self.series
        series = self.series.setdefault(line, Series())
        x = series.next_x if x is None else x
        series.add(x, y)
        self._thin()
        if new or len(series.y) == MARKED_POINTS + 1:
            self.forget()  # sent anew, with the new one, or without marks
        return x

    def _thin(self):
        n_traces = len(self.series) * (1 + self.style.smooth)
        limit = max(MAX_POINTS // n_traces, 100)
        for series in self.series.values():
            if len(series.y) > limit:
                series.thin(limit)
                self.forget()

    @property
    def pending(self) -> bool:
        return any(self.sent.get(name, 0) < len(series.y) for name, series in self.series.items())

    def forget(self):
        self.sent = {}
        self.version += 1

    def draft(self) -> Draft:
        whole = not self.sent or self.style.best  # the mark of the best moves
        curves = {
            name: (tuple(s.x), tuple(s.y), 0 if whole else self.sent.get(name, 0)) for name, s in self.series.items()
        }
        counts = {name: len(series.y) for name, series in self.series.items()}
        return Draft("chart", (self.style, curves), whole, (self.version, counts))

    def done(self, draft):
        version, counts = draft.mark
        if version == self.version:
            self.sent = counts

    def state_dict(self) -> dict:
        lines = {name: series.state_dict() for name, series in self.series.items()}
        return lines[""] if lines.keys() == {""} else {"lines": lines}

    @classmethod
    def from_state(cls, win, state) -> "Chart":
        lines = state.get("lines", {"": state})
        return cls(style_of(win), {name: Series.from_state(line) for name, line in lines.items()})


@dataclass(eq=False)
class Pane:
    """A picture, text, log, matrix, …; a newer one replaces the object, so memory does not grow."""

    kind: str
    content: Any
    pending: bool = True

    def forget(self):
        self.pending = True

    def draft(self) -> Draft:
        return Draft(self.kind, tuple(self.content) if self.kind == "log" else self.content)

    def done(self, draft):
        self.pending = False


class Picture:
    """(H, W, 3) uint8 RGB that becomes a JPEG once, for whoever asks first: the event log or the sender."""

    def __init__(self, rgb: np.ndarray):
        self.height, self.width = rgb.shape[:2]
        self._rgb, self._jpeg = rgb, None
        self._lock = threading.Lock()

    @classmethod
    def from_jpeg(cls, content: bytes) -> "Picture":
        """A picture that is a JPEG already. Raises what Pillow does where it is none."""
        with Image.open(BytesIO(content), formats=["JPEG"]) as img:
            picture = cls(np.empty((img.height, img.width, 0), np.uint8))
        picture._jpeg = content
        return picture

    def jpeg(self, white_below: int = 0) -> bytes:
        """The file, or one with so many rows of white below the picture."""
        with self._lock:
            if self._jpeg is None:
                self._jpeg, self._rgb = _encoded(Image.fromarray(self._rgb)), None
        if not white_below:
            return self._jpeg
        higher = Image.new("RGB", (self.width, self.height + white_below), "white")
        with Image.open(BytesIO(self._jpeg)) as own:
            higher.paste(own)
        return _encoded(higher)

    def fitted(self, size: tuple[int, int], below: int) -> bytes:
        """The file of a picture of `size` (width, height), white but for this one, as large as fits over `below` rows.

        It stands in the middle of the upper edge.
        """
        width, height = size
        scale = min(width / self.width, (height - below) / self.height)
        inner = max(1, round(self.width * scale)), max(1, round(self.height * scale))
        whole = Image.new("RGB", size, "white")
        with Image.open(BytesIO(self.jpeg())) as own:
            whole.paste(own.convert("RGB").resize(inner, Image.Resampling.LANCZOS), ((width - inner[0]) // 2, 0))
        return _encoded(whole)


def _encoded(img):
    buffer = BytesIO()
    img.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


@dataclass(eq=False)
class History:
    """Pictures of one thing as it changes, with captions; of many every second goes, the first and the newest stay."""

    frames: deque = field(default_factory=deque)  # (Picture, caption)
    sent: int = 0
    version: int = 0

    def add(self, picture, caption):
        self.frames.append((picture, caption))
        if len(self.frames) > MAX_FRAMES:
            kept = [frame for i, frame in enumerate(self.frames) if i % 2 == 0 or i == len(self.frames) - 1]
            self.frames = deque(kept)
            self.forget()

    @property
    def pending(self) -> bool:
        return self.sent < len(self.frames)

    def forget(self):
        self.sent = 0
        self.version += 1

    def draft(self) -> Draft:
        new = [*self.frames][self.sent :]
        return Draft("history", new, self.sent == 0, (self.version, len(self.frames)))

    def done(self, draft):
        version, sent = draft.mark
        if version == self.version:
            self.sent = sent
