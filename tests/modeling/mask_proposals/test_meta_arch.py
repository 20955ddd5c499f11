"""The network of Sec. 6, from images to masks in pixels of the original, and its training."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks
from detectron2.utils.events import EventStorage

from fpn_d2 import UserError
from fpn_d2.structures import RegionMasks

ROWS = ["5x5", "7x7", "dual", "dual_28", "image_pyramid"]


@pytest.fixture
def build(row_config):
    def make(name, *opts):
        torch.manual_seed(0)
        return build_model(row_config(f"quick/Mask-Proposals/mask_R_18_{name}", *opts))

    return make


@pytest.mark.parametrize("name", ROWS)
def test_masks_in_the_pixels_of_the_original_image(build, make_input, name):
    model = build(name, "MODEL.MASK_PROPOSAL.TOPK_TEST", 50).eval()
    image = make_input(64, 96, [])
    image |= {"height": 128, "width": 288}  # two and three times the network's input
    with torch.no_grad():
        (output,) = model([image])
    found = output["instances"]
    assert len(found) == 50
    assert found.image_size == (128, 288)
    assert isinstance(found.pred_masks, RegionMasks)
    assert found.pred_masks.image_size == (128, 288)
    assert (found.scores[:-1] >= found.scores[1:]).all()
    regions = found.pred_masks.regions
    sides = (regions[:, 2:] - regions[:, :2]) / torch.tensor([3.0, 2.0])
    # squares on the network's input, except that an image pyramid rounds its sides
    torch.testing.assert_close(sides[:, 0], sides[:, 1], rtol=0.02, atol=0)
    # 25 % more than a scale of the row or, on an image pyramid, than 128 px at a half octave
    octaves = (sides[:, 0] / 40).log2() * 2
    torch.testing.assert_close(octaves, octaves.round(), atol=0.2, rtol=0)
    boxes = found.pred_boxes.tensor
    assert (boxes >= 0).all()
    assert (boxes <= torch.tensor([288.0, 128, 288, 128])).all()
    assert found.pred_masks.masks.shape[-1] == (28 if "28" in name else 14)


def test_an_image_pyramid_sees_every_scale(build, make_input):
    model = build("image_pyramid", "MODEL.MASK_PROPOSAL.TOPK_TEST", 10**6).eval()
    with torch.no_grad():
        regions = model([make_input(160, 160, [])])[0]["instances"].pred_masks.regions
    sides = {round(side, 1) for side in (regions[:, 2] - regions[:, 0]).tolist()}
    # 160 px at 2^-2.5 .. 2^0.5: the image's sides are whole pixels
    expected = [160 * 160 / round(160 * 2 ** (i / 2)) for i in range(-5, 2)]
    assert sorted(sides) == pytest.approx(sorted(expected), abs=0.1)


def test_the_backbone_gets_images_as_in_training(build, make_input):
    model = build("5x5", "MODEL.PIXEL_STD", [50.0, 60.0, 70.0]).eval()
    image = make_input(64, 96, [])
    seen = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        for factor in (1, 0.25):
            model.resize_factors = [factor]
            model([image])
    one, quarter = seen[0][0, :, :64, :96], seen[1][0, :, :16, :24]
    std = torch.tensor([50.0, 60.0, 70.0])[:, None, None]
    torch.testing.assert_close(one, (image["image"] - model.pixel_mean) / std)
    assert quarter.std() < 0.4 * one.std()  # of 4 x 4 pixels of noise the mean, not some of them


def test_the_settings_are_the_configs(build):
    settings = {
        "PADDING": 0.5, "CENTER_RADIUS": 2.0, "BATCH_SIZE_PER_IMAGE": 32, "POSITIVE_FRACTION": 0.75,
        "MASK_LOSS_WEIGHT": 3.0, "MASK_THRESHOLD": 0.4, "HIDDEN_DIM": 8, "ASSIGN_EXTREMES": False,
    }  # fmt: skip
    words = [w for k, v in settings.items() for w in (f"MODEL.MASK_PROPOSAL.{k}", v)]
    made = build("dual", *words).proposal_generator
    found = [getattr(made, key.lower()) for key in list(settings)[:6]]
    assert found == list(settings.values())[:6]
    assert [(mlp.out_channels, mlp.kernel_size[0]) for mlp in made.head.mlps] == [(8, 5), (8, 7)]
    assert (made.max_octaves, build("dual").proposal_generator.max_octaves) == (0.25, None)


@pytest.mark.parametrize("path", ["TOP_DOWN", "LATERAL"])
def test_the_necks_switches_work_here_too(build, make_input, path):
    model = build("5x5", f"MODEL.FPN.{path}", False).train()
    image = make_input(64, 96, [[10, 10, 40, 40]])
    masks = torch.zeros(1, 64, 96, dtype=torch.bool)
    masks[0, 10:40, 10:40] = True
    image["instances"].gt_masks = BitMasks(masks)
    with EventStorage():
        losses = model([image])
        sum(losses.values()).backward()
    assert set(losses) == {"loss_score", "loss_mask"}
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_the_batch_does_not_change_an_image(build, make_input):
    model = build("dual", "MODEL.MASK_PROPOSAL.TOPK_TEST", 30).eval()
    small, large = make_input(64, 64, []), make_input(128, 160, [], 1)
    with torch.no_grad():
        alone = model([small])[0]["instances"]
        together = model([small, large])[0]["instances"]
    assert len(together) == 30
    # a batch's padding is zero, as beyond an image's border, but for the norm's bias in the network
    torch.testing.assert_close(alone.scores, together.scores, atol=0.05, rtol=0)
    centers = (together.pred_masks.regions[:, :2] + together.pred_masks.regions[:, 2:]) / 2
    assert (centers < 64).all()


@pytest.mark.parametrize(
    "opts, sentence",
    [
        (["MODEL.MASK_PROPOSAL.WINDOWS", "[4]"], "WINDOWS is .4.; give odd sides"),
        (["MODEL.MASK_PROPOSAL.WINDOWS", "[5]"], "SIZES must have a list for each of the 1"),
        (["MODEL.MASK_PROPOSAL.TEST_SCALES", "[0.0]"], "TEST_SCALES is .0.0.; give factors"),
        (["MODEL.MASK_PROPOSAL.MASK_SIZE", "0"], "MASK_SIZE is 0; give 1 or more"),
        (["MODEL.MASK_PROPOSAL.IN_FEATURES", "['p2','p3','p4','p5','p9']"], "names p9"),
        (["MODEL.MASK_ON", "False"], "MODEL.MASK_ON is False"),
    ],
)
def test_settings_that_cannot_work_are_refused(build, opts, sentence):
    with pytest.raises(UserError, match=sentence):
        build("dual", *opts)
