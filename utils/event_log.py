"""What a run records, kept in its folder: numbers and texts as lines of JSON, pictures as files beside them.

A line of `events.jsonl` is an object with `time` (seconds since 1970), `step` (of the run), `win` (the dashboard's
window), `kind`, and what that kind holds:

| kind    | holds                                                                          |
|---------|--------------------------------------------------------------------------------|
| point   | x, y (null is a gap), and of a window of several curves the curve's name `line` |
| img     | file: a JPEG, relative to the folder; where a window keeps them all, `caption` |
| text    | text: HTML                                                                     |
| log     | text: a line                                                                   |
| heatmap | matrix: rows of counts; names: of rows and columns                             |
| bars    | names, values                                                                  |
| curves  | names; x, y: a list for each                                                   |
| end     | why: 'done' or 'stopped'; the last event of a process that could still say it  |

A process that was killed leaves at most one line that is cut, which readers leave out.
"""

import difflib
import json
import os
import threading
import time
from collections import deque
from pathlib import Path

from utils.errors import UserError
from utils.event_check import problem_of
from utils.file_tool import whole_file
from utils.safe_read import open_regular
from utils.vis_windows import Picture

FILE = "events.jsonl"
MAX_WAITING = 20  # pictures that are not yet written: of a disk that is slower than the run the oldest are left out
MAX_BYTES = 4 << 30  # of a log that is read: millions of steps
MAX_KEPT = 100  # files of a window whose pictures take each other's place: of more every second goes, but the newest


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
        ending (str): what the last event will say: 'done', or 'stopped' if whoever closes the log sets it.

    Raises:
        UserError: the file can't be written.
    """

    def __init__(self, folder: str | os.PathLike, go_on_from: int | None = None):
        self.folder, self.step, self.problem, self.n_dropped = Path(folder), go_on_from or 0, None, 0
        self.ending = "done"
        self._lock = threading.Lock()
        self._waiting: deque = deque()
        self._kept: dict[str, list[Path]] = {}
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

    def add_picture(self, win: str, picture: Picture, caption: str | None = None):
        """Record a picture; one with a caption stays beside the former ones of its window."""
        event = {"time": round(time.time(), 3), "step": self.step, "win": win, "kind": "img"}
        event |= {} if caption is None else {"caption": caption}
        with self._lock:
            self._waiting.append((event, picture))
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
        self.add("", "end", why=self.ending)
        with self._lock:
            self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is not None:
            self.ending = "stopped"
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
                    event, picture = self._waiting.popleft()
                self._write_picture(event, picture)
            if closing:
                return

    def _write_picture(self, event, picture):
        name = f"pictures/{_file_name(event['win'])}-{event['step']:08}.jpg"
        path = self.folder / name
        try:
            with whole_file(path) as partial:
                partial.write_bytes(picture.jpeg())
            if "caption" not in event:
                kept = self._kept.setdefault(event["win"], [])
                kept.append(path)
                if len(kept) > MAX_KEPT:
                    for old in kept[1:-1:2]:
                        old.unlink(missing_ok=True)
                    self._kept[event["win"]] = [*kept[:-1:2], path]
        except OSError as error:
            self.problem = f"{path}: can't be written ({error.strerror})"
        self._write(event | {"file": name})


def read_events(folder: str | os.PathLike) -> list[dict]:
    """The events of a run so far, in the order of recording.

    Raises:
        UserError: there is no log, or the file is not one.
    """
    return Tail(folder).read()


class Tail:
    """The log of a run that may go on: each `read` gives the events that have come since the last.

    Attributes:
        ended (bool): the run said so, or stopped.

    Raises:
        UserError: there is no such log.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder, self.path = Path(folder), Path(folder, FILE)
        self.rewind()

    def rewind(self):
        """Begin at the first event again."""
        self.ended, self._n_lines, self._at = False, 0, 0
        self._inode = self._stat().st_ino

    def read(self) -> list[dict]:
        try:
            with open_regular(self.path, MAX_BYTES) as file:
                file.seek(self._at)
                whole, _, _ = file.read().rpartition(b"\n")  # a process was killed while it wrote what comes behind
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror}); name the folder of a run") from None
        if not whole:
            return []
        self._at += len(whole) + 1
        lines = whole.split(b"\n")
        events = [_event(self.path, n, line) for n, line in enumerate(lines, self._n_lines + 1)]
        self._n_lines += len(lines)
        self.ended = events[-1]["kind"] == "end"
        return events

    def began_anew(self) -> bool:
        """Whether the file is another one: the run went on from a checkpoint, or began again."""
        return self._stat().st_ino != self._inode

    def silent_for(self) -> float:
        """Seconds since the last event."""
        return time.time() - self._stat().st_mtime

    def _stat(self):
        try:
            return self.path.stat()
        except OSError:
            raise UserError(_no_log(self.folder)) from None


def _no_log(folder):
    """Why there is no log in `folder`, and which one is likely meant."""
    if folder.is_file():
        return f"--run={folder}: is a file; name its folder, {folder.parent}"
    if folder.is_dir():
        return f"{folder / FILE}: no such file; name the folder of a run, such as runs/NAME"
    runs = {log.parent.name: log.parent for place in ("runs", folder.parent) for log in Path(place).glob(f"*/{FILE}")}
    near = difflib.get_close_matches(folder.name, runs, 1)
    hint = f"did you mean {runs[near[0]]}?" if near else "name one such as runs/NAME"
    return f"--run={folder}: no such folder; {hint}"


def _event(path, n, line):
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):  # the latter: lists within lists without end
        event = None
    if problem := problem_of(event):
        raise UserError(f"{path}: line {n} {problem}; this is not the log of a run")
    return event


def _keep_until(folder, step):
    """Leave out what was recorded after `step`; the file is whole at any moment."""
    path = folder / FILE
    if path.exists():
        with whole_file(path) as partial, partial.open("w", encoding="utf-8") as kept:
            events = (event for event in read_events(folder) if event["step"] <= step and event["kind"] != "end")
            kept.writelines(map(_line, events))


def _line(event):
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")) + "\n"


def _file_name(win):
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in win)
