"""What an explanation records of a model, against the parts of the model called by hand."""

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from detectron2.structures.boxes import pairwise_iou

from fpn_d2 import UserError
from fpn_d2.inference import Explainer, prepared

SIZE = ["INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 128, "DATASETS.TEST", "()"]
# A box head of random weights is sure of nothing.
FASTER = [*SIZE, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0]
ROWS = [
    ("RPN/rpn_R_18_FPN", {"lateral": "2345", "merged": "2345", "output": "23456"}),
    ("RPN/rpn_R_18_P2", {"lateral": "2345", "merged": "2", "output": "2"}),
    ("RPN/rpn_R_18_bottom_up", {"lateral": "2345", "merged": "2345", "output": "23456"}),
    ("RPN/rpn_R_18_top_down", {"lateral": "5", "merged": "2345", "output": "23456"}),
    ("RetinaNet/retinanet_R_18_FPN", {"lateral": "345", "merged": "345", "output": "34567"}),
    ("Mask-Proposals/mask_R_18_5x5", {"lateral": "2345", "merged": "2345", "output": "23456"}),
    ("RPN/rpn_R_18_C4", {"output": "4"}),
    ("Faster-RCNN/faster_rcnn_R_18_C5", {"output": "5"}),
]

NOTES = {
    "No pyramid": ("C4", "C5"),
    "No top-down path": ("bottom_up",),
    "No lateral connections": ("top_down",),
    "RoIs are pooled from level 5 alone": ("C5",),
}


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (50, 75, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def explainer(row_config):
    torch.manual_seed(0)
    cfg = row_config("quick/Faster-RCNN/faster_rcnn_R_18_FPN", *FASTER)
    return Explainer(cfg, build_model(cfg))


@pytest.mark.parametrize(("row", "features"), ROWS)
def test_every_kind_of_row_shows_what_it_has(row, features, row_config, image):
    torch.manual_seed(0)
    cfg = row_config(f"quick/{row}", *SIZE)
    found = Explainer(cfg, build_model(cfg)).explain(image, threshold=0.0)
    levels = {kind: "".join(n[-1] for n in maps) for kind, maps in found.features.items()}
    assert levels == features
    assert len(found.levels) == len(found.detections)
    assert bool(found.proposals) == ("RPN" in row or "Faster" in row)
    assert (found.anchors is None) == ("Mask" in row)
    for words, rows in NOTES.items():
        assert any(words in note for note in found.notes) == row.endswith(rows)


def test_rotated_boxes_are_refused(row_config):
    cfg = row_config("quick/Faster-RCNN/faster_rcnn_R_18_FPN", *SIZE)
    cfg.defrost()
    cfg.MODEL.ROI_HEADS.NAME = "RROIHeads"
    with pytest.raises(UserError, match="RROIHeads finds rotated boxes, .* call fpn_d2.Predictor"):
        Explainer(cfg)


def test_levels_without_rois_are_eq_1_of_the_boxes_in_the_network_input(row_config):
    torch.manual_seed(0)
    image = np.random.default_rng(0).integers(0, 256, (50, 76, 3), dtype=np.uint8)
    cfg = row_config("quick/RPN/rpn_R_18_FPN", *SIZE)  # 50 x 76 is resized to 64 x 97
    found = Explainer(cfg, build_model(cfg)).explain(image, threshold=0.0, canonical_size=8)
    assert found.input_scale == 97 / 76
    assert found.level_range == (2, 5)  # nothing is pooled from P6
    areas = found.detections.pred_boxes.area().numpy() * (97 / 76) * (64 / 50)
    k = np.clip(np.floor(4 + np.log2(np.sqrt(areas) / 8)), 2, 5)
    assert found.levels.tolist() == k.astype(int).tolist()
    assert len(set(found.levels.tolist())) > 1


def test_maps_are_those_of_the_pyramid_without_its_padding(explainer, image):
    # 50 x 75 is resized to 64 x 96: 16 x 24 cells of stride 4
    found = explainer.explain(image)
    assert found.input_scale == pytest.approx(96 / 75)
    assert found.strides == {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}
    assert found.features["output"]["p2"].shape == (16, 24)
    assert found.features["output"]["p6"].shape == (1, 2)  # 96 / 64, rounded up
    resized = explainer.predictor.aug.get_transform(image).apply_image(image[..., ::-1])
    pixels = torch.from_numpy(resized.astype("float32").transpose(2, 0, 1))
    model = explainer.model
    with torch.no_grad():
        x = model.preprocess_image([{"image": pixels}]).tensor
        stages = model.backbone.bottom_up(x)
        lateral = model.backbone.fpn_lateral4(stages["res4"])
        coarser = model.backbone.fpn_lateral5(stages["res5"])
        merged = lateral + coarser.repeat_interleave(2, 2).repeat_interleave(2, 3)
        output = model.backbone.fpn_output4(merged)
    for kind, feature in (("lateral", lateral), ("merged", merged), ("output", output)):
        mean = feature[0].abs().mean(0).numpy()
        np.testing.assert_allclose(found.features[kind]["p4"], mean, atol=1e-4)


def test_maps_of_a_backbone_that_wants_squares_are_shown_without_their_padding(
    explainer, image, monkeypatch
):
    monkeypatch.setattr(explainer.model.backbone, "_square_pad", 128)
    found = explainer.explain(image)
    assert found.features["output"]["p2"].shape == (16, 24)
    assert found.notes == ()


def test_levels_are_eq_1_of_the_rois_and_other_constants_are_for_one_call(explainer, image):
    own = explainer.explain(image, threshold=0.0)
    areas = own.detections.roi_boxes.area().numpy()
    assert len(areas)
    k = np.floor(4 + np.log2(np.sqrt(areas) / 100))  # 224 is 100 in quick rows
    assert own.levels.tolist() == np.clip(k, 2, 5).astype(int).tolist()
    # twenty levels up: beyond P5 for any RoI of at least a hundredth of a pixel
    moved = explainer.explain(image, threshold=0.0, canonical_size=100 / 2**20)
    assert own.levels.min() == 2
    assert set(moved.levels.tolist()) == {5}
    again = explainer.explain(image, threshold=0.0)
    assert (again.canonical_size, again.canonical_level) == (100, 4)
    assert again.levels.tolist() == own.levels.tolist()


def test_recording_changes_no_detection_and_leaves_no_hook(explainer, image):
    before = explainer.predictor.detect(image, threshold=0.0)
    during = explainer.explain(image, threshold=0.0).detections
    after = explainer.predictor.detect(image, threshold=0.0)
    for found in (during, after):
        assert torch.equal(before.pred_boxes.tensor, found.pred_boxes.tensor)
    assert not after.has("roi_boxes")
    assert not [m for m in explainer.model.modules() if m._forward_pre_hooks]


def test_the_proposals_of_all_levels_contain_those_that_the_model_takes(explainer, image):
    found = explainer.explain(image, proposals_per_level=10_000)
    assert list(found.proposals) == ["p2", "p3", "p4", "p5", "p6"]
    by_level = np.vstack([p.boxes for p in found.proposals.values()])
    to_image = np.array([75 / 96, 50 / 64] * 2)
    rois = explainer.explain(image, threshold=0.0).detections.roi_boxes.tensor.numpy() * to_image
    apart = np.abs(by_level[None] - rois[:, None]).max(axis=2).min(axis=1)
    assert apart.max() < 1e-3
    for proposals in found.proposals.values():
        assert (np.diff(proposals.scores) <= 0).all()
        assert 0 < proposals.scores[-1] <= proposals.scores[0] < 1


def test_anchors_match_the_given_objects_as_iou_says(explainer, image):
    # In the network input the first one is 32 x 32 pixels at (16, 16), the size of a P2 anchor.
    truth = np.array([[12.5, 12.5, 37.5, 37.5], [2, 2, 72, 48]])
    matches = explainer.explain(image, ground_truth=truth).anchors
    assert (matches.to_ground_truth, matches.threshold) == (True, 0.7)
    assert set(matches.objects.tolist()) == {0, 1}
    scale = np.array([96 / 75, 64 / 50] * 2)
    ious = pairwise_iou(
        Boxes(torch.tensor(matches.boxes * scale)), Boxes(torch.tensor(truth * scale))
    ).numpy()
    own = ious[np.arange(len(ious)), matches.objects]
    np.testing.assert_allclose(own, matches.ious, atol=1e-5)
    below = own < 0.7
    for i in (0, 1):  # a match below the threshold must be the best of its object
        assert not (below & (matches.objects == i)).any() or own[matches.objects == i].max() < 0.7


def test_a_plain_detectron2_pyramid_is_explained(row_config, image):
    cfg = row_config(
        "quick/Faster-RCNN/faster_rcnn_R_18_FPN", *FASTER,
        "MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone",
        "MODEL.RPN.HEAD_NAME", "StandardRPNHead",
        "MODEL.PROPOSAL_GENERATOR.NAME", "RPN",
        "MODEL.ROI_HEADS.NAME", "StandardROIHeads",
        "MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE", 224,
    )  # fmt: skip
    found = Explainer(cfg, build_model(cfg)).explain(image, threshold=0.0)
    assert found.canonical_size == 224
    assert list(found.features["merged"]) == ["p2", "p3", "p4", "p5"]


def test_a_compiled_model_is_explained_as_the_model_is(row_config, explainer, image, monkeypatch):
    monkeypatch.setattr(prepared, "compile_backbone", lambda m: m.backbone.compile(backend="eager"))
    cfg = row_config("quick/Faster-RCNN/faster_rcnn_R_18_FPN", *FASTER, "INFERENCE.COMPILE", True)
    model = build_model(cfg)
    model.load_state_dict(explainer.model.state_dict(), strict=False)  # norms are folded
    compiled = Explainer(cfg, model)
    compiled.predictor.detect(image)  # compiles; a compiled module calls no hooks
    found, plain = (x.explain(image, threshold=0.0) for x in (compiled, explainer))
    maps = [{kind: list(of) for kind, of in x.features.items()} for x in (found, plain)]
    assert maps[0] == maps[1]
    assert found.notes == plain.notes == ()


def test_an_object_beside_all_anchors_and_no_object_match_none(explainer, image):
    inside, outside = [12.5, 12.5, 37.5, 37.5], [5000, 5000, 5010, 5010]
    alone = explainer.explain(image, ground_truth=np.array([inside])).anchors
    matches = explainer.explain(image, ground_truth=np.array([outside, inside])).anchors
    assert set(matches.objects.tolist()) == {1}
    np.testing.assert_array_equal(matches.boxes, alone.boxes)
    assert len(explainer.explain(image, ground_truth=np.array([outside])).anchors.boxes) == 0
    nothing = explainer.explain(image, threshold=1.0)
    assert len(nothing.detections) == len(nothing.anchors.boxes) == 0
    assert not nothing.anchors.to_ground_truth


def test_that_levels_are_not_of_rois_is_said(row_config, image):
    cascade = ["MODEL.ROI_HEADS.NAME", "CascadeROIHeads"]
    cascade += ["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True]
    cascade += ["MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE", 224]
    cfg = row_config("quick/Faster-RCNN/faster_rcnn_R_18_FPN", *FASTER, *cascade)
    found = Explainer(cfg, build_model(cfg)).explain(image)
    assert any("levels are those of the boxes" in note for note in found.notes)


def test_explainers_in_two_threads_leave_the_compiler_on(explainer, image):
    before = torch._dynamo.eval_frame._stance.stance
    other = copy.deepcopy(explainer)
    with ThreadPoolExecutor(2) as pool:
        for job in [pool.submit(one.explain, image) for one in (explainer, other) * 6]:
            job.result()
    assert torch._dynamo.eval_frame._stance.stance == before
