"""A headless Chromium, driven over its DevTools protocol: what a person would see of the dashboard, for tests.

with open_page(f"http://127.0.0.1:{port}/env/toy") as page:
    page.wait_for("document.querySelectorAll('.window').length > 3")
    page.screenshot(path)
    assert page.problems() == []
"""

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest
import websocket

from misc.visdom_assets import AssetsError, in_place, static_folder

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-breakpad"),
    *("--disable-dev-shm-usage", "--remote-debugging-port=0"),  # a port that is free, which it writes to a file
)
SECONDS = 120  # for anything that is waited for: other programs may hold the cores


def find_browser() -> str:
    """The browser's path; the test is skipped where there is none, or where visdom's page lacks its files."""
    try:
        assets = in_place(static_folder())
    except AssetsError as error:
        pytest.skip(str(error))
    if not assets:
        pytest.skip("visdom's page lacks its files: run `.venv/bin/python misc/visdom_assets.py`")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on PATH (Debian: apt-get install chromium)")
    return path


@contextlib.contextmanager
def open_page(url, width=1280, height=900, script=None):
    """A `Page` at `url` in a browser of its own, whose processes and folder go at the end.

    Args:
        width, height: of the page, in pixels.
        script: JavaScript that runs before the page's own, each time that one is loaded.
    """
    path = find_browser()
    home = tempfile.mkdtemp(prefix="chromium_")
    places = dict.fromkeys(("HOME", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"), home)
    process = subprocess.Popen(
        [path, *FLAGS, f"--user-data-dir={home}/profile", f"--window-size={width},{height}", "about:blank"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | places,
        start_new_session=True,
    )
    try:
        address = _debugger_address(process, Path(home, "profile/DevToolsActivePort"))
        page = Page(address, width, height, home)
        try:
            if script is not None:
                page.call("Page.addScriptToEvaluateOnNewDocument", source=script)
            page.go(url)
            yield page
        finally:
            page.close()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the session that it leads: all of its helpers
        process.wait()
        _remove(home)


class Page:
    """One tab. Its console's errors, exceptions and failed requests gather from the first `go` on.

    Attributes:
        home: the browser's folder.
    """

    def __init__(self, address, width, height, home):
        self.home = home
        self._socket = websocket.create_connection(address, timeout=SECONDS, suppress_origin=True, http_no_proxy=["*"])
        self._n_calls, self._problems, self._urls = 0, [], {}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.resize(width, height)

    def call(self, method, **params):
        """The result of a DevTools method."""
        self._n_calls += 1
        self._socket.send(json.dumps({"id": self._n_calls, "method": method, "params": params}))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == self._n_calls:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            if "method" in answer:
                self._note(answer["method"], answer["params"])

    def go(self, url):
        result = self.call("Page.navigate", url=url)
        assert not result.get("errorText"), f"{url}: {result['errorText']}"
        self.wait_for("document.readyState == 'complete'")

    def resize(self, width, height):
        """Give the page a size, in pixels; scroll bars take nothing of it."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def evaluate(self, script):
        """The value of a JavaScript expression, or of the promise that it makes."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, f"{script}: {_reason(result['exceptionDetails'])}"
        return result["result"].get("value")

    def wait_for(self, script, seconds=SECONDS):
        """The value of `script` as soon as it is true."""
        deadline = time.monotonic() + seconds
        while not (value := self.evaluate(script)):
            assert time.monotonic() < deadline, f"waited in vain for {script}"
            time.sleep(0.05)
        return value

    def screenshot(self, path):
        """Write a PNG of the whole page, also of what lies below the window's lower edge."""
        self.call("Page.bringToFront")
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def problems(self) -> list[str]:
        """What went wrong on the page so far: errors in the console, exceptions, requests that failed."""
        self.evaluate("0")  # takes in what has arrived
        return list(self._problems)

    def close(self):
        self._socket.close()

    def _note(self, method, params):
        if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            words = (str(i.get("value", i.get("description"))) for i in params["args"])
            self._problems.append(f"console: {' '.join(words)}")
        elif method == "Runtime.exceptionThrown":
            self._problems.append(f"exception: {_reason(params['exceptionDetails'])}")
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self._problems.append(f"log: {params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self._urls[params["requestId"]] = params["request"]["url"][:200]
        elif method == "Network.loadingFailed" and not params.get("canceled"):
            self._problems.append(f"request: {params['errorText']} {self._urls.get(params['requestId'])}")


def _reason(details):
    return details.get("exception", {}).get("description") or details["text"]


def _debugger_address(process, port_file):
    """Where the first tab listens; the browser writes its port to a file when it is ready.

    The file may be seen before its text is all there: a port counts once the line behind it has come.
    """
    deadline = time.monotonic() + SECONDS
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the browser ended with exit code {process.returncode}"
        with contextlib.suppress(OSError, ValueError, StopIteration):
            port, _path = port_file.read_text().split()
            with opener.open(f"http://127.0.0.1:{port}/json", timeout=5) as answer:
                return next(tab["webSocketDebuggerUrl"] for tab in json.load(answer) if tab["type"] == "page")
        time.sleep(0.05)
    raise AssertionError("the browser did not start")


def _remove(folder):
    """Its helpers may still write into it for a moment."""
    for _ in range(100):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.exists(folder):
            return
        time.sleep(0.05)
    raise AssertionError(f"{folder} can't be removed")
