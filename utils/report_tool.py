"""`train.py report`: one self-contained file, HTML or Markdown, of what a run recorded; several runs are compared."""

import time
from dataclasses import fields
from pathlib import Path

import numpy as np

from utils.cli_tool import make_room, writing
from utils.config import Config
from utils.errors import UserError
from utils.event_log import Tail
from utils.file_tool import whole_file
from utils.image_tool import image_sizes
from utils.option_set import OF_MODEL
from utils.option_values import flag
from utils.pace_tool import duration
from utils.page_tool import HtmlPage, MarkdownPage
from utils.plot_tool import MAX_CLASSES, Series, bars_figure, curves_figure, matrix_figure, precision_recall_figure
from utils.report_scores import scores_shown
from utils.run_tool import Run, read_run
from utils.vis_windows import style_of

PAGES = {".html": HtmlPage, ".htm": HtmlPage, ".md": MarkdownPage}
SECTIONS = ("Result", "Setup", "Curves", "Classes", "Evaluation", "Pictures", "Log")
WINDOWS = {  # in the order of the report, what each shows; others follow as the log has them
    "test_map": "mAP of the validation set",
    "total_loss": "sum of the losses",
    "rpn_loc_loss": "RPN: boxes",
    "rpn_cls_loss": "RPN: object or not",
    "roi_loc_loss": "head: boxes",
    "roi_cls_loss": "head: classes",
    "learning_rate": "",
    "images_per_second": "",
    "step_time": "",
    "memory": "",
    "rpn_recall": "share of the boxes that the proposals find",
    "sample_counts": "foreground and background in the losses",
    "class_ap": "average precision by class",
    "pr_curves": "precision over recall",
    "roi_cm": "confusions of the head, rows by target",
    "rpn_cm": "confusions of the RPN",
    "progress": "",
    "labels": "the classes",
    "config": "",
    "gt_img": "ground truth",
    "pred_img": "what the model sees in it",
}
SETUP_TEXTS = ("progress", "labels", "config")
STRIP = 6  # pictures of a followed image, from the first to the last


def write_report(folders, out=None) -> Path:
    """Write the report of the runs in `folders` to `out`, or into the first folder.

    Returns:
        the file.

    Raises:
        UserError: no such run or log, an ending of `out` that is not among `PAGES`, or it can't be written.
    """
    folders = [Path(folder) for folder in folders]
    for folder in folders:
        Tail(folder)  # refuses what is no run's
    path = Path(out or folders[0] / ("report.html" if len(folders) == 1 else "comparison.html"))
    if path.suffix.lower() not in PAGES:
        raise UserError(f"--out={path}: can't be told what it shall be; end it in .html or .md")
    make_room(path)
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    runs = [read_run(folder, name) for folder, name in zip(folders, names, strict=True)]
    page = PAGES[path.suffix.lower()](", ".join(names), SECTIONS)
    fill(page, runs)
    with writing(path), whole_file(path) as partial:
        partial.write_text(page.whole(), "utf-8")
    return path


def fill(page: HtmlPage | MarkdownPage, runs: list[Run]):
    """All that the report of `runs` says."""
    begun = [time.strftime("%Y-%m-%d %H:%M", time.localtime(run.begun)) for run in runs]
    page.paragraph(f"Faster R-CNN, {'trained' if len(runs) == 1 else 'runs begun'} {', '.join(begun)}")
    for run in runs:
        for note in run.notes:
            page.note(note)
        unknown = set.union(*run.kinds.values()) - {"point", "img", "text", "log", "heatmap", "bars", "curves"}
        for win in [win for win, kinds in run.kinds.items() if kinds & unknown]:
            page.note(f"{win}: of a kind that this version does not know ({', '.join(sorted(unknown))})")
    _result(page, runs)
    _setup(page, runs)
    _curves(page, runs)
    _classes(page, runs)
    _evaluations(page, runs)
    _pictures(page, runs)
    _logs(page, runs)


def _result(page, runs):
    page.section("Result")
    facts = [_facts(run) for run in runs]
    if len(runs) == 1:
        page.cards(facts[0])
    else:
        header = ["run", *(what for what, _, _ in facts[0])]
        rows = [[run.name, *(f"{value} ({more})" if more else value for _, value, more in row)]
                for run, row in zip(runs, facts, strict=True)]  # fmt: skip
        page.tables([("Runs", "", header, rows)])


def _facts(run):
    """(what, value, more) of what a reader asks for first."""
    scored = [point for point in _main_line(run, "test_map") if point[1] is not None]
    best, last = max(scored, key=lambda point: point[1], default=None), scored[-1] if scored else None
    maps = [(f"{point[1]:.4f}", f"epoch {point[0]:g}") if point else ("-", "") for point in (best, last)]
    rate, more = _rate(run)
    return [
        ("best mAP", *maps[0]),
        ("last mAP", *maps[1]),
        ("steps", f"{run.step:,}", f"epoch {scored[-1][0]:g}" if scored else ""),
        ("time", duration(run.ended - run.begun), "h:min:s"),
        ("images/s", rate, more),
    ]


def _rate(run):
    measured = [y for _, y, _, _ in _main_line(run, "images_per_second") if y is not None]
    if measured:
        return f"{np.median(measured):.3g}", "median"
    steps = [(step, at) for _, _, step, at in _main_line(run, "total_loss")]
    batch = run.config.get("batch_size")
    if len(steps) < 2 or not isinstance(batch, int) or steps[-1][1] <= steps[0][1]:
        return "-", ""
    return f"{(steps[-1][0] - steps[0][0]) * batch / (steps[-1][1] - steps[0][1]):.3g}", "evaluation included"


def _main_line(run, win):
    """The points of the curve that bears its window's name, or of the first."""
    lines = run.points.get(win, {})
    return lines.get(win) or next(iter(lines.values()), [])


def _setup(page, runs):
    page.section("Setup")
    columns = [run.name for run in runs] if len(runs) > 1 else ["value"]
    rows = [["data", *map(_data, runs)], ["classes", *map(_class_names, runs)]]
    facts = dict.fromkeys(
        name for run in runs for name, v in run.other_info.items() if isinstance(v, int | float | str)
    )
    rows += [[str(name), *(_shown(run.other_info.get(name, "-")) for run in runs)] for name in facts]
    tables = [("Data", "as the checkpoint says", ["", *columns], rows)]
    defaults, options, network = Config().state_dict(), [], []
    groups = {field.name: field.metadata["group"] for field in fields(Config)}
    for name in dict.fromkeys(name for run in runs for name in run.config):
        values = [_shown(run.config.get(name, "-")) for run in runs]
        if name not in defaults or (defaults[name] is None and (groups[name] == "model" or name in OF_MODEL)):
            network += [[str(name), *values]] if any(values) else []
        elif set(values) != {_shown(defaults[name])}:
            options.append([flag(name), *values, _shown(defaults[name])])
    if options:
        tables.append(("Options", "not the defaults", ["option", *columns, "default"], options))
    if network:
        tables.append(("Network", "as the checkpoint describes it", ["", *columns], network))
    if made_with := list(dict.fromkeys(name for run in runs for one in run.environments for name in one)):
        rows = [[str(name), *(_made_with(run, name) for run in runs)] for name in made_with]
        tables.append(("Made with", "one after the other where the run went on with another", ["", *columns], rows))
    page.tables(tables)
    if not any(run.config for run in runs):
        page.paragraph("There is no checkpoint that would tell the options.")
    _texts(page, runs, lambda win: win in SETUP_TEXTS)


def _made_with(run, name):
    return "; ".join(dict.fromkeys(_shown(one[name]) for one in run.environments if name in one)) or "-"


def _data(run):
    c = run.config
    folder = c.get(f"{c.get('data', 'voc')}_data_dir")
    return f"{folder}: {c.get('train_split', '?')}, evaluated on {c.get('val_split', '?')}" if folder else "-"


def _class_names(run):
    names = run.other_info.get("label_names")
    if not isinstance(names, list | tuple):
        return "-"
    return f"{len(names)}: {_shown(names[:MAX_CLASSES])}{' …' if len(names) > MAX_CLASSES else ''}"


def _shown(value):
    """A value as a command line has it."""
    if isinstance(value, list | tuple):
        return _shown(",".join(map(_shown, value)))
    words = "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return words if len(words) <= 2000 else words[:2000] + "…"


def _texts(page, runs, wanted):
    wins = filter(wanted, _ordered(runs, "texts"))
    page.texts([(_of(runs, run, win), WINDOWS.get(win, ""), run.texts[win])
                for win in wins for run in runs if win in run.texts])  # fmt: skip


def _of(runs, run, win):
    return win if len(runs) == 1 else f"{win}, {run.name}"


def _ordered(runs, kind):
    """The windows of a kind, those of `WINDOWS` first."""
    found = dict.fromkeys(win for run in runs for win in getattr(run, kind))
    return sorted(found, key=lambda win: [*WINDOWS, win].index(win))


def _curves(page, runs):
    page.section("Curves")
    plots = []
    for win in _ordered(runs, "points"):
        series, below, style = [], [], style_of(win)
        for k, run in enumerate(runs):
            lines = run.points.get(win, {})
            for line, points in lines.items():
                one = len(lines) == 1  # then a run has its colour in all plots
                name = ", ".join([run.name] * (len(runs) > 1) + [line] * (not one or line != win)) or win
                series.append(Series(name, [x for x, *_ in points], [y for _, y, *_ in points], k if one else None))
                known = [(x, y) for x, y, *_ in points if y is not None]
                below.append(_numbers_of(name, known, style.xlabel, len(points)))
        plots.append((win, WINDOWS.get(win, ""), curves_figure(series, style), below[:MAX_CLASSES]))
    page.plots(plots)
    if not plots:
        page.paragraph("The run has recorded no curves.")


def _numbers_of(name, known, unit, n):
    if not known:
        return f"{name}: {n:,} points, none with a value"
    low, high = min(known, key=lambda point: point[1]), max(known, key=lambda point: point[1])
    return (f"{name}: last {known[-1][1]:.6g}, lowest {low[1]:.6g} at {unit} {low[0]:,.10g}, "
            f"highest {high[1]:.6g} at {unit} {high[0]:,.10g}, {n:,} points")  # fmt: skip


def _classes(page, runs):
    page.section("Classes")
    plots = []
    for win in _ordered(runs, "bars"):
        having = [run for run in runs if win in run.bars]
        names = list(dict.fromkeys(name for run in having for name in run.bars[win]["names"]))
        values = [dict(zip(run.bars[win]["names"], run.bars[win]["values"], strict=True)) for run in having]
        columns = [Series(run.name, [], [of.get(name) for name in names[:MAX_CLASSES]], runs.index(run))
                   for run, of in zip(having, values, strict=True)]  # fmt: skip
        below = [f"step {run.bars[win]['step']:,}" + (f", {run.name}" if len(runs) > 1 else "") for run in having]
        if len(names) > MAX_CLASSES:
            below.append(f"the first {MAX_CLASSES} of {len(names):,}")
        if names:
            plots.append((win, WINDOWS.get(win, ""), bars_figure(names[:MAX_CLASSES], columns), below))
        else:
            page.note(f"{win}: holds no bars")
    for run in runs:
        for win in _ordered([run], "curves"):
            event = run.curves[win]
            figure = precision_recall_figure(event["names"], event["x"], event["y"])
            plots.append((_of(runs, run, win), WINDOWS.get(win, ""), figure, [f"step {event['step']:,}"]))
        for win in _ordered([run], "heatmaps"):
            event = run.heatmaps[win]
            if len(event["matrix"]) <= MAX_CLASSES:
                figure = matrix_figure(event["matrix"], event["names"])
                plots.append((_of(runs, run, win), WINDOWS.get(win, ""), figure, [f"step {event['step']:,}"]))
            else:
                page.note(f"{_of(runs, run, win)}: {len(event['matrix']):,} classes are too many to be drawn")
    page.plots(plots)
    _texts(page, runs, lambda win: win not in SETUP_TEXTS)


def _evaluations(page, runs):
    page.section("Evaluation")
    found = [(run, name, content) for run in runs for name, content in run.evaluations.items()]
    if not found:
        page.paragraph("No best_eval_*.json of train.py eval lies in the folder.")
    for run, name, content in found:
        try:
            tables, plots = scores_shown(content)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
            page.note(f"{run.folder / name}: is not what train.py eval writes")
            continue
        split, n = content.get("split", "?"), content.get("n_images", "?")
        page.heading(_of(runs, run, name), f"{_shown(n)} images of {_shown(split)}")
        page.tables(tables)
        page.plots(plots)


def _pictures(page, runs):
    page.section("Pictures")
    for run in runs:
        if run.pictures and len(runs) > 1:
            page.heading(run.name)
        pair = [win for win in ("gt_img", "pred_img") if win in run.pictures]
        followed = [win for win in run.pictures if win.startswith("followed_")]
        rest = [win for win in run.pictures if win not in (*pair, *followed)]
        _last_pictures(page, run, pair)
        for win in followed:
            shown = run.pictures[win]
            at = np.linspace(0, len(shown) - 1, min(STRIP, len(shown))).round().astype(int)
            page.heading(win, "through the training")
            read = [_picture(page, run, shown[k][2] or f"step {shown[k][0]:,}", shown[k][1]) for k in at]
            page.pictures([picture for picture in read if picture], strip=True)
        _last_pictures(page, run, rest)
    if not any(run.pictures for run in runs):
        page.paragraph("The run has recorded no pictures.")


def _last_pictures(page, run, wins):
    last = [(win, *run.pictures[win][-1]) for win in wins]
    read = [_picture(page, run, f"{win}, {caption or f'step {step:,}'}", file) for win, step, file, caption in last]
    page.pictures([picture for picture in read if picture])


def _picture(page, run, words, file):
    """(words, content, media type) of a picture in the run's folder, or None and a note in its place."""
    path = run.folder / file
    try:
        if not path.resolve().is_relative_to(run.folder.resolve()):
            page.note(f"{words}: {file} is not in the run's folder")
            return None
        if path.stat().st_size > page.room():
            page.left_out(words)
            return None
        image_sizes(path)
        content = path.read_bytes()
    except UserError as error:
        page.note(f"{words}: {error}")
    except (OSError, ValueError):
        page.note(f"{words}: {file} is missing")
    else:
        kind = {b"\xff\xd8": "image/jpeg", b"\x89P": "image/png"}.get(content[:2])
        if kind:
            return words, content, kind
        page.note(f"{words}: {file} is neither JPEG nor PNG")
    return None


def _logs(page, runs):
    page.section("Log")
    for run in runs:
        for win, lines in run.logs.items():
            shown = [f"[{time.strftime('%m-%d %H:%M:%S', time.localtime(at))}] {line[:2000]}" for at, line in lines]
            page.log(f"{_of(runs, run, win)}: the last {len(shown)} lines", shown)
    if not any(run.logs for run in runs):
        page.paragraph("The run has written no log.")
