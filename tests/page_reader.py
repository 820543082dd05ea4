"""Reads the pages of utils/page_tool.py as a browser would, and checks that they load nothing and run nothing."""

import re
from html.parser import HTMLParser

VOID = {"meta", "br", "img"}
TAGS = {
    "html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "nav", "a", "p", "div", "span", "b", "br",
    "small", "table", "tr", "td", "th", "pre", "figure", "figcaption", "img", "details", "summary", "svg",
    "defs", "g", "clippath", "path", "rect", "use", "image", "text",
}  # fmt: skip
ATTRIBUTES = {
    "lang", "charset", "http-equiv", "content", "name", "id", "class", "href", "src", "alt", "viewbox", "width",
    "height", "role", "aria-label", "style", "x", "y", "d", "transform", "clip-path",
}  # fmt: skip


class Page(HTMLParser):
    """`elements`: (tag, attributes, text in it) in the order of their ends; `text`: all that is to be read."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.text, self.ids, self._open = [], "", set(), []
        self.feed(html)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        assert tag in TAGS, tag
        attrs = dict(attrs)
        assert attrs.keys() <= ATTRIBUTES, attrs
        source = attrs.get("href" if tag == "image" else "src", "data:image/png;base64,")
        assert re.match("data:image/(jpeg|png);base64, ?[A-Za-z0-9+/=\n]*$", source)
        assert tag == "image" or attrs.get("href", "#").startswith("#")
        assert re.match(r"url\(#\w+\)$", attrs.get("clip-path", "url(#a)"))
        assert attrs.get("id") not in self.ids
        self.ids.update({attrs["id"]} if "id" in attrs else ())
        assert "url" not in attrs.get("style", "")
        if tag in VOID:
            self.elements.append((tag, attrs, ""))
        else:
            self._open.append([tag, attrs, ""])

    def handle_endtag(self, tag):
        assert self._open[-1][0] == tag, (self._open[-1], tag)
        self.elements.append(tuple(self._open.pop()))

    def handle_data(self, data):
        self.text += data
        for element in self._open:
            element[2] += data
        if self._open and self._open[-1][0] == "style":
            assert not re.search(r"url|@import|http", data)

    def handle_comment(self, data):
        raise AssertionError(data)

    def handle_pi(self, data):
        raise AssertionError(data)

    def all(self, tag):
        """(attributes, text) of the elements of a kind."""
        return [(attrs, text) for name, attrs, text in self.elements if name == tag]


def check_markdown(text):
    """That Markdown loads nothing: its pictures are within it, its tags those that are safe."""
    *_, addresses = text.rsplit("\n\n", 1)
    known = set(re.findall(r"^\[(p\d+)\]: data:image/(?:png|jpeg);base64,[A-Za-z0-9+/=]+$", addresses, re.MULTILINE))
    body = text[: -len(addresses)] if known else text
    body = "\n".join(line for line in body.split("\n") if not line.startswith("    "))  # indented is as it stands
    body = re.sub(r"\\.", "", body)  # what is marked as text
    picture = r"!\[[^\[\]]*\]\[(\w+)\]"
    assert set(re.findall(picture, body)) == known
    assert not re.search(r"[\[\]]|://|www\.", re.sub(picture, "", body))
    tags = set(re.findall(r"<[^>]*>?", body))
    assert tags <= {f"<{end}{tag}>" for end in ("", "/") for tag in
                    ("div", "table", "tr", "td", "th", "b", "br", "pre", "details", "summary")}, tags  # fmt: skip
    return len(known)
