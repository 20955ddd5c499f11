"""Inputs that cannot work, each by what a user does: ``CASES[group][case] = (make, words)``.

``make(scene)`` spoils something in the scene and returns the command: a tool's name and what
follows it. ``words`` must be in the sentence that ends it: the file, key or image, and more where
one sentence could be taken for another's.
"""

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

FASTER = "quick/Faster-RCNN/faster_rcnn_R_18_FPN"
FAST = "quick/Fast-RCNN/fast_rcnn_R_18_FPN"
RETINANET = "quick/RetinaNet/retinanet_R_18_FPN"
MASKS = "quick/Mask-Proposals/mask_R_18_dual"


@dataclass
class Scene:
    """What a case spoils.

    Args:
        inputs: the folder of everything that is read; the data set ``bad`` is in it.
        output: an OUTPUT_DIR with the log and the metrics of an earlier run.
        repo: this repository.
        options: overrides under which any quick row runs on the data set.
    """

    inputs: Path
    output: Path
    repo: Path
    options: list[str]

    @property
    def images(self) -> Path:
        return self.inputs / "data/bad/images"

    def annotations(self, split: str) -> Path:
        return self.inputs / f"data/bad/annotations/instances_{split}.json"

    def write(self, name: str, content: bytes | str) -> str:
        data = content.encode() if isinstance(content, str) else content
        (self.inputs / name).write_bytes(data)
        return str(self.inputs / name)

    def train(self, row: str, *words: Any) -> list[str]:
        """train_net.py's command; flags may stand among the overrides."""
        flags = [str(word) for word in words if str(word).startswith("--")]
        opts = [str(word) for word in words if not str(word).startswith("--")]
        path = row if row.endswith(".yaml") or "/in/" in row else f"configs/{row}.yaml"
        return ["train_net", "--config-file", path, *flags, *self.options, *opts]


Make = Callable[[Scene], list[str]]


def override(*words: Any, row: str = FASTER) -> Make:
    return lambda scene: scene.train(row, *words)


def file(content: bytes | str, name: str = "row.yaml") -> Make:
    """A config file of this content; ``REPO`` in it is this repository."""

    def make(scene: Scene) -> list[str]:
        text = content
        if isinstance(text, str):
            text = text.replace("REPO", str(scene.repo)).replace("HERE", str(scene.inputs))
        return scene.train(scene.write(name, text))

    return make


BASE = f"_BASE_: REPO/configs/{FASTER}.yaml\n"

CONFIG_FILES = {
    "a file that is not there": (override(row="quick/nothing"), ["quick/nothing.yaml"]),
    "an empty file": (file(""), ["row.yaml", "KEY: value"]),
    "a list": (file("- 1\n- 2\n"), ["row.yaml", "KEY: value"]),
    "broken YAML": (file("MODEL: {\n"), ["row.yaml", "line"]),
    "no text": (file(b"\xff\xfe\x00\x81"), ["row.yaml"]),
    "a folder": (
        lambda scene: ((scene.inputs / "a.yaml").mkdir(), scene.train(f"{scene.inputs}/a.yaml"))[1],
        ["a.yaml"],
    ),
    "a section that is a number": (file(BASE + "MODEL: 3\n"), ["row.yaml", "MODEL is a section"]),
    "an unknown key": (file(BASE + "MODEL:\n  FPN:\n    TOPDOWN: False\n"), ["MODEL.FPN.TOP_DOWN"]),
    "an unknown section": (file(BASE + "MODLE:\n  DEVICE: cpu\n"), ["row.yaml", "MODLE"]),
    "a text for a number": (file(BASE + "SOLVER:\n  MAX_ITER: many\n"), ["SOLVER.MAX_ITER"]),
    "a number for a section's list": (
        file(BASE + "INPUT:\n  MIN_SIZE_TRAIN: 5\n"),
        ["MIN_SIZE_TRAIN"],
    ),
    "a tag that runs code": (
        file(BASE + "SEED: !!python/object/apply:os.getpid []\n"),
        ["row.yaml", "tag"],
    ),
    "a base that is not there": (file("_BASE_: nowhere.yaml\n"), ["row.yaml", "nowhere.yaml"]),
    "a base that is itself": (file("_BASE_: HERE/row.yaml\n"), ["row.yaml", "_BASE_"]),
    "a file of 2 MB": (file("#" * 2**21), ["row.yaml", "larger than 1 MB"]),
}

OVERRIDES = {
    "an unknown key": (override("MODEL.FPN.TOPDOWN", "False"), ["MODEL.FPN.TOP_DOWN"]),
    "a key without value": (override("MODEL.FPN.TOP_DOWN"), ["pairs"]),
    "a flag behind the overrides": (
        lambda scene: [*scene.train(FASTER), "--resume", "--eval-only"],
        ["--resume", "before"],
    ),
    "a wrong type": (override("MODEL.FPN.OUT_CHANNELS", "many"), ["MODEL.FPN.OUT_CHANNELS"]),
    "both paths off": (
        override("MODEL.FPN.TOP_DOWN", "False", "MODEL.FPN.LATERAL", "False"),
        ["MODEL.FPN.TOP_DOWN", "MODEL.FPN.LATERAL"],
    ),
    "a fusion": (override("MODEL.FPN.FUSE_TYPE", "max"), ["MODEL.FPN.FUSE_TYPE", "'avg'"]),
    "a top block": (override("MODEL.FPN.TOP_BLOCK", "p8"), ["MODEL.FPN.TOP_BLOCK", "maxpool"]),
    "a level": (override("MODEL.FPN.OUT_FEATURES", "['p9']"), ["MODEL.FPN.OUT_FEATURES", "p9"]),
    "a stage": (override("MODEL.FPN.IN_FEATURES", "['res9']"), ["MODEL.FPN.IN_FEATURES", "res9"]),
    "no levels": (override("MODEL.RPN.IN_FEATURES", "[]"), ["MODEL.RPN.IN_FEATURES"]),
    "anchors": (
        override("MODEL.ANCHOR_GENERATOR.SIZES", "[[8],[16]]"),
        ["MODEL.ANCHOR_GENERATOR.SIZES"],
    ),
    "a precision": (override("INFERENCE.PRECISION", "int8"), ["INFERENCE.PRECISION", "bfloat16"]),
    "a pooler": (
        override("MODEL.ROI_BOX_HEAD.POOLER_BACKEND", "cuda"),
        ["POOLER_BACKEND", "gather"],
    ),
    "a pooler's type": (override("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "RoIMean"), ["POOLER_TYPE"]),
    "a pooler that stock heads ignore": (
        override(
            "MODEL.ROI_HEADS.NAME",
            "StandardROIHeads",
            "MODEL.ROI_BOX_HEAD.POOLER_BACKEND",
            "gather",
            "MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE",
            224,
        ),
        ["POOLER_BACKEND", "LevelROIHeads"],
    ),
    "a share of 2": (override("DATALOADER.MAX_SKIPPED_SHARE", "2.0"), ["MAX_SKIPPED_SHARE", "0.0"]),
    "no images in a batch": (override("SOLVER.IMS_PER_BATCH", 0), ["SOLVER.IMS_PER_BATCH"]),
    "a batch for others": (
        override("SOLVER.REFERENCE_WORLD_SIZE", 8),
        ["SOLVER.REFERENCE_WORLD_SIZE"],
    ),
    "no GPU": (override("MODEL.DEVICE", "cuda"), ["MODEL.DEVICE", "cpu"]),
    "a device of no kind": (override("MODEL.DEVICE", "gpu"), ["MODEL.DEVICE is gpu"]),
    "a meta-architecture": (
        override("MODEL.META_ARCHITECTURE", "FasterRCNN"),
        ["MODEL.META_ARCHITECTURE"],
    ),
    "a backbone": (override("MODEL.BACKBONE.NAME", "resnet"), ["MODEL.BACKBONE.NAME"]),
    "a bottom-up network": (override("MODEL.FPN.BOTTOM_UP", "vgg"), ["MODEL.FPN.BOTTOM_UP"]),
    "RoI heads": (override("MODEL.ROI_HEADS.NAME", "MyHeads"), ["MODEL.ROI_HEADS.NAME"]),
    "a box head": (override("MODEL.ROI_BOX_HEAD.NAME", "MyHead"), ["MODEL.ROI_BOX_HEAD.NAME"]),
    "an RPN": (override("MODEL.PROPOSAL_GENERATOR.NAME", "R"), ["MODEL.PROPOSAL_GENERATOR.NAME"]),
    "an RPN head": (override("MODEL.RPN.HEAD_NAME", "MyHead"), ["MODEL.RPN.HEAD_NAME"]),
    "a depth": (override("MODEL.RESNETS.DEPTH", 19), ["MODEL.RESNETS.DEPTH", "18"]),
    "a width of ResNet-18": (
        override("MODEL.RESNETS.RES2_OUT_CHANNELS", 32),
        ["MODEL.RESNETS.RES2_OUT_CHANNELS", "64"],
    ),
    "a norm": (override("MODEL.FPN.NORM", "batch"), ["MODEL.FPN.NORM"]),
    "no iterations": (override("SOLVER.MAX_ITER", 0), ["SOLVER.MAX_ITER"]),
    "a schedule": (override("SOLVER.LR_SCHEDULER_NAME", "Cos"), ["SOLVER.LR_SCHEDULER_NAME"]),
    "steps backwards": (override("SOLVER.STEPS", "(3, 1)"), ["SOLVER.STEPS"]),
    "a period of 0": (override("SOLVER.CHECKPOINT_PERIOD", 0), ["SOLVER.CHECKPOINT_PERIOD"]),
    "a sampler": (override("DATALOADER.SAMPLER_TRAIN", "Mine"), ["DATALOADER.SAMPLER_TRAIN"]),
    "workers below 0": (override("DATALOADER.NUM_WORKERS", -1), ["DATALOADER.NUM_WORKERS"]),
    "no size": (override("INPUT.MIN_SIZE_TRAIN", "()"), ["INPUT.MIN_SIZE_TRAIN"]),
    "a pixel format": (override("INPUT.FORMAT", "XYZ"), ["INPUT.FORMAT"]),
    "an object's scale without masks": (
        override("INPUT.OBJECT_SCALE_TRAIN", 24.0),
        ["INPUT.OBJECT_SCALE_TRAIN", "MODEL.MASK_ON"],
    ),
    "a flip": (override("INPUT.RANDOM_FLIP", "sideways"), ["INPUT.RANDOM_FLIP"]),
    "a learning rate": (override("SOLVER.BASE_LR", "nan"), ["SOLVER.BASE_LR"]),
    "an output that is a file": (
        lambda scene: scene.train(FASTER, "OUTPUT_DIR", scene.write("file", "mine")),
        ["OUTPUT_DIR", "/file"],
    ),
    "a four-step config": (
        override(row="quick/Feature-Sharing/shared_R_18_FPN"),
        ["tools/train_four_step.py"],
    ),
    "an unknown data set": (
        override("DATASETS.TRAIN", "('bad_trian',)"),
        ["bad_trian", "bad_train"],
    ),
    "no data set": (override("DATASETS.TRAIN", "()"), ["DATASETS.TRAIN"]),
    "an unknown test set": (override("DATASETS.TEST", "('bad_vol',)"), ["bad_vol", "bad_val"]),
    "another number of classes": (
        override("MODEL.ROI_HEADS.NUM_CLASSES", 7),
        ["MODEL.ROI_HEADS.NUM_CLASSES 5"],
    ),
    "RetinaNet's number of classes": (
        override("MODEL.RETINANET.NUM_CLASSES", 80, row=RETINANET),
        ["MODEL.RETINANET.NUM_CLASSES 5"],
    ),
}


def json_of(
    split: str, change: Callable[[dict], Any] | str, *words: Any, row: str = FASTER
) -> Make:
    """Change the annotation file of a split, or write a text in its place."""

    def make(scene: Scene) -> list[str]:
        path = scene.annotations(split)
        if isinstance(change, str):
            path.write_text(change)
        else:
            content = json.loads(path.read_text())
            change(content)
            path.write_text(json.dumps(content))
        return scene.train(row, *words)

    return make


def of(key: str, **values: Any) -> Callable[[dict], Any]:
    """Changes the first entry of a list."""
    return lambda content: content[key][0].update(values)


def without(key: str, field: str = "") -> Callable[[dict], Any]:
    return lambda content: content[key][0].pop(field) if field else content.pop(key)


TRAIN, VAL = "instances_train.json", "instances_val.json"
ANNOTATION_FILES = {
    "no JSON": (json_of("train", "{"), [TRAIN, "line 1"]),
    "an empty file": (json_of("val", ""), [VAL]),
    "a list": (json_of("train", "[1, 2]"), [TRAIN]),
    "nested deep": (json_of("train", "[" * 100_000), [TRAIN, "nested"]),
    "no images": (json_of("train", without("images")), [TRAIN, "images"]),
    "no categories": (json_of("val", without("categories")), [VAL, "categories"]),
    "empty images": (json_of("train", lambda c: c.update(images=[])), [TRAIN, "images"]),
    "an image without file name": (json_of("train", without("images", "file_name")), ["file_name"]),
    "an image without height": (json_of("train", without("images", "height")), [TRAIN, "height"]),
    "a width of text": (json_of("train", of("images", width="64")), ["width '64'"]),
    "a height of 0": (json_of("val", of("images", height=0)), ["height 0"]),
    "a file name of a number": (json_of("train", of("images", file_name=7)), [TRAIN, "file_name"]),
    "no category": (
        json_of("train", without("annotations", "category_id")),
        [TRAIN, "category_id"],
    ),
    "an unknown category": (json_of("train", of("annotations", category_id=99)), [TRAIN, "99"]),
    "a category as a list": (json_of("train", of("annotations", category_id=[1])), [TRAIN, "[1]"]),
    "a repeated id": (json_of("train", of("annotations", id=2)), [TRAIN, "repeats"]),
    "an annotation of text": (
        json_of("train", lambda c: c["annotations"].append("mine")),
        [TRAIN, "annotations"],
    ),
    "ignore": (json_of("train", of("annotations", ignore=1)), [TRAIN, "iscrowd"]),
    "no box": (json_of("train", without("annotations", "bbox")), [".jpg", "four finite numbers"]),
    "an empty box": (json_of("train", of("annotations", bbox=[])), [TRAIN, "bbox"]),
    "a box of three": (json_of("val", of("annotations", bbox=[1, 2, 3])), ["val_00", "[1, 2, 3]"]),
    "a box of NaN": (json_of("train", of("annotations", bbox=[1, 2, 3, float("nan")])), ["nan"]),
    "a box of text": (json_of("train", of("annotations", bbox=["1", 2, 3, 4])), ["'1'"]),
    "id 0 in a test set": (json_of("val", of("annotations", id=0)), [VAL, "id 0"]),
    "no area in a test set": (json_of("val", without("annotations", "area")), [VAL, "no area"]),
    "no iscrowd in a test set": (
        json_of("val", without("annotations", "iscrowd")),
        [VAL, "iscrowd"],
    ),
    "crowds alone": (
        json_of("train", lambda c: [a.update(iscrowd=1) for a in c["annotations"]]),
        ["bad_train", "DATALOADER.FILTER_EMPTY_ANNOTATIONS"],
    ),
    "other classes in the test set": (
        json_of("val", of("categories", name="lion")),
        ["bad_val", "bad_train", "lion"],
    ),
    "no mask": (
        json_of("train", without("annotations", "segmentation"), row=MASKS),
        ["segmentation"],
    ),
    "a polygon of NaN": (
        json_of(
            "train", of("annotations", segmentation=[[1, 1, 9, float("nan"), 9, 9]]), row=MASKS
        ),
        ["train_", "broken mask"],
    ),
    "an RLE of another size": (
        json_of(
            "train", of("annotations", segmentation={"size": [1, 2], "counts": [2]}), row=MASKS
        ),
        ["broken mask", "size"],
    ),
}


def image_of(split: str, spoil: Callable[[Path], Any], *words: Any, every: bool = False) -> Make:
    """Spoil the first image of a split, or all."""

    def make(scene: Scene) -> list[str]:
        for path in sorted(scene.images.glob(f"{split}_*"))[: None if every else 1]:
            spoil(path)
        return scene.train(FASTER, *words)

    return make


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def replace(path: Path) -> None:
    path.unlink()
    path.mkdir()


EVALUATE = ["--eval-only", "MODEL.WEIGHTS", "IN/whole.pth"]
IMAGES = {
    "one that is missing": (image_of("train", Path.unlink), ["train_000001.jpg"]),
    "one that is missing in the test set": (image_of("val", Path.unlink), ["val_000001.jpg"]),
    "one that is cut, in evaluation": (image_of("val", cut, *EVALUATE), ["val_000001.jpg"]),
    "one that is cut, in evaluation by a worker": (
        image_of("val", cut, *EVALUATE, "DATALOADER.NUM_WORKERS", 1),
        ["val_000001.jpg"],
    ),
    "one that is empty, in evaluation": (
        image_of("val", lambda path: path.write_bytes(b""), *EVALUATE),
        ["val_000001.jpg"],
    ),
    "one that is text, in evaluation": (
        image_of("val", lambda path: path.write_text("hello"), *EVALUATE),
        ["val_000001.jpg", "Pillow"],
    ),
    "one that is a folder": (image_of("val", replace, *EVALUATE), ["val_000001.jpg"]),
    "another size than the file says": (
        json_of(
            "val", lambda c: c["images"][0].update(width=c["images"][0]["width"] + 1), *EVALUATE
        ),
        ["val_00", "the annotation file says"],
    ),
    "all that are cut, in training": (
        image_of("train", cut, every=True),
        ["train_0", "DATALOADER.MAX_SKIPPED_SHARE"],
    ),
    "all that are cut, in training by a worker": (
        image_of("train", cut, "DATALOADER.NUM_WORKERS", 1, every=True),
        ["train_0", "DATALOADER.MAX_SKIPPED_SHARE"],
    ),
    "a folder that is missing": (
        lambda s: (s.images.rename(s.inputs / "photos"), s.train(FASTER))[1],
        ["bad/images"],
    ),
    "one that is cut, before pretraining": (
        lambda s: [
            "pretrain_backbone",
            *image_of("train", cut)(s)[1:3],
            *("--output", str(s.output / "new.pkl")),
            *s.options,
        ],
        ["train_000001.jpg"],
    ),
}


def weights(name: str, content: Callable[[Path], Any] | bytes, *words: Any) -> Make:
    """``MODEL.WEIGHTS`` of this name, which ``content`` writes."""

    def make(scene: Scene) -> list[str]:
        path = scene.inputs / name
        path.write_bytes(content) if isinstance(content, bytes) else content(path)
        return scene.train(FASTER, "MODEL.WEIGHTS", path, *words)

    return make


def half(path: Path) -> None:
    whole = path.parent / "whole.pth"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])


def earlier(name: str, content: bytes, *words: Any) -> Make:
    """A file of an earlier run in OUTPUT_DIR."""

    def make(scene: Scene) -> list[str]:
        (scene.output / name).write_bytes(content)
        return scene.train(FASTER, *words)

    return make


TENSOR = {"conv.weight": torch.zeros(3, 3)}
WEIGHTS = {
    "a file that is not there": (override("MODEL.WEIGHTS", "no.pth"), ["no.pth", "MODEL.WEIGHTS"]),
    "a folder": (weights("w.pth", Path.mkdir), ["w.pth", "MODEL.WEIGHTS"]),
    "an empty file": (weights("w.pth", b""), ["w.pth", "empty"]),
    "text": (weights("w.pth", b"hello"), ["w.pth", "MODEL.WEIGHTS"]),
    "half a file": (weights("w.pth", half), ["w.pth"]),
    "a list": (weights("w.pth", lambda p: torch.save([1], p)), ["w.pth"]),
    "no weights in it": (weights("w.pth", lambda p: torch.save({"model": 3}, p)), ["w.pth"]),
    "weights of text": (
        weights("w.pth", lambda p: torch.save({"model": {"a": "b"}}, p)),
        ["w.pth", "'a'"],
    ),
    "an object": (weights("w.pth", lambda p: torch.save(Path("a"), p)), ["w.pth", "Path"]),
    "another network": (
        weights("w.pth", lambda p: torch.save({"model": TENSOR}, p)),
        ["w.pth", "backbone"],
    ),
    "half a pickle": (weights("w.pkl", pickle.dumps({"model": {"a": 1}})[:-9]), ["w.pkl"]),
    "a pickle of a list": (weights("w.pkl", pickle.dumps([1])), ["w.pkl", "list"]),
    "half a safetensors": (weights("w.safetensors", b"\x10\0\0\0\0\0\0\0{}"), ["w.safetensors"]),
    "a safetensors of another network": (
        weights("w.safetensors", lambda p: save_file(TENSOR, p)),
        ["w.safetensors", "backbone"],
    ),
    "a pyth of another package": (
        weights("w.pyth", lambda p: torch.save({"model": TENSOR}, p)),
        ["w.pyth", "model_state"],
    ),
    "evaluation without weights": (override("--eval-only"), ["MODEL.WEIGHTS"]),
    "evaluation of another network": (
        weights("w.pth", lambda p: torch.save({"model": TENSOR}, p), "--eval-only"),
        ["w.pth"],
    ),
    "an earlier run's folder": (
        earlier("model_0000001.pth", b"of an earlier run"),
        ["OUTPUT_DIR", "--resume"],
    ),
    "a torn checkpoint to resume": (
        earlier("model_0000001.pth", b"PK\x03\x04 torn", "--resume"),
        ["model_0000001.pth"],
    ),
    "a last_checkpoint that names another folder": (
        earlier("last_checkpoint", b"../in/whole.pth", "--resume"),
        ["last_checkpoint"],
    ),
    "a last_checkpoint of nothing": (
        earlier("last_checkpoint", b"model_0000009.pth", "--resume"),
        ["last_checkpoint"],
    ),
    "its own checkpoint, to be overwritten": (
        lambda s: earlier(
            "model_0000001.pth",
            b"of an earlier run",
            "OVERWRITE_OUTPUT_DIR",
            True,
            "MODEL.WEIGHTS",
            s.output / "model_0000001.pth",
        )(s),
        ["MODEL.WEIGHTS", "OVERWRITE_OUTPUT_DIR"],
    ),
}


def proposals(split: str, change: Callable[[dict], Any] | bytes) -> Make:
    """A Fast R-CNN whose proposals of a split are changed, or replaced by other bytes."""

    def make(scene: Scene) -> list[str]:
        words: list[str] = []
        for which in ("train", "val"):
            content: Any = sound_proposals(scene, which)
            if which == split and not isinstance(change, bytes):
                change(content)
            data = change if which == split and isinstance(change, bytes) else pickle.dumps(content)
            path = scene.write(f"{which}.pkl", data)
            key = "TEST" if which == "val" else "TRAIN"
            words += [f"DATASETS.PROPOSAL_FILES_{key}", f"('{path}',)"]
        return scene.train(FAST, *words)

    return make


def sound_proposals(scene: Scene, split: str) -> dict[str, Any]:
    ids = [image["id"] for image in json.loads(scene.annotations(split).read_text())["images"]]
    boxes = [np.float32([[1, 1, 30, 30]])] * len(ids)
    logits = [np.float32([1])] * len(ids)
    return {"ids": ids, "boxes": boxes, "objectness_logits": logits, "bbox_mode": 0}


def beyond(content: dict[str, Any]) -> None:
    content["boxes"] = [np.float32([[1, 1, 900, 30]])] * len(content["ids"])


def not_a_number(content: dict[str, Any]) -> None:
    content["boxes"] = [np.float32([[1, 1, np.nan, 30]])] * len(content["ids"])


PROPOSALS = {
    "a file that is not there": (
        override("DATASETS.PROPOSAL_FILES_TRAIN", "('no.pkl',)", row=FAST),
        ["no.pkl", "--eval-only"],
    ),
    "no file": (
        override("DATASETS.PROPOSAL_FILES_TRAIN", "()", row=FAST),
        ["DATASETS.PROPOSAL_FILES_TRAIN"],
    ),
    "an empty file": (proposals("train", b""), ["train.pkl", "empty"]),
    "text": (proposals("train", b"hello"), ["train.pkl"]),
    "a call": (proposals("val", pickle.dumps(Path("a"))), ["val.pkl", "pathlib"]),
    "a list": (proposals("train", pickle.dumps([1])), ["train.pkl", "ids"]),
    "no boxes": (proposals("train", lambda c: c.pop("boxes")), ["train.pkl", "boxes"]),
    "lists of two lengths": (
        proposals("train", lambda c: c["ids"].pop()),
        ["train.pkl", "lengths"],
    ),
    "other images": (
        proposals("val", lambda c: c.update(ids=[i + 100 for i in c["ids"]])),
        ["val.pkl", "val_0"],
    ),
    "boxes outside": (proposals("train", beyond), ["train.pkl", "train_0"]),
    "boxes of NaN": (proposals("train", not_a_number), ["train.pkl", "train_0"]),
}


def tool(*words: str) -> Make:
    """Another command; ``IN``, ``OUT`` in its words are the scene's folders."""
    return lambda scene: list(words)


COMMANDS = {
    "no config": (tool("train_net", "OUTPUT_DIR", "OUT"), ["DATASETS.TRAIN"]),
    "check_dataset, an unknown name": (tool("check_dataset", "bad_trian"), ["bad_trian"]),
    "check_dataset, no workers": (
        tool("check_dataset", "bad_train", "--workers", "0"),
        ["--workers"],
    ),
    "check_dataset, other images": (
        tool("check_dataset", "bad_train", "--images", "IN/nowhere"),
        ["in/nowhere"],
    ),
    "convert_checkpoint, no input": (
        tool("convert_checkpoint", "IN/no.pth", "OUT/a.safetensors"),
        ["no.pth"],
    ),
    "convert_checkpoint, an output that is there": (
        tool("convert_checkpoint", "IN/whole.pth", "OUT/there.pth"),
        ["there.pth", "--force"],
    ),
    "convert_checkpoint, a form": (
        tool("convert_checkpoint", "IN/whole.pth", "OUT/a.onnx"),
        ["a.onnx", ".safetensors"],
    ),
    "convert_checkpoint, a folder": (
        tool("convert_checkpoint", "IN/whole.pth", "IN/folder.pth"),
        ["folder.pth is a folder"],
    ),
    "convert_checkpoint, a torn input": (
        tool("convert_checkpoint", "IN/torn.pth", "OUT/a.pth"),
        ["torn.pth"],
    ),
    "draw_results, no run": (tool("draw_results", "IN"), ["/in"]),
    "make_shapes, the built-in name": (
        tool("make_shapes", "--name", "shapes", "--train", "3"),
        ["--name"],
    ),
    "make_shapes, no images": (tool("make_shapes", "--name", "few", "--train", "-3"), ["-3"]),
    "make_shapes, a folder's name": (tool("make_shapes", "--name", "../few"), ["../few"]),
    "make_shapes, a size": (tool("make_shapes", "--name", "few", "--size", "0"), ["0"]),
    "train_four_step, another config": (
        tool("train_four_step", "--config-file", f"configs/{FASTER}.yaml", "OUTPUT_DIR", "OUT"),
        ["FOUR_STEP"],
    ),
    "reproduce, a table": (tool("reproduce", "--table", "9", "--runs", "OUT"), ["9"]),
    "reproduce, a scale": (
        tool("reproduce", "--table", "1", "--scale", "large", "--runs", "OUT"),
        ["large"],
    ),
    "reproduce, a row": (
        tool("reproduce", "--table", "1", "--rows", "z", "--runs", "OUT", "--output", "OUT"),
        ["z"],
    ),
    "reproduce, seeds": (
        tool("reproduce", "--table", "1", "--seeds", "one", "--runs", "OUT"),
        ["--seeds one"],
    ),
    "reproduce, a data set": (
        tool(
            "reproduce", "--table", "1", "--dataset", "nothing", "--runs", "OUT", "--output", "OUT"
        ),
        ["nothing"],
    ),
    "reproduce, tables that are no YAML": (
        tool("reproduce", "--table", "1", "--tables", "IN/torn.pth", "--runs", "OUT"),
        ["torn.pth"],
    ),
    "pretrain_backbone, no steps": (
        lambda s: [
            "pretrain_backbone",
            *s.train(FASTER)[1:3],
            *("--output", str(s.output / "new.pkl"), "--iterations", "0"),
            *s.options,
        ],
        ["--iterations"],
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
