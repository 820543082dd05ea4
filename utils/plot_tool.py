"""The plots of a report: curves, bars and confusion matrices, as `Drawing`s."""

import math
from dataclasses import dataclass

import numpy as np

from utils.drawing_tool import Drawing, shortened, text_width

COLOURS = ("#2f7ed8", "#e8743b", "#2ca25f", "#c2379a", "#8a63d2", "#b8860b", "#17a2b0", "#d64550", "#7a8794", "#6b8e23",
           "#7fb2e8", "#f2ad85", "#7fcba0", "#e08fcb", "#b9a1e8", "#dcb95c", "#7fd0d8", "#ea9298", "#b0b9c1", "#a9c26b",
           )  # fmt: skip
WIDTH, HEIGHT = 640, 300
MAX_POINTS = 1_000  # of a curve as it is drawn
MAX_CLASSES = 100  # of a matrix or of bars that are drawn
MOST_NAMES = 24  # in a legend
SMALL = 11  # size of the letters at the axes


@dataclass
class Series:
    """A curve: x finite, y None where there is a gap."""

    name: str
    x: list[float]
    y: list[float | None]
    colour: int | None = None  # of COLOURS; None: that of its place


def line_plot(
    series: list[Series], title: str, x_label: str, y_label="", smooth=True, mark=None, square=False
) -> Drawing:
    """Curves over one axis; noisy ones thin and light under a smoothed line.

    Args:
        smooth: draw the smoothed line over curves that are noisy.
        mark: (x, y, words) of a point that stands out.
        square: both axes are from 0 to 1.
    """
    names, colours = [one.name for one in series], _colours(series)
    drawn = [_drawn(one, smooth) for one in series]
    x_range, y_range = ((0.0, 1.0), (0.0, 1.0)) if square else (_x_range(drawn), _y_range(drawn))
    if mark:  # room for its words
        y_range = y_range[0], y_range[1] + 0.12 * (y_range[1] - y_range[0])
    below = _legend_height(names, WIDTH - 80)
    drawing = Drawing(WIDTH, HEIGHT + below + (120 if square else 0), title)
    box = _Axes(drawing, (64, 22 if y_label else 14, WIDTH - 28, drawing.height - 42 - below), x_range, y_range)
    box.draw(x_label, whole=all(float(x).is_integer() for one in series for x in one.x) and not square)
    for name, colour, (raw, curve) in zip(names, colours, drawn, strict=True):
        if curve is None:
            drawing.line(box.at(*raw), colour, 1.8, name=name)
            for xy in box.at(*raw) if len(raw[0]) <= 40 and not square else ():
                if np.isfinite(xy).all():
                    drawing.dot(*xy, 2.4, colour)
        else:
            drawing.line(box.at(*raw), colour, 0.9, 0.4, name)
    for name, colour, (_, curve) in zip(names, colours, drawn, strict=True):
        if curve is not None:  # over all that is thin
            drawing.line(box.at(*curve), colour, 2, name=name)
    if mark:
        (x, y), words = box.at([mark[0]], [mark[1]])[0], mark[2]
        drawing.dot(x, y, 5, "ink")
        half = text_width(words, 12) / 2
        drawing.text(min(max(x, 70 + half), WIDTH - 4 - half), y - 10, words, size=12, anchor="middle", bold=True)
    drawing.text(64, 14, y_label, "soft", SMALL)
    if below:
        _draw_legend(drawing, names, colours, 64, drawing.height - below + 10, WIDTH - 80)
    return drawing


def curves_plot(names, xs, ys, title: str, x_label: str, y_label="", square=False) -> Drawing:
    """A curve for each of `names` through the points of `xs` and `ys`, lists of numbers or None."""
    series = []
    for name, x, y in zip(names, xs, ys, strict=True):
        known = [(a, b) for a, b in zip(x, y, strict=True) if a is not None]
        series.append(Series(name, [a for a, _ in known], [b for _, b in known]))
    return line_plot(series, title, x_label, y_label, smooth=False, square=square)


def bar_plot(names: list[str], columns: list[Series], title: str) -> Drawing:
    """Horizontal bars: for each of `names` one of each of `columns`, whose y are the values (None: no bar)."""
    left = 20 + max(text_width(shortened(name, 24), 12) for name in names)
    values = [v for column in columns for v in column.y if v is not None]
    low, high = min(0.0, *values, 0.0), max(0.0, *values, 0.0)
    low, high = (0.0, 1.0) if low == 0 and 0.2 < high <= 1 else _widened(low, high, 0.5)
    group = 8 + max(14, 9 * len(columns)) if len(columns) > 1 else 24
    labels, colours = [column.name for column in columns], _colours(columns)
    below = _legend_height(labels, WIDTH - left - 60)
    drawing = Drawing(WIDTH, 14 + group * len(names) + 30 + below, title)
    bottom = 14 + group * len(names)
    box = _Axes(drawing, (left, 10, WIDTH - 64, bottom), (low, high), (0, 1))
    box.draw("", vertical=True)
    for i, name in enumerate(names):
        top = 14 + i * group
        drawing.text(left - 8, top + group / 2 + 1, shortened(name, 24), size=12, anchor="end", name=name)
        height = (group - 8) / len(columns)
        for k, column in enumerate(columns):
            value = column.y[i]
            if value is None:
                drawing.text(left + 4, top + height * (k + 0.5) + 4, "-", "soft", SMALL)
                continue
            ends = sorted(box.at([0.0, value], [0, 0])[:, 0])
            words = f"{name}: {value:.4g}" + (f" ({column.name})" if len(columns) > 1 else "")
            drawing.rect(ends[0], top + height * k, max(ends[1] - ends[0], 1), height - (2 if len(columns) > 1 else 0),
                         colours[k], 0.85, words)  # fmt: skip
            drawing.text(ends[1] + 5, top + height * (k + 0.5) + 4, _value(value), "soft", min(SMALL, height + 3))
    if below:
        _draw_legend(drawing, labels, colours, left, drawing.height - below + 10, WIDTH - left - 60)
    return drawing


def heat_plot(matrix, names: list[str], title: str) -> Drawing:
    """A confusion matrix: row = target, the first on top; column = prediction; the darker, the more of its row.

    Args:
        matrix: (L, L) counts, finite and not negative.
        names: of the classes; an index outside them is shown as its number.
    """
    matrix = np.asarray(matrix, np.float64)
    L = len(matrix)
    names = [*names[:L], *map(str, range(len(names), L))]
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1e-300)
    cell = min(52.0, max(12.0, 520 / L))
    size = min(12.0, cell * 0.9)
    short = [shortened(name, 20) for name in names]
    margin = 30 + max(text_width(name, size) for name in short)
    drawing = Drawing(margin + cell * L + 12, margin + cell * L + 12, title)
    drawing.text(margin + cell * L / 2, 14, "prediction", "soft", SMALL, "middle")
    drawing.text(14, margin + cell * L / 2, "target", "soft", SMALL, "middle", turned=True)
    for i in range(L):
        middle = margin + cell * (i + 0.5) + size * 0.35
        drawing.text(margin - 6, middle, short[i], size=round(size, 1), anchor="end", name=names[i])
        drawing.text(middle, margin - 6, short[i], size=round(size, 1), turned=True, name=names[i])
    few = L <= 30  # then there is room for lines between the cells, and for counts
    drawing.rect(margin, margin, cell * L, cell * L, "grid", 0.6 if few else 0.3)
    for i, j in np.ndindex(L, L):
        words = f"{names[i]} → {names[j]}: {_count(matrix[i, j])} ({share[i, j]:.1%})"
        x, y = margin + cell * j, margin + cell * i
        if few:
            drawing.rect(x + 0.5, y + 0.5, cell - 1, cell - 1, "paper", name=words)
        if matrix[i, j]:
            drawing.rect(x + 0.5, y + 0.5, cell - 1, cell - 1, "accent", 0.06 + 0.94 * share[i, j], words)
            text = _count(matrix[i, j])
            fitting = min(12.0, (cell - 5) / max(text_width(text, 1), 0.1))
            if few and fitting >= 7:
                colour = "#ffffff" if share[i, j] > 0.5 else "ink"
                drawing.text(x + cell / 2, y + cell / 2 + fitting * 0.35, text, colour, round(fitting, 1), "middle")
    return drawing


def is_noisy(y) -> bool:
    """Whether a smoothed line helps: (M,) values that go up and down far more than they get on."""
    y = y[np.isfinite(y)]
    return len(y) >= 12 and float(np.abs(np.diff(y)).sum()) > 3 * float(np.ptp(y)) > 0


def smoothed(x, y, share=0.03):
    """(M',) x and y of a curve under a Gaussian whose σ is `share` of its length; M' ≤ `MAX_POINTS`."""
    starts = np.unique(np.linspace(0, len(x), min(len(x), MAX_POINTS), endpoint=False).astype(int))
    finite = np.isfinite(y)
    known = np.add.reduceat(finite.astype(np.float64), starts)
    sums = np.add.reduceat(np.where(finite, y, 0.0), starts)
    x = np.add.reduceat(x, starts) / np.diff([*starts, len(x)])
    sigma = max(share * len(x), 1.0)
    reach = min(math.ceil(3 * sigma), len(x))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    total, weight = (np.convolve(v, weights)[reach : reach + len(x)] for v in (sums, known))
    return x, np.where(known > 0, total / np.maximum(weight, 1e-12), np.nan)


def thinned(x, y):
    """At most `MAX_POINTS` of a curve's points: of each stretch the lowest and the highest, and the last of all."""
    if len(x) <= MAX_POINTS:
        return x, y
    kept = [len(x) - 1]
    for part in np.array_split(np.arange(len(x)), (MAX_POINTS - 1) // 2):
        finite = part[np.isfinite(y[part])]
        kept += [finite[y[finite].argmin()], finite[y[finite].argmax()]] if len(finite) else [part[0]]
    kept = np.unique(kept)
    return x[kept], y[kept]


def _drawn(series, smooth):
    """((M,) x, (M,) y) as drawn thin, and the same smoothed or None; where x goes back the curve is broken."""
    x = np.array(series.x, np.float64)
    y = np.array([np.nan if v is None else v for v in series.y], np.float64)
    runs = np.split(np.arange(len(x)), np.flatnonzero(np.diff(x) < 0) + 1)  # the steps of a schedule in parts
    curve = smoothed(x, y) if smooth and is_noisy(y) and len(runs) == 1 else None
    x, y = thinned(x, y)
    back = np.flatnonzero(np.diff(x) < 0) + 1
    return (np.insert(x, back, np.nan), np.insert(y, back, np.nan)), curve


def _x_range(drawn):
    x = np.concatenate([np.empty(0), *(raw[0] for raw, _ in drawn)])
    x = x[np.isfinite(x)]
    return _widened(x.min(), x.max(), 1.0) if len(x) else (0.0, 1.0)


def _y_range(drawn):
    """What is seen: all of the lines, but of what lies thin under a smoothed one not the outermost hundredths."""
    values = [np.empty(0)]
    for (_, y), curve in drawn:
        y = y[np.isfinite(y)]
        if curve is None:
            values.append(y)
        elif len(y):
            values += [np.percentile(y, [1, 99]), curve[1][np.isfinite(curve[1])]]
    values = np.concatenate(values)
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    if (low, high) != (wider := _widened(low, high, abs(high) / 2)):
        return wider
    margin = (high - low) * 0.05
    return (0.0 if 0 <= low < 0.4 * high else low - margin), high + margin


def _widened(low, high, margin):
    """The range itself, or one around it if its ends can't be told apart."""
    if high - low > max(1e-9 * max(abs(low), abs(high)), 1e-200):
        return float(low), float(high)
    margin = max(margin, 1e-9 * abs(high)) if margin > 1e-200 else 0.5
    return float(low - margin), float(high + margin)


class _Axes:
    """The rectangle (x0, y0, x1, y1) of a drawing in which values are drawn; those outside stand at its border."""

    def __init__(self, drawing, rectangle, x_range, y_range):
        self.drawing, self.rectangle, self.x_range, self.y_range = drawing, rectangle, x_range, y_range

    def at(self, x, y):
        """(M,) values x and y → (M, 2) points."""
        x0, y0, x1, y1 = self.rectangle
        across = (np.asarray(x, np.float64) - self.x_range[0]) / (self.x_range[1] - self.x_range[0])
        up = (np.asarray(y, np.float64) - self.y_range[0]) / (self.y_range[1] - self.y_range[0])
        return np.stack([x0 + across.clip(0, 1) * (x1 - x0), y1 - up.clip(0, 1) * (y1 - y0)], axis=1)

    def draw(self, x_label, vertical=False, whole=False):
        """The lines and numbers of the axes; `vertical`: those of x alone; `whole`: no fractions at x."""
        x0, y0, x1, y1 = self.rectangle
        for value, words in _ticks(*self.x_range, 6, 1.0 if whole else 0.0):
            x = self.at([value], [0])[0, 0]
            self.drawing.line([(x, y0), (x, y1)], "grid", 1)
            self.drawing.text(x, y1 + 16, words, "soft", SMALL, "middle")
        for value, words in () if vertical else _ticks(*self.y_range, 5):
            y = self.at([0], [value])[0, 1]
            self.drawing.line([(x0, y), (x1, y)], "grid", 1)
            self.drawing.text(x0 - 8, y + 4, words, "soft", SMALL, "end")
        if vertical:
            zero = self.at([0], [0])[0, 0]
            self.drawing.line([(zero, y0), (zero, y1)], "soft", 1)
        else:
            self.drawing.line([(x0, y1), (x1, y1)], "soft", 1)
        self.drawing.text((x0 + x1) / 2, y1 + 33, x_label, "soft", SMALL, "middle")


def _ticks(low, high, about, least=0.0):
    """(value, words) of round numbers in a range, about so many, no two closer than `least`."""
    rough = max((high - low) / about, least)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(k * power for k in (1, 2, 5, 10) if k * power >= rough * 0.999)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    values = [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    few = 1e-4 <= step < 1e7
    return [(v, f"{v:,.{digits}f}" if few else f"{v:.3g}") for v in values]


def _colours(series):
    """Of each its own; a legend has them in the same order."""
    return [COLOURS[(k if one.colour is None else one.colour) % len(COLOURS)] for k, one in enumerate(series)]


def _value(value):
    return f"{value:.3f}" if abs(value) < 1e4 else f"{value:.3g}"


def _count(value):
    return f"{value:,.0f}" if value == round(value) and value < 1e9 else f"{value:.3g}"


def _legend_places(names, width):
    """(row, x) of each name, and of what says how many more there are."""
    row, x, places = 0, 0.0, []
    for name in names:
        wide = 24 + text_width(name, SMALL) + 12
        if x and x + wide > width:
            row, x = row + 1, 0.0
        places.append((row, x))
        x += wide
    return places


def _legend_names(names):
    short = [shortened(name, 40) for name in names]
    more = [f"and {len(names) - MOST_NAMES} more"] if len(names) > MOST_NAMES else []
    return short[:MOST_NAMES] + more


def _legend_height(names, width):
    return 0 if len(names) < 2 else 14 + 18 * (_legend_places(_legend_names(names), width)[-1][0] + 1)


def _draw_legend(drawing, names, colours, left, top, width):
    shown = _legend_names(names)
    for k, (words, (row, x)) in enumerate(zip(shown, _legend_places(shown, width), strict=True)):
        y = top + 18 * row + 8
        if k < MOST_NAMES:
            drawing.line([(left + x, y - 4), (left + x + 16, y - 4)], colours[k], 3)
        drawing.text(left + x + 22, y, words, "ink" if k < MOST_NAMES else "soft", SMALL)
