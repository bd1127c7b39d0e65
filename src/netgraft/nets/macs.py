"""Multiply-accumulates of a network: convolutions and linear layers, batch 1, at a stated size.

Counted by running a copy without data (the meta device), so that a large network at a large size takes
milliseconds. What is counted is the call of a convolution, not the module that makes it: a block that merges
its branches into one kernel counts as the one convolution that it runs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from netgraft.errors import CheckpointError, first_line


def count_macs(module: nn.Module, size: tuple[int, int], channels: int = 3) -> int:
    """Multiply-accumulates of ``module`` on one image of ``size`` (h, w) pixels."""
    return sum(macs_per_module(module, size, channels).values())


def macs_per_module(module: nn.Module, size: tuple[int, int], channels: int = 3) -> dict[str, int]:
    """The same by dotted module path, in the order of the calls; modules that only call others do not appear.

    The module's input is (1, channels, h, w). ``module`` itself has the path ``""``.

    Raises:
        CheckpointError: it does not take such an input.
    """
    counter = _Counter()

    @contextmanager
    def counting(net: nn.Module) -> Iterator[None]:
        # A pass that failed on nothing is run once more.
        counter.running.clear()
        counter.macs.clear()
        with _tracked(net, counter), counter:
            yield

    run_on_nothing(module, size, channels, counting)
    return counter.macs


def run_on_nothing(
    module: nn.Module,
    size: tuple[int, int],
    channels: int,
    watching: Callable[[nn.Module], AbstractContextManager[None]],
) -> None:
    """One pass of a copy of ``module`` over (1, channels, h, w) without data, or, if it needs data, over zeros.

    watching: opened around the pass, with the copy.

    Raises:
        CheckpointError: the network does not take such an image.
    """
    net = _without_data(module)
    try:
        # Networks that compute in another way where nothing is differentiated do so here as they are defined.
        with torch.enable_grad(), watching(net):
            net(torch.empty(1, channels, *size, device="meta"))
    # Networks look at their data in many ways, and each fails in its own.
    except Exception:
        _run_on_zeros(module, size, channels, watching)


def _run_on_zeros(
    module: nn.Module,
    size: tuple[int, int],
    channels: int,
    watching: Callable[[nn.Module], AbstractContextManager[None]],
) -> None:
    net = copy.deepcopy(module).cpu().eval()
    try:
        with torch.no_grad(), watching(net):
            net(torch.zeros(1, channels, *size))
    except Exception as error:
        raise CheckpointError(
            f"a {type(module).__name__} does not take an image of (1, {channels}, {size[0]}, {size[1]}): "
            f"{first_line(error)}"
        ) from error


def _without_data(module: nn.Module) -> nn.Module:
    """A copy of ``module`` on the meta device, made without copying any weights."""
    memo: dict[int, Any] = {}
    for param in module.parameters():
        memo[id(param)] = nn.Parameter(param.detach().to("meta", torch.float32), requires_grad=False)
    for buffer in module.buffers():
        memo[id(buffer)] = buffer.detach().to("meta")
    return copy.deepcopy(module, memo).eval()


class _Counter(TorchFunctionMode):
    """While open, adds the multiply-accumulates of each call to the innermost module that is running."""

    def __init__(self) -> None:
        super().__init__()
        self.running: list[str] = []
        self.macs: dict[str, int] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _COUNTS:
            weight = args[1] if len(args) > 1 else (kwargs or {})["weight"]
            path = self.running[-1]
            self.macs[path] = self.macs.get(path, 0) + _COUNTS[func](args[0], weight, result)
        return result


@contextmanager
def _tracked(net: nn.Module, counter: _Counter) -> Iterator[None]:
    """While open, ``counter.running`` holds the paths of the modules that are running, outermost first."""
    handles = []
    for path, part in net.named_modules():
        handles.append(part.register_forward_pre_hook(lambda *_, path=path: counter.running.append(path)))
        handles.append(part.register_forward_hook(lambda *_: _left(counter)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _left(counter: _Counter) -> None:
    counter.running.pop()


def _of_convolution(x: Tensor, weight: Tensor, y: Tensor) -> int:
    # weight: (out, in / groups, ...): every output number takes one product per number of its kernel.
    return y.numel() * math.prod(weight.shape[1:])


def _of_transposed(x: Tensor, weight: Tensor, y: Tensor) -> int:
    # weight: (in, out / groups, ...): every input number is spread over its kernel.
    return x.numel() * math.prod(weight.shape[1:])


def _of_linear(x: Tensor, weight: Tensor, y: Tensor) -> int:
    return y.numel() * weight.shape[1]


def _of_product(x: Tensor, weight: Tensor, y: Tensor) -> int:
    # torch.baddbmm(bias, weight, x): a linear layer over rows in place of columns, as MAXIM's over tokens.
    return y.numel() * weight.shape[-1]


_COUNTS: Mapping[Any, Callable[[Tensor, Tensor, Tensor], int]] = MappingProxyType(
    {
        F.conv1d: _of_convolution,
        F.conv2d: _of_convolution,
        F.conv3d: _of_convolution,
        F.conv_transpose1d: _of_transposed,
        F.conv_transpose2d: _of_transposed,
        F.conv_transpose3d: _of_transposed,
        F.linear: _of_linear,
        torch.baddbmm: _of_product,
    }
)
