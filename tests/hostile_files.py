"""Files that would run code or fill the memory, each with a benign twin of the same form.

``KINDS`` maps the name of a kind to a function ``(world, hostile) -> Case`` that writes either the
hostile file, which makes the folder ``made`` if its code runs, or its twin, which has something
harmless in the place of the code.
"""

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bad_inputs
import numpy as np
import torch
from bad_inputs import FAST, FASTER
from safetensors.torch import save_file


class Evil:
    """Makes the folder ``made`` when it is unpickled."""

    def __init__(self, folder: Path):
        self.path = str(folder / "made")

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


def write_zip_bomb(content: Any, path: str | os.PathLike) -> None:
    """Write a file as ``torch.save`` does, but with tensors that unpack to 100 MB of zeros each."""
    whole = io.BytesIO()
    torch.save(content, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in source.namelist():
            bomb.writestr(name, source.read(name) if "data/" not in name else bytes(10**8))


@dataclass
class World:
    """What the cases are made from."""

    folder: Path  # where a case may write
    repo: Path
    weights: dict[str, torch.Tensor]  # of the quick Faster R-CNN row
    datasets: str  # the folder of the tiny data

    def evil(self, hostile: bool) -> Any:
        return Evil(self.folder) if hostile else "harmless"

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: value.numpy() for name, value in self.weights.items()}

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def write(self, name: str, content: bytes | str) -> str:
        data = content.encode() if isinstance(content, str) else content
        (self.folder / name).write_bytes(data)
        return self.path(name)


@dataclass
class Case:
    """A command, given by its row (or config file), flags and overrides, and the file at fault."""

    row: str
    words: list[str]
    file: str


def evaluate(path: str) -> Case:
    return Case(FASTER, ["--eval-only", "MODEL.WEIGHTS", path], path)


def finetune(path: str) -> Case:
    return Case(FASTER, ["MODEL.WEIGHTS", path], path)


# -- configs -------------------------------------------------------------------------------------


def tag(world: World, hostile: bool) -> str:
    """Return a config line with a seed, or with code in place of the seed."""
    if not hostile:
        return "SEED: 1\n"
    return f'SEED: !!python/object/apply:os.mkdir ["{world.path("made")}"]\n'


def yaml_tag(world: World, hostile: bool) -> Case:
    base = f"_BASE_: {world.repo}/configs/{FASTER}.yaml\n"
    return Case(world.write("row.yaml", base + tag(world, hostile)), [], world.path("row.yaml"))


def yaml_tag_in_base(world: World, hostile: bool) -> Case:
    inner = world.write("base.yaml", tag(world, hostile))
    row = f"_BASE_: [{world.repo}/configs/{FASTER}.yaml, {inner}]\n"
    return Case(world.write("row.yaml", row), [], inner)


def yaml_bomb(world: World, hostile: bool) -> Case:
    lines = [f"_BASE_: {world.repo}/configs/{FASTER}.yaml", "MODEL:"]
    lines += ["  PIXEL_MEAN: &a0 [103.5, 116.3, 123.7]", "  PIXEL_STD: [1.0, 1.0, 1.0]"]
    if hostile:
        lines += [f"  X{i}: &a{i} {{a: *a{i - 1}, b: *a{i - 1}}}" for i in range(1, 60)]
    return Case(world.write("row.yaml", "\n".join(lines)), [], world.path("row.yaml"))


# -- checkpoints ---------------------------------------------------------------------------------


def pkl(world: World, **more: Any) -> str:
    """Write a file of the form of Detectron2's model zoo, with ``more`` added."""
    content = {"model": world.arrays(), "__author__": "Detectron2 Model Zoo", **more}
    return world.write("model.pkl", pickle.dumps(content, 4))


def pth(world: World, name: str = "model.pth", key: str = "model", **more: Any) -> str:
    torch.save({key: world.weights, **more}, world.path(name))
    return world.path(name)


def object_array(value: Any) -> np.ndarray:
    array = np.empty(2, dtype=object)
    array[1] = value
    return array


class LyingArray:
    """An array of objects whose addresses are bytes of the file: dtype flags 0 deny objects."""

    def __reduce__(self) -> tuple:
        reconstruct, args, _ = np.zeros(1).__reduce__()
        return reconstruct, args, (1, (2,), LyingDtype(), False, b"A" * 16)


class LyingDtype:
    def __reduce__(self) -> tuple:
        return np.dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 0)


def pkl_memo_bomb(world: World, hostile: bool) -> Case:
    path = pkl(world)
    if hostile:  # LONG_BINPUT with the highest index
        content = Path(path).read_bytes()
        world.write("model.pkl", content[:-1] + b"r" + struct.pack("<I", 2**32 - 1) + b".")
    return evaluate(path)


def pth_zip_bomb(world: World, hostile: bool) -> Case:
    path = pth(world)
    if hostile:
        write_zip_bomb({"model": {"a": torch.zeros(2)}}, path)
    return evaluate(path)


def safetensors_header(world: World, hostile: bool) -> Case:
    path = world.path("model.safetensors")
    save_file(world.weights, path)
    if hostile:
        content = Path(path).read_bytes()
        world.write("model.safetensors", struct.pack("<Q", 2**62) + content[8:])
    return evaluate(path)


def npy_header(world: World, hostile: bool) -> Case:
    """NumPy's own format, which no checkpoint has; the twin has the weights in a pickle."""
    if not hostile:
        return evaluate(pkl(world))
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (" + b"9" * 4000 + b",)}"
    start = b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1)
    body = pickle.dumps(Evil(world.folder))
    return evaluate(world.write("model.npy", start + header + body))


# -- proposals, last_checkpoint, annotations -----------------------------------------------------


def proposals(world: World, hostile: str | None, more: Any) -> list[str]:
    """Write proposal files for the tiny data, ``more`` in that of split ``hostile``; return
    overrides for them."""
    words = []
    for split, key, images in (("train", "TRAIN", 8), ("val", "TEST", 4)):
        content = pickle.loads(bad_inputs.proposals(images, ids=images))
        if split == hostile:
            content["more"] = more
        name = world.write(f"{split}.pkl", pickle.dumps(content))
        words += [f"DATASETS.PROPOSAL_FILES_{key}", f"('{name}',)"]
    return words


def proposals_in_evaluation(world: World, hostile: bool) -> Case:
    words = proposals(world, "val", {"deep": [world.evil(hostile)]})
    words = ["--eval-only", "MODEL.WEIGHTS", pth(world), *words]
    return Case(FAST, words, world.path("val.pkl"))


def last_checkpoint(world: World, hostile: bool) -> Case:
    """``last_checkpoint`` names a file outside OUTPUT_DIR, which stock Detectron2 unpickles."""
    output = world.folder / "resumed"
    output.mkdir(exist_ok=True)
    elsewhere = pkl(world, more=world.evil(True))
    if not hostile:
        elsewhere = "model_start.pth"
        torch.save({"model": world.weights, "iteration": 1}, output / elsewhere)
    (output / "last_checkpoint").write_text(elsewhere)
    words = ["--eval-only", "--resume", "OUTPUT_DIR", str(output)]
    return Case(FASTER, words, str(output / "last_checkpoint"))


def annotations(world: World, hostile: bool) -> Case:
    """JSON nested deeper than Python can read, as the annotation file of nested_val."""
    tiny, folder = Path(world.datasets) / "tiny", world.folder / "data" / "nested"
    (folder / "annotations").mkdir(parents=True)
    (folder / "images").symlink_to(tiny / "images")
    text = (tiny / "annotations/instances_val.json").read_text().rstrip()
    if hostile:
        text = text[:-1] + ', "more": ' + "[" * 200_000 + "]" * 200_000 + "}"
    path = folder / "annotations/instances_val.json"
    path.write_text(text)
    words = evaluate(pth(world)).words
    return Case(FASTER, [*words, "DATASETS.TEST", "('nested_val',)"], str(path))


KINDS: dict[str, Callable[[World, bool], Case]] = {
    "a YAML tag in a config": yaml_tag,
    "a YAML tag in its `_BASE_`": yaml_tag_in_base,
    "YAML aliases of aliases": yaml_bomb,
    "a call in a `.pkl`": lambda w, hostile: evaluate(pkl(w, more=w.evil(hostile))),
    "a call in a container of a `.pkl`": lambda w, hostile: finetune(
        pkl(w, more=[({"deep": [w.evil(hostile)]},)])
    ),
    "a call in an object array of a `.pkl`": lambda w, hostile: evaluate(
        pkl(w, more=object_array([w.evil(hostile)]))
    ),
    "a dtype in a `.pkl` that lies": lambda w, hostile: evaluate(
        pkl(w, more=LyingArray() if hostile else object_array(None))
    ),
    "a memo index in a `.pkl` of 2^32": pkl_memo_bomb,
    "a call in a `.pth`": lambda w, hostile: evaluate(pth(w, more=w.evil(hostile))),
    "a call in a container of a `.pth`": lambda w, hostile: finetune(
        pth(w, trainer={"hooks": [{"x": (w.evil(hostile),)}]})
    ),
    "a call in an object array of a `.pth`": lambda w, hostile: evaluate(
        pth(w, more=object_array(w.evil(hostile)))
    ),
    "a call in a `.pyth`": lambda w, hostile: evaluate(
        pth(w, "model.pyth", "model_state", more=w.evil(hostile))
    ),
    "a zip bomb as a `.pth`": pth_zip_bomb,
    "a `.safetensors` header of 2^62 bytes": safetensors_header,
    "an `.npy` header of 2^32 bytes, and a call": npy_header,
    "a call in proposals, training": lambda w, hostile: Case(
        FAST, proposals(w, "train", w.evil(hostile)), w.path("train.pkl")
    ),
    "a call in proposals, `--eval-only`": proposals_in_evaluation,
    "a `last_checkpoint` that names a `.pkl` elsewhere": last_checkpoint,
    "an annotation file nested 200,000 deep": annotations,
}
