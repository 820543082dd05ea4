"""Numbers and lists of names in messages."""


def counted(n, thing):
    """'1 box' or '1,234 boxes': a line that says '1 boxes' makes its reader doubt the number too."""
    ending = "es" if thing.endswith(("s", "x", "tch")) else "s"
    return f"{n:,} {thing}{'' if n == 1 else ending}"


def few(names, n=5):
    """The first `n` of them and how many more there are, so that a line stays a line; 'none' of none."""
    names = list(names)
    more = f" and {len(names) - n:,} more" if len(names) > n else ""
    return ", ".join(names[:n]) + more if names else "none"
