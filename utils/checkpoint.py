"""Checkpoint files: written whole or not at all, read without running code that they hold.

The layout is simple-faster-rcnn's: {'model', 'config', 'other_info', 'vis_info', optional 'optimizer', 'rng'}; a file
without 'model' is a bare state dict. Its own older files (numpy scalars, `head.classifier.2` or `.3`, parameters on a
GPU, the format before torch 1.6) are read as well.
"""

import os
import pickle
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from utils.errors import UserError
from utils.file_tool import whole_file
from utils.safe_load import load_bounded

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
    rng: dict | None = None


def save_checkpoint(path, content):
    """Write `content` (a dict of plain values and tensors) to `path`: first beside it, then moved into place."""
    try:
        with whole_file(path) as partial:
            torch.save(content, partial)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        raise UserError(
            f"{path}: the checkpoint can't be written ({error}); free space or choose another folder"
        ) from None
    return str(path)


def read_checkpoint(path):
    """Read a checkpoint or a bare state dict onto the CPU.

    Raises:
        UserError: no such file, not a checkpoint, or one that would run code when loaded.
    """
    return as_checkpoint(path, read_torch_file(path))


def read_torch_file(path):
    """What a file of torch's holds, with its tensors on the CPU, whatever that is. Raises UserError where it can't."""
    try:
        with torch.serialization.safe_globals(NUMPY_SCALARS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on pickle protocols: a file is read or refused, with one line
            return load_bounded(path)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint; check the path") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder, not a checkpoint; name a file in it, such as best.pth") from None
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
        inside = [Path(path, name) for name in ("last.pth", "best.pth", "interrupted.pth")]
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
    parts = {name: content.get(name) or {} for name in ("config", "other_info", "vis_info")}
    for name, part in parts.items():
        if not isinstance(part, dict):
            raise UserError(f"{path}: its {name!r} is a {type(part).__name__}, not a dict; choose another file")
    return Checkpoint(str(path), state, **parts, optimizer=content.get("optimizer"), rng=content.get("rng"))


def state_to_go_on_from(run_dir, options):
    """The checkpoint from which an alternating run in this folder goes on, or None. Raises UserError for another run.

    One that was stopped before its first whole epoch has none but `interrupted.pth`, and begins again.

    Args:
        options: name → value of all by which two runs differ; see `Config.that_decide`.
    """
    paths = [run_dir / name for name in ("last.pth", "interrupted.pth") if (run_dir / name).exists()]
    state = read_checkpoint(paths[0]) if paths and not (run_dir / "step4.pth").exists() else None
    if state is None or "alternating" not in state.other_info:
        return None
    for name, before in state.other_info.get("options", {}).items():
        value = options.get(name, before)
        if value != before:
            raise UserError(
                f"--name={run_dir.name}: was begun with --{name.replace('_', '-')}={before}, not {value}: to go on, "
                "give the same options; for another run, another --name"
            )
    if paths[0].name == "interrupted.pth":
        state.other_info["alternating"] = 0
    return state


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
