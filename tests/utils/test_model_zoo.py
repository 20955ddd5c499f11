"""Names of Detectron2's model zoo, and what is near one."""

import shutil

import pytest
from detectron2 import model_zoo

from fpn_d2 import UserError, load_config
from fpn_d2.utils.model_zoo import close_zoo_names, zoo_config, zoo_entry, zoo_names, zoo_weights

FASTER = "COCO-Detection/faster_rcnn_R_50_FPN_3x"
ADDRESS = "COCO-Detection/faster_rcnn_R_50_FPN_3x/137849458/model_final_280758.pkl"


@pytest.mark.parametrize("ending", ["", ".yaml"])
def test_an_entry_has_an_address_and_a_config(ending):
    assert zoo_weights(FASTER + ending) == f"detectron2://{ADDRESS}"
    assert zoo_config(FASTER + ending) == model_zoo.get_config(f"{FASTER}.yaml")
    cfg = load_config(FASTER + ending)
    assert cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN"
    assert cfg.MODEL.FPN.TOP_DOWN  # a key of this package
    assert cfg.SOLVER.MAX_ITER == 270000
    assert str(cfg.OUTPUT_DIR) == "output/faster_rcnn_R_50_FPN_3x"


def test_paths_are_no_names():
    for path in ("./Base-RCNN-FPN.yaml", "../Misc.yaml"):
        with pytest.raises(UserError, match="does not exist"):
            load_config(path)


def test_a_config_without_weights_has_a_name_too():
    cfg = load_config("LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_1x")
    assert cfg.DATASETS.TRAIN == ("lvis_v1_train",)


def test_a_config_with_a_tag_that_runs_code_is_read_if_it_is_detectron2s(tmp_path):
    """RetinaNet's anchors: sides of 2^0, 2^(1/3) and 2^(2/3) times 32, 64, ..."""
    sizes = load_config("COCO-Detection/retinanet_R_50_FPN_3x").MODEL.ANCHOR_GENERATOR.SIZES
    assert sizes[0] == pytest.approx([32, 32 * 2 ** (1 / 3), 32 * 2 ** (2 / 3)])
    copy = tmp_path / "retinanet.yaml"
    shutil.copy(model_zoo.get_config_file("Base-RetinaNet.yaml"), copy)
    with pytest.raises(UserError, match="tags that run code are refused"):
        load_config(copy)


@pytest.mark.parametrize(
    "address, name",
    [
        (f"detectron2://{ADDRESS}", FASTER),
        (f"https://dl.fbaipublicfiles.com/detectron2/{ADDRESS}", FASTER),
        ("detectron2://ImageNetPretrained/MSRA/R-50.pkl", ""),
        (f"https://example.org/{ADDRESS}", ""),
        ("output/demo/model_final.pth", ""),
    ],
)
def test_an_address_leads_back_to_its_entry(address, name):
    assert zoo_entry(address) == name


@pytest.mark.parametrize(
    "words, close",
    [
        ("COCO-Detection/faster_rcnn_R50_FPN_3x.yaml", FASTER),
        ("COCO-Detection/mask_rcnn_R_50_FPN_3x", "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x"),
        ("output/model_final.pth", None),
        ("./a/b/c.yaml", None),
        ("", None),
    ],
)
def test_what_is_near_a_name(words, close):
    found = close_zoo_names(words)
    assert close in found if close else found == []
    assert not zoo_weights(words)
    assert zoo_config(words) is None


def test_a_config_that_is_nearly_an_entry_gets_a_hint():
    with pytest.raises(UserError, match=f"does not exist; did you mean .*{FASTER}"):
        load_config("COCO-Detection/faster_rcnn_R50_FPN_3x.yaml")


def test_all_entries_with_a_config_and_weights_are_listed():
    names = zoo_names()
    assert len(names) == len(set(names)) > 40
    assert names == sorted(names)
    assert "COCO-Detection/fcos_R_50_FPN_1x" not in names  # a LazyConfig
    assert "Misc/semantic_R_50_FPN_1x" not in names  # without weights
    handler = "https://dl.fbaipublicfiles.com/detectron2/"
    for name in names:
        assert zoo_weights(name) == model_zoo.get_checkpoint_url(name).replace(
            handler, "detectron2://"
        )
