"""What the documentation tells a reader to write works as it is written."""

import argparse
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from detectron2.config import get_cfg
from markdown_pages import anchors, fenced_blocks, links
from torch.distributed.run import get_args_parser as torch_parser

import train_net
from fpn_d2 import add_fpn_config, load_config
from fpn_d2.experiments import load_tables


@pytest.fixture
def tables_page(repo: Path) -> str:
    return (repo / "docs" / "tables.md").read_text(encoding="utf-8")


def block_after(text: str, mark: str) -> str:
    return re.search(rf"<!-- {re.escape(mark)} -->\n```yaml\n(.*?)```", text, re.DOTALL)[1]


def test_the_row_of_ones_own_is_a_row(repo, tables_page, tmp_path):
    configs = tmp_path / "configs"
    shutil.copytree(repo / "configs", configs)
    config = "quick/RPN/rpn_R_18_FPN_128.yaml"
    (configs / config).write_text(block_after(tables_page, f"config: {config}"))
    content = yaml.safe_load((configs / "tables.yaml").read_text())
    table = content["tables"]["1"]
    table["rows"].update(yaml.safe_load(block_after(tables_page, "rows of table 1")))
    table["claims"] += yaml.safe_load(block_after(tables_page, "claims of table 1"))
    (configs / "tables.yaml").write_text(yaml.safe_dump(content))
    tables = load_tables(configs / "tables.yaml")
    row = tables.table("1").rows_at("quick")["c_wide"]
    assert load_config(tables.config_file(row.configs["quick"])).MODEL.FPN.OUT_CHANNELS == 128


@pytest.fixture(scope="module")
def pages(repo) -> list[Path]:
    """Every page that a reader is sent to."""
    found = [*repo.glob("*.md"), repo / "datasets" / "README.md", *(repo / "docs").glob("*.md")]
    names = {page.name for page in found}
    assert {"README.md", "README.zh-CN.md", "CONTRIBUTING.md", "SECURITY.md"} <= names
    return found


def commands_of(page: Path) -> list[str]:
    """Return the lines of a page's blocks of commands; a continued line is one."""
    blocks = fenced_blocks(page.read_text(encoding="utf-8"))
    text = "\n".join(block for language, block in blocks if language == "bash")
    return text.replace("\\\n", " ").splitlines()


def test_every_link_of_a_page_leads_to_a_file_and_a_heading(pages):
    for page in pages:
        for link in links(page.read_text(encoding="utf-8")):
            if link.startswith(("https://", "http://")):
                continue
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            assert target.exists(), f"{page}: {link}"
            if anchor:
                assert anchor in anchors(target.read_text(encoding="utf-8")), f"{page}: {link}"


def test_every_config_tool_and_test_that_a_command_names_is_there(pages, repo):
    named = 0
    for page in pages:
        text = page.read_text(encoding="utf-8")
        made = set(re.findall(r"^cat > (\S+)", text, re.MULTILINE))
        files = r"(?:configs|tools|tests)/\S+\.(?:yaml|py)|train_net\.py"
        for path in re.findall(files, "\n".join(commands_of(page))):
            named += 1
            assert (repo / path).is_file() or path in made, f"{page}: {path}"
    assert named > 30


def test_every_key_that_a_page_names_is_a_key(pages):
    cfg, named = get_cfg(), 0
    add_fpn_config(cfg)
    for page in pages:
        keys = r"(?<![\w/.-])[A-Z][A-Z_]+(?:\.[A-Z][A-Z0-9_]*)+(?![\w.*])"
        for key in re.findall(keys, page.read_text(encoding="utf-8")):
            value = cfg
            for part in key.split("."):
                assert part in value, f"{page}: {key}"
                value = value[part]
            named += 1
    assert named > 50


def test_the_commands_of_torchrun_are_torchruns(pages):
    commands = [line for page in pages for line in commands_of(page)]
    commands = [line for line in commands if line.startswith("torchrun ")]
    assert any("--nnodes 2" in command for command in commands)
    for command in commands:
        assert train_words(shlex.split(command, comments=True)[1:]).config_file


def train_words(words: list[str]) -> argparse.Namespace:
    """Return what train_net.py reads from the words that torchrun is given."""
    args = torch_parser().parse_args(words)
    assert args.training_script == "train_net.py"
    return train_net.build_parser().parse_args(args.training_script_args)


@pytest.fixture
def sbatch(repo, tmp_path):
    """``sbatch(restarts, code, seconds, ended)``: run docs/examples/train.sbatch as Slurm does,
    with an srun that ends with this code after so many seconds; if ``ended``, the script gets
    SIGTERM meanwhile. Return the words of srun and whether the job was queued again."""
    for name, text in (
        ("srun", 'printf "%s\n" "$@" > srun.txt; [ $ENDED = 0 ] || kill -TERM $PPID; exit "$CODE"'),
        (
            "scontrol",
            'if [ "$1" = requeue ]; then echo "$2" > requeue.txt; else echo a; echo b; fi',
        ),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)

    def run(
        restarts: int, code: int, seconds: int = 700, ended: bool = False
    ) -> tuple[list[str], bool]:
        slurm = {"JOB_NODELIST": "[a-b]", "NNODES": 2, "GPUS_ON_NODE": 8, "JOB_ID": 5}
        slurm["RESTART_COUNT"] = restarts
        environment = {f"SLURM_{key}": str(value) for key, value in slurm.items()}
        environment |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CODE": str(code)}
        # bash counts SECONDS on from this value
        environment |= {"SECONDS": str(seconds), "ENDED": str(int(ended))}
        script = repo / "docs/examples/train.sbatch"
        words = [script, "mine.yaml", "SOLVER.BASE_LR", "0.01"]
        (tmp_path / "requeue.txt").unlink(missing_ok=True)
        done = subprocess.run(["bash", *words], cwd=tmp_path, env=environment, timeout=60)
        assert done.returncode == code
        queued = (tmp_path / "requeue.txt").exists()
        return (tmp_path / "srun.txt").read_text().splitlines(), queued

    return run


def test_the_script_for_slurm_starts_torchrun_and_queues_itself_again(sbatch):
    words, queued = sbatch(restarts=0, code=0)
    assert not queued
    start = words.index("torchrun")
    read = torch_parser().parse_args(words[start + 1 :])
    found = (read.nnodes, read.nproc_per_node, read.rdzv_endpoint, read.rdzv_id)
    assert found == ("2", "8", "a:29400", "5")
    args = train_words(words[start + 1 :])
    assert (args.config_file, args.resume) == ("mine.yaml", True)
    assert args.opts == ["SOLVER.BASE_LR", "0.01"]
    assert sbatch(restarts=4, code=1)[1]
    assert not sbatch(restarts=5, code=1)[1]
    assert not sbatch(restarts=0, code=1, seconds=0)[1]  # a wrong word: torchrun ends with 1
    assert sbatch(restarts=0, code=1, seconds=0, ended=True)[1]
    assert not sbatch(restarts=0, code=0, seconds=0, ended=True)[1]


def test_the_layout_names_every_room(repo):
    layout = (repo / "README.md").read_text(encoding="utf-8").partition("## Layout")[2]
    rooms = [path.parent.name for path in (repo / "fpn_d2").glob("*/__init__.py")]
    assert "modeling" in rooms
    for room in rooms:
        assert re.search(rf"^  (\w+/ )*{room}/", layout, re.MULTILINE), room


def test_a_data_set_is_inspected_by_the_config_that_is_trained(pages):
    seen = 0
    for page in pages:
        for _, block in fenced_blocks(page.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("python tools/inspect_dataset.py"):
                    seen += 1
                    assert "--config-file" in line, f"{page}: {line}"
    assert seen >= 4
