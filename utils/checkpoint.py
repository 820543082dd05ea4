"""Checkpoint files: written whole or not at all, read without running code that they hold.

The layout is simple-faster-rcnn's: {'model', 'config', 'other_info', 'vis_info', optional 'optimizer'}, and for a run
that goes on 'options', 'scaler', 'meters', 'rng', 'show', 'run', 'environment'. A file without 'model' is a bare state
dict. Its own older files (numpy scalars, `head.classifier.2` or `.3`, parameters on a GPU, the format before torch 1.6)
are read too.
"""

import errno
import os
import pickle
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from utils.errors import UserError
from utils.file_tool import sync, whole_file
from utils.run_folder import BEST, LAST, PREVIOUS
from utils.safe_load import load_bounded
from utils.safe_read import open_regular

FORMAT_VERSION = 1
# `best_map` of the published files is a numpy float64: these names, and no others, may be rebuilt beside tensors.
NUMPY_SCALARS = [
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
    (np._core.multiarray.scalar, "numpy._core.multiarray.scalar"),
    np.dtype,
    type(np.dtype(np.float64)),
    type(np.dtype(np.float32)),
    type(np.dtype(np.int64)),
]


@dataclass
class Checkpoint:
    """What a file holds; everything but `model` may be empty."""

    path: str
    model: dict  # name → tensor, on the CPU
    config: dict = field(default_factory=dict)
    other_info: dict = field(default_factory=dict)
    vis_info: dict = field(default_factory=dict)
    optimizer: dict | None = None
    options: dict | None = None  # the run's, as it was given them
    scaler: dict | None = None
    meters: dict | None = None
    rng: dict | None = None
    show: dict | None = None
    run: str | None = None  # the run's own name, which no other has
    environment: dict | None = None


def save_checkpoint(path, content, predecessor=None):
    """Write `content` (a dict of plain values and tensors) to `path`.

    It is written beside it, waited for, read again and compared with its checksums, and then moved into place.

    Args:
        predecessor: a path that the file which was there is kept at.

    Returns:
        the path, a string.

    Raises:
        UserError: it could not be written; what was there is there still.
    """
    try:
        with whole_file(path, predecessor) as partial:
            with open(partial, "wb") as file:
                torch.save(content, file)
            sync(partial)
            if damage := damage_of(partial, from_disk=True):
                raise OSError(None, f"what was read again is {damage}")
    except (OSError, RuntimeError) as error:
        cause = error.__context__ if isinstance(error.__context__, OSError) else error  # torch tells its own confusion
        raise UserError(
            f"{path}: the checkpoint can't be written ({getattr(cause, 'strerror', None) or cause}); "
            "free space or choose another folder"
        ) from None
    return str(path)


def damage_of(path, from_disk=False) -> str | None:
    """What is wrong with a file of torch's by the checksum (CRC-32) of each of its parts; None if nothing is.

    torch itself does not look at them: of 3,000 files with one wrong bit it read 2,736 as if they were whole. A file of
    the format before torch 1.6 has none.

    Args:
        from_disk: read what the disk has, not what the system remembers of a file that was just written.
    """
    with open_regular(path) as file:
        if file.read(4) != b"PK\3\4":
            return None
        if from_disk and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            with zipfile.ZipFile(file) as parts:
                if any(part.compress_type != zipfile.ZIP_STORED for part in parts.infolist()):
                    return "compressed, as torch writes none"
                wrong = parts.testzip()
        except Exception as error:  # damaged where the parts are listed: whatever breaks first
            if isinstance(error, OSError) and error.errno != errno.EINVAL:  # the disk's; EINVAL is a place before 0
                raise
            return "cut or damaged"
    return f"damaged in {wrong.partition('/')[2]}" if wrong else None


def read_checkpoint(path):
    """Read a checkpoint or a bare state dict onto the CPU.

    Raises:
        UserError: no such file, not a checkpoint, or one that would run code when loaded.
    """
    return as_checkpoint(path, read_torch_file(path))


def read_torch_file(path):
    """What a file of torch's holds, with its tensors on the CPU, whatever that is. Raises UserError where it can't."""
    try:
        if damage := damage_of(path):
            raise UserError(f"{path}: {damage}; choose another file")
        with torch.serialization.safe_globals(NUMPY_SCALARS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on pickle protocols: a file is read or refused, with one line
            return load_bounded(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint; check the path") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder, not a checkpoint; name a file in it, such as best.pth") from None
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        foreign = any(f"unsupported {what}" in str(error).lower() for what in ("global", "class"))
        reason = "it holds objects beside tensors and plain values" if foreign else "not a torch file"
        raise UserError(f"{path}: not a checkpoint that can be loaded safely ({reason}); choose another file") from None
    except Exception:  # torch's readers answer damaged files with whatever breaks first, struct.error for one
        raise UserError(f"{path}: not a checkpoint, or a damaged one; choose another file") from None


def stored_options(path):
    """Name → value of the options of a checkpoint's run. `path`: the checkpoint, or the folder of its run.

    Raises:
        UserError: no checkpoint there, or one without options.
    """
    if os.path.isdir(path):
        inside = [Path(path, name) for name in (LAST, PREVIOUS, BEST)]
        path = next((file for file in inside if file.exists()), None) or inside[0]
    return options_in(read_checkpoint(path), "--config")


def options_in(checkpoint, given_as):
    """`checkpoint.config`. Raises UserError where it is empty, which names the option `given_as`."""
    if not checkpoint.config:
        raise UserError(f"{given_as}={checkpoint.path}: holds weights, but no options; name a checkpoint of train")
    return checkpoint.config


def as_checkpoint(path, content):
    """What `read_torch_file` read from `path`, as a `Checkpoint`. Raises UserError for something else."""
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a checkpoint; choose another file")
    state = content.get("model", content)
    named_tensors = isinstance(state, dict) and all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    )
    if not state or not named_tensors:
        raise UserError(f"{path}: holds no state dict (names and tensors); choose another file")
    state = {_bare_name(name): value for name, value in state.items()}
    if "model" not in content:
        return Checkpoint(str(path), state)
    parts = {name: content.get(name) for name in ("config", "other_info", "vis_info")}
    parts = {name: {} if part is None else part for name, part in parts.items()}
    for name, part in parts.items():
        if not isinstance(part, dict):
            raise UserError(f"{path}: its {name!r} is a {type(part).__name__}, not a dict; choose another file")
    names = ("optimizer", "options", "scaler", "meters", "rng", "show", "run", "environment")
    beside = {name: content.get(name) for name in names}
    return Checkpoint(str(path), state, **parts, **beside)


def _bare_name(name):
    """The parameter's name without what DataParallel or a trainer's own state dict put before it."""
    for prefix in ("module.", "faster_rcnn."):
        name = name.removeprefix(prefix)
    return name


def read_state_dict(path):
    """Name → tensor of a checkpoint or a bare state dict."""
    return read_checkpoint(path).model


def fit_state_dict(model, state, path, required=None):
    """Load `state` into `model`, or say in one line what does not fit and change nothing.

    With dropout the second layer of the head's classifier is `head.classifier.3`, without it is `.2`: both are taken.

    Args:
        model: a module.
        state: name → tensor.
        path: where it comes from, for the message.
        required: names that must be there; None means all of the model's own, and no others.
    """
    own = model.state_dict()
    state = _rename_fc7(state, own)
    missing = [name for name in (own if required is None else required) if name not in state]
    unknown = [name for name in state if name not in own]
    if missing or unknown:
        what = (
            f"lacks {missing[0]} and {len(missing) - 1} more" if missing else f"has {unknown[0]}, unknown to this model"
        )
        raise UserError(f"{path}: not for {type(model).__name__} ({what}); choose the --model that it was made with")
    for name, value in state.items():
        if value.shape != own[name].shape:
            shapes = f"{tuple(value.shape)}, not {tuple(own[name].shape)}"
            hint = (
                "for other classes: use --finetune to start from it"
                if name.startswith("head.")
                else "for another model"
            )
            raise UserError(f"{path}: {name} is {shapes}: {hint}")
    broken = next((name for name, value in state.items() if not value.isfinite().all()), None)
    if broken:
        raise UserError(f"{path}: {broken} has numbers that are not finite; choose another file")
    model.load_state_dict(state, strict=False)


def _rename_fc7(state, own):
    for here, there in (("2", "3"), ("3", "2")):
        if f"head.classifier.{here}.weight" in state and f"head.classifier.{here}.weight" not in own:
            prefix = f"head.classifier.{here}."
            state = {
                f"head.classifier.{there}.{k.removeprefix(prefix)}" if k.startswith(prefix) else k: v
                for k, v in state.items()
            }
    return state
