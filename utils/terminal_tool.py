"""Lines to the terminal: how much is said, and in which colours."""

import os
import sys

from tqdm import tqdm

from utils.errors import visible

QUIET, USUAL, VERBOSE = range(3)
RED, YELLOW, BOLD = 31, 33, 1  # of ANSI's SGR
_COLOURS = {"error": RED, "warning": YELLOW}  # of the word that a line begins with
_level = USUAL
_follower = None  # the rank of a process that leaves the talking to another; −1 until it knows it


def as_follower(rank: int) -> None:
    """This process is the `rank`-th of several that do one thing: but for the first, only errors and warnings are said.

    Before it knows its rank (−1) it says nothing at all: whatever is wrong until then, another says it.
    """
    global _follower
    _follower = rank or None


def set_verbosity(level: int) -> None:
    """QUIET: only results, warnings and errors, and no bars; USUAL; or VERBOSE: details too."""
    global _level
    _level = level


def verbosity() -> int:
    """What `set_verbosity` was given last, at first USUAL; QUIET in a process that leaves the talking to another."""
    return _level if _follower is None else QUIET


def is_terminal(stream) -> bool:
    """Whether lines in `stream` can be drawn over and coloured: not in a pipe, a file or a dumb terminal."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def paint(text: str, code: int, stream) -> str:
    """`text` in a colour where `stream` is a terminal, and the environment has no NO_COLOR (see no-color.org)."""
    return f"\033[{code}m{text}\033[0m" if is_terminal(stream) and not os.environ.get("NO_COLOR") else text


def say(line, file=None) -> None:
    """Print a line, between the progress bars if there are any; 'error: ' and 'warning: ' before it are coloured.

    Names in it may be a stranger's: what would move the cursor is shown as Python writes it.
    """
    _print(visible(str(line), but="\n\t"), file or sys.stdout)


def _print(line, file):
    kind, colon, rest = line.partition(": ")
    if _follower is not None:
        if _follower < 0 or kind not in _COLOURS:
            return
        rest = f"process {_follower}: {rest}"
    if colon and kind in _COLOURS:
        line = paint(f"{kind}:", _COLOURS[kind], file) + f" {rest}"
    tqdm.write(line, file=file)
    file.flush()


def tell(line) -> None:
    """`say` what is neither a result nor a warning: not with --quiet."""
    if verbosity() >= USUAL:
        say(line)


def detail(line) -> None:
    """`say` what only those want to know who ask for it with --verbose."""
    if verbosity() >= VERBOSE:
        say(line)


def warn(line) -> None:
    """`say` a warning, on the standard error."""
    say(f"warning: {line}", file=sys.stderr)


def say_result(line) -> None:
    """`say` the outcome of a command: bold in a terminal."""
    _print(paint(visible(str(line), but="\n\t"), BOLD, sys.stdout), sys.stdout)
