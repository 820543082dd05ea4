"""Ctrl-C, SIGTERM and a closed terminal: they end a run between two of its steps, not within one."""

import os
import signal
import sys
import time
from contextlib import contextmanager

from utils.terminal_tool import say

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
PASSED_ON = 1.0  # seconds


class Interrupts:
    """For a `with`: what asks the process to end raises KeyboardInterrupt (Ctrl-C) or SystemExit(128 + number).

    Within `held` it waits for the end of that block. A second Ctrl-C leaves at once, with nothing saved; a second
    SIGTERM does not, for those who send it do so again and again. What is ignored when it begins (nohup) stays so.
    """

    def __init__(self):
        self._held, self._asked, self._former = False, None, {}
        self._world, self._asked_at = None, 0.0  # no others

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
    def agreed(self, world):
        """A block that several processes leave together, at the end of a `held` one: one alone would leave the others
        to wait for it. In a world of one it changes nothing.
        """
        if world.size > 1:
            self._world, self._held = world, True
        try:
            yield
        finally:
            self._world, self._held = None, False

    @contextmanager
    def held(self):
        """A block that is not broken off."""
        self._held = True
        try:
            yield
        finally:
            self._held = self._world is not None
        if self._world is not None:
            self._asked = self._world.max(self._asked or 0)[0] or None
        if self._asked is not None:
            self._leave()

    @contextmanager
    def free(self):
        """A part of an `agreed` block that takes minutes, and that each process leaves at once."""
        held, self._held = self._held, False
        if self._asked is not None:
            self._leave()
        try:
            yield
        finally:
            self._held = held

    def _take(self, number, _):
        if self._asked is not None:
            # torchrun passes on to its processes a Ctrl-C that the terminal may have sent to all of them.
            passed_on = self._world is not None and time.monotonic() - self._asked_at < PASSED_ON
            if number == signal.SIGINT and not passed_on:
                os.write(sys.stderr.fileno(), b"\nleft at once; what was saved before stays\n")  # safe in a handler
                os._exit(128 + number)
            return
        self._asked, self._asked_at = number, time.monotonic()
        if self._held:
            say("stopping after this step; Ctrl-C again leaves at once, with nothing saved", file=sys.stderr)
        else:
            self._leave()

    def _leave(self):
        raise KeyboardInterrupt if self._asked == signal.SIGINT else SystemExit(128 + self._asked)
