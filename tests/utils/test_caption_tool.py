"""utils/caption_tool.py: what a box is called, and where that stands."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from utils import caption_tool
from utils.caption_tool import caption_texts, font, font_size, ground, place_captions


def rectangles(places, grounds):
    """(C, 4) of the captions that have a place."""
    placed = [(*place, *own[place[0]]) for place, own in zip(places, grounds) if place]
    return np.array([(x, y, x + width, y + height) for _, x, y, width, height in placed]).reshape(-1, 4)


@pytest.mark.parametrize(("width", "height", "n"), [(500, 375, 20), (200, 150, 12), (640, 640, 200), (60, 40, 5)])
def test_captions_lie_in_the_picture_and_not_on_each_other(width, height, n):
    rng = np.random.default_rng(n)
    low = rng.integers(0, (width, height), (n, 2))
    boxes = np.concatenate([low, np.minimum(low + rng.integers(1, 80, (n, 2)), (width - 1, height - 1))], axis=1)
    grounds = [[(50, 13), (30, 13)]] * n
    placed = rectangles(place_captions(boxes, grounds, (width, height)), grounds)
    assert len(placed) > 0
    assert (placed >= 0).all()
    assert (placed <= [width, height, width, height]).all()
    for k, one in enumerate(placed):
        others = np.delete(placed, k, axis=0)
        sides = np.minimum(one[2:], others[:, 2:]) - np.maximum(one[:2], others[:, :2])
        assert sides.clip(min=0).prod(axis=1).max(initial=0) <= 0.05 * 50 * 13


def test_a_lone_caption_stands_over_its_boxs_corner():
    assert place_captions([(30, 40, 90, 90)], [[(50, 13)]], (200, 200)) == [(0, 30, 27)]


def test_one_of_two_crowded_captions_is_shorter_or_left_out():
    box = (20, 0, 40, 19)
    long = [[(100, 10), (60, 10)]] * 4
    assert place_captions([box] * 4, long, (100, 20)) == [(0, 0, 10), (0, 0, 0), None, None]
    short = [[(100, 10)], [(100, 10), (30, 10)], [(100, 10), (30, 10)]]
    assert [place and place[0] for place in place_captions([box] * 3, short, (100, 20))] == [0, 0, None]


def test_a_text_fits_and_keeps_its_score_if_it_can():
    (whole, own), (alone, _) = caption_texts("motorbike", 3, 0.876, 12, 200)
    assert (whole, alone) == ("motorbike 0.88", "motorbike")
    assert own.size == 12
    for room in (200, 90, 60, 40, 25):
        for text, own in caption_texts("a very long name of a class", 3, 0.876, 12, room):
            assert ground(own, text)[0] <= room
            assert text.startswith("a v")
    assert [text for text, _ in caption_texts("motorbike", 3, 0.876, 12, 45)] == ["motorb…"]
    assert caption_texts(None, None, 0.5, 12, 90)[0][0] == "0.50"
    assert caption_texts(None, None, None, 12, 90) == []


def test_letters_are_legible_and_grow_with_the_picture():
    assert [font_size((side, side // 2)) for side in (40, 400, 1000, 6000)] == [10, 10, 25, 150]
    assert font_size((6000, 100)) == 25


def test_greek_and_cyrillic_letters_are_written_on_a_machine_without_fonts(monkeypatch):
    truetype = ImageFont.truetype

    def only_with_a_folder(font, *args, **kwargs):
        if isinstance(font, str):
            raise OSError("cannot open resource")
        return truetype(font, *args, **kwargs)

    monkeypatch.setattr(ImageFont, "truetype", only_with_a_folder)
    caches = caption_tool._font_for, caption_tool._has, caption_tool._load, caption_tool.font
    for cached in caches:
        cached.cache_clear()
    try:
        for name in ("хлеб", "γάτα"):
            assert caption_texts(name, 7, 0.5, 12, 200)[0][0] == f"{name} 0.50"
    finally:
        for cached in caches:
            cached.cache_clear()


def test_letters_are_found_without_loading_matplotlib():
    code = "import sys; from utils.caption_tool import _fonts_of_matplotlib as f; assert f().is_dir()"
    code += "; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_names_in_any_letters_are_written_or_become_the_number(monkeypatch):
    def letters(text):
        picture = Image.new("L", (200, 30))
        ImageDraw.Draw(picture).text((2, 2), text, font=font(15, text), fill=255)
        return picture.tobytes()

    assert letters("Größe") != letters("Gr\uffff\uffffe")
    monkeypatch.setattr(caption_tool, "FONTS", ())  # a machine without fonts
    caption_tool._font_for.cache_clear()
    assert caption_texts("café", 3, None, 12, 200)[0][0] == "cafe"
    assert caption_texts("猫", 7, 0.5, 12, 200)[0][0] == "7 0.50"
    caption_tool._font_for.cache_clear()
