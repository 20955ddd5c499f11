"""The pictures that Detectron2 makes during training, every ``VIS_PERIOD`` iterations."""

import pytest
from detectron2.utils.events import EventStorage

from fpn_d2.engine import Trainer

pytest.importorskip("cv2", reason="Detectron2's pictures of a training need OpenCV")


@pytest.mark.usefixtures("no_stale_logs")
def test_a_picture_is_made_in_each_period(row_config, tiny_opts, monkeypatch):
    pictures, put_image = [], EventStorage.put_image

    def kept(self, name, picture):
        pictures.append((name, picture, self.iter))
        put_image(self, name, picture)

    monkeypatch.setattr(EventStorage, "put_image", kept)
    row = "quick/Faster-RCNN/faster_rcnn_R_18_FPN"
    Trainer(row_config(row, *tiny_opts, "VIS_PERIOD", 1)).train()
    assert [iteration for *_, iteration in pictures] == [0, 1]
    for name, picture, _ in pictures:
        assert name == "Left: GT bounding boxes;  Right: Predicted proposals"
        width = picture.shape[2] // 2
        assert (picture[:, :, :width] != picture[:, :, width:]).any()  # same image, other boxes
