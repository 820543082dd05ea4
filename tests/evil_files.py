"""Files that a stranger might send: written by hand, instruction by instruction, as no library would write them."""

import struct
import zipfile

MAGIC = 0x1950A86A20F9469CFC6C
FOUR = struct.pack("<4f", 1, 2, 3, 4)


def word(text):
    """BINUNICODE."""
    raw = text.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value):
    """LONG1."""
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def name(text):
    """GLOBAL of 'module.name'."""
    module, _, own = text.rpartition(".")
    return f"c{module}\n{own}\n".encode()


def group(*parts):
    return b"(" + b"".join(parts) + b"t"


def call(function, *args):
    return name(function) + group(*args) + b"R"


def dictionary(**parts):
    return b"}(" + b"".join(word(key) + value for key, value in parts.items()) + b"u"


def storage(count=4, key="0", kind="FloatStorage", *more):
    return group(word("storage"), name(f"torch.{kind}"), word(key), word("cpu"), number(count), *more) + b"Q"


def tensor(size=(4,), stride=(1,), offset=0, count=4, own=None):
    sides, steps = (group(*map(number, values)) for values in (size, stride))
    parts = own or storage(count), number(offset), sides, steps, b"\x89", call("collections.OrderedDict")
    return call("torch._utils._rebuild_tensor_v2", *parts)


def pickled(value):
    return b"\x80\x02" + value + b"."


def checkpoint(value=None, **others):
    """The pickle of a checkpoint with one tensor, `value`."""
    return pickled(dictionary(model=dictionary(weight=value or tensor()), **others))


def write_archive(path, pickle, data=FOUR, method=zipfile.ZIP_STORED, more=()):
    """torch's format; `more`: (name, content) of other records."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for own, content in (("x/data.pkl", pickle), ("x/data/0", data), ("x/version", "3\n"), *more):
            archive.writestr(own, content)


def write_stream(path, pickle, data=FOUR, count=4, parts_of_storages=False):
    """The format before torch 1.6, whose references to storages have a place more, for the part that is meant."""
    pickle = pickle if parts_of_storages else pickle.replace(b"tQ", b"NtQ")
    parts = number(MAGIC), number(1001), dictionary(little_endian=b"\x88")
    keys = pickled(b"](" + word("0") + b"e")
    path.write_bytes(b"".join(map(pickled, parts)) + pickle + keys + struct.pack("<q", count) + data)


def laughs(times=60):
    """A list of two that are one list of two, and so on: 2**60 in all, in a few hundred bytes."""
    return b"]" + b"".join(b"q" + bytes([k]) + b"0](" + (b"h" + bytes([k])) * 2 + b"e" for k in range(times))
