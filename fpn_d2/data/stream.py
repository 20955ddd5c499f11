"""Training images in an order that is known in advance, so that a resumed run gets the same ones.

The images of batch k depend only on the seed and the images' sizes, and an image's augmentation
only on the seed and its place in the order. So a stream can start at any batch without loading
those before it, whatever the number of the loader's worker processes.

Random numbers depend on a seed and a place in the training, too, not on what was drawn before.
"""

import contextlib
import itertools
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetFromList
from detectron2.utils import comm
from torch.utils.data import IterableDataset, Sampler, get_worker_info

from ..utils.errors import UserError
from .images import read_image

# So many images in a row may be dropped by bad luck: 20 times as many as there are, at least the
# first number and at most the second, which chance reaches only if hardly 1 % can be used.
_MAX_DROPPED = (100, 2000)
_UNKNOWN = -1


class TrainStream(IterableDataset):
    """This process's images, mapped, batch after batch without end.

    The order is Detectron2's with ``NUM_WORKERS`` 0: its sampler's, except that grouping holds back
    an image until its batch of one orientation is full. Each of N workers makes every N-th batch.

    Attributes:
        first_batch: the batch to begin with; read when the iteration starts.
    """

    def __init__(
        self,
        records: Any,
        mapper: Callable[[dict[str, Any]], dict[str, Any] | None],
        sampler: Sampler,
        *,
        batch_size: int,
        grouped: bool,
        seed: int,
    ):
        """
        Args:
            records: images in Detectron2's format. A list is packed as Detectron2 packs it, once
                its widths and heights are read; those of a torch data set are read by index when
                they are needed.
            mapper: makes a model's input of an image; if it returns None, another image is taken.
            sampler: Detectron2's, of this process.
            batch_size: images in a batch of this process.
            grouped: whether a batch holds only landscape images or only others.
            seed: decides augmentations and replacement images; 0 or more.
        """
        self.mapper, self.sampler = mapper, sampler
        self.batch_size, self.seed, self.first_batch = batch_size, seed, 0
        self._rank, self._world_size = comm.get_rank(), comm.get_world_size()
        self._groups = np.full(len(records), _UNKNOWN if grouped else 0, np.int8)
        if isinstance(records, list):
            for index, record in enumerate(records):
                if grouped and {"width", "height"} <= record.keys():
                    self._groups[index] = _group(record)
            records = DatasetFromList(records, copy=False)
        self.records = records

    def batches(self) -> Iterator[list[tuple[int, int]]]:
        """Yield all batches of this process, each image as its place in the order of all processes
        and its index."""
        waiting: dict[int, list[tuple[int, int]]] = {}
        places = itertools.count(self._rank, self._world_size)
        for place, index in zip(places, self.sampler, strict=False):
            batch = waiting.setdefault(self._group_of(index), [])
            batch.append((place, index))
            if len(batch) == self.batch_size:
                yield batch[:]
                batch.clear()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The images of this worker's batches, one after the other."""
        worker = get_worker_info()
        if worker is not None:
            _obey_the_parent_alone()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        for batch in itertools.islice(self.batches(), self.first_batch + number, None, count):
            for place, index in batch:
                yield self._load(place, index)

    def _load(self, place: int, index: int) -> dict[str, Any]:
        chosen, others = index, random.Random(f"{self.seed} {place}")
        attempts = int(np.clip(20 * len(self._groups), *_MAX_DROPPED))
        for attempt in range(attempts):
            with seeded(self.seed, place, attempt):
                image = self.mapper(self.records[chosen])
            if image is not None:
                return image
            chosen = self._another(index, others)
        raise UserError(
            f"{attempts} images in a row could not be used, the last of them "
            f"{self.records[chosen].get('file_name')}; check the files of DATASETS.TRAIN"
        )

    def _another(self, index: int, others: random.Random) -> int:
        """An image of the same orientation, so that the batch keeps its kind."""
        for _ in range(_MAX_DROPPED[0]):
            chosen = others.randrange(len(self._groups))
            if self._group_of(chosen) == self._group_of(index):
                return chosen
        return index

    def _group_of(self, index: int) -> int:
        if self._groups[index] == _UNKNOWN:
            self._groups[index] = _group(self.records[index])
        return int(self._groups[index])


def _obey_the_parent_alone() -> None:
    """Let only its parent's signal end a loader's process.

    Ctrl-C, and a signal to all processes of a job, reach the loader's processes too, which must
    stay alive for the step that the training still has to finish.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):  # macOS
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def _group(record: dict[str, Any]) -> int:
    """Return 0 for landscape, 1 for the rest, as in Detectron2's AspectRatioGroupedDataset."""
    if {"width", "height"} <= record.keys():
        return 0 if record["width"] > record["height"] else 1
    height, width = read_image(record["file_name"]).shape[:2]
    return 0 if width > height else 1


def seed_everything(*key: int) -> None:
    """Seed Python, NumPy and torch, GPUs too.

    Args:
        key: integers, 0 or more, such as a seed, a process and an iteration; different keys give
            unrelated random numbers.
    """
    _seed(key, torch.manual_seed)


@contextlib.contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed the CPU's generators as :func:`seed_everything` does, and restore them afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    # torch.manual_seed would seed the GPUs too, whose state is not kept here.
    _seed(key, torch.default_generator.manual_seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _seed(key: tuple[int, ...], seed_torch: Callable[[int], Any]) -> None:
    words = np.random.SeedSequence(key).generate_state(3).tolist()
    for seed, word in zip((random.seed, np.random.seed, seed_torch), words, strict=True):
        seed(word)
