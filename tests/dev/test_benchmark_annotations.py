"""dev/benchmark_annotations.py: the file that it makes is sound, and each way reads all of it."""

import json

import benchmark_annotations
import pytest


def test_each_way_is_measured_on_a_sound_file_of_the_wanted_size(tmp_path):
    path = tmp_path / "made.json"
    benchmark_annotations.write_annotations(str(path), images=5, annotations=90)
    content = json.loads(path.read_text())
    assert (len(content["images"]), len(content["annotations"])) == (5, 90)
    for way in benchmark_annotations.WAYS:  # they assert that there are no findings
        seconds, peak = benchmark_annotations.measure(way, str(path))
        assert 0 < seconds < 60
        assert 0 < peak < 100
    content["annotations"][3]["bbox"] = [0, 0, -1, 1]
    path.write_text(json.dumps(content))
    with pytest.raises(AssertionError):
        benchmark_annotations.measure("judge", str(path))
