"""Where the dashboard's windows stand."""

import json

import numpy as np
import pytest

from tests.running_visdom import Page
from utils.dashboard_layout import (
    EACH_RUN,
    PAGE,
    ROWS,
    heading_id,
    headings_of,
    in_order,
    layout_items,
    place,
    size_of,
)

CONTRACT = (
    *("rpn_loc_loss", "rpn_cls_loss", "roi_loc_loss", "roi_cls_loss", "total_loss", "test_map"),
    *("gt_img", "pred_img", "roi_cm", "rpn_cm", "labels", "log_text"),
)
ALL = [win for row in ROWS for win in row.windows]


def items_of(windows):
    return layout_items({win: size_of(win, "chart") for win in windows})


def box(item):
    return item["x"], item["y"], item["x"] + item["w"], item["y"] + item["h"]


def apart(a, b):
    return a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_the_table_has_the_windows_that_every_run_shows():
    assert set(CONTRACT) < set(EACH_RUN) < set(ALL)
    assert len(ALL) == len(set(ALL))


@pytest.mark.parametrize(
    "windows",
    [ALL, ALL[::-1], ALL[::2], ["test_map"], [*ALL, *(f"worst_{k}" for k in range(2, 12)), "mine", "yours"]],
    ids=["all", "backwards", "every other", "one", "more"],
)
def test_no_two_windows_overlap_and_a_row_lies_below_the_one_before(windows):
    items = items_of(windows)
    boxes = [box(items[win]) for win in in_order(windows)]
    assert all(apart(a, b) for k, a in enumerate(boxes) for b in boxes[:k])
    assert all(right <= PAGE for _, _, right, _ in boxes)
    assert boxes == sorted(boxes, key=lambda box: (box[1], box[0]))  # as one reads
    bottom = 0
    for row in [*ROWS, None]:
        heading = row.heading if row else "More"
        members = [box(items[win]) for win in windows if place(win).heading == heading]
        if members:
            top = items[heading_id(heading)]
            assert bottom <= top["y"] < top["y"] + top["h"] <= min(y for _, y, _, _ in members)
            bottom = max(y for _, _, _, y in members)
        else:
            assert heading_id(heading) not in items


@pytest.mark.parametrize("row", [row for row in ROWS if len(row.windows) > 1], ids=lambda row: row.heading)
def test_a_row_is_one_shelf(row):
    items = items_of(ALL)
    assert len({items[win]["y"] for win in row.windows}) == 1
    assert {win: items[win]["x"] for win in row.windows} == dict.fromkeys(row.windows, 0) | {
        win: pytest.approx(sum(items[left]["w"] for left in [*row.windows][:k])) for k, win in enumerate(row.windows)
    }


def test_numbered_windows_stand_by_their_number_and_unknown_ones_behind_as_they_came():
    windows = ["yours", "worst_10", "mine", "worst_9", "worst_1", "config", "followed_2", "followed_1"]
    expected = ["followed_1", "followed_2", "worst_1", "worst_9", "worst_10", "config", "yours", "mine"]
    assert in_order(windows) == expected
    assert size_of("worst_10", "img") == size_of("worst_1", "img")


def test_two_pairs_of_pictures_are_in_a_row():
    items = items_of([f"{name}_{k}" for name in ("followed", "worst") for k in (1, 2, 3)])
    for name in ("followed", "worst"):
        first, second, third = (items[f"{name}_{k}"] for k in (1, 2, 3))
        assert first["y"] == second["y"] < third["y"]


def test_windows_of_several_runs_stand_beside_each_other_in_their_row():
    windows = ["b: followed_2", "a: roi_cm", "a: followed_1", "a: mine", "b: roi_cm", "total_loss", "b: followed_1"]
    windows += ["a: followed_2", "x: y: roi_cm"]
    assert in_order(windows) == [
        *("total_loss", "a: followed_1", "b: followed_1", "b: followed_2", "a: followed_2"),
        *("a: roi_cm", "b: roi_cm", "x: y: roi_cm", "a: mine"),
    ]
    assert {place(win).heading for win in windows if win.endswith("roi_cm")} == {place("roi_cm").heading}
    assert place("a: mine") == place("mine")
    for kind, n in (("heatmap", 21), ("heatmap", 81), ("text", 0)):
        assert size_of("a: roi_cm", kind, n) == size_of("roi_cm", kind, n)


def test_a_heading_stands_between_the_row_before_and_its_own():
    orders = headings_of([*ALL, "mine"])
    assert len(orders) == len(ROWS) + 1
    in_page = sorted(
        [*((order, heading) for heading, order in orders.items()), *((place(win).order, win) for win in ALL)]
    )
    wanted = [name for row in ROWS for name in (row.heading, *row.windows)]
    assert [name for _, name in in_page] == [*wanted, "More"]


def test_windows_of_ones_own_need_no_heading_while_they_are_alone():
    assert headings_of(["mine", "yours"]) == {}
    assert [*items_of(["mine", "yours"])] == ["mine", "yours"]


def test_a_heatmap_of_very_many_classes_grows():
    assert size_of("roi_cm", "heatmap", 81) > size_of("roi_cm", "heatmap", 21) == size_of("roi_cm", "text")


def test_bars_of_very_many_classes_are_wider_and_as_high():
    width, height = size_of("class_ap", "bars", 20)
    assert size_of("class_ap", "text") == (width, height)
    assert size_of("class_ap", "bars", 80) == (900, height)


def test_the_server_saves_where_windows_stand_whatever_came_first(server, server_folder, new_visualizer):
    port, _ = server
    vis = new_visualizer(port, env="placed")
    saved = server_folder / "env/placed.json"
    shown = {}
    for win in ("mine", "labels", "total_loss", "gt_img"):
        vis.text("words", win)
        shown[win] = size_of(win, "text")
        vis.save()
        assert vis.flush(20)
        env = json.loads(saved.read_text())
        by_order = sorted(env["jsons"], key=lambda name: env["jsons"][name]["i"])
        assert env["reload"] == layout_items(shown)
        assert by_order == [*layout_items(shown)]  # what the page takes in first stands first in its layout
    assert by_order[1::2] == ["total_loss", "gt_img", "labels", "mine"]


def test_expected_windows_keep_a_place_and_what_is_there_already_stays(server, new_visualizer):
    port, _ = server
    vis = new_visualizer(port, env="expected")
    vis.plot("total_loss", 2.5)
    vis.expect(["test_map", "total_loss"])
    assert vis.flush(20)
    page = Page(port, "expected")
    assert page.series("total_loss") == ([0], [2.5])
    assert "nothing yet" in page.window("test_map")["content"]
    vis.plot("test_map", 0.5)
    assert vis.flush(20)
    assert page.series("test_map") == ([0], [0.5])
    assert vis.state_dict()["lines"].keys() == {"total_loss", "test_map"}


@pytest.mark.parametrize(("kind", "win"), [("bars", "class_ap"), ("heatmap", "roi_cm")])
def test_the_server_gives_very_many_classes_the_wide_window(server, new_visualizer, kind, win):
    names = [f"class {k}" for k in range(80)]
    vis = new_visualizer(server[0], env=f"many-{kind}")
    vis.bars(win, names, [0.5] * 80) if kind == "bars" else vis.heatmap(win, np.eye(80), names)
    assert vis.flush(20)
    assert Page(server[0], f"many-{kind}").window(win)["width"] == size_of(win, kind, 80)[0] > size_of(win, kind, 8)[0]
