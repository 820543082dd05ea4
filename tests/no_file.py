"""What stands where a file should be."""

import os


def make_no_file(path, kind):
    """Put it at `path`: a 'pipe', a 'folder', a 'loop' of links, or a link to the device that `kind` is the path of."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path if kind == "loop" else kind)
