"""Which runs a row needs, where they lie, and what they measured."""

import dataclasses
import multiprocessing
import os
import pickle
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_backbone

from fpn_d2.experiments import FourStep, Row, Scale, reproduction
from fpn_d2.experiments.pretraining import Pretraining
from fpn_d2.experiments.reproduction import count_anchors

RPN, FAST = "rpn_R_18_FPN", "fast_rcnn_R_18_FPN"


@pytest.mark.parametrize(
    "row, anchors",
    [
        ("RPN/rpn_R_50_C4", 47250),  # stride 16: 50 x 63 (62.5, rounded up) x 15
        ("RPN/rpn_R_50_C5", 12000),  # stride 32: 25 x 32 (31.25) x 15
        # 3 at each of 200 x 250 + 100 x 125 + 50 x 63 + 25 x 32 + 13 x 16 = 66658 places
        ("RPN/rpn_R_50_FPN", 199974),
        ("RPN/rpn_R_50_P2", 750000),  # stride 4: 200 x 250 x 15
    ],
)
def test_anchors_of_the_paper(repo, row, anchors):
    assert count_anchors(str(repo / f"configs/{row}.yaml")) == anchors


def test_anchors_are_counted_without_weights(repo, monkeypatch):
    built = []

    def build(*args):
        built.append(build_backbone(*args))
        return built[-1]

    monkeypatch.setattr(reproduction, "build_backbone", build)
    count_anchors(str(repo / "configs/RPN/rpn_R_101_FPN.yaml"))
    (network,) = built
    assert {weight.device.type for weight in network.parameters()} == {"meta"}


# -- training ----------------------------------------------------------------------------------


def test_an_rpn_is_one_run_of_its_seed(plan, tables, runs, calls):
    row = tables.table("1").rows["c"]
    result = plan.train_row(row, 3)
    (call,) = calls()
    assert (call["config"], call["flag"], call["SEED"]) == (RPN, "--resume", "3")
    assert call["OUTPUT_DIR"] == f"{runs}/shapes/quick/RPN/{RPN}/seed_3"
    assert plan.metrics(tables.table("1"), row, result)["AR1k"] == 43.0  # 40 + the seed
    assert plan.runner.result(plan.run(row, 3)) == result
    assert plan.runner.result(plan.run(row, 2)) is None
    assert plan.results(tables.table("1"), row) == {3: result}


def test_a_fast_rcnn_reads_the_proposals_of_its_row_and_seed(plan, tables, runs, calls):
    for name, rpn in (("b", "rpn_R_18_C5"), ("c", RPN)):
        for seed in (0, 2):
            before = len(calls())
            plan.train_row(tables.table("2").rows[name], seed)
            trained, written, detector = calls()[before:]
            assert [call["config"] for call in (trained, written, detector)] == [rpn, rpn, FAST]
            assert {call["SEED"] for call in (trained, written, detector)} == {str(seed)}
            assert written["flag"] == "--eval-only"
            assert written["DATASETS.TEST"] == "('shapes_train',)"
            folder = f"{runs}/shapes/quick/RPN/{rpn}/seed_{seed}/inference"
            for split, of in (("train", "TRAIN"), ("val", "TEST")):
                path = f"{folder}/shapes_{split}/box_proposals.pkl"
                assert detector[f"DATASETS.PROPOSAL_FILES_{of}"] == str([path])
                assert os.path.isfile(path)
            where = f"{runs}/shapes/quick/Fast-RCNN/{FAST}_on_{rpn}/seed_{seed}"
            assert detector["OUTPUT_DIR"] == where


def test_tables_that_share_a_run_train_it_once(plan, tables, calls):
    plan.train_row(tables.table("1").rows["c"], 0)
    plan.train_row(tables.table("2").rows["c"], 0)
    plan.train_row(tables.table("5").rows["not_shared"], 0)
    trainings = [call["config"] for call in calls() if call["flag"] == "--resume"]
    assert trainings == [RPN, FAST]


def test_a_four_step_row_rests_on_the_runs_of_the_other_tables(plan, tables, runs):
    training = plan.run(tables.table("5").rows["shared"], 4)
    assert isinstance(training, FourStep)
    assert training.command().startswith("python tools/train_four_step.py --config-file ")
    steps = [run.folder for run in (*training.separate_runs(), *training.shared_runs())]
    here = f"{runs}/shapes/quick"
    assert steps == [
        f"{here}/RPN/{RPN}/seed_4",
        f"{here}/Fast-RCNN/{FAST}_on_{RPN}/seed_4",
        f"{here}/Feature-Sharing/shared_R_18_FPN/seed_4/step3_rpn",
        f"{here}/Feature-Sharing/shared_R_18_FPN/seed_4/step4_fast_rcnn",
    ]


def test_rows_with_overrides_of_their_own_share_no_folder(plan, tables):
    row = tables.table("5").rows["shared"]
    other = dataclasses.replace(row, opts=["SOLVER.BASE_LR", "0.001"])
    folders = [
        {run.folder, plan.timing_folder(each), *(step.folder for step in run.steps())}
        for each in (row, other)
        for run in [plan.run(each, 0)]
    ]
    assert len(folders[0]) == len(folders[1]) == 6
    assert not folders[0] & folders[1]


def test_seeds_are_those_that_have_folders(plan, tables, runs):
    row = tables.table("1").rows["c"]
    assert plan.seeds(row) == []
    for name in ("seed_10", "seed_2", "seed_x", "seed_3.old", "other"):
        (runs / f"shapes/quick/RPN/{RPN}" / name).mkdir(parents=True)
    assert plan.seeds(row) == [2, 10]
    assert plan.results(tables.table("1"), row) == {}  # none of them is done


@pytest.mark.parametrize("folder", ["/home/me/runs", "/home/me/runs/", "../../me/runs"])
def test_what_is_published_names_no_folder_of_the_machine(plan, tables, folder):
    plan = dataclasses.replace(plan, folder=folder)
    for name in ("c", "b"):
        run = plan.run(tables.table("2").rows[name], 1)
        assert folder in run.command()
        words = plan.without_folders(run.command())
        assert "/home" not in words.replace(" ", "")
        assert ".." not in words
        assert "--config-file configs/quick/Fast-RCNN/fast_rcnn_R_18_FPN.yaml SEED 1" in words
        assert "output/reproduce/shapes/quick/RPN/" in words
    assert plan.without_folders(tables.config_file("a.yaml")) == "configs/a.yaml"


def test_a_folder_below_the_working_one_is_published_as_it_is(plan):
    plan = dataclasses.replace(plan, folder="runs")
    assert plan.without_folders("MODEL.WEIGHTS runs/start.pkl") == "MODEL.WEIGHTS runs/start.pkl"


# -- numbers -----------------------------------------------------------------------------------


def test_metrics_have_their_short_names_and_null_stays_null(plan, tables):
    row, results = tables.table("2").rows["c"], {"bbox": {"AP": 33.9, "AP50": 56.9}}
    results["box_proposals"] = {"AR@1000": 56.25, "ARs@1000": None, "AR@100": 44.0}
    found = plan.metrics(tables.table("2"), row, {"results": {"shapes_val": results}})
    # this file has no short name for AP50 and AR@100, and timing has no result
    assert found == {"AP": 33.9, "AR1k": 56.25, "AR1k_s": None}


def test_anchors_are_counted_for_a_table_that_shows_them(plan, tables):
    result = {"results": {"shapes_val": {}}}
    row = dataclasses.replace(
        tables.table("1").rows["c"], configs={"quick": "quick/RPN/rpn_R_18_C5.yaml"}
    )
    assert plan.metrics(tables.table("1"), row, result) == {"anchors": 12000}
    # 5 sizes for 15 at each of 25 x 32 places
    row = dataclasses.replace(row, opts=["MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "[[1.0]]"])
    assert plan.metrics(tables.table("1"), row, result) == {"anchors": 4000}
    assert plan.metrics(tables.table("2"), row, result) == {}


# -- another data set --------------------------------------------------------------------------


@pytest.fixture
def two_classes():
    """Registers things_train and things_val, two data sets with two classes."""
    for name in ("things_train", "things_val"):
        DatasetCatalog.register(name, lambda: [])
        MetadataCatalog.get(name).thing_classes = ["this", "that"]


def test_another_data_set_sets_its_splits_and_classes(plan, tables, runs, calls, two_classes):
    plan = dataclasses.replace(plan, dataset="things")
    plan.train_row(tables.table("2").rows["c"], 0)
    for call in calls():
        assert call["DATASETS.TRAIN"] == "('things_train',)"
        assert call["MODEL.ROI_HEADS.NUM_CLASSES"] == "2"
        assert call["MODEL.RETINANET.NUM_CLASSES"] == "2"
        assert call["OUTPUT_DIR"].startswith(f"{runs}/things/quick/")
    rpn, written, detector = calls()
    assert rpn["DATASETS.TEST"] == detector["DATASETS.TEST"] == "('things_val',)"
    assert written["DATASETS.TEST"] == "('things_train',)"
    assert "/things/" in detector["DATASETS.PROPOSAL_FILES_TRAIN"]
    assert "things_val/box_proposals.pkl" in detector["DATASETS.PROPOSAL_FILES_TEST"]


def test_the_scales_own_data_set_may_be_named(plan, tables, calls):
    dataclasses.replace(plan, dataset="shapes").train_row(tables.table("1").rows["c"], 0)
    assert "DATASETS.TRAIN" not in calls()[0]


def test_configs_from_elsewhere_keep_their_data_sets_apart(plan, tables, runs, repo, two_classes):
    """A user's file of tables may lie beside the project and name ../fpn/configs/x.yaml."""
    path = str(repo / "docs" / "tables.yaml")
    tables = dataclasses.replace(tables, path=path)
    row = Row("FPN", {"quick": "../configs/quick/RPN/rpn_R_18_FPN.yaml"})
    folders = {
        os.path.normpath(dataclasses.replace(plan, tables=tables, dataset=name).run(row, 0).folder)
        for name in ("", "things")
    }
    assert len(folders) == 2
    assert all(folder.startswith(f"{runs}/") for folder in folders)


# -- the start of all rows ---------------------------------------------------------------------


@pytest.fixture
def started(plan, tables, monkeypatch):
    """A plan whose scale has a start, and the list of the calls that made a start."""
    made = []

    def pretrain(cfg, path, *, iterations, held_out):
        made.append((cfg.SOLVER.MAX_ITER, iterations, cfg.SEED))
        Path(path).write_bytes(pickle.dumps({"model": {}}))
        return Pretraining(0.5, iterations, 900, round(1000 * held_out))

    monkeypatch.setattr(reproduction, "pretrain_backbone", pretrain)
    scale = Scale("shapes", {"config": "quick/demo.yaml", "iterations": 7})
    tables = dataclasses.replace(tables, scales={"quick": scale})
    return dataclasses.replace(plan, tables=tables), made


def test_every_row_of_a_seed_starts_from_one_network(started, runs, tables, calls):
    plan, made = started
    for seed in (0, 1):
        plan.train_row(tables.table("1").rows["c"], seed)
        plan.train_row(tables.table("2").rows["c"], seed)
    assert made == [(290, 7, 0), (290, 7, 1)]  # 290 iterations identify demo.yaml
    starts = [(c["SEED"], c["MODEL.WEIGHTS"]) for c in calls() if c["flag"] == "--resume"]
    assert len(starts) == 4
    assert set(starts) == {(str(seed), f"{runs}/start_crops_seed_{seed}.pkl") for seed in (0, 1)}
    found = plan.entries(tables.table("1"), tables.table("1").rows["c"])
    start = {"accuracy": 0.5, "iterations": 7, "crops": 900, "held_out": 100}
    assert [entry["start"] for entry in found.values()] == [start, start]
    assert plan.recipe == {"start": "crops (quick/demo.yaml, up to 7 iterations)"}


def test_a_scale_without_a_start_leaves_the_configs_weights(plan, tables, calls):
    plan.train_row(tables.table("1").rows["c"], 0)
    assert "MODEL.WEIGHTS" not in calls()[0]


def test_a_start_is_trained_by_one_of_two_processes(started, runs, monkeypatch):
    plan, _ = started
    log = runs.parent / "made"

    def slow(cfg, path, *, iterations, held_out):
        with open(log, "a") as file:
            file.write("x")
        multiprocessing.Event().wait(0.3)
        Path(path).write_bytes(b"start")
        return Pretraining(0.5, iterations, 9, 1)

    monkeypatch.setattr(reproduction, "pretrain_backbone", slow)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=plan.make_start, args=(0,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert log.read_text() == "x"
