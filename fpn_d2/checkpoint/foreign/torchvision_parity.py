"""Compare a converted torchvision detector with torchvision's own.

Both get the same images, not resized, so that only the networks are compared: each step on the
same input, and the detections as a user gets them.
"""

from collections.abc import Iterable

import torch
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList as TorchvisionImages

from ...evaluation.matching import match_detections
from ...utils.errors import UserError, reason_of

PIXELS = 0.05
_TIED = 1e-4  # the difference between two scores that rounding may cause
_SIZES = ((128, 160), (96, 144), (200, 152), (64, 64), (97, 131), (176, 112), (65, 190), (150, 150))


def build_torchvision(weights: dict[str, Tensor], norm_eps: float) -> nn.Module:
    """Build torchvision's model with its own weights, in eval mode, its norms with this eps.

    Raises:
        UserError: if the weights belong to another model.
    """
    weights = {name.removeprefix("module."): weight for name, weight in weights.items()}
    dense = weights.get("head.classification_head.cls_logits.bias")
    if dense is None:
        kind = detection.fasterrcnn_resnet50_fpn
        columns = len(weights["roi_heads.box_predictor.cls_score.bias"])
    else:
        kind, columns = detection.retinanet_resnet50_fpn, len(dense) // 9
    model = kind(weights=None, weights_backbone=None, num_classes=columns)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = reason_of(error)
        raise UserError(
            f"the weights do not fit torchvision's {kind.__name__} ({reason}), so they cannot be "
            "compared with it; leave out --check"
        ) from error
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = norm_eps
    return model.eval()


def noise_images(count: int, seed: int = 0) -> list[Tensor]:
    """Draw images of different sizes, of noise at several scales: (3, H, W), RGB from 0 to 255."""
    generator = torch.Generator().manual_seed(seed)
    images = []
    for number in range(count):
        height, width = _SIZES[number % len(_SIZES)]
        height, width = height + number // len(_SIZES) * 9, width + number // len(_SIZES) * 14
        image = torch.zeros(3, height, width)
        for cell in (1, 8, 32):
            noise = torch.rand(1, 3, height // cell + 1, width // cell + 1, generator=generator)
            image += nn.functional.interpolate(noise, size=(height, width), mode="nearest")[0] / 3
        images.append((image * 255).round())
    return images


@torch.no_grad()
def compare_with_torchvision(
    ours: nn.Module, theirs: nn.Module, images: Iterable[Tensor], labels: list[int]
) -> dict[str, float]:
    """Compare two detectors with the same weights.

    Args:
        ours: the converted model, in eval mode.
        theirs: torchvision's, in eval mode.
        images: images of shape (3, H, W), RGB from 0 to 255.
        labels: torchvision's label of each of our classes.

    Returns:
        the largest differences of ``features``, ``anchors`` in pixels, ``head`` (the RPN's or
        RetinaNet's) and, for Faster R-CNN on torchvision's proposals, ``box_head`` and ``scores``;
        ``detections``, the number of torchvision's of these classes, without those whose score is
        tied with the last one returned; and ``matched_share``: of each detector's detections, the
        share that the other has too, one to one, of the same class and within 0.05 px (1 if there
        are none), and of these two shares the lesser.
    """
    if hasattr(theirs, "roi_heads"):
        # torchvision infers the strides from the first image and keeps them; they are wrong if
        # that is a small image with much padding.
        theirs.roi_heads.box_roi_pool.scales = None
        theirs.transform.min_size = (256,)
        theirs([torch.rand(3, 256, 256)])
    worst: dict[str, float] = {}
    counts, matched = [0, 0], [0, 0]
    for image in images:
        inputs = ours.preprocess_image([{"image": image}])
        expected = _torchvision_outputs(theirs, inputs, labels)
        for name, values in _outputs(ours, inputs, expected.get("proposals")).items():
            for a, b in zip(values, expected[name], strict=True):
                assert a.shape == b.shape
                error = float((a - b).abs().max()) if a.numel() else 0.0
                worst[name] = max(worst.get(name, 0.0), error)
        found = ours([{"image": image}])[0]["instances"]
        expected, least = _torchvision_detections(theirs, image, labels)
        for side, (kept, others) in enumerate([(expected, found), (found, expected)]):
            kept = kept[kept.scores > least + _TIED]
            counts[side] += len(kept)
            matched[side] += match_detections(others, kept, PIXELS)
    shares = [m / count if count else 1.0 for m, count in zip(matched, counts, strict=True)]
    return {**worst, "detections": counts[0], "matched_share": min(shares)}


def _outputs(
    model: nn.Module, images: ImageList, proposals: list[Tensor] | None
) -> dict[str, list[Tensor]]:
    features = list(model.backbone(images.tensor).values())
    if hasattr(model, "roi_heads"):
        rpn = model.proposal_generator
        anchors, head = rpn.anchor_generator(features), rpn.rpn_head(features)
    else:
        anchors = model.anchor_generator(features)
        head = model._transpose_dense_predictions(model.head(features), [model.num_classes, 4])
        head = [[torch.cat(levels, dim=1)] for levels in head]
    outputs = {
        "features": features,
        "anchors": [Boxes.cat(anchors).tensor],
        "head": [tensor for kind in head for tensor in kind],
    }
    if proposals is not None:
        heads = model.roi_heads
        pooled = heads.box_pooler(features[: len(heads.box_in_features)], [Boxes(proposals[0])])
        logits, deltas = heads.box_predictor(heads.box_head(pooled))
        outputs["box_head"] = [logits[:, :-1], deltas]
        outputs["scores"] = [logits.softmax(dim=1)[:, :-1]]
    return outputs


def _torchvision_outputs(
    model: nn.Module, images: ImageList, labels: list[int]
) -> dict[str, list[Tensor]]:
    features = model.backbone(images.tensor)
    levels = list(features.values())
    batch = TorchvisionImages(images.tensor, [tuple(size) for size in images.image_sizes])
    if not hasattr(model, "roi_heads"):
        head = model.head(levels)
        return {
            "features": levels,
            "anchors": model.anchor_generator(batch, levels),
            "head": [head["cls_logits"][..., labels], head["bbox_regression"]],
        }
    proposals, _ = model.rpn(batch, features)
    heads = model.roi_heads
    pooled = heads.box_roi_pool(features, proposals, images.image_sizes)
    logits, deltas = heads.box_predictor(heads.box_head(pooled))
    deltas = deltas.reshape(len(deltas), -1, 4)[:, labels].flatten(1)
    return {
        "features": levels,
        "anchors": model.rpn.anchor_generator(batch, levels),
        "head": [tensor for kind in model.rpn.head(levels) for tensor in kind],
        "proposals": proposals,
        "box_head": [logits[:, labels], deltas],
        "scores": [logits.softmax(dim=1)[:, labels]],
    }


def _torchvision_detections(
    model: nn.Module, image: Tensor, labels: list[int]
) -> tuple[Instances, float]:
    """Return torchvision's detections of our classes, best first, and the least possible score."""
    model.transform.min_size, model.transform.max_size = (min(image.shape[1:]),), 1 << 20
    head = model.roi_heads if hasattr(model, "roi_heads") else model
    limit, head.detections_per_img = head.detections_per_img, 1 << 20
    result = model([image / 255])[0]
    head.detections_per_img = limit
    numbers = {label: number for number, label in enumerate(labels)}
    kept = [i for i, label in enumerate(result["labels"].tolist()) if label in numbers]
    found = Instances(tuple(image.shape[1:]))
    found.pred_boxes = Boxes(result["boxes"][kept])
    found.scores = result["scores"][kept]
    found.pred_classes = torch.tensor([numbers[int(result["labels"][i])] for i in kept]).long()
    found = found[:limit]
    least = head.score_thresh if len(found) < limit else float(found.scores[-1])
    return found[found.pred_boxes.nonempty()], least
