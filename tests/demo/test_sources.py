"""Inputs of every kind; one that cannot be used ends with an error of one sentence."""

import json
from pathlib import Path

import pytest
from detectron2.data.datasets import register_coco_instances
from PIL import Image

from fpn_d2 import UserError
from fpn_d2.data.images import read_image
from fpn_d2.demo import sources as sources_module
from fpn_d2.demo.sources import find_sources, image_ids, listed


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.jpg"):
        Image.new("RGB", (8, 6)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "deeper").mkdir()
    return tmp_path


def test_a_folder_gives_its_images_by_name_and_counts_the_rest(folder):
    sources = find_sources([str(folder), str(folder / "a.jpg")])
    assert [path.rsplit("/")[-1] for path in sources.images] == ["a.jpg", "b.png"]
    assert listed(sources.skipped) == "1 other file: notes.txt"
    Image.new("RGB", (8, 6)).save(folder / "scan.pdf")  # which Pillow writes but cannot read
    Image.new("RGB", (8, 6)).save(folder / "plot.eps")  # which another program would draw
    Image.new("RGB", (8, 6)).save(folder / "c.MPO", "JPEG")
    sources = find_sources([str(folder)])
    assert [path.rsplit("/")[-1] for path in sources.images] == ["a.jpg", "b.png", "c.MPO"]
    assert listed(sources.skipped) == "3 other files: notes.txt, plot.eps, scan.pdf"
    assert listed([*"abcdefg"]) == "7 other files: a, b, c, d, e and 2 more"


@pytest.mark.parametrize("side", [30_000, 9_000])
def test_a_picture_with_too_many_pixels_is_not_decoded(side, tmp_path):
    (tmp_path / "big.ppm").write_text(f"P6 {side} {side} 255\n")  # a header alone
    with pytest.raises(UserError, match=r"big\.ppm has .*pixels"):
        find_sources([str(tmp_path / "big.ppm")])
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    assert find_sources([str(tmp_path / "a.png")], max_pixels=48).images
    with pytest.raises(UserError, match=r"a\.png has 8 x 6 pixels, .*; raise --max-pixels"):
        find_sources([str(tmp_path / "a.png")], max_pixels=47)


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("a.jpg", r"a\.jpg is no image"),
        ("", r"no image or video .*1 other file: a\.txt"),  # the folder itself
        ("empty", "no image or video"),
        ("gone.jpg", "does not exist"),
        ("MODEL.DEVICE", "overrides come last"),
        ("a.avi", r"video a\.avi cannot be read"),
    ],
)
def test_what_is_neither_image_nor_video_is_refused(name, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / (name if name in ("a.jpg", "a.avi") else "a.txt")).write_text("no")
    with pytest.raises(UserError, match=sentence):
        find_sources([name or "."])


def test_a_pattern_and_a_url_stand_for_their_files(folder, monkeypatch):
    (folder / "deeper" / "c[1].png").write_bytes((folder / "b.png").read_bytes())
    pattern = find_sources([str(folder / "**" / "*.png")])
    assert pattern.images == (str(folder / "b.png"), str(folder / "deeper" / "c[1].png"))
    literal = find_sources([str(folder / "deeper" / "c[1].png")])  # an existing file, not a pattern
    assert literal.images == (str(folder / "deeper" / "c[1].png"),)

    def fetch(url, cache_dir=None):
        if "gone" in url:
            raise OSError("404")
        if "notes" in url:
            return str(folder / "notes.txt")
        return str(folder / "a.jpg") if url.startswith("https") else url

    monkeypatch.setattr(sources_module.PathManager, "get_local_path", fetch)
    url = "https://example.com/a.jpg"
    found = find_sources([url])
    assert (found.images, found.urls) == ((str(folder / "a.jpg"),), {str(folder / "a.jpg"): url})
    for url, sentence in (
        ("https://example.com/gone.jpg", r"cannot be downloaded \(404\); name image files"),
        ("none://a.jpg", "no kind that can be downloaded; name image files"),
        ("https://example.com/notes.jpg", r"image https://example\.com/notes\.jpg is no image"),
        ("https://example.com/notes.MP4?x=1", r"video https://example\.com/\S*x=1 cannot be read"),
    ):
        with pytest.raises(UserError, match=sentence):
            find_sources([url])


def test_urls_that_share_a_path_are_several_images(tmp_path, monkeypatch):
    def fetch(url, filename, reporthook):
        Image.new("RGB", (8, 6), url.split("/")[2]).save(filename, "PNG")
        return filename, None

    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlretrieve", fetch)
    urls = ["http://red/cam/1.png", "http://blue/cam/1.png"]
    found = find_sources(urls)
    assert [found.urls[path] for path in found.images] == urls
    colors = [read_image(path)[0, 0].tolist() for path in found.images]
    assert colors == [[255, 0, 0], [0, 0, 255]]


def test_a_url_with_a_space_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"input http://localhost:1/my photo\.png cannot be down"):
        find_sources(["http://localhost:1/my photo.png"])


def test_images_of_the_test_set_have_its_ids(
    tiny_root, tiny_truth, tiny_opts, row_config, tmp_path
):
    cfg = row_config("quick/RPN/rpn_R_18_FPN", *tiny_opts)
    images = tiny_truth["images"][::-1]
    paths = [f"{tiny_root}/tiny/images/{image['file_name']}" for image in images]
    ids = [image["id"] for image in images]
    assert ids != [*range(1, len(ids) + 1)]
    assert image_ids(cfg, paths) == ids
    for other in (tmp_path / "x.png", f"{tiny_root}/tiny/images/x.png"):
        assert image_ids(cfg, [*paths, str(other)]) == [1, 2, 3, 4, 5]
    other = row_config("quick/RPN/rpn_R_18_FPN", "DATASETS.TEST", "('nowhere',)")
    assert image_ids(other, paths) == [1, 2, 3, 4]


NAMED = {"file_name": "a.png", "id": 7}


@pytest.mark.parametrize(
    "images, ids",
    [
        (None, [1]),
        (3, [1]),
        ([1, {"id": 5}, {"file_name": 3, "id": 5}], [1]),
        ([None, {"file_name": None, "id": 5}, NAMED], [7]),
    ],
)
def test_images_that_annotations_do_not_name_have_no_ids_of_theirs(
    row_config, tmp_path, images, ids
):
    (tmp_path / "odd.json").write_text(json.dumps({"images": images}))
    register_coco_instances("odd_val", {}, str(tmp_path / "odd.json"), str(tmp_path))
    cfg = row_config("quick/RPN/rpn_R_18_FPN", "DATASETS.TEST", "('odd_val',)")
    assert image_ids(cfg, [str(tmp_path / "a.png")]) == ids


def test_hidden_files_of_a_folder_are_not_taken(folder):
    (folder / "._a.jpg").write_bytes(b"\0\5\x16\7")
    sources = find_sources([str(folder)])
    assert [Path(path).name for path in sources.images] == ["a.jpg", "b.png"]
