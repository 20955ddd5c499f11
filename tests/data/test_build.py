import itertools
import json
import re
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
from coco_files import HEIGHT, WIDTH, masked_content, sound_content, write_coco
from detectron2.config import get_cfg
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.modeling import META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY, PanopticFPN
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.structures import BoxMode
from detectron2.utils import comm
from PIL import Image
from torch.utils.data import Dataset

from fpn_d2 import UserError
from fpn_d2.config import changed
from fpn_d2.data import (
    build_loss_loader,
    build_test_loader,
    build_train_loader,
    check_settings,
    coco_json,
    load_train_dataset,
    validation,
)


def set_in(key, number, **values):
    return lambda c: c[key][number].update(values)


def records_of(content, folder, first=0):
    """Return a sound file's images as a user's function may: classes counted from ``first``."""
    return [
        {
            **{key: image[key] for key in ("width", "height")},
            "file_name": str(folder / image["file_name"]),
            "image_id": image["id"],
            "annotations": [
                {
                    **{key: entry[key] for key in ("bbox", "segmentation") if key in entry},
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "category_id": entry["category_id"] - 1 + first,
                }
                for entry in content["annotations"]
                if entry["image_id"] == image["id"]
            ],
        }
        for image in content["images"]
    ]


def ids_of(loader, batches):
    return [[d["image_id"] for d in batch] for batch in itertools.islice(loader, batches)]


# The benign twin of every check below: the same data without the fault.


def test_train_loader_is_detectron2s(cfg, zoo):
    zoo()
    ours, stock = ids_of(build_train_loader(cfg), 6), ids_of(build_detection_train_loader(cfg), 6)
    assert ours == stock
    assert {i for batch in ours for i in batch} == {1, 2, 3}  # image 4 has no objects
    batch = next(iter(build_train_loader(cfg)))
    assert len(batch) == 2
    assert len(batch[0]["instances"]) == 1


def test_test_loader_is_detectron2s(cfg, zoo):
    zoo()
    ours, stock = build_test_loader(cfg, "zoo_val"), build_detection_test_loader(cfg, "zoo_val")
    assert ids_of(ours, 9) == ids_of(stock, 9) == [[1], [2], [3], [4]]
    assert type(ours.sampler) is type(stock.sampler)


def test_empty_images_stay_where_asked_for(cfg, zoo):
    zoo()
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    assert {i for batch in ids_of(build_train_loader(cfg), 6) for i in batch} == {1, 2, 3, 4}


def test_a_file_is_parsed_once_for_the_rules_and_detectron2(cfg, zoo, monkeypatch):
    zoo()
    parse, judge = Mock(wraps=coco_json.parse), Mock(wraps=validation.annotation_findings)
    monkeypatch.setattr(coco_json, "parse", parse)
    monkeypatch.setattr(json, "load", lambda file: pytest.fail(f"{file} is parsed once more"))
    monkeypatch.setattr(validation, "annotation_findings", judge)
    cfg.DATASETS.TEST = ()
    build_train_loader(cfg)
    assert (parse.call_count, judge.call_count) == (1, 1)
    for _ in range(3):
        build_train_loader(cfg)
        build_test_loader(cfg, "zoo_val")
    assert (parse.call_count, judge.call_count) == (1 + 6, 2)


def test_no_test_set_is_a_choice_in_training_only(cfg, zoo):
    zoo()
    cfg.DATASETS.TEST = ()
    build_train_loader(cfg)
    with pytest.raises(UserError, match=r"DATASETS\.TEST names no data set"):
        check_settings(cfg, training=False)


def test_images_without_annotations_can_be_tested_on(cfg, zoo, caplog):
    zoo(val=lambda c: c.pop("annotations"))  # as COCO's image_info files
    assert len(build_test_loader(cfg, "zoo_val")) == 4
    assert "data set zoo_val has no objects to find" in caplog.text


@pytest.mark.parametrize("key, name", [("PROPOSAL_GENERATOR", "RRPN"), ("ROI_HEADS", "RROIHeads")])
def test_rotated_boxes_are_tested_on_as_in_detectron2(key, name, cfg, zoo):
    rotated = {"bbox": [20.0, 15.0, 9.0, 6.0, 30.0], "bbox_mode": BoxMode.XYWHA_ABS}
    records = records_of(sound_content(), zoo() / "images")
    for number, record in enumerate(records):
        record["annotations"] = [{**rotated, "category_id": number % 2}]
    DatasetCatalog.register("rotated", lambda: records)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("rotated",)
    with pytest.raises(UserError, match=r"with bbox \[20.0.*give four finite numbers"):
        build_test_loader(cfg, "rotated")
    cfg.MODEL[key].NAME = name
    ours, stock = build_test_loader(cfg, "rotated"), build_detection_test_loader(cfg, "rotated")
    assert ids_of(ours, 9) == ids_of(stock, 9) == [[1], [2], [3], [4]]
    with pytest.raises(UserError, match=f"{name} reads rotated boxes, which .* makes upright"):
        build_train_loader(cfg)
    MetadataCatalog.get("rotated").thing_classes = ["cat", "dog", "emu"]
    with pytest.raises(UserError, match="NUM_CLASSES is 2, but the number of classes .* is 3"):
        build_test_loader(cfg, "rotated")


def test_a_torch_data_set_passes_through(cfg):
    class Two(Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            raise AssertionError("not read before the first iteration")

    DatasetCatalog.register("two", Two)
    cfg.DATASETS.TEST = ("two",)
    assert len(build_test_loader(cfg, "two")) == 2
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"  # whose label maps it may read itself
    assert len(build_loss_loader(cfg, "two")) == 2


def test_all_images_without_objects(cfg, zoo):
    zoo(train=lambda c: c.update(annotations=[{**c["annotations"][0], "iscrowd": 1}]))
    with pytest.raises(UserError, match=r"zoo_train .*DATALOADER.FILTER_EMPTY_ANNOTATIONS False"):
        build_train_loader(cfg)
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    build_train_loader(cfg)


# Data sets of other formats and configs of other programs.


@pytest.fixture
def lvis(cfg, zoo):
    """``lvis(evaluator_type, **changes)``: register a set of this type as Detectron2 does, with
    changes to its first record, from a file in LVIS v1's form; return a config to train on it."""
    images = zoo() / "images"

    def write(evaluator_type, **changes):
        content = masked_content()
        for annotation in content["annotations"]:
            del annotation["iscrowd"]
            annotation["segmentation"] = TRIANGLE
        records = records_of(content, images)
        records[0].update(changes)
        for image in content["images"]:
            image["coco_url"] = f"http://images.cocodataset.org/images/{image.pop('file_name')}"
        for category in content["categories"]:
            category.update(synonyms=[category["name"]], synset="a.n.01", frequency="f")
        path = images.parent / "lvis_v1_train.json"
        path.write_text(json.dumps(content))

        DatasetCatalog.register("my_lvis", lambda: records)
        MetadataCatalog.get("my_lvis").set(json_file=str(path), image_root=f"{images.parent}/")
        if evaluator_type is not None:
            MetadataCatalog.get("my_lvis").evaluator_type = evaluator_type
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("my_lvis",), ()
        cfg.MODEL.MASK_ON = True
        return cfg

    return write


@pytest.mark.parametrize("evaluator_type", ["lvis", "my_own"])
def test_files_of_other_formats_are_not_judged_as_cocos(lvis, evaluator_type):
    cfg = lvis(evaluator_type)
    assert {i for batch in ids_of(build_train_loader(cfg), 6) for i in batch} == {1, 2, 3}
    assert len(build_test_loader(cfg, "my_lvis")) == 4


@pytest.mark.parametrize("evaluator_type", [None, "coco"])
def test_a_file_that_should_be_cocos_is_judged(lvis, evaluator_type):
    with pytest.raises(UserError, match="entry 0 of images has the file_name None"):
        build_train_loader(lvis(evaluator_type))


def test_the_records_of_other_formats_are_checked(lvis):
    with pytest.raises(UserError, match=r"my_lvis, image \S*0\.png: it .*bbox \[1\]"):
        build_train_loader(lvis("lvis", annotations=[{"bbox": [1]}]))


def test_a_config_of_detectron2_alone_has_loaders(cfg, zoo):
    zoo()
    plain = get_cfg()
    plain.DATASETS.TRAIN, plain.DATASETS.TEST = cfg.DATASETS.TRAIN, cfg.DATASETS.TEST
    plain.MODEL.ROI_HEADS.NUM_CLASSES, plain.SOLVER.IMS_PER_BATCH, plain.SEED = 2, 2, 7
    plain.DATALOADER.NUM_WORKERS = 0
    assert ids_of(build_train_loader(plain), 6) == ids_of(build_train_loader(cfg), 6)
    assert len(next(iter(build_test_loader(plain, "zoo_val")))) == 1


# Files and names that are not there.


def test_a_file_name_that_this_process_cannot_have(cfg, zoo, monkeypatch):
    zoo(set_in("images", 0, file_name="b\u00e4r.png"))
    monkeypatch.setattr("os.fsencode", lambda path: str(path).encode("ascii"))
    with pytest.raises(UserError, match=r"b\\xe4r\.png' has letters .*: set PYTHONUTF8=1"):
        build_train_loader(cfg)


def test_missing_files(cfg, zoo):
    folder = zoo()
    (folder / "images" / "0.png").unlink()
    (folder / "images" / "2.png").unlink()
    with pytest.raises(UserError, match=r"0\.png does not exist \(2 of the 3 images of zoo_train"):
        build_train_loader(cfg)
    shutil.rmtree(folder / "images")
    with pytest.raises(UserError, match=r"image folder .*zoo/images .* DETECTRON2_DATASETS"):
        build_test_loader(cfg, "zoo_val")
    (folder / "annotations" / "instances_val.json").unlink()
    with pytest.raises(UserError, match=r"instances_val\.json of data set zoo_val does not exist"):
        build_test_loader(cfg, "zoo_val")


def test_errors_that_are_not_the_users_stay_what_they_are(cfg):
    broken = Mock(side_effect=KeyError("a bug of the function"))
    DatasetCatalog.register("own_function", broken)
    cfg.DATASETS.TEST = ("own_function",)
    with pytest.raises(KeyError, match="a bug of the function"):
        build_test_loader(cfg, "own_function")


@pytest.mark.parametrize(
    "annotations", [[], [{"bbox": [1, 2, 3, 4], "bbox_mode": 1, "category_id": 0, "iscrowd": 1}]]
)
def test_a_function_whose_images_have_nothing_to_train_on(cfg, annotations):
    image = {"file_name": "a.png", "width": 40, "height": 32, "annotations": annotations}
    DatasetCatalog.register("mine", lambda: [image])
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("mine",), ()
    with pytest.raises(UserError, match="no image of mine has an object to train on: annotate"):
        build_train_loader(cfg)


@pytest.fixture
def counted(cfg, zoo):
    """``counted(first, **metadata)``: a config whose only data set is a user's function, which
    returns zoo_val's images and counts classes from ``first``."""

    def register(first, **metadata):
        records = records_of(sound_content(), zoo() / "images", first)
        DatasetCatalog.register("mine", lambda: records)
        MetadataCatalog.get("mine").set(**metadata)
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("mine",), ()
        return cfg

    return register


@pytest.mark.parametrize("metadata", [{}, {"thing_classes": ["cat", "dog"]}])
def test_classes_that_a_program_counts_from_1(counted, metadata):
    """Detectron2 would train the last class as background, or stop at an assertion."""
    cfg = counted(1, **metadata)
    with pytest.raises(UserError, match="mine.*1.png.*of category_id 2: give .* from 0 to 1"):
        build_train_loader(cfg)


def test_classes_that_a_program_counts_from_0(counted):
    cfg = counted(0, thing_classes=["cat", "dog"])
    assert {i for batch in ids_of(build_train_loader(cfg), 6) for i in batch} == {1, 2, 3}
    assert len(build_test_loader(cfg, "mine")) == 4


def test_a_test_set_that_is_trained_on_is_named_in_the_log(cfg, zoo, caplog):
    zoo()
    build_train_loader(cfg)
    assert "data set zoo_val: at least 3 of its 4 images are trained on too" in caplog.text


def test_rles_where_polygons_are_asked_for(cfg, zoo):
    zoo(lambda c: c.update(masked_content()))
    cfg.MODEL.MASK_ON, cfg.DATASETS.TEST = True, ()
    build_train_loader(cfg)  # bitmask
    cfg.INPUT.MASK_FORMAT = "polygon"
    with pytest.raises(UserError, match="image .*1.png: it has an RLE, and INPUT.MASK_FORMAT"):
        build_train_loader(cfg)


def test_rles_of_a_test_set_stop_its_losses_alone(cfg, zoo):
    def polygons(content):
        content.update(masked_content())
        content["annotations"].pop(1)  # the RLE

    zoo(polygons, lambda c: c.update(masked_content()))
    cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT = True, "polygon"
    build_train_loader(cfg)
    cfg.TEST.VALIDATION_LOSS = True  # mapped as in training
    with pytest.raises(UserError, match="zoo_val.*1.png: it has an RLE, and INPUT.MASK_FORMAT"):
        build_train_loader(cfg)


def test_keypoints_that_no_image_has(cfg, zoo):
    # An evaluation would stumble over one, and training keeps the other.
    zoo(train=lambda c: c["annotations"][0].update(score=None, bbox=[999, 9, 9, 9]))
    cfg.MODEL.KEYPOINT_ON = True
    with pytest.raises(UserError, match="no image of zoo_train has keypoints enough for MODEL.KEY"):
        build_train_loader(cfg)


def test_keypoints_that_nobody_reads_are_no_reason(cfg, zoo):
    def crowds(content):
        for annotation in content["annotations"]:
            annotation.update(iscrowd=1, keypoints=["x"])

    zoo(crowds)
    with pytest.raises(UserError, match="no image of zoo_train has an object .*crowds do not coun"):
        build_train_loader(cfg)


@pytest.fixture
def pointed(cfg, zoo):
    """``pointed(numbers, **metadata)``: a config of one keypoint, on a zoo_train with this metadata
    whose objects have these numbers as keypoints."""

    def write(numbers, **metadata):
        one = {"keypoints": numbers, "num_keypoints": 1}
        zoo(lambda c: [annotation.update(one) for annotation in c["annotations"]])
        MetadataCatalog.get("zoo_train").set(**metadata)
        cfg.MODEL.KEYPOINT_ON, cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = True, 1
        cfg.DATASETS.TEST = ()
        return cfg

    return write


@pytest.mark.parametrize(
    "numbers, metadata, words",
    [
        ([5, 6, 2], {}, r"zoo_train does not name its keypoints.*\('zoo_train'\)\.set\(keypoint_n"),
        ([5, 6, 2], {"keypoint_names": ["nose"]}, "zoo_train does not name its keypoints"),
        (
            [5, 6, 2, 7],
            {"keypoint_names": ["nose"], "keypoint_flip_map": []},
            r"0\.png: it has an object with 4 numbers as keypoints, and 1 points .* have 3",
        ),
    ],
)
def test_keypoints_that_cannot_be_trained_on(pointed, numbers, metadata, words):
    with pytest.raises(UserError, match=words):
        build_train_loader(pointed(numbers, **metadata))


def test_keypoints_that_cannot_be_evaluated(pointed):
    with pytest.raises(UserError, match="zoo_train does not name its keypoints"):
        build_test_loader(pointed([5, 6, 2]), "zoo_train")
    names = {"keypoint_names": ["nose"], "keypoint_flip_map": []}
    cfg = pointed([5, 6, 2, 7, 8, 2], **names)
    with pytest.raises(UserError, match="zoo_train.*with 6 numbers as keypoints, and 1 points"):
        build_test_loader(cfg, "zoo_train")
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 2
    assert len(build_test_loader(cfg, "zoo_train")) == 4


def test_keypoints_of_ones_own(pointed):
    cfg = pointed([5, 6, 2], keypoint_names=["nose"], keypoint_flip_map=[])
    (image, *_) = next(iter(build_train_loader(cfg)))
    assert image["instances"].gt_keypoints.tensor.shape == (1, 1, 3)


# Label maps.


@pytest.fixture
def labelled(cfg, zoo):
    """``labelled(label, network)``: the config of a network of two segments and label 255 ignored,
    and training images all of whose pixels have this label; None is no label map."""

    def make(label, network="PanopticFPN"):
        folder = zoo()
        records = DatasetCatalog.get("zoo_train")
        if label is not None:
            path = folder / "labels.png"
            Image.new("L", (WIDTH, HEIGHT), label).save(path)
            records = [{**record, "sem_seg_file_name": str(path)} for record in records]
        DatasetCatalog.register("labelled", lambda: records)
        MetadataCatalog.get("labelled").set(thing_classes=["cat", "dog"])
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("labelled",), ()
        cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = network, 2
        return cfg

    return make


@pytest.mark.parametrize("network", ["PanopticFPN", "SemanticSegmentor"])
def test_label_maps_that_cannot_be_trained_on(network, labelled):
    with pytest.raises(UserError, match=r"labelled, image .*0\.png: it has no label map"):
        build_train_loader(labelled(None, network))


@pytest.mark.parametrize("label, is_known", [(0, True), (1, True), (2, False), (255, True)])
def test_a_label_that_no_class_has(label, is_known, labelled):
    images = iter(build_train_loader(labelled(label)))
    if is_known:
        assert all((image["sem_seg"] == label).all() for image in next(images))
        return
    with pytest.raises(
        UserError, match=r"labels\.png has the label 2, .*NUM_CLASSES 2 and not .*255"
    ):
        next(images)


def test_losses_of_a_test_set_need_its_labels(labelled):
    cfg = labelled(1)
    cfg.DATASETS.TEST = ("zoo_val",)
    build_train_loader(cfg)
    cfg.TEST.VALIDATION_LOSS = True
    for build in (build_train_loader, lambda cfg: build_loss_loader(cfg, "zoo_val")):
        with pytest.raises(UserError, match=r"zoo_val, image .*0\.png: it has no label map"):
            build(cfg)
    assert all((image["sem_seg"] == 1).all() for [image] in build_loss_loader(cfg, "labelled"))
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 1
    with pytest.raises(UserError, match=r"labels\.png has the label 1, .*NUM_CLASSES 1"):
        next(iter(build_loss_loader(cfg, "labelled")))


def test_heads_and_networks_of_ones_own_may_read_other_labels(labelled, monkeypatch):
    class OwnHead(SemSegFPNHead):
        """It may merge classes in its losses."""

    class OwnNetwork(PanopticFPN):
        """It may train on images without a label map, too."""

    monkeypatch.setitem(SEM_SEG_HEADS_REGISTRY._obj_map, "OwnHead", OwnHead)
    monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, "OwnNetwork", OwnNetwork)
    cfg = labelled(2)
    cfg.MODEL.SEM_SEG_HEAD.NAME = "OwnHead"
    assert all((image["sem_seg"] == 2).all() for image in next(iter(build_train_loader(cfg))))
    DatasetCatalog.pop("labelled")
    cfg = labelled(None, "OwnNetwork")
    cfg.MODEL.SEM_SEG_HEAD.NAME = "SemSegFPNHead"
    assert all("sem_seg" not in image for image in next(iter(build_train_loader(cfg))))


def test_networks_of_boxes_need_no_labels(labelled):
    assert next(iter(build_train_loader(labelled(2, "GeneralizedRCNN"))))


# The batch and the classes.


@pytest.mark.parametrize("images, processes", [(0, 1), (-2, 1), (3, 2), (2, 4)])
def test_a_batch_that_cannot_be_shared(images, processes, cfg, zoo, monkeypatch):
    zoo()
    monkeypatch.setattr(comm, "get_world_size", lambda: processes)
    cfg.SOLVER.IMS_PER_BATCH = images
    with pytest.raises(UserError, match=f"IMS_PER_BATCH is {images}.*multiple of {processes}"):
        build_train_loader(cfg)
    check_settings(cfg, training=False)
    cfg.SOLVER.IMS_PER_BATCH = 2 * processes
    check_settings(cfg, training=True)
    assert build_train_loader(cfg).dataset.batch_size == 2


@pytest.mark.parametrize(
    "architecture, key",
    [
        ("GeneralizedRCNN", "MODEL.ROI_HEADS.NUM_CLASSES"),
        ("RetinaNet", "MODEL.RETINANET.NUM_CLASSES"),
    ],
)
def test_number_of_classes(architecture, key, cfg, zoo):
    zoo()
    cfg.MODEL.META_ARCHITECTURE = architecture
    for value in (1, 80):
        cfg.merge_from_list([key, value])
        for build in (build_train_loader, lambda cfg: build_test_loader(cfg, "zoo_val")):
            with pytest.raises(UserError, match=f"of data set zoo_.* is 2 .cat, dog.*add {key} 2"):
                build(cfg)
    cfg.merge_from_list([key, 2])
    build_train_loader(cfg)


def test_a_model_without_a_class_head_takes_any_classes(cfg, zoo):
    zoo(val=set_in("categories", 1, name="horse"))
    cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 80
    build_train_loader(cfg)


def test_classes_of_the_test_set_must_be_the_training_sets(cfg, zoo):
    categories = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    zoo(val=lambda c: c.update(categories=categories))
    with pytest.raises(UserError, match=r"zoo_val has the classes dog, cat, but zoo_train .*"):
        build_train_loader(cfg)


def test_a_difference_behind_many_classes_is_shown(cfg, zoo):
    many = [{"id": i, "name": f"class {i}"} for i in range(1, 11)]
    zoo(
        train=lambda c: c.update(categories=many),
        val=lambda c: c.update(categories=[*many[:9], {"id": 10, "name": "class 10 "}]),
    )
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 10
    with pytest.raises(UserError, match="number 10 is 'class 10 ' in the first, 'class 10' in"):
        build_train_loader(cfg)


def test_classes_of_two_training_sets_must_agree(cfg, zoo):
    zoo(val=set_in("categories", 0, name="horse"))
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("zoo_train", "zoo_val"), ()
    with pytest.raises(UserError, match="zoo_val .* not those of zoo_train .*'horse' in"):
        build_train_loader(cfg)


def test_a_registered_path_and_a_tuple_of_classes(cfg, zoo):
    folder = zoo()
    metadata = MetadataCatalog.get("zoo_val")
    path, root = Path(metadata.json_file), Path(metadata.image_root)
    MetadataCatalog.pop("zoo_val")
    MetadataCatalog.get("zoo_val").set(json_file=path, image_root=root)
    records = records_of(sound_content(), folder / "images")
    DatasetCatalog.register("mine", lambda: records)
    MetadataCatalog.get("mine").thing_classes = ("cat", "dog")
    cfg.DATASETS.TRAIN = ("mine",)
    assert len(build_test_loader(cfg, "zoo_val")) == 4
    assert next(iter(build_train_loader(cfg)))


def test_classes_other_than_the_registered_ones(cfg, zoo):
    zoo()
    MetadataCatalog.get("zoo_val").thing_classes = ["cat", "dog", "horse"]
    with pytest.raises(UserError, match=r"zoo_val \(2\) .* list for zoo_val \(3\)"):
        build_test_loader(cfg, "zoo_val")


# Masks.


TRIANGLE = [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]]


@pytest.fixture
def masked(cfg, zoo):
    """``masked(segmentation, ...)``: a config with masks, on a zoo_train whose three objects have
    these masks and a zoo_val with sound ones."""

    def masks(*segmentations):
        def add(content):
            for annotation, segmentation in zip(content["annotations"], segmentations, strict=True):
                annotation["segmentation"] = segmentation

        return add

    def write(*segmentations):
        zoo(masks(*segmentations), masks(*[TRIANGLE] * 3))
        cfg.MODEL.MASK_ON = True
        return cfg

    return write


@pytest.mark.parametrize("segmentation", [None, []], ids=["none", "empty"])
def test_a_mask_that_is_none_is_named(masked, segmentation):
    with pytest.raises(UserError, match=r"image 2\.png: annotation 3 has no segmentation"):
        build_train_loader(masked(TRIANGLE, TRIANGLE, segmentation))


@pytest.mark.parametrize("mask_on", [True, False])
def test_objects_whose_polygons_are_lines_are_named_in_the_log(masked, caplog, mask_on):
    line = [[1, 1, 2, 2]]
    cfg = masked(TRIANGLE, line, line)
    cfg.MODEL.MASK_ON = mask_on
    build_train_loader(cfg)
    (record,) = (r for r in caplog.records if r.name == "fpn_d2.data.validation")
    text = record.getMessage()
    assert text.startswith("data set zoo_train, ")
    for word in ("instances_train.json, image 1.png: annotation 2", "the object out", "(and 1 m"):
        assert word in text


NO_MASKS = {
    "an empty polygon": [[]],
    "none": [],
    "null": None,
    "a point": [[3, 4]],
    "numbers without a list of their own": [1, 1, 9, 1, 9, 9],
    "a text": "polygon",
    "no counts": {"size": [32, 40]},
    "empty counts": {"size": [32, 40], "counts": []},
    "counts of another image": {"size": [4, 4], "counts": "07"},
}


@pytest.mark.parametrize("of_all", [True, False], ids=["all", "one"])
@pytest.mark.parametrize("case", NO_MASKS)
def test_boxes_are_sound_without_their_masks(case, of_all, masked):
    others = NO_MASKS[case] if of_all else TRIANGLE
    cfg = masked(others, NO_MASKS[case], others)
    cfg.MODEL.MASK_ON, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False, False
    records = load_train_dataset(cfg)
    boxes = [[annotation["bbox"] for annotation in record["annotations"]] for record in records]
    assert boxes == [[[2, 3, 10, 12]], [[3, 3, 10, 12]], [[4, 3, 10, 12]], []]
    build_test_loader(cfg, "zoo_train")


@pytest.mark.parametrize("case", sorted(NO_MASKS.keys() - {"a point"}))
def test_masks_that_are_none_are_named_where_masks_are_trained(case, masked):
    cfg = masked(TRIANGLE, NO_MASKS[case], TRIANGLE)
    for build in (build_train_loader, lambda cfg: build_test_loader(cfg, "zoo_train")):
        with pytest.raises(
            UserError, match=r"image 1\.png: annotation 2 has (no seg|a broken mask)"
        ):
            build(cfg)


@pytest.mark.parametrize("line", [[[3, 4]], [[3, 4, 9, 9]], [[3, 4], *TRIANGLE]])
def test_a_mask_that_pycocotools_misreads_is_refused_for_evaluation(line, masked):
    cfg = masked(TRIANGLE, line, TRIANGLE)
    build_train_loader(cfg)
    with pytest.raises(UserError, match=r"image 1\.png: annotation 2 has 1 polygon\(s\) of fewer"):
        build_test_loader(cfg, "zoo_train")
    cfg.MODEL.MASK_ON = False
    build_test_loader(cfg, "zoo_train")


def test_sound_polygons_are_named_nowhere(masked, caplog):
    build_train_loader(masked(TRIANGLE, [[1, 1, 2, 2], *TRIANGLE], TRIANGLE))  # one is left
    assert "the object out" not in caplog.text


def test_each_kind_of_fault_that_stops_nothing_is_named_in_the_log(cfg, zoo, caplog):
    def spoil(content):
        first, second, third = content["annotations"]
        first |= {"bbox": [2, 3, 0, 12], "area": 1}
        second["iscrowd"] = "0"  # for Detectron2 a crowd, as it is not 0
        third |= {"bbox": [2, 3, 10, 0], "area": 1}

    zoo(spoil)
    build_train_loader(cfg)
    told = [r.getMessage() for r in caplog.records if r.name == "fpn_d2.data.validation"]
    assert len(told) == 2
    assert re.search(r"annotation 1 .* without area, .*\(and 1 more", told[0])
    assert "annotation 2 has the iscrowd '0'" in told[1]


# What COCO's evaluation needs, and training does not.


@pytest.mark.parametrize(
    "change, words",
    [
        (set_in("annotations", 1, id=-1), "has the id -1"),
        (lambda c: c["annotations"][1].pop("area"), "1 annotations have no area"),
    ],
)
def test_what_evaluation_would_stumble_over_is_named_before_the_run(change, words, cfg, zoo):
    folder = zoo(val=change)
    for build in (build_train_loader, lambda cfg: build_test_loader(cfg, "zoo_val")):
        with pytest.raises(UserError) as caught:
            build(cfg)
        assert "instances_val.json" in str(caught.value)
        assert words in str(caught.value)
        assert re.search(
            "image 1.png: (annotation|entry 1 of)|first is annotation 2", str(caught.value)
        )
    # the same in a file that is only trained on is no fault
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("zoo_val",), ()
    build_train_loader(cfg)
    write_coco(folder.parent, "zoo", "val", sound_content())  # mended
    build_test_loader(cfg, "zoo_val")


# --- Detectron2's samplers, each of which a sentence offers


SAMPLERS = {
    "TrainingSampler": {},
    "RepeatFactorTrainingSampler": {"DATALOADER.REPEAT_THRESHOLD": 0.9},
    "RandomSubsetTrainingSampler": {"DATALOADER.RANDOM_SUBSET_RATIO": 0.34},
    "WeightedTrainingSampler": {"DATASETS.TRAIN_REPEAT_FACTOR": [("zoo_train", 2.0)]},
    "WeightedCategoryTrainingSampler": {"DATASETS.TRAIN_REPEAT_FACTOR": [("zoo_train", 2.0)]},
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_each_sampler_draws_images_and_the_same_ones_again(cfg, zoo, sampler):
    zoo()
    cfg = changed(cfg, {"DATALOADER.SAMPLER_TRAIN": sampler, "SEED": 3, **SAMPLERS[sampler]})
    first, again = (ids_of(build_train_loader(cfg), 8) for _ in range(2))
    assert first == again
    drawn = {image for batch in first for image in batch}
    # a third of the three images with objects is one
    assert len(drawn) == (1 if sampler == "RandomSubsetTrainingSampler" else 3)


@pytest.mark.parametrize("sampler", ["WeightedTrainingSampler", "WeightedCategoryTrainingSampler"])
def test_the_weighted_samplers_weigh_the_images_that_training_keeps(cfg, zoo, sampler):
    # Detectron2's reader would leave the object out, and with it the only one of its image.
    zoo(train=set_in("annotations", 0, segmentation=[[]]))
    cfg.DATALOADER.SAMPLER_TRAIN = sampler
    stream = build_train_loader(cfg).dataset
    assert len(stream.sampler._int_part) == len(stream.records)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda c: [a.update(iscrowd="0") for a in c["annotations"]], "has the iscrowd '0'"),
        (lambda c: [i.update(id=str(i["id"])) for i in c["images"]], "has the image_id 1, which"),
        (  # a score that only evaluation stumbles over
            lambda c: [a.update(score=None, image_id=str(a["image_id"])) for a in c["annotations"]],
            "has the image_id '1', which",
        ),
        (  # as Darwin writes all that is not one polygon; the model has no masks
            lambda c: [
                a.update(iscrowd=1, segmentation={"size": [1, 2], "counts": [2]})
                for a in c["annotations"]
            ],
            "no image of zoo_train has an object",
        ),
    ],
)
def test_the_fault_that_leaves_no_object_is_named(cfg, zoo, change, words):
    zoo(train=change)
    with pytest.raises(UserError, match=words):
        build_train_loader(cfg)


def test_a_set_without_objects_has_no_weight(cfg, zoo):
    zoo(val=lambda c: c.update(annotations=[]))
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("zoo_train", "zoo_val"), ()
    build_train_loader(cfg)
    cfg.DATALOADER.SAMPLER_TRAIN = "WeightedTrainingSampler"
    with pytest.raises(UserError, match="no image of zoo_val has an object"):
        build_train_loader(cfg)

    def masks(*points):
        return lambda c: [a.update(segmentation=[[*points]]) for a in c["annotations"]]

    zoo(train=masks(1, 1, 9, 9, 1, 9), val=masks(1, 1, 9, 9))  # of two points
    cfg.MODEL.MASK_ON = True
    with pytest.raises(UserError, match="no image of zoo_val has an object"):
        build_train_loader(cfg)


def test_a_share_of_no_image_is_refused(cfg, zoo):
    zoo()
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.3  # of three
    cfg.DATALOADER.SAMPLER_TRAIN = "RandomSubsetTrainingSampler"
    with pytest.raises(UserError, match="RANDOM_SUBSET_RATIO is 0.3, which is none of 3 images"):
        build_train_loader(cfg)
