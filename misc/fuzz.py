"""Feed the readers of files and options with what is almost right: each answer must be one line, or none.

    python misc/fuzz.py --seconds=60 --target=xml
    python misc/fuzz.py --seconds=600 --keep=tests/fuzz_cases

A case is found where a reader raises anything but a `UserError` of one line, takes more than a few seconds of the
processor, or much memory, or prints what moves a terminal's cursor. The same --seed makes the same cases.
"""

import argparse
import contextlib
import io
import json
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from misc.fuzz_targets import TARGETS, Target, rewritten
from utils.cli_tool import at_least_one
from utils.errors import UserError, run_program, visible
from utils.terminal_tool import QUIET, set_verbosity

MAX_SECONDS = 20  # of the processor, for one case; a usual one takes a millisecond or two
MAX_BYTES = 200_000  # of a case
ODD_VALUES = [
    None,
    True,
    False,
    0,
    -1,
    2**31,
    2**63,
    10**400,
    -(10**30),
    1e308,
    float("nan"),
    float("inf"),
    -0.0,
    0.5,
    "",
    " ",
    "a\n",
    "\u2028",
    "\ud800",
    "\0",
    "../x",
    "1",
    "nan",
    "x" * 300,
    [],
    {},
    [[]],
    [None] * 4,
    {"id": 1},
    [1, 2, 3, 4],
]


class Finding(NamedTuple):
    """A case that is answered with something else than one line."""

    target: str
    content: bytes
    what: str


class TooLongError(BaseException):
    """Not caught by readers that catch every Exception."""


def problem_with(target: Target, content: bytes, folder: Path) -> str | None:
    """What is wrong with the answer to `content`; None if nothing is. `folder` is emptied."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    before = _megabytes()
    signal.signal(signal.SIGPROF, _too_long)
    signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
    said = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            warnings.simplefilter("ignore")
            target.read(folder, content)
    except UserError as error:
        if len(str(error).splitlines()) != 1:
            return f"its line is not one: {str(error)!r}"
    except TooLongError:
        return f"takes more than {MAX_SECONDS} s"
    except Exception as error:
        at = error.__traceback__
        while at.tb_next:
            at = at.tb_next
        return f"{type(error).__name__}: {error} ({Path(at.tb_frame.f_code.co_filename).name}:{at.tb_lineno})"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    if visible(said.getvalue(), but="\n\t") != said.getvalue():
        return f"prints {said.getvalue()!r}"
    grown = _megabytes() - before
    return f"takes {grown} MB" if grown > target.megabytes else None


def _too_long(*_):
    raise TooLongError


def _megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def cases(target: Target, seed: int) -> Iterator[bytes]:
    """Mutated contents without end; the same ones for the same seed."""
    rng = random.Random(seed)
    while True:
        content = rng.choice(target.seeds)
        for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
            content = _mutated(rng, target, content)[:MAX_BYTES]
        yield content


def _mutated(rng, target, content):
    if target.form != "bytes" and rng.random() < 0.6:
        try:
            if target.form == "json":
                return json.dumps(_odd_inside(rng, json.loads(content))).encode("utf-8", "surrogatepass")
            if target.form == "lines":
                lines = content.split(b"\n")
                k = rng.randrange(len(lines))
                lines[k] = json.dumps(_odd_inside(rng, json.loads(lines[k])), ensure_ascii=rng.random() < 0.9).encode()
                return b"\n".join(lines)
            return rewritten(content, lambda own: _changed_bytes(rng, target, own))
        except Exception:  # not of that form any more
            pass
    return _changed_bytes(rng, target, content)


def _odd_inside(rng, value):
    """`value` with one of its parts replaced, taken away or doubled."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(sorted(value))
        if rng.random() < 0.1:
            return {name: own for name, own in value.items() if name != key}
        return value | {key: _odd_inside(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.85:
        k = rng.randrange(len(value))
        if rng.random() < 0.1:
            return value[:k] + value[k + 1 :]
        return value[:k] + [_odd_inside(rng, value[k])] * rng.choice((1, 1, 1, 2)) + value[k + 1 :]
    return rng.choice(ODD_VALUES)


def _changed_bytes(rng, target, content):
    begin = rng.randrange(len(content) + 1)
    end = min(len(content), begin + rng.choice((1, 1, 2, 4, 8, 30, 200)))
    match rng.randrange(9):
        case 0 if content:
            begin = min(begin, len(content) - 1)
            return content[:begin] + bytes([content[begin] ^ 1 << rng.randrange(8)]) + content[begin + 1 :]
        case 1:
            return content[:begin] + rng.randbytes(end - begin) + content[end:]
        case 2:
            return content[:begin] + content[end:]
        case 3:
            return content[:begin] + content[begin:end] * rng.choice((2, 2, 3, 50)) + content[end:]
        case 4:
            return content[:begin]
        case 5:
            other = rng.choice(target.seeds)
            return content[:begin] + other[rng.randrange(len(other)) :]
        case 6 if target.tokens:
            return content[:begin] + rng.choice(target.tokens) + content[end:]
        case 7 if found := list(re.finditer(rb"[0-9.]+", content)):
            number = rng.choice(found)
            return (
                content[: number.start()]
                + rng.choice((b"-1", b"1e309", b"nan", b"0", b"9" * 30))
                + content[number.end() :]
            )
    return content[:begin] + rng.choice(target.tokens or [b"\0"]) + content[begin:]


def run(name: str, seed: int, folder: Path, n_cases: int | None = None, seconds: float | None = None) -> Iterator:
    """Yield a `Finding` for each case that is one, until the budget is spent: so many cases, or seconds.

    At the end it returns how many cases there were.
    """
    target, begin, n = TARGETS[name], time.monotonic(), 0
    for n, content in enumerate(cases(target, seed ^ zlib.crc32(name.encode())), 1):
        if (n_cases is not None and n > n_cases) or (seconds is not None and time.monotonic() - begin > seconds):
            return n - 1
        what = problem_with(target, content, folder)
        if what:
            yield Finding(name, content, what)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=[*TARGETS, "all"], default="all")
    parser.add_argument("--seconds", type=at_least_one, default=60, help="for all targets together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder that takes the cases that are found, one of each kind")
    args = parser.parse_args()
    set_verbosity(QUIET)
    names = list(TARGETS) if args.target == "all" else [args.target]
    n_found = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            findings, told = run(name, args.seed, Path(folder, "case"), seconds=args.seconds / len(names)), set()
            while True:
                try:
                    found = next(findings)
                except StopIteration as end:
                    print(f"{name}: {end.value:,} cases, {len(told)} kinds of findings", flush=True)
                    break
                kind = re.sub(r"[0-9]+|'[^']*'", "", found.what[:60]) + found.what[-30:]
                if kind not in told:
                    told.add(kind)
                    n_found += 1
                    print(f"{name}: {found.what[:300]!r}\n  {found.content[:300]!r}", flush=True)
                    if args.keep:
                        path = args.keep / name / f"{zlib.crc32(found.content):08x}"
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_bytes(found.content)
    if n_found:
        raise UserError(f"{n_found} kinds of findings; mend the readers")


if __name__ == "__main__":
    run_program(main)
