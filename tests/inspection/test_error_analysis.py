"""Ten detections of six objects, every figure by hand; and pycocotools on random boxes."""

import types

import numpy as np
import pytest
from coco_files import coco_image, coco_object
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fpn_d2 import UserError
from fpn_d2.evaluation.evaluators import quiet_pycocotools
from fpn_d2.inspection import analysis_page, evaluated_sets
from fpn_d2.inspection.analysis_page import draw_charts
from fpn_d2.inspection.coco_matches import best_f1
from fpn_d2.inspection.error_analysis import ErrorAnalysis
from fpn_d2.inspection.tested_levels import PyramidLevels

CAT, DOG = 3, 7
IMAGES = [coco_image(number, 100, 100) for number in (1, 2)]
OBJECTS = [  # image, category, x, y, width and height
    (1, CAT, 0, 0, 20, 20),
    (1, DOG, 40, 0, 20, 20),
    (1, CAT, 0, 60, 20, 20),
    (2, DOG, 0, 0, 40, 40),
    (2, DOG, 60, 60, 20, 20),
    (2, CAT, 80, 0, 20, 20),
]
DETECTIONS = [  # image, category, score, box, kind of error, index of the object it is about
    (1, CAT, 0.9, 0, 0, 20, 20, "correct", 0),
    (1, CAT, 0.8, 0, 0, 20, 20, "twice", -1),
    (1, CAT, 0.7, 40, 0, 20, 20, "class", 1),
    (1, DOG, 0.6, 40, 0, 20, 20, "correct", 1),
    (1, CAT, 0.5, 10, 60, 20, 20, "place", 2),  # 10 * 20 / (2 * 400 - 200): IoU 1/3
    (1, DOG, 0.4, 70, 70, 20, 20, "background", -1),
    (2, DOG, 0.85, 0, 0, 40, 40, "correct", 3),
    (2, CAT, 0.3, 20, 0, 40, 40, "both", -1),  # 20 * 40 / (2 * 1600 - 800): IoU 1/3 with a dog
    (2, CAT, 0.2, 60, 60, 20, 20, "class", 4),
    (2, DOG, 0.95, 60, 0, 20, 20, "background", -1),
]
NAMES = ["class", "place", "both", "twice", "background", "missed"]
CATEGORIES = [{"id": DOG, "name": "dog"}, {"id": CAT, "name": "cat"}]
# without resizing, 20 px are on P2 and 40 px on P3: floor(3 + log2(20 / 40)) = 2
LEVELS = PyramidLevels(2, 3, canonical_size=40, canonical_level=3, min_size=0, max_size=0)


def test_heads_that_are_not_registered_here_read_the_levels_of_their_key(row_config):
    opts = ["MODEL.ROI_HEADS.NAME", "NotHere", "MODEL.ROI_HEADS.IN_FEATURES"]
    row = "quick/Faster-RCNN/faster_rcnn_R_18_FPN"
    levels = PyramidLevels.of_config(row_config(row, *opts, ["p3", "p4", "p5"]), fewest=2)
    assert list(levels.numbers) == [3, 4, 5]
    with pytest.raises(UserError, match="IN_FEATURES names res4, but the backbone has only p2"):
        PyramidLevels.of_config(row_config(row, *opts, ["res4"]))


def coco(annotations, categories=CATEGORIES):
    truth = COCO()
    truth.dataset = {"images": IMAGES, "categories": categories, "annotations": annotations}
    with quiet_pycocotools():
        truth.createIndex()
    return truth


def analyze(annotations, results, categories=CATEGORIES):
    return ErrorAnalysis("set", coco(annotations, categories), results, LEVELS)


def annotation(number, image, category, *box, **more):
    return coco_object(number, image, box, category, **more)


def result(image, category, score, *box):
    return {"image_id": image, "category_id": category, "score": score, "bbox": list(box)}


@pytest.fixture(scope="module")
def analysis():
    # each id twice, and 0 among them, which is no match to pycocotools
    annotations = [annotation(i // 2, *values) for i, values in enumerate(OBJECTS)]
    results = [result(*values[:7]) for values in DETECTIONS]
    return analyze(annotations, results)


@pytest.fixture(scope="module")
def figures(analysis):
    return analysis.as_json([c["threshold"] for c in analysis.curves])


def test_each_detection_has_its_kind_of_error(analysis):
    kinds = ["correct" if kind == -1 else NAMES[kind] for kind in analysis.kinds]
    assert kinds == [values[7] for values in DETECTIONS]
    about = np.where(analysis.matched >= 0, analysis.matched, analysis.targets)
    assert about.tolist() == [values[8] for values in DETECTIONS]
    # The first four objects are found or have a place error, the fifth has a class error.
    assert analysis.missed.tolist() == [False] * 5 + [True]


def test_ap50_and_what_each_kind_costs(figures):
    # Cats: 1 of 3 found, by the best detection: precision 1 at the recalls 0, 0.01 .. 0.33.
    # Dogs, by score: wrong, right, right, wrong of 3: best precision 2/3 up to recall 2/3.
    cat, dog = 34 / 101, 67 * (2 / 3) / 101
    assert [c["AP50"] for c in figures["classes"]] == pytest.approx([100 * cat, 100 * dog])
    assert figures["AP50"] == pytest.approx(50 * (cat + dog))
    assert figures["AP"] == pytest.approx(figures["AP50"])  # each match has an IoU of 1
    counts = {kind: entry["count"] for kind, entry in figures["errors"].items()}
    assert counts == dict(zip(NAMES, (2, 1, 1, 1, 2, 1), strict=True))
    costs = {
        # The fifth object is found by a dog of score 0.2, the last of 5: 3/5 at 0.67 .. 1.
        "class": 34 * (3 / 5),
        # A second cat is found by the fourth of the cats: 2/4 at recalls 0.34 .. 0.66.
        "place": 33 * (2 / 4),
        "both": 0,  # ranked below all right ones
        "twice": 0,  # likewise
        "background": 67 * (1 - 2 / 3),  # then the best dog is a right one
        "missed": 51 - 34,  # 1 of 2 cats
    }
    gains = {kind: entry["dAP"] for kind, entry in figures["errors"].items()}
    assert gains == pytest.approx({kind: 50 * cost / 101 for kind, cost in costs.items()})


def test_the_best_f1_of_each_class(figures):
    cat, dog = figures["classes"]
    # Cats: 2 * 1 / (1 + 3) with the first alone, then 2 / 5 and less. The next score is 0.8.
    assert (cat["name"], cat["objects"], cat["detections"]) == ("cat", 3, 6)
    best = [cat[key] for key in ("threshold", "f1", "precision", "recall")]
    assert best == pytest.approx([0.85, 1 / 2, 1, 1 / 3])
    # Dogs: 0, 2 / 5, 4 / 6, 4 / 7 with one to four detections.
    best = [dog[key] for key in ("threshold", "f1", "precision", "recall")]
    assert best == pytest.approx([0.5, 2 / 3, 2 / 3, 2 / 3])


def test_the_curve_is_cocos_at_101_recalls(figures):
    cat, dog = (c["precisions"] for c in figures["classes"])
    assert cat == pytest.approx([1] * 34 + [0] * 67)
    assert dog == pytest.approx([2 / 3] * 67 + [0] * 34)


@pytest.mark.parametrize(
    "thresholds, matrix",
    [
        # shown: a cat of 0.9, and the dogs of 0.95, 0.85 and 0.6
        ([0.85, 0.5], [[1, 0, 2], [0, 2, 1], [0, 1, 0]]),
        # The dog of 0.6 is not shown, and its object is taken for a cat; a cat is there twice.
        ([0.65, 0.65], [[1, 0, 2], [1, 1, 1], [1, 1, 0]]),
        # all ten: the dog at (60, 60) is taken for a cat. On nothing are two dogs and four cats:
        # one on a cat found before, one on a found dog, one at IoU 1/3 of a cat, one of score 0.3
        ([0.0, 0.0], [[1, 0, 2], [1, 2, 0], [4, 2, 0]]),
        ([1.0, 1.0], [[0, 0, 3], [0, 0, 3], [0, 0, 0]]),
    ],
)
def test_the_confusion_matrix(analysis, thresholds, matrix):
    assert analysis.confusion(thresholds).tolist() == matrix


def test_the_worst_images(analysis):
    # Image 2: a dog on nothing, a dog and a cat not found. Image 1: a cat not found.
    worst = [{"index": 1, "false": 1, "missed": 2}, {"index": 0, "false": 0, "missed": 1}]
    assert analysis.worst_images([0.85, 0.5], 5) == worst
    assert analysis.worst_images([0.85, 0.5], 1) == worst[:1]
    # Both have a false detection, and 3 and 2 objects that are not found.
    assert [entry["index"] for entry in analysis.worst_images([0.75, 0.9], 5)] == [1, 0]


def test_ap_by_size_and_by_level(figures):
    # P3 has one object, a dog, which the only dog there finds; the cat there is of a class without
    # objects. P2 has 3 cats, as before, and 2 dogs: wrong, right, wrong, so 1/2 up to recall 1/2.
    fine = {"objects": 5, "AP": pytest.approx(50 * (34 + 51 / 2) / 101)}
    coarse = {"objects": 1, "AP": pytest.approx(100)}
    for entry, expected in (("P2", fine), ("P3", coarse)):
        found = figures["by_level"][entry]
        assert found == {**expected, "AP50": expected["AP"]}
    # 400 px are small, 1600 px medium
    sizes = figures["by_size"]
    assert sizes["small"] == {**fine, "AP50": fine["AP"]}
    assert sizes["medium"] == {**coarse, "AP50": coarse["AP"]}
    assert sizes["large"] == {"objects": 0, "AP": None, "AP50": None}


def test_detections_in_a_crowd_count_neither_way():
    annotations = [
        annotation(1, 1, CAT, 50, 50, 50, 50, iscrowd=1),
        annotation(2, 1, CAT, 0, 0, 20, 20),
    ]
    results = [
        result(1, CAT, 0.9, 60, 60, 20, 20),
        result(1, CAT, 0.8, 0, 0, 20, 20),
        result(1, DOG, 0.7, 60, 60, 20, 20),  # the crowd is not of its class
    ]
    analysis = analyze(annotations, results)
    figures = analysis.as_json([0.0, 0.0])
    assert analysis.matched.tolist() == [-1, 0, -1]  # the crowd comes first in the file alone
    assert figures["detections"] == 2
    assert figures["crowd_regions"] == 1
    assert figures["AP50"] == pytest.approx(100)
    assert analysis.confusion([0.0, 0.0]).tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert figures["errors"]["background"]["count"] == 1


def test_of_an_objects_errors_only_the_best_is_put_right():
    # Two detections are beside the one cat (10 * 20 / (2 * 400 - 200): IoU 1/3): the better one
    # would be right, and the other would go.
    annotations = [annotation(1, 1, CAT, 0, 0, 20, 20)]
    boxes = [(10, 0, 20, 20), (0, 10, 20, 20)]
    results = [result(1, CAT, score, *box) for score, box in zip((0.3, 0.6), boxes, strict=True)]
    results.append(result(1, CAT, 0.5, 60, 60, 20, 20))  # on nothing, and between them
    analysis = analyze(annotations, results)
    errors = analysis.errors
    assert errors["place"] == {"count": 2, "dAP": pytest.approx(100)}
    assert errors["missed"]["count"] == 0
    assert [c["threshold"] for c in analysis.curves] == [None, None]  # without right detections


def test_the_best_100_of_an_image_and_class_count():
    beside = [result(1, CAT, 0.9, 60, 60, 20, 20) for _ in range(100)]
    annotations = [annotation(1, 1, CAT, 0, 0, 20, 20)]
    analysis = analyze(annotations, [result(1, CAT, 0.5, 0, 0, 20, 20), *beside])
    assert (analysis.as_json([0.0, 0.0])["detections"], analysis.ap["AP50"]) == (100, 0)
    assert analysis.missed.tolist() == [True]


@pytest.mark.parametrize(
    "found, ap50, gain",
    [
        ((1, CAT, 0.9, 0, 0, 20, 20), 50, 50),  # the cats' AP50 is 100; no dogs are left
        ((2, CAT, 0.9, 0, 0, 20, 20), 0, 0),  # the detection is on nothing, and the cats' alone
    ],
)
def test_a_class_of_which_nothing_is_left_has_no_ap(found, ap50, gain):
    annotations = [annotation(1, 1, CAT, 0, 0, 20, 20), annotation(2, 1, DOG, 60, 60, 20, 20)]
    analysis = analyze(annotations, [result(*found)])
    assert analysis.ap["AP50"] == pytest.approx(ap50)
    assert analysis.errors["missed"]["dAP"] == pytest.approx(gain)


def test_a_name_that_begins_with_an_underscore_is_in_the_legend():
    annotations, results = [annotation(1, 1, 1, 0, 0, 20, 20)], [result(1, 1, 0.9, 0, 0, 20, 20)]
    analysis = analyze(annotations, results, [{"id": 1, "name": "_rest_"}])
    curves = draw_charts(analysis, analysis.as_json([0.5]), "all", "p")[1]
    assert "_rest_ (100)" in curves.svg


@pytest.mark.parametrize(
    "scores, hits, objects, threshold, f1",
    [
        ([0.9], [True], 1, 0.45, 1),  # nothing below: halfway to 0
        ([0.8, 0.8, 0.4], [True, False, False], 1, 0.6, 2 / 3),  # equal scores stay or go together
        ([0.8, 0.4, 0.2], [True, False, True], 2, 0.1, 4 / 5),  # 2/3, 2/4, 4/5
        ([0.8, 0.4], [False, False], 2, None, None),
        ([], [], 2, None, None),
    ],
)
def test_the_threshold_of_best_f1(scores, hits, objects, threshold, f1):
    found = best_f1(np.array(scores), np.array(hits, dtype=bool), objects)
    assert found["threshold"] == (threshold and pytest.approx(threshold))
    assert found["f1"] == (f1 and pytest.approx(f1))


def test_ap_is_pycocotools_own():
    random = np.random.default_rng(0)
    annotations, results = [], []
    for image in (1, 2):
        for _ in range(12):
            x, y, *size = random.uniform([0, 0, 5, 5], [60, 60, 40, 40])
            category = int(random.choice([CAT, DOG]))
            annotations.append(annotation(len(annotations) + 1, image, category, x, y, *size))
            for _ in range(2):
                box = np.array([x, y, *size]) * random.uniform(0.8, 1.25, 4)
                score = round(float(random.random()), 1)  # many are equal
                results.insert(0, result(image, category, score, *box.tolist()))
    figures, truth = analyze(annotations, results).as_json([0.5, 0.5]), coco(annotations)
    with quiet_pycocotools():
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ap, ap50, ap75, small, medium, large = 100 * evaluation.stats[:6]
    assert 0 < ap < ap50 < 100
    assert [figures[k] for k in ("AP", "AP50", "AP75")] == pytest.approx([ap, ap50, ap75])
    sizes = [entry["AP"] for entry in figures["by_size"].values()]
    assert sizes[:2] == pytest.approx([small, medium])
    assert (sizes[2], large) == (None, -100)
    curves = [100 * np.mean(c["precisions"]) for c in figures["classes"]]
    assert np.mean(curves) == pytest.approx(ap50)


def test_shares_of_the_confusion_matrix_count_the_classes_that_are_not_shown(monkeypatch):
    """30 of 40 classes are shown, and one that is not has 9 of 10 detections on nothing."""
    matrix, drawn = np.zeros((41, 41), int), []
    for i in range(0, 30, 2):  # pairs that are taken for each other
        matrix[i, i + 1] = matrix[i + 1, i] = 5
    matrix[-1, 0], matrix[-1, 39] = 1, 9  # on no object
    axes = analysis_page.new_axes

    def new_axes(*size):
        figure, made = axes(*size)
        monkeypatch.setattr(made, "imshow", lambda shares, **_: drawn.append(shares))
        return figure, made

    monkeypatch.setattr(analysis_page, "new_axes", new_axes)
    analysis = types.SimpleNamespace(class_names=[f"c{i}" for i in range(40)])
    analysis_page._draw_matrix(analysis, matrix, "all", "p")
    assert drawn[0][-1, 0] == 0.1


def test_annotations_of_other_images_are_no_objects(tmp_path, monkeypatch):
    truth = coco([annotation(1, 99, CAT, 0, 0, 20, 20), annotation(2, 1, 77, 0, 0, 20, 20)])
    monkeypatch.setattr(evaluated_sets, "load_ground_truth", lambda dataset: (truth, ""))
    (tmp_path / "coco_instances_results.json").write_text("[]")
    with pytest.raises(UserError, match="has no objects to find"):
        evaluated_sets._analyze_test_set(str(tmp_path), LEVELS)
