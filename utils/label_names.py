"""Class names: VOC's, and those that a user gives."""

import os

from utils.errors import UserError
from utils.safe_read import read_bounded

VOC_BBOX_LABEL_NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def parse_label_names(value):
    """Class names from 'a,b,c' or from a text file with one name a line. Raises UserError for none or doubled ones."""
    value = str(value)
    if os.path.isfile(value):  # pathlib's raises where it is longer than a name may be
        try:
            names = read_bounded(value).decode("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--label-names={value}: cannot be read ({error}); save it as UTF-8") from None
    else:
        names = value.split(",")
    names = tuple(name.strip() for name in names if name.strip())
    if not names:
        raise UserError(f"--label-names={value}: no names; give a,b,c or a file with one name a line")
    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        raise UserError(f"--label-names={value}: {double[0]!r} is there twice; name each class once")
    return names
