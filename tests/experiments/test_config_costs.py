"""Costs of networks against arithmetic, and which configs are listed."""

import dataclasses
import json
import re

import analyze_model
import list_configs
import pytest
from detectron2.modeling import build_model

from fpn_d2 import UserError
from fpn_d2.checkpoint import SafeCheckpointer
from fpn_d2.experiments import load_tables
from fpn_d2.experiments.config_costs import (
    count_costs,
    count_parameters,
    noise_input,
    shipped_configs,
)

ROW = "quick/RPN/rpn_R_18_FPN"


@pytest.fixture(scope="module")
def tables(repo):
    return load_tables(repo / "configs" / "tables.yaml")


def test_every_row_is_listed_and_no_part_of_one(tables):
    names = shipped_configs(tables)
    rows = [row for table in tables.tables.values() for row in table.rows.values()]
    assert {config for row in rows for config in row.configs.values()} <= set(names)
    parts = ("models/", "tasks/", "tables", "Base", "common", "laptop", "quick/masks")
    assert not [name for name in names if name.startswith(parts) or "common" in name]
    assert "quick/demo.yaml" in names
    assert shipped_configs(tables, ["R_101", "demo"]) == [
        n for n in names if "R_101" in n or "demo" in n
    ]
    with pytest.raises(UserError, match="R_102"):
        shipped_configs(tables, ["R_102"])


def test_configs_of_other_programs_are_passed_over(tables, tmp_path):
    named = dataclasses.replace(tables, path=str(tmp_path / "tables.yaml"))
    with pytest.raises(UserError, match="no config below .*; name the --tables beside"):
        shipped_configs(named)
    (tmp_path / "mkdocs.yaml").write_text("a: !!python/name:os.system\n")
    (tmp_path / "mine.yaml").write_text("_BASE_: other.yaml\n")
    assert shipped_configs(named) == ["mine.yaml"]


def test_parameters_are_counted_without_memory(row_config):
    model = build_model(row_config(ROW))
    counted = count_parameters(row_config(ROW))
    assert counted["parameters"] == sum(p.numel() for p in model.parameters())
    bytes_stored = sum(4 * t.numel() for t in [*model.parameters(), *model.buffers()])
    assert counted["weights_mb"] == pytest.approx(bytes_stored / 2**20, abs=0.1)
    # FREEZE_AT 2 freezes the stem and res2, whose norms are frozen anyway
    frozen = count_parameters(row_config(ROW, "MODEL.BACKBONE.FREEZE_AT", 2))
    kept = [model.backbone.bottom_up.stem, model.backbone.bottom_up.res2]
    stopped = sum(p.numel() for part in kept for p in part.parameters())
    assert counted["trainable"] - frozen["trainable"] == stopped > 0


def test_an_image_of_noise_is_resized_as_the_config_says(row_config):
    (record,) = noise_input(row_config("quick/Fast-RCNN/fast_rcnn_R_18_FPN"))
    assert record["image"].shape == (3, 240, 320)  # 480 x 640, at most 320
    assert len(record["proposals"]) == 1000  # PRECOMPUTED_PROPOSAL_TOPK_TEST
    boxes = record["proposals"].proposal_boxes.tensor
    assert (boxes[:, :2] <= boxes[:, 2:]).all()


def test_the_list_has_the_papers_number_and_the_costs(printed, refused):
    out = printed(list_configs, "RPN/rpn_R_50_FPN.", "quick/RPN/rpn_R_18_FPN.", "--json")
    paper, quick = json.loads(out)
    (row,) = [row for row in paper["rows"] if row["table"] == "1"]
    assert (row["row"], row["paper"]["AR1k"]) == ("c", 56.3)  # Table 1 (c)
    assert [row["paper"] for row in quick["rows"] if row["table"] == "1"] == [{}]
    # Without its classifier, Detectron2's R-50 has 23.45 million weights (torchvision's 25.557
    # million less 2.049 million of fc and 0.053 million of norms); the rest is counted here:
    pyramid = 256 * (256 + 512 + 1024 + 2048) + 4 * 256 * 9 * 256 + 8 * 256
    head = 256 * 9 * 256 + 256 + 256 * 3 * (1 + 4) + 3 * 5
    assert paper["parameters"] == 25_557_032 - 2_049_000 - 53_120 + pyramid + head
    assert "AR1k 56.3" in printed(list_configs, "RPN/rpn_R_50_FPN")
    refused(list_configs, "nothing_like_it")


def test_the_list_goes_to_a_file_that_is_named(printed, refused, tmp_path):
    path = tmp_path / "new" / "configs.json"
    printed(list_configs, ROW, "--json", path)
    out = printed(list_configs, "--json", ROW)  # --json without a file, before a word
    assert json.loads(out) == json.loads(path.read_text())
    assert "--force" in refused(list_configs, ROW, "--json", path)
    sentence = refused(list_configs, "nothing_like_it", "--json", path / "below.json")
    assert "below.json could not be written" in sentence  # refused before the work


def flops_of_r18_c4(height, width):
    """The multiply-adds of quick/RPN/rpn_R_18_C4: the stem; on each stage two blocks of two 3 x 3
    convolutions, and a shortcut where the sides are halved; the RPN with its 15 anchors."""
    cells = {stride: (height // stride) * (width // stride) for stride in (2, 4, 8, 16)}
    stem = cells[2] * 64 * 3 * 49
    res2 = cells[4] * 9 * 64 * 64 * 4
    res3 = cells[8] * (9 * (64 * 128 + 3 * 128 * 128) + 64 * 128)
    res4 = cells[16] * (9 * (128 * 256 + 3 * 256 * 256) + 128 * 256)
    rpn = cells[16] * 256 * (9 * 256 + 15 * (1 + 4))
    return stem + res2 + res3 + res4 + rpn


def test_flops_of_one_network(printed, repo):
    out = printed(list_configs, "quick/RPN/rpn_R_18_C4", "--flops", "--json")
    (entry,) = json.loads(out)
    assert entry["input"] == [240, 320]
    assert entry["gflops"] == pytest.approx(flops_of_r18_c4(240, 320) / 1e9, abs=0.05)
    words = ["--config-file", repo / "configs/quick/RPN/rpn_R_18_C4.yaml", "-n", 0, "--tasks"]
    tasks = ["flop", "activation", "parameter", "structure"]
    out = printed(analyze_model, *words, *tasks)
    mean = re.search(r"^([\d.]+) \+- 0.00 GFLOPs for an image, over 1$", out, re.MULTILINE)
    assert float(mean[1]) == pytest.approx(entry["gflops"], abs=0.051)
    assert all(words in out for words in ("million activations", "rpn_head", "ResNet"))


def test_flops_are_averaged_over_the_test_set(printed, repo, row_config, wide_opts, tmp_path):
    SafeCheckpointer(build_model(row_config("quick/RPN/rpn_R_18_C4")), str(tmp_path)).save("model")
    words = ["--config-file", repo / "configs/quick/RPN/rpn_R_18_C4.yaml", "--tasks", "flop"]
    words += ["-n", 2, "--use-fixed-input-size", *wide_opts]
    out = printed(analyze_model, *words, "MODEL.WEIGHTS", tmp_path / "model.pth")
    last = f"{flops_of_r18_c4(64, 64) / 1e9:.2f} +- 0.00 GFLOPs for an image, over 2"
    assert out.splitlines()[-1] == last


@pytest.mark.parametrize("count", [count_parameters, count_costs])
def test_a_component_that_is_not_registered_is_named(row_config, count):
    cfg = row_config(ROW, "MODEL.RPN.HEAD_NAME", "MyHead")
    with pytest.raises(UserError, match=r"^MODEL\.RPN\.HEAD_NAME is 'MyHead', which is not regis"):
        count(cfg)


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["MODEL.RPN.HEAD_NAME", "MyHead"], "MODEL.RPN.HEAD_NAME is 'MyHead', which is not reg"),
        (["--weights", "a.pth", "MODEL.WEIGHTS", "b.pth"], "weights are given twice, by --weights"),
        (
            ["--use-fixed-input-size", "INPUT.MIN_SIZE_TEST", 0],
            "--use-fixed-input-size needs INPUT.MIN_SIZE_TEST above 0; give it at the end",
        ),
    ],
)
def test_what_cannot_be_counted_is_a_sentence(refused, repo, words, sentence):
    config = repo / "configs/quick/RPN/rpn_R_18_C4.yaml"
    ask = ["--tasks", "flop", "--config-file", config, "-n", 0, *words]
    assert refused(analyze_model, *ask).startswith(f"error: {sentence}")
