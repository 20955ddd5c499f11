"""Processes: several on a CPU, and how a user's error ends them."""

import argparse
import datetime
import errno
import importlib
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from detectron2.utils import comm
from model_zoo import different, write_pickle
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException
from waiting import wait_for

import train_net
from fpn_d2 import UserError, load_config, load_model
from fpn_d2.config import stock_config
from fpn_d2.engine import launch, read_config
from fpn_d2.engine.launch import agreed_prefix
from fpn_d2.utils.errors import sentence_in

from .two_processes import VARIANTS

MODULE = importlib.import_module("fpn_d2.engine.launch")  # a function has this name too
CLUSTER = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "GLOO_SOCKET_IFNAME": "lo"}
CLUSTER["LOGLEVEL"] = "INFO"  # torchrun says when a machine wants to join
# The addresses of two machines; the first process runs on the first of them.
OTHER, HOST = "127.0.0.1", "127.0.0.2"


def args(num_gpus):
    return argparse.Namespace(
        num_gpus=num_gpus, num_machines=1, machine_rank=0, dist_url="auto", config_file="", opts=[]
    )


def raising(kind, *values):
    """Return the main function of a process that raises such an error."""

    def main(args):
        raise kind(*values)

    main.__name__ = f"raises_{kind.__name__}"  # names its test cases
    return main


fail = raising(UserError, "the sentence, with its remedy")
fail_to_write = raising(OSError, 28, "No space left on device", "output/metrics.json")


@pytest.fixture
def refusal(capsys):
    """``refusal(main, args)``: what ``launch`` says as it ends the program with code 2."""

    def call(main, given):
        with pytest.raises(SystemExit) as end:
            launch(main, given)
        assert end.value.code == 2
        return capsys.readouterr().err

    return call


def test_what_spawned_processes_are_given_can_be_pickled(monkeypatch):
    """Detectron2 spawns them, while the tests of two processes fork to save time."""
    monkeypatch.setattr(torch.multiprocessing, "start_processes", start := Mock())
    launch(train_net.main, args(num_gpus=2))
    start.assert_called_once()
    given = start.call_args.kwargs
    assert given["nprocs"] == 2
    pickle.dumps((start.call_args.args, given["args"]))


@pytest.fixture(scope="module")
def in_two_processes(repo, run_program, tiny_words, tmp_path_factory):
    """The lines that two_processes.py prints."""
    program = Path(__file__).with_name("two_processes.py")
    output = ["OUTPUT_DIR", tmp_path_factory.mktemp("two") / "output"]
    done = run_program(program, repo / "configs/quick", *tiny_words, *output)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def test_two_processes_train_two_steps_of_every_ablation(in_two_processes):
    for name in VARIANTS:
        assert f"{name}: 2 iterations, weights same" in in_two_processes


def test_two_processes_evaluate_the_same_statistics(in_two_processes):
    assert "evaluated: 53 norms, same" in in_two_processes


def test_a_step_makes_one_collective_call(in_two_processes):
    """Apart from DistributedDataParallel's, and Detectron2's own gathering of its metrics."""
    assert [line for line in in_two_processes if line.startswith("calls:")] == [
        "calls: all_gather metrics"
    ] * 3
    assert "averages: 2" in in_two_processes


def test_a_signal_to_one_process_stops_both_in_a_step_of_ones_own(in_two_processes):
    assert in_two_processes.count("stopped with 143 after iteration 0") == 2


def test_a_loss_that_is_nan_in_one_process_stops_both_before_their_weights(in_two_processes):
    printed = [line for line in in_two_processes if line.startswith("process ")]
    sentences = []
    for rank, line in enumerate(printed):
        start, _, sentence = line.partition(", ")
        assert start == f"process {rank}: weights same"
        sentences.append(sentence)
    assert len(sentences) == 2
    assert sentences[0] == sentences[1]
    assert "became NaN or infinite at iteration 0 on the images" in sentences[0]
    assert sentences[0].count("/images/") == 1  # that process's batch


def full_disk(args):
    try:
        raise UserError("the checkpoint could not be written")
    finally:
        fail_to_write(args)


# The words of PyTorch 2.11
NO_WORKER = "DataLoader worker (pid(s) 71) exited unexpectedly"
NO_FILES = "Too many open files. Communication with the workers is no longer possible."
NO_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB."


@pytest.mark.parametrize(
    "main, sentence",
    [
        (raising(RuntimeError, NO_WORKER), "a process that reads images was ended from outside"),
        (raising(RuntimeError, NO_FILES), "more files are open than the system lets"),
        (
            raising(RuntimeError, NO_MEMORY),
            "there is not enough memory on the GPU: lower SOLVER.IMS_PER_BATCH",
        ),
        (lambda args: torch.empty(2**50), "there is not enough memory: lower SOLVER.IMS_PER_BATCH"),
        (
            raising(PermissionError, 13, "Permission denied", "output/log.txt"),
            "output/log.txt may not be used (Permission denied); change its",
        ),
        (  # as of the lock of a queue, where /dev/shm may not be used
            raising(PermissionError, 13, "Permission denied"),
            "a file may not be used (Permission denied); change its",
        ),
        (
            raising(OSError, errno.EROFS, "Read-only file system", "output/log.txt"),
            "output/log.txt may not be used (Read-only file system); ",
        ),
        (
            raising(OSError, errno.EDQUOT, "Disk quota exceeded", "output/log.txt"),
            "output/log.txt could not be written (Disk quota exceeded); make room",
        ),
        (fail, "the sentence, with its remedy\n"),
        (fail_to_write, "output/metrics.json could not be written (No space left on device); "),
        (full_disk, "the checkpoint could not be written\n"),  # the first sentence counts
    ],
)
def test_a_users_error_and_what_a_machine_lacks_end_one_process_with_a_sentence(
    refusal, main, sentence
):
    err = refusal(main, args(1))
    assert err.startswith(f"error: {sentence}")
    assert err.count("\n") == 1


def test_a_bug_is_not_disguised():
    with pytest.raises(RuntimeError, match="a bug"):
        launch(raising(RuntimeError, "a bug"), args(1))


def test_the_sentence_of_another_process():
    def text(error):
        return "".join(traceback.format_exception(error))

    sentence = "image a: b.png is empty: replace it"
    try:
        try:
            raise OSError("the cause")
        except OSError as cause:
            raise UserError(sentence) from cause
    except UserError as error:
        wrapped = f"Caught UserError in DataLoader worker process 0.\nOriginal {text(error)}"
    assert sentence_in(wrapped) == sentence
    assert str(UserError(wrapped)) == sentence  # as torch raises it anew
    assert str(UserError(sentence)) == sentence
    assert sentence_in(text(RuntimeError(sentence))) is None
    assert sentence_in("") is None


def exited(code, signal_name=None):
    """The end of the second process, as torch's launcher raises it."""
    return ProcessExitedException(
        "", error_index=1, error_pid=7, exit_code=code, signal_name=signal_name
    )


def raised_in_a_process():
    """The end of a process that could not bind the port, as torch's launcher raises it anew."""
    words = "torch.distributed.DistNetworkError: port: 29500, name: EADDRINUSE, address in use"
    return ProcessRaisedException(f"Traceback (most recent call last):\n{words}\n", 0, 7)


@pytest.mark.parametrize(
    "error, words",
    [
        (exited(-9, "SIGKILL"), "process 1 of 2 was ended from outside by SIGKILL, as where"),
        (exited(-7, "SIGBUS"), "process 1 of 2 was ended from outside by SIGBUS, as where"),
        (raised_in_a_process(), "the port of --dist-url is taken, perhaps by another training"),
        (
            ProcessRaisedException("Traceback:\nfpn_d2.utils.errors.UserError: its words\n", 0, 7),
            "its words\n",
        ),
    ],
)
def test_processes_that_are_killed_or_find_their_port_taken(monkeypatch, refusal, error, words):
    monkeypatch.setattr(MODULE, "launch_processes", Mock(side_effect=error))
    assert refusal(fail, args(2)).startswith(f"error: {words}")


def test_a_process_that_a_signal_has_stopped_is_no_bug_and_another_end_is_one(monkeypatch):
    for code in (130, 143):
        monkeypatch.setattr(MODULE, "launch_processes", Mock(side_effect=exited(code)))
        with pytest.raises(SystemExit) as end:
            launch(fail, args(2))
        assert end.value.code == code
    monkeypatch.setattr(MODULE, "launch_processes", Mock(side_effect=exited(3)))
    with pytest.raises(ProcessExitedException):
        launch(fail, args(2))


def test_a_signal_reaches_the_processes_and_is_the_exit_code(monkeypatch):
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()

    def stop(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        process.join()

    monkeypatch.setattr(MODULE, "launch_processes", stop)
    with pytest.raises(SystemExit) as end:
        launch(fail, args(2))
    assert (end.value.code, process.exitcode) == (143, -signal.SIGTERM)


@pytest.mark.parametrize(
    "number, words",
    [
        (2, "--machine-rank is 2, and --num-machines is 2; number the machines from 0 to 1"),
        (-1, "--machine-rank is -1, "),
        (1, "--dist-url auto is for one machine; give all machines the first one's address"),
    ],
)
def test_machines_that_would_wait_for_each_other_in_vain(refusal, number, words):
    given = args(1)
    given.num_machines, given.machine_rank = 2, number
    assert refusal(fail, given).startswith(f"error: {words}")


@pytest.mark.parametrize("option", ["num_gpus", "num_machines"])
def test_torchrun_and_options_for_processes_do_not_mix(monkeypatch, refusal, option):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    given = args(1)
    setattr(given, option, 2)
    assert "--nproc-per-node" in refusal(fail, given)


def test_the_processes_of_a_start_agree_on_a_name_whatever_earlier_starts_have_left():
    """Two processes of the first start asked again, and were killed before any answer."""
    store = torch.distributed.HashStore()
    names = []
    for _ in range(2):
        with ThreadPoolExecutor(3) as pool:
            found = pool.map(lambda rank: agreed_prefix(store, rank, 3), range(3))
            names += set(found)
        store.set("asked_by_2", "of a killed process")
        store.set("asked_by_1", "of a killed process")
    assert len(names) == len(set(names)) == 2
    assert agreed_prefix(store, 0, 1) not in names


def test_a_process_that_does_not_come_is_named(monkeypatch):
    monkeypatch.setattr(MODULE, "DEFAULT_TIMEOUT", datetime.timedelta(seconds=0))
    store = torch.distributed.HashStore()
    with pytest.raises(UserError, match="process 1 of 2 did not come within 0:00:00"):
        agreed_prefix(store, 0, 2)


TORCHRUN = ("-m", "torch.distributed.run", "--max-restarts", "1")


def dying_training(repo, tiny_opts, folder):
    """Return the words of a training of six iterations; a process dies before the fourth."""
    words = [Path(__file__).with_name("dies_once.py"), "--config-file"]
    words += [repo / "configs/quick/RPN/rpn_R_18_FPN.yaml", *tiny_opts]
    words += ["SOLVER.MAX_ITER", "6", "SOLVER.CHECKPOINT_PERIOD", "2", "DATASETS.TEST", "()"]
    return [*map(str, words), "OUTPUT_DIR", str(folder)]


@pytest.fixture(scope="module")
def weights_after_a_process_died(repo, tiny_words, tiny_environment, run_program, tmp_path_factory):
    """The weights of a training on one machine, resumed from a checkpoint after a worker died."""
    folder = tmp_path_factory.mktemp("one_machine")
    alone = ("--standalone", "--nproc-per-node", "2")
    done = run_program(*TORCHRUN, *alone, *dying_training(repo, tiny_words, folder))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Starting training from iteration 2" in done.stdout
    return torch.load(folder / "model_final.pth", weights_only=True)["model"]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["MACHINE_DIES", "AGENT_DIES"])
def test_torchrun_goes_on_after_a_process_or_a_machine_has_died(
    repo, tiny_opts, tiny_environment, weights_after_a_process_died, tmp_path, what
):
    """The first worker dies with its torchrun, or that torchrun alone; to the other, this is no
    restart. The same command starts it again, and both go on and end with the weights of a training
    on one machine, although OVERWRITE_OUTPUT_DIR would have a new training begin."""
    cut = tmp_path / "two_machines"
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    agents, logs = {}, []

    def start(machine):
        meet = f"is_host={int(machine == HOST)},keep_alive_interval=1,keep_alive_max_attempt=3"
        words = [*TORCHRUN, "--nnodes", "2", "--nproc-per-node", "1", "--local-addr", machine]
        words += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{HOST}:{port}"]
        words += ["--rdzv-id", "two", "--rdzv-conf", meet, *dying_training(repo, tiny_opts, cut)]
        words += ["OVERWRITE_OUTPUT_DIR", "True"]
        logs.append(tmp_path / f"{len(logs)}.txt")
        with open(logs[-1], "w") as log:
            agents[machine] = subprocess.Popen(
                [sys.executable, *words],
                cwd=repo,
                env={**tiny_environment, "PYTHONPATH": str(repo), **CLUSTER, what: "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    try:
        start(HOST)
        start(OTHER)
        assert agents[OTHER].wait(300) == -signal.SIGKILL
        assert agents[HOST].poll() is None
        start(OTHER)
        if what == "AGENT_DIES":
            wait_for(lambda: "Detected 1 new nodes" in logs[0].read_text())
            os.kill(int((cut / "died").read_text()), signal.SIGKILL)
        for machine in (HOST, OTHER):
            assert agents[machine].wait(300) == 0, [log.read_text()[-3000:] for log in logs]
    finally:
        for agent in agents.values():
            agent.kill()
    assert "Starting training from iteration 2" in logs[-1].read_text()  # of the one that came back
    weights = torch.load(cut / "model_final.pth", weights_only=True)["model"]
    assert not different(weights, weights_after_a_process_died)


# --- the command line


def parse(*words):
    return train_net.build_parser().parse_args([str(word) for word in words])


def without_schedule(tiny_opts):
    """Return these overrides without SOLVER.MAX_ITER and SOLVER.STEPS."""
    opts = dict(zip(tiny_opts[::2], tiny_opts[1::2], strict=True))
    del opts["SOLVER.MAX_ITER"], opts["SOLVER.STEPS"]
    return [word for pair in opts.items() for word in pair]


def line(tiny_opts, *words, flags=()):
    row = "configs/quick/RPN/rpn_R_18_FPN.yaml"
    return parse("--config-file", row, *flags, *without_schedule(tiny_opts), *words)


@pytest.mark.parametrize(
    "epochs, batch, iterations", [(3, 2, 12), (0.5, 2, 2), (1, 3, 3), (7, 8, 7)]
)
def test_epochs_are_iterations_of_so_many_images(
    repo, tiny_opts, monkeypatch, epochs, batch, iterations
):
    """The data set has eight images, all with objects."""
    monkeypatch.chdir(repo)
    whole = read_config(line(tiny_opts))
    plain = whole.SOLVER
    words = ["SOLVER.IMS_PER_BATCH", str(batch)]
    cfg = read_config(line(tiny_opts, *words, flags=["--epochs", str(epochs)]))
    assert iterations == cfg.SOLVER.MAX_ITER
    scale = iterations / plain.MAX_ITER
    steps = [max(1, round(step * scale)) for step in plain.STEPS]
    assert list(cfg.SOLVER.STEPS) == [step for step in steps if step < iterations]
    assert round(plain.WARMUP_ITERS * scale) == cfg.SOLVER.WARMUP_ITERS
    shared = whole.TEST.EVAL_PERIOD * scale
    assert (max(1, round(shared)) if shared else 0) == cfg.TEST.EVAL_PERIOD
    own = read_config(line(tiny_opts, "SOLVER.STEPS", "(1,)", flags=["--epochs", "9"]))
    assert own.SOLVER.STEPS == (1,)
    assert not Path(cfg.OUTPUT_DIR).exists()


def test_evaluations_stay_on_in_few_epochs(repo, tiny_opts, tmp_path):
    base, path = repo / "configs/quick/RPN/rpn_R_18_FPN.yaml", tmp_path / "row.yaml"
    path.write_text(f"_BASE_: {base}\nTEST: {{EVAL_PERIOD: 30}}\n")
    words = ["--config-file", str(path), "--epochs", "0.5", *without_schedule(tiny_opts)]
    assert read_config(parse(*words)).TEST.EVAL_PERIOD == 1


@pytest.mark.parametrize(
    "flags, words, says",
    [
        (["--epochs", "0"], [], "--epochs is 0.0; give a number above 0"),
        (["--epochs", "nan"], [], "--epochs is nan; give"),
        (["--epochs", "3"], ["SOLVER.MAX_ITER", "9"], "--epochs and SOLVER.MAX_ITER .*one of them"),
        (["--epochs", "3", "--eval-only"], [], "--epochs is for a training"),
        (["--epochs", "3"], ["DATASETS.TRAIN", "('nothing',)"], "'nothing', which is not reg"),
        (
            ["--epochs", "3"],
            ["SOLVER.STEPS", "(12,)"],
            "STEPS is .12,., and .* SOLVER.MAX_ITER 12; give",
        ),
    ],
)
def test_epochs_that_cannot_work(repo, tiny_opts, monkeypatch, flags, words, says):
    monkeypatch.chdir(repo)
    with pytest.raises(UserError, match=says):
        read_config(line(tiny_opts, *words, flags=flags))


def test_without_arguments_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in ([], ["--resume"], ["--eval-only"], ["DATASETS.TRAIN", "()"]):
        with pytest.raises(UserError, match="give --config-file, such as|DATASETS.TRAIN names no"):
            train_net.main(parse(*words))
    assert list(tmp_path.iterdir()) == []


def test_the_file_of_a_config_that_is_named_is_known(tiny_opts, tmp_path, monkeypatch):
    """Detectron2's default_setup reads it for the log."""
    monkeypatch.chdir(tmp_path)
    for word, end in (
        ("quick/RPN/rpn_R_18_FPN", "/configs/quick/RPN/rpn_R_18_FPN.yaml"),
        ("COCO-Detection/rpn_R_50_FPN_1x", "/COCO-Detection/rpn_R_50_FPN_1x.yaml"),
    ):
        args = parse("--eval-only", "--config-file", word, *tiny_opts)
        read_config(args)
        assert args.config_file.endswith(end)
        assert Path(args.config_file).is_file()


def test_help_offers_what_there_is():
    text = train_net.build_parser().format_help()
    assert "--epochs N" in text
    assert "LazyConfig" not in text
    assert "SOLVER.BASE_LR 0.001" in text


@pytest.fixture
def zoo_file(repo, narrow_words, tmp_path):
    """The fine-tuning config's network, narrow, as a file in the zoo's form; and its overrides."""
    path = repo / "configs/finetune/faster_rcnn_R_50_FPN.yaml"
    opts = [*narrow_words, "MODEL.RESNETS.WIDTH_PER_GROUP", "4", "MODEL.DEVICE", "cpu"]
    model = build_model(stock_config(load_config(path, opts)))
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    content = {"model": weights, "__author__": "Detectron2 Model Zoo"}
    file = write_pickle(tmp_path / "model_final_280758.pkl", content)
    return path, [*opts, "MODEL.WEIGHTS", file], model.state_dict()


@pytest.mark.usefixtures("no_stale_logs")
def test_fine_tuning_takes_weights_of_the_zoo_and_classes_of_the_data(tiny_opts, output, zoo_file):
    row, opts, weights = zoo_file
    assert weights["roi_heads.box_predictor.cls_score.weight"].shape == (81, 16)
    words = [*opts, *without_schedule(tiny_opts), "SOLVER.BASE_LR", "0.0"]
    args = parse("--config-file", row, "--epochs", "0.5", *words)
    train_net.main(args)
    written = yaml.safe_load((output / "config.yaml").read_text())
    assert written["MODEL"]["ROI_HEADS"]["NUM_CLASSES"] == 5
    assert written["SOLVER"]["MAX_ITER"] == 2  # half of eight images, two at a time
    trained = torch.load(output / "model_final.pth", weights_only=True)["model"]
    assert trained["roi_heads.box_predictor.cls_score.weight"].shape == (6, 16)
    assert all("box_predictor" in name for name in different(trained, weights))
    assert (output / "inference/tiny_val/results.json").is_file()
    # The run's config is complete without the data.
    cfg = load_config(output / "config.yaml", ["MODEL.WEIGHTS", str(output / "model_final.pth")])
    assert load_model(cfg).roi_heads.num_classes == 5


def test_classes_are_counted_once_wherever_that_is_asked(repo, tiny_opts, tmp_path):
    base, row = repo / "configs/quick/Faster-RCNN/faster_rcnn_R_18_FPN.yaml", tmp_path / "row.yaml"
    heads = "ROI_HEADS: {NUM_CLASSES: 7}, RETINANET: {NUM_CLASSES: 7}"
    row.write_text(f"_BASE_: {base}\nMODEL: {{{heads}}}\n")
    words = ["--config-file", row, *tiny_opts, "MODEL.NUM_CLASSES_FROM_DATA", "True"]
    model = read_config(parse(*words)).MODEL
    assert (model.ROI_HEADS.NUM_CLASSES, model.RETINANET.NUM_CLASSES) == (5, 5)
    assert not model.NUM_CLASSES_FROM_DATA


@pytest.mark.parametrize(
    "words, says",
    [
        (["--epochs", "1"], "bare does not say how many it has; give SOLVER.MAX_ITER"),
        (["MODEL.NUM_CLASSES_FROM_DATA", "True"], "data set bare has no list of classes"),
    ],
)
def test_data_that_cannot_be_counted(monkeypatch, words, says):
    DatasetCatalog.register("bare", list)
    monkeypatch.setattr(MODULE, "load_train_dataset", lambda cfg: iter(()))  # a stream
    data = ["DATASETS.TRAIN", "('bare',)", "DATASETS.TEST", "()", "MODEL.DEVICE", "cpu"]
    with pytest.raises(UserError, match=says):
        read_config(parse("--config-file", "quick/RPN/rpn_R_18_FPN", *words, *data))


@pytest.mark.parametrize(
    ("opts", "says"),
    [
        ([], "--num-gpus 8 asks for more GPUs than this machine has, 2"),
        (["MODEL.DEVICE", "cpu"], "CUDA_VISIBLE_DEVICES="),
        (["MODEL.DEVICE", "cuda:1"], "MODEL.DEVICE is cuda:1, and each of several processes"),
    ],
)
def test_gpus_that_are_not_there_are_refused_before_processes_start(
    opts, says, monkeypatch, refusal
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.multiprocessing, "start_processes", lambda *_, **__: None)
    given = args(8)
    given.opts = opts
    assert says in refusal(train_net.main, given)


@pytest.mark.parametrize(
    "given, opts",
    [
        ({"num_gpus": 2}, []),
        ({"num_gpus": 2, "eval_only": True}, ["MODEL.DEVICE", "cpu"]),
        ({"num_machines": 2, "dist_url": "tcp://10.0.0.1:29500"}, ["MODEL.DEVICE", "cuda:1"]),
    ],
)
def test_gpus_that_suffice_are_taken(monkeypatch, given, opts):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.multiprocessing, "start_processes", start := Mock())
    launch(train_net.main, argparse.Namespace(**{**vars(args(1)), **given, "opts": opts}))
    start.assert_called_once()


@pytest.mark.parametrize(
    "opts, says",
    [
        ([], "--nproc-per-node asks for 2 processes, but this machine has 1 GPUs"),
        (["MODEL.DEVICE", "cuda:0"], "MODEL.DEVICE is cuda:0, and each of several processes"),
    ],
)
def test_more_processes_of_torchrun_than_gpus_are_refused(monkeypatch, refusal, opts, says):
    for name, value in {"WORLD_SIZE": 2, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    given = args(1)
    given.opts = opts
    assert says in refusal(fail, given)


def test_short_periods_stay_on_for_more_processes(monkeypatch):
    """Detectron2 rounds half an iteration to 0 and then divides by it."""
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    opts = "SOLVER.IMS_PER_BATCH 2 SOLVER.REFERENCE_WORLD_SIZE 1 SOLVER.CHECKPOINT_PERIOD 1"
    opts += " TEST.EVAL_PERIOD 1 SOLVER.MAX_ITER 1 SOLVER.STEPS () DATASETS.TRAIN ('shapes_train',)"
    opts += " DATASETS.TEST ('shapes_val',) MODEL.DEVICE cpu"
    args = argparse.Namespace(config_file="", opts=opts.split(), eval_only=False)
    cfg = read_config(args)
    assert (cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD, cfg.SOLVER.MAX_ITER) == (1, 1, 1)
    args.opts += ["TEST.EVAL_PERIOD", "0"]
    assert read_config(args).TEST.EVAL_PERIOD == 0
