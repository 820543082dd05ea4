"""Lists and annotations of strangers: entities, depth, sizes, names that lead elsewhere."""

import codecs
import json
import os
import socket
import threading

import pytest

from data.coco_dataset import COCOBboxDataset
from data.voc_dataset import VOCBboxDataset
from data.voc_xml import MAX_DEPTH, MAX_XML_BYTES, read_annotation
from tests.coco_folder import box, content
from tests.voc_folder import PICTURE, annotation, make_voc, obj, refusal
from utils.errors import UserError

LAUGHS = "".join(f'<!ENTITY l{k} "{f"&l{k - 1};" * 10}">' for k in range(1, 12))
DECLARATIONS = {
    "laughs": f'<!DOCTYPE annotation [<!ENTITY l0 "ha">{LAUGHS}]>',
    "one long": f'<!DOCTYPE annotation [<!ENTITY l11 "{"a" * 9999}">]>',
    "file": '<!DOCTYPE annotation [<!ENTITY l11 SYSTEM "file:///etc/passwd">]>',
    "server": '<!DOCTYPE annotation [<!ENTITY l11 SYSTEM "http://127.0.0.1:PORT/x">]>',
    "outer subset": '<!DOCTYPE annotation SYSTEM "http://127.0.0.1:PORT/x.dtd">',
    "public": '<!DOCTYPE annotation PUBLIC "-//X//Y//EN" "http://127.0.0.1:PORT/x.dtd">',
    "parameter": '<!DOCTYPE annotation [<!ENTITY % p SYSTEM "http://127.0.0.1:PORT/x.dtd"> %p;]>',
    "bare": "<!DOCTYPE annotation>",
    "spaced": "<!DOCTYPE\n\tannotation [ ]\n>",
    "defaults": '<!DOCTYPE annotation [<!ATTLIST object a CDATA "x">]>',
}


@pytest.fixture(scope="module")
def knocked():
    """A port, and who came there."""
    visits = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def wait():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                visits.append(1)
                connection.close()

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        yield server.getsockname()[1], visits
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("kind", DECLARATIONS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
def test_declarations_are_refused_in_every_encoding(tmp_path, kind, encoding, knocked):
    port, visits = knocked
    declaration = DECLARATIONS[kind].replace("PORT", str(port))
    path = tmp_path / "a.xml"
    for said in ("", f'<?xml version="1.0" encoding="{encoding.replace("-sig", "")}"?>'):
        path.write_bytes((said + declaration + annotation(obj("&l11;"))).encode(encoding))
        with pytest.raises(UserError) as error:
            read_annotation(str(path))
        assert str(error.value).startswith(f"{path}: ")
        assert "\n" not in str(error.value)
        if encoding not in ("utf-16-le", "utf-16-be") or not said:
            assert "DOCTYPE or ENTITY" in str(error.value)
    assert not visits


@pytest.mark.parametrize("encoding", ["utf-32", "utf-32-be", "utf-7", "cp037", "hz"])
def test_encodings_that_hide_declarations_are_refused(tmp_path, encoding):
    path = tmp_path / "a.xml"
    whole = DECLARATIONS["laughs"] + annotation(obj("&l11;"))
    said = f'<?xml version="1.0" encoding="{encoding}"?>'
    raws = [(said + whole).encode(encoding), said.encode() + whole.encode(encoding), whole.encode(encoding)]
    if encoding == "utf-7":
        raws.append(said.encode() + whole.encode("utf-7").replace(b"<!", b"+ADwAIQ-"))
    for raw in raws:
        path.write_bytes(raw)
        with pytest.raises(UserError):
            read_annotation(str(path))


def test_marks_within_a_comment_or_a_text_are_no_declarations(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(annotation(obj(), "<!-- <!DOCTYPE x> --><folder><![CDATA[<!ENTITY]]></folder>"))
    assert read_annotation(str(path))[1][0].name == "cat"


@pytest.mark.parametrize("name", ["&nosuch;", "&#0;", "&#xFFFFFFFF;", "&#xD800;", "\x01"])
def test_characters_that_are_none(tmp_path, name):
    path = tmp_path / "a.xml"
    path.write_text(annotation(obj(name)))
    with pytest.raises(UserError, match=r"line 1, column .*; mend the XML"):
        read_annotation(str(path))


def test_depth_and_length(tmp_path):
    path = tmp_path / "a.xml"
    deep = lambda n: f"<annotation>{'<a>' * n}{'</a>' * n}{obj()}</annotation>"  # noqa: E731
    path.write_text(deep(MAX_DEPTH - 1))
    assert len(read_annotation(str(path))[1]) == 1
    for n in (MAX_DEPTH, 2_000_000):
        path.write_text(deep(n))
        with pytest.raises(UserError, match=f"stand {MAX_DEPTH + 1} deep; this is not a VOC annotation"):
            read_annotation(str(path))
    path.write_text(annotation(f'<object a="{"x" * 3_000_000}"/>'))
    with pytest.raises(UserError, match="object 1 has no <name>"):
        read_annotation(str(path))
    with path.open("wb") as file:
        file.truncate(MAX_XML_BYTES + 1)
    with pytest.raises(UserError, match="has 17 MB, of 17 at most"):
        read_annotation(str(path))


@pytest.mark.parametrize("kind", ["pipe", "/dev/zero", "folder"])
@pytest.mark.parametrize("which", ["Annotations/a.xml", "ImageSets/Main/trainval.txt", "JPEGImages/a.jpg"])
def test_what_is_no_file_in_a_voc_folder(tmp_path, kind, which):
    root = make_voc(tmp_path / "voc", {"a": annotation(obj())})
    (root / which).unlink()
    if kind == "pipe":
        os.mkfifo(root / which)
    elif kind == "folder":
        (root / which).mkdir()
    else:
        (root / which).symlink_to(kind)
    assert which.rpartition("/")[2] in refusal(root)


# Sizes


@pytest.mark.parametrize("side", ["1000000001", "1e9", "9" * 400 + ".0", "1e300"])
def test_absurd_sizes(tmp_path, side):
    size = f"<size><width>{side}</width><height>80</height></size>"
    root = make_voc(tmp_path / "voc", {"a": annotation(obj(), size=size)})
    if float(side) == float("inf"):
        assert len(VOCBboxDataset(root)) == 1  # as if it said nothing
    else:
        assert "which no picture has; correct it" in refusal(root)
        assert "which no picture has; correct it" in refusal(root, pictures=False)


@pytest.mark.parametrize("side", [10**9, 1e300, 10**300, True, "9" * 99, -5, [10**9], None])
@pytest.mark.parametrize("pictures", [True, False])
def test_absurd_sizes_in_coco(tmp_path, side, pictures):
    image = {"id": 1, "file_name": "a.jpg", "width": side, "height": 80}
    root = make_coco(tmp_path, image)
    if isinstance(side, (int, float)) and side > 10**6:
        with pytest.raises(UserError, match=r"image 1 says \S+ px, which no picture has; correct it"):
            COCOBboxDataset(root, "val", pictures=pictures)
    else:
        assert len(COCOBboxDataset(root, "val", pictures=pictures)) == 1


def make_coco(root, image, *boxes):
    (root / "val").mkdir(parents=True, exist_ok=True)
    (root / "val.json").write_text(json.dumps(content(box(), *boxes, images=[image])))
    (root / "val" / "a.jpg").write_bytes(PICTURE)
    return root


# Names that lead elsewhere


OUTSIDE = ["../private", "../../private", "/etc/passwd", "{tmp}/private", "..\\private", "JPEGImages/../../private",
           "a/../../../private", "~/private", "file:///etc/passwd", "a\0.jpg", "\\\\server\\share\\a"]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("pictures", [True, False])
def test_lists_name_nothing_outside_of_their_folder(tmp_path, name, pictures):
    root = make_voc(tmp_path / "voc", {"a": annotation(obj())})
    (tmp_path / "private.jpg").write_bytes(PICTURE)
    (tmp_path / "private.xml").write_text(annotation(obj("secret")))
    name = name.replace("{tmp}", str(tmp_path))
    (root / "ImageSets/Main/trainval.txt").write_text(f"{name}\na\n")
    message = refusal(root, pictures=pictures)
    assert "secret" not in message
    assert "no picture" in message or "annotation is missing" in message


@pytest.mark.parametrize("name", [f"{name}.jpg" for name in OUTSIDE if "a\0" not in name] + ["..", "/", ".\\..\\..\\x"])
def test_coco_names_no_picture_outside_of_its_folder(tmp_path, name):
    (tmp_path / "private.jpg").write_bytes(PICTURE)
    name = name.replace("{tmp}", str(tmp_path))
    images = [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 80}, {"id": 2, "file_name": name}]
    root = make_coco(tmp_path / "coco", None)
    (root / "val.json").write_text(json.dumps(content(box(), images=images)))
    with pytest.raises(UserError) as error:
        COCOBboxDataset(root, "val")
    assert "\n" not in str(error.value)
    inside = ("../private.jpg", "..\\private.jpg", "JPEGImages/../../private.jpg")  # of the set, where it is not
    if name not in inside and (".." in name or name.startswith(("/", "\\"))):
        assert "outside" in str(error.value)


def test_names_that_turn_back_into_their_folder_and_links_are_read(tmp_path):
    root = make_coco(tmp_path / "coco", {"id": 1, "file_name": "../val/./a.jpg", "width": 100, "height": 80})
    assert len(COCOBboxDataset(root, "val")) == 1
    absolute = {"id": 1, "file_name": str(root.absolute() / "val/a.jpg"), "width": 100, "height": 80}
    assert len(COCOBboxDataset(make_coco(root, absolute), "val")) == 1
    (tmp_path / "store.jpg").write_bytes(PICTURE)
    (root / "val/a.jpg").unlink()
    (root / "val/a.jpg").symlink_to(tmp_path / "store.jpg")  # as many sets that share their pictures
    assert len(COCOBboxDataset(root, "val")) == 1
    voc = make_voc(tmp_path / "voc", {"a": annotation(obj())})
    (voc / "JPEGImages/a.jpg").unlink()
    (voc / "JPEGImages/a.jpg").symlink_to(tmp_path / "store.jpg")
    assert VOCBboxDataset(voc).get_example(0)[0].shape == (3, 80, 100)


def test_a_file_name_in_the_xml_is_not_followed(tmp_path):
    (tmp_path / "private.jpg").write_bytes(PICTURE)
    named = annotation("<filename>../private.jpg</filename><path>/etc/passwd</path>", obj())
    root = make_voc(tmp_path / "voc", {"a": named})
    assert VOCBboxDataset(root).path(0) == str(root / "JPEGImages/a.jpg")


def test_lists_in_other_encodings(tmp_path):
    root = make_voc(tmp_path / "voc", {"a": annotation(obj())})
    for raw in (codecs.BOM_UTF32 + "a".encode("utf-32-le"), b"\xff\xfea", b"a\0", b"\x1b[2Ja", b"a\xe2\x80\xa8b"):
        (root / "ImageSets/Main/trainval.txt").write_bytes(raw)
        message = refusal(root)
        assert len(message.splitlines()) == 1
        assert "\x1b" not in message
