"""Every form of image that callers have gives the same pixels; others are refused in words."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fpn_d2 import UserError
from fpn_d2.inference.inputs import input_pixels

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RGB[:, :, 0]
REPEATED = np.stack([GREY] * 3, axis=2)


def file_of(tmp_path, pixels, orientation=1):
    path = tmp_path / "a.png"
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = orientation
    image.save(path, exif=image.getexif())
    return path


@pytest.mark.parametrize("format, expected", [("BGR", RGB[:, :, ::-1]), ("RGB", RGB)])
def test_one_image_in_every_form(tmp_path, format, expected):
    path = file_of(tmp_path, RGB)
    forms = [
        path,
        str(path),
        Image.open(path),
        Image.fromarray(RGB),
        RGB[:, :, ::-1],  # as cv2.imread has it
        torch.from_numpy(RGB).permute(2, 0, 1),  # as torchvision.io.decode_image has it
    ]
    for form in forms:
        pixels = input_pixels(form, format)
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, expected)


def test_grey_images_are_repeated(tmp_path):
    tensor = torch.from_numpy(GREY)
    forms = [file_of(tmp_path, GREY), Image.fromarray(GREY), GREY, GREY[:, :, None]]
    for form in [*forms, tensor, tensor[None]]:
        np.testing.assert_array_equal(input_pixels(form, "BGR"), REPEATED)
        # Pillow's weights of the channels sum to one, so grey stays as it is.
        np.testing.assert_array_equal(input_pixels(form, "L"), GREY[:, :, None])


def test_images_of_pillow_are_turned_and_converted_as_their_files_are(tmp_path):
    path = file_of(tmp_path, RGB, orientation=6)  # to be turned a quarter to the right
    for form in (path, Image.open(path)):
        np.testing.assert_array_equal(input_pixels(form, "RGB"), np.rot90(RGB, -1))
    transparent = np.concatenate([RGB, GREY[:, :, None]], axis=2)
    for form in (file_of(tmp_path, transparent), Image.fromarray(transparent)):
        np.testing.assert_array_equal(input_pixels(form, "RGB"), RGB)
    Image.fromarray(GREY * np.uint16(256) + 9).save(tmp_path / "deep.png")
    for form in (tmp_path / "deep.png", Image.open(tmp_path / "deep.png")):
        np.testing.assert_array_equal(input_pixels(form, "RGB"), REPEATED)
    palette = Image.fromarray(RGB).quantize(16)
    np.testing.assert_array_equal(input_pixels(palette, "RGB"), np.asarray(palette.convert("RGB")))


BAD = [
    (RGB / 255, r"an array of float64 is no image of 8 bits; give uint8 from 0 to 255, which is "),
    (RGB.astype(np.uint16), "an array of uint16 is no image of 8 bits"),
    (GREY > 9, "an array of bool is no image of 8 bits"),
    (torch.rand(3, 5, 7), "a tensor of float32 is no image of 8 bits"),
    (torch.rand(3, 5, 7).bfloat16(), "a tensor of bfloat16 is no image of 8 bits"),
    (np.zeros((0, 7, 3), np.uint8), r"shape \(0, 7, 3\) has no pixels"),
    (np.zeros((5, 7, 0), np.uint8), "has no pixels"),
    (torch.zeros(3, 5, 0, dtype=torch.uint8), r"a tensor of shape \(3, 5, 0\) has no pixels"),
    (RGB.transpose(2, 0, 1), r"shape \(3, 5, 7\) is no \(H, W, 3\) .*image.transpose\(1, 2, 0\)"),
    (torch.from_numpy(RGB), r"is no \(3, H, W\) image; give image.permute\(2, 0, 1\)"),
    (np.zeros((5, 7, 4), np.uint8), r"leave the transparency out, image\[:, :, :3\]"),
    (torch.zeros(4, 5, 7, dtype=torch.uint8), r"leave the transparency out, image\[:3\]"),
    (np.zeros((5, 7, 6), np.uint8), r"is no \(H, W, 3\) image; give \(H, W, 3\), or \(H, W\)"),
    (np.zeros(5, np.uint8), r"shape \(5,\) is no \(H, W, 3\) image"),
    (RGB[None], r"shape \(1, 5, 7, 3\) is a batch; give list\(images\)"),
    (torch.zeros(2, 3, 5, 7, dtype=torch.uint8), "is a batch"),
    (None, r"an image is NoneType, as cv2\.imread returns for a file that it cannot read"),
    (7, "an image is int; give a path, a PIL image, an array or a tensor"),
    ("gone.jpg", "image gone.jpg does not exist; name another"),
    (Path(__file__), "is no image of a format that Pillow knows; name another"),
    (Image.new("F", (7, 5)), r"floats of any size \(no file, .* mode F\).* bring them to 0 to 255"),
    (Image.new("I;16", (7, 5)), "a PIL image has 16 bits and no file that says what is white"),
    (Image.new("I", (7, 5)), "a PIL image has pixels that are whole numbers of any size"),
    (Image.new("RGB", (0, 5)), "a PIL image has no pixels"),
]


@pytest.mark.parametrize("image, words", BAD)
def test_what_is_no_image_is_refused_in_words(image, words):
    with pytest.raises(UserError, match=words) as error:
        input_pixels(image, "BGR")
    assert "\n" not in str(error.value)


def test_an_opened_file_that_is_cut_is_refused_in_words(tmp_path):
    path = tmp_path / "cut.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(UserError, match=r"a PIL image cannot be read \(.*\); give another"):
        input_pixels(Image.open(path), "BGR")
