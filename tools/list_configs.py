#!/usr/bin/env python
"""List the configs: their rows in the paper's tables, its numbers, parameters and memory.

python tools/list_configs.py
python tools/list_configs.py R_101 Faster-RCNN --flops
"""

import argparse
import json
import warnings


def build_parser() -> argparse.ArgumentParser:
    """Build the command-line parser."""
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
    add(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="write everything to FILE, which ends in .json; without FILE, print it",
    )
    add("--force", action="store_true", help="replace FILE if it is there")
    add("--tables", default="", metavar="FILE", help="default: configs/tables.yaml")
    return parser


def main() -> None:
    """Read the command line and print the list."""
    args = build_parser().parse_args()
    if args.json and args.json != "-" and not args.json.endswith(".json"):
        args.configs.append(args.json)  # `--json WORD`, which means a bare --json and WORD
        args.json = "-"
    from tabulate import tabulate

    from fpn_d2.experiments import load_tables
    from fpn_d2.experiments.config_costs import config_table, list_configs
    from fpn_d2.utils.errors import exit_on_user_error
    from fpn_d2.utils.files import explain_disk_errors, prepare_target, write_json

    warnings.filterwarnings("ignore", message="torch.meshgrid")  # of Detectron2's anchors
    with exit_on_user_error():
        to_file = args.json not in (None, "-")
        if to_file:
            prepare_target(args.json, overwrite=args.force, option="--json")
        tables = load_tables(args.tables)
        entries = list(list_configs(tables, args.configs, flops=args.flops))
        if to_file:
            with explain_disk_errors(args.json, "name another --json"):
                write_json(args.json, entries)
        if args.json == "-":
            print(json.dumps(entries, indent=2))
            return
        header, lines = config_table(entries)
        print(tabulate(lines, header, disable_numparse=True))


if __name__ == "__main__":
    main()
