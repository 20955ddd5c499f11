"""The pixels of image files, and faults, each against the sound file that it was made from."""

import io
import struct

import cv2
import numpy as np
import pytest
from detectron2.data import detection_utils
from PIL import Image, ImageOps

from fpn_d2 import UserError
from fpn_d2.data import images
from fpn_d2.data.images import look_at, pixels_of, read_as_here, read_image

WIDTH, HEIGHT = 40, 32


@pytest.fixture(autouse=True)
def _nothing_told(monkeypatch):
    monkeypatch.setattr(images, "_told", set())


@pytest.fixture
def save(tmp_path):
    """``save("a.png")``: save noise, which gives a long file in any format, and return the path."""

    def to_file(name, mode="RGB", orientation=None, **options):
        rng = np.random.default_rng(0)
        if mode == "I;16":
            image = Image.fromarray(rng.integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16))
        elif mode == "LAB":
            image = Image.frombytes(mode, (WIDTH, HEIGHT), rng.bytes(3 * WIDTH * HEIGHT))
        else:
            pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            image = Image.fromarray(pixels).convert(mode)
        if orientation is not None:
            options["exif"] = Image.Exif()
            options["exif"][0x0112] = orientation
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return to_file


def image_fault(path, width=None, height=None):
    fault, _ = look_at(path, width, height)
    return fault


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


def test_a_decompression_bomb(save, monkeypatch, recwarn):
    path = str(save("a.png"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # it has 1280: Pillow only warns
    assert image_fault(path) is None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    assert image_fault(path) == "has more than 1,200 pixels, which Pillow does not open"
    assert not recwarn


# Pixels, which Detectron2's mappers get as ours do.


def read_twice(path):
    """Return a file's pixels, on which our reader and Detectron2's must agree: (H, W, 3), RGB."""
    ours = read_image(str(path))
    theirs = detection_utils.read_image(read_as_here(path), format="RGB")
    np.testing.assert_array_equal(ours, theirs)
    assert ours.dtype == np.uint8
    assert ours.flags.c_contiguous
    return ours


MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16"]


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
@pytest.mark.parametrize("mode", MODES)
def test_an_image_is_turned_once_as_pillow_turns_it(save, name, mode):
    tried = 0
    for orientation in range(10):  # 0 and 9 mean nothing
        try:
            path = save(name, mode, orientation)
        except (OSError, ValueError):
            continue  # the format has no such mode
        tried += 1
        # From memory: by name, Pillow 13 maps a grey TIFF that lies on its side with wrong rows.
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(path.read_bytes())))
        if expected.mode == "I;16":
            expected = Image.fromarray((np.asarray(expected) >> 8).astype(np.uint8))
        np.testing.assert_array_equal(read_twice(path), np.asarray(expected.convert("RGB")))
        size = (HEIGHT, WIDTH) if orientation in (5, 6, 7, 8) else (WIDTH, HEIGHT)
        assert expected.size == size
        for header in (False, True):
            assert look_at(str(path), *size, header=header) == (None, None)
            fault, _ = look_at(str(path), *size[::-1], header=header)
            assert fault.startswith(f"has {size[0]} x {size[1]} pixels, and the annotation file")
    assert tried in (0, 10)
    assert tried or name != "a.tif"  # which has all modes


def test_a_size_of_before_the_orientation_is_called_so(save):
    fault = image_fault(str(save("a.jpg", orientation=8)), WIDTH, HEIGHT)
    assert fault.endswith("says 40 x 32, its size before its EXIF orientation turns it")


def test_ordinary_images_are_what_detectron2_reads(save):
    for name, mode in (("a.jpg", "RGB"), ("a.jpg", "L"), ("a.png", "RGB"), ("a.png", "P")):
        path = str(save(name, mode))
        for image_format in ("BGR", "RGB", "L", "YUV-BT.601"):
            theirs = detection_utils.read_image(path, image_format)
            np.testing.assert_array_equal(read_image(path, image_format), theirs)
            again = detection_utils.read_image(read_as_here(path), image_format)
            np.testing.assert_array_equal(again, theirs)


def tiff(tags, pixels):
    """Return a TIFF of 4 x 1 pixels of one band, little-endian, with these tags and pixel bytes."""
    tags = {256: 4, 257: 1, 259: 1, 262: 1, 277: 1, 278: 1, 279: len(pixels), **tags}
    tags[273] = 8 + 2 + 12 * (len(tags) + 1) + 4  # where the pixels begin
    entries = (struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return struct.pack("<4sIH", b"II*\0", 8, len(tags)) + b"".join(entries) + bytes(4) + pixels


GREY = np.array([[0, 255, 256, 65535], [4096, 32768, 1000, 513]], np.uint16)


def test_grey_of_16_bits_keeps_its_range(tmp_path):
    for name in ("a.png", "a.tif", "a.pgm", "a.jp2"):
        Image.fromarray(GREY).save(tmp_path / name)
    Image.fromarray(GREY).save(tmp_path / "lzw.tif", compression="tiff_lzw")
    row = struct.pack("<4H", *GREY[0])
    (tmp_path / "white.tif").write_bytes(tiff({258: 16, 262: 0}, row))  # 0 is white
    big = Image.frombytes("I;16B", (4, 2), GREY.astype(">u2").tobytes())
    big.save(tmp_path / "big.tif")
    for path in sorted(tmp_path.iterdir()):
        expected = GREY // 256
        if path.name == "white.tif":
            expected = (65535 - GREY[:1]) // 256
        assert (read_twice(path) == expected[:, :, None]).all(), path.name
        assert (read_image(str(path), "L") == expected[:, :, None]).all()


def test_grey_of_12_bits_keeps_its_range(tmp_path):
    path = tmp_path / "a.tif"
    # 0, 4095, 2048 and 16 of 12 bits each, the upper bits first
    path.write_bytes(tiff({258: 12}, bytes.fromhex("000fff800010")))
    assert read_twice(path)[0, :, 0].tolist() == [0, 255, 128, 1]


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_colours_of_16_bits_keep_their_range(tmp_path, name):
    pixels = np.random.default_rng(0).integers(0, 65536, (5, 6, 3), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / name), pixels[:, :, ::-1])
    np.testing.assert_array_equal(read_twice(tmp_path / name), pixels // 256)


def test_pixels_without_a_known_range_are_refused(tmp_path):
    cases = {
        "float.tif": Image.new("F", (4, 3), 0.5),
        "int.tif": Image.new("I", (4, 3), 70000),
        "float.pfm": Image.new("F", (4, 3), 0.5),
    }
    for name, image in cases.items():
        path = str(tmp_path / name)
        image.save(path)
        for fault in (image_fault(path), look_at(path, 4, 3, header=True)[0]):
            assert "of any size" in fault
            assert fault.endswith("save it with 8 or 16 bits a channel")
        for reader in (read_image, lambda path: detection_utils.read_image(read_as_here(path))):
            with pytest.raises(UserError, match=f"^image {path} has pixels that are"):
                reader(path)
    (tmp_path / "signed.tif").write_bytes(tiff({258: 16, 339: 2}, bytes(8)))
    assert "whole numbers of any size" in image_fault(str(tmp_path / "signed.tif"))
    cv2.imwrite(str(tmp_path / "colours.tif"), np.zeros((3, 4, 3), np.float32))
    fault = "is a TIFF of a kind that Pillow does not read"
    assert image_fault(str(tmp_path / "colours.tif")).startswith(fault)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif", "a.mpo"])
def test_of_several_frames_the_first_is_read_and_this_is_said_once(tmp_path, save, name, caplog):
    first = Image.open(save("first.png"))
    options = {"lossless": True} if name == "a.webp" else {}
    path, second = str(tmp_path / name), ImageOps.invert(first)
    first.save(path, save_all=True, append_images=[second], **options)
    expected = np.asarray(Image.open(path).convert("RGB"))
    np.testing.assert_array_equal(read_twice(path), expected)
    if name in ("a.png", "a.webp", "a.tif"):
        np.testing.assert_array_equal(expected, np.asarray(first))
    is_preview = name == "a.mpo"  # cameras add a preview
    assert caplog.text.count("of which the first alone is read") == (0 if is_preview else 1)
    for header in (False, True):
        fault, remark = look_at(path, WIDTH, HEIGHT, header=header)
        assert fault is None
        assert (remark is None) == is_preview


def test_a_frame_that_the_caller_chose_is_read_without_a_word(tmp_path, caplog):
    frames = [Image.new("L", (7, 5), grey) for grey in (10, 200)]
    path = str(tmp_path / "a.tif")
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with Image.open(path) as image:
        image.seek(1)
        assert set(pixels_of(image, "L").flat) == {200}
        assert not caplog.text
        assert set(read_image(path, "L").flat) == {10}
    assert "of which the first alone is read" in caplog.text


def test_grey_of_16_bits_that_is_all_but_black_is_told(tmp_path, caplog):
    path = str(tmp_path / "a.png")
    for most, is_told in ((4095, True), (255, True), (4096, False), (0, False)):
        Image.fromarray(np.array([[0, most]], np.uint16)).save(path)
        _, remark = look_at(path, header=True)
        assert (remark is not None) == is_told
        read_image(path)
    assert caplog.text.count("a sixteenth of the range") == 1


def test_an_orientation_that_cannot_be_parsed_is_none(save):
    path = save("a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    expected = np.asarray(Image.open(io.BytesIO(path.read_bytes())))
    np.testing.assert_array_equal(read_twice(path), expected)


def test_a_program_in_postscript_is_not_run(tmp_path, monkeypatch):
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_: pytest.fail("it was run"))
    fault, _ = look_at(str(path))
    assert fault.startswith("is a program in PostScript")
    for read in (read_image, lambda name: detection_utils.read_image(read_as_here(name))):
        with pytest.raises(UserError, match="is a program in PostScript"):
            read(str(path))
