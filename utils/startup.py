"""What a program does before its packages are loaded, which takes seconds. Imports nothing that is slow."""

import os
import signal
import sys


def load_torch(is_program: bool) -> None:
    """Load torch and torchvision, with what must be set before; leaves with one line and exit code 2 if they don't fit.

    Args:
        is_program: Ctrl-C while packages are loaded ends the process without a word, until `heed_interrupts`.
    """
    # By default the threads of a parallel region spin while they wait for the last one: with any other process on one
    # of the cores (a data loader's, say) that makes a step on a CPU several times as slow. Read when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if is_program and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # there is nothing to tell yet
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError as reason:  # its operators are not compiled for this build of torch (+cpu, say)
        fits = f"torchvision does not fit torch {torch.__version__} ({reason}); install both anew"
        print(f"error: {fits}", file=sys.stderr)
        sys.exit(2)


def heed_interrupts() -> None:
    """Ctrl-C is a KeyboardInterrupt from now on, unless who started this process has it ignored."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
