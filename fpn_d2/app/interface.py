"""The page: what is on it, and which function answers what. Needs Gradio, the extra ``app``."""

import html
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

from ..utils.errors import UserError
from .session import Session, Settings, View, example_images

__all__ = ["build_page", "import_gradio", "serve"]

logger = logging.getLogger(__name__)

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_TITLE = "What a feature pyramid sees"
_WAITING = 16  # answers in the queue
_KEPT_SECONDS = 3600  # of uploads and pictures
_CSS = """
.gradio-container { max-width: 1500px !important; margin: 0 auto; }
#status { min-height: 3em; }
#status p { margin: 0; }
#status .problem { color: #a33f00; font-weight: 600; }
.dark #status .problem { color: #f39a63; }
"""
_TABS = {
    "Levels": "Detections, each in the colour of the level that Eq. 1 chose for its RoI.",
    "Heat maps": "Mean absolute activation of each level's channels, from its least (dark) to its "
    "largest value (bright).",
    "Anchors": "The anchors that match the detections, in the colours of their levels.",
    "Proposals": "The best proposals of each level, after NMS within it.",
}


def import_gradio() -> Any:
    """Gradio, told to report to nobody.

    Raises:
        UserError: where it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio
    except ImportError as error:
        raise UserError(
            f'the page needs Gradio ({error}): run pip install "fpn_d2[app]"'
        ) from error
    return gradio


def build_page(session: Session) -> Any:
    """The page of a session.

    Args:
        session: its models, limits and examples.

    Returns:
        a ``gradio.Blocks``, not yet served.

    Raises:
        UserError: where Gradio is not installed.
    """
    gr = import_gradio()
    titles, limits = session.models.titles, session.limits
    with gr.Blocks(
        title=_TITLE, analytics_enabled=False, delete_cache=(_KEPT_SECONDS, _KEPT_SECONDS)
    ) as page:
        gr.Markdown(f"# {_TITLE}")
        source = gr.State(0)
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                # A File, not an Image: that would decode it before its header is looked at.
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
                sliders = _sliders(gr, session.defaults(titles[0]))
            with gr.Column(scale=3):
                status = gr.HTML(elem_id="status")
                pictures = _tabs(gr)
        _connect(session, page, source, upload, gallery, model, sliders, [status, *pictures])
    return page


def _sliders(gr: Any, own: Settings) -> list[Any]:
    """In the order of :class:`Settings`."""
    return [
        gr.Slider(0.05, 1, own.threshold, step=0.05, label="Least score", elem_id="threshold"),
        gr.Slider(0.1, 1, own.nms, step=0.05, label="NMS: largest IoU", elem_id="nms"),
        gr.Slider(2, 6, own.canonical_level, step=1, label="Eq. 1: level k0", elem_id="k0"),
        gr.Slider(
            16,
            448,
            own.canonical_size,
            step=4,
            label="Eq. 1: RoIs of this side are on k0",
            info="pixels of the network input; the paper's is 224",
            elem_id="size",
        ),
    ]


def _tabs(gr: Any) -> list[Any]:
    """A picture in each tab, in the order of :class:`View`."""
    pictures = []
    with gr.Tabs():
        for title, caption in _TABS.items():
            with gr.Tab(title):
                gr.Markdown(caption)
                # JPEG: a PNG of this size takes longer to write than the model to run.
                picture = gr.Image(
                    format="jpeg",
                    show_label=False,
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    elem_id=title.lower().replace(" ", "-"),
                )
                pictures.append(picture)
    return pictures


def _connect(
    session: Session,
    page: Any,
    source: Any,
    upload: Any,
    gallery: Any,
    model: Any,
    sliders: list[Any],
    outputs: list[Any],
) -> None:
    """What is answered when: an image or a model is chosen, or a slider is moved."""
    gr = import_gradio()
    answer = _answering(session)
    inputs = [source, model, *sliders]
    alone: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "answers"}

    def uploaded(path: str | None, *settings: Any) -> tuple:
        return (0 if path is None else path, *answer(0 if path is None else path, *settings))

    def chosen(event: gr.SelectData, *settings: Any) -> tuple:
        return (int(event.index), *answer(int(event.index), *settings))

    def switched(place: str | int, title: str) -> tuple:
        try:
            own = session.defaults(title)
        except UserError as error:
            return (*[gr.skip()] * len(sliders), _problem(str(error)), *[None] * len(_TABS))
        values = (own.threshold, own.nms, own.canonical_level, own.canonical_size)
        return (*values, *answer(place, title, *values))

    upload.upload(
        uploaded, [upload, model, *sliders], [source, *outputs], api_name="upload", **alone
    )
    private = {**alone, "api_visibility": "private"}
    gallery.select(chosen, [model, *sliders], [source, *outputs], **private)
    model.input(switched, [source, model], [*sliders, *outputs], **private)
    for i, slider in enumerate(sliders):
        # Of a slider that is dragged, the place where it stops is what counts.
        slider.input(
            answer,
            inputs,
            outputs,
            trigger_mode="always_last",
            show_progress="minimal",
            api_name="look",
            **(private if i else alone),
        )
    page.load(answer, inputs, outputs, **private)


def _answering(session: Session) -> Callable[..., tuple]:
    """The page's one question; whatever goes wrong is a sentence on the page."""

    def answer(source: str | int, title: str, *settings: float) -> tuple:
        try:
            view = session.look(title, session.image(source), Settings(*settings))
        except UserError as error:
            return _problem(str(error)), *[None] * len(_TABS)
        except Exception:  # a visitor has no use for a traceback, the log's reader has
            logger.exception("the page has no answer")
            return _problem(
                "This did not work; the terminal that the page was started in says why."
            ), *[None] * len(_TABS)
        return _shown(view)

    return answer


def _problem(sentence: str) -> str:
    return f'<p class="problem" role="alert">{html.escape(sentence)}</p>'


def _shown(view: View) -> tuple:
    text = f'<p role="status">{html.escape(view.text)}</p>'
    return text, view.levels, view.heat_maps, view.anchors, view.proposals


def serve(
    session: Session, host: str = "127.0.0.1", port: int | None = None, *, block: bool = True
) -> tuple[Any, str]:
    """Serve the page of a session, to this machine alone unless another host is named.

    Args:
        session: its models, limits and examples.
        host: the address to listen on.
        port: None takes the first free one from 7860 on.
        block: whether to return only when the process is interrupted.

    Returns:
        the page and its address.

    Raises:
        UserError: where Gradio is not installed, or the address cannot be listened on.
    """
    gr = import_gradio()
    page = build_page(session)
    page.queue(max_size=_WAITING)
    if host not in _LOOPBACK:
        print(
            f"warning: with --host {host} everybody who reaches this machine can use the page, "
            "without a password; leave --host out to keep it to yourself",
            file=sys.stderr,
        )
    fonts = ["system-ui", "sans-serif"]  # names of its own would be fetched from the network
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
            run_history=False,
            footer_links=[],
            theme=gr.themes.Soft(font=fonts, font_mono=["ui-monospace", "monospace"]),
            css=_CSS,
        )
    except OSError as error:
        raise UserError(
            f"the page cannot listen on {host} port {port or '7860 to 7959'} ({error}): give "
            "another --port"
        ) from error
    print(f"the page is at {address} (end it with Ctrl-C)", flush=True)
    if block:
        page.block_thread()
    return page, address
