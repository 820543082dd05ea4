"""The generators that a process has for all who ask: of torch, numpy and Python.

Order, augmentation and samples draw from (seed, epoch, image), never from these; initial weights and dropout do.
"""

import random

import numpy as np
import torch


def seed_everything(*numbers: int) -> None:
    """Set all of them by numbers from 0 to 2**32 − 1."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0]) if len(numbers) > 1 else numbers[0]
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state() -> dict:
    """Where they are, as tensors and plain values."""
    version, numbers, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state()
    state = {
        "torch": torch.get_rng_state(),
        "python": [version, list(numbers), gauss],
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), *rest],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: dict) -> None:
    """Go back to a `random_state`. Raises what comes first (TypeError, KeyError, ...) where it is something else."""
    torch.set_rng_state(state["torch"])
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    if torch.cuda.is_available() and len(state.get("cuda", ())) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
