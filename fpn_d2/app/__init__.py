"""A local page that shows what a model's pyramid does with an image; Gradio is its own extra."""

from .models import Models, find_models, parse_model
from .session import Limits, Session, Settings, View

__all__ = ["Limits", "Models", "Session", "Settings", "View", "find_models", "parse_model"]
