"""What a window looks like on visdom's page: from the content of a `Draft` to the message of plotly's traces.

Each function gives plotly's (data, layout) for a window's name and content, or visdom's own (data,) for one without.
"""

import base64
import html
import unicodedata
from collections import Counter

import numpy as np

from utils.dashboard_layout import BAR
from utils.vis_windows import MARKED_POINTS

PALETTE = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#17becf")
SMOOTHED = " (smoothed)"
BEST = " (best)"
MEMORY = 0.9  # of the moving average: a point counts a tenth, some twenty before it count
SHORT = 20  # letters of a class's name: plotly takes the room of a longer one from the plot
MOST_BARS = 80  # with a name each, of 8 pixels
MOST_NAMES = 8  # in a legend over curves of recall and precision: more would hide them
HEAD_ROOM = 1.25  # of the best value: its number stands above it
MAX_TEXTED = 12  # classes of a matrix whose cells have room for a number, and of bars whose names have room to lean
# The newest line stays in view: a reversed column starts at its end; visdom's text window does not scroll by itself.
LOG_STYLE = (
    "font-size:12px;position:absolute;inset:0;padding:4px;overflow:auto;display:flex;flex-direction:column-reverse"
)
MARGIN = {"l": 52, "r": 16, "t": 56, "b": 46}  # above: the title, under the page's tool bar
SLIDER = 52  # pixels, with the caption
LEGEND = {"tracegroupgap": 0, "bgcolor": "rgba(255,255,255,0.6)", "font": {"size": 10}}
WHITE_TO_BLUE = [[0, "#ffffff"], [0.5, "#6baed6"], [1, "#08306b"]]


def moving_average(values):
    """Exponential, of the numbers so far, corrected for its start (Kingma and Ba 2015, §3); None stays None."""
    average, weight, smooth = 0.0, 0.0, []
    for value in values:
        if value is not None:
            weight = MEMORY * weight + (1 - MEMORY)
            average += (value - average) * (1 - MEMORY) / weight  # of one value: exactly that, or axes show the rest
        smooth.append(None if value is None else average)
    return smooth


def chart(win, content, whole):
    """Curves. Not `whole`: the traces have only the points that are new, in the same order."""
    style, curves = content
    longest = max(len(y) for _, y, _ in curves.values())
    mode = "lines+markers" if longest <= MARKED_POINTS else "lines"
    traces = []
    names = _different([name or win for name in curves])
    for k, (name, line, (x, y, sent)) in enumerate(zip(names, curves, curves.values(), strict=True)):
        color = PALETTE[k % len(PALETTE)]
        look = {"type": "scatter", "mode": mode, "marker": {"size": 6}, "legendgroup": name}
        if style.smooth:
            smooth = {**look, "name": name + SMOOTHED, "line": {"color": color, "width": 2.5}}
            smooth |= {"x": x[sent:], "y": moving_average(y)[sent:], "showlegend": bool(line)}
            look |= {"line": {"color": color, "width": 1}, "opacity": 0.35, "showlegend": False}
        else:
            smooth = None
            look |= {"line": {"color": color, "width": 2}}
        traces.append({**look, "name": name, "x": x[sent:], "y": y[sent:]})
        if smooth:
            traces.append(smooth)
    yaxis = {"title": style.ylabel, "automargin": True}
    if style.from_zero:
        yaxis["rangemode"] = "tozero"
    if style.best:
        stars = [_best(k, name, x, y) for k, (name, (x, y, _)) in enumerate(zip(names, curves.values(), strict=True))]
        stars = [star for star in stars if star]
        traces += stars
        highest = max((star["y"][0] for star in stars), default=0)
        if style.from_zero and highest > 0:  # "autorange", or the page would keep the range that it had before
            yaxis |= {"range": [0, HEAD_ROOM * highest], "autorange": False}
    legend = _legend(style.legend) if len(curves) > 1 else None
    return traces, _layout(win, legend, xaxis={"title": style.xlabel}, yaxis=yaxis)


def _best(k, name, x, y):
    """A star on the greatest value of a curve, the first of equals, with its number."""
    known = [(value, -i) for i, value in enumerate(y) if value is not None]
    if not known:
        return None
    value, minus_i = max(known)
    marker = {"symbol": "star", "size": 14, "color": PALETTE[k % len(PALETTE)]}
    star = {"type": "scatter", "mode": "markers+text", "marker": marker, "name": name + BEST, "showlegend": False}
    best = x[-minus_i]
    side = "left" if best > (min(x) + max(x)) / 2 else "right"  # the text, too, is cut at the plot's edge
    return {**star, "x": [best], "y": [value], "text": [f"best {value:.4f}"], "textposition": f"top {side}"}


def img(picture, size):
    """A picture for a window of `size` (width, height) pixels."""
    # The page forgets its title's bar and draws a high picture over its window's lower edge: so that only white is cut
    # there, such a picture has some rows of it below.
    width, height = size
    is_high = picture.height * width > picture.width * (height - BAR)
    jpeg = picture.jpeg(white_below=-(-picture.height * (BAR + 2) // height) if is_high else 0)
    return ([{"type": "image", "content": _source(jpeg)}],)


def frame(one, size):
    """One of the pictures of a window with a history: (Picture, caption)."""
    picture, caption = one
    width, height = size
    # The page draws in a pixel more each way, and forgets the bar; it has the slider over the picture's lower part, and
    # the caption twice: there, and behind the picture, where one that fills the window hides it. Of a picture of
    # another size it would leave out pixels, or double them.
    jpeg = picture.fitted((width + 1, height + 1 + BAR), below=BAR + SLIDER)
    return ([{"type": "image_history", "content": _source(jpeg, caption)}],)


def _source(jpeg, caption=None):
    return {"src": "data:image/jpeg;base64," + base64.b64encode(jpeg).decode(), "caption": caption}


def text(win, content):
    return ([{"type": "text", "content": content}],)


def log(win, lines):
    body = "<br>".join(html.escape(line, quote=False) for line in lines)
    return text(win, f'<div style="{LOG_STYLE}"><div>{body}</div></div>')


def heatmap(win, content):
    """Row = target, row 0 on top, column = prediction; each row as shares of its sum, with the counts on hover."""
    matrix, names = content
    total = matrix.sum(axis=1, keepdims=True)
    share = np.divide(matrix, total, out=np.zeros_like(matrix), where=total > 0)
    axis = {
        "type": "category",
        "dtick": 1,
        "automargin": True,
        "tickfont": {"size": 11 if len(matrix) <= MAX_TEXTED else 8},
    }
    trace = {
        "type": "heatmap",
        "z": share.tolist(),
        "x": _axis_names(names, matrix.shape[1]),
        "y": _axis_names(names, matrix.shape[0]),
        "customdata": matrix.tolist(),
        "hovertemplate": "%{y} taken for %{x}: %{customdata:,} (%{z:.1%} of the row)<extra></extra>",
        "zmin": 0,
        "zmax": 1,
        "colorscale": WHITE_TO_BLUE,
        "colorbar": {"tickformat": ".0%", "thickness": 12},
        "xgap": 1,
        "ygap": 1,
    }
    if len(matrix) <= MAX_TEXTED:
        trace |= {"texttemplate": "%{z:.0%}", "textfont": {"size": 10}}
    xaxis, yaxis = axis | {"title": "prediction", "tickangle": -90}, axis | {"title": "target", "autorange": "reversed"}
    return [trace], _layout(win, xaxis=xaxis, yaxis=yaxis)


def bars(win, content):
    names, values = content
    numbers = ["" if value is None else f"{value:.2f}" for value in values]
    trace = {"type": "bar", "x": _axis_names(names, len(names)), "y": values, "text": numbers, "textposition": "auto"}
    trace |= {"hovertext": [*map(plain, names)], "hovertemplate": "%{hovertext}: %{y:.4f}<extra></extra>"}
    trace["marker"] = {"color": PALETTE[0]}
    xaxis = {"type": "category", "tickangle": -45 if len(names) > 4 else 0, "automargin": True}
    if len(names) > MAX_TEXTED:  # of more than MANY_CLASSES in a wider window, see `size_of`
        xaxis |= {"tickangle": -90, "tickfont": {"size": 10 if len(names) <= 20 else 8}}
        xaxis |= {"dtick": 1} if len(names) <= MOST_BARS else {}
    return [trace], _layout(win, xaxis=xaxis, yaxis={"range": [0, 1], "title": "AP (11-point)"})


def curves(win, content):
    """Precision over recall, a curve each, which begins on the axis: one of a single point is seen too.

    `names` end with the area under their curve, for which the legend has a heading.
    """
    names, xs, ys = content
    look = {"type": "scatter", "mode": "lines", "line": {"shape": "hv"}}
    look["hovertemplate"] = "%{text}<br>precision %{y:.3f}, recall %{x:.3f}<extra></extra>"
    short = [" ".join(shortened(part, SHORT) for part in name.rsplit(" ", 1)) for name in names]
    traces = [
        {**look, "name": name, "text": plain(full), "x": [*([0] if len(x) else []), *x], "y": [*y[:1], *y]}
        for name, full, x, y in zip(_different(short), names, xs, ys, strict=True)
    ]
    axis = {"range": [0, 1.02]}
    legend = _legend((0, 0)) | {"title": {"text": "AP (area)", "font": {"size": 10}}}
    if len(traces) > MOST_NAMES:
        legend["title"]["text"] += f", {MOST_NAMES} of {len(traces)}"
        legend["font"] = {"size": 8}
        for trace in traces[MOST_NAMES:]:  # these have theirs on hover
            trace["showlegend"] = False
    layout = _layout(win, legend, xaxis=axis | {"title": "recall"}, yaxis=axis | {"title": "precision"})
    return traces or [{"type": "scatter", "x": [], "y": []}], layout


def _legend(corner):
    x, y = corner
    return LEGEND | {"x": x, "xanchor": "auto", "y": y, "yanchor": "auto"}  # auto: at the edge that is nearer to x, y


def _layout(win, legend=None, **axes):
    # The page's tool bar lies over the upper margin: the title stands at its lower edge.
    title = {"text": plain(win), "yref": "paper", "y": 1, "yanchor": "bottom", "pad": {"b": 6}, "font": {"size": 15}}
    look = {"title": title, "margin": MARGIN, "hovermode": "closest", "showlegend": legend is not None}
    return look | ({"legend": legend} if legend else {}) | axes


def _axis_names(names, count):
    """`count` different strings: the page would draw two rows of one name in the same place."""
    names = [names[i] if i < len(names) else str(i) for i in range(count)]
    return _different([shortened(name, SHORT) for name in names])


def _different(names):
    """The names as plotly shows them; those that are there twice with their number."""
    names = [one_line(name) for name in names]
    n = Counter(names)
    told_apart = [name if n[name] == 1 else f"{name} ({i})" for i, name in enumerate(names)]
    if len({*told_apart}) < len(names):  # one of them was called so already
        told_apart = [f"{name} ({i})" for i, name in enumerate(names)]
    return [plain(name) for name in told_apart]


def plain(text) -> str:
    """`text` for plotly, which takes tags for markup and what is between two dollars for LaTeX."""
    return html.escape(one_line(text), quote=False).replace("$", "&#36;")


def one_line(text) -> str:
    """`text` without what is no character, or would break a line: such stand as �, line ends as spaces."""
    text = " ".join(str(text).split())
    return "".join("�" if unicodedata.category(c) in ("Cc", "Cs", "Cn", "Co") else c for c in text)


def shortened(text, most) -> str:
    text = one_line(text)
    return text if len(text) <= most else text[: most - 1] + "…"
