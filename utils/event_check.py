"""Whether what stands in the log of a run is what its kind says: the file may be of a later version, or no log."""

from utils.json_tool import is_finite

MOST = 2**53  # of a step, and of seconds a millionth: what a float and a calendar can hold


def problem_of(event) -> str | None:
    """What is wrong with a line's object, in two words or three; None if nothing is."""
    if not isinstance(event, dict) or not (_text(event.get("win")) and _text(event.get("kind"))):
        return "is no event"
    kind, step, at = event["kind"], event.get("step"), event.get("time")
    if not is_finite(at) or not 0 < at < MOST / 1e6:
        return "has no time"
    if not is_count(step):
        return "has no step"
    if not is_count(event.get("n", 0)):
        return "has no number"
    if kind == "point":
        fits = (
            _numbers([event.get("x"), event.get("y", "")])
            and event.get("x") is not None
            and _text(event.get("line", ""))
        )
    elif kind in ("text", "log", "img"):
        fits = _text(event.get("file" if kind == "img" else "text")) and _text(event.get("caption", ""))
    elif kind == "heatmap":
        fits = is_matrix(event.get("matrix")) and _texts(event.get("names"))
    elif kind == "bars":
        fits = (
            _columns(event.get("names"), event.get("values")) and _texts(event["names"]) and _numbers(event["values"])
        )
    elif kind == "curves":
        names, xs, ys = (event.get(part) for part in ("names", "x", "y"))
        fits = _columns(names, xs) and _columns(names, ys) and _texts(names)
        fits = fits and all(_columns(x, y) and _numbers(x) and _numbers(y) for x, y in zip(xs, ys, strict=True))
    else:
        fits = True  # of a later version
    return None if fits else f"is no {kind}"


def is_count(value) -> bool:
    """Whether it is a whole number from 0 that a float can hold."""
    return isinstance(value, int) and 0 <= value < MOST


def is_matrix(value) -> bool:
    """Whether it is a square list of lists of numbers that are finite and not negative."""
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(isinstance(row, list) and len(row) == len(value) for row in value)
        and all(is_finite(v) and 0 <= v < MOST for row in value for v in row)
    )


def _numbers(values):
    return isinstance(values, list) and all(v is None or (is_finite(v) and abs(v) < 1e300) for v in values)


def _text(value):
    return isinstance(value, str)


def _texts(values):
    return isinstance(values, list) and all(map(_text, values))


def _columns(a, b):
    return isinstance(a, list) and isinstance(b, list) and len(a) == len(b)
