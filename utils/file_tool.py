"""Files that are written whole or not at all (Pillai et al. 2014: what each step of it is for), and a text's lines."""

import errno
import os
import re
import tempfile
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole_file(path, predecessor=None, durable=True):
    """A path beside `path` to write to; what was written there takes its place, unless an error came first.

    At any moment, a power cut's too, `path` is the old file or the new one.

    Args:
        predecessor: a path that the old file is kept at.
        durable: False does not wait until the disk has it: for what is worth less than the wait.
    """
    path = Path(path)
    refuse_no_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # a name of its own, not a longer one: that of `path` may be as long as a file system has them
    partial = path.with_name(f".{zlib.crc32(os.fsencode(path.name)):08x}.{os.getpid()}.tmp")
    try:
        yield partial
        if durable:
            sync(partial)
        if predecessor is not None and path.exists():
            _keep(path, Path(predecessor))
        os.replace(partial, path)
        if durable:
            sync(path.parent)
    finally:
        with suppress(OSError):  # of a disk that is gone, whose error is under way already
            partial.unlink(missing_ok=True)


def sync(path):
    """Wait until the disk has a file's content, or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a folder of a file system that has no such call
            raise
    finally:
        os.close(descriptor)


def _keep(path, predecessor):
    """Give `path` a second name, so that there is a file of the first one at any moment."""
    second = path.with_name(f".{zlib.crc32(os.fsencode(predecessor.name)):08x}.{os.getpid()}.tmp")
    second.unlink(missing_ok=True)
    try:
        os.link(path, second)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
            raise
        second = path  # a file system without such links: for a moment there is the predecessor alone
    os.replace(second, predecessor)


def place_of(path):
    """What a folder is to the system, whatever it is called; None if it is not there."""
    with suppress(OSError):
        stat = os.stat(path)
        return stat.st_dev, stat.st_ino


def remove_partials(folder):
    """Remove what writers that were killed left in `folder`; nobody else may be writing there."""
    for path in Path(folder).glob(".????????.*.tmp"):
        path.unlink(missing_ok=True)


def prepare_folder(folder):
    """Make a folder that files will be written to. Raises OSError, also where no file can be made there."""
    os.makedirs(folder, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()


def prepare_file(path):
    """`prepare_folder` for a file that will be written. Raises OSError, also where `path` is no file."""
    refuse_no_file(path)
    prepare_folder(os.path.dirname(path) or ".")


def refuse_no_file(path):
    """Raise OSError where `path` is there, and is no file."""
    if os.path.exists(path) and not os.path.isfile(path):  # what takes the place of /dev/null is no device any more
        raise OSError(errno.EINVAL, "it is a folder, a pipe or a device")


def text_lines(text):
    """(number from 1, line without spaces and tabs around it) of the lines that are not blank.

    They end as lines of files do: `str.splitlines` and `strip` also take characters for that which names may have.
    """
    lines = enumerate((line.strip(" \t") for line in re.split("\r\n?|\n", text)), 1)
    return [(n, line) for n, line in lines if line]
