"""One annotation in VOC's XML."""

import math
import xml.etree.ElementTree as ET
from typing import NamedTuple

from utils.errors import UserError
from utils.image_tool import MAX_SIDE
from utils.safe_read import MAX_TEXT_BYTES, read_bounded

MAX_XML_BYTES = 16 << 20  # 50,000 objects
MAX_DEPTH = 100  # elements within elements; VOC has 4
CORNERS = ("ymin", "xmin", "ymax", "xmax")
_DIFFICULT = {"": False, "0": False, "false": False, "1": True, "true": True}


class VOCObject(NamedTuple):
    """An object as the file says it."""

    name: str
    corners: tuple[float, ...]  # (ymin, xmin, ymax, xmax) as the file says them, 1-based and inclusive
    difficult: bool


def read_annotation(path: str) -> tuple:
    """The size, (H, W) or None, and the objects.

    Raises:
        UserError: it is broken, or not as VOC's.
    """
    root = _parse_xml(path)
    if root.tag != "annotation":
        raise UserError(f"{path}: begins with <{root.tag}>, not <annotation>; this is not a VOC annotation")
    elements = root.findall("object")
    objects = [_read_object(path, n, element) for n, element in enumerate(elements, 1)]
    read = {*elements, *(box for element in elements for box in element.findall("bndbox"))}
    parts = (part for element in elements for part in element.findall("part"))  # of VOC's people
    read.update(inner for part in parts for inner in part.iter())
    n_elsewhere = sum(element.tag.lower() in ("object", "bndbox") for element in root.iter() if element not in read)
    if n_elsewhere:
        raise UserError(
            f"{path}: has objects or boxes that are not in <object> directly in <annotation>; put them there"
        )
    return _read_size(path, root), objects


class _Builder(ET.TreeBuilder):
    """Refuses what no VOC annotation needs; the parser asks it, and so in any encoding that it reads."""

    def __init__(self, path: str):
        super().__init__()
        self._path, self._depth = path, 0

    def doctype(self, *_):
        # a few nested entities expand to gigabytes, and others name files and servers
        raise UserError(f"{self._path}: has a DOCTYPE or ENTITY declaration, which is refused; remove it")

    def start(self, tag, attributes):
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise UserError(f"{self._path}: elements stand {self._depth} deep; this is not a VOC annotation")
        return super().start(tag, attributes)

    def end(self, tag):
        self._depth -= 1
        return super().end(tag)


def _parse_xml(path: str) -> ET.Element:
    raw = read_bytes(path, MAX_XML_BYTES)
    try:
        return ET.fromstring(raw, ET.XMLParser(target=_Builder(path)))
    except ET.ParseError as error:
        line, column = error.position
        what = str(error).partition(":")[0]
        raise UserError(f"{path}: line {line}, column {column + 1}: {what}; mend the XML") from None
    except (LookupError, ValueError) as error:
        raise UserError(f"{path}: unknown text encoding ({error}); save the file as UTF-8") from None


def _read_object(path: str, n: int, element: ET.Element) -> VOCObject:
    name = (_text(f"{path}: object {n}", element, "name") or "").strip()
    if not name:
        raise UserError(f"{path}: object {n} has no <name>; name its class or remove it")
    where = f"{path}: object {n} ({name!r})"
    box, *more = element.findall("bndbox") or [None]
    if box is None:
        raise UserError(f"{where} has no <bndbox>; add its box or remove it")
    if more:
        raise UserError(f"{where} has {1 + len(more)} boxes; make it as many objects")
    difficult = (_text(where, element, "difficult") or "0").strip().lower()
    if difficult not in _DIFFICULT:
        raise UserError(f"{where} has {difficult!r} as <difficult>; must be 0 or 1")
    return VOCObject(name, tuple(_number(where, box, corner) for corner in CORNERS), _DIFFICULT[difficult])


def _text(where: str, parent: ET.Element, tag: str) -> str | None:
    """That of the one child `tag`, or None."""
    if len(parent.findall(tag)) > 1:
        raise UserError(f"{where} has <{tag}> more than once; keep one")
    return parent.findtext(tag)


def _number(where: str, parent: ET.Element, tag: str) -> float:
    text = _text(where, parent, tag)
    if text is None:
        raise UserError(f"{where} has no <{tag}>; add it")
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{where} has {text.strip()!r} as <{tag}>, which is not a number; correct it") from None


def _read_size(path: str, root: ET.Element) -> tuple[int, int] | None:
    element = root.find("size")
    if element is None or not all((element.findtext(tag) or "").strip() for tag in ("height", "width")):
        return None
    height, width = (_number(f"{path}: <size>", element, tag) for tag in ("height", "width"))
    if MAX_SIDE < max(height, width) < math.inf:
        raise UserError(f"{path}: <size> says {width:g}×{height:g} px, which no picture has; correct it")
    return (int(height), int(width)) if 1 <= height < math.inf and 1 <= width < math.inf else None


def read_bytes(path: str, most: int = MAX_TEXT_BYTES) -> bytes:
    """What a file holds. Raises UserError where it can't be read, FileNotFoundError where it is not there."""
    try:
        return read_bounded(path, most)
    except FileNotFoundError:
        raise  # the callers know what is missing
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the file and its rights") from None
