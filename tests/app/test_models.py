"""app/models.py: which models a page offers."""

import shutil

import pytest

from fpn_d2 import UserError
from fpn_d2.app import find_models, parse_model


def test_a_pair_of_words(repo, tmp_path):
    config = repo / "configs/quick/Faster-RCNN/faster_rcnn_R_18_FPN.yaml"
    (tmp_path / "a.pth").touch()
    title, cfg = parse_model(f"{config}:{tmp_path / 'a.pth'}")
    assert title == "faster_rcnn_R_18_FPN"
    assert str(tmp_path / "a.pth") == cfg.MODEL.WEIGHTS
    with pytest.raises(UserError, match=r"no\.pth does not exist"):
        parse_model(f"{config}:{tmp_path / 'no.pth'}")


def test_fast_rcnn_on_a_file_is_not_offered(repo, tmp_path):
    (tmp_path / "a.pth").touch()
    with pytest.raises(UserError, match="Fast R-CNN on proposals from a file"):
        parse_model(f"{repo}/configs/quick/Fast-RCNN/fast_rcnn_R_18_FPN.yaml:{tmp_path}/a.pth")


def test_runs_below_a_folder(tmp_path, row_config, caplog):
    rows = {"x/faster": "Faster-RCNN/faster_rcnn_R_18_FPN", "fast": "Fast-RCNN/fast_rcnn_R_18_FPN"}
    for place, row in rows.items():
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "config.yaml").write_text(row_config(f"quick/{row}").dump())
        (tmp_path / place / "model_final.pth").touch()
    shutil.copytree(tmp_path / "x/faster", tmp_path / "unfinished")
    (tmp_path / "unfinished" / "model_final.pth").unlink()
    found = find_models(str(tmp_path))
    assert list(found) == ["x/faster"]
    (line,) = caplog.messages  # the log names what is not offered
    assert f"{tmp_path / 'fast'} is a Fast R-CNN on proposals from a file" in line
    assert str(tmp_path / "x/faster/model_final.pth") == found["x/faster"].MODEL.WEIGHTS


def test_no_runs(tmp_path):
    with pytest.raises(UserError, match="no trained model below .*train_net.py"):
        find_models(str(tmp_path))
