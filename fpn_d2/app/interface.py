"""The page: its contents and the answers to its events. It needs Gradio, the extra ``app``."""

import dataclasses
import functools
import html
import inspect
import logging
import os
import sys
import urllib.request
from typing import Any

from ..utils.errors import UserError
from .session import Session, Settings, example_images

logger = logging.getLogger(__name__)

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_TITLE = "What a feature pyramid sees"
_QUEUED = 16  # the most requests that wait for an answer
_KEPT_SECONDS = 3600  # how long uploads and pictures stay on the disk
_CSS = """
.gradio-container { max-width: 1500px !important; margin: 0 auto; }
#status { min-height: 3em; }
#status p { margin: 0; }
#status .problem { color: #a33f00; font-weight: 600; }
.dark #status .problem { color: #f39a63; }
"""
# In the order of Settings: the ends of each slider, its step, its label and its hint.
_SLIDERS = {
    "threshold": (0.05, 1, 0.05, "Least score", None),
    "nms": (0.1, 1, 0.05, "NMS: largest IoU", None),
    "k0": (2, 6, 1, "Eq. 1: level k0", None),
    "size": (
        *(16, 448, 4),
        "Eq. 1: RoIs of this side are on k0",
        "pixels of the network input; the paper's is 224",
    ),
}
# In the order of View's pictures.
_TABS = {
    "Levels": "Detections, each in the colour of the level that Eq. 1 chose for its RoI.",
    "Heat maps": "Mean absolute activation of each level's channels, from its least (dark) to its "
    "largest value (bright).",
    "Anchors": "The anchors that match the detections, in the colours of their levels.",
    "Proposals": "The best proposals of each level, after NMS within it.",
}


def import_gradio() -> Any:
    """Import Gradio with its telemetry off.

    Raises:
        UserError: if it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio
    except ImportError as error:
        text = f'the page needs Gradio ({error}): run pip install "fpn_d2[app]"'
        raise UserError(text) from error
    return gradio


def build_page(session: Session) -> Any:
    """Build the page of a session, a ``gradio.Blocks`` that is not served yet."""
    gr = import_gradio()
    titles, limits = list(session.configs), session.limits
    own = dataclasses.astuple(session.defaults(titles[0]))
    with gr.Blocks(
        title=_TITLE, analytics_enabled=False, delete_cache=(_KEPT_SECONDS, _KEPT_SECONDS)
    ) as page:
        gr.Markdown(f"# {_TITLE}")
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                # gr.Image would decode an upload before its header is looked at.
                upload = gr.File(
                    label=f"Image (to {limits.bytes / 1e6:g} MB, {limits.pixels / 1e6:g} MP)",
                    height=160,
                    elem_id="upload",
                )
                gallery = gr.Gallery(
                    [image[::4, ::4] for image in example_images()],
                    show_label=False,
                    columns=2,
                    height="100%",
                    allow_preview=False,
                    interactive=False,
                    buttons=[],
                    elem_id="examples",
                )
                model = gr.Dropdown(titles, value=titles[0], label="Model", elem_id="model")
                sliders = [
                    gr.Slider(
                        **_scale(name, value), step=step, label=label, info=info, elem_id=name
                    )
                    for value, (name, (_, _, step, label, info)) in zip(
                        own, _SLIDERS.items(), strict=True
                    )
                ]
            with gr.Column(scale=3):
                outputs = [gr.HTML(elem_id="status")]
                with gr.Tabs():
                    for title, caption in _TABS.items():
                        with gr.Tab(title):
                            gr.Markdown(caption)
                            # JPEG: writing a PNG of this size takes longer than running the model.
                            picture = gr.Image(
                                format="jpeg",
                                show_label=False,
                                interactive=False,
                                buttons=["download", "fullscreen"],
                                elem_id=title.lower().replace(" ", "-"),
                            )
                            outputs.append(picture)
        _connect(gr, session, page, [upload, gallery, model, *sliders], outputs)
    return page


def _scale(name: str, value: float) -> dict[str, float]:
    """Return a slider's value and its ends, which a model's own value may move outwards."""
    low, high, *_ = _SLIDERS[name]
    return {"minimum": min(low, value), "maximum": max(high, value), "value": value}


def _connect(gr: Any, session: Session, page: Any, controls: list[Any], outputs: list[Any]) -> None:
    """Connect each event of the page with its answer; answers are computed one after the other."""
    upload, gallery, model, *sliders = controls
    source = gr.State(0)  # the path of an upload or the number of an example
    inputs, with_source = [source, model, *sliders], [source, *outputs]
    shared: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "answers"}
    private = {**shared, "api_visibility": "private"}
    look = functools.partial(_answer, session)

    def look_at_upload(path: str | None, *rest: Any) -> tuple:
        return path or 0, *look(path or 0, *rest)

    def look_at_example(event: gr.SelectData, *rest: Any) -> tuple:
        return int(event.index), *look(int(event.index), *rest)

    def change_model(source: str | int, title: str) -> tuple:
        try:
            values = dataclasses.astuple(session.defaults(title))
        except UserError as error:
            return *[gr.skip()] * len(sliders), *_problem(str(error))
        scales = [gr.Slider(**_scale(*item)) for item in zip(_SLIDERS, values, strict=True)]
        return *scales, *look(source, title, *values)

    upload.upload(
        look_at_upload, [upload, model, *sliders], with_source, api_name="upload", **shared
    )
    gallery.select(look_at_example, [model, *sliders], with_source, **private)
    model.input(change_model, [source, model], [*sliders, *outputs], **private)
    for i, slider in enumerate(sliders):
        # While a slider is dragged, only the place where it stops counts.
        slider.input(
            look,
            inputs,
            outputs,
            trigger_mode="always_last",
            show_progress="minimal",
            api_name="look",
            **(private if i else shared),
        )
    page.load(look, inputs, outputs, **private)


def _answer(session: Session, source: str | int, title: str, *settings: float) -> tuple:
    """Return the page's outputs for an image, a model and settings; for a failure, a sentence."""
    try:
        view = session.look(title, session.image(source), Settings(*settings))
    except UserError as error:
        return _problem(str(error))
    except Exception:  # a traceback is for the log's reader, not for a visitor
        logger.exception("the page has no answer")
        return _problem("This did not work; the terminal that the page was started in says why.")
    return f'<p role="status">{html.escape(view.text)}</p>', *view[1:]


def _problem(sentence: str) -> tuple:
    """Return the page's outputs if there are no pictures: a sentence that says why."""
    return f'<p class="problem" role="alert">{html.escape(sentence)}</p>', *[None] * len(_TABS)


def serve(
    session: Session, host: str = "127.0.0.1", port: int | None = None, *, block: bool = True
) -> tuple[Any, str]:
    """Serve the page of a session, to this machine alone unless another host is named.

    Args:
        session: the models and limits.
        host: the address to listen on.
        port: the port; None takes the first free one from 7860 on.
        block: whether to return only when the process is interrupted.

    Returns:
        the page and its address.

    Raises:
        UserError: if Gradio is not installed, or the address cannot be listened on or reached.
    """
    gr = import_gradio()
    if ":" in host and not host.startswith("["):  # an IPv6 address, which a URL has in brackets
        host = f"[{host}]"
    page = build_page(session)
    page.queue(max_size=_QUEUED)
    if host not in _LOOPBACK:
        print(
            f"warning: with --host {host} everybody who reaches this machine can use the page, "
            "without a password; leave --host out to keep it to yourself",
            file=sys.stderr,
        )
    fonts = ["system-ui", "sans-serif"]  # Gradio's own would be fetched from the network
    # The first versions of Gradio 6 keep no runs, and do not know the argument.
    keeps_runs = "run_history" in inspect.signature(page.launch).parameters
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            inbrowser=False,
            show_error=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=session.limits.bytes,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            footer_links=[],
            theme=gr.themes.Soft(font=fonts, font_mono=["ui-monospace", "monospace"]),
            css=_CSS,
            **({"run_history": False} if keeps_runs else {}),
        )
    except OSError as error:
        place = f"{host} port {port or '7860 to 7959'}"
        text = f"the page cannot listen on {place} ({error}): give another --port"
        raise UserError(text) from error
    except Exception as error:  # Gradio requests its own page, and raises several kinds of error
        page.close(verbose=False)
        if not urllib.request.getproxies():
            raise
        text = f"the page does not answer at its own address ({error}): a proxy is set, so "
        raise UserError(f"{text}set NO_PROXY=localhost,127.0.0.1 too") from error
    print(f"the page is at {address} (end it with Ctrl-C)", flush=True)
    if block:
        page.block_thread()
    return page, address
