"""Files that are written whole or not at all, and the lines of a text."""

import os
import re
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path):
    """A path beside `path` to write to; what was written there takes its place, unless an error came first."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def text_lines(text):
    """(number from 1, line without spaces and tabs around it) of the lines that are not blank.

    They end as lines of files do: `str.splitlines` and `strip` also take characters for that which names may have.
    """
    lines = enumerate((line.strip(" \t") for line in re.split("\r\n?|\n", text)), 1)
    return [(n, line) for n, line in lines if line]
