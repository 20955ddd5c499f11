"""INPUT.AUGMENTATIONS: what its entries become, and the sentences about bad ones."""

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import transforms as T

from fpn_d2 import UserError, add_fpn_config, load_config
from fpn_d2.data.stream import seeded
from fpn_d2.utils.augmentations import build_augmentations


def config(*entries, image_format="BGR"):
    cfg = get_cfg()
    add_fpn_config(cfg)
    cfg.INPUT.AUGMENTATIONS, cfg.INPUT.FORMAT = list(entries), image_format
    return cfg


def changed(entry, image, image_format="BGR"):
    (augmentation,) = build_augmentations(config(entry, image_format=image_format))
    inputs = T.AugInput(image.copy())
    with seeded(0):
        augmentation(inputs)
    return inputs.image


GREY = np.full((4, 6, 3), 100, np.uint8)
RED = np.zeros((4, 6, 3), np.uint8)
RED[..., 0] = 200  # in RGB


def test_none_is_the_default():
    assert build_augmentations(config()) == []
    assert build_augmentations(get_cfg()) == []  # a config without this package's keys


def test_brightness_contrast_and_saturation_by_arithmetic():
    assert changed(["RandomBrightness", 0.5, 0.5], GREY).tolist() == (GREY // 2).tolist()
    half = GREY.copy()
    half[:2] = 0  # the mean is 50
    contrasted = changed(["RandomContrast", 0.5, 0.5], half)
    assert (contrasted[:2].max(), contrasted[2:].min()) == (25, 75)
    # ITU-R 601: red weighs 0.299, in either order of channels.
    grey = round(0.299 * 200 - 0.5)
    for image, image_format in ((RED, "RGB"), (RED[..., ::-1], "BGR")):
        found = changed(["RandomSaturation", 0, 0], image, image_format)
        assert np.unique(found).tolist() == [grey]


def test_lighting_adds_the_same_colour_in_either_order():
    image = np.full((4, 6, 3), 100.0, np.float32)
    rgb, bgr = (changed(["RandomLighting", 25.5], image, order) for order in ("RGB", "BGR"))
    np.testing.assert_allclose(rgb, bgr[..., ::-1], rtol=1e-6)
    assert len(np.unique(rgb)) == 3


@pytest.mark.parametrize(
    "entry, box, shape, moved",
    [
        # Counter-clockwise: the upper left corner becomes the lower left one.
        (["RandomRotation", 90, 90], [0.0, 0, 10, 5], (40, 20, 3), [0, 30, 5, 40]),
        # An extent of half the side doubles nothing, but crops.
        (["RandomExtent", 0.5, 0.5, 0, 0], [10.0, 5, 30, 15], (10, 20, 3), [0, 0, 20, 10]),
    ],
)
def test_boxes_move_with_the_image(entry, box, shape, moved):
    (augmentation,) = build_augmentations(config(entry))
    inputs = T.AugInput(np.zeros((20, 40, 3), np.uint8), boxes=np.array([box]))
    augmentation(inputs)
    assert inputs.image.shape == shape
    np.testing.assert_allclose(inputs.boxes, [moved], atol=1e-4)


def test_apply_takes_any_of_them():
    always, never = ["RandomApply", 1.0, "RandomBrightness", 0.5, 0.5], ["RandomApply", 0]
    assert changed(always, GREY).max() == 50
    assert changed([*never, "RandomBrightness", 0.5, 0.5], GREY).max() == 100


@pytest.mark.parametrize(
    "entry, words",
    [
        ("RandomBrightness", "give a list of a name and its numbers"),
        ([], "give a list of a name"),
        (["RandomBlur", 1], "choose among RandomBrightness, RandomContrast"),
        (["RandomFlip"], "INPUT.RANDOM_FLIP"),
        (["RandomBrightness", 1.2, 0.8], "give ['RandomBrightness', low, high], 0 or more"),
        (["RandomContrast", -1, 0.8], "give ['RandomContrast', low, high]"),
        (["RandomSaturation", 1], "give ['RandomSaturation', low, high]"),
        (["RandomLighting", "much"], "give ['RandomLighting', scale]"),
        (["RandomRotation", 0, float("nan")], "give ['RandomRotation', low, high], in degrees"),
        (["RandomExtent", 0, 1, 0, 0], "give ['RandomExtent', low, high, shift_x, shift_y]"),
        (["RandomApply", 2, "RandomLighting", 1], "give a probability, 0 to 1"),
        (["RandomApply", 0.5, "RandomBlur"], "choose among"),
    ],
)
def test_a_bad_entry_is_one_sentence(entry, words):
    with pytest.raises(UserError) as error:
        load_config(opts=["INPUT.AUGMENTATIONS", repr([entry]).replace("nan", "1e999")])
    assert words in str(error.value)
    assert str(error.value).startswith("INPUT.AUGMENTATIONS has the entry ")


def test_colours_need_colours():
    with pytest.raises(UserError, match="INPUT.FORMAT is L"):
        build_augmentations(config(["RandomSaturation", 0.5, 1.5], image_format="L"))
