"""Which command reads which options: what its help lists, and what it refuses.

A command or an option that is new: add it here. `train` has all that the others below do not keep for themselves, so
an option of training needs nothing; a command that is not in `COMMAND_OPTIONS` takes and lists all.
"""

import difflib
from dataclasses import dataclass, field, fields

from utils.config import Config
from utils.errors import UserError
from utils.option_values import flag

SETS = ("voc_data_dir", "train_split", "val_split", "data", "coco_data_dir", "label_names")
ONE_SET = ("voc_data_dir", "val_split", "data", "coco_data_dir", "label_names")
# What decides about a network that is built or read, when it predicts; the other options of a network are for learning.
SIZES = ("min_size", "max_size")
ANCHORS = ("anchor_scales", "anchor_ratios", "convention")
PROPOSING = ("rpn_min_size", "rpn_n_test_pre_nms", "rpn_n_test_post_nms", "rpn_nms_thresh", "rpn_score_thresh")
NETWORK = ("model", *ANCHORS, *PROPOSING, "roi", "class_agnostic")
READ_NETWORK = (*NETWORK, "input_mode", "caffe_pretrain", *SIZES)  # of a checkpoint
DETECTING = ("score_thresh", "nms_thresh", "max_dets")
SPEED = ("device", "amp", "compile")
OF_EVAL = {"detections", "save_detections", "iou_thresh", "plus_one"}
OF_PREDICT = {"image", "every"}
OF_RECORDS = {"run"}  # what a run recorded
OF_ALL = ("config", "quiet", "verbose")  # read by all commands
ALL = tuple(f.name for f in fields(Config) if f.name != "use_chainer")  # which `Config.parse` refuses

A_CHECKPOINT = "name a checkpoint, such as runs/NAME/best.pth"
A_RUN = "name the folder of a run, such as runs/NAME; several with commas"


@dataclass(frozen=True)
class Reads:
    """Names of options, each list in the order of the help.

    Args:
        common: what the short help lists.
        others: what is read too.
        needed: name → what to do where it is not given.
        also: taken without being read, so that the same words do for two commands.
        of_checkpoint: the checkpoint says it where it is not given.
    """

    common: tuple[str, ...]
    others: tuple[str, ...] = ()
    needed: dict[str, str] = field(default_factory=dict)
    also: tuple[str, ...] = ()
    of_checkpoint: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All that is read, each once."""
        return tuple(dict.fromkeys((*self.needed, *self.common, *self.others, *OF_ALL)))


TRAIN = Reads(
    common=(
        *("voc_data_dir", "train_split", "val_split", "data", "coco_data_dir", "model", *SIZES),
        *("epoch", "batch_size", "lr", "lr_milestones", "use_adam", "load_path", "finetune", "resume", "config"),
        *("name", "overwrite", "device", "amp", "num_workers", "visdom", "port", "env", "plot_every"),
    ),
    others=tuple(name for name in ALL if name not in OF_EVAL | OF_PREDICT | OF_RECORDS | {"out"}),
)

COMMAND_OPTIONS = {
    "train": TRAIN,
    "eval": Reads(
        common=("load_path", "detections", *ONE_SET, "test_num", "score_thresh", "out", "save_detections", "device"),
        others=(*READ_NETWORK, "proposals", *DETECTING, "iou_thresh", "plus_one", "test_num_workers", *SPEED),
        of_checkpoint=READ_NETWORK,
    ),
    "predict": Reads(
        needed={"load_path": A_CHECKPOINT, "image": "name a picture, a video, a folder or a glob"},
        common=("out", "save", "score_thresh", "max_dets", "every", "overwrite", "device"),
        others=("label_names", *READ_NETWORK, *DETECTING, *SPEED),
        of_checkpoint=READ_NETWORK,
    ),
    "check": Reads(
        common=(*SETS, "model", *SIZES),
        others=(*ANCHORS, "allowed_border", "load_path", "finetune"),
        also=TRAIN.names,  # before `train`, with its words
    ),
    "propose": Reads(
        needed={"load_path": A_CHECKPOINT},
        common=(*ONE_SET, "out", "rpn_n_test_pre_nms", "rpn_n_test_post_nms", "rpn_nms_thresh", "device"),
        others=(*READ_NETWORK, "test_num_workers", *SPEED),
        of_checkpoint=READ_NETWORK,
    ),
    "models": Reads(common=("model", "device", "amp"), others=NETWORK),
    "dashboard": Reads(needed={"run": A_RUN}, common=("env", "port", "visdom", "visdom_server", "visdom_bind")),
    "report": Reads(needed={"run": A_RUN}, common=("out",)),
}


def options_of(command: str) -> Reads:
    """What `command` reads."""
    return COMMAND_OPTIONS.get(command) or Reads(common=ALL)


def refuse_unread(command: str, given) -> None:
    """Raise UserError for a name in `given` that other commands read, but not this one."""
    own = options_of(command)
    for name in (name.replace("-", "_") for name in given):
        if name in ALL and name not in (*own.names, *own.also):
            near = difflib.get_close_matches(name, own.names, 1)
            readers = [other for other, reads in COMMAND_OPTIONS.items() if name in reads.names]
            who = f"{' and '.join(readers)} {'does' if len(readers) == 1 else 'do'}"
            hint = f"did you mean {flag(near[0])}?" if near else "leave it out"
            raise UserError(f"{flag(name)}: {command} does not read it, but {who}; {hint}")


def refuse_without_needed(command: str, config: Config) -> None:
    """Raise UserError for an option that `command` needs and that is not set."""
    for name, what in options_of(command).needed.items():
        if not getattr(config, name):
            raise UserError(f"{flag(name)} is missing: {what}")
