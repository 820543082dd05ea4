"""JSON files of other programs: read, with what can be wrong with them in one line."""

import json
import math
import re

from utils.errors import UserError
from utils.safe_read import read_bounded

MAX_JSON_BYTES = 8 << 30  # the largest public annotations, Objects365's, have some 5 GB


def read_json(path, advice="mend the JSON"):
    """The content of a file of UTF-8 text, with or without a byte order mark. Raises UserError."""
    try:
        return json.loads(read_bounded(path, MAX_JSON_BYTES).decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: line {error.lineno}, column {error.colno}: {error.msg}; {advice}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; save it as UTF-8") from None
    except (OSError, ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits
        raise UserError(f"{path}: cannot be read ({error}); check the file and its rights") from None


def id_key(value):
    """An id in one form, since some tools write 3, some 3.0 and some "3"; None for what is no id."""
    if type(value) is int:
        return str(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None if isinstance(value, (int, str)) and not isinstance(value, bool) else None


def id_number(key):
    """The number that an `id_key` is, None for a text."""
    return int(key) if re.fullmatch("-?[0-9]{1,18}", key) else None


def is_number(value):
    """Whether it is a number that a float can hold; NaN, which some programs write, is one."""
    if type(value) is float:
        return True
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def is_finite(value):
    """`is_number`, and neither NaN nor infinite."""
    return is_number(value) and math.isfinite(value)
