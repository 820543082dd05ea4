"""utils/pace_tool.py, with a clock that the test turns."""

import json
import time
from types import SimpleNamespace

import pytest
import torch

from utils import pace_tool
from utils.cli_tool import return_free_memory
from utils.pace_tool import Pace, duration, memory_gb


class Clock:
    now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(pace_tool, "time", clock)
    return clock


def loader(clock, n, seconds, images=2):
    for _ in range(n):
        clock.now += seconds
        yield SimpleNamespace(sizes=[None] * images)


def test_where_the_time_goes(clock):
    pace = Pace(n_steps=100)
    assert pace.seconds_left(0) is None
    for batch in pace.waiting(loader(clock, 4, seconds=0.5)):
        clock.now += 1.5
        pace.count(len(batch.sizes))
        with pace.aside():
            clock.now += 10  # a look
    taken = pace.take()
    assert taken == pytest.approx({"images_per_second": 1.0, "step": 2000, "waiting": 500, "n_images": 8})
    assert pace.seconds_left(4) == pytest.approx(96 * 2)


def test_it_goes_on_where_it_was(clock):
    """In another process, by its own clock."""
    pace, again = Pace(n_steps=100), Pace(n_steps=100)
    clock.now += 1
    pace.take()
    for batch in pace.waiting(loader(clock, 4, seconds=0.5)):
        pace.count(len(batch.sizes))
    state = json.loads(json.dumps(pace.state_dict()))
    expected = pace.take()
    clock.now += 1000
    again.load_state_dict(state)
    assert again.take() == pytest.approx(expected)
    assert again.seconds_left(4) == pace.seconds_left(4)


@pytest.mark.parametrize(
    "name", ["seconds", "waited", "seconds_a_step", "seconds_an_evaluation", "n_steps", "n_images"]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e308, 1e30, 10**400, "x", []])
def test_a_state_that_can_not_be(name, value):
    with pytest.raises((TypeError, ValueError, OverflowError)):
        Pace(n_steps=10).load_state_dict(Pace(n_steps=10).state_dict() | {name: value})


def test_an_end_beyond_all_calendars(clock):
    pace = Pace(n_steps=10**12)
    for batch in pace.waiting(loader(clock, 3, seconds=1000.0)):
        pace.count(len(batch.sizes))
    pace.take()
    assert time.localtime(time.time() + pace.seconds_left(3)).tm_year > 2100


def test_the_end_is_foretold_by_what_was_seen_lately_and_with_evaluations(clock):
    pace = Pace(n_steps=100, n_evaluations=3)
    for seconds in (1.0, 2.0):
        for batch in pace.waiting(loader(clock, 10, seconds)):
            pace.count(len(batch.sizes))
        pace.take()
    assert pace.seconds_left(20) == pytest.approx(80 * (0.8 * 1.0 + 0.2 * 2.0))
    with pace.aside(evaluation=True):
        clock.now += 30
    assert pace.seconds_left(20) == pytest.approx(80 * 1.2 + 2 * 30)
    for _ in range(3):
        with pace.aside(evaluation=True):
            clock.now += 30
    assert pace.seconds_left(100) == 0


def test_memory_is_what_the_process_holds():
    return_free_memory()  # of the tests before this one: what is taken below would come from it
    before = memory_gb(torch.device("cpu"))["this process"]
    held = torch.ones(50_000_000)  # 0.2 GB
    after = memory_gb(torch.device("cpu"))["this process"]
    assert 0.15 < after - before < 0.4
    del held


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0:00"), (59.6, "1:00"), (3599.4, "59:59"), (3723, "1:02:03")])
def test_durations(seconds, shown):
    assert duration(seconds) == shown
