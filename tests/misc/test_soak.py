"""misc/soak.py as a user runs it, for a minute."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_minute_of_faults_changes_nothing():
    words = [sys.executable, "misc/soak.py", "--minutes=1", "--every=7"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "the parameters are the same to the last bit as without a fault" in done.stdout
    assert sum(map(int, re.findall(r" (\d+)[,\n]", re.search(r"steps; (.*\n)", done.stdout)[1]))) >= 5  # faults
