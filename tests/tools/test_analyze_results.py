"""tools/analyze_results.py, as a user calls it, and what best-f1 makes of its file."""

import json
import os
import re

import analyze_results
import pytest

from fpn_d2 import UserError, load_config
from fpn_d2.evaluation.score_thresholds import class_thresholds, score_threshold

ROW = "configs/quick/Faster-RCNN/faster_rcnn_R_18_FPN.yaml"
RESULTS = "inference/tiny_val/coco_instances_results.json"


@pytest.fixture
def run(tmp_path, tiny_opts, repo, tiny_truth):
    """An evaluated run that finds every object of tiny_val, and one more on the first image."""
    folder = tmp_path / "run"
    (folder / "inference" / "tiny_val").mkdir(parents=True)
    opts = [*tiny_opts, "OUTPUT_DIR", str(folder), "MODEL.WEIGHTS", str(folder / "model.pth")]
    (folder / "config.yaml").write_text(load_config(repo / ROW, opts).dump())
    keys = ("image_id", "category_id", "bbox")
    found = [{**{k: a[k] for k in keys}, "score": 0.9} for a in tiny_truth["annotations"]]
    found.append({**found[0], "bbox": [0, 0, 2, 2], "score": 0.95})
    (folder / RESULTS).write_text(json.dumps(found))
    return folder


@pytest.fixture
def analyze(run_tool):
    """``analyze(*words)``: run the tool; return its exit code, stdout and stderr."""
    return lambda *words: run_tool(analyze_results, *words)


def test_a_run_becomes_a_page_and_a_json_file(analyze, printed, refused, run, tiny_truth):
    out = printed(analyze_results, run)
    content = json.loads((run / "analysis.json").read_text())["datasets"]["tiny_val"]
    assert content["objects"] == len(tiny_truth["annotations"])
    assert content["errors"]["background"]["count"] == 1
    assert content["errors"]["missed"]["count"] == 0
    assert "kind background" in out
    (worst,) = content["worst_images"]
    assert (worst["false"], worst["missed"], worst["kinds"]) == (1, 0, {"background": 1})
    page = (run / "analysis.html").read_text()
    assert f"{worst['file_name']}: 1 false (1 background), 0 not found" in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)  # self-contained
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids)) > 0
    # An earlier analysis is replaced, but no file of another kind.
    assert analyze(run)[0] == 0
    (run / "analysis.json").write_text('{"mine": 1}')
    refused(analyze_results, run)
    assert (run / "analysis.json").read_text() == '{"mine": 1}'


def test_best_f1_is_each_classs_own(analyze, run):
    assert analyze(run)[0] == 0
    cfg = load_config(run / "config.yaml")
    classes = json.loads((run / "analysis.json").read_text())["datasets"]["tiny_val"]["classes"]
    # Halfway between 0.9 and 0, except for a class without objects or right detections.
    expected = [0.45 if c["objects"] else 0.5 for c in classes]
    assert class_thresholds("best-f1", cfg) == pytest.approx(expected)
    assert class_thresholds(0.3, cfg) == 0.3
    # Nothing below the model's own threshold was evaluated.
    strict = load_config(run / "config.yaml", ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.47"])
    assert class_thresholds("best-f1", strict) == [max(value, 0.47) for value in expected]
    assert score_threshold("best-f1") == "best-f1"
    three = load_config(run / "config.yaml", ["MODEL.ROI_HEADS.NUM_CLASSES", "3"])
    with pytest.raises(UserError, match="for 5 classes, and the model has 3"):
        class_thresholds("best-f1", three)
    without = load_config("configs/quick/RPN/rpn_R_18_FPN.yaml", ["OUTPUT_DIR", str(run)])
    (run / "analysis.json").write_text('{"datasets": {"shapes_val": {"classes": []}}}')
    with pytest.raises(UserError, match="for 0 classes, and the model has none"):
        class_thresholds("best-f1", without)
    (run / "analysis.json").write_text("{}")
    with pytest.raises(UserError, match="is not of tools/analyze_results.py"):
        class_thresholds("best-f1", cfg)
    (run / "analysis.json").unlink()
    with pytest.raises(UserError, match="python tools/analyze_results.py"):
        class_thresholds("best-f1", cfg)
    for words in ("best", "1.5", "nan"):
        with pytest.raises(UserError, match="between 0 and 1"):
            score_threshold(words)


def test_annotations_that_are_no_longer_those_of_the_evaluation_are_told(analyze, run, caplog):
    numbers = run / "inference" / "tiny_val" / "results.json"
    for ap, is_told in ((12.5, True), (None, False)):
        caplog.clear()
        numbers.write_text(json.dumps({"bbox": {"AP": ap}}))
        assert analyze(run, "--num-images", 0)[0] == 0
        assert ("had 12.5 when they were made" in caplog.text) == is_told
    numbers.write_text(json.dumps({"bbox": {"AP": 12.5}}))
    config = run / "config.yaml"  # COCO's AP counts 100 detections of an image, that evaluation 300
    config.write_text(re.sub("(DETECTIONS_PER_IMAGE): 100", r"\1: 300", config.read_text()))
    caplog.clear()
    assert analyze(run, "--num-images", 0)[0] == 0
    assert "had 12.5" not in caplog.text


def test_what_is_left_out_is_said(analyze, run):
    proposals = run / "inference" / "tiny_train"
    proposals.mkdir()
    (proposals / "box_proposals.pkl").write_bytes(b"")
    (run / "inference" / "gone_val").mkdir()
    (run / "inference" / "gone_val" / "coco_instances_results.json").write_text("[]")
    code, out, _ = analyze(run, "--num-images", 0, "--output", run / "elsewhere")
    assert code == 0
    left_out = [line for line in out.splitlines() if line.startswith("left out: ")]
    assert ["gone_val" in left_out[0], "holds proposals" in left_out[1]] == [True, True]
    assert sorted(path.name for path in (run / "elsewhere").iterdir()) == [
        "analysis.html", "analysis.json"
    ]  # fmt: skip


DETECTION = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "holds no coco_instances_results.json"),
        ("[]", "holds no detections"),
        ("[{", "is damaged"),
        ("{}", "is no list of results"),
        ('["x"]', "entry 0 is no detection"),
        (json.dumps([DETECTION | {"bbox": [0, 0, 1]}]), "entry 0 is no detection"),
        (json.dumps([DETECTION | {"score": float("nan")}]), "entry 0 is no detection"),
        (json.dumps([DETECTION | {"image_id": 12345}]), "there is no image 12345"),
        (json.dumps([DETECTION | {"category_id": 77}]), "there is no category 77"),
    ],
)
def test_results_that_cannot_be_analysed(analyze, run, content, message):
    (run / RESULTS).unlink()
    if content is not None:
        (run / RESULTS).write_text(content)
    code, out, error = analyze(run)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert message in error
    assert not (run / "analysis.json").exists()


def test_ids_may_be_floats(printed, run):
    found = json.loads((run / RESULTS).read_text())
    for detection in found:
        detection["image_id"] = float(detection["image_id"])
    (run / RESULTS).write_text(json.dumps(found))
    printed(analyze_results, run, "--num-images", 0)


def test_folders_that_are_no_runs(refused, run, tmp_path):
    for folder, message in (
        (tmp_path / "nowhere", "is no folder"),
        (tmp_path, "holds no config.yaml"),
    ):
        assert message in refused(analyze_results, folder)
    (run / RESULTS).unlink()
    (run / "inference" / "tiny_val").rmdir()
    assert "holds no inference/<data set>" in refused(analyze_results, run)


def test_an_analysis_that_was_cut_is_written_anew(analyze, printed, run, monkeypatch):
    replace, calls = os.replace, []

    def cut(source, target):
        if os.path.dirname(target) == str(run):
            calls.append(target)
            if len(calls) == 2:
                raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr("os.replace", cut)
    assert analyze(run)[0] == 2
    printed(analyze_results, run)


def test_another_file_in_the_way_is_told_before_the_work(analyze, run, monkeypatch):
    (run / "analysis.json").write_text('{"mine": 1}')
    monkeypatch.setattr(
        "fpn_d2.inspection.evaluated_sets.analyze_run", lambda *_: pytest.fail("it was analysed")
    )
    assert analyze(run)[0] == 2


def test_weights_that_were_trained_on_since_are_told(analyze, run, caplog):
    (run / "model.pth").touch()
    assert analyze(run)[0] == 0
    cfg = load_config(run / "config.yaml")
    class_thresholds("best-f1", cfg)
    assert "is newer than" not in caplog.text
    later = (run / "analysis.json").stat().st_mtime + 60
    os.utime(run / "model.pth", (later, later))
    class_thresholds("best-f1", cfg)
    assert "model.pth is newer than" in caplog.text
