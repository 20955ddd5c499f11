"""The files that a demo writes: complete or not at all, and none over another.

Shape shorthand: an image or a frame is (H, W, 3) uint8, RGB, with R detections.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import supervision as sv
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from PIL import Image

from ..structures import RegionMasks
from ..utils.errors import UserError
from ..utils.files import check_targets, explain_disk_errors, partial_path, replace_file
from ..utils.progress import told
from .sources import MAX_PIXELS, VIDEOS, check_video

# At least this share of a video's stated frames must be readable; their number may be an estimate.
_READABLE = 0.9
WRITE_REMEDY = "name another --output, or make room there"


def prepare_folder(
    folder: str, names: Iterable[str], inputs: Sequence[str], *, replace: bool = False
) -> None:
    """Make the output folder, and check that nothing in it will be lost.

    Args:
        folder: the output folder.
        names: the files that will be written.
        inputs: the files that are read.
        replace: whether files that exist may be replaced; inputs never are.

    Raises:
        UserError: if the folder cannot be made, an input would be overwritten, or a file exists
            and ``replace`` is False.
    """
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UserError(f"--output {folder} is a file; name a folder")
    paths = [os.path.join(folder, name) for name in names]
    read = {os.path.realpath(path) for path in inputs}
    for path in paths:
        if os.path.realpath(path) in read:
            raise UserError(f"{path} is an input and would be overwritten; name another --output")
    check_targets(*paths, overwrite=replace, option="--output")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder} cannot be made ({error.strerror})") from error


def named_file(output: str) -> str:
    """Return the kind of file that an output names, ``"image"`` or ``"video"``; "" for a folder."""
    ending = os.path.splitext(output)[1].lower()
    if os.path.isdir(output) or output.endswith(("/", os.sep)):
        return ""
    known = Image.registered_extensions()
    return "video" if ending in VIDEOS else "image" if known.get(ending) in Image.SAVE else ""


def write_picture(path: str, picture: np.ndarray | Image.Image) -> None:
    """Write a picture, (H, W, 3) uint8 RGB or Pillow's, in the format of the name's ending.

    Raises:
        UserError: if it cannot be written.
    """
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    with explain_disk_errors(path, WRITE_REMEDY), replace_file(path, "wb") as file:
        image.save(file, format=Image.registered_extensions()[os.path.splitext(path)[1].lower()])


def convert_video(
    source: str,
    target: str,
    draw: Callable[[np.ndarray, int], np.ndarray],
    *,
    max_pixels: int = MAX_PIXELS,
) -> int:
    """Write a video of pictures drawn from another's frames, at its frame rate, without sound.

    Only one frame is in memory at a time. The target, an MP4 (MPEG-4), appears once it is complete.

    Args:
        source: the video to read.
        target: the file to write, whose name ends in ``.mp4``.
        draw: makes a picture from a frame and its number, from 0; all pictures have one size.
        max_pixels: the most pixels that a frame may have.

    Returns:
        the number of frames.

    Raises:
        UserError: if the source cannot be read to its end, or the target cannot be written.
    """
    info = check_video(source, max_pixels=max_pixels)
    partial = partial_path(target, ".mp4")  # OpenCV chooses the format by the ending
    name, total = os.path.basename(source), max(info.total_frames, 0)
    count, sink = 0, None
    try:
        with contextlib.ExitStack() as stack:
            frames = sv.get_video_frames_generator(source)
            for frame in told(name, frames, total or None, unit="frame"):
                picture = draw(np.ascontiguousarray(frame[:, :, ::-1]), count)
                # MPEG-4 keeps colours at half the resolution, so the sides have to be even.
                height, width = (side - side % 2 for side in picture.shape[:2])
                if sink is None:
                    # MPEG-4's clock has 16 bits, and OpenCV gives it three decimals.
                    rate = info.fps or 25
                    rate = max(0.001, round(rate, 3 if rate < 65 else 2 if rate < 650 else 0))
                    shape = sv.VideoInfo(width, height, rate)
                    try:
                        sink = stack.enter_context(sv.VideoSink(partial, shape))
                    except RuntimeError as error:
                        raise UserError(f"{partial} cannot be written ({error})") from error
                sink.write_frame(np.ascontiguousarray(picture[:height, :width, ::-1]))
                count += 1
        if not count:
            raise UserError(f"video {source} has no frames; is it complete?")
        if count < _READABLE * total:
            raise UserError(
                f"video {source} cannot be read from frame {count} on, although it should have "
                f"{total}; convert it, or cut it before that"
            )
        # OpenCV's writer does not report a full disk.
        written = -1
        with contextlib.suppress(Exception):  # a file without its end cannot be opened
            written = sv.VideoInfo.from_video_path(partial).total_frames
        if written != count:
            raise UserError(f"{target} could not be written whole; {WRITE_REMEDY}")
        os.replace(partial, target)
    finally:
        with contextlib.suppress(OSError):
            os.remove(partial)
    return count


def coco_results(
    detections: Instances, image_id: int, category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Convert detections to COCO's result form.

    Args:
        detections: R detections; see :meth:`fpn_d2.inference.Predictor.detect`.
        image_id: the id of the image.
        category_ids: the ids of the classes; see :func:`fpn_d2.inference.classes_of`.

    Returns:
        R dictionaries of ``image_id``, ``category_id``, ``bbox`` as x, y, width and height in
        pixels, ``score`` and, for masks, ``segmentation`` as an RLE.
    """
    fields = dict(detections.get_fields())
    # Proposals have no class; they all count as the first one.
    fields.setdefault("pred_classes", detections.scores.new_zeros(len(detections)))
    compact = isinstance(fields.get("pred_masks"), RegionMasks)
    masks = fields.pop("pred_masks").to_rle() if compact else ()
    results = instances_to_coco_json(Instances(detections.image_size, **fields), image_id)
    for result, rle in zip(results, masks, strict=compact):
        result["segmentation"] = {**rle, "counts": rle["counts"].decode("ascii")}
    for result in results:
        result["category_id"] = category_ids[int(result["category_id"])]
    return results
