"""utils/environment_tool.py"""

import subprocess

import numpy as np
import torch

from utils.environment_tool import environment, git_state


def test_what_a_run_is_made_with(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/train.py", "train", "--name=a b"])
    found = environment(torch.device("cpu"))
    assert found["command"] == "python train.py train '--name=a b'"
    assert torch.__version__.startswith(found["torch"].partition("+")[0])
    assert found["numpy"] == np.__version__
    assert all(isinstance(text, str) and text for text in found.values())
    assert {"time", "python", "system", "device", "threads"} <= found.keys()


def test_the_state_of_the_code(tmp_path, monkeypatch):
    assert git_state(tmp_path) is None
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"):
        monkeypatch.setenv(name, "x")

    def git(*words):
        return subprocess.run(
            ["git", "-C", tmp_path, *words], check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "one")
    commit = git("rev-parse", "HEAD")
    assert git_state(tmp_path) == commit
    (tmp_path / "new").write_text("a run's own files are no change of the code")
    assert git_state(tmp_path) == commit
    (tmp_path / "a").write_text("2")
    assert git_state(tmp_path) == f"{commit}, with changes"
    (tmp_path / "inner").mkdir()
    assert git_state(tmp_path / "inner") is None  # a folder within another project
    monkeypatch.setenv("PATH", "")
    assert git_state(tmp_path) is None
