"""The browser that tests drive: it tells what goes wrong on a page, and leaves nothing behind."""

import os
from pathlib import Path

import pytest

from tests.chromium import open_page

pytestmark = pytest.mark.browser

PAGE = """<!doctype html><title>a page</title><p>words</p><img src="absent.png">
<script>console.log("fine"); console.error("not", "fine"); setTimeout(() => { throw new Error("a defect") })</script>"""


def test_what_goes_wrong_on_a_page_is_told(tmp_path):
    (tmp_path / "page.html").write_text(PAGE)
    with open_page((tmp_path / "page.html").as_uri(), 640, 480) as page:
        assert page.evaluate("document.title + window.innerWidth") == "a page640"
        assert page.wait_for("Promise.resolve(document.querySelector('p').textContent)") == "words"
        page.wait_for("new Promise(done => setTimeout(() => done(true)))")
        problems = "\n".join(page.problems())
        assert "not fine" in problems
        assert "a defect" in problems
        assert "absent.png" in problems
        with pytest.raises(AssertionError, match="nowhere"):
            page.evaluate("nowhere.to.be.found")
        page.screenshot(tmp_path / "new/page.png")
    assert (tmp_path / "new/page.png").read_bytes().startswith(b"\x89PNG")


def test_a_page_without_faults_has_no_problems_and_nothing_stays_behind():
    with open_page("data:text/html,<p>words") as page:
        assert page.problems() == []
        assert Path(page.home).is_dir()
        assert _processes(page.home)
    assert not Path(page.home).exists()
    assert not _processes(page.home)


def _processes(home):
    """The programs whose command line names a folder."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.fsencode(home) in (folder / "cmdline").read_bytes():
                found.append(folder.name)
        except OSError:
            pass  # it has ended
    return found
