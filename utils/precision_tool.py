"""Mixed precision: in which number format the commands let a device multiply.

Only what autocast lists (convolutions, matrix products) leaves float32; boxes, NMS and losses never do.
"""

import os

import torch

from utils.errors import UserError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}


def has_bf16_units(device):
    """Whether `device` has matrix units for bfloat16: AMX in a CPU, tensor cores from Ampere on in a GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and torch.cpu._is_amx_tile_supported()


def amp_dtype(name, device):
    """The format that --amp=NAME means on `device`: a torch.dtype, or None for float32.

    Raises:
        UserError: float16 without a GPU, where its range needs a scaled loss and nothing is gained.
    """
    if name == "auto":
        name = "bf16" if has_bf16_units(device) else "off"
    if name == "fp16" and device.type != "cuda":
        raise UserError(f"--amp=fp16: not on {device.type}; take --amp=bf16 or --amp=off")
    return DTYPES[name]


def autocast(device, dtype):
    """A context in which the network computes in `dtype`; None for float32."""
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def in_full_precision(x, *layers):
    """What each of the layers makes of `x`, in the precision of their weights also under autocast.

    For the last layers, which are small: bfloat16 has 128 numbers between ½ and 1, and boxes are ranked by their
    scores.
    """
    with autocast(x.device, None):
        return tuple(layer(x.to(next(layer.parameters(), x).dtype)) for layer in layers)


def be_deterministic(wanted):
    """With True: only algorithms that give the same numbers in every run; on a CPU there are no others here.

    torch raises RuntimeError where it has none, see `not_deterministic`.
    """
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first matrix product is made
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


def not_deterministic(error: BaseException) -> str | None:
    """One line, if `error` is torch's for an operation that has no such algorithm; else None."""
    what, found, _ = str(error).partition(" does not have a deterministic implementation")
    if not (found and isinstance(error, RuntimeError)):
        return None
    return (
        f"--deterministic: {what} has no deterministic algorithm on this device; choose another --roi, or leave it out"
    )
