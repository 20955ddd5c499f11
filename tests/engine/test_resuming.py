"""A training that was cut and resumed equals one that was not, to the bit."""

import json

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from PIL import Image

from fpn_d2 import load_config
from fpn_d2.data.datasets import register_coco_folders
from fpn_d2.engine import Trainer

RPN = "RPN/rpn_R_18_FPN"
FASTER = "Faster-RCNN/faster_rcnn_R_18_FPN"
RETINANET = "RetinaNet/retinanet_R_18_FPN"


@pytest.fixture(scope="module")
def mixed_root(tmp_path_factory):
    """A data set of seven images of noise, of which three are portrait."""
    root = tmp_path_factory.mktemp("mixed")
    folder = root / "mixed"
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    generator = torch.Generator().manual_seed(0)
    content = {"images": [], "annotations": []}
    for i in range(7):
        width, height = (48, 64) if i % 2 else (64, 48)
        noise = torch.randint(256, (height, width, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(noise.numpy()).save(folder / "images" / f"{i}.png")
        image = {"id": i + 1, "file_name": f"{i}.png", "height": height, "width": width}
        content["images"].append(image)
        box = {"bbox": [4 + i, 6, 20, 24], "area": 480, "category_id": 1 + i % 5, "iscrowd": 0}
        content["annotations"].append({"id": i + 1, "image_id": i + 1, **box})
    content["categories"] = [{"id": i + 1, "name": f"c{i}"} for i in range(5)]
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(content))
    return str(root)


class Watch(HookBase):
    """Notes the losses of every step, and fails before iteration ``cut``, as a kill would."""

    def __init__(self, cut):
        self.cut, self.losses = cut, {}

    def before_step(self):
        if self.trainer.iter == self.cut:
            raise ConnectionError("cut")

    def after_step(self):
        self.losses[self.trainer.iter] = self.trainer.storage.history("total_loss").latest()


@pytest.fixture
def train(repo, tmp_path, mixed_root):
    """``train(row, folder, *opts, cut, resume)``: six iterations; the losses of each."""
    names = register_coco_folders(mixed_root)

    def call(row, folder, *opts, cut=None, resume=False):
        tiny = ["DATASETS.TRAIN", "('mixed_train',)", "DATASETS.TEST", "()"]
        tiny += ["INPUT.MIN_SIZE_TRAIN", "(48, 56, 64)", "SOLVER.AMP.ENABLED", "False"]
        tiny += ["SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "6", "SOLVER.STEPS", "(4,)"]
        tiny += ["SOLVER.CHECKPOINT_PERIOD", "3", "MODEL.DEVICE", "cpu"]
        tiny += ["DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", str(tmp_path / folder)]
        cfg = load_config(repo / f"configs/quick/{row}.yaml", [*tiny, *opts])
        (tmp_path / folder).mkdir(exist_ok=True)
        seed_all_rng(None if cfg.SEED < 0 else cfg.SEED)  # what default_setup does
        if resume:
            torch.rand(5)  # the generator's state is not what makes them equal
        trainer = Trainer(cfg)
        watch = Watch(cut)
        trainer.register_hooks([watch])
        trainer.resume_or_load(resume=resume)
        if cut is None:
            trainer.train()
        else:
            with pytest.raises(ConnectionError):
                trainer.train()
        return watch.losses

    yield call
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def weights(folder, name="model_final.pth"):
    return torch.load(folder / name, weights_only=True)["model"]


def logged(folder):
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    lines = [line for line in lines if "total_loss" in line]
    return {line["iteration"]: {k: v for k, v in line.items() if "time" not in k} for line in lines}


def assert_same_weights(one, two):
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]), name


SAMPLER = ["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"]
RETINANETS = ["DATALOADER.ASPECT_RATIO_GROUPING", "False"]


@pytest.mark.parametrize(
    "row, opts, workers",
    [(FASTER, [], "02"), (RPN, SAMPLER, "0"), (RETINANET, RETINANETS, "0")],
)
def test_cut_after_a_checkpoint_and_resumed(train, tmp_path, row, opts, workers):
    whole = train(row, "whole", *opts)
    assert len(set(whole.values())) == 6
    for number in workers:
        opts = [*opts, "DATALOADER.NUM_WORKERS", number]
        before = train(row, number, *opts, cut=4)
        after = train(row, number, *opts, resume=True)
        assert (sorted(before), sorted(after)) == ([0, 1, 2, 3], [3, 4, 5])
        assert before == {i: whole[i] for i in before}  # equal floats
        assert after == {i: whole[i] for i in after}
        assert_same_weights(weights(tmp_path / number), weights(tmp_path / "whole"))
        # The last line is of medians over all six iterations, and that of iteration 3 is gone.
        assert logged(tmp_path / number).keys() == logged(tmp_path / "whole").keys()
        assert logged(tmp_path / number)[5] == logged(tmp_path / "whole")[5]


def test_a_drawn_seed_is_kept(train, tmp_path, monkeypatch):
    drawn = iter([5, 6])
    monkeypatch.setattr(comm, "shared_random_seed", lambda: next(drawn))
    before = train(FASTER, "cut", "SEED", "-1", cut=4)
    after = train(FASTER, "cut", "SEED", "-1", resume=True)
    assert next(drawn, None) is None  # the second draw was made, and given up for the first
    assert before[3] == after[3]
    # An uncut training with that seed, from the same checkpoint
    state = torch.load(tmp_path / "cut" / "model_0000002.pth", weights_only=True)
    assert state["trainer"]["hooks"]["ResumeState"]["seed"] == 5
    for name in ("model_0000002.pth", "last_checkpoint"):
        (tmp_path / "whole").mkdir(exist_ok=True)
        (tmp_path / "whole" / name).write_bytes((tmp_path / "cut" / name).read_bytes())
    (tmp_path / "whole" / "last_checkpoint").write_text("model_0000002.pth")
    assert train(FASTER, "whole", "SEED", "5", resume=True) == after
    assert_same_weights(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


def test_other_seeds_give_other_trainings(train):
    assert train(FASTER, "1", "SEED", "1", cut=2) != train(FASTER, "2", "SEED", "2", cut=2)


def test_a_checkpoint_of_stock_detectron2_is_resumed(train, tmp_path):
    train(FASTER, "cut", cut=4)
    path = tmp_path / "cut" / "model_0000002.pth"
    state = torch.load(path, weights_only=True)
    del state["trainer"]["hooks"]["ResumeState"]
    torch.save(state, path)
    assert sorted(train(FASTER, "cut", resume=True)) == [3, 4, 5]
