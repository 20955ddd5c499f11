"""A cache for each test, and a folder of any layout."""

from pathlib import Path

import pytest
from coco_files import load_folder, write_files


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    """The folder of converted annotations."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "fpn_d2" / "datasets"


@pytest.fixture
def load_zoo(tmp_path):
    """``load_zoo(files, split)``: write the folder zoo and load a split of it."""

    def call(files: dict[str, str | tuple[int, int]], split: str):
        write_files(tmp_path / "zoo", files)
        return load_folder(tmp_path, f"zoo_{split}")

    return call
