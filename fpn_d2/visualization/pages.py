"""HTML pages of one style, each a single file that needs no network."""

import base64
import io
import os

import jinja2
from PIL import Image


def page_environment(folder: str) -> jinja2.Environment:
    """Return the environment that renders a page's template.

    Args:
        folder: the folder of the template. The template may include ``page.css``, the style of all
            pages.
    """
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, os.path.dirname(__file__)]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def data_url(picture: Image.Image) -> str:
    """Return a picture as the ``data:`` URL of a JPEG."""
    file = io.BytesIO()
    picture.convert("RGB").save(file, format="JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
