"""What several processes tell each other in a step, on paper: bytes and time, up to 64 GPUs.

    python misc/communication.py
    python misc/communication.py --model=vgg16 --seconds=0.16

The gradients of all parameters that are trained are added up by a ring: of B bytes each of P processes sends and takes
2 (P − 1) / P · B (Patarasuk & Yuan 2009). Over a link of that many bytes a second, and with 2 (P − 1) messages that
take a while each however small they are, that is the time of a step's communication. DistributedDataParallel sends
what is there while the backward pass makes the rest, two thirds of a step or so: the share of the ideal speed is told
for none of it hidden, and for as much as may be. The number of bytes is a fact of the model; the bandwidths are those
of the hardware's names, of which some 80 % are had in practice, and nothing here was measured on such hardware.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from model.zoo import MODELS, build_model
from utils.errors import run_program

LINKS = {  # name → (bytes a second of one GPU in one direction, seconds of a message)
    "NVLink, H100": (450e9, 3e-6),
    "PCIe 4.0 ×16": (32e9, 5e-6),
    "InfiniBand 200 Gb/s": (25e9, 5e-6),
    "Ethernet 25 Gb/s": (3.1e9, 30e-6),
    "Ethernet 10 Gb/s": (1.25e9, 30e-6),
    "Ethernet 1 Gb/s": (0.125e9, 50e-6),
}
PROCESSES = 2, 4, 8, 16, 32, 64
BACKWARD = 2 / 3  # of a step: what may hide communication
COUNTED = 8 * (5 + 4 + 21 * 21 + 3)  # bytes of losses and counts of a step, for 20 classes: see `TrainingMeters.since`


def trained_bytes(name):
    """Bytes of the gradients of a step: float32, of what ImageNet weights leave to be trained."""
    with torch.device("meta"):
        model = build_model(name, 20)
    if model.pretrained_weights is not None:
        model.freeze_bn()
    return 4 * sum(p.numel() for p in model.parameters() if p.requires_grad)


def ring_seconds(n_bytes, n_processes, bytes_a_second, latency):
    """Of one sum over all processes."""
    return 2 * (n_processes - 1) * (n_bytes / n_processes / bytes_a_second + latency)


def efficiencies(communication, step):
    """(none of it hidden, as much as may be): the step alone / the step with it."""
    return step / (step + communication), step / (step + max(0.0, communication - BACKWARD * step))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, help="one; by default VGG16 and two ResNets")
    parser.add_argument("--seconds", type=float, default=0.16, help="of a step on one GPU (VGG16, TITAN Xp: 0.16)")
    args = parser.parse_args()
    for name in [args.model] if args.model else ("vgg16", "resnet50_fpn", "resnet101_c4"):
        n_bytes = trained_bytes(name) + COUNTED
        sent = ", ".join(f"{2 * (n - 1) / n * n_bytes / 1e6:,.0f} by {n}" for n in (PROCESSES[0], PROCESSES[-1]))
        print(f"`{name}`: gradients of {n_bytes / 1e6:,.0f} MB a step; of these each process sends, in MB, {sent}.\n")
        print("| link | " + " | ".join(f"{n} processes" for n in PROCESSES) + " |")
        print("|---|" + "---|" * len(PROCESSES))
        for link, (speed, latency) in LINKS.items():
            cells = []
            for n in PROCESSES:
                seconds = ring_seconds(n_bytes, n, speed, latency)
                least, most = efficiencies(seconds, args.seconds)
                share = f"{least:.0%}" if f"{least:.0%}" == f"{most:.0%}" else f"{least:.0%} to {most:.0%}"
                cells.append(f"{1000 * seconds:,.{int(seconds < 0.01)}f} ms, {share}")
            print(f"| {link} | " + " | ".join(cells) + " |")
        print()


if __name__ == "__main__":
    run_program(main)
