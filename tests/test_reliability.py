"""Faults, injected for real: what is lost, what is said, and that the end is the same to the last bit.

The table in docs/reliability.md has a row for each of them. The dashboard's faults are in test_dashboard_browser.py and
utils/test_vis_tool_outages.py.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import time

import pytest
import torch

from misc.make_toy_voc import make_toy_voc
from tests.run_server import the_runs
from tests.same import same
from utils.event_log import read_events

TRAIN = ["train", "--model=tiny", "--min-size=64", "--max-size=96", "--batch-size=2", "--num-workers=0", "--use-adam",
         "--test-num-workers=0", "--device=cpu", "--voc-data-dir=toy", "--visdom=off", "--lr=0.001", "--plot-every=3",
         "--eval-every=2", "--save-every=2"]  # fmt: skip
OF_THE_CLOCK = ("images_per_second", "step_time", "memory")


@pytest.fixture(scope="module")
def runs():
    return the_runs()


@pytest.fixture(scope="module")
def whole(runs, tmp_path_factory):
    """A folder with a toy dataset and runs of 6 and 30 epochs, of 4 steps each, that nothing disturbed."""
    home = tmp_path_factory.mktemp("whole")
    make_toy_voc(home / "toy", n_train=8, n_val=3, size=96)
    runs.run(home, [*TRAIN, "--epoch=6", "--name=short"])
    return home


@pytest.fixture
def home(whole, tmp_path):
    """A folder with the same data."""
    (tmp_path / "toy").symlink_to(whole / "toy")
    return tmp_path


def words(name="a", *others, epochs=6):
    return [*TRAIN, f"--epoch={epochs}", f"--name={name}", "--resume=auto", *others]


def state(path):
    return torch.load(path, weights_only=True)


def curves(folder):
    """All points of a run but those of the clock, in their order."""
    events = [event for event in read_events(folder) if event["kind"] == "point" and event["win"] not in OF_THE_CLOCK]
    return [(event["win"], event.get("line"), event["step"], event["x"], event["y"]) for event in events]


def assert_same_end(folder, undisturbed, but=()):
    """Parameters, optimizer, meters, generators and best mAP to the last bit, and the same curves."""
    for name in {"last.pth", "best.pth"} - set(but):
        own, expected = state(folder / name), state(undisturbed / name)
        for part in expected.keys() - {"config", "options", "show", "vis_info", "run", "environment"}:
            assert same(own[part], expected[part]), (name, part)
    assert curves(folder) == curves(undisturbed)


def step_of(folder):
    """That of the last save, 0 before the first."""
    path = folder / "last.pth"
    return state(path)["other_info"]["step"] if path.exists() else 0


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


# Disks


def test_a_full_disk_costs_the_checkpoints_and_not_the_run(runs, home, whole, tmp_path):
    """A file-size limit: the weights can be written, the whole state can't."""
    run = runs.start(home, words(), {"file_bytes": 15_000_000})
    assert run.wait() == 2
    told = [line for line in run.text().splitlines() if "last.pth: the checkpoint can't be written" in line]
    assert "(File too large)" in told[0]
    assert "epoch 6: mAP" in run.text()
    assert run.text().splitlines()[-1] == "error: runs/a: the run is done, but could not be written there"
    assert same(state(home / "runs/a/best.pth")["model"], state(whole / "runs/short/best.pth")["model"])
    assert not [*(home / "runs/a").glob(".*.tmp")]


@pytest.fixture
def small_disk(home):
    """A disk of 45 MB at runs/: one checkpoint has its place there, two have not."""
    (home / "runs").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=45m", "none", home / "runs"], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a disk")
    yield home / "runs"
    subprocess.run(["umount", "-l", home / "runs"], check=True)


def test_a_disk_that_fills_up_keeps_the_last_state_that_was_whole(runs, home, whole, small_disk):
    run = runs.start(home, words())
    assert run.wait() == 2
    assert "last.pth: the checkpoint can't be written (No space left on device)" in run.text()
    assert step_of(small_disk / "a") == 2
    rescued = next(line for line in run.text().splitlines() if "could not be written: " in line and "last.pth" in line)
    path = rescued.partition("could not be written: ")[2].removesuffix(" has it")
    try:
        expected = state(whole / "runs/short/last.pth")
        own = state(path)
        assert same(own["model"], expected["model"])
        assert same(own["optimizer"], expected["optimizer"])
    finally:
        shutil.rmtree(os.path.dirname(path))


def test_a_disk_that_becomes_read_only_and_comes_back(runs, home, whole, small_disk):
    """As far as a test can make it so: the folder that a run writes is taken away and put back, as a mount would be."""
    subprocess.run(["mount", "-o", "remount,size=500m", small_disk], check=True)
    run = runs.start(home, words("a", epochs=12))
    run.wait_for(lambda: step_of(small_disk / "a") >= 2)
    subprocess.run(["mount", "-t", "tmpfs", "none", small_disk], check=True)  # over it
    run.wait_for(lambda: "its folder is not the one that the run began in" in run.text())
    assert not any(small_disk.iterdir())
    subprocess.run(["umount", small_disk], check=True)
    run.wait_for(lambda: "last.pth is written again" in run.text())
    assert run.wait() == 0
    if not (whole / "runs/of_12").exists():
        runs.run(whole, [*TRAIN, "--epoch=12", "--name=of_12"])
    assert_same_end(small_disk / "a", whole / "runs/of_12")


# Damaged checkpoints


@pytest.fixture
def stopped(runs, home):
    """The folder of a run that was killed after its tenth step."""
    run = runs.start(home, words())
    run.wait_for(lambda: step_of(home / "runs/a") >= 10)
    run.kill()
    return home / "runs/a"


def truncate(path):
    os.truncate(path, path.stat().st_size * 2 // 3)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty, os.unlink])
def test_a_damaged_checkpoint_gives_way_to_its_predecessor(runs, home, whole, stopped, damage):
    before = step_of(stopped)
    damage(stopped / "last.pth")
    text = runs.run(home, words()).text()
    previous = "going on from runs/a/previous.pth"
    assert previous in text
    assert f"epoch {(before - 2) // 4 + 1}, step {before - 1}" in text
    if damage is not os.unlink:
        assert "warning: runs/a/last.pth: " in text
    assert_same_end(stopped, whole / "runs/short")


def test_two_damaged_checkpoints_are_one_line(runs, home, stopped):
    for name in ("last.pth", "previous.pth"):
        flip_a_bit(stopped / name)
    text = runs.run(home, words(), code=2).text()
    assert text.splitlines()[-1].startswith("error: runs/a/last.pth: damaged in ")
    assert step_of_file_is_there(stopped)


def step_of_file_is_there(folder):
    return (folder / "last.pth").exists() and (folder / "previous.pth").exists()


def test_swapped_checkpoints_are_noticed(runs, home, whole, stopped):
    """Another run's in place of the last one."""
    shutil.copy(whole / "runs/short/last.pth", stopped / "last.pth")
    text = runs.run(home, words()).text()
    assert "runs/a/last.pth: is of another run than its folder" in text
    assert "going on from runs/a/previous.pth" in text
    assert_same_end(stopped, whole / "runs/short")


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
