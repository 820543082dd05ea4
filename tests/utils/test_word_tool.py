"""utils/word_tool.py: what people read."""

import pytest

from utils.word_tool import counted, few


@pytest.mark.parametrize(
    ("n", "thing", "text"),
    [
        (0, "image", "0 images"),
        (1, "image", "1 image"),
        (1, "box", "1 box"),
        (1234, "box", "1,234 boxes"),
        (2, "class", "2 classes"),
        (1, "class", "1 class"),
        (4, "epoch", "4 epochs"),
        (4, "match", "4 matches"),
    ],
)
def test_one_and_several(n, thing, text):
    assert counted(n, thing) == text


def test_few_of_many_names():
    assert few([]) == "none"
    assert few("ab") == "a, b"
    assert few("abc", 3) == "a, b, c"
    assert few((str(k) for k in range(1004)), 3) == "0, 1, 2 and 1,001 more"
