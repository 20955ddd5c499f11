"""Images that cannot be read: skipped, counted and named in training, an error in evaluation."""

import gc
import itertools
import logging

import numpy as np
import pytest
import torch.utils.data._utils as loader_utils
from detectron2.config import get_cfg
from PIL import Image

from fpn_d2 import UserError, add_fpn_config
from fpn_d2.data import build_test_loader, build_train_loader
from fpn_d2.data.datasets import register_coco_folders
from fpn_d2.data.object_scale import ObjectScaleMapper
from fpn_d2.data.unreadable import RefusingMapper, SkippingMapper

IMAGES = 40


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_fpn_config(cfg)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("zoo_train",), ("zoo_train",)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (32,), 32
    cfg.SEED = 7
    return cfg


@pytest.fixture
def images(tmp_path, coco):
    """The image folder of zoo_train, of 40 images with an object each."""
    content = coco.content(IMAGES)
    content["annotations"].append({**content["annotations"][0], "id": IMAGES, "image_id": IMAGES})
    for annotation in content["annotations"]:
        annotation["bbox"] = [2, 3, 10, 12]
        annotation["segmentation"] = [[2, 3, 12, 3, 12, 15, 2, 15]]
    coco.write(tmp_path, "zoo", "train", content)
    folder = tmp_path / "zoo" / "images"
    for i in range(IMAGES):
        pixels = np.random.default_rng(i).integers(0, 256, (32, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    register_coco_folders(str(tmp_path))
    return folder


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def widen(path):
    Image.new("RGB", (64, 32)).save(path)


def ids_of(loader, batches):
    return [d["image_id"] for batch in itertools.islice(loader, batches) for d in batch]


def sentence_of(loader, batches):
    """The sentence that stops a loader."""
    with pytest.raises(UserError) as caught:
        ids_of(loader, batches)
    return str(caught.value)


@pytest.fixture
def _quick_end(monkeypatch):
    """Torch gives each worker process of a loader that has failed 5 s to end, when it is freed."""
    monkeypatch.setattr(loader_utils, "MP_STATUS_CHECK_INTERVAL", 0.1)
    yield
    gc.collect()


EPOCHS = 3 * IMAGES // 2  # batches


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
    assert len(set(ids_of(build_train_loader(cfg), 2 * EPOCHS))) == IMAGES - allowed
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


def test_images_of_an_objects_scale_too(cfg, images, caplog):
    cfg.INPUT.OBJECT_SCALE_TRAIN = 12.0
    cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT = True, "bitmask"
    widen(images / "5.png")
    loader = build_train_loader(cfg)
    assert isinstance(loader.dataset.mapper._mapper, ObjectScaleMapper)
    assert 6 not in ids_of(loader, EPOCHS)
    assert "5.png has 64 x 32 pixels" in caplog.text


@pytest.mark.parametrize("make", [RefusingMapper, lambda m: SkippingMapper(m, ["a", "b"], 1.0)])
def test_an_error_that_is_not_the_images_stays_what_it_is(make, images):
    def broken(record):
        raise KeyError("a bug of the mapper")

    with pytest.raises(KeyError, match="a bug of the mapper"):
        make(broken)({"file_name": str(images / "5.png"), "width": 40, "height": 32})


@pytest.mark.parametrize("make", [RefusingMapper, lambda m: SkippingMapper(m, ["a", "b"], 1.0)])
def test_a_disk_that_fails_once(make, images):
    answers = [OSError("stale file handle"), "mapped"]

    def flaky(record):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert make(flaky)({"file_name": str(images / "5.png")}) == "mapped"
