"""utils/progress_tool.py and utils/terminal_tool.py: what is written to a terminal, a notebook, a pipe or a file."""

import io
import sys
from types import SimpleNamespace

import pytest
from tqdm import tqdm

from utils.progress_tool import LineProgress, progress_bar
from utils.terminal_tool import QUIET, USUAL, VERBOSE, detail, paint, say, say_result, set_verbosity, tell, warn


class Clock:
    """Seconds that pass only where a test says so."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(autouse=True)
def _a_terminal_with_colours(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")


def lines_of(capsys):
    out, err = capsys.readouterr()
    assert out == ""
    assert "\r" not in err
    assert "\033" not in err
    return err.splitlines()


def test_lines_come_with_the_percents_where_these_are_rarer(clock, capsys):
    bar = LineProgress(desc="train", total=1000, unit="step", clock=clock)
    for _ in range(1000):
        clock.now += 60
        bar.update()
    bar.close()
    shown = [line.split(" ")[1] for line in lines_of(capsys)]
    assert shown == [f"{n}/1,000" if n < 1000 else "1,000/1,000" for n in (10, 20, 50, *range(100, 1001, 100))]


def test_lines_come_with_the_clock_where_that_is_rarer(clock, capsys):
    bar = LineProgress(total=1000, clock=clock)
    for _ in range(1000):
        clock.now += 0.1
        bar.update()
    bar.close()
    assert len(lines_of(capsys)) == 4  # in 100 s: at most every 30, and at the end


def test_a_line_says_rate_time_left_and_loss(clock, capsys):
    bar = LineProgress(desc="train", total=8000, unit="step", clock=clock)
    bar.set_postfix(loss="1.234")
    clock.now += 100
    bar.update(200)
    (line,) = lines_of(capsys)
    assert line == "train: 200/8,000 (2 %), 2 step/s, 1:05:00 left, loss=1.234"
    clock.now += 78000
    bar.update(7800)
    bar.close()
    assert lines_of(capsys) == ["train: 8,000/8,000 (100 %), 9.76 s/step, 21:41:40 taken, loss=1.234"]


def test_what_was_done_before_is_not_in_the_rate(clock, capsys):
    bar = LineProgress(total=100, initial=50, clock=clock)
    clock.now += 40
    bar.update(10)
    assert lines_of(capsys) == ["progress: 60/100 (60 %), 4 s/it, 02:40 left"]
    bar.close()
    assert lines_of(capsys) == []  # said


def test_an_unknown_end(clock, capsys):
    bar = LineProgress(desc="predict", total=None, unit="img", clock=clock)
    for _ in range(100):
        clock.now += 1
        bar.update()
    bar.close()
    assert lines_of(capsys) == [f"predict: {n}, 1 img/s" for n in (30, 60, 90, 100)]


@pytest.mark.parametrize(("seconds", "n_lines"), [(1, 0), (40, 6)])
def test_what_is_not_left_is_told_only_of_long_work(clock, capsys, seconds, n_lines):
    bar = LineProgress(total=5, leave=False, clock=clock)
    for _ in range(5):
        clock.now += seconds
        bar.update()
    bar.close()
    assert len(lines_of(capsys)) == min(n_lines, 5)


def test_an_iterable_passes_through(clock, capsys):
    assert list(LineProgress([3, 1, 2], "three", clock=clock)) == [3, 1, 2]
    (line,) = lines_of(capsys)
    assert line.startswith("three: 3/3 (100 %), ")


def test_work_that_is_empty_or_stopped_at_once_says_nothing(clock, capsys):
    assert list(LineProgress([], clock=clock)) == []
    LineProgress(total=7, clock=clock).close()
    LineProgress(total=0, clock=clock).close()
    assert lines_of(capsys) == []


def test_which_bar_is_for_what(monkeypatch, capsys):
    assert isinstance(progress_bar(total=3), LineProgress)
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert type(progress_bar(total=3, leave=False)) is tqdm
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(progress_bar(total=3), LineProgress)


def test_in_a_notebook_the_bar_is_the_notebooks_or_text(monkeypatch, capsys, recwarn):
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.delitem(sys.modules, "tqdm.autonotebook", raising=False)
    with progress_bar(total=3, desc="here", leave=False) as bar:
        bar.update(3)
    assert isinstance(bar, tqdm)
    assert not recwarn.list
    monkeypatch.delitem(sys.modules, "tqdm.autonotebook", raising=False)


@pytest.mark.parametrize("terminal", [True, False])
def test_no_bar_where_little_shall_be_said(monkeypatch, terminal):
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    set_verbosity(QUIET)
    with progress_bar(total=3) as bar:
        bar.update(3)
    assert list(progress_bar([1, 2])) == [1, 2]
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("level", "said"),
    [(QUIET, ["always"]), (USUAL, ["always", "mostly"]), (VERBOSE, ["always", "mostly", "on request"])],
)
def test_how_much_is_said(capsys, level, said):
    set_verbosity(level)
    say("always")
    tell("mostly")
    detail("on request")
    warn("look")
    out, err = capsys.readouterr()
    assert out.splitlines() == said
    assert err == "warning: look\n"


@pytest.mark.parametrize("how", ["terminal", "NO_COLOR", "dumb", "pipe"])
def test_colours_are_for_terminals(monkeypatch, how):
    out, err = (io.StringIO() if how == "pipe" else Terminal() for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    if how == "NO_COLOR":
        monkeypatch.setenv("NO_COLOR", "1")
    if how == "dumb":
        monkeypatch.setenv("TERM", "dumb")
    warn("a: b")
    say("error: c", file=err)
    say_result("mAP 0.5")
    say("epoch 1: mAP")
    if how == "terminal":
        assert err.getvalue() == "\033[33mwarning:\033[0m a: b\n\033[31merror:\033[0m c\n"
        assert out.getvalue() == "\033[1mmAP 0.5\033[0m\nepoch 1: mAP\n"
    else:
        assert err.getvalue() == "warning: a: b\nerror: c\n"
        assert out.getvalue() == "mAP 0.5\nepoch 1: mAP\n"


def test_an_empty_no_color_means_nothing(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "")
    assert paint("x", 31, Terminal()) == "\033[31mx\033[0m"
