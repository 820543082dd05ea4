"""Files of strangers are opened and read here: no pipe that is waited for, no device without end, nothing absurdly large."""

import os
import stat

from utils.errors import UserError

MAX_TEXT_BYTES = 256 << 20  # of lists of pictures and names: ten million lines


def open_regular(path):
    """`open(path, "rb")` of a file. Raises UserError for a pipe or a device, OSError where it can't be opened."""
    # opening a pipe waits until someone writes to it, unless it is told not to
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        mode = os.fstat(descriptor).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UserError(f"{path}: a pipe or a device, not a file; name a file, or remove it")
        return os.fdopen(descriptor, "rb")  # raises IsADirectoryError
    except BaseException:
        os.close(descriptor)
        raise


def read_bounded(path, most=MAX_TEXT_BYTES) -> bytes:
    """What a file of at most `most` bytes holds.

    Raises:
        UserError: it is larger, or a pipe or a device (OSError where it can't be read).
    """
    with open_regular(path) as file:
        n_bytes = os.fstat(file.fileno()).st_size
        if n_bytes > most:
            raise UserError(f"{path}: {n_bytes / 1e6:,.0f} MB, of {most / 1e6:,.0f} at most; is it the file you meant?")
        return file.read(most + 1)
