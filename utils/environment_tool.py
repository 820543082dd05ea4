"""What a run was made with, so that it can be made again: versions, device, the state of the code, the command."""

import os
import platform
import shlex
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "scikit-image", "cupy-cuda13x", "cupy-cuda12x")
ROOT = Path(__file__).resolve().parents[1]


def command() -> str:
    """The command line of this process, as a shell takes it."""
    return shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])


def environment(device: torch.device) -> dict[str, str]:
    """Name → what it is, as plain texts. What can't be found out is left out."""
    found = {
        "time": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": command(),
        "code": git_state(ROOT),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        **{name: _version(name) for name in PACKAGES},
        "device": device_name(device),
        "threads": str(torch.get_num_threads()),
    }
    if device.type == "cuda":
        found |= {"CUDA": torch.version.cuda, "cuDNN": str(torch.backends.cudnn.version())}
    return {name: text for name, text in found.items() if text}


def device_name(device: torch.device) -> str:
    """What a device is called by who made it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = (line.partition(":")[2] for line in lines if line.startswith("model name"))
        return next(names, "").strip() or platform.processor()
    except OSError:  # not Linux
        return platform.processor()


def git_state(folder) -> str | None:
    """The commit of the repository whose root is `folder`, and whether files differ from it; None if it is none."""
    if not os.path.exists(Path(folder, ".git")):  # else a repository around it would be taken for it
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return commit and f"{commit}{', with changes' if changed else ''}"


def _git(folder, *words):
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None
