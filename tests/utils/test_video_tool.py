"""utils/video_tool.py on files that FFmpeg wrote."""

import os
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from tests.video_file import CODECS, film, grey, shown
from utils import video_tool
from utils.errors import UserError
from utils.video_tool import VideoReader, VideoWriter, is_video

STEPS = range(10, 250, 8)  # the grey values of 30 frames: further apart than what a codec changes


def read(path, every=1):
    with VideoReader(path, every) as reader:
        return list(reader), reader.problems


# is_video


@pytest.mark.parametrize("name", ["a.mp4", "a.MOV", "b.c.webm", "a.avi", "a.mkv", "a.m4v", "a.mpg"])
def test_a_video_by_its_name(name):
    assert is_video(name)


@pytest.mark.parametrize("name", ["a.jpg", "mp4", "a.mp4.png", "a"])
def test_no_video_by_its_name(name):
    assert not is_video(name)


def test_a_gif_is_a_video_if_it_moves(tmp_path):
    film(tmp_path / "moves.gif", grey(range(0, 250, 50)))
    Image.new("RGB", (20, 20)).save(tmp_path / "still.gif")
    (tmp_path / "broken.gif").write_bytes(b"GIF89a")
    assert [is_video(tmp_path / f"{name}.gif") for name in ("moves", "still", "broken")] == [True, False, False]


# VideoReader


@pytest.mark.parametrize("suffix", CODECS)
def test_all_frames_in_order_with_their_times(tmp_path, suffix):
    path = film(tmp_path / f"a{suffix}", grey(STEPS))
    with VideoReader(path) as reader:
        frames = list(reader)
    assert [frame.index for frame in frames] == list(range(30))
    assert [frame.time for frame in frames] == pytest.approx([k / 25 for k in range(30)], abs=0.002)
    assert {(frame.img.shape, frame.img.dtype.name) for frame in frames} == {((3, 48, 64), "float32")}
    tolerance = 20 if suffix == ".gif" else 6  # a GIF has four shades of blue
    assert [frame.img.mean() for frame in frames] == pytest.approx(list(STEPS), abs=tolerance)
    assert float(reader.rate) == pytest.approx(25)
    if suffix != ".mpg":  # which says nothing true about its length
        assert reader.n_frames == 30
    assert reader.problems == []


@pytest.mark.parametrize(("every", "indices"), [(7, [0, 7, 14, 21, 28]), (29, [0, 29]), (30, [0]), (1000, [0])])
def test_every_nth_frame(tmp_path, every, indices):
    path = film(tmp_path / "a.mp4", grey(STEPS))
    frames, _ = read(path, every)
    assert [frame.index for frame in frames] == indices
    assert [frame.img.mean() for frame in frames] == pytest.approx([STEPS[k] for k in indices], abs=6)
    assert [frame.time for frame in frames] == pytest.approx([k / 25 for k in indices], abs=0.002)
    with VideoReader(path, every) as reader:
        assert reader.n_frames == len(indices)


@pytest.mark.parametrize(
    ("rotation", "size", "bright"),
    [
        (0, (48, 64), "top left"),
        (-90, (64, 48), "top right"),
        (90, (64, 48), "bottom left"),
        (180, (48, 64), "bottom right"),
    ],
)
def test_phone_videos_are_turned_upright(tmp_path, rotation, size, bright):
    """The stored frame has its bright corner at the top left; -90 is what a phone held upright writes: clockwise."""
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:16, :16] = 255
    (first, *_), _ = read(film(tmp_path / "a.mov", [frame] * 3, rotation=rotation))
    assert first.img.shape == (3, *size)
    corners = {"top left": (8, 8), "top right": (8, -8), "bottom left": (-8, 8), "bottom right": (-8, -8)}
    assert [name for name, (y, x) in corners.items() if first.img[0, y, x] > 200] == [bright]


def test_a_file_that_is_cut_short_gives_what_it_has_and_says_where_it_ends(tmp_path):
    path = film(tmp_path / "a.webm", grey(list(STEPS) * 4))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames, problems = read(path)
    assert 0 < len(frames) < 110
    assert [frame.img.mean() for frame in frames[:30]] == pytest.approx(list(STEPS)[: len(frames)], abs=6)
    (line,) = problems
    assert line.startswith(f"{path}: ends after frame {len(frames) - 1} ({frames[-1].time:.2f} s)")
    assert "4.80 s" in line


def test_a_last_frame_that_stays_for_long_is_no_missing_piece(tmp_path):
    """As recordings of a screen have it."""
    path = tmp_path / "screen.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        packets = [
            packet
            for frame in [*grey([10, 90, 170]), None]
            for packet in stream.encode(frame if frame is None else av.VideoFrame.from_ndarray(frame, format="rgb24"))
        ]
        last = max(packets, key=lambda packet: packet.pts)
        last.duration = round(3 / last.time_base)
        container.mux(packets)
    frames, problems = read(path)
    assert len(frames) == 3
    assert problems == []


def test_a_broken_piece_in_the_middle_is_left_out(tmp_path):
    path = film(tmp_path / "a.mp4", grey(STEPS), options={"g": "1", "bf": "0"})  # each frame by itself
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    for begin, size in packets[10:13]:
        content[begin : begin + size] = b"\xff" * size
    path.write_bytes(content)
    frames, problems = read(path)
    assert [frame.img.mean() for frame in frames] == pytest.approx([*STEPS[:10], *STEPS[13:]], abs=6)
    assert frames[10].time == pytest.approx(13 / 25, abs=0.002)
    assert problems == [f"{path}: 3 broken pieces are left out, the first after frame 9 (0.36 s)"]


class FailingDisk:
    """A container whose file can't be read beyond some packets."""

    def __init__(self, container, n):
        self.container, self.n, self.close = container, n, container.close

    def demux(self, stream):
        packets = self.container.demux(stream)
        for _ in range(self.n):
            yield next(packets)
        raise av.error.OSError(5, "Input/output error")


def test_a_disk_that_fails_in_mid_file_ends_it(tmp_path):
    path = film(tmp_path / "a.mp4", grey(STEPS))
    with VideoReader(path) as reader:
        reader._container = FailingDisk(reader._container, 20)
        frames = list(reader)
    assert len(frames) == 20, "those that the decoder still held are lost"
    assert reader.problems[0] == f"{path}: can't be read to its end (Input/output error)"


def sound_alone(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())


def test_what_is_no_video_is_one_line_that_names_it(tmp_path):
    (tmp_path / "text.mp4").write_text("no video " * 100)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n")
    whole = film(tmp_path / "whole.mp4", grey(STEPS)).read_bytes()
    (tmp_path / "headless.mp4").write_bytes(whole[: len(whole) // 2])  # the index of an MP4 stands at its end
    sound_alone(tmp_path / "sound.mp4")
    for name in ("text", "empty", "list", "headless", "sound", "gone"):
        with pytest.raises(UserError, match=f"{name}.mp4: ") as error:
            read(tmp_path / f"{name}.mp4")
        assert "\n" not in str(error.value)
    assert "no such video" in str(error.value)


def test_a_video_of_which_nothing_can_be_decoded(tmp_path):
    path = film(tmp_path / "a.mp4", grey(STEPS), options={"g": "1", "bf": "0"})
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    for begin, size in packets:
        content[begin : begin + size] = b"\xff" * size
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.mp4: no frame"):
        read(path)


def test_a_name_that_looks_like_an_address_or_a_pattern(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = film(tmp_path / "a.mp4", grey(STEPS)).rename("http:b%03d.mp4")
    assert len(read(path)[0]) == 30


def test_frames_are_not_gathered_in_memory(tmp_path):
    path = film(tmp_path / "a.mp4", grey(list(STEPS) * 2, size=(240, 320)))
    n_bytes = 3 * 240 * 320 * 4
    tracemalloc.start()
    try:
        with VideoReader(path) as reader:
            assert sum(frame.img.nbytes == n_bytes for frame in reader) == 60
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert n_bytes < peak < 6 * n_bytes


# VideoWriter


def write(path, frames, rate=25, times=None):
    writer = VideoWriter(path, rate)
    for k, frame in enumerate(frames):
        writer.write(frame, k / rate if times is None else times[k])
    writer.close()
    return shown(path)


def halves(size=(48, 64)):
    """Red on the left, green on the right."""
    frame = np.zeros((*size, 3), np.uint8)
    frame[:, : size[1] // 2, 0], frame[:, size[1] // 2 :, 1] = 200, 230
    return frame


@pytest.mark.parametrize("encoder", ["libx264", "mpeg4"])
def test_frames_come_back_with_their_colours_and_times(tmp_path, monkeypatch, encoder):
    monkeypatch.setattr(video_tool, "ENCODERS", ("not_in_this_build", encoder))
    rate = Fraction(30000, 1001)
    played = write(tmp_path / "a.mp4", [halves()] * 12, rate)
    assert [time for time, _ in played] == pytest.approx([k / rate for k in range(12)], abs=1e-4)
    for _, rgb in played:
        assert np.abs(rgb.astype(int) - halves())[:, [5, 58]].max() < 12
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == {"libx264": "h264"}.get(encoder, encoder)
        assert stream.average_rate == rate
        assert float(stream.duration * stream.time_base) == pytest.approx(12 / rate, abs=0.005)
    assert os.listdir(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize("size", [(47, 63), (1, 1), (48, 3)])
def test_odd_sizes_are_made_even(tmp_path, size):
    _, rgb = write(tmp_path / "a.mp4", [halves(size)] * 3)[0]
    assert rgb.shape == (*(side + side % 2 for side in size), 3)
    if size[0] == 47:
        assert np.abs(rgb[20, [5, 58]].astype(int) - [[200, 0, 0], [0, 230, 0]]).max() < 12


def test_times_that_are_not_even_are_kept_and_those_that_go_back_do_no_harm(tmp_path):
    played = write(tmp_path / "a.mp4", grey([10, 60, 110, 160]), times=[0, 0.1, 0.5, 0.6])
    assert [time for time, _ in played] == pytest.approx([0, 0.1, 0.5, 0.6], abs=1e-3)
    assert [rgb.mean() for _, rgb in played] == pytest.approx([10, 60, 110, 160], abs=4)
    played = write(tmp_path / "b.mp4", grey([10, 60, 110, 160]), times=[0, 0.2, 0.1, 0.3])
    assert [rgb.mean() for _, rgb in played] == pytest.approx([10, 60, 110, 160], abs=4)


def test_a_frame_of_another_size_takes_that_of_the_first(tmp_path):
    played = write(tmp_path / "a.mp4", [halves(), halves((24, 100)), halves()])
    assert [rgb.shape for _, rgb in played] == [(48, 64, 3)] * 3
    assert np.abs(played[1][1].astype(int) - halves())[:, [5, 58]].max() < 12


def test_the_file_is_there_when_it_is_whole(tmp_path):
    """Until then a former one is, and a hard link to that keeps its content."""
    path, other = tmp_path / "a.mp4", tmp_path / "other"
    path.write_bytes(b"former")
    os.link(path, other)
    writer = VideoWriter(path, 25)
    writer.write(halves(), 0)
    assert path.read_bytes() == b"former"
    writer.close()
    assert len(shown(path)) == 1
    assert other.read_bytes() == b"former"


def test_without_a_frame_there_is_no_file(tmp_path):
    VideoWriter(tmp_path / "a.mp4", 25).close()
    assert os.listdir(tmp_path) == []
