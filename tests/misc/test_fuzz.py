"""misc/fuzz.py: all that it found stays mended, and a fixed number of new cases is answered with one line each."""

import contextlib
import itertools
import sys
import time
from pathlib import Path

import pytest

from misc import fuzz
from misc.fuzz import Target, cases, problem_with, run
from misc.fuzz_targets import TARGETS
from tests.run_server import the_runs
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "tests" / "fuzz_cases"
CASES = sorted(path.relative_to(KEPT).as_posix() for path in KEPT.glob("*/*"))
N_CASES = {
    "coco": 250,
    "lists": 150,
    "checkpoint": 500,
    "splits": 200,
    "pictures": 300,
    "stored": 100,
}  # a second or two of each


@pytest.mark.parametrize("name", CASES)
def test_what_was_found_stays_mended(tmp_path, name):
    content = (KEPT / name).read_bytes()
    assert len(content) < 5000
    assert problem_with(TARGETS[name.partition("/")[0]], content, tmp_path / "case") is None


def test_each_case_is_described():
    text = (KEPT / "README.md").read_text()
    assert [name for name in CASES if f"`{name}`" not in text] == []


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_are_read(tmp_path, name):
    for seed in TARGETS[name].seeds:
        TARGETS[name].read(tmp_path, seed)


@pytest.mark.parametrize("name", TARGETS)
def test_new_cases_are_answered_with_one_line(tmp_path, name):
    findings = list(run(name, seed=20, folder=tmp_path / "case", n_cases=N_CASES.get(name, 500)))
    assert findings == []


def test_the_same_seed_makes_the_same_cases():
    for target in TARGETS.values():
        one, again, other = (list(itertools.islice(cases(target, seed), 30)) for seed in (1, 1, 2))
        assert one == again
        assert one != other
        assert len(set(one)) > 15


def raising(error):
    def read(*_):
        raise error

    return read


def hungry(*_):
    return bytearray(400 << 20)


def endless(*_):
    while True:
        with contextlib.suppress(Exception):
            time.sleep(0)


def test_what_counts_as_a_finding(tmp_path, monkeypatch):
    def of(read, **others):
        return problem_with(Target(read, [b""], **others), b"x", tmp_path / "case")

    assert of(lambda *_: 1) is None
    assert of(raising(UserError("x: is wrong; mend it"))) is None
    assert of(raising(UserError("x: is wrong\nmend it"))) is None  # which makes it one line
    assert "KeyError: 'y' (test_fuzz.py:" in of(raising(KeyError("y")))
    assert "RecursionError" in of(raising(RecursionError()))
    wrapped = UserError("Caught UserError in worker 0.\nTraceback\nutils.errors.UserError: x")
    assert "its line is not one" in of(raising(wrapped))
    assert of(hungry, megabytes=4000) is None
    assert of(lambda *_: print("\x1b[2J")) == "prints '\\x1b[2J\\n'"
    monkeypatch.setattr(fuzz, "_megabytes", iter((100, 400)).__next__)
    assert of(lambda *_: 1) == "takes 300 MB"
    monkeypatch.setattr(fuzz, "_megabytes", lambda: 0)
    monkeypatch.setattr(fuzz, "MAX_SECONDS", 0.2)
    assert of(endless) == "takes more than 0.2 s"


def test_the_program_keeps_what_it_finds_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(fuzz.TARGETS, "names", Target(raising(KeyError("y")), [b"a"]))
    monkeypatch.setattr(sys, "argv", ["fuzz.py", "--target=names", "--seconds=1", f"--keep={tmp_path / 'kept'}"])
    with pytest.raises(UserError, match="1 kinds of findings"):
        fuzz.main()
    assert "names: \"KeyError: 'y' (test_fuzz.py:" in capsys.readouterr().out
    assert len(list((tmp_path / "kept/names").iterdir())) == 1


def test_the_program_by_itself():
    done = the_runs().run(ROOT, ["--target=options", "--seconds=1", "--seed=3"], program="misc/fuzz.py")
    assert done.stderr == ""
    assert done.stdout.startswith("options: ")
    assert done.stdout.endswith(" cases, 0 kinds of findings\n")
