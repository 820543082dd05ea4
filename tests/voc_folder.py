"""Makes VOC folders for tests."""

import io
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from data.voc_dataset import VOCBboxDataset
from utils.errors import UserError

SIZE = "<size><width>100</width><height>80</height><depth>3</depth></size>"


def obj(name="cat", xmin=11, ymin=21, xmax=31, ymax=51, extra=""):
    box = f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"
    return f"<object><name>{name}</name>{extra}<bndbox>{box}</bndbox></object>"


def annotation(*objects, size=SIZE):
    return f"<annotation>{size}{''.join(objects)}</annotation>"


def picture_bytes() -> bytes:
    """A 100×80 picture, as PNG; readers go by the content, not by the suffix."""
    file = io.BytesIO()
    Image.new("RGB", (100, 80)).save(file, "PNG")
    return file.getvalue()


PICTURE = picture_bytes()


def break_in_the_middle(picture: Path):
    """Make it a PNG with sound checksums and half of its pixels: what is wrong is seen only when it is decoded."""
    with Image.open(picture) as whole:
        (width, height), rgb = whole.size, whole.convert("RGB").tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    picture.write_bytes(png((b"IHDR", header), (b"IDAT", zlib.compress(rgb[: len(rgb) // 2])), (b"IEND", b"")))


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of (kind, content)."""
    packed = [(len(own), kind + own, zlib.crc32(kind + own)) for kind, own in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", n) + own + struct.pack(">I", crc) for n, own, crc in packed
    )


def make_voc(root: Path, files: dict[str, str | bytes], picture=".jpg", **lists: str | bytes) -> Path:
    """A VOC folder with an annotation and a picture for each id; `trainval` lists all unless given."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for image_id, xml in files.items():
        (root / "JPEGImages" / f"{image_id}{picture}").write_bytes(PICTURE)
        (root / "Annotations" / f"{image_id}.xml").write_bytes(xml if isinstance(xml, bytes) else xml.encode())
    for split, text in ({"trainval": "\n".join(files)} | lists).items():
        raw = text if isinstance(text, bytes) else text.encode()
        (root / "ImageSets" / "Main" / f"{split}.txt").write_bytes(raw)
    return root


def refusal(*args, **kwargs) -> str:
    """The one line with which `VOCBboxDataset` refuses these arguments."""
    with pytest.raises(UserError) as caught:
        VOCBboxDataset(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message
