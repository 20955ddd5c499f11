"""The tests' own reader of Markdown."""

from markdown_pages import anchors, code_spans, fenced_blocks, headings, links, slug, tables

PAGE = """# A *title*

[one](a.md#b) `[not](a.link)` and [two
lines](https://x.org/y) ![picture](p.png) `code
of two` lines

```bash
# no heading
ls  # [no](link)
```

<a id="explicit"></a>

## A row, of your own!
## A row, of your own!

| a | b |
|---|---|
| `c` | 1 |
"""


def test_a_page_is_read():
    assert headings(PAGE)[1:] == [(2, "A row, of your own!")] * 2
    assert links(PAGE) == ["a.md#b", "https://x.org/y", "p.png"]
    assert code_spans(PAGE) == {"[not](a.link)", "code of two", "c"}
    assert fenced_blocks(PAGE) == [("bash", "# no heading\nls  # [no](link)\n")]
    assert tables(PAGE) == [[["a", "b"], ["---", "---"], ["`c`", "1"]]]


def test_anchors_are_githubs():
    # What GitHub's pages of this repository and of Detectron2 have.
    assert (
        slug("Fast R-CNN on fixed proposals (Table 2)") == "fast-r-cnn-on-fixed-proposals-table-2"
    )
    assert slug("1. Does it work here?") == "1-does-it-work-here"
    assert slug("The `snake_case` of [a link](b.md)") == "the-snake_case-of-a-link"
    assert slug("两条命令") == "两条命令"
    assert anchors(PAGE) == {"a-title", "explicit", "a-row-of-your-own", "a-row-of-your-own-1"}
