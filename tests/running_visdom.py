"""A real visdom server on a free port, and what it has of an environment."""

import contextlib
import json
import signal
import socket
import time

import visdom

from utils.visdom_server import start_server


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@contextlib.contextmanager
def running_server(folder, port=None):
    """A server with an empty environment folder; yields (port, process)."""
    port = port or free_port()
    folder.mkdir()
    process = start_server(port, folder / "visdom.log", folder / "env")
    try:
        yield port, process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


class Page:
    """What the server has of one environment."""

    def __init__(self, port, env):
        self.client = visdom.Visdom(port=port, env=env, raise_exceptions=True, use_incoming_socket=False)
        self.env = env

    def window(self, win):
        return json.loads(self.client.get_window_data(win, self.env))

    def has(self, win):
        return self.client.win_exists(win, self.env)

    def series(self, win, line=None):
        """(x, y) of a curve; None for that of the window's own name."""
        (trace,) = (trace for trace in self.window(win)["content"]["data"] if trace["name"] == (line or win))
        return trace["x"], trace["y"]
