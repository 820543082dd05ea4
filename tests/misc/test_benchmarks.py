"""misc/bench_*.py as a user runs them, at small sizes: that they run, and what they print. No figure is asserted."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from misc.communication import efficiencies, ring_seconds, trained_bytes
from model import FasterRCNNVGG16
from tests.run_server import the_runs

ROOT = Path(__file__).resolve().parents[2]


def rows_of(*words):
    return table_of(*words)[1]


def table_of(*words):
    """What a benchmark prints, and the cells of the Markdown table in it, header first."""
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return done.stdout, [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_bench_ops_prints_a_row_for_each_operation():
    header, *rows = rows_of("misc/bench_ops.py", "--device=cpu", "--only=Tiny")
    assert header == ["operation", "ours, ms", "torchvision, ms", "ratio"]
    assert [re.sub(",.*", "", row[0]) for row in rows] == ["RoI pooling", "RoI align"]
    assert all(float(cell) > 0 for row in rows for cell in row[1:])


def test_bench_loading_prints_each_stage_of_both_ways(tmp_path):
    for height, width in ((200, 90), (900, 1300)):  # pixels grow, and become fewer
        y, x = np.mgrid[:height, :width]
        pixels = np.stack([127 + 100 * np.sin(y / 9 + x / b) for b in (7, 8, 9)], axis=2).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{height}.jpg")
    text, (header, *rows) = table_of("misc/bench_loading.py", f"--folder={tmp_path}", "--images=2", "--rounds=1")
    assert header == ["stage", "simple-faster-rcnn's, ms", "img/s per core", "ours, ms", "img/s per core", "ratio"]
    assert [row[0] for row in rows] == ["decode", "resize", "normalise", "all"]
    cells = np.array([row[1:] for row in rows], float)
    assert (cells > 0).all()
    for ms, rate in ((0, 1), (2, 3)):
        np.testing.assert_allclose(cells[:, rate], 1e3 / cells[:, ms], rtol=0.05)
    (far,) = re.findall(r"differ by at most ([\d.]+) of 255", text)  # both do the same work
    assert float(far) < 1


def test_bench_eval_prints_both_evaluations_and_the_analyses():
    header, *rows = rows_of("misc/bench_eval.py", "--images=200", "--detections=30", "--classes=3", "--rounds=1")
    assert header == ["what", "seconds", "COCOeval's time to this", "peak memory, MB", "mAP"]
    names = "COCOeval", "evaluate_detections", "precision_recall", "confusion_matrix", "error_analysis"
    assert [re.sub(",.*", "", row[0]).strip("`") for row in rows] == list(names)
    assert all(float(cell) > 0 for row in rows for cell in row[1:3])
    coco, ours, *_, errors = (row[4] for row in rows)
    assert ours == errors
    assert float(ours) == pytest.approx(float(coco), abs=0.02)  # the area and 101 points of it


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["misc/bench_loading.py", "--folder=nowhere"], "--folder=nowhere: no *.jpg there; name a folder of pictures"),
        (["misc/bench_ops.py", "--device=cuda:99"], "argument --device: --device=cuda:99: there are"),
        (["misc/bench_train.py", "--device=gpu"], "argument --device: --device=gpu: must be auto, cpu, cuda"),
        (["misc/bench_train.py", "--size=600"], "argument --size: invalid numbers value: '600'"),
        (["misc/bench_train.py", "--batch-sizes=1,0"], "argument --batch-sizes: invalid numbers value: '1,0'"),
        (["misc/bench_eval.py", "--images=0"], "argument --images: '0': must be a whole number of 1 or more"),
        (["misc/bench_train.py", "--device=cpu", "--amp=fp16"], "--amp=fp16: not on cpu"),
    ],
)
def test_a_mistake_is_one_line(words, told):
    program, *words = words
    done = the_runs().run(ROOT, words, program=program, code=2)
    assert told in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_bench_train_prints_both_ways_of_each_system():
    words = ["--batch-sizes=1,2", "--rounds=1", "--size=128x160", "--amp=off", "--device=cpu"]
    header, *rows = rows_of("misc/bench_train.py", *words)
    assert header[:3] == ["what", "batch", "ours, s"]
    assert [row[:2] for row in rows] == [["train", "1"], ["predict", "1"], ["train", "2"], ["predict", "2"]]
    for row in rows:
        seconds = [float(cell) for cell in row[2:8:2]]
        assert float(row[8]) == pytest.approx(seconds[0] / seconds[1], rel=0.05, abs=0.05)
        assert row[10].endswith("%")


@pytest.mark.slow  # each process loads torch
def test_bench_processes_prints_each_number_of_processes_and_of_parts():
    small = "--size=64", "--batch-size=2", "--steps=1", "--rounds=1", "--most=2"
    header, *rows = rows_of("misc/bench_processes.py", *small)
    assert header == ["processes", "parts", "images / s", "to one process"]
    assert [row[:2] for row in rows] == [["1", "1"], ["2", "1"], ["1", "2"]]
    assert all(float(cell) > 0 for row in rows for cell in row[2:])
    assert rows[0][3] == "1.00"


def test_communication_on_paper():
    """A ring by hand: 2 processes exchange halves twice, so that each sends what there is once."""
    assert ring_seconds(1000, 2, 1000, 0.0) == pytest.approx(1.0)
    assert ring_seconds(1000, 4, 1000, 0.01) == pytest.approx(6 * (0.25 + 0.01))
    assert efficiencies(0.1, 0.3) == (pytest.approx(0.75), 1.0)
    assert efficiencies(0.5, 0.3) == (pytest.approx(0.375), pytest.approx(0.5))
    frozen = tuple(f"extractor.{i}." for i in (0, 2, 5, 7))
    with torch.device("meta"):
        trained = [p for name, p in FasterRCNNVGG16(20).named_parameters() if not name.startswith(frozen)]
    assert trained_bytes("vgg16") == 4 * sum(p.numel() for p in trained)
    header, *rows = rows_of("misc/communication.py", "--model=tiny")
    assert header[1:] == [f"{2**k} processes" for k in range(1, 7)]
    assert all(re.fullmatch(r"[\d,.]+ ms, \d+%( to \d+%)?", cell) for row in rows for cell in row[1:])
