"""What a training run says of itself."""

import shlex


def next_lines(best, opt, has_val):
    """The commands that make use of a run, `best` being its best checkpoint; `opt` is its `Config`."""
    lines = ["next:"]
    if has_val:
        kind = [f"--data={opt.data}"] if opt.data != "voc" else []
        words = [f"--load-path={best}", *kind, f"--{opt.data}-data-dir={opt.data_dir}", f"--val-split={opt.val_split}"]
        words += [f"--proposals={','.join(opt.proposals)}"] if opt.proposals else []
        lines.append(f"  python train.py eval {shlex.join(words)}")
    if not opt.proposals:  # else it has no RPN that would find anything in another picture
        lines.append(f"  python train.py predict {shlex.join([f'--load-path={best}'])} --image=FILE_OR_FOLDER")
    return lines
