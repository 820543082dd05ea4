"""Video files: frames out of one, one at a time, and drawn frames into one. FFmpeg does the work, through PyAV.

Letters: (3, H, W) or (H, W, 3) a frame.
"""

import math
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import Colorspace
from PIL import Image

from utils.errors import UserError
from utils.file_tool import whole_file

VIDEO_SUFFIXES = {
    ".mp4",
    ".m4v",
    ".mov",
    ".avi",
    ".mkv",
    ".webm",
    ".mpg",
    ".mpeg",
    ".wmv",
    ".flv",
    ".3gp",
    ".ts",
    ".gif",
}
UNKNOWN_RATE = Fraction(25)  # frames/s, where a file does not say
ENCODERS = ("libx264", "libopenh264", "mpeg4")  # H.264 plays everywhere; a build of FFmpeg may lack it
BITS_A_PIXEL = 0.2  # of the encoders that can't be asked for a quality: lines and letters stay sharp
TICK = Fraction(1, 60000)  # s; MPEG-4 counts no finer, and 25, 30, 60 and 30000/1001 frames a second are whole ones
BT709, LIMITED = 1, 1  # the colours' matrix, primaries and transfer (ISO/IEC 23091-2), and FFmpeg's range of 16..235


class Frame(NamedTuple):
    """One frame of a video."""

    index: int  # among those decoded, from 0
    time: float  # seconds since the first
    img: np.ndarray  # (3, H, W) float32 RGB, 0..255, upright


def is_video(path):
    """Whether the name of a file says that it is a video; a GIF must have several frames."""
    path = Path(path)
    if path.suffix.lower() != ".gif":
        return path.suffix.lower() in VIDEO_SUFFIXES
    try:
        with Image.open(path) as file:
            return getattr(file, "is_animated", False)
    except Exception:  # whatever breaks first: read as a picture, it is told in one line
        return False


class VideoReader:
    """The frames of a video, in their order; no more of them are held than the decoder needs. For a `with`, once.

    They are turned as the file says (phones store them lying on their side), and the pieces that are broken are left
    out. A file that is cut short gives what it has.

    Args:
        path: the file.
        every: take each `every`-th frame, the first among them.

    Attributes:
        rate (Fraction): frames a second of the file, on the average.
        n_frames (int | None): how many will come, by what the file says of itself; None where it does not.
        problems (list[str]): after the last frame, a line for what was broken or is missing.

    Raises:
        UserError: not a video; in iterating, one of which nothing can be decoded.
    """

    def __init__(self, path, every=1):
        self.path, self.every, self.problems = path, every, []
        try:
            # absolute, since FFmpeg takes `a:b.mp4` for the address of a protocol a
            self._container = av.open(str(Path(path).absolute()))
        except (av.FFmpegError, OSError) as error:
            if isinstance(error, FileNotFoundError):
                raise UserError(f"{path}: no such video; check the path") from None
            raise UserError(f"{path}: not a video that can be read, or not whole; replace or remove it") from None
        self._stream = self._container.streams.best("video")
        if self._stream is None or self._stream.codec_context is None:
            self._container.close()
            raise UserError(f"{path}: no video in it that can be decoded; replace or remove it")
        self.rate = self._stream.average_rate or self._stream.guessed_rate or UNKNOWN_RATE
        self._duration = None  # seconds
        if self._stream.duration is not None:
            self._duration = float(self._stream.duration * self._stream.time_base)
        elif self._container.duration is not None:
            self._duration = self._container.duration / av.time_base
        n_frames = self._stream.frames or round((self._duration or 0) * self.rate)
        self.n_frames = math.ceil(n_frames / every) if n_frames else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._container.close()

    def __iter__(self):
        index, begin, time, end, broken = -1, None, 0.0, 0.0, []
        for packet in self._packets():
            try:
                frames = self._stream.decode(packet)
            except av.FFmpegError:
                broken.append(_place(index, time))
                continue
            for frame in frames:
                index += 1
                shown = float(index / self.rate) if frame.time is None else frame.time
                begin = shown if begin is None else begin
                time = shown - begin
                known = frame.duration and frame.time_base
                lasts = frame.duration * frame.time_base if known else 1 / self.rate
                end = time + float(lasts)
                if index % self.every == 0:
                    yield Frame(index, time, _upright(frame))
        if index < 0:
            raise UserError(f"{self.path}: no frame of it can be decoded; replace or remove it")
        if broken:
            self.problems.append(f"{self.path}: {len(broken)} broken pieces are left out, the first {broken[0]}")
        promised = self._stream.frames
        if not self.problems and index + 1 < 0.95 * promised:
            self.problems.append(
                f"{self.path}: {index + 1} of {promised} frames could be decoded; the others are left out"
            )
        duration = self._duration or 0
        if duration - end > max(0.5, 0.05 * duration):  # sound may last somewhat longer than the frames
            self.problems.append(
                f"{self.path}: ends {_place(index, time)}, though it should last {duration:.2f} s; what came is kept"
            )

    def _packets(self):
        """The file's packets, and one that asks the decoder for what it still holds; an unreadable one is the last."""
        try:
            yield from self._container.demux(self._stream)
        except av.FFmpegError as error:
            self.problems.append(f"{self.path}: can't be read to its end ({error.strerror or error})")
            yield None


def _place(index, time):
    return "before the first frame" if index < 0 else f"after frame {index} ({time:.2f} s)"


def _upright(frame):
    """PyAV's frame → (3, H, W) float32 RGB, turned as its display matrix says."""
    rgb = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))  # both counter-clockwise
    return np.ascontiguousarray(rgb.transpose(2, 0, 1), dtype=np.float32)


class VideoWriter:
    """An MP4 file of frames, without sound: H.264 where this build of FFmpeg has it, else MPEG-4.

    The file is at its place when it is closed, and then whole. It keeps the times of the frames, so that a video whose
    rate changes plays as its source does; of the first frame it keeps the size, made even, as the encoders need it.

    Args:
        path: the file.
        rate: frames a second on the average; for how long the last one is shown, and for the encoder's measure.

    Raises:
        OSError: it can't be written.
        UserError: the encoder does not take such frames; nothing is left of the file.
    """

    def __init__(self, path, rate):
        # to what an encoder's 32 bits hold
        self.path, self.rate = Path(path), max(Fraction(rate).limit_denominator(1001), Fraction(1, 1001))
        self._container = None
        self._ticks = -1
        self._file = ExitStack()  # puts the file at its place, or takes it away after an error

    def write(self, rgb, time):
        """A frame: (H, W, 3) uint8 RGB, to be shown `time` seconds after the first."""
        with self._encoding():
            if self._container is None:
                self._open(*rgb.shape[:2])
            size = {"width": self._stream.width, "height": self._stream.height}
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            frame = frame.reformat(**size, format="yuv420p", dst_colorspace=Colorspace.ITU709)
            self._ticks = max(self._ticks + 1, round(time / TICK))  # times of damaged files may go back
            frame.pts, frame.time_base = self._ticks, TICK
            self._container.mux(self._stream.encode(frame))

    def close(self):
        """Write what the encoder still holds; without a frame there is no file."""
        if self._container is None:
            return
        with self._encoding():
            self._container.mux(self._stream.encode())
            self._container.close()
        self._container = None
        self._file.close()

    @contextmanager
    def _encoding(self):
        """After an error within, the file is taken away."""
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            container, self._container = self._container, None
            if container is not None:
                with suppress(av.FFmpegError, OSError):  # what was not begun can't be ended
                    container.close()
            with self._file:
                if isinstance(error, OSError):
                    raise
                raise UserError(f"{self.path}: can't be encoded ({error.strerror}); take pictures of it") from None

    def _open(self, height, width):
        name = next(name for name in ENCODERS if name in av.codecs_available)
        partial = self._file.enter_context(whole_file(self.path, durable=False))
        self._container = av.open(str(partial.absolute()), "w", format="mp4")
        self._stream = self._container.add_stream(name, rate=self.rate)
        self._stream.height, self._stream.width = height + height % 2, width + width % 2
        self._stream.pix_fmt = "yuv420p"
        if name == "libx264":  # veryfast: its look-ahead holds ten frames, not forty
            self._stream.options = {"preset": "veryfast", "crf": "20"}
        else:
            self._stream.bit_rate = round(BITS_A_PIXEL * height * width * self.rate)
        context = self._stream.codec_context
        context.time_base = TICK
        # said, or players take large pictures for BT.709 and small ones for BT.601
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED
