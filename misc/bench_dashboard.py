"""What the dashboard costs a training run: with a server that answers, that is down, that hangs, and without any.

    python misc/bench_dashboard.py                                       # tiny at 128 px: the quickest steps on a CPU
    python misc/bench_dashboard.py --model=vgg16 --min-size=600 --device=cuda

In one run, in turns: `--steps` training steps, then a look (what train.py does every --plot-every steps) in each of the
four states. A look's prediction, of which `pred_img` shows the result, is timed apart. All that is recorded also goes
to a log of events on the disk.

Prints Markdown, medians over the rounds: milliseconds of a step, of a look for the caller (drawing, copying, queueing;
without the prediction), of the processor in all threads until all is sent and written (encoding, sending), and what the
caller's and the processor's make of 40 steps, in per cent.
"""

import argparse
import signal
import socket
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from tqdm import tqdm

from data.dataset import Batch
from model import build_model
from trainer import FasterRCNNTrainer
from utils.cli_tool import at_least_one, device_argument
from utils.config import Config
from utils.event_log import EventLog
from utils.pace_tool import Pace
from utils.show_tool import Show
from utils.vis_tool import Visualizer
from utils.visdom_server import Server, start_server

STATES = ("off", "up", "down", "hung")
PLOT_EVERY = 40
N_CLASSES = 20


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny", help="a name of train.py's --model")
    parser.add_argument("--min-size", type=at_least_one, default=128, help="pixels of the short side")
    parser.add_argument("--batch-size", type=at_least_one, default=1, help="images a step")
    parser.add_argument("--steps", type=at_least_one, default=5, help="between two looks")
    parser.add_argument("--rounds", type=at_least_one, default=10, help="looks in each state")
    parser.add_argument("--device", type=device_argument, default="auto", help="cpu, cuda, cuda:1, ...; auto")
    args = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench_dashboard_")))
        rows = measure(args, folder, stack)
    print(report(args, rows))


def measure(args, folder, stack):
    """State → for each round (ms a step, ms of the caller, ms of the processor, ms of the prediction)."""
    model = build_model(args.model, N_CLASSES, min_size=args.min_size, max_size=args.min_size * 5 // 3)
    model = model.to(args.device, memory_format=torch.channels_last).train()
    trainer = FasterRCNNTrainer(model, config=Config().parse({"batch_size": args.batch_size}))
    batch = make_batch(args.batch_size, args.min_size, args.device)
    watch = Watch(model)
    shows = {state: show_in(state, trainer, folder, stack) for state in STATES}
    rows = {state: [] for state in STATES}
    for k in tqdm(range(args.rounds + 1), unit="round", leave=False):
        for state, (vis, pace, show) in shows.items():
            trainer.vis = vis
            begin = time.perf_counter()
            for _ in pace.waiting([batch] * args.steps):
                trainer.train_step(*batch)
                pace.count(args.batch_size)
            synchronize(args.device)
            step = (time.perf_counter() - begin) / args.steps
            watch.seconds = watch.processor = 0.0
            begin, processor = time.perf_counter(), time.process_time()
            show.look(batch, (k + 1) * args.steps, Quiet())
            caller = time.perf_counter() - begin - watch.seconds
            vis.flush(5.0 if state == "up" else 0.5)
            processor = time.process_time() - processor - watch.processor
            if k:  # the first warms up
                rows[state].append([1000 * seconds for seconds in (step, caller, processor, watch.seconds)])
    return rows


def show_in(state, trainer, folder, stack):
    """A `Visualizer` whose server is in the given state, and what feeds it."""
    server = Server(port=free_port(), timeout=0.5)
    if state in ("up", "hung"):
        process = start_server(server.port, folder / f"{state}.log", folder / f"{state}_env")
        stack.callback(process.wait)
        stack.callback(process.kill)
        if state == "hung":
            process.send_signal(signal.SIGSTOP)
    vis = Visualizer("bench", server=server, enabled=state != "off", notify=lambda _: None,
                     events=EventLog(folder / state))  # fmt: skip
    stack.callback(vis.close, 1.0)
    trainer.vis = vis
    pace = Pace(10**6)
    return vis, pace, Show(trainer, pace, steps_per_epoch=10**4)


class Watch:
    """Seconds that the model's predictions take, of the clock and of the processor."""

    def __init__(self, model):
        self.seconds = self.processor = 0.0
        predict = model.predict

        def watched(*args, **kwargs):
            begin, processor = time.perf_counter(), time.process_time()
            found = predict(*args, **kwargs)
            self.seconds += time.perf_counter() - begin
            self.processor += time.process_time() - processor
            return found

        model.predict = watched


class Quiet:
    """A bar that shows nothing."""

    def set_postfix(self, **_):
        pass


def make_batch(n, min_size, device):
    """Noise, which no JPEG makes small, with eight boxes an image."""
    generator = torch.Generator().manual_seed(0)
    height, width = min_size, min_size * 5 // 3
    imgs = torch.randn(n, 3, height, width, generator=generator).to(device, memory_format=torch.channels_last)
    corner = torch.rand(n, 8, 2, generator=generator) * torch.tensor([height, width]) / 2
    side = (0.1 + 0.4 * torch.rand(n, 8, 2, generator=generator)) * torch.tensor([height, width])
    bboxes = [*torch.cat([corner, corner + side], dim=2).to(device)]
    labels = [*torch.randint(N_CLASSES, (n, 8), generator=generator).to(device)]
    sizes = torch.tensor([[height, width]] * n)
    return Batch(imgs, bboxes, labels, torch.ones(n, dtype=torch.float64), sizes, torch.arange(n))


def synchronize(device):
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def report(args, rows):
    lines = [
        f"{args.model} at {args.min_size} px, {args.batch_size} image(s) a step, on {args.device}; medians of "
        f"{args.rounds} rounds. Per cent: of {PLOT_EVERY} steps.",
        "",
        "| server | step, ms | look, ms of the caller | % | of the processor, all threads | % | prediction apart, ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for state, measured in rows.items():
        step, caller, processor, prediction = (median(column) for column in zip(*measured, strict=True))
        shares = (f"{100 * ms / (PLOT_EVERY * step):.2f}" for ms in (caller, processor))
        cells = (
            state,
            f"{step:.0f}",
            f"{caller:.1f}",
            next(shares),
            f"{processor:.1f}",
            next(shares),
            f"{prediction:.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
