"""Videos, frame by frame, through PyAV, which is an extra of this package.

Shape shorthand: a frame is (H, W, 3) uint8, RGB.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

from ..utils.errors import UserError
from .sources import MAX_PIXELS

__all__ = ["convert_video", "import_av"]


def import_av() -> Any:
    """PyAV.

    Raises:
        UserError: where it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise UserError(
            'videos need PyAV; install it with `python -m pip install "fpn_d2[video]"` (or '
            "`python -m pip install av`)"
        ) from error
    return av


def convert_video(
    source: str,
    target: str,
    draw: Callable[[np.ndarray, int], np.ndarray],
    *,
    max_pixels: int = MAX_PIXELS,
) -> int:
    """Write a video whose frames are drawn from another's, at the same times, without sound.

    One frame at a time is in memory. The target is an mp4 (H.264), there once it is complete.

    Args:
        source: the video.
        target: the file to write.
        draw: makes a picture of a frame and its number, from 0; all pictures of one size.
        max_pixels: the most pixels of a frame.

    Returns:
        the number of frames.

    Raises:
        UserError: where the source is not a video that can be read to its end.
    """
    av = import_av()
    partial = f"{target}.{os.getpid()}.partial"
    count = 0
    try:
        with _opened(av, source) as container:
            stream = container.streams.video[0]
            if stream.width * stream.height > max_pixels:
                raise UserError(
                    f"video {source} has frames of {stream.width} x {stream.height} pixels, more "
                    f"than the limit of {max_pixels:,}; raise --max-pixels, or scale it down"
                )
            with _Writer(av, partial, stream) as writer:
                frames = _frames(av, source, container)
                name = os.path.basename(source)
                for frame in tqdm(frames, name, stream.frames or None, unit="frame", disable=None):
                    writer.write(draw(_pixels(frame), count), frame)
                    count += 1
        if not count:
            raise UserError(f"video {source} has no frames; is it complete?")
        os.replace(partial, target)
    finally:
        with contextlib.suppress(OSError):
            os.remove(partial)
    return count


@contextlib.contextmanager
def _opened(av: Any, path: str) -> Iterator[Any]:
    try:
        container = av.open(path)
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"video {path} cannot be read ({_reason(error)}); convert it") from error
    with container:
        if not container.streams.video:
            raise UserError(f"video {path} has no pictures; name a file with a video stream")
        yield container


def _frames(av: Any, path: str, container: Any) -> Iterator[Any]:
    number = 0
    decoder = container.decode(video=0)
    while True:
        try:
            frame = next(decoder)
        except StopIteration:
            return
        except (av.FFmpegError, OSError) as error:
            raise UserError(
                f"video {path} cannot be read from frame {number} on ({_reason(error)}); convert "
                "it, or cut it before that"
            ) from error
        yield frame
        number += 1


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _pixels(frame: Any) -> np.ndarray:
    """The frame, turned as the video says."""
    pixels = frame.to_ndarray(format="rgb24")
    quarters = round((getattr(frame, "rotation", 0) or 0) / 90) % 4  # counterclockwise
    return np.ascontiguousarray(np.rot90(pixels, quarters))


class _Writer:
    """An mp4 that is opened with its first picture, whose size it has."""

    def __init__(self, av: Any, path: str, source: Any):
        self.av, self.path, self.source = av, path, source
        self.container = self.stream = None

    def __enter__(self) -> "_Writer":
        return self

    def write(self, picture: np.ndarray, at: Any) -> None:
        """Add a picture at a frame's time."""
        # H.264 keeps its colours at half the size, so that sides are even.
        height, width = (side - side % 2 for side in picture.shape[:2])
        if self.container is None:
            self.container = self.av.open(self.path, "w", format="mp4")
            rate = self.source.average_rate or 25
            self.stream = self.container.add_stream("libx264", rate=rate)
            self.stream.width, self.stream.height = width, height
            self.stream.pix_fmt = "yuv420p"
            if at.time_base:
                self.stream.codec_context.time_base = at.time_base
        frame = self.av.VideoFrame.from_ndarray(
            np.ascontiguousarray(picture[:height, :width]), format="rgb24"
        )
        if at.pts is not None:
            frame.pts, frame.time_base = at.pts, at.time_base
        self.container.mux(self.stream.encode(frame))

    def __exit__(self, *error: Any) -> None:
        if self.container is not None:
            if error[0] is None:
                self.container.mux(self.stream.encode(None))
            self.container.close()
