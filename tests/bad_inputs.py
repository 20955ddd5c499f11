"""A table of inputs that cannot work: what a user gives, and what the error sentence must name.

It has cases of every kind, but not every rule: the rules for configs are tested in test_config.py,
those for annotation files in data/test_annotation_file.py, for checkpoints in checkpoint/.

In words, file names and file contents, ``IN`` stands for the folder of everything that is read,
``OUT`` for the OUTPUT_DIR of an earlier run and ``REPO`` for this repository.
"""

import io
import pickle
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

FASTER = "quick/Faster-RCNN/faster_rcnn_R_18_FPN"
FAST = "quick/Fast-RCNN/fast_rcnn_R_18_FPN"
MASKS = "quick/Mask-Proposals/mask_R_18_dual"

# What a case does to a file; HALF replaces it with the first half of whole.pth.
CUT, MISSING, FOLDER, HALF = "cut", "missing", "folder", "half of whole.pth"
REMOVED = "removed"  # deletes a value in an annotation file

# A word that tells what to do; a sentence that only names the fault does not help.
REMEDY = re.compile(
    r"\b(add|annotate|choose|copy|correct|delete|did you mean|evaluate|give|it can be|leave|list|"
    r"make|must hold|name|number|put|rename|replace|restart|set|switch|take|there are|train|use|"
    r"write)\b"
)


@dataclass
class Case:
    """One bad input to train_net.py on the data set ``bad``, or to another tool.

    Args:
        named: what the sentence must contain: the file, key or image, and more where it could be
            mistaken for the sentence of another fault.
        opts: train_net's flags and overrides.
        row: the config: the name of a row, or a file.
        files: by path, contents to write first, or CUT and so on; ``*`` is a wildcard.
        train, val: values to put into the annotation file of a split, by their place, such as
            ``annotations.0.bbox``, or the text of the whole file.
        command: another tool and its command line.
    """

    named: list[str]
    opts: list[Any] = field(default_factory=list)
    row: str = FASTER
    files: dict[str, bytes | str] = field(default_factory=dict)
    train: dict[str, Any] | str | None = None
    val: dict[str, Any] | str | None = None
    command: list[str] | None = None


def config(content: bytes | str, *named: str) -> Case:
    """Return a case with a config file of this content."""
    return Case(list(named), row="IN/row.yaml", files={"IN/row.yaml": content})


def override(words: str, *named: str, row: str = FASTER) -> Case:
    """Return a case of a row with overrides; the sentence must name the first word if dotted."""
    opts = words.split()
    return Case([opts[0], *named] if "." in opts[0] else list(named), opts, row)


def tool(words: str, *named: str) -> Case:
    """Return a case of a tool other than train_net."""
    return Case(list(named), command=words.split())


BASE = f"_BASE_: REPO/configs/{FASTER}.yaml\n"

CONFIG_FILES = {
    "a file that is not there": Case(["quick/nothing.yaml"], row="quick/nothing"),
    "broken YAML": config("MODEL: {\n", "row.yaml", "line"),
    "no text": config(b"\xff\xfe\x00\x81", "row.yaml"),
    "a text for a number": config(BASE + "SOLVER:\n  MAX_ITER: many\n", "SOLVER.MAX_ITER"),
    "a number for a section's list": config(
        BASE + "INPUT:\n  MIN_SIZE_TRAIN: 5\n", "MIN_SIZE_TRAIN"
    ),
}

OVERRIDES = {
    "a flag behind the overrides": Case(
        ["--resume", "before"], ["SEED", 1, "--resume", "--eval-only"]
    ),
    "a precision": override("INFERENCE.PRECISION int8", "bfloat16"),
    "an engine": override("INFERENCE.ENGINE tensorrt", "openvino"),
    "an engine that is compiled": override(
        "INFERENCE.ENGINE openvino INFERENCE.COMPILE True", "COMPILE"
    ),
    "no image to calibrate": override("INFERENCE.CALIBRATION_IMAGES 0", "1 or more"),
    "no images in a batch": override("SOLVER.IMS_PER_BATCH 0"),
    "a meta-architecture": override("MODEL.META_ARCHITECTURE FasterRCNN"),
    "a backbone": override("MODEL.BACKBONE.NAME resnet"),
    "RoI heads": override("MODEL.ROI_HEADS.NAME MyHeads"),
    "a box head": override("MODEL.ROI_BOX_HEAD.NAME MyHead"),
    "an RPN": override("MODEL.PROPOSAL_GENERATOR.NAME R"),
    "an RPN head": override("MODEL.RPN.HEAD_NAME MyHead"),
    "a depth": override("MODEL.RESNETS.DEPTH 19", "18"),
    "a norm": override("MODEL.FPN.NORM batch"),
    "no iterations": override("SOLVER.MAX_ITER 0"),
    "a schedule": override("SOLVER.LR_SCHEDULER_NAME Cos"),
    "a period of 0": override("SOLVER.CHECKPOINT_PERIOD 0"),
    "a sampler": override("DATALOADER.SAMPLER_TRAIN Mine"),
    "workers below 0": override("DATALOADER.NUM_WORKERS -1"),
    "an object's scale without masks": override("INPUT.OBJECT_SCALE_TRAIN 24.0", "MODEL.MASK_ON"),
    "a flip": override("INPUT.RANDOM_FLIP sideways"),
    "an output that is a file": Case(
        ["OUTPUT_DIR", "/file"], ["OUTPUT_DIR", "IN/file"], files={"IN/file": "mine"}
    ),
    "a four-step config": Case(
        ["tools/train_four_step.py"], row="quick/Feature-Sharing/shared_R_18_FPN"
    ),
    "an unknown data set": override(
        "DATASETS.TRAIN ('bad_trian',)", "'bad_trian'", "bad_train", "/bad has train, val"
    ),
    "an unknown test set": override("DATASETS.TEST ('bad_vol',)", "bad_vol", "bad_val"),
    "no test set in evaluation": override("--eval-only DATASETS.TEST ()", "DATASETS.TEST"),
    "another number of classes": override(
        "MODEL.ROI_HEADS.NUM_CLASSES 7", "MODEL.ROI_HEADS.NUM_CLASSES 5"
    ),
}

TRAIN, VAL = "instances_train.json", "instances_val.json"

ANNOTATION_FILES = {
    "no JSON": Case([TRAIN, "line 1"], train="{"),
    "no images": Case([TRAIN, "images"], train={"images": REMOVED}),
    "a height of 0": Case(["height 0"], val={"images.0.height": 0}),
    "an unknown category": Case([TRAIN, "99"], train={"annotations.0.category_id": 99}),
    "a box of a negative side": Case(
        ["train_00", "[9, 9, -3, 4]"], train={"annotations.0.bbox": [9, 9, -3, 4]}
    ),
    "boxes in shares of the image": Case(
        [TRAIN, "between 0 and 1"], train={"annotations.*.bbox": [0.1, 0.2, 0.3, 0.4]}
    ),
    "id -1 in a test set": Case([VAL, "id -1"], val={"annotations.0.id": -1}),
    "crowds alone": Case(
        ["bad_train", "DATALOADER.FILTER_EMPTY_ANNOTATIONS"], train={"annotations.*.iscrowd": 1}
    ),
    "other classes in the test set": Case(
        ["bad_val", "bad_train", "lion"], val={"categories.0.name": "lion"}
    ),
    "no mask": Case(["segmentation"], row=MASKS, train={"annotations.0.segmentation": REMOVED}),
    "no mask at all": Case(
        ["segmentation", "MASK_ON"], row=MASKS, train={"annotations.*.segmentation": REMOVED}
    ),
    "an RLE of another size": Case(
        ["broken mask", "size"],
        row=MASKS,
        train={"annotations.0.segmentation": {"size": [1, 2], "counts": [2]}},
    ),
}

EVALUATE = ["--eval-only", "MODEL.WEIGHTS", "IN/whole.pth"]
FIRST_TRAIN, FIRST_VAL = "IN/data/bad/images/train_000001.jpg", "IN/data/bad/images/val_000001.jpg"
EVERY_TRAIN = "IN/data/bad/images/train_*.jpg"
SKIPPED = "2 of the 8 training images cannot be used, and DATALOADER.MAX_SKIPPED_SHARE is 0.01"

IMAGES = {
    "one that is missing": Case(["train_000001.jpg"], files={FIRST_TRAIN: MISSING}),
    "one that is missing in the test set": Case(["val_000001.jpg"], files={FIRST_VAL: MISSING}),
    "one that is cut, in evaluation": Case(["val_000001.jpg"], EVALUATE, files={FIRST_VAL: CUT}),
    "one that is cut, in evaluation by a worker": Case(
        ["val_000001.jpg"], [*EVALUATE, "DATALOADER.NUM_WORKERS", 1], files={FIRST_VAL: CUT}
    ),
    "one that is a folder": Case(["val_000001.jpg"], EVALUATE, files={FIRST_VAL: FOLDER}),
    "another size than the file says": Case(
        ["val_00", "the annotation file says"], EVALUATE, val={"images.0.width": 65}
    ),
    "all that are cut, in training": Case(["train_0", SKIPPED], files={EVERY_TRAIN: CUT}),
    "all that are cut, in training by a worker": Case(
        ["train_0", SKIPPED], ["DATALOADER.NUM_WORKERS", 1], files={EVERY_TRAIN: CUT}
    ),
    "a folder that is missing": Case(["bad/images"], files={"IN/data/bad/images": MISSING}),
    "one that is cut, before pretraining": Case(
        ["train_000001.jpg"],
        command=["pretrain_backbone", "CONFIG", "--output", "OUT/new.pkl", "OPTIONS"],
        files={FIRST_TRAIN: CUT},
    ),
}


def saved(content: Any) -> bytes:
    """Return the bytes that torch.save writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def weights(name: str, content: bytes | str, *named: str, opts: tuple[str, ...] = ()) -> Case:
    """Return a case whose ``MODEL.WEIGHTS`` is a file of this name and content."""
    words = [*opts, "MODEL.WEIGHTS", f"IN/{name}"]
    return Case([name, *named], words, files={f"IN/{name}": content})


TENSOR = {"conv.weight": torch.zeros(3, 3)}

WEIGHTS = {
    "a file that is not there": override("MODEL.WEIGHTS no.pth", "no.pth"),
    "an empty file": weights("w.pth", b"", "empty"),
    "half a file": weights("w.pth", HALF),
    "another network": weights("w.pth", saved({"model": TENSOR}), "backbone"),
    "evaluation of another network": weights(
        "w.pth", saved({"model": TENSOR}), "backbone", opts=("--eval-only",)
    ),
    "an earlier run's folder": Case(
        ["OUTPUT_DIR", "--resume"], files={"OUT/model_0000001.pth": b"of an earlier run"}
    ),
    "a torn checkpoint to resume": Case(
        ["model_0000001.pth"], ["--resume"], files={"OUT/model_0000001.pth": b"PK\x03\x04 torn"}
    ),
    "its own checkpoint, to be overwritten": Case(
        ["MODEL.WEIGHTS", "OVERWRITE_OUTPUT_DIR"],
        ["OVERWRITE_OUTPUT_DIR", True, "MODEL.WEIGHTS", "OUT/model_0000001.pth"],
        files={"OUT/model_0000001.pth": b"of an earlier run"},
    ),
}


def proposals(images: int, ids: int) -> bytes:
    """Return a proposal file of so many images, with the same box in each, and so many ids."""
    content = {
        "ids": [*range(1, ids + 1)],
        "boxes": [np.float32([[1, 1, 30, 30]])] * images,
        "objectness_logits": [np.float32([1])] * images,
        "bbox_mode": 0,
    }
    return pickle.dumps(content)


def fixed(train: bytes, *named: str) -> Case:
    """Return a case of a Fast R-CNN with this proposal file to train on, and a sound one."""
    opts = ["DATASETS.PROPOSAL_FILES_TRAIN", "('IN/train.pkl',)"]
    opts += ["DATASETS.PROPOSAL_FILES_TEST", "('IN/val.pkl',)"]
    files = {"IN/train.pkl": train, "IN/val.pkl": proposals(4, ids=4)}
    return Case(["train.pkl", *named], opts, FAST, files)


PROPOSALS = {
    "a file that is not there": override(
        "DATASETS.PROPOSAL_FILES_TRAIN ('no.pkl',)", "no.pkl", "--eval-only", row=FAST
    ),
    "an empty file": fixed(b"", "empty"),
    "a list": fixed(pickle.dumps([1]), "ids"),
    "lists of two lengths": fixed(proposals(8, ids=7), "lengths"),
}

COMMANDS = {
    "no config": tool("train_net OUTPUT_DIR OUT", "DATASETS.TRAIN"),
    "convert_checkpoint, no input": tool(
        "convert_checkpoint IN/no.pth OUT/a.safetensors", "no.pth"
    ),
    "convert_checkpoint, an output that is there": tool(
        "convert_checkpoint IN/whole.pth OUT/there.pth", "there.pth", "--force"
    ),
    "convert_checkpoint, a form": tool(
        "convert_checkpoint IN/whole.pth OUT/a.onnx", "a.onnx", ".safetensors"
    ),
    "convert_checkpoint, a folder": tool(
        "convert_checkpoint IN/whole.pth IN/folder.pth", "folder.pth is a folder"
    ),
    "convert_checkpoint, a torn input": tool(
        "convert_checkpoint IN/torn.pth OUT/a.pth", "torn.pth"
    ),
    "draw_results, no run": tool("draw_results IN", "/in"),
    "make_shapes, the built-in name": tool("make_shapes --name shapes --train 3", "--name"),
    "make_shapes, no images": tool("make_shapes --name few --train -3", "-3"),
    "make_shapes, a folder's name": tool("make_shapes --name ../few", "../few"),
    "train_four_step, another config": tool("train_four_step CONFIG OUTPUT_DIR OUT", "FOUR_STEP"),
    "reproduce, a table": tool("reproduce --table 9 --runs OUT", "9"),
    "reproduce, a scale": tool("reproduce --table 1 --scale large --runs OUT", "large"),
    "reproduce, a row": tool("reproduce --table 1 --rows z --runs OUT --output OUT", "z"),
    "reproduce, seeds": tool("reproduce --table 1 --seeds one --runs OUT", "--seeds one"),
    "reproduce, a data set": tool(
        "reproduce --table 1 --dataset nothing --runs OUT --output OUT", "nothing"
    ),
    "reproduce, tables that are no YAML": tool(
        "reproduce --table 1 --tables IN/torn.pth --runs OUT", "torn.pth"
    ),
    "pretrain_backbone, no steps": tool(
        "pretrain_backbone CONFIG --output OUT/new.pkl --iterations 0 OPTIONS", "--iterations"
    ),
    "pretrain_backbone, nothing to learn from": tool(
        "pretrain_backbone CONFIG --output OUT/new.pkl --held-out 1 OPTIONS", "--held-out is 1"
    ),
}

GROUPS = {
    "config file": CONFIG_FILES,
    "override": OVERRIDES,
    "annotation file": ANNOTATION_FILES,
    "image": IMAGES,
    "weights": WEIGHTS,
    "proposals": PROPOSALS,
    "command line": COMMANDS,
}
CASES = {
    f"{group}: {name}": case for group, cases in GROUPS.items() for name, case in cases.items()
}
