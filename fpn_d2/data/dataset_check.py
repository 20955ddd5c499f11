"""A data set's annotation file and all of its image files, read to the end and checked."""

import collections
import dataclasses
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from tqdm import tqdm

from ..utils.errors import UserError
from .annotation_faults import ERROR, WARNING, Finding, annotation_findings, file_name, image_size
from .image_faults import image_fault

__all__ = ["Report", "check_dataset", "check_file", "read_annotations"]

_CHUNK = 16  # images that a process reads before it reports


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
        """The findings under the image that they are of, and a line that counts them."""
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
        workers: processes that read images; None is one for each CPU.

    Returns:
        what was found; a file that is no JSON is a finding too.

    Raises:
        UserError: where the annotation file or the folder is not there, or workers is below 1.
    """
    if not os.path.isfile(path):
        raise UserError(f"annotation file {path} does not exist: correct its path")
    content, sentence = read_annotations(path)
    if sentence is not None:
        return Report(path, image_folder, 0, 0, [Finding(ERROR, None, None, sentence)])
    findings = check_dataset(content, image_folder, workers)
    counts = (len(_list(content, key)) for key in ("images", "annotations"))
    return Report(path, image_folder, *counts, findings)


def read_annotations(path: str) -> tuple[Any, str | None]:
    """Read a JSON file of any content.

    Args:
        path: the file.

    Returns:
        its content, or else a sentence that says why there is none.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file), None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        return None, f"{path} is not valid JSON at {where} ({error.msg}): write the file again"
    except RecursionError:
        return None, f"{path} is nested too deeply for an annotation file: write it again"
    except (OSError, ValueError, MemoryError) as error:  # no UTF-8, a number of thousands of digits
        reason = str(error).partition(";")[0] or "too large"  # Python's advice comes after
        return None, f"annotation file {path} cannot be read ({reason}): write the file again"


def check_dataset(content: Any, image_folder: str, workers: int | None = None) -> list[Finding]:
    """Check the content of an annotation file, of whatever kind, and the images that it names.

    Args:
        content: a parsed JSON file.
        image_folder: the folder that the file names of its images begin in.
        workers: processes that read images; None is one for each CPU.

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
    findings = annotation_findings(content), _of_files(content, image_folder, workers)
    for finding in itertools.chain(*findings):
        by_image[finding.image].append(finding)
    of_file = by_image.pop(None, [])
    return of_file + list(itertools.chain.from_iterable(by_image.values()))


def _of_files(content: Any, folder: str, workers: int | None) -> Iterator[Finding]:
    """The faults of the image files; each file is read once for each size that is said of it."""
    images = [image for image in _list(content, "images") if isinstance(image, dict)]
    named = ((file_name(image), image_size(image) or (None, None)) for image in images)
    wanted = list(dict.fromkeys((name, *size) for name, size in named if name is not None))
    bar = tqdm(total=len(wanted), desc="images", unit="image", disable=None)
    paths = [(os.path.join(folder, name), *size) for name, *size in wanted]
    for (name, *_), fault in zip(wanted, _read_all(paths, workers), strict=True):
        bar.update()
        if fault is not None:
            text = f"image {name} {fault}: replace it, or correct the annotation file"
            yield Finding(ERROR, name, None, text)
    bar.close()


def _read_all(
    images: list[tuple[str, int | None, int | None]], workers: int | None
) -> Iterable[str | None]:
    """The faults of these images, in their order."""
    # More processes than chunks would have nothing to do.
    workers = min(workers or os.cpu_count() or 1, -(-len(images) // _CHUNK))
    if workers <= 1:
        yield from itertools.starmap(image_fault, images)
        return
    try:
        with ProcessPoolExecutor(workers) as pool:
            yield from pool.map(image_fault, *zip(*images, strict=True), chunksize=_CHUNK)
    except BrokenProcessPool as error:
        raise UserError(
            "a process that reads images was ended from outside, perhaps for memory: use fewer, "
            "such as --workers 1"
        ) from error


def _list(content: Any, key: str) -> list[Any]:
    found = content.get(key) if isinstance(content, dict) else None
    return found if isinstance(found, list) else []
