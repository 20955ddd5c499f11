"""A colour for each level of the pyramid, the same in every picture."""

from .drawing import PALETTE

# Neighbouring levels differ in lightness too: orange, blue, green, purple, sky blue, vermilion.
LEVEL_COLORS = dict(zip(range(2, 8), (PALETTE[i] for i in (0, 4, 2, 6, 1, 5)), strict=True))


def level_number(feature: str) -> int:
    """Return the level of a feature: 4 for ``"p4"``, ``"res4"`` and ``"c4"``.

    Raises:
        ValueError: if the name does not end in a digit.
    """
    if not feature[-1:].isdigit():
        raise ValueError(
            f"{feature!r} names no level; a feature's name ends in its level, as p4 or res4 do"
        )
    return int(feature[-1])


def level_color(level: int) -> str:
    """Return the colour of a level as ``#RRGGBB``.

    P2 to P7 have colours that people with any colour vision can tell apart (Okabe and Ito). Other
    levels share them in turn.
    """
    return LEVEL_COLORS[2 + (level - 2) % len(LEVEL_COLORS)]
