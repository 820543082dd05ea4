"""What the folder of a run holds: its events by window, and what its checkpoint and its evaluations say of it."""

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from utils.checkpoint import read_checkpoint
from utils.errors import UserError
from utils.event_log import FILE, read_events
from utils.json_tool import is_finite, read_json
from utils.vis_windows import LOG_LINES

MOST = 2**53  # of a step, and of seconds a millionth: what a float and a calendar can hold
CHECKPOINTS = ("best.pth", "last.pth", "interrupted.pth")


@dataclass
class Run:
    """A run as its folder tells of it. Dicts go by window, in the order in which the log has them first."""

    name: str
    folder: Path
    begun: float = 0.0  # seconds since 1970
    ended: float = 0.0  # of the last event
    step: int = 0  # the greatest
    kinds: dict[str, set[str]] = field(default_factory=dict)
    points: dict[str, dict[str, list[tuple]]] = field(
        default_factory=dict
    )  # window → line → (x, y or None, step, time)
    pictures: dict[str, list[tuple[int, str, str]]] = field(default_factory=dict)  # (step, file, caption or '')
    texts: dict[str, str] = field(default_factory=dict)
    logs: dict[str, deque] = field(default_factory=dict)  # (time, line) of the last lines
    heatmaps: dict[str, dict] = field(default_factory=dict)  # the last event, as for the two below
    bars: dict[str, dict] = field(default_factory=dict)
    curves: dict[str, dict] = field(default_factory=dict)
    config: dict = field(default_factory=dict)  # the checkpoint's, like the next
    other_info: dict = field(default_factory=dict)
    evaluations: dict[str, dict] = field(default_factory=dict)  # file → what `train.py eval` wrote
    notes: list[str] = field(default_factory=list)  # what could not be read


def read_run(folder, name=None) -> Run:
    """Read a run, also one that goes on. What is wrong with its checkpoint or an evaluation becomes a note.

    Raises:
        UserError: there is no log, it is empty, or it is not the log of a run.
    """
    folder = Path(folder)
    run = Run(name or folder.resolve().name, folder)
    for n, event in enumerate(read_events(folder), 1):
        problem = _problem(event)
        if problem:
            raise UserError(f"{folder / FILE}: line {n}: {problem}; this is not the log of a run")
        run.begun = run.begun or event["time"]
        run.ended, run.step = max(run.ended, event["time"]), max(run.step, event["step"])
        _take(run, event)
    if not run.kinds:
        raise UserError(f"{folder / FILE}: holds no events yet; name the folder of a run that has begun")
    _read_checkpoint(run)
    for path in sorted(folder.glob("best_eval_*.json")):
        try:
            content = read_json(path)
        except UserError as error:
            run.notes.append(str(error))
            continue
        if isinstance(content, dict):
            run.evaluations[path.name] = content
        else:
            run.notes.append(f"{path}: is not what train.py eval writes")
    return run


def _take(run, event):
    win, kind = event["win"], event["kind"]
    if kind == "end":
        return
    run.kinds.setdefault(win, set()).add(kind)
    if kind == "point":
        line = run.points.setdefault(win, {}).setdefault(event.get("line") or win, [])
        line.append((event["x"], event["y"], event["step"], event["time"]))
    elif kind == "img":
        run.pictures.setdefault(win, []).append((event["step"], event["file"], event.get("caption", "")))
    elif kind == "text":
        run.texts[win] = event["text"]
    elif kind == "log":
        run.logs.setdefault(win, deque(maxlen=LOG_LINES)).append((event["time"], event["text"]))
    elif kind == "heatmap":
        run.heatmaps[win] = event
    elif kind == "bars":
        run.bars[win] = event
    elif kind == "curves":
        run.curves[win] = event


def _problem(event) -> str | None:
    """What is wrong with an event that `read_events` let pass."""
    kind = event["kind"]
    if not isinstance(kind, str) or not is_finite(event["time"]) or not 0 < event["time"] < MOST / 1e6:
        return "has no kind or time"
    if not 0 <= event["step"] < MOST:
        return "has no step"
    if kind == "point":
        fits = (
            _numbers([event.get("x"), event.get("y")]) and event.get("x") is not None and _text(event.get("line", ""))
        )
    elif kind in ("text", "log", "img"):
        fits = _text(event.get("file" if kind == "img" else "text")) and _text(event.get("caption", ""))
    elif kind == "heatmap":
        fits = is_matrix(event.get("matrix")) and _texts(event.get("names"))
    elif kind == "bars":
        fits = (
            _columns(event.get("names"), event.get("values")) and _texts(event["names"]) and _numbers(event["values"])
        )
    elif kind == "curves":
        names, xs, ys = (event.get(part) for part in ("names", "x", "y"))
        fits = _columns(names, xs) and _columns(names, ys) and _texts(names)
        fits = fits and all(_columns(x, y) and _numbers(x) and _numbers(y) for x, y in zip(xs, ys, strict=True))
    else:
        fits = True  # of a later version
    return None if fits else f"is no {kind}"


def is_matrix(value) -> bool:
    """Whether it is a square list of lists of numbers that are finite and not negative."""
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(isinstance(row, list) and len(row) == len(value) for row in value)
        and all(is_finite(v) and 0 <= v < MOST for row in value for v in row)
    )


def _numbers(values):
    return isinstance(values, list) and all(v is None or (is_finite(v) and abs(v) < 1e300) for v in values)


def _text(value):
    return isinstance(value, str)


def _texts(values):
    return isinstance(values, list) and all(map(_text, values))


def _columns(a, b):
    return isinstance(a, list) and isinstance(b, list) and len(a) == len(b)


def _read_checkpoint(run):
    """What the best checkpoint says, or else the last: not its weights."""
    path = next((run.folder / name for name in CHECKPOINTS if (run.folder / name).exists()), None)
    if path is None:
        return
    try:
        checkpoint = read_checkpoint(path)
    except UserError as error:
        run.notes.append(str(error))
        return
    run.config, run.other_info = checkpoint.config, checkpoint.other_info
