"""The command ``fpn-d2``, which runs the scripts of this folder and train_net.py by short names.

Neither it nor the scripts' parsers import anything but the standard library, so ``--help`` answers
at once; torch and Detectron2 take seconds. For the same reason none of this is part of fpn_d2.
"""

import ast
import difflib
import sys
import types
from importlib import metadata
from pathlib import Path

# Each command's word, its script, and the arguments that go before the user's.
COMMANDS: dict[str, tuple[str, ...]] = {
    "train": ("train_net.py",),
    "eval": ("train_net.py", "--eval-only"),
    "demo": ("demo.py",),
    "app": ("app.py",),
    "check": ("check_dataset.py",),
    "inspect": ("inspect_dataset.py",),
    "analyze": ("analyze_results.py",),
    "draw": ("draw_results.py",),
    "export": ("export.py",),
    "convert": ("convert_checkpoint.py",),
    "configs": ("list_configs.py",),
    "count": ("analyze_model.py",),
    "benchmark": ("benchmark.py",),
    "reproduce": ("reproduce.py",),
    "four-step": ("train_four_step.py",),
    "pretrain": ("pretrain_backbone.py",),
    "shapes": ("make_shapes.py",),
    "train-stock": ("train_stock.py",),
}
_HERE = Path(__file__).resolve().parent


def script(name: str) -> str:
    """Return the path of a script, in this folder or above it, where a clone has train_net.py."""
    path = _HERE / name
    return str(path if path.is_file() else _HERE.parent / name)


def main() -> None:
    """Run the script that the first word of the command line names, with the other words."""
    word, *words = sys.argv[1:] or ["--help"]
    if word in ("-h", "--help"):
        print(_overview())
        return
    if word == "--version":
        print(f"fpn_d2 {metadata.version('fpn_d2')}")
        return
    if word not in COMMANDS:
        close = difflib.get_close_matches(word, COMMANDS, 1)
        hint = f"did you mean {close[0]}?" if close else "fpn-d2 --help lists them"
        print(f"error: there is no command {word}; {hint}", file=sys.stderr)
        sys.exit(2)
    name, *before = COMMANDS[word]
    sys.argv = [f"fpn-d2 {word}", *before, *words]
    sys.path.insert(0, str(_HERE))  # as Python does for a script
    _run(script(name))


def _run(path: str) -> None:
    """Run a script as Python does; runpy would put the script's path into the usage."""
    module = types.ModuleType("__main__")
    module.__file__ = path  # processes that it starts find its functions by this path
    sys.modules["__main__"] = module
    exec(compile(Path(path).read_bytes(), path, "exec", dont_inherit=True), module.__dict__)


def _overview() -> str:
    lines = ["usage: fpn-d2 COMMAND ... (fpn-d2 COMMAND --help lists its options)", ""]
    for word, (name, *before) in COMMANDS.items():
        sentence = " ".join((name, *before))
        if not before:
            module = ast.parse(Path(script(name)).read_text(encoding="utf-8"))
            sentence = ast.get_docstring(module).splitlines()[0]
        lines.append(f"  {word:12}{sentence}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
