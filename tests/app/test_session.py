"""app/session.py: the models of a page, limits of uploads, and Eq. 1 in the page's own model."""

import os
import re
import shutil
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from detectron2.structures import pairwise_iou
from PIL import Image

from fpn_d2 import UserError, load_config
from fpn_d2.app import Limits, Session, Settings, find_models, parse_model
from fpn_d2.app.session import example_images, read_upload
from fpn_d2.checkpoint.checkpointer import WeightsOrigin
from fpn_d2.config import changed
from fpn_d2.inference import Classes
from fpn_d2.inference.explanation import box_pooler
from fpn_d2.visualization import draw_levels

TITLE = "faster_rcnn_R_18_FPN"
LIMITS = Limits(bytes=10_000, pixels=300_000)
CASCADE = [
    *("MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
    *("MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE", 224),
]


def picture(path, width, height):
    Image.new("RGB", (width, height), (10, 20, 30)).save(path)
    return str(path)


def test_an_upload_within_the_limits(tmp_path):
    path = picture(tmp_path / "a.png", 600, 500)
    image = read_upload(path, Limits(bytes=os.path.getsize(path), pixels=600 * 500))
    assert image.shape == (500, 600, 3)
    assert image[0, 0].tolist() == [10, 20, 30]


def test_too_many_pixels_are_never_decoded(tmp_path, monkeypatch):
    path = picture(tmp_path / "a.png", 601, 500)
    monkeypatch.setattr(
        "PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("the image was decoded")
    )
    with pytest.raises(UserError, match="601 x 500 pixels, more than the limit of 300,000"):
        read_upload(path, LIMITS)


@pytest.mark.parametrize(
    "content, words",
    [
        (b"x" * 10_001, r"has 0\.0 MB, more than this page's 0\.01 MB"),
        *(
            (c, ".*: choose another image")
            for c in (b"", b"plain text", b"\x89PNG\r\n\x1a\n" + b"\0" * 50)
        ),
        (None, "cannot be read"),
    ],
)
def test_a_broken_upload_is_a_sentence(tmp_path, content, words):
    if content is None:  # truncated
        noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "a.png")
        content = (tmp_path / "a.png").read_bytes()[:1000]
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.png {words}"):
        read_upload(str(tmp_path / "a.png"), LIMITS)


@pytest.mark.parametrize("words", [{"bytes": 0}, {"pixels": -1}])
def test_limits_above_zero(words):
    with pytest.raises(UserError, match="give more than 0"):
        Limits(**words)


@pytest.mark.parametrize("values", [(1.5, 0.5, 4, 224), (0.5, 0, 4, 224), (0.5, 0.5, 4, 0)])
def test_settings_that_cannot_be(values):
    with pytest.raises(UserError):
        Settings(*values)


def test_the_two_models_used_last_are_kept(tiny_config, random_weights):
    session = Session(dict.fromkeys("abc", tiny_config), LIMITS)
    for title in "abaca":
        session.explainer(title)
    assert len(random_weights) == 3  # a was used in between, so b was dropped
    session.explainer("b")
    assert len(random_weights) == 4


def test_a_title_that_is_not_offered(session):
    for ask in (session.explainer, session.defaults):
        with pytest.raises(UserError, match="no model 'x' on this page"):
            ask("x")


@pytest.mark.parametrize(
    "row, opts, nms",
    [
        ("Faster-RCNN/faster_rcnn_R_18_FPN", ["MODEL.ROI_HEADS.NMS_THRESH_TEST", 0.45], 0.45),
        ("Faster-RCNN/faster_rcnn_R_18_FPN", CASCADE, 0.5),
        ("RetinaNet/retinanet_R_18_FPN", ["MODEL.RETINANET.NMS_THRESH_TEST", 0.35], 0.35),
        # ClippingRetinaNet, for torchvision's converted weights, does not start at the RPN's NMS
        ("RetinaNet/retinanet_R_18_FPN", ["MODEL.META_ARCHITECTURE", "ClippingRetinaNet"], 0.5),
        ("RPN/rpn_R_18_FPN", [], 0.7),
    ],
)
def test_the_sliders_begin_at_the_models_own_values(row_config, row, opts, nms):
    cfg = row_config(f"quick/{row}", *opts)
    size = 224 if opts is CASCADE else 100  # px at k0 = 4
    assert Session({"a": cfg}, LIMITS).defaults("a") == Settings(0.5, nms, 4, size)


def test_eq1_moves_the_pooling_and_the_picture(session, monkeypatch):
    image = example_images()[0]
    torch.manual_seed(0)
    explainer = session.explainer(TITLE)
    pooler, pooled = box_pooler(explainer.model), []
    forward = pooler.forward

    def record(features, boxes):
        pooled.append(pooler.levels(boxes[0].tensor))
        return forward(features, boxes)

    monkeypatch.setattr(pooler, "forward", record)
    views = [session.look(TITLE, image, Settings(0.0, 0.5, k0, 100)) for k0 in (2, 3, 4, 12)]
    # Eq. 1: raising k0 by one raises the level by one, within P2 to P5.
    for coarse, fine in ((pooled[1], pooled[0]), (pooled[2], pooled[1])):
        inside = (coarse > 2) & (coarse < 5)
        assert torch.equal(coarse[inside] - 1, fine[inside])
    assert set(pooled[3].tolist()) == {5}
    assert set(pooled[2].tolist()) != {5}
    assert "from P5. Eq. 1 pools by k0 = 12 for 100 px." in views[3].text
    assert "0 from P2, 0 from P3, 0 from P4" in views[3].text
    assert not np.array_equal(views[2].levels, views[3].levels)
    assert (pooler.canonical_level, pooler.canonical_box_size) == (4, 100)  # as before


@pytest.mark.parametrize("nms", [0.3, 0.9])
def test_nms_is_the_sliders(session, nms):
    session.look(TITLE, example_images()[0], Settings(0.0, nms, 4, 100))
    found = session.explainer(TITLE).explain(example_images()[0], threshold=0.0).detections
    ious = pairwise_iou(found.pred_boxes, found.pred_boxes).fill_diagonal_(0)
    ious[found.pred_classes[:, None] != found.pred_classes] = 0
    # An untrained model's boxes lie close together, so their IoUs come near the limit.
    assert nms - 0.25 < float(ious.max()) <= nms + 1e-4


def test_the_view_has_every_picture(session):
    _, *pictures = session.look(TITLE, example_images()[1], Settings(0.0, 0.5, 4, 100))
    assert all(p.dtype == np.uint8 and p.ndim == 3 for p in pictures)


def test_a_tab_that_a_model_has_nothing_for_has_no_picture(row_config, random_weights):
    opts = ["MODEL.MASK_PROPOSAL.TEST_SCALES", [0.5, 2.0], "MODEL.WEIGHTS", ""]
    cfg = row_config("quick/Mask-Proposals/mask_R_18_image_pyramid", *opts)
    view = Session({"a": cfg}, LIMITS).look("a", example_images()[0], Settings(0.0, 0.5, 4, 100))
    assert view.levels.ndim == 3
    assert (view.heat_maps, view.anchors, view.proposals) == (None, None, None)
    for words in ("No map at the network input's own size", "No RPN", "No anchors"):
        assert words in view.text


def test_the_page_says_that_class_names_are_not_known(session, monkeypatch):
    model, words = session.explainer(TITLE).model, "The class names are not known."
    for names, is_told in (((), True), (tuple("abcde"), False)):
        monkeypatch.setattr(model, "weights_origin", WeightsOrigin("own.pth", names, ""), False)
        text = session.look(TITLE, example_images()[0], Settings(0.5, 0.5, 4, 100)).text
        assert (words in text) == is_told


def test_the_sliders_values_are_those_of_the_text(session):
    image = example_images()[0]
    every = session.look(TITLE, image, Settings(0.0, 0.5, 3, 224)).text
    assert "Eq. 1 pools by k0 = 3 for 224 px." in every
    scores = session.explainer(TITLE).explain(image, threshold=0.0).detections.scores
    assert every.startswith(f"{len(scores)} detections:")
    half = float(scores.median())
    text = session.look(TITLE, image, Settings(half, 0.5, 4, 100)).text
    count = int((scores >= half).sum())
    assert 0 < count < len(scores)
    assert text.startswith(f"{count} detections:")


def test_the_text_says_what_is_guessed_or_missing(session, tiny_config, monkeypatch):
    guess = Classes(list("abcde"), list(range(5)), "data set x", "it is a guess")
    monkeypatch.setattr("fpn_d2.app.session.classes_of", lambda *_: guess)
    drawn = Mock(wraps=draw_levels)
    monkeypatch.setattr("fpn_d2.app.session.draw_levels", drawn)
    text = session.look(TITLE, example_images()[0], Settings(0.5, 0.5, 4, 100)).text
    assert "The class names are a guess." in text
    assert drawn.call_args.args[1] == ["a?", "b?", "c?", "d?", "e?"]
    rpn = changed(tiny_config, {"MODEL.META_ARCHITECTURE": "ProposalNetwork"})
    text = Session({"a": rpn}, LIMITS).look("a", example_images()[0], Settings(0.5, 0.5, 4, 1)).text
    assert "Eq. 1 would use k0 = 4 for 1 px. No RoI head: the levels are those that" in text


def test_the_last_upload_is_read_once(session, tmp_path):
    path = picture(tmp_path / "a.png", 60, 50)
    image = session.image(path)
    assert session.image(path) is image
    picture(path, 50, 60)  # another upload of this name
    os.utime(path, (0, 0))
    assert session.image(path).shape == (60, 50, 3)


def test_an_example_is_shown_by_its_number(session):
    assert all(session.image(i) is image for i, image in enumerate(example_images()))
    assert len({image.tobytes() for image in example_images()}) == len(example_images())


def test_examples_are_640_px():
    images = example_images()
    assert len(images) > 1
    assert {max(image.shape[:2]) for image in images} == {640}


# --- which models a page offers


def test_a_pair_of_words(repo, tmp_path):
    configs, weights = repo / "configs/quick", tmp_path / "a.pth"
    weights.touch()
    config = f"{configs}/Faster-RCNN/faster_rcnn_R_18_FPN.yaml"
    title, cfg = parse_model(f"{config}:{weights}")
    assert (title, cfg.MODEL.WEIGHTS) == ("faster_rcnn_R_18_FPN", str(weights))
    assert parse_model(f"{config}:{weights}", [title])[0] == f"{title} (2)"
    for other in ("https://x.org/a.pkl", "COCO-Detection/faster_rcnn_R_50_FPN_3x"):  # no files here
        _, cfg = parse_model(f"{config}:{other}")
        assert other == cfg.MODEL.WEIGHTS
    with pytest.raises(UserError, match=r"no\.pth does not exist"):
        parse_model(f"{config}:{tmp_path / 'no.pth'}")
    with pytest.raises(UserError, match="Fast R-CNN on proposals from a file"):
        parse_model(f"{configs}/Fast-RCNN/fast_rcnn_R_18_FPN.yaml:{weights}")


def test_runs_below_a_folder(tmp_path, row_config, caplog):
    rows = {"x/faster": "Faster-RCNN/faster_rcnn_R_18_FPN", "fast": "Fast-RCNN/fast_rcnn_R_18_FPN"}
    for place, row in rows.items():
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "config.yaml").write_text(row_config(f"quick/{row}").dump())
        (tmp_path / place / "model_final.pth").touch()
    shutil.copytree(tmp_path / "x/faster", tmp_path / "unfinished")
    (tmp_path / "unfinished" / "model_final.pth").unlink()
    found = find_models(str(tmp_path))
    assert list(found) == ["x/faster"]
    (line,) = caplog.messages  # the log names what is not offered
    assert f"{tmp_path / 'fast'} is a Fast R-CNN on proposals from a file" in line
    assert str(tmp_path / "x/faster/model_final.pth") == found["x/faster"].MODEL.WEIGHTS
    assert list(find_models(str(tmp_path / "x/faster"))) == ["faster"]


def test_a_model_of_a_gpu_is_shown_on_this_machine(tmp_path, row_config, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    text = row_config("quick/Faster-RCNN/faster_rcnn_R_18_FPN").dump()
    (tmp_path / "config.yaml").write_text(text.replace("DEVICE: cpu", "DEVICE: cuda"))
    (tmp_path / "model_final.pth").touch()
    _, cfg = parse_model(f"{tmp_path}/config.yaml:{tmp_path}/model_final.pth")
    assert cfg.MODEL.DEVICE == "cpu"
    (cfg,) = find_models(str(tmp_path)).values()
    assert cfg.MODEL.DEVICE == "cpu"


def test_the_training_that_is_advised_needs_no_file(tmp_path):
    with pytest.raises(UserError) as error:
        find_models(str(tmp_path))
    (config,) = re.findall(r"--config-file (\S+\.yaml)`", str(error.value))
    assert not load_config(config, ["MODEL.DEVICE", "cpu"]).MODEL.WEIGHTS
