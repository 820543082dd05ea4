"""The plots of a report, which look as the dashboard's: matplotlib's figures, and these as SVG and as PNG.

Only the command `report` imports this: matplotlib takes a while to load.
"""

import io
import math
import re
import warnings
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np
from matplotlib import rc_context
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from utils.vis_windows import MARKED_POINTS, Style
from utils.visdom_panes import PALETTE, moving_average, one_line, shortened

WIDTH, HEIGHT = 640, 300  # pixels; of a figure with a legend or of many classes more
MAX_POINTS = 1_000  # of a curve as it is drawn
MAX_CLASSES = 100  # of a matrix or of bars that are drawn
MAX_COUNTED = 30  # classes of a matrix whose cells have room for a count
MOST_NAMES = 24  # in a legend
INK, SOFT, GRID = "#1b1f24", "#667079", "#e3e6ea"  # in an HTML page its --ink, --soft and --grid
LINES = ("-", "--", ":", "-.")  # where the colours are used up
PNG_DPI = 144  # twice as sharp as on the page
RC = {
    "figure.dpi": 72, "figure.constrained_layout.use": True, "font.size": 11, "text.color": INK,
    "axes.labelcolor": SOFT, "xtick.color": SOFT, "ytick.color": SOFT, "axes.edgecolor": GRID, "axes.grid": True,
    "grid.color": GRID, "axes.axisbelow": True, "axes.facecolor": "none",
    "axes.spines.top": False, "axes.spines.right": False,
    "xtick.major.size": 0, "ytick.major.size": 0, "xtick.minor.size": 0, "ytick.minor.size": 0, "legend.frameon": False,
    "axes.formatter.useoffset": False, "axes.formatter.limits": (-4, 9), "path.simplify": False,
    "text.parse_math": False,  # a name is text, whatever it has of $
    "svg.fonttype": "none",
}  # fmt: skip


@dataclass
class Series:
    """A curve: x finite, y None where there is a gap."""

    name: str
    x: list[float]
    y: list[float | None]
    colour: int | None = None  # of PALETTE; None: that of its place


@rc_context(RC)
def curves_figure(series: list[Series], style: Style) -> Figure:
    """Curves over one axis, as `style` has it: smoothed ones over what is drawn thin, a star on each one's best.

    Values over more than three powers of ten are on a logarithmic axis. The best of all has its number.
    """
    figure, ax = _axes(style.xlabel, style.ylabel)
    stars, in_view = [], []  # of a smoothed curve not the outermost hundredths: its first steps would flatten the rest
    for k, one in enumerate(series):
        x, y, look = _floats(one.x), _floats(one.y), _look(k, one)
        if style.smooth:
            smooth = _floats(moving_average(one.y))
            ax.plot(*_broken(*_thinned(x, y)), **look, linewidth=1, alpha=0.35)
            ax.plot(*_broken(*_thinned(x, smooth)), **look, linewidth=2.2, zorder=3)
            in_view += [np.nanpercentile(v, [1, 99]) for v in (y, smooth) if np.isfinite(v).any()]
        else:
            marker = "o" if len(x) <= MARKED_POINTS else None
            ax.plot(*_broken(*_thinned(x, y)), **look, linewidth=1.8, marker=marker, markersize=4)
            in_view.append(y)
        if style.best and np.isfinite(y).any():
            stars.append((y[np.nanargmax(y)], x[np.nanargmax(y)]))
            ax.plot(*stars[-1][::-1], "*", color=look["color"], markersize=13, zorder=4)
    if all(float(x).is_integer() for one in series for x in one.x):
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    values = np.concatenate([np.empty(0), *in_view])
    values = values[np.isfinite(values)]
    if len(values):
        _set_range(ax, values, style)
    if stars:
        y, x = max(stars)
        side = "right" if x > np.mean(ax.get_xlim()) else "left"
        ax.annotate(f"best {y:.4f}, {style.xlabel} {x:g}", (x, y), (0, 9), textcoords="offset points", ha=side)
    _legend(figure, [one.name for one in series], [_look(k, one) for k, one in enumerate(series)])
    return figure


@rc_context(RC)
def precision_recall_figure(names: list[str], recall, precision) -> Figure:
    """A curve for each of `names` in the unit square; `recall` and `precision` have a list of numbers or None each."""
    figure, ax = _axes("recall", "precision", HEIGHT + 100)
    looks = [_look(k) for k in range(len(names))]
    for look, *xy in zip(looks, recall, precision, strict=True):
        x, y = map(_floats, xy)
        if len(x):  # from its first point to the left: one alone would not be seen
            x, y = np.insert(x, 0, 0.0), np.insert(y, 0, y[0])
        ax.plot(*_thinned(x, y, MAX_POINTS // 2), **look, linewidth=1.8, drawstyle="steps-post")
    ax.set(xlim=(0, 1.02), ylim=(0, 1.02))
    _legend(figure, names, looks)
    return figure


@rc_context(RC)
def bars_figure(names: list[str], columns: list[Series]) -> Figure:
    """Horizontal bars: for each of `names` one of each of `columns`, whose y are the values (None: no bar)."""
    high = 24 if len(columns) == 1 else 8 + 12 * len(columns)
    figure, ax = _axes("", "", 60 + high * len(names))
    looks = [_look(k, column) for k, column in enumerate(columns)]
    thick = 0.75 / len(columns)
    for k, (column, look) in enumerate(zip(columns, looks, strict=True)):
        at = np.arange(len(names)) + (k - (len(columns) - 1) / 2) * thick
        bars = ax.barh(at, [v or 0.0 for v in column.y], thick * 0.92, color=look["color"])
        ax.bar_label(bars, ["-" if v is None else f"{v:.3g}" for v in column.y], padding=4, color=SOFT, fontsize=10)
    ax.set_yticks(range(len(names)), [shortened(name, 24) for name in names], color=INK)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(False, axis="y")
    if all(v is None or 0 <= v <= 1 for column in columns for v in column.y):
        ax.set_xlim(0, 1.08)
    else:
        ax.margins(x=0.12)
    _legend(figure, [column.name for column in columns], looks)
    return figure


@rc_context(RC)
def matrix_figure(matrix, names: list[str]) -> Figure:
    """A confusion matrix: row = target, the first on top; column = prediction; the darker, the more of its row.

    Args:
        matrix: (L, L) counts, finite and not negative.
        names: of the classes; an index outside them is shown as its number.
    """
    matrix = np.asarray(matrix, np.float64)
    L = len(matrix)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1e-300)
    side = min(48.0, max(11.0, 500 / L)) * L
    short = [shortened(name, 20) for name in [*names[:L], *map(str, range(len(names), L))]]
    room = 50 + 7 * max(map(len, short))
    figure, ax = _axes("prediction", "target", side + room, side + room)
    ax.imshow(np.dstack([np.broadcast_to(to_rgb(PALETTE[0]), (L, L, 3)), share]), interpolation="none")
    size = {"fontsize": min(11, side / L), "color": INK}
    ax.set_yticks(range(L), short, **size)
    ax.set_xticks(range(L), short, rotation=90, rotation_mode="anchor", ha="left", va="center", **size)
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.grid(False)
    ax.spines[:].set_visible(True)
    for i, j in np.argwhere(matrix > 0) if L <= MAX_COUNTED else ():
        words = _count(matrix[i, j])
        fits = min(11.0, 1.5 * side / L / len(words))
        ax.text(j, i, words, ha="center", va="center", fontsize=fits, color="white" if share[i, j] > 0.5 else INK)
    return figure


def svg(figure: Figure, salt: str) -> str:
    """An <svg> to stand in an HTML page, with its text as text, and its greys as the page's.

    Args:
        salt: of the names of its parts, which are the page's: another one for each figure.
    """
    file, none = io.StringIO(), dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context(RC | {"svg.hashsalt": salt}), warnings.catch_warnings(action="ignore"):  # of glyphs it lacks
        figure.savefig(file, format="svg", metadata=none, transparent=True)
    root = ElementTree.fromstring(file.getvalue())
    for element in root.iter():
        element.tag = element.tag.split("}")[-1]
        given = {name.split("}")[-1]: value for name, value in element.attrib.items()}
        named = element.tag in ("path", "clipPath")  # what others refer to
        element.attrib = {name: _as_the_page(value) if name == "style" else
                          re.sub(r"(\.\d)\d+", r"\1", " ".join(value.split())) if name == "d" else value
                          for name, value in given.items() if name != "id" or named}  # fmt: skip
    defs = root.find("defs")
    if defs is not None and defs.find("style") is not None:
        root.remove(defs)  # of all elements of the page
    box = root.get("viewBox")
    root.attrib = {"viewBox": box, **dict(zip(("width", "height"), box.split()[2:], strict=True)), "role": "img"}
    return ElementTree.tostring(root, "unicode")


def png(figure: Figure) -> bytes:
    """A PNG file, light."""
    file = io.BytesIO()
    with rc_context(RC), warnings.catch_warnings(action="ignore"):
        figure.savefig(file, format="png", dpi=PNG_DPI, facecolor="white")
    return file.getvalue()


def _count(value) -> str:
    return f"{value:,.0f}" if value == round(value) and value < 1e9 else f"{value:.3g}"


def _axes(xlabel, ylabel, height=HEIGHT, width=WIDTH):
    figure = Figure(figsize=(width / 72, height / 72))
    ax = figure.add_subplot()
    ax.set(xlabel=one_line(xlabel), ylabel=one_line(ylabel))
    return figure, ax


def _look(k, series=None):
    k = k if series is None or series.colour is None else series.colour
    return {"color": PALETTE[k % len(PALETTE)], "linestyle": LINES[k // len(PALETTE) % len(LINES)]}


def _legend(figure, names, looks):
    """Below the axes, of two curves or more; the figure grows by it."""
    if len(names) < 2:
        return
    labels = [shortened(name, 40) for name in names[:MOST_NAMES]]
    lines = [Line2D([], [], **look, linewidth=3) for look in looks[:MOST_NAMES]]
    if len(names) > MOST_NAMES:
        labels.append(f"and {len(names) - MOST_NAMES} more")
        lines.append(Line2D([], [], alpha=0))
    columns = min(max(1, WIDTH // (45 + 7 * max(map(len, labels)))), len(labels))
    figure.set_figheight(figure.get_figheight() + (10 + 17 * math.ceil(len(labels) / columns)) / 72)
    figure.legend(lines, labels, loc="outside lower center", ncols=columns, handlelength=1.5)


def _set_range(ax, values, style):
    """The axis over (K,) values, those in view."""
    low, high = values.min(), values.max()
    if 0 < 1e3 * low < high < 1e30 * low:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    elif np.ptp(values) > 1e-12 * np.abs(values).max():
        from_zero = style.from_zero and low >= 0
        margin = (high - (0 if from_zero else low)) * (0.15 if style.best else 0.05)
        ax.set_ylim(0 if from_zero else low - margin, high + margin)


def _floats(values):
    return np.array([np.nan if v is None else v for v in values], np.float64)


def _thinned(x, y, most=MAX_POINTS):
    """At most so many of a curve's points: of each stretch the lowest and the highest, and the last of all."""
    if len(x) <= most:
        return x, y
    kept = [len(x) - 1]
    for part in np.array_split(np.arange(len(x)), (most - 1) // 2):
        finite = part[np.isfinite(y[part])]
        kept += [finite[y[finite].argmin()], finite[y[finite].argmax()]] if len(finite) else [part[0]]
    kept = np.unique(kept)
    return x[kept], y[kept]


def _broken(x, y):
    """The curve with a gap where x goes back: the steps of a schedule in parts."""
    back = np.flatnonzero(np.diff(x) < 0) + 1
    return np.insert(x, back, np.nan), np.insert(y, back, np.nan)


def _as_the_page(style):
    for colour, name in ((INK, "ink"), (SOFT, "soft"), (GRID, "grid")):
        style = style.replace(colour, f"var(--{name})")
    return re.sub(r"font-family: [^;]*(; )?", "", style)
