"""utils/plot_tool.py and utils/drawing_tool.py: what is drawn is what was given."""

import io
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.page_reader import Page
from utils.drawing_tool import Drawing, one_line
from utils.plot_tool import COLOURS, MAX_POINTS, Series, bar_plot, curves_plot, heat_plot, is_noisy, line_plot

BLUE, ORANGE = COLOURS[:2]


def shapes(drawing, kind, colour=""):
    """(attributes, text) of the shapes of a kind and colour, read from the SVG."""
    return [(attrs, text) for attrs, text in Page(drawing.svg()).all(kind) if colour in attrs["style"]]


def points(attrs):
    return np.array([pair.split(",") for pair in attrs["points"].split()], float)


def scale(drawing, axis):
    """Pixel → value of an axis, from the numbers beside it."""
    anchor = {"x": "middle", "y": "end"}[axis]
    below = {"x": 0, "y": 4}[axis]  # so far under its line stands a number's base line
    marks = [(float(attrs[axis]) - below, float(text.replace(",", "")))
             for attrs, text in shapes(drawing, "text", "soft")
             if re.fullmatch(r"-?[\d,.]+", text) and attrs.get("text-anchor") == anchor]  # fmt: skip
    pixels, values = np.array(marks).T
    return np.poly1d(np.polyfit(pixels, values, 1)), abs((values[1] - values[0]) / (pixels[1] - pixels[0]))


@given(y=st.lists(st.integers(-1000, 1000), min_size=2, max_size=11), start=st.integers(0, 10**6))
def test_a_curve_read_off_its_axes_is_the_one_given(y, start):
    y = np.array(y) / 8
    x = start + 40 * np.arange(len(y))
    drawing = line_plot([Series("loss", x.tolist(), y.tolist())], "t", "step")
    (attrs, _), = shapes(drawing, "polyline", BLUE)  # fmt: skip
    drawn = points(attrs)
    if np.ptp(x) > 80:
        of_x, pixel = scale(drawing, "x")
        np.testing.assert_allclose(of_x(drawn[:, 0]), x, atol=0.2 * pixel + 1e-6)
    of_y, pixel = scale(drawing, "y")
    np.testing.assert_allclose(of_y(drawn[:, 1]), y, atol=0.3 * pixel + 1e-6 + 1e-3 * np.abs(y).max())


def test_gaps_and_steps_that_begin_anew_break_a_curve():
    drawing = line_plot([Series("a", [0, 1, 2, 3, 4, 0, 1], [1, 2, None, 2, 3, 4, 5])], "t", "step")
    assert [len(points(attrs)) for attrs, _ in shapes(drawing, "polyline", BLUE)] == [2, 2, 2]


def test_noise_is_light_under_a_smoothed_line():
    rng = np.random.default_rng(0)
    x = np.arange(20_000)
    truth = 3 * np.exp(-x / 4000)
    y = truth + rng.normal(0, 0.3, len(x))
    drawing = line_plot([Series("loss", x.tolist(), y.tolist())], "t", "step")
    (raw, _), (curve, _) = shapes(drawing, "polyline", BLUE)
    assert "opacity:0.4" in raw["style"]
    assert "opacity" not in curve["style"]
    assert 500 < len(points(raw)) <= MAX_POINTS
    drawn = points(curve)
    of_x, of_y = scale(drawing, "x")[0], scale(drawing, "y")[0]
    at = of_x(drawn[:, 0])
    inner = (at > 1500) & (at < 18_500)
    np.testing.assert_allclose(of_y(drawn[inner, 1]), np.interp(at[inner], x, truth), atol=0.06)


def test_what_is_no_noise_is_not_smoothed():
    steps = np.repeat([1e-3, 1e-4], 50)
    assert not is_noisy(steps)
    assert not is_noisy(np.full(100, 3.2))
    assert is_noisy(np.tile([1.0, 2.0], 20))
    drawing = line_plot([Series("lr", list(range(100)), steps.tolist())], "t", "step")
    assert len(shapes(drawing, "polyline", BLUE)) == 1


def test_a_long_curve_keeps_its_peaks_and_its_end():
    y = np.zeros(50_000)
    y[12_345], y[-1] = 7.0, 3.0
    drawing = line_plot([Series("a", list(range(50_000)), y.tolist())], "t", "step", smooth=False)
    (attrs, _), = shapes(drawing, "polyline", BLUE)  # fmt: skip
    of_y = scale(drawing, "y")[0]
    assert len(points(attrs)) <= MAX_POINTS
    np.testing.assert_allclose(of_y(points(attrs)[:, 1]).max(), 7, atol=0.05)
    np.testing.assert_allclose(of_y(points(attrs)[-1, 1]), 3, atol=0.05)


def test_a_legend_names_the_curves_in_their_colours():
    drawing = line_plot([Series("foreground", [0, 1], [0, 1]), Series("background", [0, 1], [1, 0])], "t", "step")
    assert {"foreground", "background"} <= {text for _, text in shapes(drawing, "text")}
    assert len(shapes(drawing, "polyline", ORANGE)) == 2  # the curve and its mark
    many = curves_plot([f"class {k}" for k in range(80)], [[0, 1]] * 80, [[1, 0]] * 80, "t", "recall")
    assert "and 56 more" in {text for _, text in shapes(many, "text")}


def test_bars_are_as_long_as_their_values():
    drawing = bar_plot(["circle", "cross", "ring"], [Series("ap", [], [0.25, None, 0.75])], "t")
    (short, title), (long, _) = shapes(drawing, "rect", BLUE)
    assert float(long["width"]) / float(short["width"]) == pytest.approx(3, rel=0.01)
    assert title == "circle: 0.25"
    assert {"0.250", "0.750", "-"} <= {text for _, text in shapes(drawing, "text")}


def test_a_matrix_stands_upright_and_is_shaded_by_row():
    drawing = heat_plot([[8, 2], [100, 300]], ["cat"], "t")  # the second has no name
    cells = shapes(drawing, "rect", "accent")
    assert [title for _, title in cells] == ["cat → cat: 8 (80.0%)", "cat → 1: 2 (20.0%)", "1 → cat: 100 (25.0%)",
                                             "1 → 1: 300 (75.0%)"]  # fmt: skip
    y = [float(attrs["y"]) for attrs, _ in cells]
    x = [float(attrs["x"]) for attrs, _ in cells]
    assert y[0] == y[1] < y[2] == y[3]
    assert x[0] == x[2] < x[1] == x[3]
    opacity = [float(re.search(r"opacity:([\d.]+)", attrs["style"])[1]) for attrs, _ in cells]
    assert opacity[0] > opacity[3] > opacity[2] > opacity[1]
    counts = [text for attrs, text in shapes(drawing, "text") if attrs.get("text-anchor") == "middle"]
    assert counts[-4:] == ["8", "2", "100", "300"]


def test_the_png_shows_the_same():
    drawing = Drawing(60, 40, "t")
    drawing.rect(10, 20, 30, 10, "#ff0000")
    drawing.line([(0, 5), (60, 5)], "#0000ff", 4)
    drawing.text(30, 15, "words", turned=True)
    img = np.asarray(Image.open(io.BytesIO(drawing.png())).convert("RGB")).astype(int)
    assert img.shape == (80, 120, 3)
    reddish = (img[..., 0] > 200) & (img[..., 1:] < 60).all(-1)
    assert np.argwhere(reddish).min(0).tolist() == [40, 20]
    assert np.argwhere(reddish).max(0).tolist() == [59, 79]
    assert img[10, 60, 2] > 200 > 60 > img[10, 60, 0]


@pytest.mark.parametrize("y", [[], [None], [1], [0, 5e-324], [1e299, -1e299], [3, 3], [1e-9, 2e-9], [1e16, 1e16 + 2]])
def test_values_of_any_size(y):
    drawing = line_plot([Series("a", list(range(len(y))), y)], "t", "step")
    bars = bar_plot(["x"] * len(y) or ["x"], [Series("a", [], y or [None])], "t")
    for one in (drawing, bars):
        assert "nan" not in one.svg()
        assert "inf" not in one.svg()
        assert one.png()


@given(st.text())
def test_one_line_is_one_line_that_can_be_written(text):
    line = one_line(text)
    assert line.encode().decode() == line
    assert line == " ".join(line.split())
