"""Processes: several on a CPU, and how a user's error ends them."""

import argparse
import traceback
from pathlib import Path

import pytest

from fpn_d2 import UserError
from fpn_d2.engine import launch
from fpn_d2.utils.errors import sentence_in

from .two_processes import VARIANTS


def args(num_gpus):
    return argparse.Namespace(
        num_gpus=num_gpus, num_machines=1, machine_rank=0, dist_url="auto", config_file="", opts=[]
    )


def fail(args):
    raise UserError("the sentence, with its remedy")


def crash(args):
    raise RuntimeError("a bug")


@pytest.fixture(scope="module")
def in_two_processes(repo, run_program, tiny_words, tmp_path_factory):
    """What two_processes.py prints, line by line."""
    program = Path(__file__).with_name("two_processes.py")
    output = ["OUTPUT_DIR", tmp_path_factory.mktemp("two") / "output"]
    done = run_program(program, repo / "configs/quick", *tiny_words, *output)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def test_two_processes_train_two_steps_of_every_ablation(in_two_processes):
    for name in VARIANTS:
        assert f"{name}: 2 iterations, weights same" in in_two_processes


def test_a_step_makes_one_collective_call(in_two_processes):
    """Besides DistributedDataParallel's, and Detectron2's own gathering of its metrics."""
    assert [line for line in in_two_processes if line.startswith("calls:")] == [
        "calls: all_gather metrics"
    ] * 3
    assert "averages: 2" in in_two_processes


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


def fail_to_write(args):
    raise OSError(28, "No space left on device", "output/metrics.json")


@pytest.mark.parametrize(
    "main, sentence",
    [
        (fail, "the sentence, with its remedy\n"),
        (fail_to_write, "output/metrics.json could not be written (No space left on device); "),
        (full_disk, "the checkpoint could not be written\n"),  # the first sentence counts
    ],
)
def test_a_users_error_and_a_full_disk_end_one_process_with_a_sentence(capsys, main, sentence):
    with pytest.raises(SystemExit) as exit_info:
        launch(main, args(1))
    assert exit_info.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {sentence}")
    assert err.count("\n") == 1


def test_a_bug_is_not_disguised():
    with pytest.raises(RuntimeError, match="a bug"):
        launch(crash, args(1))


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


def test_torchrun_and_num_gpus_do_not_mix(monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(SystemExit) as exit_info:
        launch(fail, args(2))
    assert exit_info.value.code == 2
    assert "--nproc-per-node" in capsys.readouterr().err


@pytest.mark.slow
def test_torchrun_trains_and_restarts_from_the_last_checkpoint(repo, tiny_opts, run_program):
    """A worker that dies at once after its first checkpoint goes on from it."""
    done = run_program(
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("--max-restarts", "1", Path(__file__).with_name("dies_once.py"), "--config-file"),
        *(repo / "configs/quick/RPN/rpn_R_18_FPN.yaml", *tiny_opts),
        *("SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2", "DATASETS.TEST", "()"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Starting training from iteration 2" in done.stdout
    assert Path(tiny_opts[tiny_opts.index("OUTPUT_DIR") + 1], "model_final.pth").is_file()
