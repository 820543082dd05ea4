"""The dashboard of a run as a person sees it: in a real browser, over a real visdom server."""

import json
import os
import signal
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
import visdom

from misc.make_toy_voc import make_toy_voc
from tests.chromium import find_browser, open_page
from tests.dashboard_page import Dashboard, heading_faults, layout_faults
from tests.run_server import the_runs
from tests.running_visdom import free_port, running_server, wait_for
from utils.dashboard_layout import EACH_RUN, ROWS
from utils.errors import UserError
from utils.event_log import EventLog, read_events
from utils.vis_tool import Visualizer

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parent.parent
SCREENSHOTS = Path(os.environ.get("SCREENSHOTS", ROOT / "build/screenshots"))
WORDS = (
    *("--voc-data-dir=toy", "--model=tiny", "--min-size=96", "--max-size=192", "--batch-size=2", "--use-adam=True"),
    *("--num-workers=0", "--test-num-workers=0", "--device=cpu", "--plot-every=2", "--epoch=2"),
)

# visdom's page takes its windows in after 100 ms, and learns its own width after 200 ms, from one or another moment on;
# what comes first decides by which code the windows are placed. This has it the one or the other way round.
RACE = """
var measured = false
const wait = window.setTimeout.bind(window)
const when = (condition, f) => condition() ? f() : wait(() => when(condition, f), 20)
window.setTimeout = (f, ms, ...more) => wait(() => {
  if (ms == 200) when(() => FIRST == 'width' || document.querySelectorAll('.window').length == location.hash.slice(1),
                      () => { f(...more); measured = true })
  else when(() => FIRST == 'windows' || ms != 100 || measured, () => f(...more))
}, ms)
"""

# The legend of a window: the names and their lines' colours.
LEGEND = """
[...document.querySelectorAll('.window')].filter(w => w.querySelector('.bar > div.pull-right').textContent == 'WIN')
  .flatMap(w => [...w.querySelectorAll('.legend .traces')]).map(one => [
    one.querySelector('.legendtext').textContent, getComputedStyle(one.querySelector('.js-line')).stroke])
"""

LOADED = "[...document.querySelectorAll('img.content-image')].filter(i => i.naturalWidth).length"

# Of each window with a slider: the picture's own size and the one it is drawn in, how far its dark part goes down and
# where the slider begins, and of its two captions whether what one sees there is the caption.
HISTORIES = """
[...document.querySelectorAll('.window')].filter(w => w.querySelector('input[type=range]')).map(w => {
  const img = w.querySelector('img.content-image'), box = img.getBoundingClientRect()
  const canvas = document.createElement('canvas'), paper = canvas.getContext('2d')
  canvas.width = img.naturalWidth, canvas.height = img.naturalHeight
  paper.drawImage(img, 0, 0)
  const row = y => paper.getImageData(0, y, canvas.width, 1).data
  const rows = [...Array(canvas.height).keys()].filter(y => row(y).some((value, k) => k % 4 < 3 && value < 128))
  return {
    own: [img.naturalWidth, img.naturalHeight],
    drawn: [box.width, box.height].map(Math.round),
    dark: Math.max(...rows),
    free: w.querySelector('.widgets').getBoundingClientRect().top - box.top,
    captions: [...w.querySelectorAll('.widget, .caption')].filter(c => c.textContent == 'epoch 1').map(c => {
      c.scrollIntoView({block: 'center'})
      const place = c.getBoundingClientRect()
      return document.elementFromPoint(place.left + 5, place.top + place.height / 2) == c
    }).sort().reverse(),
  }
})
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a toy dataset; skips where there is no browser."""
    find_browser()
    folder = tmp_path_factory.mktemp("home")
    make_toy_voc(folder / "toy", n_train=16, n_val=4, size=96)
    return folder


class Run:
    """`train.py train` in a process of its own, which can be held and let go on."""

    def __init__(self, home, name, *words):
        self.folder = home / "runs" / name
        words = ["train", *WORDS, f"--name={name}", f"--env={name}", *words]
        self.process = the_runs().start(home, words)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()

    def step(self):
        """The step of the last event so far; -1 before the first."""
        try:
            return max((event["step"] for event in read_events(self.folder)), default=-1)
        except UserError:
            return -1

    def over(self):
        return self.process.over()

    def hold(self):
        """Stop the process, which must be under way."""
        assert not self.over(), self.process.text()
        self.process.send(signal.SIGSTOP)

    def hold_at(self, step):
        """Stop the process when it has recorded something of `step` or of a later one."""
        wait_for(lambda: self.over() or self.step() >= step)
        self.hold()

    def go_on(self):
        self.process.send(signal.SIGCONT)

    def finish(self):
        assert self.process.wait(300) == 0, self.process.text()


def wait_for_env(run, port, env):
    client = visdom.Visdom(port=port, raise_exceptions=True, use_incoming_socket=False)
    wait_for(lambda: run.over() or env in client.get_env_list())


@pytest.fixture(scope="module")
def server(home):
    with running_server(home / "server") as (port, _):
        yield port


@pytest.mark.parametrize(
    "widths", [(1920, 1280), pytest.param((1280, 1600, 1920, 1280), marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_a_page_shows_all_that_a_run_records_and_reads_from_top_to_bottom(home, server, widths):
    name = f"watched_at_{len(widths)}_widths"
    with Run(home, name, f"--port={server}") as run:
        wait_for_env(run, server, name)
        run.hold()
        url = f"http://127.0.0.1:{server}/env/{name}"
        with open_page(url) as page:
            run.go_on()
            run.finish()
            dashboard = Dashboard(page, server, name)
            dashboard.wait_until_it_shows(run.folder)
            panes = dashboard.panes_at_rest()
            page.screenshot(SCREENSHOTS / "open_during_the_run.png")
            assert set(EACH_RUN) <= set(panes)
            assert layout_faults(panes, EACH_RUN) == []  # windows that a page did not expect are behind these
            for width in widths:  # opened anew; the browser remembers much
                page.resize(width, 900)
                page.go(url)
                dashboard.wait_until_it_shows(run.folder)
                panes = dashboard.panes_at_rest()
                page.screenshot(SCREENSHOTS / f"opened_afterwards_{width}.png")
                assert layout_faults(panes) + heading_faults(panes) == []
                assert max(pane["box"][2] for pane in panes.values()) <= width
            assert page.problems() == []


@pytest.mark.parametrize(("width", "first"), [(1280, "windows"), (1920, "windows"), (1920, "width")])
def test_windows_stand_in_their_rows_in_whatever_order_they_came(server, width, first):
    """Also where the browser has seen some of them before: it remembers where these stood."""
    env = f"late-{width}-{first}"
    names = [win for row in ROWS for win in row.windows]
    batches = (["mine", *names[::3]], names[::-2], [*names, "yours", "worst_2", "followed_2"])
    with (
        closing(Visualizer(env, server)) as vis,
        open_page("about:blank", width, script=f"const FIRST = '{first}'; {RACE}") as page,
    ):
        dashboard = Dashboard(page, server, env)
        for visit, batch in enumerate([*batches, []], start=1):
            page.go("about:blank")
            for name in batch[::-1]:
                vis.text(f"this is {name}", name)
            assert vis.flush(60)
            n_windows = len(json.loads(dashboard.client.get_window_data(None, env)))
            page.go(f"http://127.0.0.1:{server}/env/{env}#{n_windows}")
            page.wait_for(f"measured && document.querySelectorAll('.window').length == {n_windows}")
            panes = dashboard.panes_at_rest()
            page.screenshot(SCREENSHOTS / f"{env}_visit_{visit}.png")
            assert layout_faults(panes) + heading_faults(panes) == []
            behind = [panes[win]["box"][1] for win in ("mine", "yours") if win in panes]
            assert max(panes[win]["box"][3] for win in names if win in panes) < min(behind)
        assert set(panes) > {*names, "mine", "yours", "worst_2", "followed_2"}
        assert page.problems() == []


def test_several_runs_stand_in_one_anothers_rows_and_share_their_curves(home, server):
    for k, run in enumerate(("left", "right")):
        with closing(Visualizer(enabled=False, events=EventLog(home / run))) as vis:
            for name in ("total_loss", "test_map"):
                vis.plot(name, 1.0 - k / 4, 0)
                vis.plot(name, 0.5 - k / 4, 1)
            vis.heatmap("roi_cm", np.eye(3), ["background", "cat", "dog"])
            vis.bars("class_ap", ["cat", "dog"], [0.5, 0.75])
            for step in (1, 2):
                vis.follow("followed_1", np.zeros((3, 60, 160)), f"step {step}")
                vis.follow("followed_2", np.zeros((3, 60, 160)), f"step {step}")
            vis.text("words", "mine")
    words = ("dashboard", "--run=left,right", f"--port={server}", "--visdom=on")
    the_runs().run(home, words)
    with open_page(f"http://127.0.0.1:{server}/env/left-vs-right", 1280) as page:
        page.wait_for("document.querySelectorAll('.window').length == 16")  # with four headings
        dashboard = Dashboard(page, server, "left-vs-right")
        panes = dashboard.panes_at_rest()
        page.screenshot(SCREENSHOTS / "two_runs.png")
        assert layout_faults(panes) + heading_faults(panes) == []
        for name in ("followed_1", "followed_2", "roi_cm"):  # the next one wraps
            left, right = (panes[f"{run}: {name}"]["box"] for run in ("left", "right"))
            assert (left[1], left[2] < right[0]) == (right[1], True), f"{name} of the two runs is not side by side"
        assert panes["left: mine"]["box"][1] > panes["right: roi_cm"]["box"][3]
        legend = page.evaluate(LEGEND.replace("WIN", "total_loss"))
        assert [name for name, _ in legend] == ["left (smoothed)", "right (smoothed)"]
        assert len({colour for _, colour in legend}) == 2
        curves = {trace["name"]: trace["y"] for trace in panes["total_loss"]["traces"]}
        assert (curves["left"], curves["right"]) == ([1.0, 0.5], [0.75, 0.25])
        assert page.problems() == []


def test_no_window_cuts_off_a_part_of_its_picture(server):
    shapes = {"gt_img": (100, 100), "pred_img": (60, 80), "worst_1": (120, 50), "worst_2": (50, 120), "mine": (7, 6)}
    with closing(Visualizer("pictures", server)) as vis:
        for win, (height, width) in shapes.items():
            vis.img(win, np.zeros((3, height, width)))
        assert vis.flush(60)
    with open_page(f"http://127.0.0.1:{server}/env/pictures") as page:
        page.wait_for(f"{LOADED} == {len(shapes)}")
        panes = Dashboard(page, server, "pictures").panes_at_rest()
        page.screenshot(SCREENSHOTS / "pictures.png")
        for win, (height, width) in shapes.items():
            left, top, right, _ = panes[win]["drawn"]
            assert panes[win]["pictures"] == [width]
            assert panes[win]["box"][0] <= left < right <= panes[win]["box"][2] + 1
            bottom = top + height / width * (right - left - 1)  # the page rounds the width up
            assert panes[win]["box"][1] <= top < bottom <= panes[win]["box"][3] + 1


def test_a_history_shows_its_picture_whole_over_the_slider_and_its_caption_once(server):
    with closing(Visualizer("histories", server)) as vis:
        for k, (height, width) in enumerate([(390, 963), (510, 963), (960, 480), (100, 960)], start=1):
            vis.follow(f"worst_{k}", np.zeros((3, height, width)), "epoch 1")
        assert vis.flush(60)
    with open_page(f"http://127.0.0.1:{server}/env/histories") as page:
        page.wait_for(f"{LOADED} == 4")
        Dashboard(page, server, "histories").panes_at_rest()
        page.screenshot(SCREENSHOTS / "histories.png")
        for one in page.evaluate(HISTORIES):
            assert one["drawn"] == one["own"]  # no pixel is left out or doubled
            assert one["dark"] <= one["free"]
            assert one["captions"] == [True, False]  # below the picture, and behind it
        assert page.problems() == []


def test_a_server_that_dies_comes_back_and_hangs_changes_nothing_and_has_every_point_at_the_end(home):
    port = free_port()
    with (
        Run(home, "alone", "--visdom=False") as alone,
        running_server(home / "first", port) as (_, process),
        Run(home, "troubled", f"--port={port}") as run,
    ):
        wait_for_env(run, port, "troubled")
        run.hold_at(4)
        process.kill()
        process.wait()
        run.go_on()
        run.hold_at(8)
        with running_server(home / "second", port) as (_, process):
            run.go_on()
            run.hold_at(10)
            process.send_signal(signal.SIGSTOP)
            run.go_on()
            run.hold_at(12)
            process.send_signal(signal.SIGCONT)
            run.go_on()
            run.finish()
            with open_page(f"http://127.0.0.1:{port}/env/troubled", 1280) as page:
                dashboard = Dashboard(page, port, "troubled")
                dashboard.wait_until_it_shows(run.folder)
                page.screenshot(SCREENSHOTS / "after_outages.png")
                panes = dashboard.panes_at_rest()
                assert layout_faults(panes) + heading_faults(panes) == []
                assert page.problems() == []
        alone.finish()
    weights = [torch.load(r.folder / "last.pth", weights_only=True)["model"] for r in (alone, run)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
