"""Faults of the data and of numbers, and no memory, injected for real: see test_killed_and_stopped.py."""

import json
import os
import shutil
import signal

import pytest
import torch

from tests.disturbed import assert_same_end, curves, state, step_of, words

# Data


def test_a_loading_process_that_is_killed_costs_nothing(runs, home, whole):
    run = runs.start(home, words("a", "--num-workers=2"))
    run.wait_for(lambda: len(run.children()) == 2 and step_of(home / "runs/a") >= 2)
    os.kill(run.children()[0], signal.SIGKILL)
    assert run.wait() == 0, run.text()
    assert run.text().count("a process that loads pictures was killed") == 1
    assert_same_end(home / "runs/a", whole / "runs/short")


def test_a_picture_that_disappears_and_comes_back(runs, home, whole):
    (home / "toy").unlink()
    shutil.copytree(whole / "toy", home / "toy")
    run = runs.start(home, words("a", "--num-workers=1"))
    run.wait_for(lambda: step_of(home / "runs/a") >= 2)
    pictures = home / "toy/JPEGImages"
    pictures.rename(home / "away")
    assert run.wait() == 2
    assert "Traceback" not in run.text()
    assert run.text().splitlines()[-1].startswith("error: toy/JPEGImages/")
    kept = step_of(home / "runs/a")
    assert f"stopped after step {kept} of 24" in run.text()
    (home / "away").rename(pictures)
    runs.run(home, words())
    assert_same_end(home / "runs/a", whole / "runs/short")


# Numbers


@pytest.mark.parametrize(("what", "lost"), [("inputs", 0), ("loss", 0), ("gradient", 0), ("weights", 1)])
def test_what_is_not_finite_ends_the_run_before_it_changes_anything(runs, home, whole, what, lost):
    """Weights that are broken are not saved: the run goes on from the save before them."""
    text = runs.run(home, words(), {"nan": what, "step": 8}, code=2).text()
    assert text.splitlines()[-1].startswith("error: step 8: the ")
    assert "not finite" in text.splitlines()[-1]
    assert step_of(home / "runs/a") == 7 - lost
    record = json.loads((home / "runs/a/nonfinite/step-00000008.json").read_text())
    ids = (home / "toy/ImageSets/Main/train.txt").read_text().split()
    assert len(record["images"]) == 2
    assert set(record["images"]) < set(ids)
    (batch,) = torch.load(home / "runs/a/nonfinite" / record["batch"], weights_only=True)
    assert [ids[i] for i in batch["indices"]] == record["images"]
    assert record["gradients"]
    runs.run(home, words())
    assert_same_end(home / "runs/a", whole / "runs/short")


def test_what_is_not_finite_can_be_left_out(runs, home, whole):
    text = runs.run(home, words("a", "--on-nonfinite=skip", "--nonfinite-limit=1"), {"nan": "inputs", "step": 8}).text()
    assert "it is left out (1 of at most 1)" in text
    last = state(home / "runs/a/last.pth")
    assert last["other_info"]["n_nonfinite"] == 1
    assert last["other_info"]["step"] == 24
    assert all(value.isfinite().all() for value in last["model"].values())
    assert all(y is not None for win, _, _, _, y in curves(home / "runs/a") if win.endswith("loss"))


def test_too_much_that_is_not_finite_ends_the_run(runs, home):
    text = runs.run(home, words("a", "--on-nonfinite=skip", "--nonfinite-limit=3"),
                    {"nan": "inputs", "step": 8, "n_steps": 9}, code=2).text()  # fmt: skip
    assert "step 11: " in text.splitlines()[-1]
    assert "one more than --nonfinite-limit=3" in text.splitlines()[-1]
    assert step_of(home / "runs/a") == 10
    assert len([*(home / "runs/a/nonfinite").glob("*.json")]) == 4


def test_out_of_memory_suggests_a_smaller_batch(runs, home, whole):
    text = runs.run(home, words(), {"memory": 2**50, "step": 8}, code=2).text()
    told = "step 8: no memory is left for 2 images at once: try --accumulate=2 (the same steps, in more parts) or"
    assert text.splitlines()[-1].startswith(f"error: {told} --batch-size=1; ")
    assert "Traceback" not in text
    runs.run(home, words())
    assert_same_end(home / "runs/a", whole / "runs/short")
