"""A run that goes on where it was saved last: which file, with which options, from which step."""

import math
import shlex
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

from utils.checkpoint import options_in, read_checkpoint, stored_options
from utils.command_options import options_of, refuse_unread, refuse_without_needed
from utils.dashboard_tool import from_environment
from utils.dist_tool import refuse_several
from utils.errors import UserError
from utils.event_check import is_count
from utils.json_tool import is_finite
from utils.run_folder import LAST, PREVIOUS, free_run_dir, read_facts
from utils.terminal_tool import QUIET, USUAL, VERBOSE, detail, set_verbosity, warn


def read_options(opt, command, args, kwargs):
    """The command line into `opt`, a `Config`; returns the checkpoint that --resume goes on from, or None.

    Args:
        command: its name.
        args, kwargs: what fire made of the line: words without --, which are refused, and name → value.
    """
    if command not in ("train", "eval"):
        refuse_several(command)
    if args:
        raise UserError(f"{args[0]}: an option is written --name=value; --help lists them")
    refuse_unread(command, kwargs)
    path = file_to_resume(kwargs.get("resume"), kwargs.get("name"))
    if path and kwargs.get("config"):
        raise UserError("--config and --resume both say which run's options are meant; give one of them")
    state = read_last(path) if path else None
    if state:
        take_options(opt, state, options_of(command).names, kwargs.get("model"))
    elif config := kwargs.get("config"):
        opt.begin_with(stored_options(config), options_of(command).names, kwargs.get("model"))
    opt.parse(from_environment(kwargs) | kwargs)
    if state:
        opt.load_path = state.path
        opt.finetune, opt.given = None, opt.given | {"load_path"}
    refuse_without_needed(command, opt)
    set_verbosity(QUIET if opt.quiet else VERBOSE if opt.verbose else USUAL)
    detail(f"options: {shlex.join(opt.words())}")
    return state


@dataclass
class Position:
    """How far a run is: what a checkpoint's `other_info` has under these names."""

    epoch: int = 0  # whole epochs, their evaluation with them
    batch: int = 0  # steps of the next one
    step: int = 0  # in all; of the schedule's part, if it has several
    part: int = 1  # of the schedule
    total_step: int = 0  # of the run
    done: int = 0  # 1 when the part's last evaluation is behind it

    def advance(self, n: int):
        """By so many steps."""
        self.batch, self.step, self.total_step = self.batch + n, self.step + n, self.total_step + n

    def info(self) -> dict[str, int]:
        """As it is saved."""
        return vars(self).copy()


def file_to_resume(resume: str | None, name: str | None) -> Path | None:
    """The checkpoint that --resume means; None where nothing is resumed, or 'auto' finds none yet.

    Args:
        resume: 'auto', or a run's folder, or the last checkpoint in it.
        name: --name, the run of 'auto'.

    Raises:
        UserError: there is no such file, or it is not a run's last one.
    """
    if not resume:
        return None
    if resume == "auto" and not name:
        raise UserError("--resume=auto: goes on with the run of --name; add it, or give --resume=runs/NAME")
    path = Path("runs", name) if resume == "auto" else Path(resume)
    path = path / LAST if path.is_dir() or resume == "auto" else path
    if path.name != LAST:
        raise UserError(f"--resume={resume}: goes on from a run's {LAST}; --load-path starts another run with any file")
    if path.exists() or path.with_name(PREVIOUS).exists():
        return path
    if resume == "auto":
        return None
    raise UserError(f"--resume={resume}: there is no {path}; name the folder of a run that was saved")


def folder_of_run(opt, state) -> Path:
    """Where a run writes that goes on from the checkpoint `state`, or for None begins; `opt` is its `Config`."""
    if state:
        return Path(state.path).parent
    kind = "alternating" if opt.schedule == "alternating" else time.strftime("%m%d-%H%M%S")
    return free_run_dir(opt.name or f"{opt.model}-{kind}", opt.overwrite or opt.resume == "auto")  # which found none


def read_last(path: Path):
    """The `Checkpoint` at `path`, or where that is damaged, lost or another run's, its predecessor.

    Raises:
        UserError: neither can be used.
    """
    problems = []
    for file in (path, path.with_name(PREVIOUS)):
        if file.exists() or not problems:
            try:
                state = read_checkpoint(file)
                _check_run(state)
            except UserError as error:
                problems.append(error)
                continue
            for problem in problems:
                warn(f"{problem}; going on from {file}, which was saved before it")
            return state
    raise problems[0]


def _check_run(state):
    own = read_facts(Path(state.path).parent).get("run")
    if own and state.run and state.run != own:
        raise UserError(f"{state.path}: is of another run than its folder; put the right file there")


def take_options(opt, state, names, model=None) -> None:
    """Take the options of the run whose last checkpoint is `state` into `opt`; `parse` comes after it.

    Args:
        opt: a `Config`.
        names: the options that the command reads.
        model: the network that the command line names, or None.
    """
    stored = state.options if isinstance(state.options, dict) else options_in(state, "--resume")
    opt.begin_with(stored, names, model)
    opt.env = str(stored.get("env", opt.env))  # its curves go on where they are


def position_of(state, n_parts: int = 1) -> Position:
    """Where the run was saved, of a schedule with so many parts. Raises UserError where the file does not say."""
    own = {name: state.other_info.get(name) for name in Position().info()}
    best, n_nonfinite = state.other_info.get("best_map"), state.other_info.get("n_nonfinite", 0)
    can_be = best is None or (is_finite(best) and 0 <= best < 1.001)  # a mean of ones may be a little more
    if can_be and all(map(_is_count, [*own.values(), n_nonfinite])):
        at = Position(**own)
        if 1 <= at.part <= n_parts and (at.total_step >= at.step if at.part > 1 else at.total_step == at.step):
            return at
    raise UserError(f"{state.path}: does not say how far its run was; --load-path starts another run with it")


def n_recorded(state) -> int | None:
    """How many events the run's log had; None where an older file does not say. Raises UserError for another thing."""
    n = state.show.get("events") if isinstance(state.show, dict) else None
    if n is not None and not _is_count(n):
        raise UserError(f"{state.path}: lacks what its dashboard needs; --load-path starts another run")
    return n


def _is_count(value):
    return not isinstance(value, bool) and is_count(value)


def what_it_has_had(at: Position, opt, n_parts: int) -> str | None:
    """All that the run was to have, in words, or None where something is left. `opt` is its `Config`."""
    if at.part == n_parts and at.epoch >= opt.epoch:
        return f"has had its {at.epoch} epochs; for more give --epoch={at.epoch + 1} or so"
    if at.part == n_parts and opt.max_iter is not None and at.step >= opt.max_iter + (not at.done):
        return f"has had its {at.step:,} steps; for more give another --max-iter"
    return None


def check_data(at: Position, state, ids, batch_size: int) -> None:
    """Raise UserError where the run's next batch would not be the one that it would have had.

    Args:
        ids: of the training pictures, in their order.
    """
    per_epoch = math.ceil(len(ids) / batch_size)
    if at.step != at.epoch * per_epoch + at.batch or at.batch > per_epoch:
        raise UserError(
            f"{state.path}: is at step {at.step:,}, but {at.epoch} epochs of these data have "
            f"{at.epoch * per_epoch:,}: the data or --batch-size are others; --load-path starts another run with it"
        )
    if state.other_info.get("data") not in (None, fingerprint(ids)):
        raise UserError(
            f"{state.path}: learned from other pictures than these, or in another order; give it the same data, or "
            "start another run with --load-path"
        )


def take_up(show, state) -> None:
    """Let the `Show` of a run go on as it was saved. Raises UserError where the file does not say how."""
    try:
        show.load_state_dict(state.show)
    except Exception:  # whatever breaks first: the file may be anybody's
        raise UserError(f"{state.path}: lacks what its dashboard needs; --load-path starts another run") from None


def fingerprint(ids) -> int:
    """A number that other pictures, or the same in another order, hardly have."""
    return zlib.crc32("\n".join(map(str, ids)).encode("utf-8", "surrogatepass"))
