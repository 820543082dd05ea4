"""utils/label_names.py: names from an option's text or from a file."""

import pytest

from utils.errors import UserError
from utils.label_names import VOC_BBOX_LABEL_NAMES, parse_label_names


def test_the_twenty_classes_of_voc_in_alphabetical_order():
    assert len(VOC_BBOX_LABEL_NAMES) == 20
    assert list(VOC_BBOX_LABEL_NAMES) == sorted(set(VOC_BBOX_LABEL_NAMES))
    assert VOC_BBOX_LABEL_NAMES[14] == "person"


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("a,b,c", ("a", "b", "c")),
        (" red cell , white cell,", ("red cell", "white cell")),
        ("only", ("only",)),
        ("b,a", ("b", "a")),
        (7, ("7",)),
    ],
)
def test_names_from_text(value, names):
    assert parse_label_names(value) == names


@pytest.mark.parametrize("as_text", [True, False])
def test_names_from_a_file_keep_order_and_inner_blanks(tmp_path, as_text):
    path = tmp_path / "names.txt"
    path.write_bytes("\ufeffzebra\r\nété ouvert\r\n\r\n  a,b  \n".encode())
    assert parse_label_names(str(path) if as_text else path) == ("zebra", "été ouvert", "a,b")


def test_many_names_are_no_file():
    names = [f"class {k}" for k in range(100)]
    assert parse_label_names(",".join(names)) == tuple(names)


def test_a_file_that_is_no_utf8(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes(b"\xe9t\xe9")
    with pytest.raises(UserError, match=r"names\.txt: cannot be read .*; save it as UTF-8"):
        parse_label_names(path)


@pytest.mark.parametrize("value", ["", ",", " , ,"])
def test_no_names(value):
    with pytest.raises(UserError, match="no names") as error:
        parse_label_names(value)
    assert "\n" not in str(error.value)


def test_empty_file(tmp_path):
    path = tmp_path / "empty.txt"
    path.write_text("\n\n")
    with pytest.raises(UserError, match=r"empty\.txt"):
        parse_label_names(path)


def test_a_name_twice_is_named():
    with pytest.raises(UserError, match="'cat'"):
        parse_label_names("cat,dog, cat")
