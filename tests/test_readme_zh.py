"""README.zh-CN.md says what README.md says: the same headings, commands, links, keys and tables."""

import re

import pytest
from markdown_pages import (
    code_spans,
    explicit_anchors,
    fenced_blocks,
    headings,
    links,
    slug,
    tables,
)

# Each page's link to the other.
_OTHER = {"README.md": "README.zh-CN.md", "README.zh-CN.md": "README.md"}


@pytest.fixture(scope="module")
def english(repo) -> str:
    return (repo / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def chinese(repo) -> str:
    return (repo / "README.zh-CN.md").read_text(encoding="utf-8")


def sections(page: str) -> list[str]:
    """Return the text under each heading, together with the heading."""
    fenced = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
    # A comment in a block begins like a heading.
    masked = fenced.sub(lambda block: block[0].replace("\n#", "\n "), page)
    starts = [match.start() for match in re.finditer(r"^#{1,6} ", masked, re.MULTILINE)]
    return [page[a:b] for a, b in zip(starts, [*starts[1:], len(page)], strict=True)]


def without_comments(block: str) -> list[str]:
    return [re.sub(r"(^|\s+)# .*$", "", line).rstrip() for line in block.splitlines()]


def numbers(cell: str) -> list[str]:
    return re.findall(r"\d+(?:\.\d+)?", cell)


def test_each_links_to_the_other_at_its_head(english, chinese):
    assert _OTHER["README.md"] in links("\n".join(english.splitlines()[:5]))
    assert _OTHER["README.zh-CN.md"] in links("\n".join(chinese.splitlines()[:7]))


def test_headings_have_the_same_levels_and_anchors(english, chinese):
    assert [level for level, _ in headings(chinese)] == [level for level, _ in headings(english)]
    assert explicit_anchors(chinese) == [slug(text) for _, text in headings(english)]
    for anchor in explicit_anchors(chinese):  # right above its heading, an empty line between
        assert re.search(rf'<a id="{re.escape(anchor)}"></a>\n\n#', chinese), anchor


def test_blocks_are_the_same_line_by_line(english, chinese):
    ours, theirs = fenced_blocks(english), fenced_blocks(chinese)
    assert [language for language, _ in theirs] == [language for language, _ in ours]
    for (_, block), (_, translated) in zip(ours, theirs, strict=True):
        assert without_comments(translated) == without_comments(block)


def test_each_section_has_the_same_links_and_code(english, chinese):
    for section, translated in zip(sections(english), sections(chinese), strict=True):
        title = section.splitlines()[0]
        assert set(links(translated)) - set(_OTHER) == set(links(section)) - set(_OTHER), title
        assert code_spans(translated) == code_spans(section), title


def test_tables_have_the_same_lines(english, chinese):
    ours, theirs = tables(english), tables(chinese)
    assert [len(table) for table in theirs] == [len(table) for table in ours]
    for table, translated in zip(ours, theirs, strict=True):
        for line, other in zip(table, translated, strict=True):
            assert len(other) == len(line), line
            if line[0].startswith("`MODEL."):
                assert other[0] == line[0]
            for cell, its in zip(line, other, strict=True):
                assert code_spans(its) == code_spans(cell), line
                assert numbers(its) == numbers(cell), line
