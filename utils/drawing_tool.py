"""Drawings of lines, rectangles and words, as SVG for an HTML page and as PNG for where no SVG is shown.

A colour is one of the names in `NAMED`, which an HTML page may have otherwise in the dark, or '#rrggbb'. All sizes are
pixels of the drawing; x goes to the right and y down.
"""

import base64
import html
import io
import math
import unicodedata
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

NAMED = {"ink": "#1b1f24", "soft": "#6a737d", "grid": "#e3e6ea", "paper": "#ffffff", "accent": "#2563c9"}
SHARPNESS = 2  # pixels of a PNG to one of the drawing


def one_line(text) -> str:
    """`text` without what is no character, or would break a line: such stand as �, line ends as spaces."""
    text = " ".join(str(text).split())
    return "".join("�" if unicodedata.category(c) in ("Cc", "Cs", "Cn", "Co") else c for c in text)


def shortened(text, most) -> str:
    text = one_line(text)
    return text if len(text) <= most else text[: most - 1] + "…"


def text_width(text, size) -> float:
    """About how wide a line of text is."""
    return sum(1.0 if unicodedata.east_asian_width(c) in "WF" else 0.57 for c in text) * size


class Drawing:
    """Shapes in the order in which they are drawn.

    Args:
        width, height: of the drawing.
        title: what it shows, for those who can't see it.
    """

    def __init__(self, width: float, height: float, title: str):
        self.width, self.height, self.title = math.ceil(width), math.ceil(height), one_line(title)
        self._shapes = []

    def line(self, xy, colour, width=1.5, opacity=1.0, name=None):
        """A line through the points (M, 2); rows with NaN break it. `name` is shown where the mouse rests on it."""
        xy = np.asarray(xy, np.float64).reshape(-1, 2)
        gaps = np.flatnonzero(~np.isfinite(xy).all(axis=1))
        for part in np.split(xy, gaps):
            part = part[np.isfinite(part).all(axis=1)]
            if len(part) == 1:
                self.dot(*part[0], width, colour, opacity, name)
            elif len(part):
                self._shapes.append(("line", part, colour, width, opacity, name))

    def rect(self, x, y, width, height, colour, opacity=1.0, name=None):
        self._shapes.append(("rect", (x, y, width, height), colour, None, opacity, name))

    def dot(self, x, y, radius, colour, opacity=1.0, name=None):
        self._shapes.append(("dot", (x, y, radius), colour, None, opacity, name))

    def text(self, x, y, text, colour="ink", size=12, anchor="start", bold=False, turned=False, name=None):
        """Words on the base line y; `anchor` is what of them stands at x: start, middle, end. `turned`: they rise."""
        self._shapes.append(("text", (x, y, one_line(text), anchor, bold, turned), colour, size, 1.0, name))

    def svg(self) -> str:
        """An <svg> to stand in an HTML page, which gives the named colours as CSS variables."""
        size = f'viewBox="0 0 {self.width} {self.height}" width="{self.width}" height="{self.height}"'
        parts = [f'<svg {size} role="img" aria-label="{html.escape(self.title)}">', *map(_svg_shape, self._shapes)]
        return "\n".join([*parts, "</svg>"])

    def png(self) -> bytes:
        """A PNG file, light."""
        img = Image.new("RGB", (self.width * SHARPNESS, self.height * SHARPNESS), NAMED["paper"])
        draw = ImageDraw.Draw(img)
        for shape in self._shapes:
            _paint(img, draw, *shape)
        file = io.BytesIO()
        img.quantize(128, method=Image.Quantize.FASTOCTREE).save(file, "PNG")
        return file.getvalue()


def data_uri(content: bytes, kind: str) -> str:
    """`content`, of the media type `kind`, as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _svg_shape(shape):
    kind, where, colour, size, opacity, name = shape
    colour = f"var(--{colour})" if colour in NAMED else colour
    stroke_or_fill = f"fill:none;stroke:{colour};stroke-width:{size}" if kind == "line" else f"fill:{colour}"
    style = f' style="{stroke_or_fill}{f";opacity:{opacity:.3g}" if opacity < 1 else ""}"'
    title = f"<title>{html.escape(one_line(name))}</title>" if name else ""
    if kind == "line":
        return f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in where)}"{style}>{title}</polyline>'
    if kind == "rect":
        x, y, width, height = where
        return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"{style}>{title}</rect>'
    if kind == "dot":
        x, y, radius = where
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}"{style}>{title}</circle>'
    x, y, text, anchor, bold, turned = where
    more = (f' text-anchor="{anchor}"' if anchor != "start" else "") + (' font-weight="600"' if bold else "")
    more += f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    title = title if name != text else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}"{more}{style}>{title}{html.escape(text)}</text>'


def _paint(img, draw, kind, where, colour, size, opacity, _):
    colour = NAMED.get(colour, colour)
    mixed = tuple(round(255 + (int(colour[k : k + 2], 16) - 255) * opacity) for k in (1, 3, 5))
    if kind == "line":
        draw.line([(x, y) for x, y in where * SHARPNESS], mixed, round(size * SHARPNESS), joint="curve")
    elif kind == "rect":
        x, y, width, height = (v * SHARPNESS for v in where)
        if width >= 1 and height >= 1:
            draw.rectangle((x, y, x + width - 1, y + height - 1), mixed)
    elif kind == "dot":
        x, y, radius = (v * SHARPNESS for v in where)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), mixed)
    else:
        x, y, text, anchor, bold, turned = where
        font, place = _font(size * SHARPNESS), {"start": "ls", "middle": "ms", "end": "rs"}[anchor]
        stroke = {"stroke_width": 0.6 if bold else 0, "font": font}
        if not turned:
            draw.text((x * SHARPNESS, y * SHARPNESS), text, mixed, anchor=place, **stroke)
            return
        left, top, right, bottom = map(math.floor, font.getbbox(text, anchor=place))
        mask = Image.new("L", (right - left + 2, bottom - top + 2))
        ImageDraw.Draw(mask).text((-left, -top), text, 255, anchor=place, **stroke)
        corner = (round(x * SHARPNESS + top), round(y * SHARPNESS - left - mask.width))
        img.paste(mixed, corner, mask.rotate(90, expand=True))


@cache
def _font(size):
    return ImageFont.load_default(size)
