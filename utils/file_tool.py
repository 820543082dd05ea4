"""Files that are written whole or not at all, and the lines of a text."""

import os
import re
import tempfile
import zlib
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path):
    """A path beside `path` to write to; what was written there takes its place, unless an error came first."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # a name of its own, not a longer one: that of `path` may be as long as a file system has them
    partial = path.with_name(f".{zlib.crc32(os.fsencode(path.name)):08x}.{os.getpid()}.tmp")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def prepare_folder(folder):
    """Make a folder that files will be written to. Raises OSError, also where no file can be made there."""
    os.makedirs(folder, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()


def prepare_file(path):
    """`prepare_folder` for a file that will be written. Raises OSError, also where `path` is a folder."""
    if os.path.isdir(path):
        raise IsADirectoryError(None, "it is a folder")
    prepare_folder(os.path.dirname(path) or ".")


def text_lines(text):
    """(number from 1, line without spaces and tabs around it) of the lines that are not blank.

    They end as lines of files do: `str.splitlines` and `strip` also take characters for that which names may have.
    """
    lines = enumerate((line.strip(" \t") for line in re.split("\r\n?|\n", text)), 1)
    return [(n, line) for n, line in lines if line]
