"""utils/resume_tool.py: which file, from which step, and what is refused."""

import pytest

from utils.checkpoint import Checkpoint, save_checkpoint
from utils.config import Config
from utils.errors import UserError
from utils.resume_tool import (
    Position,
    check_data,
    file_to_resume,
    fingerprint,
    n_recorded,
    position_of,
    read_last,
    take_up,
    what_it_has_had,
)
from utils.run_folder import RunFolder

IDS = [f"{i:06}" for i in range(10)]


def saved(path, run=None, **info):
    import torch

    content = {"model": {"a": torch.zeros(2)}, "config": {"lr": 1.0}, "other_info": info, "run": run}
    path.parent.mkdir(parents=True, exist_ok=True)
    return save_checkpoint(path, content)


def test_what_is_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert file_to_resume(None, "a") is None
    assert file_to_resume("auto", "a") is None  # not begun
    saved(tmp_path / "runs/a/last.pth")
    for resume, name in (("auto", "a"), ("runs/a", None), ("runs/a/", None), ("runs/a/last.pth", "b")):
        assert str(file_to_resume(resume, name)) == "runs/a/last.pth"
    (tmp_path / "runs/a/last.pth").rename(tmp_path / "runs/a/previous.pth")
    assert str(file_to_resume("auto", "a")) == "runs/a/last.pth"  # whose predecessor is there


@pytest.mark.parametrize(
    ("resume", "told"),
    [("auto", "--resume=auto: goes on with the run of --name; add it"),
     ("runs/b", "--resume=runs/b: goes on from a run's last.pth"),
     ("runs/a/best.pth", "--resume=runs/a/best.pth: goes on from a run's last.pth"),
     ("runs/c", "--resume=runs/c: there is no runs/c/last.pth")],
)  # fmt: skip
def test_what_is_not_there(tmp_path, monkeypatch, resume, told):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "runs/a/last.pth")
    (tmp_path / "runs/c").mkdir()
    with pytest.raises(UserError) as error:
        file_to_resume(resume, None)
    assert str(error.value).startswith(told)


def test_a_file_of_another_run_gives_way(tmp_path, capsys):
    with RunFolder(tmp_path) as run:
        saved(tmp_path / "previous.pth", run.run, step=3)
        saved(tmp_path / "last.pth", "another", step=7)
    assert read_last(tmp_path / "last.pth").other_info["step"] == 3
    assert "is of another run than its folder" in capsys.readouterr().err
    (tmp_path / "run.json").unlink()  # of an older version, or a folder that somebody made: it can't be known
    assert read_last(tmp_path / "last.pth").other_info["step"] == 7


def test_how_far_it_is():
    at = Position(epoch=2, batch=3, step=11, total_step=11)
    at.advance(1)
    assert at == Position(epoch=2, batch=4, step=12, total_step=12)
    for best in (None, 0.0, 0.5, 1.0000000000000002):
        assert position_of(Checkpoint("x", {}, other_info=at.info() | {"best_map": best})) == at


@pytest.mark.parametrize(
    "wrong",
    [{"step": None}, {"step": 1.5}, {"batch": -1}, {"epoch": True}, {"part": "1"}, {"part": 0}, {"part": 2},
     {"step": 2**60, "total_step": 2**60}, {"total_step": 1}, {"best_map": "x"}, {"best_map": float("nan")},
     {"best_map": 1.5}, {"best_map": 10**400}, {"n_nonfinite": "x"}, {"n_nonfinite": float("nan")}],
)  # fmt: skip
def test_a_file_that_does_not_say_how_far_it_is(wrong):
    with pytest.raises(UserError, match="does not say how far its run was"):
        position_of(Checkpoint("x", {}, other_info=Position().info() | wrong))


@pytest.mark.parametrize(
    ("at", "options", "had"),
    [({"epoch": 3}, {"epoch": 3}, "has had its 3 epochs; for more give --epoch=4"),
     ({"epoch": 2, "batch": 5, "step": 15}, {"epoch": 3}, None),
     ({"epoch": 1, "step": 7, "done": 1}, {"epoch": 3, "max_iter": 7}, "has had its 7 steps"),
     ({"epoch": 1, "step": 7}, {"epoch": 3, "max_iter": 7}, None),  # the evaluation is still to come
     ({"epoch": 1, "step": 8}, {"epoch": 3, "max_iter": 7}, "has had its 8 steps"),
     ({"epoch": 1, "step": 7, "done": 1}, {"epoch": 3, "max_iter": 8}, None)],
)  # fmt: skip
def test_what_a_run_has_had(at, options, had):
    found = what_it_has_had(Position(**at), Config(**options), 1)
    assert found is None if had is None else found.startswith(had)
    assert what_it_has_had(Position(**at), Config(**options), 4) is None  # three parts of the schedule are left


def test_its_next_batch_must_be_the_one_that_it_would_have_had():
    at = Position(epoch=1, batch=2, step=5)
    state = Checkpoint("x", {}, other_info={"data": fingerprint(IDS)})
    check_data(at, state, IDS, batch_size=4)  # three an epoch
    with pytest.raises(UserError, match="is at step 5, but 1 epochs of these data have 5"):
        check_data(at, state, IDS, batch_size=2)
    for others in (IDS[::-1], [*IDS[:-1], "x"]):
        with pytest.raises(UserError, match="other pictures than these, or in another order"):
            check_data(at, state, others, batch_size=4)
    check_data(at, Checkpoint("x", {}), IDS[::-1], batch_size=4)  # an older file does not say


def test_the_parts_of_a_schedule():
    info = Position(part=2, step=3, total_step=7).info()
    assert position_of(Checkpoint("x", {}, other_info=info), n_parts=4).part == 2
    with pytest.raises(UserError, match="does not say how far its run was"):
        position_of(Checkpoint("x", {}, other_info=info | {"total_step": 2}), n_parts=4)


def test_how_many_events_it_had():
    assert n_recorded(Checkpoint("x", {}, show={"events": 7})) == 7
    assert n_recorded(Checkpoint("x", {}, show={})) is n_recorded(Checkpoint("x", {})) is None
    for wrong in ("x", [1], -1, 1.5, True):
        with pytest.raises(UserError, match="x: lacks what its dashboard needs"):
            n_recorded(Checkpoint("x", {}, show={"events": wrong}))


def test_a_dashboard_that_is_not_there():
    class Show:
        def load_state_dict(self, state):
            return state["best"]

    take_up(Show(), Checkpoint("x", {}, show={"best": 1}))
    for show in (None, {}):
        with pytest.raises(UserError, match="x: lacks what its dashboard needs"):
            take_up(Show(), Checkpoint("x", {}, show=show))
