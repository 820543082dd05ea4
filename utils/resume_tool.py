"""A run that goes on behind the last whole epoch of a former one: which file, with which options, from where."""

from pathlib import Path

from utils.checkpoint import options_in
from utils.errors import UserError

LAST = "last.pth"  # written at the end of each epoch


def file_to_resume(resume: str | None, name: str | None, schedule: str | None = None) -> Path | None:
    """The checkpoint that --resume means; None where nothing is resumed, or 'auto' finds none yet.

    Args:
        resume: 'auto', or a run's folder, or the last checkpoint in it.
        name: --name, the run of 'auto'.
        schedule: the command line's; 'alternating' goes on whenever it can, by itself.

    Raises:
        UserError: there is no such file, or it is not a run's last one.
    """
    if not resume or schedule == "alternating":
        return None
    if resume == "auto":
        if not name:
            raise UserError("--resume=auto: goes on with the run of --name; add it, or give --resume=runs/NAME")
        path = Path("runs", name, LAST)
        return path if path.exists() else None
    path = Path(resume, LAST) if Path(resume).is_dir() else Path(resume)
    if path.name != LAST:
        raise UserError(f"--resume={resume}: goes on from a run's {LAST}; --load-path starts another run with any file")
    if not path.exists():
        raise UserError(f"--resume={resume}: there is no {path}; name the folder of a run that has had an epoch")
    return path


def take_options(opt, state, names, model=None) -> None:
    """Take the options of the run whose last checkpoint is `state` into `opt`; `parse` comes after it.

    Args:
        opt: a `Config`.
        names: the options that the command reads.
        model: the network that the command line names, or None.
    """
    stored = options_in(state, "--resume")
    if stored.get("schedule") == "alternating":
        name = Path(state.path).parent.name
        raise UserError(f"--resume: the alternating schedule goes on by itself: give {name} as --name alone")
    opt.begin_with(stored, names, model)
    opt.env = str(stored.get("env", opt.env))  # its curves go on where they are


def check_position(opt, state, per_epoch: int) -> None:
    """Raise UserError where the run can't go on behind an epoch of this many steps, or has had them all."""
    epoch, step = state.other_info.get("epoch"), state.other_info.get("step")
    if not (isinstance(epoch, int) and isinstance(step, int)):
        raise UserError(f"--resume={opt.resume}: does not say how far it was; --load-path starts another run with it")
    if epoch >= opt.epoch:
        raise UserError(f"--resume={opt.resume}: has had its {epoch} epochs; for more give --epoch={epoch + 1} or so")
    if step != epoch * per_epoch:
        raise UserError(
            f"--resume={opt.resume}: is at step {step:,}, but {epoch} epochs of these data have {epoch * per_epoch:,}: "
            "the data or --batch-size are others, or --max-iter cut an epoch; --load-path starts another run with it"
        )
