"""Reads what misc/make_toy_voc.py wrote."""

import xml.etree.ElementTree as ET
from pathlib import Path


def read_all(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def read_objects(xml: Path) -> list[dict]:
    """[{name, pose, truncated, difficult, xmin, ymin, xmax, ymax}], numbers as int."""
    objects = []
    for node in ET.parse(xml).iter("object"):
        item = {child.tag: child.text for child in node if child.tag != "bndbox"}
        item |= {child.tag: int(child.text) for child in node.find("bndbox")}
        objects.append(item | {"truncated": int(item["truncated"]), "difficult": int(item["difficult"])})
    return objects
