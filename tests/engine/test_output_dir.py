"""One training in one folder, and the lines of its metrics."""

import json

import pytest

from fpn_d2 import UserError, load_config
from fpn_d2.engine import check_output_dir, restored_config
from fpn_d2.engine.output_dir import keep_steps_before

RPN = "configs/quick/RPN/rpn_R_18_FPN.yaml"


@pytest.fixture
def folder(repo, tmp_path):
    """A folder with checkpoints, and the config of a training into it."""
    (tmp_path / "out").mkdir()
    for name in ("last_checkpoint", "model_0000001.pth", "metrics.json"):
        (tmp_path / "out" / name).write_text("")
    return lambda *opts: load_config(repo / RPN, ["OUTPUT_DIR", str(tmp_path / "out"), *opts])


def test_a_second_training_is_refused_unless_it_resumes_or_overwrites(folder, tmp_path):
    with pytest.raises(UserError, match=r"model_0000001\.pth.*--resume.*OVERWRITE_OUTPUT_DIR"):
        check_output_dir(folder(), resume=False)
    assert check_output_dir(folder(), resume=True)
    overwriting = "OVERWRITE_OUTPUT_DIR", "True"
    assert not check_output_dir(folder(*overwriting), resume=False)
    assert (tmp_path / "out" / "model_0000001.pth").exists()  # until the new one begins
    own = str(tmp_path / "out" / "model_0000001.pth")
    with pytest.raises(UserError, match=r"MODEL\.WEIGHTS .* is one of the checkpoints"):
        check_output_dir(folder(*overwriting, "MODEL.WEIGHTS", own), resume=False)


def test_what_torchrun_restarts_resumes_only_what_it_began(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    for count in "012":  # refused at first, so also after torchrun's restarts
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
        with pytest.raises(UserError):
            check_output_dir(folder(), resume=False)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert check_output_dir(folder(), resume=True)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert check_output_dir(folder(), resume=False)


@pytest.mark.parametrize("name", ["file/run", "/proc/run"])
def test_a_folder_that_cannot_be_made_is_named(tmp_path, name):
    (tmp_path / "file").touch()
    folder = str(tmp_path / name)
    sentence = f"OUTPUT_DIR {folder} cannot be made .*; set it to a folder"
    with pytest.raises(UserError, match=sentence), restored_config(folder):
        raise AssertionError("not reached")
    with restored_config(str(tmp_path / "new/run")):
        assert (tmp_path / "new/run").is_dir()


def test_metrics_of_what_comes_again_are_cut_off(tmp_path):
    path = tmp_path / "metrics.json"
    lines = [json.dumps({"iteration": i, "total_loss": 1.0}) + "\n" for i in (19, 39, 59)]
    path.write_text("".join(lines) + '{"iteration": 7')
    keep_steps_before(str(tmp_path), 60)
    assert path.read_text() == "".join(lines)
    keep_steps_before(str(tmp_path), 40)
    assert path.read_text() == "".join(lines[:2])
    keep_steps_before(str(tmp_path / "nowhere"), 40)
