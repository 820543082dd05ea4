"""Print all options of the commands as Markdown, from what utils/config.py says of them.

python misc/options_table.py > docs/options.md
"""

import sys
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.config import Config
from utils.option_set import GROUPS
from utils.option_values import flag

HEAD = """# Options

`python misc/options_table.py > docs/options.md` writes this page, from `utils/config.py`. An option is written
`--name=value`; `python train.py COMMAND --help` lists them too. A value with commas between is a list. Where no default
stands, the meaning says what is done without the option, or nothing is."""


def main():
    hints = get_type_hints(Config)
    print(HEAD)
    for group in GROUPS:
        print(f"\n## {group.capitalize()}\n\n| option | default | values | meaning |\n|---|---|---|---|")
        for f in fields(Config):
            if f.metadata["group"] == group and f.name != "use_chainer":
                cells = f"`{flag(f.name)}`", _default(f.default), _values(hints[f.name], f.metadata), f.metadata["help"]
                print("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")


def _default(value):
    if value is None:
        return ""
    return f"`{','.join(map(str, value)) if isinstance(value, tuple) else value}`"


def _values(hint, metadata):
    """What may be given: the choices, or the kind of number and its range; nothing for any text."""
    kinds = {int, float, bool} & {
        hint,
        *get_args(hint),
        *(inner for part in get_args(hint) for inner in get_args(part)),
    }
    low, high = metadata["low"], metadata["high"]
    if metadata["choices"]:
        return ", ".join(f"`{choice}`" for choice in metadata["choices"])
    if bool in kinds:
        return "`True`, `False`"
    bounds = "" if low is None else f"from {low}" if high is None else f"{low} to {high}"
    return f"{'whole, ' if int in kinds else ''}{bounds}".removesuffix(", ")


if __name__ == "__main__":
    main()
