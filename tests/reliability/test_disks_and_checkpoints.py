"""Faults of disks and checkpoints, injected for real: see test_killed_and_stopped.py."""

import os
import shutil
import subprocess

import pytest

from tests.disturbed import TRAIN, assert_same_end, state, step_of, words
from tests.same import same

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
