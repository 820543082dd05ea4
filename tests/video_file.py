"""Small video files for the tests."""

from fractions import Fraction

import av
import numpy as np

CODECS = {
    ".mp4": "libx264",
    ".mov": "libx264",
    ".m4v": "libx264",
    ".mkv": "libx264",
    ".webm": "libvpx-vp9",
    ".avi": "mpeg4",
    ".mpg": "mpeg2video",
    ".gif": "gif",
}


def film(path, frames, rate=25, rotation=0, codec=None, options=None):
    """Write `frames`, each (H, W, 3) uint8 RGB, to be shown turned counter-clockwise by `rotation` degrees."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec or CODECS[path.suffix], rate=Fraction(rate), options=options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "rgb8" if path.suffix == ".gif" else "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return path


def grey(values, size=(48, 64)):
    """A frame of each grey value."""
    return [np.full((*size, 3), value, np.uint8) for value in values]


def shown(path):
    """What a player gets of the file: (seconds, (H, W, 3) uint8 RGB) of each frame."""
    with av.open(str(path)) as container:
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
