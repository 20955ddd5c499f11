"""Inputs of every kind, and a sentence for each that cannot be used."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fpn_d2 import UserError
from fpn_d2.demo.sources import find_sources, read_rgb, skipped_line


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.jpg"):
        Image.new("RGB", (8, 6)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "deeper").mkdir()
    return tmp_path


def png_header(path, width, height):
    """Write a PNG that is little more than a header."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return str(path)


def test_a_folder_gives_its_images_by_name_and_counts_the_rest(folder):
    sources = find_sources([str(folder), str(folder / "a.jpg")])
    assert [path.rsplit("/")[-1] for path in sources.images] == ["a.jpg", "b.png"]
    assert skipped_line(sources.skipped) == "skipped: 1 other file: notes.txt"


def test_images_are_turned_as_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 6)).save(tmp_path / "a.jpg", exif=exif)
    assert read_rgb(str(tmp_path / "a.jpg")).shape == (8, 6, 3)


def test_channels_are_red_green_blue(tmp_path):
    Image.new("RGB", (2, 2), (1, 2, 3)).save(tmp_path / "a.png")
    assert (read_rgb(str(tmp_path / "a.png")) == np.array([1, 2, 3])).all()


@pytest.mark.parametrize("size", [(30_000, 30_000), (9_000, 9_000)])
def test_a_picture_with_too_many_pixels_is_not_decoded(size, tmp_path):
    with pytest.raises(UserError, match=r"big.png has .*pixels"):
        find_sources([png_header(tmp_path / "big.png", *size)])


def test_what_is_no_image_is_named(tmp_path):
    (tmp_path / "a.jpg").write_text("no")
    with pytest.raises(UserError, match=r"a\.jpg is no image"):
        find_sources([str(tmp_path / "a.jpg")])


def test_other_files_alone_are_named(tmp_path):
    (tmp_path / "a.txt").write_text("no")
    with pytest.raises(UserError, match=r"no image or video .*1 other file: a\.txt"):
        find_sources([str(tmp_path)])


def test_nothing_and_what_is_not_there_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no image or video"):
        find_sources([str(tmp_path / "empty")])
    with pytest.raises(UserError, match="does not exist"):
        find_sources([str(tmp_path / "gone.jpg")])
    with pytest.raises(UserError, match="overrides come last"):
        find_sources(["MODEL.DEVICE"])
