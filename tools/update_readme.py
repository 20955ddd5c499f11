#!/usr/bin/env python
"""Write the tables of README.md from the files under results/ that its marks name."""

from pathlib import Path

from fpn_d2.errors import exit_on_user_error
from fpn_d2.files import replace_file
from fpn_d2.protocol import fill_in_results, load_tables

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Write the tables anew."""
    with exit_on_user_error():
        path = ROOT / "README.md"
        text = path.read_text(encoding="utf-8")
        tables = load_tables(ROOT / "configs" / "tables.yaml")
        with replace_file(path, encoding="utf-8") as file:
            file.write(fill_in_results(text, str(ROOT), tables))


if __name__ == "__main__":
    main()
