"""misc/bench_*.py as a user runs them, at small sizes: that they run, and what they print. No figure is asserted."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def rows_of(*words):
    """The cells of the Markdown table that a benchmark prints, header first."""
    done = subprocess.run([sys.executable, *words, "--device=cpu"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_bench_ops_prints_a_row_for_each_operation():
    header, *rows = rows_of("misc/bench_ops.py", "--only=Tiny")
    assert header == ["operation", "ours, ms", "torchvision, ms", "ratio"]
    assert [re.sub(",.*", "", row[0]) for row in rows] == ["RoI pooling", "RoI align"]
    assert all(float(cell) > 0 for row in rows for cell in row[1:])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["misc/bench_ops.py", "--device=cuda:99"], "argument --device: --device=cuda:99: there are"),
        (["misc/bench_train.py", "--device=gpu"], "argument --device: --device=gpu: must be auto, cpu, cuda"),
        (["misc/bench_train.py", "--size=600"], "argument --size: invalid numbers value: '600'"),
        (["misc/bench_train.py", "--batch-sizes=1,0"], "argument --batch-sizes: invalid numbers value: '1,0'"),
        (["misc/bench_train.py", "--device=cpu", "--amp=fp16"], "--amp=fp16: not on cpu"),
    ],
)
def test_a_mistake_is_one_line(words, told):
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert told in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_bench_train_prints_both_ways_of_each_system():
    header, *rows = rows_of("misc/bench_train.py", "--batch-sizes=1,2", "--rounds=1", "--size=128x160", "--amp=off")
    assert header[:3] == ["what", "batch", "ours, s"]
    assert [row[:2] for row in rows] == [["train", "1"], ["predict", "1"], ["train", "2"], ["predict", "2"]]
    for row in rows:
        seconds = [float(cell) for cell in row[2:8:2]]
        assert float(row[8]) == pytest.approx(seconds[0] / seconds[1], rel=0.05, abs=0.05)
        assert row[10].endswith("%")
