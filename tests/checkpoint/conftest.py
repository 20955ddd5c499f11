"""Checkpoint files that do not fill the disk, and what loading them reports."""

from collections.abc import Callable
from pathlib import Path

import pytest
from detectron2.checkpoint import DetectionCheckpointer

from fpn_d2.checkpoint import SafeCheckpointer


@pytest.fixture
def file_of(tmp_path: Path) -> Callable[[str], Path]:
    """``file_of("a.pkl")``: a path for a checkpoint. The files are deleted after the test, because
    those of a session are gigabytes and pytest keeps three sessions."""
    paths = []

    def path_of(name: str) -> Path:
        paths.append(tmp_path / name)
        return paths[-1]

    yield path_of
    for path in paths:
        path.unlink(missing_ok=True)


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list:
    """What each checkpointer's load found: missing and unexpected keys, wrong shapes."""
    found = []

    def keep(self, incompatible):
        found.append(incompatible)

    for checkpointer in (DetectionCheckpointer, SafeCheckpointer):
        monkeypatch.setattr(checkpointer, "_log_incompatible_keys", keep)
    return found
