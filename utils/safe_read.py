"""Files of strangers, opened and read: no pipe that is waited for, no device without end, nothing absurdly large."""

import errno
import os
import stat
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from utils.errors import UserError

MAX_TEXT_BYTES = 256 << 20  # of lists of pictures and names: ten million lines


def open_regular(path, most=None):
    """`open(path, "rb")` of a file of at most `most` bytes.

    Raises:
        UserError: it is larger, or a pipe or a device (OSError where it can't be opened).
    """
    # opening a pipe waits until someone writes to it, unless it is told not to
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except ValueError:  # a name that no file system has
        raise FileNotFoundError(errno.ENOENT, "no such file") from None
    try:
        mode, n_bytes = os.fstat(descriptor).st_mode, os.fstat(descriptor).st_size
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UserError(f"{path}: a pipe or a device, not a file; name a file, or remove it")
        if most is not None and n_bytes > most and stat.S_ISREG(mode):
            raise UserError(f"{path}: has {n_bytes / 1e6:,.0f} MB, of {most / 1e6:,.0f} at most; choose another file")
        return os.fdopen(descriptor, "rb")  # raises IsADirectoryError
    except BaseException:
        os.close(descriptor)
        raise


def read_bounded(path, most=MAX_TEXT_BYTES) -> bytes:
    """What a file of at most `most` bytes holds; raises as `open_regular`."""
    with open_regular(path, most) as file:
        return file.read(min(os.fstat(file.fileno()).st_size, most))  # so much memory is taken at once


def holds_no_more_than(archive: zipfile.ZipFile, n_bytes: int) -> bool:
    """Whether nothing in a zip is compressed, or stands there twice: a small file can't become a large one."""
    records = archive.infolist()
    stored = all(record.compress_type == zipfile.ZIP_STORED for record in records)
    return stored and sum(record.file_size for record in records) <= n_bytes


@contextmanager
def opened_npz(path):
    """The arrays of a file that `np.savez` wrote, for a `with`.

    Raises:
        ValueError: it would take more memory than it has bytes, or its arrays hold objects, and so code.
        UserError: a pipe or a device (OSError where it can't be read, others of many kinds for a damaged one).
    """
    with open_regular(path) as file:
        with zipfile.ZipFile(file) as archive:
            if not holds_no_more_than(archive, os.fstat(file.fileno()).st_size):
                raise ValueError("its arrays are compressed")
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            yield arrays


def is_within(path, folder) -> bool:
    """Whether a path lies below a folder once '..' and links are followed."""
    try:
        return Path(path).resolve().is_relative_to(Path(folder).resolve())
    except (OSError, ValueError, RuntimeError):  # a name that no file system has, links in a circle
        return False
