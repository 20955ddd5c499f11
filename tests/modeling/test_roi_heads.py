"""Eq. 1 has the paper's edges, and every box is pooled from the level that it chooses."""

import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model, build_roi_heads
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage

from fpn_d2.modeling import LevelROIHeads, LevelROIPooler, levels_of_boxes

POOLERS = ["ROIPool", "ROIAlignV2"]
QUICK = "quick/Faster-RCNN/faster_rcnn_R_18_FPN"


def boxes_of(*sizes: tuple[float, float]) -> torch.Tensor:
    """Make (R, 4) boxes of these widths and heights, away from the origin."""
    return torch.tensor([[8.0, 16.0, 8.0 + w, 16.0 + h] for w, h in sizes])


def random_boxes(count: int, side: float, seed: int = 0) -> torch.Tensor:
    """Make (count, 4) boxes inside side x side pixels, with log-uniform sides from one pixel on."""
    generator = torch.Generator().manual_seed(seed)
    size = side ** torch.rand(count, 2, generator=generator)
    corner = (side - size) * torch.rand(count, 2, generator=generator)
    return torch.cat([corner, corner + size], dim=1)


EDGES = [(10, 2), (111, 2), (112, 3), (223, 3), (224, 4), (447, 4), (448, 5), (4000, 5)]
EDGES += [(111.99, 2), (223.99, 3), (447.99, 4), (0.1, 2)]


@pytest.mark.parametrize(
    "width, height, level",
    [
        *((side, side, level) for side, level in EDGES),
        (56, 224, 3),  # sqrt(w h) = 112
        (224, 56, 3),
        (448, 112, 4),  # 224
        (112, 447, 3),  # a pixel less
        (1792, 112, 5),  # 448
        (0, 0, 2),
        (0, 500, 2),
        (1, 1, 2),
        (1, 50_000, 3),  # 223.6
    ],
)
def test_eq_1_looks_at_the_area_alone(width, height, level):
    assert levels_of_boxes(boxes_of((width, height))).tolist() == [level]


def test_eq_1_on_whole_pixels_equals_the_comparison_of_areas():
    sides = torch.randint(1, 900, (5000, 2), generator=torch.Generator().manual_seed(0))
    area = sides.prod(dim=1)  # integers: nothing is rounded
    expected = 2 + sum((area >= edge * edge).long() for edge in (112, 224, 448))
    levels = levels_of_boxes(torch.cat([torch.zeros(5000, 2), sides], dim=1))
    assert levels.dtype == torch.int64
    assert torch.equal(levels, expected)
    assert levels.unique().tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize(
    "canonical_size, canonical_level, side, level",
    [
        (80, 4, 39, 2),  # the quick rows' size
        (80, 4, 40, 3),
        (80, 4, 80, 4),
        (80, 4, 160, 5),
        (224, 5, 112, 4),
        (224, 5, 223, 4),
        (224, 3, 447, 3),
        (224, 2, 224, 2),
    ],
)
def test_eq_1_follows_its_two_constants(canonical_size, canonical_level, side, level):
    levels = levels_of_boxes(boxes_of((side, side)), 2, 5, canonical_size, canonical_level)
    assert levels.tolist() == [level]


@pytest.mark.parametrize("lowest, highest", [(2, 5), (3, 5), (2, 2), (3, 4), (2, 6)])
def test_eq_1_clamps_to_the_levels_that_are_there(lowest, highest):
    levels = levels_of_boxes(boxes_of((10, 10), (300, 300), (4000, 4000)), lowest, highest)
    expected = [lowest, min(max(4, lowest), highest), min(8, highest)]  # log2(4000 / 224) = 4.2
    assert levels.tolist() == expected


def test_eq_1_of_no_boxes():
    assert levels_of_boxes(torch.zeros(0, 4)).shape == (0,)


# --- the pooler


def pooler_of(levels, pooler_type="ROIPool", **kwargs) -> LevelROIPooler:
    scales = [1.0 / 2**k for k in levels]
    return LevelROIPooler(
        output_size=7, scales=scales, sampling_ratio=0, pooler_type=pooler_type, **kwargs
    )


def maps_of(levels, side: int, n: int = 2, value=float) -> list[torch.Tensor]:
    """Make feature maps that hold the number of their level everywhere."""
    return [torch.full((n, 3, side // 2**k, side // 2**k), value(k)) for k in levels]


@pytest.mark.parametrize("constants", [{}, {"canonical_box_size": 80, "canonical_level": 3}])
@pytest.mark.parametrize("pooler_type", POOLERS)
@pytest.mark.parametrize("levels", [(2, 3, 4, 5), (3, 4), (2,)])
def test_every_box_is_pooled_from_the_level_of_eq_1(levels, pooler_type, constants):
    pooler = pooler_of(levels, pooler_type, **constants)
    boxes = [random_boxes(40, 960.0, seed) for seed in (1, 2)]  # no bin beyond the maps
    pooled = pooler(maps_of(levels, 1024), [Boxes(b) for b in boxes])
    size, k0 = constants.values() or (224, 4)
    sides = [math.sqrt((x1 - x0) * (y1 - y0)) for x0, y0, x1, y1 in torch.cat(boxes).tolist()]
    k = [math.floor(k0 + math.log2(side / size)) for side in sides]
    expected = torch.tensor([float(min(max(level, levels[0]), levels[-1])) for level in k])
    assert len(expected.unique()) == len(levels)
    torch.testing.assert_close(pooled, expected[:, None, None, None].expand(80, 3, 7, 7))
    assert pooler.levels(torch.cat(boxes)).tolist() == expected.tolist()


@pytest.mark.parametrize("pooler_type", POOLERS)
def test_the_pooler_is_detectron2s_on_features_that_vary(pooler_type):
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 4, 256 // 2**k, 256 // 2**k, generator=generator) for k in range(2, 6)]
    boxes = [Boxes(random_boxes(20, 256.0)), Boxes(boxes_of((0, 0), (1, 1), (0.5, 200)))]
    scales = [1.0 / 2**k for k in range(2, 6)]
    stock = ROIPooler(7, scales, 0, pooler_type, canonical_box_size=56)
    ours = pooler_of(range(2, 6), pooler_type, canonical_box_size=56, backend="torchvision")
    assert torch.equal(ours(maps, boxes), stock(maps, boxes))
    fast = pooler_of(range(2, 6), pooler_type, canonical_box_size=56)  # on a CPU
    torch.testing.assert_close(fast(maps, boxes), stock(maps, boxes), rtol=0, atol=1e-5)


@pytest.mark.parametrize("levels", [range(2, 6), (2,)])
@pytest.mark.parametrize("backend, tolerance", [("torchvision", 0), ("gather", 1e-4)])
@pytest.mark.parametrize("pooler_type", POOLERS)
def test_scripted_it_pools_the_same(pooler_type, backend, tolerance, levels):
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 4, 256 // 2**k, 256 // 2**k, generator=generator) for k in levels]
    pooler = pooler_of(levels, pooler_type, canonical_box_size=56, backend=backend)
    scripted = torch.jit.script(pooler)
    for boxes in (random_boxes(20, 256.0), torch.zeros(0, 4)):
        boxes = [Boxes(boxes), Boxes(boxes_of((0, 0), (1, 1), (0.5, 200)))]
        torch.testing.assert_close(
            scripted(maps, boxes), pooler(maps, boxes), rtol=tolerance, atol=tolerance
        )


def test_boxes_without_a_size_are_detectron2s_zeros():
    maps = [torch.ones(1, 4, 256 // 2**k, 256 // 2**k) for k in range(2, 6)]
    boxes = torch.tensor([[50.0, 10, 40, 60], [float("nan"), 0, 10, 10], [10, 10, 50, 60]])
    scales = [1.0 / 2**k for k in range(2, 6)]
    stock = ROIPooler(7, scales, 0, "ROIAlignV2")(maps, [Boxes(boxes)])
    ours = pooler_of(range(2, 6), "ROIAlignV2")(maps, [Boxes(boxes)])
    torch.testing.assert_close(ours, stock)
    assert (ours[:2] == 0).all()
    torch.testing.assert_close(ours[2], torch.ones_like(ours[2]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("levels", [(2, 3, 4, 5), (2,)])
def test_half_precision_is_pooled_in_full_precision_and_comes_back(levels, dtype):
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(1, 4, 2 ** (8 - k), 2 ** (8 - k), generator=generator) for k in levels]
    maps, boxes = [m.to(dtype) for m in maps], [Boxes(random_boxes(20, 256.0))]
    pooled = pooler_of(levels)(maps, boxes)
    assert pooled.dtype == dtype
    full = pooler_of(levels)([m.float() for m in maps], boxes)  # a maximum is not rounded
    assert torch.equal(pooled.float(), full)


@pytest.mark.parametrize("pooler_type", POOLERS)
@pytest.mark.parametrize("levels", [(2, 3, 4, 5), (2,)])
def test_images_without_boxes_are_pooled_to_nothing(levels, pooler_type):
    pooler, maps = pooler_of(levels, pooler_type), maps_of(levels, 256)
    nothing = Boxes(torch.zeros(0, 4))
    assert pooler(maps, [nothing, nothing]).shape == (0, 3, 7, 7)
    assert pooler(maps, [nothing, Boxes(boxes_of((40, 40)))]).shape == (1, 3, 7, 7)
    assert pooler([m[:0] for m in maps], []).shape == (0, 3, 7, 7)


# --- Eq. 1's constants, from the config to the pooler


SHAPES = {f"p{k}": ShapeSpec(channels=64, stride=2**k) for k in range(2, 7)}


@pytest.mark.parametrize(
    "opts, side, level",
    [
        ([], 49, 2),  # laptop.yaml: 100
        ([], 50, 3),
        (["MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE", 224], 111, 2),
        (["MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE", 224], 112, 3),
        (["MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_LEVEL", 5], 50, 4),
        (["MODEL.ROI_HEADS.IN_FEATURES", ["p2"]], 200, 2),
    ],
)
def test_the_config_sets_eq_1(row_config, opts, side, level):
    cfg = row_config(QUICK, *opts)
    heads = build_roi_heads(cfg, SHAPES)
    assert type(heads) is LevelROIHeads
    levels = [int(name[1:]) for name in cfg.MODEL.ROI_HEADS.IN_FEATURES]
    pooled = heads.box_pooler(maps_of(levels, 256, n=1), [Boxes(boxes_of((side, side)))])
    torch.testing.assert_close(pooled, torch.full_like(pooled, float(level)))


def test_the_heads_pooler_is_detectron2s_but_for_eq_1(row_config):
    opts = ["MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 14]
    opts += ["MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", 3]
    canonical = ["MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE", 224]
    ours = build_roi_heads(row_config(QUICK, *opts, *canonical), SHAPES).box_pooler
    name = ["MODEL.ROI_HEADS.NAME", "StandardROIHeads"]
    stock = build_roi_heads(row_config(QUICK, *opts, *canonical, *name), SHAPES).box_pooler
    assert str(ours.level_poolers) == str(stock.level_poolers)
    assert (ours.canonical_box_size, ours.canonical_level) == (224, 4)
    assert (ours.min_level, ours.max_level) == (stock.min_level, stock.max_level) == (2, 5)


def test_the_norm_of_the_conv5_head_can_learn_while_the_backbones_is_frozen(row_config):
    row, frozen = "quick/Fast-RCNN/fast_rcnn_R_18_C4", ("MODEL.RESNETS.NORM", "FrozenBN")
    shapes = {"res4": ShapeSpec(channels=256, stride=16)}
    kinds = {}
    for norm in ("", "BN"):
        cfg = row_config(row, *frozen, "MODEL.ROI_BOX_HEAD.NORM", norm)
        head = build_roi_heads(cfg, shapes).res5
        kinds[norm] = {type(m).__name__ for m in head.modules() if "BatchNorm" in type(m).__name__}
        assert cfg.MODEL.RESNETS.NORM == "FrozenBN"
    assert kinds[""] == {"FrozenBatchNorm2d"}
    assert len(kinds["BN"]) == 1
    assert "Frozen" not in kinds["BN"].pop()


@pytest.mark.parametrize("row", ["C4", "C5", "FPN", "P2"])
def test_every_row_pools_in_bfloat16_training(row_config, make_input, row):
    # Table 2's rows pool by RoI pooling, whose kernel knows no bfloat16
    model = build_model(row_config(f"quick/Fast-RCNN/fast_rcnn_R_18_{row}")).train()
    inputs = [make_input(64, 96, [[2, 3, 50, 60], [10, 10, 20, 22]])]
    with EventStorage(), torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(inputs)
        sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
