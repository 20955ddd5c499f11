"""Faults of image files, each beside the sound file that it was made from."""

import numpy as np
import pytest
from PIL import Image

from fpn_d2.data.images import image_fault

WIDTH, HEIGHT = 40, 32


@pytest.fixture
def save(tmp_path):
    """``save("a.png")``: an image of noise, which is long in every format; returns its path."""

    def to_file(name, mode="RGB", **options):
        pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(tmp_path / name, **options)
        return tmp_path / name

    return to_file


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1"])
def test_sound_images_of_any_mode_have_none(save, mode):
    assert image_fault(str(save("a.png", mode)), WIDTH, HEIGHT) is None
    assert image_fault(str(save("a.png", mode))) is None


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp", "a.tif", "a.gif", "a.webp"])
@pytest.mark.parametrize("share", [0.9, 0.5])
def test_an_image_that_was_cut(save, name, share):
    path = save(name)
    assert image_fault(str(path), WIDTH, HEIGHT) is None
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert image_fault(str(path), WIDTH, HEIGHT).startswith(("cannot be read (", "is no image"))


def test_what_is_no_image(tmp_path):
    path = tmp_path / "a.jpg"
    for content in (b"", b"<html>not found</html>", b"\xff\xd8\xff"):
        path.write_bytes(content)
        assert image_fault(str(path)) == "is no image of a format that Pillow knows"


def test_what_is_not_there(tmp_path):
    assert image_fault(str(tmp_path / "a.png")) == "does not exist"
    assert image_fault(str(tmp_path)) == "cannot be read (Is a directory)"
    assert "cannot be read" in image_fault(str(tmp_path / "\ud800"))
    assert "cannot be read" in image_fault(str(tmp_path / "\0"))
    assert "\n" not in image_fault(str(tmp_path / ("a" * 5000)))


def test_another_size(save):
    path = str(save("a.png"))
    said = "has 40 x 32 pixels, and the annotation file says 32 x 40"
    assert image_fault(path, HEIGHT, WIDTH) == said
    assert image_fault(path, WIDTH, HEIGHT) is None


def test_the_size_is_that_of_the_image_as_exif_turns_it(save):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    path = str(save("a.jpg", exif=exif))
    assert image_fault(path, HEIGHT, WIDTH) is None
    assert "has 32 x 40" in image_fault(path, WIDTH, HEIGHT)
    exif[0x0112] = 3  # upside down
    assert image_fault(str(save("a.jpg", exif=exif)), WIDTH, HEIGHT) is None


def test_a_decompression_bomb(save, monkeypatch, recwarn):
    path = str(save("a.png"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # 1280 are there: Pillow only warns
    assert image_fault(path) is None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    assert image_fault(path) == "has more than 1,200 pixels, which Pillow does not open"
    assert not recwarn
