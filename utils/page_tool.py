"""One self-contained page, as HTML or as Markdown: all that stands on it is taken for text, nothing is loaded.

Both classes have the same methods, each of which adds a part behind those before; `whole` gives the page.
"""

import base64
import html
import re
import unicodedata
from html.parser import HTMLParser

from matplotlib.figure import Figure

from utils.plot_tool import one_line, png, svg

MAX_SIZE = 10_000_000  # bytes of a page; parts that would pass it are left out, which a line tells
KEPT_FREE = 500_000  # of that, for what comes behind many pictures
SAFE_TAGS = ("table", "tr", "td", "th", "b", "br", "pre")
STYLE = """
:root{--ink:#1b1f24;--soft:#667079;--grid:#e3e6ea;--paper:#fff;--accent:#2563c9;--card:#f6f7f9;--warn:#fff4d6}
@media screen and (prefers-color-scheme:dark){:root{--ink:#e4e7eb;--soft:#98a2ad;--grid:#333941;--paper:#15181c;
--accent:#4f8ff0;--card:#1e2227;--warn:#43391c}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1360px;padding:24px 28px 48px;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
h1{font-size:28px;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:20px;margin:36px 0 12px;padding-bottom:4px;border-bottom:1px solid var(--grid);overflow-wrap:anywhere}
h3{font-size:15px;margin:16px 0 6px;overflow-wrap:anywhere}h3 small,.soft{color:var(--soft);font-weight:400}
nav a{color:var(--accent);margin-right:14px;text-decoration:none}
.cards{display:flex;flex-wrap:wrap;gap:12px;margin:16px 0}
.card{background:var(--card);border:1px solid var(--grid);border-radius:8px;padding:10px 16px;min-width:130px}
.card b{display:block;font-size:22px;font-weight:600}.card span{color:var(--soft);font-size:13px}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,520px),1fr));gap:8px 28px}
.plot{min-width:0}svg{display:block;max-width:100%;height:auto}svg *{stroke-linejoin:round;stroke-linecap:butt}
svg text{white-space:pre}
.plot p{margin:2px 0;color:var(--soft);font-size:13px;overflow-wrap:anywhere}
.tables{display:flex;flex-wrap:wrap;gap:4px 40px;align-items:flex-start}.tables>div{max-width:100%;overflow-x:auto}
table{border-collapse:collapse;font-size:14px}
td,th{padding:3px 14px 3px 0;text-align:left;border-bottom:1px solid var(--grid);vertical-align:top;
overflow-wrap:anywhere}
th{color:var(--soft);font-weight:500}
td+td.n,th+th.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.pictures{display:flex;flex-wrap:wrap;gap:12px;align-items:flex-start}
figure{margin:0 0 8px;max-width:calc(50% - 6px)}
.pictures img{display:block;max-width:100%;max-height:420px;border-radius:4px}
.strip figure{width:calc(100%/3 - 8px)}.strip img{width:100%}
figcaption{color:var(--soft);font-size:13px;overflow-wrap:anywhere}
.note{background:var(--warn);border-radius:6px;padding:6px 12px;margin:6px 0;overflow-wrap:anywhere}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:12.5px;margin:8px 0}
.text{font-size:14px;overflow:auto;max-height:420px}.text td:first-child{white-space:nowrap}
@media print{body{max-width:none;padding:0;font-size:12px}nav{display:none}.text{max-height:none}
table{font-size:10px}td,th{padding-right:8px}
.plot,figure,.card,tr{break-inside:avoid}h2,h3{break-after:avoid}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}.plots{grid-template-columns:1fr 1fr}}
"""


class _Page:
    """What both forms share: the parts, and that they don't grow without end."""

    def __init__(self):
        self.parts, self.size, self.n_left_out, self.n_plots = [], 0, 0, 0

    def room(self) -> int:
        """Bytes that a picture may still take."""
        return MAX_SIZE - KEPT_FREE - self.size

    def _add(self, part, what=None):
        """Add a part; one that has a name, `what`, may be left out."""
        size = len(part.encode())
        if what and size > self.room():
            self.left_out(what)
        elif self.size + size < MAX_SIZE:
            self.size += size
            self.parts.append(part)

    def left_out(self, what):
        self.n_left_out += 1
        if self.n_left_out <= 100:
            self.note(f"{what}: left out, the report would pass {MAX_SIZE // 1_000_000} MB")


class HtmlPage(_Page):
    def __init__(self, title: str, sections: tuple[str, ...]):
        super().__init__()
        self.title = one_line(title)
        links = "".join(f'<a href="#{name.lower()}">{name}</a>' for name in sections)
        self._add(f"<h1>{_text(title)}</h1>\n<nav>{links}</nav>")

    def whole(self) -> str:
        policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # a reader's browser holds us to it
        head = f'<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        head += '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        head += '<meta name="color-scheme" content="light dark">\n'
        head += f"<title>{_text(self.title)}</title>\n<style>{STYLE}</style>"
        body = "\n".join(self.parts)
        return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'

    def section(self, name: str):
        self._add(f'<h2 id="{_text(name.lower())}">{_text(name)}</h2>')

    def heading(self, name: str, words: str = ""):
        self._add(f"<h3>{_text(name)} <small>{_text(words)}</small></h3>")

    def paragraph(self, words: str):
        self._add(f'<p class="soft">{_text(words)}</p>')

    def note(self, words: str):
        self._add(f'<p class="note">{_text(words)}</p>')

    def cards(self, facts: list[tuple[str, str, str]]):
        """(what, its value, more of it) of the numbers that matter most."""
        cards = (f'<div class="card"><span>{_text(what)}</span><b>{_text(value)}</b><span>{_text(more)}</span></div>'
                 for what, value, more in facts)  # fmt: skip
        self._add(f'<div class="cards">{"".join(cards)}</div>')

    def tables(self, tables: list[tuple[str, str, list[str], list[list]]]):
        """Side by side: (name, what it is, header, rows) of each; columns of numbers, given as texts, to the right."""
        self._add('<div class="tables">')
        for name, words, header, rows in tables:
            right = [_is_numeric(column) for column in zip(*rows, strict=True)] or [False] * len(header)
            lines = []
            for tag, row in (
                [("th", header), *(("td", row) for row in rows)] if any(header) else [("td", row) for row in rows]
            ):
                marks = (f"{tag}{' class=n' if n else ''}" for n in right)
                cells = (f"<{mark}>{_text(cell)}</{tag}>" for mark, cell in zip(marks, row, strict=True))
                lines.append(f"<tr>{''.join(cells)}</tr>")
            table = "<table>\n" + "\n".join(lines) + "\n</table>"
            self._add(f"<div><h3>{_text(name)} <small>{_text(words)}</small></h3>\n{table}</div>", name)
        self._add("</div>")

    def plots(self, plots: list[tuple[str, str, Figure, list[str]]]):
        """Side by side: (window, what it is, figure, lines below) of each."""
        self._add('<div class="plots">')
        for name, words, figure, below in plots:
            lines = "".join(f"<p>{_text(line)}</p>" for line in below)
            heading = f"<h3>{_text(name)} <small>{_text(words)}</small></h3>"
            self.n_plots += 1
            self._add(f'<div class="plot">{heading}\n{svg(figure, str(self.n_plots))}\n{lines}</div>', name)
        self._add("</div>")

    def pictures(self, pictures: list[tuple[str, bytes, str]], strip=False):
        """(words below, file's content, media type) of each; a strip has three in a row."""
        self._add(f'<div class="pictures{" strip" if strip else ""}">')
        for words, content, kind in pictures:
            image = f'<img src="{data_uri(content, kind)}" alt="{_text(words)}">'
            self._add(f"<figure>{image}<figcaption>{_text(words)}</figcaption></figure>", words)
        self._add("</div>")

    def texts(self, texts: list[tuple[str, str, str]]):
        """Side by side: (name, what it is, HTML of somebody's, see `safe_markup`) of each."""
        self._add('<div class="tables">')
        for name, words, text in texts:
            heading = f"<h3>{_text(name)} <small>{_text(words)}</small></h3>"
            self._add(f'<div>{heading}\n<div class="text">{safe_markup(text)}</div></div>', name)
        self._add("</div>")

    def log(self, title: str, lines: list[str]):
        text = "\n".join(html.escape(_clean(line)) for line in lines)
        self._add(f"<details><summary>{_text(title)}</summary>\n<pre>\n{text}</pre></details>", title)


class MarkdownPage(_Page):
    """Pictures stand at the end, as addresses that their places refer to, so that the text can be read as it is."""

    def __init__(self, title: str, sections: tuple[str, ...]):
        super().__init__()
        self._addresses = []
        self._add(f"# {_marked(title)}")

    def whole(self) -> str:
        return "\n\n".join([*self.parts, "\n".join(self._addresses)]).rstrip() + "\n"

    def section(self, name: str):
        self._add(f"## {_marked(name)}")

    def heading(self, name: str, words: str = ""):
        self._add(f"### {_marked(name)}" + (f": {_marked(words)}" if words else ""))

    def paragraph(self, words: str):
        self._add(_marked(words))

    def note(self, words: str):
        self._add(f"> **Note:** {_marked(words)}")

    def cards(self, facts: list[tuple[str, str, str]]):
        self._table(["", "", ""], facts, "numbers")

    def tables(self, tables: list[tuple[str, str, list[str], list[list]]]):
        for name, words, header, rows in tables:
            self.heading(name, words)
            self._table(header, rows, name)

    def plots(self, plots: list[tuple[str, str, Figure, list[str]]]):
        for name, words, figure, below in plots:
            self.heading(name, words)
            self._add_picture(name, png(figure), "image/png")
            for line in below:
                self.paragraph(line)

    def pictures(self, pictures: list[tuple[str, bytes, str]], strip=False):
        for words, content, kind in pictures:
            self._add_picture(words, content, kind)
            self.paragraph(words)

    def texts(self, texts: list[tuple[str, str, str]]):
        for name, words, text in texts:
            self.heading(name, words)
            self._add(f"<div>{_inert(safe_markup(text))}</div>", name)

    def log(self, title: str, lines: list[str]):
        # indented is as it stands, whatever it holds; a line end within a line is one of a line of its own
        text = "\n".join(f"    {part}" for line in lines for part in _clean(line).split("\n"))
        self._add(f"<details>\n<summary>{_inert(_text(title))}</summary>\n\n{text}\n\n</details>", title)

    def _table(self, header, rows, what):
        lines = [f"| {' | '.join(map(_marked, row))} |" for row in (header, *rows)]
        self._add("\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]]), what)

    def _add_picture(self, words, content, kind):
        address = data_uri(content, kind)
        if len(address) > self.room():
            self.left_out(words)
            return
        self.size += len(address)
        self._addresses.append(f"[p{len(self._addresses)}]: {address}")
        self._add(f"![{_marked(words)}][p{len(self._addresses) - 1}]")


def data_uri(content: bytes, kind: str) -> str:
    """`content`, of the media type `kind`, as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def safe_markup(text: str) -> str:
    """HTML in one line, of whose tags `SAFE_TAGS` stay, bare and closed; all else in it is text."""
    parser = _SafeTags()
    parser.feed(_clean(text))
    parser.close()
    return "".join(parser.parts) + "".join(f"</{tag}>" for tag in reversed(parser.open))


class _SafeTags(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.parts, self.open = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in SAFE_TAGS:
            self.handle_data(self.get_starttag_text())
            return
        self.parts.append(f"<{tag}>")
        if tag != "br":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        if tag not in self.open:
            self.handle_data(f"</{tag}>")
            return
        while True:
            last = self.open.pop()
            self.parts.append(f"</{last}>")
            if last == tag:
                return

    def handle_data(self, data):
        self.parts.append(html.escape(data).replace("\n", "&#10;"))  # Markdown ends HTML at a blank line

    def handle_comment(self, data):
        self.handle_data(f"<!--{data}-->")

    def handle_decl(self, decl):
        self.handle_data(f"<!{decl}>")

    unknown_decl = handle_decl

    def handle_pi(self, data):
        self.handle_data(f"<?{data}>")


def _clean(text):
    """Text of many lines without what is no character."""
    text = re.sub("\r\n?", "\n", str(text))
    return "".join("�" if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cs") else c for c in text)


def _text(text):
    """For HTML, also within an attribute."""
    return html.escape(one_line(text))


def _marked(text):
    """For Markdown: nothing in it is a mark, a tag or an address."""
    text = re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", one_line(text))
    text = re.sub(r"^(\d*)([-+.)])(?=\s|$)", r"\1\\\2", text)  # a list
    return re.sub(r"(?i)(:)(?=//)|\b(www)\.", lambda match: "\\:" if match[1] else f"{match[2]}\\.", text)


def _inert(markup):
    """HTML that stands in Markdown, also for programs that look for marks in it."""
    return re.sub(r"(?i)[\[\]`*_]|:(?=//)|(?<=www)\.", lambda match: f"&#{ord(match[0])};", markup)


def _is_numeric(column):
    return all(re.fullmatch(r"[-+]?[\d.,]*(e[-+]\d+)?%?", str(cell)) for cell in column)
