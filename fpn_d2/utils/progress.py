"""Show the progress of long work: a bar in a terminal, elsewhere a line every 20 seconds."""

import contextlib
import io
import logging
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

SECONDS = 20.0

logger = logging.getLogger(__name__)


def told(
    work: str,
    items: Iterable[Any] | None = None,
    total: int | None = None,
    *,
    unit: str = "image",
    **more: Any,
) -> tqdm:
    """Go through items and show the progress and the time left.

    Args:
        work: the name of the work.
        items: what to go through; None if the caller counts by ``update()``.
        total: the number of items, if they have no length.
        unit: the name of one item.
        more: see :class:`tqdm.tqdm`.

    Returns:
        the bar; where stderr is no terminal, its lines go to the log, and short work has none.
    """
    if sys.stderr.isatty():
        return tqdm(items, work, total, unit=unit, **more)
    line = "{desc}: {n_fmt} of {total_fmt} {unit}s in {elapsed}, {remaining} left"
    often = {"mininterval": SECONDS, "maxinterval": SECONDS, "miniters": 1, "delay": SECONDS}
    often |= {"leave": False, "position": 0}  # no second line at its end, no cursor moves
    return tqdm(items, work, total, unit=unit, file=_Log(), bar_format=line, **often, **more)


@contextlib.contextmanager
def working(work: str) -> Iterator[None]:
    """Log every 20 seconds that work whose progress cannot be counted is still going on."""
    start, done = time.monotonic(), threading.Event()

    def tell() -> None:
        while not done.wait(SECONDS):
            _say(f"{work}: {time.monotonic() - start:.0f} s so far")

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class _Log(io.StringIO):
    """The file of a bar that writes each state of the bar as a line of the log."""

    def write(self, text: str) -> int:
        if text.strip():
            _say(text.strip())
        return len(text)


def _say(line: str) -> None:
    """Log a line; in a program that has set up no log, print it."""
    if logger.isEnabledFor(logging.INFO) and logger.hasHandlers():
        logger.info("%s", line)
    else:
        print(line, file=sys.stderr, flush=True)
