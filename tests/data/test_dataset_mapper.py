"""Mappers: images at an object's scale, torchvision's resize, and images that cannot be read."""

import functools
import gc
import itertools
import logging
import random
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.utils.data._utils as loader_utils
from coco_files import sound_content, write_coco
from detectron2.config import get_cfg
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from fpn_d2 import UserError
from fpn_d2.data import TorchvisionResize, build_test_loader, build_test_mapper, build_train_loader
from fpn_d2.data.dataset_mapper import (
    AugmentingMapper,
    ObjectScaleMapper,
    SkippingMapper,
    _start,
    build_train_mapper,
    map_or_refuse,
    map_record,
)
from fpn_d2.data.datasets import register_folders
from fpn_d2.data.images import look_at

# Training images at the scale of one of their objects (the baseline of Table 6).

OBJECT_SCALE_ROW = "quick/Mask-Proposals/mask_R_18_image_pyramid"


def rectangle(x0, y0, x1, y1):
    return [x0, y0, x1, y0, x1, y1, x0, y1]


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(np.zeros((100, 120, 3), dtype=np.uint8)).save(path)

    def make(*sides, crowd=0):
        annotations = [
            {
                "bbox": [10, 10, side, side / 2],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": 0,
                "iscrowd": crowd,
                "segmentation": [rectangle(10, 10, 10 + side, 10 + side / 2)],
            }
            for side in sides
        ]
        return {
            "file_name": str(path),
            "height": 100,
            "width": 120,
            "image_id": 1,
            "annotations": annotations,
        }

    return make


def test_one_object_gets_the_scale(row_config, record):
    mapper = ObjectScaleMapper(row_config(OBJECT_SCALE_ROW, "INPUT.MASK_FORMAT", "bitmask"))
    seen = []
    for _ in range(30):
        side = mapper(record(50))["image"].shape[1] / 100 * 50
        seen.append(side)
        # 128 px, times 2^-0.25 to 2^0.25, but for the rounding of the image's side
        assert 128 * 2**-0.25 - 1 < side < 128 * 2**0.25 + 1
    assert len(set(seen)) > 5


def sides(mapper, record) -> np.ndarray:
    """Return the heights and widths of 30 mapped images: (30, 2)."""
    return np.array([mapper(record)["image"].shape[1:] for _ in range(30)])


TEST_SCALES = "MODEL.MASK_PROPOSAL.TEST_SCALES", "[0.5, 1.0, 2.0]"


@pytest.mark.parametrize(
    "opts, side, size",
    [
        # The test resizes 100 x 120 px to 267 x 320 (MAX_SIZE_TEST): times 2^0.5 and 2^-2.5
        ((), 2, (377, 453)),
        (("INPUT.MAX_SIZE_TEST", 1000), 2, (453, 543)),  # 320 x 384
        (TEST_SCALES, 2, (533, 640)),
        ((*TEST_SCALES, "INPUT.OBJECT_SCALE_TRAIN", 1.0), 119, (133, 160)),
    ],
)
def test_the_pyramids_scales_are_the_limits(row_config, record, opts, side, size):
    cfg = row_config(OBJECT_SCALE_ROW, "INPUT.MAX_SIZE_TRAIN", 2000, *opts)  # uncropped
    assert (sides(ObjectScaleMapper(cfg), record(side)) == size).all()


def test_a_long_image_is_cropped_with_the_whole_object_in_it(row_config, record):
    mapper = ObjectScaleMapper(row_config(OBJECT_SCALE_ROW, "INPUT.RANDOM_FLIP", "none"))
    places = set()
    for _ in range(30):
        made = mapper(record(40))
        assert made["image"].shape[2] <= 320
        # 40 x 20 px at (10, 10), at scale 128: 107.6 to 152.2, and a mask's box has whole pixels
        ((x0, y0, x1, y1),) = made["instances"].gt_boxes.tensor.tolist()
        assert 107 <= x1 - x0 <= 153
        assert 53 <= y1 - y0 <= 77
        places.add(round(x0))
    assert len(places) > 5


def test_boxes_are_those_of_the_masks(row_config, record):
    mapper, of_box = ObjectScaleMapper(row_config(OBJECT_SCALE_ROW)), record(40)  # 40 x 20 px
    of_box["annotations"][0]["segmentation"] = [rectangle(20, 10, 40, 30)]
    ((x0, y0, x1, y1),) = mapper(of_box)["instances"].gt_boxes.tensor.tolist()
    assert x1 - x0 == pytest.approx(y1 - y0, abs=3)


def test_an_object_longer_than_the_crop_is_there_with_its_centre():
    for _ in range(50):
        assert _start(40, 100, 20, 50) in range(10, 21)  # 20 to 50 within start to start + 40
        assert _start(40, 100, 90, 100) == 60
        assert _start(40, 100, 0, 100) in range(10, 51)  # 50 within
    assert _start(100, 100, 20, 50) == 0


def test_an_object_that_no_scale_reaches_is_drawn_where_there_is_no_other(row_config, record):
    mapper = ObjectScaleMapper(row_config(OBJECT_SCALE_ROW))
    size = np.array([100, 120])
    # 320 / 120 * 2^0.5 = 3.77, so 128 px are reached from 128 / 3.77 / 2^0.25 = 28.5 px on
    for _ in range(20):
        assert mapper._choose(record(28, 29), size)[2] == 10 + 29
        assert mapper._choose(record(28), size)[2] == 10 + 28
    assert mapper._choose(record(200), size).tolist() == [10, 10, 120, 100]  # what is in the image


def test_every_object_has_its_turn_and_crowds_have_none(row_config, record):
    mapper = ObjectScaleMapper(row_config(OBJECT_SCALE_ROW, "INPUT.MAX_SIZE_TRAIN", 2000))
    heights = sides(mapper, record(40, 100))[:, 0]
    assert heights.min() < 160 < 250 < heights.max()  # 128 and 320, times 2^-0.25 to 2^0.25
    # without an object to choose the image keeps its size, within 2^0.25
    for nothing in (record(40, crowd=1), record()):
        heights = sides(mapper, nothing)[:, 0]
        assert 84 <= heights.min() < heights.max() <= 119


# The network input that torchvision's own transform makes from an image.

TORCHVISION_ROW = "torchvision/faster_rcnn_R_50_FPN"
SIZES = [(30, 40), (40, 30), (33, 71), (100, 100), (21, 190), (64, 48), (49, 98), (3, 200)]


@pytest.mark.parametrize("size", SIZES)
def test_an_image_becomes_torchvisions_network_input(row_config, size):
    cfg = row_config(TORCHVISION_ROW)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    tensor = torch.from_numpy(image.transpose(2, 0, 1).copy()).float() / 255
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    images, _ = GeneralizedRCNNTransform(48, 80, mean, std).eval()([tensor])
    (height, width) = images.image_sizes[0]
    resized = TorchvisionResize(48, 80).get_transform(image).apply_image(image)
    assert resized.shape == (height, width, 3)
    ours = torch.from_numpy(resized.transpose(2, 0, 1))
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
    )
    expected = images.tensors[0, :, :height, :width]
    torch.testing.assert_close((ours - mean) / std, expected, rtol=0, atol=2e-5)


def test_boxes_are_resized_with_the_image():
    image = np.zeros((30, 40, 3), np.uint8)
    transform = TorchvisionResize(60, 100).get_transform(image)  # x 2
    assert transform.apply_box(np.array([[1.0, 2, 30, 20]])).tolist() == [[2, 4, 60, 40]]


def test_the_config_chooses_the_resize(row_config):
    (plain,) = build_test_mapper(row_config("quick/demo")).augmentations.augs
    assert isinstance(plain, T.ResizeShortestEdge)
    (resize,) = build_test_mapper(row_config(TORCHVISION_ROW)).augmentations.augs
    assert isinstance(resize, TorchvisionResize)
    assert (resize.min_size, resize.max_size) == (800, 1333)


@pytest.mark.parametrize("resize", ["detectron2", "torchvision"])
def test_a_size_of_0_resizes_nothing(row_config, record, resize):
    opts = ["INPUT.MIN_SIZE_TEST", 0, "INPUT.MIN_SIZE_TRAIN", "(0,)", "INPUT.RESIZE_TEST", resize]
    cfg = row_config("quick/demo", *opts)
    for mapper in (build_test_mapper(cfg), build_train_mapper(cfg)):
        assert mapper(record(50))["image"].shape == (3, 100, 120)


def test_a_config_of_detectron2_alone_has_mappers():
    (resize,) = build_test_mapper(get_cfg()).augmentations.augs
    assert isinstance(resize, T.ResizeShortestEdge)
    assert type(build_train_mapper(get_cfg())) is AugmentingMapper


# Images that are long and narrow: no side is resized to nothing.

SIZES_100 = ["INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MAX_SIZE_TRAIN", 100, "INPUT.RANDOM_FLIP",
             "none", "INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 100]  # fmt: skip


@pytest.mark.parametrize(
    "size, resized",
    [((2000, 2), (100, 1)), ((2, 2000), (1, 100)), ((1, 1), (64, 64)), ((1000, 2), (100, 1))],
)
def test_a_side_keeps_a_pixel(row_config, tmp_path, size, resized):
    path = str(tmp_path / "a.png")
    Image.new("RGB", size, (10, 20, 30)).save(path)
    box = [0, 0, size[0], size[1]]
    annotation = {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    record = {"file_name": path, "width": size[0], "height": size[1], "annotations": [annotation]}
    cfg = row_config("quick/demo", *SIZES_100)
    assert build_test_mapper(cfg)(record)["image"].shape == (3, *resized[::-1])
    whole = build_train_mapper(cfg)(record)
    assert whole["image"].shape == (3, *resized[::-1])
    assert whole["instances"].gt_boxes.tensor.tolist() == [[0, 0, *resized]]
    crop = "INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "relative", "INPUT.CROP.SIZE", [0.2, 0.2]
    cropped = build_train_mapper(row_config("quick/demo", *SIZES_100, *crop))(record)
    for made in (whole, cropped):
        assert min(made["image"].shape) > 0
        assert made["image"][:, 0, 0].tolist() == [30, 20, 10]  # BGR


OTHERS = ["INPUT.CROP.ENABLED", True, "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range",
          "INPUT.MIN_SIZE_TRAIN", "(50, 150)"]  # fmt: skip


@pytest.mark.parametrize("opts", [[], OTHERS], ids=["the defaults", "others"])
def test_without_augmentations_sizes_and_random_draws_are_detectron2s(row_config, record, opts):
    cfg = row_config("quick/demo", *opts)
    for seed in range(5):
        made = []
        for mapper in (build_train_mapper(cfg), DatasetMapper(cfg, True)):
            np.random.seed(seed)
            made.append(mapper(record(20, 50)))
        ours, theirs = made
        assert torch.equal(ours["image"], theirs["image"])
        boxes = [one["instances"].gt_boxes.tensor for one in made]
        assert torch.equal(*boxes)


# Every network gets the pixels of our one reader.


def refusing(mapper):
    return functools.partial(map_or_refuse, mapper)


def test_a_mapper_of_detectron2s_gets_our_pixels(tmp_path, row_config):
    cfg = row_config("quick/demo", "INPUT.MIN_SIZE_TEST", 0)
    grey = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(4, 16)
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(grey).save(tmp_path / "deep.png")
    Image.fromarray((grey >> 8).astype(np.uint8)).save(tmp_path / "turned.tif", exif=exif)
    for name, expected in (("deep.png", grey // 256), ("turned.tif", (grey // 256)[::-1, ::-1])):
        file = str(tmp_path / name)
        record = {"file_name": file, "width": 16, "height": 4}
        mapper = build_test_mapper(cfg)
        for reading in (refusing(mapper), SkippingMapper(mapper, [file], 1.0)):
            made = reading(record)
            assert made["file_name"] == file
            np.testing.assert_array_equal(made["image"].numpy(), np.stack([expected] * 3))
    assert map_record(lambda record: dict(record), {"image_id": 3}) == {"image_id": 3}


@pytest.mark.parametrize("image_format", ["BGR", "RGB", "L", "YUV-BT.601"])
def test_every_format_gives_what_a_network_takes(image_format, tmp_path, row_config):
    channels = 1 if image_format == "L" else 3
    mean = ["MODEL.PIXEL_MEAN", [0.0] * channels, "MODEL.PIXEL_STD", [1.0] * channels]
    cfg = row_config("quick/demo", "INPUT.MIN_SIZE_TEST", 0, "INPUT.FORMAT", image_format, *mean)
    path = str(tmp_path / "a.png")
    Image.new("RGB", (4, 3), (200, 100, 50)).save(path)
    image = map_record(build_test_mapper(cfg), {"file_name": path})["image"]
    assert image.dtype == (torch.float32 if image_format == "YUV-BT.601" else torch.uint8)
    expected = {
        "BGR": [50, 100, 200],
        "RGB": [200, 100, 50],
        # ITU-R BT.601: Y = 0.299 R + 0.587 G + 0.114 B, U = 0.492 (B - Y), V = 0.877 (R - Y)
        "L": [124],
        "YUV-BT.601": [124.2 / 255, 0.492 * (50 - 124.2) / 255, 0.877 * (200 - 124.2) / 255],
    }[image_format]
    assert image[:, 1, 2].tolist() == pytest.approx(expected, abs=1e-3)


# Images that cannot be read: training skips, counts and names them, evaluation stops.

IMAGES = 40


@pytest.fixture
def cfg(cfg):
    cfg.DATASETS.TEST = ()  # a faulty test set is refused before training
    return cfg


@pytest.fixture
def images(tmp_path):
    """The image folder of zoo_train, which has 40 images with one object each."""
    content = sound_content(IMAGES)
    content["annotations"].append({**content["annotations"][0], "id": IMAGES, "image_id": IMAGES})
    for annotation in content["annotations"]:
        annotation["bbox"] = [2, 3, 10, 12]
        annotation["segmentation"] = [[2, 3, 12, 3, 12, 15, 2, 15]]
    write_coco(tmp_path, "zoo", "train", content)
    folder = tmp_path / "zoo" / "images"
    for i in range(IMAGES):
        pixels = np.random.default_rng(i).integers(0, 256, (32, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    register_folders(str(tmp_path))
    return folder


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def widen(path):
    Image.new("RGB", (64, 32)).save(path)


def ids_of(loader, batches):
    return [d["image_id"] for batch in itertools.islice(loader, batches) for d in batch]


def sentence_of(loader, batches):
    """Return the sentence of the error that stops a loader."""
    with pytest.raises(UserError) as caught:
        ids_of(loader, batches)
    return str(caught.value)


@pytest.fixture
def _quick_end(monkeypatch):
    """Shorten the 5 s that torch gives each worker process to end when it frees a failed loader."""
    monkeypatch.setattr(loader_utils, "MP_STATUS_CHECK_INTERVAL", 0.1)
    yield
    gc.collect()


EPOCHS = 3 * IMAGES // 2  # batches in three epochs


@pytest.mark.parametrize("spoil", [cut, widen, lambda path: path.write_bytes(b"")])
def test_one_image_is_skipped_and_named_once(cfg, images, spoil, caplog):
    spoil(images / "5.png")
    with caplog.at_level(logging.WARNING, "fpn_d2"):
        ids = ids_of(build_train_loader(cfg), EPOCHS)
    assert set(ids) == {*range(1, IMAGES + 1)} - {6}
    assert len(ids) == 3 * IMAGES
    (message,) = (r.getMessage() for r in caplog.records if r.name.startswith("fpn_d2"))
    assert message.startswith(f"image {images}/5.png ")
    assert message.endswith("and is skipped (1 of 40 training images so far)")


def test_an_image_that_goes_away_during_the_training(cfg, images, caplog):
    loader = build_train_loader(cfg)
    (images / "5.png").unlink()
    assert 6 not in ids_of(loader, EPOCHS)
    assert "5.png does not exist and is skipped" in caplog.text


@pytest.mark.parametrize("share, allowed", [(0.0, 1), (0.01, 1), (0.05, 2), (0.1, 4), (1.0, 39)])
def test_more_than_the_share_stops_the_run(cfg, images, share, allowed):
    cfg.DATALOADER.MAX_SKIPPED_SHARE = share
    for i in range(allowed):
        cut(images / f"{i}.png")
    batches = EPOCHS * (IMAGES - allowed) // IMAGES  # skipped images take up draws, too
    assert len(set(ids_of(build_train_loader(cfg), batches))) == IMAGES - allowed
    cut(images / f"{allowed}.png")
    sentence = sentence_of(build_train_loader(cfg), 2 * EPOCHS)
    assert sentence.startswith(f"{allowed + 1} of the 40 training images cannot be used")
    for word in (f"DATALOADER.MAX_SKIPPED_SHARE is {share}", ".png cannot be read", "annotation f"):
        assert word in sentence


@pytest.mark.usefixtures("_quick_end")
def test_worker_processes_count_together_and_their_error_is_the_sentence(cfg, images):
    cfg.DATALOADER.NUM_WORKERS = 2
    cfg.DATALOADER.MAX_SKIPPED_SHARE = 0.1
    for i in range(4):
        cut(images / f"{i}.png")
    assert not set(ids_of(build_train_loader(cfg), EPOCHS)) & {1, 2, 3, 4}
    cut(images / "4.png")
    sentence = sentence_of(build_train_loader(cfg), 2 * EPOCHS)
    assert sentence.startswith("5 of the 40 training images cannot be used")
    assert "\n" not in sentence


@pytest.mark.usefixtures("_quick_end")
@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_stops_at_an_unreadable_image(cfg, images, workers):
    cfg.DATALOADER.NUM_WORKERS = workers
    assert ids_of(build_test_loader(cfg, "zoo_train"), IMAGES) == [*range(1, IMAGES + 1)]
    cut(images / "5.png")
    sentence = sentence_of(build_test_loader(cfg, "zoo_train"), IMAGES)
    assert sentence.startswith(f"image {images}/5.png cannot be read ")
    assert "replace it, or" in sentence
    assert "\n" not in sentence


def without_range(path):
    Image.new("F", (40, 32), 0.5).save(path, "TIFF")


@pytest.mark.parametrize("spoil", [without_range, widen, lambda path: path.write_bytes(b"")])
def test_a_header_is_read_before_the_first_iteration(cfg, images, spoil, caplog):
    spoil(images / "5.png")
    with caplog.at_level(logging.WARNING, "fpn_d2"):
        loader = build_train_loader(cfg)
    assert f"image {images}/5.png " in caplog.text
    assert "and is skipped (1 of 40 training images so far)" in caplog.text
    assert 6 not in ids_of(loader, EPOCHS)
    spoil(images / "6.png")
    with pytest.raises(UserError, match="^2 of the 40 training images cannot be used"):
        build_train_loader(cfg)
    # What would stop the evaluation stops the training beforehand.
    cfg.DATASETS.TEST, cfg.DATALOADER.MAX_SKIPPED_SHARE = ("zoo_train",), 1.0
    for build in (build_train_loader, lambda cfg: build_test_loader(cfg, "zoo_train")):
        with pytest.raises(UserError, match=r"[56]\.png .* would not be those of the data set"):
            build(cfg)


@pytest.mark.parametrize("spoilt", [8, 9])
def test_of_many_images_some_are_drawn(cfg, images, spoilt, monkeypatch):
    monkeypatch.setattr("fpn_d2.data.records._HEADERS", 10)
    cfg.DATALOADER.MAX_SKIPPED_SHARE = 0.25  # 10 of 40
    drawn, look = random.Random(cfg.SEED).sample(range(IMAGES), 10), Mock(wraps=look_at)
    for i in drawn[:spoilt]:
        without_range(images / f"{i}.png")
    monkeypatch.setattr("fpn_d2.data.records.look_at", look)
    if spoilt == 8:
        build_train_loader(cfg)
    else:  # of 10, 2.5 are expected at most, and 1 + 2.5 + 3 * 2.5 ** 0.5 is 8.2
        with pytest.raises(UserError, match="^9 of 10 training images that were drawn cannot"):
            build_train_loader(cfg)
    assert [call.args[0] for call in look.call_args_list] == [f"{images}/{i}.png" for i in drawn]


def test_images_of_an_objects_scale_too(cfg, images, caplog):
    cfg.INPUT.OBJECT_SCALE_TRAIN = 12.0
    cfg.MODEL.MASK_ON = True
    widen(images / "5.png")
    loader = build_train_loader(cfg)
    assert isinstance(loader.dataset.mapper._mapper, ObjectScaleMapper)
    assert 6 not in ids_of(loader, EPOCHS)
    assert "5.png has 64 x 32 pixels" in caplog.text


@pytest.fixture(params=[refusing, lambda mapper: SkippingMapper(mapper, ["a", "b"], 1.0)])
def map_one(request, images):
    """``map_one(mapper)``: what either wrapper of this mapper makes of a sound image."""
    record = {"file_name": str(images / "5.png"), "width": 40, "height": 32}
    return lambda mapper: request.param(mapper)(record)


def test_an_error_that_is_not_the_images_stays_what_it_is(map_one):
    with pytest.raises(KeyError, match="a bug of the mapper"):
        map_one(Mock(side_effect=KeyError("a bug of the mapper")))


def test_a_disk_that_fails_once_changes_no_random_numbers(map_one):
    drawn = []

    def flaky(record):
        drawn.append((random.random(), np.random.rand(), torch.rand(1).item()))
        if len(drawn) == 1:
            raise OSError("stale file handle")
        return "mapped"

    assert map_one(flaky) == "mapped"
    assert len(drawn) == 2
    assert drawn[0] == drawn[1]


# INPUT.AUGMENTATIONS.


def test_augmentations_come_between_crop_and_resize(cfg):
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.AUGMENTATIONS = [["RandomContrast", 0.5, 1.5], ["RandomRotation", -10, 10]]
    names = [type(one).__name__ for one in build_train_mapper(cfg).augmentations.augs]
    drawn = ["RandomContrast", "RandomRotation"]
    assert names == ["NeverEmptyCrop", *drawn, "NeverEmptyResize", "RandomFlip"]
    cfg.INPUT.AUGMENTATIONS = []
    plain = build_train_mapper(cfg).augmentations.augs
    assert len(plain) == 3
