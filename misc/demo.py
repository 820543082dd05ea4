"""The main job in one command: `make demo`.

Makes a toy dataset, starts a visdom server if none answers, trains the small model on it while the dashboard shows how,
evaluates it, draws what it detects, and says where everything lies. It needs no file from outside the clone.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from misc.make_toy_voc import make_toy_voc  # noqa: E402
from misc.visdom_assets import ensure_assets  # noqa: E402
from utils.errors import UserError, run_program  # noqa: E402
from utils.visdom_server import is_visdom, port_in_use, start_server  # noqa: E402

# Found by trying, on 2 cores: docs/results.md.
TRAINING = {
    "model": "tiny",
    "min-size": 128,
    "max-size": 256,
    "use-adam": True,
    "lr": 1e-3,
    "batch-size": 4,
    "epoch": 4,
    "lr-milestones": "3",
    "lr-decay": 0.2,
    "warmup": 50,
    "num-workers": 0,
    "test-num-workers": 0,
    "plot-every": 20,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", default="runs/demo", help="where the run goes")
    parser.add_argument("--data", default="toy_voc", help="where the toy dataset goes")
    parser.add_argument("--port", type=int, default=8097, help="visdom's port; the next free one if it is taken")
    parser.add_argument("--n-train", type=int, default=800, help="training images")
    parser.add_argument("--n-val", type=int, default=100, help="images for evaluation")
    parser.add_argument("--epoch", type=int, default=TRAINING["epoch"], help="passes over the training images")
    args = parser.parse_args()
    begin = time.monotonic()

    step(f"a toy dataset in {args.data}")
    make_toy_voc(args.data, args.n_train, args.n_val)
    step("the dashboard")
    port, server = dashboard(args.port, args.folder)

    step(f"training, {args.epoch} epochs")
    options = TRAINING | {"epoch": args.epoch, "voc-data-dir": args.data, "port": port, "env": "demo"}
    run_train("train", **options, overwrite=True, name=Path(args.folder).relative_to("runs"))
    best = f"{args.folder}/best.pth"
    step("evaluation")
    run_train("eval", **{"load-path": best, "voc-data-dir": args.data, "test-num-workers": 0})
    step("detections")
    first = Path(args.data, "ImageSets/Main/val.txt").read_text().split()[0]  # the ids after it are of val as well
    pictures = f"{args.data}/JPEGImages/{first[:-1]}[{first[-1]}-9].jpg"
    run_train("predict", **{"load-path": best, "image": pictures, "out": f"{args.folder}/detections"})

    print(f"\nDone in {time.monotonic() - begin:.0f} s.")
    print(f"  checkpoints      {args.folder}/best.pth, {args.folder}/last.pth")
    print(f"  evaluation       {args.folder}/best_eval_val.json")
    print(f"  drawn pictures   {args.folder}/detections/")
    if port:
        print(f"  dashboard        http://127.0.0.1:{port}/env/demo")
    if server:
        print(f"                   (its server goes on; end it with: kill {server.pid})")


def step(what):
    print(f"\n== {what}", flush=True)


def dashboard(port, folder):
    """(port of a visdom server on this machine, its process if it was started here); the port may be None."""
    if not ensure_assets():
        print("the dashboard's page may stay blank; the training goes on")
    if is_visdom(port):
        print(f"a visdom server answers at http://127.0.0.1:{port}")
        return port, None
    while port_in_use(port):
        port += 1
    try:
        server = start_server(port, f"{folder}/visdom.log", f"{folder}/visdom")
    except UserError as error:
        print(f"{error}; the training goes on without a dashboard")
        return None, None
    print(f"watch it learn: http://127.0.0.1:{port}/env/demo")
    return port, server


def run_train(command, **options):
    """Run a command of train.py as a user would; ends the demo with its exit code if it fails."""
    if options.get("port", 0) is None:
        options |= {"port": 8097, "visdom": False}
    words = [sys.executable, "train.py", command, *(f"--{name}={value}" for name, value in options.items())]
    print("$ python", *words[1:], flush=True)
    # The demo has the machine to itself: threads that spin while they wait are then the fastest (docs/performance.md).
    env = {"GOMP_SPINCOUNT": "300000"} | os.environ
    code = subprocess.run(words, cwd=ROOT, env=env).returncode
    if code:
        sys.exit(code)


if __name__ == "__main__":
    run_program(main)
