"""Models in other forms: prepared for fast inference."""

from .prepared import PreparedModel, prepare_model

__all__ = ["PreparedModel", "prepare_model"]
