"""utils/visdom_panes.py: what plotly is given."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from utils import visdom_panes as panes
from utils.dashboard_layout import BAR
from utils.vis_windows import MARKED_POINTS, Picture, Style, style_of
from utils.visdom_panes import SLIDER


def chart(win, curves, whole=True, style=None):
    return panes.chart(win, (style or style_of(win), {name: (*xy, 0) for name, xy in curves.items()}), whole)


def by_name(traces):
    assert len({trace["name"] for trace in traces}) == len(traces)
    return {trace["name"]: trace for trace in traces}


def test_the_moving_average_is_the_weighted_mean_of_what_came():
    values = [3.0, 1.0, None, 4.0]
    weights = {0: 0.9**2, 1: 0.9, 3: 1.0}  # a gap takes no time
    expected = sum(values[i] * w for i, w in weights.items()) / sum(weights.values())
    smooth = panes.moving_average(values)
    assert smooth[0] == 3.0
    assert panes.moving_average([0.011125420667231083]) == [0.011125420667231083]
    assert smooth[2] is None
    assert smooth[3] == pytest.approx(expected)
    assert panes.moving_average([5.0] * 7) == pytest.approx([5.0] * 7)
    assert panes.moving_average([]) == []


def test_a_loss_is_a_raw_line_and_a_smoothed_one():
    traces, layout = chart("total_loss", {"": ((0, 40, 80), (3.0, 1.0, 2.0))})
    raw, smooth = by_name(traces)["total_loss"], by_name(traces)["total_loss (smoothed)"]
    assert raw["y"] == (3.0, 1.0, 2.0)
    assert smooth["y"] == panes.moving_average([3.0, 1.0, 2.0])
    assert raw["opacity"] < 1
    assert raw["line"]["color"] == smooth["line"]["color"]
    assert layout["xaxis"]["title"] == "step"
    assert not layout["showlegend"]


def test_what_is_appended_goes_on_with_the_same_average():
    x, y = tuple(range(9)), tuple(float(v) for v in (5, 1, 4, 1, 3, 9, 2, 6, 5))
    style = style_of("total_loss")
    whole, _ = panes.chart("total_loss", (style, {"": (x, y, 0)}), True)
    first, _ = panes.chart("total_loss", (style, {"": (x[:4], y[:4], 0)}), True)
    rest, _ = panes.chart("total_loss", (style, {"": (x, y, 4)}), False)
    for all_of_it, begin, end in zip(whole, first, rest, strict=True):
        assert [*begin["y"], *end["y"]] == [*all_of_it["y"]]
        assert begin["name"] == end["name"]


def test_several_curves_have_colours_and_a_legend():
    traces, layout = chart("step_time", {"step": ((0,), (1.0,)), "waiting": ((0,), (0.5,))})
    assert len({trace["line"]["color"] for trace in traces}) == 2
    assert layout["showlegend"]
    assert layout["legend"]["y"] == 0.45  # the two curves lie far apart
    assert layout["yaxis"]["title"] == "ms / step"


@pytest.mark.parametrize(
    ("n", "mode"), [(1, "lines+markers"), (MARKED_POINTS, "lines+markers"), (MARKED_POINTS + 1, "lines")]
)
def test_few_points_are_marked(n, mode):
    traces, _ = chart("memory", {"": (tuple(range(n)), (1.0,) * n)})
    assert traces[0]["mode"] == mode
    smoothed, _ = chart("total_loss", {"": (tuple(range(n)), (1.0,) * n)})
    assert [trace["mode"] for trace in smoothed] == [mode, mode]


@pytest.mark.parametrize(
    ("y", "best"),
    [((0.1, 0.5, 0.3), (1, 0.5)), ((0.5, None, 0.5), (0, 0.5)), ((None, 0.0), (1, 0.0)), ((None,), None)],
)
def test_the_best_map_is_marked(y, best):
    traces, _ = chart("test_map", {"": (tuple(range(len(y))), y)})
    stars = [trace for trace in traces if trace["name"].endswith("(best)")]
    assert [(star["x"][0], star["y"][0]) for star in stars] == ([best] if best else [])
    assert all(f"{best[1]:.4f}" in star["text"][0] for star in stars)


@pytest.mark.parametrize(
    ("x", "y", "place"),
    [((1,), (0.5,), "top right"), ((1, 2, 3), (0.1, 0.2, 0.5), "top left"), ((1, 2, 3), (0.5, 0.2, 0.1), "top right")],
)
def test_the_best_maps_number_stands_above_the_curve_and_inside_the_plot(x, y, place):
    traces, layout = chart("test_map", {"": (x, y)})
    assert traces[-1]["textposition"] == place
    assert layout["yaxis"]["range"] == [0, pytest.approx(0.625)]
    assert layout["yaxis"]["autorange"] is False
    assert "range" not in chart("test_map", {"": ((1,), (0.0,))})[1]["yaxis"]


def test_a_precision_recall_curve_begins_on_the_axis_so_that_a_single_point_is_seen():
    (single, none), layout = panes.curves("pr_curves", (["a", "b"], [[0.4], []], [[0.9], []]))
    assert (single["x"], single["y"]) == ([0, 0.4], [0.9, 0.9])
    assert (none["x"], none["y"]) == ([], [])
    assert (layout["legend"]["x"], layout["legend"]["y"]) == (0, 0)  # the curves go to the other corners


def test_every_message_is_json():
    rgb = np.zeros((4, 6, 3), np.uint8)
    for data, *layout in (
        chart("total_loss", {"": ((0.0, 1.0), (None, 1.0))}),
        chart("odd", {"a": ((0.0,), (None,))}, style=Style(best=True)),
        panes.img(Picture(rgb), (60, 80)),
        panes.frame((Picture(rgb), "step 1"), (60, 80)),
        panes.text("labels", "<b>a</b>"),
        panes.log("log_text", ("a < b",)),
        panes.heatmap("roi_cm", (np.eye(3), ["a", "b", "b"])),
        panes.heatmap("roi_cm", (np.zeros((40, 40)), [])),
        panes.bars("class_ap", (["a", "b"], [0.5, None])),
        panes.curves("pr_curves", (["a"], [[0.0, 1.0]], [[1.0, None]])),
        panes.curves("pr_curves", ([], [], [])),
    ):
        json.dumps([data, layout], allow_nan=False)
        assert data


@pytest.mark.parametrize(("height", "drawn"), [(200, (201, 67)), (400, (201, 134)), (1600, (75, 200))])
def test_a_picture_of_a_history_fills_its_window_and_lies_over_the_slider(height, drawn):
    """The page would not smooth one that it makes smaller, and show the caption behind a smaller one."""
    ((message,),) = panes.frame((Picture(np.zeros((height, 600, 3), np.uint8)), "step 40"), (200, 200 + SLIDER - 1))
    assert message["type"] == "image_history"
    assert message["content"]["caption"] == "step 40"
    with Image.open(io.BytesIO(base64.b64decode(message["content"]["src"].partition(",")[2]))) as shown:
        assert shown.size == (201, 200 + SLIDER + BAR)
        dark = np.asarray(shown).min(axis=2) < 128
    assert abs(dark.any(axis=0).sum() - drawn[0]) <= 1
    assert abs(dark.any(axis=1).sum() - drawn[1]) <= 1
    assert dark[0].any()
    assert not dark[200:].any()


@pytest.mark.parametrize(("size", "rows"), [((60, 100), 0), ((60, 50), 2), ((60, 20), 4)])
def test_a_high_picture_has_white_below_which_the_page_cuts(size, rows):
    picture = Picture(np.zeros((4, 6, 3), np.uint8))
    ((message,),) = panes.img(picture, size)
    content = base64.b64decode(message["content"]["src"].partition(",")[2])
    with Image.open(io.BytesIO(content)) as shown:
        assert shown.size == (6, 4 + rows)
        assert np.asarray(shown)[4:].min(initial=255) > 240


def test_a_log_line_is_text():
    ((pane,),) = panes.log("log_text", ("a <script> & b", "c"))
    assert "a &lt;script&gt; &amp; b<br>c" in pane["content"]


def test_the_matrix_says_its_counts_on_hover_and_its_shares_where_they_fit():
    ((small,), _) = panes.heatmap("roi_cm", (np.array([[1.0, 3.0], [0.0, 0.0]]), ["a", "b"]))
    assert small["z"] == [[0.25, 0.75], [0, 0]]
    assert small["customdata"] == [[1, 3], [0, 0]]
    assert "customdata" in small["hovertemplate"]
    assert "texttemplate" in small
    ((large,), _) = panes.heatmap("roi_cm", (np.eye(21), [str(k) for k in range(21)]))
    assert "texttemplate" not in large


def test_bars_of_classes_of_one_name_stay_apart():
    ((trace,), _) = panes.bars("class_ap", (["cat", "cat", "dog"], [0.5, None, 0.25]))
    assert trace["x"] == ["cat (0)", "cat (1)", "dog"]
    assert trace["text"] == ["0.50", "", "0.25"]


@pytest.mark.parametrize(("n", "wanted"), [(12, (None, None)), (20, (1, 10)), (80, (1, 8)), (400, (None, 8))])
def test_bars_of_many_classes_have_small_names_and_each_its_own_as_long_as_they_fit(n, wanted):
    _, layout = panes.bars("class_ap", ([f"class {k}" for k in range(n)], [0.5] * n))
    xaxis = layout["xaxis"]
    assert (xaxis.get("dtick"), xaxis.get("tickfont", {}).get("size")) == wanted


def test_of_many_curves_the_first_are_named_and_the_others_on_hover():
    names = [f"class {k} 0.5" for k in range(20)]
    traces, layout = panes.curves("pr_curves", (names, [[0.5]] * 20, [[0.5]] * 20))
    assert [trace.get("showlegend", True) for trace in traces] == [True] * 8 + [False] * 12
    assert [trace["text"] for trace in traces] == names
    assert "8 of 20" in layout["legend"]["title"]["text"]
    few, layout = panes.curves("pr_curves", (names[:8], [[0.5]] * 8, [[0.5]] * 8))
    assert all("showlegend" not in trace for trace in few)
    assert layout["legend"]["title"]["text"] == "AP (area)"


ODD = ["<b>x</b>", "$x^2$", "fish & chips", "a\nb", "3"]


def test_names_are_text_to_plotly():
    shown = ["&lt;b&gt;x&lt;/b&gt;", "&#36;x^2&#36;", "fish &amp; chips", "a b", "3"]
    ((bars,), _) = panes.bars("class_ap", (ODD, [0.5] * 5))
    assert bars["x"] == bars["hovertext"] == shown
    ((matrix,), _) = panes.heatmap("roi_cm", (np.eye(5), ODD))
    assert matrix["x"] == matrix["y"] == shown
    curves, _ = panes.curves("pr_curves", ([f"{name} 0.5" for name in ODD], [[0.5]] * 5, [[0.5]] * 5))
    assert [curve["name"] for curve in curves] == [f"{name} 0.5" for name in shown]
    traces, layout = chart("<i>a</i>: x", {"<b>$1$</b>": ((0,), (1.0,)), "b": ((0,), (1.0,))})
    assert [trace["name"] for trace in traces] == ["&lt;b&gt;&#36;1&#36;&lt;/b&gt;", "b"]
    assert layout["title"]["text"] == "&lt;i&gt;a&lt;/i&gt;: x"


def test_long_names_are_short_and_stay_different_and_whole_on_hover():
    names = ["a" * 80 + end for end in "xy"] + ["dog"]
    start = "a" * 19 + "…"
    ((bars,), _) = panes.bars("class_ap", (names, [0.5] * 3))
    assert bars["x"] == [f"{start} (0)", f"{start} (1)", "dog"]
    assert bars["hovertext"] == names
    ((matrix,), _) = panes.heatmap("roi_cm", (np.eye(3), names))
    assert matrix["x"] == matrix["y"] == bars["x"]
    curves, _ = panes.curves("pr_curves", ([f"{name} 0.75" for name in names], [[0.5]] * 3, [[0.5]] * 3))
    assert [curve["name"] for curve in curves] == [f"{start} 0.75 (0)", f"{start} 0.75 (1)", "dog 0.75"]
    assert [curve["text"] for curve in curves] == [f"{name} 0.75" for name in names]


def test_a_class_that_is_called_as_another_ones_number_would_have_it_stays_apart():
    ((trace,), _) = panes.bars("class_ap", (["cat", "cat", "cat (1)"], [0.5, None, 0.25]))
    assert len({*trace["x"]}) == 3
