"""What a training run says of itself: before it begins what it will do, after its end what it made."""

import shlex

from utils.image_tool import resized_size
from utils.memory_tool import training_memory
from utils.pace_tool import duration
from utils.run_folder import BEST, LAST
from utils.terminal_tool import tell
from utils.word_tool import counted

MADE = {BEST: "the best checkpoint", LAST: "the last, to go on from with --resume",
        "events.jsonl": "numbers by step", "pictures": "pictures by step",
        "detections": "what the best checkpoint sees"}  # fmt: skip


def tell_plan(opt, trainer, train_db, n_steps, per_epoch, run_dir) -> None:
    """Say what a run will do, a line for each matter.

    Args:
        opt: its `Config`.
        trainer: a `FasterRCNNTrainer`, not yet used.
        n_steps: in all.
        per_epoch: steps an epoch.
    """
    model = trainer.faster_rcnn
    n_parameter = sum(p.numel() for p in model.parameters())
    n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    trained = "all" if n_trained == n_parameter else f"{n_trained:,} of them"
    parts = {"both": "", "rpn": "; the RPN alone", "head": "; the head alone"}[trainer.parts]
    n_boxes = sum(int((~train_db.get_annotation(i)[2]).sum()) for i in range(len(train_db)))
    n_of_data = len(train_db), n_boxes, len(train_db.label_names)
    precision = str(trainer.amp).removeprefix("torch.") if trainer.amp else "float32"
    n_at_once = -(-opt.batch_size // (trainer.world.size * opt.accumulate))
    largest = largest_size(model, train_db, opt.train_sizes)
    memory = training_memory(model, largest, n_at_once, trainer.amp, opt.use_adam)
    epochs = counted(opt.epoch, "epoch")
    stops = f" (stops in epoch {-(-n_steps // per_epoch)})" if n_steps < opt.epoch * per_epoch else ""
    rows = {
        "model": f"{type(model).__name__} on {model.device} in {precision}",
        "parameters": f"{n_parameter:,}, {trained} trained{parts}",
        "data": ", ".join(counted(*pair) for pair in zip(n_of_data, ("image", "box", "class"), strict=True)),
        "steps": f"{counted(n_steps, 'step')} of {counted(opt.batch_size, 'image')}"
        f"{shared_out(trainer.world.size, opt.accumulate)}: {epochs} of {per_epoch:,}{stops}",
        "rate": schedule_line(opt, trainer),
        "memory": f"{memory.text()} beside the program",
        "run": str(run_dir),
    }
    for name, row in rows.items():
        tell(f"  {name:11}{row}")


def shared_out(n_processes: int, n_parts: int) -> str:
    """How the images of a step are taken, in words: by several processes, in several parts."""
    processes = f" in {n_processes} processes" if n_processes > 1 else ""
    return processes + (f" in {n_parts} parts{' each' if processes else ''}" if n_parts > 1 else "")


def schedule_line(opt, trainer) -> str:
    """The optimizer and how its learning rate goes, in words."""
    kind = "AdamW" if opt.use_adam else "SGD"
    first = trainer.learning_rate(0, opt.warmup)
    warmup = f", reached in {opt.warmup:,} steps" if opt.warmup else ""
    passed = [milestone for milestone in opt.lr_milestones if milestone < opt.epoch]
    falls = f", times {opt.lr_decay:g} after epoch {', '.join(map(str, passed))}" if passed else ""
    return f"{kind}, learning rate {first:g}{warmup}{falls}"


def largest_size(model, db, train_sizes=None):
    """(H, W) of the prepared picture of `db` that has the most pixels; with `train_sizes`, at the largest of these."""
    min_size, max_size, _, rule = model.preparation
    short = max(train_sizes) if train_sizes else min_size
    sizes = {resized_size(size, short, max_size, rule) for size in {tuple(db.size(i)) for i in range(len(db))}}
    return max(sizes, key=lambda size: size[0] * size[1])


def closing_lines(opt, run_dir, best, has_val, seconds):
    """What a run made, how long it took, and the commands that make use of it.

    Args:
        opt: its `Config`.
        best: its best checkpoint.
        seconds: since it began.
    """
    made = [f"  {run_dir / name}: {what}" for name, what in MADE.items() if (run_dir / name).exists()]
    return [f"made in {duration(seconds)}:", *made, *next_lines(opt, run_dir, best, has_val)]


def next_lines(opt, run_dir, best, has_val):
    """The commands that make use of a run."""
    run = shlex.join([f"--run={run_dir}"])
    lines = ["next:", f"  python train.py dashboard {run}", f"  python train.py report {run}"]
    if has_val:
        kind = [f"--data={opt.data}"] if opt.data != "voc" else []
        words = [f"--load-path={best}", *kind, f"--{opt.data}-data-dir={opt.data_dir}", f"--val-split={opt.val_split}"]
        words += [f"--proposals={','.join(opt.proposals)}"] if opt.proposals else []
        lines.append(f"  python train.py eval {shlex.join(words)}")
    if not opt.proposals:  # else it has no RPN that would find anything in another picture
        lines.append(f"  python train.py predict {shlex.join([f'--load-path={best}'])} --image=FILE_OR_FOLDER")
    return lines
