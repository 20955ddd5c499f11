"""Any value in any place of an annotation file: it loads, or a sentence says why not."""

import copy
import itertools
import json
import math

import pytest
import torch
from coco_files import HEIGHT, WIDTH, masked_content, write_coco
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.structures import BoxMode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fpn_d2 import UserError
from fpn_d2.data import build_test_loader, build_train_loader, check_file
from fpn_d2.data.dataset_mapper import ObjectScaleMapper
from fpn_d2.data.datasets import register_folders

# Deterministic, and without a time limit for one example: the machine may be busy.
FEW = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
NAMES = st.sampled_from(
    ["id", "image_id", "category_id", "bbox", "segmentation", "counts", "size", "file_name"]
    + ["height", "width", "name", "iscrowd", "ignore", "area", "keypoints"]
    + ["images", "annotations", "categories"]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-3, 45)
    | st.integers()
    | st.sampled_from([10**400, -(2**63), 2**64])
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["0.png", "..", "\ud800", "\0", "1"])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(NAMES | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


def places(content, path=()):
    """Yield the path of every value in a parsed file."""
    yield path
    if isinstance(content, (dict, list)):
        keys = content if isinstance(content, dict) else range(len(content))
        for key in keys:
            yield from places(content[key], (*path, key))


def replaced(content, path, value):
    if not path:
        return value
    content = copy.deepcopy(content)
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return content


@pytest.fixture
def path(tmp_path):
    """The annotation file of zoo_train."""
    return write_coco(tmp_path, "zoo", "train", "")


@pytest.fixture
def read(cfg, path, tmp_path):
    """``read(content, training, masks)``: the first images of a file as the model sees them, or the
    sentence that refuses it."""

    def call(content, training, masks):
        path.write_text(json.dumps(content))
        for catalog in (DatasetCatalog, MetadataCatalog):
            catalog.pop("zoo_train", None)
        register_folders(str(tmp_path))
        cfg.DATASETS.TEST, cfg.MODEL.MASK_ON = (), masks
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


def report_on(path):
    """Return what check_dataset finds, and check that it has the form of a report."""
    findings = check_file(str(path), str(path.parents[1] / "images"), workers=1).findings
    for finding in findings:
        assert finding.severity in ("error", "warning")
        assert finding.image is None or isinstance(finding.image, str)
        assert finding.annotation is None or isinstance(finding.annotation, int)
        assert len(finding.sentence) < 1000
    json.dumps([vars(finding) for finding in findings], allow_nan=False)
    return findings


@FEW
@given(data=st.data())
@pytest.mark.parametrize("masks", [False, True], ids=["boxes", "masks"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_anything_in_one_place_loads_or_gets_a_sentence(path, read, training, masks, data):
    sound = masked_content()
    where = data.draw(st.sampled_from(list(places(sound))))
    found = read(replaced(sound, where, data.draw(VALUES)), training, masks)
    findings = report_on(path)
    if isinstance(found, str):
        assert found.count("\n") == 0
        assert len(found) < 1500
        assert any(name in found for name in ("instances_train.json", ".png", "zoo"))
        # A file without faults is refused only for what this model and this run need.
        assert findings or "NUM_CLASSES" in found or "has an object" in found
        return
    assert found
    for image in found if training else ():
        assert_boxes_are_inside(image)


@pytest.mark.parametrize("masks", [False, True], ids=["boxes", "masks"])
def test_the_sound_file_itself_loads(path, read, masks):
    assert len(read(masked_content(), True, masks)) == 8
    assert len(read(masked_content(), False, masks)) == 4
    assert report_on(path) == []


@FEW
@given(content=VALUES)
def test_any_json_is_survived(path, content):
    path.write_text(json.dumps(content))
    assert report_on(path)  # none of these has images and categories


@FEW
@given(content=st.binary(max_size=30))
def test_any_bytes_are_survived(path, content):
    path.write_bytes(content)
    report_on(path)


def test_a_value_of_the_largest_depth_is_survived(path):
    depth = 600
    deep = json.loads("[" * depth + "]" * depth)
    for where in places(masked_content()):
        path.write_text(json.dumps(replaced(masked_content(), where, deep)))
        assert report_on(path)


SIDES = st.floats(-1e6, 1e6) | st.sampled_from([0.0, -0.0, 1e-9, 0.5, 39.999999, 1e30, -1e30])
BOXES = st.tuples(SIDES, SIDES, SIDES, SIDES)


@FEW
@given(boxes=st.lists(BOXES, max_size=4), seed=st.integers(0, 99))
@pytest.mark.parametrize("of_scale", [False, True], ids=["DatasetMapper", "ObjectScaleMapper"])
def test_any_box_stays_inside_the_image(cfg, path, of_scale, boxes, seed):
    cfg.INPUT.OBJECT_SCALE_TRAIN = 24.0
    # ObjectScaleMapper makes the boxes anew, from what its crop leaves of the masks.
    cfg.MODEL.MASK_ON = of_scale
    mask = {"segmentation": [[3, 3, 9, 3, 9, 9, 3, 9]]} if of_scale else {}
    record = _record(path, [{"bbox": list(box), **mask} for box in boxes])
    torch.manual_seed(seed)
    mapper = ObjectScaleMapper(cfg) if of_scale else DatasetMapper(cfg, True)
    assert_boxes_are_inside(mapper(record))


POINTS = st.floats(-1e4, 1e4) | st.sampled_from([0.0, 39.5, 40.0, 32.0, 1e-6])
POLYGONS = st.integers(3, 6).flatmap(lambda n: st.lists(POINTS, min_size=2 * n, max_size=2 * n))


@FEW
@given(polygons=st.lists(POLYGONS, min_size=1, max_size=3))
@pytest.mark.parametrize("mask_format", ["bitmask", "polygon"])
def test_any_polygon_stays_inside_the_image(cfg, path, mask_format, polygons):
    cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT = True, mask_format
    record = _record(path, [{"bbox": [3, 3, 9, 9], "segmentation": polygons}])
    image = DatasetMapper(cfg, True)(record)
    assert_boxes_are_inside(image)
    masks = image["instances"].gt_masks
    if mask_format == "bitmask":
        assert masks.tensor.shape[1:] == image["image"].shape[1:]
    else:
        assert all(math.isfinite(value) for mask in masks for p in mask for value in p)


def _record(path, annotations):
    """Return the record of an image of the annotation file, but with these annotations."""
    common = {"bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": 0}
    return {
        "file_name": str(path.parents[1] / "images" / "0.png"),
        "width": WIDTH,
        "height": HEIGHT,
        "image_id": 1,
        "annotations": [{**common, **annotation} for annotation in annotations],
    }
