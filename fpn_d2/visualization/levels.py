"""One colour for each level of the pyramid, the same in every picture."""

from .drawing import PALETTE

__all__ = ["LEVEL_COLORS", "level_color", "level_number"]

# Neighbouring levels are far apart in lightness too: orange, blue, green, purple, sky, vermilion.
LEVEL_COLORS = dict(zip(range(2, 8), (PALETTE[i] for i in (0, 4, 2, 6, 1, 5)), strict=True))


def level_number(feature: str) -> int:
    """The level of a feature: 4 of ``"p4"``, ``"res4"`` and ``"c4"``.

    Raises:
        ValueError: where the name ends in no digit.
    """
    if not feature[-1:].isdigit():
        raise ValueError(f"{feature!r} names no level; features end in theirs, such as p4 or res4")
    return int(feature[-1])


def level_color(level: int) -> str:
    """The colour of level 2 to 7 as ``#RRGGBB``; others share them in turn.

    P2 to P7 are far enough apart for people with any colour vision (Okabe and Ito).
    """
    return LEVEL_COLORS[2 + (level - 2) % len(LEVEL_COLORS)]
