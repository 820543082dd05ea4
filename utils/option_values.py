"""Values of options: from the text of a command line to the type and range that an option declares."""

import difflib
import ipaddress
import os
import re
from typing import get_args
from urllib.parse import urlsplit

from utils.errors import UserError

MOST_BOXES = 1_000_000  # proposals, samples or detections of a picture: memory for more is asked for in vain
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def flag(name):
    """How an option is written on the command line."""
    return "--" + name.replace("_", "-")


def read_value(shown, value, hint, meta):
    """`value` (a string or a Python value) as the type `hint`, within the range of `meta`, see `utils.config.option`.

    Args:
        shown: the option, as it is written on the command line.

    Raises:
        UserError: it can't be.
    """
    optional = type(None) in get_args(hint)
    if value is None or (optional and isinstance(value, str) and value in ("None", "none", "")):
        if not optional:
            raise UserError(f"{shown}: needs a value, {type_name(hint)}")
        return None
    kind = next((t for t in get_args(hint) if t is not type(None)), hint) if optional else hint
    if getattr(kind, "__origin__", kind) is tuple:
        items = value.strip("()[] ").split(",") if isinstance(value, str) else _listed(value)
        item_kind = get_args(kind)[0]
        value = tuple(
            _in_range(shown, _scalar(shown, item, item_kind, hint), meta) for item in items if str(item).strip()
        )
        if not value and (shown.startswith("--anchor") or shown == "--save"):
            raise UserError(f"{shown}: is empty; give {type_name(hint)}")
        return value
    return _in_range(shown, _scalar(shown, value, kind, hint), meta)


def server_url(text) -> str:
    """The value of --visdom-server as scheme and host, `http` where no scheme is given.

    Raises:
        UserError: it is something else, has a port, or a password, which is not printed.
    """
    if "@" in text:
        raise UserError("--visdom-server: has a password in it, which logs would keep; set VISDOM_PASSWORD instead")
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port = parts.port or parts.netloc.endswith(":")
    except ValueError:  # brackets that do not close, a port that is no number
        parts, port = None, None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise UserError(f"--visdom-server={text}: must be http://HOST or https://HOST")
    if port:
        raise UserError(f"--visdom-server={text}: the port goes to --port; leave it out here")
    return f"{parts.scheme}://{parts.netloc}"


def save_interval(text) -> tuple[int | None, float | None]:
    """The value of --save-every as (steps, None) or (None, seconds).

    Raises:
        UserError: it is neither.
    """
    number, unit = re.fullmatch(r"([0-9]{1,9})(.*)", str(text)).groups() if re.match("[0-9]", str(text)) else ("0", "")
    seconds = {"s": 1, "m": 60, "min": 60, "h": 3600}.get(unit)
    if int(number) == 0 or (unit and seconds is None):
        raise UserError(f"--save-every={text}: must be a number of steps, as 500, or a time, as 30s, 10min or 2h")
    return (None, float(int(number) * seconds)) if unit else (int(number), None)


def bind_address(text) -> str:
    """The value of --visdom-bind. Raises UserError where it is no IP address."""
    try:
        return str(ipaddress.ip_address("127.0.0.1" if text == "localhost" else text))
    except ValueError:
        raise UserError(
            f"--visdom-bind={text}: must be an IP address: 127.0.0.1, 0.0.0.0 for all of this machine's, or one of them"
        ) from None


def _listed(value):
    return list(value) if isinstance(value, (tuple, list)) else [value]


def _scalar(shown, value, kind, hint):
    text = str(value).strip()
    wrong = UserError(f"{shown}={text}: must be {type_name(hint)}")
    if kind is str:
        try:
            os.fsencode(text)
        except UnicodeEncodeError:  # a checkpoint may have any
            raise UserError(f"{shown}={text!a}: has characters that no name has; leave them out") from None
        if "\0" in text:
            raise UserError(f"{shown}={text}: has characters that no name has; leave them out")
        return text
    if kind is bool:
        if text.lower() in TRUE + FALSE:
            return text.lower() in TRUE
        raise wrong
    try:
        number = float(text)
    except ValueError:
        raise wrong from None
    if kind is int:
        if isinstance(value, bool) or not number.is_integer():
            raise wrong
        return int(text) if text.lstrip("+-").isdigit() else int(number)
    if number != number:
        raise wrong
    return number


def _in_range(shown, value, meta):
    low, high, choices = meta["low"], meta["high"], meta["choices"]
    value = meta["also"].get(str(value).lower(), value)
    if choices and value not in choices:
        near = difflib.get_close_matches(str(value), choices, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"{shown}={value}: must be one of {', '.join(choices)}{hint}")
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        raise UserError(f"{shown}={value}: must be {bounds}")
    return value


def type_name(hint):
    """A type in a user's words."""
    kind = next((t for t in get_args(hint) if t is not type(None)), hint) if type(None) in get_args(hint) else hint
    words = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}
    if getattr(kind, "__origin__", None) is tuple:
        return words[get_args(kind)[0]].replace("a ", "").replace("number", "numbers") + " with commas between"
    return words[kind]
