"""Tables of a Markdown file that come from results, between a pair of marks.

<!-- results/shapes/table1.json -->
... what this module writes ...
<!-- end of results -->
"""

import os
import re

from ..export import export_table
from ..utils.errors import UserError
from ..utils.files import read_json
from .report import markdown_table
from .speed_table import benchmark_table
from .tables import Tables

__all__ = ["fill_in_results"]

_SECTION = re.compile(r"(<!-- (\S+\.json) -->\n).*?(<!-- end of results -->)", re.DOTALL)


def fill_in_results(text: str, root: str, tables: Tables) -> str:
    """Write the tables of a Markdown text anew, from the results that its marks name.

    Args:
        text: the Markdown text.
        root: the folder that the marks are relative to.
        tables: what the columns and rows are.

    Returns:
        the text with all marked tables as the results have them.

    Raises:
        UserError: where there is no mark, or a mark names a file that is not there.
    """

    def write(section: re.Match) -> str:
        path = os.path.join(root, section[2])
        if not os.path.isfile(path):
            raise UserError(f"{path}, which a mark names, does not exist; run tools/reproduce.py")
        results = read_json(path)
        if isinstance(results, list):
            table = benchmark_table(results)
        elif "exports" in results:
            table = export_table(results["exports"])
        elif "table" in results:
            table = markdown_table(tables.table(results["table"]), results)
        else:
            raise UserError(f"{path} is of no kind that is known; write it anew with its tool")
        return f"{section[1]}\n{table.strip()}\n\n{section[3]}"

    filled, sections = _SECTION.subn(write, text)
    if not sections:
        raise UserError(
            "there is no place for results: add a line `<!-- results/<data set>/table<N>.json -->` "
            "and a line `<!-- end of results -->`"
        )
    return filled
