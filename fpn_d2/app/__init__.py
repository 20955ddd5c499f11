"""A local page of what a model's pyramid does with an image; it needs Gradio, the extra ``app``."""

from .session import Limits, Session, Settings, View, find_models, parse_model

__all__ = ["Limits", "Session", "Settings", "View", "find_models", "parse_model"]
