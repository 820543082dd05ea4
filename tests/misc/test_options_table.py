"""misc/options_table.py: the page in docs/ has the options of today."""

from dataclasses import fields
from pathlib import Path

from tests.run_server import the_runs
from utils.config import Config
from utils.option_values import flag

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_what_is_printed_today():
    done = the_runs().run(ROOT, [], program="misc/options_table.py")
    page = (ROOT / "docs/options.md").read_text("utf-8")
    assert done.stdout == page, "an option has changed: python misc/options_table.py > docs/options.md"
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `--")]
    assert [row[0].removeprefix("| ") for row in rows if len(row) == 4] == [row[0][2:] for row in rows]
    given = {row[0].strip("| `") for row in rows}
    assert given == {flag(f.name) for f in fields(Config)} - {"--use-chainer"}
    assert "| `--rpn-pos-iou` | `0.7` | 0 to 1 |" in page
    assert "| `--batch-size` | `1` | whole, 1 to 4096 |" in page
    assert "| `--use-adam` | `False` | `True`, `False` |" in page
