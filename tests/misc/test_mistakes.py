"""misc/mistakes.py: each mistake is one line and exit code 2, and the page in docs/ says what is said today."""

import re
from pathlib import Path

from tests.run_server import the_runs

ROOT = Path(__file__).resolve().parents[2]


def without_pillows_words(page):
    """They change with its version."""
    return re.sub(r"(the picture is broken) \(.*?\);", r"\1;", page)


def test_each_mistake_is_the_line_in_the_docs():
    done = the_runs().run(ROOT, [], program="misc/mistakes.py")  # it looks for tracebacks, silence and runs that go on
    page = (ROOT / "docs/mistakes.md").read_text("utf-8")
    assert without_pillows_words(done.stdout) == without_pillows_words(page), "misc/mistakes.py > docs/mistakes.md"
    lines = re.findall(r"^\| .* \| `(.*)` \|$", page, re.MULTILINE)
    assert len(lines) >= 60
