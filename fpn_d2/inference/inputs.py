"""Images in any form that a caller may give, as pixels with the channels of ``INPUT.FORMAT``.

Shape shorthand: an image of H x W pixels, C channels in the network's input.
"""

import os

import numpy as np
import torch
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.data.transforms import Augmentation
from PIL import Image
from torch import Tensor

from ..data.images import pixels_of, read_image, use_image
from ..utils.errors import UserError, reason_of

_NOT_8_BITS = (
    "is no image of 8 bits; give uint8 from 0 to 255, which is (255 * image).round() of values "
    "from 0 to 1"
)
ImageInput = str | os.PathLike | Image.Image | np.ndarray | Tensor


def input_pixels(image: ImageInput, image_format: str) -> np.ndarray:
    """Read an image that is given in any of these forms.

    ===================  ==================================================================
    path                 a file that Pillow reads, turned as its EXIF data say
    PIL image            of any mode whose range is known, turned likewise
    array                (H, W, 3) uint8, BGR as OpenCV has it; (H, W) or (H, W, 1) is grey
    tensor               (3, H, W) uint8, RGB as torchvision has it; (H, W) or (1, H, W) is grey
    ===================  ==================================================================

    Args:
        image: the image.
        image_format: the channels to return, as in ``cfg.INPUT.FORMAT``.

    Returns:
        (H, W, C) uint8.

    Raises:
        UserError: for anything else, saying what to do about it.
    """
    if isinstance(image, str | os.PathLike):
        path = os.fspath(image)
        pixels, fault = use_image(
            lambda record: read_image(record["file_name"], image_format), {"file_name": path}
        )
        if fault is not None:
            raise UserError(f"image {path} {fault}; name another")
        return pixels
    if isinstance(image, Image.Image):
        if 0 in image.size:
            raise UserError("a PIL image has no pixels; give one that has some")
        try:
            return pixels_of(image, image_format)
        except UserError:
            raise
        except Exception as error:  # Pillow decodes the file only now
            reason = reason_of(error)
            raise UserError(f"a PIL image cannot be read ({reason}); give another") from error
    if isinstance(image, Tensor):
        if image.dtype == torch.bfloat16:  # NumPy has no such dtype
            raise UserError(f"a tensor of bfloat16 {_NOT_8_BITS}")
        rgb = _with_three_channels(image.detach().cpu().numpy(), 0, "a tensor", "permute(2, 0, 1)")
        rgb = rgb.transpose(1, 2, 0)
    elif isinstance(image, np.ndarray):
        rgb = _with_three_channels(image, 2, "an array", "transpose(1, 2, 0)")[:, :, ::-1]
    else:
        cause = ", as cv2.imread returns for a file that it cannot read" if image is None else ""
        raise UserError(
            f"an image is {type(image).__name__}{cause}; give a path, a PIL image, an array or a "
            "tensor"
        )
    if image_format in ("RGB", "BGR"):
        return rgb[:, :, ::-1] if image_format == "BGR" else rgb
    return convert_PIL_to_numpy(Image.fromarray(rgb), image_format)


def network_input(pixels: np.ndarray, resize: Augmentation) -> Tensor:
    """Resize (H, W, C) pixels by :func:`fpn_d2.data.build_test_resize`, to (C, h, w) float32."""
    resized = resize.get_transform(pixels).apply_image(pixels).transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(resized, np.float32))


def _with_three_channels(pixels: np.ndarray, axis: int, what: str, remedy: str) -> np.ndarray:
    """Check an image whose channels are on ``axis``, and triple the one channel of a grey one.

    ``remedy`` is the call that brings the channels to that axis.
    """
    shape, form = pixels.shape, "(3, H, W)" if axis == 0 else "(H, W, 3)"
    if pixels.dtype != np.uint8:
        raise UserError(f"{what} of {pixels.dtype} {_NOT_8_BITS}")
    if 0 in shape:
        raise UserError(f"{what} of shape {shape} has no pixels; give one that has some")
    if len(shape) == 4:
        raise UserError(f"{what} of shape {shape} is a batch; give list(images)")
    if len(shape) == 2:
        pixels = np.expand_dims(pixels, axis)
    if pixels.ndim != 3 or pixels.shape[axis] not in (1, 3):
        advice = f"give {form}, or (H, W) for grey"
        if len(shape) == 3 and shape[axis] == 4:
            colours = "image[:3]" if axis == 0 else "image[:, :, :3]"
            advice = f"leave the transparency out, {colours}"
        elif len(shape) == 3 and shape[2 - axis] in (1, 3):
            advice = f"give image.{remedy}"
        raise UserError(f"{what} of shape {shape} is no {form} image; {advice}")
    return pixels if pixels.shape[axis] == 3 else np.repeat(pixels, 3, axis)
