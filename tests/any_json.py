"""Any JSON value, and any one of them in place of a value of a sound file, for hypothesis."""

import copy

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# Deterministic, and without a time limit for one example: the machine may be busy.
FEW = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
NAMES = st.sampled_from(
    ["id", "image_id", "category_id", "bbox", "segmentation", "counts", "size", "file_name"]
    + ["height", "width", "name", "iscrowd", "ignore", "area", "keypoints"]
    + ["images", "annotations", "categories"]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-3, 45)
    | st.integers()
    | st.sampled_from([10**400, -(2**63), 2**64])
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["0.png", "..", "\ud800", "\0", "1"])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(NAMES | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


def places(content, path=()):
    """The path of every value in a parsed file."""
    yield path
    if isinstance(content, (dict, list)):
        keys = content if isinstance(content, dict) else range(len(content))
        for key in keys:
            yield from places(content[key], (*path, key))


def replaced(content, path, value):
    if not path:
        return value
    content = copy.deepcopy(content)
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return content
