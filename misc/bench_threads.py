"""What a busy neighbour costs a training step on a CPU, with and without torch's threads spinning while they wait.

    python misc/bench_threads.py

Times a step of the demo's model in fresh processes, on the idle machine and with one other process that keeps a core
busy, as a data loader's does. The table of the last run is in docs/performance.md.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {"libgomp's default": None, "GOMP_SPINCOUNT=1000 (ours)": "1000", "GOMP_SPINCOUNT=0": "0"}

STEP = """
import time, torch
from model import FasterRCNNTiny
from trainer import FasterRCNNTrainer
torch.manual_seed(0)
trainer = FasterRCNNTrainer(FasterRCNNTiny(6).to(memory_format=torch.channels_last))
batch = (torch.randn(4, 3, 160, 192), [torch.tensor([[20., 20., 90., 90.]])] * 4, [torch.tensor([1])] * 4, 1.0)
times = []
for _ in range(25):
    begin = time.perf_counter()
    trainer.train_step(*batch)
    times.append(time.perf_counter() - begin)
print(sorted(times[5:])[10])
"""


def step_seconds(spin_count):
    env = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"}
    if spin_count is not None:
        env["GOMP_SPINCOUNT"] = spin_count
    done = subprocess.run([sys.executable, "-c", STEP], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main():
    idle = {name: step_seconds(value) for name, value in SETTINGS.items()}
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        busy = {name: step_seconds(value) for name, value in SETTINGS.items()}
    finally:
        neighbour.kill()
    first = next(iter(idle.values()))
    print(f"{os.cpu_count()} cores; ratios are to the first row, idle\n")
    print("| setting | idle, ms | ratio | one core busy, ms | ratio |\n|---|---|---|---|---|")
    for name in SETTINGS:
        print(
            f"| {name} | {idle[name] * 1e3:.0f} | {idle[name] / first:.2f} "
            f"| {busy[name] * 1e3:.0f} | {busy[name] / first:.2f} |"
        )


if __name__ == "__main__":
    main()
