"""The trainer: its parts, mixed precision on CPUs, resuming, evaluation."""

import gc
import json
import logging
import math
import os
import signal
import weakref
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from coco_files import coco_content, coco_image, coco_object
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import AMPTrainer, DefaultTrainer, SimpleTrainer
from detectron2.engine.hooks import PeriodicWriter
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

from fpn_d2 import UserError, load_model
from fpn_d2.checkpoint import SafeCheckpointer
from fpn_d2.config import changed
from fpn_d2.data import build_test_loader
from fpn_d2.data.datasets.shapes import CLASSES
from fpn_d2.engine import Trainer
from fpn_d2.engine import trainer as trainer_module
from fpn_d2.engine.hooks import CPUAutocastTrainer
from fpn_d2.engine.monitoring import AccumulatingOptimizer
from fpn_d2.inference import prepare_model, prepared

FASTER = "Faster-RCNN/faster_rcnn_R_18_FPN"


def test_it_has_the_attributes_of_detectron2s_trainer(tiny_config, monkeypatch):
    """Our constructor sets all that DefaultTrainer's sets."""
    cfg = tiny_config()
    trainer = Trainer(cfg)
    assert isinstance(trainer, DefaultTrainer)
    assert isinstance(trainer._trainer, SimpleTrainer)
    assert isinstance(trainer.checkpointer, SafeCheckpointer)
    assert trainer.checkpointer.model is trainer.model
    monkeypatch.setattr(DefaultTrainer, "build_evaluator", Trainer.build_evaluator)
    stock = DefaultTrainer(cfg)
    assert vars(stock).keys() <= vars(trainer).keys()
    kinds = [type(hook) for hook in trainer._hooks]
    assert [type(hook) for hook in stock._hooks] == [
        kind for kind in kinds if kind.__module__.startswith("detectron2.")
    ]
    # Programs insert their hooks before the writer, at -1; what comes after it is not written.
    assert kinds[-1] is PeriodicWriter


@pytest.mark.parametrize("use", [Trainer, load_model, lambda cfg: Trainer.test(cfg, nn.Identity())])
def test_a_config_without_our_keys_is_refused_in_a_sentence(use):
    with pytest.raises(UserError, match=r"no key INFERENCE, .* call fpn_d2.add_fpn_config\(cfg\)"):
        use(get_cfg())


def test_a_model_may_have_weights_of_five_dimensions(tiny_config, monkeypatch):
    monkeypatch.setattr(DefaultTrainer, "build_model", lambda cfg: nn.Conv3d(2, 2, 1))
    assert Trainer.build_model(tiny_config()).weight.dim() == 5


@pytest.mark.parametrize("model", [lambda records: [], nn.Identity()])
def test_what_has_no_weights_is_tested_as_it_is(tiny_config, monkeypatch, model):
    monkeypatch.setattr(DefaultTrainer, "test", test := Mock())
    Trainer.test(tiny_config(), model)
    assert [call.args[1] for call in test.call_args_list] == [model]


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_mixed_precision_on_a_cpu_follows_the_processor(tiny_config, monkeypatch, has_bfloat16):
    monkeypatch.setattr(trainer_module, "cpu_has_bfloat16", lambda: has_bfloat16)
    made = Trainer(tiny_config("SOLVER.AMP.ENABLED", "True"))
    assert type(made._trainer) is (CPUAutocastTrainer if has_bfloat16 else SimpleTrainer)
    weight = made.model.backbone.fpn_output2.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_group_norms_of_a_training_on_a_cpu_are_exact_on_flat_maps(tiny_config):
    model = Trainer.build_model(tiny_config("MODEL.FPN.NORM", "GN"))
    norm = next(module for module in model.modules() if isinstance(module, nn.GroupNorm))
    image = 50 + 0.01 * torch.randn(1, norm.num_channels, 25, 40)
    last = image.to(memory_format=torch.channels_last)
    exact = nn.GroupNorm(norm.num_groups, norm.num_channels).double()(image.double())
    torch.testing.assert_close(norm(last).double(), exact, atol=2e-2, rtol=0)


def test_every_checkpoint_holds_the_names_of_the_classes(tiny_config):
    cfg = tiny_config("MODEL.ROI_BOX_HEAD.FC_DIM", 8, row=FASTER)
    os.makedirs(cfg.OUTPUT_DIR)
    trainer = Trainer(cfg)  # kept, as its checkpointer has only a weak reference
    for name in ("model_0000001", "model_best"):
        trainer.checkpointer.save(name, iteration=1)
        content = torch.load(Path(cfg.OUTPUT_DIR, f"{name}.pth"), weights_only=True)
        assert content["class_names"] == list(CLASSES)


def test_clipping_by_value_takes_weights_that_a_step_does_not_use(trainer):
    made = trainer("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.MAX_ITER", "1")
    assert made.cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE == "value"
    forward = made.model.forward
    made.model.forward = lambda batch: {"loss_rpn_cls": forward(batch)["loss_rpn_cls"]}
    made.train()
    head = made.model.proposal_generator.rpn_head
    assert not head.anchor_deltas.weight.grad.any()
    assert head.objectness_logits.weight.grad.any()


def test_each_process_draws_other_random_numbers_at_each_step(trainer, monkeypatch):
    made, drawn = trainer("SEED", 5), []
    monkeypatch.setattr(made._trainer, "run_step", lambda: drawn.append(torch.rand(()).item()))
    for rank, made.iter in ((0, 2), (1, 2), (0, 3), (1, 3), (0, 2)):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        made.run_step()
    assert len(set(drawn)) == 4
    assert drawn[0] == drawn[4]


def test_overwriting_deletes_checkpoints(trainer):
    first = trainer()
    first.train()
    again = trainer("OVERWRITE_OUTPUT_DIR", "True")
    assert list(Path(again.cfg.OUTPUT_DIR).glob("model*")) == []
    assert not again.checkpointer.has_checkpoint()


def test_a_kill_between_the_last_two_checkpoints_is_made_up_for(trainer):
    made = trainer("SOLVER.MAX_ITER", "2")
    made.train()
    final = Path(made.cfg.OUTPUT_DIR, "model_final.pth")
    final.unlink()
    final.with_name("last_checkpoint").write_text("model_0000001.pth")
    again = Trainer(made.cfg)
    again.resume_or_load(resume=True)
    again.train()
    assert torch.load(final, weights_only=True)["iteration"] == 1  # the last of two
    assert made.state_dict()["iteration"] == again.state_dict()["iteration"] == 1


def test_results_of_each_test_set_lie_in_a_folder_of_their_own(tiny_config):
    cfg = tiny_config("DATASETS.TEST", "('tiny_val', 'tiny_train')")
    trainer = Trainer(cfg)
    returned = trainer.test(cfg, trainer.model)
    for name in ("tiny_val", "tiny_train"):
        folder = f"{cfg.OUTPUT_DIR}/inference/{name}"
        with open(f"{folder}/results.json") as file:
            written = json.load(file)["box_proposals"]
        expected = returned[name]["box_proposals"]
        assert written == {k: None if math.isnan(v) else v for k, v in expected.items()}
        assert any(v is None for v in written.values())  # nothing here is large
        with open(f"{folder}/box_proposals.pkl", "rb") as file:
            assert file.read(1)


def test_an_evaluation_made_up_for_is_of_the_same_iteration(trainer):
    for resume in (False, True):
        made = trainer(test="('tiny_val',)", resume=resume)
        made.train()
        lines = Path(made.cfg.OUTPUT_DIR, "metrics.json").read_text().splitlines()
        assert json.loads(lines[-1])["iteration"] == 5


def test_what_a_kill_left_of_an_evaluation_is_deleted(trainer):
    left = Path(trainer().cfg.OUTPUT_DIR, "inference/tiny_val/results.json.99999999.partial")
    left.parent.mkdir(parents=True)
    left.touch()
    trainer(resume=True)
    assert not left.exists()


def test_the_model_final_of_a_shorter_training_is_replaced(trainer):
    trainer("SOLVER.MAX_ITER", "2").train()
    longer = trainer(resume=True)
    longer.stopper.received = signal.SIGINT
    with pytest.raises(SystemExit):
        longer.train()
    ended = trainer("SOLVER.MAX_ITER", "3", resume=True)
    final = torch.load(Path(ended.cfg.OUTPUT_DIR, "model_final.pth"), weights_only=True)
    assert final["iteration"] == 2


def test_weights_of_nan_are_no_start(trainer, tmp_path):
    made = trainer()
    weights = made.model.state_dict()
    key = next(name for name in weights if name.endswith("lateral2.weight"))
    weights[key].fill_(float("nan"))
    torch.save({"model": weights}, tmp_path / "nan.pth")
    made.cfg = changed(made.cfg, {"MODEL.WEIGHTS": str(tmp_path / "nan.pth")})
    with pytest.raises(UserError, match=f"nan.pth, or .* infinite values in {key}; take an earl"):
        made.resume_or_load(resume=False)


def test_an_evaluation_of_diverged_weights_ends_in_a_sentence(trainer, monkeypatch):
    of_detectron2s_rpn = FloatingPointError("Predicted boxes or scores contain Inf/NaN.")
    made = trainer("TEST.VALIDATION_LOSS", True, test="('tiny_val',)")
    with monkeypatch.context() as patched:
        fails = Mock(side_effect=of_detectron2s_rpn)
        patched.setattr(trainer_module, "validation_losses", fails)
        with pytest.raises(UserError, match=r"Inf/NaN; if .* lower SOLVER\.BASE_LR"):
            made._evaluate()
    for weight in made.model.proposal_generator.rpn_head.parameters():
        weight.data.fill_(3e38)  # finite, but what it computes is not
    with pytest.raises(UserError, match=r"rpn_head are NaN or infinite.* lower SOLVER\.BASE_LR"):
        made._evaluate()


@pytest.mark.parametrize("key, name", [("TRAIN", "tiny_train"), ("TEST", "tiny_val")])
def test_a_name_that_is_no_tuple_is_told_as_such(tiny_config, key, name):
    cfg = changed(tiny_config(), {f"DATASETS.{key}": name})
    with pytest.raises(UserError, match=rf"DATASETS.{key} is '{name}', .* such as \('{name}',\)"):
        Trainer(cfg)


def test_one_training_size_may_be_a_number_as_in_detectron2(tiny_config):
    cfg = changed(tiny_config(), {"INPUT.MIN_SIZE_TRAIN": 64})
    image = next(iter(Trainer.build_train_loader(cfg)))[0]["image"]
    assert min(image.shape[1:]) == 64


# --- limits of the metric, and test-time augmentation


@pytest.fixture
def crowded(tmp_path):
    """A data set of one image with 250 objects of 20 x 20 pixels, and their boxes."""
    boxes = [[30 * (i % 25), 30 * (i // 25), 20, 20] for i in range(250)]
    annotations = [coco_object(i, 1, box) for i, box in enumerate(boxes, start=1)]
    content = coco_content([coco_image(1, 800, 320)], annotations, "thing")
    path = tmp_path / "crowded.json"
    path.write_text(json.dumps(content))
    register_coco_instances("crowded", {}, str(path), str(tmp_path))
    DatasetCatalog.get("crowded")
    return path, boxes


def ap_by_pycocotools(path, boxes, limit):
    """Return the AP that pycocotools accumulates with this limit of detections per image."""
    truth = COCO(path)
    found = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.5} for box in boxes]
    made = COCOeval(truth, truth.loadRes(found), "bbox")
    made.params.maxDets = [1, 10, limit]
    made.evaluate()
    made.accumulate()
    precision = made.eval["precision"][:, :, :, 0, -1]
    return 100 * precision[precision > -1].mean()


@pytest.mark.parametrize(
    "limit, counted, ap",
    # Precision is 1 up to the recall of 100 / 250: at 41 of the 101 recalls.
    [(20, 100, 100 * 41 / 101), (100, 100, 100 * 41 / 101), (250, 250, 100), (-1, 250, 100)],
)
def test_ap_counts_as_many_detections_as_an_image_may_have(
    tiny_config, crowded, caplog, limit, counted, ap
):
    path, boxes = crowded
    cfg = tiny_config("TEST.DETECTIONS_PER_IMAGE", limit, "DATASETS.TEST", "('crowded',)")
    caplog.set_level(logging.INFO, "fpn_d2")
    evaluator = Trainer.build_evaluator(cfg, "crowded")
    assert ("where COCO's counts 100" in caplog.text) == (limit not in (20, 100))
    evaluator.reset()
    found = Instances((320, 800))
    found.pred_boxes = Boxes(torch.tensor([[x, y, x + w, y + h] for x, y, w, h in boxes]).float())
    found.scores, found.pred_classes = torch.full((250,), 0.5), torch.zeros(250, dtype=torch.int64)
    evaluator.process([{"image_id": 1}], [{"instances": found}])
    result = evaluator.evaluate()["bbox"]["AP"]
    assert result == pytest.approx(ap, abs=1e-6)
    assert result == pytest.approx(ap_by_pycocotools(path, boxes, counted), abs=1e-6)


def test_time_augmentation_is_detectron2s(tiny_config, tmp_path):
    words = ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(48, 64)", "SOLVER.MAX_ITER", "1"]
    words += ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "TEST.DETECTIONS_PER_IMAGE", "10"]
    cfg = tiny_config(*words, row=FASTER)
    os.makedirs(cfg.OUTPUT_DIR)
    trainer = Trainer(cfg)
    trainer.train()  # it ends with both evaluations
    storage = trainer.storage.latest()
    assert {"bbox/AP", "bbox_TTA/AP"} <= storage.keys()
    written = f"{cfg.OUTPUT_DIR}/inference_TTA/tiny_val/coco_instances_results.json"
    ours = json.loads(Path(written).read_text())
    stock = COCOEvaluator("tiny_val", output_dir=str(tmp_path / "stock"))
    model = GeneralizedRCNNWithTTA(cfg, trainer.model.eval())
    inference_on_dataset(model, build_test_loader(cfg, "tiny_val"), stock)
    theirs = json.loads((tmp_path / "stock/coco_instances_results.json").read_text())
    assert len(ours) == len(theirs) == 40
    assert [one["image_id"] for one in ours] == [one["image_id"] for one in theirs]
    scores = [[one["score"] for one in results] for results in (ours, theirs)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    plain = f"{cfg.OUTPUT_DIR}/inference/tiny_val/coco_instances_results.json"
    assert [one["score"] for one in json.loads(Path(plain).read_text())] != scores[0]


def test_an_evaluator_of_ones_own_writes_augmented_results_to_the_runs_folder(tiny_config):
    folders = []

    class Own(Trainer):
        @classmethod
        def build_evaluator(cls, cfg, dataset_name, output_folder=None):  # as Detectron2's
            folders.append(output_folder)
            return COCOEvaluator(dataset_name, output_dir=output_folder)

    cfg = tiny_config("TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(48,)", row=FASTER)
    Own.test_with_TTA(cfg, Own.build_model(cfg).eval())
    assert folders == [os.path.join(cfg.OUTPUT_DIR, "inference_TTA")]


def test_norms_that_cannot_work_are_refused(tiny_config, monkeypatch):
    with pytest.raises(UserError, match="TEST.PRECISE_BN.ENABLED has no effect"):
        Trainer(tiny_config("TEST.PRECISE_BN.ENABLED", True, "MODEL.RESNETS.NORM", "FrozenBN"))
    both = ["TEST.PRECISE_BN.ENABLED", True, "SOLVER.EMA_DECAY", 0.9, "MODEL.FPN.NORM", "BN"]
    with pytest.raises(UserError, match=r"SOLVER.EMA_DECAY the averages are .*: set one of them"):
        Trainer(tiny_config(*both))
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    with pytest.raises(UserError, match="SyncBN .* naiveSyncBN"):
        Trainer(tiny_config("MODEL.FPN.NORM", "SyncBN"))


# --- names that programs extend


@pytest.mark.parametrize(
    "key, method",
    [
        ("SOLVER.LR_SCHEDULER_NAME", "build_lr_scheduler"),
        ("DATALOADER.SAMPLER_TRAIN", "build_train_loader"),
    ],
)
def test_a_name_of_ones_own_needs_a_trainer_of_ones_own(tiny_config, key, method):
    """Detectron2 looks these names up itself, so no list of ours may know all of them."""
    cfg, stock = tiny_config(key, "MyOwn"), tiny_config()
    with pytest.raises(UserError, match=f"{key}: .*MyOwn.*{method}"):
        Trainer(cfg)

    def build(cls, cfg, *args):
        assert "MyOwn" in (cfg.SOLVER.LR_SCHEDULER_NAME, cfg.DATALOADER.SAMPLER_TRAIN)
        return getattr(Trainer, method)(stock, *args)

    mine = type("Mine", (Trainer,), {method: classmethod(build)})
    assert isinstance(mine(cfg), Trainer)


@pytest.mark.parametrize(
    "name, opts, rates",
    [
        ("WarmupMultiStepLR", ["SOLVER.STEPS", (2,)], [1, 1, 0.1, 0.1]),
        ("WarmupStepWithFixedGammaLR", ["SOLVER.NUM_DECAYS", 1], [1, 1, 0.1, 0.1]),
        ("WarmupStepWithFixedGammaLR", ["SOLVER.NUM_DECAYS", 3], [1, 0.1, 0.01, 0.001]),
        ("WarmupCosineLR", [], [1, 0.5 + math.sqrt(1 / 8), 0.5, 0.5 - math.sqrt(1 / 8)]),
    ],
)
def test_every_schedule_lasts_to_the_end(trainer, name, opts, rates):
    """Detectron2 asks for a rate after the last step, too, before it saves model_final.pth."""
    four = ["SOLVER.MAX_ITER", 4, "SOLVER.WARMUP_ITERS", 0, "SOLVER.STEPS", ()]
    made = trainer("SOLVER.LR_SCHEDULER_NAME", name, *four, *opts)
    found = []
    for _ in rates:
        found.append(made.optimizer.param_groups[0]["lr"] / made.cfg.SOLVER.BASE_LR)
        made.optimizer.step()
        made.scheduler.step()
    assert found == pytest.approx(rates)


def test_an_error_about_something_else_keeps_its_words(tiny_config, monkeypatch):
    fails = Mock(side_effect=ValueError("of another kind"))
    monkeypatch.setattr(trainer_module, "build_train_loader", fails)
    with pytest.raises(ValueError, match="^of another kind$") as caught:
        Trainer(tiny_config())
    assert not isinstance(caught.value, UserError)


# --- the copy that is evaluated


@pytest.fixture
def evaluated(monkeypatch):
    """The models that were evaluated, as weak references, with copies of all their weights."""
    found = []

    def test(cls, cfg, model, evaluators=None):
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        found.append((weakref.ref(model), weights))
        return {}

    monkeypatch.setattr(DefaultTrainer, "test", classmethod(test))
    return found


@pytest.mark.parametrize("compile", [True, False])
def test_a_training_compiles_its_evaluated_copy_once(tiny_config, monkeypatch, evaluated, compile):
    compilations = []
    monkeypatch.setattr(prepared, "compile_backbone", compilations.append)
    opts = ["TEST.EVAL_PERIOD", "1", "INFERENCE.COMPILE", compile, "SOLVER.MAX_ITER", "3"]
    trainer = Trainer(tiny_config(*opts))
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert len(compilations) == compile
    copies = [copy() for copy, _ in evaluated]
    if compile:  # one copy, with new weights each time
        assert copies[0] is copies[1] is copies[2] is not None
    else:
        assert copies == [None, None, None]  # its memory is free between evaluations
    (_, first), (_, second), (_, last) = evaluated
    assert any(not torch.equal(first[name], second[name]) for name in first)
    fresh = prepare_model(trainer.model).state_dict()
    assert list(fresh) == list(last)
    assert all(torch.equal(last[name], fresh[name]) for name in fresh)
    del copies, trainer
    compilations.clear()
    gc.collect()
    assert all(copy() is None for copy, _ in evaluated)  # the training is over, and so are they


def test_a_compiled_copy_is_of_one_precision(tiny_config, monkeypatch, evaluated):
    monkeypatch.setattr(prepared, "compile_backbone", lambda backbone: True)
    monkeypatch.setattr(prepared, "has_bfloat16", lambda device: True)
    cfg = tiny_config("INFERENCE.COMPILE", "True")
    model = Trainer.build_model(cfg)
    for precision in ("float32", "bfloat16", "bfloat16"):
        Trainer.test(changed(cfg, {"INFERENCE.PRECISION": precision}), model)
    first, second, third = (copy() for copy, _ in evaluated)
    assert second is third
    assert first is not second


@pytest.mark.parametrize("had_scaler", [False, True])
@pytest.mark.parametrize("has_scaler", [False, True])
def test_gradients_that_wait_do_not_change_their_scale(monkeypatch, had_scaler, has_scaler):
    """Those of SOLVER.ACCUMULATE, where a training goes on with or without a GPU's scaler."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = AccumulatingOptimizer(torch.optim.SGD([weight], lr=1.0), 2)
    optimizer.zero_grad()
    weight.sum().backward()
    step = {"optimizer": optimizer.state_dict()}
    step |= {"grad_scaler": {"scale": 65536.0}} if had_scaler else {}
    trainer = Trainer.__new__(Trainer)
    trainer._trainer = AMPTrainer.__new__(AMPTrainer) if has_scaler else torch.nn.Identity()
    trainer._trainer.grad_scaler = torch.amp.GradScaler()
    trainer._hooks, trainer.averager = [], None
    monkeypatch.setattr(DefaultTrainer, "load_state_dict", lambda self, state: None)
    trainer.load_state_dict({"_trainer": step})
    optimizer.zero_grad()
    optimizer.load_state_dict(step["optimizer"])
    assert optimizer.waiting == (had_scaler == has_scaler)
    assert ("grad_scaler" in step) == (had_scaler or has_scaler)
