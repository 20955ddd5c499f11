"""All command lines: they answer before torch is imported, and one word means one thing in all."""

import ast
import importlib.util
import re
import sys
from dataclasses import asdict
from pathlib import Path

import command
import pytest
from detectron2.engine import default_argument_parser

import train_net
from fpn_d2.app import Limits
from fpn_d2.checkpoint.foreign import SOURCES
from fpn_d2.config import CONFIGS, find_config
from fpn_d2.data.datasets import ShapesSpec
from fpn_d2.demo import MAX_PIXELS
from fpn_d2.experiments.config_costs import TASKS
from fpn_d2.export import FORMATS

ROOT = Path(train_net.__file__).parent
SCRIPTS = {
    path.stem: path
    for path in [ROOT / "train_net.py", *ROOT.glob("tools/*.py"), *ROOT.glob("dev/*.py")]
    if "def build_parser" in path.read_text(encoding="utf-8")
}


def parser_of(name):
    """Return the parser of a script, loaded as a file since a folder has the benchmark's name."""
    spec = importlib.util.spec_from_file_location(f"script_{name}", SCRIPTS[name])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build_parser()


def options_of(name):
    return {a.option_strings[0]: a for a in parser_of(name)._actions if a.option_strings}


def test_every_script_with_a_command_line_is_here():
    with_parser = {
        path.stem
        for folder in (ROOT, ROOT / "tools", ROOT / "dev")
        for path in folder.glob("*.py")
        if "argparse.ArgumentParser(" in path.read_text(encoding="utf-8")
    }
    # setup_environment has no build_parser, and train_stock takes train_net's parser.
    assert with_parser - {"setup_environment"} | {"train_stock"} == SCRIPTS.keys()


@pytest.mark.parametrize("name", [*SCRIPTS, "command"])
def test_nothing_heavy_is_imported_before_the_command_line_is_read(name):
    """Check the imports at the top of a file, and those before parse_args() in functions."""
    path = SCRIPTS.get(name, Path(command.__file__))
    tree = ast.parse(path.read_text(encoding="utf-8"))
    light = {*sys.stdlib_module_names, "command"}
    for statement in tree.body:
        if isinstance(statement, ast.Import):
            assert {a.name.split(".")[0] for a in statement.names} <= light
        if isinstance(statement, ast.ImportFrom):
            assert statement.module.split(".")[0] in light
        if isinstance(statement, ast.FunctionDef) and statement.name in ("build_parser", "main"):
            imports = (ast.Import, ast.ImportFrom)
            first = min(
                (n.lineno for n in ast.walk(statement) if isinstance(n, imports)), default=0
            )
            parsed = [
                n.lineno
                for n in ast.walk(statement)
                if isinstance(n, ast.Attribute) and n.attr == "parse_args"
            ]
            assert not first or statement.name == "main"
            if parsed:
                assert not first or first > parsed[0]


def test_what_the_package_owns_is_written_in_the_parsers_as_it_is():
    assert tuple(options_of("export")["--format"].choices) == FORMATS
    assert tuple(options_of("analyze_model")["--tasks"].choices) == TASKS
    assert tuple(options_of("convert_checkpoint")["--from"].choices) == SOURCES
    assert options_of("demo")["--max-pixels"].default == MAX_PIXELS
    shapes = asdict(ShapesSpec())
    for name in ("train", "val", "size", "seed"):
        assert options_of("make_shapes")[f"--{name}"].default == shapes[name]
    for name, value in asdict(Limits()).items():
        assert options_of("app")[f"--max-{name}"].default == value
    program = pytest.importorskip("benchmark.program")
    assert [*options_of("benchmark")["--tasks"].choices] == [*program.TASKS, "growth"]
    axes = [series.axis for series in program.all_series()]
    assert [*options_of("benchmark")["--axes"].choices] == [*dict.fromkeys(axes)]


@pytest.mark.parametrize("name", ["train_net", "train_stock"])
def test_a_training_has_detectron2s_options(name):
    """All of them, and --epochs."""
    stock = default_argument_parser()
    stock.add_argument("--epochs", type=float)
    kept = ("option_strings", "dest", "nargs", "const", "default", "type", "choices", "required")
    ours, theirs = (
        {a.dest: {key: getattr(a, key) for key in kept} for a in parser._actions}
        for parser in (parser_of(name), stock)
    )
    assert ours == theirs


# -- one word, one meaning: for each option its metavar, and the older words that still work

FILE, DIRECTORY = "FILE", "DIR"
MEANINGS = {
    "--config-file": {FILE},
    "--weights": {FILE},
    "--images": {FILE, "FOLDER"},  # for a data set, its folder
    "--output": {FILE, DIRECTORY},
    "--json": {FILE},
    "--tables": {FILE},
    "--force": {None},
    "--confidence-threshold": {"SCORE"},
    "--opts": {None, "KEY VALUE"},
}
OLD_WORDS = {
    "--input": "--images",
    "--video-input": "--images",
    "--threshold": "--confidence-threshold",
    "--report": "--json",
    "--folder": "--output",
}
# Rival names, which no option may have.
RIVALS = r"--(config|cfg|model-weights|checkpoint|out|output-dir|save|overwrite|score.*|file)"


@pytest.mark.parametrize("name", SCRIPTS)
def test_one_word_means_one_thing(name):
    for word, action in options_of(name).items():
        if word in MEANINGS:
            assert action.metavar in MEANINGS[word], word
            assert (action.metavar is None) == (action.nargs == 0), word
        assert word not in OLD_WORDS, f"{word} comes after {OLD_WORDS.get(word)}"
        for other in action.option_strings[1:]:
            assert OLD_WORDS.get(other, word) == word, other
        if name not in ("benchmark_annotations",):
            assert not re.fullmatch(RIVALS, word), word
    for action in parser_of(name)._actions:
        if action.dest == "opts":
            assert action.nargs == "..."


def test_the_older_words_go_on_working():
    parsed = parser_of("demo").parse_args(["--input", "x.jpg", "--threshold", "0.3", "--opts", "A"])
    assert (parsed.input, parsed.threshold, parsed.opts) == (["x.jpg"], "0.3", ["A"])
    words = ["--weights", "w", "--format", "onnx", "--output", "o", "--report", "r.json"]
    assert parser_of("export").parse_args(words).report == "r.json"
    assert parser_of("draw_results").parse_args(["run", "--threshold", "0.3"]).threshold == 0.3
    assert parser_of("check_dataset").parse_args(["data", "--json"]).json == "-"


# -- fpn-d2


def test_the_command_lists_every_tool_and_sends_its_words_there(run_tool, monkeypatch, capsys):
    code, overview, _ = run_tool(command, "--help")
    assert code == 0
    assert {name for name, *_ in command.COMMANDS.values()} == {
        path.name for name, path in SCRIPTS.items() if path.parent.name != "dev"
    }
    page = (ROOT / "docs/tools.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([\w-]+)` \| `(?:tools/)?([^`]+)` \|", page, re.MULTILINE)
    assert {word: tuple(line.split()) for word, line in listed} == command.COMMANDS
    calls = []
    monkeypatch.setattr(command, "_run", calls.append)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for word, (name, *before) in command.COMMANDS.items():
        assert re.search(rf"^  {word} +\S", overview, re.MULTILINE)
        assert run_tool(command, word, "--help", "x")[0] == 0
        assert sys.argv == [f"fpn-d2 {word}", *before, "--help", "x"]
        assert Path(calls.pop()) == SCRIPTS[name.removesuffix(".py")]


def test_a_script_answers_under_the_commands_name(printed, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    assert printed(command, "eval", "--help").startswith("usage: fpn-d2 eval ")


@pytest.mark.parametrize(
    "word, hint", [("trian", "did you mean train?"), ("zzz", "fpn-d2 --help lists them")]
)
def test_a_command_that_there_is_not(word, hint, refused):
    assert refused(command, word) == f"error: there is no command {word}; {hint}\n"


# -- configs by their names


def test_a_shipped_config_is_found_from_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    demo = str(ROOT / "configs/quick/demo.yaml")
    assert str(ROOT / "configs") == CONFIGS
    for word in ("quick/demo", "quick/demo.yaml", "configs/quick/demo.yaml", demo):
        assert find_config(word) == demo
    for word in ("", "quick", "nothing", "../quick/demo", "COCO-Detection/retinanet_R_50_FPN_1x"):
        assert find_config(word) == word
    (tmp_path / "configs/quick").mkdir(parents=True)
    (tmp_path / "configs/quick/demo.yaml").write_text("")  # a user's own file comes first
    assert find_config("configs/quick/demo.yaml") == "configs/quick/demo.yaml"
