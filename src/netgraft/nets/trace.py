"""What every module of a network takes and gives in one pass, without data where the network allows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from netgraft.nets.macs import run_on_nothing

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a module."""

    inputs: tuple[Shape | None, ...]
    """Shapes of what it takes by position; None for what is no tensor."""
    by_name: tuple[str, ...]
    """Names of the tensors that it takes by keyword."""
    output: Shape | None
    """Shape of what it gives; None for what is no tensor."""


def trace(module: nn.Module, size: tuple[int, int], channels: int = 3) -> dict[str, list[Call]]:
    """The calls of every module in a pass over (1, channels, h, w), by dotted path, in the order of the first calls.

    Raises:
        CheckpointError: the network does not take such an image.
    """
    calls: dict[str, list[Call]] = {}

    @contextmanager
    def recording(net: nn.Module) -> Iterator[None]:
        # A pass that failed on nothing is run once more.
        calls.clear()
        handles = []
        for path, part in net.named_modules():
            # Before the call, so that a module stands before those inside it.
            handles.append(part.register_forward_pre_hook(lambda *_, path=path: _begin(calls, path)))
            handles.append(part.register_forward_hook(_recorder(calls, path), with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    run_on_nothing(module, size, channels, recording)
    return calls


def _begin(calls: dict[str, list[Call]], path: str) -> None:
    calls.setdefault(path, [])


def _recorder(calls: dict[str, list[Call]], path: str) -> Any:
    def record(_: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any], output: Any) -> None:
        by_name = tuple(name for name, value in named.items() if isinstance(value, Tensor))
        calls[path].append(Call(inputs=tuple(map(_shape, inputs)), by_name=by_name, output=_shape(output)))

    return record


def _shape(value: object) -> Shape | None:
    return tuple(value.shape) if isinstance(value, Tensor) and value.is_floating_point() else None
