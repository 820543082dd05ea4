"""What an open dashboard shows, read from the page in a browser, beside what the event log of the run has."""

import json
import time

import numpy as np
import visdom

from utils.dashboard_layout import BAR, ROW, heading_id, in_order, place, size_of
from utils.event_log import read_events

# Each window of the page: its title, its place, and what is drawn in it.
PANES = """
[...document.querySelectorAll('.react-grid-item')].filter(item => item.querySelector('.window')).map(item => {
  const all = s => [...item.querySelectorAll(s)], box = item.getBoundingClientRect()
  const plot = item.querySelector('.plotly-graph-div')
  return {
    title: (all('.bar > div.pull-right').pop() || {}).textContent || '',
    box: [box.left, box.top, box.right, box.bottom],
    text: (all('.content-text').pop() || {}).textContent || '',
    pictures: all('img.content-image').map(img => img.naturalWidth),
    drawn: all('img.content-image').map(img => img.getBoundingClientRect()).flatMap(
      b => [b.left, b.top, b.right, b.bottom]),
    traces: plot && plot.data ? plot.data.map(({name, type, x, y, z}) => ({name, type, x, y, z})) : [],
    marks: all('.scatterlayer .point, .scatterlayer .js-line, .heatmaplayer image, .barlayer .point path').length,
  }
})
"""
SAME_TEXT = "(html => {const d = document.createElement('div'); d.innerHTML = html; return d.textContent})"


class Dashboard:
    """The windows of an environment on an open page, by the names under which a run records them.

    Args:
        page: an open `chromium.Page`.
        port, env: the server's environment that the page shows.
    """

    def __init__(self, page, port, env):
        self.page, self.env = page, env
        self.client = visdom.Visdom(port=port, env=env, raise_exceptions=True, use_incoming_socket=False)

    def panes(self):
        """win → what the page has of it; a window has its title from the server."""
        windows = json.loads(self.client.get_window_data(None, self.env))
        names = {window["title"]: win for win, window in windows.items() if window["title"]}
        return {names.get(pane["title"], pane["text"]): pane for pane in self.page.evaluate(PANES)}

    def panes_at_rest(self):
        """`panes`, when the page has stopped to move them: it does so once more when it knows its own width."""
        panes, before = self.panes(), None
        while before is None or {win: pane["box"] for win, pane in panes.items()} != before:
            before = {win: pane["box"] for win, pane in panes.items()}
            time.sleep(0.5)
            panes = self.panes()
        return panes

    def differences(self, run_dir) -> list[str]:
        """What the page lacks of what the run recorded, or has otherwise: nothing, if all is well."""
        panes, found = self.panes(), []
        for win, events in _by_window(run_dir).items():
            if win not in panes:
                found.append(f"{win}: not on the page")
            else:
                found += [f"{win}: {what}" for what in self._differences(panes[win], events)]
        return found

    def wait_until_it_shows(self, run_dir, seconds=120):
        deadline = time.monotonic() + seconds
        while found := self.differences(run_dir):
            assert time.monotonic() < deadline, "\n".join(found)
            time.sleep(0.2)

    def _differences(self, pane, events):
        last = events[-1]
        kind = last["kind"]
        if kind == "img":
            return [] if pane["pictures"] and min(pane["pictures"]) > 0 else ["no picture"]
        if kind in ("text", "log"):
            lines = [last["text"]] if kind == "text" else [event["text"] for event in events]
            texts = [self.page.evaluate(f"{SAME_TEXT}({json.dumps(line)})") for line in lines]
            return [f"lacks the text {text!r}" for text in texts if _squeezed(text) not in _squeezed(pane["text"])]
        if not pane["marks"]:
            return ["nothing is drawn"]
        return [what for what, wanted in _numbers(events) if not any(wanted(trace) for trace in pane["traces"])]


def _by_window(run_dir):
    windows = {}
    for event in read_events(run_dir):
        if event["kind"] == "end":
            continue
        windows.setdefault(event["win"], []).append(event)
    return windows


def _numbers(events):
    """What must be in the traces of a window: pairs of words and a test of one trace."""
    last = events[-1]
    if last["kind"] == "point":
        for line in dict.fromkeys(event.get("line") for event in events):
            points = [(event["x"], event["y"]) for event in events if event.get("line") == line]
            yield f"no curve {line or ''} of the points {points}", _has(*zip(*points), name=line)
    elif last["kind"] == "curves":
        for name, x, y in zip(last["names"], last["x"], last["y"]):
            yield f"no curve {name}", _has([*[0][: len(x)], *x], [*y[:1], *y], name=name)  # it begins on the axis
    elif last["kind"] == "bars":
        yield (
            "no such bars",
            lambda trace: (
                trace["type"] == "bar"
                and (
                    _pairs(trace["x"], trace["y"]) == _pairs(last["names"], last["values"])
                    or _pairs(trace["y"], trace["x"]) == _pairs(last["names"], last["values"])
                )
            ),
        )
    elif last["kind"] == "heatmap":
        matrix = np.array(last["matrix"])
        share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1e-12)
        yield "no such matrix", lambda trace: trace["type"] == "heatmap" and np.allclose(trace["z"], share)


def _has(x, y, name):
    return lambda trace: name in (None, trace["name"]) and [trace["x"], trace["y"]] == [list(x), list(y)]


def _pairs(names, values):
    return sorted(zip(map(str, names), values))


def _squeezed(text):
    return "".join(text.split())


def layout_faults(panes, windows=None) -> list[str]:
    """Windows that overlap, and those of `windows` (default: all) that `dashboard_layout` has elsewhere or otherwise.

    Args:
        panes: as `Dashboard.panes` has them.
        windows: names.
    """
    boxes = {win: pane["box"] for win, pane in panes.items()}
    names = [*boxes]
    found = [f"{a} and {b} overlap" for k, a in enumerate(names) for b in names[:k] if _overlap(boxes[a], boxes[b])]
    windows = [win for win in windows or boxes if place(win).order < 0]
    seen = sorted(windows, key=lambda win: (round(boxes[win][1]), boxes[win][0]))
    wanted = in_order(seen)  # of several runs the windows of one place stand there in any order
    if seen != wanted:
        found.append(f"the order is {seen}, not {wanted}")
    for heading in dict.fromkeys(place(win).heading for win in wanted):
        row = [win for win in wanted if place(win).heading == heading]
        tops = {round(boxes[win][1]) for win in row}
        if sum(size_of(win, "line")[0] + 10 for win in row) <= 1250 and len(tops) != 1:
            found.append(f"{row} is no row: their upper edges are at {sorted(tops)}")
    for win in wanted:
        left, top, right, bottom = boxes[win]
        width, height = size_of(win, "line")
        if abs(right - left - width) > 4 or not 0 <= bottom - top - height - BAR <= ROW:
            found.append(f"{win} is {right - left:.0f} x {bottom - top:.0f} pixels, not {width} x {height} and a bar")
    return found


def heading_faults(panes) -> list[str]:
    """Rows that do not stand below their heading, which stands below the row before."""
    windows, found, bottom = [win for win in panes if place(win).order < 0], [], 0
    texts = {pane["text"]: pane["box"] for pane in panes.values() if pane["title"] == ""}
    for heading in dict.fromkeys(place(win).heading for win in in_order(windows)):
        row = [panes[win]["box"] for win in windows if place(win).heading == heading]
        if heading not in texts:
            found.append(f"no {heading_id(heading)}")
        elif not bottom <= texts[heading][1] < texts[heading][3] <= min(top for _, top, _, _ in row):
            found.append(f"{heading_id(heading)} stands at {texts[heading]}, its row at {row}")
        bottom = max(low for _, _, _, low in row)
    return found


def _overlap(a, b):
    return a[0] < b[2] - 1 and b[0] < a[2] - 1 and a[1] < b[3] - 1 and b[1] < a[3] - 1  # less than a pixel is rounding
