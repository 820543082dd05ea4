"""utils/image_tool.py against skimage's resize, hand numbers and small files of every kind."""

import re
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.transform import resize as skimage_resize
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from tests.voc_folder import png
from utils.errors import UserError
from utils.image_tool import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    INPUT_MODES,
    image_sizes,
    inverse_normalize,
    normalize,
    prepare,
    read_image,
    resize,
    resized_size,
)

SMALL = settings(max_examples=30, deadline=None)


def soft_picture(height, width, seed):
    """(3, height, width) float32, 0..255: waves, an edge and grain, as a photograph has."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    img = np.stack([127 + 100 * np.sin(y / a + x / b) for a, b in rng.uniform(3, 30, (3, 2))])
    img[:, height // 3 :, width // 2 :] = 255 - img[:, height // 3 :, width // 2 :]
    return np.clip(img + rng.normal(0, 10, img.shape), 0, 255).astype(np.float32)


def assert_like_skimage(img, size):
    """Within 1/255 of the range, but for the border, where skimage mirrors and torch repeats."""
    ours = resize(torch.from_numpy(img), size).numpy()
    assert ours.shape[1:] == size
    assert_near_skimage(ours, img)


def assert_near_skimage(ours, img):
    size = ours.shape[1:]
    theirs = skimage_resize(img / 255, ours.shape, mode="reflect", anti_aliasing=False) * 255
    y, x = (max(1, int(np.ceil(size[k] / img.shape[1 + k]))) for k in (0, 1))
    inner = (slice(None), slice(y, -y), slice(x, -x))
    assert np.abs(ours[inner] - theirs[inner]).max() < 1


# resize


@pytest.mark.parametrize(
    ("size", "out"), [((75, 100), (120, 160)), ((100, 75), (60, 45)), ((90, 60), (91, 59)), ((40, 50), (40, 83))]
)
def test_resize_agrees_with_skimage(size, out):
    assert_like_skimage(soft_picture(*size, seed=1), out)


@SMALL
@given(st.integers(20, 120), st.integers(20, 120), st.sampled_from([16, 40, 97, 150]), st.sampled_from([150, 300]))
def test_prepared_pictures_agree_with_skimage(height, width, min_size, max_size):
    """Up and down, whichever comes first of resizing and normalising; within 1 of 255 but for the border."""
    img = soft_picture(height, width, seed=height)
    prepared = inverse_normalize(prepare(img, min_size, max_size)).numpy()
    assert_near_skimage(prepared, img)


def test_resize_agrees_with_skimage_on_photographs(shared_data):
    paths = sorted(shared_data.glob("*/JPEGImages/*"))[::350][:4]
    if not paths:
        pytest.skip(f"no JPEGImages below {shared_data}")
    for path in paths:
        img = read_image(path)
        for sizes in ((300, 500), (600, 1000), (900, 1500)):
            assert_like_skimage(img, resized_size(img.shape[1:], *sizes))


def test_resize_by_hand():
    img = torch.tensor([[[0.0, 8.0], [16.0, 24.0]]])
    out = resize(img, (4, 4))
    assert out[0, 0].tolist() == [0, 2, 6, 8]
    assert out[0, :, 0].tolist() == [0, 4, 12, 16]


def test_resize_to_the_same_size_changes_nothing():
    img = torch.rand(3, 5, 7)
    assert torch.equal(resize(img, (5, 7)), img)


@pytest.mark.parametrize(
    ("size", "out"),
    [
        ((375, 500), (600, 800)),  # short side 600
        ((500, 375), (800, 600)),
        ((500, 500), (600, 600)),
        ((300, 1000), (300, 1000)),  # long side would pass 1000
        ((200, 1000), (200, 1000)),
        ((480, 1600), (300, 1000)),
        ((1200, 1600), (600, 800)),
        ((333, 500), (600, 901)),  # 900.9
        ((600, 1000), (600, 1000)),
        ((1, 5000), (16, 1000)),  # a cell of the network is left
    ],
)
def test_resized_size_by_hand(size, out):
    assert resized_size(size, 600, 1000) == out


@SMALL
@given(st.integers(60, 3000), st.integers(60, 3000))
def test_resized_size_obeys_both_limits(height, width):
    out = resized_size((height, width), 600, 1000)
    assert min(out) <= 600
    assert max(out) <= 1000
    assert min(out) == 600 or max(out) == 1000
    assert abs(out[0] * width - out[1] * height) <= 0.5 * (height + width) + 1e-6  # half a pixel a side


def test_a_picture_that_grows_is_torchvisions_to_the_bit():
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the last bits of torchvision's resizing depend on it
    try:
        for size in ((90, 131), (64, 64), (70, 47)):
            img = soft_picture(*size, seed=2)
            theirs = GeneralizedRCNNTransform(200, 300, IMAGENET_MEAN, IMAGENET_STD)([torch.from_numpy(img) / 255])[0]
            (height, width), *_ = theirs.image_sizes
            assert torch.equal(prepare(img, 200, 300, rule="floor"), theirs.tensors[0, :, :height, :width])
    finally:
        torch.set_num_threads(n_threads)


@pytest.mark.parametrize("mode", sorted(INPUT_MODES))
def test_a_picture_that_shrinks_has_the_same_mean(mode):
    """Resized first, and normalised then: the order that the size chooses makes no other difference than rounding."""
    img = torch.from_numpy(soft_picture(90, 131, seed=3))
    one, other = prepare(img, 60, 100, mode), resize(normalize(img, mode), (60, 87))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


# Input modes


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("torchvision", [(1 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (0 - 0.406) / 0.225]),
        ("caffe", [0 - 102.9801, 51 - 115.9465, 255 - 122.7717]),  # B, G, R, each with its own mean
        ("caffe_legacy", [0 - 122.7717, 51 - 115.9465, 255 - 102.9801]),  # B − mean R, G − mean G, R − mean B
    ],
)
def test_input_modes_by_hand(mode, expected):
    img = torch.tensor([255.0, 51.0, 0.0]).view(3, 1, 1).expand(3, 2, 4)
    for batch in (img, img[None]):
        out = normalize(batch, mode)
        assert out.shape == batch.shape
        for channel, value in zip(out.reshape(3, -1), expected):
            assert channel.tolist() == [pytest.approx(value, abs=1e-4)] * 8


@pytest.mark.parametrize("mode", sorted(INPUT_MODES))
@pytest.mark.parametrize("shape", [(3, 5, 4), (2, 3, 5, 4)])
def test_inverse_normalize_inverts(mode, shape):
    img = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 255
    back = inverse_normalize(normalize(img, mode), mode)
    torch.testing.assert_close(back, img, rtol=0, atol=1e-3)
    torch.testing.assert_close(inverse_normalize(normalize(img, mode).numpy(), mode), img, rtol=0, atol=1e-3)


def test_inverse_normalize_stays_in_range():
    out = inverse_normalize(torch.tensor([9.0, -9.0, 0.0]).view(3, 1, 1))
    assert out[0].item() == 255
    assert out[1].item() == 0


# prepare


def test_prepare_resizes_then_normalises():
    img = np.full((3, 30, 40), 255, dtype=np.float32)
    out = prepare(img, 60, 100)
    assert out.shape == (3, 60, 80)
    assert out.dtype == torch.float32
    assert out[2].unique().tolist() == pytest.approx([(1 - 0.406) / 0.225])


def test_prepare_takes_bytes_and_tensors_and_leaves_them_alone():
    img = soft_picture(20, 30, seed=2).astype(np.uint8)
    before = img.copy()
    first, second = prepare(img, 40, 100), prepare(torch.from_numpy(img), 40, 100)
    assert torch.equal(first, second)
    np.testing.assert_array_equal(img, before)
    as_float = torch.from_numpy(img.astype(np.float32))
    copy = as_float.clone()
    prepare(as_float, 20, 100, "caffe")
    assert torch.equal(as_float, copy)


def test_prepare_takes_transposed_and_strided_views():
    img = soft_picture(20, 30, seed=3)
    as_hwc = np.ascontiguousarray(img.transpose(1, 2, 0))
    assert torch.equal(prepare(as_hwc.transpose(2, 0, 1), 30, 100), prepare(img, 30, 100))


def test_prepare_takes_reversed_views():
    """`bgr[::-1]` is how pictures read by OpenCV become RGB."""
    img = soft_picture(20, 30, seed=4)
    expected = prepare(img, 30, 100)
    bgr = np.ascontiguousarray(img[::-1])
    assert torch.equal(prepare(bgr[::-1], 30, 100), expected)


# Files


@pytest.mark.parametrize("shape", [(3, 0, 5), (3, 5, 0), (1, 5, 5), (5, 5, 3), (1, 3, 5, 5), (5, 5)])
def test_prepare_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=re.escape(str(shape))):
        prepare(np.zeros(shape))


def test_read_colour(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    img = read_image(tmp_path / "a.png")
    assert img.dtype == np.float32
    assert img.flags.c_contiguous
    np.testing.assert_array_equal(img, pixels.transpose(2, 0, 1))


def test_read_grey_rgba_palette_and_bilevel(tmp_path):
    grey = np.array([[0, 100], [200, 255]], dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.stack([grey] * 3))

    rgba = np.dstack([grey, grey // 2, grey // 4, np.array([[0, 255], [128, 7]], np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(read_image(tmp_path / "rgba.png"), rgba[..., :3].transpose(2, 0, 1))

    palette = Image.fromarray(np.array([[0, 1], [1, 2]], np.uint8), mode="P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    palette.save(tmp_path / "palette.png")
    expected = np.array([[[10, 40], [40, 70]], [[20, 50], [50, 80]], [[30, 60], [60, 90]]])
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), expected)

    Image.fromarray(grey > 150).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_image(tmp_path / "bits.png")[1], [[0, 0], [255, 255]])


def test_read_16_bits_cmyk_and_transparent_palettes(tmp_path):
    deep = np.array([[0, 257, 65535], [30000, 40000, 128]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png")[0], [[0, 1, 255], [117, 156, 0]])

    rgb = np.zeros((16, 16, 3), np.uint8) + np.array([200, 100, 50], np.uint8)
    Image.fromarray(rgb).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    assert np.abs(read_image(tmp_path / "cmyk.jpg")[:, 8, 8] - [200, 100, 50]).max() <= 3

    palette = Image.fromarray(np.array([[0, 1]], np.uint8), mode="P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "clear.png", transparency=b"\x00\x80")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "clear.png")[:, 0].T.tolist() == [[10, 20, 30], [40, 50, 60]]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(10))
def test_exif_orientation(tmp_path, suffix, orientation):
    """A picture whose corners are red, green, blue and white is stored turned, and is read as it was."""
    upright = np.zeros((48, 80, 3), np.uint8)
    colours = [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]
    upright[:24, :40], upright[:24, 40:], upright[24:, :40], upright[24:, 40:] = colours
    stored = {  # what the tag's table says of row 0 and column 0 of the stored pixels
        2: upright[:, ::-1],  # top, right
        3: upright[::-1, ::-1],  # bottom, right
        4: upright[::-1],  # bottom, left
        5: upright.transpose(1, 0, 2),  # left, top
        6: upright.transpose(1, 0, 2)[::-1],  # right, top
        7: upright[::-1, ::-1].transpose(1, 0, 2),  # right, bottom
        8: upright.transpose(1, 0, 2)[:, ::-1],  # left, bottom
    }.get(orientation, upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, quality=95)
    img = read_image(path)
    assert img.shape[1:] == image_sizes(path)[0] == (48, 80)
    for y, x in ((12, 20), (12, 60), (36, 20), (36, 60)):
        assert np.abs(img[:, y, x] - upright[y, x]).max() <= 8
    img = read_image(path, upright=False)
    assert img.shape[1:] == image_sizes(path)[1] == stored.shape[:2]
    assert np.abs(img.transpose(1, 2, 0)[5, 5] - stored[5, 5]).max() <= 8


def test_exif_behind_the_pixels_of_a_png(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0\1\2")),
              (b"eXIf", exif.tobytes()), (b"IEND", b"")]  # fmt: skip
    path = tmp_path / "a.png"
    path.write_bytes(png(*chunks))
    assert image_sizes(path) == ((2, 1), (1, 2))
    assert read_image(path)[0].tolist() == [[1], [2]]


def test_a_bit_of_a_png_that_is_wrong_is_found_without_decoding(tmp_path):
    path = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole + b"of another program")
    assert image_sizes(path)[0] == (64, 64)
    for place in (len(whole) // 2, len(whole) - 20, 20):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="replace or remove the file"):
            image_sizes(path)


def test_a_jpeg_that_can_not_be_decoded_is_found(tmp_path):
    """Whether its middle is gone or it is cut behind a thumbnail's end mark: sizes are only told of what decodes."""
    path = tmp_path / "a.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (128, 160, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, quality=95, progressive=True)
    whole = path.read_bytes()
    n_damaged = 0
    for place in range(700, len(whole) - 200, 997):
        for damaged in (whole[:place] + whole[place + 64 :], whole[:place] + b"\xff\xd9"):
            path.write_bytes(damaged)
            try:
                read_image(path)
            except UserError:
                n_damaged += 1
                with pytest.raises(UserError):
                    image_sizes(path)
    assert n_damaged > 0


def test_pixels_that_are_floats(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(path, "TIFF")
    for read in (read_image, image_sizes):
        with pytest.raises(UserError, match="its pixels are floats"):
            read(path)


def test_a_damaged_exif_block_leaves_the_picture(tmp_path):
    pixels = np.full((16, 16, 3), 90, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff\x12\x01")
    with warnings.catch_warnings(action="error"):
        assert read_image(tmp_path / "a.jpg").shape == (3, 16, 16)


def one_line_about(path, error):
    text = str(error.value)
    return str(path) in text and "\n" not in text


def test_missing_file(tmp_path):
    path = tmp_path / "none.jpg"
    with pytest.raises(UserError, match="no such picture") as error:
        read_image(path)
    assert one_line_about(path, error)


@pytest.mark.parametrize("kind", ["text", "empty", "cut jpeg", "cut png", "folder"])
def test_broken_file(tmp_path, kind):
    path = tmp_path / "broken.jpg"
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("not a picture")
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path, format=kind[4:])
        path.write_bytes(path.read_bytes()[:600])
    for read in (read_image, image_sizes):
        with pytest.raises(UserError) as error:
            read(path)
        assert one_line_about(path, error)
