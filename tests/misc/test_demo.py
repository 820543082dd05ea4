"""`make demo`, short and whole."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from utils.visdom_server import is_visdom, port_in_use

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def demo(tmp_path):
    """Run the demo with these words; (what it printed, the run's folder). The server that it started is ended."""
    folder = ROOT / "runs" / f"test-demo-{os.getpid()}"
    pids = []

    def run(*words):
        port = next(port for port in range(19097, 20000) if not port_in_use(port))
        words = [f"--folder=runs/{folder.name}", f"--data={tmp_path}/toy", f"--port={port}", *words]
        done = subprocess.run([sys.executable, ROOT / "misc/demo.py", *words], cwd=ROOT, capture_output=True, text=True)
        pids.extend(map(int, re.findall(r"kill (\d+)", done.stdout)))
        assert done.returncode == 0, done.stdout + done.stderr
        assert is_visdom(port)
        return done.stdout, folder

    yield run
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    shutil.rmtree(folder, ignore_errors=True)


def test_a_short_demo_leaves_what_it_says(demo):
    printed, folder = demo("--n-train=8", "--n-val=4", "--epoch=1")
    assert "http://127.0.0.1:" in printed
    assert {"best.pth", "last.pth", "best_eval_val.json"} <= {path.name for path in folder.iterdir()}
    assert len(list((folder / "detections").glob("*.jpg"))) >= 1
    assert (folder / "visdom" / "demo.json").exists()  # the environment is on the server's disk


@pytest.mark.slow
def test_the_demo_learns(demo):
    _, folder = demo()
    assert json.loads((folder / "best_eval_val.json").read_text())["map07"] >= 0.80
