"""The thin scripts: what they write, and the sentence with which they end."""

import json
import pickle

import draw_results
import make_pictures
import make_shapes
import numpy as np
import pretrain_backbone
import pytest
import torch
import train_stock
from detectron2.data import DatasetCatalog
from detectron2.modeling import FPN, build_backbone
from detectron2.structures import BoxMode
from PIL import Image

from fpn_d2 import UserError
from fpn_d2.data.images import read_sound_image
from fpn_d2.experiments.stock_training import config_of_stock
from fpn_d2.visualization import evaluation_results


@pytest.fixture
def run_folder(tmp_path, tiny_opts, tiny_truth):
    """An evaluated run: one perfect detection and one below the threshold."""
    annotation = tiny_truth["annotations"][0]
    keys = ("image_id", "category_id", "bbox")
    found = [{**{k: annotation[k] for k in keys}, "score": score} for score in (0.9, 0.1)]
    folder = tmp_path / "run" / "inference" / "tiny_val"
    folder.mkdir(parents=True)
    (folder / "coco_instances_results.json").write_text(json.dumps(found))
    (folder / "results.json").write_text(json.dumps({"bbox": {"AP": 12.345}}))
    return tmp_path / "run"


def test_results_are_drawn_and_their_ap_is_the_last_line(run_folder, tiny_root, printed):
    (run_folder / "inference" / ".DS_Store").write_text("")
    stdout = printed(draw_results, run_folder, "--num-images", 3)
    assert stdout.splitlines()[-1] == "box AP = 12.3"
    pictures = sorted((run_folder / "pictures" / "tiny_val").glob("*.png"))
    assert len(pictures) == 3
    # two pictures of the image, its longer side enlarged to 800 px, with 8 px between them
    sizes = [Image.open(tiny_root + f"/tiny/images/{p.stem}.jpg").size for p in pictures]
    widths = [2 * round(w * 800 / max(w, h)) + 8 for w, h in sizes]
    assert [Image.open(picture).width for picture in pictures] == widths


def test_an_evaluation_that_was_cut_is_drawn_without_numbers(run_folder, printed):
    (run_folder / "inference" / "tiny_val" / "results.json").unlink()
    stdout = printed(draw_results, run_folder, "--num-images", 1)
    assert "1 pictures in" in stdout
    assert "results.json is not there, as after an evaluation that was cut" in stdout


def test_of_proposals_the_best_for_each_object_is_drawn(run_folder, tiny_truth, printed):
    """Draw the proposals of an RPN: every object has one, except those of the last image."""
    ids = sorted(image["id"] for image in tiny_truth["images"])
    boxes = {i: [a["bbox"] for a in tiny_truth["annotations"] if a["image_id"] == i] for i in ids}
    last = max(i for i in ids if boxes[i])
    proposals = {
        "ids": ids,
        "boxes": [np.float32([] if i == last else boxes[i]).reshape(-1, 4) for i in ids],
        "objectness_logits": [np.zeros(0 if i == last else len(boxes[i])) for i in ids],
        "bbox_mode": int(BoxMode.XYWH_ABS),
    }
    folder = run_folder / "inference" / "tiny_val"
    (folder / "coco_instances_results.json").unlink()
    (folder / "box_proposals.pkl").write_bytes(pickle.dumps(proposals))
    (folder / "results.json").write_text(json.dumps({"box_proposals": {"AR@1000": 45.67}}))
    assert printed(draw_results, run_folder).splitlines()[-1] == "box AR at 1000 = 45.7"
    for image in tiny_truth["images"]:
        stem = image["file_name"].rsplit(".")[0]
        picture = np.array(Image.open(run_folder / "pictures" / "tiny_val" / f"{stem}.png"))
        scale = 800 / max(image["width"], image["height"])
        width, height = (round(image[side] * scale) for side in ("width", "height"))
        assert picture.shape[1] == 2 * width + 8
        for x, y, _, box_height in boxes[image["id"]][:1]:  # the middle of the left side
            row = picture.shape[0] - height + round((y + box_height / 2) * scale)
            truth, found = (picture[row, round(x * scale) + left] for left in (0, width + 8))
            assert truth.tolist() == [230, 159, 0]
            assert (found.tolist() == [230, 159, 0]) == (image["id"] != last)


def test_a_folder_without_an_evaluation_is_named(tmp_path, refused):
    for _ in range(2):  # first without, then with the folder of the data sets
        assert refused(draw_results, tmp_path).startswith(f"error: {tmp_path}")
        (tmp_path / "inference").mkdir(exist_ok=True)


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--num-images", -1], "--num-images is -1: give 0 or more"),
        (["--threshold", 7], "--confidence-threshold is 7.0: give a number from 0 to 1"),
        (["--threshold", "nan"], "--confidence-threshold is nan: give a number from 0 to 1"),
        (["--output", __file__], "test_tools.py/tiny_val could not be written (Not a directory)"),
    ],
)
def test_words_by_which_nothing_can_be_drawn(words, sentence, run_folder, run_tool):
    code, stdout, stderr = run_tool(draw_results, run_folder, *words)
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert sentence in stderr
    assert not (run_folder / "pictures").exists()


@pytest.mark.parametrize(
    "content, sentence",
    [
        ({}, "is no list of results"),
        ([{"image_id": 1, "category_id": 77, "bbox": [0, 0, 1, 1], "score": 1}], "no category 77"),
    ],
)
def test_results_that_cannot_be_drawn(content, sentence, run_folder, run_tool):
    results = run_folder / "inference" / "tiny_val" / "coco_instances_results.json"
    results.write_text(json.dumps(content))
    code, stdout, stderr = run_tool(draw_results, run_folder)
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert sentence in stderr


def test_shapes_of_any_size_and_count(tmp_path, monkeypatch, printed, refused):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    # this name is kept for the built-in set
    assert "--name" in refused(make_shapes, "--name", "shapes", "--train", 3)
    assert not list(tmp_path.iterdir())
    words = ["--name", "few", "--train", 3, "--val", 2, "--size", 64]
    assert "few_train" in printed(make_shapes, *words)
    assert len(list((tmp_path / "few" / "images").iterdir())) == 5


def test_pretraining_names_a_config_that_is_not_there(tmp_path, refused):
    words = ["--config-file", tmp_path / "no.yaml", "--output", tmp_path / "out.pkl"]
    assert "no.yaml" in refused(pretrain_backbone, *words)


def test_the_stock_config_names_detectron2s_components_alone(row_config):
    wide = ["MODEL.RESNETS.STEM_OUT_CHANNELS", 64, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64]
    wide += ["MODEL.FPN.BOTTOM_UP", "build_resnet_backbone"]
    cfg = config_of_stock(row_config("quick/demo", *wide))
    assert cfg.MODEL.BACKBONE.NAME == "build_resnet_fpn_backbone"
    assert cfg.MODEL.PROPOSAL_GENERATOR.NAME == "RPN"
    assert cfg.MODEL.RPN.HEAD_NAME == "StandardRPNHead"
    assert cfg.MODEL.ROI_HEADS.NAME == "StandardROIHeads"
    assert cfg.OUTPUT_DIR == "output/quick/demo-stock"
    retinanet = config_of_stock(row_config("quick/RetinaNet/retinanet_R_18_FPN"))
    assert retinanet.MODEL.BACKBONE.NAME == "build_retinanet_resnet_fpn_backbone"


def test_stock_detectron2s_pyramid_stands_on_the_demos_narrow_network(row_config):
    cfg = row_config("quick/demo")
    stock = build_backbone(config_of_stock(cfg))
    assert type(stock) is FPN
    ours = build_backbone(cfg)
    stock.load_state_dict(ours.state_dict())
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found, expected = ours.eval()(x), stock.eval()(x)
    assert found.keys() == expected.keys()
    for name, level in expected.items():
        torch.testing.assert_close(found[name], level)


@pytest.mark.parametrize(
    "row, words",
    [
        ("quick/RPN/rpn_R_18_P2", "OUT_FEATURES"),
        ("torchvision/faster_rcnn_R_50_FPN", "stock Detectron2 has no ClippingRetinaNet"),
        ("torchvision/retinanet_R_50_FPN", "stock Detectron2 has no ClippingRetinaNet"),
    ],
)
def test_an_ablation_and_a_config_of_torchvision_have_no_stock_twin(row_config, row, words):
    for opts in ([], ["MODEL.ANCHOR_GENERATOR.NAME", "DefaultAnchorGenerator"]):
        with pytest.raises(UserError, match=words):
            config_of_stock(row_config(row, *opts))


@pytest.mark.parametrize(
    ("key", "value"),
    [("SOLVER.ACCUMULATE", 4), ("SOLVER.EMA_DECAY", 0.99), ("MODEL.RPN.SHARED_HEAD", False),
     ("MODEL.FPN.FREEZE", True), ("INPUT.AUGMENTATIONS", "['RandomFlip']")],
)  # fmt: skip
def test_what_stock_detectron2_would_leave_out_is_refused(row_config, key, value):
    cfg = row_config("quick/Faster-RCNN/faster_rcnn_R_18_FPN")
    cfg.merge_from_list([key, value])
    with pytest.raises(UserError, match=f"stock Detectron2 has no {key}, which is .*; set it to"):
        config_of_stock(cfg)


def test_stock_detectron2_trains_the_same_config(repo, tiny_opts, printed, no_stale_logs):
    row = str(repo / "configs/quick/Faster-RCNN/faster_rcnn_R_18_FPN.yaml")
    printed(train_stock, "--config-file", row, *tiny_opts)
    output = tiny_opts[tiny_opts.index("OUTPUT_DIR") + 1]
    with open(f"{output}-stock/log.txt") as file:
        assert "Eq. 1 takes a canonical size of 224 pixels here" in file.read()
    with open(f"{output}-stock/metrics.json") as file:
        assert "bbox/AP" in json.loads(file.read().splitlines()[-1])


@pytest.mark.parametrize("number", [0, 4])
def test_a_picture_is_made_of_an_image_that_there_is(number, tmp_path, monkeypatch, refused):
    monkeypatch.setattr(DatasetCatalog, "get", lambda name: [{}] * 3)
    words = ["--image", number, "--output", tmp_path / "x.png"]
    assert refused(make_pictures, *words) == f"error: --image is {number}: give 1 to 3\n"


def test_an_image_that_is_gone_costs_one_picture(
    run_folder, tiny_truth, printed, refused, monkeypatch
):
    def read(record, folder):
        if record["id"] == first:
            raise UserError("image a.jpg does not exist")
        return read_sound_image(record, folder)

    first = min(image["id"] for image in tiny_truth["images"])
    monkeypatch.setattr(evaluation_results, "read_sound_image", read)
    assert printed(draw_results, run_folder, "--num-images", 3).startswith("2 pictures in")
    sentence = refused(draw_results, run_folder, "--num-images", 1)
    assert "image a.jpg does not exist" in sentence


def test_what_vocs_evaluation_left_is_told(tmp_path, refused):
    (tmp_path / "inference" / "voc_2007_test").mkdir(parents=True)
    sentence = refused(draw_results, tmp_path)
    assert "has Pascal VOC's annotations, and this reads COCO's" in sentence
