"""Ctrl-C, SIGTERM and a closed terminal: they end a run between two of its steps, not within one."""

import os
import signal
import sys
from contextlib import contextmanager

from utils.terminal_tool import say

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP


class Interrupts:
    """For a `with`: what asks the process to end raises KeyboardInterrupt (Ctrl-C) or SystemExit(128 + number).

    Within `held` it waits for the end of that block. A second Ctrl-C leaves at once, with nothing saved; a second
    SIGTERM does not, for those who send it do so again and again. What is ignored when it begins (nohup) stays so.
    """

    def __init__(self):
        self._held, self._asked, self._former = False, None, {}

    def __enter__(self):
        for name in NAMES:
            number = getattr(signal, name, None)
            if number and signal.getsignal(number) is not signal.SIG_IGN:
                self._former[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_):
        for number, handler in self._former.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self):
        """A block that is not broken off."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._asked is not None:
            self._leave()

    def _take(self, number, _):
        if self._asked is not None:
            if number == signal.SIGINT:
                os.write(sys.stderr.fileno(), b"\nleft at once; what was saved before stays\n")  # safe in a handler
                os._exit(128 + number)
            return
        self._asked = number
        if self._held:
            say("stopping after this step; Ctrl-C again leaves at once, with nothing saved", file=sys.stderr)
        else:
            self._leave()

    def _leave(self):
        raise KeyboardInterrupt if self._asked == signal.SIGINT else SystemExit(128 + self._asked)
