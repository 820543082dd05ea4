"""The one exception that means "the user can mend this": shown as a single line, exit code 2."""

import sys


class UserError(Exception):
    """A mistake in an option or a file.

    The message is one line: the file or option, what is wrong, what to do. The commands of `train.py` print it
    without a traceback and leave with exit code 2; a defect of ours is any other exception and keeps its traceback.
    """


def run_program(main):
    """Run the `main` of a program of misc/: a mistake of the user's is one line, and exit code 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
