"""The runs that a table's rows need: where they lie, how they are trained, what they measured.

    <runs>/start_crops_seed_<k>.pkl                             what every row of a seed starts from
    <runs>/<data set>/<config>/seed_<k>/                        a run; see experiments/runs.py
    <runs>/<data set>/<config>_on_<RPN's config>/seed_<k>/      a Fast R-CNN on fixed proposals
    <runs>/<data set>/<config>_<KEY>_<value>/seed_<k>/          a row with overrides of its own

A run belongs to its config, not to a table, so tables share the runs that they have in common.
"""

import dataclasses
import functools
import hashlib
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_backbone
from detectron2.modeling.anchor_generator import build_anchor_generator

from ..config import load_config
from ..data import check_names
from ..data.datasets.folders import check_source
from ..utils.errors import UserError
from ..utils.files import explain_disk_errors, is_local, read_json, replace_file, write_json
from ..utils.modules import without_memory
from .four_step import FourStep, proposal_opts
from .pretraining import pretrain_backbone
from .runs import PROVENANCE, Run, Runner, hold, read_result
from .starts import (
    TORCHVISION_OPTS,
    check_start,
    convert_torchvision,
    file_of,
    is_torchvision,
    kept_name,
)
from .studies import recall_by_boxes
from .tables import Row, Table, Tables

logger = logging.getLogger(__name__)

_HELD_OUT = 0.1  # The share of images whose crops tell when a start has learned enough.


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """One scale of the paper's experiments on one data set.

    Args:
        tables: the tables.
        scale: ``"quick"``, ``"paper"`` or another scale of the file.
        folder: the folder of all runs.
        runner: trains the runs.
        dataset: a data set whose ``<dataset>_train`` and ``<dataset>_val`` are registered; if
            empty, the scale's own.
        start: ``"crops"``, ``"imagenet"`` or a file; if empty, the scale's own.
    """

    tables: Tables
    scale: str
    folder: str
    runner: Runner
    dataset: str = ""
    start: str = ""

    @property
    def start_name(self) -> str:
        """What rows start from: ``crops``, ``imagenet``, a file, or "" (as their configs say)."""
        own = self.tables.scale(self.scale).start
        return self.start or own.get("weights") or ("crops" if own else "")

    @property
    def recipe(self) -> dict[str, str]:
        """How the training deviates from the rows' configs, as texts to compare and to read."""
        scale, start = self.tables.scale(self.scale), self.start_name
        recipe = {"opts": " ".join(scale.opts)} if scale.opts else {}
        if start == "crops":
            what = "{config}, up to {iterations} iterations".format(**scale.start)
            recipe["start"] = f"crops ({what})"
        elif start:
            # The name of a file's conversion has a hash of its content, and its runs use that name.
            path = start if self._is_converted else self._start_path(0)
            recipe["start"] = os.path.basename(path)
        return recipe

    @property
    def dataset_name(self) -> str:
        """The data set's name, without its splits."""
        return self.dataset or self.tables.scale(self.scale).dataset

    def run(self, row: Row, seed: int) -> Run:
        """Return the run that trains a row, whether it is done or not."""
        config = self._config(row)
        more = tuple(row.opts)
        if load_config(config).FOUR_STEP.RPN:
            # Steps 1 and 2 are the runs of Table 1(c) and Table 2(c).
            rpn, fast, _ = FourStep(config, "").configs()
            rpn_folder = self._folder(rpn, seed, more=more)
            fast_folder = self._folder(fast, seed, on=rpn, more=more)
            folder, opts = self._folder(config, seed, more=more), (*self._opts(seed), *more)
            return FourStep(config, folder, opts, (rpn_folder, fast_folder))
        if row.proposals:
            rpn = row.proposals[self.scale]
            opts = (*self._opts(seed), *more, *proposal_opts(self._plain_run(rpn, seed)))
            return Run(config, self._folder(config, seed, on=rpn, more=more), opts)
        return self._plain_run(row.configs[self.scale], seed, more)

    def prepare(self, rows: Iterable[Row]) -> None:
        """Before the first run of these rows, refuse a start that cannot work and a data set that
        is missing.

        Raises:
            UserError: saying what is wrong.
        """
        start, own = self.start_name, self.tables.scale(self.scale).start
        if start == "crops" and "config" not in own:
            raise UserError(
                f"--start crops: scale {self.scale} says no config to train it with; give another"
            )
        rows = list(rows)
        files = {row.proposals.get(self.scale, "") for row in rows} - {""}
        configs = [self._config(row) for row in rows]
        configs += [self.tables.config_file(file) for file in sorted(files)]
        loaded = [load_config(config, self._opts(0)) for config in dict.fromkeys(configs)]
        for name in {n for cfg in loaded for n in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)}:
            check_source(name)
        if start not in ("", "crops"):
            self.make_start(0)
            for cfg in loaded:
                check_start(self._start_path(0), cfg)

    def train_row(self, row: Row, seed: int) -> dict[str, Any]:
        """Train and evaluate one of the scale's rows and everything it depends on; only read what
        is done. The seed decides every random number.

        Returns:
            see :meth:`Runner.train`, also for the exceptions.
        """
        self.make_start(seed)
        if row.proposals:
            self.runner.train_rpn(self._plain_run(row.proposals[self.scale], seed))
        return self.run(row, seed).train(self.runner)

    def files_of(self, row: Row, seed: int) -> tuple[str, ...]:
        """Return the files that :meth:`train_row` makes, some of which other rows need, too."""
        run, start = self.run(row, seed), self._start_path(seed)
        runs = [run, *run.steps()]
        files = [start] if start and start != self.start_name else []
        if row.proposals:
            rpn = self._plain_run(row.proposals[self.scale], seed)
            runs.append(rpn)
            files += map(rpn.evaluation_file, rpn.load_config().DATASETS.TRAIN)
        return (*files, *(os.path.join(part.folder, "run.json") for part in runs))

    def make_start(self, seed: int) -> None:
        """Make the file that a seed's rows start from, if any: train it on crops, convert or copy.

        With crops, every seed has its own, so the deviation over seeds includes its randomness.
        """
        start, path = self.start_name, self._start_path(seed)
        if path == start:
            return
        with explain_disk_errors(self.folder, "name another --runs"):
            os.makedirs(self.folder, exist_ok=True)
        sentence = f"another process has been making {path} for an hour; see to that process"
        with hold(f"{path}.lock", 3600, sentence):
            if os.path.isfile(path):
                return
            if start == "crops":
                self._train_start(path, seed)
            elif self._is_converted:
                convert_torchvision(file_of(start), path)
            else:
                with replace_file(path, "wb") as file:
                    file.write(Path(start).read_bytes())

    def _train_start(self, path: str, seed: int) -> None:
        # Detectron2's logger is not used here, since the file has no OUTPUT_DIR of its own.
        logger.info("%s: training the start of the seed's rows", path)
        scale = self.tables.scale(self.scale)
        config = self.tables.config_file(scale.start["config"])
        cfg = load_config(config, [*scale.opts, "SEED", str(seed)])
        iterations = scale.start["iterations"]
        done = pretrain_backbone(cfg, path, iterations=iterations, held_out=_HELD_OUT)
        logger.info("%s: %.1f %% of held-out crops", path, 100 * done.accuracy)
        write_json(f"{path}.json", done._asdict())

    def seeds(self, row: Row) -> list[int]:
        """Return the seeds for which this row, or a network of its detector, has a folder."""
        parts = self.run(row, 0), *self.networks(row, 0)
        parents = {os.path.dirname(part.folder) for part in parts}
        names = {name for parent in parents if os.path.isdir(parent) for name in os.listdir(parent)}
        return sorted(int(m[1]) for m in (re.fullmatch(r"seed_(\d+)", n) for n in names) if m)

    def networks(self, row: Row, seed: int) -> list[Run]:
        """Return the RPN whose proposals the row reads, if any, and :meth:`Run.networks`."""
        rpns = [self._plain_run(row.proposals[self.scale], seed)] if row.proposals else []
        return [*rpns, *self.run(row, seed).networks()]

    def timed_seed(self, row: Row) -> int | None:
        """Return the seed whose weights are timed: the first that has them here, or None."""
        for seed in self.seeds(row):
            if all(os.path.isfile(run.weights) for run in self.networks(row, seed)):
                return seed
        return None

    def timing_folder(self, row: Row) -> str:
        """Return the folder that keeps a row's running time, apart from its training."""
        on = row.proposals.get(self.scale, "")
        folder = self._folder(self._config(row), 0, on=on, more=tuple(row.opts))
        return os.path.dirname(folder) + "_timing/seed_0"

    def results(self, table: Table, row: Row) -> dict[int, dict[str, Any]]:
        """Return the results that a row has in this table, by seed."""
        if table.kind == "timing":
            found = {0: read_result(self.timing_folder(row))}
        else:
            seeds = self.seeds(row)
            found = {seed: self.runner.result(self.run(row, seed)) for seed in seeds}
        return {seed: result for seed, result in found.items() if result is not None}

    def entries(self, table: Table, row: Row) -> dict[int, dict[str, Any]]:
        """Return what the table's results file says about each seed of a row; see ``collect``."""
        timing, timed = {}, None
        if table.kind != "timing" and "seconds" in table.metrics:
            timed = read_result(self.timing_folder(row))
            timing = {"seconds": None} if timed is None else self.metrics(table, row, timed)
        results, entries = self.results(table, row), {}
        timed_seed = self.timed_seed(row) if timed else None
        if timed_seed not in results:  # its weights may have been deleted since
            timed_seed = min(results, default=None)
        for seed, result in results.items():
            start = f"{self._start_path(seed)}.json"
            more = {"start": read_json(start)} if os.path.isfile(start) else {}
            if boxes := recall_by_boxes(self.run(row, seed)):
                more["boxes"] = boxes
            times = timing if seed == timed_seed else dict.fromkeys(timing)
            entries[seed] = {
                "seed": seed,
                "seconds": result["seconds"],
                "iterations": result["iterations"],
                "metrics": self.metrics(table, row, result) | times,
                "losses": result["losses"],
                **{key: result[key] for key in PROVENANCE if key in result},
                **more,
            }
            machine = timed.get("machine") if timed and seed == timed_seed else None
            if _differ(machine, result.get("machine")):
                entries[seed]["timed_on"] = machine
        return entries

    def metrics(self, table: Table, row: Row, result: dict[str, Any]) -> dict[str, float | None]:
        """Return the metrics of a row's result under their short names, for a table."""
        results = next(iter(result["results"].values()))
        metrics = {}
        for name, place in self.tables.metrics.items():
            task, _, key = place.partition("/")
            if key in results.get(task, {}):
                value = results[task][key]
                metrics[name] = None if value is None else round(value, 4)
        if "anchors" in table.metrics:
            opts = (*self.tables.scale(self.scale).opts, *row.opts)
            metrics["anchors"] = count_anchors(self._config(row), opts)
        return metrics

    def without_folders(self, text: str) -> str:
        """Return a path or a command without the folders of this machine.

        Runs outside of the working folder are named as if they were in ``output/reproduce``,
        configs outside of it from the name of the tables file's folder on.
        """
        tables = os.path.dirname(self.tables.path)
        for folder, name in (
            (self.folder, "output/reproduce"),
            (tables, os.path.basename(os.path.abspath(tables))),
        ):
            if os.path.isabs(folder) or folder.startswith(os.pardir):
                text = text.replace(folder.rstrip(os.sep), name)
        return text

    def _config(self, row: Row) -> str:
        return self.tables.config_file(row.configs[self.scale])

    def _start_path(self, seed: int) -> str:
        """Return the path of what rows start from, without making it; "" as their configs say."""
        start = self.start_name
        if start == "crops":
            return os.path.join(self.folder, f"start_crops_seed_{seed}.pkl")
        if start == "imagenet":
            return os.path.join(self.folder, "start_imagenet.pth")
        # Named by its content, since every training leaves a model_final.pth.
        if start and (is_local(start) or is_torchvision(start)):
            return os.path.join(self.folder, kept_name(start))
        return start

    @property
    def _is_converted(self) -> bool:
        """Whether rows start from a classifier of torchvision's form."""
        start = self.start_name
        return start == "imagenet" or (start not in ("", "crops") and is_torchvision(start))

    def _folder(self, config: str, seed: int, on: str = "", more: tuple[str, ...] = ()) -> str:
        root = os.path.dirname(self.tables.path)
        name = os.path.splitext(os.path.relpath(config, root))[0]
        if name.startswith(os.pardir):  # Configs outside of the tables' folder may share a name.
            place = hashlib.sha256(os.path.abspath(config).encode()).hexdigest()[:8]
            name = f"{os.path.basename(name)}_{place}"
        if on:
            name += f"_on_{os.path.splitext(os.path.basename(on))[0]}"
        for key, value in zip(more[::2], more[1::2], strict=True):
            name += f"_{key.rpartition('.')[2]}_{re.sub(r'[^A-Za-z0-9]+', '_', value).strip('_')}"
        return os.path.join(self.folder, self.dataset_name, name, f"seed_{seed}")

    def _opts(self, seed: int) -> tuple[str, ...]:
        scale = self.tables.scale(self.scale)
        opts = [*scale.opts, "SEED", str(seed)]
        start = self._start_path(seed)
        if start:
            opts += ["MODEL.WEIGHTS", start]
            if self._is_converted:
                opts += TORCHVISION_OPTS
        # The configs name the data set of the scale that they belong to.
        if self.dataset_name != self.tables.scale(scale.like or self.scale).dataset:
            for split, key in (("train", "DATASETS.TRAIN"), ("val", "DATASETS.TEST")):
                name = f"{self.dataset_name}_{split}"
                check_names([name], f"--dataset {self.dataset_name}: {key}")
                opts += [key, f"('{name}',)"]
            check_source(f"{self.dataset_name}_train")
            count = str(_number_of_classes(f"{self.dataset_name}_train"))
            opts += ["MODEL.ROI_HEADS.NUM_CLASSES", count, "MODEL.RETINANET.NUM_CLASSES", count]
        return tuple(opts)

    def _plain_run(self, config: str, seed: int, more: tuple[str, ...] = ()) -> Run:
        config = self.tables.config_file(config)
        return Run(config, self._folder(config, seed, more=more), (*self._opts(seed), *more))


def _differ(machine: Any, other: Any) -> bool:
    """Whether two descriptions of machines differ in a key that both have."""
    if not (isinstance(machine, dict) and isinstance(other, dict)):
        return False
    return any(machine[key] != other[key] for key in machine.keys() & other.keys())


@functools.lru_cache
def _number_of_classes(dataset: str) -> int:
    DatasetCatalog.get(dataset)  # The classes are known once the data set is loaded.
    return len(MetadataCatalog.get(dataset).thing_classes)


@functools.lru_cache
def count_anchors(config: str, opts: tuple[str, ...] = ()) -> int:
    """Count the anchors of all levels of an RPN on a network input of 800 x 1000 pixels, about the
    size at which the paper counts; ``opts`` override the config file."""
    cfg = load_config(config, opts)
    shapes = without_memory(lambda: build_backbone(cfg)).output_shape()
    levels = [shapes[name] for name in cfg.MODEL.RPN.IN_FEATURES]
    counts = build_anchor_generator(cfg, levels).num_anchors
    return sum(
        count * -(-800 // level.stride) * -(-1000 // level.stride)
        for count, level in zip(counts, levels, strict=True)
    )
