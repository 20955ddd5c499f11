"""The config keys that this package adds, and functions that read files into checked configs."""

import difflib
import functools
import io
import operator
import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import IO, Any

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.utils.file_io import PathManager

from .config_checks import check_config, import_foreign
from .config_values import value_of
from .utils.errors import UserError, reason_of
from .utils.model_zoo import close_zoo_names, zoo_config, zoo_config_file

# Limits of a config file; this package's largest has 300 values in 3 kB.
_MAX_BYTES = 2**20
_MAX_VALUES = 100_000
_MAX_FILES = 100

_HERE = os.path.dirname(os.path.abspath(__file__))
# The shipped configs: inside the package if it was installed from a wheel, beside it in a clone.
_PLACES = [os.path.join(_HERE, "configs"), os.path.join(_HERE, "../configs")]
CONFIGS = os.path.normpath(next(filter(os.path.isdir, _PLACES), ""))


def add_fpn_config(cfg: CfgNode) -> None:
    """Add this package's keys, at the paper's values, to a Detectron2 config (in place).

    A program that then merges a config of torchvision's or maskrcnn-benchmark's models by
    ``merge_from_file`` and builds it by Detectron2's ``build_model`` needs
    ``import fpn_d2.checkpoint.foreign``, which registers their components.
    """
    # The name of the bottom-up network in BACKBONE_REGISTRY; its strides must double (Sec. 3).
    cfg.MODEL.FPN.BOTTOM_UP = "build_resnet_backbone"
    # The top-down pathway (Sec. 3). False is row (d) of Tables 1 and 2.
    cfg.MODEL.FPN.TOP_DOWN = True
    # The 1x1 lateral connections (Sec. 3). False is row (e) of Tables 1 and 2.
    cfg.MODEL.FPN.LATERAL = True
    # Names of the levels that the neck returns; empty for all. ["p2"] is row (f).
    cfg.MODEL.FPN.OUT_FEATURES = []
    # Levels added after the coarsest one: "maxpool" (the paper's P6, footnote 2), "p6p7_c5" or
    # "p6p7_p5" (RetinaNet's P6 and P7, computed from C5 or from P5), or "" for none.
    cfg.MODEL.FPN.TOP_BLOCK = "maxpool"

    # Freeze the weights and the norms' statistics of the bottom-up network and the pyramid: the
    # shared layers in steps 3 and 4 of 4-step training (Sec. 5.2, Table 5).
    cfg.MODEL.FPN.FREEZE = False

    # One RPN head for all levels (Sec. 4.1). False gives every level a head of its own.
    cfg.MODEL.RPN.SHARED_HEAD = True

    # Eq. 1: a RoI of this side, in pixels of the network input, goes to this level.
    cfg.MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE = 224
    cfg.MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_LEVEL = 4
    # The RoIAlign to use: "torchvision", "gather" (fpn_d2/layers/pyramid_align.py, equal up to
    # rounding), or "auto" for the faster of the two: gather on CPUs, torchvision on GPUs.
    cfg.MODEL.ROI_BOX_HEAD.POOLER_BACKEND = "auto"
    # Columns of the classifier besides the classes and the background, such as those that
    # torchvision's models have for the ten numbers that COCO skips; they count as background.
    cfg.MODEL.ROI_BOX_HEAD.NUM_UNUSED_CLASSES = 0

    # Mask proposals (Sec. 6, Appendix A); the choices that the paper leaves open are listed in
    # modeling/mask_proposals/__init__.py.
    cfg.MODEL.MASK_PROPOSAL = CfgNode()
    cfg.MODEL.MASK_PROPOSAL.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    # The side of each MLP's input window, in cells; and, for each MLP and level, the scale of its
    # objects: max(width, height) in pixels of the network input.
    cfg.MODEL.MASK_PROPOSAL.WINDOWS = [5, 7]
    cfg.MODEL.MASK_PROPOSAL.SIZES = [
        [32.0 * 2**i for i in range(5)],
        [32.0 * 2 ** (i + 0.5) for i in range(5)],
    ]
    # A mask's region is larger than the object's scale by this share of it.
    cfg.MODEL.MASK_PROPOSAL.PADDING = 0.25
    cfg.MODEL.MASK_PROPOSAL.HIDDEN_DIM = 512
    # 28 in the row "2x mask resolution".
    cfg.MODEL.MASK_PROPOSAL.MASK_SIZE = 14
    # A place is positive if the object's centre lies within this many of its level's cells.
    cfg.MODEL.MASK_PROPOSAL.CENTER_RADIUS = 1.0
    # Objects beyond the first or the last scale belong to it. False, for a network that sees an
    # image pyramid: only objects within a quarter of an octave of a scale belong to it.
    cfg.MODEL.MASK_PROPOSAL.ASSIGN_EXTREMES = True
    cfg.MODEL.MASK_PROPOSAL.BATCH_SIZE_PER_IMAGE = 128
    cfg.MODEL.MASK_PROPOSAL.POSITIVE_FRACTION = 0.25
    cfg.MODEL.MASK_PROPOSAL.MASK_LOSS_WEIGHT = 10.0
    cfg.MODEL.MASK_PROPOSAL.TOPK_TEST = 1000
    cfg.MODEL.MASK_PROPOSAL.MASK_THRESHOLD = 0.2
    # The baseline's image pyramid: factors that resize the network input. [1.0] is Sec. 6.
    cfg.MODEL.MASK_PROPOSAL.TEST_SCALES = [1.0]
    # Instead of using INPUT.MIN_SIZE_TRAIN, resize every training image so that one of its objects,
    # drawn anew each time, has this scale in pixels (times 2^-0.25 to 2^0.25); 0 is off. DeepMask's
    # crops show their object at one scale, and so do the baseline's images.
    cfg.INPUT.OBJECT_SCALE_TRAIN = 0.0

    # Random augmentations of training images, by Detectron2's names and with their numbers, such as
    # [["RandomBrightness", 0.8, 1.2], ["RandomApply", 0.5, "RandomRotation", -10, 10]]; applied in
    # this order, after INPUT.CROP and before the resize. fpn_d2/utils/augmentations.py lists all.
    cfg.INPUT.AUGMENTATIONS = []

    # True: train_net.py sets NUM_CLASSES of the RoI heads and of RetinaNet to the number of classes
    # of DATASETS.TRAIN, and writes it into the run's config.yaml.
    cfg.MODEL.NUM_CLASSES_FROM_DATA = False

    # How to resize test images: "detectron2" (by Pillow, to integers from 0 to 255, smoothed when
    # shrinking) or "torchvision" (as torchvision's detectors do).
    cfg.INPUT.RESIZE_TEST = "detectron2"

    # Two keys that Detectron2's samplers read and its defaults lack: the share of the images that
    # RandomSubsetTrainingSampler draws from, and how often the weighted samplers repeat the images
    # of a data set, as in [("shapes_train", 2.0)].
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 1.0
    cfg.DATASETS.TRAIN_REPEAT_FACTOR = []

    # Training skips images that cannot be read or whose size differs from the annotation file's,
    # and names them in the log. It stops once it has skipped more than one image and more than this
    # share of the training images. Each process of a training counts those that it met itself.
    cfg.DATALOADER.MAX_SKIPPED_SHARE = 0.01

    # Evaluate a prepared copy of the model (fpn_d2/inference/prepared.py): batch norms folded,
    # channels-last; the same detections up to rounding. ENGINE computes the dense parts: "torch",
    # "openvino", or "auto" for OpenVINO where it gains. PRECISION: "float32", "bfloat16", on CUDA
    # "float16", or with OpenVINO "int8", whose ranges are taken from CALIBRATION_IMAGES images of
    # DATASETS.TRAIN. COMPILE: use torch.compile, which pays off from hundreds of images on.
    cfg.INFERENCE = CfgNode()
    cfg.INFERENCE.PREPARE = True
    cfg.INFERENCE.ENGINE = "torch"
    cfg.INFERENCE.PRECISION = "float32"
    cfg.INFERENCE.CALIBRATION_IMAGES = 64
    cfg.INFERENCE.COMPILE = False

    # Train with the backbone compiled by torch.compile (fpn_d2/inference/prepared.py).
    cfg.SOLVER.COMPILE = False

    # docs/training.md. Keep model_best.pth by this metric, such as "bbox/AP" or "validation_loss";
    # end the training after this many evaluations in a row without a new best; measure the losses
    # on DATASETS.TEST at each evaluation.
    cfg.TEST.BEST_METRIC = ""
    cfg.TEST.PATIENCE = 0
    cfg.TEST.VALIDATION_LOSS = False
    # Evaluate and save weights averaged over the steps with this decay, such as 0.999; 0.0 is off.
    cfg.SOLVER.EMA_DECAY = 0.0
    # The optimizer steps once in this many iterations, by the mean of their gradients.
    cfg.SOLVER.ACCUMULATE = 1

    # A training without --resume refuses an OUTPUT_DIR with checkpoints; if True, it deletes them.
    cfg.OVERWRITE_OUTPUT_DIR = False

    # 4-step training (Sec. 5.2, Table 5): paths of the configs of its RPN steps and of its Fast
    # R-CNN steps, relative to the trained config; "" for a config that is trained in one go.
    cfg.FOUR_STEP = CfgNode()
    cfg.FOUR_STEP.RPN = ""
    cfg.FOUR_STEP.FAST_RCNN = ""
    # False ends after step 2, with two networks: "not shared".
    cfg.FOUR_STEP.SHARED = True

    # RegNet as a bottom-up network: the parameters of "Designing Network Design Spaces" (defaults:
    # RegNetX-400MF). Detectron2 has the network, but cannot build it from a YAML file.
    cfg.MODEL.REGNETS = CfgNode()
    cfg.MODEL.REGNETS.OUT_FEATURES = ["s1", "s2", "s3", "s4"]
    cfg.MODEL.REGNETS.DEPTH = 22
    cfg.MODEL.REGNETS.W_A = 24.48
    cfg.MODEL.REGNETS.W_0 = 24
    cfg.MODEL.REGNETS.W_M = 2.54
    cfg.MODEL.REGNETS.GROUP_WIDTH = 16
    cfg.MODEL.REGNETS.SE_RATIO = 0.0
    cfg.MODEL.REGNETS.NORM = "FrozenBN"


def load_config(path: str | os.PathLike = "", opts: Sequence[str] = ()) -> CfgNode:
    """Read a config file and overrides into a frozen, checked config.

    ``OUTPUT_DIR`` is ``output/<path below configs/, without .yaml>`` unless the file or the
    overrides name one. So every row of a table keeps its results, and the proposals that other
    rows read, in its own folder.

    Args:
        path: the YAML file; a name by which :func:`find_config` finds one; or the name of a config
            in Detectron2's model zoo, such as ``COCO-Detection/faster_rcnn_R_50_FPN_3x``; empty
            for the defaults alone.
        opts: ``["KEY", "value", ...]`` overrides, as on the command line.

    Returns:
        the merged config, frozen.

    Raises:
        UserError: if a file cannot be read, a key does not exist, a value has the wrong type or a
            combination of values cannot work.
    """
    path, opts = find_config(path), list(opts)
    cfg = get_cfg()
    add_fpn_config(cfg)
    # Detectron2's default, cuda, is wrong on machines without a GPU; a file may still set it.
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    if path:
        cfg.OUTPUT_DIR = _default_output_dir(path)
        cfg = _merged_with_file(cfg, path)
    _merge_opts(cfg, opts)
    _check_given(cfg)
    cfg.OUTPUT_DIR = os.path.expanduser(cfg.OUTPUT_DIR)
    cfg.MODEL.WEIGHTS = os.path.expanduser(cfg.MODEL.WEIGHTS)
    if cfg.MODEL.ROI_BOX_HEAD.NUM_UNUSED_CLASSES > 0:
        heads = with_new_names({_ROI_HEADS: cfg.MODEL.ROI_HEADS.NAME}, unused_classes=True)
        cfg.MODEL.ROI_HEADS.NAME = heads[_ROI_HEADS]
    import_foreign(cfg)
    check_config(cfg)
    cfg.freeze()
    return cfg


def find_config(path: str | os.PathLike) -> str:
    """Find a config file by its path or, also outside a clone, by the path of a shipped config.

    Args:
        path: such as ``configs/quick/demo.yaml`` or ``quick/demo``. An existing path stays as is.

    Returns:
        the path of the file; a path that names none, such as a model zoo name, unchanged.
    """
    path = os.fspath(path)
    parts = PurePath(path).parts
    if os.path.isfile(path) or os.path.isabs(path) or ".." in parts:
        return path
    shipped = os.path.join(CONFIGS, *parts[parts[:1] == ("configs",) :])
    return next(filter(os.path.isfile, [shipped, f"{shipped}.yaml"]), path)


def config_file(name: str) -> str:
    """Return the path of the file that :func:`load_config` reads for a name, also of the zoo."""
    return zoo_config_file(name) or find_config(name)


def changed(cfg: CfgNode, values: Mapping[str, Any]) -> CfgNode:
    """Copy a config and change values in the copy, which is frozen if the config is.

    Args:
        cfg: the config; it stays as it is.
        values: ``{"MODEL.DEVICE": "cpu", ...}``; every key must exist.

    Returns:
        the copy.
    """
    copy = cfg.clone()
    copy.defrost()
    for key, value in values.items():
        *sections, name = key.split(".")
        node = functools.reduce(operator.getitem, sections, copy)
        assert name in node, key
        node[name] = value
    if cfg.is_frozen():
        copy.freeze()
    return copy


def flat(node: CfgNode, prefix: str = "") -> dict[str, Any]:
    """Flatten a config to ``{"MODEL.DEVICE": "cpu", ...}``, without its sections."""
    values: dict[str, Any] = {}
    for key, value in node.items():
        inner = isinstance(value, CfgNode)
        values |= flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return values


_RPN, _RPN_HEAD, _ROI_HEADS = (
    "MODEL.PROPOSAL_GENERATOR.NAME",
    "MODEL.RPN.HEAD_NAME",
    "MODEL.ROI_HEADS.NAME",
)
# Components: from their names in version 0.1, which still work, to their current names.
_NEW_NAMES = {
    _RPN: {"FPNRPN": "LeanRPN"},
    _RPN_HEAD: {"FPNRPNHead": "build_level_rpn_head"},
    _ROI_HEADS: {"FPNROIHeads": "LevelROIHeads"},
}
# Detectron2's components that compute the same as this package's.
_STOCK = {
    _RPN: {"LeanRPN": "RPN"},
    _RPN_HEAD: {"build_level_rpn_head": "StandardRPNHead"},
    _ROI_HEADS: {
        "LevelROIHeads": "StandardROIHeads",
        "TorchvisionROIHeads": "StandardROIHeads",
        "C4ROIHeads": "Res5ROIHeads",
    },
}


def with_new_names(settings: Mapping[str, str], unused_classes: bool) -> dict[str, str]:
    """Return settings with component names of version 0.1 replaced by the current ones.

    Args:
        settings: values by key, such as ``MODEL.ROI_HEADS.NAME``; those of other keys stay.
        unused_classes: whether ``NUM_UNUSED_CLASSES`` is set, which version 0.1's own RoI heads
            handled and ``TorchvisionROIHeads`` handles now.
    """
    now = dict(settings)
    for key in _NEW_NAMES.keys() & settings.keys():
        now[key] = _NEW_NAMES[key].get(settings[key], settings[key])
    if unused_classes and now.get(_ROI_HEADS) == "LevelROIHeads":
        now[_ROI_HEADS] = "TorchvisionROIHeads"
    return now


def stock_config(cfg: CfgNode) -> CfgNode:
    """Return a config of the same model that names Detectron2's own components.

    Where Detectron2 has no such component (a neck without a top-down pathway, say, or an RPN head
    for each level), this package's name stays.

    Args:
        cfg: a config from :func:`load_config`; it stays as it is.
    """
    model, fpn = cfg.MODEL, cfg.MODEL.FPN
    names = {key: value_of(cfg, key) for key in _STOCK}
    now = with_new_names(names, unused_classes=False)
    values = {key: stock.get(now[key], names[key]) for key, stock in _STOCK.items()}
    if not model.RPN.SHARED_HEAD:  # Detectron2 has no head for each level
        del values[_RPN_HEAD]
    retinanet = model.META_ARCHITECTURE == "RetinaNet"
    neck = [model.BACKBONE.NAME, fpn.BOTTOM_UP, fpn.TOP_DOWN, fpn.LATERAL, fpn.FREEZE]
    neck += [list(fpn.OUT_FEATURES), fpn.TOP_BLOCK]
    stock = ["build_fpn_backbone", "build_resnet_backbone", True, True, False]
    if neck == [*stock, [], "p6p7_c5" if retinanet else "maxpool"]:
        name = f"build_{'retinanet_' if retinanet else ''}resnet_fpn_backbone"
        values["MODEL.BACKBONE.NAME"] = name
    return changed(cfg, values)


def _default_output_dir(path: str) -> str:
    file = PurePath(os.path.abspath(path)).with_suffix("")
    _, configs, below = file.as_posix().rpartition("/configs/")
    return os.path.join("output", below if configs else file.name)


# --- a file and the files of its _BASE_


def _merged_with_file(cfg: CfgNode, path: str) -> CfgNode:
    """Return ``cfg`` merged with a file, with Detectron2's errors turned into sentences."""
    if path.endswith(".py"):
        raise UserError(
            f"config file {path} is a LazyConfig, which is not read here; name a .yaml, such as "
            "one of configs/quick/"
        )
    if not os.path.isfile(path):
        zoo = zoo_config(path)
        if zoo is not None:
            zoo.MODEL.DEVICE, zoo.OUTPUT_DIR = cfg.MODEL.DEVICE, cfg.OUTPUT_DIR
            cfg.merge_from_other_cfg(zoo)
            return cfg
        what = "is a folder" if os.path.isdir(path) else "does not exist"
        close = close_zoo_names(path)
        hint = f"did you mean {' or '.join(close)} of the model zoo? Otherwise " if close else ""
        remedy = "name one, such as a .yaml of configs/quick/"
        raise UserError(f"config file {path} {what}; {hint}{remedy}")
    files_read = 0

    class CheckedFiles(CfgNode):
        @classmethod
        def _open_cfg(cls, filename: str) -> IO[str]:
            """Override Detectron2's hook that opens a file and each file of its ``_BASE_``."""
            nonlocal files_read
            files_read += 1
            if files_read > _MAX_FILES:  # a cycle, or a file that names another one many times
                raise RecursionError
            return _checked_stream(filename)

        @classmethod
        def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> Any:
            content = super().load_yaml_with_base(filename, allow_unsafe)
            _check_sections(cfg, content, filename)
            return content

    merged = CheckedFiles(cfg)
    try:
        merged.merge_from_file(path, allow_unsafe=False)
    except UserError:
        raise
    except RecursionError as error:
        raise UserError(
            f"{path}: its _BASE_ leads back to itself, or it is nested too deep; take that out"
        ) from error
    except (yaml.YAMLError, OSError, UnicodeDecodeError, MemoryError) as error:
        raise UserError(_broken_file(path, error)) from error
    except (AssertionError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: {_explain(cfg, error)}") from error
    return CfgNode(merged)


def _check_sections(cfg: CfgNode, content: object, path: str, prefix: str = "") -> None:
    """Refuse a file, or a section of it, that is not made of keys."""
    if not isinstance(content, dict):
        what = f"{prefix[:-1]} is a section, so it" if prefix else "it"
        raise UserError(f"{path}: {what} must hold lines of the form KEY: value")
    for key, value in content.items():
        if isinstance(cfg.get(key), CfgNode):
            _check_sections(cfg[key], value, path, f"{prefix}{key}.")


def _checked_stream(path: str) -> IO[str]:
    """Read a config file; refuse one that is too large or whose aliases unfold to too much."""
    local = PathManager.get_local_path(path)
    if os.path.exists(local) and not stat.S_ISREG(os.stat(local).st_mode):
        raise UserError(f"config file {path} is no file; name one")
    with open(local, encoding="utf-8") as file:
        text = file.read(_MAX_BYTES + 1)
    if len(text) > _MAX_BYTES:
        raise UserError(f"config file {path} is larger than 1 MB, which no config is; name another")
    stream = io.StringIO(text)
    stream.name = path  # for yaml's messages
    keys = re.findall(r"(?<![\w.])([\w.]+)[\"']?\s*:", text)  # each word is tried once
    # An alias, of three characters, may stand for everything before it.
    if "*" in text or len(set(keys)) < len(keys):
        node = yaml.compose(stream, Loader=yaml.SafeLoader)
        if node is not None and _unfolded_size(node, {}) > _MAX_VALUES:
            raise UserError(
                f"config file {path} would unfold to more than {_MAX_VALUES} values by its "
                "aliases; write the values themselves"
            )
        _check_repeats(node)
        stream.seek(0)
    return stream


def _check_repeats(node: yaml.Node | None, section: str = "") -> None:
    """Refuse a key that occurs twice: YAML would take only the last one, with all below it."""
    seen: set[str] = set()
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        name = f"{section}{key.value}"
        if name in seen:
            mark = key.start_mark
            raise UserError(
                f"{mark.name} line {mark.line + 1}: {name} is there twice, and only the last would "
                "count; put both into one"
            )
        seen.add(name)
        _check_repeats(value, f"{name}.")


def _unfolded_size(node: yaml.Node, sizes: dict[int, float]) -> float:
    """Count the values below a node; those of an alias count each time that it is named."""
    if id(node) not in sizes:
        sizes[id(node)] = float("inf")  # for a node that contains itself
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        sizes[id(node)] = 1 + sum(_unfolded_size(child, sizes) for child in children)
    return sizes[id(node)]


def _broken_file(path: str, error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"{mark.name} line {mark.line + 1}" if mark else path
    if isinstance(error, yaml.constructor.ConstructorError):
        return f"{where}: {error.problem}; tags that run code are refused, write the value itself"
    if isinstance(error, FileNotFoundError):
        return f"{path}: its _BASE_ {error.filename} does not exist; correct the path, or remove it"
    problem = reason_of(getattr(error, "problem", None) or error)
    return f"{where} is not a readable YAML file ({problem}); correct it there"


# --- overrides, and what cannot be merged


def _check_given(cfg: CfgNode) -> None:
    """Refuse keys without a value, which yacs merges into a key of any type."""
    for key, value in flat(cfg).items():
        if value is None and key != "SOLVER.WEIGHT_DECAY_BIAS":  # None by default
            raise UserError(f"{key} has no value; give it one, or take it out")


def _merge_opts(cfg: CfgNode, opts: list[str]) -> None:
    if len(opts) % 2:
        words = [str(word) for word in opts]
        for word in words:
            if word.startswith("--"):  # --eval-only and --resume have no value
                raise UserError(_unknown_key(cfg, word))
        raise UserError(
            f"overrides come in pairs of KEY and value, but {len(opts)} words were given "
            f"({' '.join(words)}); give each KEY its value"
        )
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        below = next((name for name in flat(cfg) if name.startswith(f"{key}.")), None)
        if below:  # yacs would put a dict in the place of the whole section
            raise UserError(f"override {key}: it is a section; give its keys, such as {below}")
        try:
            cfg.merge_from_list([key, value])
        except (AssertionError, KeyError, ValueError, TypeError, AttributeError) as error:
            known = key in flat(cfg)
            reason = _explain(cfg, error) if known else _unknown_key(cfg, str(key))
            raise UserError(f"override {key} {value}: {reason}") from error


def _explain(cfg: CfgNode, error: Exception) -> str:
    """Explain in one sentence an error that yacs raised while it merged."""
    text = str(error.args[0]) if error.args else str(error)
    if isinstance(error, (TypeError, AttributeError)):
        return "it, or a file of its _BASE_, is not made of KEY: value lines; write it as such"
    unknown = re.match(r"Non-existent (?:config )?key: (\S+)", text)
    if unknown:
        return _unknown_key(cfg, unknown.group(1))
    mismatch = re.search(
        r"Type mismatch \(<class '(.+?)'> vs\. <class '(.+?)'>\) with values "
        r"\((.*) vs\. (.*)\) for config key: (\S+)",
        text,
        re.DOTALL,
    )
    if mismatch:
        wanted, found, example, value, key = mismatch.groups()
        found = found.rpartition(".")[2].replace("CheckedFiles", "section")
        return f"{key} is {value}, a {found}; give it a {wanted}, such as {example}"[:400]
    text = " ".join(text.split())
    return text if len(text) <= 300 else f"{text[:200]} ... {text[-90:]}"


def _unknown_key(cfg: CfgNode, key: str) -> str:
    if key.startswith("-"):
        return f"{key} is no config key; give flags before the overrides"
    if "EPOCH" in key.upper():
        return (
            f"there is no config key {key}; set SOLVER.MAX_ITER to epochs x images / "
            "SOLVER.IMS_PER_BATCH, or give train_net.py --epochs before the overrides"
        )
    close = difflib.get_close_matches(key, list(flat(cfg)), n=1, cutoff=0.6)
    hint = f"did you mean {close[0]}?" if close else "take it out, or correct it"
    return f"there is no config key {key}; {hint}"
