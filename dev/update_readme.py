#!/usr/bin/env python
"""Write the tables of both READMEs and of docs/export.md from the files under results/.

Marks in the pages name the files.
"""

from pathlib import Path

from fpn_d2.experiments import load_tables
from fpn_d2.experiments.readme import fill_in_results
from fpn_d2.utils.errors import exit_on_user_error
from fpn_d2.utils.files import replace_file

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "README.zh-CN.md", "docs/export.md")


def main() -> None:
    """Write the tables anew."""
    with exit_on_user_error():
        tables = load_tables(ROOT / "configs" / "tables.yaml")
        pages = {ROOT / name: (ROOT / name).read_text(encoding="utf-8") for name in PAGES}
        filled = {path: fill_in_results(text, str(ROOT), tables) for path, text in pages.items()}
        for path, text in filled.items():
            with replace_file(path, encoding="utf-8") as file:
                file.write(text)


if __name__ == "__main__":
    main()
