"""Where each window of the dashboard stands: rows under headings, each in a page of 1280 pixels and more.

visdom's page has columns of about 12.7 pixels, as many as fit in its width. It fills rows from the left, in the
windows' order, and begins a new row where the next one does not fit; so a heading, which is wider than any page, ends
the row before it, and rows stay rows on a wide page too. On a narrow page a row wraps as text does.

What decides where a window stands on a page that is opened: the layout that the server has saved, else what the browser
remembers, else the window's size and its order. All three say the same here: where they differ, the page repacks in one
order with the sizes of another. In a page that is open already, a new window comes behind all others, so those that
each run has get their places at its start.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

PAGE = 98.5  # columns that a page of 1280 pixels has beside its scroll bar
COLUMN, ROW, MARGIN, BAR = 12.7, 15, 10, 14  # pixels: a column and a row with their margins, a margin, a title's bar
HEADING_SIZE = (12_000, 20)  # wider than any page, which cuts it to its own width
STEP = 1_000_000  # from the order of one row to that of the next
BELOW_ALL = 10**9  # what visdom counts itself, the order of creation, starts at 0: our windows stand before that


class Row(NamedTuple):
    """A heading, and the windows (width, height) below it: what they draw in, in pixels of the page.

    A name that ends in _1 stands for _2, _3, ... too.
    """

    heading: str
    windows: dict[str, tuple[int, int]]


PAIR = (614, 321)  # of two pictures beside each other: of 4:3 as wide as the window, with a caption and a slider below
ROWS = (
    Row(
        "Is it learning?",
        {"progress": (242, 250), "total_loss": (362, 250), "test_map": (302, 250), "log_text": (302, 250)},
    ),
    Row(
        "The four losses",
        dict.fromkeys(("rpn_loc_loss", "rpn_cls_loss", "roi_loc_loss", "roi_cls_loss"), (302, 235)),
    ),
    Row("What does it see?", dict.fromkeys(("gt_img", "pred_img"), (614, 446))),
    Row("The same pictures, while it learned", {"followed_1": PAIR}),
    Row(
        "Where is it wrong?",
        {"roi_cm": (394, 416), "rpn_cm": (240, 416), "class_ap": (302, 416), "pr_curves": (272, 416)},
    ),
    Row(
        "How fast is it?",
        dict.fromkeys(("learning_rate", "images_per_second", "step_time", "memory"), (302, 235)),
    ),
    Row("What does it learn from?", dict.fromkeys(("rpn_recall", "sample_counts"), (302, 235))),
    Row("Its worst pictures", {"worst_1": PAIR}),
    Row("Proposals and anchors", dict.fromkeys(("proposals", "anchors"), (614, 446))),
    Row("This run", {"labels": (242, 306), "config": (678, 306)}),
)
MANY_CLASSES, HUGE_SIDE = 30, 900  # pixels: of a heatmap of more classes, and the width of their bars
OTHERS = "More"  # the heading of the windows that the table lacks
OTHER_SIZES = {"img": (406, 306), "history": (406, 306), "heatmap": (424, 416)}  # by kind
SIZE = (302, 261)  # of the rest
LATE = {"followed_1", "worst_1", "proposals", "anchors"}  # those that not every run has, or has in other numbers
EACH_RUN = tuple(win for row in ROWS for win in row.windows if win not in LATE)


class Place(NamedTuple):
    """Where a window stands; of several runs the windows of one name, "RUN: NAME", have the same place."""

    order: int  # the smaller the earlier; negative, where the table has the window
    heading: str


def place(win: str) -> Place:
    """The place of a window in the page's order; that of one which the table lacks is behind all, by its creation."""
    name, number = _family(win)
    for k, row in enumerate(ROWS):
        if name in row.windows:
            return Place(k * STEP + [*row.windows].index(name) * 10_000 + number - BELOW_ALL, row.heading)
    return Place(0, OTHERS)


def headings_of(windows: Iterable[str]) -> dict[str, int]:
    """The headings that some windows need, and their orders; windows which the table lacks need none while alone."""
    headings = {place(win).heading for win in windows}
    known = {row.heading: k * STEP - 1 - BELOW_ALL for k, row in enumerate(ROWS) if row.heading in headings}
    return known | ({OTHERS: -1} if known and OTHERS in headings else {})


def size_of(win: str, kind: str, n_classes: int = 0) -> tuple[int, int]:
    """(width, height) of what a window draws in, in pixels of the page; visdom's page keeps a picture's proportions.

    Args:
        kind: of the draft: chart, img, text, log, heatmap, ...
        n_classes: of a heatmap or of bars; one of very many classes grows, so that each still has its name.
    """
    name, _ = _family(win)
    width, height = next((row.windows[name] for row in ROWS if name in row.windows), OTHER_SIZES.get(kind, SIZE))
    if kind == "heatmap" and n_classes > MANY_CLASSES:
        width = height = HUGE_SIDE
    if kind == "bars" and n_classes > MANY_CLASSES:
        width = HUGE_SIDE
    return width, height


def layout_items(windows: Mapping[str, tuple[int, int]]) -> dict[str, dict]:
    """The saved layout of some windows, as visdom's page keeps it: name → item. Headings (`heading_id`) come with them.

    Args:
        windows: their sizes as `size_of` has them, in the order of creation.
    """
    items, headings, heading = {}, headings_of(windows), None
    x, y, shelf = 0.0, 0, 0  # the next window's corner, and the height of what is beside it
    for win in in_order(windows):
        if place(win).heading != heading:
            heading = place(win).heading
            x, y, shelf = 0.0, y + shelf, 0
            if heading in headings:
                item = _item(heading_id(heading), x, y, *HEADING_SIZE)
                items[item["i"]] = item
                y += item["h"]
        item = _item(win, x, y, *windows[win])
        if x and x + item["w"] > PAGE:
            x, y, shelf = 0.0, y + shelf, 0
            item |= {"x": x, "y": y}
        items[win] = item
        x, shelf = x + item["w"], max(shelf, item["h"])
    return items


def in_order(windows: Iterable[str]) -> list[str]:
    """The windows from the top of the page to its bottom; those of one place as they came, as the page does it too."""
    return sorted(windows, key=lambda win: place(win).order)


def heading_id(heading: str) -> str:
    """The name of a heading's own window."""
    return f"heading: {heading}"


def heading_html(heading: str) -> str:
    """A heading as the text window shows it."""
    return f'<div style="font:bold 15px/20px sans-serif;padding-left:6px;white-space:nowrap">{heading}</div>'


def _family(win) -> tuple[str, int]:
    """worst_3 and my run: worst_3 → (worst_1, 3); the name that the table has, and a number to sort by."""
    win = win.rpartition(": ")[2]
    name, _, number = win.rpartition("_")
    if name and number.isdecimal() and len(number) <= 3:
        return f"{name}_1", int(number)
    return win, 0


def _item(win, x, y, width, height):
    w, h = (width + MARGIN) / COLUMN, -(-(height + BAR + MARGIN) // ROW)  # as the page does it, which rounds heights up
    size = {"w": w, "h": h, "width": w, "height": h}  # both: its code for filling rows takes now these, now those
    return {"i": win, "x": x, "y": y, "moved": False, "static": False, **size}
