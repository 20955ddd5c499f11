"""Models that a command line names."""

import pytest

from fpn_d2 import UserError
from fpn_d2.inference import free_title, split_pair


@pytest.mark.parametrize(
    ("words", "pair"),
    [
        ("a/b.yaml:model.pth", ("a/b.yaml", "model.pth")),
        ("b.yml:https://x.org/m.pkl", ("b.yml", "https://x.org/m.pkl")),
        ("C:/b.yaml:C:/m.pth", ("C:/b.yaml", "C:/m.pth")),
    ],
)
def test_the_config_ends_at_its_suffix(words, pair):
    assert split_pair(words, "--model") == pair


@pytest.mark.parametrize(
    "words", ["b.yaml", "b.yaml:", "b.txt:a.pth", "model.pth:b.yaml", ":b", ""]
)
def test_words_of_another_form_name_the_option(words):
    with pytest.raises(UserError, match=r"--compare .* is not of the form CONFIG:WEIGHTS"):
        split_pair(words, "--compare")


def test_titles_are_numbered_where_they_must_be():
    taken = {}
    for path in ("a/row.yaml", "b/row.yaml", "other.yaml", "c/row.yaml"):
        taken[free_title(path, taken)] = path
    assert list(taken) == ["row", "row (2)", "other", "row (3)"]
