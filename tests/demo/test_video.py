"""Videos that are made here, with PyAV where it is installed."""

import numpy as np
import pytest

from fpn_d2 import UserError
from fpn_d2.demo.video import convert_video

av = pytest.importorskip("av")


@pytest.fixture
def video(tmp_path):
    """Five frames of 48 x 32 pixels, a quarter of a second each, brighter and brighter."""
    path = str(tmp_path / "in.mp4")
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=4)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for i in range(5):
            frame = np.full((32, 48, 3), 40 * i + 20, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def test_frames_come_one_by_one_and_keep_their_times(video, tmp_path):
    seen = []

    def draw(frame, number):
        seen.append((number, frame.shape, float(frame.mean())))
        return np.repeat(np.repeat(frame, 3, 0), 3, 1)[:95, :143]  # odd sides

    target = str(tmp_path / "out.mp4")
    assert convert_video(video, target, draw) == 5
    assert [number for number, *_ in seen] == list(range(5))
    assert {shape for _, shape, _ in seen} == {(32, 48, 3)}
    with av.open(target) as container:
        frames = list(container.decode(video=0))
    assert [float(frame.time) for frame in frames] == [0, 0.25, 0.5, 0.75, 1]
    assert frames[0].to_ndarray(format="rgb24").shape == (94, 142, 3)
    for i, frame in enumerate(frames):
        assert frame.to_ndarray(format="rgb24").mean() == pytest.approx(40 * i + 20, abs=6)


def test_what_is_no_video_leaves_no_file(tmp_path):
    (tmp_path / "a.mp4").write_text("no")
    with pytest.raises(UserError, match=r"a\.mp4 cannot be read"):
        convert_video(str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4"), lambda frame, i: frame)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_a_failure_on_the_way_leaves_no_file(video, tmp_path):
    def draw(frame, number):
        if number == 2:
            raise UserError("enough")
        return frame

    with pytest.raises(UserError, match="enough"):
        convert_video(video, str(tmp_path / "b.mp4"), draw)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_frames_of_too_many_pixels_are_refused(video, tmp_path):
    with pytest.raises(UserError, match="48 x 32 pixels"):
        convert_video(video, str(tmp_path / "b.mp4"), lambda frame, i: frame, max_pixels=1000)
