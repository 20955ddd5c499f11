"""The files that a demo writes, and videos that are made here."""

import os

import numpy as np
import pytest
import supervision as sv
from PIL import Image

from fpn_d2 import UserError
from fpn_d2.demo.outputs import convert_video, prepare_folder, unique_stems


def test_no_two_inputs_share_a_file():
    paths = ["a/x.jpg", "b/x.png", "c/X.jpg", "d/x_explain.jpg"]
    suffixes = [".png", "_explain.png"]
    stems = unique_stems(paths, suffixes)
    files = [f"{stem}{suffix}".lower() for stem in stems for suffix in suffixes]
    assert len(set(files)) == len(files)
    assert stems[:2] == ["x", "x_2"]


@pytest.fixture
def folder(tmp_path):
    """A folder with an image, and a folder in it with a file of the user's."""
    Image.new("RGB", (8, 6)).save(tmp_path / "b.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_text("mine")
    return tmp_path


def test_nothing_is_overwritten_unless_asked_and_an_input_never(folder):
    with pytest.raises(UserError, match=r"a\.png is there already.*--force"):
        prepare_folder(str(folder / "out"), ["a.png"], [])
    prepare_folder(str(folder / "out"), ["a.png"], [], replace=True)
    with pytest.raises(UserError, match="is an input"):
        prepare_folder(str(folder), ["b.png"], [str(folder / "b.png")], replace=True)
    with pytest.raises(UserError, match="is a file"):
        prepare_folder(str(folder / "b.png"), [], [])


def frames(path):
    """The frames of a video, RGB."""
    return [frame[:, :, ::-1] for frame in sv.get_video_frames_generator(path)]


def make_video(path, colors):
    """Write a video of 48 x 32 pixels, with a frame of each colour (RGB) for a quarter second."""
    with sv.VideoSink(path, sv.VideoInfo(48, 32, 4.0), "MJPG") as sink:
        for color in colors:
            sink.write_frame(np.full((32, 48, 3), color[::-1], np.uint8))
    return path


@pytest.fixture
def video(tmp_path):
    """Five grey frames, brighter and brighter."""
    return make_video(str(tmp_path / "in.avi"), [[40 * i + 20] * 3 for i in range(5)])


def test_frames_come_one_by_one_and_keep_their_times(video, tmp_path):
    seen = []

    def draw(frame, number):
        seen.append((number, frame.shape))
        return np.repeat(np.repeat(frame, 3, 0), 3, 1)[:95, :143]  # odd sides

    target = str(tmp_path / "out.mp4")
    assert convert_video(video, target, draw) == 5
    assert seen == [(number, (32, 48, 3)) for number in range(5)]
    info = sv.VideoInfo.from_video_path(target)
    assert (info.width, info.height, info.fps, info.total_frames) == (142, 94, 4, 5)
    for i, frame in enumerate(frames(target)):
        assert frame.shape == (94, 142, 3)
        assert frame.mean() == pytest.approx(40 * i + 20, abs=6)


def test_red_stays_red(tmp_path):
    path, target = make_video(str(tmp_path / "a.avi"), [(200, 0, 0)]), tmp_path / "b.mp4"
    seen = []
    convert_video(path, str(target), lambda frame, number: seen.append(frame) or frame)
    for frame in [*seen, *frames(str(target))]:
        assert frame[..., 0].mean() == pytest.approx(200, abs=10)
        assert frame[..., 1:].mean() == pytest.approx(0, abs=10)


@pytest.mark.parametrize(
    "kind, sentence",
    [
        ("no video", r"a\.avi cannot be read;"),
        ("empty", r"a\.avi has no frames"),
        ("cut", r"a\.avi cannot be read from frame \d+ on.* 20;"),
    ],
)
def test_what_cannot_be_read_to_its_end_leaves_no_file(kind, sentence, tmp_path):
    path = str(tmp_path / "a.avi")
    count = 0 if kind == "empty" else 20
    with sv.VideoSink(path, sv.VideoInfo(48, 32, 4.0), codec="MJPG") as sink:
        for noise in np.random.default_rng(0).integers(0, 256, (count, 32, 48, 3), dtype=np.uint8):
            sink.write_frame(noise)
    if kind == "cut":
        os.truncate(path, os.path.getsize(path) // 2)
    elif kind == "no video":
        (tmp_path / "a.avi").write_text("no")
    with pytest.raises(UserError, match=sentence):
        convert_video(path, str(tmp_path / "b.mp4"), lambda frame, i: frame)
    assert [path.name for path in tmp_path.iterdir()] == ["a.avi"]


def test_a_video_that_cannot_be_written_is_named(video, tmp_path):
    with pytest.raises(UserError, match=r"missing.*b\.mp4.* cannot be written"):
        convert_video(video, str(tmp_path / "missing" / "b.mp4"), lambda frame, i: frame)


def test_a_failure_on_the_way_leaves_no_file(video, tmp_path):
    def draw(frame, number):
        if number == 2:
            raise UserError("enough")
        return frame

    with pytest.raises(UserError, match="enough"):
        convert_video(video, str(tmp_path / "b.mp4"), draw)
    assert [path.name for path in tmp_path.iterdir()] == ["in.avi"]


def test_frames_of_too_many_pixels_are_refused(video, tmp_path):
    with pytest.raises(UserError, match="48 x 32 pixels"):
        convert_video(video, str(tmp_path / "b.mp4"), lambda frame, i: frame, max_pixels=1000)
