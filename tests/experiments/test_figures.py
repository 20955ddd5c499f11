"""The pictures of a report: what is drawn, how rows look in it, and which images show most."""

import json
import pickle
from xml.etree import ElementTree

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from hostile_files import Evil
from PIL import Image

from fpn_d2 import UserError
from fpn_d2.experiments.figures import draw_charts, find_examples, row_styles
from fpn_d2.experiments.tables import Row, Table, load_tables
from fpn_d2.visualization import PALETTE, evaluation_results

# Two objects on an image of 100 x 80, and a crowd, which does not count.
OBJECTS = [[10, 10, 20, 20], [50, 30, 30, 40]]
FAR = [0, 60, 5, 5]
ROWS = {"x": Row("one", {}), "y": Row("two", {})}
TABLE = Table("1", "", [], ROWS, [])


@pytest.fixture(scope="module")
def table(repo):
    return load_tables(repo / "configs" / "tables.yaml").table("1")


def _results(*seeds, row="c"):
    return {"rows": [{"row": row, "seeds": [{"seed": i, **s} for i, s in enumerate(seeds)]}]}


def test_rows_differ_in_colour_line_and_marker(table):
    styles = row_styles(table.rows)
    lines = [row for row in table.rows.values() if not row.beside]
    for look in ("color", "line", "marker"):
        assert len({getattr(style, look) for style in styles.values()}) == len(lines) == 6
    assert {style.color for style in styles.values()} <= set(PALETTE)


def test_a_row_beside_another_looks_like_it():
    styles = row_styles({"a": Row("", {}), "a_more": Row("", {}, beside="a"), "b": Row("", {})})
    assert styles["a_more"] == styles["a"]
    assert styles["b"] == row_styles(ROWS)["y"]


def test_only_what_there_are_numbers_for_is_drawn(table):
    def titles(results):
        return [chart.title.split()[0] for chart in draw_charts(table, results)]

    losses = {"iteration": [19, 39], "total_loss": [1.0, 0.5]}
    assert titles({}) == []
    assert titles(_results({"metrics": {"AR100": 40, "AR1k": 50}})) == ["Recall"]
    assert titles(_results({"metrics": {"AR1k_s": 40, "AR1k_l": None}})) == ["AR1k"]
    assert titles(_results({"losses": losses}, {"losses": {}})) == ["Training"]
    assert titles(_results({"losses": losses, "metrics": {"AR10": 9}}, row="unknown")) == []


def test_seeds_of_different_length_share_what_they_have(table):
    losses = [{"iteration": its, "total_loss": [1.0] * len(its)} for its in ([19, 39], [19])]
    assert len(draw_charts(table, _results(*({"losses": loss} for loss in losses)))) == 1


def test_a_chart_is_one_readable_and_repeatable_svg(table):
    results = _results({"metrics": {"AR10": 20, "AR100": 40}}, {"metrics": {"AR10": 30}})
    (chart,) = draw_charts(table, results)
    root = ElementTree.fromstring(chart.svg)
    assert root.tag.endswith("svg")
    assert root.get("aria-label")
    assert row_styles(table.rows)["c"].color.lower() in chart.svg
    assert draw_charts(table, results)[0].svg == chart.svg


# -- examples ------------------------------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path):
    """Three images, each with the two objects, which have the categories 1 and 0."""
    annotations = [
        {"id": 10 * i + j, "image_id": i, "category_id": 1 - j % 2, "bbox": box, "iscrowd": j == 2}
        for i in (1, 2, 3)
        for j, box in enumerate([*OBJECTS, FAR])
    ]
    images = [{"id": i, "file_name": f"{i}.png", "width": 100, "height": 80} for i in (1, 2, 3)]
    categories = [{"id": i, "name": f"class {i}"} for i in (0, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "objects.json").write_text(json.dumps(content))
    for i in (1, 2, 3):
        Image.new("RGB", (100, 80), "black").save(tmp_path / f"{i}.png")
    name = "three_images"
    MetadataCatalog.get(name).set(
        json_file=str(tmp_path / "objects.json"), image_root=str(tmp_path)
    )
    return name


@pytest.fixture
def folder(tmp_path):
    """``folder(row, ...)``: write a row's proposals (x y w h by image) or detections; its path."""

    def write(row, proposals=None, detections=None):
        path = tmp_path / row
        path.mkdir()
        if proposals is not None:
            boxes = [np.array(b, dtype=np.float32).reshape(-1, 4) for b in proposals.values()]
            for b in boxes:
                b[:, 2:] += b[:, :2]
            logits = [np.zeros(len(b), np.float32) for b in boxes]
            content = {
                "boxes": boxes,
                "objectness_logits": logits,
                "ids": list(proposals),
                "bbox_mode": 0,
            }
            (path / "box_proposals.pkl").write_bytes(pickle.dumps(content))
        else:
            (path / "coco_instances_results.json").write_text(json.dumps(detections))
        return str(path)

    return write


def test_the_image_where_most_is_missed_is_shown(dataset, folder):
    folders = {
        "x": folder("x", {1: OBJECTS[:1], 2: OBJECTS, 3: OBJECTS}),
        "y": folder("y", {1: [FAR], 2: OBJECTS[1:], 3: []}),
    }
    found = find_examples(folders, dataset, [("x", "y"), ("y", "x"), ("x", "y")], TABLE)
    # y misses two objects on image 3, and one each on 1 and 2: of these the lower id comes first
    titles = [f"(x) one and (y) two on {i}.png" for i in (3, 1)]
    assert [e.title for e in found] == titles
    assert found[0].caption.startswith(
        "(x) one finds 2 of 2 objects, (y) two finds 0 of 2 objects."
    )
    top = found[0].picture.height - 160 + 1
    pixels = [found[0].picture.getpixel((x, top)) for x in (50, 300)]
    colours = ["#{:02X}{:02X}{:02X}".format(*pixel) for pixel in pixels]
    assert colours == [style.color for style in row_styles(ROWS).values()]
    width, height = found[0].picture.size
    assert width == 2 * 200 + 8  # both upscaled to 200 x 160
    assert height > 160


def test_what_the_other_row_finds_alone_counts_against_an_image(dataset, folder):
    folders = {
        "x": folder("x", {1: OBJECTS[:1], 2: OBJECTS[:1]}),
        "y": folder("y", {1: OBJECTS[1:], 2: []}),
    }
    (example,) = find_examples(folders, dataset, [("x", "y")], TABLE)
    assert example.title.endswith(" on 2.png")


def test_only_the_best_proposals_count(dataset, folder, monkeypatch):
    monkeypatch.setattr(evaluation_results, "_PROPOSALS", 2)
    folders = {"x": folder("x", {1: [FAR, *OBJECTS]}), "y": folder("y", {1: []})}
    (example,) = find_examples(folders, dataset, [("x", "y")], TABLE)
    assert example.caption.startswith("(x) one finds 1 of 2 objects")


def test_a_detection_must_be_of_the_class_and_sure(dataset, folder):
    def detection(box, category, score):
        return {"image_id": 1, "bbox": box, "category_id": category, "score": score}

    folders = {
        "x": folder("x", detections=[detection(OBJECTS[0], 1, 0.5), detection(OBJECTS[1], 0, 0.9)]),
        "y": folder("y", detections=[detection(OBJECTS[0], 1, 0.4), detection(OBJECTS[1], 1, 0.9)]),
    }
    (example,) = find_examples(folders, dataset, [("x", "y")], TABLE)
    assert example.caption.startswith("(x) one finds 2 of 2 objects, (y) two finds 0 of 2 objects.")


def test_rows_that_have_not_run_give_no_examples(dataset, folder):
    folders = {"x": folder("x", {1: OBJECTS})}
    assert find_examples(folders, dataset, [("x", "y")], TABLE) == []


def test_an_empty_folder_and_a_missing_data_set_are_named(dataset, tmp_path):
    folders = {"x": str(tmp_path / "nothing"), "y": str(tmp_path / "nothing")}
    with pytest.raises(UserError, match="nothing holds neither"):
        find_examples(folders, dataset, [("x", "y")], TABLE)
    with pytest.raises(UserError, match="elsewhere_val has no annotations here"):
        find_examples(folders, "elsewhere_val", [("x", "y")], TABLE)


def test_a_file_of_proposals_runs_no_code(dataset, tmp_path):
    (tmp_path / "box_proposals.pkl").write_bytes(pickle.dumps(Evil(tmp_path)))
    with pytest.raises(UserError, match=r"box_proposals.pkl .*mkdir"):
        find_examples({"x": str(tmp_path)}, dataset, [("x", "x")], TABLE)
    assert not (tmp_path / "made").exists()
