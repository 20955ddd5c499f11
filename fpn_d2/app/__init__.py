"""A local page that shows what a model's pyramid does with an image; Gradio is its own extra."""

from .models import find_models, parse_model
from .session import Limits, Session, Settings, View

__all__ = ["Limits", "Session", "Settings", "View", "find_models", "parse_model"]
