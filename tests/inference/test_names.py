"""Names of models, and names of classes from the checkpoint, its data set or the config's."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from torch import nn

from fpn_d2 import UserError
from fpn_d2.checkpoint import trained_class_names
from fpn_d2.checkpoint.checkpointer import WeightsOrigin
from fpn_d2.demo import parse_rows
from fpn_d2.demo.outputs import coco_results
from fpn_d2.inference import Predictor, classes_of, config_for, free_title, split_pair

ROW = "quick/Faster-RCNN/faster_rcnn_R_18_FPN"

# --- names of models


@pytest.mark.parametrize(
    "words, pair",
    [
        ("a/b.yaml:model.pth", ("a/b.yaml", "model.pth")),
        ("b.yml:https://x.org/m.pkl", ("b.yml", "https://x.org/m.pkl")),
        ("C:/b.yaml:C:/m.pth", ("C:/b.yaml", "C:/m.pth")),
        *(
            (words, None)
            for words in ("b.yaml", "b.yaml:", "b.txt:a.pth", "a.pth:b.yaml", ":b", "")
        ),
    ],
)
def test_the_config_of_a_pair_ends_at_its_suffix(words, pair):
    if pair is None:
        with pytest.raises(UserError, match=r"--compare .* is not of the form CONFIG:WEIGHTS"):
            split_pair(words, "--compare")
    else:
        assert split_pair(words, "--model") == pair


def test_titles_are_numbered_where_they_must_be():
    taken = {}
    for path in ("a/row.yaml", "b/row.yaml", "other.yaml", "c/row.yaml"):
        taken[free_title(path, taken)] = path
    assert list(taken) == ["row", "row (2)", "other", "row (3)"]


def test_weights_that_are_given_twice_are_refused(repo):
    config = str(repo / f"configs/{ROW}.yaml")
    with pytest.raises(UserError, match="--weights"):
        parse_rows(config, "a.pth", (), ["MODEL.WEIGHTS", "b.pth"])


@pytest.mark.parametrize(
    "config, weights, expected",
    [
        ("a.yaml", "b.pth", "a.yaml"),
        ("", "COCO-Detection/rpn_R_50_FPN_1x.yaml", "COCO-Detection/rpn_R_50_FPN_1x.yaml"),
        ("", "b.pth", None),
        ("", "", None),
    ],
)
def test_only_weights_of_the_zoo_need_no_config(config, weights, expected):
    if expected is None:
        with pytest.raises(UserError, match="no config is named; add --config-file"):
            config_for(config, weights)
    else:
        assert config_for(config, weights) == expected


# --- names of classes


@pytest.fixture
def subclass(row_config, monkeypatch):
    """The name of a meta-architecture that a user registers."""
    row_config("torchvision/retinanet_R_50_FPN")  # registers what other code bases' models need
    own = type("MyRetinaNet", (META_ARCH_REGISTRY.get("ClippingRetinaNet"),), {})
    monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, own.__name__, own)
    return own.__name__


@pytest.mark.parametrize("own", [False, True], ids=["converted", "a user's subclass"])
def test_a_retinanet_of_any_kind_has_its_classes(row_config, subclass, own):
    cfg = row_config(
        "torchvision/retinanet_R_50_FPN",
        *("INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 128),
        *("MODEL.RETINANET.SCORE_THRESH_TEST", 0.0),
        *(["MODEL.META_ARCHITECTURE", subclass] if own else []),
    )
    names, ids = names_and_ids(cfg)
    assert (names[0], names[79], ids[0], ids[79]) == ("person", "toothbrush", 1, 90)
    torch.manual_seed(0)
    found = Predictor(cfg, build_model(cfg)).detect(np.zeros((64, 64, 3), np.uint8), threshold=0.0)
    classes = found.pred_classes.tolist()
    assert max(classes) > 1
    results = coco_results(found, 1, ids)
    assert [result["category_id"] for result in results] == [ids[i] for i in classes]


def names_and_ids(cfg):
    classes = classes_of(cfg)
    return classes.names, classes.category_ids


SHAPES = ["circle", "cross", "square", "star", "triangle"]
NUMBERED = [f"class {i}" for i in range(5)]


@pytest.mark.parametrize(
    "row, opts, names, ids",
    [
        (ROW, [], SHAPES, [1, 2, 3, 4, 5]),
        (ROW, ["DATASETS.TEST", "()"], SHAPES, [1, 2, 3, 4, 5]),  # TRAIN's
        (ROW, ["DATASETS.TEST", "('nowhere',)"], NUMBERED, [0, 1, 2, 3, 4]),
        (ROW, ["DATASETS.TEST", "()", "DATASETS.TRAIN", "()"], NUMBERED, [0, 1, 2, 3, 4]),
        ("quick/RPN/rpn_R_18_FPN", [], [], [1]),
    ],
)
def test_names_and_ids_are_the_data_sets_where_it_is_known(row_config, row, opts, names, ids):
    cfg = row_config(row, *opts)
    assert names_and_ids(cfg) == (names, ids)


# Detectron2 asserts that the ids of annotations are unique, after it has read the classes.
TWICE = [{"id": 1, "image_id": 1, "category_id": 10, "bbox": [0, 0, 1, 1]}] * 2


@pytest.mark.parametrize("damaged, annotations", [(False, []), (True, []), (False, TWICE)])
def test_a_data_set_that_was_not_read_yet_is_read(
    row_config, tmp_path, caplog, damaged, annotations
):
    images = [{"id": 1, "file_name": "a.png", "width": 9, "height": 9}]
    categories = [{"id": 10 * (i + 1), "name": f"kind {i}"} for i in range(5)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    content, path = json.dumps(content), tmp_path / "instances.json"
    path.write_text(content[:-9] if damaged else content)
    register_coco_instances("unread", {}, str(path), str(tmp_path))
    cfg = row_config(ROW, "DATASETS.TEST", "('unread',)")
    expected = [NUMBERED, list(range(5))]
    if not damaged:
        expected = [[f"kind {i}" for i in range(5)], [10, 20, 30, 40, 50]]
    assert names_and_ids(cfg) == tuple(expected)
    assert ("unread cannot be read" in caplog.text) == damaged


# --- names of classes of weights

FISH = ["cod", "eel", "ray", "carp", "bass"]


def loaded(names=(), dataset=""):
    """A model as load_model returns it, from weights that say this about their classes."""
    model = nn.Module()
    model.weights_origin = WeightsOrigin("own.pth", tuple(names), dataset)
    return model


@pytest.fixture
def pond():
    """The name of a registered data set of five fish, with ids of its own."""
    MetadataCatalog.get("pond_val").set(
        thing_classes=FISH, thing_dataset_id_to_contiguous_id={10 * (i + 1): i for i in range(5)}
    )
    return "pond_val"


IDS, NONE = [10, 20, 30, 40, 50], [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "in_file, beside, in_config, names, ids, source",
    [
        # The names in the checkpoint come first, with the ids of a data set that has exactly
        # these names.
        (FISH, "", "shapes_val", FISH, NONE, "the checkpoint"),
        (FISH, "pond_val", "shapes_val", FISH, IDS, "the checkpoint"),
        (FISH, "", "pond_val", FISH, IDS, "the checkpoint"),
        (SHAPES, "", "shapes_val", SHAPES, [1, 2, 3, 4, 5], "the checkpoint"),
        # Next comes the data set that the weights were trained on.
        ([], "pond_val", "shapes_val", FISH, IDS, "data set pond_val"),
        ([], "shapes_val", "pond_val", SHAPES, [1, 2, 3, 4, 5], "data set shapes_val"),
        # Names for another number of classes are not used.
        (FISH[:4], "coco_2017_val", "shapes_val", NUMBERED, NONE, ""),
        # Five classes of which nothing is known are not taken for the built-in shapes.
        ([], "", "shapes_val", NUMBERED, NONE, ""),
        ([], "gone_val", "shapes_train", NUMBERED, NONE, ""),
        ([], "", "gone_val", NUMBERED, NONE, ""),
    ],
)
def test_classes_are_called_what_their_weights_say(
    row_config, pond, in_file, beside, in_config, names, ids, source
):
    cfg = row_config(ROW, "DATASETS.TEST", f"('{in_config}',)")
    classes = classes_of(cfg, loaded(in_file, beside))
    assert (classes.names, classes.category_ids, classes.source) == (names, ids, source)
    assert classes.labels == names
    assert ("own.pth do not say" in classes.guess) == (not source)


def test_a_guess_is_called_one(row_config, pond, caplog):
    cfg = row_config(ROW, "DATASETS.TEST", "('pond_val',)")
    classes = classes_of(cfg, loaded())
    assert (classes.names, classes.category_ids) == (FISH, IDS)
    assert classes.guess.startswith("the weights own.pth do not say what their classes are called")
    assert classes.guess.endswith("data set pond_val, which the config names, is a guess")
    assert classes.labels == ["cod?", "eel?", "ray?", "carp?", "bass?"]
    model = build_model(cfg.clone())
    model.weights_origin = loaded().weights_origin
    assert Predictor(cfg, model).class_names == FISH
    assert classes.guess in caplog.text
    caplog.clear()
    model.weights_origin = loaded(FISH[::-1]).weights_origin
    predictor = Predictor(cfg, model)
    assert predictor.class_names == predictor.metadata.thing_classes == FISH[::-1]
    assert "guess" not in caplog.text


def test_a_model_without_classes_has_no_names(row_config):
    classes = classes_of(row_config("quick/RPN/rpn_R_18_FPN"), loaded(FISH))
    assert (classes.names, classes.category_ids, classes.guess) == ([], [1], "")


@pytest.mark.parametrize(
    "row, opts, names",
    [
        (ROW, ["DATASETS.TRAIN", "('pond_val',)"], FISH),
        (ROW, ["DATASETS.TRAIN", "('pond_val', 'shapes_train')"], FISH),
        (ROW, ["DATASETS.TRAIN", "('gone',)"], []),
        (ROW, ["DATASETS.TRAIN", "('pond_val',)", "MODEL.ROI_HEADS.NUM_CLASSES", 4], []),
        (ROW, ["DATASETS.TRAIN", "()"], []),
        ("quick/RPN/rpn_R_18_FPN", ["DATASETS.TRAIN", "('pond_val',)"], []),
    ],
)
def test_a_training_keeps_the_names_of_its_data(row_config, pond, row, opts, names):
    assert trained_class_names(row_config(row, *opts)) == names
