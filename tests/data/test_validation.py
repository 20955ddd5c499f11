"""Whole data sets in COCO's format, with their images."""

import json
import math

import numpy as np
import pytest
from coco_files import masked_content, write_coco
from detectron2.data import MetadataCatalog
from PIL import Image

from fpn_d2 import UserError
from fpn_d2.data.images import _DARK, _FRAMES
from fpn_d2.data.validation import check_file, explain_failure


@pytest.fixture
def data_set(tmp_path):
    """A sound data set of four images, with masks; ``(annotation file, image folder, content)``."""
    content = masked_content()
    path = write_coco(tmp_path, "zoo", "train", content)
    return path, tmp_path / "zoo" / "images", content


@pytest.mark.parametrize("content", [None, 3, "text", [1, 2], math.nan])
def test_what_is_no_object_at_all(data_set, content):
    data_set[0].write_text(json.dumps(content))
    (finding,) = check_file(*map(str, data_set[:2])).findings
    assert "top level is no object" in finding.sentence


@pytest.mark.parametrize("workers", [1, 3])
def test_image_files_by_one_process_and_by_several(data_set, workers, monkeypatch):
    path, folder, _ = data_set
    monkeypatch.setattr("fpn_d2.data.images._CHUNK", 1)
    assert check_file(str(path), str(folder), workers).findings == []
    noise = np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "1.png")
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:2000])
    (folder / "2.png").unlink()
    Image.new("RGB", (41, 32)).save(folder / "3.png")
    findings = check_file(str(path), str(folder), workers).findings
    assert [(f.severity, f.image, f.annotation) for f in findings] == [
        ("error", f"{i}.png", None) for i in (1, 2, 3)
    ]
    cut, away, wide = (finding.sentence for finding in findings)
    assert "image 1.png cannot be read (" in cut
    assert "image 2.png does not exist: replace it, or correct the annotation file" in away
    assert "has 41 x 32 pixels, and the annotation file says 40 x 32" in wide


def test_pixels_are_judged_and_remarked_on(data_set):
    path, folder, _ = data_set
    Image.new("F", (40, 32)).save(folder / "0.png", "TIFF")
    frames = [Image.new("L", (40, 32), value) for value in (0, 255)]
    frames[0].save(folder / "1.png", "GIF", save_all=True, append_images=frames[1:])
    Image.fromarray(np.full((32, 40), 4095, np.uint16)).save(folder / "2.png")
    Image.fromarray(np.full((32, 40), 65535, np.uint16)).save(folder / "3.png")
    report = check_file(str(path), str(folder), 1)
    assert [(f.severity, f.image, f.stops) for f in report.findings] == [
        *(("error", "0.png", ()), ("warning", "1.png", ()), ("warning", "2.png", ())),
    ]
    number, several, dark = (finding.sentence for finding in report.findings)
    assert number.startswith("image 0.png has pixels that are floats of any size")
    assert several == "image 1.png " + _FRAMES
    assert dark == "image 2.png " + _DARK


def test_the_findings_of_an_image_stand_together(data_set):
    path, folder, content = data_set
    content["annotations"][1]["bbox"] = [1, 2, 0, 3]
    content["annotations"][0]["category_id"] = 7
    content["categories"][1]["name"] = "cat"
    del content["images"][1]["width"]
    path.write_text(json.dumps(content))
    (folder / "0.png").unlink()
    report = check_file(str(path), str(folder), 1)
    images = [finding.image for finding in report.findings]
    assert images == [None, "1.png", "1.png", "0.png", "0.png"]
    assert (report.count("error"), report.count("warning")) == (3, 2)
    assert report.as_json()["findings"][3]["annotation"] == 1
    head, *_, last = report.as_text().splitlines()
    assert head == str(path)
    assert last == "4 images and 3 annotations: 3 errors, 2 warnings"
    lines = report.as_text().splitlines()
    assert lines[lines.index("0.png") + 2] == (
        "  error: image 0.png does not exist: replace it, or correct the annotation file"
    )
    assert len(lines) == 2 + 3 + 3 + 1


def test_an_image_of_unknown_size_is_read_all_the_same(data_set):
    path, folder, content = data_set
    del content["images"][3]["width"]
    path.write_text(json.dumps(content))
    (folder / "3.png").write_bytes(b"")
    findings = check_file(str(path), str(folder), workers=1).findings
    assert [finding.image for finding in findings] == ["3.png", "3.png"]


def test_a_number_of_processes_that_is_none(data_set):
    path, folder, _ = data_set
    with pytest.raises(UserError, match="--workers is 0: give 1 or more"):
        check_file(str(path), str(folder), workers=0)


# Why Detectron2's loader failed.


def test_an_error_that_stops_a_run_explains_a_failure_first(data_set):
    path, _, content = data_set
    content["annotations"][0]["image_id"] = 99  # Detectron2 leaves it out
    path.write_text(json.dumps(content))
    MetadataCatalog.get("faulty").json_file = str(path)
    assert "has the image_id 99" in explain_failure(["faulty"])
    content["annotations"][2]["id"] = content["annotations"][1]["id"]
    path.write_text(json.dumps(content))
    assert "annotation 2 repeats the id 2" in explain_failure(["faulty"])


def test_a_file_of_another_format_explains_nothing_but_its_absence(tmp_path):
    path = tmp_path / "lvis.json"
    MetadataCatalog.get("other").set(json_file=str(path), evaluator_type="lvis")
    assert "lvis.json of data set other does not exist" in explain_failure(["other"])
    path.write_text("{}")
    assert explain_failure(["other"]) is None
