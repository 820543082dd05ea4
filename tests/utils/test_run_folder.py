"""utils/run_folder.py: one run a folder, and what becomes of its checkpoints on a disk that fails."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from utils import run_folder
from utils.errors import UserError
from utils.run_folder import RunFolder, free_run_dir, read_facts

ROOT = Path(__file__).resolve().parents[2]


class Trainer:
    """Writes the file that it is asked for, keeping the one before as `save_checkpoint` does; `full` refuses."""

    full = False
    n = 0

    def save(self, save_path, predecessor=None, beside=None, save_optimizer=False, **info):
        if self.full:
            raise UserError(f"{save_path}: the checkpoint can't be written (No space left on device)")
        path = Path(save_path)
        if predecessor and path.exists():
            path.rename(predecessor)
        self.n += 1
        path.write_text(f"state {self.n}")
        self.beside = beside


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", ".", "./"])
def test_a_name_stays_below_the_runs(tmp_path, name):
    with pytest.raises(UserError, match=r"give it a name, without '\.\.' and a leading /"):
        free_run_dir(name, root=tmp_path)


def test_a_folder_with_checkpoints_is_another_runs(tmp_path):
    path = free_run_dir("a/b", root=tmp_path)
    assert path == tmp_path / "a/b"
    with RunFolder(path):
        (path / "best.pth").write_text("former")
        (path / "events.jsonl").write_text("former")
    with pytest.raises(UserError, match=r"--name=a/b: .*--resume=.*--overwrite"):
        free_run_dir("a/b", root=tmp_path)
    assert free_run_dir("a/b", overwrite=True, root=tmp_path) == path
    first = read_facts(path)["run"]
    with RunFolder(path) as run:
        assert run.run != first
    aside = sorted(file.name for file in path.glob("*.old"))
    assert aside == ["best.pth.old", "events.jsonl.old", "run.json.old"]
    assert (path / "best.pth.old").read_text() == "former"


def test_a_run_that_goes_on_keeps_its_files_and_its_name(tmp_path):
    with RunFolder(tmp_path, environment={"torch": "1"}) as run:
        own = run.run
        (tmp_path / "last.pth").write_text("state")
        (tmp_path / ".0123abcd.77.tmp").write_text("half a checkpoint, whose writer was killed")
    with RunFolder(tmp_path, goes_on=True, environment={"torch": "2"}) as run:
        assert run.run == own
    assert (tmp_path / "last.pth").read_text() == "state"
    assert not [*tmp_path.glob("*.tmp"), *tmp_path.glob(".*.tmp")]
    assert json.loads((tmp_path / "run.json").read_text())["begun"] == [{"torch": "1"}, {"torch": "2"}]


def test_two_runs_do_not_share_a_folder(tmp_path):
    """The other is another process; when it is killed the lock is gone, though a process that it forked lives on."""
    program = (
        "import os, sys, time\nfrom utils.run_folder import RunFolder\n"
        "with RunFolder(sys.argv[1]):\n"
        "    if os.fork():\n        print('locked', flush=True)\n        time.sleep(600)\n"
        "    else:\n        os.close(1)\n        time.sleep(20)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", program, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "locked\n"
    (tmp_path / "last.pth").write_text("the other's")
    with (
        pytest.raises(UserError, match=rf"another run writes there \(process {other.pid} on .*\); wait"),
        RunFolder(tmp_path),
    ):
        pass
    assert (tmp_path / "last.pth").read_text() == "the other's"
    other.kill()
    other.wait()
    other.stdout.close()
    with RunFolder(tmp_path, goes_on=True):
        pass


@pytest.mark.parametrize("name", [".lock", "events.jsonl", "pictures", "detections", "nonfinite"])
@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_leads_no_writer_elsewhere(tmp_path, name, is_there):
    """A folder that a stranger made may be gone on with."""
    target, folder = tmp_path / "mine", tmp_path / "run"
    folder.mkdir()
    (folder / name).symlink_to(target)
    if is_there:
        target.write_text("precious")
    with pytest.raises(UserError, match=f"run/{name}: is a link, and a run writes there; remove it"), RunFolder(folder):
        pass
    assert target.read_text() == "precious" if is_there else not target.exists()


@pytest.mark.parametrize(
    "name", ["last.pth", "previous.pth", "step2.pth", "step3_proposals.npz", ".lock", "events.jsonl"]
)
def test_what_could_not_be_written_is_told_at_the_start(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"{name}: is not what a run has there"), RunFolder(tmp_path, goes_on=True):
        pass


def test_a_checkpoint_that_is_a_link_is_replaced_not_followed(tmp_path):
    (tmp_path / "elsewhere").write_text("precious")
    (tmp_path / "last.pth").symlink_to(tmp_path / "elsewhere")
    with RunFolder(tmp_path, goes_on=True):
        pass
    assert (tmp_path / "elsewhere").read_text() == "precious"


def test_a_place_that_can_not_be_a_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="choose another --name"), RunFolder(tmp_path / "file/x"):
        pass


def test_when_a_run_is_due(tmp_path, monkeypatch):
    run = RunFolder(tmp_path, save_every="5")
    assert [step for step in range(1, 16) if run.is_due(step)] == [5, 10, 15]
    now = 1000.0
    monkeypatch.setattr(run_folder.time, "monotonic", lambda: now)
    run = RunFolder(tmp_path, save_every="2min")
    assert not run.is_due(5)
    now += 119
    assert not run.is_due(6)
    now += 1
    assert run.is_due(7)
    with run:
        run.save_last(Trainer())
    assert not run.is_due(8)


def test_checkpoints_bear_the_runs_name_and_follow_each_other(tmp_path):
    trainer = Trainer()
    with RunFolder(tmp_path, environment={"torch": "1"}) as run:
        for _ in range(3):
            assert run.save_last(trainer, show={"a": 1})
        assert trainer.beside == {"run": run.run, "environment": {"torch": "1"}, "show": {"a": 1}}
    assert [(tmp_path / name).read_text() for name in ("last.pth", "previous.pth")] == ["state 3", "state 2"]


def test_a_disk_that_is_full_is_told_and_tried_again(tmp_path, capsys):
    trainer = Trainer()
    with RunFolder(tmp_path / "run") as run:
        assert run.save_last(trainer)
        trainer.full = True
        assert not run.save_last(trainer)
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert "last.pth: the checkpoint can't be written (No space left on device); the run goes on" in told
        trainer.full = False
        assert run.save_last(trainer)
        assert "last.pth is written again" in capsys.readouterr().out
    assert (tmp_path / "run/last.pth").read_text() == "state 2"


def test_a_folder_that_is_gone_is_not_made_anew_on_another_disk(tmp_path, capsys, monkeypatch):
    """The mount is gone: what would be written there now would be hidden when it comes again."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    trainer = Trainer()
    with RunFolder(tmp_path / "run") as run:
        (tmp_path / "run").rename(tmp_path / "away")
        assert not run.save_last(trainer)
        assert not (tmp_path / "run").exists()
        (tmp_path / "run").mkdir()  # the mount's empty place
        assert not run.save_last(trainer)
        assert not any((tmp_path / "run").iterdir())
        assert "its folder is not the one that the run began in" in capsys.readouterr().err
        path = run.save_end(trainer)
        assert path.parent.parent == tmp_path / "elsewhere"
        assert path.read_text() == "state 1"
        assert str(path) in capsys.readouterr().err
        assert run.save_best(trainer)
        (tmp_path / "run").rmdir()
        (tmp_path / "away").rename(tmp_path / "run")
        assert run.save_end(trainer) == tmp_path / "run/last.pth"


@pytest.mark.parametrize("links", [True, False])
def test_the_last_epochs_are_kept(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(1, "Operation not permitted")))
    trainer = Trainer()
    with RunFolder(tmp_path, keep=2) as run:
        for epoch in range(9_997, 10_002):
            trainer.full = epoch == 10_001  # could not be saved: what is there is of the epoch before it
            run.save_last(trainer)
            run.keep_epoch(epoch)
    kept = {path.name: path.read_text() for path in tmp_path.glob("epoch-*.pth")}
    assert kept == {"epoch-9999.pth": "state 3", "epoch-10000.pth": "state 4"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"run": 3, "begun": []}', '{"run": "a"}', '{"run": "a", "begun": 1}'])
def test_facts_that_are_none(tmp_path, text):
    assert read_facts(tmp_path) == {}
    (tmp_path / "run.json").write_text(text)
    assert read_facts(tmp_path) == {}
