"""One network in three packages, and norms by hand."""

import runpy
import shutil
from itertools import chain

import torch
from benchmark import networks


def test_one_network_in_three_packages():
    """Features and the RPN's outputs agree, and there are hundreds of proposals: activations
    that grow from block to block would not leave them."""
    built = networks.build_networks("cpu", (256, 320))
    record = networks.image_record(0, (256, 320))
    with torch.no_grad():
        images = built.stock.preprocess_image([record])
        expected = built.stock.backbone(images.tensor)
        proposals, _ = built.stock.proposal_generator(images, expected)
        ours = built.ours.backbone(images.tensor)
        theirs = built.torchvision.backbone(images.tensor)
        ours_rpn = built.ours.proposal_generator.rpn_head(list(expected.values()))
        theirs_rpn = built.torchvision.rpn.head(list(expected.values()))
        detections = built.stock([record])[0]["instances"]
    assert len(proposals[0]) > 100  # of 20,460 anchors
    assert len(detections) > 10
    for a, b in zip(chain(*ours_rpn), chain(*theirs_rpn), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    for (name, feature), other in zip(expected.items(), theirs.values(), strict=True):
        largest = feature.abs().max()
        assert (ours[name] - feature).abs().max() < 1e-3 * largest
        assert (other - feature).abs().max() < 1e-3 * largest
        assert 0.1 < feature.std() < 10


def test_the_configs_are_found_wherever_the_module_lies(tmp_path):
    """In a wheel the configs are in the package, and the tools are not."""
    there = runpy.run_path(shutil.copy(networks.__file__, tmp_path))
    assert (there["CONFIGS"] / "quick").is_dir()


def test_boxes_lie_on_the_image():
    boxes = networks.random_boxes(200, (60, 90), torch.Generator().manual_seed(0))
    assert boxes.shape == (200, 4)
    assert (boxes >= 0).all()
    assert (boxes[:, 2] <= 90).all()
    assert (boxes[:, 3] <= 60).all()
    assert (boxes[:, 2:] - boxes[:, :2]).min() > 5  # no less than half of 16 / sqrt(2)
