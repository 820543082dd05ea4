"""utils/vis_windows.py: what is kept of a window, and what of it is still to be sent."""

import io
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from utils import vis_windows
from utils.vis_windows import Chart, History, Pane, Picture, Style, style_of


class Page:
    """What a server has after it was sent some drafts."""

    def __init__(self):
        self.curves = {}

    def take(self, draft):
        _, curves = draft.content
        if draft.whole:
            self.curves = {}
        else:
            assert curves.keys() == self.curves.keys()  # the order in which its traces are appended to
        for name, (x, y, sent) in curves.items():
            old_x, old_y = self.curves.get(name, ((), ()))
            self.curves[name] = (old_x + x[sent:], old_y + y[sent:])


@given(
    st.lists(st.sampled_from(["", "a", "b", "send", "lose", "restart"]), max_size=120),
    st.booleans(),
    st.integers(1, 40),
)
def test_whatever_is_lost_the_page_ends_with_what_was_recorded(events, smooth, marked):
    """Points come to three curves; messages arrive, or are lost while more is recorded, or the server loses all."""
    chart, page = Chart(Style(smooth=smooth)), Page()
    before, vis_windows.MARKED_POINTS = vis_windows.MARKED_POINTS, marked
    try:
        for k, event in enumerate(events):
            if event == "send" and chart.pending:
                draft = chart.draft()
                page.take(draft)
                chart.done(draft)
            elif event == "lose" and chart.pending:
                chart.draft()  # and nothing came of it: the link is dropped
                chart.forget()
            elif event == "restart":
                page = Page()
                chart.forget()
            elif event in ("", "a", "b"):
                chart.add(event, float(k), None)
        while chart.pending:
            draft = chart.draft()
            page.take(draft)
            chart.done(draft)
    finally:
        vis_windows.MARKED_POINTS = before
    recorded = {name: (tuple(series.x), tuple(series.y)) for name, series in chart.series.items()}
    assert page.curves == recorded
    assert sum(len(y) for _, y in recorded.values()) == sum(event in ("", "a", "b") for event in events)


def test_what_came_while_a_message_was_under_way_is_still_pending():
    chart = Chart()
    chart.add("", 1.0, 0.0)
    draft = chart.draft()
    chart.add("", 2.0, 1.0)
    chart.done(draft)
    assert chart.pending
    assert chart.draft()[1:3] == ((Style(), {"": ((0.0, 1.0), (1.0, 2.0), 1)}), False)


@pytest.mark.parametrize(("n_lines", "smooth", "limit"), [(1, 0, 2000), (1, 1, 1000), (4, 0, 500), (4, 1, 250)])
def test_a_windows_points_do_not_grow_with_the_run_and_stay_even(n_lines, smooth, limit):
    """The limit is of all curves, with the averages that are drawn over them."""
    chart, n = Chart(Style(smooth=bool(smooth))), 8_001
    for step in range(n):
        for k in range(n_lines):
            chart.add(str(k), float(step), float(step))
    for series in chart.series.values():
        assert limit / 4 <= len(series.x) <= limit
        assert (series.x[0], series.x[-1]) == (0, n - 1)
        assert series.x == series.y == sorted(set(series.x))
        assert max(np.diff(series.x)) <= 4 * n / limit


def test_a_second_curve_thins_the_first():
    chart = Chart()
    for step in range(2_000):
        chart.add("a", 1.0, float(step))
    chart.add("b", 1.0, 2_000.0)
    assert 500 <= len(chart.series["a"].x) <= 1_000
    assert max(np.diff(chart.series["a"].x)) <= 4
    assert chart.series["a"].x[-1] == 1_999


def test_each_curve_counts_for_itself():
    chart = Chart()
    assert [chart.add(name, 0.0, x) for name, x in (("a", None), ("a", None), ("b", None), ("b", 40), ("b", None))] == [
        0, 1, 0, 40, 41,
    ]  # fmt: skip


@pytest.mark.parametrize("names", [[""], ["a", "b"]])
def test_the_state_of_a_chart_comes_back(names):
    chart = Chart(style_of("step_time"))
    for k, name in enumerate(names):
        chart.add(name, 0.5 * k, 40.0)
        for _ in range(3_000):
            chart.add(name, None, None)
    again = Chart.from_state("step_time", chart.state_dict())
    assert again.state_dict() == chart.state_dict()
    assert again.style == chart.style
    assert again.pending
    for _ in range(3_000):  # and goes on as evenly
        chart.add(names[0], None, None)
        again.add(names[0], None, None)
    assert again.state_dict() == chart.state_dict()


def test_a_pane_is_sent_once_and_again_to_an_empty_server():
    pane = Pane("text", "words")
    pane.done(pane.draft())
    assert not pane.pending
    pane.forget()
    assert pane.pending


def frames(history):
    return [caption for _, caption in history.frames]


def test_a_history_keeps_its_ends_and_sends_what_is_new():
    history = History()
    for k in range(vis_windows.MAX_FRAMES):
        history.add(None, k)
        draft = history.draft()
        assert draft.whole == (k == 0)
        assert [caption for _, caption in draft.content] == [k]
        history.done(draft)
    assert not history.pending
    for k in range(vis_windows.MAX_FRAMES, 200):
        history.add(None, k)
    assert (frames(history)[0], frames(history)[-1]) == (0, 199)
    assert frames(history) == sorted(frames(history))
    assert len(history.frames) <= vis_windows.MAX_FRAMES
    draft = history.draft()
    assert draft.whole
    assert [caption for _, caption in draft.content] == frames(history)


def test_a_picture_becomes_a_jpeg_once(monkeypatch):
    rgb = np.full((20, 30, 3), 200, np.uint8)
    picture = Picture(rgb)
    calls = []
    real = Image.Image.save
    monkeypatch.setattr(Image.Image, "save", lambda *a, **k: (calls.append(1), real(*a, **k)))
    threads = [threading.Thread(target=picture.jpeg) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [1]
    with Image.open(io.BytesIO(picture.jpeg())) as img:
        assert (img.format, img.size) == ("JPEG", (30, 20))
        assert abs(np.asarray(img).mean() - 200) < 2
    again = Picture.from_jpeg(picture.jpeg())
    assert (again.height, again.width, again.jpeg()) == (20, 30, picture.jpeg())


def test_what_is_no_picture_is_refused():
    with pytest.raises(OSError, match="cannot identify"):
        Picture.from_jpeg(b"no picture")
