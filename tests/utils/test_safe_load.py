"""utils/safe_load.py: checkpoints of strangers run nothing and take no more memory than their files."""

import io
import os
import pickle
import posix
import runpy
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.evil_files import (
    call,
    checkpoint,
    dictionary,
    group,
    laughs,
    name,
    number,
    pickled,
    storage,
    tensor,
    word,
    write_archive,
    write_stream,
)
from tests.no_file import make_no_file
from utils.checkpoint import read_checkpoint
from utils.errors import UserError


def refused(path, reason=""):
    with pytest.raises(UserError) as error:
        read_checkpoint(path)
    text = str(error.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    assert "choose another file" in text
    assert reason in text


@pytest.mark.parametrize("write", [write_archive, write_stream])
def test_files_written_by_hand_are_read(tmp_path, write):
    """So what the others are refused for is what is wrong with them, and not how they are made."""
    write(tmp_path / "x.pth", checkpoint(config=dictionary(size=call("torch.Size", group()))))
    assert read_checkpoint(tmp_path / "x.pth").model["weight"].tolist() == [1, 2, 3, 4]
    write(tmp_path / "x.pth", checkpoint(tensor((2, 1), (2, 5), 1), config=dictionary(epoch=number(3))))
    read = read_checkpoint(tmp_path / "x.pth")
    assert (read.model["weight"].tolist(), read.config) == ([[2], [4]], {"epoch": 3})


def test_what_a_gpu_wrote_before_torch_1_6(tmp_path):
    on_gpu = group(word("storage"), name("torch.cuda.FloatStorage"), word("0"), word("cuda:0"), number(4)) + b"Q"
    first = call("torch._utils._rebuild_tensor", on_gpu, number(0), group(number(4)), group(number(1)))
    write_stream(tmp_path / "x.pth", checkpoint(first))
    assert read_checkpoint(tmp_path / "x.pth").model["weight"].tolist() == [1, 2, 3, 4]


# What would run


class Calls:
    """Pickled, it is the call `function(*args)`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def calls(marker):
    """Kind → something whose unpickling makes the file `marker`."""
    script = f"open({str(marker)!r}, 'w').close()"
    inner = marker.with_name("inner.pkl")
    inner.write_bytes(pickle.dumps(Calls(exec, script)))
    program = marker.with_name("program.py")
    program.write_text(script)
    return {
        "os.system": Calls(os.system, f"touch {marker}"),
        "posix.system": Calls(posix.system, f"touch {marker}"),
        "eval": Calls(eval, f"[{script}]"),
        "exec": Calls(exec, script),
        "getattr": Calls(getattr, Calls(__import__, "os"), "mkdir"),
        "subprocess": Calls(subprocess.Popen, ["touch", str(marker)]),
        "runpy": Calls(runpy.run_path, str(program)),
        "torch.load": Calls(torch.load, str(inner)),
        "torch.hub": Calls(torch.hub.load, str(marker.parent), "x", "local"),
        "numpy.load": Calls(np.load, str(inner), None, True),
        "map": Calls(list, Calls(map, exec, [script])),
        "bytearray": Calls(bytearray, 10),
        "object array": np.array([Calls(exec, script)], dtype=object),
        "object scalar": Calls(np._core.multiarray.scalar, np.dtype("O"), Calls(exec, script)),
    }


KINDS = (
    "os.system", "posix.system", "eval", "exec", "getattr", "subprocess", "runpy", "torch.load", "torch.hub",
    "numpy.load", "map", "bytearray", "object array", "object scalar",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_calls_are_refused_and_do_not_run(tmp_path, kind):
    marker, path = tmp_path / "marker", tmp_path / "x.pth"
    evil = calls(marker)[kind]
    if kind in ("os.system", "exec", "eval", "runpy", "map", "numpy.load"):  # this is what it would do
        pickle.loads(pickle.dumps(evil))
        marker.unlink()
    content = {"model": {"weight": torch.zeros(2)}}
    for whole in (evil, content | {"config": evil}, {"model": {"weight": evil}}):
        for write in (
            lambda value: torch.save(value, path),
            lambda value: torch.save(value, path, _use_new_zipfile_serialization=False),
            lambda value: torch.save(value, path, pickle_protocol=4),
            lambda value: path.write_bytes(pickle.dumps(value)),
            lambda value: path.write_bytes(pickle.dumps(value, protocol=0)),
        ):
            write(whole)
            refused(path, "safely")
    assert not marker.exists()


def test_a_tar_as_the_first_torch_wrote_them(tmp_path):
    path = tmp_path / "x.pth"
    with tarfile.open(path, "w") as tar:
        for own in ("storages", "tensors", "pickle"):
            raw = pickle.dumps(Calls(os.mkdir, str(tmp_path / "marker")))
            info = tarfile.TarInfo(own)
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    refused(path)
    assert not (tmp_path / "marker").exists()


A_CODE = call("_codecs.encode", word("a"), word("latin1"))
BOMBS = {  # kind → a pickle, and a part of the reason
    "module": (checkpoint(group(word("module"), name("os.system"), word("x"), word("y")) + b"Q"), "beside tensors"),
    "persistent text": (checkpoint(word("x") + b"Q"), "no tensor's"),
    "unknown storage": (checkpoint(tensor(own=storage(4, "0", "UntypedStorage"))), "beside tensors"),
    "absurd storage": (checkpoint(tensor(count=10**12)), "larger than the file"),
    "storage of too many": (checkpoint(tensor(count=5)), ""),
    "negative storage": (checkpoint(tensor(count=-1)), "no tensor's"),
    "storage that is not there": (checkpoint(tensor(own=storage(4, "7"))), ""),
    "size beyond its storage": (checkpoint(tensor((10**8,))), "larger than its storage"),
    "offset beyond its storage": (checkpoint(tensor(offset=10**8)), "larger than its storage"),
    "negative offset": (checkpoint(tensor(offset=-4)), "other arguments"),
    "stride beyond its storage": (checkpoint(tensor((2,), (10**9,))), "larger than its storage"),
    "one for all": (checkpoint(tensor((10**6, 10**6), (0, 0))), "larger than its storage"),
    "negative stride": (checkpoint(tensor(stride=(-1,))), "other arguments"),
    "no storage": (checkpoint(tensor(own=word("x"))), "other arguments"),
    "meta": (checkpoint(name("torch._utils._rebuild_meta_tensor_no_storage")), "beside tensors"),
    "old constructor": (checkpoint(call("torch.FloatTensor", number(10**9))), "beside tensors"),
    "tensor's set_": (checkpoint(tensor() + group(storage(), number(0)) + b"b"), "inside of its objects"),
    "bytearray": (checkpoint(config=dictionary(a=call("builtins.bytearray", number(10**10)))), "beside tensors"),
    "codec": (checkpoint(config=dictionary(a=call("_codecs.encode", word("a" * 99), word("hex")))), "other arguments"),
    "codecs": (checkpoint(config=dictionary(a=call("_codecs.encode", A_CODE, word("hex")))), "other arguments"),
    "set": (checkpoint(config=call("torch.Size", group(number(-1)))), "other arguments"),
    "laughs": (checkpoint(config=dictionary(epoch=laughs())), ""),
    "cycle": (checkpoint(config=dictionary(epoch=b"]q\x01h\x01a")), "no end"),
    "deep": (checkpoint(config=dictionary(epoch=number(1) + b"\x85" * 5000)), "no end"),
    "deeper": (checkpoint(config=dictionary(epoch=number(1) + b"\x85" * 550_000)), "too long"),
    "marks": (pickled(b"(" * 550_000), "too long"),
    "no code": (b"\x80\x02", ""),
    "long dtype": (checkpoint(config=call("numpy.dtype", word("V2000000000"), b"\x89", b"\x88")), "beside tensors"),
    "text dtype": (checkpoint(config=call("numpy.dtype", word("(" * 9999), b"\x89", b"\x88")), "beside tensors"),
    "object dtype": (checkpoint(config=call("numpy.dtype", word("O8"), b"\x89", b"\x88")), "beside tensors"),
    "numpy's own dtype": (checkpoint(config=call("numpy.dtype", word("f8")) + group(number(3), word(">")) + b"b"), ""),
    "attributes": (checkpoint(config=call("collections.OrderedDict") + group(number(1)) + b"b"), "inside"),
    "add to a tuple": (checkpoint(config=group() + number(1) + b"a"), "no list"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize("write", [write_archive, write_stream])
def test_bombs(tmp_path, kind, write):
    own, reason = BOMBS[kind]
    write(tmp_path / "x.pth", own)
    refused(tmp_path / "x.pth", reason)
    assert np.dtype("f8").byteorder == "="


def test_a_stream_of_a_storage_that_is_larger_than_the_file(tmp_path):
    write_stream(tmp_path / "x.pth", checkpoint(tensor((10**9,), count=10**9)), count=10**9)
    refused(tmp_path / "x.pth", "larger than the file")
    part = group(word("1"), number(0), number(10**9))
    write_stream(
        tmp_path / "x.pth", checkpoint(tensor(own=storage(4, "0", "FloatStorage", part))), parts_of_storages=True
    )
    refused(tmp_path / "x.pth", "larger than its storage")


def bomb_archives(folder):
    """Kind → a small file that a reader would make large."""
    zeros, paths = bytes(100 << 20), {}
    for kind in ("description", "storage", "other record"):
        paths[kind] = folder / f"{kind}.pth"
    write_archive(paths["description"], checkpoint() + zeros, method=zipfile.ZIP_DEFLATED)
    write_archive(paths["storage"], checkpoint(), zeros, zipfile.ZIP_DEFLATED)
    write_archive(paths["other record"], checkpoint(), method=zipfile.ZIP_DEFLATED, more=[("x/.data/y", zeros)])
    return paths


def test_compressed_records(tmp_path):
    for path in bomb_archives(tmp_path).values():
        assert path.stat().st_size < 1 << 20
        refused(path, "compressed")


def test_archives_that_two_readers_would_read_in_two_ways(tmp_path):
    path = tmp_path / "x.pth"
    for own in ("x/DATA.PKL", "y/data.pkl"):
        write_archive(path, checkpoint(), more=[(own, checkpoint())])
        refused(path, "not an archive as torch writes them")
    with pytest.warns(UserWarning, match="Duplicate"):
        write_archive(path, checkpoint(), more=[("x/data.pkl", checkpoint())])
    refused(path, "not an archive as torch writes them")
    write_archive(path, checkpoint())
    whole = path.read_bytes()
    path.write_bytes(b"PK\x03\x04" + whole)  # shifted
    refused(path)
    end = whole.rindex(b"PK\x05\x06")
    path.write_bytes(whole[: end + 20] + struct.pack("<H", len(whole)) + whole)  # a second directory as comment
    refused(path)


def test_sizes_that_the_directory_makes_up(tmp_path):
    path = tmp_path / "x.pth"
    write_archive(path, checkpoint())
    whole = bytearray(path.read_bytes())
    at = whole.rindex(b"PK\x01\x02", 0, whole.rindex(b"x/data/0"))
    for both in (False, True):
        for place in (20, 24)[0 if both else 1 :]:  # compressed, and in full
            whole[at + place : at + place + 4] = struct.pack("<I", 1 << 30)
        path.write_bytes(whole)
        refused(path)


@pytest.mark.parametrize("device", ["pipe", "/dev/zero", "/dev/null"])
def test_what_is_no_file_does_not_hang(tmp_path, device):
    path = tmp_path / "x.pth"
    make_no_file(path, device)
    with pytest.raises(UserError, match="a pipe or a device, not a file"):
        read_checkpoint(path)


MEASURE = """
import resource, sys
from utils.checkpoint import read_checkpoint
from utils.errors import UserError
good, *others = sys.argv[1:]
read_checkpoint(good)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in others:
    try:
        read_checkpoint(path)
    except UserError:
        continue
    raise SystemExit(path + ' was read')
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_all_of_them_together_take_little_memory(tmp_path):
    write_archive(tmp_path / "good.pth", checkpoint())
    paths = [*bomb_archives(tmp_path).values()]
    for k, (own, _) in enumerate(BOMBS.values()):
        paths += [tmp_path / f"{k}.pth", tmp_path / f"{k}-stream.pth"]
        write_archive(paths[-2], own)
        write_stream(paths[-1], own)
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", MEASURE, *map(str, (tmp_path / "good.pth", *paths))]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    assert int(done.stdout) < 90  # MB; a single one of the archives would take 100
