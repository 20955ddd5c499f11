"""The recall of mask proposals equals pycocotools' and values worked out by hand."""

import contextlib
import io
import json
import logging
import math
import pickle
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from coco_files import coco_content, coco_image
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances
from detectron2.utils import comm
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fpn_d2 import UserError
from fpn_d2.evaluation import mask_recall
from fpn_d2.evaluation.mask_recall import MaskRecallEvaluator
from fpn_d2.structures import RegionMasks

SIZE = 160


def square(x, y, side, width=None):
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    mask[y : y + side, x : x + (width or side)] = True
    return mask


def polygon(x, y, side):
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def compressed(x, y, side):
    rle = mask_util.encode(np.asfortranarray(square(x, y, side).numpy().astype(np.uint8)))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


@pytest.fixture
def evaluator(tmp_path):
    """``evaluator([annotation, ...], ...)``: an evaluator of images, one for each list."""
    made = []

    def make(*images):
        annotations = []
        for image_id, objects in enumerate(images, start=1):
            for fields in objects:
                annotation = {"image_id": image_id, "category_id": 1, "iscrowd": 0, **fields}
                annotation["id"] = len(annotations) + 1
                annotations.append(annotation)
        numbered = [coco_image(i + 1, SIZE, SIZE) for i in range(len(images))]
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(coco_content(numbered, annotations, "thing 1", "thing 2")))
        name = f"mask_recall_{len(made)}"
        made.append(name)
        MetadataCatalog.get(name).set(json_file=str(path))
        return MaskRecallEvaluator(name, str(tmp_path / "out"))

    yield make
    for name in made:
        assert name not in DatasetCatalog


def obj(x, y, side, **fields):
    own = {"segmentation": polygon(x, y, side), "area": side**2, "bbox": [x, y, side, side]}
    return own | fields


def proposals(masks, scores=None):
    instances = Instances((SIZE, SIZE))
    instances.pred_masks = torch.stack(masks) if masks else torch.zeros(0, SIZE, SIZE).bool()
    instances.scores = torch.tensor(scores or [1 - i / 2000 for i in range(len(masks))])
    return {"instances": instances}


def run(evaluator, *outputs):
    for image_id, output in enumerate(outputs, start=1):
        evaluator.process([{"image_id": image_id}], [output])
    return evaluator.evaluate()["mask_proposals"]


def test_perfect_masks(evaluator):
    # one object of each size: 20^2 < 32^2 < 60^2 < 96^2 < 100^2
    made = evaluator([obj(5, 5, 20), obj(40, 5, 60)], [obj(3, 4, 100)])
    outputs = [square(5, 5, 20), square(40, 5, 60)], [square(3, 4, 100)]
    results = run(made, *map(proposals, outputs))
    assert all(results[f"AR{size}@{n}"] == 100 for size in ("", *"sml") for n in (10, 100, 1000))


@pytest.mark.parametrize(
    "found, expected",
    [
        (square(15, 10, 20), 30),  # 5 px off: 15 * 20 / (2 * 400 - 300) = 0.6, at 0.5, 0.55, 0.6
        (square(10, 10, 40), 0),  # twice as large: 400 / 1600 = 0.25
        (square(10, 10, 20, 10), 10),  # one half of it: 0.5 exactly
        (square(10, 10, 20, 19), 100),  # 0.95 exactly
        (square(8, 8, 24), 40),  # 2 px of padding not removed: 400 / 576 = 0.69
    ],
)
def test_shifts_and_scales_by_hand(evaluator, found, expected):
    results = run(evaluator([obj(10, 10, 20)]), proposals([found]))
    assert results["AR@1000"] == pytest.approx(expected)


def test_the_cut_offs_of_the_ranking(evaluator):
    wrong = square(100, 100, 8)
    made = evaluator([obj(10, 10, 20), obj(50, 50, 20), obj(10, 80, 20), obj(80, 10, 20)])
    masks = [wrong] * 1100
    masks[9], masks[10], masks[999] = square(10, 10, 20), square(50, 50, 20), square(10, 80, 20)
    masks[1000] = square(80, 10, 20)
    results = run(made, proposals(masks))
    assert [results[f"AR@{n}"] for n in (10, 100, 1000)] == [25, 50, 75]


@pytest.mark.parametrize("last_score, recall", [(0.5, 0), (0.6, 100)])
def test_the_order_is_that_of_the_scores_and_then_of_making(evaluator, last_score, recall):
    masks = [square(100, 100, 8)] * 10 + [square(10, 10, 20)]
    output = proposals(masks, [0.5] * 10 + [last_score])
    assert run(evaluator([obj(10, 10, 20)]), output)["AR@10"] == recall


def test_a_second_proposal_of_an_object_finds_nothing_else(evaluator):
    # of so many that 1 / 49 * 49 is less than 1
    made = evaluator([obj(20 * (i % 8), 20 * (i // 8), 10) for i in range(49)])
    recall = run(made, proposals([square(0, 0, 10)] * 5))["AR@1000"]
    assert recall == pytest.approx(100 / 49)


def test_sizes_at_their_borders_belong_to_both(evaluator):
    made = evaluator([obj(0, 0, 32)], [obj(0, 0, 96)], [obj(0, 0, 97)])
    results = run(made, proposals([square(0, 0, 32)]), proposals([square(0, 0, 96)]), proposals([]))
    # 32^2 is small and medium, 96^2 medium and large, 97^2 is large and not found
    assert (results["ARs@1000"], results["ARm@1000"], results["ARl@1000"]) == (100, 100, 50)


def test_a_size_without_objects_has_no_number(evaluator):
    made = evaluator([obj(0, 0, 20)])
    results = run(made, proposals([square(0, 0, 20)]))
    assert math.isnan(results["ARl@1000"])
    written = json.loads(Path(made._output_dir, "results.json").read_text())
    assert written["mask_proposals"]["ARl@1000"] is None
    kept = json.loads(Path(made._output_dir, "mask_proposals.json").read_text())
    assert mask_util.area(kept[0]["segmentation"]) == 400


def test_images_without_proposals_or_objects_count(evaluator, caplog):
    made = evaluator([obj(10, 10, 20)], [obj(10, 10, 20)], [], [obj(10, 10, 20)])
    perfect = proposals([square(10, 10, 20)])
    # image 2 has no proposal, image 3 no object, image 4 is never seen
    with caplog.at_level(logging.WARNING):
        assert run(made, perfect, proposals([]), perfect)["AR@1000"] == pytest.approx(100 / 3)
    assert "1 images were not evaluated" in caplog.text


def test_crowds_are_no_objects(evaluator):
    crowd = obj(60, 60, 40, iscrowd=1, segmentation=compressed(60, 60, 40))
    made = evaluator([obj(10, 10, 20), crowd], [crowd])
    assert run(made, proposals([square(10, 10, 20)]), proposals([]))["AR@1000"] == 100


def test_an_object_is_polygons_or_either_rle(evaluator):
    # column by column: 10 columns and 10 pixels, 20 pixels of each of 20 columns, and the rest
    runs = [SIZE * 10 + 10, *[20, SIZE - 20] * 19, 20, SIZE * 131 - 30]
    assert sum(runs) == SIZE**2
    forms = [polygon(10, 10, 20), {"size": [SIZE, SIZE], "counts": runs}, compressed(10, 10, 20)]
    made = evaluator(*[[obj(10, 10, 20, segmentation=form)] for form in forms])
    assert run(made, *[proposals([square(10, 10, 20)])] * 3)["AR@1000"] == 100


def test_an_object_without_an_area_has_its_masks_and_region_masks_are_taken(evaluator):
    without = obj(10, 10, 40)  # 1600 is medium
    del without["area"]
    output = proposals([square(10, 10, 40)])
    regions = torch.tensor([[10.0, 10, 50, 50]])
    output["instances"].pred_masks = RegionMasks(torch.ones(1, 14, 14), regions, (SIZE, SIZE), 0.5)
    results = run(evaluator([without]), output)
    assert math.isnan(results["ARs@1000"])
    assert results["ARm@1000"] == results["AR@1000"] == 100


def random_case(rng):
    """Make three images of objects in two categories, some of them crowds, and proposals.

    Few different sides and steps of 4 px make many IoUs equal. Areas are not those of the masks, as
    in COCO, where they are the polygons'.
    """
    images, outputs = [], []
    for _ in range(3):
        objects, masks = [], []
        for _ in range(int(rng.integers(0, 6))):
            x, y = (4 * rng.integers(0, 12, 2)).tolist()
            side = int(rng.choice([8, 20, 32, 32, 64, 96, 100]))
            crowd = int(rng.random() < 0.25)
            segmentation = compressed(x, y, side) if crowd else polygon(x, y, side)
            category = int(rng.integers(1, 3))
            fields = {"iscrowd": crowd, "segmentation": segmentation, "category_id": category}
            fields["area"] = side * (side - 1)
            objects.append(obj(x, y, side, **fields))
            for _ in range(int(rng.integers(0, 8))):
                dx, dy, grow = (4 * rng.integers(-1, 2, 3)).tolist()
                masks.append(square(max(0, x + dx), max(0, y + dy), side + grow))
        masks = [masks[i] for i in rng.permutation(len(masks))]
        scores = rng.integers(0, 12, len(masks)) / 16  # with ties
        images.append(objects)
        outputs.append(proposals(masks, scores.tolist()))
    return images, outputs


def recalls_of_pycocotools(folder, outputs):
    """Compute ``{"AR@10": ..}`` in percent, all images at once; -100 for sizes without objects."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(folder / "instances.json")
        found = []
        for image_id, output in enumerate(outputs, start=1):
            masks = output["instances"].pred_masks.numpy().astype(np.uint8)
            for mask, score in zip(masks, output["instances"].scores.tolist(), strict=True):
                rle = mask_util.encode(np.asfortranarray(mask))
                fields = {"image_id": image_id, "category_id": 1, "score": score}
                found.append({**fields, "segmentation": rle})
        evaluation = COCOeval(coco, coco.loadRes(found), "segm")
        evaluation.params.useCats, evaluation.params.maxDets = 0, [10, 100, 1000]
        evaluation.evaluate()
        evaluation.accumulate()
    recall = 100 * evaluation.eval["recall"][:, 0].mean(axis=0)  # over thresholds: areas x limits
    return {
        f"AR{area}@{limit}": recall[i, j]
        for i, area in enumerate(["", "s", "m", "l"])
        for j, limit in enumerate([10, 100, 1000])
    }


@pytest.mark.parametrize("compiled", [True, False], ids=["Detectron2's", "pycocotools'"])
@pytest.mark.parametrize("seed", range(12))
def test_against_pycocotools(evaluator, tmp_path, monkeypatch, seed, compiled):
    if not compiled:  # what Detectron2 falls back to without its compiled part
        monkeypatch.setattr(mask_recall, "COCOeval_opt", COCOeval)
    images, outputs = random_case(np.random.default_rng(seed))
    made = evaluator(*images)
    results = run(made, *outputs)
    for name, expected in recalls_of_pycocotools(tmp_path, outputs).items():
        got = -100 if math.isnan(results[name]) else results[name]
        assert got == pytest.approx(expected, abs=1e-9), name


def test_annotations_may_be_numbered_from_zero(evaluator):
    made = evaluator([obj(10, 10, 20), obj(60, 60, 20)])
    for number, annotation in enumerate(made._coco.imgToAnns[1]):
        annotation["id"] = number  # pycocotools takes a match with number 0 for none
    masks = [square(10, 10, 20), square(60, 60, 20)]
    assert run(made, proposals(masks))["AR@10"] == 100


def test_objects_of_equal_iou_are_taken_in_pycocotools_order(evaluator, tmp_path):
    # The first proposal has IoU 320 / 480 with both objects, the second exceeds 0.5 only with the
    # object annotated first. By category that object is the last: at 0.5 .. 0.65 the first proposal
    # takes it, and the second finds none; above 0.667 the second takes it: 10 x 1 of 20.
    first, second = obj(0, 0, 20, category_id=2), obj(8, 0, 20, category_id=1)
    outputs = [proposals([square(4, 0, 20), square(0, 0, 20)])]
    made = evaluator([first, second])
    results = run(made, *outputs)
    assert results["AR@10"] == pytest.approx(50)
    assert recalls_of_pycocotools(tmp_path, outputs)["AR@10"] == pytest.approx(50)


def test_several_processes(evaluator, monkeypatch):
    first = evaluator([obj(10, 10, 20)], [obj(10, 10, 20)])
    second = MaskRecallEvaluator(list(MetadataCatalog)[-1], None)
    first.process([{"image_id": 1}], [proposals([square(10, 10, 20)])])
    second.process([{"image_id": 2}], [proposals([square(10, 10, 40)])])
    parts = []
    monkeypatch.setattr(comm, "gather", lambda state, dst: parts.append(state) or parts)
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert second.evaluate() == {}
    monkeypatch.setattr(comm, "is_main_process", lambda: True)
    assert first.evaluate()["mask_proposals"]["AR@10"] == 50
    assert len(json.loads(Path(first._output_dir, "mask_proposals.json").read_text())) == 2


@pytest.mark.parametrize(
    "fields", [{}, *({"segmentation": s} for s in ([], {}, [[1, 2, 3]], "none"))]
)
def test_an_annotation_without_a_mask_is_named(evaluator, fields):
    made = evaluator([obj(10, 10, 20)], [{"area": 4, "bbox": [0, 0, 2, 2], **fields}])
    with pytest.raises(UserError, match=r"annotation 2 of image 2\.png in \S+instances\.json"):
        run(made, proposals([]), proposals([square(10, 10, 20)]))


def test_masks_of_another_size_than_the_image_are_not_just_missed(evaluator):
    small = mask_util.encode(np.ones((30, 20), dtype=np.uint8, order="F"))
    small = {"size": small["size"], "counts": small["counts"].decode()}
    with pytest.raises(UserError, match=r"annotation 1 .* size \[30, 20\], .* \[160, 160\]"):
        run(evaluator([obj(0, 0, 20, segmentation=small)]), proposals([]))
    output = proposals([square(10, 10, 20)])
    output["instances"].pred_masks = torch.ones(1, 30, 20, dtype=torch.bool)
    with pytest.raises(AssertionError, match="image 1"):
        run(evaluator([obj(10, 10, 20)]), output)


def test_a_data_set_in_another_format_is_refused():
    with pytest.raises(UserError, match="nothing_at_all, which has no COCO annotation file"):
        MaskRecallEvaluator("nothing_at_all")


def test_masks_are_not_kept(evaluator):
    sizes = []
    for count in (300, 1000):
        made = evaluator([obj(10, 10, 20)])
        made.process([{"image_id": 1}], [proposals([square(10, 10, 20)] * count)])
        made._coco = None  # holds the data set, not the proposals
        sizes.append(len(pickle.dumps({k: v for k, v in vars(made).items() if k != "_seconds"})))
    assert len(made._written) == 100
    assert sizes[0] == sizes[1]
