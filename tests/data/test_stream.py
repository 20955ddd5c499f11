"""The order of the training images: grouped, known in advance, and the same from any batch on."""

import itertools
import random

import numpy as np
import pytest
import torch
from detectron2.data.samplers import TrainingSampler
from PIL import Image

from fpn_d2 import UserError
from fpn_d2.data import TrainStream
from fpn_d2.data.stream import seeded


def records(sizes):
    return [{"file_name": f"{i}.png", "width": w, "height": h} for i, (w, h) in enumerate(sizes)]


MIXED = records([(4, 3), (3, 4), (4, 3), (3, 3), (4, 3)])  # 1 and 3 are not landscape


class Listed(TrainingSampler):
    """A sampler that repeats the given indices."""

    def __init__(self, indices):
        super().__init__(len(indices), seed=0)
        self.indices = indices

    def _infinite_indices(self):
        return itertools.cycle(self.indices)


def stream(sampler, mapper=lambda record: record, seed=0, grouped=True, data=MIXED):
    return TrainStream(data, mapper, sampler, batch_size=2, grouped=grouped, seed=seed)


def take(iterable, count):
    return list(itertools.islice(iterable, count))


def test_an_image_waits_for_one_of_its_orientation():
    batches = take(stream(Listed([0, 1, 2, 3, 4])).batches(), 3)
    # places 0 to 5 hold the images 0 1 2 3 4 0
    assert batches == [[(0, 0), (2, 2)], [(1, 1), (3, 3)], [(4, 4), (5, 0)]]
    ungrouped = take(stream(Listed([0, 1, 2, 3, 4]), grouped=False).batches(), 2)
    assert ungrouped == [[(0, 0), (1, 1)], [(2, 2), (3, 3)]]


def test_two_processes_share_the_places(monkeypatch):
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    places = []
    for rank in (0, 1):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
        batches = take(stream(Listed(range(5)), grouped=False).batches(), 2)
        places.append([place for batch in batches for place, _ in batch])
    assert places == [[0, 2, 4, 6], [1, 3, 5, 7]]


def draws(record):
    """Map a record by drawing from all three generators that augmentations draw from."""
    return record["file_name"], random.random(), np.random.rand(), torch.rand(1).item()


def test_a_later_start_is_the_same_stream():
    whole = take(stream(TrainingSampler(5, seed=3), draws), 20)
    later = stream(TrainingSampler(5, seed=3), draws)
    later.first_batch = 4
    random.seed(9), np.random.seed(9), torch.manual_seed(9)
    assert take(later, 12) == whole[8:]
    assert len({draw for _, *drawn in whole for draw in drawn}) == 60
    # Another seed draws other numbers for the same images.
    other = take(stream(TrainingSampler(5, seed=3), draws, seed=1), 20)
    assert not {draw for _, *drawn in whole for draw in drawn} & {d for _, *ds in other for d in ds}


def test_drawing_leaves_the_generators_alone():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = draws(MIXED[0])
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    take(stream(Listed(range(5)), draws), 6)
    assert draws(MIXED[0]) == expected
    with seeded(1, 2):
        one = torch.rand(1)
    with seeded(1, 3):
        assert not torch.equal(torch.rand(1), one)


def test_an_image_that_cannot_be_used_is_replaced_by_one_of_its_orientation():
    def mapper(record):
        return None if record["file_name"] == "1.png" else record["file_name"]

    made = take(stream(Listed([0, 1, 2, 3, 4]), mapper), 4)
    assert made == ["0.png", "2.png", "3.png", "3.png"]


def test_a_replacement_depends_on_the_seed_and_the_place():
    def mapper(record):
        return None if record["file_name"] == "0.png" else record["file_name"]

    one, two = (
        take(stream(Listed([0]), mapper, seed=seed, data=records([(4, 3)] * 50)), 10)
        for seed in (0, 1)
    )
    assert one != two
    assert len({*one}) > 5


def test_a_mapper_that_drops_by_chance_draws_anew_for_each_attempt():
    made = take(stream(Listed([0]), lambda r: random.random() < 0.2 or None), 10)
    assert made == [True] * 10


def test_nothing_but_unusable_images_is_an_error():
    with pytest.raises(UserError, match=r"100 images in a row .* \d\.png; check the files"):
        take(stream(Listed([0]), lambda record: None), 1)


def test_a_large_set_of_unusable_images_is_not_read_twenty_times():
    data = records([(4, 3)] * 5000)
    calls = []
    with pytest.raises(UserError, match="2000 images in a row"):
        take(stream(Listed([0]), calls.append, data=data), 1)
    assert len(calls) == 2000


def test_sizes_that_no_record_gives_are_read_from_the_images(tmp_path):
    for name, size in (("a", (4, 3)), ("b", (3, 4))):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    data = [{"file_name": str(tmp_path / f"{name}.png")} for name in "ab"]
    data += records([(4, 3)])
    batches = take(stream(Listed([0, 1, 2]), data=data).batches(), 2)
    assert [[index for _, index in batch] for batch in batches] == [[0, 2], [1, 1]]
