"""The files that a demo writes, tested with videos that are made here."""

import os

import numpy as np
import pytest
import supervision as sv
from PIL import Image

from fpn_d2 import UserError
from fpn_d2.demo import outputs
from fpn_d2.demo.outputs import convert_video, named_file, prepare_folder

COLORS = [*((40 * i + 20,) * 3 for i in range(4)), (200, 0, 0)]


@pytest.fixture
def folder(tmp_path):
    """A folder with an image and a subfolder that holds a file of the user's."""
    Image.new("RGB", (8, 6)).save(tmp_path / "b.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_text("mine")
    return tmp_path


def test_nothing_is_overwritten_unless_asked_and_an_input_never(folder):
    with pytest.raises(UserError, match=r"a\.png is there already.*--force"):
        prepare_folder(str(folder / "out"), ["a.png"], [])
    prepare_folder(str(folder / "out"), ["a.png"], [], replace=True)
    (folder / "linked").symlink_to(folder)
    for output in (folder, folder / "linked"):
        with pytest.raises(UserError, match="is an input"):
            prepare_folder(str(output), ["b.png"], [str(folder / "b.png")], replace=True)
    with pytest.raises(UserError, match="is a file"):
        prepare_folder(str(folder / "b.png"), [], [])


@pytest.fixture
def video(tmp_path):
    """A video of 48 x 32 pixels: four grey frames, brighter and brighter, and a red one."""
    path = str(tmp_path / "in.avi")
    with sv.VideoSink(path, sv.VideoInfo(48, 32, 4.0), "MJPG") as sink:
        for color in COLORS:
            sink.write_frame(np.full((32, 48, 3), color[::-1], np.uint8))
    return path


def test_frames_come_one_by_one_and_keep_their_times_and_colours(video, tmp_path):
    seen = []

    def draw(frame, number):
        assert number == len(seen)
        seen.append(frame)
        return np.repeat(np.repeat(frame, 3, 0), 3, 1)[:95, :143]  # odd sides

    target = str(tmp_path / "out.mp4")
    assert convert_video(video, target, draw) == 5
    info = sv.VideoInfo.from_video_path(target)
    assert (info.width, info.height, info.fps, info.total_frames) == (142, 94, 4, 5)
    written = [frame[:, :, ::-1] for frame in sv.get_video_frames_generator(target)]
    for frames, shape in ((seen, (32, 48, 3)), (written, (94, 142, 3))):
        assert [frame.shape for frame in frames] == [shape] * 5
        for frame, color in zip(frames, COLORS, strict=True):
            tolerance = 6 if color[0] == color[1] else 10  # red loses more
            assert frame.mean(axis=(0, 1)) == pytest.approx(np.array(color), abs=tolerance)


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


@pytest.mark.parametrize("stated, is_read", [(10, True), (11, False)])
def test_a_tenth_of_the_stated_frames_may_be_missing(tmp_path, monkeypatch, stated, is_read):
    """Their number may be an estimate."""
    source, target = str(tmp_path / "in.avi"), str(tmp_path / "out.mp4")
    info = sv.VideoInfo(48, 32, 4.0, stated)
    with sv.VideoSink(source, info, "MJPG") as sink:
        for _ in range(9):
            sink.write_frame(np.zeros((32, 48, 3), np.uint8))
    monkeypatch.setattr(outputs, "check_video", lambda *_, **__: info)
    if is_read:
        assert convert_video(source, target, lambda frame, i: frame) == 9
    else:
        with pytest.raises(UserError, match="cannot be read from frame 9 on"):
            convert_video(source, target, lambda frame, i: frame)


def test_a_video_that_cannot_be_written_is_named(video, tmp_path):
    with pytest.raises(UserError, match=r"missing.*b\.mp4.* cannot be written"):
        convert_video(video, str(tmp_path / "missing" / "b.mp4"), lambda frame, i: frame)


def test_a_disk_that_is_full_keeps_the_earlier_video(video, tmp_path, monkeypatch):
    """On a full disk OpenCV writes what fits, and raises nothing."""
    leave = sv.VideoSink.__exit__

    def cut(sink, *args):
        leave(sink, *args)
        os.truncate(sink.target_path, os.path.getsize(sink.target_path) // 2)

    monkeypatch.setattr(sv.VideoSink, "__exit__", cut)
    (tmp_path / "b.mp4").write_text("mine")
    with pytest.raises(
        UserError, match=r"b\.mp4 could not be written whole; name another --output"
    ):
        convert_video(video, str(tmp_path / "b.mp4"), lambda frame, i: frame)
    assert (tmp_path / "b.mp4").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.mp4", "in.avi"]


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


@pytest.mark.parametrize("rate", [70.123, 119.87, 239.913, 29.97])
def test_a_mean_rate_of_many_decimals_can_be_written(tmp_path, rate):
    """Phones record slow motion at such rates; the clock of MPEG-4 counts to 65535."""
    source, target = str(tmp_path / "in.avi"), str(tmp_path / "out.mp4")
    with sv.VideoSink(source, sv.VideoInfo(48, 32, rate), "MJPG") as sink:
        sink.write_frame(np.zeros((32, 48, 3), np.uint8))
    assert convert_video(source, target, lambda frame, i: frame) == 1
    assert sv.VideoInfo.from_video_path(target).fps == pytest.approx(rate, abs=0.01)


def test_a_video_is_no_folder(tmp_path):
    assert [named_file(name) for name in ("a.AVI", "a.mp4", "a.png", "a.v2")] == [
        "video", "video", "image", ""
    ]  # fmt: skip
    (tmp_path / "a.png").mkdir()
    assert named_file(str(tmp_path / "a.png")) == named_file("b.png/") == ""
