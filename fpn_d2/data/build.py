"""Detectron2's loaders, which refuse faulty data and settings before the first iteration."""

import difflib
import functools
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY, PanopticFPN, SemanticSegmentor
from detectron2.utils import comm
from torch.utils.data import DataLoader, IterableDataset

from ..config import changed
from ..config_checks import class_head_key, num_classes, rotated_key
from ..config_combinations import tell_doubts
from ..modeling.fpn import is_known, meta_architecture, registered
from ..utils.errors import UserError
from ..utils.files import file_alike, is_local
from ..utils.progress import working
from .coco_json import shared_reading
from .dataset_mapper import (
    Mapper,
    SkippingMapper,
    build_test_mapper,
    build_train_mapper,
    map_labels,
    map_or_refuse,
    map_record,
    refuse,
)
from .datasets.converted_folders import looking_once
from .datasets.folders import datasets_root, missing_remedy, missing_split
from .records import (
    check_ground_truth,
    check_keypoint_names,
    check_keypoints,
    check_polygons,
    check_records,
    header_faults,
    read_records,
    tell_splits,
)
from .stream import TrainStream, seeded
from .validation import (
    check_annotation_files,
    check_left_out,
    check_voc,
    difference,
    explain_failure,
    lost_object,
    tell_warnings,
)


def build_train_loader(cfg: CfgNode) -> Any:
    """Build Detectron2's training loader over ``DATASETS.TRAIN``, after all checks.

    It loads and checks the test sets too, since a fault in them would otherwise stop the run at its
    first evaluation. Images that turn out unreadable are skipped, see
    :class:`fpn_d2.data.dataset_mapper.SkippingMapper`.

    Args:
        cfg: the merged config; for a negative ``SEED``, one is drawn and shared by all processes.

    Returns:
        what :func:`detectron2.data.build_detection_train_loader` returns; its ``dataset`` is a
        :class:`TrainStream`, unless a registered data set is a stream itself.

    Raises:
        UserError: if the data sets or their settings cannot work; from the loader, if too many
            images cannot be read.
    """
    dataset = load_train_dataset(cfg)
    loaded = {name: _load_test(cfg, name) for name in cfg.DATASETS.TEST}
    tests = {name: records for name, records in loaded.items() if isinstance(records, list)}
    if cfg.TEST.get("VALIDATION_LOSS"):  # the test sets are mapped as in training
        for name, records in tests.items():
            if cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT == "polygon":
                check_polygons([name], records)
            _check_label_maps(cfg, [name], records)
    names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes", ())
    tell_doubts(cfg, names, training=True)
    if isinstance(dataset, list):
        tell_splits(dataset, tests)
    if cfg.MODEL.KEYPOINT_ON:
        check_keypoint_names(cfg.DATASETS.TRAIN)
        records = dataset if isinstance(dataset, list) else ()
        points = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
        check_keypoints(cfg.DATASETS.TRAIN, records, points, training=True)
    mapper = _checking_labels(cfg, cfg.DATASETS.TRAIN, dataset, build_train_mapper(cfg))
    if isinstance(dataset, list):  # a torch data set may read its images itself
        files = (record["file_name"] for record in dataset if "file_name" in record)
        mapper = SkippingMapper(mapper, files, _max_skipped_share(cfg))
        mapper.foresee(*header_faults(dataset, cfg.SEED))
    else:
        mapper = functools.partial(map_record, mapper)
    if isinstance(dataset, IterableDataset):  # it has its own order, and its position is unknown
        return build_detection_train_loader(cfg, dataset=dataset, mapper=mapper)
    return _stream_loader(cfg, dataset, mapper)


def _has_labels_read(cfg: CfgNode, records: Any) -> bool:
    """Whether a network trains on the label maps of records, by Detectron2's rules; one's own may
    have others, and a torch data set may read its maps itself."""
    network = meta_architecture(cfg)
    reader = registered(SEM_SEG_HEADS_REGISTRY, cfg.MODEL.SEM_SEG_HEAD.NAME)
    is_semantic = issubclass(network, (PanopticFPN, SemanticSegmentor))
    return is_semantic and is_known(network) and is_known(reader) and isinstance(records, list)


def _check_label_maps(cfg: CfgNode, names: Sequence[str], records: Any) -> None:
    """Refuse images without the label map that a network trains on."""
    if not _has_labels_read(cfg, records):
        return
    for record in records:
        if "sem_seg_file_name" not in record:
            raise UserError(
                f"data set {', '.join(names)}, image {record.get('file_name')}: it has no label "
                "map (sem_seg_file_name), on which MODEL.SEM_SEG_HEAD trains: give each image its "
                "own, or name a data set that has them, such as coco_2017_train_panoptic_separated"
            )


def _checking_labels(cfg: CfgNode, names: Sequence[str], records: Any, mapper: Mapper) -> Mapper:
    """Check the label maps that a network trains on, and their labels when images are mapped."""
    _check_label_maps(cfg, names, records)
    if not _has_labels_read(cfg, records):
        return mapper
    head = cfg.MODEL.SEM_SEG_HEAD
    return functools.partial(map_labels, mapper, head.NUM_CLASSES, head.IGNORE_VALUE)


def _stream_loader(cfg: CfgNode, dataset: Any, mapper: Any) -> DataLoader:
    """Build Detectron2's loader over a :class:`TrainStream` with Detectron2's sampler."""
    if cfg.SEED < 0:
        cfg = changed(cfg, {"SEED": comm.shared_random_seed()})
    share = cfg.DATALOADER.get("RANDOM_SUBSET_RATIO", 1.0)
    if int(share * len(dataset)) < 1:
        raise UserError(
            f"DATALOADER.RANDOM_SUBSET_RATIO is {share}, which is none of {len(dataset)} images: "
            "give a larger share"
        )
    # Some samplers ignore SEED and draw a seed from NumPy; the weighted ones read the files again.
    try:
        with seeded(cfg.SEED), shared_reading(masks=cfg.MODEL.MASK_ON):
            parts = build_detection_train_loader.from_config(cfg, dataset=dataset, mapper=mapper)
    except AssertionError as error:
        empty = re.fullmatch(r"No valid data found in (.*)\.", str(error))
        if empty is None:
            raise
        raise UserError(
            f"no image of {empty[1]} has an object to train on, and DATALOADER.SAMPLER_TRAIN "
            f"{cfg.DATALOADER.SAMPLER_TRAIN} weighs each data set: take it out of DATASETS.TRAIN"
        ) from error
    stream = TrainStream(
        dataset,
        parts["mapper"],
        parts["sampler"],
        batch_size=parts["total_batch_size"] // comm.get_world_size(),
        grouped=parts["aspect_ratio_grouping"],
        seed=cfg.SEED,
    )
    return build_detection_train_loader(
        stream,
        mapper=None,
        total_batch_size=parts["total_batch_size"],
        aspect_ratio_grouping=False,  # the stream has grouped them
        num_workers=parts["num_workers"],
        # Without a seed, the loader would draw from the generator that samples RoIs.
        seed=cfg.SEED,
    )


def load_train_dataset(cfg: CfgNode) -> Any:
    """Load ``DATASETS.TRAIN`` by Detectron2's ``get_detection_dataset_dicts``, after all checks.

    Raises:
        UserError: if the data sets or their settings cannot work.
    """
    check_settings(cfg, training=True)
    keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE
    return _load(
        cfg,
        list(cfg.DATASETS.TRAIN),
        "training",
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        min_keypoints=keypoints if cfg.MODEL.KEYPOINT_ON else 0,
        proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
    )


def build_test_loader(cfg: CfgNode, dataset_name: str) -> DataLoader:
    """Build Detectron2's test loader over one data set, after all checks.

    Args:
        cfg: the merged config.
        dataset_name: the data set; with ``MODEL.LOAD_PROPOSALS`` one of ``DATASETS.TEST``.

    Raises:
        UserError: if the data set or its settings cannot work; from the loader, if an image cannot
            be read.
    """
    check_names([dataset_name], "DATASETS.TEST")
    _check_proposal_files(cfg, "TEST")
    if cfg.MODEL.KEYPOINT_ON:
        check_keypoint_names(cfg.DATASETS.TRAIN)
    return _test_loader(cfg, _load_test(cfg, dataset_name), build_test_mapper(cfg))


def _test_loader(cfg: CfgNode, dataset: Any, mapper: Mapper) -> DataLoader:
    return build_detection_test_loader(
        dataset,
        mapper=functools.partial(map_or_refuse, mapper),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


def build_loss_loader(cfg: CfgNode, dataset_name: str) -> DataLoader:
    """Build a loader of single test images mapped as in training, with ``instances``, but without
    random augmentation and at the test's size; see :func:`build_test_loader`."""
    plain = {
        "INPUT.MIN_SIZE_TRAIN": (cfg.INPUT.MIN_SIZE_TEST,),
        "INPUT.MAX_SIZE_TRAIN": cfg.INPUT.MAX_SIZE_TEST,
        "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
        "INPUT.RANDOM_FLIP": "none",
        "INPUT.CROP.ENABLED": False,
        "INPUT.AUGMENTATIONS": [],
        "INPUT.OBJECT_SCALE_TRAIN": 0.0,
    }
    mapper = build_train_mapper(changed(cfg, plain))
    dataset = _load_test(cfg, dataset_name)
    return _test_loader(cfg, dataset, _checking_labels(cfg, [dataset_name], dataset, mapper))


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
    dataset = _load(cfg, [name], "evaluation", filter_empty=False, proposal_files=proposal_files)
    if isinstance(dataset, list):
        if cfg.MODEL.KEYPOINT_ON:
            points = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
            as_in_training = bool(cfg.TEST.get("VALIDATION_LOSS"))
            check_keypoints([name], dataset, points, training=as_in_training)
        faults, _ = header_faults(dataset, cfg.SEED)
        if faults:
            refuse(*faults[0])
    return dataset


@looking_once()
def _load(cfg: CfgNode, names: list[str], run: str, **options: Any) -> Any:
    """Load Detectron2's dataset dicts, or a torch data set where one is registered, and check them
    for ``"training"`` or ``"evaluation"``. ``options`` go to Detectron2's function."""
    runs = (run, "masks", f"{run} of masks") if cfg.MODEL.MASK_ON else (run,)
    rules = cfg.MODEL.MASK_ON, num_classes(cfg), run == "evaluation"
    files = options["proposal_files"] or ()
    if files:
        from . import proposals  # models that read none start without it
    # Read safely before Detectron2, which would run what is in the files.
    ids = [proposals.read_proposals(path)["ids"] for path in files]
    if rotated_key(cfg):  # the other checks are of upright boxes
        dataset = get_detection_dataset_dicts(names, **options)
        _check_classes(cfg, names)
        return dataset
    with working(f"reading {', '.join(names)}"), shared_reading(masks=cfg.MODEL.MASK_ON):
        check_annotation_files(names, runs, objects_needed=options["filter_empty"])
        try:
            dataset = get_detection_dataset_dicts(names, **options)
        except UserError:
            raise
        except Exception as error:
            no_data = str(error).startswith("No valid data found")
            keypoints_needed = bool(options.get("min_keypoints"))
            sentence = (
                lost_object(names, keypoints_needed) if no_data else explain_failure(names, error)
            )
            if sentence is None and files:
                sentence = proposals.explain_missing(names, files, ids)
            if sentence is None:
                check_records(names, read_records(names), *rules)
                if not no_data:
                    raise
                sentence = f"no image of {', '.join(names)} has " + (
                    "keypoints enough for MODEL.KEYPOINT_ON: annotate some, or set it False"
                    if keypoints_needed
                    else "an object to train on: annotate some"
                )
            raise UserError(sentence) from error
    check_annotation_files(names, runs)  # the built-in sets have only now made their files
    if run == "evaluation":
        for name in names:
            check_voc(name)
    tell_warnings(names)
    _check_classes(cfg, names)
    if isinstance(dataset, list):
        check_records(names, dataset, *rules)
        if run == "training":
            check_left_out(names, len(dataset), _max_skipped_share(cfg))
        if run == "training" and cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT == "polygon":
            check_polygons(names, dataset)
        for name in names if run == "evaluation" else ():
            check_ground_truth(name, dataset)
        with working(f"looking for the images of {', '.join(names)}"):
            _check_image_files(names, dataset)
        if files:
            proposals.check_proposals(names, files, dataset)
    return dataset


def _max_skipped_share(cfg: CfgNode) -> float:
    return cfg.DATALOADER.get("MAX_SKIPPED_SHARE", 0.01)  # a plain Detectron2 config lacks it


def check_settings(cfg: CfgNode, training: bool) -> None:
    """Check all that the config says about data, without opening a file.

    Args:
        cfg: the merged config.
        training: whether the model is to be trained, not only evaluated.

    Raises:
        UserError: if no data set is named, a name is not registered, proposal files are missing or
            the processes cannot share the batch equally.
    """
    if training:
        check_names(cfg.DATASETS.TRAIN, "DATASETS.TRAIN")
        _check_proposal_files(cfg, "TRAIN")
        images, processes = cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size()
        if images <= 0 or images % processes:
            raise UserError(
                f"SOLVER.IMS_PER_BATCH is {images}, which {processes} process(es) cannot share "
                f"equally: give a positive multiple of {processes}"
            )
    if cfg.DATASETS.TEST or not training:  # training without evaluation is allowed
        check_names(cfg.DATASETS.TEST, "DATASETS.TEST")
        _check_proposal_files(cfg, "TEST")


def check_names(names: Sequence[str], key: str) -> None:
    """Check that there are data sets and that each is registered.

    Args:
        names: the names of the data sets.
        key: the config key that lists them, for the message.

    Raises:
        UserError: if there is none, or one is unknown.
    """
    if not names:
        raise UserError(f"{key} names no data set: add {key} \"('<name>_<split>',)\"")
    for name in names:
        if name not in DatasetCatalog:
            close = difflib.get_close_matches(name, DatasetCatalog.keys(), n=3)
            hint = f" (did you mean {' or '.join(close)}?)" if close else ""
            remedy = missing_split(name) or (
                "your own data need <name>/images/ and <name>/annotations/instances_<split>.json, "
                "or another layout of datasets/README.md, in the folder that DETECTRON2_DATASETS "
                f"names before the start (now {os.path.abspath(datasets_root())}), and are then "
                "called <name>_<split>"
            )
            raise UserError(
                f"{key} names the data set '{name}', which is not registered{hint}: {remedy}"
            )


def _check_proposal_files(cfg: CfgNode, split: str) -> None:
    """If the model reads fixed proposals, check that each data set of ``"TRAIN"`` or ``"TEST"`` has
    its file of them."""
    if not cfg.MODEL.LOAD_PROPOSALS:
        return
    key = f"DATASETS.PROPOSAL_FILES_{split}"
    names, files = cfg.DATASETS[split], cfg.DATASETS[f"PROPOSAL_FILES_{split}"]
    if len(files) != len(names):
        raise UserError(
            f"MODEL.LOAD_PROPOSALS needs one proposal file for each data set, but {key} has "
            f"{len(files)} and DATASETS.{split} has {len(names)}: list them in the same order"
        )
    for name, file in zip(names, files, strict=True):
        if is_local(file) and not os.path.isfile(file):
            made_by = re.fullmatch(r"(?:.*/)?output/(.+)/inference/[^/]+/box_proposals\.pkl", file)
            config = f"configs/{made_by[1]}.yaml" if made_by else "configs/RPN/<row>.yaml"
            weights = f"output/{made_by[1]}/model_final.pth" if made_by else "<its weights>"
            raise UserError(
                f"proposal file {file} of data set {name} ({key}) does not exist: train an RPN, "
                f"then write its proposals with `python train_net.py --config-file {config} "
                f"--eval-only MODEL.WEIGHTS {weights} DATASETS.TEST \"('{name}',)\"`"
            )


def _check_image_files(names: Sequence[str], records: Sequence[dict[str, Any]]) -> None:
    """Check that the image folders and all image files exist, without opening them."""
    for name in names:
        folder = getattr(MetadataCatalog.get(name), "image_root", None)
        if folder and is_local(folder) and not os.path.isdir(folder):
            raise UserError(
                f"image folder {folder} of data set {name} does not exist: {missing_remedy()}"
            )
    paths = [record["file_name"] for record in records if "file_name" in record]
    missing = [path for path in paths if is_local(path) and not os.path.isfile(path)]
    for path in missing:
        try:
            os.fsencode(path)
        except UnicodeEncodeError as error:
            raise UserError(
                f"image {path!a} has letters that no file can have in this process, whose file "
                f"names are {sys.getfilesystemencoding()}: set PYTHONUTF8=1 and start again"
            ) from error
    if missing:
        raise UserError(
            f"image {missing[0]} does not exist ({len(missing)} of the {len(paths)} images of "
            f"{', '.join(names)} are missing){file_alike(missing[0])}: put it there or take it out "
            "of the annotation file"
        )


def _check_classes(cfg: CfgNode, names: Sequence[str]) -> None:
    """Check the classes of loaded data sets against the class head and the training set's; data
    sets without a list of classes are let through, and a model without a class head takes any."""
    key, number = class_head_key(cfg), num_classes(cfg)
    if number is None:
        return
    for name in names:
        classes = getattr(MetadataCatalog.get(name), "thing_classes", None)
        if classes and number != len(classes):
            raise UserError(
                f"{key} is {number}, but the number of classes of data set {name} is "
                f"{len(classes)} ({_some(classes)}): add {key} {len(classes)}"
            )
        for other in cfg.DATASETS.TRAIN:
            known = getattr(MetadataCatalog.get(other), "thing_classes", None)
            if classes and known and list(known) != list(classes):
                raise UserError(
                    f"data set {name} has the classes {_some(classes)}, but {other} of "
                    f"DATASETS.TRAIN has {_some(known)} ({difference(classes, known)}): give both "
                    "annotation files the same categories in the same order, or name in "
                    "DATASETS.TRAIN the data set that the model was trained on"
                )


def _some(classes: Sequence[str]) -> str:
    return ", ".join(map(str, classes[:8])) + (", ..." if len(classes) > 8 else "")
