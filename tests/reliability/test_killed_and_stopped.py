"""Faults, injected for real: what is lost, what is said, and that the end is the same to the last bit.

The table in docs/reliability.md has a row for each of them. The dashboard's faults are in test_dashboard_browser.py and
utils/test_vis_tool_outages.py.
"""

import os
import random
import signal
import time

import pytest

from tests.disturbed import TRAIN, assert_same_end, state, step_of, words

# Killed


@pytest.mark.parametrize(("n_kills", "epochs"), [(5, 12), pytest.param(30, 80, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_comes_to_the_same_end(runs, home, whole, n_kills, epochs):
    if not (whole / f"runs/of_{epochs}").exists():
        runs.run(whole, [*TRAIN, f"--epoch={epochs}", f"--name=of_{epochs}"])
    folder, rng, steps = home / "runs/a", random.Random(n_kills), [0]
    for _ in range(n_kills):
        run = runs.start(home, words("a", f"--num-workers={rng.choice([0, 1])}", epochs=epochs))
        time.sleep(rng.uniform(0, 3))
        assert run.kill() in (-signal.SIGKILL, 0), run.text()
        steps.append(step_of(folder))
        assert steps[-1] >= steps[-2]  # what was saved is never lost
    runs.run(home, words(epochs=epochs))
    assert_same_end(folder, whole / f"runs/of_{epochs}")


def test_killed_within_a_checkpoints_write(runs, home, whole):
    """At each call of the system that a save is made of: the file before it is there, or the new one."""
    folder, before = home / "runs/a", 0
    for call in ("half", *range(7)):
        run = runs.start(home, words(), {"kill_in_save": 2, "call": call})
        assert run.wait() == -signal.SIGKILL, run.text()
        assert before <= step_of(folder) < 24, call
        before = step_of(folder)
    runs.run(home, words())
    assert_same_end(folder, whole / "runs/short")
    assert not [*folder.glob(".*.tmp")]


def test_a_save_has_no_more_calls_than_those(runs, home):
    runs.run(home, words(epochs=1), {"kill_in_save": 1, "call": 7})


@pytest.mark.parametrize("others", [["--num-workers=2"], ["--num-workers=1", "--deterministic", "--save-every=5"]])
def test_a_seed_decides_it_all(runs, home, whole, others):
    """Two runs have the same numbers to the last bit, with any number of loading processes and however often saved."""
    runs.run(home, words("a", *others))
    assert_same_end(home / "runs/a", whole / "runs/short")


# Stopped


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_by_a_signal_nothing_is_lost(runs, home, whole, number):
    run = runs.start(home, words("a", "--save-every=1000", "--num-workers=1"))
    run.wait_for(lambda: "epoch 2: mAP" in run.text())
    run.send(number)
    assert run.wait() == 128 + number
    kept = state(home / "runs/a/last.pth")["other_info"]
    assert f"stopped after step {kept['step']} of 24; python train.py train --resume=runs/a goes on from" in run.text()
    assert "Traceback" not in run.text()
    runs.run(home, words())
    assert_same_end(home / "runs/a", whole / "runs/short")


def test_a_signal_to_all_of_its_processes_is_one_to_it(runs, home, whole):
    """A terminal's Ctrl-C, and systemd's SIGTERM, reach those that load pictures too."""
    run = runs.start(home, words("a", "--num-workers=2"))
    run.wait_for(lambda: len(run.children()) == 2 and step_of(home / "runs/a") >= 2)
    for pid in [*run.children(), run.pid]:
        os.kill(pid, signal.SIGTERM)
    assert run.wait() == 128 + signal.SIGTERM
    assert "Traceback" not in run.text()
    runs.run(home, words())
    assert_same_end(home / "runs/a", whole / "runs/short")


def test_a_second_ctrl_c_leaves_at_once(runs, home):
    """While it stops after the first: nothing more is saved."""
    run = runs.start(home, words("a", "--save-every=1000", epochs=500))
    run.wait_for(lambda: "epoch 2: mAP" in run.text())
    saved = step_of(home / "runs/a")
    for _ in range(200):
        run.send(signal.SIGINT)
        time.sleep(0.002)
    assert run.wait() == 130
    assert "left at once" in run.text()
    assert "goes on from there" not in run.text()
    assert step_of(home / "runs/a") >= saved  # what was saved before can be read


def test_two_runs_do_not_write_one_folder(runs, home, whole):
    run = runs.start(home, words())
    run.wait_for(lambda: step_of(home / "runs/a") >= 2)
    done = runs.run(home, words(), code=2)
    assert done.stderr.splitlines()[-1].startswith(f"error: runs/a: another run writes there (process {run.pid} on ")
    assert run.wait() == 0
    assert_same_end(home / "runs/a", whole / "runs/short")
