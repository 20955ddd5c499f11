"""4-step training: what is shared stays, what is trained is joined, what is done stays done.

One real training of two iterations a step runs in this process; what changes it works on a copy.
"""

import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
import train_four_step
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

import train_net
from fpn_d2 import UserError, load_model
from fpn_d2.data.datasets import register_folders
from fpn_d2.data.datasets.shapes import CLASSES
from fpn_d2.engine import Trainer, launch
from fpn_d2.experiments import FourStep, Run, Runner, proposal_opts
from fpn_d2.experiments.four_step import check_frozen

pytestmark = pytest.mark.usefixtures("no_stale_logs")

CONFIGS = Path(__file__).resolve().parents[2] / "configs/quick"
SHARED = str(CONFIGS / "Feature-Sharing/shared_R_18_FPN.yaml")
UNSHARED = str(CONFIGS / "Feature-Sharing/unshared_R_18_FPN.yaml")
RPN = str(CONFIGS / "RPN/rpn_R_18_FPN.yaml")
FAST = str(CONFIGS / "Fast-RCNN/fast_rcnn_R_18_FPN.yaml")
FAKE = str(Path(__file__).parents[1] / "fake_train_net.py")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
SETS = ("DATASETS.TRAIN", "('a',)", "DATASETS.TEST", "('b',)")
OPTS = (
    *("DATASETS.TRAIN", "('tiny_train',)", "DATASETS.TEST", "('tiny_val',)"),
    *("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64"),
    *("SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()"),
    *("SOLVER.WARMUP_ITERS", "0", "SOLVER.AMP.ENABLED", "False"),
    *("DATALOADER.NUM_WORKERS", "0", "MODEL.DEVICE", "cpu"),
    *("MODEL.RESNETS.DEPTH", "50", "MODEL.RESNETS.RES2_OUT_CHANNELS", "16"),  # narrow
    *("MODEL.FPN.OUT_CHANNELS", "16", "MODEL.ROI_BOX_HEAD.FC_DIM", "16"),
)


class InThisProcess(Runner):
    """Calls train_net.py in this process, and remembers the calls."""

    calls = []

    def call(self, run, flags, opts, lock=None):
        self.calls.append((os.path.basename(run.folder), *flags))
        words = ["--config-file", run.config, *flags, *run.opts, *opts, "OUTPUT_DIR", run.folder]
        launch(train_net.main, train_net.build_parser().parse_args(words))


@pytest.fixture(scope="module")
def tiny(tiny_root):
    names = register_folders(tiny_root)
    yield
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """A finished training, its result, and the calls that it made."""
    folder = str(tmp_path_factory.mktemp("four_step"))
    training = FourStep(SHARED, folder, OPTS)
    InThisProcess.calls.clear()
    result = training.train(InThisProcess("none"))
    yield training, result, list(InThisProcess.calls)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def weights(trained):
    """The weights of steps 1 to 4 and, under 0, of the joined network."""
    training = trained[0]
    paths = {0: training.weights}
    names = ("step1_rpn", "step2_fast_rcnn", "step3_rpn", "step4_fast_rcnn")
    for i, name in enumerate(names, start=1):
        paths[i] = os.path.join(training.folder, name, "model_final.pth")
    return {i: torch.load(path)["model"] for i, path in paths.items()}


def part(weights, prefix):
    return {key: value for key, value in weights.items() if key.startswith(prefix)}


def differing(a, b):
    assert a.keys() == b.keys()
    return {key for key in a if a[key].dtype != b[key].dtype or not torch.equal(a[key], b[key])}


# -- the weights -------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [3, 4, 0])
def test_the_shared_layers_are_those_of_step_2_in_every_byte(weights, step):
    start = part(weights[2], "backbone.")
    assert differing(part(weights[step], "backbone."), start) == set()
    for name in STATISTICS:
        assert sum(key.endswith(name) for key in start) == 53  # 49 convs and 4 shortcuts


def test_step_2_has_trained_what_is_shared(weights):
    assert weights[2]["backbone.bottom_up.stem.conv1.norm.num_batches_tracked"] == 2  # iterations
    assert (weights[2]["backbone.fpn_lateral4.bias"] != 0).any()  # its start is 0
    start = part(weights[1], "backbone.")
    changed = differing(part(weights[2], "backbone."), start)
    counts = {key for key in start if key.endswith("num_batches_tracked")}
    assert changed == set(start) - counts  # both have seen the same number of batches


def test_the_joined_rpn_is_step_3s(weights):
    parts = ("backbone.", "proposal_generator.", "roi_heads.")
    assert all(key.startswith(parts) for key in weights[0])
    joined = part(weights[0], "proposal_generator.")
    assert len(joined) == 6  # three convolutions and their biases
    assert differing(joined, part(weights[3], "proposal_generator.")) == set()
    assert differing(joined, part(weights[1], "proposal_generator.")) == set(joined)
    # a fresh head's biases are zero
    assert all(value.any() for key, value in joined.items() if key.endswith("bias"))


def test_the_joined_box_head_is_step_4s(weights):
    joined = part(weights[0], "roi_heads.")
    assert len(joined) == 8  # two fc layers, two predictors
    assert differing(joined, part(weights[4], "roi_heads.")) == set()
    assert differing(joined, part(weights[2], "roi_heads.")) == set(joined)


def test_the_joined_network_keeps_the_names_of_its_classes(trained):
    assert torch.load(trained[0].weights, weights_only=True)["class_names"] == list(CLASSES)


@pytest.mark.parametrize("step", [3, 4])
def test_steps_3_and_4_start_from_step_2(trained, weights, step):
    cfg = trained[0].shared_runs()[step - 3].load_config()
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    start = trainer.model.state_dict()
    assert differing(part(start, "backbone."), part(weights[2], "backbone.")) == set()
    if step == 3:  # a head from random weights
        assert not start["proposal_generator.rpn_head.objectness_logits.bias"].any()
    else:
        assert differing(part(start, "roi_heads."), part(weights[2], "roi_heads.")) == set()
    assert trainer.start_iter == 0


def test_step_4_reads_the_proposals_of_step_3(trained):
    training = trained[0]
    runs = {"step1_rpn": training.separate_runs()[1], "step3_rpn": training.shared_runs()[1]}
    for rpn, run in runs.items():
        cfg = run.load_config()
        for split, name in (("TRAIN", "tiny_train"), ("TEST", "tiny_val")):
            path = os.path.join(training.folder, rpn, "inference", name, "box_proposals.pkl")
            assert list(cfg.DATASETS[f"PROPOSAL_FILES_{split}"]) == [path]
            assert os.path.isfile(path)


# -- the joined checkpoint ---------------------------------------------------------------------


def joined_config(training):
    opts = (*training.opts, "MODEL.WEIGHTS", training.weights)
    return Run(training.config, training.folder, opts).load_config()


def test_it_is_evaluated_like_any_other_checkpoint(trained, weights):
    training, result, _ = trained
    cfg = joined_config(training)
    model = load_model(cfg)
    assert differing(model.state_dict(), weights[0]) == set()
    numbers = Trainer.test(cfg, model)["bbox"]
    expected = {key: None if value != value else value for key, value in numbers.items()}
    assert result["results"] == {"tiny_val": {"bbox": expected}}


def test_stock_detectron2_loads_it(trained, weights, monkeypatch):
    cfg = get_cfg()
    levels, stages = ["p2", "p3", "p4", "p5"], ["res2", "res3", "res4", "res5"]
    names = {"NAME": "StandardROIHeads", "IN_FEATURES": levels, "NUM_CLASSES": 5}
    head = {"NAME": "FastRCNNConvFCHead", "NUM_FC": 2, "FC_DIM": 16, "POOLER_RESOLUTION": 7}
    resnet = {"DEPTH": 50, "RES2_OUT_CHANNELS": 16, "NORM": "BN", "OUT_FEATURES": stages}
    resnet["WIDTH_PER_GROUP"] = 4
    for section, values in {
        "BACKBONE": {"NAME": "build_resnet_fpn_backbone"},
        "RESNETS": resnet,
        "FPN": {"IN_FEATURES": stages, "OUT_CHANNELS": 16},
        "ANCHOR_GENERATOR": {"SIZES": [[32], [64], [128], [256], [512]]},
        "RPN": {"HEAD_NAME": "StandardRPNHead", "IN_FEATURES": [*levels, "p6"]},
        "ROI_HEADS": names,
        "ROI_BOX_HEAD": head,
    }.items():
        cfg.MODEL[section].update(values)
    cfg.MODEL.DEVICE, cfg.MODEL.MASK_ON = "cpu", False
    model = build_model(cfg)
    reports = []
    monkeypatch.setattr(
        DetectionCheckpointer, "_log_incompatible_keys", lambda _, keys: reports.append(keys)
    )
    DetectionCheckpointer(model).load(trained[0].weights)
    (report,) = reports
    assert not report.missing_keys
    assert not report.unexpected_keys
    assert not report.incorrect_shapes
    assert differing(model.state_dict(), weights[0]) == set()


# -- what is called ----------------------------------------------------------------------------


def test_each_step_is_one_training_and_each_rpn_is_evaluated_once_more(trained):
    assert trained[2] == [
        ("step1_rpn", "--resume"),
        ("step1_rpn", "--eval-only"),  # on the training set
        ("step2_fast_rcnn", "--resume"),
        ("step3_rpn", "--resume"),
        ("step3_rpn", "--eval-only"),
        ("step4_fast_rcnn", "--resume"),
        (os.path.basename(trained[0].folder), "--eval-only"),
    ]


def test_the_result_tells_of_every_step(trained):
    training, result, _ = trained
    assert result["iterations"] == 8  # four times two
    assert len(result["steps"]) == 4
    assert result["seconds"] == pytest.approx(sum(result["steps"]), abs=0.06)
    assert result["config"] == SHARED
    assert result == json.loads(Path(training.folder, "run.json").read_text())
    InThisProcess.calls.clear()
    assert training.train(InThisProcess("none")) == result
    assert InThisProcess.calls == []  # a second call trains nothing


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of the finished training's folder, whose weights are links."""

    def link(source, target):
        (os.symlink if source.endswith(".pth") else shutil.copy2)(source, target)

    folder = tmp_path / "copy"
    shutil.copytree(trained[0].folder, folder, copy_function=link)
    yield folder
    shutil.rmtree(folder)


def test_a_kill_before_the_networks_are_joined_costs_an_evaluation(trained, copy, weights):
    for name in ("run.json", "model_final.pth", "inference/tiny_val/results.json"):
        (copy / name).unlink()
    InThisProcess.calls.clear()
    training = FourStep(SHARED, str(copy), OPTS)
    assert training.train(InThisProcess("none"))["results"] == trained[1]["results"]
    assert InThisProcess.calls == [("copy", "--eval-only")]
    assert differing(torch.load(training.weights)["model"], weights[0]) == set()


def test_a_step_that_did_not_keep_the_shared_layers_is_named(copy, weights):
    changed = {key: value.clone() for key, value in weights[3].items()}
    changed["backbone.bottom_up.stem.conv1.norm.running_mean"][0] += 1e-6
    path = copy / "step3_rpn" / "model_final.pth"
    path.unlink()
    torch.save({"model": changed}, path)
    (copy / "run.json").unlink()
    (copy / "model_final.pth").unlink()
    layer = r"backbone\.bottom_up\.stem\.conv1\.norm\.running_mean"
    with pytest.raises(UserError, match=f"^step 3 has changed the shared layer {layer},"):
        FourStep(SHARED, str(copy), OPTS).train(InThisProcess("none"))
    assert not (copy / "model_final.pth").exists()


# -- without training --------------------------------------------------------------------------


def test_a_training_and_its_steps_have_one_interface(tmp_path):
    shared, unshared = (FourStep(config, str(tmp_path), OPTS) for config in (SHARED, UNSHARED))
    steps = unshared.separate_runs()
    assert Run(RPN, str(tmp_path)).steps() == []
    assert unshared.steps() == unshared.networks() == steps
    assert shared.steps() == [*steps, *shared.shared_runs()]
    assert shared.networks() == [shared]
    assert shared.weights == f"{tmp_path}/model_final.pth"
    assert shared.inference_folder("a") == f"{tmp_path}/inference/a"
    assert unshared.inference_folder("a") == steps[1].inference_folder("a")


def test_steps_of_other_settings_are_refused(tmp_path):
    training, runner = FourStep(UNSHARED, str(tmp_path / "run"), SETS), Runner(FAKE)
    result = training.train(runner)
    assert runner.result(training) == result
    other = FourStep(UNSHARED, training.folder, (*SETS, "SEED", "4"))
    folder = re.escape(training.folder)
    with pytest.raises(UserError, match=f"^{folder} was begun with other .*SEED"):
        runner.result(other)
    path = Path(training.separate_runs()[1].folder, "settings.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "SEED": "9"}))
    folder = re.escape(str(path.parent))
    with pytest.raises(UserError, match=f"^{folder} was begun with other .*SEED 9 there"):
        runner.result(training)  # whose own folder is as it was


def test_not_shared_calls_two_trainings(tmp_path, calls):
    opts = (*SETS, "SEED", "2")
    training = FourStep(UNSHARED, str(tmp_path / "run"), opts)
    half = tmp_path / "run" / "model_final.pth.99999999.partial"  # what a kill leaves
    half.parent.mkdir()
    half.touch()
    result = training.train(Runner(FAKE))
    assert not half.exists()
    assert [(call["config"], call["flag"]) for call in calls()] == [
        (Path(RPN).stem, "--resume"),
        (Path(RPN).stem, "--eval-only"),
        (Path(FAST).stem, "--resume"),
    ]
    assert not any("MODEL.FPN.FREEZE" in call for call in calls())
    assert result["results"]["b"]["bbox"]["AP"] == 32.0  # 30 + the seed
    assert result["steps"] == [14.0, 14.0]  # 20 x 0.5 s + 10 x 0.4 s
    assert result["seconds"] == 28.0
    rpn, fast = training.separate_runs()
    assert result["results"] == fast.result()["results"]
    assert result["iterations"] == rpn.result()["iterations"] + fast.result()["iterations"]
    assert not os.path.exists(training.weights)  # the two networks are not joined


def test_a_failed_step_ends_it_and_the_next_call_goes_on(tmp_path, monkeypatch, calls):
    training, runner = FourStep(UNSHARED, str(tmp_path / "run"), SETS), Runner(FAKE)
    monkeypatch.setenv("FAKE_MODE", "bug")
    with pytest.raises(UserError, match="output.txt"):
        training.train(runner)
    monkeypatch.delenv("FAKE_MODE")
    runner.train(training.separate_runs()[0])
    before = len(calls())
    training.train(runner)
    # the proposals of step 1, and step 2
    assert [call["config"] for call in calls()[before:]] == [Path(RPN).stem, Path(FAST).stem]


def test_every_data_set_of_the_training_has_its_proposals(tmp_path):
    opts = ("DATASETS.TRAIN", "('a', 'b')", "DATASETS.TEST", "('c',)")
    cfg_opts = proposal_opts(Run(RPN, str(tmp_path), opts))
    files = dict(zip(cfg_opts[::2], cfg_opts[1::2], strict=True))
    paths = [f"{tmp_path}/inference/{name}/box_proposals.pkl" for name in "abc"]
    assert files == {
        "DATASETS.PROPOSAL_FILES_TRAIN": str(paths[:2]),
        "DATASETS.PROPOSAL_FILES_TEST": str(paths[2:]),
    }


def test_a_full_disk_is_told_where_the_networks_are_joined(tmp_path, monkeypatch):
    torch.save({"model": {}}, tmp_path / "step.pth")
    monkeypatch.setattr(torch, "save", Mock(side_effect=OSError(28, "No space left on device")))
    steps = [SimpleNamespace(weights=str(tmp_path / "step.pth"))] * 4
    with pytest.raises(UserError, match=r"model_final\.pth could not be written \(No space left"):
        FourStep(SHARED, str(tmp_path))._join(steps)
    assert os.listdir(tmp_path) == ["step.pth"]


def test_a_config_without_steps_is_refused(tmp_path):
    with pytest.raises(UserError, match=rf"^{RPN} .* FOUR_STEP\.RPN .* configs/Feature-Sharing/"):
        FourStep(RPN, str(tmp_path)).train(Runner(FAKE))


def test_train_net_refuses_a_config_of_steps(run_train_net):
    code, _, stderr = run_train_net(SHARED)
    assert (code, stderr[:7]) == (2, "error: ")
    assert "tools/train_four_step.py" in stderr


def tensors():
    start = {"backbone.a": torch.tensor([1.0, 2.0]), "backbone.n": torch.tensor(5)}
    return {**start, "roi_heads.a": torch.tensor([3.0])}


@pytest.mark.parametrize(
    "key, value",
    [
        ("backbone.a", torch.tensor([1.0, 2.0 + 2**-22])),  # the next float after 2
        ("backbone.n", torch.tensor(6)),
        ("backbone.a", None),
    ],
)
def test_a_changed_shared_layer_is_named_with_its_step(key, value):
    other = tensors()
    if value is None:
        del other[key]
    else:
        other[key] = value
    with pytest.raises(UserError, match=f"^step 4 has changed the shared layer {re.escape(key)},"):
        check_frozen(tensors(), {"step 3": tensors(), "step 4": other})


# -- the tool ----------------------------------------------------------------------------------


def test_the_tool_tells_times_aps_and_where_the_network_lies(trained, copy, printed):
    words = ("--config-file", SHARED, *OPTS, "OUTPUT_DIR", copy)
    lines = printed(train_four_step, *words).splitlines()
    assert [line.split(":")[0] for line in lines[:4]] == [f"step {i}" for i in (1, 2, 3, 4)]
    metrics = trained[1]["results"]["tiny_val"]["bbox"]
    assert lines[4] == f"tiny_val: AP {metrics['AP']:.1f}, AP50 {metrics['AP50']:.1f}"
    assert lines[5] == str(copy / "model_final.pth")


def test_the_tool_prints_a_network_that_finds_nothing(printed, tmp_path):
    none = {"tiny_val": {"bbox": {"AP": None, "AP50": None}}}
    (tmp_path / "run.json").write_text(json.dumps({"steps": [1.0], "results": none}))
    stdout = printed(train_four_step, "--config-file", SHARED, "OUTPUT_DIR", tmp_path)
    assert "tiny_val: AP none, AP50 none" in stdout
