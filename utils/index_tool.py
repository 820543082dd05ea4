"""What was read from many small files, kept for the next run: opening them again is what a start would wait for."""

import hashlib
import json
import os
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from utils.file_tool import whole_file
from utils.progress_tool import progress_bar

MANY = 2000  # files that take long enough for a bar
_VERSION = 4  # of what the readers keep here: another one is read anew


def _head(body):
    """The first line of a file: of what version it is, and that nothing of it was changed."""
    return f"version {_VERSION}, CRC32 {zlib.crc32(body):08x}".encode()


class FileIndex:
    """Values read from files; one that was changed or replaced is read again.

    That is seen by its size, its times and its number in the file system: archives give many files one time of writing,
    but no program sets the time of change (ctime).

    `with` saves it at the end, whatever ends it.

    Args:
        path: where it is kept; None keeps nothing.
    """

    def __init__(self, path: str | os.PathLike | None = None):
        self.path = path and Path(path)
        self._known, self._changed = {}, False
        if path:  # a damaged one is as none: it holds nothing that is not in the files
            with suppress(OSError):
                head, _, body = self.path.read_bytes().partition(b"\n")
                if head == _head(body):
                    self._known = json.loads(body)

    @classmethod
    def of(cls, folder: str | os.PathLike) -> "FileIndex":
        """The index of a folder of data, in the user's cache folder: the data's own may be read-only."""
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        if cache.startswith("~"):  # a user without a home
            return cls()
        name = hashlib.sha256(os.path.realpath(folder).encode(errors="surrogatepass")).hexdigest()[:16]
        return cls(Path(cache, "faster-rcnn", f"index-{name}.json"))

    def get(self, kind: str, path: str | os.PathLike, read):
        """`read(path)`, or what it was when the file was the same. What `read` raises is not kept.

        Args:
            kind: what is read, since a file may be read for two purposes.
            read: path → something that JSON can hold.
        """
        try:
            now = os.stat(path)
        except (OSError, ValueError):  # ValueError: a name that no file system has
            return read(path)  # says what is wrong
        stamp = [now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino]
        key = f"{kind} {os.path.abspath(path)}"
        entry = self._known.get(key)
        if entry and entry[:-1] == stamp:
            return entry[-1]
        value = read(path)
        self._known[key], self._changed = [*stamp, value], True
        return value

    def fill(self, kind: str, paths, read, what: str):
        """`get` of many files at once, with a bar `what`; those that `read` refuses are left for `get` to tell."""

        def get(path):
            with suppress(Exception):
                self.get(kind, path, read)

        # `read` may set filters of warnings, which are the process's: threads would leave each other's behind
        with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as threads:
            list(progress_bar(threads.map(get, paths), what, len(paths), unit="file", disable=len(paths) <= MANY))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.save()

    def save(self):
        """Keep what is new, without the files that are gone. Where it can't be written, the next run reads again."""
        if self.path and self._changed:
            files = {key: entry for key, entry in self._known.items() if os.path.exists(key.partition(" ")[2])}
            body = json.dumps(files).encode()
            with suppress(OSError), whole_file(self.path, durable=False) as partial:
                partial.write_bytes(_head(body) + b"\n" + body)
            self._changed = False
