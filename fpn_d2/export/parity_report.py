"""How far exported models are from those that they were made of, as a file and as a table."""

import os
from collections.abc import Sequence
from typing import Any

from ..utils.errors import UserError
from ..utils.files import read_json, write_json
from ..utils.provenance import (
    describe_machine,
    describe_versions,
    git_commit,
    installed_versions,
)
from .checking import Parity

__all__ = ["check_report", "export_table", "report_parity"]


def report_parity(path: str | os.PathLike, model: str, format: str, parity: Parity) -> None:
    """Add a model's parity to a JSON file, in the place of an earlier one of it.

    Args:
        path: the file, which need not be there.
        model: the model's name in the table.
        format: "onnx" or "torchscript".
        parity: of the exported file.

    Raises:
        UserError: see :func:`check_report`.
    """
    path = os.fspath(path)
    check_report(path)
    rows = read_json(path)["exports"] if os.path.isfile(path) else []
    rows = [row for row in rows if (row["model"], row["format"]) != (model, format)]
    row = {
        "model": model,
        "format": format,
        "images": len(parity.sizes),
        "sizes": len(set(parity.sizes)),
        "boxes": max(parity.detections, parity.found),
        "matched_share": round(parity.matched_share, 5),
        "tied": parity.tied,
        "max_pixels": float(f"{parity.max_pixels:.1e}"),
        "max_score": float(f"{parity.max_score:.1e}"),
        "head_max_error": float(f"{parity.head_max_error:.1e}"),
    }
    content = {
        "exports": sorted([*rows, row], key=lambda row: (row["model"], row["format"])),
        "commit": git_commit(),
        "machine": describe_machine(),
        "versions": describe_versions() | installed_versions("onnx", "onnxruntime"),
    }
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    write_json(path, content)


def check_report(path: str | os.PathLike) -> None:
    """Refuse a file that :func:`report_parity` cannot add to.

    Args:
        path: the file, which need not be there.

    Raises:
        UserError: where it is of something else.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        raise UserError(f"{path} is a folder; name a file")
    content = read_json(path) if os.path.isfile(path) else {"exports": []}
    if not isinstance(content, dict) or not isinstance(content.get("exports"), list):
        raise UserError(f"{path} is no report of exports, and is kept; name another by --report")


def export_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows of :func:`report_parity` in Markdown."""
    lines = [
        "| model | format | images (sizes) | boxes | matched % | tied | largest difference, px "
        "| of scores | of head outputs |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [
            row["model"],
            row["format"],
            f"{row['images']} ({row['sizes']})",
            str(row["boxes"]),
            f"{100 * row['matched_share']:.2f}",
            str(row["tied"]),
            *(f"{row[key]:.0e}" for key in ("max_pixels", "max_score", "head_max_error")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
