"""Ways to change modules of PyTorch and Detectron2 other than subclassing them."""

import contextlib
import types
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn


def recast(module: nn.Module, kind: type[nn.Module], **attributes: Any) -> None:
    """Turn a module that is built already into one of a subclass, in place.

    The module keeps its weights, their names and its hooks. A new module in its place would need
    the arguments that the old one was built with, which Detectron2's modules do not keep. No other
    code of this package changes the class of an object.

    Args:
        module: an instance of a parent of ``kind``.
        kind: the new class, which adds no weights and whose constructor is not called.
        attributes: what that constructor would set.
    """
    assert issubclass(kind, type(module)), (kind, type(module))
    module.__class__ = kind
    for name, value in attributes.items():
        setattr(module, name, value)


@contextlib.contextmanager
def overridden(owner: Any, **values: Any) -> Iterator[None]:
    """Override attributes or methods of an object in this context.

    Args:
        owner: the object or module; with None nothing is changed.
        values: the new values by attribute name.
    """
    attributes = {} if owner is None else vars(owner)
    own = {name: attributes[name] for name in values if name in attributes}
    attributes.update(values)
    try:
        yield
    finally:
        for name in values:
            del attributes[name]
        attributes.update(own)


def renamed(function: Callable, name: str) -> Callable:
    """Return a method of a parent class under another name, for a class that is scripted.

    TorchScript compiles no call of ``super()``. It does compile a method that is an attribute of
    the class, provided that the function's name is the attribute's.

    Examples:
        >>> class Doubled(Parent):
        ...     _parents_forward = renamed(Parent.forward, "_parents_forward")
        ...     def forward(self, x: Tensor) -> Tensor:
        ...         return 2 * self._parents_forward(x)
    """
    parts = (function.__code__, function.__globals__, name)
    copy = types.FunctionType(*parts, function.__defaults__, function.__closure__)
    copy.__annotations__, copy.__doc__ = function.__annotations__, function.__doc__
    return copy
