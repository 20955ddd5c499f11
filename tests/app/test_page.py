"""app/interface.py: the page in a headless Chromium, and what can be tested without one.

Without Gradio, Playwright or Chromium these tests are skipped, or fail if ``FPN_D2_PAGE_TESTS`` is
1. ``FPN_D2_CHROMIUM`` is the path of a browser that is not on the ``PATH``.
"""

import importlib
import io
import os
import shutil
import sys
from types import SimpleNamespace

import app as tool
import numpy as np
import pytest
from PIL import Image

from fpn_d2 import UserError
from fpn_d2.app.interface import _answer, build_page, import_gradio, serve
from fpn_d2.app.session import Limits, Session, View, example_images
from fpn_d2.config import changed

pytestmark = pytest.mark.filterwarnings("ignore")  # of Gradio's dependencies


def test_without_gradio_there_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r'pip install "fpn_d2\[app\]"'):
        import_gradio()


@pytest.mark.parametrize(
    "words, message",
    [
        (["--model", "x"], "--model x is not of the form"),
        (["--runs", "nowhere"], "no trained model below nowhere: train one"),
        (["--max-bytes", "0"], "the limit of bytes is 0"),
    ],
)
def test_the_tools_sentences(words, message, refused):
    assert message in refused(tool, *words)


def test_an_answer_is_a_text_and_a_picture_for_each_tab_or_a_sentence(session, monkeypatch):
    settings = 0.5, 0.5, 4, 100
    html, *pictures = _answer(session, 0, "<b>", *settings)
    assert "there is no model &#x27;&lt;b&gt;&#x27; on this page" in html
    assert pictures == [None] * 4
    monkeypatch.setattr(session, "look", lambda *_: View("1 < 2", *"abcd"))
    html, *pictures = _answer(session, 0, "any", *settings)
    assert html == '<p role="status">1 &lt; 2</p>'
    assert pictures == [*"abcd"]
    monkeypatch.setattr(session, "look", None)
    html, *pictures = _answer(session, 0, "any", *settings)
    assert "This did not work; the terminal" in html
    assert pictures == [None] * 4


def missing(sentence):
    """Skip the test, or fail where the page must be tested."""
    if os.environ.get("FPN_D2_PAGE_TESTS") == "1":
        pytest.fail(sentence)
    pytest.skip(sentence)


@pytest.fixture(scope="module")
def required():
    """``required(module)`` imports a module that the page's tests need."""

    def load(name):
        try:
            return importlib.import_module(name)
        except ImportError as error:
            return missing(f"the page is not tested: {error}")

    return load


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "[::1]"])
def test_this_machine_alone_unless_told_otherwise(host, session, required, capsys, monkeypatch):
    """Check what Gradio is told, without launching it."""
    gradio, told = required("gradio"), {}
    monkeypatch.setattr(
        gradio.Blocks, "launch", lambda self, **words: told.update(words) or (None, "there", None)
    )
    monkeypatch.delenv("GRADIO_ANALYTICS_ENABLED", raising=False)
    alone = host != "0.0.0.0"
    page, _ = serve(session, *([] if host == "127.0.0.1" else [host]), block=False)
    assert told["server_name"] == ("[::1]" if "::1" in host else host)
    assert told["share"] is False
    assert told["max_file_size"] == 10_000
    assert page.analytics_enabled is False
    # All requests of the page share one queue, which answers one at a time.
    queues = {(fn.concurrency_id, fn.concurrency_limit) for fn in page.fns.values()}
    assert queues == {("answers", 1)}
    error = capsys.readouterr().err
    if alone:
        assert "warning" not in error
    else:
        assert error.startswith("warning: with --host 0.0.0.0 everybody")
        assert error.count("\n") == 1


def test_a_models_own_values_are_on_the_sliders(tiny_config, required, monkeypatch):
    """A model's own value may lie outside a slider's usual ends."""
    slider = required("gradio").Slider
    eq1 = {"MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE": 512}
    odd = changed(tiny_config, {"MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.05, **eq1})
    ends = [(0.05, 1, 0.5), (0.05, 1, 0.05), (2, 6, 4), (16, 512, 512)]
    monkeypatch.setattr(Session, "look", lambda *_: View("", *[None] * 4))
    first = build_page(Session({"odd": odd}, Limits()))
    shown = [block for block in first.blocks.values() if isinstance(block, slider)]
    assert [(s.minimum, s.maximum, s.value) for s in shown] == ends
    page = build_page(Session({"usual": tiny_config, "odd": odd}, Limits()))
    (change,) = (fn.fn for fn in page.fns.values() if fn.name == "change_model")
    assert [(s.minimum, s.maximum, s.value) for s in change(0, "odd")[:4]] == ends


def test_the_image_that_is_shown_is_remembered(session, required, monkeypatch):
    required("gradio")
    monkeypatch.setattr(Session, "image", lambda self, source: source)
    seen = []
    monkeypatch.setattr(
        Session, "look", lambda self, *words: seen.append(words) or View("", *[None] * 4)
    )
    events = {fn.name: fn.fn for fn in build_page(session).fns.values()}
    rest = "title", 0.5, 0.5, 4, 100
    assert events["look_at_upload"]("a.png", *rest)[0] == "a.png"
    assert events["look_at_upload"](None, *rest)[0] == 0
    assert events["look_at_example"](SimpleNamespace(index=2), *rest)[0] == 2
    assert [image for _, image, _ in seen] == ["a.png", 0, 2]
    status, *pictures = events["change_model"](0, "gone")[4:]  # after the four sliders
    assert "there is no model" in status
    assert pictures == [None] * 4


@pytest.fixture
def browser(required):
    """A headless Chromium."""
    required("gradio")
    api = required("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = os.environ.get("FPN_D2_CHROMIUM") or next(filter(None, map(shutil.which, names)), "")
    if not os.path.isfile(program):
        missing(f"the page is not tested: there is no Chromium ({program or ', '.join(names)})")
    with api.sync_playwright() as playwright:
        # Chromium's sandbox refuses to run as root.
        sandbox = [] if os.getuid() else ["--no-sandbox"]
        chromium = playwright.chromium.launch(executable_path=program, args=sandbox)
        yield chromium
        chromium.close()


def shown(tab, minimum=""):
    """Return the source and pixels of the level picture, once its source is not ``minimum``."""
    tab.wait_for_function(
        "old => { const i = document.querySelector('#levels img'); return i && i.src !== old; }",
        arg=minimum,
        timeout=60_000,
    )
    source = tab.locator("#levels img").get_attribute("src")
    content = tab.request.get(source).body()
    return source, np.array(Image.open(io.BytesIO(content)).convert("RGB"))


def wait_for_status(tab, pattern):
    """Wait until the status matches the pattern: meanwhile Gradio shows "processing" over it."""
    tab.wait_for_function(
        "p => new RegExp(p, 's').test(document.querySelector('#status').innerText.trim())",
        arg=pattern,
        timeout=60_000,
    )


@pytest.mark.slow
def test_upload_move_k0_and_upload_no_image(tiny_config, random_weights, browser, tmp_path):
    session = Session({"tiny": tiny_config}, Limits())
    Image.fromarray(example_images()[2]).save(tmp_path / "image.png")
    (tmp_path / "words.txt").write_text("no image <b>at all</b>")
    page, address = serve(session, block=False)
    try:
        tab = browser.new_page()
        hosts = set()
        tab.on("request", lambda request: hosts.add(request.url.split("/")[2]))
        tab.goto(address)
        shown(tab)
        # An untrained model finds something only if the threshold is close to 0.
        tab.locator("#threshold input[type=number]").fill("0.05")
        tab.locator("#threshold input[type=number]").press("Enter")
        wait_for_status(tab, "^[1-9]")
        source, _ = shown(tab)
        tab.locator("#upload input[type=file]").set_input_files(tmp_path / "image.png")
        source, uploaded = shown(tab, source)
        wait_for_status(tab, "^[1-9][0-9]* .*k0 = 4")
        tab.locator("#k0 input[type=number]").fill("6")
        tab.locator("#k0 input[type=number]").press("Enter")
        _, moved = shown(tab, source)
        wait_for_status(tab, "k0 = 6")
        assert moved.shape == uploaded.shape
        assert not np.array_equal(moved, uploaded)
        tab.locator("#upload").get_by_label("Clear").first.click()
        tab.locator("#upload input[type=file]").set_input_files(tmp_path / "words.txt")
        problem = tab.locator("#status .problem")
        problem.wait_for()
        assert "words.txt is no image of a format that Pillow knows" in problem.inner_text()
        assert "Traceback" not in tab.content()
        assert {host.rpartition(":")[0] for host in hosts} == {"127.0.0.1"}
    finally:
        page.close(verbose=False)


def test_a_gradio_without_run_history_is_not_asked_for_it(session, required, monkeypatch):
    def launch(self, server_name, server_port, share, inbrowser, show_error, quiet,
               prevent_thread_lock, max_file_size, ssr_mode, pwa, mcp_server, footer_links,
               theme, css):  # fmt: skip
        return None, "there", None

    monkeypatch.setattr(required("gradio").Blocks, "launch", launch)
    assert serve(session, block=False)[1] == "there"


def test_runs_are_not_kept_and_a_port_that_is_taken_is_a_sentence(session, required, monkeypatch):
    def launch(self, server_name, run_history=True, **_):
        assert run_history is False
        raise OSError("Cannot find empty port in range: 7860-7860")

    monkeypatch.setattr(required("gradio").Blocks, "launch", launch)
    with pytest.raises(UserError, match=r"cannot listen on 127.0.0.1 port 7860 .* another --port"):
        serve(session, port=7860, block=False)


def test_a_proxy_in_the_way_is_a_sentence(session, required, monkeypatch):
    def launch(self, **_):
        raise ValueError("When localhost is not accessible, a shareable link must be created.")

    monkeypatch.setattr(required("gradio").Blocks, "launch", launch)
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"http": "http://proxy:8080"})
    with pytest.raises(UserError, match="set NO_PROXY=localhost"):
        serve(session, block=False)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    with pytest.raises(ValueError, match="a shareable link"):
        serve(session, block=False)
