"""TorchScript for classes that extend Detectron2's."""

import types
from collections.abc import Callable

__all__ = ["renamed"]


def renamed(function: Callable, name: str) -> Callable:
    """Return a method of a parent class under another name, for a class that is scripted.

    TorchScript compiles no call of ``super()``. It does compile a method that is an attribute of
    the class, provided that the function's name is the attribute's.

    Args:
        function: the parent's method, such as ``RPN.predict_proposals``.
        name: the attribute that it becomes.

    Examples:
        >>> class Doubled(Parent):
        ...     _parents_forward = renamed(Parent.forward, "_parents_forward")
        ...     def forward(self, x: Tensor) -> Tensor:
        ...         return 2 * self._parents_forward(x)
    """
    copy = types.FunctionType(
        function.__code__,
        function.__globals__,
        name,
        function.__defaults__,
        function.__closure__,
    )
    copy.__annotations__, copy.__doc__ = function.__annotations__, function.__doc__
    return copy
