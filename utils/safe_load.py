"""Checkpoints of strangers: what a file would build is looked through before torch builds it, and nothing of it runs.

torch's `weights_only` refuses code, but not all that exhausts memory: compressed records, a `bytearray(10**10)`, codecs
in a chain, a tensor of 10**12 elements over one. So the instructions of the pickle are walked first, on a stack of
descriptions; the names that they may call are few, and so are the arguments. Then torch reads the file, with
`weights_only`.
"""

import math
import os
import pickletools
import re
import zipfile
from typing import NamedTuple

import torch

from utils.errors import UserError
from utils.safe_read import holds_no_more_than, open_regular

MAX_PICKLE_BYTES = 64 << 20  # without the tensors' numbers; a ResNet-101's with its optimizer takes 0.2 MB
MAX_INSTRUCTIONS = 500_000  # that one takes 30,000
MAX_VALUES = 1_000_000  # of all lists and dicts, one that stands in several counted each time
MAX_DEPTH = 50  # lists within lists
MAGIC = 0x1950A86A20F9469CFC6C  # torch.save's before torch 1.6, whose files begin with it and their version
BYTES_OF = {
    **{f"{name}Storage": n for name, n in (("Double", 8), ("Float", 4), ("Half", 2), ("BFloat16", 2), ("Bool", 1))},
    **{f"{name}Storage": n for name, n in (("Long", 8), ("Int", 4), ("Short", 2), ("Char", 1), ("Byte", 1))},
    **{"ComplexDoubleStorage": 16, "ComplexFloatStorage": 8},
}
TENSORS = {"torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2"}
PARAMETERS = {"torch._utils _rebuild_parameter"}
SCALARS = {"numpy.core.multiarray scalar", "numpy._core.multiarray scalar"}
DICTS = {"collections OrderedDict"}
SIZES = {"torch Size"}
SETS = {"__builtin__ set", "builtins set"}
CODES = {"_codecs encode"}  # bytes, as old pickles have them
DTYPES = {"numpy dtype"}
STORAGES = {f"{module} {name}" for module in ("torch", "torch.cuda") for name in BYTES_OF}
TORCH_DTYPES = {f"torch {kind}" for kind in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8")}
CALLED = TENSORS | PARAMETERS | SCALARS | DICTS | SIZES | SETS | CODES | DTYPES
ALLOWED = CALLED | STORAGES | TORCH_DTYPES
_NUMPY_KIND = re.compile(r"[<>=|]?([fiu][1248]|b1|c8|c16)")


class UnsafeError(Exception):
    """Why a file is not loaded, in a few words."""


class _Name(str):
    """A function or class, as 'module name'."""


class _Made(NamedTuple):
    """What an instruction would have built."""

    kind: str
    count: int = 0  # of a storage: its elements


def load_bounded(path):
    """`torch.load` of a file, onto the CPU and with `weights_only`, after a look through it.

    Raises:
        UserError: it would call something that is not allowed, or build more than it holds.
        Exception: of many kinds, where it is damaged; see `read_torch_file`.
    """
    try:
        with open_regular(path) as file:
            n_bytes = os.fstat(file.fileno()).st_size
            zipped = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            _look_through_archive(file, n_bytes) if zipped else _look_through_stream(file, n_bytes)
        content = torch.load(path, map_location="cpu", weights_only=True)
        _look_through_values(content)
    except UnsafeError as error:
        raise UserError(f"{path}: not a checkpoint that can be loaded safely ({error}); choose another file") from None
    return content


def _look_through_archive(file, n_bytes):
    """A zip of torch's: records that are not compressed, each once, below one folder."""
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        names = {record.filename.lower() for record in records}
        if len(names) < len(records) or archive.comment or min(record.header_offset for record in records) != 0:
            raise UnsafeError("not an archive as torch writes them")
        if len({record.filename.partition("/")[0] for record in records}) > 1:
            raise UnsafeError("not an archive as torch writes them")
        if not holds_no_more_than(archive, n_bytes):
            raise UnsafeError("its records are compressed, which torch's never are")
        if any(record.file_size != record.compress_size for record in records):
            raise UnsafeError("its records have two sizes")
        root = records[0].filename.partition("/")[0]
        if archive.getinfo(f"{root}/data.pkl").file_size > MAX_PICKLE_BYTES:
            raise UnsafeError("its description is too long")
        sizes = {name.removeprefix(f"{root}/data/"): archive.getinfo(name).file_size for name in archive.namelist()}
        with archive.open(f"{root}/data.pkl") as pickled:
            _walk(pickled, lambda key: sizes.get(key, 0))


def _look_through_stream(file, n_bytes):
    """torch's format before 1.6: pickles, one behind the other, then the tensors' numbers."""
    try:
        begins = [_walk(file, lambda _: 0), _walk(file, lambda _: 0)]
    except (ValueError, LookupError):  # no pickle at all
        begins = []
    if begins != [MAGIC, 1001] and n_bytes:
        raise UnsafeError("not a torch file")
    _walk(file, lambda _: 0)  # about the machine that wrote it
    sizes = {}

    def room(key):
        return sizes.get(key, n_bytes - sum(sizes.values()))

    _walk(file, room, sizes)
    _walk(file, lambda _: 0)  # the order of the storages


def _walk(file, room, taken=None):
    """What a pickle describes, from where `file` is to behind its end. Raises UnsafeError.

    Args:
        room: key of a storage → bytes that the file has for it.
        taken: takes key → bytes of each storage.
    """
    begin, stack, marks, memo = file.tell(), [], [], {}
    for n, (opcode, arg, position) in enumerate(pickletools.genops(file)):
        if n > MAX_INSTRUCTIONS or (position or 0) - begin > MAX_PICKLE_BYTES:
            raise UnsafeError("its description is too long")
        name = opcode.name
        if name in _PLAIN:
            stack.append(arg)
        elif name in _FIXED:
            stack.append(_FIXED[name])
        elif name == "GLOBAL":
            if arg not in ALLOWED:
                raise UnsafeError("it holds objects beside tensors and plain values")
            stack.append(_Name(arg))
        elif name == "MARK":
            marks.append(stack)
            stack = []
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(_last(stack, count))]
        elif name in ("TUPLE", "APPENDS", "SETITEMS"):
            items, stack = stack, marks.pop()
            if name == "TUPLE":
                stack.append(tuple(items))
            else:
                _must_be(stack[-1], "list" if name == "APPENDS" else "dict")
        elif name in ("APPEND", "SETITEM"):
            del stack[-1 if name == "APPEND" else -2 :]
            _must_be(stack[-1], "list" if name == "APPEND" else "dict")
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[arg] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[arg])
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop(), room, taken))
        elif name in ("REDUCE", "NEWOBJ"):
            args = stack.pop()
            stack.append(_call(stack.pop(), args))
        elif name == "BUILD":
            _build(stack.pop(), stack[-1])
        elif name == "STOP":
            return stack.pop()
        elif name != "PROTO":
            raise UnsafeError("not a torch file")
    raise UnsafeError("not a torch file")  # genops says so itself


_PLAIN = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"}
_FIXED = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
    "EMPTY_LIST": _Made("list"),
    "EMPTY_DICT": _Made("dict"),
    "EMPTY_SET": _Made("set"),
}


def _last(stack, count):
    if len(stack) < count:
        raise UnsafeError("not a torch file")
    return stack[-count:]


def _must_be(value, kind):
    if not isinstance(value, _Made) or value.kind != kind:
        raise UnsafeError("it puts values into what is no list or dict")


def _storage(key, room, taken):
    """Of ('storage', type, key, device, elements) and, before torch 1.6, which part of another one it is."""
    if not isinstance(key, tuple) or len(key) not in (5, 6) or not _is_text(key[0], "storage"):
        raise UnsafeError("it refers to what is no tensor's")
    kind, name, count = key[1], key[2], key[4]
    if not isinstance(kind, _Name) or kind not in STORAGES or type(count) is not int or count < 0:
        raise UnsafeError("it refers to what is no tensor's")
    n_bytes = count * BYTES_OF[kind.partition(" ")[2]]
    if not isinstance(name, (str, bytes)) or n_bytes > room(name):
        raise UnsafeError("a tensor is larger than the file")
    if taken is not None:
        taken[name] = n_bytes
    part = key[5] if len(key) == 6 else None
    if part is not None:
        if not isinstance(part, tuple) or len(part) != 3 or not _are_counts(part[1:]) or sum(part[1:]) > count:
            raise UnsafeError("a tensor is larger than its storage")
        count = part[2]
    return _Made("storage", count)


def _is_text(value, text):
    return value in (text, text.encode())


def _are_counts(values):
    return isinstance(values, tuple) and all(type(value) is int and 0 <= value < 2**62 for value in values)


def _call(function, args):
    """What `function` gives; it and its arguments must be as those of torch.save's."""
    if not isinstance(function, _Name) or function not in CALLED or not isinstance(args, tuple):
        raise UnsafeError("it calls what is not a tensor's constructor")
    if function in TENSORS:
        return _tensor(*args[:4]) if len(args) >= 4 else _refuse_arguments()
    if function in DTYPES:
        # not a copy (the third), it would be numpy's own, and what is built into that holds for the whole process
        if len(args) != 3 or not _NUMPY_KIND.fullmatch(str(args[0])) or args[1] is True or args[2] not in (True, 1):
            raise UnsafeError("it holds objects beside tensors and plain values")
        return _Made("dtype")
    if function in CODES:
        # others make much of little, and 'hex' of its own outcome twice as much each time
        if len(args) != 2 or type(args[0]) is not str or args[1] not in ("latin1", b"latin1"):
            _refuse_arguments()
        return _Made("bytes")
    if function in SCALARS:
        if not args or args[0] != _Made("dtype"):
            _refuse_arguments()
        return _Made("scalar")
    if function in SIZES and (len(args) != 1 or not _are_counts(args[0])):
        _refuse_arguments()
    if function in PARAMETERS and (not args or args[0] != _Made("tensor")):
        _refuse_arguments()
    return _Made("dict" if function in DICTS else "tensor" if function in PARAMETERS else "value")


def _refuse_arguments():
    raise UnsafeError("it calls a constructor with other arguments than torch.save")


def _tensor(storage, offset, size, stride):
    """All of its elements are in its storage, and it has no more than that."""
    if not isinstance(storage, _Made) or storage.kind != "storage":
        _refuse_arguments()
    if not (_are_counts((offset,)) and _are_counts(size) and _are_counts(stride) and len(size) == len(stride) < 65):
        _refuse_arguments()
    count = math.prod(size)
    end = offset + 1 + sum((side - 1) * step for side, step in zip(size, stride, strict=True)) if count else 0
    if count > storage.count or end > storage.count:
        raise UnsafeError("a tensor is larger than its storage")
    return _Made("tensor")


def _build(state, target):
    if target == _Made("dict") and state == _Made("dict"):  # a state dict's versions
        return
    plain = (type(None), int, str, bytes)
    if target == _Made("dtype") and isinstance(state, tuple) and all(isinstance(value, plain) for value in state):
        return
    raise UnsafeError("it sets what is inside of its objects")


def _look_through_values(content):
    """What was loaded, as far as it would be printed or compared: a list may stand a million times in another."""
    waiting, n = [(content, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        n += 1
        if n > MAX_VALUES or depth > MAX_DEPTH:
            raise UnsafeError("its lists have no end")
        if isinstance(value, dict):
            waiting += [(inner, depth + 1) for pair in value.items() for inner in pair]
        elif isinstance(value, (list, tuple, set)):
            waiting += [(inner, depth + 1) for inner in value]
