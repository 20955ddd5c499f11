"""A start for the bottom-up network that does not need ImageNet.

Every row of the paper starts from a network that classifies ImageNet. This module trains one to
classify the objects of a COCO-format data set, cut out and resized, and writes it in the form of
the ImageNet checkpoints of Detectron2's model zoo, so that ``MODEL.WEIGHTS`` takes it.

Shape shorthand: M crops, B of them in a batch; K classes and, after them, the background; S x S
pixels.
"""

import copy
import logging
import pickle
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.structures import Boxes, BoxMode, pairwise_iou
from PIL import Image
from torch import Tensor, nn

from ..config import changed
from ..data import load_train_dataset
from ..data.images import read_sound_image
from ..engine.hooks import cpu_has_bfloat16
from ..utils.errors import UserError
from ..utils.files import explain_disk_errors, prepare_target, replace_file
from ..utils.modules import to_channels_last
from ..utils.progress import told

logger = logging.getLogger(__name__)

CROP_SIZE = 64
# A crop shows the object's surroundings and leaves room to shift it in training.
CONTEXT = 1.5
_CUT_SIZE = CROP_SIZE * 5 // 4
_LR = 0.05
# With held-out crops: the iterations between measurements, the least rise of the accuracy, and how
# many measurements without one a learning rate survives. The second rate is a tenth of the first.
_EVERY, _RISE, _PATIENCE = 100, 0.002, 2


class Pretraining(NamedTuple):
    """How a network was pretrained.

    Args:
        accuracy: the share, 0 to 1, of crops that are classified correctly: of held-out images, or
            of the training's last tenth if none are held out.
        iterations: the number trained until this accuracy.
        crops, held_out: the number of crops to learn from and to measure on.
    """

    accuracy: float
    iterations: int
    crops: int
    held_out: int


class CropClassifier(nn.Module):
    """The network of ImageNet training: a bottom-up network, average pooling, a linear layer."""

    def __init__(self, bottom_up: nn.Module, num_classes: int):
        """
        Args:
            bottom_up: a Detectron2 backbone, whose coarsest output is classified.
            num_classes: the number of classes with the background, K + 1.
        """
        super().__init__()
        self.bottom_up = bottom_up
        shapes = bottom_up.output_shape()
        self.feature = max(shapes, key=lambda name: shapes[name].stride)
        self.linear = nn.Linear(shapes[self.feature].channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, S, S) normalized pixels to (B, K + 1) logits."""
        return self.linear(self.bottom_up(x)[self.feature].mean(dim=(2, 3)))


def cut_crops(
    records: list[dict[str, Any]], image_format: str, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Cut every object out of a data set's images, and about as many places without one.

    Args:
        records: images in Detectron2's format, with annotations.
        image_format: ``cfg.INPUT.FORMAT``.
        num_classes: K, which is the background's number.

    Returns:
        (M, C, S', S') crops, where S' is S plus the room for shifts, and (M,) int64 classes. Crops
        are uint8, or float32 for YUV-BT.601.

    Raises:
        UserError: if an image cannot be read, or none has an object.
    """
    rng = np.random.default_rng(0)  # for the background's places
    crops, classes = [], []
    for record in told("cutting out objects", records):
        image = read_sound_image(record)
        objects = [o for o in record["annotations"] if not o.get("iscrowd", 0)]
        boxes = np.array(
            [BoxMode.convert(o["bbox"], o["bbox_mode"], BoxMode.XYXY_ABS) for o in objects]
        ).reshape(-1, 4)
        background = _background_boxes(rng, boxes, *image.shape[:2])
        for box in (*boxes, *background):
            crops.append(convert_PIL_to_numpy(_cut(image, box), image_format))
        classes += [o["category_id"] for o in objects] + [num_classes] * len(background)
    if not crops:
        raise UserError("no image of DATASETS.TRAIN has an object to cut out: annotate some")
    stacked = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
    return (stacked.float() if stacked.is_floating_point() else stacked), torch.tensor(classes)


def _background_boxes(
    rng: np.random.Generator, boxes: np.ndarray, height: int, width: int
) -> np.ndarray:
    """Draw a box of each object's size elsewhere, and leave out those that overlap an object."""
    sides = boxes[:, 2:] - boxes[:, :2]
    room = np.maximum([width, height] - sides, 0)
    corners = rng.uniform(0, 1, sides.shape) * room
    drawn = np.concatenate([corners, corners + sides], axis=1)
    overlap = pairwise_iou(Boxes(torch.tensor(drawn)), Boxes(torch.tensor(boxes)))
    free = overlap.max(dim=1).values < 0.1 if len(boxes) else torch.zeros(0, dtype=torch.bool)
    return drawn[free.numpy()]


def _cut(image: np.ndarray, box: np.ndarray) -> Image.Image:
    """Cut the square around a box and its context, and resize it; black beyond the image."""
    center, half = (box[:2] + box[2:]) / 2, max(*(box[2:] - box[:2]), 2) * CONTEXT / 2
    corners = (*(center - half), *(center + half))
    return Image.fromarray(image).transform(
        (_CUT_SIZE, _CUT_SIZE), Image.Transform.EXTENT, corners, Image.Resampling.BILINEAR
    )


def pretrain_backbone(
    cfg: CfgNode, path: str, *, iterations: int = 200, batch_size: int = 128, held_out: float = 0.0
) -> Pretraining:
    """Train the config's bottom-up network on the objects of ``DATASETS.TRAIN`` and save it.

    Args:
        cfg: a config from :func:`fpn_d2.load_config`; its SEED decides everything.
        path: the checkpoint to write, ``*.pkl``.
        iterations, batch_size: the schedule; the learning rate follows one cycle (OneCycleLR).
        held_out: the share of images whose crops are not trained on. If above 0, the learning rate
            falls to a tenth once the accuracy on these crops stops rising, the training ends once
            it stops again or after ``iterations``, and the weights of the best accuracy are kept.

    Returns:
        what was trained, and how well it classifies.

    Raises:
        UserError: if the data set or one of its images cannot be read, if too few images are there
            to hold some out, or if a layer of the network is frozen.
    """
    if iterations < 1:
        raise UserError(f"--iterations is {iterations}: give 1 or more")
    if batch_size < 2:
        raise UserError(f"--batch-size is {batch_size}: give 2 or more, whose variance norms take")
    if not 0 <= held_out < 1:
        raise UserError(f"--held-out is {held_out:g}: give a share of images from 0 to below 1")
    if not path.endswith(".pkl"):
        raise UserError(
            f"--output {path}: MODEL.WEIGHTS reads this form from *.pkl; name such a file"
        )
    prepare_target(path, overwrite=True, option="--output")
    records = load_train_dataset(cfg)
    num_classes = len(MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).thing_classes)
    held, held_classes = None, None
    if held_out:
        order = np.random.default_rng(max(cfg.SEED, 0)).permutation(len(records))
        count = max(1, round(held_out * len(records)))
        if count >= len(records):
            raise UserError(f"of {len(records)} images none can be held out: leave --held-out out")
        apart, records = ([records[i] for i in part] for part in (order[:count], order[count:]))
        held, held_classes = cut_crops(apart, cfg.INPUT.FORMAT, num_classes)
    crops, classes = cut_crops(records, cfg.INPUT.FORMAT, num_classes)
    logger.info("%d crops of %d images", len(crops), len(records))
    name = cfg.MODEL.FPN.BOTTOM_UP
    # The seed decides the weights; callers' draws stay the same.
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(max(cfg.SEED, 0))
        pixels = ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
        bottom_up = BACKBONE_REGISTRY.get(name)(_trainable(cfg), pixels)
        frozen = [n for n, part in bottom_up.named_modules() if isinstance(part, FrozenBatchNorm2d)]
        frozen += [n for n, weight in bottom_up.named_parameters() if not weight.requires_grad]
        if frozen:
            raise UserError(
                f"MODEL.FPN.BOTTOM_UP {name} keeps {frozen[0]} frozen ({len(frozen)} in all), so "
                "it cannot learn from random weights; set its norm to BN and freeze nothing"
            )
        model = CropClassifier(bottom_up, num_classes + 1)
    to_channels_last(model)
    training = _Training(model, crops, classes, cfg, batch_size)
    if held is None:
        accuracy = training.run(iterations)
    else:
        accuracy, iterations = training.run_until_it_stops(iterations, held, held_classes)
    weights = {name: value.cpu().numpy() for name, value in bottom_up.state_dict().items()}
    with explain_disk_errors(path, "name another --output"), replace_file(path, "wb") as file:
        # The form of Detectron2's converted ImageNet checkpoints.
        pickle.dump({"model": weights, "__author__": "fpn_d2", "matching_heuristics": True}, file)
    return Pretraining(accuracy, iterations, len(crops), 0 if held is None else len(held))


def _trainable(cfg: CfgNode) -> CfgNode:
    """Return the config of a whole bottom-up network that learns from random weights."""
    values = {"MODEL.BACKBONE.FREEZE_AT": 0, "MODEL.RESNETS.OUT_FEATURES": ["res5"]}
    for name, section in cfg.MODEL.items():
        # RESNETS, REGNETS and, by the same convention, the sections of other backbones.
        if isinstance(section, CfgNode) and section.get("NORM") == "FrozenBN":
            values[f"MODEL.{name}.NORM"] = "BN"  # The same keys, with statistics that are learned.
    return changed(cfg, values)


class _Training:
    """A classifier with its crops, its optimizer and its random numbers."""

    def __init__(
        self, model: CropClassifier, crops: Tensor, classes: Tensor, cfg: CfgNode, batch_size: int
    ):
        self.model, self.crops, self.classes, self.batch_size = model, crops, classes, batch_size
        self.generator = torch.Generator().manual_seed(max(cfg.SEED, 0))
        self.device = torch.device(cfg.MODEL.DEVICE)
        model.to(self.device).train()
        self.mean = torch.tensor(cfg.MODEL.PIXEL_MEAN, device=self.device).view(-1, 1, 1)
        self.std = torch.tensor(cfg.MODEL.PIXEL_STD, device=self.device).view(-1, 1, 1)
        self.optimizer = torch.optim.SGD(
            model.parameters(), lr=_LR, momentum=0.9, nesterov=True, weight_decay=1e-4
        )
        self.half = cfg.SOLVER.AMP.ENABLED and (self.device.type == "cuda" or cpu_has_bfloat16())

    def run(self, iterations: int) -> float:
        """Train with one cycle of the learning rate; return the last tenth's accuracy."""
        schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, _LR, total_steps=iterations)
        correct = []
        for _ in told("pretraining", range(iterations), unit="step"):
            correct.append(self._step())
            schedule.step()
        return float(np.mean(correct[-max(1, iterations // 10) :]))

    def run_until_it_stops(
        self, iterations: int, held: Tensor, held_classes: Tensor
    ) -> tuple[float, int]:
        """Train while the accuracy on held-out crops rises; return the best and its iteration."""
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer, "max", 0.1, _PATIENCE, threshold=_RISE, threshold_mode="abs"
        )
        best, reached, weights = -1.0, 0, {}
        bar = told("pretraining", range(iterations), unit="step")
        for done in (i + 1 for i in bar):
            self._step()
            if done % _EVERY and done < iterations:
                continue
            accuracy = self._accuracy(held, held_classes)
            logger.info("iteration %d: %.2f %% of held-out crops", done, 100 * accuracy)
            if accuracy > best:
                best, reached = accuracy, done
                weights = copy.deepcopy(self.model.state_dict())
            schedule.step(accuracy)
            if schedule.get_last_lr()[0] < _LR / 50:  # the second learning rate has ended, too
                break
        self.model.load_state_dict(weights)
        return best, reached

    def _step(self) -> float:
        """Train on one batch; return the share classified correctly."""
        index = torch.randint(len(self.crops), (self.batch_size,), generator=self.generator)
        target = self.classes[index].to(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half):
            logits = self._classify(_augment(self.crops[index], self.generator))
        loss = F.cross_entropy(logits.float(), target)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return (logits.argmax(dim=1) == target).float().mean().item()

    @torch.no_grad()
    def _accuracy(self, crops: Tensor, classes: Tensor) -> float:
        """Return the share of crops, each cut at its centre, that are classified correctly."""
        self.model.eval()
        edge = (_CUT_SIZE - CROP_SIZE) // 2
        crops = crops[:, :, edge : edge + CROP_SIZE, edge : edge + CROP_SIZE]
        found = torch.cat([self._classify(part).argmax(dim=1) for part in crops.split(256)])
        self.model.train()
        return (found == classes.to(self.device)).float().mean().item()

    def _classify(self, crops: Tensor) -> Tensor:
        pixels = (crops.to(self.device) - self.mean) / self.std
        return self.model(pixels.contiguous(memory_format=torch.channels_last))


def _augment(crops: Tensor, generator: torch.Generator) -> Tensor:
    """Shift all crops by one random offset in their margin and flip half, to (B, C, S, S)."""
    y, x = torch.randint(_CUT_SIZE - CROP_SIZE + 1, (2,), generator=generator).tolist()
    crops = crops[:, :, y : y + CROP_SIZE, x : x + CROP_SIZE]
    half = len(crops) // 2
    return torch.cat([crops[:half].flip(3), crops[half:]])
