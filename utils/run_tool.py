"""What the folder of a run holds: its events by window, and what its checkpoint and its evaluations say of it."""

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from utils.checkpoint import read_checkpoint
from utils.errors import UserError
from utils.event_log import FILE, read_events
from utils.json_tool import read_json
from utils.run_folder import BEST, LAST, PREVIOUS, read_facts
from utils.vis_windows import LOG_LINES

CHECKPOINTS = BEST, LAST, PREVIOUS


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
    environments: list[dict] = field(default_factory=list)  # of each time that it was begun, see `environment_tool`
    evaluations: dict[str, dict] = field(default_factory=dict)  # file → what `train.py eval` wrote
    notes: list[str] = field(default_factory=list)  # what could not be read


def read_run(folder, name=None) -> Run:
    """Read a run, also one that goes on. What is wrong with its checkpoint or an evaluation becomes a note.

    Raises:
        UserError: there is no log, it is empty, or it is not the log of a run.
    """
    folder = Path(folder)
    run = Run(name or folder.resolve().name, folder)
    for event in read_events(folder):
        run.begun = run.begun or event["time"]
        run.ended, run.step = max(run.ended, event["time"]), max(run.step, event["step"])
        _take(run, event)
    if not run.kinds:
        raise UserError(f"{folder / FILE}: holds no events yet; name the folder of a run that has begun")
    run.environments = read_facts(folder).get("begun", [])
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
    if not run.environments and isinstance(checkpoint.environment, dict):
        run.environments = [checkpoint.environment]
