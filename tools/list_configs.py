#!/usr/bin/env python
"""List the configs: their rows in the paper's tables, its numbers, parameters and memory.

python tools/list_configs.py
python tools/list_configs.py R_101 Faster-RCNN --flops
"""

import argparse
import json
import os
import warnings
from pathlib import Path

from tabulate import tabulate

from fpn_d2.experiments import load_tables
from fpn_d2.experiments.config_costs import config_table, list_configs
from fpn_d2.utils.errors import exit_on_user_error

TABLES = os.path.relpath(Path(__file__).resolve().parents[1] / "configs" / "tables.yaml")


def main() -> None:
    """Read the command line and print the list."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("configs", nargs="*", metavar="WORD", help="only configs with one of these in their path")
    add(
        "--flops",
        action="store_true",
        help="run each network once on a 480 x 640 image of noise; half a minute for a large one",
    )
    add("--json", action="store_true", help="print everything as JSON")
    add("--tables", default=TABLES, metavar="FILE", help="the file of tables beside the configs")
    args = parser.parse_args()
    # Detectron2's anchor generator calls torch.meshgrid in a way that torch warns of.
    warnings.filterwarnings("ignore", message="torch.meshgrid")
    with exit_on_user_error():
        tables = load_tables(args.tables)
        entries = list(list_configs(tables, args.configs, flops=args.flops))
        if args.json:
            print(json.dumps(entries, indent=2))
            return
        header, lines = config_table(entries)
        print(tabulate(lines, header, disable_numparse=True))


if __name__ == "__main__":
    main()
