"""Faults of masks, by hand and against pycocotools."""

import math

import numpy as np
import pycocotools.mask as mask_util
import pytest

from fpn_d2.data.annotation_file import _runs, mask_fault


@pytest.mark.parametrize("seed", range(20))
def test_sound_masks_have_none(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 300, 2).tolist()
    mask = np.asfortranarray(rng.random((height, width)) > rng.random(), dtype=np.uint8)
    rle = mask_util.encode(mask)
    flat = mask.T.ravel()
    # an independent run-length encoding, column by column, of zeros first
    runs = np.diff(np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1, [flat.size]])).tolist()
    runs = [0, *runs] if flat[0] else runs
    assert _runs(rle["counts"]) == runs
    text = {**rle, "counts": rle["counts"].decode()}
    for segmentation in (rle, text, {"size": [height, width], "counts": runs}):
        assert mask_fault(segmentation, height, width) is None


def test_polygons():
    assert mask_fault([[0, 0, 5, 0.5, 5, 5], [1, 1, 2, 2, 3, 1]], 10, 10) is None
    assert mask_fault([[-50, 0, 500, 0, 5, 700]], 10, 10) is None
    assert mask_fault([[-100_000, 0, 500, 0, 5, 700]], 10, 10) is None
    assert mask_fault([], 10, 10) is None  # that there is none is for others to say


@pytest.mark.parametrize(
    "segmentation, words",
    [
        ("mask", "neither polygons nor an RLE but str"),
        (3.5, "neither polygons nor an RLE but float"),
        ([1, 2, 3, 4, 5, 6], "number 1, that is no list of finite numbers"),
        ([[0, 0, 1, 1, 2, 2], [0, 0, 1, math.nan, 2, 2]], "number 2, that is no list of finite"),
        ([[0, 0, 1, math.inf, 2, 2]], "no list of finite numbers"),
        ([[0, 0, 1, "1", 2, 2]], "no list of finite numbers"),
        ([[0, 0, 1, 1, 2, 2, 3]], "of 7 numbers: x and y go in pairs"),
        ([[0, 0, 1, 1, 2, 10**400]], "no list of finite numbers"),
        ([[0, 0, 1, 1, 2, -100_001]], "number 1, that reaches beyond 100000 pixels"),
        ([[0, 0, 1, 1, 2, 1e300]], "number 1, that reaches beyond 100000 pixels"),
        ({"size": [4, 8], "counts": [10**400]}, "neither a list of whole numbers nor a text"),
        ({"counts": [32]}, "size None, and the image is 4 x 8"),
        ({"size": [8, 4], "counts": [32]}, r"size \[8, 4\], and the image is 4 x 8"),
        ({"size": 32, "counts": [32]}, "size 32"),
        ({"size": [4, 8]}, "neither a list of whole numbers nor a text"),
        ({"size": [4, 8], "counts": [1.5, 30.5]}, "neither a list of whole numbers nor a text"),
        ({"size": [4, 8], "counts": [10]}, "of 10 pixels, and the image has 32"),
        ({"size": [4, 8], "counts": [40, -8]}, "of 32 pixels, and the image has 32"),
        ({"size": [4, 8], "counts": ""}, "of 0 pixels"),
        ({"size": [4, 8], "counts": "0"}, "of 0 pixels"),
        ({"size": [4, 8], "counts": "\x00"}, "no compressed run lengths"),
        ({"size": [4, 8], "counts": "\N{EURO SIGN}"}, "pixels|no compressed"),
        ({"size": [4, 8], "counts": "P"}, "no compressed run lengths"),  # goes on, and ends
        ({"size": [4, 8], "counts": b"o" * 100}, "no compressed run lengths"),
    ],
)
def test_faults(segmentation, words):
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(mask_fault(segmentation, 4, 8))
