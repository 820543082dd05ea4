"""utils/plot_tool.py: what is drawn is what was given, read from the SVG."""

import base64
import io
import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from utils.plot_tool import (
    MAX_POINTS,
    PNG_DPI,
    Series,
    bars_figure,
    curves_figure,
    matrix_figure,
    one_line,
    png,
    precision_recall_figure,
    svg,
)
from utils.vis_windows import Style
from utils.visdom_panes import PALETTE, moving_average

BLUE, ORANGE = PALETTE[:2]


class Drawn:
    """An SVG as a reader sees it."""

    def __init__(self, figure):
        self.root = ElementTree.fromstring(svg(figure, "salt"))
        self.texts = [text.text for text in self.root.iter("text")]

    def lines(self, colour):
        """(M, 2) pixels of each line of a colour in its parts; its keys in a legend are wider, and not among them."""
        paths = [path for path in self.root.iter("path") if f"stroke: {colour}; " in path.get("style", "")]
        paths = [path for path in paths if "stroke-width: 3" not in path.get("style") and "L" in path.get("d")]
        return [[_points(part) for part in path.get("d").split("M")[1:]] for path in paths]

    def bars(self, colour):
        """Widths of the bars of a colour."""
        paths = (path for path in self.root.iter("path") if path.get("style") == f"fill: {colour}")
        return [np.ptp(_points(path.get("d"))[:, 0]) for path in paths]

    def scale(self, axis):
        """Pixel → value, from the grid's lines and the numbers beside them, and what a pixel is worth."""
        marks = []
        for tick in self.root.iter("g"):
            paths, texts = tick.findall("g/path"), tick.findall("g/text")
            if len(paths) == len(texts) == 1 and "--grid" in paths[0].get("style"):
                start, end = _points(paths[0].get("d"))
                if start[axis] == end[axis]:
                    marks.append((start[axis], float(texts[0].text.replace("−", "-"))))
        pixels, values = np.array(marks).T
        return np.poly1d(np.polyfit(pixels, values, 1)), abs((values[1] - values[0]) / (pixels[1] - pixels[0]))


def _points(d):
    return np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+)", d), float)


@settings(deadline=None, max_examples=30)
@given(y=st.lists(st.integers(-1000, 1000), min_size=2, max_size=11), start=st.integers(0, 10**6))
def test_a_curve_read_off_its_axes_is_the_one_given(y, start):
    y = np.array(y) / 8
    x = start + 40 * np.arange(len(y))
    drawn = Drawn(curves_figure([Series("loss", x.tolist(), y.tolist())], Style()))
    ((points,),) = drawn.lines(BLUE)
    for axis, values in enumerate((x, y)):
        if np.ptp(values):
            of, pixel = drawn.scale(axis)
            np.testing.assert_allclose(of(points[:, axis]), values, atol=0.3 * pixel)


def test_gaps_and_steps_that_begin_anew_break_a_curve():
    series = Series("a", [0, 1, 2, 3, 4, 0, 1], [1, 2, None, 2, 3, 4, 5])
    (parts,) = Drawn(curves_figure([series], Style())).lines(BLUE)
    assert [len(part) for part in parts] == [2, 2, 2]


def test_noise_is_thin_under_the_dashboards_average():
    y = np.exp(-np.arange(200) / 50) + np.tile([0.1, -0.1], 100)
    drawn = Drawn(curves_figure([Series("loss", list(range(200)), y.tolist())], Style(smooth=True)))
    (raw,), (smooth,) = drawn.lines(BLUE)
    of, pixel = drawn.scale(1)
    seen = slice(1, None)  # the first is above the axes
    np.testing.assert_allclose(of(smooth[seen, 1]), moving_average(y.tolist())[seen], atol=0.3 * pixel)
    assert np.ptp(raw[-50:, 1]) > 4 * np.ptp(smooth[-50:, 1])
    widths = [float((re.search(r"stroke-width: ([\d.]+)", path.get("style")) or ["", "1"])[1])
              for path in drawn.root.iter("path") if BLUE in path.get("style", "")]  # fmt: skip
    assert widths[0] < widths[1]


def test_the_first_steps_do_not_flatten_the_rest():
    y = [1e3, *np.linspace(3, 1, 999)]
    of = Drawn(curves_figure([Series("loss", list(range(1000)), y)], Style(smooth=True))).scale(1)[0]
    assert of(0) < 200
    assert curves_figure([Series("loss", list(range(1000)), y)], Style()).axes[0].get_yscale() == "linear"


def test_more_than_three_powers_of_ten_are_on_a_logarithmic_axis():
    drawn = Drawn(curves_figure([Series("lr", [0, 1, 2, 3], [1e-2, 1e-3, 1e-4, 1e-6])], Style(from_zero=True)))
    ((points,),) = drawn.lines(BLUE)
    steps = np.diff(points[:, 1])
    np.testing.assert_allclose(steps / steps[0], [1, 1, 2], rtol=0.02)
    assert {"0.01", "1e−06"} & {*drawn.texts} or {"0.01", "1e-06"} & {*drawn.texts}


def test_a_long_curve_keeps_its_peaks_and_its_end():
    y = np.zeros(50_000)
    y[12_345], y[-1] = 7.0, 3.0
    drawn = Drawn(curves_figure([Series("a", list(range(50_000)), y.tolist())], Style()))
    ((points,),) = drawn.lines(BLUE)
    of, pixel = drawn.scale(1)
    assert 500 < len(points) <= MAX_POINTS
    np.testing.assert_allclose([of(points[:, 1]).max(), of(points[-1, 1])], [7, 3], atol=0.3 * pixel)


def test_the_best_of_all_has_its_number():
    series = [Series("a", [1, 2, 3], [0.1, 0.5, 0.4]), Series("b", [1, 2], [0.2, None])]
    texts = Drawn(curves_figure(series, Style(xlabel="epoch", best=True))).texts
    assert [text for text in texts if "best" in text] == ["best 0.5000, epoch 2"]


def test_a_legend_names_the_curves():
    drawn = Drawn(curves_figure([Series("_a", [0, 1], [0, 1]), Series("b", [0, 1], [1, 0])], Style()))
    assert {"_a", "b"} <= {*drawn.texts}
    assert len(drawn.lines(ORANGE)) == 1
    many = precision_recall_figure([f"class {k}" for k in range(80)], [[0, 1]] * 80, [[1, 0]] * 80)
    assert "and 56 more" in Drawn(many).texts


def test_precision_over_recall_goes_in_steps_from_the_left():
    drawn = Drawn(precision_recall_figure(["a"], [[0.25, 0.5]], [[1.0, 0.5]]))
    ((points,),) = drawn.lines(BLUE)
    x, y = (drawn.scale(axis)[0](points[:, axis]) for axis in (0, 1))
    np.testing.assert_allclose(x, [0, 0.25, 0.25, 0.5, 0.5], atol=0.003)
    np.testing.assert_allclose(y, [1, 1, 1, 1, 0.5], atol=0.003)


def test_bars_are_as_long_as_their_values():
    drawn = Drawn(bars_figure(["circle", "cross", "ring"], [Series("ap", [], [0.25, None, 0.75])]))
    short, none, long = drawn.bars(BLUE)
    assert none == 0
    assert long / short == pytest.approx(3, rel=0.01)
    assert {"circle", "cross", "ring", "0.25", "0.75", "-"} <= {*drawn.texts}


def test_a_matrix_stands_upright_and_is_shaded_by_row():
    drawn = Drawn(matrix_figure([[8, 2], [100, 300]], ["cat"]))  # the second has no name
    places = {text.text: (float(text.get("x")), float(text.get("y"))) for text in drawn.root.iter("text")}
    assert places["8"][1] == places["2"][1] < places["100"][1] == places["300"][1]
    assert places["8"][0] < places["2"][0]
    assert drawn.texts.count("cat") == drawn.texts.count("1") == 2
    (image,) = drawn.root.iter("image")
    content = image.get("href").split(",")[1]
    with Image.open(io.BytesIO(base64.b64decode(content))) as img:
        shade = np.asarray(img)[..., 3]
    down = shade if float(re.findall(r"-?[\d.]+", image.get("transform"))[3]) > 0 else shade[::-1]
    np.testing.assert_allclose(down / 255, [[0.8, 0.2], [0.25, 0.75]], atol=0.01)


def test_the_png_shows_the_same():
    figure = bars_figure(["a"], [Series("ap", [], [0.5])])
    (long,) = Drawn(figure).bars(BLUE)
    with Image.open(io.BytesIO(png(figure))) as img:
        pixels = np.asarray(img.convert("RGB")).astype(int)
    blue = (abs(pixels - np.array([0x1F, 0x77, 0xB4])) < 3).all(-1)
    assert np.ptp(np.argwhere(blue)[:, 1]) == pytest.approx(long * PNG_DPI / 72, abs=3)


@pytest.mark.parametrize("y", [[], [None], [1], [0, 5e-324], [1e299, -1e299], [3, 3], [1e-9, 2e-9], [1e16, 1e16 + 2],
                               [5e-324, 1e299], [1e-300, 1.0]])  # fmt: skip
def test_values_of_any_size(y):
    styles = Style(smooth=True), Style(best=True, from_zero=True)
    curves = (curves_figure([Series("a", list(range(len(y))), y)], style) for style in styles)
    for figure in (*curves, bars_figure(["x"] * len(y) or ["x"], [Series("a", [], y or [None])])):
        assert not re.search("nan|inf", svg(figure, "0"))
        assert png(figure)


def test_names_are_text_and_the_greys_are_the_pages():
    name = r"$\frac{a$ <b> & _日本"
    for figure in (bars_figure([name], [Series("r", [], [1])]), matrix_figure([[1]], [name])):
        drawn = Drawn(figure)
        assert name in drawn.texts
        styles = "".join(element.get("style", "") for element in drawn.root.iter())
        assert "var(--ink)" in styles
        assert "font-family" not in styles
        assert png(figure)


def test_the_same_twice_and_other_names_with_another_salt():
    made = [svg(curves_figure([Series("a", [0, 1], [0, 1])], Style()), salt) for salt in "aab"]
    assert made[0] == made[1]
    ids = [{*re.findall(' id="([^"]+)"', one)} for one in made[1:]]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_who_only_trains_does_not_wait_for_matplotlib():
    code = "import sys, train; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@given(st.text())
def test_one_line_is_one_line_that_can_be_written(text):
    line = one_line(text)
    assert line.encode().decode() == line
    assert line == " ".join(line.split())
