"""A local page that shows what a model's pyramid does with an image; Gradio is its own extra."""

from .session import Limits, Session, Settings, View, find_models, parse_model

__all__ = ["Limits", "Session", "Settings", "View", "find_models", "parse_model"]
