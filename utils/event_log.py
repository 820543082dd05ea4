"""What a run records, kept in its folder: numbers and texts as lines of JSON, pictures as files beside them.

A line of `events.jsonl` is an object with its number `n` (from 0, in the order of recording; a picture's line comes
when its file is written), `time` (seconds since 1970), `step` (of the run), `win` (the dashboard's window), `kind`, and
what that kind holds:

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
import errno
import json
import os
import threading
import time
from collections import deque
from pathlib import Path

from utils.errors import UserError
from utils.event_check import problem_of
from utils.file_tool import place_of, whole_file
from utils.safe_read import open_regular
from utils.terminal_tool import warn
from utils.vis_windows import Picture

FILE = "events.jsonl"
MAX_WAITING = 20  # pictures that are not yet written: of a disk that is slower than the run the oldest are left out
MAX_UNWRITTEN = 16_000_000  # bytes of lines that wait for the disk; of more, the older half goes
RETRY_EVERY = 5.0  # seconds between two attempts at a disk that took nothing
MAX_BYTES = 4 << 30  # of a log that is read: millions of steps
MAX_KEPT = 100  # files of a window whose pictures take each other's place: of more every second goes, but the newest


class EventLog:
    """Writes the events of a run. For a `with`, or `close` it.

    Numbers and texts are in the file when `add` returns (some 20 µs); pictures are encoded and written on a thread.
    What a disk does not take (it is full, say) waits for it, up to `MAX_UNWRITTEN` bytes, and the run goes on.

    Args:
        folder: the run's.
        go_on_from: the step of the checkpoint with which a run goes on: what was recorded after it goes.
        n_events: the number that the next event had then; None (an older checkpoint's) judges by the step alone.

    Attributes:
        step (int): that of the next events; whoever counts the steps sets it.
        n_events (int): the number of the next event.
        problem (str | None): why something that was recorded is not in the file.
        n_dropped (int): pictures that were left out.
        ending (str): what the last event will say: 'done', or 'stopped' if whoever closes the log sets it.

    Raises:
        UserError: the file can't be written.
    """

    def __init__(self, folder: str | os.PathLike, go_on_from: int | None = None, n_events: int | None = None):
        self.folder, self.step, self.n_dropped = Path(folder), go_on_from or 0, 0
        self._unwritten, self._retry_at = bytearray(), 0.0
        self._waits_for = self._lost = None  # why lines wait, and why some will never be there
        self.ending = "done"
        self._lock = threading.Lock()
        self._waiting: deque = deque()
        self._kept: dict[str, list[Path]] = {}
        self._wake, self._closing = threading.Event(), False
        self._thread = None
        path = self.folder / FILE
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.n_events = _keep_until(self.folder, -1 if go_on_from is None else go_on_from, n_events)
            self._file = path.open("ab", buffering=0)
            self._place = place_of(self.folder)
        except OSError as error:
            raise UserError(f"{path}: can't be written ({error.strerror}); choose another --name") from None

    def add(self, win: str, kind: str, **content):
        """Record an event; `content` is what JSON can hold, see the module."""
        self._write(self._event(win, kind, **content))

    def add_picture(self, win: str, picture: Picture, caption: str | None = None):
        """Record a picture; one with a caption stays beside the former ones of its window."""
        event = self._event(win, "img", **({} if caption is None else {"caption": caption}))
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
            self._write_out(now=True)
            self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is not None:
            self.ending = "stopped"
        self.close()

    def _event(self, win, kind, **content):
        with self._lock:
            n, self.n_events = self.n_events, self.n_events + 1
        return {"n": n, "time": round(time.time(), 3), "step": self.step, "win": win, "kind": kind, **content}

    def _write(self, event):
        with self._lock:
            if not self._file.closed:
                self._unwritten += _line(event)
                self._write_out()

    def _write_out(self, now=False):
        """Write what is waiting. A disk that took nothing is tried again after a while, or `now`."""
        if self._retry_at > time.monotonic() and not now:
            return
        try:
            while self._unwritten:
                del self._unwritten[: self._file.write(self._unwritten)]  # a full disk may take a part
            self._retry_at, self._waits_for = 0.0, None
        except OSError as error:
            self._retry_at = time.monotonic() + RETRY_EVERY
            self._waits_for = self._tell(self.folder / FILE, error)
            if len(self._unwritten) > MAX_UNWRITTEN:
                begin, end = (self._unwritten.find(b"\n", at) + 1 for at in (0, MAX_UNWRITTEN // 2))
                del self._unwritten[begin:end]  # the first line may be in the file in part
                self._lost = self._waits_for

    def _tell(self, path, error):
        """Say it, the first time."""
        problem = f"{path}: can't be written ({error.strerror})"
        if self.problem is None:
            warn(f"{problem}; it is tried again, and the run goes on")
        return problem

    @property
    def problem(self) -> str | None:
        return self._lost or self._waits_for

    def sync(self):
        """Wait until the disk has what is recorded: before a checkpoint says how much that is."""
        try:
            with self._lock:
                self._write_out(now=True)
                os.fsync(self._file.fileno())
        except OSError as error:
            self._waits_for = self._tell(self.folder / FILE, error)

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
            if place_of(self.folder) != self._place:  # else it would be made anew, under a mount that is gone
                raise OSError(errno.ENOENT, "its folder is gone")
            with whole_file(path, durable=False) as partial:
                partial.write_bytes(picture.jpeg())
            if "caption" not in event:
                kept = self._kept.setdefault(event["win"], [])
                kept.append(path)
                if len(kept) > MAX_KEPT:
                    for old in kept[1:-1:2]:
                        old.unlink(missing_ok=True)
                    self._kept[event["win"]] = [*kept[:-1:2], path]
        except OSError as error:
            self._lost = self._tell(path, error)
            return  # a line without its file would show nothing
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


def _keep_until(folder, step, n_events):
    """Leave out what was recorded after a checkpoint; the file is whole at any moment. Returns the next number."""
    path = folder / FILE
    if path.exists():
        with whole_file(path) as partial, partial.open("wb") as kept:
            for event in read_events(folder):
                recorded = event["step"] <= step and (n_events is None or event.get("n", -1) < n_events)
                if recorded and event["kind"] != "end":
                    kept.write(_line(event))
    return n_events or 0


def _line(event):
    text = json.dumps(event, ensure_ascii=False, separators=(",", ":")) + "\n"
    return text.encode("utf-8", "backslashreplace")  # half a character, of a name that is no UTF-8, is JSON's escape


def _file_name(win):
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in win)
