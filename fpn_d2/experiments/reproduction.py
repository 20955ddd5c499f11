"""Training the rows of a table: which runs a row needs, where they lie, what they have come to.

    <runs>/start_<scale>_seed_<k>.pkl                           what every row of a seed starts from
    <runs>/<data set>/<config>/seed_<k>/                        a run; see experiments/runs.py
    <runs>/<data set>/<config>_on_<RPN's config>/seed_<k>/      a Fast R-CNN on fixed proposals

A run belongs to its config, not to a table, so that tables share what they have in common.
"""

import dataclasses
import functools
import hashlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import portalocker
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from detectron2.modeling.anchor_generator import build_anchor_generator

from ..config import load_config
from ..data import check_names
from ..utils.errors import UserError
from .four_step import FourStep, proposal_opts
from .pretraining import pretrain_backbone
from .runs import BusyError, Run, Runner
from .settings import check_settings_file
from .tables import Row, Table, Tables

__all__ = ["Reproduction", "count_anchors", "pick_rows"]

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """One scale of the paper's experiments on one data set.

    Args:
        tables: the tables.
        scale: ``"quick"``, ``"paper"`` or another of the file's.
        folder: where the runs lie.
        runner: what trains a run.
        dataset: a data set of which ``<dataset>_train`` and ``<dataset>_val`` are registered;
            empty for the scale's own.
    """

    tables: Tables
    scale: str
    folder: str
    runner: Runner
    dataset: str = ""

    @property
    def dataset_name(self) -> str:
        """The data set's name, without its splits."""
        return self.dataset or self.tables.scale(self.scale).dataset

    def train_row(self, row: Row, seed: int) -> dict[str, Any]:
        """Train and evaluate a row, with all that it rests on; what is done is only read.

        Args:
            row: a row that this scale has.
            seed: of every random number.

        Returns:
            see :meth:`Runner.train`.

        Raises:
            UserError: where a data set is missing or a training fails.
            BusyError: where another process trains it.
        """
        self.make_start(seed)
        if row.proposals:
            rpn = self._run(row.proposals[self.scale], seed)
            self.runner.train(rpn)
            for dataset in rpn.load_config().DATASETS.TRAIN:
                self.runner.write_proposals(rpn, dataset)
        trainable = self.trainable(row, seed)
        if isinstance(trainable, FourStep):
            return trainable.train()
        return self.runner.train(trainable)

    def trainable(self, row: Row, seed: int) -> Run | FourStep:
        """What trains a row, which may be done or not."""
        config = self._config(row.configs[self.scale])
        if load_config(config).FOUR_STEP.RPN:
            return self._four_step(config, seed)
        if row.proposals:
            return self._fast_rcnn(config, row.proposals[self.scale], seed)
        return self._run(row.configs[self.scale], seed)

    def results(self, table: Table, row: Row) -> dict[int, dict[str, Any]]:
        """What a row has come to in this table, by seed."""
        if table.kind == "timing":
            found = {0: Run("", self.timing_folder(row)).result()}
        else:
            found = {seed: self.result(row, seed) for seed in self.seeds(row)}
        return {seed: result for seed, result in found.items() if result is not None}

    def result(self, row: Row, seed: int) -> dict[str, Any] | None:
        """What a row's training has come to, or None where it is not done.

        Raises:
            UserError: where it was trained with other settings than the row has now.
        """
        trainable = self.trainable(row, seed)
        result = trainable.result()
        if result is not None and isinstance(trainable, Run):
            check_settings_file(trainable.folder, self.runner.load_config(trainable))
        return result

    def timing(self, table: Table, row: Row) -> dict[str, float | None]:
        """The running time of a row that is trained and timed too, where it has been."""
        if table.kind == "timing" or "seconds" not in table.metrics:
            return {}
        result = Run("", self.timing_folder(row)).result()
        return {"seconds": None} if result is None else self._short_names(result)

    def command(self, row: Row, seed: int) -> str:
        """The line that trains a row without this package's protocol, its proposals given."""
        return self.trainable(row, seed).command()

    def inference_folder(self, row: Row, seed: int, dataset: str) -> str:
        """Where a finished row's predictions lie."""
        return self.trainable(row, seed).inference_folder(dataset)

    def timing_folder(self, row: Row) -> str:
        """Where a row's running time is kept, apart from its training."""
        config = self._config(row.configs[self.scale])
        return os.path.dirname(self._folder(config, 0)) + "_timing/seed_0"

    def seeds(self, row: Row) -> list[int]:
        """The seeds that this row has folders of."""
        trainable = self.trainable(row, 0)
        parent = os.path.dirname(trainable.folder)
        names = os.listdir(parent) if os.path.isdir(parent) else []
        return sorted(int(m[1]) for m in (re.fullmatch(r"seed_(\d+)", n) for n in names) if m)

    def make_start(self, seed: int) -> str:
        """Train the network that all rows of a seed start from, where it is not there yet.

        Every seed has its own, so that the deviation over seeds has the start's chance in it.

        Args:
            seed: of the start, as of the rows.

        Returns:
            its checkpoint; empty where rows start from what they say themselves.
        """
        start = self.tables.scale(self.scale).start
        if not start:
            return ""
        path = self._start_path(seed)
        os.makedirs(self.folder, exist_ok=True)
        # Detectron2's logger stays out: the file has no OUTPUT_DIR of its own.
        try:
            with portalocker.Lock(os.path.join(self.folder, ".start.lock"), timeout=3600):
                if not os.path.isfile(path):
                    logger.info("%s: training the start of the seed's rows", path)
                    cfg = load_config(self._config(start["config"]), ["SEED", str(seed)])
                    accuracy = pretrain_backbone(cfg, path, iterations=start["iterations"])
                    logger.info("%s: %.1f %% of the crops are right", path, 100 * accuracy)
        except portalocker.LockException as error:
            raise BusyError(
                f"{path} has been in the making by another process for an hour; see to that one"
            ) from error
        return path

    def metrics(self, table: Table, row: Row, result: dict[str, Any]) -> dict[str, float | None]:
        """A run's results under their short names.

        Args:
            table: the table that is to be filled.
            row: the row.
            result: what :meth:`train_row` returned.
        """
        metrics = self._short_names(result)
        if "anchors" in table.metrics:
            metrics["anchors"] = count_anchors(self._config(row.configs[self.scale]))
        return metrics

    def _short_names(self, result: dict[str, Any]) -> dict[str, float | None]:
        results = next(iter(result["results"].values()))
        metrics = {}
        for name, place in self.tables.metrics.items():
            task, _, key = place.partition("/")
            if key in results.get(task, {}):
                value = results[task][key]
                metrics[name] = None if value is None else round(value, 4)
        return metrics

    def _config(self, config: str) -> str:
        return self.tables.config_file(config)

    def _start_path(self, seed: int) -> str:
        return os.path.join(self.folder, f"start_{self.scale}_seed_{seed}.pkl")

    def _folder(self, config: str, seed: int, on: str = "") -> str:
        root = os.path.dirname(self.tables.path)
        name = os.path.splitext(os.path.relpath(config, root))[0]
        if name.startswith(os.pardir):  # not below the tables' folder, so it could be any two
            place = hashlib.sha256(os.path.abspath(config).encode()).hexdigest()[:8]
            name = f"{os.path.basename(name)}_{place}"
        parts = [name]
        if on:
            parts.append(os.path.splitext(os.path.basename(on))[0])
        return os.path.join(self.folder, self.dataset_name, "_on_".join(parts), f"seed_{seed}")

    def _opts(self, seed: int) -> tuple[str, ...]:
        opts = ["SEED", str(seed)]
        if self.tables.scale(self.scale).start:
            opts += ["MODEL.WEIGHTS", self._start_path(seed)]
        return (*opts, *self._dataset_opts())

    def _dataset_opts(self) -> Iterator[str]:
        if self.dataset_name == self.tables.scale(self.scale).dataset:
            return
        for split, key in (("train", "TRAIN"), ("val", "TEST")):
            name = f"{self.dataset}_{split}"
            check_names([name], f"--dataset {self.dataset}: DATASETS.{key}")
            yield from (f"DATASETS.{key}", f"('{name}',)")
        for section in ("ROI_HEADS", "RETINANET"):
            count = _number_of_classes(f"{self.dataset}_train")
            yield from (f"MODEL.{section}.NUM_CLASSES", str(count))

    def _run(self, config: str, seed: int) -> Run:
        config = self._config(config)
        return Run(config, self._folder(config, seed), self._opts(seed))

    def _fast_rcnn(self, config: str, rpn_config: str, seed: int) -> Run:
        opts = (*self._opts(seed), *proposal_opts(self._run(rpn_config, seed)))
        return Run(config, self._folder(config, seed, on=rpn_config), opts)

    def _four_step(self, config: str, seed: int) -> FourStep:
        # Steps 1 and 2 are the same runs as Table 1(c) and Table 2(c).
        rpn, fast, _ = FourStep(config, "", self.runner).configs()
        folders = {rpn: self._folder(rpn, seed), fast: self._folder(fast, seed, on=rpn)}
        folder = self._folder(config, seed)
        return FourStep(config, folder, self.runner, self._opts(seed), folders.__getitem__)


@functools.lru_cache
def _number_of_classes(dataset: str) -> int:
    DatasetCatalog.get(dataset)  # its classes are known once it is loaded
    return len(MetadataCatalog.get(dataset).thing_classes)


@functools.lru_cache
def count_anchors(config: str, height: int = 800, width: int = 1000) -> int:
    """The number of anchors on an image.

    Args:
        config: the config file of an RPN.
        height, width: in pixels of the network input; the paper counts at about 800 x 1000.

    Returns:
        the anchors of all levels.
    """
    cfg = load_config(config)
    shapes = build_backbone(cfg, ShapeSpec(channels=3)).output_shape()
    levels = [shapes[name] for name in cfg.MODEL.RPN.IN_FEATURES]
    counts = build_anchor_generator(cfg, levels).num_anchors
    return sum(
        count * -(-height // level.stride) * -(-width // level.stride)
        for count, level in zip(counts, levels, strict=True)
    )


def pick_rows(table: Table, scale: str, names: Sequence[str]) -> dict[str, Row]:
    """The rows of a table that are asked for; all that the scale has where none is named.

    Raises:
        UserError: where the scale has no such row.
    """
    rows = table.rows_at(scale)
    for name in names:
        if name not in rows:
            raise UserError(
                f"table {table.table} has no row {name} at scale {scale}; there are "
                f"{', '.join(rows)}"
            )
    if not rows:
        raise UserError(f"table {table.table} has no row at scale {scale}; give another --scale")
    return {name: row for name, row in rows.items() if not names or name in names}
