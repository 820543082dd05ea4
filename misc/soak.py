"""Train for an hour while something breaks every minute, and see whether it shows.

    python misc/soak.py --minutes=60 --every=60
    python misc/soak.py --minutes=2 --every=10

A toy run learns in a folder of its own, with a dashboard. In turns a loading process is killed, visdom is killed, hung
and started again, pictures disappear for a moment, the disk refuses checkpoints; now and then the run itself is stopped
or killed, and begun again with --resume=auto. At the end a run that nothing disturbs makes as many steps. Printed are
the memory and the open files of each process that ran, at its start and its end, and whether both came to the same
parameters. Exit code 1 if not, or if one of them grew.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from tqdm import tqdm

from misc.make_toy_voc import make_toy_voc
from utils.cli_tool import at_least_one
from utils.errors import UserError, run_program
from utils.visdom_server import port_in_use, start_server

ROOT = Path(__file__).resolve().parent.parent
TRAIN = ["train", "--model=tiny", "--min-size=64", "--max-size=96", "--batch-size=2", "--use-adam", "--lr=0.001",
         "--voc-data-dir=toy", "--num-workers=1", "--test-num-workers=0", "--device=cpu", "--plot-every=20",
         "--eval-every=5", "--save-every=50", "--epoch=1000000"]  # fmt: skip
WARM_UP = 30  # seconds after which a process has what it needs
MAY_GROW = 1.15  # of the memory: glibc's heap in pieces; what is lost each step would be far more in an hour


class Soak:
    """The run, its server and what befalls them.

    Args:
        home: a folder with the data in toy/.
    """

    def __init__(self, home):
        self.home, self.port = home, next(port for port in range(19000, 19900) if not port_in_use(port))
        self.process = self.server = None
        self.lives, self.n = [], {}  # [(samples of memory, of open files)] of each process; fault → how often

    def begin(self):
        log = (self.home / "run.log").open("a")
        words = [sys.executable, str(ROOT / "train.py"), *TRAIN, "--name=soak", "--resume=auto", "--visdom=on"]
        self.process = subprocess.Popen([*words, f"--port={self.port}"], cwd=self.home, stdout=log, stderr=log)
        log.close()
        self.begun, samples = time.monotonic(), []
        self.lives.append(samples)

    def serve(self):
        self.server = start_server(self.port, self.home / "visdom.log", self.home / "visdom")

    def watch(self):
        """Note what the run's process holds; begin another where one has ended."""
        if self.process.poll() is not None:
            self.begin()
        elif time.monotonic() - self.begun > WARM_UP:
            folder = Path(f"/proc/{self.process.pid}")
            pages = int((folder / "statm").read_text().split()[1])
            self.lives[-1].append((pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len([*(folder / "fd").iterdir()])))

    # What befalls them. The first ones are more often than those that end the run.

    def kill_loader(self):
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in children[:1]:
            os.kill(int(pid), signal.SIGKILL)

    def restart_visdom(self):
        self.server.kill()
        self.server.wait()
        time.sleep(2)
        self.serve()

    def hang_visdom(self):
        self.server.send_signal(signal.SIGSTOP)
        time.sleep(5)
        self.server.send_signal(signal.SIGCONT)

    def take_pictures_away(self):
        """Those of the evaluation: at most they are not shown, or it ends, and the run goes on."""
        pictures, away = self.home / "toy/JPEGImages", self.home / "away"
        pictures.rename(away)
        time.sleep(0.5)
        away.rename(pictures)

    def take_folder_away(self):
        folder, away = self.home / "runs/soak", self.home / "runs/away"
        if folder.exists():
            folder.rename(away)
            time.sleep(8)
            away.rename(folder)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)

    def kill(self):
        self.process.kill()


FAULTS = ("kill_loader", "restart_visdom", "hang_visdom", "take_folder_away") * 3 + (
    "take_pictures_away",
    "stop",
    "kill",
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=at_least_one, default=60, help="how long; default: %(default)s")
    parser.add_argument(
        "--every", type=at_least_one, default=60, help="seconds between two faults; default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the faults' order")
    args = parser.parse_args()
    if not Path("/proc/self/statm").exists():
        raise UserError("misc/soak.py: reads /proc, which this system has not; run it on Linux")
    home = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        make_toy_voc(home / "toy", n_train=40, n_val=6, size=96)
        soak = Soak(home)
        befall(soak, args)
        n_steps = state(home / "runs/soak/last.pth")["other_info"]["step"]
        words = [*TRAIN, "--name=whole", "--visdom=off", "--quiet", f"--max-iter={n_steps}"]
        subprocess.run([sys.executable, ROOT / "train.py", *words], cwd=home, check=True)
        good = report(soak, n_steps, home)
    finally:
        shutil.rmtree(home)
    sys.exit(not good)


def befall(soak, args):
    rng, end = random.Random(args.seed), time.monotonic() + 60 * args.minutes
    soak.serve()
    soak.begin()
    next_at = time.monotonic() + args.every
    with tqdm(total=60 * args.minutes, desc="soak", unit="s") as bar:
        while time.monotonic() < end:
            time.sleep(1)
            bar.update(1)
            soak.watch()
            if time.monotonic() > next_at and soak.process.poll() is None:
                name = rng.choice(FAULTS)
                getattr(soak, name)()
                soak.n[name] = soak.n.get(name, 0) + 1
                next_at = time.monotonic() + args.every
    if soak.process.poll() is None:
        soak.stop()
    soak.process.wait()
    soak.server.kill()
    soak.server.wait()


def state(path):
    return torch.load(path, weights_only=True)


def report(soak, n_steps, home):
    print(f"{n_steps:,} steps; " + ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in sorted(soak.n.items())))
    print("\n| process | samples | memory at its start, at its end (MB) | open files |\n|---|---|---|---|")
    good = True
    for k, samples in enumerate((life for life in soak.lives if len(life) >= 20), 1):
        fifth = len(samples) // 5
        first, last = (sorted(column) for column in (samples[:fifth], samples[-fifth:]))
        (memory, files), (memory_after, files_after) = (part[len(part) // 2] for part in (first, last))
        good = good and memory_after <= MAY_GROW * memory and min(n for _, n in last) <= max(n for _, n in first)
        print(f"| {k} | {len(samples)} | {memory:.0f}, {memory_after:.0f} | {files}, {files_after} |")
    whole, soaked = state(home / "runs/whole/last.pth"), state(home / "runs/soak/last.pth")
    same = all(torch.equal(whole["model"][name], soaked["model"][name]) for name in whole["model"])
    print(f"\nthe parameters are {'the same to the last bit' if same else 'NOT the same'} as without a fault")
    return good and same


if __name__ == "__main__":
    run_program(main)
