"""What a run records, kept in its folder: numbers and texts as lines of JSON, pictures as files beside them.

A line of `events.jsonl` is an object with `time` (seconds since 1970), `step` (of the run), `win` (the dashboard's
window), `kind`, and what that kind holds:

| kind    | holds                                                                          |
|---------|--------------------------------------------------------------------------------|
| point   | x, y (null is a gap), and of a window of several curves the curve's name `line` |
| img     | file: a JPEG, relative to the folder                                           |
| text    | text: HTML                                                                     |
| log     | text: a line                                                                   |
| heatmap | matrix: rows of counts; names: of rows and columns                             |
| bars    | names, values                                                                  |
| curves  | names; x, y: a list for each                                                   |

A process that was killed leaves at most one line that is cut, which readers leave out.
"""

import json
import os
import threading
import time
from collections import deque
from pathlib import Path

from utils.errors import UserError
from utils.file_tool import whole_file
from utils.image_tool import write_jpeg

FILE = "events.jsonl"
MAX_WAITING = 20  # pictures that are not yet written: of a disk that is slower than the run the oldest are left out


class EventLog:
    """Writes the events of a run. For a `with`, or `close` it.

    Numbers and texts are in the file when `add` returns (some 20 µs); pictures are encoded and written on a thread. A
    disk that takes nothing any more ends the log, not the run: `problem` says why.

    Args:
        folder: the run's.
        go_on_from: the step of the checkpoint with which a run goes on: what was recorded after it goes.

    Attributes:
        step (int): that of the next events; whoever counts the steps sets it.
        problem (str | None): why nothing more is written.
        n_dropped (int): pictures that were left out.

    Raises:
        UserError: the file can't be written.
    """

    def __init__(self, folder: str | os.PathLike, go_on_from: int | None = None):
        self.folder, self.step, self.problem, self.n_dropped = Path(folder), go_on_from or 0, None, 0
        self._lock = threading.Lock()
        self._waiting: deque = deque()
        self._wake, self._closing = threading.Event(), False
        self._thread = None
        path = self.folder / FILE
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _keep_until(self.folder, -1 if go_on_from is None else go_on_from)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path}: can't be written ({error.strerror}); choose another --name") from None

    def add(self, win: str, kind: str, **content):
        """Record an event; `content` is what JSON can hold, see the module."""
        self._write({"time": round(time.time(), 3), "step": self.step, "win": win, "kind": kind, **content})

    def add_picture(self, win: str, rgb):
        """Record a picture: (H, W, 3) uint8, which belongs to the log from now on."""
        event = {"time": round(time.time(), 3), "step": self.step, "win": win, "kind": "img"}
        with self._lock:
            self._waiting.append((event, rgb))
            if len(self._waiting) > MAX_WAITING:
                self._waiting.popleft()
                self.n_dropped += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_pictures, name="event-pictures", daemon=True)
                self._thread.start()
        self._wake.set()

    def close(self, timeout: float = 10.0):
        """Write what is waiting, for at most `timeout` seconds, and end."""
        self._closing = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout)
        with self._lock:
            self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _write(self, event):
        try:
            with self._lock:
                if self.problem is None and not self._file.closed:
                    self._file.write(_line(event))
                    self._file.flush()
        except OSError as error:
            self.problem = f"{self.folder / FILE}: can't be written ({error.strerror})"

    def _write_pictures(self):
        while True:
            self._wake.wait()
            self._wake.clear()
            closing = self._closing  # read first: what was added before close() is written
            while self._waiting:
                with self._lock:
                    event, rgb = self._waiting.popleft()
                name = f"pictures/{_file_name(event['win'])}-{event['step']:08}.jpg"
                try:
                    write_jpeg(self.folder / name, rgb)
                except OSError as error:
                    self.problem = f"{self.folder / name}: can't be written ({error.strerror})"
                self._write(event | {"file": name})
            if closing:
                return


def read_events(folder: str | os.PathLike):
    """The events of a run, as dicts, in the order of recording.

    Raises:
        UserError: there are none, or the file is not such a log.
    """
    path = Path(folder, FILE)
    try:
        with path.open(encoding="utf-8") as lines:
            yield from _events(path, lines)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; name the folder of a run, such as runs/NAME") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); name the folder of a run") from None


def _events(path, lines):
    for n, line in enumerate(lines, 1):
        if not line.endswith("\n"):
            return  # a process was killed while it wrote this one
        try:
            event = json.loads(line)
            if not (
                isinstance(event["step"], int) and isinstance(event["win"], str) and event["kind"] and event["time"]
            ):
                raise ValueError
        except (ValueError, LookupError, TypeError):
            raise UserError(f"{path}: line {n} is no event; this is not the log of a run") from None
        yield event


def _keep_until(folder, step):
    """Leave out what was recorded after `step`; the file is whole at any moment."""
    path = folder / FILE
    if path.exists():
        with whole_file(path) as partial, partial.open("w", encoding="utf-8") as kept:
            kept.writelines(_line(event) for event in read_events(folder) if event["step"] <= step)


def _line(event):
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")) + "\n"


def _file_name(win):
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in win)
