"""How long a page takes to answer, asked over HTTP as a browser asks."""

import time
from typing import Any

from ..utils.errors import UserError
from .interface import serve
from .session import Session

__all__ = ["time_page"]


def time_page(
    session: Session, image: str, repeats: int = 5
) -> dict[str, list[tuple[float, float]]]:
    """Serve the page to this process alone, upload an image and move a slider.

    Args:
        session: its models, limits and examples.
        image: the file to upload.
        repeats: how often a slider is moved after the first answer.

    Returns:
        seconds on the clock, and of processors (which other programs do not lengthen), from a
        question to all pictures on this side: ``first``, an upload that loads the model;
        ``upload``, the same again; ``slider``, one for each move.

    Raises:
        UserError: where the page answers with a sentence about the image.
    """
    page, address = serve(session, block=False)
    try:
        from gradio_client import Client, handle_file  # comes with Gradio

        client = Client(address, verbose=False, analytics_enabled=False)
        own = session.defaults(session.models.titles[0])
        title = session.models.titles[0]
        settings = [own.threshold, own.nms, own.canonical_level, own.canonical_size]

        def ask(name: str, *words: Any) -> tuple[float, float]:
            start = time.perf_counter(), time.process_time()
            status, *_ = client.predict(*words, api_name=name)
            seconds = time.perf_counter() - start[0], time.process_time() - start[1]
            if "problem" in status:
                raise UserError(f"the page answered: {status}")
            return seconds

        upload = [ask("/upload", handle_file(image), title, *settings) for _ in range(2)]
        moves = []
        for i in range(repeats):
            settings[2] = 3 + i % 2
            moves.append(ask("/look", title, *settings))
        return {"first": upload[:1], "upload": upload[1:], "slider": moves}
    finally:
        page.close(verbose=False)
