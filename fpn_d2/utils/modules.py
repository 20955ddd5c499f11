"""Ways to change modules of PyTorch and Detectron2 other than subclassing them."""

import contextlib
import copy
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


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


def detached_copy(model: nn.Module) -> nn.Module:
    """Copy a model, also one that holds what its last step computed.

    :func:`copy.deepcopy` refuses that, such as a spectral norm's weight or a map for a picture.
    """
    with _Detaching():
        return copy.deepcopy(model)


class _Detaching(TorchFunctionMode):
    """Copies computed tensors without their graphs, wherever a model holds them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            return args[0].detach().clone()
        return func(*args, **(kwargs or {}))


def to_channels_last(model: nn.Module) -> None:
    """Lay out a model's weights of four dimensions channels-last, in place.

    :meth:`nn.Module.to` asks the same of those of five, such as a 3-D convolution's, and fails.
    """
    for value in (*model.parameters(), *model.buffers()):
        if value.dim() == 4:
            value.data = value.data.to(value.device, memory_format=torch.channels_last)


@torch.no_grad()
def settle_norms(model: nn.Module, call: Callable[[], Any]) -> None:
    """Give every norm, frozen or in eval mode, the mean and the variance of its input, in place.

    With random weights, activations would otherwise grow from block to block, and the boxes of an
    RPN with them: NMS would leave a few of a thousand.

    Args:
        model: the network or a part of it.
        call: runs it.
    """

    def settle(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        x = inputs[0]
        if x.numel():  # a head that finds nothing may run on no RoIs
            dims = [0, *range(2, x.dim())]
            variance, mean = torch.var_mean(x, dim=dims, correction=0)
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance.clamp(min=1e-4))

    with contextlib.ExitStack() as hooks:
        for module in model.modules():
            if getattr(module, "running_mean", None) is not None:
                hooks.enter_context(module.register_forward_pre_hook(settle))
        call()


def without_memory(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network of which only shapes are asked, if possible without memory for its weights.

    Detectron2's Swin and ViT read values of tensors as they are built, and need the memory; so do
    those who read them as arrays of NumPy, which PyTorch refuses by a TypeError.
    """
    try:
        with torch.device("meta"):
            return build()
    except (RuntimeError, TypeError):
        return build()


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
