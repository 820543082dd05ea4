"""utils/event_log.py: what is recorded comes back, also after a process that was killed, and a run that goes on."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils import event_log
from utils.errors import UserError
from utils.event_log import EventLog, read_events
from utils.vis_windows import Picture

ROOT = Path(__file__).resolve().parents[2]


def recorded(folder):
    """The events but for their times and numbers, and without the last one, which says that the run is done."""
    beside = {"n", "time"}
    *events, last = ({name: event[name] for name in event if name not in beside} for event in read_events(folder))
    assert last | {"step": 0} == {"step": 0, "win": "", "kind": "end", "why": "done"}
    return events


def points(folder, key="x"):
    return [event[key] for event in read_events(folder) if event["kind"] == "point"]


def wait_until(what):
    deadline = time.monotonic() + 60
    while not what() and time.monotonic() < deadline:
        time.sleep(0.01)


def picture(value, size=(8, 16)):
    return Picture(np.full((*size, 3), value, np.uint8))


def test_events_come_back_in_their_order(tmp_path):
    with EventLog(tmp_path / "run") as log:
        log.add("loss", "point", x=0, y=1.5)
        log.step = 40
        log.add("loss", "point", x=40, y=None)
        log.add("läbels", "text", text="été\u2028\n<b>")
        log.add("cm", "heatmap", matrix=[[1, 0], [0, 2]], names=["a", "b"])
    assert recorded(tmp_path / "run") == [
        {"step": 0, "win": "loss", "kind": "point", "x": 0, "y": 1.5},
        {"step": 40, "win": "loss", "kind": "point", "x": 40, "y": None},
        {"step": 40, "win": "läbels", "kind": "text", "text": "été\u2028\n<b>"},
        {"step": 40, "win": "cm", "kind": "heatmap", "matrix": [[1, 0], [0, 2]], "names": ["a", "b"]},
    ]
    times = [event["time"] for event in read_events(tmp_path / "run")]
    assert times == sorted(times)


def test_pictures_are_files(tmp_path):
    with EventLog(tmp_path) as log:
        for step in (0, 40):
            log.step = step
            log.add_picture("gt img/1", picture(step))
    events = recorded(tmp_path)
    assert [(event["step"], event["file"]) for event in events] == [
        (0, "pictures/gt_img_1-00000000.jpg"),
        (40, "pictures/gt_img_1-00000040.jpg"),
    ]
    with Image.open(tmp_path / events[1]["file"]) as file:
        assert file.size == (16, 8)
        assert abs(np.asarray(file).mean() - 40) < 2


def test_a_disk_that_is_slow_costs_the_oldest_pictures_and_no_number(tmp_path, monkeypatch):
    go_on, begun = threading.Event(), threading.Event()

    def slow(_):
        begun.set()
        go_on.wait()
        return b"a picture"

    monkeypatch.setattr(Picture, "jpeg", slow)
    log = EventLog(tmp_path)
    log.add_picture("img", picture(0))
    begun.wait()
    for step in range(1, 31):
        log.step = step
        log.add_picture("img", picture(0))
        log.add("loss", "point", x=step, y=0.5)
    go_on.set()
    log.close()
    events = recorded(tmp_path)
    assert [event["x"] for event in events if event["kind"] == "point"] == [*range(1, 31)]
    assert [event["step"] for event in events if event["kind"] == "img"] == [0, *range(11, 31)]
    assert log.n_dropped == 10


def test_pictures_that_replace_each_other_do_not_fill_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(event_log, "MAX_KEPT", 4)
    monkeypatch.setattr(event_log, "MAX_WAITING", 100)
    with EventLog(tmp_path) as log:
        for log.step in range(20):
            log.add_picture("gt_img", picture(0))
            log.add_picture("followed_1", picture(0), caption=f"step {log.step}")
    left = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    shown = [int(name[-6:-4]) for name in left if name.startswith("gt_img")]
    assert len(shown) <= 5
    assert {0, 19} <= set(shown)
    assert [int(name[-6:-4]) for name in left if name.startswith("followed")] == [*range(20)]
    captions = [event["caption"] for event in recorded(tmp_path) if "caption" in event]
    assert captions == [f"step {step}" for step in range(20)]


def test_the_end_says_how_it_came(tmp_path):
    with contextlib.suppress(KeyboardInterrupt), EventLog(tmp_path):
        raise KeyboardInterrupt
    assert [event["why"] for event in read_events(tmp_path)] == ["stopped"]


def test_a_process_that_is_killed_leaves_what_it_recorded(tmp_path):
    code = (
        "import sys, os, signal; from utils.event_log import EventLog\n"
        "log = EventLog(sys.argv[1])\n"
        "for k in range(100): log.add('loss', 'point', x=k, y=0.1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    assert points(tmp_path) == [*range(100)]


def test_a_last_line_that_is_cut_is_left_out_and_written_over(tmp_path):
    with EventLog(tmp_path) as log:
        log.add("loss", "point", x=0, y=1)
        log.add("loss", "point", x=1, y=1)
    path = tmp_path / "events.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:-9])  # killed while it wrote the second
    assert points(tmp_path) == [0]
    with EventLog(tmp_path, go_on_from=0) as log:
        log.add("loss", "point", x=1, y=2)
    assert points(tmp_path, "y") == [1, 2]


def test_a_run_that_goes_on_forgets_what_came_after_its_checkpoint(tmp_path):
    with EventLog(tmp_path) as log:
        for step in (0, 40, 80, 120):
            log.step = step
            log.add("loss", "point", x=step, y=1)
    with EventLog(tmp_path, go_on_from=80) as log:
        assert log.step == 80
        log.step = 120
        log.add("loss", "point", x=120, y=2)
    assert points(tmp_path) == [0, 40, 80, 120]
    assert points(tmp_path, "y") == [1, 1, 1, 2]
    assert len(recorded(tmp_path)) == 4  # and one end


def test_what_was_recorded_after_a_checkpoint_in_its_own_step_is_forgotten_too(tmp_path):
    with EventLog(tmp_path) as log:
        log.step = 40
        log.add("loss", "point", x=40, y=1)
        log.add_picture("gt_img", picture(1))
        n = log.n_events  # the checkpoint's; the evaluation comes behind it
        log.add("test_map", "point", x=1, y=0.5)
    with EventLog(tmp_path, go_on_from=40, n_events=n) as log:
        log.add("test_map", "point", x=1, y=0.7)
    assert [event["win"] for event in recorded(tmp_path)] == ["loss", "gt_img", "test_map"]
    assert points(tmp_path, "y") == [1, 0.7]
    assert sorted(event["n"] for event in read_events(tmp_path)) == [0, 1, 2, 3]


def test_of_too_much_that_waits_for_a_disk_the_newest_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(event_log, "MAX_UNWRITTEN", 2000)
    log = EventLog(tmp_path)
    real = log._file

    class Full:
        closed = False

        def write(self, text):
            raise OSError(28, "No space left on device")

    log._file = Full()
    for x in range(100):
        log._retry_at = 0.0
        log.add("loss", "point", x=x, y=1)
    log._file = real
    log.close()
    kept = points(tmp_path)
    assert kept[0] == 0
    assert 5 < len(kept) < 30
    assert kept[1:] == [*range(101 - len(kept), 100)]
    assert "No space left" in log.problem


def test_a_new_run_begins_anew(tmp_path):
    with EventLog(tmp_path) as log:
        log.add("loss", "point", x=0, y=1)
    EventLog(tmp_path).close()
    assert recorded(tmp_path) == []


def test_what_a_disk_does_not_take_waits_for_it(tmp_path, capsys):
    log = EventLog(tmp_path)
    log.add("loss", "point", x=0, y=1)
    real = log._file

    class Full:
        closed = False

        def write(self, text):
            raise OSError(28, "No space left on device")

        close = real.close

    log._file = Full()
    log.add("loss", "point", x=1, y=1)
    log.add("loss", "point", x=2, y=1)
    assert "No space left" in log.problem
    assert capsys.readouterr().err.count("events.jsonl: can't be written (No space left on device)") == 1
    log._file = real
    log.sync()
    assert log.problem is None
    log.add("loss", "point", x=3, y=1)
    log.close()
    assert points(tmp_path) == [0, 1, 2, 3]


def test_a_folder_that_is_gone_is_not_made_anew(tmp_path):
    log = EventLog(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "away")
    log.add_picture("gt_img", picture(1))
    wait_until(lambda: log.problem)
    (tmp_path / "run").mkdir()  # a mount's empty place
    log.add_picture("gt_img", picture(2))
    log.add("loss", "point", x=1, y=1)
    log.close()
    assert "its folder is gone" in log.problem
    assert not any((tmp_path / "run").iterdir())
    assert points(tmp_path / "away") == [1]


def test_a_place_that_takes_no_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"events\.jsonl: can't be written"):
        EventLog(tmp_path / "file")


def test_which_run_is_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    EventLog("runs/mine").close()
    for given, told in {
        "mine": "--run=mine: no such folder; did you mean runs/mine?",
        "runs/mime": "--run=runs/mime: no such folder; did you mean runs/mine?",
        "else/where": "--run=else/where: no such folder; name one such as runs/NAME",
        "runs/mine/events.jsonl": "--run=runs/mine/events.jsonl: is a file; name its folder, runs/mine",
        "runs": "runs/events.jsonl: no such file; name the folder of a run, such as runs/NAME",
    }.items():
        with pytest.raises(UserError) as refused:
            read_events(given)
        assert str(refused.value) == told


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"{}\n", "line 1 is no event"), (b"[1]\n", "line 1 is no event"), (b"no\n", "line 1 is no event"),
     (b"\xff\n", "line 1 is no event"), (b'{"time": 1, "step": "x", "win": "a", "kind": "b"}\n', "line 1 has no step"),
     (b'{"n": "x", "time": 1, "step": 0, "win": "a", "kind": "b"}\n', "line 1 has no number")],
)  # fmt: skip
def test_what_is_no_log(tmp_path, content, told):
    (tmp_path / "events.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=told):
        list(read_events(tmp_path))


def test_no_log_at_all(tmp_path):
    with pytest.raises(UserError, match="no such file; name the folder of a run"):
        list(read_events(tmp_path))


def test_a_line_is_json_that_any_program_reads(tmp_path):
    with EventLog(tmp_path) as log:
        log.add("loss", "point", x=0, y=0.1)
    line = json.loads((tmp_path / "events.jsonl").read_text().splitlines()[0])
    assert set(line) == {"n", "time", "step", "win", "kind", "x", "y"}
    assert os.listdir(tmp_path) == ["events.jsonl"]


def test_half_a_character_stays_what_it_is(tmp_path):
    """JSON has them, and file names that are no UTF-8; UTF-8 itself has not."""
    with EventLog(tmp_path) as log:
        log.add("a", "log", text="x\ud800é")
    for _ in range(2):
        assert [event["text"] for event in read_events(tmp_path) if event["kind"] == "log"] == ["x\ud800é"]
        EventLog(tmp_path, go_on_from=1, n_events=9).close()
