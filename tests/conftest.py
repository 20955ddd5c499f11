"""What all tests share: few threads, shipped rows on the CPU, tiny images and tiny data.

xdist loads this file before it starts the processes that run the tests. The fixtures import torch
and what needs it; otherwise the processes would first wait until xdist has imported them, too.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from detectron2.config import CfgNode

# The files with slow tests of a minute or more. xdist gives each of two processes one half of the
# tests, in their order, and no process takes another's last two: one of these sets leads each half.
_FIRST = (
    {"test_first_hour.py", "test_kill_trials.py", "test_reproduce.py"},
    {"test_launch.py", "test_prepared.py", "test_tutorial.py"},
)


@pytest.hookimpl(trylast=True)  # after -m and -k have chosen
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest slow tests early; keep the quick ones in their order."""
    slow = [item for item in items if item.get_closest_marker("slow")]
    one, two = ([item for item in slow if item.path.name in names] for names in _FIRST)
    others = [item for item in items if item not in {*one, *two}]
    middle = max(0, len(items) // 2 - len(one))
    items[:] = [*one, *others[:middle], *two, *others[middle:]]


def pytest_collection_finish() -> None:
    """Speed up a process that runs tests; pytest does not call this in xdist's own process."""
    import torch

    torch.set_num_threads(1)  # the inputs are tiny, and threads that wait for a busy core are slow
    gc.freeze()  # what is loaded by now stays to the end: the collector need not scan it again


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the repository."""
    return Path(__file__).resolve().parents[1]


def key_of(cfg: CfgNode, *keys: str, default: object = None) -> object:
    """Return the value of the first of these keys that the config has, or else the default."""
    for key in keys:
        with contextlib.suppress(KeyError):
            return functools.reduce(lambda section, name: section[name], key.split("."), cfg)
    return default


@pytest.fixture(scope="session", autouse=True)
def _quick_setup() -> Iterator[None]:
    """Replace two parts of Detectron2's default_setup that take a second each: it lists the
    environment for the log, and for each key lookup it writes the config as YAML and reads that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detectron2.engine.defaults.collect_env_info", str)
        patch.setattr("detectron2.engine.defaults._try_get_key", key_of)
        yield


def parsed_once(parse: Callable) -> Callable:
    """Make a YAML parser parse each config's text only once: it is written in Python, and the tests
    load the shipped rows more than a thousand times."""
    known: dict[tuple[str, str], object] = {}

    @functools.wraps(parse)
    def call(stream: object, *args: object, **kwargs: object) -> object:
        if not isinstance(stream, io.StringIO):
            return parse(stream, *args, **kwargs)
        key = getattr(stream, "name", ""), stream.getvalue()
        if key not in known:
            known[key] = parse(stream, *args, **kwargs)
        parsed = known[key]
        return copy.deepcopy(parsed) if isinstance(parsed, (dict, list)) else parsed

    return call


@pytest.fixture(scope="session", autouse=True)
def _quick_configs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yaml, "safe_load", parsed_once(yaml.safe_load))
        patch.setattr(yaml, "compose", parsed_once(yaml.compose))
        yield


@pytest.fixture(autouse=True)
def _clean_catalogs() -> Iterator[None]:
    """Remove what a test registered from the catalogs."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    before = [set(catalog.keys()) for catalog in (DatasetCatalog, MetadataCatalog)]
    yield
    for catalog, names in zip((DatasetCatalog, MetadataCatalog), before, strict=True):
        for name in set(catalog.keys()) - names:
            catalog.pop(name)


@pytest.fixture
def no_stale_logs() -> Iterator[None]:
    """Reset Detectron2's loggers: they keep the first stdout that they saw, which pytest replaces,
    and the first file that they opened under a name, which pytest may have deleted and reused."""
    _forget_logs()
    yield
    _forget_logs()


def _forget_logs() -> None:
    from detectron2.utils import logger

    logger.setup_logger.cache_clear()
    logger._cached_log_stream.cache_clear()
    for name in ("detectron2", "fvcore", "fpn_d2"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True


@pytest.fixture(scope="session")
def row_config(repo: Path) -> Callable[..., CfgNode]:
    """``row_config("quick/RPN/rpn_R_18_FPN", KEY, value, ...)``: a shipped row, on the CPU."""
    from fpn_d2 import load_config

    @functools.lru_cache(maxsize=64)
    def load_once(row: str, opts: tuple[str, ...]) -> CfgNode:
        return load_config(repo / "configs" / f"{row}.yaml", opts)

    def load(row: str, *opts: object) -> CfgNode:
        return load_once(row, tuple(map(str, ("MODEL.DEVICE", "cpu", *opts)))).clone()

    return load


@pytest.fixture(scope="session")
def make_input() -> Callable[..., dict]:
    """``make_input(height, width, boxes)``: an image of noise as a data loader gives it to a model,
    with an object in each of these boxes (classes 0, 1, ...) and some random proposals."""
    import torch
    from detectron2.structures import Boxes, Instances

    def make(height: int, width: int, boxes: list, seed: int = 0) -> dict:
        generator = torch.Generator().manual_seed(seed)
        image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
        instances.gt_classes = torch.arange(len(boxes)) % 5
        corners = torch.rand(30, 2, 2, generator=generator).sort(dim=1).values
        proposals = Instances((height, width))
        proposals.proposal_boxes = Boxes((corners * torch.tensor([width, height])).flatten(1))
        proposals.objectness_logits = torch.randn(30, generator=generator)
        return {
            "image": image.float(),
            "height": height,
            "width": width,
            "instances": instances,
            "proposals": proposals,
        }

    return make


@pytest.fixture
def run_tool(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """``run_tool(module, word, ...)``: run a tool's main with these words as its command line;
    return its exit code, stdout and stderr."""

    def run(module: ModuleType, *words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, words)])
        capsys.readouterr()
        code = 0
        try:
            module.main()
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def printed(run_tool) -> Callable[..., str]:
    """``printed(module, word, ...)``: what a tool prints that ends well."""

    def run(module: ModuleType, *words: object) -> str:
        code, stdout, stderr = run_tool(module, *words)
        assert code == 0, stdout + stderr
        return stdout

    return run


@pytest.fixture
def refused(run_tool) -> Callable[..., str]:
    """``refused(module, word, ...)``: the one line with which a tool ends that cannot work."""

    def run(module: ModuleType, *words: object) -> str:
        code, _, stderr = run_tool(module, *words)
        assert (code, stderr.count("\n"), stderr[:7]) == (2, 1, "error: "), stderr
        return stderr

    return run


@pytest.fixture
def run_train_net(repo, tiny_opts, monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """``run_train_net(row, word, ...)``: run train_net.py in this process on the tiny data; return
    its exit code, stdout and stderr."""
    import train_net
    from fpn_d2.engine import launch

    monkeypatch.chdir(repo)

    def run(row: str | Path, *words: object) -> tuple[int, str, str]:
        words = [str(word) for word in words]
        flags = [word for word in words if word.startswith("--")]
        opts = [word for word in words if not word.startswith("--")]
        path = row if str(row).endswith(".yaml") else f"configs/{row}.yaml"
        line = ["--config-file", str(path), *flags, *tiny_opts, *opts]
        capsys.readouterr()
        code = 0
        try:
            launch(train_net.main, train_net.build_parser().parse_args(line))
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def narrow_words() -> list[str]:
    """Overrides that leave a quick row a hundredth of its weights, and so make a step, a checkpoint
    and a comparison that much cheaper. Detectron2 makes a ResNet-18 in one width only."""
    return [
        "MODEL.RESNETS.DEPTH", "50",
        "MODEL.RESNETS.RES2_OUT_CHANNELS", "16",
        "MODEL.FPN.OUT_CHANNELS", "32",
        "MODEL.ROI_BOX_HEAD.FC_DIM", "16",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def tiny_words(narrow_words: list[str]) -> list[str]:
    """Overrides with which any quick row runs, narrowed, on the tiny data."""
    return [
        *narrow_words,
        "DATASETS.TRAIN", "('tiny_train',)",
        "DATASETS.TEST", "('tiny_val',)",
        "INPUT.MIN_SIZE_TRAIN", "(64,)",
        "INPUT.MIN_SIZE_TEST", "64",
        "SOLVER.IMS_PER_BATCH", "2",
        "SOLVER.MAX_ITER", "2",
        "SOLVER.STEPS", "()",
        "SOLVER.AMP.ENABLED", "False",
        "DATALOADER.NUM_WORKERS", "0",
        "MODEL.DEVICE", "cpu",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of data sets with a single one: tiny_train and tiny_val, a few images of 64 px."""
    from fpn_d2.data.datasets import ShapesSpec, generate_shapes

    root = str(tmp_path_factory.mktemp("datasets"))
    generate_shapes(root, "tiny", ShapesSpec(train=8, val=4, size=64, max_objects=3))
    return root


@pytest.fixture
def tiny_truth(tiny_root: str) -> dict[str, Any]:
    """The content of tiny_val's annotation file."""
    return json.loads(Path(tiny_root, "tiny/annotations/instances_val.json").read_text())


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """The OUTPUT_DIR of ``tiny_opts``, which does not exist yet."""
    return tmp_path / "output"


@pytest.fixture
def tiny_opts(tiny_root: str, tiny_words: list[str], output: Path) -> list[str]:
    """``tiny_words`` with ``output`` as OUTPUT_DIR, for a test with the tiny data registered."""
    from fpn_d2.data.datasets import register_folders

    register_folders(tiny_root)
    return [*tiny_words, "OUTPUT_DIR", str(output)]


@pytest.fixture
def wide_opts(tiny_opts: list[str], narrow_words: list[str]) -> list[str]:
    """``tiny_opts`` without the narrowing, for a test that has weights of the row's full width."""
    return tiny_opts[len(narrow_words) :]


@pytest.fixture(scope="session")
def tiny_environment(tiny_root: str) -> dict[str, str]:
    """The environment in which a program finds the tiny data."""
    return {**os.environ, "DETECTRON2_DATASETS": tiny_root, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def run_program(repo: Path, tiny_environment: dict) -> Callable[..., subprocess.CompletedProcess]:
    """``run_program(word, ...)``: run Python so that it finds the package and the tiny data."""

    def run(*words: object) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=repo,
            env={**tiny_environment, "PYTHONPATH": str(repo)},
            capture_output=True,
            text=True,
            timeout=600,
        )

    return run
