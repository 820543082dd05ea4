"""What `misc/fuzz.py` feeds: each reader of a stranger's files, with files to begin from."""

import io
import json
import shlex
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data.coco_dataset import COCOBboxDataset
from data.splits import open_split, sources
from data.voc_dataset import VOCBboxDataset
from data.voc_xml import read_annotation
from misc.fuzz_state import STORED, read_state, read_stored, states
from model.zoo import names_in_order
from utils.checkpoint import read_checkpoint
from utils.command_options import ALL, COMMAND_OPTIONS, refuse_unread
from utils.config import Config
from utils.detections import Names, read_detections
from utils.errors import UserError
from utils.event_log import FILE, EventLog
from utils.image_tool import image_sizes, read_image
from utils.index_tool import FileIndex
from utils.label_names import parse_label_names
from utils.proposal_tool import read_proposals
from utils.run_tool import read_run
from utils.vis_tool import Visualizer


@dataclass(frozen=True)
class Target:
    """A reader.

    Args:
        read: (folder of its own, content of the file) → whatever; UserError is an answer, all else a defect.
        seeds: contents that it reads.
        tokens: what the mutations put in.
        form: 'bytes', 'json', 'lines' (of JSON) or 'zip': what else than bytes is mutated.
        megabytes: by which one case may raise the process's memory.
    """

    read: Callable[[Path, bytes], object]
    seeds: list[bytes]
    tokens: list[bytes] = field(default_factory=list)
    form: str = "bytes"
    megabytes: int = 256


def _written(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


BOX = "<bndbox><xmin>11</xmin><ymin>21</ymin><xmax>31</xmax><ymax>51</ymax></bndbox>"
ANNOTATION = (
    "<annotation><folder>VOC</folder><filename>a.jpg</filename><size><width>40</width><height>30</height></size>"
    f"<object><name>cat</name><difficult>0</difficult>{BOX}<part><name>head</name>{BOX}</part></object></annotation>"
).encode()


def _picture():
    file = io.BytesIO()
    Image.new("RGB", (40, 30)).save(file, "PNG")
    return file.getvalue()


PICTURE = _picture()


def _pictures():
    made = []
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF"):
        file = io.BytesIO()
        Image.new("RGB", (9, 7), (200, 9, 90)).save(file, kind)
        made.append(file.getvalue())
    return made


PICTURES = _pictures()


def _voc(folder, xml=ANNOTATION, listed=b"a\nb 1\n"):
    for name in ("a", "b"):
        _written(folder, f"Annotations/{name}.xml", xml)
        _written(folder, f"JPEGImages/{name}.jpg", PICTURE)
    _written(folder, "ImageSets/Main/train.txt", listed)
    return folder


def _read_xml(folder, content):
    read_annotation(str(_written(folder, "x.xml", content)))
    VOCBboxDataset(_voc(folder, content), "train")  # what is read is used, too


def _read_list(folder, content):
    VOCBboxDataset(_voc(folder, listed=content), "train")
    VOCBboxDataset(folder, "train", pictures=False)


COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}, {"id": 2, "file_name": "sub/b.jpg"}],
    "annotations": [
        {"id": 5, "image_id": 1, "category_id": 3, "bbox": [1, 2.5, 30, 20], "area": 600, "iscrowd": 0},
        {"id": 6, "image_id": 2, "category_id": 7, "bbox": [0, 0, 1, 1], "iscrowd": 1},
    ],
    "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog", "supercategory": "animal"}],
}


def _read_coco(folder, content):
    _written(folder, "val.json", content)
    for name in ("a.jpg", "sub/b.jpg"):
        _written(folder, f"val/{name}", PICTURE)
    for pictures in (False, True):
        dataset = COCOBboxDataset(folder, "val", use_difficult=pictures, pictures=pictures, index=FileIndex())
        dataset.summary(), dataset.instances(), dataset.names


NAMES = Names(["a", "b"], {"cat": 1, "dog": 2})
RESULTS = [
    {"image_id": "a", "category_id": 1, "bbox": [1, 2, 3, 4.5], "score": 0.5},
    {"image_id": "b", "category_id": 2, "category_name": "dog", "bbox": [0, 0, 1, 1], "score": 1},
]
VOC_RESULTS = b"a 0.9 1 2 30 40\nb 0.1 1.5 2 3 4\r\n\nc 1e-3 0 0 1 1\n"


def _array_archive(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _torch_file(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def _checkpoints():
    content = {
        "model": {"head.weight": torch.arange(6.0).reshape(2, 3), "head.bias": torch.zeros(2, dtype=torch.int64)},
        "config": {"lr": 0.1, "model": "tiny", "anchor_scales": [8, 16.0], "label_names": ["cat", "dog"], "amp": None},
        "other_info": {"best_map": np.float64(0.5), "epoch": 3, "alternating": 1, "options": {"epoch": 14}},
        "vis_info": {"env": "e", "log_text": "a<br>b"},
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "rng": {"torch": torch.zeros(8, dtype=torch.uint8), "n_seen": 4},
    }
    old = {"_use_new_zipfile_serialization": False}
    return [_torch_file(content), _torch_file(content["model"]), _torch_file(content, **old)]


def _read_checkpoint(folder, content):
    checkpoint = read_checkpoint(_written(folder, "x.pth", content))
    str(checkpoint.config), str(checkpoint.other_info)
    sum(float(value.double().sum()) for value in checkpoint.model.values() if value.layout == torch.strided)
    with suppress(UserError):  # a checkpoint may be anything's
        names_in_order(checkpoint)
    Config().begin_with(checkpoint.config, set(ALL))
    Config().update_known(checkpoint.config)


EVENTS = [
    {"win": "total_loss", "kind": "point", "x": 1, "y": 0.5},
    {"win": "rpn_recall", "kind": "point", "x": 2, "y": None, "line": "IoU 0.5"},
    {"win": "gt_img", "kind": "img", "file": "pictures/gt.jpg"},
    {"win": "followed 1", "kind": "img", "file": "pictures/gt.jpg", "caption": "step 2"},
    {"win": "labels", "kind": "text", "text": "<b>cat</b>"},
    {"win": "log", "kind": "log", "text": "begun"},
    {"win": "roi_cm", "kind": "heatmap", "matrix": [[1, 2], [3, 4]], "names": ["cat", "dog"]},
    {"win": "class_ap", "kind": "bars", "names": ["cat"], "values": [0.5]},
    {"win": "pr_curves", "kind": "curves", "names": ["cat"], "x": [[0, 1]], "y": [[1, None]]},
    {"win": "", "kind": "end", "why": "done"},
]


def _read_events(folder, content):
    _written(folder, FILE, content)
    _written(folder, "pictures/gt.jpg", PICTURES[1])
    run = read_run(folder)
    vis = Visualizer(enabled=False)
    try:
        vis.replay([json.loads(line) for line in content.rpartition(b"\n")[0].split(b"\n")], folder)
    finally:
        vis.close()
    EventLog(folder, go_on_from=1, n_events=8).close()
    return run


def _parse_words(_, content):
    """Through the readers of all commands."""
    words = shlex.split(content.decode("utf-8", "surrogateescape").replace("\0", "")) if _closed(content) else []
    given = dict(word.removeprefix("--").partition("=")[::2] for word in words)
    config = Config().parse(given)
    shlex.join(config.words())
    for command in COMMAND_OPTIONS:
        with suppress(UserError):  # none reads all of them
            refuse_unread(command, given)


def _closed(content):
    return not any(content.count(quote) % 2 for quote in (b"'", b'"')) and b"\\" not in content


OPTIONS = [
    b"--voc-data-dir=A,B --train-split=train,- --lr=1e-3 --lr-milestones=9,12 --use-adam=True --max-dets=None",
    b"--anchor-scales=8,16,32 --anchor-ratios=(0.5,1,2) --train-sizes=480,600 --seed=7 --visdom=yes --port=8097",
    b"--visdom-server=https://[::1] --visdom-bind=0.0.0.0 --save=pictures,voc --min-size=16 --max-size=10000",
    b"--data=coco --coco-data-dir=coco --rpn-neg-iou=0.3 --roi-pos-ratio=1 --amp=bf16 --quiet=1 --epoch=3",
]


def _open_splits(folder, content):
    """Of a folder that is VOC's and COCO's."""
    _voc(folder)
    _written(folder, "train.json", json.dumps(COCO).encode())
    data_dir, _, split = content.decode("utf-8", "surrogateescape").partition("\n")
    given = Config().parse({"voc_data_dir": data_dir.replace("VOC", str(folder)), "val_split": split})
    data_dir, split = given.voc_data_dir, given.val_split
    sources(data_dir, split)
    for kind in ("voc", "coco"):
        open_split(kind, data_dir, split, index=FileIndex(), strict=False)


def _read_picture(folder, content):
    path = _written(folder, "a.jpg", content)
    height, width = image_sizes(path)[0]
    if height * width < 10_000_000:  # else it takes what MAX_PIXELS allows
        read_image(path)


def rewritten(archive: bytes, change) -> bytes:
    """A zip with one of its members (the pickle, of torch's) as `change` makes it, and right checksums again."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(written, "w") as new:
        names = old.namelist()
        chosen = next((name for name in names if name.endswith("data.pkl")), names[0])
        for name in names:
            member = zipfile.ZipInfo(name)  # of 1980, not of now: the same case each time
            new.writestr(member, change(old.read(name)) if name == chosen else old.read(name))
    return written.getvalue()


NUMBERS = [
    b"-1",
    b"0",
    b"1e999",
    b"nan",
    b"1" * 400,
    b"1" * 5000,
    b"4294967296",
    b"-9223372036854775809",
    b"0.0",
    b"1_0",
]
CHARACTERS = [
    b"\0",
    b"\n",
    b"\r",
    b"\x1b[2J",
    "\u2028\u202e".encode(),
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"\\",
]
PATHS = [b"../", b"/etc/passwd", b"..\\", b"~", b"a" * 300, b"//", b"."]
PICKLE = [
    b"cos\nsystem\n",
    b"cbuiltins\neval\n",
    b"c_codecs\nencode\n",
    b"cbuiltins\nbytearray\n",
    b"ccollections\nOrderedDict\n",
    b"ctorch\nFloatStorage\n",
    b"cnumpy\ndtype\n",
    b"R",
    b"b",
    b"Q",
    b"(",
    b"t",
    b"}",
    b"]",
    b"u",
    b"e",
    b"0",
    b"\x85",
    b"\x81",
    b"\x8a\x04\xff\xff\xff\x7f",
    b"X\xff\xff\xff\xff",
    b"h\x00",
    b"q\x00",
    b".",
]
XML = [
    b"<!DOCTYPE a [",
    b"<!ENTITY a 'b'>",
    b"&a;",
    b"<object>",
    b"</object>",
    b"<bndbox>",
    b"<![CDATA[",
    b"]]>",
    b"<!--",
    b"<?xml version='1.0' encoding='utf-16'?>",
    b"<name/>",
    b"<size>",
    b"xmlns:x='y'",
]

TARGETS = {
    "xml": Target(_read_xml, [ANNOTATION, ANNOTATION.decode().encode("utf-16")], XML + NUMBERS + CHARACTERS),
    "coco": Target(_read_coco, [json.dumps(COCO).encode()], NUMBERS + CHARACTERS + PATHS, "json"),
    "lists": Target(
        _read_list, [b"a\nb\n", b"a -1\nb  1\r\n", "a\nb".encode("utf-16")], CHARACTERS + PATHS + [b" 1", b".jpg"]
    ),
    "names": Target(
        lambda folder, own: parse_label_names(_written(folder, "n.txt", own)), [b"cat\ndog\n", b"a,b\nc"], CHARACTERS
    ),
    "proposals": Target(
        lambda folder, own: read_proposals([_written(folder, "p.npz", own)], ["a"]),
        [_array_archive(**{"bbox/a": np.ones((2, 4), np.float32), "score/a": np.ones(2, np.float32)})],
        [b"{'descr': '|O', 'fortran_order': False, 'shape': (2, 4), }", b"(1000000000000, 4)", b"'>f2'", b"'<f8'"],
        "zip",
    ),
    "results": Target(
        lambda folder, own: read_detections(_written(folder, "r.json", own), NAMES),
        [json.dumps(RESULTS).encode(), json.dumps({"annotations": RESULTS}).encode()],
        NUMBERS + CHARACTERS,
        "json",
    ),
    "voc-results": Target(
        lambda folder, own: read_detections(_written(folder, "comp4_det_test_cat.txt", own), NAMES),
        [VOC_RESULTS],
        NUMBERS + CHARACTERS + [b" ", b"\t"],
    ),
    "events": Target(
        _read_events,
        [b"".join(json.dumps({"time": 1.7e9, "step": 3} | own).encode() + b"\n" for own in EVENTS)],
        NUMBERS + CHARACTERS + PATHS,
        "lines",
    ),
    "checkpoint": Target(_read_checkpoint, _checkpoints(), [*PICKLE, struct.pack("<q", 2**40)], "zip"),
    "stored": Target(read_stored, [json.dumps(STORED).encode()], NUMBERS, "json"),
    "state": Target(read_state, [*states()], NUMBERS, "json"),
    "options": Target(_parse_words, OPTIONS, NUMBERS + CHARACTERS + [b"--", b"=", b",", b"None", b"True", b"-", b"["]),
    "splits": Target(
        _open_splits,
        [b"VOC\ntrain", b"VOC,VOC\ntrain,-", b"VOC,VOC\n-,train"],
        CHARACTERS + PATHS + [b",", b"-", b"VOC"],
    ),
    "pictures": Target(
        _read_picture, PICTURES, [struct.pack(">I", 2**31 - 1), b"IDAT", b"\xff\xd8", b"Exif\0\0"], megabytes=1200
    ),
}
