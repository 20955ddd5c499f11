"""The networks that rows start from: torchvision's form, and what is refused."""

import dataclasses
import json
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_backbone

from fpn_d2 import UserError, load_config
from fpn_d2.checkpoint import SafeCheckpointer
from fpn_d2.checkpoint.safe_load import read_torch
from fpn_d2.data.datasets import register_first_images
from fpn_d2.experiments import Scale, starts
from fpn_d2.experiments.runs import check_settings
from fpn_d2.experiments.starts import check_start, convert_torchvision, is_torchvision
from fpn_d2.utils.files import write_json


@pytest.fixture(scope="session")
def resnet18(tmp_path_factory) -> tuple[str, torch.nn.Module]:
    """A file in the form of torchvision's ResNet-18, and the network."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    path = tmp_path_factory.mktemp("zoo") / "resnet18.pth"
    torch.save(network.state_dict(), path)
    return str(path), network


@pytest.fixture(scope="session")
def converted(resnet18, tmp_path_factory) -> str:
    path = str(tmp_path_factory.mktemp("starts") / "start.pth")
    convert_torchvision(resnet18[0], path)
    return path


def row(repo: Path, name: str, *opts: str):
    return load_config(repo / f"configs/quick/RPN/{name}.yaml", ["MODEL.DEVICE", "cpu", *opts])


FROZEN = ("MODEL.RESNETS.NORM", "FrozenBN", "MODEL.BACKBONE.FREEZE_AT", "2")


@pytest.mark.parametrize("name", ["rpn_R_18_FPN", "rpn_R_18_C4"])
def test_torchvisions_network_gives_the_features_that_it_gives_there(
    repo, resnet18, converted, name
):
    cfg = row(repo, name, *FROZEN, *starts.TORCHVISION_OPTS)
    check_start(converted, cfg)
    model = torch.nn.Module()
    model.backbone = build_backbone(cfg).eval()
    SafeCheckpointer(model).load(converted)
    bottom_up = getattr(model.backbone, "bottom_up", model.backbone)
    network = resnet18[1]
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        ours = bottom_up(x)["res4"]
        theirs = network.maxpool(network.relu(network.bn1(network.conv1(x))))
        theirs = network.layer3(network.layer2(network.layer1(theirs)))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_pixels_are_those_of_torchvisions_presets(repo):
    preset = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    cfg = row(repo, "rpn_R_18_FPN", *starts.TORCHVISION_OPTS)
    assert [x / 255 for x in cfg.MODEL.PIXEL_MEAN] == pytest.approx(preset.mean)
    assert [x / 255 for x in cfg.MODEL.PIXEL_STD] == pytest.approx(preset.std)
    assert cfg.INPUT.FORMAT == "RGB"


def test_a_start_of_another_network_or_of_too_little_is_refused(repo, converted, tmp_path):
    with pytest.raises(UserError, match=r"fills only \d+ of the backbone's .* another network"):
        check_start(converted, row(repo, "rpn_R_18_FPN", "MODEL.RESNETS.DEPTH", "50"))
    part = torch.load(converted)
    gone = [name for name in part["model"] if name.startswith("res2.0.conv1.")]
    part["model"] = {k: v for k, v in part["model"].items() if k not in gone}
    torch.save(part, tmp_path / "part.pth")
    # Its weight, and its norm's weight and bias; the norm fills its statistics itself.
    assert len(gone) == 5
    sentence = r"leaves 3 weights of the bottom-up network empty, such as res2\.0\.conv1\."
    with pytest.raises(UserError, match=sentence):
        check_start(str(tmp_path / "part.pth"), row(repo, "rpn_R_18_FPN", *FROZEN))


# -- the start of a scale ------------------------------------------------------------------------


def test_imagenet_is_torchvisions_and_is_converted_once(plan, tables, runs, resnet18, monkeypatch):
    assert starts.file_of("imagenet").endswith(".pth")
    published = SimpleNamespace(IMAGENET1K_V1=SimpleNamespace(url=resnet18[0]))
    monkeypatch.setattr(starts.torchvision.models, "ResNet18_Weights", published)
    plan = dataclasses.replace(plan, start="imagenet")
    plan.prepare([tables.table("1").rows["c"]])
    opts = plan.run(tables.table("1").rows["c"], 1).opts
    keys = dict(zip(opts[::2], opts[1::2], strict=True))
    assert keys["MODEL.WEIGHTS"] == f"{runs}/start_imagenet.pth"
    assert keys["INPUT.FORMAT"] == "RGB"
    assert plan.recipe == {"start": "imagenet"}
    written = os.stat(keys["MODEL.WEIGHTS"]).st_mtime_ns
    plan.make_start(1)
    assert os.stat(keys["MODEL.WEIGHTS"]).st_mtime_ns == written


def test_starts_of_one_name_are_told_apart(plan, tables, converted, tmp_path):
    """Every training leaves a model_final.pth."""
    plans = []
    for name in ("one", "two"):
        path = tmp_path / name / "model_final.pth"
        path.parent.mkdir()
        torch.save({**read_torch(converted), "name": name}, path)
        plans.append(dataclasses.replace(plan, start=str(path)))
    one, two = plans
    row = tables.table("1").rows["c"]
    assert one.recipe != two.recipe
    run = one.run(row, 0)
    check_settings(run.folder, one.runner.load_config(run))
    write_json(f"{run.folder}/run.json", {})
    assert one.runner.result(run) == {}
    with pytest.raises(UserError, match="begun with other settings"):
        two.runner.result(two.run(row, 0))
    assert str(tmp_path / "one") not in one.without_folders(run.command())


def test_a_file_is_copied_or_converted(plan, tables, runs, resnet18, converted):
    row = tables.table("1").rows["c"]
    own = dataclasses.replace(plan, start=converted)
    own.prepare([row])
    *words, path = own.run(row, 0).opts
    assert words == ["SEED", "0", "MODEL.WEIGHTS"]
    assert os.path.dirname(path) == str(runs)
    assert Path(path).read_bytes() == Path(converted).read_bytes()
    assert not is_torchvision(converted)
    theirs = dataclasses.replace(plan, start=resnet18[0])
    theirs.prepare([row])
    keys = dict(zip(theirs.run(row, 0).opts[::2], theirs.run(row, 0).opts[1::2], strict=True))
    assert os.path.dirname(keys["MODEL.WEIGHTS"]) == str(runs)
    assert os.path.isfile(keys["MODEL.WEIGHTS"])
    assert keys["INPUT.FORMAT"] == "RGB"


def test_a_start_that_cannot_work_is_refused_before_the_first_run(plan, tables, tmp_path, calls):
    row = tables.table("1").rows["c"]
    with pytest.raises(UserError, match="--start nowhere.pth: there is no such file; give crops"):
        dataclasses.replace(plan, start="nowhere.pth").prepare([row])
    with pytest.raises(UserError, match="scale quick says no config to train it with"):
        dataclasses.replace(plan, start="crops").prepare([row])
    (tmp_path / "other.pkl").write_bytes(
        pickle.dumps({"model": {"a": torch.ones(1).numpy()}, "__author__": "me"})
    )
    with pytest.raises(UserError, match="another network"):
        dataclasses.replace(plan, start=str(tmp_path / "other.pkl")).prepare([row])
    assert calls() == []


# -- its data ------------------------------------------------------------------------------------


@pytest.fixture
def photos(tiny_opts, tmp_path):
    """``whole_val`` of five images, and two parts of it: the first three and the other two."""
    content = {"images": [], "annotations": [], "categories": [{"id": 7, "name": "thing"}]}
    for number in (50, 20, 40, 10, 30):
        size = {"height": 8, "width": 8}
        content["images"].append({"id": number, "file_name": f"{number}.jpg", **size})
        box = {"bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0, "category_id": 7}
        content["annotations"].append({"id": number, "image_id": number, **box})
    path = tmp_path / "instances_val2017.json"
    path.write_text(json.dumps(content))
    names = ["whole_val", "part_train", "part_val"]
    DatasetCatalog.register(names[0], lambda: [])
    MetadataCatalog.get(names[0]).set(
        json_file=str(path), image_root=str(tmp_path), evaluator_type="coco"
    )
    register_first_images(names[1], of=names[0], count=3)
    register_first_images(names[2], of=names[0], count=2, start=3)
    return path


def test_the_split_is_by_ascending_id_and_written_as_two_files(photos):
    split = {n: [r["image_id"] for r in DatasetCatalog.get(f"part_{n}")] for n in ("train", "val")}
    assert split == {"train": [10, 20, 30], "val": [40, 50]}
    files = sorted(path.name for path in photos.parent.glob("*_val2017_*.json"))
    assert files == ["instances_val2017_first3.json", "instances_val2017_images4to5.json"]


def test_a_scale_without_its_data_is_refused_before_the_first_run(plan, tables, photos, calls):
    scales = {"quick": Scale("shapes"), "photos": Scale("part", like="quick", rows={"1": ["c"]})}
    tables = dataclasses.replace(tables, scales=scales)
    plan = dataclasses.replace(plan, tables=tables, scale="photos")
    rows = tables.table_at("1", "photos").rows
    plan.prepare(rows.values())
    opts = plan.run(rows["c"], 0).opts
    assert opts[-4:] == ("MODEL.ROI_HEADS.NUM_CLASSES", "1", "MODEL.RETINANET.NUM_CLASSES", "1")
    assert "('part_train',)" in opts
    for path in photos.parent.glob("*.json"):
        path.unlink()
    with pytest.raises(UserError, match=r"part_train is made of .*val2017\.json, which is missing"):
        plan.prepare(rows.values())
    assert calls() == []


def test_photos_are_the_first_images_of_coco():
    for name, file in (("train", "first4000"), ("val", "images4001to5000")):
        metadata = MetadataCatalog.get(f"photos_{name}")
        assert metadata.json_file.endswith(f"annotations/instances_val2017_{file}.json")
        assert metadata.image_root == MetadataCatalog.get("coco_2017_val").image_root
        assert len(metadata.thing_classes) == 80
