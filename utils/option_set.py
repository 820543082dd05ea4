"""What a set of options can do, whatever the options are: take a command line, or what a checkpoint stored."""

import difflib
from contextlib import suppress
from dataclasses import asdict, field, fields
from typing import get_type_hints

from utils.errors import UserError
from utils.option_values import flag, read_value

GROUPS = ("data", "model", "schedule", "training", "run", "evaluation", "prediction")
BESIDE = {"num_workers", "test_num_workers", "device", "compile"}  # how fast a run learns, not what
# What --config does not take: what is of one machine, where a run begins, and what is written or read once.
OF_ONE_RUN = BESIDE | {"use_chainer", "load_path", "finetune", "detections", "save_detections", "out", "image"}
OF_MODEL = {"roi_n_sample", "nms_thresh", "max_dets"}  # a checkpoint says what they were for its own model
OF_USER = {"debug_file", "visdom_server", "visdom_bind", "out", "save_detections", "overwrite"}  # never of a file
# Of the group "run" it takes these alone.
OF_ALL_RUNS = {"plot_every", "eval_every", "save_every", "keep", "on_nonfinite", "nonfinite_limit"}


def option(default, group, help, *, low=None, high=None, choices=None, also=()):
    """A field with what `parse` checks and `--help` shows. `low` and `high` are inclusive, for each item of a tuple.

    `also` has other words for some of the choices.
    """
    meta = {"group": group, "help": help, "low": low, "high": high, "choices": choices, "also": dict(also)}
    return field(default=default, metadata=meta)


class OptionSet:
    """Base of a dataclass whose fields are `option`s."""

    def parse(self, given):
        """Take options, as strings from a command line or as values, checked. Nothing changes if one is wrong.

        Args:
            given: name → value; names with '-' or '_'.

        Returns:
            self; `self.given` has the names.

        Raises:
            UserError: an unknown name (the nearest is suggested), a wrong type, or a value out of range.
        """
        known = {f.name for f in fields(self)}
        values = {}
        for name, value in given.items():
            name = name.replace("-", "_")
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean {flag(near[0])}?" if near else "see --help for the list"
                raise UserError(f"{flag(name)}: unknown option; {hint}")
            values[name] = self.convert(name, value)
        self._check(values)
        for name, value in values.items():
            setattr(self, name, value)
        self.given = getattr(self, "given", frozenset()) | set(values)
        return self

    def _check(self, values):
        """What one option forbids to another: raise UserError."""

    @classmethod
    def convert(cls, name, value):
        """`value` (a string or a Python value) as the type that the option `name` declares, within its range."""
        return read_value(flag(name), value, get_type_hints(cls)[name], cls.__dataclass_fields__[name].metadata)

    @classmethod
    def _readable(cls, stored, names):
        """Those of the stored values that are options of this version, and within their range."""
        readable = {}
        for name in names & stored.keys():
            with suppress(UserError):
                readable[name] = cls.convert(name, stored[name])
        return readable

    def update_known(self, stored):
        """Take the options of a checkpoint that this version has; others and unreadable ones are left."""
        names = {f.name for f in fields(self)} - OF_USER - {"use_chainer", "load_path", "finetune"}  # where it began
        return self.parse(self._readable(stored, names))

    def begin_with(self, stored, names, model=None):
        """Take from the options of a checkpoint what another run may begin with; `parse` comes after it.

        Only what is not this version's default counts as given.

        Args:
            stored: name → value.
            names: the options that are wanted.
            model: the network, if another one was named: it has its own anchors, RoIs and proposals.
        """
        wanted = {f.name for f in fields(self) if f.name in names and f.name not in OF_ONE_RUN and
                  (f.metadata["group"] != "run" or f.name in OF_ALL_RUNS)}  # fmt: skip
        if model not in (None, stored.get("model", self.model)):
            wanted -= {f.name for f in fields(self) if f.metadata["group"] == "model" and f.default is None}
            wanted -= OF_MODEL
        taken = self._readable(stored, wanted)
        for name, value in taken.items():
            setattr(self, name, value)
        defaults = {f.name: f.default for f in fields(self)}
        self.given = getattr(self, "given", frozenset()) | {name for name in taken if taken[name] != defaults[name]}

    def words(self):
        """The options that are not the default, as a command line has them."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return [f"{flag(k)}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for k, v in values.items()]

    def state_dict(self):
        """The options as plain values."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}
