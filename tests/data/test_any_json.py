"""Any value in any place of an annotation file: it loads, or a sentence says why not."""

import itertools
import json
import math

import pytest
import torch
from any_json import FEW, VALUES, places, replaced
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.structures import BoxMode
from hypothesis import given
from hypothesis import strategies as st

from fpn_d2 import UserError, add_fpn_config
from fpn_d2.data import build_test_loader, build_train_loader
from fpn_d2.data.dataset_mapper import ObjectScaleMapper
from fpn_d2.data.datasets import register_coco_folders

WIDTH, HEIGHT = 40, 32  # of the images of conftest.py


@pytest.fixture(params=[False, True], ids=["boxes", "masks"])
def cfg(request):
    cfg = get_cfg()
    add_fpn_config(cfg)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("zoo_train",), ()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT = request.param, "bitmask"
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (32,), 32
    return cfg


@pytest.fixture
def sound(coco):
    content = coco.content()
    square, rle = [[3, 3, 9, 3, 9, 9]], {"size": [HEIGHT, WIDTH], "counts": [0, WIDTH * HEIGHT]}
    for annotation, mask in zip(content["annotations"], (square, rle, square), strict=True):
        annotation["segmentation"] = mask
    return content


@pytest.fixture
def read(cfg, tmp_path, coco):
    """``read(content, training)``: the first images of a file as the model sees them, or the
    sentence that refuses it."""
    path = coco.write(tmp_path, "zoo", "train", "")

    def call(content, training):
        path.write_text(json.dumps(content))
        for catalog in (DatasetCatalog, MetadataCatalog):
            catalog.pop("zoo_train", None)
        register_coco_folders(str(tmp_path))
        try:
            build = build_train_loader if training else lambda c: build_test_loader(c, "zoo_train")
            batches = list(itertools.islice(build(cfg), 4))
            return [image for batch in batches for image in batch]
        except UserError as error:
            return str(error)

    return call


def assert_boxes_are_inside(image):
    height, width = image["image"].shape[1:]
    boxes = image["instances"].gt_boxes
    assert torch.isfinite(boxes.tensor).all()
    assert (boxes.tensor >= 0).all()
    assert (boxes.tensor <= torch.tensor([width, height] * 2)).all()
    assert boxes.nonempty().all()


@FEW
@given(data=st.data())
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_anything_in_one_place_loads_or_gets_a_sentence(sound, read, training, data):
    where = data.draw(st.sampled_from(list(places(sound))))
    found = read(replaced(sound, where, data.draw(VALUES)), training)
    if isinstance(found, str):
        assert found.count("\n") == 0
        assert len(found) < 1500
        assert any(name in found for name in ("instances_train.json", ".png", "zoo"))
        return
    assert found
    for image in found if training else ():
        assert_boxes_are_inside(image)


def test_the_sound_file_itself_loads(sound, read):
    assert len(read(sound, True)) == 8
    assert len(read(sound, False)) == 4


SIDES = st.floats(-1e6, 1e6) | st.sampled_from([0.0, -0.0, 1e-9, 0.5, 39.999999, 1e30, -1e30])
BOXES = st.tuples(SIDES, SIDES, SIDES, SIDES)


@FEW
@given(boxes=st.lists(BOXES, max_size=4), seed=st.integers(0, 99))
@pytest.mark.parametrize("of_scale", [False, True], ids=["DatasetMapper", "ObjectScaleMapper"])
def test_any_box_stays_inside_the_image(cfg, coco, tmp_path_factory, of_scale, boxes, seed):
    file = _image(tmp_path_factory, coco)
    cfg.INPUT.OBJECT_SCALE_TRAIN = 24.0
    # The second makes the boxes anew, from what its crop leaves of the masks.
    cfg.MODEL.MASK_ON = of_scale
    mask = {"segmentation": [[3, 3, 9, 3, 9, 9, 3, 9]]} if of_scale else {}
    record = _record(file, [{"bbox": list(box), **mask} for box in boxes])
    torch.manual_seed(seed)
    mapper = ObjectScaleMapper(cfg) if of_scale else DatasetMapper(cfg, True)
    assert_boxes_are_inside(mapper(record))


POINTS = st.floats(-1e4, 1e4) | st.sampled_from([0.0, 39.5, 40.0, 32.0, 1e-6])
POLYGONS = st.integers(3, 6).flatmap(lambda n: st.lists(POINTS, min_size=2 * n, max_size=2 * n))


@FEW
@given(polygons=st.lists(POLYGONS, min_size=1, max_size=3))
@pytest.mark.parametrize("mask_format", ["bitmask", "polygon"])
def test_any_polygon_stays_inside_the_image(cfg, coco, tmp_path_factory, mask_format, polygons):
    file = _image(tmp_path_factory, coco)
    cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT = True, mask_format
    record = _record(file, [{"bbox": [3, 3, 9, 9], "segmentation": polygons}])
    image = DatasetMapper(cfg, True)(record)
    assert_boxes_are_inside(image)
    masks = image["instances"].gt_masks
    if mask_format == "bitmask":
        assert masks.tensor.shape[1:] == image["image"].shape[1:]
    else:
        assert all(math.isfinite(value) for mask in masks for p in mask for value in p)


def _image(factory, coco):
    folder = factory.getbasetemp() / "sound_image"
    if not folder.exists():
        coco.write(folder, "zoo", "train", "")
    return str(folder / "zoo" / "images" / "0.png")


def _record(file, annotations):
    common = {"bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": 0}
    return {
        "file_name": file,
        "width": WIDTH,
        "height": HEIGHT,
        "image_id": 1,
        "annotations": [{**common, **annotation} for annotation in annotations],
    }
