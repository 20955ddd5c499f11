"""Check data sets in COCO's format: for a tool, before a run, and after a failure.

Three readers share the findings of :mod:`fpn_d2.data.annotation_file`: ``tools/check_dataset.py``
lists all of them and reads all images; before a run, the loaders refuse a data set with findings
that stop it; and if Detectron2's loader fails all the same, the first error says why.
Data sets that are registered for an evaluator other than COCO's have their records checked instead,
by :mod:`fpn_d2.data.records`.
"""

import dataclasses
import functools
import itertools
import logging
import os
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.evaluation.pascal_voc_evaluation import parse_rec

from ..utils.errors import UserError
from ..utils.files import is_local
from ..utils.progress import told
from .annotation_file import (
    ANY_RUN,
    ERROR,
    EVALUATION,
    MASK_EVALUATION,
    MASKS,
    WARNING,
    Finding,
    annotation_findings,
    as_id,
    conversion_findings,
    file_name,
    has_mask,
    image_size,
)
from .coco_json import read_annotations, without_gc
from .datasets.folders import make_ready, missing_remedy
from .images import look_at_all

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Report:
    """What the check of one data set found: how many images and annotations the file lists, and
    the findings, first those about the file, then the others by image."""

    annotation_file: str
    image_folder: str
    images: int
    annotations: int
    findings: list[Finding]

    def count(self, severity: str) -> int:
        """Count the findings of this severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Return the whole report as ``tools/check_dataset.py --json`` prints it."""
        counts = {"errors": self.count(ERROR), "warnings": self.count(WARNING)}
        return {**dataclasses.asdict(self), **counts}

    def as_text(self) -> str:
        """List the findings under their images, and add a line that counts them."""
        lines = []
        for image, findings in itertools.groupby(self.findings, lambda finding: finding.image):
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
        image_folder: the folder to which the file names of its images are relative.
        workers: the number of processes that read images; None is one for each CPU.

    Returns:
        what was found; a file that is not JSON is a finding, too.

    Raises:
        UserError: if there is no such file or folder, or workers is below 1.
    """
    if not os.path.isfile(path):
        raise UserError(f"annotation file {path} does not exist: correct its path")
    if workers is not None and workers < 1:
        raise UserError(f"--workers is {workers}: give 1 or more")
    content, sentence = read_annotations(path)
    if sentence is not None:
        return Report(path, image_folder, 0, 0, [Finding(ERROR, None, None, sentence, ANY_RUN)])
    if not os.path.isdir(image_folder):
        raise UserError(f"image folder {image_folder} does not exist: name it with --images")
    images, annotations = _list(content, "images"), _list(content, "annotations")
    by_image: dict[str | None, list[Finding]] = {None: []}  # those of no image come first
    with without_gc():
        of_file = list(annotation_findings(content, path))
    for finding in itertools.chain(of_file, _image_findings(images, image_folder, workers)):
        by_image.setdefault(finding.image, []).append(finding)
    findings = list(itertools.chain(*by_image.values()))
    return Report(path, image_folder, len(images), len(annotations), findings)


def _list(content: Any, key: str) -> list[Any]:
    found = content.get(key) if isinstance(content, dict) else None
    return found if isinstance(found, list) else []


def _image_findings(images: list[Any], folder: str, workers: int | None) -> Iterator[Finding]:
    """Find what is wrong or remarkable in image files; each is read once per annotated size."""
    wanted = dict.fromkeys(
        (name, *(image_size(image) or (None, None)))
        for image in images
        if isinstance(image, dict) and (name := file_name(image)) is not None
    )
    seen = look_at_all([(os.path.join(folder, name), *size) for name, *size in wanted], workers)
    bar = told("images", wanted)
    for (name, *_), (fault, remark) in zip(bar, seen, strict=True):
        if fault is not None:
            text = f"image {name} {fault}: replace it, or correct the annotation file"
            yield Finding(ERROR, name, None, text)
        elif remark is not None:
            yield Finding(WARNING, name, None, f"image {name} {remark}")


# The second reader: the loaders, before Detectron2's reads the file.


@dataclasses.dataclass(frozen=True)
class _Judgement:
    """What is kept of a judged annotation file."""

    path: str
    findings: list[Finding]
    classes: list[str] = dataclasses.field(default_factory=list)  # by ascending id of categories
    class_ids: list[int | str] = dataclasses.field(default_factory=list)
    images: dict[int | str, str] = dataclasses.field(default_factory=dict)  # file names by id
    has_objects: bool = False  # to train a model of boxes on
    has_masked_objects: bool = False  # to train a model of masks on
    lacks_masks: bool = False  # though it has objects
    # What is wrong with each image that was left out when a folder was converted into the file.
    left_out: list[str] = dataclasses.field(default_factory=list)


def judged_file(name: str) -> _Judgement | None:
    """Judge the annotation file of a data set, and again only if it has changed.

    Returns:
        what was found, or None where the data set has no such file on this machine (yet: built-in
        ones are made on first use), or it is of another format, such as LVIS's.

    Raises:
        UserError: if a folder of another layout than COCO's cannot be converted.
    """
    make_ready(name)
    path = file_of(name)
    if path is None or not os.path.isfile(path) or not is_coco(name):
        return None
    stat = os.stat(path)
    return _judge(path, stat.st_mtime_ns, stat.st_size)


def file_of(name: str) -> str | None:
    path = getattr(MetadataCatalog.get(name), "json_file", None)
    return os.fspath(path) if path is not None and is_local(path) else None


def is_coco(name: str) -> bool:
    """Whether a data set's file is in COCO's format, by the evaluator that it is registered for."""
    kind = MetadataCatalog.get(name).get("evaluator_type")
    return kind in (None, "coco") and not is_semantic(name)


def is_semantic(name: str) -> bool:
    """Whether a data set is for semantic segmentation, by the evaluator that it is registered for
    or, without one, by its classes. Its images need no ids, and have no objects."""
    metadata = MetadataCatalog.get(name)
    kind = metadata.get("evaluator_type")
    if kind is None:
        return bool(metadata.get("stuff_classes")) and not metadata.get("thing_classes")
    return str(kind).endswith("sem_seg")


def _is_left_out(annotation: dict[str, Any]) -> bool:
    """Whether Detectron2 drops an object because none of its polygons has three points."""
    polygons = annotation.get("segmentation")
    return bool(polygons and isinstance(polygons, list)) and not any(
        isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0
        for polygon in polygons
    )


@functools.lru_cache(maxsize=64)
def _judge(path: str, mtime: int, size: int) -> _Judgement:
    content, sentence = read_annotations(path)
    if sentence is not None:
        return _Judgement(path, [Finding(ERROR, None, None, sentence, ANY_RUN)])
    with without_gc():
        findings = list(annotation_findings(content, path))
    if any(finding.stops == ANY_RUN for finding in findings):
        return _Judgement(path, findings)
    images = {image["id"]: image["file_name"] for image in content["images"]}
    categories = sorted(content["categories"], key=lambda category: category["id"])
    objects = [a for a in _list(content, "annotations") if not a.get("iscrowd", 0)]
    seen = [entry for entry in objects if as_id(entry.get("image_id")) in images]
    return _Judgement(
        path,
        findings,
        [category["name"] for category in categories],
        [category["id"] for category in categories],
        images,
        has_objects=bool(seen),
        has_masked_objects=not all(map(_is_left_out, seen)),
        lacks_masks=bool(objects) and not any(map(has_mask, objects)),
        left_out=[f.sentence for f in conversion_findings(content) if f.severity == ERROR],
    )


_MOST_KINDS = 8
_VALUES = re.compile(r"'[^']*'|\[[^]]*\]|[-+.e\d]*\d")  # what differs in sentences of one kind
ADD_MASKS = "MODEL.MASK_ON needs it, so add polygons or an RLE, or train a model of boxes"


def check_annotation_files(
    names: Sequence[str], runs: Collection[str], *, objects_needed: bool = False
) -> None:
    """Refuse data sets whose annotation files stop a run, and class lists that disagree.

    Args:
        names: the names of the data sets; those without an annotation file in COCO's format on this
            machine are let through.
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
            raise UserError(f"{file.path}: no annotation has a segmentation; {ADD_MASKS}")
        first = next(iter(files))
        registered = getattr(MetadataCatalog.get(name), "thing_classes", file.classes)
        lists = {first: files[first].classes, f"Detectron2's list for {name}": list(registered)}
        for other, known in lists.items():
            if known != file.classes:
                raise UserError(
                    f"the categories of data set {name} ({len(file.classes)}) are not those of "
                    f"{other} ({len(known)}): {difference(file.classes, known)}; give both the "
                    "same names in the same order of ids"
                )
    has_objects = [
        file.has_masked_objects if MASKS in runs else file.has_objects for file in files.values()
    ]
    if objects_needed and len(files) == len(names) and not any(has_objects):
        raise UserError(
            lost_object(names)
            or f"no image of {', '.join(names)} has an object in its file's list named annotations "
            "(crowds do not count, nor masks of fewer than three points): annotate some, or "
            "set DATALOADER.FILTER_EMPTY_ANNOTATIONS False to train on the background alone"
        )


def lost_object(names: Sequence[str], keypoints_needed: bool = False) -> str | None:
    """Say why the first object is left out that is for a fault, in one sentence; None if none is.
    Faults of an id, a box, an area or a mask may be there, too, but lose no object."""
    faults = "the image_id|the iscrowd" + "|keypoints" * keypoints_needed
    for file in filter(None, map(judged_file, names)):
        for finding in file.findings:
            if re.search(f" has ({faults}) ", finding.sentence):
                return _in_words(file.path, [finding])
    return None


def difference(classes: Sequence[str], others: Sequence[str]) -> str:
    """Say where two lists of classes first differ, as a part of a sentence."""
    pairs = enumerate(itertools.zip_longest(classes, others), start=1)
    number, (one, other) = next(entry for entry in pairs if entry[1][0] != entry[1][1])
    return f"number {number} is {one!r} in the first, {other!r} in the second"


def tell_warnings(names: Sequence[str]) -> None:
    """Log the faults of data sets that have not stopped the run: the first of each kind, and how
    many there are."""
    for name in names:
        file = judged_file(name)
        kinds: dict[str, list[Finding]] = {}
        for finding in file.findings if file else []:
            known = finding.severity == ERROR and EVALUATION in finding.stops
            if known or finding.stops in ((), (MASK_EVALUATION,)):
                kinds.setdefault(_VALUES.sub("", finding.sentence), []).append(finding)
        for found in itertools.islice(kinds.values(), _MOST_KINDS):
            logger.warning("data set %s, %s", name, _in_words(file.path, found))


def _in_words(path: str, findings: Sequence[Finding]) -> str:
    """Turn the first of some findings into a full sentence, and say how many more there are."""
    first, more = findings[0], len(findings) - 1
    where = f"{path}, image {first.image}" if first.image else path
    text = first.sentence if path in first.sentence else f"{where}: {first.sentence}"
    return text + (f" (and {more} more: tools/check_dataset.py lists all)" if more else "")


def explain_failure(names: Sequence[str], error: Exception | None = None) -> str | None:
    """The third reader: say in one sentence why Detectron2's loader failed on these data sets with
    this error; None if their files are not at fault."""
    for name in names:
        path, file = file_of(name), judged_file(name)
        if path is not None and not os.path.isfile(path):
            return f"annotation file {path} of data set {name} does not exist: {missing_remedy()}"
        if _is_voc(name):
            try:
                check_voc(name)
            except UserError as fault:
                return str(fault)
            folder = MetadataCatalog.get(name).dirname
            return f"data set {name} in {folder} cannot be read ({error}): correct its files"
        if file is None:  # a loader or a format of its own
            return None
        errors = [finding for finding in file.findings if finding.severity == ERROR]
        if errors:
            stopping = [finding for finding in errors if finding.stops]
            return _in_words(file.path, (stopping or errors)[:1])
    return None


def _is_voc(name: str) -> bool:
    return MetadataCatalog.get(name).get("evaluator_type") == "pascal_voc"


def check_voc(name: str) -> None:
    """Check all that Pascal VOC's evaluation reads of a data set of that format, which is more than
    training reads; let data sets of other formats through.

    Raises:
        UserError: naming the file.
    """
    if not _is_voc(name):
        return
    known = MetadataCatalog.get(name)
    listed = os.path.join(known.dirname, "ImageSets", "Main", f"{known.split}.txt")
    if not os.path.isfile(listed):
        raise UserError(f"{listed} of data set {name} does not exist: {missing_remedy()}")
    with open(listed, encoding="utf-8") as lines:
        images = [line.strip() for line in lines]
    for image in images:
        file = os.path.join(known.dirname, "Annotations", f"{image}.xml")
        try:
            names = [entry["name"] for entry in parse_rec(file)]
        except Exception as error:  # an AttributeError for an element that is not there
            raise UserError(
                f"{file} of data set {name} cannot be read as Pascal VOC's ({error}): it has to be "
                "there, with a name, pose, truncated, difficult and bndbox of each object"
            ) from error
        unknown = set(names).difference(known.thing_classes)
        if unknown:
            raise UserError(
                f"{file} of data set {name} cannot be read as Pascal VOC's: its object "
                f"{min(unknown)} is none of the classes {', '.join(known.thing_classes)}"
            )


def check_left_out(names: Sequence[str], images: int, max_share: float) -> None:
    """Refuse to train if too many images were left out when folders were converted.

    Args:
        names: the names of the data sets.
        images: the number of their images that remain.
        max_share: the share of all images that may be left out, from 0 to 1; one always may.

    Raises:
        UserError: naming the first one.
    """
    left_out = [s for name in names if (file := judged_file(name)) for s in file.left_out]
    images += len(left_out)
    if len(left_out) > max(1, max_share * images):
        raise UserError(
            f"{len(left_out)} of the {images} training images cannot be used, and "
            f"DATALOADER.MAX_SKIPPED_SHARE is {max_share}: {left_out[0]} (tools/check_dataset.py "
            "lists all)"
        )
