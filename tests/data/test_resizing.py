"""The network input that torchvision's own transform makes of an image."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from fpn_d2 import UserError
from fpn_d2.data import TorchvisionResize, build_test_mapper

ROW = "torchvision/faster_rcnn_R_50_FPN"
SIZES = [(30, 40), (40, 30), (33, 71), (100, 100), (21, 190), (64, 48), (49, 98), (3, 200)]


@pytest.mark.parametrize("size", SIZES)
def test_an_image_becomes_torchvisions_network_input(row_config, size):
    cfg = row_config(ROW)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    tensor = torch.from_numpy(image.transpose(2, 0, 1).copy()).float() / 255
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    images, _ = GeneralizedRCNNTransform(48, 80, mean, std).eval()([tensor])
    (height, width) = images.image_sizes[0]
    resized = TorchvisionResize(48, 80).get_transform(image).apply_image(image)
    assert resized.shape == (height, width, 3)
    ours = torch.from_numpy(resized.transpose(2, 0, 1))
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
    )
    expected = images.tensors[0, :, :height, :width]
    torch.testing.assert_close((ours - mean) / std, expected, rtol=0, atol=2e-5)


def test_boxes_are_resized_with_the_image():
    image = np.zeros((30, 40, 3), np.uint8)
    transform = TorchvisionResize(60, 100).get_transform(image)  # x 2
    assert transform.apply_box(np.array([[1.0, 2, 30, 20]])).tolist() == [[2, 4, 60, 40]]


def test_the_config_chooses_the_resize(row_config):
    plain = build_test_mapper(row_config("quick/demo"))
    assert type(plain) is DatasetMapper
    assert isinstance(plain.augmentations.augs[0], T.ResizeShortestEdge)
    (resize,) = build_test_mapper(row_config(ROW)).augmentations.augs
    assert isinstance(resize, TorchvisionResize)
    assert (resize.min_size, resize.max_size) == (800, 1333)
    with pytest.raises(UserError, match="RESIZE_TEST is 'pil'; give detectron2 or torchvision"):
        row_config(ROW, "INPUT.RESIZE_TEST", "pil")
