"""Files of fixed proposals are read safely, and faulty ones are refused before a run."""

import pickle

import numpy as np
import pytest
from coco_files import sound_content, write_coco
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathHandler, PathManager
from hostile_files import Evil
from model_zoo import write_python2_pickle

from fpn_d2 import UserError
from fpn_d2.data import build_test_loader, build_train_loader, load_train_dataset
from fpn_d2.data.datasets import register_folders
from fpn_d2.data.proposals import read_proposals


def write_proposals(path, ids):
    boxes = [np.array([[0.0, 0.0, 8.0, 8.0 + i]]) for i, _ in enumerate(ids)]
    content = {"ids": ids, "boxes": boxes, "objectness_logits": [np.ones(1)] * len(ids)}
    path.write_bytes(pickle.dumps(content))
    return str(path)


def change_proposals(path, **values):
    """Change values of a proposal file."""
    content = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(content | values))


@pytest.fixture
def with_proposals(cfg, zoo, tmp_path):
    zoo()
    cfg.MODEL.LOAD_PROPOSALS = True
    cfg.DATASETS.PROPOSAL_FILES_TRAIN = (write_proposals(tmp_path / "a.pkl", [1, 2, 3, 4]),)
    cfg.DATASETS.PROPOSAL_FILES_TEST = (write_proposals(tmp_path / "b.pkl", [4, 3, 2, 1]),)
    return cfg


def test_each_test_set_gets_its_own_proposals(with_proposals, tmp_path):
    cfg = with_proposals
    write_coco(tmp_path, "zoo", "late", sound_content())
    register_folders(str(tmp_path))
    cfg.DATASETS.TEST = ("zoo_late", "zoo_val")
    cfg.DATASETS.PROPOSAL_FILES_TEST = (
        write_proposals(tmp_path / "c.pkl", [1, 2, 3, 4]),
        *cfg.DATASETS.PROPOSAL_FILES_TEST,
    )
    build_train_loader(cfg)
    for name, last in (("zoo_late", 8.0), ("zoo_val", 11.0)):  # image 1 is c's first, b's last
        first = next(iter(build_test_loader(cfg, name)))[0]
        assert first["proposals"].proposal_boxes.tensor[0, 3] == last


@pytest.mark.parametrize("split", ["TRAIN", "TEST"])
def test_number_of_proposal_files(split, with_proposals):
    with_proposals.DATASETS[f"PROPOSAL_FILES_{split}"] = ()
    with pytest.raises(UserError, match=f"PROPOSAL_FILES_{split} has 0 and DATASETS.{split} has 1"):
        build_train_loader(with_proposals)


def test_a_proposal_file_that_is_not_there(with_proposals):
    row = "output/RPN/rpn_R_50_FPN"
    file = f"{row}/inference/zoo_train/box_proposals.pkl"
    with_proposals.DATASETS.PROPOSAL_FILES_TRAIN = (file,)
    with pytest.raises(UserError) as caught:
        build_train_loader(with_proposals)
    command = (
        "python train_net.py --config-file configs/RPN/rpn_R_50_FPN.yaml --eval-only "
        f"MODEL.WEIGHTS {row}/model_final.pth DATASETS.TEST \"('zoo_train',)\""
    )
    assert command in str(caught.value)
    with_proposals.DATASETS.PROPOSAL_FILES_TRAIN = ("elsewhere.pkl",)
    with pytest.raises(UserError, match=r"elsewhere\.pkl .* does not exist"):
        build_train_loader(with_proposals)


def test_proposals_that_lack_an_image(with_proposals, tmp_path):
    write_proposals(tmp_path / "a.pkl", [1, 2, 4])
    sentence = r"a\.pkl has nothing for image 2\.png \(id 3\) of data set zoo_train, nor for 0 more"
    with pytest.raises(UserError, match=sentence):
        build_train_loader(with_proposals)


def test_proposals_of_another_data_set(with_proposals, tmp_path):
    folder = tmp_path / "inference" / "zoo_val"
    folder.mkdir(parents=True)
    file = write_proposals(folder / "box_proposals.pkl", [1, 2, 3, 4])
    with_proposals.DATASETS.PROPOSAL_FILES_TRAIN = (file,)
    with pytest.raises(UserError, match="is of data set zoo_val, not of zoo_train"):
        build_train_loader(with_proposals)


def test_rotated_boxes_read_proposals_as_safely(with_proposals, tmp_path):
    with_proposals.MODEL.ROI_HEADS.NAME = "RROIHeads"
    assert len(list(build_test_loader(with_proposals, "zoo_val"))) == 4
    with open(tmp_path / "b.pkl", "wb") as file:
        pickle.dump(Evil(tmp_path), file)
    with pytest.raises(UserError, match=r"proposal file \S*b\.pkl "):
        build_test_loader(with_proposals, "zoo_val")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("box", [[0, 0, 8, 5000], [-9, 0, 8, 8], [0, 0, np.nan, 8]])
def test_proposals_that_cannot_be_of_these_images(with_proposals, tmp_path, box):
    sound, other = np.array([[0.0, 0.0, 8.0, 8.0]]), np.array([box], dtype=np.float64)
    change_proposals(tmp_path / "a.pkl", boxes=[sound, sound, other, sound])
    with pytest.raises(UserError, match=r"a\.pkl has boxes outside image \S*2\.png \(40 x 32"):
        build_train_loader(with_proposals)


@pytest.mark.parametrize(
    "content, reason",
    [
        (pickle.dumps({"ids": [1]})[:-3], "exhausted"),
        (pickle.dumps({"ids": [1]}), "has no boxes and no objectness_logits"),
    ],
)
def test_a_proposal_file_that_is_none(with_proposals, tmp_path, content, reason):
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(UserError, match=rf"proposal file \S*a\.pkl .*{reason}"):
        build_train_loader(with_proposals)


# The boxes of one image as left, top, width and height; as corners, the second would be no box.
OF_SIDES = np.array([[2.0, 3.0, 10.0, 12.0], [20.0, 10.0, 15.0, 12.0]])


def test_proposals_of_sides_have_to_say_so(with_proposals, tmp_path):
    path = tmp_path / "a.pkl"
    change_proposals(path, boxes=[OF_SIDES] * 4, objectness_logits=[np.ones(2)] * 4)
    for mode, words in (({}, "XYXY_ABS, which it does not"), ({"bbox_mode": 0}, "XYXY_ABS, which")):
        change_proposals(path, **mode)
        with pytest.raises(UserError, match=rf"a\.pkl .* bbox_mode is {words} .*BoxMode\.XYWH_ABS"):
            build_train_loader(with_proposals)
    change_proposals(path, bbox_mode=1)
    (record, *_) = load_train_dataset(with_proposals)
    assert record["proposal_bbox_mode"] == BoxMode.XYWH_ABS
    # read as sides, the last box would end at 30 + 15 of 40 pixels
    beyond = np.array([[0.0, 0.0, 9.0, 9.0], [30.0, 10.0, 15.0, 12.0]])
    change_proposals(path, boxes=[OF_SIDES, OF_SIDES, beyond, OF_SIDES])
    with pytest.raises(UserError, match=r"outside image \S*2\.png .* or its bbox_mode is wrong"):
        build_train_loader(with_proposals)


NO_LOGITS = "does not give every image an array of boxes and one of as many logits"


@pytest.mark.parametrize(
    "values, words",
    [
        ({"objectness_logits": [np.zeros(2)] * 4}, NO_LOGITS),
        ({"objectness_logits": [[0.0]] * 4}, NO_LOGITS),
        ({"objectness_logits": [np.zeros((1, 1))] * 4}, NO_LOGITS),
        ({"bbox_mode": 4}, "the bbox_mode 4: give BoxMode"),
        ({"bbox_mode": "XYWH"}, "the bbox_mode 'XYWH': give BoxMode"),
        ({"boxes": [np.ones((1, 5))] * 4}, r"shape \(1, 5\)"),
        ({"boxes": [np.array([["1", "2", "3", "4"]])] * 4}, "type <U1, not"),
    ],
)
def test_boxes_and_logits_of_proposals_that_are_none(with_proposals, tmp_path, values, words):
    change_proposals(tmp_path / "a.pkl", **values)
    with pytest.raises(UserError, match=rf"a\.pkl .*{words}"):
        read_proposals(str(tmp_path / "a.pkl"))  # pictures of an evaluation use it, too
    with pytest.raises(UserError, match=rf"a\.pkl .*{words}"):
        build_train_loader(with_proposals)


class Mirror(PathHandler):
    """mirror://x stands for the file x in a folder, as a URL stands for a file in the cache."""

    def __init__(self, folder):
        self.folder = folder

    def _get_supported_prefixes(self):
        return ["mirror://"]

    def _get_local_path(self, path, force=False, **_):
        if "gone" in path:
            raise OSError("no answer")
        return str(self.folder / path.removeprefix("mirror://"))

    def _open(self, path, mode="r", **_):
        return open(self._get_local_path(path), mode)


def test_downloaded_proposals_run_no_code_either(with_proposals, tmp_path):
    PathManager.register_handler(Mirror(tmp_path), allow_override=True)
    with_proposals.DATASETS.PROPOSAL_FILES_TRAIN = ("mirror://a.pkl",)
    build_train_loader(with_proposals)
    code = b"cposix\nmkdir\n(V" + str(tmp_path / "made").encode() + b"\ntR."
    (tmp_path / "a.pkl").write_bytes(code)
    with pytest.raises(UserError, match=r"proposal file \S*a\.pkl .*holds posix\.mkdir"):
        build_train_loader(with_proposals)
    assert not (tmp_path / "made").exists()
    with_proposals.DATASETS.PROPOSAL_FILES_TRAIN = ("mirror://gone.pkl",)
    with pytest.raises(UserError, match=r"mirror://gone\.pkl cannot be had \(no answer\)"):
        build_train_loader(with_proposals)


def test_the_first_detectrons_proposals_are_read(with_proposals, tmp_path):
    content = pickle.loads((tmp_path / "a.pkl").read_bytes())
    boxes, logits = (  # enough to make a long string of their bytes
        [value.repeat(200, axis=0) for value in content[key]]
        for key in ("boxes", "objectness_logits")
    )
    old = {"indexes": content["ids"], "scores": logits, "boxes": boxes}
    write_python2_pickle(tmp_path / "a.pkl", old)
    assert read_proposals(str(tmp_path / "a.pkl"))["ids"] == [1, 2, 3, 4]
    build_train_loader(with_proposals)


def test_a_test_set_outside_of_the_config_has_no_proposals(with_proposals):
    with pytest.raises(UserError, match="zoo_train has no proposal file"):
        build_test_loader(with_proposals, "zoo_train")
