"""Sampling, losses and inference of mask proposals on small feature maps."""

import math

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage

from fpn_d2.modeling.mask_proposals import MaskProposalGenerator, MaskProposalHead

SIZE = (64, 96)


@pytest.fixture
def generator():
    """A generator of one MLP on strides 8 and 16: scales of 16 and 32, regions of 20 and 40 px."""
    torch.manual_seed(0)
    head = MaskProposalHead(4, window_sizes=[3], hidden_dim=8, mask_size=4)
    return MaskProposalGenerator(
        head=head,
        in_features=["p3", "p4"],
        strides=[8, 16],
        scales=[[16.0, 32.0]],
        batch_size_per_image=16,
        topk=10,
        mask_threshold=0.5,
    )


def features(fill=None):
    shapes = {"p3": (2, 4, 8, 12), "p4": (2, 4, 4, 6)}
    return {n: torch.randn(s) if fill is None else torch.full(s, fill) for n, s in shapes.items()}


def truth(*boxes):
    instances = Instances(SIZE)
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    masks = torch.zeros(len(boxes), *SIZE, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    instances.gt_masks = BitMasks(masks)
    return instances


def test_samples_and_their_targets(generator):
    places = generator._places(list(features().values()))
    # centre (28, 20): a place of p3, so 3 x 3 of its cells lie within 8 px
    instances = truth((20, 12, 36, 28))
    chosen, objects, targets = generator.sample(places, instances)
    # of 16 samples a quarter may be positive
    assert len(chosen) == 16
    assert objects.tolist() == [0] * 4
    assert targets.shape == (4, 4, 4)
    centers = places.centers[chosen[:4]]
    assert (centers - torch.tensor([28.0, 20.0])).abs().max() <= 8
    for center, target in zip(centers, targets, strict=True):
        # the region of 20 px around the place in cells of 5 px; a cell is on where the object
        # covers most of it
        for row in range(4):
            for column in range(4):
                x0, y0 = center[0] - 10 + 5 * column, center[1] - 10 + 5 * row
                width = min(x0 + 5, 36) - max(x0, 20)
                height = min(y0 + 5, 28) - max(y0, 12)
                covered = max(width, 0) * max(height, 0) / 25
                if abs(covered - 0.5) > 0.15:  # sampling decides the others
                    assert target[row, column] == (covered > 0.5)
    # no negative is a place that answers for the object
    assert (generator.match(places, instances)[chosen[4:]] == -1).all()


def test_places_on_a_batchs_padding_are_no_samples(generator):
    places = generator._places(list(features().values()))
    instances = truth((20, 12, 36, 28))
    instances._image_size = (40, 50)
    for _ in range(5):
        chosen, _, _ = generator.sample(places, instances)
        assert (places.centers[chosen] < torch.tensor([50.0, 40.0])).all()


def test_losses_by_hand(generator):
    # Weights of zero: every logit is 0, so each logistic loss is ln 2, the mask's times 10
    for parameter in generator.head.parameters():
        torch.nn.init.zeros_(parameter)
    images = ImageList(torch.zeros(2, 3, *SIZE), [SIZE, SIZE])
    with EventStorage():
        _, losses = generator(images, features(), [truth((20, 12, 36, 28)), truth()])
    assert losses["loss_score"].item() == pytest.approx(math.log(2))
    assert losses["loss_mask"].item() == pytest.approx(10 * math.log(2))


def test_without_objects_there_is_a_score_loss_alone(generator):
    images = ImageList(torch.zeros(2, 3, *SIZE), [SIZE, SIZE])
    with EventStorage():
        _, losses = generator(images, features(), [truth(), truth()])
        sum(losses.values()).backward()
    assert losses["loss_mask"].item() == 0
    assert losses["loss_score"].item() > 0
    assert all(p.grad is not None for p in generator.head.parameters())


def test_the_loss_at_samples_is_the_loss_of_dense_maps_there(generator):
    levels = list(features().values())
    places = generator._places(levels)
    instances = [truth((20, 12, 36, 28)), truth((40, 20, 76, 50))]
    with EventStorage():
        torch.manual_seed(3)
        losses = generator.losses(levels, places, instances)
    torch.manual_seed(3)
    samples = [generator.sample(places, i) for i in instances]
    scores = torch.cat(
        [generator.head.scores(generator.head.hidden(x, 0), 0).flatten(1) for x in levels], dim=1
    )
    expected = [
        torch.nn.functional.softplus(-scores[n, p] if k < len(objects) else scores[n, p])
        for n, (chosen, objects, _) in enumerate(samples)
        for k, p in enumerate(chosen)
    ]
    torch.testing.assert_close(losses["loss_score"], torch.stack(expected).mean())


def test_the_best_of_all_levels_have_their_masks(generator):
    generator.eval()
    images = ImageList(torch.zeros(2, 3, *SIZE), [SIZE, (32, 40)])
    levels = features()
    proposals, losses = generator(images, levels)
    assert losses == {}
    maps = {n: generator.head.hidden(level, 0) for n, level in levels.items()}
    for n, found in enumerate(proposals):
        height, width = images.image_sizes[n]
        every = []
        for name, stride, side in (("p3", 8, 20.0), ("p4", 16, 40.0)):
            hidden = maps[name][n]
            for y in range(hidden.shape[1]):
                for x in range(hidden.shape[2]):
                    center = ((x + 0.5) * stride, (y + 0.5) * stride)
                    if center[0] < width and center[1] < height:
                        row = hidden[None, :, y, x]
                        every.append((generator.head.scores_at(row, 0), center, side, row))
        every.sort(key=lambda place: -place[0].item())
        assert len(found) == 10
        for i, (score, center, side, row) in enumerate(every[:10]):
            assert found.scores[i].item() == pytest.approx(score.sigmoid().item(), abs=1e-6)
            region = [center[0] - side / 2, center[1] - side / 2]
            region += [center[0] + side / 2, center[1] + side / 2]
            assert found.pred_masks.regions[i].tolist() == pytest.approx(region)
            mask = generator.head.masks_at(row, 0)[0].sigmoid()
            torch.testing.assert_close(found.pred_masks.masks[i], mask)


def test_fewer_places_than_proposals(generator):
    generator.eval()
    generator.topk = 10**6
    images = ImageList(torch.zeros(1, 3, *SIZE), [(8, 8)])
    levels = {name: level[:1] for name, level in features().items()}
    assert len(generator(images, levels)[0][0]) == 1 + 0  # one cell of p3; p4's is centred at 8, 8
