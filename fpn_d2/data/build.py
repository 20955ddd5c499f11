"""Detectron2's loaders, with every fault of the data told before the first iteration."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.data import (
    DatasetFromList,
    DatasetMapper,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from torch.utils.data import DataLoader, IterableDataset

from ..utils.errors import UserError
from ..utils.seeding import seeded
from .checks import (
    check_boxes,
    check_classes,
    check_files,
    check_masks,
    check_names,
    check_proposal_files,
    check_settings,
    check_sizes,
)
from .datasets.folders import is_local
from .diagnosis import explain_failure
from .evaluable import check_evaluable
from .left_out import naming_left_out
from .object_scale import ObjectScaleMapper
from .proposals import check_proposals, read_proposals
from .resizing import build_test_mapper
from .stream import TrainStream
from .unreadable import RefusingMapper, SkippingMapper

__all__ = ["build_test_loader", "build_train_loader", "load_train_dataset"]


def build_train_loader(cfg: CfgNode) -> Any:
    """Detectron2's training loader over ``DATASETS.TRAIN``, after all checks.

    The test sets are loaded and checked too, since a fault in them would otherwise stop the run at
    its first evaluation. Images that turn out unreadable are skipped, see
    :class:`fpn_d2.data.unreadable.SkippingMapper`.

    Args:
        cfg: the merged config; a negative ``SEED`` draws one, the same for all processes.

    Returns:
        what :func:`detectron2.data.build_detection_train_loader` returns; its ``dataset`` is a
        :class:`TrainStream`, unless a registered data set is a stream itself.

    Raises:
        UserError: where the data sets or the settings about them cannot work; from the loader,
            where too many images cannot be read.
    """
    dataset = load_train_dataset(cfg)
    for name in cfg.DATASETS.TEST:
        _load_test(cfg, name)
    # A plain Detectron2 config has none of this package's keys.
    of_scale = cfg.INPUT.get("OBJECT_SCALE_TRAIN")
    mapper = ObjectScaleMapper(cfg) if of_scale else DatasetMapper(cfg, True)
    if isinstance(dataset, list):  # a torch data set may read its images itself
        files = (record["file_name"] for record in dataset if "file_name" in record)
        mapper = SkippingMapper(mapper, files, cfg.DATALOADER.get("MAX_SKIPPED_SHARE", 0.01))
    if isinstance(dataset, IterableDataset):  # its order is its own, and its place unknown
        return build_detection_train_loader(cfg, dataset=dataset, mapper=mapper)
    return _stream_loader(cfg, dataset, mapper)


def _stream_loader(cfg: CfgNode, dataset: Any, mapper: Any) -> DataLoader:
    """Detectron2's loader, with its own sampler and mapper, over a :class:`TrainStream`."""
    cfg = cfg.clone()
    cfg.defrost()
    if cfg.SEED < 0:
        cfg.SEED = comm.shared_random_seed()
    # Some samplers ignore SEED and draw one from NumPy.
    with seeded(cfg.SEED):
        parts = build_detection_train_loader.from_config(cfg, dataset=dataset, mapper=mapper)
    packed = DatasetFromList(dataset, copy=False) if isinstance(dataset, list) else dataset
    stream = TrainStream(
        packed,
        parts["mapper"],
        parts["sampler"],
        batch_size=parts["total_batch_size"] // comm.get_world_size(),
        grouped=parts["aspect_ratio_grouping"],
        seed=cfg.SEED,
    )
    if isinstance(dataset, list):
        stream.set_sizes(dataset)
    return build_detection_train_loader(
        stream,
        mapper=None,
        total_batch_size=parts["total_batch_size"],
        aspect_ratio_grouping=False,  # the stream has grouped them
        num_workers=parts["num_workers"],
        # A generator of its own: the loader would draw from the one that samples RoIs.
        seed=cfg.SEED,
    )


def load_train_dataset(cfg: CfgNode) -> Any:
    """The images of ``DATASETS.TRAIN`` in Detectron2's format, after all checks.

    Args:
        cfg: the merged config.

    Returns:
        what :func:`detectron2.data.get_detection_dataset_dicts` returns.

    Raises:
        UserError: where the data sets or the settings about them cannot work.
    """
    check_settings(cfg, training=True)
    return _load(
        cfg,
        list(cfg.DATASETS.TRAIN),
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        min_keypoints=(
            cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0
        ),
        proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
    )


def build_test_loader(cfg: CfgNode, dataset_name: str) -> DataLoader:
    """Detectron2's test loader over one data set, after all checks.

    Args:
        cfg: the merged config.
        dataset_name: the data set; with ``MODEL.LOAD_PROPOSALS`` one of ``DATASETS.TEST``.

    Returns:
        what :func:`detectron2.data.build_detection_test_loader` returns.

    Raises:
        UserError: where the data set or the settings about it cannot work; from the loader, where
            an image cannot be read.
    """
    check_names([dataset_name], "DATASETS.TEST")
    check_proposal_files(cfg, "TEST")
    dataset, mapper = _load_test(cfg, dataset_name), build_test_mapper(cfg)
    return build_detection_test_loader(
        dataset,
        mapper=RefusingMapper(mapper) if isinstance(dataset, list) else mapper,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


def _load_test(cfg: CfgNode, name: str) -> Any:
    proposal_files = None
    if cfg.MODEL.LOAD_PROPOSALS:
        files = dict(zip(cfg.DATASETS.TEST, cfg.DATASETS.PROPOSAL_FILES_TEST, strict=True))
        if name not in files:
            raise UserError(
                f"data set {name} has no proposal file: list the data set in DATASETS.TEST and its "
                "file in DATASETS.PROPOSAL_FILES_TEST"
            )
        proposal_files = [files[name]]
    dataset = _load(cfg, [name], filter_empty=False, proposal_files=proposal_files)
    if isinstance(dataset, list):
        check_evaluable(name)
    return dataset


def _load(cfg: CfgNode, names: list[str], **options: Any) -> Any:
    """Detectron2's dataset dicts, or a torch data set where one is registered, checked."""
    for path in options["proposal_files"] or ():
        read_proposals(_local(path))  # Detectron2 would run what is in it
    try:
        with naming_left_out(names):
            dataset = get_detection_dataset_dicts(names, **options)
        _check(cfg, names, dataset, options["proposal_files"])
    except UserError:
        raise
    except Exception as error:
        sentence = explain_failure(names, options["proposal_files"])
        if sentence is None:
            raise
        raise UserError(sentence) from error
    return dataset


def _check(cfg: CfgNode, names: list[str], dataset: Any, proposal_files: Any) -> None:
    check_classes(cfg, names)
    if not isinstance(dataset, list):
        return
    check_sizes(names, dataset)
    check_files(names, dataset)
    check_boxes(names, dataset)
    if cfg.MODEL.MASK_ON:
        check_masks(names, dataset)
    if proposal_files:
        check_proposals(names, proposal_files, dataset)


def _local(path: str) -> str:
    """A proposal file, downloaded to where Detectron2 will look for it if it is a URL."""
    if is_local(path):
        return path
    try:
        return PathManager.get_local_path(path)
    except Exception as error:  # of any protocol
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"proposal file {path} cannot be had ({reason}): download it, and name the file"
        ) from error
