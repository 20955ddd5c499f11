"""What the documentation tells a reader to write works as it is written."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from detectron2.config import get_cfg
from markdown_pages import anchors, fenced_blocks, links

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
        for language, block in fenced_blocks(text):
            if language != "bash":
                continue
            files = r"(?:configs|tools|tests)/\S+\.(?:yaml|py)|train_net\.py"
            for path in re.findall(files, block):
                named += 1
                assert (repo / path).is_file() or path in made, f"{page}: {path}"
    assert named > 30


def test_every_key_that_a_page_names_is_a_key(pages):
    cfg, named = get_cfg(), 0
    add_fpn_config(cfg)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        blocks = "\n".join(block for language, block in fenced_blocks(text) if language == "bash")
        keys = r"(?<![\w/.-])[A-Z][A-Z_]+(?:\.[A-Z][A-Z0-9_]*)+(?![\w.*])"
        for key in re.findall(keys, text + blocks):
            value = cfg
            for part in key.split("."):
                assert part in value, f"{page}: {key}"
                value = value[part]
            named += 1
    assert named > 50


def test_the_layout_names_every_room(repo):
    layout = (repo / "README.md").read_text(encoding="utf-8").partition("## Layout")[2]
    rooms = [path.parent.name for path in (repo / "fpn_d2").glob("*/__init__.py")]
    assert "modeling" in rooms
    for room in rooms:
        assert re.search(rf"^  (\w+/ )*{room}/", layout, re.MULTILINE), room
