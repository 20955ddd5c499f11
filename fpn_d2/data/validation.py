"""What is wrong with a data set in COCO's format: one table of rules, and all who ask.

A rule finds the entries of an annotation file at fault, says what is wrong and how to mend it, and
names the runs that it *stops*. Three readers ask: ``tools/check_dataset.py`` lists all findings,
the loaders refuse a data set with findings that stop their run before it starts, and where
Detectron2's loader fails all the same, the first error says why.
"""

import collections
import dataclasses
import functools
import itertools
import logging
import os
import reprlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from tqdm import tqdm

from ..utils.errors import UserError
from .annotation_file import (
    AnnotationFile,
    Entries,
    file_name,
    image_size,
    is_number,
    read_annotations,
    repeated,
)
from .datasets.folders import is_local, missing_remedy
from .images import image_faults

__all__ = [
    "ERROR",
    "WARNING",
    "Finding",
    "Report",
    "annotation_findings",
    "check_annotation_files",
    "check_dataset",
    "check_file",
    "check_records",
    "explain_failure",
    "judged_file",
    "tell_warnings",
]

logger = logging.getLogger(__name__)

ERROR, WARNING = "error", "warning"
TRAINING, EVALUATION, MASKS = "training", "evaluation", "masks"
_ANY_RUN = (TRAINING, EVALUATION)

# Boxes are often rounded outwards.
_PIXELS_OUTSIDE = 1.0
# From so many boxes on it is no chance that all of them make sense as corners.
_ENOUGH_BOXES = 10


@dataclasses.dataclass(frozen=True)
class Finding:
    """One fault of a data set.

    Args:
        severity: ``"error"`` stops a run or makes its results wrong; ``"warning"`` is of what is
            left out or clipped, and of what only some runs need.
        image: the image's ``file_name``; None where the fault is not one image's.
        annotation: the annotation's id; None where the fault is not one annotation's, or it has no
            such id.
        sentence: what is wrong, and how to mend it.
        stops: the runs that cannot be: ``"training"``, ``"evaluation"``, ``"masks"`` (a run of
            either kind of a model of masks).
    """

    severity: str
    image: str | None
    annotation: int | None
    sentence: str
    stops: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Rule:
    """What to look for in the entries of one list.

    Args:
        at_fault: makes (E,) bool of a file and one of its lists.
        sentence: what follows the entry's name; ``{key}`` is the value that the entry has for a
            key, or one of :class:`_Shown`.
        stops, severity: see :class:`Finding`.
        each: whether each entry gets a finding; else there is one for all, and its sentence is
            whole, with ``{count}`` and ``{first}``.
    """

    at_fault: Callable[[AnnotationFile, Entries], np.ndarray]
    sentence: str
    stops: tuple[str, ...] = ()
    severity: str = ERROR
    each: bool = True


def _each(is_at_fault: Callable[[Any], bool], values: Iterable[Any]) -> np.ndarray:
    return np.array([is_at_fault(value) for value in values], dtype=bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _has_two_kinds_of_ids(file: AnnotationFile, entries: Entries) -> np.ndarray:
    return np.full(len(entries), len({type(number) for number in entries.ids} - {type(None)}) > 1)


_MIXED_IDS = _Rule(
    _has_two_kinds_of_ids,
    "the ids of {list} are partly numbers and partly texts: give all of them numbers",
    _ANY_RUN,
    each=False,
)
_ID_RULES = (
    _Rule(
        lambda f, e: _each(lambda number: number is None, e.ids),
        "has the id {id}: give a whole number",
        _ANY_RUN,
    ),
    _Rule(
        lambda f, e: _each(_is_text, e.ids),
        "has the id {id}: COCO's format has whole numbers",
        severity=WARNING,
    ),
    _Rule(
        lambda f, e: e.repeated,
        "repeats the id {id} of another: give each its own, and their annotations that",
        _ANY_RUN,
    ),
    _MIXED_IDS,
)

_CATEGORY_RULES = (
    *_ID_RULES,
    _Rule(
        lambda f, e: ~_each(_is_text, e.column("name")),
        "has the name {name}: give it one, a text",
        _ANY_RUN,
    ),
    _Rule(
        lambda f, e: repeated([name if _is_text(name) else None for name in e.column("name")]),
        "repeats the name {name}: give each class its own",
        severity=WARNING,
    ),
)

_SIZE_RULES = tuple(
    _Rule(
        lambda f, e, side=side: f.unsized[:, side],
        f"has the {key} {{{key}}}: give it in pixels, a whole number",
        _ANY_RUN,
    )
    for side, key in enumerate(("width", "height"))
)

_IMAGE_RULES = (
    *_ID_RULES,
    _Rule(
        lambda f, e: _each(lambda name: name is None, f.names),
        "has the file_name {file_name}: give its path, a text",
        _ANY_RUN,
    ),
    _Rule(
        lambda f, e: repeated(f.names),
        "repeats the file_name of another: leave the image one entry, and give all its annotations "
        "the image_id of that",
        severity=WARNING,
    ),
    *_SIZE_RULES,
)


def _is_outside(file: AnnotationFile, _: Entries) -> np.ndarray:
    """Boxes without negative sides of which nothing is on the image."""
    (left, top, width, height), (columns, rows) = file.boxes.T, file.size_of_image.T
    before = ((width > 0) & (left + width <= 0)) | ((height > 0) & (top + height <= 0))
    return (width >= 0) & (height >= 0) & (before | (left >= columns) | (top >= rows))


def _are_shares(file: AnnotationFile, _: Entries) -> np.ndarray:
    """Whether all boxes of a file lie within the first pixel of images that have more."""
    boxes, corners = file.boxes, file.boxes[:, :2] + file.boxes[:, 2:]
    shares = (boxes >= 0).all() and (corners <= 1.001).all() and (boxes[:, 2:] > 0).any()
    return np.full(len(boxes), shares and np.nanmin(file.sizes, initial=np.inf) > 2)


def _are_corners(file: AnnotationFile, _: Entries) -> np.ndarray:
    """Whether the four numbers of all boxes of a file must be two corners."""
    first, second = file.boxes[:, :2], file.boxes[:, 2:]
    corners = ((second > first) & (second <= file.size_of_image + _PIXELS_OUTSIDE)).all()
    many = len(first) >= _ENOUGH_BOXES and (file.beyond > _PIXELS_OUTSIDE).mean() > 0.5
    return np.full(len(first), corners and many)


_FOUR_NUMBERS = _Rule(
    lambda f, e: np.isnan(f.boxes[:, 0]),
    "has the bbox {bbox}: give four finite numbers, left, top, width and height in pixels",
    _ANY_RUN,
)
_BOX_RULES = (
    _FOUR_NUMBERS,
    _Rule(
        lambda f, e: (f.boxes[:, 2:] < 0).any(axis=1),
        "has the bbox {bbox} of a negative side: give left, top, width and height in pixels",
        _ANY_RUN,
    ),
    _Rule(
        lambda f, e: (f.boxes[:, 2:] >= 0).all(axis=1) & (f.boxes[:, 2:] == 0).any(axis=1),
        "has the bbox {bbox} without area, which training leaves out and evaluation counts as "
        "missed: correct it",
        severity=WARNING,
    ),
    _Rule(_is_outside, "has the bbox {bbox} outside the image of {size} pixels: correct it"),
    _Rule(
        lambda f, e: (f.beyond > _PIXELS_OUTSIDE) & ~_is_outside(f, e),
        "has the bbox {bbox}, {beyond} pixels beyond the image of {size}: training clips it, "
        "evaluation does not",
        severity=WARNING,
    ),
    _Rule(
        _are_shares,
        "all {count} boxes lie between 0 and 1, like shares of their images: give left, top, width "
        "and height in pixels",
        _ANY_RUN,
        each=False,
    ),
    _Rule(
        _are_corners,
        "all {count} boxes could be left, top, right and bottom, and as left, top, width and "
        "height most go beyond their images: give these, in pixels",
        _ANY_RUN,
        each=False,
    ),
)


def _is_area_of_another_box(file: AnnotationFile, _: Entries) -> np.ndarray:
    """Areas that no mask in the box can have, or hardly one."""
    width, height = file.boxes[:, 2], file.boxes[:, 3]
    too_large = file.areas > 2 * (width + 1) * (height + 1)
    far = too_large | (file.areas < width * height / 1000)
    return far & (file.areas >= 0) & (width > 0) & (height > 0)


_AREA_RULES = (
    _Rule(
        lambda f, e: ~e.lacks("area") & ~(f.areas >= 0),
        "has the area {area}: give it in square pixels, from 0 on",
        (EVALUATION,),
    ),
    _Rule(
        _is_area_of_another_box,
        "has the area {area}, which does not belong to the bbox {bbox}: give it in square pixels, "
        "since evaluation tells small objects from large ones by it",
        severity=WARNING,
    ),
)

_MASK_RULES = (
    _Rule(
        lambda f, e: _each(f.mask_faults.__contains__, range(len(e))),
        "has a broken mask (its segmentation {mask_fault}): correct it",
        (MASKS,),
    ),
    _Rule(
        lambda f, e: _each(f.short_polygons.__contains__, range(len(e))),
        "has {short} polygon(s) of fewer than three points: Detectron2 leaves {lost} out",
        severity=WARNING,
    ),
    _Rule(
        lambda f, e: f.has_mask.any() & ~f.has_mask & ~f.crowds,
        "has no segmentation, as others have: add one, or train a model of boxes",
        (MASKS,),
        WARNING,
    ),
)


def _is_no_list_of_numbers(points: Any) -> bool:
    return bool(points) and not (isinstance(points, list) and all(map(is_number, points)))


_ANNOTATION_RULES = (
    _Rule(
        # COCO's evaluation counts an object of id 0 as missed although it was found.
        lambda f, e: ~_each(lambda number: isinstance(number, int) and number > 0, e.ids),
        "has the id {id}: give a whole number from 1 on",
        (EVALUATION,),
    ),
    _Rule(
        # Detectron2 knows that COCO's own minival files repeat ids, and lets them.
        lambda f, e: e.repeated & ("minival" not in f.path),
        "repeats the id {id} of another: number them anew",
        _ANY_RUN,
    ),
    _Rule(
        lambda f, e: f.of_image < 0,
        "has the image_id {image_id}, which is not in images: correct it or add it there",
    ),
    _Rule(
        lambda f, e: f.of_category < 0,
        "has the category_id {category_id}, which is not in categories: correct it or add it there",
        _ANY_RUN,
    ),
    _Rule(
        lambda f, e: ~e.lacks("ignore") & _each(lambda value: value != 0, e.column("ignore")),
        "has 'ignore', which Detectron2 does not take: use 'iscrowd'",
        _ANY_RUN,
    ),
    _Rule(
        lambda f, e: ~e.lacks("iscrowd") & _each(lambda v: v not in (0, 1), e.column("iscrowd")),
        "has the iscrowd {iscrowd}: give 0 or 1",
        (EVALUATION,),
    ),
    *_BOX_RULES,
    *_AREA_RULES,
    *_MASK_RULES,
    _Rule(
        lambda f, e: _each(_is_no_list_of_numbers, e.column("keypoints")),
        "has keypoints that are no list of finite numbers: correct them",
    ),
    *(
        _Rule(
            lambda f, e, key=key: e.lacks(key),
            f"{{count}} annotations have no {key} (the first is {{first}}), without which COCO's "
            "evaluation stops: add it, unless you only train on the file",
            (EVALUATION,),
            WARNING,
            each=False,
        )
        for key in ("area", "iscrowd")
    ),
)


class _Shown:
    """What the fields of a rule's sentence stand for: the entry's values in short, and more."""

    def __init__(self, file: AnnotationFile, entries: Entries, index: int, **more: Any):
        self._entry = entries.entries[index]
        self._more = {"list": entries.name, **more}
        if entries is file.annotations:
            width, height = file.size_of_image[index]
            self._more |= {
                "size": f"{width:.0f} x {height:.0f}",
                "beyond": f"{file.beyond[index]:g}",
                "mask_fault": file.mask_faults.get(index),
                "short": file.short_polygons.get(index),
                "lost": "the object" if file.left_out[index] else "them",
            }

    def __getitem__(self, key: str) -> Any:
        return self._more[key] if key in self._more else reprlib.repr(self._entry.get(key))


def _findings_of(
    file: AnnotationFile, entries: Entries, rules: Sequence[_Rule]
) -> Iterator[tuple[_Rule, Finding]]:
    """What rules find in one list, entry by entry, and then what is of all of them."""
    found = {rule: np.flatnonzero(rule.at_fault(file, entries)).tolist() for rule in rules}
    of_each = [(i, rule) for rule, indices in found.items() if rule.each for i in indices]
    for index, rule in sorted(of_each, key=lambda pair: pair[0]):
        image = number = None
        if entries is file.images:
            image = file.names[index]
        elif entries is file.annotations:
            image, number = file.name_of_image(index), entries.ids[index]
        sentence = rule.sentence.format_map(_Shown(file, entries, index))
        sentence = f"{_which(file, entries, index)} {sentence}"
        number = number if isinstance(number, int) else None
        yield rule, Finding(rule.severity, image, number, sentence, rule.stops)
    for rule, indices in found.items():
        if indices and not rule.each:
            first = _which(file, entries, indices[0])
            shown = _Shown(file, entries, indices[0], count=len(indices), first=first)
            sentence = rule.sentence.format_map(shown)
            yield rule, Finding(rule.severity, None, None, sentence, rule.stops)


def _which(file: AnnotationFile, entries: Entries, index: int) -> str:
    if entries is file.annotations and isinstance(entries.ids[index], int):
        return f"annotation {entries.ids[index]}"
    return f"entry {entries.positions[index]} of {entries.name}"


def _file_findings(
    content: Any, file: AnnotationFile | None
) -> Iterator[tuple[_Rule | None, Finding]]:
    """What is wrong with a parsed file, list by list, and the rules that say so."""

    def fault(sentence: str) -> tuple[None, Finding]:
        return None, Finding(ERROR, None, None, sentence, _ANY_RUN)

    if file is None:
        yield fault("the file's top level is no object: give it the lists images, annotations, ...")
        return
    for key, rules in (
        ("categories", _CATEGORY_RULES),
        ("images", _IMAGE_RULES),
        ("annotations", _ANNOTATION_RULES),
    ):
        entries = getattr(file, key)
        if key in file.missing:
            yield fault(f"there is no list named {key}, so this is not in COCO format: add it")
        elif not content.get(key) and key != "annotations":
            yield fault(f"the list named {key} is empty: fill it")
        for position in entries.strays:
            yield fault(
                f"entry {position} of {key} is no object: give it the keys of COCO's format"
            )
        yield from _findings_of(file, entries, rules)


def _annotation_file(content: Any, path: str) -> AnnotationFile | None:
    return AnnotationFile(content, path) if isinstance(content, dict) else None


def annotation_findings(content: Any, path: str = "") -> list[Finding]:
    """Find all faults that show without the image files.

    Args:
        content: a parsed JSON file, of any kind.
        path: the file.

    Returns:
        the faults of the categories, the images and the annotations, each in the order of the file.
    """
    found = _file_findings(content, _annotation_file(content, path))
    return [finding for _, finding in found]


# The first reader: tools/check_dataset.py.


@dataclasses.dataclass(frozen=True)
class Report:
    """What the check of one data set found.

    Args:
        annotation_file, image_folder: what was read.
        images, annotations: how many entries the file has.
        findings: the faults, those of the file first and the others by image.
    """

    annotation_file: str
    image_folder: str
    images: int
    annotations: int
    findings: list[Finding]

    def count(self, severity: str) -> int:
        """How many findings have this severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """All of it, as ``tools/check_dataset.py --json`` prints it."""
        counts = {"errors": self.count(ERROR), "warnings": self.count(WARNING)}
        return {**dataclasses.asdict(self), **counts}

    def as_text(self) -> str:
        """The findings under the images that they are of, and a line that counts them."""
        lines = []
        of_image = itertools.groupby(self.findings, key=lambda finding: finding.image)
        for image, findings in of_image:
            lines.append(self.annotation_file if image is None else image)
            lines += [f"  {finding.severity}: {finding.sentence}" for finding in findings]
        lines.append(
            f"{self.images} images and {self.annotations} annotations: {self.count(ERROR)} errors, "
            f"{self.count(WARNING)} warnings"
        )
        return "\n".join(lines)


def check_file(path: str, image_folder: str, workers: int | None = None) -> Report:
    """Check an annotation file in COCO's format and the images that it names.

    Args:
        path: the annotation file.
        image_folder: the folder that the file names of its images begin in.
        workers: the number of processes that read images; None is one for each CPU.

    Returns:
        what was found; that a file is not JSON is a finding too.

    Raises:
        UserError: where there is no such file or folder, or workers is below 1.
    """
    if not os.path.isfile(path):
        raise UserError(f"annotation file {path} does not exist: correct its path")
    content, sentence = read_annotations(path)
    if sentence is not None:
        return Report(path, image_folder, 0, 0, [Finding(ERROR, None, None, sentence, _ANY_RUN)])
    findings = check_dataset(content, image_folder, workers, path)
    lists = content if isinstance(content, dict) else {}
    counts = [
        len(entries) if isinstance(entries := lists.get(key), list) else 0
        for key in ("images", "annotations")
    ]
    return Report(path, image_folder, *counts, findings)


def check_dataset(
    content: Any, image_folder: str, workers: int | None = None, path: str = ""
) -> list[Finding]:
    """Check the content of an annotation file, of whatever kind, and the images that it names.

    Args:
        content: a parsed JSON file.
        image_folder: the folder that the file names of its images begin in.
        workers: the number of processes that read images; None is one for each CPU.
        path: the annotation file.

    Returns:
        the findings, those of no single image first and the others by image.

    Raises:
        UserError: where there is no such folder, or workers is below 1.
    """
    if workers is not None and workers < 1:
        raise UserError(f"--workers is {workers}: give 1 or more")
    if not os.path.isdir(image_folder):
        raise UserError(f"image folder {image_folder} does not exist: name it with --images")
    by_image: dict[str | None, list[Finding]] = collections.defaultdict(list)
    file = _annotation_file(content, path)
    found = (finding for _, finding in _file_findings(content, file))
    for finding in itertools.chain(found, _image_findings(file, image_folder, workers)):
        by_image[finding.image].append(finding)
    of_file = by_image.pop(None, [])
    return of_file + list(itertools.chain.from_iterable(by_image.values()))


def _image_findings(
    file: AnnotationFile | None, folder: str, workers: int | None
) -> Iterator[Finding]:
    """The faults of the image files; each file is read once for each size that is said of it."""
    images = file.images.entries if file is not None else []
    named = ((file_name(image), image_size(image) or (None, None)) for image in images)
    wanted = list(dict.fromkeys((name, *size) for name, size in named if name is not None))
    faults = image_faults([(os.path.join(folder, name), *size) for name, *size in wanted], workers)
    bar = tqdm(wanted, desc="images", unit="image", disable=None)
    for (name, *_), fault in zip(bar, faults, strict=True):
        if fault is not None:
            text = f"image {name} {fault}: replace it, or correct the annotation file"
            yield Finding(ERROR, name, None, text)


# The second reader: the loaders, before Detectron2's reads the file.


@dataclasses.dataclass(frozen=True)
class _Judgement:
    """What is kept of an annotation file that was judged.

    Args:
        path: the file.
        findings: its faults.
        told: by rule, what stops no run but should be known.
        classes: the names of its categories by ascending id.
        images: the file names of its images by id.
        objects: how many objects Detectron2 trains on.
        lacks_masks: whether it has objects, and none of them has a mask.
    """

    path: str
    findings: list[Finding]
    told: list[list[Finding]]
    classes: list[Any]
    images: dict[Any, str | None]
    objects: int
    lacks_masks: bool


def judged_file(name: str) -> _Judgement | None:
    """Judge the annotation file of a data set; again only after it has changed.

    Args:
        name: the data set.

    Returns:
        what was found, or None where the data set has no such file on this machine (yet: built-in
        ones are made on first use).
    """
    path = _path_of(name)
    if path is None or not os.path.isfile(path):
        return None
    stat = os.stat(path)
    return _judge(path, stat.st_mtime_ns, stat.st_size)


def _path_of(name: str) -> str | None:
    path = getattr(MetadataCatalog.get(name), "json_file", None)
    return path if path is not None and is_local(path) else None


@functools.lru_cache(maxsize=64)
def _judge(path: str, mtime: int, size: int) -> _Judgement:
    content, sentence = read_annotations(path)
    if sentence is not None:
        finding = Finding(ERROR, None, None, sentence, _ANY_RUN)
        return _Judgement(path, [finding], [], [], {}, 0, False)
    file = _annotation_file(content, path)
    findings, told = [], collections.defaultdict(list)
    for rule, finding in _file_findings(content, file):
        findings.append(finding)
        if not finding.stops:
            told[rule].append(finding)
    if any(finding.stops == _ANY_RUN for finding in findings):
        return _Judgement(path, findings, [], [], {}, 0, False)
    ids, names = file.categories.ids, file.categories.column("name")
    objects = ~file.crowds & ~file.left_out & (file.of_image >= 0)
    return _Judgement(
        path,
        findings,
        list(told.values()),
        [name for _, name in sorted(zip(ids, names, strict=True))],
        dict(zip(file.images.ids, file.names, strict=True)),
        int(objects.sum()),
        bool((~file.crowds).any() and not file.has_mask.any()),
    )


_NO_MASKS = (
    "no annotation has a segmentation, which MODEL.MASK_ON needs: add polygons or RLEs, or train a "
    "model of boxes"
)


def check_annotation_files(
    names: Sequence[str], runs: Collection[str], *, objects_needed: bool = False
) -> None:
    """Refuse data sets whose annotation files stop a run, and class lists that disagree.

    Args:
        names: the data sets; those without an annotation file on this machine are let through.
        runs: what is to be done, such as ``("training", "masks")``, see :class:`Finding`.
        objects_needed: whether images without objects are left out.

    Raises:
        UserError: naming the file, the image, what is wrong and the remedy.
    """
    files = {name: file for name in names if (file := judged_file(name)) is not None}
    for name, file in files.items():
        stopping = [finding for finding in file.findings if not set(runs).isdisjoint(finding.stops)]
        if stopping:
            raise UserError(_in_words(file.path, stopping))
        if MASKS in runs and file.lacks_masks:
            raise UserError(f"{file.path}: {_NO_MASKS}")
        first = next(iter(files))
        registered = getattr(MetadataCatalog.get(name), "thing_classes", file.classes)
        for other, known in (
            (first, files[first].classes),
            (f"Detectron2's list for {name}", list(registered)),
        ):
            if known != file.classes:
                raise UserError(
                    f"the categories of data set {name} ({len(file.classes)}) are not those of "
                    f"{other} ({len(known)}): give both the same names in the same order of ids"
                )
    if objects_needed and len(files) == len(names) and not any(f.objects for f in files.values()):
        raise UserError(
            f"no image of {', '.join(names)} has an object in its file's list named annotations "
            "(crowds do not count, nor do polygons of fewer than three points): annotate some, or "
            "set DATALOADER.FILTER_EMPTY_ANNOTATIONS False to train on the background alone"
        )


def tell_warnings(names: Sequence[str]) -> None:
    """Log what is wrong with data sets and stops no run, a line for each kind of fault."""
    for name in names:
        file = judged_file(name)
        for findings in file.told if file is not None else ():
            logger.warning("data set %s, %s", name, _in_words(file.path, findings))


def _in_words(path: str, findings: Sequence[Finding]) -> str:
    """The first of some findings as a sentence of its own, and how many there are."""
    first, more = findings[0], len(findings) - 1
    where = f"{path}, image {first.image}" if first.image else path
    text = first.sentence if path in first.sentence else f"{where}: {first.sentence}"
    return text + (f" (and {more} more: tools/check_dataset.py lists all)" if more else "")


def explain_failure(names: Sequence[str]) -> str | None:
    """The third reader: why Detectron2's loader failed.

    Args:
        names: the data sets that were to be loaded.

    Returns:
        one sentence with the remedy, or None where the annotation files are not at fault.
    """
    for name in names:
        path = _path_of(name)
        if path is None:
            return None
        file = judged_file(name)
        if file is None:
            return f"annotation file {path} of data set {name} does not exist: {missing_remedy()}"
        errors = [finding for finding in file.findings if finding.severity == ERROR]
        if errors:
            return _in_words(path, errors[:1])
    return None


def check_records(
    names: Sequence[str], records: Sequence[dict[str, Any]], *, masks: bool = False
) -> None:
    """Check images that come from no annotation file by the rules about sizes, boxes and masks.

    Args:
        names: the data sets.
        records: their images in Detectron2's format.
        masks: whether every object must have a sound mask.

    Raises:
        UserError: naming the image.
    """
    images, annotations = [], []
    for number, record in enumerate(records):
        sizes = {key: record[key] for key in ("width", "height") if key in record}
        for key, side in sizes.items():
            sizes[key] = int(side) if isinstance(side, np.integer) else side
        images.append({"id": number, "file_name": record.get("file_name"), **sizes})
        for annotation in record.get("annotations", ()):
            box = annotation.get("bbox")
            annotations.append(
                {
                    "image_id": number,
                    "iscrowd": annotation.get("iscrowd", 0),
                    "bbox": list(box) if isinstance(box, tuple | np.ndarray) else box,
                    "segmentation": annotation.get("segmentation") if masks else None,
                }
            )
    file = AnnotationFile({"images": images, "annotations": annotations}, sizes_needed=False)
    found = [*_findings_of(file, file.images, _SIZE_RULES)]
    found += _findings_of(file, file.annotations, (_FOUR_NUMBERS, *_MASK_RULES))
    stopping = [finding for _, finding in found if finding.stops]
    if stopping:
        raise UserError(_in_words(f"data set {', '.join(names)}", stopping[:1]))
    if masks and (~file.crowds).any() and not file.has_mask.any():
        raise UserError(f"data set {', '.join(names)}: {_NO_MASKS}")
