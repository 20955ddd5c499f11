"""How the pyramid and the anchors of a config suit the objects of a data set.

Shape shorthand: R objects, L levels of anchors.
"""

import collections
import dataclasses
import os
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from detectron2.modeling.anchor_generator import build_anchor_generator
from detectron2.modeling.matcher import Matcher
from torch import Tensor, nn

from ..config import changed
from ..data.coco_json import without_gc
from ..modeling.fpn import check_features_exist, features_read
from ..utils.errors import UserError
from ..utils.modules import without_memory
from ..utils.progress import told, working
from .anchor_reach import (
    REACHED_AT,
    best_ious,
    grid_sizes,
    network_inputs,
    positive_anchors,
    suggest_sizes,
)
from .annotated_objects import AnnotatedObjects, dataset_files, dataset_splits
from .coco_matches import grouped
from .tested_levels import PyramidLevels


class AnchorSetup:
    """What a config says about anchors.

    Attributes:
        cfg: the config.
        features: the names of the L features that have anchors.
        strides: the strides of these features, in pixels of the network input.
        sizes: L lists of anchor sizes, in pixels of the network input.
        divisibility: the sides of the network input are padded to a multiple of this, in pixels.
        matcher: decides which anchors are positive in training.
        levels: how boxes get their level.
    """

    def __init__(self, cfg: CfgNode):
        """Read a config; its backbone is built without memory for weights, to know the strides.

        Raises:
            UserError: if the config's model has no upright anchors.
        """
        read = features_read(cfg)
        name = "RETINANET" if "MODEL.RETINANET.IN_FEATURES" in read else "RPN"
        key, section = f"MODEL.{name}.IN_FEATURES", cfg.MODEL[name]
        if key not in read or "Rotated" in cfg.MODEL.ANCHOR_GENERATOR.NAME:
            raise UserError(
                f"the config's model ({cfg.MODEL.META_ARCHITECTURE} with "
                f"{cfg.MODEL.PROPOSAL_GENERATOR.NAME}) has no upright anchors to look at; take the "
                "config of an RPN, a Faster R-CNN or a RetinaNet"
            )
        backbone = without_memory(lambda: build_backbone(cfg))
        features, shapes = read[key], backbone.output_shape()
        check_features_exist(key, features, list(shapes), "the backbone")
        sizes = cfg.MODEL.ANCHOR_GENERATOR.SIZES
        sizes = sizes if isinstance(sizes[0], (list, tuple)) else [sizes]
        sizes = sizes if len(sizes) > 1 else sizes * len(features)
        self.cfg = cfg
        self.features = features
        self.strides = [shapes[name].stride for name in features]
        self.sizes = [list(level) for level in sizes]
        self.divisibility = backbone.size_divisibility
        self.matcher = Matcher(
            list(section.IOU_THRESHOLDS), list(section.IOU_LABELS), allow_low_quality_matches=True
        )
        self.boundary = cfg.MODEL.RPN.BOUNDARY_THRESH if name == "RPN" else -1
        self.levels = PyramidLevels.of_config(cfg)
        self._shapes = [shapes[name] for name in features]

    def generator(self, sizes: list[list[float]]) -> nn.Module:
        """Build Detectron2's anchor generator of the config with these sizes."""
        cfg = changed(self.cfg, {"MODEL.ANCHOR_GENERATOR.SIZES": sizes})
        return build_anchor_generator(cfg, self._shapes)


class Inspection:
    """How a config's pyramid and anchors suit a data set.

    Attributes:
        dataset, config: the names that the user gave; that of a folder ends in its split.
        objects: the annotated objects.
        setup: what the config says about anchors.
        input_boxes: (R, 4) x0 y0 x1 y1 of each object, in pixels of the network input.
        sides: (R,) sqrt(w h) of each object, in pixels of the network input.
        levels: (R,) the level that Eq. 1 sends each object to.
        grids: (R, L, 2) rows and columns of the levels of each object's image.
        ious: (R, L) the best IoU of each object with the anchors of each level.
        reached: (R,) bool, whether an anchor has IoU 0.5 or more with the object.
        suggestion: the suggested anchor sizes.
        reached_by_suggestion: (R,) bool, the same for anchors of the suggested sizes.
        matched: (R,) how many anchors training would match with each object.
        anchors: (L,) how many of these matches each level has.
        missing: the file names of images that do not exist.
    """

    def __init__(
        self, dataset: str, cfg: CfgNode, config: str, image_folder: str = "", split: str = "train"
    ):
        """Measure a data set against a config; no image is opened.

        Args:
            dataset: a registered name, an annotation file in COCO's format, or a folder.
            cfg: the config.
            config: the config's name, for the report.
            image_folder: the folder of the images; empty for the data set's own.
            split: the split, if the data set is a folder.

        Raises:
            UserError: if the data set does not exist or has no objects, or the config has no
                anchors.
        """
        self.config, self.setup = config, AnchorSetup(cfg)
        setup, (path, folder) = self.setup, dataset_files(dataset, split)
        # A folder's split is named as a registered one is: <folder>_<split>.
        in_folder, path_to = dataset_splits(dataset), os.path.normpath(dataset)
        # "._train" would name nothing, and files called so would be hidden.
        if os.path.basename(path_to) in (os.curdir, os.pardir):
            path_to = os.path.abspath(path_to)
        self.dataset = f"{path_to}_{split}" if in_folder else dataset
        with working(f"reading {path}"), without_gc():
            self.objects = objects = AnnotatedObjects(path, image_folder or folder)
        boxes, sizes = network_inputs(
            objects.boxes,
            objects.image_sizes[objects.images],
            cfg.INPUT.MIN_SIZE_TEST,
            cfg.INPUT.MAX_SIZE_TEST,
        )
        grids = grid_sizes(sizes, setup.strides, setup.divisibility)
        self.input_boxes, self.grids, self.input_sizes = boxes, grids, sizes
        # Rounded, or float32 puts one of 32 px below its octave, and out of the histogram.
        self.sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1)).round(3)
        self.levels = setup.levels.of_inputs(boxes)
        self._count_matches()
        self.ious = best_ious(setup.generator(setup.sizes), boxes, grids)
        self.reached = self.ious.max(axis=1) >= REACHED_AT
        with working("comparing anchor sizes"):
            self.suggestion = suggest_sizes(setup.generator, setup.sizes, boxes, grids)
        suggested = best_ious(setup.generator(self.suggestion.sizes), boxes, grids)
        self.reached_by_suggestion = suggested.max(axis=1) >= REACHED_AT
        self.missing = [
            name
            for name in objects.file_names
            if not os.path.isfile(os.path.join(objects.image_folder, name))
        ]

    def _count_matches(self) -> None:
        """Count the positive anchors of each object and of each level, image by image."""
        generator, images = self.setup.generator(self.setup.sizes), self.objects.images
        self.matched = np.zeros(len(images), dtype=np.int64)
        self.anchors = np.zeros(len(self.setup.features), dtype=np.int64)
        by_image = [own for own in grouped(images, len(self.objects.file_names)) if len(own)]
        for of_image in told("matching anchors", by_image):
            _, levels, objects = self.positive_anchors(generator, of_image)
            self.matched[of_image] = np.bincount(objects.numpy(), minlength=len(of_image))
            self.anchors += np.bincount(levels.numpy(), minlength=len(self.anchors))

    def positive_anchors(self, generator: nn.Module, of_image: np.ndarray) -> tuple[Tensor, ...]:
        """See :func:`.anchor_reach.positive_anchors`; ``of_image`` are an image's objects."""
        size, beyond = self.input_sizes[of_image[0]].tolist(), self.setup.boundary
        return positive_anchors(
            generator,
            self.setup.matcher,
            torch.from_numpy(self.input_boxes[of_image]),
            self.grids[of_image[0]].tolist(),
            (size, beyond) if beyond >= 0 else None,
        )

    def by_level(self) -> dict[int, dict[str, int]]:
        """Count objects, and those without an anchor, by the level of Eq. 1."""
        return {k: self._counts(self.levels == k) for k in self.setup.levels.numbers}

    def by_size(self) -> dict[int, dict[str, int]]:
        """Count objects, and those without an anchor, by octave: 16 is for sides of 16 to 32 px."""
        octaves = np.exp2(np.floor(np.log2(np.maximum(self.sides, 1)))).astype(int)
        return {k: self._counts(octaves == k) for k in sorted(set(octaves.tolist()))}

    def _counts(self, which: np.ndarray) -> dict[str, int]:
        return {
            "objects": int(which.sum()),
            "unreached": int((which & ~self.reached).sum()),
            "unmatched": int((which & (self.matched == 0)).sum()),
        }

    def by_class(self) -> dict[str, int]:
        """Count objects by class, in the file's order."""
        names = self.objects.class_names  # several classes may have one name
        found = collections.Counter(dict.fromkeys(names, 0))
        found.update(names[k] for k in self.objects.classes)
        return dict(found)

    def by_anchor_level(self) -> dict[str, dict[str, Any]]:
        """List sizes and matches, and count the objects whose best anchor is there, by feature."""
        best = np.bincount(self.ious.argmax(axis=1), minlength=len(self.anchors))
        return {
            name: {
                "stride": self.setup.strides[i],
                "sizes": self.setup.sizes[i],
                "matched_anchors": int(self.anchors[i]),
                "objects_with_their_best_anchor_here": int(best[i]),
            }
            for i, name in enumerate(self.setup.features)
        }

    def as_json(self) -> dict[str, Any]:
        """Return the numbers in the form of ``<data set>_inspect.json``."""
        cfg = self.setup.cfg
        return {
            "dataset": self.dataset,
            "config": self.config,
            "images": len(self.objects.file_names),
            "images_missing": self.missing,
            "objects": len(self.objects),
            "left_out": self.objects.left_out,
            "input": {
                "MIN_SIZE_TEST": cfg.INPUT.MIN_SIZE_TEST,
                "MAX_SIZE_TEST": cfg.INPUT.MAX_SIZE_TEST,
            },
            "sides": _quantiles(self.sides),
            "by_class": self.by_class(),
            "by_size": self.by_size(),
            "by_level": self.by_level(),
            "by_anchor_level": self.by_anchor_level(),
            "reach": float(self.reached.mean()),
            "matched_anchors_per_object": _quantiles(self.matched),
            "suggestion": dataclasses.asdict(self.suggestion),
        }


def _quantiles(values: np.ndarray) -> dict[str, float]:
    shares = {"least": 0, "quarter": 25, "median": 50, "three_quarters": 75, "most": 100}
    return {name: round(float(np.percentile(values, q)), 2) for name, q in shares.items()}
