"""Every choice of ``INPUT.FORMAT`` works in the programs, from training to an exported file."""

import json

import demo
import export
import numpy as np
import pytest
from PIL import Image

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_stale_logs")]

FORMATS = {  # a mean and a deviation for each channel
    "BGR": ([103.5, 116.3, 123.7], [57.4, 57.1, 58.4]),
    "RGB": ([123.7, 116.3, 103.5], [58.4, 57.1, 57.4]),
    "L": ([114.0], [58.0]),
    "YUV-BT.601": ([0.5, 0.0, 0.0], [0.25, 0.1, 0.1]),
}


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_network_is_trained_evaluated_shown_and_exported(
    run_train_net, output, tmp_path, run_tool, image_format
):
    mean, std = FORMATS[image_format]
    keys = ["INPUT.FORMAT", image_format, "MODEL.PIXEL_MEAN", mean, "MODEL.PIXEL_STD", std]
    keys += ["VIS_PERIOD", 1, "MODEL.WEIGHTS", ""]
    assert run_train_net("quick/Faster-RCNN/faster_rcnn_R_18_FPN", *keys)[0] == 0
    results = json.loads((output / "inference/tiny_val/results.json").read_text())
    assert results["bbox"]["AP"] >= 0

    deep = tmp_path / "deep.png"
    Image.fromarray(np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)).save(deep)
    model = ["--config-file", output / "config.yaml", "--weights", output / "model_final.pth"]
    words = [*model, "--input", deep, "--output", tmp_path / "shown", "--explain"]
    code, _, stderr = run_tool(demo, *words, "--threshold", 0.0)
    assert code == 0, stderr
    assert json.loads((tmp_path / "shown/predictions.json").read_text())

    words = [*model, "--format", "torchscript", "--output", tmp_path / "model.ts"]
    words += ["--images", deep]
    code, stdout, stderr = run_tool(export, *words)
    assert code == 0, stdout + stderr
    assert (tmp_path / "model.ts").is_file()
