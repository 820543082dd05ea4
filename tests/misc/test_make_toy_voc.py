"""The toy dataset: its files, and its annotations against truths that are worked out here in other ways."""

import itertools
import math
import xml.etree.ElementTree as ET
from collections import Counter

import numpy as np
import pytest
from PIL import Image

import misc.make_toy_voc as maker
from tests.misc.toy_files import read_all, read_objects

N_TRAIN, N_VAL, SIZE = 80, 20, 128
CLASSES = {"circle", "square", "triangle", "star", "cross", "ring"}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """(folder, counts) of one small dataset for all tests that only read."""
    folder = tmp_path_factory.mktemp("toy") / "voc"
    return folder, maker.make_toy_voc(folder, N_TRAIN, N_VAL, size=SIZE, seed=0)


@pytest.fixture(scope="module")
def annotations(toy):
    """{image id: (width, height, objects)} as read from the XML files."""
    return {
        xml.stem: (
            int(ET.parse(xml).findtext("size/width")),
            int(ET.parse(xml).findtext("size/height")),
            read_objects(xml),
        )
        for xml in sorted((toy[0] / "Annotations").iterdir())
    }


# ---- shapes, each against its formula


def inside(name: str, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Whether points lie in the upright shape around (0, 0) with circumradius 1, by a formula instead of an outline."""
    radius = np.hypot(y, x)
    if name == "circle":
        return radius <= 1
    if name == "ring":
        return (radius <= 1) & (radius > maker.RING_HOLE)
    if name == "square":
        return np.maximum(abs(y), abs(x)) <= math.sqrt(0.5)
    if name == "cross":  # arms a third of the span wide
        long, short = 3 / math.sqrt(10), 1 / math.sqrt(10)
        return (np.maximum(abs(y), abs(x)) <= long) & (np.minimum(abs(y), abs(x)) <= short)
    if name == "triangle":  # below the top's two edges and above the base at y = 1/2
        return (y <= 0.5) & (abs(x) <= (y + 1) / math.sqrt(3))
    # Star: fold the plane into one half tip; there its edge is the line from the tip (1, 0) to the notch at 36 degrees.
    turn = np.arctan2(x, -y) % (2 * np.pi / 5)
    turn = np.minimum(turn, 2 * np.pi / 5 - turn)
    along, across = radius * np.cos(turn), radius * np.sin(turn)
    notch_along, notch_across = 0.45 * math.cos(np.pi / 5), 0.45 * math.sin(np.pi / 5)
    return (along - 1) * notch_across <= across * (notch_along - 1)


@pytest.mark.parametrize("name", sorted(CLASSES))
@pytest.mark.parametrize("degrees", [0, 13, -20])
def test_shape_agrees_with_its_formula(name, degrees):
    size, angle = 96, math.radians(degrees)
    grid = np.linspace(-1, 1, 1001)
    y, x = np.meshgrid(grid, grid, indexing="ij")
    # A clockwise turn of the shape (y points down) is a counter-clockwise turn of the points looked up.
    truth = inside(name, y * math.cos(angle) - x * math.sin(angle), x * math.cos(angle) + y * math.sin(angle))
    rows, cols = np.flatnonzero(truth.any(axis=1)), np.flatnonzero(truth.any(axis=0))
    truth = truth[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    scale = (max(truth.shape) - 1) / (size - 1)

    mask = maker.shape_mask(name, size, angle)
    assert mask.dtype == bool
    assert max(mask.shape) == size
    assert np.abs(np.array(truth.shape) / scale - mask.shape).max() < 2
    pick = [
        np.minimum(np.rint(np.arange(n) * scale).astype(int), limit - 1) for n, limit in zip(mask.shape, truth.shape)
    ]
    truth = truth[np.ix_(*pick)]
    assert (mask & truth).sum() / (mask | truth).sum() > 0.95


@pytest.mark.parametrize("name", sorted(CLASSES))
@pytest.mark.parametrize("size", [16, 17, 40, 150])
def test_mask_fills_its_window(name, size):
    for degrees in range(-20, 21, 4):
        mask = maker.shape_mask(name, size, math.radians(degrees))
        assert max(mask.shape) == size
        assert all(side.any() for side in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))


def test_upright_square_is_full():
    assert maker.shape_mask("square", 20, 0.0).shape == (20, 20)
    assert maker.shape_mask("square", 20, 0.0).all()


# ---- annotations of scenes


def placed(mask, top, left, name="square"):
    return maker.Placed(name, np.asarray(mask, dtype=bool), top, left)


def test_box_is_one_based_and_inclusive():
    (item,) = maker.annotate([placed(np.ones((10, 20)), top=3, left=5)], height=50, width=60)
    assert item == ("square", (6, 4, 25, 13), False, False)


def test_box_of_an_object_that_fills_the_image():
    (item,) = maker.annotate([placed(np.ones((50, 60)), top=0, left=0)], height=50, width=60)
    assert item.box == (1, 1, 60, 50)
    assert not item.truncated


def test_box_is_tight_around_what_the_border_leaves():
    """Of a falling diagonal whose left half is cut away, only the lower rows are left."""
    (item,) = maker.annotate([placed(np.eye(10), top=7, left=-5)], height=50, width=60)
    assert item.box == (1, 13, 5, 17)
    assert item.truncated


def test_box_ignores_occlusion():
    scene = [placed(np.ones((10, 10)), 20, 20), placed(np.ones((10, 10)), 20, 25, "cross")]
    hidden_half, front = maker.annotate(scene, height=50, width=60)
    assert hidden_half == ("square", (21, 21, 30, 30), False, False)
    assert front == ("cross", (26, 21, 35, 30), False, False)


@pytest.mark.parametrize(
    ("hidden_columns", "expected"),
    [(0, "kept"), (60, "kept"), (61, "difficult"), (95, "difficult"), (96, "dropped"), (100, "dropped")],
)
def test_hidden_share_decides(hidden_columns, expected):
    cover = placed(np.ones((10, 100)), top=30, left=hidden_columns, name="cross")
    *behind, front = maker.annotate([placed(np.ones((10, 100)), top=30, left=100), cover], height=60, width=240)
    assert front == ("cross", (hidden_columns + 1, 31, hidden_columns + 100, 40), False, False)
    assert ["difficult" if item.difficult else "kept" for item in behind] == (
        [] if expected == "dropped" else [expected]
    )


@pytest.mark.parametrize(("outside", "difficult"), [(1, False), (60, False), (61, True), (95, True)])
def test_area_beyond_the_border_counts_as_hidden(outside, difficult):
    (item,) = maker.annotate([placed(np.ones((100, 10)), top=-outside, left=4)], height=140, width=60)
    assert item == ("square", (5, 1, 14, 100 - outside), True, difficult)


def test_border_and_cover_add_up():
    cover = placed(np.ones((10, 31)), top=5, left=0, name="cross")
    half_outside, _ = maker.annotate([placed(np.ones((10, 100)), top=5, left=-50), cover], height=60, width=140)
    assert half_outside == ("square", (1, 6, 50, 15), True, True)  # 50 columns outside and 31 covered


def test_random_scenes_agree_with_pixel_sets():
    """The rules again, on sets of (row, column) pairs instead of arrays."""
    height, width, seen = 80, 96, Counter()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        scene = [maker.place_object(rng, height, width) for _ in range(6)]
        pixels = [{(thing.top + y, thing.left + x) for y, x in np.argwhere(thing.mask).tolist()} for thing in scene]
        expected = []
        for number, mine in enumerate(pixels):
            within = {(y, x) for y, x in mine if 0 <= y < height and 0 <= x < width}
            visible = within.difference(*pixels[number + 1 :])
            if 100 * len(visible) < 5 * len(mine):
                seen["dropped"] += 1
                continue
            ys, xs = zip(*within)
            box = (min(xs) + 1, min(ys) + 1, max(xs) + 1, max(ys) + 1)
            expected.append((scene[number].name, box, len(within) < len(mine), 100 * len(visible) < 40 * len(mine)))
        assert maker.annotate(scene, height, width) == expected
        seen.update(truncated=sum(item[2] for item in expected), difficult=sum(item[3] for item in expected))
    assert min(seen["dropped"], seen["truncated"], seen["difficult"]) > 0


def test_picture_and_boxes_agree(monkeypatch):
    """In flat colours, what is seen of an object lies in its box, and touches all of it for the last, uncovered one."""
    shades = iter(())

    def flat(rng, height, width, one, other):
        return np.full((height, width, 3), next(shades), np.float32)

    monkeypatch.setattr(maker, "texture", flat)
    tight = 0
    for index in range(60):
        shades = itertools.count(step=20)  # 0 is the background, 20 the first object, ...
        image, objects = maker.make_image(0, "train", index, 96)
        if len(objects) != next(shades) // 20 - 1:  # one was dropped: which shade is whose is not known
            continue
        for number, item in enumerate(objects, start=1):
            y, x = np.nonzero(image[..., 0] == 20 * number)
            seen = (x.min() + 1, y.min() + 1, x.max() + 1, y.max() + 1)
            assert all(np.less_equal(item.box[:2], seen[:2]))
            assert all(np.greater_equal(item.box[2:], seen[2:]))
        if objects:
            assert seen == objects[-1].box
            tight += 1
    assert tight > 40


def test_objects_stand_out_and_are_textured():
    visible = textured = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        thing = maker.place_object(rng, 96, 96)._replace(top=10, left=10)
        image = maker.paint(rng, [thing], 96, 96).astype(float)
        mask = np.zeros((96, 96), dtype=bool)
        mask[10 : 10 + thing.mask.shape[0], 10 : 10 + thing.mask.shape[1]] = thing.mask
        visible += np.linalg.norm(image[mask].mean(axis=0) - image[~mask].mean(axis=0)) > 60
        textured += min(image[mask].std(axis=0).max(), image[~mask].std(axis=0).max()) > 4
    assert visible >= 57
    assert textured >= 57


# ---- files


def test_layout(toy, annotations):
    folder, _ = toy
    ids = [f"{number:06d}" for number in range(1, N_TRAIN + N_VAL + 1)]
    files = {f"Annotations/{i}.xml" for i in ids} | {f"JPEGImages/{i}.jpg" for i in ids} | {maker.MANIFEST}
    files |= {f"ImageSets/Main/{split}.txt" for split in ("train", "val", "trainval")}
    assert set(read_all(folder)) == files
    for split, expected in [("train", ids[:N_TRAIN]), ("val", ids[N_TRAIN:]), ("trainval", ids)]:
        assert (folder / f"ImageSets/Main/{split}.txt").read_text() == "".join(f"{i}\n" for i in expected)
    for image_id, (width, height, _) in annotations.items():
        with Image.open(folder / "JPEGImages" / f"{image_id}.jpg") as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (width, height))
    assert {(width, height) for width, height, _ in annotations.values()} == {(128, 128), (128, 106), (106, 128)}


def test_xml_has_the_form_of_voc(toy, annotations):
    folder, _ = toy
    image_id = next(i for i, (_, _, objects) in annotations.items() if objects)
    root = ET.parse(folder / f"Annotations/{image_id}.xml").getroot()
    assert root.tag == "annotation"
    assert [node.tag for node in root][:4] == ["folder", "filename", "size", "segmented"]
    assert {node.tag for node in root[4:]} == {"object"}
    assert root.findtext("filename") == f"{image_id}.jpg"
    assert root.findtext("size/depth") == "3"
    assert root.findtext("segmented") == "0"
    assert [node.tag for node in root.find("object")] == ["name", "pose", "truncated", "difficult", "bndbox"]
    assert [node.tag for node in root.find("object/bndbox")] == ["xmin", "ymin", "xmax", "ymax"]


def test_picture_on_disk_is_the_one_that_was_drawn(toy, annotations):
    folder, _ = toy
    for image_id, split, index in [("000001", "train", 0), (f"{N_TRAIN + 1:06d}", "val", 0)]:
        image, objects = maker.make_image(0, split, index, SIZE)
        stored = np.asarray(Image.open(folder / f"JPEGImages/{image_id}.jpg"))
        assert np.abs(stored.astype(float) - image).mean() < 8
        read = [(o["name"], (o["xmin"], o["ymin"], o["xmax"], o["ymax"])) for o in annotations[image_id][2]]
        assert read == [(item.name, item.box) for item in objects]


def test_corners_and_sizes_are_in_range(annotations):
    sizes, corners = [], set()
    for width, height, objects in annotations.values():
        assert len(objects) <= 6
        for item in objects:
            xmin, ymin, xmax, ymax = (item[key] for key in ("xmin", "ymin", "xmax", "ymax"))
            assert 1 <= xmin < xmax <= width
            assert 1 <= ymin < ymax <= height
            longer = max(xmax - xmin, ymax - ymin) + 1
            assert longer <= SIZE // 2
            at_border = xmin == 1 or ymin == 1 or xmax == width or ymax == height
            assert at_border or not item["truncated"]
            corners.update([("min", min(xmin, ymin)), ("max", width - xmax), ("max", height - ymax)])
            if not item["truncated"]:
                assert longer >= 16
                sizes.append(longer)
    assert {("min", 1), ("max", 0)} <= corners  # both ends of the range are in use
    small, large = np.mean(np.array(sizes) < 24), np.mean(np.array(sizes) > 44)
    assert 0.06 < small < 0.30  # uniform on 16..64: 16 % below 24, 41 % above 44
    assert 0.25 < large < 0.55


def test_some_images_are_empty(toy, annotations):
    empty = [image_id for image_id, (_, _, objects) in annotations.items() if not objects]
    assert len(empty) == 5
    assert sum(int(image_id) > N_TRAIN for image_id in empty) == 1
    assert b"<object>" not in (toy[0] / f"Annotations/{empty[0]}.xml").read_bytes()


def test_counts_and_balance(annotations, toy):
    for split in ("train", "val"):
        members = [v for i, v in annotations.items() if (int(i) <= N_TRAIN) == (split == "train")]
        objects = [item for *_, items in members for item in items]
        names = Counter(item["name"] for item in objects)
        expected = {"images": len(members), "empty": sum(not items for *_, items in members), "boxes": len(objects)}
        expected |= {flag: sum(item[flag] for item in objects) for flag in ("truncated", "difficult")}
        assert dict(toy[1][split]) == expected | names
        if split == "train":
            assert set(names) == CLASSES
            assert max(names.values()) < 2 * min(names.values())
            assert 0 < expected["difficult"] < 0.2 * len(objects)
            assert 0 < expected["truncated"] < 0.25 * len(objects)
