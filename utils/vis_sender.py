"""The thread that carries windows to a visdom server, and that alone meets it.

Absent, killed, restarted empty or hung, the server costs the run nothing: what is pending stays where it is (a newer
picture in place of an older one, points in their curves), and after an outage every window goes out whole.
"""

import atexit
import logging
import sys
import threading
from collections.abc import Callable, MutableMapping

from utils.dashboard_layout import in_order
from utils.terminal_tool import say
from utils.visdom_server import Link, Server

PAUSE = 0.25  # seconds between two batches: an open page loses points of appends that come in a burst


class Sender:
    """Sends what is pending in `windows`, name → Chart, Pane or History, to the environment `env`.

    Args:
        windows: whoever changes them holds `changed`, and calls `signal`.
        changed: a Condition, also notified when something has arrived.
        notify: takes one line when an outage begins and one when it ends; None for stderr, between the bars.

    Attributes:
        connected (bool | None): whether the last attempt to send succeeded; None before the first one.
    """

    def __init__(
        self,
        env: str,
        server: Server,
        windows: MutableMapping,
        changed: threading.Condition,
        notify: Callable[[str], None] | None = None,
    ):
        self.env, self.server, self.connected = env, server, None
        self._windows, self._changed = windows, changed
        self._notify_with = notify or _print_line
        self._to_save: set[str] = set()
        self._wake, self._hurry = threading.Event(), threading.Event()  # something is pending; don't pause
        self._closing = False
        self._link = None  # the thread's alone
        self._thread = None

    def signal(self):
        """Wake the thread; the first call starts it."""
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="visdom-sender", daemon=True)
                self._thread.start()
                atexit.register(self.close)  # a script that ends without close() still gets its last points out
        if not self._wake.is_set():
            self._wake.set()

    def save(self, envs):
        """Have the server write environments to its disk, after all that was recorded before."""
        with self._changed:
            self._to_save.update(envs)
        self.signal()

    def flush(self, timeout: float) -> bool:
        """Wait until all has arrived, at most `timeout` seconds; whether it has."""
        self._hurry.set()
        self._wake.set()
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending(), timeout)

    def close(self, timeout: float = 5.0):
        """Send what is pending, if the server takes it within `timeout` seconds, and end."""
        self._closing = True
        self._wake.set()
        self._hurry.set()
        if self._thread is not None:
            atexit.unregister(self.close)
            self._thread.join(timeout)

    def notify(self, line: str):
        try:
            self._notify_with(line)
        except Exception:  # a closed stderr must not end the sender
            logging.getLogger(__name__).debug("the line %r could not be shown", line)

    def _pending(self) -> bool:
        return bool(self._to_save) or any(window.pending for window in self._windows.values())

    # From here on: the thread.

    def _run(self):
        while True:
            # An idle run still looks now and then whether the server was restarted
            self._wake.wait(self.server.retry_every)
            self._wake.clear()
            closing = self._closing  # read before the round: what was recorded before close() goes out
            delivered = self._round()
            if closing:
                return
            self._hurry.wait(PAUSE if delivered else self.server.retry_every)
            self._hurry.clear()
            if not delivered:
                self._wake.set()

    def _round(self) -> bool:
        """Send all that is pending, or note the outage; says whether the server took it."""
        try:
            self._deliver()
            if self._link is not None:
                if self.connected is False:
                    self.notify(f"dashboard is back: {self.server.address()}/env/{self.env}")
                self.connected = True
            return True
        except Exception as error:  # whatever it is, the run must not notice
            self._drop_link()
            if self.connected is not False:
                self.connected = False
                reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
                again = f"the run goes on, all is sent once it answers (tried every {self.server.retry_every:g} s)"
                self.notify(f"dashboard: visdom at {self.server.address()} takes nothing ({reason}); {again}")
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
            self._link = Link(self.server, self.env)
        with self._changed:
            windows = {name: window for name, window in self._windows.items() if window.pending}
            to_save = set(self._to_save)
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
            self.notify(f"dashboard: window {name} can't be drawn ({type(error).__name__}: {error})")
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


def _print_line(line):
    say(line, file=sys.stderr)
