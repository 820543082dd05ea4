"""utils/checkpoint.py: written whole or not at all; read without running code."""

import errno
import os
import pickle
import tempfile
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import nn

from utils import checkpoint
from utils.checkpoint import fit_state_dict, read_checkpoint, read_state_dict, save_checkpoint
from utils.errors import UserError


def content(value=1.0, **others):
    return {"model": {"a.weight": torch.full((2, 3), value), "a.bias": torch.zeros(2)}, **others}


def test_round_trip(tmp_path):
    path = tmp_path / "new" / "folder" / "x.pth"
    others = {"config": {"lr": 0.1, "sizes": [1, 2]}, "other_info": {"best_map": 0.5}, "vis_info": {"env": "e"}}
    assert save_checkpoint(path, content(3.0, **others, optimizer={"state": {}})) == str(path)
    read = read_checkpoint(path)
    assert read.path == str(path)
    assert torch.equal(read.model["a.weight"], torch.full((2, 3), 3.0))
    assert {name: getattr(read, name) for name in others} == others
    assert read.optimizer == {"state": {}}
    assert read.rng is None
    assert [p.name for p in path.parent.iterdir()] == ["x.pth"]


def test_a_string_and_a_name_without_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert save_checkpoint("x.pth", content()) == "x.pth"
    assert set(read_state_dict("x.pth")) == {"a.weight", "a.bias"}


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), UserError),
        (RuntimeError("PytorchStreamWriter failed writing file"), UserError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch, error, seen):
    path = tmp_path / "x.pth"
    save_checkpoint(path, content(1.0))
    before = path.read_bytes()

    def half_write(_content, file):
        file.write(b"half")
        raise error

    monkeypatch.setattr(torch, "save", half_write)
    with pytest.raises(seen) as raised:
        save_checkpoint(path, content(2.0))
    assert seen is not UserError or str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]


def test_failed_move_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.pth"
    save_checkpoint(path, content(1.0))

    def refuse(source, target):
        raise PermissionError(errno.EACCES, "Permission denied", str(target))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UserError, match=r"x\.pth: the checkpoint can't be written"):
        save_checkpoint(path, content(2.0))
    monkeypatch.undo()
    assert read_state_dict(path)["a.weight"][0, 0] == 1.0
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]


@pytest.mark.parametrize("place", ["file/x.pth", "file/deeper/x.pth", "folder"])
def test_place_that_cannot_be_written(tmp_path, place):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="can't be written") as error:
        save_checkpoint(tmp_path / place, content())
    assert str(error.value).startswith(str(tmp_path / place))
    assert "\n" not in str(error.value)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(UserError, match="can't be written"):
        save_checkpoint(folder / "x.pth", content())


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64])
@pytest.mark.parametrize("zipped", [True, False])
def test_numpy_scalars(tmp_path, kind, zipped):
    path = tmp_path / "x.pth"
    stored = content(other_info={"best_map": kind(3)}, config={"lr1": 1e-3})
    torch.save(stored, path, _use_new_zipfile_serialization=zipped, pickle_protocol=2)
    assert read_checkpoint(path).other_info["best_map"] == 3


def test_numpy_scalar_under_the_name_of_old_numpy(tmp_path):
    """Files of 2017 say numpy.core.multiarray; a numpy of today writes numpy._core."""
    path = tmp_path / "x.pth"
    torch.save(content(other_info={"best_map": np.float64(0.7053)}), path, _use_new_zipfile_serialization=False)
    written = path.read_bytes()
    old = written.replace(b"numpy._core.multiarray\nscalar", b"numpy.core.multiarray\nscalar")
    assert old != written
    path.write_bytes(old)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        best = read_checkpoint(path).other_info["best_map"]
    assert best == pytest.approx(0.7053)


@pytest.mark.parametrize("value", [slice(3), nn.Linear(1, 1), os.path.join], ids=["slice", "module", "function"])
def test_other_objects_are_refused(tmp_path, value):
    path = tmp_path / "x.pth"
    torch.save(content(other_info={"x": value}), path)
    with pytest.raises(UserError, match=r"^\S*x\.pth: [^\n]*safely[^\n]*$"):
        read_checkpoint(path)


def test_code_does_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    path = tmp_path / "x.pth"
    pickle.loads(pickle.dumps(Evil()))  # this is what it would do
    (tmp_path / "pwned").rmdir()
    for save in (torch.save, lambda evil, p: p.write_bytes(pickle.dumps(evil))):
        save(Evil(), path)
        with pytest.raises(UserError, match="safely"):
            read_checkpoint(path)
        save(content(other_info=Evil()), path)
        with pytest.raises(UserError, match="safely"):
            read_checkpoint(path)
    assert not (tmp_path / "pwned").exists()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(b"\x80\x02G\x00")  # ends within a number
@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda tail: b"\x80\x02" + tail))
def test_any_bytes_end_in_one_line(tmp_path, data):
    path = tmp_path / "junk.pth"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(UserError) as error:
            read_checkpoint(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 0.99), st.booleans())
def test_a_part_of_a_file_ends_in_one_line(tmp_path, part, zipped):
    path = tmp_path / "part.pth"
    torch.save(content(), path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(UserError) as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)


def test_allowed_names_are_few():
    """A list that grows by a function is a door: each entry is a numpy scalar's constructor or type."""
    allowed = [entry[0] if isinstance(entry, tuple) else entry for entry in checkpoint.NUMPY_SCALARS]
    assert all(entry is np._core.multiarray.scalar or issubclass(entry, np.dtype) for entry in allowed)


def two_layers():
    return nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(2, 2)})


def test_fit_changes_all_or_nothing():
    model = two_layers()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    good = {name: torch.ones_like(value) for name, value in before.items()}
    wrong = [
        {name: value for name, value in good.items() if name != "b.bias"},
        {**good, "c": torch.ones(1)},
        {**good, "b.weight": torch.ones(5, 2)},
    ]
    for state, word in zip(wrong, ("b.bias", "c", "b.weight"), strict=True):
        with pytest.raises(UserError, match=rf"^x\.pth: .*\b{word}\b"):
            fit_state_dict(model, state, "x.pth")
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    fit_state_dict(model, good, "x.pth")
    assert all((value == 1).all() for value in model.state_dict().values())


def test_fit_of_a_part():
    model = two_layers()
    bias = model["b"].bias.clone()
    fit_state_dict(model, {"a.weight": torch.ones(2, 3)}, "x.pth", required=["a.weight"])
    assert (model["a"].weight == 1).all()
    assert torch.equal(model["b"].bias, bias)


# Damage


@pytest.fixture(scope="module")
def whole_file_of(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "x.pth"
    save_checkpoint(path, content(1.5, optimizer={"state": {0: torch.arange(9.0)}}, config={"lr": 0.1}))
    return path.read_bytes()


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_a_wrong_bit_is_refused_or_without_effect(whole_file_of, data):
    """torch itself reads most of such files as if they were whole."""
    position = data.draw(st.integers(0, len(whole_file_of) - 1))
    damaged = bytearray(whole_file_of)
    damaged[position] ^= 1 << data.draw(st.integers(0, 7))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "x.pth")
        with open(path, "wb") as file:
            file.write(damaged)
        try:
            read = read_checkpoint(path)
        except UserError:
            return
    assert torch.equal(read.model["a.weight"], torch.full((2, 3), 1.5))
    assert torch.equal(read.optimizer["state"][0], torch.arange(9.0))
    assert read.config == {"lr": 0.1}


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_file_that_is_cut_is_refused(whole_file_of, data):
    n = data.draw(st.integers(0, len(whole_file_of) - 1))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "x.pth")
        with open(path, "wb") as file:
            file.write(whole_file_of[:n])
        with pytest.raises(UserError):
            read_checkpoint(path)


def test_what_the_disk_made_of_it_is_read_before_it_counts(tmp_path, monkeypatch):
    """A disk that writes something else than it was given: the file that was there stays."""
    path = tmp_path / "x.pth"
    save_checkpoint(path, content(1.0))
    real = torch.save

    def wrong(stored, file):
        real(stored, file)
        file.seek(file.tell() // 2)
        file.write(b"\xff" * 8)

    monkeypatch.setattr(torch, "save", wrong)
    with pytest.raises(UserError, match=r"can't be written \(what was read again is damaged in .*\)"):
        save_checkpoint(path, content(2.0, optimizer=torch.zeros(10_000)))
    assert read_state_dict(path)["a.weight"][0, 0] == 1.0
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]
