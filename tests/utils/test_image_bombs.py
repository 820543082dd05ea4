"""Pictures that are not what they say: enormous, cut, programs, no files."""

import io
import struct
import subprocess
import zlib

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from tests.no_file import make_no_file
from utils import image_tool
from utils.errors import UserError
from utils.image_tool import MAX_PIXELS, image_sizes, read_image

SIDE = 60_000  # 3.6 billion pixels, in a few hundred bytes


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, pixels=b""):
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def claiming(kind, before, after):
    """A picture of 40×30 px in whose header `before` says so, with `after` in its place."""
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, kind)
    assert before in buffer.getvalue()
    return buffer.getvalue().replace(before, after, 1)


def tiff():
    tag = lambda key, value: struct.pack("<HHII", key, 4, 1, value)  # noqa: E731
    tags = [(256, SIDE), (257, SIDE), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, SIDE), (279, 9)]
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + b"".join(tag(*own) for own in tags) + bytes(4)


BOMBS = {
    "png": png(SIDE, SIDE),
    "png of 2**62": png(2**31 - 1, 2**31 - 1),
    "jpeg": claiming("JPEG", struct.pack(">HH", 30, 40), struct.pack(">HH", SIDE, SIDE)),
    "gif": claiming("GIF", struct.pack("<HH", 40, 30), struct.pack("<HH", SIDE, SIDE)),
    "bmp": claiming("BMP", struct.pack("<ii", 40, 30), struct.pack("<ii", SIDE, SIDE)),
    "ppm": b"P6 60000 60000 255\n" + bytes(9),
    "tiff": tiff(),
    "a little too much": png(MAX_PIXELS + 1, 1),
}


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize("read", [read_image, image_sizes])
def test_pixels_without_end(tmp_path, kind, read):
    path = tmp_path / "a.jpg"
    path.write_bytes(BOMBS[kind])
    with pytest.raises(UserError) as error:
        read(path)
    expected = f"{path}: says that it has more than 250 million pixels; cut or shrink the picture, or remove the file"
    assert str(error.value) == expected


def test_the_largest_cameras_pictures_are_no_bombs(tmp_path):
    path = tmp_path / "scan.png"
    path.write_bytes(png(16_320, 12_240, bytes(16_321 * 12_240)))  # of a telephone with 200 megapixels
    assert image_sizes(path)[0] == (12_240, 16_320)
    assert Image.MAX_IMAGE_PIXELS * 2 == MAX_PIXELS


def test_webp_that_claims_more_than_it_has(tmp_path):
    path = tmp_path / "a.webp"
    Image.new("RGB", (40, 30)).save(path, lossless=True)
    raw = bytearray(path.read_bytes())
    at = raw.index(b"VP8L") + 9  # behind its size and mark: 14 bits each of width − 1 and height − 1
    raw[at : at + 4] = struct.pack("<I", 16_382 | 16_382 << 14 | struct.unpack("<I", raw[at : at + 4])[0] & 0xF0000000)
    path.write_bytes(raw)
    for read in (read_image, image_sizes):
        with pytest.raises(UserError, match=r"a\.webp: .*(pixels|broken)"):
            read(path)


def test_no_other_program_is_called_for_a_picture(tmp_path, monkeypatch):
    """PostScript under the name of a JPEG: Pillow gives it to Ghostscript, where there is one."""
    path = tmp_path / "a.jpg"
    Image.new("RGB", (40, 30)).save(path, "EPS")
    called = []
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", "gs")
    monkeypatch.setattr(subprocess, "check_call", lambda *args, **_: called.append(args))
    for read in (read_image, image_sizes):
        with pytest.raises(UserError, match="not a picture that can be read"):
            read(path)
    assert called == []


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM", "TGA"])
def test_pictures_of_any_kind_under_the_name_of_a_jpeg(tmp_path, kind):
    path = tmp_path / "a.jpg"
    Image.new("RGB", (40, 30), (200, 100, 50)).save(path, kind)
    assert image_sizes(path)[0] == (30, 40)
    assert np.abs(read_image(path)[:, 5, 5] - [200, 100, 50]).max() < 60


@pytest.mark.parametrize("kind", ["pipe", "/dev/zero", "folder", "loop"])
def test_what_is_no_file(tmp_path, kind):
    path = tmp_path / "a.jpg"
    make_no_file(path, kind)
    for read in (read_image, image_sizes):
        with pytest.raises(UserError, match=r"a\.jpg: .*replace or remove the file"):
            read(path)


def test_a_part_of_a_png_that_says_it_is_long_is_not_read_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    content = png(4, 4, bytes(20))[:-12] + struct.pack(">I", 2**31 - 1) + b"tEXt"
    path.write_bytes(content)
    with open(path, "ab") as file:
        file.truncate(len(content) + 2**31 + 3)  # takes no place on the disk
    longest = []
    monkeypatch.setattr(image_tool.zlib, "crc32", lambda data, *_: longest.append(len(data)) or 0)
    with pytest.raises(UserError):
        image_sizes(path)
    assert max(longest) <= 1 << 20
