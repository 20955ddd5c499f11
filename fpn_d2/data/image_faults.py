"""What is wrong with an image file, in words."""

import warnings

from detectron2.utils.file_io import PathManager
from PIL import Image, UnidentifiedImageError

__all__ = ["image_fault"]

_ORIENTATION = 0x0112  # EXIF
_TURNED_ASIDE = (5, 6, 7, 8)


def image_fault(
    path: str,
    width: int | None = None,
    height: int | None = None,
    *,
    max_pixels: int | None = None,
) -> str | None:
    """Read an image file to its end and find what keeps it from being used.

    Args:
        path: the file.
        width, height: what the annotation file says, in pixels; None is compared with nothing.
        max_pixels: the most pixels of an image that is decoded; None is Pillow's own limit.

    Returns:
        the fault as the end of a sentence that begins with the image's name, or None.
    """
    try:
        return _fault(path, width, height, max_pixels)
    except FileNotFoundError:
        return "does not exist"
    except UnidentifiedImageError:
        return "is no image of a format that Pillow knows"
    except Image.DecompressionBombError:
        return f"has more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels, which Pillow does not open"
    except Exception as error:  # by its format Pillow raises OSError, SyntaxError, ValueError, ...
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return f"cannot be read ({' '.join(reason.split())})"


def _fault(path: str, width: int | None, height: int | None, max_pixels: int | None) -> str | None:
    with warnings.catch_warnings(), PathManager.open(path, "rb") as file:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(file) as image:
            found = image.size
            # Before EXIF, for which Pillow decodes a PNG.
            if max_pixels is not None and found[0] * found[1] > max_pixels:
                return f"has {found[0]} x {found[1]} pixels, more than the limit of {max_pixels:,}"
            # Detectron2 turns images as EXIF says before it compares their size.
            if image.getexif().get(_ORIENTATION) in _TURNED_ASIDE:
                found = found[::-1]
            # From the header, so that what is too large to be meant is not decoded.
            for wanted, side in zip((width, height), found, strict=True):
                if wanted is not None and wanted != side:
                    return (
                        f"has {found[0]} x {found[1]} pixels, and the annotation file says "
                        f"{width} x {height}"
                    )
            image.load()
            image.convert("RGB")
    return None
