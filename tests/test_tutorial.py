"""Every command of docs/tutorial.md, run in order in a copy of the repository.

A comment right above a block says what this test does beside it, so that nothing is left out in
silence: ``<!-- test adds: WORDS -->`` gives the block's only command more words, and
``<!-- test runs: COMMAND -->`` is a command of its own after the block. A block that says
``<!-- test needs: MODULE ... -->`` of what is not installed is left out, and the test then ends as
skipped, naming it, once all else has passed.

The trainings are of 25 iterations: after two, batch norm's statistics fit nothing, no detection is
left, and the export has nothing to compare.
"""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

_BLOCK = re.compile(r"((?:^<!-- [^\n]* -->\n)*)^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_NOT_COPIED = (".git", "__pycache__", ".*_cache", ".page-environment", "*.egg-info")
_NOT_COPIED_FROM_THE_TOP = {"output", "datasets", "results"}


class Block(NamedTuple):
    """A block of commands.

    Args:
        text: as the page has it.
        added: more words for its only command.
        after: commands that the test runs after it.
        needs: modules without which it cannot run.
    """

    text: str
    added: list[str]
    after: list[str]
    needs: list[str]

    @property
    def script(self) -> str:
        """What the test runs."""
        lines = [" ".join([self.text.rstrip("\n"), *self.added]), *self.after]
        return "\n".join(lines) + "\n"


def read_blocks(page: str) -> list[Block]:
    blocks = []
    for comments, language, text in _BLOCK.findall(page):
        kinds = ("adds", "runs", "needs")
        added, after, needs = (re.findall(rf"<!-- test {k}: (.*) -->", comments) for k in kinds)
        known = len(added) + len(after) + len(needs)
        assert known == comments.count("\n"), f"a comment of no kind: {comments}"
        if language == "bash":
            blocks.append(Block(text, added, after, " ".join(needs).split()))
        else:
            assert not comments
    return blocks


@pytest.fixture
def page(repo: Path) -> str:
    return (repo / "docs" / "tutorial.md").read_text(encoding="utf-8")


def test_a_block_is_read_with_what_the_test_adds():
    comments = "<!-- test adds: B 2 -->\n<!-- test runs: ls -->\n<!-- test needs: x y -->\n"
    page = f"Text.\n{comments}```bash\na \\\n  A 1\n```\n\n```text\nno command\n```\n"
    (block,) = read_blocks(page)
    assert block.needs == ["x", "y"]
    assert block.script == "a \\\n  A 1 B 2\nls\n"
    with pytest.raises(AssertionError, match="of no kind"):
        read_blocks("<!-- test skips -->\n```bash\na\n```\n")


def test_no_command_stands_where_the_test_does_not_see_it(page):
    kinds = [language for _, language, _ in _BLOCK.findall(page)]
    assert page.count("```") == 2 * len(kinds)
    assert set(kinds) == {"bash", "text"}
    for language, text in re.findall(r"^```(\w+)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
        if language == "text":
            assert not re.search(r"^(make|python|\$) ", text, re.MULTILINE)
    for block in read_blocks(page):
        if block.added:  # the words go to the last command: it must be the only one
            lines = block.text.replace("\\\n", " ").strip().splitlines()
            assert len(lines) == 1, block.text
            assert shlex.split(f"{lines[0]} {block.added[0]}")


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("make") and shutil.which("bash")), reason="make and bash")
def test_every_command_works_and_leaves_what_the_page_says(repo, page, tmp_path):
    copy = tmp_path / "fpn_d2"
    ignored = shutil.ignore_patterns(*_NOT_COPIED)

    def ignore(folder: str, names: list[str]) -> set[str]:
        at_the_top = Path(folder) == repo
        return ignored(folder, names) | (_NOT_COPIED_FROM_THE_TOP if at_the_top else set())

    shutil.copytree(repo, copy, ignore=ignore)
    programs = tmp_path / "bin"
    programs.mkdir()
    python = programs / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    hidden = ("DETECTRON2_DATASETS", "MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    environment = {
        **{key: value for key, value in os.environ.items() if key not in hidden},
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(copy),
        "OMP_NUM_THREADS": "1",
    }
    blocks = read_blocks(page)
    left = [b for b in blocks if not all(importlib.util.find_spec(name) for name in b.needs)]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    for block in blocks:
        if block in left:
            continue
        command = ["bash", "-euo", "pipefail", "-c", block.script]
        done = subprocess.run(command, cwd=copy, env=environment, **pipes, text=True)
        assert done.returncode == 0, f"{block.script}\n{done.stdout[-3000:]}"
        assert "Traceback" not in done.stdout, f"{block.script}\n{done.stdout[-3000:]}"
    left_out = "".join(block.text for block in left)
    for path in re.findall(r"`((?:output|results)/[^`\s<>*]+)`", page):
        assert (copy / path).exists() or path in left_out, f"the page names {path}"
    if left:
        pytest.skip(f"not installed: {' '.join(sorted({n for b in left for n in b.needs}))}")
