"""tools/demo.py, from its command line to its files."""

import functools
import json
import os
import signal
from unittest.mock import Mock

import cv2
import demo
import numpy as np
import pytest
import supervision as sv
import torch
from detectron2.modeling import build_model
from PIL import Image
from pycocotools import mask as mask_util

from fpn_d2 import UserError, load_config
from fpn_d2.demo import parse_rows, run
from fpn_d2.inference import Classes

SMALL = ["INPUT.MIN_SIZE_TEST", "64", "MODEL.DEVICE", "cpu"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory, repo, row_config):
    """``weights(row)``: the row's config file and random weights for it."""
    folder = tmp_path_factory.mktemp("weights")

    @functools.cache
    def make(row):
        torch.manual_seed(0)
        path = folder / f"{row.replace('/', '_')}.pth"
        torch.save({"model": build_model(row_config(f"quick/{row}")).state_dict()}, path)
        return repo / "configs" / "quick" / f"{row}.yaml", path

    return make


@pytest.fixture
def images(tmp_path):
    """Two images of the same name in two folders."""
    paths = [tmp_path / folder / "x.png" for folder in "ab"]
    for i, path in enumerate(paths):
        path.parent.mkdir()
        pixels = np.random.default_rng(i).integers(0, 256, (60 + i, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


def test_pictures_and_predictions_of_two_rows(
    weights, images, tmp_path, printed, refused, monkeypatch
):
    config, own = weights("RPN/rpn_R_18_FPN")
    other = ":".join(map(str, weights("RPN/rpn_R_18_C4")))
    compared = Mock(wraps=run.draw_comparison)
    monkeypatch.setattr(run, "draw_comparison", compared)
    # each row has its own, as by best-f1
    monkeypatch.setattr(
        run, "class_thresholds", lambda _, cfg: 0.1 if str(own) == cfg.MODEL.WEIGHTS else 1.0
    )
    out = tmp_path / "out"
    words = ["--config-file", config, "--weights", own, "--input", *images, "--explain",
             "--compare", other, "--threshold", 0.1, "--output", out, *SMALL]  # fmt: skip
    printed(demo, *words)
    names = [f"x{n}{s}.png" for n in ("", "_2") for s in ("", "_compare", "_explain")]
    assert {p.name for p in out.iterdir()} == {*names, "images.json", "predictions.json"}
    assert Image.open(out / "x.png").size == (800, 600)  # ten times 80 x 60
    for call in compared.call_args_list:
        first, second = call.args[1].values()
        assert len(first.scores) > len(second.scores) == 0
    about = json.loads((out / "images.json").read_text())
    known = [(i["id"], i["file_name"], i["picture"]) for i in about]
    assert known == [(1, str(images[0]), "x.png"), (2, str(images[1]), "x_2.png")]
    found = json.loads((out / "predictions.json").read_text())
    assert {f["image_id"] for f in found} == {1, 2}
    for f in found:
        x, y, width, height = f["bbox"]
        assert min(x, y) >= 0
        assert x + width <= 80.001
        assert y + height <= 61.001
        assert 0.1 <= f["score"] <= 1
        assert f["category_id"] == 1
    before = (out / "x.png").read_bytes()
    assert "--force" in refused(demo, *words)
    assert (out / "x.png").read_bytes() == before


def test_what_is_found_before_ctrl_c_is_kept(weights, images, tmp_path, monkeypatch):
    config, own = weights("RPN/rpn_R_18_FPN")
    cfg = load_config(str(config), ["MODEL.WEIGHTS", str(own), *SMALL])
    detect, seen = run._Model.detect, []

    def interrupted(self, image, name):
        if seen:
            raise KeyboardInterrupt
        seen.append(name)
        return detect(self, image, name)

    monkeypatch.setattr(run._Model, "detect", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.run_demo(
            {"c": cfg}, [str(path) for path in images], str(tmp_path / "out"), threshold=0.1
        )
    about = json.loads((tmp_path / "out" / "images.json").read_text())
    assert [entry["file_name"] for entry in about] == [str(images[0])]
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert {entry["image_id"] for entry in found} == {1}
    with pytest.raises(KeyboardInterrupt):  # before anything is found
        run.run_demo({"c": cfg}, [str(images[0])], str(tmp_path / "none"))
    assert not [*(tmp_path / "none").iterdir()]


def test_what_is_found_before_sigterm_is_kept(weights, images, tmp_path, monkeypatch, run_tool):
    before = signal.getsignal(signal.SIGTERM)
    config, own = weights("RPN/rpn_R_18_FPN")
    write = run._Demo.image

    def image(*args):
        write(*args)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(run._Demo, "image", image)
    words = ["--config-file", config, "--weights", own, "--input", *images]
    try:
        code, _, _ = run_tool(demo, *words, "--output", tmp_path / "out", *SMALL)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert code == 143
    assert len(json.loads((tmp_path / "out" / "images.json").read_text())) == 1


def test_a_video_becomes_a_video_of_its_detections(weights, tmp_path, printed, refused):
    config, own = weights("RPN/rpn_R_18_FPN")
    video, out = tmp_path / "clip.avi", tmp_path / "out"
    with sv.VideoSink(str(video), sv.VideoInfo(80, 60, 5.0), "MJPG") as sink:
        for frame in np.random.default_rng(0).integers(0, 256, (3, 60, 80, 3), dtype=np.uint8):
            sink.write_frame(frame)
    words = ["--config-file", config, "--weights", own, "--input", video, "--threshold", 0.1]
    printed(demo, *words, "--output", out, *SMALL)
    assert {p.name for p in out.iterdir()} == {"clip.mp4", "images.json", "predictions.json"}
    info = sv.VideoInfo.from_video_path(str(out / "clip.mp4"))
    assert info == sv.VideoInfo(800, 600, 5.0, 3)  # ten times 80 x 60
    about = json.loads((out / "images.json").read_text())
    known = [(i["id"], i["frame"], i["picture"]) for i in about]
    assert known == [(number, number - 1, "clip.mp4") for number in (1, 2, 3)]
    found = json.loads((out / "predictions.json").read_text())
    assert {f["image_id"] for f in found} == {1, 2, 3}
    for more, sentence in (
        (["--explain"], "clip.avi is a video"),
        (["--compare", f"{config}:{own}"], "clip.avi is a video"),
        (["--max-pixels", 80 * 60 - 1], "clip.avi has frames of 80 x 60 pixels"),
    ):
        assert sentence in refused(demo, *words, *more, "--output", out, *SMALL)


def test_a_single_input_may_have_its_file_named(
    weights, images, tmp_path, printed, refused, monkeypatch
):
    """The words are those of Detectron2's demo."""
    config, own = weights("RPN/rpn_R_18_FPN")
    monkeypatch.setattr(run, "coco_results", None)  # of a long video they would fill the memory
    words = ["--config-file", config, "--input", images[0], "--confidence-threshold", "0.1"]
    opts = ["--opts", "MODEL.WEIGHTS", own, *SMALL]
    target = tmp_path / "out" / "found.JPG"
    stdout = printed(demo, *words, "--output", target, *opts)
    assert stdout.splitlines()[-1] == f"wrote 1 files: {target}"
    assert [*target.parent.iterdir()] == [target]
    picture = Image.open(target)
    assert (picture.format, picture.size) == ("JPEG", (800, 600))
    for more, sentence in (
        (["--output", target], "--force"),
        (["--output", tmp_path / "x.mp4"], "give .png or .jpg for an image"),
        (["--explain", "--output", tmp_path / "x.png"], "name a folder"),
        (["--images", *images, "--output", tmp_path / "x.png"], "there are 2 inputs"),
    ):
        assert sentence in refused(demo, *words, *more, *opts)


def test_the_webcams_pictures_are_shown_until_escape(weights, monkeypatch, printed, refused):
    config, own = weights("RPN/rpn_R_18_FPN")
    frames = np.random.default_rng(0).integers(0, 256, (9, 60, 80, 3), dtype=np.uint8)
    shown, keys, opened = [], iter([-1, 27]), []

    class Camera:
        def __init__(self, number):
            opened.append(number)

        def isOpened(self):
            return True

        def read(self):
            return True, frames[len(shown)]

        def release(self):
            opened.append("released")

    monkeypatch.setattr("cv2.VideoCapture", Camera)
    monkeypatch.setattr("cv2.imshow", lambda _, picture: shown.append(picture))
    monkeypatch.setattr("cv2.waitKey", lambda _: next(keys))
    monkeypatch.setattr("cv2.destroyAllWindows", lambda: None)
    words = ["--config-file", config, "--weights", own, "--webcam", *SMALL]
    printed(demo, *words)
    assert [picture.shape for picture in shown] == [(600, 800, 3)] * 2
    assert opened == [0, "released"]
    monkeypatch.setattr(Camera, "isOpened", lambda _: False)
    sentence = "error: no camera can be opened; plug one in, or give --images\n"
    assert refused(demo, *words) == sentence
    monkeypatch.setattr(Camera, "isOpened", lambda _: True)
    no_window = cv2.error("The function is not implemented")
    monkeypatch.setattr("cv2.imshow", Mock(side_effect=no_window))
    assert "opencv-python-headless" in refused(demo, *words)
    monkeypatch.setattr(Camera, "read", lambda _: (False, None))
    assert refused(demo, *words).startswith("error: the camera gives no pictures")


def test_a_file_name_that_is_no_utf8_is_printed(repo, images, tmp_path, monkeypatch, capsys):
    folder = images[0].parent
    (folder / "\udcff.txt").touch()
    (tmp_path / "x.png").touch()  # which ends the demo before a model is loaded
    config = repo / "configs/quick/RPN/rpn_R_18_FPN.yaml"
    words = ["--config-file", config, "--input", folder, "--output", tmp_path, *SMALL]
    monkeypatch.setattr("sys.argv", ["demo.py", *map(str, words)])
    with pytest.raises(SystemExit, match="2"):
        demo.main()
    assert "skipped: 1 other file: \\udcff.txt\n" in capsys.readouterr().out


def test_masks_are_written_as_rle_and_a_url_and_an_id_are_kept(
    weights, images, tmp_path, printed, monkeypatch
):
    url, config, own = "https://a.org/x.png", *weights("Mask-Proposals/mask_R_18_5x5")
    monkeypatch.setattr("fpn_d2.demo.sources._downloaded", lambda _: str(images[0]))
    monkeypatch.setattr(run, "image_ids", lambda *_: [7])  # as of an image of the test set
    words = ["--config-file", config, "--weights", own, "--input", url, "--threshold", 0]
    printed(demo, *words, "--output", tmp_path / "out", *SMALL)
    (about,) = json.loads((tmp_path / "out" / "images.json").read_text())
    assert (about["file_name"], about["id"]) == (url, 7)
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert {f["image_id"] for f in found} == {7}
    for f in found:  # the box is the mask's tight box
        assert mask_util.toBbox(f["segmentation"]).tolist() == pytest.approx(f["bbox"])


def test_each_class_has_the_threshold_of_the_runs_analysis(weights, images, tmp_path, printed):
    config, own = weights("Faster-RCNN/faster_rcnn_R_18_FPN")
    words = ["--config-file", config, "--weights", own, "--input", images[0], "--output"]

    def detect(threshold):
        more = ["--confidence-threshold", threshold, *SMALL, "OUTPUT_DIR", tmp_path]
        printed(demo, *words, tmp_path / threshold, *more)
        return json.loads((tmp_path / threshold / "predictions.json").read_text())

    every = detect("0.1")
    kind = every[0]["category_id"]  # 0 to 4: the weights do not name their classes
    least = float(np.median([f["score"] for f in every if f["category_id"] == kind]))
    thresholds = [least if k == kind else 1.0 for k in range(5)]
    content = {"datasets": {"shapes_val": {"classes": [{"threshold": t} for t in thresholds]}}}
    (tmp_path / "analysis.json").write_text(json.dumps(content))
    enough = [f for f in every if f["category_id"] == kind and f["score"] >= least]
    assert 0 < len(enough) < len(every)
    assert detect("best-f1") == enough


def test_predictions_that_find_no_room_are_named(weights, images, tmp_path, monkeypatch, refused):
    config, own = weights("RPN/rpn_R_18_FPN")
    full = OSError(28, "No space left on device")
    monkeypatch.setattr("fpn_d2.demo.run.write_json", Mock(side_effect=full))
    words = ["--config-file", config, "--weights", own, "--input", images[0], "--output", tmp_path]
    path = tmp_path / "predictions.json"
    sentence = f"error: {path} could not be written (No space left on device); name another --out"
    assert refused(demo, *words, *SMALL).startswith(sentence)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--input", "gone.jpg"], "gone.jpg does not exist"),
        (["--threshold", 2], "--confidence-threshold 2.0"),
        (["--compare", "here"], "CONFIG:WEIGHTS"),
        (["--weights", "gone.pth"], "gone.pth"),
    ],
)
def test_a_wrong_word_ends_with_a_sentence(words, sentence, repo, images, tmp_path, refused):
    config = repo / "configs/quick/RPN/rpn_R_18_FPN.yaml"
    words = ["--config-file", config, "--input", images[0], *words, "--output", tmp_path / "o"]
    assert sentence in refused(demo, *words, "MODEL.DEVICE", "cpu")


def test_a_checkpoint_of_something_else_is_named_and_a_narrow_image_is_taken(
    weights, images, tmp_path, run_tool
):
    (config, own), (_, other) = map(weights, ("RPN/rpn_R_18_FPN", "RetinaNet/retinanet_R_18_FPN"))
    narrow = tmp_path / "narrow.png"
    Image.new("RGB", (3, 5000)).save(narrow)
    for file, image, status in ((other, images[0], 2), (own, narrow, 0)):
        given = ["--config-file", config, "--weights", file, "--input", image]
        code, _, stderr = run_tool(demo, *given, "--output", tmp_path / "o", *SMALL)
        assert code == status
        assert (str(other) in stderr) == (status == 2)
    assert (tmp_path / "o/predictions.json").exists()


def test_the_weights_of_a_compared_row_may_be_a_url(repo):
    config = str(repo / "configs/quick/RPN/rpn_R_18_FPN.yaml")
    opts = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "first.pth"]
    rows = parse_rows(config, "", [f"{config}:detectron2://a/b.pkl"], opts)
    assert rows["rpn_R_18_FPN"].MODEL.WEIGHTS == "first.pth"
    assert list(rows) == ["rpn_R_18_FPN", "rpn_R_18_FPN (2)"]
    assert rows["rpn_R_18_FPN (2)"].MODEL.WEIGHTS == "detectron2://a/b.pkl"


def test_guessed_names_are_drawn_as_such_and_a_failure_names_the_image(monkeypatch):
    monkeypatch.setattr(run, "Explainer", Mock())
    classes = Classes(["a"], [1], "data set x", "the names are a guess")
    monkeypatch.setattr(run, "classes_of", lambda *_: classes)
    model = run._Model(None, 0.5)
    assert model.names == ["a?"]
    for error in (UserError("too thin"), FloatingPointError("NaN")):
        for method in (model.explainer.predictor.detect, model.explainer.explain):
            method.side_effect = error
        for call in (model.detect, model.explain):
            with pytest.raises(UserError, match=f"^x.png: {error}$"):
                call(None, "x.png")
