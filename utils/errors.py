"""The one exception that means "the user can mend this": shown as a single line, exit code 2."""

import re
import sys


class UserError(Exception):
    """A mistake in an option or a file.

    The message is one line: the file or option, what is wrong, what to do. The commands of `train.py` print it
    without a traceback and leave with exit code 2; a defect of ours is any other exception and keeps its traceback.

    What a file says may stand in it, and so line ends, or what moves a terminal's cursor: such characters are shown as
    Python writes them.
    """

    def __init__(self, message=""):
        text = str(message)
        if not text.startswith("Caught UserError in "):  # as torch hands on what a data loader's process raised
            text = visible(text)
        super().__init__(text)


def error_line(error):
    """The one line of a UserError, also of one that a data loader's process raised and torch wrapped in a traceback."""
    return str(error).strip().splitlines()[-1].removeprefix("utils.errors.UserError: ")


# Line ends, the controls of terminals, and what turns the direction of writing.
_UNSEEN = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def visible(text, but=""):
    """`text` with such characters, apart from those in `but`, as Python writes them."""
    return _UNSEEN.sub(lambda found: found[0] if found[0] in but else ascii(found[0])[1:-1], text)


def run_program(main):
    """Run the `main` of a program of misc/: a mistake of the user's is one line, and exit code 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
