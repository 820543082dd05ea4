"""The windows of a dashboard as a run keeps them: what is in them, and how much of it a server has."""

from dataclasses import dataclass, field
from typing import Any

from utils.visdom_server import MARKED_POINTS, Draft

MAX_POINTS = 2_000  # of a curve: an append costs the server O(points in the window), 22 ms at 2,000, 99 ms at 10,000


@dataclass(eq=False)
class Line:
    """A curve (y is None at a gap), and how many of its points the server has."""

    x: list[float] = field(default_factory=list)
    y: list[float | None] = field(default_factory=list)
    next_x: float = 0.0
    sent: int = 0
    version: int = 0  # counts the times it was to be sent anew: what was under way before does not count

    def add(self, y, x):
        """Add a point, where `x` is None behind the last. Returns its x."""
        x = self.next_x if x is None else x
        self.x.append(x)
        self.y.append(y)
        self.next_x = x + 1
        if len(self.y) > MAX_POINTS:
            del self.x[1::2], self.y[1::2]  # of 2,001 points the first and the newest stay
            self.forget()
        elif len(self.y) == MARKED_POINTS + 1:
            self.forget()  # sent anew, now without marks
        return x

    @property
    def pending(self) -> bool:
        return self.sent < len(self.y)

    def forget(self):
        self.sent = 0
        self.version += 1

    def draft(self) -> Draft:
        new = slice(self.sent, None)
        return Draft("line", (self.x[new], self.y[new]), self.sent == 0, (self.version, len(self.y)))

    def done(self, draft):
        version, sent = draft.mark
        if version == self.version:
            self.sent = sent


@dataclass(eq=False)
class Pane:
    """A picture, text, log or matrix; a newer one replaces the object, so memory does not grow."""

    kind: str
    content: Any
    pending: bool = True

    def forget(self):
        self.pending = True

    def draft(self) -> Draft:
        return Draft(self.kind, tuple(self.content) if self.kind == "log" else self.content)

    def done(self, draft):
        self.pending = False
