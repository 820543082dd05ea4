"""misc/demo.ipynb, run from top to bottom in a kernel of its own, short and whole."""

import base64
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model import load_model

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "misc/demo.ipynb"
EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
resources = {"metadata": {"path": sys.argv[3]}}
NotebookClient(notebook, timeout=None, kernel_name="python3", resources=resources).execute()
nbformat.write(notebook, sys.argv[2])
"""


def run(tmp_path, working_folder, **parameters):
    """Run it in a folder; (all that it printed, its pictures as arrays (H, W, 3))."""
    own = {"NOTEBOOK_FOLDER": f"{tmp_path}/out", "JUPYTER_RUNTIME_DIR": f"{tmp_path}/jupyter"}
    env = os.environ | own | {"IPYTHONDIR": f"{tmp_path}/ipython", "MPLCONFIGDIR": f"{tmp_path}/mpl"} | parameters
    words = [sys.executable, "-c", EXECUTE, NOTEBOOK, tmp_path / "run.ipynb", working_folder]
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    cells = json.loads((tmp_path / "run.ipynb").read_text("utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    told = "".join("".join(output["text"]) for output in outputs if output.get("name") == "stderr")
    assert not [line for line in re.split(r"[\r\n]+", told) if line.strip() and "img" not in line]  # bars, no warnings
    printed = "".join("".join(output.get("text", "")) for output in outputs)
    encoded = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    return printed, [np.array(Image.open(io.BytesIO(base64.b64decode(one))).convert("RGB")) for one in encoded]


def looks_whole(printed, pictures, tmp_path):
    assert re.search(r"\d+ positive, \d+ negative, \d+ take no part", printed)
    assert "the same detections: True" in printed
    assert len(pictures) == 11  # truth, anchors, proposals, curves, quarters, proposals and samples, AP, four pairs
    for picture in pictures:
        assert min(picture.shape[:2]) >= 150
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 30
    assert len(load_model(tmp_path / "out/tiny.pth").label_names) == 6


def test_a_short_run_from_misc(tmp_path):
    printed, pictures = run(tmp_path, ROOT / "misc", NOTEBOOK_STEPS="10")
    looks_whole(printed, pictures, tmp_path)
    assert 0 <= float(re.search(r"mAP ([\d.]+)", printed)[1]) <= 1


@pytest.mark.slow
def test_it_learns(tmp_path):
    printed, pictures = run(tmp_path, ROOT)
    looks_whole(printed, pictures, tmp_path)
    assert float(re.search(r"mAP ([\d.]+)", printed)[1]) > 0.55
    before, after = map(float, re.search(r"best 10: ([\d.]+) before, ([\d.]+) after", printed).groups())
    assert after > max(0.7, before + 0.2)


def test_it_is_stored_without_outputs():
    """What a run leaves in it would be in each later difference."""
    notebook = json.loads(NOTEBOOK.read_text("utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells), "clear the outputs"
    assert all(cell["metadata"] == {} for cell in notebook["cells"])
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert NOTEBOOK.stat().st_size < 100_000
