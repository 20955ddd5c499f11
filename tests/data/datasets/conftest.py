"""A cache for each test, and helpers that write and load folders of any layout."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from fpn_d2.data.datasets import register_folders


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    """The folder of converted annotations."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "fpn_d2" / "datasets"


def write_files(root: Path, files: dict[str, str | tuple[int, int]]) -> None:
    """Write files by their paths below a root: texts, or images of a given (width, height)."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            Image.new("RGB", content).save(path)


def load(root: Path, name: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Register the folders below a root; return the records of a data set and its classes."""
    register_folders(str(root))
    records = DatasetCatalog.get(name)
    return records, MetadataCatalog.get(name).thing_classes


@pytest.fixture
def folders():
    """The helpers, for test files that cannot import a conftest."""
    return SimpleNamespace(write=write_files, load=load)


@pytest.fixture
def load_zoo(tmp_path):
    """``load_zoo(files, split)``: write the folder zoo and load a split of it, see ``load``."""

    def call(files: dict[str, str | tuple[int, int]], split: str):
        write_files(tmp_path / "zoo", files)
        return load(tmp_path, f"zoo_{split}")

    return call
