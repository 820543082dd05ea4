"""utils/page_tool.py: the tags that stay are bare and closed, and the rest is text."""

import pytest

from tests.page_reader import Page, check_markdown
from utils.page_tool import HtmlPage, MarkdownPage, safe_markup


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("<table><tr><td style='padding:4px'>a</td></tr></table>rows",
         "<table><tr><td>a</td></tr></table>rows"),
        ("a<br>b<BR/>c", "a<br>b<br>c"),
        ("<b>open", "<b>open</b>"),
        ("<b><table></b>", "<b><table></table></b>"),
        ("</td>x", "&lt;/td&gt;x"),
        ("<script>alert('1')</script>", "&lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt;"),
        ("<img src=x onerror=y>", "&lt;img src=x onerror=y&gt;"),
        ("&lt;b&gt; &amp; 1 < 2", "&lt;b&gt; &amp; 1 &lt; 2"),
        ("<!-- c --><!DOCTYPE x><?php y ?>", "&lt;!-- c --&gt;&lt;!DOCTYPE x&gt;&lt;?php y ?&gt;"),
        ("a\r\n\n# b", "a&#10;&#10;# b"),
        ("a\0\ud800", "a��"),
    ],
)  # fmt: skip
def test_safe_markup(text, safe):
    assert safe_markup(text) == safe


def test_tables_of_both_forms():
    rows = [["a|b", "1.5"], ["<c>", "20"]]
    html, markdown = HtmlPage("title", ("Result",)), MarkdownPage("title", ("Result",))
    for page in (html, markdown):
        page.tables([("Numbers", "of two", ["what", "value"], rows)])
    page = Page(html.whole())
    assert [text for _, text in page.all("td")] == ["a|b", "1.5", "<c>", "20"]
    assert [attrs.get("class") for attrs, _ in page.all("td")] == [None, "n", None, "n"]
    assert "| what | value |\n|---|---|\n| a\\|b | 1.5 |\n| \\<c\\> | 20 |" in markdown.whole()
    assert check_markdown(markdown.whole()) == 0


def test_a_log_of_any_lines_stays_in_its_place():
    lines = ["[01-01] a", "</pre></details>", "b\n\n# c\n![d](e)"]
    html, markdown = HtmlPage("t", ()), MarkdownPage("t", ())
    for page in (html, markdown):
        page.log("log: 3 lines", lines)
    (_, text), = Page(html.whole()).all("pre")  # fmt: skip
    assert text.strip() == "\n".join(lines)
    check_markdown(markdown.whole())
    assert "\n    # c\n    ![d](e)\n" in markdown.whole()
