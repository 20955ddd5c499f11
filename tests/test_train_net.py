"""train_net.py, as a user calls it: what it writes; for bad input see test_bad_input.py."""

import json
from pathlib import Path

import pytest
import torch

from fpn_d2.visualization import draw_results

pytestmark = pytest.mark.usefixtures("no_stale_logs")

FASTER = "quick/Faster-RCNN/faster_rcnn_R_18_FPN"
FAST = "quick/Fast-RCNN/fast_rcnn_R_18_FPN"


def test_train_evaluate_and_resume(run_train_net, output):
    assert run_train_net(FASTER)[0] == 0
    assert (output / "model_final.pth").is_file()
    trained = (output / "inference/tiny_val/results.json").read_text()
    assert "AP" in json.loads(trained)["bbox"]
    evaluation = ["--eval-only", "MODEL.WEIGHTS", output / "model_final.pth"]
    assert run_train_net(FASTER, *evaluation)[0] == 0
    assert (output / "inference/tiny_val/results.json").read_text() == trained
    # Its RPN is measured on its own.
    assert run_train_net(FASTER, *evaluation, "MODEL.META_ARCHITECTURE", "ProposalNetwork")[0] == 0
    results = json.loads((output / "inference/tiny_val/results.json").read_text())
    assert {"AR@10", "AR@100", "AR@1000", "ARs@1000"} <= set(results["box_proposals"])
    assert run_train_net(FASTER, "--resume", "SOLVER.MAX_ITER", 3)[0] == 0
    assert torch.load(output / "model_final.pth")["iteration"] == 2


def test_a_training_imports_what_it_needs(run_program, tiny_opts):
    """One iteration and one evaluation import nothing that only other programs need."""
    words = ["--config-file", "configs/quick/RPN/rpn_R_18_FPN.yaml", *tiny_opts]
    program = (
        "import sys, train_net; from fpn_d2.engine import launch\n"
        "launch(train_net.main, train_net.build_parser().parse_args())\n"
        "print(*(m for m in sys.modules if m.partition('.')[0] == 'fpn_d2'))"
    )
    done = run_program("-c", program, *words, "SOLVER.MAX_ITER", 1)
    assert done.returncode == 0, done.stderr
    modules = done.stdout.splitlines()[-1].split()
    assert len(modules) <= 55
    others = {"app", "demo", "experiments", "export", "foreign", "inspection", "visualization"}
    others |= {"explanation", "openvino_parts", "predictor", "quantization"}
    others |= {"roboflow", "shapes_scene", "voc", "yolo", "mask_recall", "matching"}
    assert not others & {part for module in modules for part in module.split(".")}


def test_a_state_of_a_training_that_is_none_is_refused(run_train_net, output):
    assert run_train_net(FASTER, "SOLVER.MAX_ITER", 1)[0] == 0
    content = torch.load(output / "model_final.pth")
    whole = content["trainer"]
    for trainer in ({**whole, "iteration": "x"}, {**whole, "iteration": None}, {}, [], 3):
        torch.save({**content, "trainer": trainer}, output / "model_final.pth")
        code, _, stderr = run_train_net(FASTER, "--resume", "SOLVER.MAX_ITER", 2)
        assert (code, stderr.count("\n")) == (2, 1)
        assert str(output) in stderr


@pytest.mark.parametrize("row", ["dual", "image_pyramid"])
def test_mask_proposals_train_and_are_measured(run_train_net, output, row):
    config = f"quick/Mask-Proposals/mask_R_18_{row}"
    assert run_train_net(config)[0] == 0
    folder = output / "inference/tiny_val"
    trained = json.loads((folder / "results.json").read_text())["mask_proposals"]
    assert 0 <= trained["AR@10"] <= trained["AR@100"] <= trained["AR@1000"] <= 100
    assert run_train_net(config, "--eval-only", "MODEL.WEIGHTS", output / "model_final.pth")[0] == 0
    again = json.loads((folder / "results.json").read_text())["mask_proposals"]
    del again["masks_per_second"], trained["masks_per_second"]
    assert again == trained
    files = draw_results(str(folder), str(output / "pictures"), num_images=2)
    assert all(Path(file).stat().st_size > 0 for file in files)


def test_an_rpns_proposals_train_a_fast_rcnn(run_train_net, output):
    sets = ["DATASETS.TEST", "('tiny_train', 'tiny_val')"]
    assert run_train_net("quick/RPN/rpn_R_18_FPN", *sets)[0] == 0
    keys = ["OVERWRITE_OUTPUT_DIR", True]
    for split, name in (("TRAIN", "tiny_train"), ("TEST", "tiny_val")):
        file = str(output / f"inference/{name}/box_proposals.pkl")
        keys += [f"DATASETS.PROPOSAL_FILES_{split}", (file,)]
    assert run_train_net(FAST, *keys)[0] == 0
    # RoI pooling in mixed precision too
    assert run_train_net(FAST, *keys, "SOLVER.AMP.ENABLED", True)[0] == 0


# With fork, the two processes inherit all that the program has imported.
FORKED = """
import functools, runpy, torch
start = torch.multiprocessing.start_processes
torch.multiprocessing.start_processes = functools.partial(start, start_method="fork")
runpy.run_path("train_net.py", run_name="__main__")
"""


@pytest.mark.slow
def test_two_processes_end_with_code_2_and_one_sentence(repo, tiny_opts, run_program):
    words = ["--config-file", repo / f"configs/{FASTER}.yaml", "--num-gpus", "2"]
    words += ["--dist-url", "auto", *tiny_opts, "DATASETS.TRAIN", "('nothing_train',)"]
    done = run_program("-c", FORKED, *words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "nothing_train" in sentence


def test_train_net_stays_short(repo):
    assert len((repo / "train_net.py").read_text().splitlines()) < 90
