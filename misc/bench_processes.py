"""How training gains by more processes on this machine: images a second of one, two, ..., in turns.

    python misc/bench_processes.py --model=tiny --size=160 --batch-size=8
    python misc/bench_processes.py --device=cuda --model=vgg16 --size=600

Each number of processes makes the same steps of the same number of images in all; on a CPU they share its cores, on
GPUs each has its own. Beside them stands one process that takes its images in as many parts. Prints images a second
(the best of the rounds, for other programs only take away) and the ratio to one process.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from tqdm import tqdm

from model.zoo import MODELS, build_model
from trainer import FasterRCNNTrainer
from utils.cli_tool import at_least_one, choose_device
from utils.config import Config
from utils.dist_tool import joined
from utils.errors import UserError, run_program
from utils.visdom_server import port_in_use

WARM_UP = 2


def step_seconds(args):
    """In one of the processes: the median of its steps."""
    with joined() as world:
        device = choose_device(args.device, world)
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // world.local_size))
        torch.manual_seed(0)
        model = build_model(args.model, 20).to(device, memory_format=torch.channels_last)
        model.freeze_bn()
        trainer = FasterRCNNTrainer(model, config=Config(), world=world)
        n = args.batch_size // (world.size * args.accumulate)
        box = torch.tensor([[0.2, 0.2, 0.6, 0.7]], device=device) * args.size
        batch = (torch.randn(n, 3, args.size, args.size, device=device), [box] * n,
                 [torch.tensor([1], device=device)] * n, 1.0)  # fmt: skip
        batches, weights = [(*batch, None, range(n), None)] * args.accumulate, [n / args.batch_size] * args.accumulate
        times = []
        for _ in range(args.steps + WARM_UP):
            begin = time.perf_counter()
            trainer.update(batches, weights)
            trainer.settle()
            times.append(time.perf_counter() - begin)
        world.wait()
        return sorted(times[WARM_UP:])[args.steps // 2]


def processes(args, n, accumulate):
    """Seconds a step of `n` processes."""
    port = str(next(port for port in range(29500, 30500) if not port_in_use(port)))
    own = [
        f"--{name.replace('_', '-')}={value}" for name, value in vars(args).items() if name not in ("rounds", "most")
    ]
    words = [sys.executable, __file__, *own, f"--accumulate={accumulate}", "--one"]
    started = []
    for rank in range(n):
        env = {"RANK": rank, "WORLD_SIZE": n, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": n, "MASTER_ADDR": "127.0.0.1"}
        env = os.environ | {name: str(value) for name, value in env.items()} | {"MASTER_PORT": port}
        started.append(subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True))
    said = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise UserError(f"{n} processes: one of them failed, see above")
    return max(map(float, said))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="tiny")
    parser.add_argument("--size", type=at_least_one, default=160, help="pixels of the square pictures")
    parser.add_argument("--batch-size", type=at_least_one, default=8, help="images a step, of all processes together")
    parser.add_argument("--steps", type=at_least_one, default=20)
    parser.add_argument("--rounds", type=at_least_one, default=3)
    parser.add_argument("--most", type=at_least_one, default=4, help="processes; 1, 2, 4, ... up to it")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--accumulate", type=at_least_one, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(step_seconds(args))
        return
    del args.one, args.accumulate
    counts = [2**k for k in range(args.most.bit_length())]
    if args.batch_size % counts[-1]:
        raise UserError(f"--batch-size={args.batch_size}: must be a multiple of {counts[-1]} processes")
    rows = [(n, 1) for n in counts] + [(1, n) for n in counts[1:]]
    best = dict.fromkeys(rows, float("inf"))
    for _ in tqdm(range(args.rounds), "rounds"):
        for row in rows:
            best[row] = min(best[row], processes(args, *row))
    print(f"{args.model}, {args.batch_size} images of {args.size}×{args.size} a step, {args.device}, {os.cpu_count()} "
          f"cores, torch {torch.__version__}\n")  # fmt: skip
    print("| processes | parts | images / s | to one process |\n|---|---|---|---|")
    for (n, parts), seconds in best.items():
        print(f"| {n} | {parts} | {args.batch_size / seconds:.1f} | {best[1, 1] / seconds:.2f} |")


if __name__ == "__main__":
    run_program(main)
