"""What tests read from Markdown pages: headings, anchors, links, fenced blocks, tables."""

import re
from collections import Counter

# Inline code may run over several lines, but not over several paragraphs.
_CODE = re.compile(r"`((?:[^`\n]|\n(?!\n))+)`")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def fenced_blocks(page: str) -> list[tuple[str, str]]:
    """Return the language and the text of each fenced block."""
    return _FENCE.findall(page)


def without_code(page: str) -> str:
    """Return a page without its fenced blocks and with its inline code emptied."""
    return _CODE.sub("``", _FENCE.sub("", page))


def code_spans(page: str) -> set[str]:
    """Return all inline code, with any line break in it turned into a space."""
    return {" ".join(span.split()) for span in _CODE.findall(_FENCE.sub("", page))}


def headings(page: str) -> list[tuple[int, str]]:
    """Return the level, 1 to 6, and the text of each heading."""
    found = re.findall(r"^(#{1,6}) (.+)$", _FENCE.sub("", page), re.MULTILINE)
    return [(len(marks), text.strip()) for marks, text in found]


def slug(heading: str) -> str:
    """Return GitHub's anchor for a heading: lower case, no punctuation, a hyphen for each space."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def explicit_anchors(page: str) -> list[str]:
    """Return the ids of ``<a id="..."></a>``, in order."""
    return re.findall(r'<a id="([^"]+)"></a>', _FENCE.sub("", page))


def anchors(page: str) -> set[str]:
    """Return everything that a link to this page may have after the ``#``."""
    seen: Counter[str] = Counter()
    found = set(explicit_anchors(page))
    for _, text in headings(page):
        name = slug(text)
        found.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return found


def links(page: str) -> list[str]:
    """Return the targets of links and pictures, in order and as written."""
    return re.findall(r"\]\(([^)\s]+)\)", without_code(page))


def tables(page: str) -> list[list[list[str]]]:
    """Return the cells of each table, line by line, with its head first."""
    found: list[list[list[str]]] = [[]]
    for line in _FENCE.sub("", page).splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif found[-1]:
            found.append([])
    return [table for table in found if table]
