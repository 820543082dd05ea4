"""Progress bars: drawn over in a terminal, a widget in a notebook, now and then a line in a pipe or a log file."""

import math
import os
import sys
import time
import warnings

from tqdm import TqdmWarning, tqdm

from utils.terminal_tool import QUIET, is_terminal, verbosity

PERCENTS = (1, 2, 5, *range(10, 101, 10))  # after which a line may be written where there is no terminal
PAUSE = 30.0  # seconds between two lines at least


def progress_bar(iterable=None, desc=None, total=None, unit="it", initial=0, leave=True, disable=False):
    """A bar on the standard error with `update`, `set_postfix`, `refresh`, `close` and `total`, as tqdm's.

    Args:
        iterable: what is gone through; None where `update` is called.
        desc: what is done.
        total: how much there is to do; None for the length of `iterable`, or where it is unknown.
        unit: of what is counted, in the singular.
        initial: how much was done before.
        leave: keep the bar at its end; else of lines only those of a long work.
        disable: no bar; there is none with --quiet either.
    """
    keywords = {"desc": desc, "total": total, "unit": unit, "initial": initial, "leave": leave}
    keywords["disable"] = disable or verbosity() == QUIET
    if is_terminal(sys.stderr) or keywords["disable"]:
        width = {"dynamic_ncols": True} if _columns(sys.stderr) else {"ncols": 80, "nrows": 20}
        return tqdm(iterable, smoothing=0.05, **width, **keywords)
    if in_notebook():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TqdmWarning)
            from tqdm.autonotebook import tqdm as notebook_bar  # text where ipywidgets is not there
        return notebook_bar(iterable, smoothing=0.05, **keywords)
    return LineProgress(iterable, **keywords)


def in_notebook() -> bool:
    """Whether this runs in the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    return bool(shell) and "IPKernelApp" in shell.config


def _columns(stream):
    """Of a terminal; 0 where it does not say, as those that other programs open."""
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except OSError:
        return 0


class LineProgress:
    """Progress as lines of plain text: `train: 200/8,000 (2 %), 3.1 step/s, 0:41:53 left, loss=1.234`.

    One is written when one more of PERCENTS is done and PAUSE has passed since the last, and one at the end.

    Args:
        clock: seconds, for tests; the others are those of `progress_bar`.
    """

    def __init__(self, iterable=None, desc=None, total=None, unit="it", initial=0, leave=True, disable=False,
                 clock=time.monotonic):  # fmt: skip
        self.iterable, self.desc, self.unit = iterable, desc or "progress", unit
        self.total = len(iterable) if total is None and hasattr(iterable, "__len__") else total
        self.n, self._initial, self._leave, self._postfix = initial, initial, leave, ""
        self._clock, self._begin, self._last, self._said = clock, clock(), clock(), initial
        self._closed = disable
        self._n_lines = 0

    def __iter__(self):
        with self:
            for item in self.iterable:
                yield item
                self.update()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def update(self, n=1):
        """`n` more are done."""
        self.n += n
        if not self._closed and self._is_due():
            self._write()

    def set_postfix(self, **values):
        """What is told beside the progress, such as the loss."""
        self._postfix = "".join(f", {name}={value}" for name, value in values.items())

    def refresh(self):
        """As tqdm's: another `total` shows in the next line."""

    def close(self):
        """Write the last line, unless it was written; of what is not left only where others were."""
        if not self._closed and self.n > self._initial and self._said < self.n and (self._leave or self._n_lines):
            self._write()
        self._closed = True

    def _is_due(self):
        if self._clock() - self._last < PAUSE:
            return False
        return not self.total or self._passed(self.n) > self._passed(self._said)

    def _passed(self, n):
        """How many of PERCENTS are done with `n`."""
        return sum(100 * n >= percent * self.total for percent in PERCENTS)

    def _write(self):
        now = self._clock()
        rate = (self.n - self._initial) / (now - self._begin) if now > self._begin else math.inf
        of = f"/{self.total:,}" if self.total else ""
        share = f" ({100 * self.n // self.total} %)" if self.total else ""
        left = f", {tqdm.format_interval((self.total - self.n) / rate)} left" if self.total else ""
        if self.total and self.n >= self.total:
            left = f", {tqdm.format_interval(now - self._begin)} taken"
        speed = f"{rate:.3g} {self.unit}/s" if rate >= 1 else f"{1 / rate:.3g} s/{self.unit}"
        print(f"{self.desc}: {self.n:,}{of}{share}, {speed}{left}{self._postfix}", file=sys.stderr, flush=True)
        self._last, self._said, self._n_lines = now, self.n, self._n_lines + 1
