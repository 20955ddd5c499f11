"""Check a data set that a user names: a registered one, an annotation file or a folder."""

import dataclasses

from ..data import check_file
from ..data.annotation_file import ANY_RUN, ERROR, Finding
from ..data.validation import Report
from ..utils.errors import UserError
from .annotated_objects import dataset_files, dataset_splits


def check_dataset(dataset: str, image_folder: str = "", workers: int | None = None) -> Report:
    """Check a data set, or all splits of a folder together.

    Args:
        dataset: see :func:`fpn_d2.inspection.annotated_objects.dataset_files`.
        image_folder: the folder of the images; empty for the data set's own.
        workers: the number of processes that read images; None is one for each CPU.

    Returns:
        what was found, including the faults of label files in formats other than COCO's.

    Raises:
        UserError: if there is no such data set, file or folder, or it is in no known layout.
    """
    splits = dataset_splits(dataset)
    if not splits:
        return _check(dataset, "", image_folder, workers)
    reports = {split: _check(dataset, split, image_folder, workers) for split in splits}
    findings = [
        dataclasses.replace(finding, sentence=f"{split}: {finding.sentence}")
        for split, report in reports.items()
        for finding in report.findings
    ]
    images = sum(report.images for report in reports.values())
    annotations = sum(report.annotations for report in reports.values())
    return Report(dataset, image_folder or dataset, images, annotations, findings)


def _check(dataset: str, split: str, image_folder: str, workers: int | None) -> Report:
    try:
        path, folder = dataset_files(dataset, split)
    except UserError as error:
        if not error.sentences:
            raise
        faults = [Finding(ERROR, None, None, text, ANY_RUN) for text in error.sentences]
        return Report(dataset, image_folder or dataset, 0, 0, faults)
    return check_file(path, image_folder or folder, workers)
