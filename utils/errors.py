"""The one exception that means "the user can mend this": shown as a single line, exit code 2."""


class UserError(Exception):
    """A mistake in an option or a file.

    The message is one line: the file or option, what is wrong, what to do. The commands of `train.py` print it
    without a traceback and leave with exit code 2; a defect of ours is any other exception and keeps its traceback.
    """
