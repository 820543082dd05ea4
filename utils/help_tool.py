"""What `--help` prints."""

import shutil
import sys
import textwrap
from typing import get_type_hints

from utils.command_options import options_of
from utils.config import Config
from utils.option_set import GROUPS
from utils.option_values import flag, type_name

HELP = ("-h", "--help", "--help-all", "--help=all")
EXIT_CODES = """exit codes:
  0    done
  1    a defect of this program, with a traceback: please report it
  2    a mistake in an option or a file, told in one line
  130  Ctrl-C; 143 and 129 likewise: ended by SIGTERM, or with its terminal. What was learned or found is kept"""


def overview(commands) -> str:
    """The commands, a line each, and what they end with. `commands`: name → function, whose docstring begins so."""
    lines = ["usage: python train.py COMMAND [--option=value ...]", "", "commands:"]
    lines += [f"  {name:10}{(function.__doc__ or '').splitlines()[0]}" for name, function in commands.items()]
    return "\n".join([*lines, "", EXIT_CODES, "", "python train.py COMMAND --help lists the options."])


def command_help(name, function, all_options=False) -> str:
    """The options that a command reads, with type and default: what it needs, then the common ones, then the others.

    Args:
        all_options: else the others are only counted.
    """
    reads = options_of(name)
    first = [option for option in reads.common if option not in reads.needed]
    others = [option for option in reads.names if option not in reads.needed and option not in first]
    lines = [f"usage: python train.py {name} [--option=value ...]", "", (function.__doc__ or "").strip(), ""]
    lines += _listed("needed", reads.needed, ()) + _listed(
        "most used" if others else "options", first, reads.of_checkpoint
    )
    if all_options:
        for group in GROUPS:
            own = [option for option in others if Config.__dataclass_fields__[option].metadata["group"] == group]
            lines += _listed(group, own, reads.of_checkpoint)
    if set(reads.also) - set(reads.names):
        lines += [f"The other options of train may be given too; {name} does not read them.", ""]
    if others and not all_options:
        lines += [f"{len(others)} more: python train.py {name} --help=all"]
    return "\n".join(lines).rstrip()


def _listed(title, names, of_checkpoint):
    """Lines: a title and an option each; none for no names."""
    return [f"{title}:", *(_option(name, name in of_checkpoint) for name in names), ""] if names else []


def _option(name, of_checkpoint):
    field = Config.__dataclass_fields__[name]
    kind = ", ".join(field.metadata["choices"] or ()) or type_name(get_type_hints(Config)[name])
    bounds = field.metadata["low"], field.metadata["high"]
    kind += f" from {bounds[0]:g} to {bounds[1]:g}" if bounds == (0, 1) else ""
    default = "the checkpoint's" if of_checkpoint else _shown(field.default)
    what = field.metadata["help"]
    what = what.partition("; default: ")[0] if of_checkpoint else what
    line = f"  {flag(name):24}{what} ({kind}{f'; default: {default}' if default is not None else ''})"
    if not sys.stdout.isatty():
        return line
    width = max(shutil.get_terminal_size().columns, 60)
    return textwrap.fill(line, width, subsequent_indent=" " * 26, break_on_hyphens=False, break_long_words=False)


def _shown(value):
    return ",".join(map(str, value)) or "none" if isinstance(value, tuple) else value
