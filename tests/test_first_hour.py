"""docs/first_hour.ipynb runs from its first cell to its last, and is committed without outputs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from markdown_pages import links
from PIL import Image

# Runs the code cells of a notebook in one scope. Like Jupyter, it shows the last expression of each
# cell; a picture is saved to a file that is named by the cell's number.
_RUNNER = """
import ast, json, sys
from PIL import Image
scope = {"__name__": "__main__"}
for number, cell in enumerate(json.load(open(sys.argv[1], encoding="utf-8"))["cells"]):
    body = ast.parse("".join(cell["source"]) if cell["cell_type"] == "code" else "").body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), f"cell {number}", "exec"), scope)
    shown = last and eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), scope)
    shown.save(f"{number}.png") if isinstance(shown, Image.Image) else print(shown or "")
"""


@pytest.fixture(scope="module")
def notebook(repo: Path) -> Path:
    return repo / "docs" / "first_hour.ipynb"


@pytest.fixture(scope="module")
def cells(notebook: Path) -> list[dict]:
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def test_no_cell_has_an_output_or_a_number(cells):
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 5
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)


def test_every_link_leads_to_a_page(notebook, cells):
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    named = [link for text in texts for link in links(text) if not link.startswith("https://")]
    assert len(named) > 5
    for link in named:
        assert (notebook.parent / link).is_file(), link


@pytest.mark.slow
def test_it_trains_detects_and_draws(repo, notebook, cells, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(repo), "OMP_NUM_THREADS": "1"}
    run = [sys.executable, "-c", _RUNNER, str(notebook)]
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    # Eq. 1, and P2 and P5 where it would leave the pyramid.
    sides = {16: 2, 56: 2, 111: 2, 112: 3, 223: 3, 224: 4, 447: 4, 448: 5, 900: 5}
    assert "\n".join(f"{side:4d} px: P{level}" for side, level in sides.items()) in done.stdout
    pictures = [Image.open(path) for path in tmp_path.glob("*.png")]
    assert len(pictures) == 4
    assert all(len(picture.getcolors(1 << 24)) > 50 for picture in pictures)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"first_hour"}


def test_no_cell_asks_where_the_package_lies(cells):
    code = "".join(line for cell in cells if cell["cell_type"] == "code" for line in cell["source"])
    assert "__file__" not in code  # an installed wheel keeps its configs elsewhere
